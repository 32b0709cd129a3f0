//! The device in a VM: a virtio PCI device, owned by vfio, uio or sysfs.

pub mod access;
pub mod capability;
pub mod dma;
mod interrupt;
mod kick;
mod memory;
pub mod pci;
pub mod sysfs;
pub mod udmabuf;
pub mod vfio;
pub mod virtio;

use crate::carrier::{Carrier, ClientMemory, MemoryError, Queue};
use crate::config::{Bdf, DEFAULT_LANES_VM, Method, Selector};
use crate::memory::{Page, Rings};
use access::{Access, AccessError};
use dma::{DmaError, HugePages};
use pci::{PciDevice, PciError};
use std::io;
use std::sync::Arc;
use vgpu_spec::wire::control::{CONTROL_QUEUE, EVENT_QUEUE, FIRST_LANE, PciAddress};
use vgpu_spec::wire::lane::{Layout, MAX_QUEUE_SIZE};
use vgpu_spec::wire::{HUGE_PAGE, Range};
use virtio::{NO_VECTOR, QueueSetup, VirtioError, VirtioPci, status};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Features that the agent needs.
const FEATURES: [(u64, &str); 2] =
    [(1 << 32, "VERSION_1"), (1 << 29, "EVENT_IDX (event_idx=on in QEMU, its default)")];
/// The most entries of the control and the event queue.
const CONTROL_SIZE: u16 = 64;
/// Where the event queue's rings lie in the control page.
const EVENT_RINGS: u64 = 128 << 10;

