//! vfio-pci: interrupts as eventfds, pinned memory, works under lockdown.

use super::access::{Access, AccessError, io_error};
use super::pci::PciDevice;
use crate::memory::Mapping;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use vfio_bindings::bindings::vfio::{VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_MSIX_IRQ_INDEX};
use vfio_ioctls::{VfioContainer, VfioDevice, VfioError, VfioOps};
use vgpu_spec::wire::Range;
use vmm_sys_util::eventfd::EventFd;

/// Offset of the command register (PCI 3.0, section 6.2.2).
const COMMAND: u64 = 4;
/// Modules of vfio-pci. The second is one of its own in kernels up to 6.1, and must be there before vfio-pci.
const MODULES: [&str; 3] = ["vfio", "vfio_virqfd", "vfio_iommu_type1"];

/// A device owned through vfio.
pub struct Vfio {
    device: VfioDevice,
    container: Arc<VfioContainer>,
}

impl std::fmt::Debug for Vfio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vfio")
    }
}

fn failed(what: &'static str) -> impl FnOnce(VfioError) -> AccessError {
    move |source| AccessError::Vfio { what, source }
}

/// Binds vfio-pci and opens the device.
pub fn open(device: &PciDevice) -> Result<Vfio, AccessError> {
    let Some(group) = device.iommu_group() else { return Err(AccessError::NoIommu) };
    for module in MODULES {
        super::pci::load(module);
    }
    device.bind("vfio-pci")?;
    super::pci::wait_for(&Path::new("/dev/vfio").join(group));
    let container = Arc::new(VfioContainer::new(None).map_err(failed("opening /dev/vfio/vfio"))?);
    let ops: Arc<dyn VfioOps> = container.clone();
    let device =
        VfioDevice::new(&device.folder(), ops, false).map_err(failed("opening the device's IOMMU group"))?;
    Ok(Vfio { device, container })
}

impl Access for Vfio {
    fn name(&self) -> &'static str {
        "vfio"
    }

    fn read_config(&self) -> Result<Vec<u8>, AccessError> {
        let mut bytes = vec![0; 256];
        self.device.region_read(VFIO_PCI_CONFIG_REGION_INDEX, &mut bytes, 0);
        Ok(bytes)
    }

    fn write_command(&self, command: u16) -> Result<(), AccessError> {
        self.device.region_write(VFIO_PCI_CONFIG_REGION_INDEX, &command.to_le_bytes(), COMMAND);
        Ok(())
    }

    fn map_bar(&self, bar: u8) -> Result<Mapping, AccessError> {
        let index = u32::from(bar);
        let len = usize::try_from(self.device.get_region_size(index)).map_err(|_| AccessError::NoBar(bar))?;
        if bar > 5 || len == 0 {
            return Err(AccessError::NoBar(bar));
        }
        // SAFETY: the device keeps its descriptor open, and the borrow ends within this function.
        let fd = unsafe { BorrowedFd::borrow_raw(self.device.as_raw_fd()) };
        let offset = self.device.get_region_offset(index);
        Mapping::new(fd, offset, len, false).map_err(io_error(format!("mapping BAR {bar}")))
    }

    fn map_dma(&self, extents: &[Range], mapping: &Mapping) -> Result<(), AccessError> {
        let mut offset = 0_usize;
        for (done, extent) in extents.iter().enumerate() {
            let len = usize::try_from(extent.len).unwrap_or(usize::MAX);
            if offset.checked_add(len).is_none_or(|end| end > mapping.len()) {
                self.unmap_dma(&extents[..done]);
                return Err(AccessError::Io {
                    what: "letting the device reach memory".into(),
                    source: std::io::ErrorKind::InvalidInput.into(),
                });
            }
            // SAFETY: in bounds of the mapping, as checked; `Mapping` hands out no references but atomics, which is what
            // memory that a device writes asks for. The owner unmaps it here before it drops the mapping.
            let mapped = unsafe {
                let address = mapping.address().add(offset);
                // IOVA = guest-physical address, so that it does not matter whether the device goes through the IOMMU.
                self.container.vfio_dma_map(extent.base, len, address)
            };
            if let Err(source) = mapped {
                self.unmap_dma(&extents[..done]);
                return Err(AccessError::Vfio { what: "letting the device reach memory", source });
            }
            offset += len;
        }
        Ok(())
    }

    fn unmap_dma(&self, extents: &[Range]) {
        for extent in extents {
            let len = usize::try_from(extent.len).unwrap_or(usize::MAX);
            if let Err(error) = self.container.vfio_dma_unmap(extent.base, len) {
                tracing::warn!("taking memory from the device at {:#x}: {error}", extent.base);
            }
        }
    }

    fn vectors(&self) -> usize {
        self.device.get_irq_info(VFIO_PCI_MSIX_IRQ_INDEX).map_or(0, |irq| irq.count as usize)
    }

    fn enable_vectors(&self, fds: &[&EventFd]) -> Result<(), AccessError> {
        self.device.enable_msix(fds.to_vec()).map_err(failed("enabling MSI-X"))
    }
}
