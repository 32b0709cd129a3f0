//! Handles: numbers given to the program, looked up at every use and never dereferenced.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::{CudaError, Result};

/// The kinds of handles; a handle carries its kind, so one kind never passes for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Kind {
    /// `CUcontext`.
    Context = 1,
    /// `CUstream`.
    Stream = 2,
    /// `CUevent`.
    Event = 3,
    /// `CUmodule`.
    Module = 4,
    /// `CUlibrary`.
    Library = 5,
    /// `CUfunction`.
    Function = 6,
    /// `CUkernel`.
    Kernel = 7,
    /// `CUmemoryPool`.
    Pool = 8,
    /// `CUgraph`.
    Graph = 9,
    /// `CUgraphNode`.
    GraphNode = 10,
    /// `CUgraphExec`.
    GraphExec = 11,
    /// `CUmemGenericAllocationHandle`.
    Physical = 12,
    /// `CUarray`.
    Array = 13,
    /// `CUmipmappedArray`.
    MipmappedArray = 14,
    /// `CUtexObject`.
    Texture = 15,
    /// `CUsurfObject`.
    Surface = 16,
    /// `CUtexref`.
    TextureReference = 17,
    /// `CUsurfref`.
    SurfaceReference = 18,
    /// `CUgreenCtx`.
    GreenContext = 24,
    /// `CUdevResourceDesc`.
    Description = 25,
    /// `CUlinkState`.
    Link = 26,
    /// `CUgraphConditionalHandle`.
    Condition = 33,
    /// `CUuserObject`.
    UserObject = 34,
}

const KIND_SHIFT: u32 = 40;

/// A new handle of `kind`: not zero, a multiple of 16, below 2^47, and never given twice.
pub fn new_handle(kind: Kind) -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let serial = NEXT.fetch_add(1, Ordering::Relaxed);
    ((kind as u64) << KIND_SHIFT) | (serial << 4)
}

/// Whether `handle` is one of `kind`, alive or not.
pub fn is_kind(handle: u64, kind: Kind) -> bool {
    handle >> KIND_SHIFT == kind as u64
}

/// The live objects of one kind by their handles.
#[derive(Debug)]
pub struct Table<T>(RwLock<HashMap<u64, Arc<T>>>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table(RwLock::default())
    }
}

impl<T> Table<T> {
    /// Makes `handle` mean `object`.
    pub fn insert(&self, handle: u64, object: Arc<T>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(handle, object);
    }

    /// The object of `handle`, or `INVALID_HANDLE`.
    pub fn get(&self, handle: u64) -> Result<Arc<T>> {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        table.get(&handle).cloned().ok_or(CudaError::InvalidHandle)
    }

    /// Takes the object away, or `INVALID_HANDLE`.
    pub fn remove(&self, handle: u64) -> Result<Arc<T>> {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        table.remove(&handle).ok_or(CudaError::InvalidHandle)
    }

    /// All live objects.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Drops every object for which `keep` is false.
    pub fn retain(&self, keep: impl Fn(&T) -> bool) {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        table.retain(|_, object| keep(object));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_known_until_it_is_removed() {
        let table = Table::default();
        let handle = new_handle(Kind::Event);
        table.insert(handle, Arc::new(5));
        assert_eq!(table.get(handle).as_deref(), Ok(&5));
        assert_eq!(table.remove(handle).as_deref(), Ok(&5));
        assert_eq!(table.get(handle), Err(CudaError::InvalidHandle));
        assert_eq!(table.remove(handle), Err(CudaError::InvalidHandle));
    }

    #[test]
    fn a_handle_tells_its_kind() {
        let handle = new_handle(Kind::Kernel);
        assert!(is_kind(handle, Kind::Kernel));
        assert!(!is_kind(handle, Kind::Function));
    }
}
