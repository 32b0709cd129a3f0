//! Which of the host's devices a VM has.

use vgpu_spec::wire::snapshot::{MAX_DEVICES, Snapshot, uuid_text};

/// Why a VM cannot have the devices that were asked for.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DeviceSetError {
    #[error("devices: the list is empty; without it the VM has all devices")]
    Empty,
    #[error("devices {device}: given twice for one VM")]
    Twice { device: u32 },
    #[error("devices {device}: there is no device {device}, the host shows {count}")]
    NoDevice { device: u32, count: usize },
}

/// For each ordinal that a worker knows, the host's.
pub type HostOrdinals = [u32; MAX_DEVICES as usize];

/// All of the host's devices, or some in an order: what the VM and its workers call device `n` is the host's `n`th of these.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceSet {
    /// The host's ordinals; `None` for all, in the host's order.
    some: Option<Vec<u32>>,
}

impl DeviceSet {
    /// Those of a host that has `count`; all if none are `asked` for.
    pub fn new(asked: Option<&[u32]>, count: usize) -> Result<Self, DeviceSetError> {
        let Some(asked) = asked else { return Ok(DeviceSet::default()) };
        if asked.is_empty() {
            return Err(DeviceSetError::Empty);
        }
        for (place, &device) in asked.iter().enumerate() {
            if device as usize >= count {
                return Err(DeviceSetError::NoDevice { device, count });
            }
            if asked.iter().take(place).any(|&before| before == device) {
                return Err(DeviceSetError::Twice { device });
            }
        }
        let all = asked.iter().map(|&device| device as usize).eq(0..count);
        Ok(DeviceSet { some: (!all).then(|| asked.to_vec()) })
    }

    pub fn is_all(&self) -> bool {
        self.some.is_none()
    }

    /// As they are asked for.
    pub fn ordinals(&self) -> Option<Vec<u32>> {
        self.some.clone()
    }

    /// The host's ordinal of what the VM calls `device`.
    pub fn host_ordinal(&self, device: u32) -> Option<u32> {
        match &self.some {
            None => Some(device).filter(|&device| device < MAX_DEVICES),
            Some(some) => some.get(usize::try_from(device).ok()?).copied(),
        }
    }

    /// The same for all; numbers that no device of the host has for those that the VM does not know.
    pub fn host_ordinals(&self) -> HostOrdinals {
        let mut ordinals = [u32::MAX; MAX_DEVICES as usize];
        for (device, ordinal) in (0_u32..).zip(&mut ordinals) {
            *ordinal = self.host_ordinal(device).unwrap_or(u32::MAX);
        }
        ordinals
    }

    /// Whether the host's device of this ordinal is one of them.
    pub fn has(&self, host_ordinal: u32) -> bool {
        self.some.as_ref().is_none_or(|some| some.contains(&host_ordinal))
    }

    /// Whether a device is of both.
    pub fn overlaps(&self, other: &DeviceSet) -> bool {
        match &self.some {
            None => true,
            Some(some) => some.iter().any(|&ordinal| other.has(ordinal)),
        }
    }

    /// `host` with these devices alone, in their order. One that is not there any more is left out.
    pub fn of(&self, host: &Snapshot) -> Snapshot {
        let Some(some) = &self.some else { return host.clone() };
        let find = |&ordinal: &u32| host.devices.get(usize::try_from(ordinal).ok()?).cloned();
        let mut part = Snapshot { header: host.header, devices: some.iter().filter_map(find).collect() };
        part.header.device_count = u32::try_from(part.devices.len()).unwrap_or(0);
        part
    }

    /// CUDA_VISIBLE_DEVICES of a process that is to see these; `None` for all.
    pub fn visible(&self, host: &Snapshot) -> Option<String> {
        self.some.as_ref()?;
        let uuids: Vec<_> = uuids(&self.of(host)).map(|uuid| format!("GPU-{}", uuid_text(&uuid))).collect();
        Some(uuids.join(","))
    }

