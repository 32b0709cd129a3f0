//! Handles are made here: numbers whose parts tell kind, index and generation ([`vgpu_spec::handle`]).
//!
//! The table says which are alive and keeps two words with each, so that getters need not ask and a launch finds its function without
//! a lock.

use crate::error;
use std::sync::{
    Mutex, OnceLock,
    atomic::{AtomicU32, AtomicU64, Ordering},
};
use vgpu_client::fork;
use vgpu_spec::handle::{self, KINDS, Kind, MAX_INDEX, WORKER_INDEX, is_worker_made, next_generation};

const CHUNK: usize = 4096;
const CHUNKS: usize = (MAX_INDEX as usize + 1) / CHUNK;
/// Set in `tag` while the handle is alive; the generation is below.
const LIVE: u32 = 1 << 31;

/// The special streams: default, CU_STREAM_LEGACY, CU_STREAM_PER_THREAD.
pub const SPECIAL_STREAMS: u64 = 2;
/// CU_STREAM_LEGACY.
const LEGACY: u64 = 1;
/// CU_STREAM_PER_THREAD, which green contexts have not.
pub const PER_THREAD: u64 = 2;

#[derive(Default)]
struct Slot {
    tag: AtomicU32,
    words: [AtomicU64; 2],
}

struct Table {
    chunks: [OnceLock<Box<[Slot]>>; CHUNKS],
    free: Mutex<Free>,
}

/// Indexes to use: those given back first, then the next new one.
struct Free {
    again: Vec<u32>,
    next: u32,
}

impl Table {
    const fn new() -> Self {
        Table {
            chunks: [const { OnceLock::new() }; CHUNKS],
            free: Mutex::new(Free { again: Vec::new(), next: 1 }),
        }
    }

    #[inline]
    fn slot(&self, index: u32) -> Option<&Slot> {
        self.chunks.get(index as usize / CHUNK)?.get()?.get(index as usize % CHUNK)
    }

    #[inline]
    fn live(&self, parts: handle::Parts) -> Option<&Slot> {
        let slot = self.slot(parts.index)?;
        (slot.tag.load(Ordering::Acquire) == LIVE | u32::from(parts.generation)).then_some(slot)
    }
}

static TABLES: [Table; KINDS + 1] = [const { Table::new() }; KINDS + 1];

#[inline]
fn live(number: u64) -> Option<&'static Slot> {
    let parts = handle::split(number)?;
    TABLES.get(parts.kind as usize)?.live(parts)
}

/// As [`live`], of a kind that the caller knows: looked up several times in each call, so with no more than that takes.
#[inline]
fn live_of(kind: Kind, number: u64) -> Option<&'static Slot> {
    TABLES[kind as usize].live(handle::split_of(kind, number)?)
}

/// Makes a handle.
///
/// # Errors
/// CUDA_ERROR_OUT_OF_MEMORY when there are too many.
pub fn create(kind: Kind) -> error::Result<u64> {
    create_with(kind, 0, 0)
}

/// Makes a handle with two words of its own.
pub fn create_with(kind: Kind, first: u64, second: u64) -> error::Result<u64> {
    let table = &TABLES[kind as usize];
    let mut free = fork::lock(&table.free).ok_or(error::OUT_OF_MEMORY)?;
    let index = match free.again.pop() {
        Some(index) => index,
        None if free.next < WORKER_INDEX => {
            free.next += 1;
            free.next - 1
        }
        None => return Err(error::OUT_OF_MEMORY),
    };
    drop(free);
    let chunk = table.chunks.get(index as usize / CHUNK).ok_or(error::OUT_OF_MEMORY)?;
    let slots = chunk.get_or_init(|| (0..CHUNK).map(|_| Slot::default()).collect());
    let slot = slots.get(index as usize % CHUNK).ok_or(error::OUT_OF_MEMORY)?;
    let generation = (slot.tag.load(Ordering::Relaxed) & !LIVE) as u16;
    slot.words[0].store(first, Ordering::Relaxed);
    slot.words[1].store(second, Ordering::Relaxed);
    slot.tag.store(LIVE | u32::from(generation), Ordering::Release);
    Ok(handle::make(kind, index, generation))
}

/// Takes a handle that the worker numbered, and gives it back. One that is alive already keeps its words; 0 is no handle.
pub fn adopt(number: u64) -> u64 {
    let Some(parts) = handle::split(number).filter(|p| is_worker_made(p.index)) else { return number };
    let Some(table) = TABLES.get(parts.kind as usize) else { return number };
    let Some(chunk) = table.chunks.get(parts.index as usize / CHUNK) else { return number };
    let slots = chunk.get_or_init(|| (0..CHUNK).map(|_| Slot::default()).collect());
    if let Some(slot) = slots.get(parts.index as usize % CHUNK) {
        let tag = LIVE | u32::from(parts.generation);
        if slot.tag.load(Ordering::Acquire) != tag {
            slot.words[0].store(0, Ordering::Relaxed);
            slot.words[1].store(0, Ordering::Relaxed);
            slot.tag.store(tag, Ordering::Release);
        }
    }
    number
}

