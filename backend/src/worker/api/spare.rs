//! A free that waits for the call after it.
//!
//! The driver maps and unmaps large memory, in some 50 µs each. A program that frees some and at once allocates as much, as with a temporary in
//! a loop, gets the same again, cleared: nothing was unmapped yet. Whatever else any thread of the client asks for comes after the free, as
//! does a moment without calls. So but for the time nobody can tell the difference. (CUDA does not promise that new memory is cleared, but
//! the driver's is, and a program may rely on that without knowing.)

use super::{driver::Driver, error::check, thread::Thread};
use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};
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

/// What a client's lanes share of that.
#[derive(Debug, Default)]
pub struct Spare {
    there: AtomicBool,
    block: Mutex<Option<Block>>,
    /// Other processes have memory of the client: theirs stays what it was, new memory is the program's alone.
    shared: AtomicBool,
}

impl Spare {
    /// Other processes get memory of the client: from now on each free is carried out at once.
    pub fn is_shared(&self) {
        self.shared.store(true, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Block>> {
        self.block.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Block> {
        let mut block = self.lock();
        self.there.store(false, Ordering::Release);
        block.take()
    }
}

impl Thread {
    /// Lets the free of memory wait, if it may.
    pub fn free_later(&self, address: u64) -> bool {
        let spare = &self.session.spare;
        if spare.shared.load(Ordering::Acquire) || self.session.turns.captures() {
            return false;
        }
        let Some((bytes, context)) = self.session.quota.blocks().large(address) else { return false };
        if bytes > MOST || !self.here().is_ok_and(|(_, here)| here == context) {
            return false;
        }
        let mut block = spare.lock();
        if block.is_some() {
            return false;
        }
        *block = Some(Block { address, bytes, context });
        // Whoever is told of the free looks: its lane is published after this call.
        spare.there.store(true, Ordering::Release);
        true
    }

    /// Before a call of `function`: if it may have to do with a free that waits, that is carried out.
    #[inline]
    pub fn free_before(&self, function: u32) {
        if function != ALLOCATE {
            self.free_now();
        }
    }

    /// Carries the free out that waits, if any.
    #[inline]
    pub fn free_now(&self) {
        if self.session.spare.there.load(Ordering::Acquire) {
            self.free_spare();
        }
    }

    #[cold]
    fn free_spare(&self) {
        if let Some(block) = self.session.spare.take() {
            self.free_block(block);
        }
    }

    fn free_block(&self, block: Block) {
        // It was valid. What may have failed since is the context, of which the next call tells.
        if let Err(error) = self.free_at(block.address) {
            tracing::debug!("freeing {:#x} failed with {}", block.address, error.0);
        }
    }

    /// Memory of the current context for an allocation of `bytes`: what the free that waits would give back.
    pub fn allocate_again(&self, bytes: u64) -> Option<u64> {
        if !self.session.spare.there.load(Ordering::Acquire) {
            return None;
        }
        let block = self.session.spare.take()?;
        let fits = block.bytes == bytes
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
    // SAFETY: memory of this client, that long, which nobody else is told of before this returns.
    let status = unsafe { [wait(), clear(block.address, 0, bytes), wait()] };
    status.into_iter().all(|status| check(status).is_ok()).then_some(())
}
