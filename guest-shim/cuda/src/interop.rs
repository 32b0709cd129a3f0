//! Resources of graphics APIs. None can be registered in a guest, so a program has no handle of one. The driver looks at the handle before
//! anything else (measured: also at a destroyed context and in a capture).

use crate::{call, error, handles};

/// Refuses what is no resource; that one be used cannot be.
fn of(resource: u64) -> error::Result {
    handles::check_graphicsresource(resource)?;
    Err(error::NOT_SUPPORTED)
}

/// # Safety
/// `resources` is NULL or points to `count` handles.
unsafe fn of_all(count: u32, resources: *mut u64) -> error::Result {
    // SAFETY: the caller's promise.
    let all = unsafe { call::slice(resources.cast_const(), count as usize) }.unwrap_or_default();
    let first = all.first().ok_or(error::INVALID_VALUE)?;
    of(*first)
}

pub unsafe fn cuGraphicsMapResources(count: u32, resources: *mut u64, _: u64) -> error::Result {
    // SAFETY: the program's pointer.
    unsafe { of_all(count, resources) }
}

pub unsafe fn cuGraphicsUnmapResources(count: u32, resources: *mut u64, _: u64) -> error::Result {
    // SAFETY: the program's pointer.
    unsafe { of_all(count, resources) }
}

pub unsafe fn cuGraphicsResourceGetMappedMipmappedArray(_: *mut u64, resource: u64) -> error::Result {
    of(resource)
}

pub unsafe fn cuGraphicsResourceGetMappedPointer(_: *mut u32, _: *mut u32, resource: u64) -> error::Result {
    of(resource)
}

pub unsafe fn cuGraphicsResourceGetMappedPointer_v2(
    _: *mut u64,
    _: *mut usize,
    resource: u64,
) -> error::Result {
    of(resource)
}

pub unsafe fn cuGraphicsResourceSetMapFlags(resource: u64, _: u32) -> error::Result {
    of(resource)
}

pub unsafe fn cuGraphicsResourceSetMapFlags_v2(resource: u64, _: u32) -> error::Result {
    of(resource)
}

pub unsafe fn cuGraphicsSubResourceGetMappedArray(
    _: *mut u64,
    resource: u64,
    _: u32,
    _: u32,
) -> error::Result {
    of(resource)
}

pub unsafe fn cuGraphicsUnregisterResource(resource: u64) -> error::Result {
    of(resource)
}
