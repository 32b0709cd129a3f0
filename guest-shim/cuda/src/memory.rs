//! Device memory: what the program owns, so that pointer queries and copies of unknown direction need not ask, and the addresses that
//! this process keeps free of host memory.

mod address_range;

pub use address_range::{cuMemGetAddressRange_v2, cuMemGetHandleForAddressRange};

use crate::{
    call::put,
    calls, context, error, managed_memory,
    sharing::{self, Thing},
};
use std::{
    collections::BTreeMap,
    ffi::c_void,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};
use vgpu_spec::wire::Range;

/// How often an allocation that collides with host memory is tried again.
const TRIES: usize = 8;
const PAGE: u64 = 4096;
/// The most by which the driver rounds an allocation up: a page of device memory.
const ROUNDING: u64 = 2 << 20;

/// What a range of device memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Allocated,
    /// Memory of a window, which the program reaches too.
    Managed,
    /// From this pool; 0 is the device's default pool.
    Pool(u64),
    /// Of a graph's node: it is freed and allocated again by launches, so freeing it does not end the range.
    Graph,
    /// Another process's, opened here.
    Opened,
    /// A variable of this module or library.
    Variable(u64),
    /// A mapping of this allocation (virtual memory management), whose memory is on a device.
    Mapped {
        handle: u64,
        device: i32,
    },
}

/// A range of device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    pub base: u64,
    pub len: u64,
    pub context: u64,
    pub origin: Origin,
    /// A number unique in this process's life (CU_POINTER_ATTRIBUTE_BUFFER_ID).
    pub id: u64,
}

struct State {
    blocks: BTreeMap<u64, Block>,
    /// Addresses that the program reserved, whatever is mapped there: base and bytes.
    reservations: BTreeMap<u64, u64>,
    /// Ranges in which this process has nothing mapped and never will.
    reserved: Vec<Range>,
    next_id: u64,
}

static STATE: Mutex<State> = Mutex::new(State {
    blocks: BTreeMap::new(),
    reservations: BTreeMap::new(),
    reserved: Vec::new(),
    next_id: 1,
});

/// There has been a block of a graph's.
static GRAPHS: AtomicBool = AtomicBool::new(false);

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn find(&self, address: u64) -> Option<Block> {
        let (_, block) = self.blocks.range(..=address).next_back()?;
        (address - block.base < block.len).then_some(*block)
    }

    fn insert(&mut self, base: u64, len: u64, origin: Origin) {
        let id = self.next_id;
        self.next_id += 1;
        // What is mapped belongs to no context.
        let context = if matches!(origin, Origin::Mapped { .. }) { 0 } else { context::current() };
        // Ranges of graphs' memory end when there is something else.
        let end = base.saturating_add(len);
        let stale: Vec<u64> = (self.blocks.range(..end).rev())
            .take_while(|(_, b)| b.base + b.len > base)
            .filter(|(_, b)| b.origin == Origin::Graph)
            .map(|(&at, _)| at)
            .collect();
        for at in stale {
            self.blocks.remove(&at);
        }
        if origin == Origin::Graph {
            GRAPHS.store(true, Ordering::Release);
        }
        self.blocks.insert(base, Block { base, len, context, origin, id });
    }
}

/// Says which addresses are kept free for device memory.
pub fn set_reserved(ranges: Vec<Range>) {
    state().reserved = ranges;
}

/// The block in which `address` lies.
pub fn find(address: u64) -> Option<Block> {
    state().find(address)
}

/// Whether `[address, address + len)` lies in one known block, or in mappings that adjoin.
pub fn known(address: u64, len: u64) -> bool {
    let Some(end) = address.checked_add(len) else { return false };
    let state = state();
    let mut at = address;
    while let Some(block) = state.find(at) {
        at = block.base + block.len;
        if end <= at {
            return true;
        }
        if !matches!(block.origin, Origin::Mapped { .. }) {
            return false;
        }
    }
    false
}

/// Whether `[address, address + len)` begins in known memory and reaches far beyond it. What the driver rounds an allocation up by belongs to
/// it.
pub fn ends_far_within(address: u64, len: u64) -> bool {
    find(address).is_some() && !known(address, len.saturating_sub(ROUNDING))
}

