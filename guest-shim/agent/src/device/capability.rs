//! The virtio capabilities of a PCI device (virtio 1.2, section 4.1.4), parsed from its configuration space.

/// Vendor-specific capability.
const VENDOR: u8 = 9;
/// Where the list of capabilities starts (PCI 3.0, section 6.7).
const LIST: usize = 0x34;
const STATUS: usize = 6;
const HAS_LIST: u16 = 1 << 4;
/// `cfg_type` (section 4.1.4).
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
/// Bytes of the common configuration up to the used ring's address (section 4.1.4.3).
pub const COMMON_LEN: u32 = 56;

/// A part of a BAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub bar: u8,
    pub offset: u32,
    pub len: u32,
}

/// Where the structures lie that the agent uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    pub common: Place,
    pub notify: Place,
    /// A queue's notify register is at its notify offset times this.
    pub multiplier: u32,
}

/// Why a device is no virtio 1.x device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CapabilityError {
    #[error("reading the device's capabilities: it has no list of them")]
    NoList,
    #[error("reading the device's capabilities: the one at {0:#x} is cut off or the list has a loop")]
    Cut(usize),
    #[error("reading the device's capabilities: there is no {0} structure, so it is no virtio 1.x device")]
    Missing(&'static str),
    #[error(
        "reading the device's capabilities: the common configuration has {0} bytes, {COMMON_LEN} are needed"
    )]
    Short(u32),
}

/// Finds the structures in the first 256 bytes of the configuration space.
pub fn parse(config: &[u8]) -> Result<Capabilities, CapabilityError> {
    let status = u16_at(config, STATUS).ok_or(CapabilityError::NoList)?;
    if status & HAS_LIST == 0 {
        return Err(CapabilityError::NoList);
    }
    let (mut common, mut notify) = (None, None);
    let mut at = pointer(config, LIST).ok_or(CapabilityError::NoList)?;
    // A list without a loop has at most 48 entries of 4 bytes.
    for _ in 0..48 {
        if at == 0 {
            let common: Place = common.ok_or(CapabilityError::Missing("common configuration"))?;
            let (notify, multiplier) = notify.ok_or(CapabilityError::Missing("notification"))?;
            if common.len < COMMON_LEN {
                return Err(CapabilityError::Short(common.len));
            }
            return Ok(Capabilities { common, notify, multiplier });
        }
        let cut = CapabilityError::Cut(at);
        let id = *config.get(at).ok_or(cut.clone())?;
        if id == VENDOR {
            let (kind, place) = place(config, at).ok_or(cut.clone())?;
            // The first one of a kind that can be used is to be taken; reserved BARs are to be ignored.
            match kind {
                COMMON if place.bar <= 5 => common = common.or(Some(place)),
                NOTIFY if place.bar <= 5 => {
                    notify = notify.or(Some((place, u32_at(config, at + 16).ok_or(cut.clone())?)));
                }
                _ => {}
            }
        }
        at = pointer(config, at + 1).ok_or(cut)?;
    }
    Err(CapabilityError::Cut(at))
}

fn place(config: &[u8], at: usize) -> Option<(u8, Place)> {
    let [kind, bar] = [*config.get(at + 3)?, *config.get(at + 4)?];
    Some((kind, Place { bar, offset: u32_at(config, at + 8)?, len: u32_at(config, at + 12)? }))
}

fn pointer(config: &[u8], at: usize) -> Option<usize> {
    // The two low bits are reserved.
    config.get(at).map(|&byte| usize::from(byte & !3))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A configuration space like QEMU's: MSI-X first, then the virtio structures.
    fn qemu() -> Vec<u8> {
        let mut config = vec![0; 256];
        config[STATUS] = 0x10;
        config[LIST] = 0x98;
        config[0x98..0x9a].copy_from_slice(&[0x11, 0x84]);
        let mut put = |at: usize, next: u8, kind: u8, bar: u8, offset: u32, len: u32| {
            config[at..at + 5].copy_from_slice(&[VENDOR, next, 16, kind, bar]);
            config[at + 8..at + 12].copy_from_slice(&offset.to_le_bytes());
            config[at + 12..at + 16].copy_from_slice(&len.to_le_bytes());
        };
        put(0x84, 0x70, 5, 0, 0, 0);
        put(0x70, 0x60, NOTIFY, 4, 0x3000, 0x1000);
        put(0x60, 0x50, 4, 4, 0x2000, 0x1000);
        put(0x50, 0x40, 3, 4, 0x1000, 0x1000);
        put(0x40, 0, COMMON, 4, 0, 0x1000);
        config[0x80..0x84].copy_from_slice(&4_u32.to_le_bytes());
        config
    }

    #[test]
    fn structures_of_a_qemu_device_are_found() {
        let capabilities = parse(&qemu()).unwrap();
        assert_eq!(capabilities.common, Place { bar: 4, offset: 0, len: 0x1000 });
        assert_eq!(capabilities.notify, Place { bar: 4, offset: 0x3000, len: 0x1000 });
        assert_eq!(capabilities.multiplier, 4);
    }

    #[test]
    fn the_first_usable_structure_wins() {
        let mut config = qemu();
        // The configuration-access structure becomes a second, earlier common one in a reserved BAR.
        config[0x84 + 3] = COMMON;
        config[0x84 + 4] = 6;
        assert_eq!(parse(&config).unwrap().common.bar, 4);
        config[0x84 + 4] = 1;
        config[0x84 + 12..0x84 + 16].copy_from_slice(&64_u32.to_le_bytes());
        assert_eq!(parse(&config).unwrap().common.bar, 1);
    }

    #[test]
    fn broken_lists_are_errors() {
        assert_eq!(parse(&[]), Err(CapabilityError::NoList));
        assert_eq!(parse(&[0; 256]), Err(CapabilityError::NoList));
        let mut looped = qemu();
        looped[0x41] = 0x84;
        assert!(matches!(parse(&looped), Err(CapabilityError::Cut(_))));
        let mut cut = qemu();
        cut[0x41] = 0xfc;
        cut[0xfc] = VENDOR;
        assert_eq!(parse(&cut), Err(CapabilityError::Cut(0xfc)));
        let mut without = qemu();
        without[0x70 + 3] = 7;
        assert_eq!(parse(&without), Err(CapabilityError::Missing("notification")));
        let mut short = qemu();
        short[0x4c..0x50].copy_from_slice(&16_u32.to_le_bytes());
        assert_eq!(parse(&short), Err(CapabilityError::Short(16)));
        for len in 0..0x98 {
            assert!(parse(&qemu()[..len]).is_err(), "{len}");
        }
    }
}
