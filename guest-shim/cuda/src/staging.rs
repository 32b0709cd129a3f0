//! Large copies of pageable memory: chunks go through blocks of a window, so that the processor fills one while the device reads
//! another.

use crate::{calls, client, error};
use std::sync::{Mutex, PoisonError};

/// Bytes of a chunk.
const CHUNK: usize = 1 << 20;
/// Chunks of one block: after so many the last is waited for, and the block is used again.
const CHUNKS: usize = 4;
/// Bytes of a block.
pub const BLOCK: usize = CHUNK * CHUNKS;
/// Blocks that are kept for the next copy.
const KEPT: usize = 4;

static BLOCKS: Mutex<Vec<u64>> = Mutex::new(Vec::new());

/// A block of [`CHUNKS`] chunks, given back at the end.
pub struct Block(u64);

impl Block {
    /// Takes a block.
    pub fn take() -> error::Result<Self> {
        let kept = BLOCKS.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match kept {
            Some(address) => Ok(Block(address)),
            None => client::get()?.heap.alloc(BLOCK as u64, 4096).map(Block).map_err(|e| error::heap(&e)),
        }
    }

    /// Where it begins, in the window.
    pub fn address(&self) -> u64 {
        self.0
    }

    fn chunk(&self, index: usize) -> u64 {
        self.0 + (index * CHUNK) as u64
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut kept = BLOCKS.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT {
            kept.push(self.0);
        } else if let Ok(client) = client::get() {
            client.heap.free(self.0);
        }
    }
}

fn place(address: u64) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(address as usize)
}

/// Bytes of the chunk at `at`.
fn chunk_len(at: usize, n: usize) -> usize {
    CHUNK.min(n - at)
}

/// Copies `n` bytes at `src` to the device. The program may change them when this returns.
///
/// # Safety
/// `src` is `n` readable bytes.
pub unsafe fn to_device(dst: u64, src: *const u8, n: usize, stream: u64) -> error::Result {
    let block = Block::take()?;
    let mut at = 0;
    while at < n {
        for index in 0..CHUNKS {
            if at == n {
                break;
            }
            let (len, chunk) = (chunk_len(at, n), block.chunk(index));
            // SAFETY: the caller's bytes; the chunk is ours, and the message that used it before is used.
            unsafe { std::ptr::copy_nonoverlapping(src.add(at), place(chunk), len) };
            crate::copy::count(len);
            calls::vgpuCopyStagedToDevice(dst + at as u64, chunk, len, stream)?;
            at += len;
        }
        crate::call::settle()?;
    }
    Ok(())
}

/// Copies `n` bytes from the device to `dst`.
///
/// # Safety
/// `dst` is `n` writable bytes.
pub unsafe fn from_device(dst: *mut u8, src: u64, n: usize, stream: u64) -> error::Result {
    let block = Block::take()?;
    let mut at = 0;
    while at < n {
        let began = at;
        for index in 0..CHUNKS {
            if at == n {
                break;
            }
            let len = chunk_len(at, n);
            calls::vgpuCopyStagedFromDevice(block.chunk(index), src + at as u64, len, stream)?;
            at += len;
        }
        crate::call::settle()?;
        let len = at - began;
        // SAFETY: the caller's bytes; the chunks adjoin, and their messages are used.
        unsafe { std::ptr::copy_nonoverlapping(place(block.0), dst.add(began), len) };
        crate::copy::count(len);
    }
    Ok(())
}
