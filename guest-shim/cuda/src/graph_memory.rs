//! Memory that graphs allocate, and what a device has of it.

use crate::{
    call::{self, put},
    calls, device, error, graph_node, handles, location,
    memory::{self, Origin},
};
use std::{cell::RefCell, ffi::c_void};
use vgpu_spec::plain::{Blob4, Blob8};

/// CUmemPoolProps and CUmemAccessDesc.
type Properties = Blob8<88>;
type Access = Blob4<12>;

/// Where CUmemPoolProps has its location.
const LOCATION: usize = 8;
/// Access descriptions that are asked for: no machine has more devices.
const MOST_ACCESS: usize = 64;

pub unsafe fn cuDeviceGetGraphMemAttribute(device: i32, attr: u32, value: *mut c_void) -> error::Result {
    let device = device::host_ordinal(device)?;
    if value.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let mut result = 0;
    calls::vgpuGraphMemGetAttribute(&mut result, device, attr)?;
    // SAFETY: the program's place: each attribute is a cuuint64_t.
    unsafe { value.cast::<u64>().write_unaligned(result) };
    Ok(())
}

pub unsafe fn cuDeviceSetGraphMemAttribute(device: i32, attr: u32, value: *mut c_void) -> error::Result {
    let device = device::host_ordinal(device)?;
    if value.is_null() {
        return Err(error::INVALID_VALUE);
    }
    // SAFETY: the program's value: each attribute is a cuuint64_t.
    let value = unsafe { value.cast::<u64>().read_unaligned() };
    calls::vgpuGraphMemSetAttribute(device, attr, value)
}

/// CUDA_MEM_ALLOC_NODE_PARAMS.
#[repr(C)]
#[derive(Clone, Copy)]
struct AllocNode {
    properties: Properties,
    access: *const Access,
    access_count: usize,
    bytes: usize,
    address: u64,
}
const _: () = assert!(size_of::<AllocNode>() == 120);

/// The node's memory is known from now on; its address is the same at each launch.
pub unsafe fn cuGraphAddMemAllocNode(
    phGraphNode: *mut u64,
    hGraph: u64,
    dependencies: *const u64,
    numDependencies: usize,
    nodeParams: *mut Blob8<120>,
) -> error::Result {
    handles::check_graph(hGraph)?;
    // SAFETY: the program's pointers; same size and alignment.
    let (after, wanted) =
        unsafe { (call::slice(dependencies, numDependencies), nodeParams.cast::<AllocNode>().as_mut()) };
    after.into_iter().flatten().try_for_each(|&n| handles::check_graphnode(n))?;
    let wanted = wanted.filter(|_| !phGraphNode.is_null()).ok_or(error::INVALID_VALUE)?;
    let mut properties = [wanted.properties];
    if wanted.bytes == 0 || properties[0].0[16..24].iter().any(|&b| b != 0) {
        return Err(error::INVALID_VALUE);
    }
    location::to_host(&mut properties[0].0, LOCATION).map_err(no_device)?;
    if wanted.access_count > MOST_ACCESS {
        return Err(error::INVALID_VALUE);
    }
    let access = match wanted.access_count {
        0 => Vec::new(),
        // SAFETY: the program's array.
        count => unsafe { location::descriptions(wanted.access, count, error::INVALID_VALUE) }?,
    };
    // The nodes whose addresses this process could not keep free, and at last the one that stays.
    let made = RefCell::new(Vec::new());
    let ask = |address: &mut u64| {
        let mut node = 0;
        calls::vgpuGraphAddMemAllocNode(
            &mut node,
            hGraph,
            after,
            numDependencies,
            &properties,
            &access,
            access.len(),
            wanted.bytes,
            address,
        )?;
        made.borrow_mut().push((*address, node));
        Ok(())
    };
    let release = |address: u64| {
        let node = made.borrow().iter().find(|&&(at, _)| at == address).map(|&(_, node)| node);
        let node = node.ok_or(error::INVALID_VALUE)?;
        handles::remove(node);
        calls::cuGraphDestroyNode(node)
    };
    wanted.address = memory::place(wanted.bytes, ask, release)?;
    memory::insert(wanted.address, wanted.bytes, Origin::Graph);
    let node = made.borrow().last().map_or(0, |&(_, node)| node);
    // SAFETY: checked above; the program's pointer.
    unsafe { put(phGraphNode, node) }
}

/// A device that does not exist is a wrong value here.
fn no_device(status: u32) -> u32 {
    if status == error::INVALID_DEVICE { error::INVALID_VALUE } else { status }
}

/// The array of access descriptions is kept for the program as long as the node is the same.
pub unsafe fn cuGraphMemAllocNodeGetParams(hNode: u64, params_out: *mut Blob8<120>) -> error::Result {
    handles::check_graphnode(hNode)?;
    if params_out.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let mut found = AllocNode {
        properties: Properties::default(),
        access: std::ptr::null(),
        access_count: 0,
        bytes: 0,
        address: 0,
    };
    let mut access = vec![Access::default(); MOST_ACCESS];
    calls::vgpuGraphMemAllocNodeGetParams(
        hNode,
        &mut found.properties,
        &mut access,
        MOST_ACCESS,
        &mut found.access_count,
        &mut found.bytes,
        &mut found.address,
    )?;
    access.truncate(found.access_count);
    location::to_program(&mut found.properties.0, LOCATION);
    access.iter_mut().for_each(|a| location::to_program(&mut a.0, 0));
    // An empty array has an address too.
    if access.is_empty() {
        access.push(Access::default());
    }
    found.access = graph_node::keep(hNode, vgpu_spec::plain::bytes_of(&access)).cast();
    // SAFETY: the program's pointer; same size and alignment.
    unsafe { put(params_out.cast::<AllocNode>(), found) }
}