/// Why the device could not be brought up.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error(transparent)]
    Pci(#[from] PciError),
    #[error("taking {bdf} by {method}")]
    Method {
        bdf: Bdf,
        method: &'static str,
        #[source]
        source: AccessError,
    },
    #[error("taking {bdf}: neither vfio, uio nor sysfs works (--method NAME says why one does not)")]
    NoMethod { bdf: Bdf },
    #[error("bringing up {bdf}")]
    Virtio {
        bdf: Bdf,
        #[source]
        source: VirtioError,
    },
    #[error(
        "bringing up {bdf}: its {queues} queues leave none for a lane; num-request-queues in QEMU must be 2 or more"
    )]
    TooFewQueues { bdf: Bdf, queues: u16 },
    #[error("bringing up {bdf}: queue {queue} can have {size} entries, 4 are needed")]
    QueueSize { bdf: Bdf, queue: u16, size: u16 },
    #[error(transparent)]
    Dma(#[from] DmaError),
    #[error("creating eventfds and threads")]
    Io(#[source] io::Error),
}

/// A brought-up PCI device.
#[derive(Debug)]
pub struct Pci {
    bdf: Bdf,
    // Before `queues`: the device is reset before its memory goes.
    virtio: Arc<VirtioPci>,
    queues: Vec<Queue>,
    /// Notify registers, by queue.
    places: Vec<usize>,
    access: Arc<dyn Access>,
    pages: Arc<HugePages>,
    vectors: usize,
}

/// Finds, takes and brings up the device, with `lanes` lanes or as many as it has.
pub fn open(
    selector: &Selector,
    method: Method,
    lanes: Option<u16>,
) -> Result<Arc<dyn Carrier>, DeviceError> {
    let device = PciDevice::find(selector)?;
    let bdf = device.bdf;
    let pages = Arc::new(HugePages::new()?);
    let access = take(&device, method)?;
    let failed = |source| DeviceError::Virtio { bdf, source };
    let virtio = Arc::new(VirtioPci::new(&*access).map_err(failed)?);
    let result = bring_up(bdf, &virtio, &access, &pages, lanes);
    if result.is_err()
        && let Err(error) = virtio.reset()
    {
        tracing::warn!("{error}");
    }
    Ok(Arc::new(result?))
}

/// Takes the device as `method` says.
fn take(device: &PciDevice, method: Method) -> Result<Arc<dyn Access>, DeviceError> {
    let bdf = device.bdf;
    let methods: &[Method] =
        if method == Method::Auto { &[Method::Vfio, Method::Uio, Method::Sysfs] } else { &[method] };
    for &each in methods {
        let (name, taken) = match each {
            Method::Vfio => ("vfio", vfio::open(device).map(|access| Arc::new(access) as Arc<dyn Access>)),
            Method::Uio => ("uio", sysfs::open_uio(device).map(|access| Arc::new(access) as Arc<dyn Access>)),
            _ => ("sysfs", sysfs::open(device).map(|access| Arc::new(access) as Arc<dyn Access>)),
        };
        match taken {
            Ok(access) => return Ok(access),
            Err(source) if method != Method::Auto => {
                return Err(DeviceError::Method { bdf, method: name, source });
            }
            Err(error) => tracing::info!("not taking {bdf} by {name}: {}", crate::error::chain(&error)),
        }
    }
    Err(DeviceError::NoMethod { bdf })
}

fn bring_up(
    bdf: Bdf,
    virtio: &Arc<VirtioPci>,
    access: &Arc<dyn Access>,
    pages: &Arc<HugePages>,
    lanes: Option<u16>,
) -> Result<Pci, DeviceError> {
    let failed = |source| DeviceError::Virtio { bdf, source };
    virtio.negotiate(&FEATURES).map_err(failed)?;
    let count = virtio.queue_count();
    if count <= FIRST_LANE {
        return Err(DeviceError::TooFewQueues { bdf, queues: count });
    }
    let has = count - FIRST_LANE;
    let lanes = lanes.unwrap_or(DEFAULT_LANES_VM);
    if lanes > has {
        tracing::info!("{bdf} has {has} lanes, {lanes} were wanted");
    }
    let queues = create_queues(bdf, virtio, &**access, pages, lanes.min(has))?;
    let vectors = interrupt::enable(&**access, &queues)?;
    let mut places = Vec::new();
    for (index, queue) in (0..).zip(&queues) {
        let rings = &queue.rings;
        let vector = interrupt::vector(index, vectors);
        let setup = QueueSetup { size: rings.layout.size, addresses: rings.addresses(), vector };
        places.push(virtio.start_queue(index, &setup).map_err(failed)?);
    }
    virtio.start();
    kick::start(virtio, &queues, &places).map_err(DeviceError::Io)?;
    let (virtio, access, pages) = (virtio.clone(), access.clone(), pages.clone());
    Ok(Pci { bdf, virtio, queues, places, access, pages, vectors })
}

/// One huge page for control and events, one for each lane.
fn create_queues(
    bdf: Bdf,
    virtio: &VirtioPci,
    access: &dyn Access,
    pages: &HugePages,
    lanes: u16,
) -> Result<Vec<Queue>, DeviceError> {
    let queue = |index: u16, page: &Arc<Page>, base, limit: u16| {
        let size = virtio.queue_max_size(index);
        // Sizes of split virtqueues are powers of two (virtio 1.2, section 2.7); a device's limit may be none.
        let usable = if size == 0 { 0 } else { 1 << size.min(limit).ilog2() };
        let layout = Layout::new(usable).filter(|_| usable >= 4);
        let layout = layout.ok_or(DeviceError::QueueSize { bdf, queue: index, size })?;
        let eventfd = || EventFd::new(EFD_NONBLOCK).map_err(DeviceError::Io);
        let rings = Rings { page: page.clone(), base, layout };
        Ok::<_, DeviceError>(Queue { rings, kick: eventfd()?, completion: eventfd()? })
    };
    let page = |name: &str| -> Result<Arc<Page>, DeviceError> {
        let block = pages.allocate(name, 1)?;
        let gpa = block.addresses[0];
        access
            .map_dma(&[Range { base: gpa, len: HUGE_PAGE }], &block.mapping)
            .map_err(|source| DeviceError::Virtio { bdf, source: source.into() })?;
        Ok(Arc::new(Page::huge(block.mapping, block.file, gpa)))
    };
    let control = page("vgpu-control")?;
    let mut queues = vec![
        queue(CONTROL_QUEUE, &control, 0, CONTROL_SIZE)?,
        queue(EVENT_QUEUE, &control, EVENT_RINGS, CONTROL_SIZE)?,
    ];
    for index in FIRST_LANE..FIRST_LANE + lanes {
        queues.push(queue(index, &page("vgpu-lane")?, 0, MAX_QUEUE_SIZE)?);
    }
    Ok(queues)
}

impl Carrier for Pci {
    fn ownership(&self) -> String {
        let name = self.access.name();
        match self.vectors {
            0 => format!("{name} polling at {}", self.bdf),
            1 => format!("{name} with 1 interrupt at {}", self.bdf),
            count => format!("{name} with {count} interrupts at {}", self.bdf),
        }
    }

    fn queues(&self) -> &[Queue] {
        &self.queues
    }

    fn event_idx(&self) -> bool {
        true
    }

    fn polling(&self) -> bool {
        self.vectors == 0
    }

    fn pci_address(&self) -> PciAddress {
        let Bdf { domain, bus, device, function } = self.bdf;
        PciAddress { domain, bus, device, function, present: 1 }
    }

    fn notify(&self, index: u16) {
        if let Some(&place) = self.places.get(usize::from(index)) {
            self.virtio.notify(index, place);
        }
    }

    fn lost(&self) -> Option<String> {
        let bdf = self.bdf;
        match self.virtio.status() {
            0xff => Some(format!("the device {bdf} was removed; start vgpu-agent again when it is back")),
            0 => Some(format!("the device {bdf} was reset by somebody else; start vgpu-agent again")),
            other if other & status::NEEDS_RESET != 0 => {
                Some(format!("the device {bdf} asks for a reset; start vgpu-agent again"))
            }
            _ => None,
        }
    }

    fn client_memory(&self) -> Result<Box<dyn ClientMemory>, MemoryError> {
        Ok(Box::new(memory::PciMemory::new(self.pages.clone(), self.access.clone())))
    }

    fn reset(&self) {
        if let Err(error) = self.virtio.reset() {
            tracing::warn!("{error}");
        }
    }
}