/// Remembers reserved addresses.
pub fn insert_reservation(base: u64, len: usize) {
    state().reservations.insert(base, len as u64);
}

/// Forgets reserved addresses.
pub fn remove_reservation(base: u64) {
    state().reservations.remove(&base);
}

/// The reservation in which `address` lies: base and bytes.
pub fn reservation(address: u64) -> Option<(u64, u64)> {
    let state = state();
    let (&base, &len) = state.reservations.range(..=address).next_back()?;
    (address - base < len).then_some((base, len))
}

/// Remembers a mapping of an allocation.
pub fn insert_mapping(base: u64, len: usize, handle: u64, device: i32) {
    state().insert(base, len as u64, Origin::Mapped { handle, device });
}

/// Forgets the mappings in `[base, base + len)`.
pub fn remove_mappings(base: u64, len: usize) {
    let end = base.saturating_add(len as u64);
    let gone =
        |b: &Block| matches!(b.origin, Origin::Mapped { .. }) && b.base >= base && b.base + b.len <= end;
    state().blocks.retain(|_, b| !gone(b));
}

/// Allocation and device of what is mapped at `address`.
pub fn mapping(address: u64) -> Option<(u64, i32)> {
    match find(address)?.origin {
        Origin::Mapped { handle, device } => Some((handle, device)),
        _ => None,
    }
}

/// Gives the mappings of an allocation another handle of it.
pub fn rename_mappings(old: u64, new: u64) {
    for block in state().blocks.values_mut() {
        if let Origin::Mapped { handle, .. } = &mut block.origin
            && *handle == old
        {
            *handle = new;
        }
    }
}

/// Remembers a variable of a module or library.
pub fn insert_variable(owner: u64, base: u64, len: usize) {
    state().insert(base, len as u64, Origin::Variable(owner));
}

/// Remembers memory that the driver gave.
pub fn insert(base: u64, len: usize, origin: Origin) {
    state().insert(base, len as u64, origin);
}

/// Forgets a block; `false` if `base` is not where allocated memory begins.
pub fn remove(base: u64) -> bool {
    let mut state = state();
    match state.blocks.get(&base) {
        Some(block) if matches!(block.origin, Origin::Allocated | Origin::Pool(_)) => {
            state.blocks.remove(&base).is_some()
        }
        _ => false,
    }
}

/// Forgets managed memory; `false` if `base` is not where some begins.
pub fn remove_managed(base: u64) -> bool {
    let mut state = state();
    let found = state.blocks.get(&base).is_some_and(|block| block.origin == Origin::Managed);
    found && state.blocks.remove(&base).is_some()
}

/// The managed memory that all of `[address, address + len)` lies in.
pub fn managed(address: u64, len: u64) -> Option<Block> {
    let block = find(address).filter(|block| block.origin == Origin::Managed)?;
    (len <= block.len - (address - block.base)).then_some(block)
}

/// A number for a block of memory that no other has or had.
pub fn new_id() -> u64 {
    let mut state = state();
    state.next_id += 1;
    state.next_id - 1
}

/// Whether a graph of this process has, or has had, memory.
pub fn graphs_have_any() -> bool {
    GRAPHS.load(Ordering::Acquire)
}

/// Whether memory of a graph's node begins at `base`.
pub fn is_graphs(base: u64) -> bool {
    find(base).is_some_and(|b| b.base == base && b.origin == Origin::Graph)
}

/// Forgets memory of another process in which `address` lies.
pub fn remove_opened(address: u64) {
    let mut state = state();
    if let Some(block) = state.find(address).filter(|b| b.origin == Origin::Opened) {
        state.blocks.remove(&block.base);
    }
}

/// Keeps the addresses of memory that cannot be placed elsewhere free of host memory; `false` if something is there.
pub fn claim(base: u64, len: usize) -> bool {
    keep_free(base, len as u64)
}

/// Forgets the variables of a module or library that ends.
pub fn forget_module(owner: u64) {
    state().blocks.retain(|_, b| b.origin != Origin::Variable(owner));
}

/// Forgets what belongs to a context that ends.
pub fn forget_context(context: u64) {
    let stays = |b: &Block| b.context != context || matches!(b.origin, Origin::Mapped { .. });
    state().blocks.retain(|_, b| stays(b));
}

