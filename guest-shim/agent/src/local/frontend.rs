//! The vhost-user front end: handshake, memory regions, vrings.
//!
//! Guest-physical addresses are numbers that this module makes up, and its "virtual" addresses in vhost-user messages are
//! the same numbers: the broker only uses them to find the region.

use super::arena::Arena;
use super::deadline::Deadline;
use crate::carrier::{Carrier, ClientMemory, MemoryError, Queue};
use crate::config::DEFAULT_LANES_LOCAL;
use crate::memory::{Page, Rings};
use crate::service::Stop;
use rustix::event::{PollFd, PollFlags};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use vgpu_spec::wire::control::{FIRST_LANE, PciAddress};
use vgpu_spec::wire::lane::Layout;
use vgpu_spec::wire::{HUGE_PAGE, Range};
use vhost::vhost_user::message::{
    VhostUserHeaderFlag, VhostUserProtocolFeatures as Protocol, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Virtio feature bits.
const EVENT_IDX: u64 = 1 << 29;
const VERSION_1: u64 = 1 << 32;

/// Entries of the control and the event queue, and of lanes.
const CONTROL_SIZE: u16 = 64;
const LANE_SIZE: u16 = 1024;
/// Where the event queue's rings lie in the control page.
const EVENT_RINGS: u64 = 128 << 10;

/// Pages of queues start here, arenas there.
const PAGES: u64 = 4 << 30;
const ARENAS: u64 = 1 << 40;
/// The most bytes of one client's windows.
const ARENA_LIMIT: u64 = 64 << 30;
/// The broker answers vhost-user requests at once, but it may be starting or serving another VM.
const PATIENCE: Duration = Duration::from_secs(15);

/// Why local mode does not come up.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    #[error("connecting to the broker: there is no socket {0}; start vgpu-backend --socket {0}", path.display())]
    Missing { path: PathBuf },
    #[error("connecting to the broker: nobody serves the socket {0}; start vgpu-backend --socket {0}", path.display())]
    Refused { path: PathBuf },
    #[error("connecting to the broker's socket {}", path.display())]
    Connect {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{what} at the broker's socket {}: no answer within {} s; another VM or agent may have it", path.display(), PATIENCE.as_secs())]
    Busy { what: &'static str, path: PathBuf },
    #[error("{what} at the broker's socket {}", path.display())]
    Protocol {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: vhost::Error,
    },
    #[error("negotiating with the broker: it lacks {feature}; is {} a vgpu-backend's socket?", path.display())]
    Feature { feature: &'static str, path: PathBuf },
    #[error(
        "negotiating with the broker: its {0} queues or {1} memory slots are too few for a lane and a client"
    )]
    TooSmall(u64, u64),
    #[error("creating queue memory")]
    Memory(#[source] io::Error),
}

/// The broker's memory table and which arenas are in use.
#[derive(Debug)]
pub struct Regions {
    frontend: Mutex<FrontendBox>,
    deadline: Arc<Deadline>,
    arena_len: u64,
    limit: usize,
    arenas: Mutex<BTreeSet<u64>>,
}

/// The vhost crate's front end has no `Debug`.
struct FrontendBox(Frontend);

impl std::fmt::Debug for FrontendBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Frontend")
    }
}

impl Regions {
    fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Addresses for an arena, or `None` if the broker's memory slots are used up.
    pub fn reserve(&self) -> Option<Range> {
        self.reserve_up_to(self.limit, self.arena_len)
    }

    /// Addresses for `len` bytes of a program's file. A quarter of the broker's memory slots is kept for new clients.
    pub fn reserve_adopted(&self, len: u64) -> Option<Range> {
        let limit = self.limit - self.limit / 4;
        if len <= ARENA_LIMIT { self.reserve_up_to(limit, len) } else { None }
    }

    fn reserve_up_to(&self, limit: usize, len: u64) -> Option<Range> {
        let mut arenas = Self::lock(&self.arenas);
        if arenas.len() >= limit {
            return None;
        }
        let base = (0..).map(|i| ARENAS + i * ARENA_LIMIT).find(|base| !arenas.contains(base))?;
        arenas.insert(base);
        Some(Range { base, len })
    }

    /// Gives addresses back.
    pub fn release(&self, region: Range) {
        Self::lock(&self.arenas).remove(&region.base);
    }

    /// Has the broker map `file`, from `offset` on, at `region`.
    pub fn add(&self, region: Range, file: RawFd, offset: u64) -> Result<(), MemoryError> {
        let info = VhostUserMemoryRegionInfo { mmap_offset: offset, ..region_info(region, file) };
        let mut frontend = Self::lock(&self.frontend);
        let _armed = self.deadline.arm();
        let added = frontend.0.add_mem_region(&info);
        added.map(drop).map_err(|error| MemoryError::Register(crate::error::chain(&error)))
    }

    /// Has the broker unmap `region` and gives its addresses back.
    pub fn remove(&self, region: Range) {
        let removed = {
            let mut frontend = Self::lock(&self.frontend);
            let _armed = self.deadline.arm();
            frontend.0.remove_mem_region(&region_info(region, -1))
        };
        match removed {
            Ok(()) => self.release(region),
            // Its addresses stay taken.
            Err(error) => tracing::warn!("unregistering window memory with the broker: {error}"),
        }
    }
}

