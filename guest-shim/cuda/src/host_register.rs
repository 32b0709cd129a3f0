//! Registering memory that the program has already: window memory is mapped in place of its pages ([`vgpu_client::in_place`]), so that
//! the device reaches it at the same address and at full speed.
//!
//! Memory that is shared with other processes stays where it is: the worker maps its file. In a VM it cannot be registered.
//! Registrations may share pages, whose replacement ends with the last of them.

use crate::{capture, client, context, error, host_memory, memory};
use std::{
    collections::BTreeMap,
    ffi::c_void,
    sync::{Arc, Mutex, PoisonError},
};
use vgpu_client::{
    Connection, ConnectionError,
    in_place::{self, InPlace, InPlaceError},
};
use vgpu_spec::{result::CudaError, wire::control::status};

const PAGE: u64 = 4096;
/// Where a process's addresses end.
const ADDRESSES: u64 = 1 << 47;
/// CU_MEMHOSTREGISTER_PORTABLE, _DEVICEMAP, _IOMEMORY and _READ_ONLY. IOMEMORY is refused for what is no device's memory.
const PORTABLE: u32 = 1;
const DEVICEMAP: u32 = 2;
const IOMEMORY: u32 = 4;
const READ_ONLY: u32 = 8;

const ALREADY_REGISTERED: u32 = CudaError::HostMemoryAlreadyRegistered as u32;
const NOT_REGISTERED: u32 = CudaError::HostMemoryNotRegistered as u32;

/// Pages that were replaced together.
struct Segment<T> {
    end: u64,
    /// Registrations that have bytes in it.
    users: usize,
    taken: T,
}

/// Replaced pages by their first address.
struct Segments<T>(BTreeMap<u64, Segment<T>>);

static SEGMENTS: Mutex<Segments<InPlace>> = Mutex::new(Segments(BTreeMap::new()));

impl<T> Segments<T> {
    /// The parts of `[start, end)` that are not replaced.
    fn gaps(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let (mut gaps, mut at) = (Vec::new(), start);
        for (&from, segment) in self.0.range(..end).filter(|(_, s)| s.end > start) {
            if from > at {
                gaps.push((at, from));
            }
            at = at.max(segment.end);
        }
        if at < end {
            gaps.push((at, end));
        }
        gaps
    }

    /// Replaces what is missing in `[start, end)` with `take`, and enters a user of all of it. Nothing is left replaced after an error.
    fn enter<E>(
        &mut self,
        start: u64,
        end: u64,
        mut take: impl FnMut(u64, u64) -> Result<T, E>,
        mut give: impl FnMut(T),
    ) -> Result<(), E> {
        let mut new = Vec::new();
        for (from, to) in self.gaps(start, end) {
            match take(from, to - from) {
                Ok(taken) => new.push((from, Segment { end: to, users: 0, taken })),
                Err(error) => {
                    new.into_iter().for_each(|(_, segment)| give(segment.taken));
                    return Err(error);
                }
            }
        }
        self.0.extend(new);
        self.0.range_mut(..end).filter(|(_, s)| s.end > start).for_each(|(_, s)| s.users += 1);
        Ok(())
    }

    /// Takes a user out of `[start, end)`; gives what nobody uses any more.
    fn leave(&mut self, start: u64, end: u64) -> Vec<T> {
        let mut unused = Vec::new();
        for (&from, segment) in self.0.range_mut(..end).filter(|(_, s)| s.end > start) {
            segment.users -= 1;
            if segment.users == 0 {
                unused.push(from);
            }
        }
        unused.iter().filter_map(|from| self.0.remove(from)).map(|segment| segment.taken).collect()
    }
}

/// The whole pages that the bytes lie in.
fn pages(pointer: u64, len: u64) -> Option<(u64, u64)> {
    Some((pointer & !(PAGE - 1), pointer.checked_add(len)?.checked_next_multiple_of(PAGE)?))
}

/// Flags that are not known come first in the newer form and last in the older one; what is registered already comes before a kind of
/// memory that this is not (measured).
fn register(p: *mut c_void, bytesize: usize, flags: u32) -> error::Result {
    let (pointer, len) = (p.expose_provenance() as u64, bytesize as u64);
    if pointer == 0 || len == 0 {
        return Err(error::INVALID_VALUE);
    }
    let (start, end) =
        pages(pointer, len).filter(|&(_, end)| end <= ADDRESSES).ok_or(error::NOT_SUPPORTED)?;
    let client = client::get()?;
    let mut segments = SEGMENTS.lock().unwrap_or_else(PoisonError::into_inner);
    match host_memory::meeting(pointer, pointer + len) {
        Some(block) if block.registered => return Err(ALREADY_REGISTERED),
        Some(_) => return Err(error::INVALID_VALUE),
        None if memory::find(pointer).is_some() => return Err(error::INVALID_VALUE),
        None if flags & !(PORTABLE | DEVICEMAP | READ_ONLY) != 0 => return Err(error::INVALID_VALUE),
        None => {}
    }
    let take = |from, len| in_place::take_over(&client.connection, from, len);
    let give = |taken: InPlace| give_back(&client.connection, &taken);
    segments.enter(start, end, take, give).map_err(|error| refusal(&error, flags))?;
    host_memory::insert_registered(pointer, len, flags & PORTABLE | DEVICEMAP, flags & READ_ONLY != 0);
    Ok(())
}

