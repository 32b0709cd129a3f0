//! Events.

use std::sync::Arc;

use super::{Out, put};
use crate::model::event::Event;
use crate::model::graph::forbid_unsafe;
use crate::model::special_stream::{self, DefaultStream};
use crate::model::work::{Point, Work};
use crate::model::{CudaError, Result, current, state};

/// Records an event in a stream of the same context.
pub fn record(default: DefaultStream, event: u64, stream: u64) -> Result {
    let (context, stream) = special_stream::find(stream, default)?;
    let event = state()?.events.get(event)?;
    if event.context() != context.owner() {
        return Err(CudaError::InvalidHandle);
    }
    if let Some(capture) = stream.capture() {
        event.set_captured(Some(capture));
        return Ok(());
    }
    event.set_captured(None);
    let marker = Arc::new(event.marker());
    let point = context.submit(&stream, Vec::new(), Work::Marker(Arc::clone(&marker)))?;
    event.set_record(point, marker);
    Ok(())
}

/// The fault of the event's context, if it has had one.
fn check_context(event: &Event) -> Result {
    match state()?.contexts.get(event.context()) {
        Ok(context) => context.core().check(),
        Err(_) => Err(CudaError::ContextIsDestroyed),
    }
}

fn elapsed(milliseconds: Out<'_, f32>, start: u64, end: u64) -> Result {
    let events = &state()?.events;
    let (start, end) = (events.get(start)?, events.get(end)?);
    check_context(&start)?;
    if start.context() != end.context() {
        return Err(CudaError::InvalidHandle);
    }
    put(milliseconds, start.milliseconds_to(&end)?)
}

driver_api! {
    /// Makes an event.
    fn cuEventCreate(event: Out<'_, u64>, flags: u32) {
        let context = current::working_context()?;
        let out = event.ok_or(CudaError::InvalidValue)?;
        let event = Event::new(context.owner(), flags)?;
        let handle = event.handle();
        state()?.events.insert(handle, Arc::new(event));
        out.write(handle);
        Ok(())
    }

    /// Ends an event; who waits for it goes on waiting for its record.
    fn cuEventDestroy_v2(event: u64) {
        let events = &state()?.events;
        check_context(&*events.get(event)?)?;
        events.remove(event).map(drop)
    }

    /// Whether the last record is reached: `NOT_READY` if not.
    fn cuEventQuery(event: u64) {
        forbid_unsafe()?;
        let event = state()?.events.get(event)?;
        check_context(&event)?;
        let reached = match event.shared() {
            Some(shared) => shared.is_reached(shared.last()),
            None => event.point().is_none_or(|point| point.is_reached()),
        };
        if !reached {
            return Err(CudaError::NotReady);
        }
        Ok(())
    }

    /// Waits for the last record.
    fn cuEventSynchronize(event: u64) {
        forbid_unsafe()?;
        let event = state()?.events.get(event)?;
        let context = state()?.contexts.get(event.context()).map_err(|_| CudaError::ContextIsDestroyed)?;
        if let Some(shared) = event.shared() {
            shared.wait(shared.last());
            return context.core().check();
        }
        let points: Vec<Point> = event.point().into_iter().collect();
        context.wait_for(&points)
    }

    /// Milliseconds between two records.
    fn cuEventElapsedTime_v2(milliseconds: Out<'_, f32>, start: u64, end: u64) {
        elapsed(milliseconds, start, end)
    }

    /// Milliseconds between two records.
    fn cuEventElapsedTime(milliseconds: Out<'_, f32>, start: u64, end: u64) {
        elapsed(milliseconds, start, end)
    }
}

stream_api! {
    /// Records an event in a stream of the same context.
    fn cuEventRecord | cuEventRecord_ptsz(default; event: u64, stream: u64) {
        record(default, event, stream)
    }

    /// Records an event. `CU_EVENT_RECORD_EXTERNAL` is for captures only.
    fn cuEventRecordWithFlags | cuEventRecordWithFlags_ptsz(default; event: u64, stream: u64, flags: u32) {
        match flags {
            0 => record(default, event, stream),
            1 => Err(CudaError::IllegalState),
            _ => Err(CudaError::InvalidValue),
        }
    }
}
