//! PCI devices in sysfs: finding ours, binding drivers.

use crate::config::{Bdf, Selector};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Where PCI devices and drivers are in sysfs.
const ROOT: &str = "/sys/bus/pci";
const VIRTIO_VENDOR: u32 = 0x1af4;
/// Device ids of the carriers: vhost-user-fs-pci and vhost-user-test-device-pci with virtio-id=38.
const CARRIERS: [u32; 2] = [0x105a, 0x1066];
/// A driver's probe is over when the write returns; its device files may take a little longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is wrong with PCI devices or their drivers.
#[derive(Debug, thiserror::Error)]
pub enum PciError {
    #[error(
        "finding the device: no vgpu device (PCI 1af4:105a or 1af4:1066) in this VM; start QEMU with -device vhost-user-fs-pci,…"
    )]
    None,
    #[error("finding the device: several may be it: {0}; choose one with --device")]
    Several(String),
    #[error("finding the device: there is no PCI device {0}")]
    Missing(Bdf),
    #[error(
        "finding the device: {bdf} is {vendor:04x}:{device:04x}, a vgpu device is 1af4:105a or 1af4:1066"
    )]
    Other { bdf: Bdf, vendor: u32, device: u32 },
    #[error("the kernel has no driver {0} (tried modprobe {0})")]
    NoDriver(String),
    #[error("the driver {wanted} did not take {bdf}, it has {}", has.as_deref().unwrap_or("none"))]
    NotBound { bdf: Bdf, wanted: String, has: Option<String> },
    #[error("{what} {}", path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// A PCI device.
#[derive(Debug, Clone)]
pub struct PciDevice {
    pub bdf: Bdf,
    root: PathBuf,
}

impl PciDevice {
    /// Finds the device that `selector` means.
    pub fn find(selector: &Selector) -> Result<Self, PciError> {
        Self::find_in(Path::new(ROOT), selector)
    }

    pub fn find_in(root: &Path, selector: &Selector) -> Result<Self, PciError> {
        match *selector {
            Selector::Bdf(bdf) => {
                let device = Self { bdf, root: root.into() };
                match device.ids() {
                    None => Err(PciError::Missing(bdf)),
                    Some(ids) if is_carrier(ids) => Ok(device),
                    Some((vendor, device)) => Err(PciError::Other { bdf, vendor, device }),
                }
            }
            Selector::Auto => {
                let mut found = carriers(root)?;
                match found.len() {
                    0 => Err(PciError::None),
                    1 => Ok(found.remove(0)),
                    _ => {
                        let names: Vec<_> = found.iter().map(|device| device.bdf.to_string()).collect();
                        Err(PciError::Several(names.join(", ")))
                    }
                }
            }
        }
    }

    /// The device's folder in sysfs.
    pub fn folder(&self) -> PathBuf {
        self.root.join("devices").join(self.bdf.to_string())
    }

    /// Vendor and device id.
    fn ids(&self) -> Option<(u32, u32)> {
        let read = |name| {
            let text = fs::read_to_string(self.folder().join(name)).ok()?;
            u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
        };
        Some((read("vendor")?, read("device")?))
    }

    /// The driver that has the device.
    pub fn driver(&self) -> Option<String> {
        link_name(&self.folder().join("driver"))
    }

    /// Number of the device's IOMMU group.
    pub fn iommu_group(&self) -> Option<String> {
        link_name(&self.folder().join("iommu_group"))
    }

    /// Gives the device to `driver` and to no other, also after the device comes back.
    pub fn bind(&self, driver: &str) -> Result<(), PciError> {
        let folder = self.root.join("drivers").join(driver);
        if !folder.exists() {
            load(driver);
        }
        if !folder.exists() {
            return Err(PciError::NoDriver(driver.into()));
        }
        self.set_override(driver)?;
        if self.driver().as_deref() != Some(driver) {
            self.unbind()?;
            let path = self.root.join("drivers_probe");
            write("asking drivers to probe by", path, &self.bdf.to_string())?;
        }
        match self.driver() {
            Some(has) if has == driver => Ok(()),
            has => Err(PciError::NotBound { bdf: self.bdf, wanted: driver.into(), has }),
        }
    }

    /// Takes the device from whatever driver has it, and lets none take it.
    pub fn detach(&self) -> Result<(), PciError> {
        self.set_override("none")?;
        self.unbind()
    }

