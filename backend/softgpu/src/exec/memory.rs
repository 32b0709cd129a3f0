//! Access to the state spaces: alignment, bounds, generic windows.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::Memory;
use super::inst::MemSpace;
use super::lanes::WARP;

/// Generic addresses from here on are not global memory; host addresses of programs end at 2^47.
const SHARED_WINDOW: u64 = 1 << 56;
const LOCAL_WINDOW: u64 = 2 << 56;
const PARAM_WINDOW: u64 = 3 << 56;
const WINDOW_SIZE: u64 = 1 << 32;

/// Most bytes of local memory that one thread may use.
pub(crate) const MAX_LOCAL: u32 = 16 << 20;

/// The base of a space in the generic address space; `None` where both are the same.
pub(crate) fn window(space: MemSpace) -> Option<u64> {
    match space {
        MemSpace::Shared => Some(SHARED_WINDOW),
        MemSpace::Local => Some(LOCAL_WINDOW),
        MemSpace::Param => Some(PARAM_WINDOW),
        MemSpace::Generic | MemSpace::Global => None,
    }
}

/// The space that a generic address is in, and the address there.
pub(crate) fn resolve(address: u64) -> (MemSpace, u64) {
    for space in [MemSpace::Shared, MemSpace::Local, MemSpace::Param] {
        let offset = address.wrapping_sub(window(space).unwrap_or(0));
        if offset < WINDOW_SIZE {
            return (space, offset);
        }
    }
    (MemSpace::Global, address)
}

/// An access that cannot be done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BadAccess {
    pub lane: u32,
    pub address: u64,
    pub length: u64,
    pub misaligned: bool,
}

/// Memory that the threads of a warp have of their own: lane after lane.
#[derive(Debug, Default)]
pub(crate) struct LocalMemory {
    bytes: Vec<u8>,
    /// Bytes of each lane.
    stride: usize,
}

impl LocalMemory {
    /// Makes at least `size` bytes usable in each lane.
    pub fn reserve(&mut self, size: u32) {
        let size = size as usize;
        if size <= self.stride {
            return;
        }
        let stride = size.next_power_of_two().max(64);
        let mut bytes = vec![0u8; stride * WARP];
        if self.stride > 0 {
            for (new, old) in bytes.chunks_exact_mut(stride).zip(self.bytes.chunks_exact(self.stride)) {
                new[..self.stride].copy_from_slice(old);
            }
        }
        (self.bytes, self.stride) = (bytes, stride);
    }

    fn slice(&mut self, lane: u32, address: u64, length: u64) -> Option<&mut [u8]> {
        let end = address.checked_add(length)?;
        if end > self.stride as u64 {
            return None;
        }
        let start = lane as usize * self.stride + usize::try_from(address).ok()?;
        self.bytes.get_mut(start..start + usize::try_from(length).ok()?)
    }

    /// Copies within the memory of one lane.
    pub fn copy(&mut self, lane: u32, from: u32, to: u32, length: u32) {
        let Some(bytes) = self.slice(lane, 0, self.stride as u64) else { return };
        let (from, to, length) = (from as usize, to as usize, length as usize);
        if from + length <= bytes.len() && to + length <= bytes.len() {
            bytes.copy_within(from..from + length, to);
        }
    }
}

fn read_bytes(bytes: &[u8]) -> u64 {
    let mut value = [0u8; 8];
    if let Some(low) = value.get_mut(..bytes.len()) {
        low.copy_from_slice(bytes);
    }
    u64::from_le_bytes(value)
}

/// Device `malloc`: blocks of host memory that live as long as the program.
#[derive(Debug, Default)]
pub(crate) struct Heap {
    blocks: Mutex<HeapBlocks>,
}

#[derive(Debug, Default)]
struct HeapBlocks {
    live: std::collections::BTreeMap<u64, Box<[AtomicU64]>>,
    used: u64,
}

/// The size that CUDA gives the device heap unless told otherwise.
const HEAP_LIMIT: u64 = 8 << 20;

impl Heap {
    fn lock(&self) -> std::sync::MutexGuard<'_, HeapBlocks> {
        self.blocks.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The address of new memory, 0 when there is none left.
    pub fn allocate(&self, size: u64) -> u64 {
        let words = size.div_ceil(16).max(1).saturating_mul(2);
        let mut blocks = self.lock();
        if size > HEAP_LIMIT || blocks.used + words * 8 > HEAP_LIMIT {
            return 0;
        }
        let memory: Box<[AtomicU64]> = (0..=words).map(|_| AtomicU64::new(0)).collect();
        // One word more than asked for, so that the block can begin at a multiple of 16.
        let address = (memory.as_ptr().expose_provenance() as u64).next_multiple_of(16);
        blocks.used += words * 8;
        blocks.live.insert(address, memory);
        address
    }