fn region_info(region: Range, file: RawFd) -> VhostUserMemoryRegionInfo {
    VhostUserMemoryRegionInfo {
        guest_phys_addr: region.base,
        memory_size: region.len,
        userspace_addr: region.base,
        mmap_offset: 0,
        mmap_handle: file,
    }
}

/// Local mode's carrier.
#[derive(Debug)]
pub struct Local {
    path: PathBuf,
    regions: Arc<Regions>,
    queues: Vec<Queue>,
    lost: Arc<OnceLock<String>>,
    /// Kept to end the connection at reset.
    stream: UnixStream,
}

/// Connects to the broker's socket at `path` and brings up the queues, with `lanes` lanes or as many as there are.
/// When the broker goes away later, `stop` is told.
pub fn connect(path: &Path, lanes: Option<u16>, stop: Sender<Stop>) -> Result<Arc<dyn Carrier>, LocalError> {
    let stream = open(path)?;
    let failed = |source| LocalError::Connect { path: path.into(), source };
    let clone = stream.try_clone().map_err(failed)?;
    let deadline = Arc::new(Deadline::new(&stream, PATIENCE).map_err(failed)?);
    let mut handshake =
        Handshake { frontend: Frontend::from_stream(clone, 2), deadline: deadline.clone(), path };
    let armed = deadline.arm();
    let (queues, slots) = handshake.negotiate()?;
    let wanted = lanes.unwrap_or(DEFAULT_LANES_LOCAL);
    // Slots: one for the control page, one per lane, and at least one for a client.
    let room = queues.saturating_sub(u64::from(FIRST_LANE)).min(slots.saturating_sub(2));
    let lanes = u16::try_from(room).unwrap_or(u16::MAX).min(wanted);
    if lanes == 0 {
        return Err(LocalError::TooSmall(queues, slots));
    }
    if lanes < wanted {
        tracing::info!("the broker has room for {lanes} lanes, {wanted} were wanted");
    }
    let queues = create_queues(lanes).map_err(LocalError::Memory)?;
    handshake.share_memory(&queues)?;
    handshake.start_queues(&queues)?;
    drop(armed);
    let lost = Arc::new(OnceLock::new());
    watch(&stream, &queues, lost.clone(), stop).map_err(failed)?;
    let regions = Regions {
        frontend: Mutex::new(FrontendBox(handshake.frontend)),
        deadline,
        arena_len: arena_len(),
        limit: usize::try_from(slots - 1 - u64::from(lanes)).unwrap_or(usize::MAX),
        arenas: Mutex::default(),
    };
    Ok(Arc::new(Local { path: path.into(), regions: Arc::new(regions), queues, lost, stream }))
}

fn open(path: &Path) -> Result<UnixStream, LocalError> {
    UnixStream::connect(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => LocalError::Missing { path: path.into() },
        io::ErrorKind::ConnectionRefused => LocalError::Refused { path: path.into() },
        _ => LocalError::Connect { path: path.into(), source },
    })
}

struct Handshake<'a> {
    frontend: Frontend,
    deadline: Arc<Deadline>,
    path: &'a Path,
}

impl Handshake<'_> {
    fn failed(&self, what: &'static str) -> impl Fn(vhost::Error) -> LocalError + use<> {
        let (path, deadline) = (self.path.to_path_buf(), self.deadline.clone());
        move |source| {
            let path = path.clone();
            if deadline.fired() {
                LocalError::Busy { what, path }
            } else {
                LocalError::Protocol { what, path, source }
            }
        }
    }

    /// Features and protocol features; returns the broker's queues and memory slots.
    fn negotiate(&mut self) -> Result<(u64, u64), LocalError> {
        let failed = self.failed("negotiating features");
        self.frontend.set_owner().map_err(&failed)?;
        let offered = self.frontend.get_features().map_err(&failed)?;
        let features = EVENT_IDX | VERSION_1 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        if offered & features != features {
            return Err(LocalError::Feature {
                feature: "VERSION_1, EVENT_IDX or PROTOCOL_FEATURES",
                path: self.path.into(),
            });
        }
        let wanted = Protocol::MQ | Protocol::REPLY_ACK | Protocol::CONFIGURE_MEM_SLOTS;
        let offered = self.frontend.get_protocol_features().map_err(&failed)?;
        if !offered.contains(wanted) {
            return Err(LocalError::Feature {
                feature: "MQ, REPLY_ACK or CONFIGURE_MEM_SLOTS",
                path: self.path.into(),
            });
        }
        self.frontend.set_protocol_features(wanted).map_err(&failed)?;
        self.frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        let queues = self.frontend.get_queue_num().map_err(&failed)?;
        let slots = self.frontend.get_max_mem_slots().map_err(&failed)?;
        self.frontend.set_features(features).map_err(&failed)?;
        Ok((queues, slots))
    }

    fn share_memory(&mut self, queues: &[Queue]) -> Result<(), LocalError> {
        let failed = self.failed("sharing queue memory");
        let info = |queue: &Queue| {
            let page = &queue.rings.page;
            region_info(Range { base: page.gpa, len: HUGE_PAGE }, page.file.as_raw_fd())
        };
        let (control, lanes) = queues.split_at(usize::from(FIRST_LANE));
        // Both of `control` lie in one page.
        let first = control.iter().map(info).take(1).collect::<Vec<_>>();
        self.frontend.set_mem_table(&first).map_err(&failed)?;
        for lane in lanes {
            self.frontend.add_mem_region(&info(lane)).map_err(&failed)?;
        }
        Ok(())
    }

    fn start_queues(&mut self, queues: &[Queue]) -> Result<(), LocalError> {
        let failed = self.failed("starting the queues");
        for (index, queue) in queues.iter().enumerate() {
            let size = queue.rings.layout.size;
            let [desc, avail, used] = queue.rings.addresses();
            let config = VringConfigData {
                queue_max_size: size,
                queue_size: size,
                flags: 0,
                desc_table_addr: desc,
                used_ring_addr: used,
                avail_ring_addr: avail,
                log_addr: None,
            };
            self.frontend.set_vring_num(index, size).map_err(&failed)?;
            self.frontend.set_vring_addr(index, &config).map_err(&failed)?;
            self.frontend.set_vring_base(index, 0).map_err(&failed)?;
            self.frontend.set_vring_call(index, &queue.completion).map_err(&failed)?;
            self.frontend.set_vring_kick(index, &queue.kick).map_err(&failed)?;
        }
        for index in 0..queues.len() {
            self.frontend.set_vring_enable(index, true).map_err(&failed)?;
        }
        Ok(())
    }
}

