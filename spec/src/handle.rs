//! Handles are numbers made by the shim; the worker keeps the table from number to the driver's handle.
//!
//! Bits 4 to 27: index (from 1), 28 to 39: generation, 40 to 46: kind. So a handle is never NULL, never one of the special
//! streams 1 and 2, tells its kind, and a stale one is recognised although indexes are used again.
//!
//! Index bit 21 is set in numbers that the worker makes, for handles that the driver hands out (the nodes of a captured graph): so
//! shim and worker never make the same one. The same handle of the driver always has the same number.

/// The most handles of one kind in a client.
pub const MAX_INDEX: u32 = (1 << 22) - 1;
/// The lowest index of numbers that the worker makes; those of the shim are below.
pub const WORKER_INDEX: u32 = 1 << 21;
const GENERATION_MASK: u32 = (1 << 12) - 1;

/// Kinds, as numbered in [`crate::api::HANDLE_KINDS`] (the first is 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Kind {
    Context = 1,
    Stream,
    Event,
    Module,
    Function,
    Library,
    Kernel,
    Graph,
    GraphExec,
    GraphNode,
    Array,
    MipmappedArray,
    MemoryPool,
    Texture,
    Surface,
    TextureReference,
    SurfaceReference,
    LinkState,
    UserObject,
    GreenContext,
    ExternalMemory,
    ExternalSemaphore,
    Allocation,
    GraphicsResource,
    AsyncCallback,
    LogsCallback,
    ResourceDescription,
    Conditional,
}

/// Count of kinds; a table indexed by kind has one entry more.
pub const KINDS: usize = Kind::Conditional as usize;

/// A handle's parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    pub kind: u8,
    pub index: u32,
    pub generation: u16,
}

/// Builds a handle. `index` is at least 1 and at most [`MAX_INDEX`].
pub const fn make(kind: Kind, index: u32, generation: u16) -> u64 {
    ((kind as u64) << 40) | (((generation as u32 & GENERATION_MASK) as u64) << 28) | ((index as u64) << 4)
}

/// Splits a handle; `None` if no handle looks like this.
#[inline]
pub const fn split(handle: u64) -> Option<Parts> {
    let kind = handle >> 40;
    if kind == 0 || kind > KINDS as u64 { None } else { parts(kind as u8, handle) }
}

/// Splits a handle of `kind`; `None` if no such handle looks like this.
#[inline]
pub const fn split_of(kind: Kind, handle: u64) -> Option<Parts> {
    if handle >> 40 == kind as u64 { parts(kind as u8, handle) } else { None }
}

#[inline]
const fn parts(kind: u8, handle: u64) -> Option<Parts> {
    let index = ((handle >> 4) & 0xff_ffff) as u32;
    if index == 0 || index > MAX_INDEX || handle & 0xf != 0 {
        return None;
    }
    Some(Parts { kind, index, generation: ((handle >> 28) as u32 & GENERATION_MASK) as u16 })
}

/// Whether the worker made this index.
pub const fn is_worker_made(index: u32) -> bool {
    index & WORKER_INDEX != 0
}

/// The generation after `generation`.
pub const fn next_generation(generation: u16) -> u16 {
    ((generation as u32 + 1) & GENERATION_MASK) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back() {
        for kind in [Kind::Context, Kind::Kernel, Kind::Conditional] {
            for (index, generation) in [(1, 0), (MAX_INDEX, 4095), (77, 5)] {
                let parts = split(make(kind, index, generation)).unwrap();
                assert_eq!(parts, Parts { kind: kind as u8, index, generation });
            }
        }
    }

    #[test]
    fn special_streams_and_pointers_are_no_handles() {
        for value in [0, 1, 2, 0x7f00_0000_1000, u64::MAX, 1 << 40, make(Kind::Event, 1, 0) | 1] {
            assert_eq!(split(value), None, "{value:#x}");
        }
    }

    #[test]
    fn kinds_agree_with_the_description() {
        for (i, name) in crate::api::HANDLE_KINDS.iter().enumerate() {
            let parts = split(make(Kind::Context, 1, 0)).unwrap();
            assert_eq!(parts.kind, 1);
            assert!(format!("{:?}", Kind::Conditional) == *name || i + 1 < KINDS);
        }
        assert_eq!(crate::api::HANDLE_KINDS.len(), KINDS);
    }
}
