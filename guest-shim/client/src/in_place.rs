//! Windows in place of memory that the program has already (cuMemHostRegister). Private memory: its pages are copied into window memory,
//! which is then mapped over them; and back. Memory that is shared with other processes must stay the same pages for all: the agent is
//! given its file, where it can have the worker map that.
//!
//! What other threads write meanwhile is not lost where the kernel gives us a userfaultfd: it makes them wait. Without one (older than
//! 5.11, or refused by a container's seccomp filter) a write between copy and replacement is lost; programs do not write to memory
//! that they are just registering, but the first and last page may hold something else's data.
//!
//! A forked child gets a private copy: it must not share its heap with its parent.

use crate::connection::{Connection, ConnectionError};
use crate::maps::Mapping;
use crate::{maps, shared_file, write_protect::WriteProtect};
use rustix::mm::{MapFlags, MremapFlags, ProtFlags};
use std::ffi::c_void;
use std::os::fd::AsFd;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use thiserror::Error;
use vgpu_spec::wire::control::status;

/// Why memory was not replaced.
#[derive(Debug, Error)]
pub enum InPlaceError {
    #[error("registering {len:#x} bytes at {address:#x}: part of it is not mapped")]
    NotMapped { address: u64, len: u64 },
    #[error(
        "registering {len:#x} bytes at {address:#x}: memory that cannot be read and written is not supported"
    )]
    NotWritable { address: u64, len: u64 },
    #[error("registering {len:#x} bytes at {address:#x}: {why}")]
    Unsupported { address: u64, len: u64, why: &'static str },
    #[error("registering {len:#x} bytes at {address:#x}")]
    Agent { address: u64, len: u64, source: ConnectionError },
    #[error("registering {len:#x} bytes at {address:#x}: mapping window memory")]
    Map { address: u64, len: u64, source: std::io::Error },
    #[error("registering memory: this process was forked from one that uses the GPU")]
    Forked,
}

/// Memory that is a window; [`give_back`] ends it.
#[derive(Debug)]
pub struct InPlace {
    number: u32,
    address: u64,
    len: u64,
    replaced: Option<Replaced>,
}

/// What there is to undo of private memory.
#[derive(Debug)]
struct Replaced {
    /// Device and inode of the file that is mapped there: the program may have unmapped parts and have something else there now.
    file: (u64, u64),
    entry: &'static Entry,
}

fn place(address: u64) -> *mut c_void {
    ptr::with_exposed_provenance_mut(address as usize)
}

/// Makes `[address, address + len)`, whole pages, a window with the same contents.
pub fn take_over(connection: &Arc<Connection>, address: u64, len: u64) -> Result<InPlace, InPlaceError> {
    if crate::fork::forked() {
        return Err(InPlaceError::Forked);
    }
    match check(address, len)? {
        Kind::Private => move_over(connection, address, len),
        Kind::Shared(mapping) => share(connection, address, len, &mapping),
    }
}

/// Has the worker map the file that the program has mapped.
fn share(
    connection: &Arc<Connection>,
    address: u64,
    len: u64,
    mapping: &Mapping,
) -> Result<InPlace, InPlaceError> {
    let why = "the file of shared memory cannot be opened again";
    let file = shared_file::open(mapping).ok_or(InPlaceError::Unsupported { address, len, why })?;
    let offset = mapping.offset + (address - mapping.start);
    let number = connection
        .window_adopt(file.as_fd(), offset, len, address)
        .map_err(|source| InPlaceError::Agent { address, len, source })?;
    Ok(InPlace { number, address, len, replaced: None })
}

