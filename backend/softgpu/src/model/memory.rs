//! The map of all memory that kernels and copies may use, in all devices: one address space, as CUDA's.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::allocation::{Allocation, RangeKind};
use super::context::Context;
use super::device::Device;
use super::pool::Pool;
use super::{CudaError, Result, state};
use crate::exec;
use crate::exec::texture::{Surface, Texture};

/// All live ranges.
#[derive(Debug, Default)]
pub struct MemoryMap(RwLock<Ranges>);

#[derive(Debug, Default)]
struct Ranges {
    by_base: BTreeMap<u64, Arc<Allocation>>,
    /// What kernels of a device may use, by its ordinal; forgotten at every change.
    snapshots: HashMap<u32, Arc<Snapshot>>,
}

impl Ranges {
    fn find(&self, address: u64, length: u64) -> Option<&Arc<Allocation>> {
        let (_, allocation) = self.by_base.range(..=address).next_back()?;
        allocation.contains(address, length).then_some(allocation)
    }
}

impl MemoryMap {
    /// Allocates in `context`.
    pub fn allocate(&self, context: &Context, kind: RangeKind, size: u64) -> Result<Arc<Allocation>> {
        let allocation = Allocation::map(kind, size, context.owner(), context.device())?;
        Ok(self.insert(allocation))
    }

    /// Allocates from a pool, for `context`.
    pub fn allocate_from(&self, pool: &Arc<Pool>, context: u64, size: u64) -> Result<Arc<Allocation>> {
        Ok(self.insert(Allocation::map_from(pool, size, context)?))
    }

    /// Takes a mapping that [`VirtualMemory`](super::virtual_memory::VirtualMemory) has made accessible.
    pub fn insert_virtual(&self, base: u64, size: u64, device: &Arc<Device>) {
        self.insert(Allocation::of_mapping(base, size, device));
    }

    /// Registers the program's memory in `context`: `HOST_MEMORY_ALREADY_REGISTERED` where it meets a known range.
    pub fn register(&self, context: &Context, base: u64, size: u64, flags: u32) -> Result {
        let allocation = Allocation::register(base, size, flags, context.handle(), context.device())?;
        let mut ranges = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let before = ranges.by_base.range(..base + size).next_back();
        if before.is_some_and(|(_, other)| other.base() + other.size() > base) {
            return Err(CudaError::HostMemoryAlreadyRegistered);
        }
        ranges.snapshots.clear();
        ranges.by_base.insert(base, Arc::new(allocation));
        Ok(())
    }

    /// Takes a range that is made already.
    pub fn insert(&self, allocation: Allocation) -> Arc<Allocation> {
        let allocation = Arc::new(allocation);
        let mut ranges = self.0.write().unwrap_or_else(PoisonError::into_inner);
        ranges.snapshots.clear();
        ranges.by_base.insert(allocation.base(), Arc::clone(&allocation));
        allocation
    }

    /// The range that `length` bytes at `address` lie in.
    pub fn find(&self, address: u64, length: u64) -> Option<Arc<Allocation>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).find(address, length).cloned()
    }

    /// The range that starts at `base`.
    pub fn at(&self, base: u64) -> Option<Arc<Allocation>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).by_base.get(&base).cloned()
    }

    /// Forgets the range that starts at `base`. Its memory goes when nothing that runs uses it any more.
    pub fn remove(&self, base: u64) -> Option<Arc<Allocation>> {
        let mut ranges = self.0.write().unwrap_or_else(PoisonError::into_inner);
        ranges.snapshots.clear();
        ranges.by_base.remove(&base)
    }

    /// Forgets all ranges of a context that ends.
    pub fn forget_context(&self, context: u64) {
        let mut ranges = self.0.write().unwrap_or_else(PoisonError::into_inner);
        ranges.snapshots.clear();
        ranges.by_base.retain(|_, allocation| allocation.context() != context);
    }

    /// What a kernel that starts now on the device may use.
    pub fn for_kernel(&self, device: u32) -> KernelMemory<'_> {
        let known = {
            let ranges = self.0.read().unwrap_or_else(PoisonError::into_inner);
            ranges.snapshots.get(&device).cloned()
        };
        let snapshot = known.unwrap_or_else(|| self.take_snapshot(device));
        KernelMemory { map: self, device, snapshot, last: AtomicUsize::new(0), late: Mutex::default() }
    }

    fn take_snapshot(&self, device: u32) -> Arc<Snapshot> {
        let mut ranges = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let usable = ranges.by_base.values().filter(|allocation| is_usable(allocation, device));
        let snapshot = Arc::new(Snapshot(
            usable.map(|range| (range.base(), range.kernel_end(), Arc::clone(range))).collect(),
        ));
        ranges.snapshots.insert(device, Arc::clone(&snapshot));
        snapshot
    }
}

/// Host memory is for all devices, device memory for its own.
fn is_usable(allocation: &Allocation, device: u32) -> bool {
    !allocation.is_device() || allocation.device().ordinal() == device
}

/// Ranges in order: first address, one past the last, and the memory itself, which lives as long as this.
#[derive(Debug)]
struct Snapshot(Vec<(u64, u64, Arc<Allocation>)>);

/// The memory of one running kernel.
#[derive(Debug)]
pub struct KernelMemory<'a> {
    map: &'a MemoryMap,
    device: u32,
    snapshot: Arc<Snapshot>,
    /// Where the last access was: the next is likely there too.
    last: AtomicUsize,
    /// Ranges made after the kernel started that it has used.
    late: Mutex<Vec<Arc<Allocation>>>,
}

impl KernelMemory<'_> {
    fn is_late(&self, address: u64, length: u64) -> bool {
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        if late.iter().any(|range| range.contains(address, length)) {
            return true;
        }
        let found = self.map.find(address, length).filter(|range| is_usable(range, self.device));
        let is_found = found.is_some();
        late.extend(found);
        is_found
    }
}

impl exec::Memory for KernelMemory<'_> {
    fn set_conditional(&self, condition: u64, value: u32) {
        if let Ok(condition) = state().and_then(|state| state.conditions.get(condition)) {
            condition.set(value);
        }
    }

    fn accessible(&self, address: u64, length: u64) -> bool {
        let ranges = &self.snapshot.0;
        let Some(end) = address.checked_add(length) else { return false };
        if let Some(range) = ranges.get(self.last.load(Ordering::Relaxed))
            && range.0 <= address
            && end <= range.1
        {
            return true;
        }
        let after = ranges.partition_point(|range| range.0 <= address);
        match after.checked_sub(1).and_then(|index| ranges.get(index)) {
            Some(range) if end <= range.1 => {
                self.last.store(after - 1, Ordering::Relaxed);
                true
            }
            _ => self.is_late(address, length),
        }
    }

    fn texture(&self, handle: u64) -> Option<Arc<Texture>> {
        let state = state().ok()?;
        match state.textures.get(handle) {
            Ok(object) => Some(Arc::clone(object.texture())),
            Err(_) => state.bound_textures.get(handle).ok(),
        }
    }

    fn surface(&self, handle: u64) -> Option<Arc<Surface>> {
        let state = state().ok()?;
        match state.surfaces.get(handle) {
            Ok(object) => Some(Arc::clone(object.surface())),
            Err(_) => state.bound_surfaces.get(handle).ok(),
        }
    }
}
