//! Green contexts: parts of a device's multiprocessors. Which multiprocessor runs a block changes nothing here, so a part is a count.

use std::sync::Arc;

use super::{Out, array_at, put};
use crate::model::context::Context;
use crate::model::event::{Event, Marker};
use crate::model::green_context::{Description, GreenContext};
use crate::model::stream::Order;
use crate::model::work::Work;
use crate::model::{CudaError, Result, special_stream, state};

/// `CU_DEV_RESOURCE_TYPE_SM`.
const SM: u32 = 1;
/// `CU_GREEN_CTX_DEFAULT_STREAM`, which must be given.
const DEFAULT_STREAM: u32 = 1;
/// `CU_STREAM_NON_BLOCKING`, which must be given.
const NON_BLOCKING: u32 = 1;
/// The flags of a split that exclude each other: each multiprocessor by itself, and the largest clusters.
const SPLIT_FLAGS: u32 = 3;

/// `CUdevResource`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resource {
    /// `CUdevResourceType`.
    pub kind: u32,
    zero: u32,
    /// The device's ordinal, and 1.
    device: u32,
    /// Number of the split that it comes from; 0: the whole of something.
    split: u32,
    padding: [u32; 20],
    /// Multiprocessors.
    pub count: u32,
    /// The least that a part may have.
    pub least: u32,
    /// Parts have a multiple of these.
    pub alignment: u32,
    rest: [u32; 9],
}

impl Resource {
    fn new(device: u32, split: u32, count: u32) -> Resource {
        let kind = if count == 0 { 0 } else { SM };
        let least = u32::from(split == 0);
        Resource {
            kind,
            zero: 0,
            device: device + 1,
            split,
            padding: [0; 20],
            count,
            least,
            alignment: least,
            rest: [0; 9],
        }
    }

    /// The device, if this is a resource that can be used.
    fn device(&self) -> Result<u32> {
        if self.kind != SM {
            return Err(CudaError::InvalidResourceType);
        }
        self.device.checked_sub(1).ok_or(CudaError::InvalidResourceConfiguration)
    }
}

fn of_device(ordinal: u32, sms: u32, kind: u32) -> Result<Resource> {
    match kind {
        SM => Ok(Resource::new(ordinal, 0, sms)),
        _ => Err(CudaError::InvalidResourceType),
    }
}

fn of_context(context: &Context, kind: u32) -> Result<Resource> {
    let (ordinal, all) = (context.device().ordinal(), context.device().sm_count());
    of_device(ordinal, context.sm_limit().unwrap_or(all), kind)
}

fn green(handle: u64) -> Result<Arc<GreenContext>> {
    state()?.green_contexts.get(handle).map_err(|_| CudaError::InvalidContext)
}

fn context(handle: u64) -> Result<Arc<Context>> {
    state()?.contexts.get(handle).map_err(|_| CudaError::InvalidContext)
}

fn event_of(context: &Context, event: u64) -> Result<Arc<Event>> {
    let event = state()?.events.get(event)?;
    if event.context() == context.owner() { Ok(event) } else { Err(CudaError::InvalidHandle) }
}

/// Records all that the context, and for a primary one its green contexts, was given.
fn record(context: &Context, event: u64) -> Result {
    let event = event_of(context, event)?;
    let mut after = context.pending();
    for green in state()?.green_contexts.all() {
        if green.context().owner() == context.handle() {
            after.extend(green.context().pending());
        }
    }
    let marker = Arc::new(Marker::default());
    let stream = context.new_stream(Order::Independent, 0);
    let point = stream.push(after, Work::Marker(Arc::clone(&marker)))?;
    event.set_record(point, marker);
    context.forget_stream(&stream);
    Ok(())
}

fn wait(context: &Context, event: u64) -> Result {
    let event = state()?.events.get(event)?;
    event.point().map_or(Ok(()), |point| context.all_wait_for(&point))
}

