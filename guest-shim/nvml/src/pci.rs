//! PCI: the guest's own address of the device, or in local mode the host's.

use crate::{
    abi::{PciInfo, PciInfo_v1, PciInfo_v2, PciInfoExt, Versioned},
    call::{Out, check_version},
    error::{self, NvmlError},
    identity::Device,
    library::Library,
};
use std::{ffi::CStr, fs, path::Path};
use vgpu_spec::wire::{control::PciAddress, snapshot::DeviceRecord};

/// Vendor number of NVIDIA's devices.
const NVIDIA: u32 = 0x10de;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    pub domain: u32,
    pub bus: u32,
    pub device: u32,
    /// NVML shows 0 always.
    function: u8,
    /// Whether the guest has a device at this address; else it is an address of the host.
    guests: bool,
}

impl Address {
    /// The guest's address if it has one of its own, else the host's.
    pub fn of(record: &DeviceRecord, guest: PciAddress) -> Self {
        if guest.present != 0 {
            return Address {
                domain: guest.domain,
                bus: guest.bus.into(),
                device: guest.device.into(),
                function: guest.function,
                guests: true,
            };
        }
        Address {
            domain: record.pci_domain,
            bus: record.pci_bus,
            device: record.pci_device,
            function: 0,
            guests: false,
        }
    }

    /// Whether it is the guest's own.
    pub fn is_guests(self) -> bool {
        self.guests
    }

    fn numbers(self) -> (u32, u32, u32) {
        (self.domain, self.bus, self.device)
    }

    /// With a domain of eight digits.
    fn text(self) -> [u8; 32] {
        padded(&format!("{:08X}:{:02X}:{:02X}.0", self.domain, self.bus, self.device))
    }

    /// With a domain of four digits.
    fn legacy_text(self) -> [u8; 16] {
        padded(&format!("{:04X}:{:02X}:{:02X}.0", self.domain, self.bus, self.device))
    }
}

/// `text` with NULs behind it, at least one.
fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let len = text.len().min(N - 1);
    bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
    bytes
}

/// What the device says of itself in its configuration space; zeroes if that can't be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Ids {
    /// Device number (high half) and vendor number.
    device: u32,
    subsystem: u32,
    base_class: u32,
    sub_class: u32,
}

impl Ids {
    /// Reads below `root`, which is `/sys/bus/pci/devices`.
    ///
    /// An address of the host may be another device's here (softgpu makes one up), so there only NVIDIA's count.
    fn read(root: &Path, address: Address) -> Self {
        let (domain, bus, device) = address.numbers();
        let folder = root.join(format!("{domain:04x}:{bus:02x}:{device:02x}.{}", address.function));
        let number = |name: &str| {
            let text = fs::read_to_string(folder.join(name)).unwrap_or_default();
            u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).unwrap_or(0)
        };
        let vendor = number("vendor");
        if !address.guests && vendor != NVIDIA {
            return Ids::default();
        }
        let class = number("class");
        Ids {
            device: number("device") << 16 | vendor & 0xffff,
            subsystem: number("subsystem_device") << 16 | number("subsystem_vendor") & 0xffff,
            base_class: class >> 16 & 0xff,
            sub_class: class >> 8 & 0xff,
        }
    }

    fn of(address: Address) -> Self {
        Self::read(Path::new("/sys/bus/pci/devices"), address)
    }
}

fn info(address: Address, ids: Ids) -> PciInfo {
    let v1 = PciInfo_v1 {
        bus_id_legacy: address.legacy_text(),
        domain: address.domain,
        bus: address.bus,
        device: address.device,
        pci_device_id: ids.device,
    };
    PciInfo { v2: PciInfo_v2 { v1, pci_subsystem_id: ids.subsystem }, bus_id: address.text() }
}

pub fn nvmlDeviceGetPciInfo_v3(_: &Library, device: &Device, pci: Out<PciInfo>) -> error::Result {
    pci.set(info(device.address, Ids::of(device.address)));
    Ok(())
}

pub fn nvmlDeviceGetPciInfo_v2(_: &Library, device: &Device, pci: Out<PciInfo_v2>) -> error::Result {
    pci.set(info(device.address, Ids::of(device.address)).v2);
    Ok(())
}

pub fn nvmlDeviceGetPciInfo(_: &Library, device: &Device, pci: Out<PciInfo_v1>) -> error::Result {
    pci.set(info(device.address, Ids::of(device.address)).v2.v1);
    Ok(())
}

pub fn nvmlDeviceGetPciInfoExt(_: &Library, device: &Device, pci: &mut PciInfoExt) -> error::Result {
    check_version(pci)?;
    let (address, ids) = (device.address, Ids::of(device.address));
    *pci = PciInfoExt {
        version: PciInfoExt::VERSION,
        domain: address.domain,
        bus: address.bus,
        device: address.device,
        pci_device_id: ids.device,
        pci_subsystem_id: ids.subsystem,
        base_class: ids.base_class,
        sub_class: ids.sub_class,
        bus_id: address.text(),
    };
    Ok(())
}

/// NVML_BUS_TYPE_PCIE.
const PCIE: u32 = 2;

pub fn nvmlDeviceGetBusType(_: &Library, _: &Device, r#type: Out<u32>) -> error::Result {
    r#type.set(PCIE);
    Ok(())
}

