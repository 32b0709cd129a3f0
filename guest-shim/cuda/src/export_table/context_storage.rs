//! Context-local storage: values that the runtime attaches to a context, by key.
//!
//! Each copy of the runtime has one key and reads its value on nearly every call, while a value is stored once for
//! each copy and context. So a read is answered from a small cache of the thread, which holds as long as nothing
//! has been removed or replaced anywhere since.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use super::slot::{Slot, Table, Uuid};
use super::{answer, resolve_context, status};

pub const ID: Uuid = Uuid::new("c693336e-1121-df11-a8c3-68f355d89593");

// The only table that does not start with its size.
pub static TABLE: Table<4> = Table::starting_with_function::<{ ID.prefix() }>(&[
    (0, put as Slot),
    (1, delete as Slot),
    (2, get as Slot),
]);

/// Called when the context is destroyed. The runtime frees its value in it.
type Destructor = unsafe extern "C" fn(context: u64, key: *mut c_void, value: *mut c_void);

struct Entry {
    context: u64,
    /// Addresses, which only the runtime looks behind.
    key: usize,
    value: usize,
    destructor: Option<Destructor>,
}

static STORAGE: Storage = Storage { entries: RwLock::new(Vec::new()), generation: AtomicU64::new(1) };

/// All values. There are few: copies of the runtime times contexts.
struct Storage {
    entries: RwLock<Vec<Entry>>,
    /// Grows whenever a value that a thread may have cached stops being true. Starts at 1: 0 marks an empty cache line.
    generation: AtomicU64,
}

impl Storage {
    fn put(&self, entry: Entry) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        match entries.iter_mut().find(|old| old.is(entry.context, entry.key)) {
            Some(old) => {
                *old = entry;
                self.generation.fetch_add(1, Ordering::Release);
            }
            None => entries.push(entry),
        }
    }

    fn delete(&self, context: u64, key: usize) -> Option<Entry> {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let index = entries.iter().position(|entry| entry.is(context, key))?;
        self.generation.fetch_add(1, Ordering::Release);
        Some(entries.remove(index))
    }

    fn delete_context(&self, context: u64) -> Vec<Entry> {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let removed: Vec<Entry> = entries.extract_if(.., |entry| entry.context == context).collect();
        if !removed.is_empty() {
            self.generation.fetch_add(1, Ordering::Release);
        }
        removed
    }

    /// The value and the generation that it was true in.
    fn find(&self, context: u64, key: usize) -> Option<(usize, u64)> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.iter().find(|entry| entry.is(context, key))?;
        Some((entry.value, self.generation.load(Ordering::Acquire)))
    }

    fn get(&self, context: u64, key: usize) -> Option<usize> {
        CACHE.with(|cache| {
            let line = &cache[Line::index(context, key)];
            let cached = line.get();
            let generation = self.generation.load(Ordering::Acquire);
            if cached.generation == generation && cached.context == context && cached.key == key {
                return Some(cached.value);
            }
            let (value, generation) = self.find(context, key)?;
            line.set(Line { generation, context, key, value });
            Some(value)
        })
    }
}

impl Entry {
    fn is(&self, context: u64, key: usize) -> bool {
        self.context == context && self.key == key
    }
}

const LINES: usize = 16;

thread_local! {
    // Constant and without a destructor: usable at any time of a thread's life, and cheap to reach.
    static CACHE: [Cell<Line>; LINES] = const { [const { Cell::new(Line::EMPTY) }; LINES] };
}

/// What one thread remembers of one (context, key).
#[derive(Clone, Copy)]
struct Line {
    generation: u64,
    context: u64,
    key: usize,
    value: usize,
}

impl Line {
    const EMPTY: Self = Self { generation: 0, context: 0, key: 0, value: 0 };

    /// Spreads keys (addresses in different libraries) and handles (small numbers or addresses) over the lines.
    fn index(context: u64, key: usize) -> usize {
        const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
        let mixed = (context.rotate_left(32) ^ key as u64).wrapping_mul(GOLDEN);
        (mixed >> (u64::BITS - LINES.ilog2())) as usize
    }
}

/// Drops what is attached to a context that has been destroyed or reset, and calls the destructors, in the order in
/// which the values were stored. Call it without holding locks: a destructor is the program's code.
pub fn context_destroyed(context: u64) {
    for Entry { key, value, destructor, .. } in STORAGE.delete_context(context) {
        if let Some(destructor) = destructor {
            let address = |word: usize| ptr::with_exposed_provenance_mut(word);
            // SAFETY: whoever stored the value gave this function for it, to be called once, with these arguments.
            unsafe { destructor(context, address(key), address(value)) };
        }
    }
}

/// Attaches a value. One that is there already is replaced, and stays its owner's to free.
extern "C" fn put(context: u64, key: *mut c_void, value: *mut c_void, destructor: Option<Destructor>) -> u32 {
    let context = match resolve_context(context) {
        Ok(context) => context,
        Err(error) => return error,
    };
    let (key, value) = (key.expose_provenance(), value.expose_provenance());
    STORAGE.put(Entry { context, key, value, destructor });
    status::SUCCESS
}

/// Detaches a value, which its owner frees.
extern "C" fn delete(context: u64, key: *mut c_void) -> u32 {
    match resolve_context(context) {
        Ok(context) if STORAGE.delete(context, key.addr()).is_some() => status::SUCCESS,
        Ok(_) => status::INVALID_HANDLE,
        Err(error) => error,
    }
}

/// # Safety
/// `value` must be null or valid for a write.
unsafe extern "C" fn get(value: *mut *mut c_void, context: u64, key: *mut c_void) -> u32 {
    let find = || {
        let word = STORAGE.get(resolve_context(context)?, key.addr()).ok_or(status::INVALID_HANDLE)?;
        Ok(ptr::with_exposed_provenance_mut(word))
    };
    // SAFETY: as the caller promises.
    unsafe { answer(value, find) }
}

#[cfg(test)]
mod tests;
