//! Green contexts: contexts that use only a part of a device.
//!
//! A program knows a green context by its context, as in the driver: cuCtxFromGreenCtx gives back what it is given. The worker's name
//! for it is another handle, which the context's words lead to (context.rs); its own first word is the primary context.

use crate::{call, call::put, calls, context, device, error, handles, primary_context, stream};
use vgpu_spec::{handle::Kind, plain::Blob4, result::CudaError};

/// CU_GREEN_CTX_DEFAULT_STREAM, the only flag, which must be given.
const DEFAULT_STREAM: u32 = 1;
/// CU_STREAM_NON_BLOCKING, which must be given.
const NON_BLOCKING: u32 = 1;
/// The most groups of a split: no device has as many SMs.
const MOST_GROUPS: u32 = 512;

type Resource = Blob4<144>;

/// What a program has for the green context that `context` is of; NULL for an ordinary context.
pub fn shown(context: u64) -> u64 {
    if context::is_green(context) { context } else { 0 }
}

/// The primary context whose memory and modules an ordinary or green context uses: itself, for an ordinary one.
pub fn owner(context: u64) -> u64 {
    let words = context::green(context).and_then(|green| handles::words(Kind::GreenContext, green).ok());
    words.map_or(context, |w| w.0)
}

/// # Safety
/// The pointers are the program's, as the driver API documents them.
pub unsafe fn cuDevSmResourceSplitByCount(
    result: *mut Resource,
    nbGroups: *mut u32,
    input: *const Resource,
    remaining: *mut Resource,
    useFlags: u32,
    minCount: u32,
) -> error::Result {
    // SAFETY: the program's pointers, or NULL.
    let (count, input) = unsafe { (nbGroups.as_mut(), input.as_ref()) };
    let (Some(count), Some(&input)) = (count, input) else { return Err(error::INVALID_VALUE) };
    let room = (*count).min(MOST_GROUPS);
    if room == 0 && !result.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let mut groups = vec![Blob4([0; 144]); if result.is_null() { 0 } else { room as usize }];
    let (mut made, mut rest) = (0, Blob4([0; 144]));
    let places = if result.is_null() { None } else { Some(&mut groups[..]) };
    calls::vgpuSmResourceSplit(&mut made, places, room, &mut rest, &[input], useFlags, minCount)?;
    for (i, group) in groups.into_iter().take(made as usize).enumerate() {
        // SAFETY: the program's array of at least `room` elements.
        unsafe { result.add(i).write(group) };
    }
    // SAFETY: the program's pointer, which may be NULL.
    if let Some(place) = unsafe { remaining.as_mut() }.filter(|_| !result.is_null()) {
        *place = rest;
    }
    *count = made;
    Ok(())
}

pub unsafe fn cuDevResourceGenerateDesc(
    phDesc: *mut u64,
    resources: *const Resource,
    nbResources: u32,
) -> error::Result {
    // SAFETY: the program's array.
    let list = unsafe { call::slice(resources, nbResources as usize) };
    if nbResources > MOST_GROUPS {
        return Err(CudaError::InvalidResourceType as u32);
    }
    let list = list.filter(|l| !l.is_empty() && !phDesc.is_null());
    let list = list.ok_or(error::INVALID_VALUE)?;
    let description = handles::create(Kind::ResourceDescription)?;
    if let Err(status) = calls::vgpuResourceDescription(description, list, nbResources) {
        handles::remove(description);
        return Err(status);
    }
    // SAFETY: checked above; the program's pointer.
    unsafe { put(phDesc, description) }
}

/// Retains the device's primary context until the green one is destroyed.
pub unsafe fn cuGreenCtxCreate(phCtx: *mut u64, desc: u64, dev: i32, flags: u32) -> error::Result {
    let host = device::host_ordinal(dev)?;
    if phCtx.is_null() || flags != DEFAULT_STREAM {
        return Err(error::INVALID_VALUE);
    }
    // Without a description the context has the whole device (measured).
    if desc != 0 {
        handles::check_resourcedescription(desc).map_err(|e| {
            if handles::is(Kind::ResourceDescription, desc) { e } else { error::INVALID_DEVICE }
        })?;
    }
    let primary = primary_context::retain(dev)?;
    let created = create(primary, desc, dev, host, flags).inspect_err(|_| {
        let _ = primary_context::release(dev);
    })?;
    // SAFETY: checked above; the program's pointer.
    unsafe { put(phCtx, created) }
}

/// What a program gets for a new green context.
fn create(primary: u64, description: u64, device: i32, host: i32, flags: u32) -> error::Result<u64> {
    let green = handles::create_with(Kind::GreenContext, primary, 0)?;
    let context = context::new_green(device, green).inspect_err(|_| handles::remove(green))?;
    if let Err(status) = calls::vgpuGreenContextCreate(green, context, description, host, flags) {
        handles::remove(context);
        handles::remove(green);
        return Err(status);
    }
    Ok(context)
}

