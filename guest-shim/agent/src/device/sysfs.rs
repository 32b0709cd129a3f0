//! The device's files in sysfs: configuration space and BARs without interrupts. uio_pci_generic uses them too.

use super::access::{Access, AccessError, io_error};
use super::pci::PciDevice;
use crate::memory::Mapping;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use vgpu_spec::wire::Range;
use vmm_sys_util::eventfd::EventFd;

/// Offset of the command register (PCI 3.0, section 6.2.2).
const COMMAND: u64 = 4;

/// A device reached through sysfs.
#[derive(Debug)]
pub struct Sysfs {
    name: &'static str,
    folder: PathBuf,
    config: File,
    /// For uio: while it is open, the driver keeps the device; when it is closed, newer kernels stop the device's DMA.
    _uio: Option<File>,
}

/// Takes the device from its driver and uses its files.
pub fn open(device: &PciDevice) -> Result<Sysfs, AccessError> {
    device.detach()?;
    let folder = device.folder();
    // Without a driver the device may be disabled: its BARs are not decoded then.
    let path = folder.join("enable");
    std::fs::write(&path, "1").map_err(io_error(format!("enabling the device by {}", path.display())))?;
    Sysfs::new("sysfs", folder, None)
}

/// Binds uio_pci_generic and uses the device's files.
pub fn open_uio(device: &PciDevice) -> Result<Sysfs, AccessError> {
    super::pci::load("uio");
    device.bind("uio_pci_generic")?;
    let folder = device.folder();
    let name = super::pci::first_entry(&folder.join("uio")).ok_or_else(|| AccessError::Io {
        what: format!("finding the uio device of {}", device.bdf),
        source: io::ErrorKind::NotFound.into(),
    })?;
    let path = Path::new("/dev").join(name);
    super::pci::wait_for(&path);
    let uio = open_file(&path)?;
    Sysfs::new("uio", folder, Some(uio))
}

impl Sysfs {
    fn new(name: &'static str, folder: PathBuf, uio: Option<File>) -> Result<Self, AccessError> {
        let config = open_file(&folder.join("config"))?;
        Ok(Self { name, folder, config, _uio: uio })
    }
}

fn open_file(path: &Path) -> Result<File, AccessError> {
    let open = OpenOptions::new().read(true).write(true).open(path);
    open.map_err(io_error(format!("opening {}", path.display())))
}

impl Access for Sysfs {
    fn name(&self) -> &'static str {
        self.name
    }

    fn read_config(&self) -> Result<Vec<u8>, AccessError> {
        let mut bytes = vec![0; 256];
        self.config
            .read_exact_at(&mut bytes, 0)
            .map_err(io_error("reading the configuration space".into()))?;
        Ok(bytes)
    }

    fn write_command(&self, command: u16) -> Result<(), AccessError> {
        self.config
            .write_all_at(&command.to_le_bytes(), COMMAND)
            .map_err(io_error("writing the command register".into()))
    }

    fn map_bar(&self, bar: u8) -> Result<Mapping, AccessError> {
        let path = self.folder.join(format!("resource{bar}"));
        if !path.exists() {
            return Err(AccessError::NoBar(bar));
        }
        let file = open_file(&path)?;
        let what = || format!("mapping {}", path.display());
        let len = file.metadata().map_err(io_error(what()))?.len();
        let len = usize::try_from(len).map_err(|_| AccessError::NoBar(bar))?;
        Mapping::new(file.as_fd(), 0, len, false).map_err(io_error(what()))
    }

    fn map_dma(&self, _extents: &[Range], _mapping: &Mapping) -> Result<(), AccessError> {
        // Without an IOMMU in between the device reaches all memory.
        Ok(())
    }

    fn unmap_dma(&self, _extents: &[Range]) {}

    fn vectors(&self) -> usize {
        0
    }

    fn enable_vectors(&self, _fds: &[&EventFd]) -> Result<(), AccessError> {
        Ok(())
    }
}