    /// False if there is no such block.
    pub fn release(&self, address: u64) -> bool {
        let mut blocks = self.lock();
        let Some(memory) = blocks.live.remove(&address) else { return false };
        blocks.used -= (memory.len() as u64 - 1) * 8;
        true
    }

    fn contains(&self, address: u64, length: u64) -> bool {
        let blocks = self.lock();
        let Some((start, memory)) = blocks.live.range(..=address).next_back() else { return false };
        let end = start + (memory.len() as u64 - 1) * 8;
        address.checked_add(length).is_some_and(|last| last <= end)
    }
}

/// What lanes of one warp can reach.
pub(crate) struct View<'a> {
    pub global: &'a dyn Memory,
    pub heap: &'a Heap,
    pub shared: &'a mut [u8],
    pub local: &'a mut LocalMemory,
    pub params: &'a [u8],
}

impl View<'_> {
    /// Checks a global access of each lane in `mask`, all at once where they lie together.
    pub fn check_global(&self, addresses: &[u64; WARP], mask: u32, length: u64) -> Result<(), BadAccess> {
        let (mut low, mut high, mut bits) = (u64::MAX, 0, 0);
        for (lane, address) in addresses.iter().enumerate() {
            if mask >> lane & 1 == 1 {
                low = low.min(*address);
                high = high.max(*address);
                bits |= *address;
            }
        }
        if bits & (length - 1) == 0
            && high < SHARED_WINDOW
            && self.global.accessible(low, high - low + length)
        {
            return Ok(());
        }
        for lane in lanes(mask) {
            self.check_lane(lane, addresses[lane as usize], length)?;
        }
        Ok(())
    }

    fn check_lane(&self, lane: u32, address: u64, length: u64) -> Result<(), BadAccess> {
        if address & (length - 1) != 0 {
            return Err(BadAccess { lane, address, length, misaligned: true });
        }
        let valid = address < SHARED_WINDOW
            && (self.global.accessible(address, length) || self.heap.contains(address, length));
        if valid { Ok(()) } else { Err(BadAccess { lane, address, length, misaligned: false }) }
    }

    /// The bytes of an access outside of global memory.
    fn slice(
        &mut self,
        space: MemSpace,
        lane: u32,
        address: u64,
        length: u64,
    ) -> Result<&mut [u8], BadAccess> {
        let bad = BadAccess { lane, address, length, misaligned: false };
        if address & (length - 1) != 0 {
            return Err(BadAccess { misaligned: true, ..bad });
        }
        let found = match space {
            MemSpace::Shared => usize::try_from(address).ok().and_then(|start| {
                self.shared.get_mut(start..start.checked_add(usize::try_from(length).ok()?)?)
            }),
            MemSpace::Local => self.local.slice(lane, address, length),
            _ => None,
        };
        found.ok_or(bad)
    }

    /// Reads `count` elements of `size` bytes for one lane.
    pub fn read(
        &mut self,
        space: MemSpace,
        lane: u32,
        address: u64,
        size: u32,
        out: &mut [u64],
    ) -> Result<(), BadAccess> {
        let (space, address) = if space == MemSpace::Generic { resolve(address) } else { (space, address) };
        let length = u64::from(size) * out.len() as u64;
        match space {
            MemSpace::Global => {
                self.check_lane(lane, address, length)?;
                for (i, value) in out.iter_mut().enumerate() {
                    // SAFETY: the range was found accessible and aligned just now.
                    *value = unsafe { read_global(address + i as u64 * u64::from(size), size) };
                }
            }
            MemSpace::Param => {
                let bad = BadAccess { lane, address, length, misaligned: false };
                let start = usize::try_from(address).map_err(|_| bad)?;
                let end = start.checked_add(usize::try_from(length).map_err(|_| bad)?).ok_or(bad)?;
                let bytes = self.params.get(start..end).ok_or(bad)?;
                for (value, bytes) in out.iter_mut().zip(bytes.chunks_exact(size as usize)) {
                    *value = read_bytes(bytes);
                }
            }
            _ => {
                let bytes = self.slice(space, lane, address, length)?;
                for (value, bytes) in out.iter_mut().zip(bytes.chunks_exact(size as usize)) {
                    *value = read_bytes(bytes);
                }
            }
        }
        Ok(())
    }

    /// Writes elements of `size` bytes for one lane.
    pub fn write(
        &mut self,
        space: MemSpace,
        lane: u32,
        address: u64,
        size: u32,
        values: &[u64],
    ) -> Result<(), BadAccess> {
        let (space, address) = if space == MemSpace::Generic { resolve(address) } else { (space, address) };
        let length = u64::from(size) * values.len() as u64;
        if space == MemSpace::Global {
            self.check_lane(lane, address, length)?;
            for (i, value) in values.iter().enumerate() {
                // SAFETY: the range was found accessible and aligned just now.
                unsafe { write_global(address + i as u64 * u64::from(size), size, *value) };
            }
            return Ok(());
        }
        let bytes = self.slice(space, lane, address, length)?;
        for (value, bytes) in values.iter().zip(bytes.chunks_exact_mut(size as usize)) {
            bytes.copy_from_slice(&value.to_le_bytes()[..size as usize]);
        }
        Ok(())
    }

    /// Replaces a value by `f` of it and returns the old one; atomic where others could interfere.
    pub fn update(
        &mut self,
        space: MemSpace,
        lane: u32,
        address: u64,
        size: u32,
        f: impl Fn(u64) -> u64,
    ) -> Result<u64, BadAccess> {
        let (space, address) = if space == MemSpace::Generic { resolve(address) } else { (space, address) };
        if space == MemSpace::Global {
            self.check_lane(lane, address, u64::from(size))?;
            // SAFETY: the range was found accessible and aligned just now.
            return Ok(unsafe { super::atomic::update(address, size, f) });
        }
        let bytes = self.slice(space, lane, address, u64::from(size))?;
        let old = read_bytes(bytes);
        bytes.copy_from_slice(&f(old).to_le_bytes()[..size as usize]);
        Ok(old)
    }

    /// A string that ends with NUL, at most `limit` bytes.
    pub fn string(&mut self, lane: u32, address: u64, limit: usize) -> Result<Vec<u8>, BadAccess> {
        let mut text = Vec::new();
        while text.len() < limit {
            let mut byte = [0u64];
            self.read(MemSpace::Generic, lane, address.wrapping_add(text.len() as u64), 1, &mut byte)?;
            match byte[0] {
                0 => break,
                byte => text.push(byte as u8),
            }
        }
        Ok(text)
    }
}