/// Replaces private memory by window memory.
fn move_over(connection: &Arc<Connection>, address: u64, len: u64) -> Result<InPlace, InPlaceError> {
    let grant = connection.window_alloc(len, address).map_err(|source| match source {
        ConnectionError::Refused { status: status::FAILED, .. } => {
            InPlaceError::Unsupported { address, len, why: "the worker has something of its own there" }
        }
        source => InPlaceError::Agent { address, len, source },
    })?;
    let replaced = replace(address, len, &grant.file, grant.offset);
    let stat = rustix::fs::fstat(&grant.file);
    match replaced.and(stat) {
        Ok(stat) => {
            let (file, entry) = ((stat.st_dev, stat.st_ino), Entry::take(address, len));
            Ok(InPlace { number: grant.window, address, len, replaced: Some(Replaced { file, entry }) })
        }
        Err(error) => {
            if let Err(error) = connection.window_free(grant.window) {
                crate::warn!("giving back window {}: {error}", grant.window);
            }
            Err(InPlaceError::Map { address, len, source: error.into() })
        }
    }
}

/// What memory is.
#[derive(Debug)]
enum Kind {
    Private,
    /// With other processes, or with a file.
    Shared(Mapping),
}

/// What the range is, if it can be a window.
fn check(address: u64, len: u64) -> Result<Kind, InPlaceError> {
    let unsupported = |why| InPlaceError::Unsupported { address, len, why };
    let mappings = maps::within(address, len).ok_or(InPlaceError::NotMapped { address, len })?;
    // The kernel may have joined a thread's stack and what lies beside it into one mapping, so the range itself is compared.
    let (stack, stack_end) = own_stack().unwrap_or_default();
    let on_stack = address < stack_end && stack < address + len;
    for mapping in &mappings {
        if !(mapping.readable && mapping.writable) {
            return Err(InPlaceError::NotWritable { address, len });
        }
        if mapping.is_stack || on_stack {
            return Err(unsupported("a stack cannot be moved while it is in use"));
        }
    }
    match mappings[..] {
        [mapping] if mapping.shared => Ok(Kind::Shared(mapping)),
        _ if mappings.iter().any(|mapping| mapping.shared) => {
            Err(unsupported("several mappings, of which one is shared memory, cannot be one window"))
        }
        _ => Ok(Kind::Private),
    }
}

/// Where this thread's stack is: first address, one past the last.
fn own_stack() -> Option<(u64, u64)> {
    let mut attributes = std::mem::MaybeUninit::<libc::pthread_attr_t>::uninit();
    let (mut base, mut len) = (ptr::null_mut(), 0);
    // SAFETY: the attributes are initialised by the first call before the others use them; the places outlive the calls.
    let found = unsafe {
        if libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) != 0 {
            return None;
        }
        let found = libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut base, &raw mut len);
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        found
    };
    let start = base.addr() as u64;
    (found == 0).then_some((start, start.checked_add(len as u64)?))
}

/// Copies the contents to `file` and maps it over the range.
///
/// Between protecting the range and replacing it nothing may be written there, by this thread neither: no allocation, no lock, no log.
fn replace(address: u64, len: u64, file: impl AsFd, offset: u64) -> Result<(), rustix::io::Errno> {
    let (bytes, protection) = (len as usize, ProtFlags::READ | ProtFlags::WRITE);
    // SAFETY: the kernel picks a free range.
    let copy =
        unsafe { rustix::mm::mmap(ptr::null_mut(), bytes, protection, MapFlags::SHARED, &file, offset) }?;
    let guard = WriteProtect::begin(address, len);
    // SAFETY: the range is mapped and readable (checked); the copy is a fresh mapping of the same length. Other threads may write the
    // range: what is copied is bytes, and a torn one is the program's race, as in any copy.
    unsafe { ptr::copy_nonoverlapping(place(address).cast::<u8>(), copy.cast::<u8>(), bytes) };
    let flags = MapFlags::SHARED | MapFlags::FIXED;
    // SAFETY: replaces the program's private pages by a mapping with the same contents and protection, as it asked.
    let mapped = unsafe { rustix::mm::mmap(place(address), bytes, protection, flags, &file, offset) };
    drop(guard);
    // SAFETY: mapped above, and used no more.
    let _ = unsafe { rustix::mm::munmap(copy, bytes) };
    mapped.map(|_| ())
}