/// Whether this process keeps the range free: reserved at the start, or reserved now. `false` if something is mapped there, so that a
/// device pointer would also be a host pointer.
fn keep_free(base: u64, len: u64) -> bool {
    let mut state = state();
    let start = base & !(PAGE - 1);
    let Some(end) = base.checked_add(len).map(|e| e.next_multiple_of(PAGE)) else { return false };
    // Neighbours share pages, so only what no range covers yet is reserved.
    let mut at = start;
    while at < end {
        let covering = state.reserved.iter().find(|r| r.contains(at, 1)).and_then(Range::end);
        if let Some(covered) = covering {
            at = covered;
            continue;
        }
        let next = state.reserved.iter().map(|r| r.base).filter(|&b| b > at).min().unwrap_or(end).min(end);
        if !reserve(at, next - at) {
            return false;
        }
        state.reserved.push(Range { base: at, len: next - at });
        at = next;
    }
    true
}

fn reserve(base: u64, len: u64) -> bool {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
    let place = std::ptr::with_exposed_provenance_mut::<c_void>(base as usize);
    // SAFETY: NOREPLACE: nothing that is mapped is touched.
    let got = unsafe { libc::mmap(place, len as usize, libc::PROT_NONE, flags, -1, 0) };
    if got == libc::MAP_FAILED {
        return false;
    }
    if got != place {
        // Kernels before 4.17 take the address as a hint.
        // SAFETY: the mapping just made.
        unsafe { libc::munmap(got, len as usize) };
        return false;
    }
    true
}

/// Allocates with `ask`, as [`place`] does, and remembers the memory.
fn allocate(
    len: usize,
    ask: impl FnMut(&mut u64) -> error::Result,
    release: impl Fn(u64) -> error::Result,
) -> error::Result<u64> {
    let address = place(len, ask, release)?;
    insert(address, len, Origin::Allocated);
    Ok(address)
}

/// Asks with `ask` until the address is one that this process can keep free; those that are not are given back with `release`.
pub fn place(
    len: usize,
    mut ask: impl FnMut(&mut u64) -> error::Result,
    release: impl Fn(u64) -> error::Result,
) -> error::Result<u64> {
    let mut colliding = Vec::new();
    let mut result = Err(error::OUT_OF_MEMORY);
    for _ in 0..TRIES {
        let mut address = 0;
        if let Err(status) = ask(&mut address) {
            result = Err(status);
            break;
        }
        if keep_free(address, len as u64) {
            result = Ok(address);
            break;
        }
        vgpu_client::debug!("device memory at {address:#x} collides with host memory here; asking again");
        colliding.push(address);
    }
    for address in colliding {
        let _ = release(address);
    }
    result
}

pub unsafe fn cuMemAlloc_v2(dptr: *mut u64, bytesize: usize) -> error::Result {
    if dptr.is_null() || bytesize == 0 {
        return Err(error::INVALID_VALUE);
    }
    let address = allocate(bytesize, |place| calls::cuMemAlloc_v2(place, bytesize), calls::cuMemFree_v2)?;
    // SAFETY: checked above; the program's pointer.
    unsafe { put(dptr, address) }
}

pub unsafe fn cuMemAllocPitch_v2(
    dptr: *mut u64,
    pPitch: *mut usize,
    WidthInBytes: usize,
    Height: usize,
    ElementSizeBytes: u32,
) -> error::Result {
    if dptr.is_null() || pPitch.is_null() || WidthInBytes == 0 || Height == 0 {
        return Err(error::INVALID_VALUE);
    }
    let mut pitch = 0;
    // The pitch is only known with the answer; rows are never wider than twice the least pitch of 512 bytes and the width.
    let most = WidthInBytes.checked_next_multiple_of(512).and_then(|pitch| pitch.checked_mul(Height));
    let most = most.ok_or(error::INVALID_VALUE)?;
    let ask = |place: &mut u64| {
        calls::cuMemAllocPitch_v2(place, &mut pitch, WidthInBytes, Height, ElementSizeBytes)
    };
    let address = allocate(most, ask, calls::cuMemFree_v2)?;
    if let Some(len) = pitch.checked_mul(Height).filter(|&len| len != most) {
        remove(address);
        insert(address, len, Origin::Allocated);
    }
    // SAFETY: checked above; the program's pointers.
    unsafe { put(dptr, address).and_then(|()| put(pPitch, pitch)) }
}