/// `domain:bus:device.function`, `domain:bus:device` or `bus:device.function`, in hexadecimal; the function is 0.
fn parse(text: &str) -> Option<(u32, u32, u32)> {
    let (numbers, function) = match text.split_once('.') {
        Some((numbers, function)) => (numbers, Some(function)),
        None => (text, None),
    };
    if function.is_some_and(|f| u32::from_str_radix(f, 16) != Ok(0)) {
        return None;
    }
    let numbers = numbers.split(':').map(|n| u32::from_str_radix(n, 16).ok()).collect::<Option<Vec<_>>>()?;
    match numbers[..] {
        [domain, bus, device] => Some((domain, bus, device)),
        [bus, device] if function.is_some() => Some((0, bus, device)),
        _ => None,
    }
}

pub fn nvmlDeviceGetHandleByPciBusId_v2(
    library: &Library,
    pciBusId: &CStr,
    device: Out<u64>,
) -> error::Result {
    let wanted = pciBusId.to_str().ok().and_then(parse).ok_or(NvmlError::InvalidArgument)?;
    let found = library.devices().iter().find(|d| d.address.numbers() == wanted);
    device.set(library.handle(found.ok_or(NvmlError::NotFound)?)?);
    Ok(())
}

pub fn nvmlDeviceGetHandleByPciBusId(library: &Library, pciBusId: &CStr, device: Out<u64>) -> error::Result {
    nvmlDeviceGetHandleByPciBusId_v2(library, pciBusId, device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{call::tests::output, identity::tests::h100, library::tests::library};

    fn guest() -> Address {
        let own = PciAddress { domain: 0, bus: 1, device: 0xa, function: 0, present: 1 };
        Address::of(&h100(3).record, own)
    }

    #[test]
    fn the_guests_own_address_is_shown_when_it_has_one() {
        assert_eq!(guest().numbers(), (0, 1, 10));
        assert_eq!(Address::of(&h100(3).record, PciAddress::default()).numbers(), (0, 0x1b, 3));
    }

    #[test]
    fn addresses_are_written_as_the_native_library_does() {
        let pci = info(guest(), Ids::default());
        assert_eq!(&pci.v2.v1.bus_id_legacy, b"0000:01:0A.0\0\0\0\0");
        assert_eq!(&pci.bus_id[..17], b"00000000:01:0A.0\0");
        let far = Address { domain: u32::MAX, bus: 255, ..guest() };
        assert_eq!(&far.legacy_text(), b"FFFFFFFF:FF:0A.\0", "cut, with its NUL");
    }

    #[test]
    fn addresses_are_read_in_the_native_librarys_forms() {
        for (text, want) in [
            ("00000000:00:06.0", Some((0, 0, 6))),
            ("0000:1B:00.0", Some((0, 27, 0))),
            ("1:1b:6", Some((1, 27, 6))),
            ("1b:6.0", Some((0, 27, 6))),
            ("1b:6", None),
            ("0:0:6.1", None),
            ("0:0:6.0junk", None),
            ("0:0:0:6.0", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(parse(text), want, "{text}");
        }
    }

    #[test]
    fn devices_are_found_by_address() {
        let library = library(2);
        let find = |text: &CStr| output(|o| nvmlDeviceGetHandleByPciBusId(&library, text, o));
        assert_eq!(find(c"00000000:1b:01.0"), library.handle(&library.devices()[1]));
        assert_eq!(find(c"0:1b:7.0"), Err(NvmlError::NotFound));
        assert_eq!(find(c"1b:1"), Err(NvmlError::InvalidArgument));
    }

    #[test]
    fn numbers_come_from_sysfs_for_the_guests_or_nvidias_device_only() {
        let root = std::env::temp_dir().join(format!("vgpu-nvml-pci-{}", std::process::id()));
        let folder = root.join("0000:01:0a.0");
        fs::create_dir_all(&folder).unwrap();
        for (name, text) in [
            ("vendor", "0x1af4\n"),
            ("device", "0x105a\n"),
            ("subsystem_vendor", "0x1af4\n"),
            ("subsystem_device", "0x1100\n"),
            ("class", "0x018000\n"),
        ] {
            fs::write(folder.join(name), text).unwrap();
        }
        let own = Ids::read(&root, guest());
        let foreign = Ids::read(&root, Address { guests: false, ..guest() });
        fs::write(folder.join("vendor"), "0x10de\n").unwrap();
        let nvidia = Ids::read(&root, Address { guests: false, ..guest() });
        fs::remove_dir_all(&root).unwrap();
        let want = Ids { device: 0x105a_1af4, subsystem: 0x1100_1af4, base_class: 1, sub_class: 0x80 };
        assert_eq!(own, want);
        assert_eq!(foreign, Ids::default());
        assert_eq!(nvidia, Ids { device: 0x105a_10de, ..want });
        assert_eq!(Ids::read(&root, guest()), Ids::default(), "without the folder");
    }

    #[test]
    fn an_extended_structure_of_another_version_is_refused() {
        let library = library(1);
        let device = &library.devices()[0];
        let mut pci = PciInfoExt {
            version: 0,
            domain: 0,
            bus: 0,
            device: 0,
            pci_device_id: 0,
            pci_subsystem_id: 0,
            base_class: 0,
            sub_class: 0,
            bus_id: [0; 32],
        };
        assert_eq!(
            nvmlDeviceGetPciInfoExt(&library, device, &mut pci),
            Err(NvmlError::ArgumentVersionMismatch)
        );
        pci.version = PciInfoExt::VERSION;
        assert_eq!(nvmlDeviceGetPciInfoExt(&library, device, &mut pci), Ok(()));
        assert_eq!((pci.bus, &pci.bus_id[..16]), (0x1b, &b"00000000:1B:00.0"[..]));
    }
}
