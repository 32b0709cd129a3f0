//! Memory that graphs allocate.

use super::graph::{add, graph, graph_of};
use super::pool::{Access, Location};
use super::{Out, array_at, put};
use crate::model::graph::Op;
use crate::model::graph_memory::{self, GraphMemory};
use crate::model::{CudaError, Result, current, state};

/// `CUDA_MEM_ALLOC_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct AllocNode {
    pub properties: [u64; 11],
    pub access: *const Access,
    pub access_count: usize,
    pub bytes: u64,
    pub address: u64,
}

fn bytes_of(words: [u64; 11]) -> [u8; 88] {
    let mut bytes = [0; 88];
    for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// `CUmemPoolProps`: the allocation's and the handles' types, the location, a pointer, the most bytes, usage, reserved.
fn check(properties: [u64; 11]) -> Result {
    let [types, place, ..] = properties;
    let location = Location { kind: place as u32, id: ((place >> 32) as u32).cast_signed() };
    if types as u32 != 1 || properties[4] >> 16 != 0 || properties[5..].iter().any(|word| *word != 0) {
        return Err(CudaError::InvalidValue);
    }
    if types >> 32 != 0 {
        return Err(CudaError::NotSupported);
    }
    state()?.device(location.ordinal()?).map(drop).map_err(|_| CudaError::InvalidValue)
}

/// Properties of memory of the context's device, as a captured allocation has them.
pub fn default_properties(ordinal: u32) -> [u8; 88] {
    let mut words = [0; 11];
    words[0] = 1;
    words[1] = 1 | u64::from(ordinal) << 32;
    bytes_of(words)
}

driver_api! {
    /// Adds an allocation; its address is given now.
    fn cuGraphAddMemAllocNode(
        out: Out<'_, u64>, to: u64, dependencies: *const u64, count: usize, node: Option<&mut AllocNode>
    ) {
        let node = node.ok_or(CudaError::InvalidValue)?;
        graph(to)?;
        if node.bytes == 0 {
            return Err(CudaError::InvalidValue);
        }
        check(node.properties)?;
        // SAFETY: the caller answers for the array.
        for access in unsafe { array_at(node.access, node.access_count) }? {
            state()?.device(access.location.ordinal()?)?;
        }
        let memory = GraphMemory::create(&*current::working_context()?, node.bytes, bytes_of(node.properties))?;
        let address = memory.address();
        // SAFETY: the caller answers for the array.
        unsafe { add(out, to, dependencies, count, Op::Allocate(memory)) }?;
        node.address = address;
        Ok(())
    }

    /// What the program gave, and the address.
    fn cuGraphMemAllocNodeGetParams(node: u64, params: Out<'_, AllocNode>) {
        let op = graph_of(node)?.with_node(node, |node| node.op.clone())?;
        let Op::Allocate(memory) = op else { return Err(CudaError::InvalidValue) };
        let mut properties = [0; 11];
        for (word, bytes) in properties.iter_mut().zip(memory.properties.chunks_exact(8)) {
            *word = bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        }
        put(params, AllocNode {
            properties,
            access: std::ptr::null(),
            access_count: 0,
            bytes: memory.size(),
            address: memory.address(),
        })
    }

    /// Adds the freeing of what a graph allocates.
    fn cuGraphAddMemFreeNode(
        out: Out<'_, u64>, to: u64, dependencies: *const u64, count: usize, address: u64
    ) {
        let memory = GraphMemory::find(address).ok_or(CudaError::InvalidValue)?;
        let frees_it = |op: &Op| matches!(op, Op::Free(other) if other.address() == address);
        if graph(to)?.nodes().iter().any(|node| frees_it(&node.op)) {
            return Err(CudaError::InvalidValue);
        }
        // SAFETY: the caller answers for the array.
        unsafe { add(out, to, dependencies, count, Op::Free(memory)) }
    }

    /// What a node frees.
    fn cuGraphMemFreeNodeGetParams(node: u64, address: Out<'_, u64>) {
        match graph_of(node)?.with_node(node, |node| node.op.clone())? {
            Op::Free(memory) => put(address, memory.address()),
            _ => Err(CudaError::InvalidValue),
        }
    }

    /// Bytes of graphs' memory.
    fn cuDeviceGetGraphMemAttribute(device: i32, attribute: u32, value: Out<'_, u64>) {
        let ordinal = state()?.device(device)?.ordinal();
        put(value, graph_memory::attribute(ordinal, attribute)?)
    }

    /// Sets high marks back.
    fn cuDeviceSetGraphMemAttribute(device: i32, attribute: u32, value: Option<&u64>) {
        let ordinal = state()?.device(device)?.ordinal();
        graph_memory::set_attribute(ordinal, attribute, *value.ok_or(CudaError::InvalidValue)?)
    }

    /// Nothing is kept that is not in use.
    fn cuDeviceGraphMemTrim(device: i32) {
        state()?.device(device).map(drop)
    }
}