/// NULL is freed without error, as the driver does.
pub unsafe fn cuMemFree_v2(dptr: u64) -> error::Result {
    if dptr == 0 {
        return Ok(());
    }
    if let Some(result) = managed_memory::free(dptr) {
        return result;
    }
    if !is_graphs(dptr) && !remove(dptr) {
        return Err(error::INVALID_VALUE);
    }
    sharing::withdraw(Thing::Memory(dptr));
    calls::cuMemFree_v2(dptr)
}

/// The form with 32-bit addresses wants a context of CUDA 3.1 or before. Without a current one it does as the later form.
pub unsafe fn cuMemFree(dptr: u32) -> error::Result {
    if context::current() != 0 {
        return Err(error::INVALID_CONTEXT);
    }
    // SAFETY: no pointers.
    unsafe { cuMemFree_v2(u64::from(dptr)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_by_any_address_in_them() {
        insert(0x1000_0000_0000, 512, Origin::Allocated);
        insert_variable(77, 0x1000_0000_0200, 8);
        assert_eq!(find(0x1000_0000_01ff).map(|b| b.base), Some(0x1000_0000_0000));
        assert_eq!(find(0x1000_0000_0200).map(|b| b.origin), Some(Origin::Variable(77)));
        assert_eq!(find(0x1000_0000_0208), None);
        assert!(known(0x1000_0000_0000, 512) && !known(0x1000_0000_0000, 513));
        assert!(!remove(0x1000_0000_0200), "a variable is not freed");
        forget_module(77);
        assert_eq!(find(0x1000_0000_0200), None);
        assert!(remove(0x1000_0000_0000) && !remove(0x1000_0000_0000));
    }

    #[test]
    fn what_an_allocation_is_rounded_up_by_belongs_to_it() {
        let base = 0x1200_0000_0000;
        insert(base, 512, Origin::Allocated);
        assert!(!ends_far_within(base, 512) && !ends_far_within(base, ROUNDING));
        assert!(ends_far_within(base, ROUNDING + 513) && ends_far_within(base + 511, u64::MAX));
        assert!(!ends_far_within(base + 512, u64::MAX), "memory that is not known is the driver's to judge");
        assert!(remove(base));
    }

    #[test]
    fn adjoining_mappings_are_one_range_and_go_one_by_one() {
        let base = 0x1100_0000_0000;
        insert_reservation(base, 0x6000);
        insert_mapping(base, 0x2000, 5, 1);
        insert_mapping(base + 0x2000, 0x2000, 6, 1);
        assert!(known(base + 0x1000, 0x3000) && !known(base + 0x1000, 0x3001));
        assert_eq!(mapping(base + 0x2001), Some((6, 1)));
        assert_eq!(reservation(base + 0x5fff), Some((base, 0x6000)));
        assert_eq!(reservation(base + 0x6000), None);
        assert!(!remove(base), "a mapping is not freed");
        forget_context(context::current());
        rename_mappings(5, 9);
        assert_eq!(mapping(base), Some((9, 1)), "a mapping outlives contexts");
        remove_mappings(base, 0x2000);
        assert_eq!((find(base), mapping(base + 0x2000)), (None, Some((6, 1))));
        remove_mappings(base, 0x6000);
        remove_reservation(base);
        assert_eq!((find(base + 0x2000), reservation(base)), (None, None));
    }

    #[test]
    fn an_address_that_is_host_memory_here_is_asked_for_again() {
        let host = vec![0_u8; 1 << 20];
        let taken = host.as_ptr() as u64;
        let free = 0x2f00_0000_0000_u64;
        let mut answers = [taken, free].into_iter();
        let released = Mutex::new(Vec::new());
        let got = allocate(
            8192,
            |place| {
                *place = answers.next().unwrap();
                Ok(())
            },
            |address| {
                released.lock().unwrap().push(address);
                Ok(())
            },
        );
        assert_eq!(got, Ok(free));
        assert_eq!(*released.lock().unwrap(), [taken]);
        // A neighbour on the same page needs no new reservation.
        assert!(keep_free(free + 8192 - 512, 1024));
        remove(free);
    }
}
