//! Waiting for and writing values of memory in stream order, alone, in batches, and as nodes of graphs.
//!
//! What is known to be right is not waited for. Of the rest the driver says what it is.

use crate::{
    call::{self, put},
    calls, capture, error, graph_node, handles, host_memory, memory,
};
use vgpu_spec::plain::Blob8;

/// CUstreamBatchMemOpParams: operation u32, and from byte 8 on address u64, value u64, flags u32.
type Operation = Blob8<48>;

/// The most operations of a batch: fewer than 256.
const MOST: u32 = 255;
/// CU_STREAM_WRITE_VALUE_DEFAULT. The other flag that exists, CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER, devices refuse.
const WRITE: u32 = 0;
/// CU_STREAM_WAIT_VALUE_GEQ, _EQ, _AND and _NOR are 0 to 3. CU_STREAM_WAIT_VALUE_FLUSH is not known of the device.
const LAST_CONDITION: u32 = 3;

/// Whether a value of `len` bytes at `address` can be had: in memory of the device or in pinned memory.
fn is_there(address: u64, len: u64) -> bool {
    address.is_multiple_of(len) && (memory::known(address, len) || host_memory::holds(address, len))
}

/// The call is sent; unless it is known to be right, its error is this call's.
fn unless(sure: bool) -> error::Result {
    if sure { Ok(()) } else { call::settle() }
}

macro_rules! operations {
    ($($name:ident: $value:ty, $most:expr;)*) => {$(
        pub unsafe fn $name(stream: u64, addr: u64, value: $value, flags: u32) -> error::Result {
            handles::check_stream(stream)?;
            calls::$name(stream, addr, value, flags)?;
            unless(flags <= $most && is_there(addr, size_of::<$value>() as u64))
        }
    )*};
}
operations! {
    cuStreamWaitValue32_v2: u32, LAST_CONDITION;
    cuStreamWaitValue64_v2: u64, LAST_CONDITION;
    cuStreamWriteValue32_v2: u32, WRITE;
    cuStreamWriteValue64_v2: u64, WRITE;
}

/// Whether an operation of a batch is known to be right.
fn is_right(operation: &Operation) -> bool {
    let word = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&operation.0[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    let flags = word(24) as u32;
    match word(0) as u32 {
        1 => flags <= LAST_CONDITION && is_there(word(8), 4),
        2 => flags == WRITE && is_there(word(8), 4),
        4 => flags <= LAST_CONDITION && is_there(word(8), 8),
        5 => flags == WRITE && is_there(word(8), 8),
        _ => false,
    }
}

/// The driver writes into the program's list, unless the stream captures: the alias of an address that is written to is the address.
fn note_alias(operation: &mut Operation) {
    if matches!(operation.0[0], 2 | 5) {
        operation.0.copy_within(8..16, 32);
    }
}

unsafe fn batch(stream: u64, version: u32, list: *const Operation, count: u32, flags: u32) -> error::Result {
    handles::check_stream(stream)?;
    if count > MOST {
        return Err(error::INVALID_VALUE);
    }
    // SAFETY: the program's array of `count`.
    let list = unsafe { call::slice(list, count as usize) };
    if list.is_none() && count > 0 {
        return Err(if version == 1 { error::NOT_SUPPORTED } else { error::INVALID_VALUE });
    }
    let list = list.unwrap_or_default();
    calls::vgpuStreamBatchMemOp(stream, version, list, count, flags)?;
    unless(version == 2 && flags == 0 && list.iter().all(is_right))
}

pub unsafe fn cuStreamBatchMemOp(
    stream: u64,
    count: u32,
    paramArray: *mut Operation,
    flags: u32,
) -> error::Result {
    // SAFETY: the program's pointers.
    unsafe { batch(stream, 1, paramArray, count, flags) }
}

pub unsafe fn cuStreamBatchMemOp_v2(
    stream: u64,
    count: u32,
    paramArray: *mut Operation,
    flags: u32,
) -> error::Result {
    // SAFETY: the program's pointers.
    unsafe {
        batch(stream, 2, paramArray, count, flags)?;
        if !capture::captures(stream)? {
            (0..count as usize).for_each(|i| note_alias(&mut *paramArray.add(i)));
        }
    }
    Ok(())
}

/// CUDA_BATCH_MEM_OP_NODE_PARAMS.
#[repr(C)]
#[derive(Clone, Copy)]
struct BatchNode {
    context: u64,
    count: u32,
    _padding: u32,
    operations: *mut Operation,
    flags: u32,
    _end: u32,
}
const _: () = assert!(size_of::<BatchNode>() == 32);

/// A node as the program describes it, and its operations.
///
/// # Safety
/// `parameters` is NULL or valid, and so is its array.
unsafe fn read<'a>(parameters: *const Blob8<32>) -> error::Result<(BatchNode, &'a [Operation])> {
    // SAFETY: the caller's promise; same size and alignment.
    let node = *unsafe { parameters.cast::<BatchNode>().as_ref() }.ok_or(error::INVALID_VALUE)?;
    if node.count > MOST {
        return Err(error::INVALID_VALUE);
    }
    if node.context != 0 {
        handles::check_context(node.context)?;
    }
    // SAFETY: the caller's promise.
    let list = unsafe { call::slice(node.operations.cast_const(), node.count as usize) };
    match list {
        None if node.count > 0 => Err(error::INVALID_VALUE),
        list => Ok((node, list.unwrap_or_default())),
    }
}