pub unsafe fn cuMemHostRegister_v2(p: *mut c_void, bytesize: usize, Flags: u32) -> error::Result {
    if Flags & !(PORTABLE | DEVICEMAP | IOMEMORY | READ_ONLY) != 0 {
        return Err(error::INVALID_VALUE);
    }
    // SAFETY: no pointer is read.
    unsafe { cuMemHostRegister(p, bytesize, Flags) }
}

pub unsafe fn cuMemHostRegister(p: *mut c_void, bytesize: usize, Flags: u32) -> error::Result {
    let result = register(p, bytesize, Flags);
    if result == Err(error::NOT_SUPPORTED) {
        // This is ours to say; the driver would have said first that the context is at its end.
        context::sticky_error()?;
    }
    result
}

fn give_back(connection: &Arc<Connection>, taken: &InPlace) {
    in_place::give_back(connection, taken);
}

/// The code for memory that was not registered; the log says why, unless the driver would refuse it too.
fn refusal(error: &InPlaceError, flags: u32) -> u32 {
    let code = match error {
        InPlaceError::NotMapped { .. } => return error::INVALID_VALUE,
        InPlaceError::NotWritable { .. } if flags & READ_ONLY == 0 => return error::INVALID_VALUE,
        InPlaceError::Agent { source: ConnectionError::Refused { status: status::LIMIT, .. }, .. } => {
            error::OUT_OF_MEMORY
        }
        _ => error::NOT_SUPPORTED,
    };
    vgpu_client::warn!("{error}{}", error::sources(error));
    code
}

/// Waits for the device first, as the driver does.
pub unsafe fn cuMemHostUnregister(p: *mut c_void) -> error::Result {
    let pointer = p.addr() as u64;
    if pointer == 0 {
        return Err(error::INVALID_VALUE);
    }
    let client = client::get()?;
    let mut segments = SEGMENTS.lock().unwrap_or_else(PoisonError::into_inner);
    let len = match host_memory::find(pointer) {
        Some(block) if block.registered && block.base == pointer => block.len,
        Some(_) => return Err(error::INVALID_VALUE),
        None if memory::find(pointer).is_some() => return Err(error::INVALID_VALUE),
        None => return Err(NOT_REGISTERED),
    };
    let (start, end) = pages(pointer, len).ok_or(error::INVALID_VALUE)?;
    let _ = capture::wait_for_device();
    host_memory::remove_registered(pointer);
    for taken in segments.leave(start, end) {
        give_back(&client.connection, &taken);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_registrations_share_are_replaced_once_and_until_the_last_ends() {
        let mut segments = Segments(BTreeMap::new());
        let enter = |segments: &mut Segments<(u64, u64)>, start, end| {
            let mut taken = Vec::new();
            let take = |from, len| {
                taken.push((from, len));
                Ok::<_, ()>((from, len))
            };
            segments.enter(start, end, take, |_| ()).unwrap();
            taken
        };
        assert_eq!(enter(&mut segments, 0x2000, 0x4000), [(0x2000, 0x2000)]);
        assert_eq!(enter(&mut segments, 0x3000, 0x4000), []);
        assert_eq!(enter(&mut segments, 0x1000, 0x6000), [(0x1000, 0x1000), (0x4000, 0x2000)]);
        assert_eq!(segments.leave(0x2000, 0x4000), []);
        assert_eq!(segments.leave(0x1000, 0x6000), [(0x1000, 0x1000), (0x4000, 0x2000)]);
        assert_eq!(segments.leave(0x3000, 0x4000), [(0x2000, 0x2000)]);
        assert!(segments.0.is_empty());
    }

    #[test]
    fn nothing_is_left_replaced_after_an_error() {
        let mut segments = Segments(BTreeMap::from([(0x2000, Segment { end: 0x3000, users: 1, taken: 0 })]));
        let mut given = Vec::new();
        let take = |from, _| if from == 0x1000 { Ok(from) } else { Err(from) };
        assert_eq!(segments.enter(0x1000, 0x4000, take, |taken| given.push(taken)), Err(0x3000));
        assert_eq!((given, segments.0.len(), segments.0[&0x2000].users), (vec![0x1000], 1, 1));
    }

    #[test]
    fn partly_covered_pages_belong_to_a_range() {
        assert_eq!(pages(0x1064, 1000), Some((0x1000, 0x2000)));
        assert_eq!(pages(0x1fff, 2), Some((0x1000, 0x3000)));
        assert_eq!(pages(u64::MAX, 2), None);
    }
}