    fn unbind(&self) -> Result<(), PciError> {
        let Some(driver) = self.driver() else { return Ok(()) };
        tracing::info!("taking {} from the driver {driver}", self.bdf);
        write(
            "taking the device from its driver by",
            self.folder().join("driver/unbind"),
            &self.bdf.to_string(),
        )
    }

    fn set_override(&self, driver: &str) -> Result<(), PciError> {
        write("choosing the driver by", self.folder().join("driver_override"), driver)
    }
}

/// Loads a kernel module if there is a modprobe; whether that helped shows in sysfs.
pub fn load(module: &str) {
    let silent = || Stdio::null();
    let status =
        Command::new("modprobe").arg(module).stdin(silent()).stdout(silent()).stderr(silent()).status();
    match status {
        Ok(status) if status.success() => tracing::debug!("loaded the module {module}"),
        Ok(status) => tracing::debug!("modprobe {module}: {status}"),
        Err(error) => tracing::debug!("running modprobe {module}: {error}"),
    }
}

/// Waits for a device file that a driver has just made.
pub fn wait_for(path: &Path) {
    let start = Instant::now();
    while !path.exists() && start.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The first entry of a folder, by name.
pub fn first_entry(folder: &Path) -> Option<String> {
    let entries = fs::read_dir(folder).ok()?;
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).min()
}

fn is_carrier((vendor, device): (u32, u32)) -> bool {
    vendor == VIRTIO_VENDOR && CARRIERS.contains(&device)
}

fn carriers(root: &Path) -> Result<Vec<PciDevice>, PciError> {
    let path = root.join("devices");
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(PciError::File { what: "listing", path, source }),
    };
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let bdf = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let device = PciDevice { bdf, root: root.into() };
            is_carrier(device.ids()?).then_some(device)
        })
        .collect();
    found.sort_by_key(|device| device.bdf);
    Ok(found)
}

fn link_name(path: &Path) -> Option<String> {
    fs::read_link(path).ok()?.file_name()?.to_str().map(str::to_owned)
}

fn write(what: &'static str, path: PathBuf, text: &str) -> Result<(), PciError> {
    fs::write(&path, text).map_err(|source| PciError::File { what, path, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tree::Tree;

    fn with_devices(devices: &[(&str, &str, &str)]) -> Tree {
        let tree = Tree::new();
        for (bdf, vendor, device) in devices {
            let folder = format!("devices/{bdf}");
            tree.file(&format!("{folder}/vendor"), vendor).file(&format!("{folder}/device"), device);
        }
        tree
    }

    const NET: (&str, &str, &str) = ("0000:00:02.0", "0x1af4\n", "0x1041\n");
    const FS: (&str, &str, &str) = ("0000:00:04.0", "0x1af4\n", "0x105a\n");
    const GENERIC: (&str, &str, &str) = ("0000:00:03.0", "0x1af4\n", "0x1066\n");

    #[test]
    fn the_only_carrier_is_found_among_others() {
        let tree = with_devices(&[NET, FS]);
        let device = PciDevice::find_in(tree.root().folder(), &Selector::Auto).unwrap();
        assert_eq!(device.bdf.to_string(), FS.0);
        assert_eq!(device.driver(), None);
    }

    #[test]
    fn none_and_several_are_errors_that_say_so() {
        let tree = with_devices(&[NET]);
        assert!(matches!(PciDevice::find_in(tree.root().folder(), &Selector::Auto), Err(PciError::None)));
        let tree = with_devices(&[FS, NET, GENERIC]);
        match PciDevice::find_in(tree.root().folder(), &Selector::Auto) {
            Err(PciError::Several(names)) => assert_eq!(names, "0000:00:03.0, 0000:00:04.0"),
            other => panic!("{other:?}"),
        }
        let nowhere = Path::new("/nonexistent/vgpu");
        assert!(matches!(PciDevice::find_in(nowhere, &Selector::Auto), Err(PciError::None)));
    }

    #[test]
    fn a_named_device_must_be_there_and_be_a_carrier() {
        let tree = with_devices(&[NET, GENERIC]);
        let find = |bdf: &str| PciDevice::find_in(tree.root().folder(), &Selector::Bdf(bdf.parse().unwrap()));
        assert!(find("00:03.0").is_ok());
        assert!(matches!(find("00:02.0"), Err(PciError::Other { vendor: 0x1af4, device: 0x1041, .. })));
        assert!(matches!(find("00:09.0"), Err(PciError::Missing(_))));
    }
}
