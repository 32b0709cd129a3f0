//! What a stream does, one after another.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::device::Device;
use super::event::Marker;
use super::launch::LaunchWork;
use super::output::Output;
use super::stream::Stream;
use super::{CudaError, Result};

/// What a context and all its streams share.
#[derive(Debug)]
pub struct Core {
    /// The context's device.
    pub device: Arc<Device>,
    /// What kernels have printed and nobody has seen.
    pub output: Output,
    fault: AtomicU32,
}

impl Core {
    /// A context's core without a fault.
    pub fn new(device: Arc<Device>) -> Core {
        Core { device, output: Output::default(), fault: AtomicU32::new(0) }
    }

    /// Remembers the first fault: from now on every call on the context answers it.
    pub fn set_fault(&self, error: CudaError) {
        let _ = self.fault.compare_exchange(0, error.code(), Ordering::AcqRel, Ordering::Acquire);
        self.device.set_fault(error);
    }

    /// The `CUresult` of the first fault; 0 if there was none.
    pub fn fault_code(&self) -> u32 {
        self.fault.load(Ordering::Acquire)
    }

    /// The first fault, as an error.
    pub fn check(&self) -> Result {
        match self.fault_code() {
            0 => Ok(()),
            code => Err(CudaError::from_code(code)),
        }
    }
}

/// A task that a stream's turn runs.
pub type Task = Box<dyn FnOnce(&Core) + Send>;

/// One piece of work.
pub enum Work {
    /// A kernel.
    Launch(Box<LaunchWork>),
    /// A copy, a memset or a host function; not run after a fault.
    Task(Task),
    /// A stream callback, which is told of a fault.
    Callback(Box<dyn FnOnce(u32) + Send>),
    /// An event's record.
    Marker(Arc<Marker>),
    /// Only waits for what it comes after.
    Wait,
}

impl fmt::Debug for Work {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Work::Launch(_) => "Launch",
            Work::Task(_) => "Task",
            Work::Callback(_) => "Callback",
            Work::Marker(_) => "Marker",
            Work::Wait => "Wait",
        })
    }
}

impl Work {
    /// Does the work.
    pub fn run(self, core: &Core) {
        match self {
            Work::Launch(launch) if core.fault_code() == 0 => launch.run(core),
            Work::Task(task) if core.fault_code() == 0 => task(core),
            Work::Launch(_) | Work::Task(_) | Work::Wait => {}
            Work::Callback(callback) => callback(core.fault_code()),
            Work::Marker(marker) => marker.set(),
        }
    }

    /// Whether a calling thread may do it on the way, without anybody noticing the time.
    pub fn is_instant(&self) -> bool {
        matches!(self, Work::Marker(_) | Work::Wait)
    }
}

/// A place in a stream's order.
#[derive(Clone, Debug)]
pub struct Point {
    stream: Arc<Stream>,
    number: u64,
}

impl Point {
    /// The place of the stream's work `number`.
    pub fn new(stream: Arc<Stream>, number: u64) -> Point {
        Point { stream, number }
    }

    /// Whether that work and all before it is done.
    pub fn is_reached(&self) -> bool {
        self.stream.completed() >= self.number
    }

    /// Waits for it.
    pub fn wait(&self) {
        self.stream.wait_for(self.number);
    }
}

/// The numbers of contexts and streams, unique in the process (`cuCtxGetId`, `cuStreamGetId`).
pub fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
