//! Events.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use super::graph::Capture;
use super::handle::{self, Kind};
use super::ipc::SharedEvent;
use super::shared_file::HANDLE;
use super::work::Point;
use super::{CudaError, Result};

/// `CU_EVENT_DISABLE_TIMING`.
const DISABLE_TIMING: u32 = 2;
/// `CU_EVENT_INTERPROCESS`.
const INTERPROCESS: u32 = 4;

/// When a record was reached; for an event of several processes, its number there.
#[derive(Debug, Default)]
pub struct Marker(OnceLock<Instant>, Option<(Arc<SharedEvent>, u64)>);

impl Marker {
    /// The record is reached now.
    pub fn set(&self) {
        let _ = self.0.set(Instant::now());
        if let Some((event, record)) = &self.1 {
            event.reach(*record);
        }
    }
}

/// A `CUevent`.
#[derive(Debug)]
pub struct Event {
    handle: u64,
    context: u64,
    flags: u32,
    record: Mutex<Option<Record>>,
    captured: Mutex<Option<Capture>>,
    shared: Option<Arc<SharedEvent>>,
    /// Another process has made it.
    foreign: bool,
}

#[derive(Clone, Debug)]
struct Record {
    point: Point,
    marker: Arc<Marker>,
}

impl Event {
    /// An event of the context with this handle. Unknown flags: `INVALID_VALUE`.
    pub fn new(context: u64, flags: u32) -> Result<Event> {
        if flags & !7 != 0 || (flags & INTERPROCESS != 0 && flags & DISABLE_TIMING == 0) {
            return Err(CudaError::InvalidValue);
        }
        let shared = flags & INTERPROCESS != 0;
        let shared = if shared { Some(Arc::new(SharedEvent::new()?)) } else { None };
        Ok(Event {
            handle: handle::new_handle(Kind::Event),
            context,
            flags,
            record: Mutex::default(),
            captured: Mutex::default(),
            shared,
            foreign: false,
        })
    }

    /// Another process's event.
    pub fn open(context: u64, handle: &[u8; HANDLE]) -> Result<Event> {
        Ok(Event {
            handle: handle::new_handle(Kind::Event),
            context,
            flags: DISABLE_TIMING | INTERPROCESS,
            record: Mutex::default(),
            captured: Mutex::default(),
            shared: Some(Arc::new(SharedEvent::open(handle)?)),
            foreign: true,
        })
    }

    /// Its handle for other processes: `INVALID_HANDLE` for one that is not for them, or is another's itself.
    pub fn export(&self) -> Result<[u8; HANDLE]> {
        self.shared.as_ref().filter(|_| !self.foreign).ok_or(CudaError::InvalidHandle)?.export()
    }

    /// What other processes see of it, if it is for them.
    pub fn shared(&self) -> Option<&Arc<SharedEvent>> {
        self.shared.as_ref()
    }

    /// For a record that is about to be made.
    pub fn marker(&self) -> Marker {
        let shared = self.shared.as_ref().map(|event| (Arc::clone(event), event.record()));
        Marker(OnceLock::new(), shared)
    }

    /// The `CUevent`.
    pub fn handle(&self) -> u64 {
        self.handle
    }

    /// The handle of its context.
    pub fn context(&self) -> u64 {
        self.context
    }

    /// The event stands for the record at `point` from now on.
    pub fn set_record(&self, point: Point, marker: Arc<Marker>) {
        *self.record.lock().unwrap_or_else(PoisonError::into_inner) = Some(Record { point, marker });
    }

    /// The event stands for a place in a capture, or no longer.
    pub fn set_captured(&self, capture: Option<Capture>) {
        *self.captured.lock().unwrap_or_else(PoisonError::into_inner) = capture;
    }

    /// The place in a capture that it was last recorded at.
    pub fn captured(&self) -> Option<Capture> {
        self.captured.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The place of the last record; none if it was never recorded.
    pub fn point(&self) -> Option<Point> {
        self.current().map(|record| record.point)
    }

    /// Milliseconds from `self` to `end`: `INVALID_HANDLE` if one was not recorded or has no time, `NOT_READY` if
    /// one is not reached.
    pub fn milliseconds_to(&self, end: &Event) -> Result<f32> {
        let (from, to) = (self.time()?, end.time()?);
        let seconds = match to.checked_duration_since(from) {
            Some(duration) => duration.as_secs_f64(),
            None => -from.duration_since(to).as_secs_f64(),
        };
        Ok((seconds * 1e3) as f32)
    }

    /// Whether its records have a time.
    pub fn has_time(&self) -> bool {
        self.flags & DISABLE_TIMING == 0
    }

    fn time(&self) -> Result<Instant> {
        if self.flags & DISABLE_TIMING != 0 {
            return Err(CudaError::InvalidHandle);
        }
        let record = self.current().ok_or(CudaError::InvalidHandle)?;
        record.marker.0.get().copied().ok_or(CudaError::NotReady)
    }

    fn current(&self) -> Option<Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
