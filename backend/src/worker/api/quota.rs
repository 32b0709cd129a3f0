//! Counting memory against the VM's limit: what is asked for is taken from the ledger first, and given back if the driver refuses.
//!
//! Pools and graphs are the driver's to fill: it is asked what they hold, when they may have grown or shrunk.

use super::{
    error::{CudaError, NOT_SUPPORTED, OUT_OF_MEMORY, Outcome, UNKNOWN, check},
    thread::Thread,
};
use crate::ledger::Device;
use crate::worker::quota::{Allocation, BLOCK, Share, Thing};
use std::ffi::c_void;

/// CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT and _USED_MEM_CURRENT.
const POOL_RESERVED: u32 = 5;
const POOL_USED: u32 = 7;
/// CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT.
const GRAPHS_RESERVED: u32 = 2;
/// More than any device has.
const ABSURD: u64 = 1 << 44;
/// A pool grows by so much at least, so a VM may be beyond its limit by this until the pool is filled.
const POOL_STEP: u64 = 32 << 20;

impl Thread {
    /// The ordinal of the current context's device.
    pub fn device(&self) -> Result<u32, CudaError> {
        let get = self.driver.cuCtxGetDevice.ok_or(NOT_SUPPORTED)?;
        let mut device = 0;
        // SAFETY: a place that outlives the call.
        check(unsafe { get(&raw mut device) })?;
        u32::try_from(device).map_err(|_| UNKNOWN)
    }

    /// The driver's current context, whoever made it.
    pub fn real_context(&self) -> u64 {
        let mut context = 0;
        if let Some(get) = self.driver.cuCtxGetCurrent {
            // SAFETY: a place that outlives the call.
            unsafe { get(&raw mut context) };
        }
        context
    }

    /// Takes `bytes` of the device from what the VM may use, if need be after pools have given back what they do not use.
    fn take_memory(&self, device: u32, bytes: u64) -> Outcome {
        let account = &self.client.account;
        if account.take(device, bytes) {
            return Ok(());
        }
        self.trim(device);
        if account.take(device, bytes) { Ok(()) } else { Err(self.at_limit()) }
    }

    /// The error of a call that the VM's limit forbids.
    pub fn at_limit(&self) -> CudaError {
        self.limited.set(true);
        OUT_OF_MEMORY
    }

    pub fn give_back(&self, share: Share) {
        self.client.account.give_back(share.device, share.bytes);
    }

    /// Runs `make`, which allocates `bytes` of the device if it succeeds.
    pub fn with_memory<T>(
        &self,
        device: u32,
        bytes: u64,
        make: impl FnOnce() -> Result<T, CudaError>,
    ) -> Result<T, CudaError> {
        if bytes > ABSURD {
            // The driver has its own words for that.
            self.asked.set(bytes);
            return make().inspect(|_| self.client.account.take_anyway(device, bytes));
        }
        self.take_memory(device, bytes)?;
        self.asked.set(bytes);
        make().inspect_err(|_| self.give_back(Share { device, bytes }))
    }

