//! Memory that graphs allocate.
#![allow(non_snake_case)]

use super::{
    dispatch::cut,
    error::{CudaError, INVALID_VALUE, NOT_SUPPORTED, check},
    graph::dependencies,
    thread::Thread,
};
use std::ffi::c_void;
use vgpu_spec::plain::{Blob4, Blob8, bytes_of};

/// CU_MEM_ALLOCATION_TYPE_PINNED and CU_MEM_LOCATION_TYPE_DEVICE.
const PINNED: u32 = 1;
const DEVICE: u32 = 1;
/// Access descriptions that are looked at; a host has fewer devices.
const MAX_ACCESS: usize = 64;

/// CUmemPoolProps, and CUmemAccessDesc.
type Properties = Blob8<88>;
type Access = Blob4<12>;

/// CUgraphMem_attribute: 0 to 3, each a u64.
fn known(attribute: u32) -> Result<(), CudaError> {
    if attribute <= 3 { Ok(()) } else { Err(INVALID_VALUE) }
}

pub fn vgpuGraphMemGetAttribute(t: &mut Thread, device: i32, attribute: u32) -> Result<u64, CudaError> {
    known(attribute)?;
    let get = t.driver.cuDeviceGetGraphMemAttribute.ok_or(NOT_SUPPORTED)?;
    let mut value = 0_u64;
    // SAFETY: a place for the attribute's type that outlives the call.
    check(unsafe { get(device, attribute, (&raw mut value).cast::<c_void>()) })?;
    Ok(value)
}

pub fn vgpuGraphMemSetAttribute(
    t: &mut Thread,
    device: i32,
    attribute: u32,
    mut value: u64,
) -> Result<(), CudaError> {
    known(attribute)?;
    let set = t.driver.cuDeviceSetGraphMemAttribute.ok_or(NOT_SUPPORTED)?;
    // SAFETY: a value of the attribute's type that outlives the call.
    check(unsafe { set(device, attribute, (&raw mut value).cast::<c_void>()) })
}

/// CUDA_MEM_ALLOC_NODE_PARAMS.
#[repr(C)]
struct AllocNode {
    properties: Properties,
    access: *const Access,
    access_count: usize,
    bytes: usize,
    address: u64,
}

/// Only memory of devices, which is not shared; nothing in it points anywhere.
fn check_properties(properties: &Properties) -> Result<(), CudaError> {
    let word =
        |at: usize| properties.0.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let pointer = u64::from(word(16)) | u64::from(word(20)) << 32;
    if pointer != 0 {
        return Err(INVALID_VALUE);
    }
    let on_host = word(8) > DEVICE;
    if (word(0) == PINNED && on_host) || word(4) != 0 { Err(NOT_SUPPORTED) } else { Ok(()) }
}

#[allow(clippy::too_many_arguments)] // the message's parameters
pub fn vgpuGraphAddMemAllocNode(
    t: &mut Thread,
    graph: u64,
    after: Option<Vec<u64>>,
    n: usize,
    properties: Option<Vec<Properties>>,
    access: Option<Vec<Access>>,
    count: usize,
    bytes: usize,
) -> Result<(u64, u64), CudaError> {
    const { assert!(size_of::<AllocNode>() == 120) };
    let add = t.driver.cuGraphAddMemAllocNode.ok_or(NOT_SUPPORTED)?;
    let properties = properties.and_then(|p| p.first().copied()).ok_or(INVALID_VALUE)?;
    check_properties(&properties)?;
    let access = access.unwrap_or_default();
    if access.len() != count || count > MAX_ACCESS {
        return Err(INVALID_VALUE);
    }
    let device = u32::from_le_bytes([properties.0[12], properties.0[13], properties.0[14], properties.0[15]]);
    if bytes as u64 > t.most(device) {
        return Err(t.at_limit());
    }
    t.session.quota.watch_graphs(device);
    let (after, n) = dependencies(after.as_ref(), n)?;
    let list = if access.is_empty() { std::ptr::null() } else { access.as_ptr() };
    let mut wanted = AllocNode { properties, access: list, access_count: count, bytes, address: 0 };
    let mut node = 0_u64;
    // SAFETY: live handles of this client; parameters and their array outlive the call, which copies them.
    check(unsafe { add(&raw mut node, graph, after, n, (&raw mut wanted).cast()) })?;
    Ok((t.number_graphnode(node, graph)?, wanted.address))
}

/// Properties, access, its count, bytes, address.
type Found = (Properties, Vec<Access>, usize, usize, u64);

pub fn vgpuGraphMemAllocNodeGetParams(
    t: &mut Thread,
    node: u64,
    room: usize,
    _: usize,
) -> Result<Found, CudaError> {
    let get = t.driver.cuGraphMemAllocNodeGetParams.ok_or(NOT_SUPPORTED)?;
    let mut found = AllocNode {
        properties: Blob8::default(),
        access: std::ptr::null(),
        access_count: 0,
        bytes: 0,
        address: 0,
    };
    // SAFETY: a live node, and a place that outlives the call.
    check(unsafe { get(node, (&raw mut found).cast()) })?;
    let count = found.access_count.min(MAX_ACCESS);
    let access = if found.access.is_null() {
        Vec::new()
    } else {
        // SAFETY: the driver's own array of so many, valid until the node ends.
        unsafe { std::slice::from_raw_parts(found.access, count) }.to_vec()
    };
    let kept = cut(bytes_of(&access).to_vec(), room.saturating_mul(size_of::<Access>()));
    let access: Vec<Access> = vgpu_spec::plain::values(&kept).unwrap_or_default();
    found.properties.0[16..24].fill(0);
    Ok((found.properties, access, count, found.bytes, found.address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_the_host_and_pointers_are_refused() {
        let with = |at: usize, value: u8| {
            let mut bytes = [0; 88];
            (bytes[0], bytes[8]) = (1, 1);
            bytes[at] = value;
            check_properties(&Blob8(bytes))
        };
        assert_eq!(with(0, 1), Ok(()));
        assert_eq!(with(8, 2), Err(NOT_SUPPORTED));
        assert_eq!(with(4, 1), Err(NOT_SUPPORTED), "a handle that other processes could have");
        assert_eq!(with(23, 1), Err(INVALID_VALUE), "security attributes");
    }
}