/// Ends a handle; its index may be used again, with another generation. Nothing for one that is not alive.
pub fn remove(number: u64) {
    let (Some(slot), Some(parts)) = (live(number), handle::split(number)) else { return };
    let next = u32::from(next_generation(parts.generation));
    let ended = slot.tag.compare_exchange(
        LIVE | u32::from(parts.generation),
        next,
        Ordering::AcqRel,
        Ordering::Relaxed,
    );
    // Numbers of the worker's are its to use again.
    if ended.is_ok()
        && !is_worker_made(parts.index)
        && let Some(mut free) = fork::lock(&TABLES[parts.kind as usize].free)
    {
        free.again.push(parts.index);
    }
}

/// The two words of a live handle of `kind`.
#[inline]
pub fn words(kind: Kind, number: u64) -> error::Result<(u64, u64)> {
    let slot = live_of(kind, number).ok_or(error::INVALID_HANDLE)?;
    Ok((slot.words[0].load(Ordering::Relaxed), slot.words[1].load(Ordering::Relaxed)))
}

/// The two words of a handle of `kind` that lives, or has ended and has left its place to no other.
pub fn last_words(kind: Kind, number: u64) -> Option<(u64, u64)> {
    let parts = handle::split_of(kind, number)?;
    let slot = TABLES[kind as usize].slot(parts.index)?;
    let tag = slot.tag.load(Ordering::Acquire);
    let ended = u32::from(next_generation(parts.generation));
    let kept = tag == LIVE | u32::from(parts.generation) || tag == ended;
    kept.then(|| (slot.words[0].load(Ordering::Relaxed), slot.words[1].load(Ordering::Relaxed)))
}

/// Sets a word of a live handle.
pub fn set_word(number: u64, word: usize, value: u64) {
    if let Some(place) = live(number).and_then(|s| s.words.get(word)) {
        place.store(value, Ordering::Relaxed);
    }
}

/// Live handles of `kind`, in ascending order.
pub fn all(kind: Kind) -> Vec<u64> {
    let table = &TABLES[kind as usize];
    let mut found = Vec::new();
    for (chunk, slots) in table.chunks.iter().enumerate().filter_map(|(i, c)| Some((i, c.get()?))) {
        for (place, slot) in slots.iter().enumerate() {
            let tag = slot.tag.load(Ordering::Acquire);
            if tag & LIVE != 0 {
                let index = u32::try_from(chunk * CHUNK + place).unwrap_or(MAX_INDEX);
                found.push(handle::make(kind, index, (tag & !LIVE) as u16));
            }
        }
    }
    found
}

/// Whether `number` looks like a handle of `kind`, alive or not.
pub fn is(kind: Kind, number: u64) -> bool {
    handle::split_of(kind, number).is_some()
}

#[inline]
fn check(kind: Kind, number: u64, otherwise: u32) -> error::Result {
    if live_of(kind, number).is_some() { Ok(()) } else { Err(otherwise) }
}

/// Measured on driver 580: a stream, event or context that has ended or is something else is CUDA_ERROR_CONTEXT_IS_DESTROYED; only NULL is
/// told apart.
#[inline]
fn check_of_context(kind: Kind, number: u64, null: u32) -> error::Result {
    check(kind, number, if number == 0 { null } else { error::CONTEXT_IS_DESTROYED })
}

/// Refuses what is no live context.
#[inline]
pub fn check_context(number: u64) -> error::Result {
    check_of_context(Kind::Context, number, error::INVALID_CONTEXT)
}

/// Refuses what is no live event.
#[inline]
pub fn check_event(number: u64) -> error::Result {
    check_of_context(Kind::Event, number, error::INVALID_HANDLE)
}

/// Refuses what is no event for a node of a graph.
#[inline]
pub fn check_event_of_node(number: u64) -> error::Result {
    if number == 0 { Err(error::INVALID_VALUE) } else { check_event(number) }
}

macro_rules! checks {
    ($($name:ident, $kind:ident, $error:ident;)*) => {$(
        #[doc = concat!("Refuses what is no live ", stringify!($kind), ".")]
        #[inline]
        pub fn $name(number: u64) -> error::Result {
            check(Kind::$kind, number, error::$error)
        }
    )*};
}
checks! {
    check_module, Module, INVALID_HANDLE;
    check_library, Library, INVALID_HANDLE;
    check_kernel, Kernel, INVALID_HANDLE;
    check_graph, Graph, INVALID_VALUE;
    check_graphnode, GraphNode, INVALID_VALUE;
    check_graphexec, GraphExec, INVALID_VALUE;
    check_userobject, UserObject, INVALID_VALUE;
    check_allocation, Allocation, INVALID_VALUE;
    check_memorypool, MemoryPool, INVALID_VALUE;
    check_asynccallback, AsyncCallback, INVALID_VALUE;
    check_logscallback, LogsCallback, INVALID_VALUE;
    check_resourcedescription, ResourceDescription, INVALID_VALUE;
    check_externalmemory, ExternalMemory, INVALID_VALUE;
    check_graphicsresource, GraphicsResource, INVALID_HANDLE;
}

