//! Streams, and host functions in their order.

use std::ffi::c_void;
use std::sync::Arc;

use super::context::GREATEST_PRIORITY;
use super::green_context::green_of;
use super::{Out, put};
use crate::model::graph::{self, HostCall, Op};
use crate::model::special_stream::{self, is_special};
use crate::model::stream::{NON_BLOCKING, Order};
use crate::model::work::Work;
use crate::model::{CudaError, Result, current, state};

pub use crate::model::graph::HostFunction;
/// `CUstreamCallback`.
pub type Callback = unsafe extern "C" fn(u64, u32, *mut c_void);

/// What a program gives a host function: a number here, so that it can go to another thread.
struct UserData(*mut c_void);

// SAFETY: only the program's function looks behind the pointer, and CUDA says that another thread calls it.
unsafe impl Send for UserData {}

impl UserData {
    fn get(self) -> *mut c_void {
        self.0
    }
}

fn create(out: Out<'_, u64>, flags: u32, priority: i32) -> Result {
    let context = current::working_context()?;
    let out = out.ok_or(CudaError::InvalidValue)?;
    if flags & !NON_BLOCKING != 0 {
        return Err(CudaError::InvalidValue);
    }
    let order = if flags & NON_BLOCKING == 0 { Order::Blocking } else { Order::Independent };
    let stream = context.new_stream(order, priority.clamp(GREATEST_PRIORITY, 0));
    state()?.streams.insert(stream.handle(), Arc::clone(&stream));
    out.write(stream.handle());
    Ok(())
}

/// `CUstreamAttrValue`.
pub type AttributeValue = [u64; 8];

/// Attributes that a stream has: access policy window, synchronization policy, priority, memory synchronization domain map and domain.
/// Only the synchronization policy is kept, which changes nothing; the priority is the stream's.
fn check_attribute(attribute: u32) -> Result {
    if matches!(attribute, 1 | 3 | 8 | 9 | 10) { Ok(()) } else { Err(CudaError::InvalidValue) }
}

const SYNCHRONIZATION_POLICY: u32 = 3;
const PRIORITY: u32 = 8;

driver_api! {
    /// Makes a stream.
    fn cuStreamCreate(stream: Out<'_, u64>, flags: u32) {
        create(stream, flags, 0)
    }

    /// Makes a stream with a priority, which is kept within the range and changes nothing.
    fn cuStreamCreateWithPriority(stream: Out<'_, u64>, flags: u32, priority: i32) {
        create(stream, flags, priority)
    }

    /// Ends a stream; what it was given is still done.
    fn cuStreamDestroy_v2(stream: u64) {
        if is_special(stream) {
            return Err(CudaError::InvalidHandle);
        }
        let stream = state()?.streams.remove(stream)?;
        if let Ok(context) = state()?.contexts.get(stream.context()) {
            context.forget_stream(&stream);
        }
        Ok(())
    }
}

