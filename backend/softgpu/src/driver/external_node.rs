//! Nodes of external semaphores. There are no semaphores, so a node has none.

use super::graph::{add, exec, graph_of, set};
use super::{Out, put};
use crate::model::graph::Op;
use crate::model::{CudaError, Result};

const SIGNAL: Op = Op::Semaphores { wait: false };
const WAIT: Op = Op::Semaphores { wait: true };

/// `CUDA_EXT_SEM_SIGNAL_NODE_PARAMS` and `CUDA_EXT_SEM_WAIT_NODE_PARAMS`: arrays, and their length.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Semaphores {
    pub handles: u64,
    pub params: u64,
    pub count: u32,
}

fn check(params: Option<&Semaphores>) -> Result {
    match params {
        Some(Semaphores { count: 0, .. }) => Ok(()),
        _ => Err(CudaError::InvalidValue),
    }
}

fn get(node: u64, kind: &Op, out: Out<'_, Semaphores>) -> Result {
    if graph_of(node)?.with_node(node, |node| node.op.node_type())? != kind.node_type() {
        return Err(CudaError::InvalidValue);
    }
    put(out, Semaphores { handles: 0, params: 0, count: 0 })
}

driver_api! {
    /// Adds a node that signals.
    fn cuGraphAddExternalSemaphoresSignalNode(
        out: Out<'_, u64>, to: u64, dependencies: *const u64, count: usize, params: Option<&Semaphores>
    ) {
        check(params)?;
        // SAFETY: the caller answers for the array.
        unsafe { add(out, to, dependencies, count, SIGNAL) }
    }

    /// Adds a node that waits.
    fn cuGraphAddExternalSemaphoresWaitNode(
        out: Out<'_, u64>, to: u64, dependencies: *const u64, count: usize, params: Option<&Semaphores>
    ) {
        check(params)?;
        // SAFETY: the caller answers for the array.
        unsafe { add(out, to, dependencies, count, WAIT) }
    }

    /// What a node signals.
    fn cuGraphExternalSemaphoresSignalNodeGetParams(node: u64, out: Out<'_, Semaphores>) {
        get(node, &SIGNAL, out)
    }

    /// What a node waits for.
    fn cuGraphExternalSemaphoresWaitNodeGetParams(node: u64, out: Out<'_, Semaphores>) {
        get(node, &WAIT, out)
    }

    /// Changes what a node signals.
    fn cuGraphExternalSemaphoresSignalNodeSetParams(node: u64, params: Option<&Semaphores>) {
        check(params)?;
        set(node, SIGNAL)
    }

    /// Changes what a node waits for.
    fn cuGraphExternalSemaphoresWaitNodeSetParams(node: u64, params: Option<&Semaphores>) {
        check(params)?;
        set(node, WAIT)
    }

    /// Changes what a node of an instantiated graph signals.
    fn cuGraphExecExternalSemaphoresSignalNodeSetParams(handle: u64, node: u64, params: Option<&Semaphores>) {
        check(params)?;
        exec(handle)?.set(node, SIGNAL)
    }

    /// Changes what a node of an instantiated graph waits for.
    fn cuGraphExecExternalSemaphoresWaitNodeSetParams(handle: u64, node: u64, params: Option<&Semaphores>) {
        check(params)?;
        exec(handle)?.set(node, WAIT)
    }
}
