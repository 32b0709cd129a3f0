//! Memory of windows through which copies of pageable memory go, kept from copy to copy.

mod job;
mod past_cache;
mod pipeline;
mod place;
mod pool;

pub use pipeline::{from_device, to_device};

use crate::{call, calls, client, error};
use std::sync::{Mutex, PoisonError};

/// Bytes of a block: one part of a copy in rows or of an array.
pub const BLOCK: usize = 4 << 20;
/// Bytes of a small block: copies up to so many go from the device in one part.
pub const SMALL: usize = 256 << 10;
/// Bytes of a ring's chunks, and of the words behind them, one for each chunk.
const RING: usize = 16 << 20;
const RING_WORDS: usize = 4 << 10;

/// Blocks of one size, of which some are kept for the next copy.
struct Store {
    len: usize,
    keep: usize,
    kept: Mutex<Vec<u64>>,
}

/// Copies of several threads at once have a block each; so many of them find one that is registered.
static SMALL_BLOCKS: Store = Store::new(SMALL, 16);
static BLOCKS: Store = Store::new(BLOCK, 4);
static RINGS: Store = Store::new(RING + RING_WORDS, 4);

impl Store {
    const fn new(len: usize, keep: usize) -> Self {
        Store { len, keep, kept: Mutex::new(Vec::new()) }
    }

    fn take(&'static self) -> error::Result<Block> {
        // Before all else: a forked child has none of the blocks.
        let client = client::get()?;
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let address = match kept {
            Some(address) => address,
            None => client.heap.alloc(self.len as u64, 4096).map_err(|e| error::heap(&e))?,
        };
        Ok(Block { store: self, address })
    }
}

/// A block, given back at the end: nobody may use it any more then.
pub struct Block {
    store: &'static Store,
    address: u64,
}

impl Block {
    /// Takes a block of [`BLOCK`] bytes.
    pub fn take() -> error::Result<Self> {
        BLOCKS.take()
    }

    fn small() -> error::Result<Self> {
        SMALL_BLOCKS.take()
    }

    fn ring() -> error::Result<Self> {
        RINGS.take()
    }

    /// Where it begins, in the window.
    pub fn address(&self) -> u64 {
        self.address
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut kept = self.store.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < self.store.keep {
            kept.push(self.address);
        } else if let Ok(client) = client::get() {
            client.heap.free(self.address);
        }
    }
}

/// Copies up to [`SMALL`] bytes from the device to `dst`. `sure`: the driver takes the copy, so that one wait tells everything.
///
/// # Safety
/// `dst` is `n` writable bytes.
pub unsafe fn small_from_device(dst: *mut u8, src: u64, n: usize, stream: u64, sure: bool) -> error::Result {
    let block = Block::small()?;
    calls::vgpuCopyDeviceToHost(block.address(), src, n.min(SMALL), stream)?;
    let taken = if sure { Ok(()) } else { call::settle() };
    // Whatever failed before, the device may be about to write the block.
    let done = calls::cuStreamSynchronize(stream);
    taken.and(done).and_then(|()| call::settle())?;
    let staged = std::ptr::with_exposed_provenance::<u8>(block.address() as usize);
    // SAFETY: the caller's bytes; the block is ours, and the device has filled it.
    unsafe { std::ptr::copy_nonoverlapping(staged, dst, n.min(SMALL)) };
    Ok(())
}