/// The lanes of a mask, in order.
pub(crate) fn lanes(mask: u32) -> impl Iterator<Item = u32> {
    let mut left = mask;
    std::iter::from_fn(move || {
        let lane = left.trailing_zeros();
        left &= left.wrapping_sub(1);
        (lane < 32).then_some(lane)
    })
}

/// Reads global memory as the hardware does: each element whole, in no order with other threads.
///
/// # Safety
/// The bytes must be mapped, and `address` a multiple of `size`.
#[inline(always)]
pub(crate) unsafe fn read_global(address: u64, size: u32) -> u64 {
    let place = address as usize;
    // SAFETY: the caller guarantees validity and alignment; atomic access allows for concurrent writers.
    unsafe {
        match size {
            1 => u64::from(
                AtomicU8::from_ptr(std::ptr::with_exposed_provenance_mut(place)).load(Ordering::Relaxed),
            ),
            2 => u64::from(
                AtomicU16::from_ptr(std::ptr::with_exposed_provenance_mut(place)).load(Ordering::Relaxed),
            ),
            4 => u64::from(
                AtomicU32::from_ptr(std::ptr::with_exposed_provenance_mut(place)).load(Ordering::Relaxed),
            ),
            _ => AtomicU64::from_ptr(std::ptr::with_exposed_provenance_mut(place)).load(Ordering::Relaxed),
        }
    }
}

/// Writes global memory, each element whole.
///
/// # Safety
/// The bytes must be mapped writable, and `address` a multiple of `size`.
#[inline(always)]
pub(crate) unsafe fn write_global(address: u64, size: u32, value: u64) {
    let place = address as usize;
    // SAFETY: the caller guarantees validity and alignment; atomic access allows for concurrent accesses.
    unsafe {
        match size {
            1 => AtomicU8::from_ptr(std::ptr::with_exposed_provenance_mut(place))
                .store(value as u8, Ordering::Relaxed),
            2 => AtomicU16::from_ptr(std::ptr::with_exposed_provenance_mut(place))
                .store(value as u16, Ordering::Relaxed),
            4 => AtomicU32::from_ptr(std::ptr::with_exposed_provenance_mut(place))
                .store(value as u32, Ordering::Relaxed),
            _ => AtomicU64::from_ptr(std::ptr::with_exposed_provenance_mut(place))
                .store(value, Ordering::Relaxed),
        }
    }
}
