//! Memory in windows: small blocks share windows, large ones have their own. The first window is small: most programs start with little.

mod blocks;

use crate::windows::{Window, WindowError, Windows};
use blocks::Blocks;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thiserror::Error;
use vgpu_spec::wire::{HUGE_PAGE, WINDOW_AREA_LEN};

/// Windows that small blocks share come to a multiple of so many bytes, but for the first one.
const SHARED_LEN: u64 = 32 << 20;
/// Bytes of that one. A window is registered as a whole, for which it gets all of its pages: a program that loads its first module waits for
/// that. Pinned memory comes at 1.6 GiB a second (cuMemHostAlloc beside an H100): 32 MiB take 20 ms, a program's start should take a few.
const FIRST_LEN: u64 = HUGE_PAGE;
/// Blocks of at least this many bytes have a window of their own.
const LARGE: u64 = 16 << 20;
/// The least alignment, and the unit of sizes: what a device allocation has.
const UNIT: u64 = 256;

/// Why there is no memory.
#[derive(Debug, Error)]
pub enum HeapError {
    #[error("allocating shared memory: {len} bytes aligned to {align} are not possible")]
    Request { len: u64, align: u64 },
    #[error("allocating {len} bytes of shared memory: {in_use} of at most {limit} bytes are in use")]
    Limit { len: u64, in_use: u64, limit: u64 },
    #[error("allocating {len} bytes of shared memory")]
    Window { len: u64, source: WindowError },
    #[error("allocating shared memory: this process was forked from one that uses the GPU")]
    Forked,
}

/// An allocator of window memory. Thread-safe.
#[derive(Debug)]
pub struct Heap {
    windows: Arc<Windows>,
    limit: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Shared windows by base.
    shared: BTreeMap<u64, (Window, Blocks)>,
    /// Large blocks by base, with the length that was asked for.
    large: BTreeMap<u64, (Window, u64)>,
    /// A window of a large block that was freed, for the next one.
    spare: Option<Window>,
    /// Bytes of all windows, the spare included.
    held: u64,
}

impl Heap {
    /// A heap that holds windows of at most `limit` bytes together.
    pub fn new(windows: Arc<Windows>, limit: u64) -> Self {
        Heap { windows, limit, state: Mutex::default() }
    }

    /// Allocates `len` > 0 bytes at a multiple of `align`, a power of two up to 2 MiB; blocks are aligned to 256 bytes at least.
    /// The content is whatever was there before: this process's or zeros.
    pub fn alloc(&self, len: u64, align: u64) -> Result<u64, HeapError> {
        if crate::fork::forked() {
            return Err(HeapError::Forked);
        }
        if len == 0 || len > WINDOW_AREA_LEN || !align.is_power_of_two() || align > HUGE_PAGE {
            return Err(HeapError::Request { len, align });
        }
        let mut state = self.state();
        if len >= LARGE {
            self.alloc_large(&mut state, len)
        } else {
            self.alloc_small(&mut state, len, align.max(UNIT))
        }
    }

    /// Frees the block that starts at `address`; `false` if there is none. The worker must have finished with it.
    pub fn free(&self, address: u64) -> bool {
        if crate::fork::forked() {
            return false;
        }
        let mut state = self.state();
        if let Some((window, _)) = state.large.remove(&address) {
            self.keep_spare(&mut state, window);
            return true;
        }
        let Some((base, (window, blocks))) = state.shared.range_mut(..=address).next_back() else {
            return false;
        };
        if !window.contains(address) || !blocks.free(address) {
            return false;
        }
        let base = *base;
        // The first window is kept, and an empty one for what comes next.
        let empty = |(window, blocks): &(Window, Blocks)| window.len > FIRST_LEN && blocks.is_empty();
        if state.shared.get(&base).is_some_and(empty)
            && state.shared.values().filter(|shared| empty(shared)).count() > 1
            && let Some((window, _)) = state.shared.remove(&base)
        {
            self.give_back(&mut state, window);
        }
        true
    }

    /// The block in which `address` lies: its base, and the length that was asked for.
    pub fn find(&self, address: u64) -> Option<(u64, u64)> {
        if crate::fork::forked() {
            return None;
        }
        let state = self.state();
        if let Some((base, (_, len))) = state.large.range(..=address).next_back()
            && address - base < *len
        {
            return Some((*base, *len));
        }
        let (window, blocks) = state.shared.range(..=address).next_back()?.1;
        if window.contains(address) { blocks.find(address) } else { None }
    }

    /// Bytes of all windows that the heap holds.
    pub fn held(&self) -> u64 {
        self.state().held
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alloc_small(&self, state: &mut State, len: u64, align: u64) -> Result<u64, HeapError> {
        for (_, blocks) in state.shared.values_mut() {
            if let Some(address) = blocks.alloc(len, align) {
                return Ok(address);
            }
        }
        let held: u64 = state.shared.values().map(|(window, _)| window.len).sum();
        let rounded = if held == 0 && len <= FIRST_LEN { FIRST_LEN } else { SHARED_LEN - held % SHARED_LEN };
        let window = self.window(state, rounded, len)?;
        let mut blocks = Blocks::new(window.address, window.len, UNIT);
        // An empty window holds the block, and all but the first any block below LARGE, at any alignment up to its own (2 MiB).
        let address = blocks.alloc(len, align);
        state.shared.insert(window.address, (window, blocks));
        address.ok_or(HeapError::Request { len, align })
    }

    fn alloc_large(&self, state: &mut State, len: u64) -> Result<u64, HeapError> {
        let rounded = len.next_multiple_of(HUGE_PAGE);
        let fits = |window: &mut Window| window.len >= rounded && window.len / 2 <= rounded;
        let window = match state.spare.take_if(fits) {
            Some(window) => window,
            None => self.window(state, rounded, len)?,
        };
        state.large.insert(window.address, (window, len));
        Ok(window.address)
    }

    /// A new window, within the limit; the spare goes first if it is in the way.
    fn window(&self, state: &mut State, rounded: u64, len: u64) -> Result<Window, HeapError> {
        if state.held + rounded > self.limit
            && let Some(spare) = state.spare.take()
        {
            self.give_back(state, spare);
        }
        if state.held + rounded > self.limit {
            return Err(HeapError::Limit { len, in_use: state.held, limit: self.limit });
        }
        let window = match (self.windows.allocate(rounded), state.spare.take()) {
            // The guest may be out of memory for windows, and the spare is some.
            (Err(_), Some(spare)) => {
                self.give_back(state, spare);
                self.windows.allocate(rounded)
            }
            (result, spare) => {
                state.spare = spare;
                result
            }
        };
        let window = window.map_err(|source| HeapError::Window { len, source })?;
        state.held += window.len;
        Ok(window)
    }

    /// Keeps the larger of the spare and `window`, gives the other back.
    fn keep_spare(&self, state: &mut State, window: Window) {
        let surplus = match state.spare.replace(window) {
            Some(old) if old.len > window.len => state.spare.replace(old),
            old => old,
        };
        if let Some(surplus) = surplus {
            self.give_back(state, surplus);
        }
    }

    fn give_back(&self, state: &mut State, window: Window) {
        state.held -= window.len;
        self.windows.free(&window);
    }
}