pub unsafe fn cuGraphAddBatchMemOpNode(
    phGraphNode: *mut u64,
    hGraph: u64,
    dependencies: *const u64,
    numDependencies: usize,
    nodeParams: *const Blob8<32>,
) -> error::Result {
    handles::check_graph(hGraph)?;
    // SAFETY: the program's pointers.
    let (after, (node, list)) = unsafe { (call::slice(dependencies, numDependencies), read(nodeParams)?) };
    after.into_iter().flatten().try_for_each(|&n| handles::check_graphnode(n))?;
    let mut made = 0;
    calls::vgpuGraphAddBatchMemOpNode(
        &mut made,
        hGraph,
        after,
        numDependencies,
        node.context,
        list,
        node.count,
        node.flags,
    )?;
    // SAFETY: the program's pointer.
    unsafe { put(phGraphNode, made) }
}

/// `exec` 0: the node of the graph itself.
///
/// # Safety
/// The program's pointers.
pub unsafe fn set(exec: u64, node: u64, parameters: *const Blob8<32>) -> error::Result {
    handles::check_graphnode(node)?;
    // SAFETY: the caller's promise.
    let (wanted, list) = unsafe { read(parameters) }?;
    calls::vgpuGraphBatchMemOpNodeSetParams(exec, node, wanted.context, list, wanted.count, wanted.flags)
}

pub unsafe fn cuGraphBatchMemOpNodeSetParams(hNode: u64, nodeParams: *const Blob8<32>) -> error::Result {
    // SAFETY: the program's pointers.
    unsafe { set(0, hNode, nodeParams) }
}

pub unsafe fn cuGraphExecBatchMemOpNodeSetParams(
    hGraphExec: u64,
    hNode: u64,
    nodeParams: *const Blob8<32>,
) -> error::Result {
    handles::check_graphexec(hGraphExec)?;
    // SAFETY: the program's pointers.
    unsafe { set(hGraphExec, hNode, nodeParams) }
}

/// The array that the program gets is kept for it as long as the node is the same.
pub unsafe fn cuGraphBatchMemOpNodeGetParams(hNode: u64, nodeParams_out: *mut Blob8<32>) -> error::Result {
    handles::check_graphnode(hNode)?;
    if nodeParams_out.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let mut found =
        BatchNode { context: 0, count: 0, _padding: 0, operations: std::ptr::null_mut(), flags: 0, _end: 0 };
    let mut list = vec![Operation::default(); MOST as usize];
    calls::vgpuGraphBatchMemOpNodeGetParams(
        hNode,
        &mut found.context,
        &mut list,
        MOST as usize,
        &mut found.count,
        &mut found.flags,
    )?;
    list.truncate(found.count as usize);
    found.operations = graph_node::keep(hNode, vgpu_spec::plain::bytes_of(&list)).cast();
    // SAFETY: the program's pointer; same size and alignment.
    unsafe { put(nodeParams_out.cast::<BatchNode>(), found) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Origin;

    fn operation(kind: u32, address: u64, flags: u32) -> Operation {
        let mut bytes = [0; 48];
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes[8..16].copy_from_slice(&address.to_le_bytes());
        bytes[24..28].copy_from_slice(&flags.to_le_bytes());
        Blob8(bytes)
    }

    #[test]
    fn only_operations_on_known_memory_are_taken_for_right() {
        let base = 0x3500_0000_0000;
        memory::insert(base, 12, Origin::Allocated);
        assert!(is_right(&operation(1, base + 8, 3)));
        assert!(is_right(&operation(5, base, 0)));
        for (kind, address, flags) in [
            (1, base + 2, 0),
            (1, base, 4),
            (2, base, 1),
            (5, base + 8, 0),
            (2, base + 12, 0),
            (3, base, 0),
            (9, base, 0),
        ] {
            assert!(!is_right(&operation(kind, address, flags)), "{kind} at {address:#x} with {flags}");
        }
        memory::remove(base);
    }
}
