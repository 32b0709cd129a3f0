//! The table from the shim's handle numbers to the driver's handles.
//!
//! Read by every lane thread on each call, so look-up takes no lock. Indexes come from the guest: they may make a chunk be
//! allocated only near those in use.

use super::error::{CudaError, INVALID_HANDLE, OUT_OF_MEMORY};
use std::sync::{
    OnceLock,
    atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
};
use vgpu_spec::handle::{self, Kind, MAX_INDEX};

const CHUNK: usize = 1024;
const CHUNKS: usize = (MAX_INDEX as usize + 1) / CHUNK;
/// A new chunk's number may exceed the count of chunks in use by this many.
const SLACK: usize = 64;
/// Set in `tag` when the slot holds a handle; the generation is below.
const LIVE: u32 = 1 << 31;
/// Set in the `tag` of a handle that was marked.
const MARKED: u32 = 1 << 30;

#[derive(Default)]
struct Slot {
    real: AtomicU64,
    tag: AtomicU32,
}

impl Slot {
    /// The tag, if the slot holds the handle of that generation.
    #[inline]
    fn holds(&self, generation: u16) -> Option<u32> {
        let tag = self.tag.load(Ordering::Acquire);
        (tag & !MARKED == LIVE | u32::from(generation)).then_some(tag)
    }
}

/// Handles of one kind.
pub struct Table {
    kind: Kind,
    chunks: Box<[OnceLock<Box<[Slot]>>]>,
    used: AtomicUsize,
}

impl Table {
    pub fn new(kind: Kind) -> Self {
        Table { kind, chunks: (0..CHUNKS).map(|_| OnceLock::new()).collect(), used: AtomicUsize::new(0) }
    }

    #[inline]
    fn parts(&self, number: u64) -> Result<handle::Parts, CudaError> {
        handle::split_of(self.kind, number).ok_or(INVALID_HANDLE)
    }

    fn slot(&self, index: u32) -> Option<&Slot> {
        let index = index as usize;
        self.chunks.get(index / CHUNK)?.get()?.get(index % CHUNK)
    }

    /// The driver's handle for `number`.
    pub fn get(&self, number: u64) -> Result<u64, CudaError> {
        self.get_marked(number).map(|(real, _)| real)
    }

    /// That, and whether it was marked.
    #[inline]
    pub fn get_marked(&self, number: u64) -> Result<(u64, bool), CudaError> {
        let parts = self.parts(number)?;
        let slot = self.slot(parts.index).ok_or(INVALID_HANDLE)?;
        let tag = slot.holds(parts.generation).ok_or(INVALID_HANDLE)?;
        Ok((slot.real.load(Ordering::Relaxed), tag & MARKED != 0))
    }