/// Puts private pages with the contents back, wherever the program has left the window mapped, and gives the window back.
pub fn give_back(connection: &Arc<Connection>, taken: &InPlace) {
    if let Some(replaced) = &taken.replaced {
        replaced.entry.give();
    }
    if crate::fork::forked() || taken.replaced.as_ref().is_some_and(|replaced| !put_back(taken, replaced)) {
        return;
    }
    if let Err(error) = connection.window_free(taken.number) {
        crate::warn!("giving back window {}: {error}", taken.number);
    }
}

/// Puts private pages in place of the window; false if some of it is left.
fn put_back(taken: &InPlace, replaced: &Replaced) -> bool {
    for mapping in maps::touching(taken.address, taken.len) {
        if mapping.file != replaced.file {
            continue;
        }
        let start = mapping.start.max(taken.address);
        let end = mapping.end.min(taken.address + taken.len);
        let guard = WriteProtect::begin(start, end - start);
        let result = make_private(start, end - start);
        drop(guard);
        if let Err(error) = result {
            // Better a window that is never given back than memory that is taken away under the program.
            crate::warn!("unregistering {:#x} bytes at {start:#x}: {error}", end - start);
            return false;
        }
    }
    true
}

/// Puts private pages in place of shared ones. Async-signal-safe.
fn make_private(address: u64, len: u64) -> Result<(), rustix::io::Errno> {
    let (bytes, protection) = (len as usize, ProtFlags::READ | ProtFlags::WRITE);
    // SAFETY: the kernel picks a free range.
    let copy = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), bytes, protection, MapFlags::PRIVATE) }?;
    // SAFETY: the range is a mapping of window memory; the copy is fresh and as long.
    unsafe { ptr::copy_nonoverlapping(place(address).cast::<u8>(), copy.cast::<u8>(), bytes) };
    // SAFETY: moves the copy over the range, whose contents it has.
    let moved = unsafe { rustix::mm::mremap_fixed(copy, bytes, bytes, MremapFlags::MAYMOVE, place(address)) };
    if moved.is_err() {
        // SAFETY: mapped above, and not moved.
        let _ = unsafe { rustix::mm::munmap(copy, bytes) };
    }
    moved.map(|_| ())
}

/// A replaced range, for children of a fork. Entries are never freed, so that a child can walk them whatever other threads did.
#[derive(Debug)]
struct Entry {
    address: AtomicU64,
    /// 0: not in use.
    len: AtomicU64,
    next: AtomicPtr<Entry>,
}

/// Length of an entry that is being filled in.
const BUSY: u64 = u64::MAX;

static ENTRIES: AtomicPtr<Entry> = AtomicPtr::new(ptr::null_mut());

impl Entry {
    fn all() -> impl Iterator<Item = &'static Entry> {
        let at = |place: &AtomicPtr<Entry>| {
            // SAFETY: entries are leaked, and published after they are whole.
            unsafe { place.load(Ordering::Acquire).as_ref() }
        };
        std::iter::successors(at(&ENTRIES), move |entry| at(&entry.next))
    }

    fn take(address: u64, len: u64) -> &'static Entry {
        for entry in Entry::all() {
            if entry.len.compare_exchange(0, BUSY, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                entry.address.store(address, Ordering::Relaxed);
                entry.len.store(len, Ordering::Release);
                return entry;
            }
        }
        let entry = Entry { address: address.into(), len: len.into(), next: AtomicPtr::default() };
        let entry: &'static Entry = Box::leak(Box::new(entry));
        let mut first = ENTRIES.load(Ordering::Acquire);
        loop {
            entry.next.store(first, Ordering::Relaxed);
            let new = ptr::from_ref(entry).cast_mut();
            match ENTRIES.compare_exchange_weak(first, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return entry,
                Err(now) => first = now,
            }
        }
    }

    fn give(&self) {
        self.len.store(0, Ordering::Release);
    }
}