fn create_queues(lanes: u16) -> io::Result<Vec<Queue>> {
    let queue = |page: &Arc<Page>, base, size| {
        let layout = Layout::new(size).ok_or(io::ErrorKind::InvalidInput)?;
        let rings = Rings { page: page.clone(), base, layout };
        Ok::<_, io::Error>(Queue {
            rings,
            kick: EventFd::new(EFD_NONBLOCK)?,
            completion: EventFd::new(EFD_NONBLOCK)?,
        })
    };
    let control = Arc::new(Page::sparse("vgpu-control", PAGES)?);
    let mut queues = vec![queue(&control, 0, CONTROL_SIZE)?, queue(&control, EVENT_RINGS, CONTROL_SIZE)?];
    for lane in 0..u64::from(lanes) {
        let page = Arc::new(Page::sparse("vgpu-lane", PAGES + (lane + 1) * HUGE_PAGE)?);
        queues.push(queue(&page, 0, LANE_SIZE)?);
    }
    Ok(queues)
}

/// Twice the machine's memory, as pinned and pageable staging rarely exceed it, but at most [`ARENA_LIMIT`].
fn arena_len() -> u64 {
    let info = rustix::system::sysinfo();
    let ram = info.totalram.saturating_mul(u64::from(info.mem_unit));
    ram.saturating_mul(2).next_multiple_of(HUGE_PAGE).clamp(HUGE_PAGE, ARENA_LIMIT)
}

/// Starts a thread that notices the end of the connection and wakes whoever waits for the broker.
fn watch(
    stream: &UnixStream,
    queues: &[Queue],
    lost: Arc<OnceLock<String>>,
    stop: Sender<Stop>,
) -> io::Result<()> {
    let stream = stream.try_clone()?;
    let wake = queues[..usize::from(FIRST_LANE)]
        .iter()
        .map(|q| q.completion.try_clone())
        .collect::<Result<Vec<_>, _>>()?;
    let run = move || {
        let mut fds = [PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::RDHUP)];
        while matches!(rustix::event::poll(&mut fds, None), Err(rustix::io::Errno::INTR)) {}
        let why = "the broker closed its socket; start vgpu-backend again, then vgpu-agent".to_owned();
        let _ = lost.set(why.clone());
        for completion in wake {
            let _ = completion.write(1);
        }
        let _ = stop.send(Stop::Device(why));
    };
    std::thread::Builder::new().name("broker".into()).spawn(run)?;
    Ok(())
}

impl Carrier for Local {
    fn ownership(&self) -> String {
        format!("local mode at {}", self.path.display())
    }

    fn queues(&self) -> &[Queue] {
        &self.queues
    }

    fn event_idx(&self) -> bool {
        true
    }

    fn polling(&self) -> bool {
        false
    }

    fn pci_address(&self) -> PciAddress {
        PciAddress::default()
    }

    fn notify(&self, index: u16) {
        if let Some(Err(error)) = self.queues.get(usize::from(index)).map(|queue| queue.kick.write(1)) {
            tracing::debug!("kicking queue {index}: {error}");
        }
    }

    fn lost(&self) -> Option<String> {
        self.lost.get().cloned()
    }

    fn client_memory(&self) -> Result<Box<dyn ClientMemory>, MemoryError> {
        Ok(Box::new(Arena::new(self.regions.clone())?))
    }

    /// The broker takes the end of the connection as the end of the VM.
    fn reset(&self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}