driver_api! {
    /// A device's multiprocessors.
    fn cuDeviceGetDevResource(device: i32, resource: Out<'_, Resource>, kind: u32) {
        let device = state()?.device(device)?;
        put(resource, of_device(device.ordinal(), device.sm_count(), kind)?)
    }

    /// A context's multiprocessors.
    fn cuCtxGetDevResource(handle: u64, resource: Out<'_, Resource>, kind: u32) {
        put(resource, of_context(&*context(handle)?, kind)?)
    }

    /// A green context's multiprocessors.
    fn cuGreenCtxGetDevResource(handle: u64, resource: Out<'_, Resource>, kind: u32) {
        put(resource, of_context(green(handle)?.context(), kind)?)
    }

    /// Splits multiprocessors into groups of at least a count.
    fn cuDevSmResourceSplitByCount(
        result: *mut Resource, groups: Option<&mut u32>, input: Option<&Resource>, remaining: Out<'_, Resource>,
        flags: u32, least: u32
    ) {
        let state = state()?;
        let (groups, input) = groups.zip(input).ok_or(CudaError::InvalidValue)?;
        let device = input.device()?;
        if flags & SPLIT_FLAGS == SPLIT_FLAGS || (*groups == 0 && !result.is_null()) {
            return Err(CudaError::InvalidValue);
        }
        let size = least.max(1);
        // A part cannot be split again before it is a context's.
        if size > input.count || input.split != 0 {
            return Err(CudaError::InvalidResourceConfiguration);
        }
        let possible = input.count / size;
        if result.is_null() {
            *groups = possible;
            return Ok(());
        }
        let count = possible.min(*groups);
        let split = state.next_split();
        for index in 0..count {
            // SAFETY: the caller answers for as many as it asks for, which is at least `count`.
            unsafe { result.add(index as usize).write(Resource::new(device, split, size)) };
        }
        *groups = count;
        super::put_if_wanted(remaining, Resource::new(device, split, input.count - count * size));
        Ok(())
    }

    /// What a green context is to have.
    fn cuDevResourceGenerateDesc(description: Out<'_, u64>, resources: *const Resource, count: u32) {
        let state = state()?;
        let out = description.ok_or(CudaError::InvalidValue)?;
        // SAFETY: the caller answers for the array.
        let list = unsafe { array_at(resources, count as usize) }?;
        let first = list.first().ok_or(CudaError::InvalidValue)?;
        let device = first.device()?;
        for resource in list {
            resource.device()?;
            if resource.device != first.device {
                return Err(CudaError::InvalidResourceConfiguration);
            }
        }
        let sms = list.iter().map(|resource| resource.count).sum();
        let made = Arc::new(Description::new(device, sms));
        out.write(made.handle());
        state.descriptions.insert(made.handle(), made);
        Ok(())
    }

    /// Makes a green context, which holds its device's primary context.
    fn cuGreenCtxCreate(green: Out<'_, u64>, description: u64, device: i32, flags: u32) {
        let state = state()?;
        let ordinal = state.device(device)?.ordinal();
        let out = green.ok_or(CudaError::InvalidValue)?;
        // Without a description: the whole device.
        let sms = match description {
            0 => state.device(device)?.sm_count(),
            _ => {
                let described =
                    state.descriptions.get(description).map_err(|_| CudaError::InvalidValue)?;
                if described.device() != ordinal {
                    return Err(CudaError::InvalidValue);
                }
                described.sms()
            }
        };
        if flags != DEFAULT_STREAM {
            return Err(CudaError::InvalidValue);
        }
        let primary = super::primary_context::retain(device)?;
        let green = Arc::new(GreenContext::new(&primary, sms));
        state.contexts.insert(green.context().handle(), Arc::clone(green.context()));
        out.write(green.handle());
        state.green_contexts.insert(green.handle(), green);
        Ok(())
    }

    /// Ends a green context, once its work is done.
    fn cuGreenCtxDestroy(handle: u64) {
        let green = green(handle)?;
        let state = state()?;
        let _ = state.green_contexts.remove(handle);
        let context = green.context();
        let _ = context.synchronize();
        let _ = state.contexts.remove(context.handle());
        special_stream::forget(context.id());
        super::primary_context::release(i32::try_from(context.device().ordinal()).unwrap_or(i32::MAX))
    }

    /// The context that uses a green context's multiprocessors.
    fn cuCtxFromGreenCtx(context: Out<'_, u64>, handle: u64) {
        let out = context.ok_or(CudaError::InvalidValue)?;
        out.write(green(handle)?.context().handle());
        Ok(())
    }

    /// A green context's number, unique in the process.
    fn cuGreenCtxGetId(handle: u64, id: Out<'_, u64>) {
        put(id, green(handle)?.context().id())
    }

    /// A stream that uses a green context's multiprocessors.
    fn cuGreenCtxStreamCreate(stream: Out<'_, u64>, handle: u64, flags: u32, priority: i32) {
        let out = stream.ok_or(CudaError::InvalidValue)?;
        let green = green(handle)?;
        if flags != NON_BLOCKING {
            return Err(CudaError::InvalidValue);
        }
        let priority = priority.clamp(super::context::GREATEST_PRIORITY, 0);
        let stream = green.context().new_stream(Order::Independent, priority);
        out.write(stream.handle());
        state()?.streams.insert(stream.handle(), stream);
        Ok(())
    }

    /// The green context of a stream; NULL if it has none.
    fn cuStreamGetGreenCtx(stream: u64, handle: Out<'_, u64>) {
        let (context, _) = special_stream::find(stream, special_stream::DefaultStream::Legacy)?;
        put(handle, green_of(&context)?)
    }

    /// Records all that a green context was given.
    fn cuGreenCtxRecordEvent(handle: u64, event: u64) {
        record(green(handle)?.context(), event)
    }

    /// Has all further work of a green context wait for an event.
    fn cuGreenCtxWaitEvent(handle: u64, event: u64) {
        wait(green(handle)?.context(), event)
    }

    /// Records all that a context was given.
    fn cuCtxRecordEvent(handle: u64, event: u64) {
        record(&*context(handle)?, event)
    }

    /// Has all further work of a context wait for an event.
    fn cuCtxWaitEvent(handle: u64, event: u64) {
        wait(&*context(handle)?, event)
    }
}

/// The handle of the green context that a context is of; 0 for an ordinary one.
pub fn green_of(context: &Context) -> Result<u64> {
    let all = state()?.green_contexts.all();
    let found = all.iter().find(|green| green.context().handle() == context.handle());
    Ok(found.map_or(0, |green| green.handle()))
}