/// As [`checks`], with one code for NULL and one for what has ended or is something else (measured on driver 580).
macro_rules! checks_of_two {
    ($($name:ident, $kind:ident, $null:ident, $other:ident;)*) => {$(
        #[doc = concat!("Refuses what is no live ", stringify!($kind), ".")]
        #[inline]
        pub fn $name(number: u64) -> error::Result {
            check(Kind::$kind, number, if number == 0 { error::$null } else { error::$other })
        }
    )*};
}
checks_of_two! {
    check_array, Array, INVALID_HANDLE, CONTEXT_IS_DESTROYED;
    check_mipmappedarray, MipmappedArray, INVALID_HANDLE, CONTEXT_IS_DESTROYED;
    check_surfacereference, SurfaceReference, INVALID_HANDLE, CONTEXT_IS_DESTROYED;
    check_linkstate, LinkState, INVALID_HANDLE, INVALID_VALUE;
}

/// Refuses what is no live texture reference: one that has ended otherwise than what never was one.
#[inline]
pub fn check_texturereference(number: u64) -> error::Result {
    let otherwise = match number {
        0 => error::INVALID_HANDLE,
        _ if is(Kind::TextureReference, number) => error::CONTEXT_IS_DESTROYED,
        _ => error::INVALID_CONTEXT,
    };
    check(Kind::TextureReference, number, otherwise)
}

/// Whether the stream is the current context's: the default one, CU_STREAM_LEGACY or CU_STREAM_PER_THREAD.
#[inline]
pub fn is_special_stream(number: u64) -> bool {
    number <= SPECIAL_STREAMS
}

/// Whether the stream is the one that waits for all others; it cannot capture.
#[inline]
pub fn is_default_stream(number: u64) -> bool {
    number <= LEGACY
}

/// Refuses what is no stream: the special ones are.
#[inline]
pub fn check_stream(number: u64) -> error::Result {
    if number == PER_THREAD && crate::context::is_green(crate::context::current()) {
        return Err(error::INVALID_HANDLE);
    }
    if is_special_stream(number) {
        Ok(())
    } else {
        check_of_context(Kind::Stream, number, error::INVALID_HANDLE)
    }
}

/// Refuses what cannot be launched.
#[inline]
pub fn check_callable(number: u64) -> error::Result {
    let kind = if is(Kind::Kernel, number) { Kind::Kernel } else { Kind::Function };
    check(kind, number, error::INVALID_HANDLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ended_handle_is_not_alive_although_its_index_is_used_again() {
        let first = create_with(Kind::Event, 5, 6).unwrap();
        assert_eq!(words(Kind::Event, first), Ok((5, 6)));
        assert_eq!(words(Kind::Stream, first), Err(error::INVALID_HANDLE));
        remove(first);
        remove(first);
        assert_eq!(check_event(first), Err(error::CONTEXT_IS_DESTROYED));
        assert_eq!(last_words(Kind::Event, first), Some((5, 6)));
        assert_eq!(last_words(Kind::Stream, first), None);
        let second = create(Kind::Event).unwrap();
        assert_eq!(last_words(Kind::Event, first), None, "another has its place");
        assert_ne!(first, second);
        assert_eq!(check_event(second), Ok(()));
        assert_eq!(check_event(first), Err(error::CONTEXT_IS_DESTROYED));
    }

    #[test]
    fn a_handle_of_the_worker_lives_until_it_is_removed_and_its_next_generation_is_another() {
        let number = |generation| handle::make(Kind::GraphNode, WORKER_INDEX + 5, generation);
        assert_eq!(check_graphnode(number(0)), Err(error::INVALID_VALUE));
        assert_eq!(adopt(number(0)), number(0));
        set_word(number(0), 0, 9);
        adopt(number(0));
        assert_eq!(words(Kind::GraphNode, number(0)), Ok((9, 0)), "known already");
        adopt(number(1));
        assert_eq!(check_graphnode(number(0)), Err(error::INVALID_VALUE));
        assert_eq!(words(Kind::GraphNode, number(1)), Ok((0, 0)));
        remove(number(1));
        assert_eq!(check_graphnode(number(1)), Err(error::INVALID_VALUE));
        let own = create(Kind::GraphNode).unwrap();
        assert!(!is_worker_made(handle::split(own).unwrap().index));
        assert_eq!(adopt(0), 0);
    }

    #[test]
    fn special_streams_are_streams_and_null_is_nothing_else() {
        for stream in 0..=2 {
            assert_eq!(check_stream(stream), Ok(()));
        }
        assert_eq!(check_stream(3), Err(error::CONTEXT_IS_DESTROYED));
        assert_eq!(check_event(0), Err(error::INVALID_HANDLE));
        assert_eq!(check_context(0), Err(error::INVALID_CONTEXT));
        assert_eq!(check_callable(0), Err(error::INVALID_HANDLE));
    }
}
