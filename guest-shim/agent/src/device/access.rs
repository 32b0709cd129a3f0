//! How a PCI device is owned, as a trait: configuration space, BARs, DMA, interrupts.

use super::pci::PciError;
use crate::memory::Mapping;
use std::fmt::Debug;
use std::io;
use vgpu_spec::wire::Range;
use vmm_sys_util::eventfd::EventFd;

/// Why a device could not be taken or used in one way.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error(transparent)]
    Pci(#[from] PciError),
    #[error(
        "the device has no IOMMU group; start QEMU with -device intel-iommu,intremap=on and the kernel with intel_iommu=on"
    )]
    NoIommu,
    #[error("{what}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("{what}: the kernel is locked down, which allows vfio only")]
    Lockdown { what: String },
    #[error("{what}")]
    Vfio {
        what: &'static str,
        #[source]
        source: vfio_ioctls::VfioError,
    },
    #[error("mapping BAR {0}: the device has no such memory")]
    NoBar(u8),
}

/// An owned device. Dropping it gives it up.
pub trait Access: Debug + Send + Sync {
    /// For people: "vfio", "uio", "sysfs".
    fn name(&self) -> &'static str;
    /// The first bytes of the configuration space, at least 256.
    fn read_config(&self) -> Result<Vec<u8>, AccessError>;
    /// Writes the command register.
    fn write_command(&self, command: u16) -> Result<(), AccessError>;
    /// Maps a whole BAR.
    fn map_bar(&self, bar: u8) -> Result<Mapping, AccessError>;
    /// Lets the device reach `mapping`, whose parts are at `extents`, in order.
    fn map_dma(&self, extents: &[Range], mapping: &Mapping) -> Result<(), AccessError>;
    /// Takes that back.
    fn unmap_dma(&self, extents: &[Range]);
    /// How many interrupt vectors there are; 0 for polling.
    fn vectors(&self) -> usize;
    /// Has vector i signal `fds[i]`.
    fn enable_vectors(&self, fds: &[&EventFd]) -> Result<(), AccessError>;
}

/// An I/O error, with a hint where the kernel's lockdown is the likely reason.
pub fn io_error(what: String) -> impl FnOnce(io::Error) -> AccessError {
    move |source| {
        let locked = || {
            let mode = std::fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
            !mode.is_empty() && !mode.contains("[none]")
        };
        if source.raw_os_error() == Some(libc::EPERM) && locked() {
            AccessError::Lockdown { what }
        } else {
            AccessError::Io { what, source }
        }
    }
}
