//! Edges of graphs as the worker itself changes them.

use super::{
    error::{CudaError, NOT_SUPPORTED, check},
    graph::EdgeData,
    thread::Thread,
};

/// Edges of a graph; the lists have one length.
pub struct Edges {
    pub from: Vec<u64>,
    pub to: Vec<u64>,
    pub data: Vec<EdgeData>,
}

impl Edges {
    pub fn add(&self, t: &Thread, graph: u64) -> Result<(), CudaError> {
        self.apply(graph, t.driver.cuGraphAddDependencies_v2, t.driver.cuGraphAddDependencies)
    }

    pub fn remove(&self, t: &Thread, graph: u64) -> Result<(), CudaError> {
        self.apply(graph, t.driver.cuGraphRemoveDependencies_v2, t.driver.cuGraphRemoveDependencies)
    }

    fn apply(
        &self,
        graph: u64,
        with_data: Option<unsafe extern "C" fn(u64, *const u64, *const u64, *const EdgeData, usize) -> u32>,
        plain: Option<unsafe extern "C" fn(u64, *const u64, *const u64, usize) -> u32>,
    ) -> Result<(), CudaError> {
        let (from, to, n) = (self.from.as_ptr(), self.to.as_ptr(), self.from.len());
        match (with_data, plain) {
            _ if n == 0 => Ok(()),
            // SAFETY: live nodes of one of this client's graphs, in arrays of one length.
            (Some(apply), _) => check(unsafe { apply(graph, from, to, self.data.as_ptr(), n) }),
            // SAFETY: as above.
            (None, Some(apply)) => check(unsafe { apply(graph, from, to, n) }),
            (None, None) => Err(NOT_SUPPORTED),
        }
    }
}

/// A node's neighbours on one side, all of them, with the data of the edges.
pub struct Neighbours {
    pub nodes: Vec<u64>,
    pub data: Vec<EdgeData>,
}

pub fn neighbours(t: &Thread, node: u64, after: bool) -> Result<Neighbours, CudaError> {
    let d = t.driver;
    let (with_data, plain) = if after {
        (d.cuGraphNodeGetDependentNodes_v2, d.cuGraphNodeGetDependentNodes)
    } else {
        (d.cuGraphNodeGetDependencies_v2, d.cuGraphNodeGetDependencies)
    };
    let ask = |nodes: *mut u64, data: *mut EdgeData, count: &mut usize| match (with_data, plain) {
        // SAFETY: a live node; the lists are NULL or have as much room as the count says.
        (Some(ask), _) => check(unsafe { ask(node, nodes, data, count) }),
        // SAFETY: as above.
        (None, Some(ask)) => check(unsafe { ask(node, nodes, count) }),
        (None, None) => Err(NOT_SUPPORTED),
    };
    let mut count = 0;
    ask(std::ptr::null_mut(), std::ptr::null_mut(), &mut count)?;
    let mut found = Neighbours { nodes: vec![0; count], data: vec![EdgeData::default(); count] };
    if count > 0 {
        ask(found.nodes.as_mut_ptr(), found.data.as_mut_ptr(), &mut count)?;
        found.nodes.truncate(count);
        found.data.truncate(count);
    }
    Ok(found)
}
