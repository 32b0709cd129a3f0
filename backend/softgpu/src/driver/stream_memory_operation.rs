//! Waiting for and writing values of memory: in streams, and as nodes of graphs.

use super::graph::{add, exec, graph_of, set};
use super::{Out, array_at, put};
use crate::model::graph::{self, Op};
use crate::model::memory_operation::{Operation, Parameters};
use crate::model::special_stream::{self, DefaultStream};
use crate::model::{CudaError, Result, current};

/// The most operations of a batch: fewer than 256.
const MOST: u32 = 255;

/// `CUDA_BATCH_MEM_OP_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct BatchNode {
    pub context: u64,
    pub count: u32,
    pub list: *const Parameters,
    pub flags: u32,
}

fn give(default: DefaultStream, stream: u64, list: Vec<Operation>) -> Result {
    let (context, stream) = special_stream::find(stream, default)?;
    graph::give(&context, &stream, Op::Operations(list))
}

fn value(
    default: DefaultStream,
    stream: u64,
    operation: u32,
    address: u64,
    value: u64,
    flags: u32,
) -> Result {
    give(default, stream, vec![Operation::value(operation, address, value, flags)?])
}

/// # Safety
/// `list` must be NULL or point to `count` operations.
unsafe fn check(list: *const Parameters, count: u32, flags: u32) -> Result<Vec<Operation>> {
    if count > MOST || flags != 0 {
        return Err(CudaError::InvalidValue);
    }
    // SAFETY: the caller answers for the array.
    let list = unsafe { array_at(list, usize::try_from(count).unwrap_or(0)) }?;
    list.iter().map(|parameters| Operation::check(*parameters)).collect()
}

/// # Safety
/// The node's array must be as long as it says.
unsafe fn node_op(node: Option<&BatchNode>) -> Result<Op> {
    let node = node.ok_or(CudaError::InvalidValue)?;
    // SAFETY: the caller answers for the array.
    Ok(Op::Operations(unsafe { check(node.list, node.count, node.flags) }?))
}

stream_api! {
    /// Waits for a value of 32 bits.
    fn cuStreamWaitValue32_v2 | cuStreamWaitValue32_v2_ptsz(
        default; stream: u64, address: u64, wanted: u32, flags: u32
    ) {
        value(default, stream, 1, address, u64::from(wanted), flags)
    }

    /// Writes a value of 32 bits.
    fn cuStreamWriteValue32_v2 | cuStreamWriteValue32_v2_ptsz(
        default; stream: u64, address: u64, wanted: u32, flags: u32
    ) {
        value(default, stream, 2, address, u64::from(wanted), flags)
    }

    /// Waits for a value of 64 bits.
    fn cuStreamWaitValue64_v2 | cuStreamWaitValue64_v2_ptsz(
        default; stream: u64, address: u64, wanted: u64, flags: u32
    ) {
        value(default, stream, 4, address, wanted, flags)
    }

    /// Writes a value of 64 bits.
    fn cuStreamWriteValue64_v2 | cuStreamWriteValue64_v2_ptsz(
        default; stream: u64, address: u64, wanted: u64, flags: u32
    ) {
        value(default, stream, 5, address, wanted, flags)
    }

    /// Several, in order.
    fn cuStreamBatchMemOp_v2 | cuStreamBatchMemOp_v2_ptsz(
        default; stream: u64, count: u32, list: *const Parameters, flags: u32
    ) {
        // SAFETY: the caller answers for the array.
        give(default, stream, unsafe { check(list, count, flags) }?)
    }

    /// The first version is for drivers that are told to have it.
    fn cuStreamWaitValue32 | cuStreamWaitValue32_ptsz(
        _default; _stream: u64, _address: u64, _wanted: u32, _flags: u32
    ) {
        Err(CudaError::NotSupported)
    }

    /// As above.
    fn cuStreamWriteValue32 | cuStreamWriteValue32_ptsz(
        _default; _stream: u64, _address: u64, _wanted: u32, _flags: u32
    ) {
        Err(CudaError::NotSupported)
    }

    /// As above.
    fn cuStreamWaitValue64 | cuStreamWaitValue64_ptsz(
        _default; _stream: u64, _address: u64, _wanted: u64, _flags: u32
    ) {
        Err(CudaError::NotSupported)
    }

    /// As above.
    fn cuStreamWriteValue64 | cuStreamWriteValue64_ptsz(
        _default; _stream: u64, _address: u64, _wanted: u64, _flags: u32
    ) {
        Err(CudaError::NotSupported)
    }

    /// As above.
    fn cuStreamBatchMemOp | cuStreamBatchMemOp_ptsz(
        _default; _stream: u64, _count: u32, _list: *const Parameters, _flags: u32
    ) {
        Err(CudaError::NotSupported)
    }
}

driver_api! {
    /// Adds a node of operations.
    fn cuGraphAddBatchMemOpNode(
        out: Out<'_, u64>, graph: u64, dependencies: *const u64, count: usize, node: Option<&BatchNode>
    ) {
        // SAFETY: the caller answers for the arrays.
        unsafe { add(out, graph, dependencies, count, node_op(node)?) }
    }

    /// The operations, in memory that lives as long as the process.
    fn cuGraphBatchMemOpNodeGetParams(node: u64, params: Out<'_, BatchNode>) {
        let op = graph_of(node)?.with_node(node, |node| node.op.clone())?;
        let Op::Operations(list) = op else { return Err(CudaError::InvalidValue) };
        let list: Vec<Parameters> = list.iter().map(|operation| operation.parameters).collect();
        let count = u32::try_from(list.len()).unwrap_or(0);
        let list: &'static [Parameters] = Box::leak(list.into_boxed_slice());
        let context = current::working_context()?.handle();
        put(params, BatchNode { context, count, list: list.as_ptr(), flags: 0 })
    }

    /// Changes a node.
    fn cuGraphBatchMemOpNodeSetParams(node: u64, params: Option<&BatchNode>) {
        // SAFETY: the caller answers for the array.
        set(node, unsafe { node_op(params) }?)
    }

    /// Changes a node of an instantiated graph.
    fn cuGraphExecBatchMemOpNodeSetParams(handle: u64, node: u64, params: Option<&BatchNode>) {
        // SAFETY: the caller answers for the array.
        exec(handle)?.set(node, unsafe { node_op(params) }?)
    }
}
