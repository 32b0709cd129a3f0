//! What a VM is shown of its devices instead of what the host says: a name, a UUID, a memory size.

use std::collections::BTreeMap;

use vgpu_spec::wire::snapshot::{MAX_DEVICES, Snapshot, uuid_text};

use crate::devices::DeviceSet;

/// The longest name that fits everywhere: NVML's buffer of 96 bytes, with its NUL.
const MAX_NAME: usize = 95;
const MIB: u64 = 1 << 20;

/// A value for one device, as the command line has it: `[N=]VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting<T> {
    /// Ordinal of the host's device.
    pub device: u32,
    pub value: T,
}

/// Splits the ordinal off; 0 where there is none.
fn setting<T>(text: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<Setting<T>, String> {
    let (device, value) = match text.split_once('=') {
        Some((digits, value)) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            let device = digits.parse().ok().filter(|&n: &u32| n < MAX_DEVICES);
            (device.ok_or_else(|| format!("{digits} is no ordinal of a device below {MAX_DEVICES}"))?, value)
        }
        _ => (0, text),
    };
    Ok(Setting { device, value: parse(value)? })
}

/// For the command line: a name.
pub fn parse_name(text: &str) -> Result<Setting<String>, String> {
    setting(text, |name| match name.len() {
        0 => Err("the name is empty".into()),
        len if len > MAX_NAME => Err(format!("the name has {len} bytes, at most {MAX_NAME} fit")),
        _ if name.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) => Ok(name.to_owned()),
        _ => Err("a name is made of printable ASCII characters".into()),
    })
}

/// For the command line: a UUID as NVIDIA writes it, with or without `GPU-`.
pub fn parse_uuid(text: &str) -> Result<Setting<[u8; 16]>, String> {
    setting(text, |uuid| {
        let bytes = uuid_bytes(uuid.strip_prefix("GPU-").unwrap_or(uuid));
        match bytes.ok_or("a UUID reads GPU-8-4-4-4-12 hexadecimal digits")? {
            [0, rest @ ..] if rest == [0; 15] => Err("a UUID of zeros stands for none".into()),
            bytes => Ok(bytes),
        }
    })
}

/// The bytes of `8-4-4-4-12` hexadecimal digits.
fn uuid_bytes(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text.bytes().filter_map(|b| char::from(b).to_digit(16)?.try_into().ok()).collect();
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair.iter().fold(0, |value, digit| value << 4 | digit);
    }
    // Whatever was not a digit has to be a hyphen at its place.
    (uuid_text(&bytes) == text.to_ascii_lowercase()).then_some(bytes)
}

/// For the command line: a memory size in MiB.
pub fn parse_memory(text: &str) -> Result<Setting<u64>, String> {
    setting(text, |mib| match mib.parse::<u32>() {
        Ok(0) => Err("a device without memory is none".into()),
        Ok(mib) => Ok(u64::from(mib) * MIB),
        Err(_) => Err(format!("\"{mib}\" is no number of MiB")),
    })
}

/// Why a VM cannot be shown what the command line says.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdentityError {
    #[error("device-{what} {device}=…: given twice for one VM")]
    Twice { what: &'static str, device: u32 },
    #[error("device-{what} {device}=…: there is no device {device}, the host shows {count}")]
    NoDevice { what: &'static str, device: u32, count: usize },
    #[error("device-memory {device}={wanted}: device {device} has {has} MiB")]
    Memory { device: u32, wanted: u64, has: u64 },
    #[error("device-uuid {device}=GPU-{uuid}: device {other} of the VM has that UUID")]
    Uuid { device: u32, other: u32, uuid: String },
}

/// What is shown of one device; the host's where there is nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Identity {
    name: Option<String>,
    uuid: Option<[u8; 16]>,
    /// Bytes.
    memory: Option<u64>,
}

impl Identity {
    /// Which options made it, for messages.
    fn option(&self) -> &'static str {
        match self {
            Identity { name: Some(_), .. } => "name",
            Identity { uuid: Some(_), .. } => "uuid",
            _ => "memory",
        }
    }
}

/// What a VM is shown, by the host's ordinals.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identities(BTreeMap<u32, Identity>);

fn set<T>(place: &mut Option<T>, value: T, what: &'static str, device: u32) -> Result<(), IdentityError> {
    if place.is_some() {
        return Err(IdentityError::Twice { what, device });
    }
    *place = Some(value);
    Ok(())
}

impl Identities {
    pub fn set_name(&mut self, Setting { device, value }: Setting<String>) -> Result<(), IdentityError> {
        set(&mut self.0.entry(device).or_default().name, value, "name", device)
    }

    pub fn set_uuid(&mut self, Setting { device, value }: Setting<[u8; 16]>) -> Result<(), IdentityError> {
        set(&mut self.0.entry(device).or_default().uuid, value, "uuid", device)
    }