    /// Memory with an address: `make` gives it and how long it is. `free` undoes that. Large memory is taken before; what a small
    /// allocation takes, a block or nothing, is known after.
    pub fn allocate_blocks(
        &self,
        least: u64,
        make: impl FnOnce() -> Result<(u64, u64), CudaError>,
        free: impl FnOnce(u64),
    ) -> Result<u64, CudaError> {
        let (device, context) = self.here()?;
        let ahead = if least < BLOCK { 0 } else { least.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX) };
        let (address, len) = self.with_memory(device, ahead, make)?;
        let blocks = self.session.quota.blocks().insert(address, len, device, context);
        if blocks <= ahead {
            self.give_back(Share { device, bytes: ahead - blocks });
        } else if self.take_memory(device, blocks - ahead).is_err() {
            self.session.quota.blocks().remove(address);
            self.give_back(Share { device, bytes: ahead });
            free(address);
            return Err(OUT_OF_MEMORY);
        }
        Ok(address)
    }

    /// Memory that `free` gives back to the driver; what is not in blocks was a pool's or a graph's. It is taken out before: once the driver
    /// has it, another thread may get the same address.
    pub fn free_blocks(
        &self,
        address: u64,
        free: impl FnOnce() -> Result<(), CudaError>,
    ) -> Result<(), CudaError> {
        let taken = self.session.quota.blocks().take_out(address);
        match (free(), taken) {
            (Ok(()), Some((share, _))) => self.give_back(share),
            (Ok(()), None) => self.session.quota.pools_change(),
            (Err(error), taken) => {
                if let Some((share, allocation)) = taken {
                    self.put_back(address, share, allocation);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Enters what was taken out and is still there. What it shares with others may have changed meanwhile.
    fn put_back(&self, address: u64, share: Share, allocation: Allocation) {
        let Allocation { len, device, context } = allocation;
        let bytes = self.session.quota.blocks().insert(address, len, device, context);
        match bytes.checked_sub(share.bytes) {
            Some(more) => self.client.account.take_anyway(device, more),
            None => self.give_back(Share { device, bytes: share.bytes - bytes }),
        }
    }

    /// Memory of a pool: `make` allocates `bytes` in a stream, `free` undoes that. What a pool has in reserve is counted already.
    pub fn allocate_in_pool(
        &self,
        pool: u64,
        device: u32,
        bytes: u64,
        make: impl FnOnce() -> Result<u64, CudaError>,
        free: impl FnOnce(u64),
    ) -> Result<u64, CudaError> {
        let account = &self.client.account;
        if self.session.turns.captures() {
            // It may become a graph's node: the pool holds nothing then, and cannot be asked about.
            self.session.quota.watch_graphs(device);
            return if bytes <= self.most(device) { make() } else { Err(self.at_limit()) };
        }
        self.session.quota.watch(pool, device);
        if account.device(device).and_then(Device::limit).is_none() {
            // Nothing forbids it: what the pool holds is asked at the next synchronization, and not for each allocation.
            self.session.quota.pools_change();
            self.asked.set(bytes);
            return make();
        }
        if self.session.quota.is_stale() {
            self.settle();
        }
        if account.left(device) < bytes && self.reserve_of(pool) < bytes {
            self.trim(device);
            if account.left(device) < bytes && self.reserve_of(pool) < bytes {
                return Err(self.at_limit());
            }
        }
        self.asked.set(bytes);
        // Two threads may pass at once: what they got is looked at after.
        let address = make()?;
        self.settle();
        if account.excess(device) > POOL_STEP {
            free(address);
            self.session.quota.pools_change();
            return Err(self.at_limit());
        }
        Ok(address)
    }

    /// The most that a graph's node may allocate: what the VM has left, and what graphs hold already.
    pub fn most(&self, device: u32) -> u64 {
        let held: u64 =
            self.session.quota.reserves().iter().filter(|r| r.device == device).map(|r| r.counted).sum();
        self.client.account.left(device).saturating_add(held)
    }

    /// What the pool holds and does not use.
    fn reserve_of(&self, pool: u64) -> u64 {
        let ask = |attribute| self.pool_attribute(pool, attribute).unwrap_or(0);
        ask(POOL_RESERVED).saturating_sub(ask(POOL_USED))
    }

    fn pool_attribute(&self, pool: u64, attribute: u32) -> Option<u64> {
        let get = self.driver.cuMemPoolGetAttribute?;
        let mut value = 0_u64;
        // SAFETY: a live pool of this client, and a place for the attribute's type.
        let status = unsafe { get(pool, attribute, (&raw mut value).cast::<c_void>()) };
        (status == 0).then_some(value)
    }

    fn graphs_reserve(&self, device: u32) -> Option<u64> {
        let get = self.driver.cuDeviceGetGraphMemAttribute?;
        let mut value = 0_u64;
        let device = i32::try_from(device).ok()?;
        // SAFETY: a place for the attribute's type.
        let status = unsafe { get(device, GRAPHS_RESERVED, (&raw mut value).cast::<c_void>()) };
        (status == 0).then_some(value)
    }

    /// Brings what is counted of pools and graphs up to what they hold. What they have got they have.
    pub fn settle(&self) {
        // Under the lock: a pool must not end meanwhile, and two must not count the same growth.
        let mut reserves = self.session.quota.reserves();
        for reserve in reserves.iter_mut() {
            let held = match reserve.pool {
                0 => self.graphs_reserve(reserve.device),
                pool => self.pool_attribute(pool, POOL_RESERVED),
            };
            let Some(held) = held else { continue };
            let account = &self.client.account;
            match held.checked_sub(reserve.counted) {
                Some(more) => account.take_anyway(reserve.device, more),
                None => account.give_back(reserve.device, reserve.counted - held),
            }
            reserve.counted = held;
        }
    }

    /// As [`Self::settle`], where pools may have given something back.
    pub fn settle_if_stale(&self) {
        // In this order: what is not settled stays stale.
        if !self.session.turns.captures() && self.session.quota.is_stale() {
            self.settle();
        }
    }

    /// Has pools and graphs give back what they do not use, as the driver does when it has no memory left.
    fn trim(&self, device: u32) {
        if self.session.turns.captures() {
            return;
        }
        {
            let reserves = self.session.quota.reserves();
            for reserve in reserves.iter().filter(|r| r.device == device) {
                match (reserve.pool, self.driver.cuMemPoolTrimTo, self.driver.cuDeviceGraphMemTrim) {
                    (0, _, Some(trim)) => {
                        // SAFETY: a plain value.
                        unsafe { trim(device.cast_signed()) };
                    }
                    (pool, Some(trim), _) if pool != 0 => {
                        // SAFETY: a live pool of this client.
                        unsafe { trim(pool, 0) };
                    }
                    _ => {}
                }
            }
        }
        self.settle();
    }

    /// A pool is about to end. What is still allocated in it counts until the client ends.
    pub fn pool_ends(&self, pool: u64) {
        let mut reserves = self.session.quota.reserves();
        let Some(place) = reserves.iter().position(|r| r.pool == pool) else { return };
        let reserve = reserves.swap_remove(place);
        let used = self.pool_attribute(pool, POOL_USED).unwrap_or(reserve.counted);
        self.give_back(Share { device: reserve.device, bytes: reserve.counted.saturating_sub(used) });
    }

    /// Counts what a thing has, which the driver has made already; false if the VM may not have it.
    pub fn hold(&self, thing: Thing, handle: u64, bytes: u64) -> bool {
        // Without a context that lives nothing was loaded yet.
        let Ok(device) = self.device() else { return true };
        let context = if thing == Thing::Library { 0 } else { self.real_context() };
        if self.take_memory(device, bytes).is_err() {
            self.limited.set(false);
            return false;
        }
        self.session.quota.hold(thing, handle, Share { device, bytes }, context);
        true
    }

    /// Gives back what a thing had.
    pub fn release_thing(&self, thing: Thing, handle: u64) {
        if let Some(share) = self.session.quota.release(thing, handle) {
            self.give_back(share);
        }
    }

    /// Gives back all that ended with the driver's context.
    pub fn forget_memory(&self, context: u64) {
        self.session.quota.forget_context(context).into_iter().for_each(|share| self.give_back(share));
        self.session.current_pools.forget();
        self.session.quota.pools_change();
    }

    /// Free bytes of the current device; `None` if the driver does not tell.
    fn free_memory(&self) -> Option<u64> {
        let get = self.driver.cuMemGetInfo_v2?;
        let (mut free, mut total) = (0_usize, 0_usize);
        // SAFETY: places that outlive the call.
        (unsafe { get(&raw mut free, &raw mut total) } == 0).then_some(free as u64)
    }

    /// Runs `load`, which puts an image of `len` bytes on the device, and tells how much memory that took. Others may allocate
    /// meanwhile, so it is no more than the image can take.
    pub fn measured<T>(&self, len: usize, load: impl FnOnce() -> T) -> (T, u64) {
        let before = self.free_memory();
        let value = load();
        let taken = before.zip(self.free_memory()).map_or(0, |(before, after)| before.saturating_sub(after));
        (value, taken.min((len as u64).saturating_add(BLOCK).next_multiple_of(BLOCK)))
    }
}