    /// Whether `seen` shows these devices of the host's in their order, and no others.
    pub fn are_those_of(&self, seen: &Snapshot, host: &Snapshot) -> bool {
        uuids(&self.of(host)).eq(uuids(seen))
    }
}

fn uuids(snapshot: &Snapshot) -> impl Iterator<Item = [u8; 16]> {
    snapshot.devices.iter().map(|device| device.record.uuid)
}

impl std::fmt::Display for DeviceSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.some {
            None => f.write_str("all"),
            Some(some) => f.write_str(&some.iter().map(u32::to_string).collect::<Vec<_>>().join(",")),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use vgpu_spec::wire::snapshot::{Device, DeviceRecord, SnapshotHeader};
    use zerocopy::FromZeros;

    /// A host whose devices have the UUIDs `1111…`, `2222…`.
    pub(crate) fn host(count: u8) -> Snapshot {
        let device = |number: u8| {
            let mut record = DeviceRecord::new_zeroed();
            record.name[..4].copy_from_slice(b"real");
            record.uuid = [number; 16];
            record.total_memory = 1000 << 20;
            Device { record, attributes: Vec::new() }
        };
        let header =
            SnapshotHeader { driver_version: 13000, device_count: count.into(), driver_name: [0; 32] };
        Snapshot { header, devices: (1..=count).map(device).collect() }
    }

    fn set(asked: &[u32]) -> DeviceSet {
        DeviceSet::new(Some(asked), 3).unwrap()
    }

    #[test]
    fn what_the_host_does_not_have_is_refused() {
        let refused = |asked: &[u32]| DeviceSet::new(Some(asked), 2).unwrap_err().to_string();
        assert_eq!(refused(&[]), "devices: the list is empty; without it the VM has all devices");
        assert_eq!(refused(&[1, 2]), "devices 2: there is no device 2, the host shows 2");
        assert_eq!(refused(&[1, 0, 1]), "devices 1: given twice for one VM");
    }

    #[test]
    fn all_in_the_hosts_order_are_all() {
        assert_eq!(set(&[0, 1, 2]), DeviceSet::new(None, 3).unwrap());
        assert!(set(&[0, 1, 2]).is_all() && !set(&[0, 2, 1]).is_all() && !set(&[0, 1]).is_all());
        assert_eq!(set(&[0, 1, 2]).visible(&host(3)), None);
        assert_eq!((set(&[0, 1, 2]).to_string(), set(&[2, 0]).to_string()), ("all".into(), "2,0".into()));
    }

    #[test]
    fn ordinals_are_the_hosts_in_the_order_of_the_set() {
        let some = set(&[2, 0]);
        assert_eq!([0, 1, 2].map(|device| some.host_ordinal(device)), [Some(2), Some(0), None]);
        assert_eq!(some.host_ordinals()[..3], [2, 0, u32::MAX]);
        assert_eq!([0, 1, 2].map(|ordinal| some.has(ordinal)), [true, false, true]);
        let all = DeviceSet::default();
        assert!(all.host_ordinals().into_iter().eq(0..MAX_DEVICES));
        assert_eq!(all.host_ordinal(MAX_DEVICES), None);
        assert!(some.overlaps(&set(&[0, 1])) && some.overlaps(&all) && all.overlaps(&some));
        assert!(!some.overlaps(&set(&[1])));
    }

    #[test]
    fn a_worker_sees_the_set_and_nothing_else() {
        let (host, some) = (host(3), set(&[2, 0]));
        let visible = "GPU-03030303-0303-0303-0303-030303030303,GPU-01010101-0101-0101-0101-010101010101";
        assert_eq!(some.visible(&host).as_deref(), Some(visible));
        let seen = some.of(&host);
        assert_eq!((seen.header.device_count, seen.devices.len()), (2, 2));
        assert!(some.are_those_of(&seen, &host));
        assert!(!set(&[0, 2]).are_those_of(&seen, &host), "in another order");
        assert!(!some.are_those_of(&host, &host));
        assert!(DeviceSet::default().are_those_of(&host, &host));
    }
}
