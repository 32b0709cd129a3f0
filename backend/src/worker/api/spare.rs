//! A free that waits for the call after it.
//!
//! The driver maps and unmaps large memory, in some 50 µs each. A program that frees some and at once allocates as much, as with a temporary in
//! a loop, gets the same again, cleared: nothing was unmapped yet. Whatever else it asks for comes after the free, as does a moment without
//! calls. So but for the time it cannot tell the difference. (CUDA does not promise that new memory is cleared, but the driver's is, and a
//! program may rely on that without knowing.)
//!
//! Freeing waits for the device. Of several threads another one may have to go on meanwhile, so it is for programs with one.

use super::{capture::relaxed, driver::Driver, error::check, thread::Thread};
use std::sync::atomic::Ordering;
use vgpu_spec::wire::lane::function_id;

/// The call that may follow.
const ALLOCATE: u32 = function_id("cuMemAlloc_v2");

/// More takes longer to clear than to map.
const MOST: u64 = 256 << 20;

/// Memory that the program has freed and the driver has not been told of.
#[derive(Debug, Clone, Copy)]
struct Block {
    address: u64,
    bytes: u64,
    /// The driver's context in which it was allocated.
    context: u64,
}

/// What a lane thread knows for that.
#[derive(Debug, Default)]
pub struct Spare {
    block: Option<Block>,
    /// Another process has memory of the client: that stays what it was, and new memory is the program's alone.
    shared: bool,
}

impl Spare {
    /// Another process gets memory of the client: from now on each free is carried out at once.
    pub fn share(&mut self) {
        self.shared = true;
    }
}

impl Thread {
    /// Lets the free of memory wait, if it may.
    pub fn free_later(&mut self, address: u64) -> bool {
        // What runs in green contexts (the streams differ then) is not waited for with the current one.
        let apart = self.session.streams_differ.load(Ordering::Acquire);
        if self.spare.shared || apart || !self.client.lanes.is_single() || self.session.turns.captures() {
            return false;
        }
        let Some((bytes, context)) = self.session.quota.blocks().large(address) else { return false };
        let may = bytes <= MOST && self.here().is_ok_and(|(_, here)| here == context);
        if may {
            self.spare.block = Some(Block { address, bytes, context });
        }
        may
    }

    /// Before a call of `function`: unless it allocates, the free that waits is carried out.
    #[inline]
    pub fn free_before(&mut self, function: u32) {
        if function != ALLOCATE {
            self.free_now();
        }
    }

    /// Carries the free out that waits, if any.
    #[inline]
    pub fn free_now(&mut self) {
        if let Some(block) = self.spare.block.take() {
            self.free_block(block);
        }
    }

    #[cold]
    fn free_block(&self, block: Block) {
        // It was valid. What may have failed since is the context, of which the next call tells. A capture may begin in another thread.
        if let Err(error) = relaxed(self.driver, || self.free_at(block.address)).and_then(|freed| freed) {
            tracing::debug!("freeing {:#x} failed with {}", block.address, error.0);
        }
    }

    /// Memory of the current context for an allocation of `bytes`: what the free that waits would give back.
    pub fn allocate_again(&mut self, bytes: u64) -> Option<u64> {
        let block = self.spare.block.take()?;
        let fits = block.bytes == bytes
            && self.client.lanes.is_single()
            && self.here().is_ok_and(|(_, here)| here == block.context)
            && !self.session.turns.captures()
            && self.has_device();
        if fits && renew(self.driver, block).is_some() {
            return Some(block.address);
        }
        self.free_block(block);
        None
    }
}

/// Waits for the device, as freeing does: nothing uses the memory any more then. Clears it.
fn renew(driver: &Driver, block: Block) -> Option<()> {
    let (wait, clear) = (driver.cuCtxSynchronize?, driver.cuMemsetD8_v2?);
    let bytes = usize::try_from(block.bytes).ok()?;
    // SAFETY: memory of this client, that long, which the program has freed.
    unsafe { check(wait()).and_then(|()| check(clear(block.address, 0, bytes))).and_then(|()| check(wait())) }
        .ok()
}
