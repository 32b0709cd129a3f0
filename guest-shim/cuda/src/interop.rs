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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_handle_is_a_resource() {
        let mut resources = [0x1234_u64, 0];
        // SAFETY: places of this function, as many as is said.
        unsafe {
            assert_eq!(of_all(2, resources.as_mut_ptr()), Err(error::INVALID_HANDLE));
            assert_eq!(of_all(0, resources.as_mut_ptr()), Err(error::INVALID_VALUE));
            assert_eq!(of_all(1, std::ptr::null_mut()), Err(error::INVALID_VALUE));
        }
        assert_eq!(of(0), Err(error::INVALID_HANDLE));
    }
}
