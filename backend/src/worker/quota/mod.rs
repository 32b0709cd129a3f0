//! What this client uses of devices' memory: what is freed must be known to be given back.
//!
//! Nothing here knows CUDA. The sums are in the ledger, for the whole VM.

mod blocks;
mod physical;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use blocks::{Allocation, BLOCK, Blocks};
pub use physical::Physical;

/// Memory of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// The device's ordinal.
    pub device: u32,
    pub bytes: u64,
}

/// What memory belongs to that has a handle and no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Thing {
    Array,
    Mipmapped,
    Module,
    Library,
}

struct Held {
    share: Share,
    /// The driver's context with which it ends; 0 if it outlives contexts.
    context: u64,
}

/// A pool, or what a device keeps for graphs: the driver says how much it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserve {
    /// The driver's pool; 0 for graphs' memory.
    pub pool: u64,
    pub device: u32,
    /// What of it is counted in the ledger.
    pub counted: u64,
}

/// A client's memory.
#[derive(Default)]
pub struct Quota {
    blocks: Mutex<Blocks>,
    physical: Mutex<Physical>,
    things: Mutex<HashMap<(Thing, u64), Held>>,
    reserves: Mutex<Vec<Reserve>>,
    /// Pools may hold more or less than when they were last asked.
    stale: AtomicBool,
    /// Graphs may allocate.
    graphs: AtomicBool,
    /// Bytes of arrays, by their descriptions.
    sizes: Mutex<HashMap<Vec<u8>, u64>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Quota {
    pub fn blocks(&self) -> MutexGuard<'_, Blocks> {
        lock(&self.blocks)
    }

    pub fn physical(&self) -> MutexGuard<'_, Physical> {
        lock(&self.physical)
    }

    pub fn sizes(&self) -> MutexGuard<'_, HashMap<Vec<u8>, u64>> {
        lock(&self.sizes)
    }

    /// Pools and graphs' memory, while the driver is asked about them.
    pub fn reserves(&self) -> MutexGuard<'_, Vec<Reserve>> {
        lock(&self.reserves)
    }

    /// From now on `pool`, of `device`, counts.
    pub fn watch(&self, pool: u64, device: u32) {
        let mut reserves = self.reserves();
        if !reserves.iter().any(|r| (r.pool, r.device) == (pool, device)) {
            reserves.push(Reserve { pool, device, counted: 0 });
        }
    }

    /// From now on the memory that `device` keeps for graphs counts.
    pub fn watch_graphs(&self, device: u32) {
        self.watch(0, device);
        self.graphs.store(true, Ordering::Relaxed);
    }

    /// Something was freed in a stream, or allocated without asking what pools hold.
    pub fn pools_change(&self) {
        self.stale.store(true, Ordering::Relaxed);
    }

    /// Whether the driver should be asked what pools hold. Says so once for each time that they changed; always if graphs allocate.
    pub fn is_stale(&self) -> bool {
        let freed = self.stale.load(Ordering::Relaxed) && self.stale.swap(false, Ordering::Relaxed);
        freed || self.graphs.load(Ordering::Relaxed)
    }

    /// Whether a synchronization may have pools or graphs give something back.
    pub fn may_give_back(&self) -> bool {
        self.stale.load(Ordering::Relaxed) || self.graphs.load(Ordering::Relaxed)
    }

    pub fn hold(&self, thing: Thing, handle: u64, share: Share, context: u64) {
        lock(&self.things).insert((thing, handle), Held { share, context });
    }

    /// What is free now that the thing ended.
    pub fn release(&self, thing: Thing, handle: u64) -> Option<Share> {
        Some(lock(&self.things).remove(&(thing, handle))?.share)
    }

    /// What is free now that the driver's context ended.
    pub fn forget_context(&self, context: u64) -> Vec<Share> {
        let mut freed = self.blocks().forget_context(context);
        lock(&self.things).retain(|_, held| {
            let ends = held.context == context;
            if ends {
                freed.push(held.share);
            }
            !ends
        });
        freed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_end_by_themselves_or_with_their_context() {
        let quota = Quota::default();
        let share = |bytes| Share { device: 1, bytes };
        quota.hold(Thing::Array, 7, share(10), 100);
        quota.hold(Thing::Module, 7, share(20), 100);
        quota.hold(Thing::Library, 8, share(30), 0);
        assert_eq!(quota.release(Thing::Array, 7), Some(share(10)));
        assert_eq!(quota.release(Thing::Array, 7), None);
        assert_eq!(quota.forget_context(100), [share(20)]);
        assert_eq!(quota.release(Thing::Library, 8), Some(share(30)));
    }

    #[test]
    fn pools_are_asked_after_a_free_and_always_once_graphs_allocate() {
        let quota = Quota::default();
        assert!(!quota.is_stale());
        quota.pools_change();
        assert!(quota.is_stale() && !quota.is_stale());
        quota.watch(5, 0);
        quota.watch(5, 0);
        quota.watch_graphs(0);
        assert_eq!(quota.reserves().len(), 2);
        assert!(quota.is_stale() && quota.is_stale());
    }
}