/// In a forked child: makes what was replaced in the parent the child's own. Async-signal-safe.
pub(crate) fn in_child() {
    for entry in Entry::all() {
        let (len, address) = (entry.len.load(Ordering::Acquire), entry.address.load(Ordering::Relaxed));
        // SAFETY: MS_ASYNC does nothing but find out whether all of the range is mapped.
        let mapped = !matches!(len, 0 | BUSY)
            && unsafe { libc::msync(place(address), len as usize, libc::MS_ASYNC) } == 0;
        if mapped {
            let _ = make_private(address, len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vgpu_spec::wire::SMALL_PAGE;

    fn pages(count: usize) -> *mut c_void {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel picks a free range.
        unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), count << 12, protection, MapFlags::PRIVATE) }
            .unwrap()
    }

    #[test]
    fn contents_move_to_the_file_and_back_to_private_pages() {
        let base = pages(3);
        let (address, len) = (base.addr() as u64, 3 << 12);
        let bytes = base.cast::<u8>();
        // SAFETY: within the three pages.
        unsafe { (bytes.write(1), bytes.add(8192).write(3)) };
        let file = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 16384).unwrap();
        assert!(check(address, len).is_ok());
        replace(address, len, &file, 4096).unwrap();
        assert!(matches!(check(address, len), Ok(Kind::Shared(mapping)) if mapping.offset == 4096));
        let mut read = [0; 8193];
        rustix::io::pread(&file, &mut read, 4096).unwrap();
        assert_eq!((read[0], read[8192]), (1, 3));
        rustix::io::pwrite(&file, &[7], 4097).unwrap();
        make_private(address, len).unwrap();
        assert!(matches!(check(address, len), Ok(Kind::Private)), "private again");
        rustix::io::pwrite(&file, &[9], 4096).unwrap();
        // SAFETY: within the three pages.
        assert_eq!(unsafe { (bytes.read(), bytes.add(1).read(), bytes.add(8192).read()) }, (1, 7, 3));
    }

    #[test]
    fn only_private_memory_that_is_no_stack_is_taken() {
        let local = 0_u8;
        let stack = ptr::from_ref(&local).addr() as u64 & !(SMALL_PAGE - 1);
        assert!(matches!(check(stack, SMALL_PAGE), Err(InPlaceError::Unsupported { .. })));
        let base = pages(2);
        // SAFETY: the second page, which nobody uses.
        unsafe { rustix::mm::munmap(base.byte_add(4096), 4096) }.unwrap();
        assert!(check(base.addr() as u64, 4096).is_ok());
        assert!(matches!(check(base.addr() as u64, 8192), Err(InPlaceError::NotMapped { .. })));
    }

    #[test]
    fn a_write_during_the_replacement_is_not_lost() {
        let base = pages(2048);
        let (address, len) = (base.addr() as u64, 2048 << 12);
        if WriteProtect::begin(address, len).is_none() {
            eprintln!("this kernel gives no userfaultfd: nothing shown");
            return;
        }
        let file = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, len).unwrap();
        let (counter, stop) = (AtomicU64::new(0), std::sync::atomic::AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // SAFETY: the last eight bytes, which only this thread writes.
                let last = unsafe { AtomicU64::from_ptr(place(address + len - 8).cast()) };
                while !stop.load(Ordering::Relaxed) {
                    let before = counter.load(Ordering::Relaxed);
                    assert_eq!(last.load(Ordering::Relaxed), before, "a write was lost");
                    last.store(before + 1, Ordering::Relaxed);
                    counter.store(before + 1, Ordering::Relaxed);
                }
            });
            for _ in 0..20 {
                replace(address, len, &file, 0).unwrap();
                std::thread::yield_now();
                let guard = WriteProtect::begin(address, len);
                let protected = guard.is_some();
                if !protected {
                    break;
                }
                make_private(address, len).unwrap();
                drop(guard);
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert!(counter.load(Ordering::Relaxed) > 0);
    }
}