stream_api! {
    /// An attribute of a stream.
    fn cuStreamGetAttribute | cuStreamGetAttribute_ptsz(
        default; stream: u64, attribute: u32, value: Out<'_, AttributeValue>
    ) {
        let (_, stream) = special_stream::find(stream, default)?;
        check_attribute(attribute)?;
        let number = match attribute {
            SYNCHRONIZATION_POLICY => u64::from(stream.policy()),
            PRIORITY => u64::from(stream.priority().cast_unsigned()),
            _ => 0,
        };
        put(value, [number, 0, 0, 0, 0, 0, 0, 0])
    }

    /// Sets an attribute of a stream.
    fn cuStreamSetAttribute | cuStreamSetAttribute_ptsz(
        default; stream: u64, attribute: u32, value: Option<&AttributeValue>
    ) {
        let (_, stream) = special_stream::find(stream, default)?;
        check_attribute(attribute)?;
        let [first, ..] = value.ok_or(CudaError::InvalidValue)?;
        let policy = u32::try_from(first & 0xffff_ffff).unwrap_or(0);
        match attribute {
            SYNCHRONIZATION_POLICY if !(1..=4).contains(&policy) => return Err(CudaError::InvalidValue),
            SYNCHRONIZATION_POLICY => stream.set_policy(policy),
            _ => {}
        }
        Ok(())
    }

    /// Gives a stream another's attributes.
    fn cuStreamCopyAttributes | cuStreamCopyAttributes_ptsz(default; to: u64, from: u64) {
        let (_, to) = special_stream::find(to, default)?;
        to.set_policy(special_stream::find(from, default)?.1.policy());
        Ok(())
    }

    /// Whether all work is done: `NOT_READY` if not.
    fn cuStreamQuery | cuStreamQuery_ptsz(default; stream: u64) {
        let (context, stream) = special_stream::find(stream, default)?;
        graph::forbid(&stream)?;
        if !context.pending_in(&stream)?.is_empty() {
            return Err(CudaError::NotReady);
        }
        context.wait_for(&[])
    }

    /// Waits for all work.
    fn cuStreamSynchronize | cuStreamSynchronize_ptsz(default; stream: u64) {
        let (context, stream) = special_stream::find(stream, default)?;
        graph::forbid(&stream)?;
        context.wait_for(&context.pending_in(&stream)?)
    }

    /// Makes later work wait for an event's last record.
    fn cuStreamWaitEvent | cuStreamWaitEvent_ptsz(default; stream: u64, event: u64, flags: u32) {
        let (context, stream) = special_stream::find(stream, default)?;
        let event = state()?.events.get(event)?;
        match flags {
            0 => {}
            // CU_EVENT_WAIT_EXTERNAL is for captures only.
            1 => return Err(CudaError::IllegalState),
            _ => return Err(CudaError::InvalidValue),
        }
        if let Some(captured) = event.captured() {
            return graph::join(&stream, &captured);
        }
        if stream.captures() {
            return Err(CudaError::StreamCaptureIsolation);
        }
        if let Some(shared) = event.shared() {
            // What another process records later does not count.
            let (shared, last) = (Arc::clone(shared), shared.last());
            if shared.is_reached(last) {
                return Ok(());
            }
            let wait = Box::new(move |_: &_| shared.wait(last));
            return context.submit(&stream, Vec::new(), Work::Task(wait)).map(drop);
        }
        event.point().map_or(Ok(()), |point| context.submit(&stream, vec![point], Work::Wait).map(drop))
    }

    /// The flags that the stream was made with.
    fn cuStreamGetFlags | cuStreamGetFlags_ptsz(default; stream: u64, flags: Out<'_, u32>) {
        let (_, stream) = special_stream::find(stream, default)?;
        put(flags, if stream.order() == Order::Independent { NON_BLOCKING } else { 0 })
    }

    /// The priority that the stream was made with.
    fn cuStreamGetPriority | cuStreamGetPriority_ptsz(default; stream: u64, priority: Out<'_, i32>) {
        put(priority, special_stream::find(stream, default)?.1.priority())
    }

    /// The stream's number, unique in the process.
    fn cuStreamGetId | cuStreamGetId_ptsz(default; stream: u64, id: Out<'_, u64>) {
        put(id, special_stream::find(stream, default)?.1.id())
    }

    /// The stream's context.
    fn cuStreamGetCtx | cuStreamGetCtx_ptsz(default; stream: u64, context: Out<'_, u64>) {
        put(context, special_stream::find(stream, default)?.0.handle())
    }

    /// The stream's context, and its green context: then the primary context.
    fn cuStreamGetCtx_v2 | cuStreamGetCtx_v2_ptsz(
        default; stream: u64, context: Out<'_, u64>, green: Out<'_, u64>
    ) {
        let (of_stream, _) = special_stream::find(stream, default)?;
        put(context, of_stream.owner())?;
        put(green, green_of(&of_stream)?)
    }

    /// The stream's device.
    fn cuStreamGetDevice | cuStreamGetDevice_ptsz(default; stream: u64, device: Out<'_, i32>) {
        let (context, _) = special_stream::find(stream, default)?;
        put(device, i32::try_from(context.device().ordinal()).unwrap_or(0))
    }

    /// Calls a function of the program in stream order, if no kernel has failed before.
    fn cuLaunchHostFunc | cuLaunchHostFunc_ptsz(
        default; stream: u64, function: Option<HostFunction>, data: *mut c_void
    ) {
        let (context, stream) = special_stream::find(stream, default)?;
        let function = function.ok_or(CudaError::InvalidValue)?;
        graph::give(&context, &stream, Op::Host(HostCall::new(function, data)))
    }

    /// Calls a function of the program in stream order, with the error if a kernel has failed before.
    fn cuStreamAddCallback | cuStreamAddCallback_ptsz(
        default; stream: u64, callback: Option<Callback>, data: *mut c_void, flags: u32
    ) {
        let (context, found) = special_stream::find(stream, default)?;
        let callback = callback.ok_or(CudaError::InvalidValue)?;
        graph::forbid(&found)?;
        if flags != 0 {
            return Err(CudaError::InvalidValue);
        }
        let data = UserData(data);
        // SAFETY: the caller answers for the function and what it gives it.
        let call = Box::new(move |status| unsafe { callback(stream, status, data.get()) });
        context.submit(&found, Vec::new(), Work::Callback(call)).map(drop)
    }
}