pub unsafe fn cuGreenCtxDestroy(hCtx: u64) -> error::Result {
    let Green { green, context } = find(hCtx)?;
    let device = context::device_of(context)?;
    let result = calls::vgpuGreenContextDestroy(green, context);
    context::leave(context);
    stream::end_of_context(context);
    handles::remove(context);
    handles::remove(green);
    result.and(primary_context::release(device))
}

/// A live green context.
struct Green {
    /// The worker's name for it.
    green: u64,
    context: u64,
}

/// The green context that a program means.
fn find(context: u64) -> error::Result<Green> {
    handles::check_context(context)?;
    let green = context::green(context).ok_or(error::CONTEXT_IS_DESTROYED)?;
    Ok(Green { green, context })
}

pub unsafe fn cuCtxFromGreenCtx(pContext: *mut u64, hCtx: u64) -> error::Result {
    if pContext.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let Green { context, .. } = find(hCtx)?;
    // SAFETY: checked above; the program's pointer.
    unsafe { put(pContext, context) }
}

pub unsafe fn cuGreenCtxGetDevResource(hCtx: u64, resource: *mut Resource, type_: u32) -> error::Result {
    let Green { green, .. } = find(hCtx)?;
    // SAFETY: the program's pointer, or NULL.
    let place = unsafe { resource.as_mut() }.ok_or(error::INVALID_VALUE)?;
    calls::cuGreenCtxGetDevResource(green, place, type_)
}

pub unsafe fn cuGreenCtxGetId(greenCtx: u64, greenCtxId: *mut u64) -> error::Result {
    let Green { context, .. } = find(greenCtx)?;
    // SAFETY: the program's pointer.
    unsafe { put(greenCtxId, context::id_of(context)?) }
}

pub unsafe fn cuGreenCtxStreamCreate(
    phStream: *mut u64,
    greenCtx: u64,
    flags: u32,
    priority: i32,
) -> error::Result {
    if phStream.is_null() || flags != NON_BLOCKING {
        return Err(error::INVALID_VALUE);
    }
    let Green { green, context } = find(greenCtx)?;
    let priority = stream::clamp(context::device_of(context)?, priority)?;
    stream::create_in(context, phStream, flags, priority, |stream| {
        calls::cuGreenCtxStreamCreate(stream, green, flags, priority)
    })
}

pub unsafe fn cuStreamGetGreenCtx(hStream: u64, phCtx: *mut u64) -> error::Result {
    let context = stream::context_of(hStream)?;
    // SAFETY: the program's pointer.
    unsafe { put(phCtx, shown(context)) }
}

/// Refuses an event of another context than `context` or its primary one.
fn same_context(context: u64, event: u64) -> error::Result {
    handles::check_event(event)?;
    let (_, of_event) = handles::words(Kind::Event, event)?;
    if owner(of_event) == owner(context) { Ok(()) } else { Err(error::INVALID_HANDLE) }
}

pub unsafe fn cuCtxRecordEvent(hCtx: u64, hEvent: u64) -> error::Result {
    handles::check_context(hCtx)?;
    same_context(hCtx, hEvent)?;
    calls::cuCtxRecordEvent(hCtx, hEvent)
}

pub unsafe fn cuCtxWaitEvent(hCtx: u64, hEvent: u64) -> error::Result {
    handles::check_context(hCtx)?;
    handles::check_event(hEvent)?;
    calls::cuCtxWaitEvent(hCtx, hEvent)
}

pub unsafe fn cuGreenCtxRecordEvent(hCtx: u64, hEvent: u64) -> error::Result {
    let Green { green, context } = find(hCtx)?;
    same_context(context, hEvent)?;
    calls::cuGreenCtxRecordEvent(green, hEvent)
}

pub unsafe fn cuGreenCtxWaitEvent(hCtx: u64, hEvent: u64) -> error::Result {
    let Green { green, .. } = find(hCtx)?;
    handles::check_event(hEvent)?;
    calls::cuGreenCtxWaitEvent(green, hEvent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_green_context_leads_to_its_primary_one_until_it_ends() {
        let primary = handles::create_with(Kind::Context, 0, u64::from(u32::MAX)).unwrap();
        let green = handles::create_with(Kind::GreenContext, primary, 0).unwrap();
        let context = context::new_green(0, green).unwrap();
        assert_eq!(
            (context::green(context), owner(context), shown(context)),
            (Some(green), primary, context)
        );
        assert_eq!(find(context).map(|found| found.green), Ok(green));
        assert_eq!((context::green(primary), owner(primary), shown(primary)), (None, primary, 0));
        assert_eq!(find(primary).map(|found| found.green), Err(error::CONTEXT_IS_DESTROYED));
        handles::remove(context);
        handles::remove(green);
        assert_eq!((context::is_green(context), owner(context)), (false, context));
    }
}