    /// Marks a handle until it ends, or takes its mark away.
    pub fn set_marked(&self, number: u64, marked: bool) {
        let Ok(parts) = self.parts(number) else { return };
        let Some(slot) = self.slot(parts.index) else { return };
        if let Some(tag) = slot.holds(parts.generation) {
            let wanted = tag & !MARKED | if marked { MARKED } else { 0 };
            // It fails for one that ends meanwhile.
            let _ = slot.tag.compare_exchange(tag, wanted, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// The driver's handle at `index`, whatever its generation.
    pub fn at(&self, index: u32) -> Result<u64, CudaError> {
        let slot = self.slot(index).ok_or(INVALID_HANDLE)?;
        if slot.tag.load(Ordering::Acquire) & LIVE == 0 {
            return Err(INVALID_HANDLE);
        }
        Ok(slot.real.load(Ordering::Relaxed))
    }

    /// Takes a number that the guest made for the driver's handle `real`.
    pub fn insert(&self, number: u64, real: u64) -> Result<(), CudaError> {
        let parts = self.parts(number)?;
        let chunk = parts.index as usize / CHUNK;
        let place = self.chunks.get(chunk).ok_or(INVALID_HANDLE)?;
        // The worker's own range starts in the middle; the guest has no business there.
        let far = chunk > self.used.load(Ordering::Relaxed) + SLACK || handle::is_worker_made(parts.index);
        if place.get().is_none() && far {
            return Err(OUT_OF_MEMORY);
        }
        self.insert_own(number, real)
    }

    /// Takes a number that this worker made.
    pub fn insert_own(&self, number: u64, real: u64) -> Result<(), CudaError> {
        let parts = self.parts(number)?;
        let place = self.chunks.get(parts.index as usize / CHUNK).ok_or(INVALID_HANDLE)?;
        let slots = place.get_or_init(|| {
            self.used.fetch_add(1, Ordering::Relaxed);
            (0..CHUNK).map(|_| Slot::default()).collect()
        });
        let slot = slots.get(parts.index as usize % CHUNK).ok_or(INVALID_HANDLE)?;
        slot.real.store(real, Ordering::Relaxed);
        slot.tag.store(LIVE | u32::from(parts.generation), Ordering::Release);
        Ok(())
    }

    /// The number under which the driver's handle `real` is known. Looks at all.
    pub fn find(&self, real: u64) -> Option<u64> {
        for (chunk, slots) in self.chunks.iter().enumerate() {
            for (place, slot) in slots.get().into_iter().flatten().enumerate() {
                let tag = slot.tag.load(Ordering::Acquire);
                if tag & LIVE != 0 && slot.real.load(Ordering::Relaxed) == real {
                    let index = u32::try_from(chunk * CHUNK + place).ok()?;
                    return Some(handle::make(self.kind, index, (tag & !(LIVE | MARKED)) as u16));
                }
            }
        }
        None
    }

    /// All of the driver's handles.
    pub fn all(&self) -> Vec<u64> {
        let slots = self.chunks.iter().filter_map(OnceLock::get).flatten();
        slots
            .filter(|slot| slot.tag.load(Ordering::Acquire) & LIVE != 0)
            .map(|slot| slot.real.load(Ordering::Relaxed))
            .collect()
    }

    /// Ends `number` and gives the driver's handle.
    pub fn take(&self, number: u64) -> Result<u64, CudaError> {
        let real = self.get(number)?;
        let parts = self.parts(number)?;
        let slot = self.slot(parts.index).ok_or(INVALID_HANDLE)?;
        let tag = slot.holds(parts.generation).ok_or(INVALID_HANDLE)?;
        slot.tag.compare_exchange(tag, 0, Ordering::AcqRel, Ordering::Relaxed).map_err(|_| INVALID_HANDLE)?;
        Ok(real)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vgpu_spec::handle::make;

    #[test]
    fn stale_foreign_and_unknown_handles_are_refused() {
        let table = Table::new(Kind::Event);
        let h = make(Kind::Event, 7, 3);
        table.insert(h, 0x1234).unwrap();
        assert_eq!(table.get(h), Ok(0x1234));
        assert_eq!(table.at(7), Ok(0x1234));
        for wrong in
            [make(Kind::Event, 7, 2), make(Kind::Stream, 7, 3), make(Kind::Event, 8, 3), 0, 7, u64::MAX]
        {
            assert_eq!(table.get(wrong), Err(INVALID_HANDLE), "{wrong:#x}");
        }
        assert_eq!(table.take(h), Ok(0x1234));
        assert_eq!(table.take(h), Err(INVALID_HANDLE));
        assert_eq!(table.get(h), Err(INVALID_HANDLE));
    }

    #[test]
    fn a_mark_ends_with_its_handle() {
        let table = Table::new(Kind::Function);
        let h = make(Kind::Function, 7, 3);
        table.set_marked(h, true);
        table.insert(h, 0x1234).unwrap();
        table.set_marked(make(Kind::Function, 7, 2), true);
        assert_eq!(table.get_marked(h), Ok((0x1234, false)));
        table.set_marked(h, true);
        table.set_marked(h, false);
        assert_eq!(table.get_marked(h), Ok((0x1234, false)));
        table.set_marked(h, true);
        assert_eq!((table.get_marked(h), table.get(h)), (Ok((0x1234, true)), Ok(0x1234)));
        assert_eq!((table.find(0x1234), table.all()), (Some(h), vec![0x1234]));
        assert_eq!(table.take(h), Ok(0x1234));
        table.insert(h, 0x5678).unwrap();
        assert_eq!(table.get_marked(h), Ok((0x5678, false)));
    }

    #[test]
    fn an_index_far_beyond_those_in_use_does_not_take_memory() {
        let table = Table::new(Kind::Event);
        assert_eq!(table.insert(make(Kind::Event, MAX_INDEX, 0), 1), Err(OUT_OF_MEMORY));
        assert_eq!(table.insert(make(Kind::Event, 1, 0), 1), Ok(()));
    }
}
