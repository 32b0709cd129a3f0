//! Memory that graphs allocate: at one address from the node's making to its end, in use from a launch's allocation to its freeing.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use super::allocation::{Allocation, RangeKind};
use super::context::Context;
use super::{CudaError, Result, state};

/// The memory of one allocation node.
#[derive(Debug)]
pub struct GraphMemory {
    allocation: Arc<Allocation>,
    /// What the program asked for, without pointers: `CUmemPoolProps`.
    pub properties: [u8; 88],
    /// While it is in use it does not end with its graphs.
    in_use: Mutex<Option<Arc<GraphMemory>>>,
}

#[derive(Debug, Default)]
struct Known {
    by_address: HashMap<u64, Weak<GraphMemory>>,
    /// Bytes in use and most bytes in use, by the device's ordinal.
    used: HashMap<u32, (u64, u64)>,
}

static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);

fn known() -> MutexGuard<'static, Known> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl GraphMemory {
    /// Memory of the context's device for a new node.
    pub fn create(context: &Context, bytes: u64, properties: [u8; 88]) -> Result<Arc<GraphMemory>> {
        let allocation = state()?.memory.allocate(context, RangeKind::Device, bytes)?;
        let memory = Arc::new(GraphMemory { allocation, properties, in_use: Mutex::default() });
        known().by_address.insert(memory.address(), Arc::downgrade(&memory));
        Ok(memory)
    }

    /// The memory of a node that begins at `address`.
    pub fn find(address: u64) -> Option<Arc<GraphMemory>> {
        known().by_address.get(&address)?.upgrade()
    }

    /// Where it begins.
    pub fn address(&self) -> u64 {
        self.allocation.base()
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.allocation.size()
    }

    /// A launch gets to the node. What is in use cannot be allocated again, unless it is freed by that.
    pub fn allocate(self: &Arc<Self>, again: bool) -> Result {
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        if in_use.is_some() {
            return if again { Ok(()) } else { Err(CudaError::InvalidValue) };
        }
        *in_use = Some(Arc::clone(self));
        let mut known = known();
        let (now, high) = known.used.entry(self.allocation.device().ordinal()).or_default();
        *now += self.size();
        *high = (*high).max(*now);
        Ok(())
    }

    /// It is freed; `INVALID_VALUE` if it is not in use.
    pub fn free(&self) -> Result {
        let held = self.in_use.lock().unwrap_or_else(PoisonError::into_inner).take();
        let held = held.ok_or(CudaError::InvalidValue)?;
        if let Some((now, _)) = known().used.get_mut(&self.allocation.device().ordinal()) {
            *now = now.saturating_sub(self.size());
        }
        drop(held);
        Ok(())
    }
}

impl Drop for GraphMemory {
    fn drop(&mut self) {
        known().by_address.remove(&self.address());
        if let Ok(state) = state() {
            state.memory.remove(self.address());
        }
    }
}

/// A `CUgraphMem_attribute` of a device: nothing is reserved beyond what is in use.
pub fn attribute(device: u32, attribute: u32) -> Result<u64> {
    let (now, high) = known().used.get(&device).copied().unwrap_or_default();
    match attribute {
        0 | 2 => Ok(now),
        1 | 3 => Ok(high),
        _ => Err(CudaError::InvalidValue),
    }
}

/// High marks can be set to what is in use, by 0.
pub fn set_attribute(device: u32, attribute: u32, value: u64) -> Result {
    if !matches!(attribute, 1 | 3) || value != 0 {
        return Err(CudaError::InvalidValue);
    }
    if let Some((now, high)) = known().used.get_mut(&device) {
        *high = *now;
    }
    Ok(())
}