    pub fn set_memory(&mut self, Setting { device, value }: Setting<u64>) -> Result<(), IdentityError> {
        set(&mut self.0.entry(device).or_default().memory, value, "memory", device)
    }

    /// Of all devices.
    pub fn forget_names(&mut self) {
        self.forget(|identity| identity.name = None);
    }

    /// Of all devices.
    pub fn forget_uuids(&mut self) {
        self.forget(|identity| identity.uuid = None);
    }

    /// Of all devices.
    pub fn forget_memory(&mut self) {
        self.forget(|identity| identity.memory = None);
    }

    fn forget(&mut self, what: impl Fn(&mut Identity)) {
        self.0.values_mut().for_each(what);
        self.0.retain(|_, identity| *identity != Identity::default());
    }

    /// These, and `common` for what they leave open.
    #[must_use]
    pub fn over(mut self, common: &Identities) -> Self {
        for (&device, common) in &common.0 {
            let Identity { name, uuid, memory } = self.0.entry(device).or_default();
            *name = name.take().or_else(|| common.name.clone());
            *uuid = uuid.or(common.uuid);
            *memory = memory.or(common.memory);
        }
        self
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a VM that has `devices` of the host's can be shown them so.
    pub fn check(&self, host: &Snapshot, devices: &DeviceSet) -> Result<(), IdentityError> {
        let count = host.devices.len();
        for (&device, identity) in &self.0 {
            let found = usize::try_from(device).ok().and_then(|i| host.devices.get(i));
            let what = identity.option();
            let record = &found.ok_or(IdentityError::NoDevice { what, device, count })?.record;
            if let Some(memory) = identity.memory.filter(|&m| m > record.total_memory) {
                let (wanted, has) = (memory / MIB, record.total_memory / MIB);
                return Err(IdentityError::Memory { device, wanted, has });
            }
        }
        self.distinct(&self.shown(&devices.of(host), devices), devices)
    }

    /// Devices are told apart by their UUIDs.
    fn distinct(&self, shown: &Snapshot, devices: &DeviceSet) -> Result<(), IdentityError> {
        let ordinals = || devices.host_ordinals().into_iter();
        let uuids = || ordinals().zip(shown.devices.iter().map(|d| d.record.uuid));
        for (&device, identity) in &self.0 {
            let Some(uuid) = identity.uuid.filter(|_| devices.has(device)) else { continue };
            if let Some((other, _)) = uuids().find(|&(other, u)| other != device && u == uuid) {
                return Err(IdentityError::Uuid { device, other, uuid: uuid_text(&uuid) });
            }
        }
        Ok(())
    }

    /// What a VM is shown whose workers see `devices` of the host's, which are those of `seen`. A device that is not there any more is
    /// not shown.
    pub fn shown(&self, seen: &Snapshot, devices: &DeviceSet) -> Snapshot {
        let mut shown = seen.clone();
        for (ordinal, device) in devices.host_ordinals().into_iter().zip(&mut shown.devices) {
            let Some(identity) = self.0.get(&ordinal) else { continue };
            let record = &mut device.record;
            if let Some(name) = &identity.name {
                record.name = [0; 256];
                record.name.iter_mut().zip(name.bytes().take(MAX_NAME)).for_each(|(to, from)| *to = from);
            }
            record.uuid = identity.uuid.unwrap_or(record.uuid);
            record.total_memory = identity.memory.unwrap_or(u64::MAX).min(record.total_memory);
        }
        shown
    }

    /// The host's devices of which something is said.
    pub fn devices(&self) -> impl Iterator<Item = u32> {
        self.0.keys().copied()
    }

    /// What the VM is shown of the device's memory, if that is its own.
    pub fn memory(&self, device: u32) -> Option<u64> {
        self.0.get(&device)?.memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::tests::host as host_of;
    use vgpu_spec::wire::snapshot::Device;

    const UUID: &str = "GPU-00112233-4455-6677-8899-aabbccddeeff";

    fn host() -> Snapshot {
        host_of(2)
    }

    fn identities(settings: &[(&str, &str)]) -> Result<Identities, IdentityError> {
        let mut identities = Identities::default();
        for (what, text) in settings {
            match *what {
                "name" => identities.set_name(parse_name(text).unwrap())?,
                "uuid" => identities.set_uuid(parse_uuid(text).unwrap())?,
                _ => identities.set_memory(parse_memory(text).unwrap())?,
            }
        }
        Ok(identities)
    }

    #[test]
    fn settings_name_a_device_or_the_first() {
        assert_eq!(parse_name("GPU of A").unwrap(), Setting { device: 0, value: "GPU of A".into() });
        assert_eq!(parse_name("3=x=y").unwrap(), Setting { device: 3, value: "x=y".into() });
        assert_eq!(parse_name("a=y").unwrap(), Setting { device: 0, value: "a=y".into() });
        assert_eq!(parse_memory("1=512").unwrap(), Setting { device: 1, value: 512 * MIB });
        let bytes = std::array::from_fn(|i| u8::try_from(i * 17).unwrap());
        for text in [UUID, &UUID[4..], &UUID.to_uppercase(), "0=GPU-00112233-4455-6677-8899-AABBCCDDEEFF"] {
            assert_eq!(parse_uuid(text).unwrap(), Setting { device: 0, value: bytes }, "{text}");
        }
    }

    #[test]
    fn wrong_settings_say_what_is_wrong() {
        let long = "x".repeat(96);
        for (text, says) in [("", "empty"), ("0=", "empty"), (&long, "96"), ("a\tb", "ASCII"), ("16=a", "16")]
        {
            assert!(parse_name(text).unwrap_err().contains(says), "{text}");
        }
        assert!(parse_name(&long[1..]).is_ok());
        for text in
            ["", "GPU-", "GPU-00112233445566778899aabbccddeeff", &UUID[..39], &format!("{UUID}0"), "x"]
        {
            assert!(parse_uuid(text).unwrap_err().contains("8-4-4-4-12"), "{text}");
        }
        assert!(parse_uuid("GPU-00000000-0000-0000-0000-000000000000").unwrap_err().contains("zeros"));
        for (text, says) in [("0", "memory"), ("1=0", "memory"), ("-1", "MiB"), ("4G", "MiB"), ("", "MiB")] {
            assert!(parse_memory(text).unwrap_err().contains(says), "{text}");
        }
    }

    #[test]
    fn what_is_set_is_shown_and_the_rest_is_the_hosts() {
        let set = [("name", "mine"), ("uuid", UUID), ("memory", "1=512")];
        let identities = identities(&set).unwrap();
        assert_eq!(identities.check(&host(), &DeviceSet::default()), Ok(()));
        let shown = identities.shown(&host(), &DeviceSet::default());
        let of = |d: &Device| (d.name(), uuid_text(&d.record.uuid), d.record.total_memory / MIB);
        assert_eq!(of(&shown.devices[0]), ("mine".into(), UUID[4..].into(), 1000));
        assert_eq!(of(&shown.devices[1]), ("real".into(), uuid_text(&[2; 16]), 512));
        assert_eq!((identities.memory(0), identities.memory(1)), (None, Some(512 * MIB)));
    }

    #[test]
    fn what_the_host_cannot_show_is_refused() {
        let check =
            |settings: &[_]| identities(settings).and_then(|i| i.check(&host(), &DeviceSet::default()));
        assert_eq!(check(&[("memory", "1000")]), Ok(()));
        assert_eq!(
            check(&[("memory", "1001")]).unwrap_err().to_string(),
            "device-memory 0=1001: device 0 has 1000 MiB"
        );
        assert_eq!(
            check(&[("name", "2=x")]).unwrap_err().to_string(),
            "device-name 2=…: there is no device 2, the host shows 2"
        );
        assert!(matches!(
            check(&[("name", "1=x"), ("name", "1=x")]),
            Err(IdentityError::Twice { device: 1, .. })
        ));
        let others = format!("1={}", uuid_text(&[1; 16]));
        assert!(matches!(check(&[("uuid", &others)]), Err(IdentityError::Uuid { device: 1, other: 0, .. })));
        // Exchanged they are distinct.
        assert_eq!(check(&[("uuid", &others), ("uuid", &uuid_text(&[2; 16]))]), Ok(()));
    }

    #[test]
    fn settings_are_by_the_hosts_ordinals_whatever_the_vm_has() {
        let second = DeviceSet::new(Some(&[1]), 2).unwrap();
        let all = [("name", "0=first"), ("name", "1=second"), ("memory", "1=512")];
        let shown = identities(&all).unwrap().shown(&second.of(&host()), &second);
        let of = |d: &Device| (d.name(), uuid_text(&d.record.uuid), d.record.total_memory / MIB);
        assert_eq!(
            shown.devices.iter().map(of).collect::<Vec<_>>(),
            [("second".into(), uuid_text(&[2; 16]), 512)]
        );
        // What it does not have is nothing to be mistaken for; what the host does not have is still a mistake.
        let check = |settings: &[_]| identities(settings).and_then(|i| i.check(&host(), &second));
        let [of_first, of_second] =
            [(1, 1), (0, 2)].map(|(n, byte)| format!("{n}={}", uuid_text(&[byte; 16])));
        assert_eq!(check(&[("uuid", &of_first)]), Ok(()));
        assert_eq!(check(&[("uuid", &of_second)]), Ok(()));
        assert!(matches!(check(&[("name", "2=x")]), Err(IdentityError::NoDevice { device: 2, .. })));
    }

    #[test]
    fn a_vms_own_settings_come_before_the_common_ones() {
        let common = identities(&[("name", "all"), ("memory", "1=700")]).unwrap();
        let own = identities(&[("name", "own")]).unwrap().over(&common);
        assert_eq!(own, identities(&[("name", "own"), ("memory", "1=700")]).unwrap());
    }
}
