//! The private table that nvidia-smi asks for; without it, it does not start.
//!
//! What is in it was found by watching nvidia-smi of branches 535 and 550 on this library: the first word is the table's size, an entry that is
//! NULL or beyond the size is left out by it, and processes and "can this device be watched" come by entries and not by functions that
//! are exported. Both take the same; layouts may differ in other branches, so a program that is not of a known branch gets a table without entries: it
//! works, but shows no processes.

use crate::{
    call::{self, Out},
    error::{self, NvmlError},
    library::Library,
};
use std::ffi::c_void;

/// The only table that is known.
const ID: [u8; 16] =
    [0xc4, 0xfe, 0x3e, 0x6c, 0xc9, 0x8f, 0x6c, 0x4e, 0xa3, 0x27, 0xee, 0x69, 0x6e, 0x12, 0xf7, 0xc4];
/// Branches whose entries are known, as their versions begin.
const BRANCHES: [&[u8]; 2] = [b"\x00535.", b"\x00550."];
/// The most bytes of a program that is looked at.
const MAX_PROGRAM: u64 = 16 << 20;
/// Words of the table, its size included.
const WORDS: usize = 256;

const MONITORED: usize = 72;
const COMPUTE_PROCESSES: usize = 213;
const GRAPHICS_PROCESSES: usize = 214;
const MPS_PROCESSES: usize = 215;

#[repr(C)]
struct Table {
    /// Bytes, this word included.
    size: usize,
    entries: [*const c_void; WORDS - 1],
}

// SAFETY: functions and numbers, which never change.
unsafe impl Sync for Table {}

static WITHOUT_ENTRIES: Table = Table { size: size_of::<usize>(), entries: [std::ptr::null(); WORDS - 1] };
static WITH_ENTRIES: Table = Table { size: size_of::<Table>(), entries: entries() };

const fn entries() -> [*const c_void; WORDS - 1] {
    let mut entries = [std::ptr::null(); WORDS - 1];
    // Entries are counted from the size on.
    entries[MONITORED - 1] = monitored as *const c_void;
    entries[COMPUTE_PROCESSES - 1] = compute_processes as *const c_void;
    entries[GRAPHICS_PROCESSES - 1] = no_processes as *const c_void;
    entries[MPS_PROCESSES - 1] = no_processes as *const c_void;
    entries
}

/// A process as nvidia-smi takes it.
#[repr(C)]
#[derive(Clone, Copy)]
struct NamedProcess {
    pid: u32,
    /// Bytes.
    memory: u64,
    gpu_instance: u32,
    compute_instance: u32,
    /// Not understood.
    unknown: u64,
    name: [u8; 4096],
}

const _: () = assert!(size_of::<NamedProcess>() == 4128 && std::mem::offset_of!(NamedProcess, name) == 32);

/// Whether dmon and pmon show the device: not 0.
unsafe extern "C" fn monitored(device: u64, answer: *mut u32) -> u32 {
    call::enter("entry 72 of the private table", |library| {
        library.device(device)?;
        // SAFETY: the program's pointer, valid or NULL.
        unsafe { Out::new(answer) }?.set(1);
        Ok(())
    })
}

/// The array has room for as many as `count` says, and is told how many there are.
unsafe extern "C" fn compute_processes(device: u64, count: *mut u32, array: *mut NamedProcess) -> u32 {
    call::enter("entry 213 of the private table", |library| {
        let device = library.device(device)?;
        // SAFETY: the program's pointers, valid or NULL.
        let list = unsafe { call::List::new(count, array) }?;
        let reading = library.reading(device)?;
        let named = |p: &vgpu_spec::wire::reading::ProcessUse| NamedProcess {
            pid: p.pid,
            memory: p.memory,
            gpu_instance: u32::MAX,
            compute_instance: u32::MAX,
            unknown: 0,
            name: name(p.pid),
        };
        list.set(&reading.processes.iter().map(named).collect::<Vec<_>>())
    })
}

/// Graphics and MPS do not reach a guest.
unsafe extern "C" fn no_processes(device: u64, count: *mut u32, _array: *mut c_void) -> u32 {
    call::enter("entries 214 and 215 of the private table", |library| {
        library.device(device)?;
        // SAFETY: the program's pointer, valid or NULL.
        unsafe { Out::new(count) }?.set(0);
        Ok(())
    })
}

/// The name by which a process was called; nvidia-smi leaves out a process without a name.
fn name(pid: u32) -> [u8; 4096] {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = line.split(|&byte| byte == 0).next().filter(|text| !text.is_empty()).unwrap_or(b"[Not Found]");
    let mut bytes = [0; 4096];
    for (place, byte) in bytes.iter_mut().take(4095).zip(text) {
        *place = *byte;
    }
    bytes
}

/// Whether this program is nvidia-smi of a branch whose entries are known.
fn known_program() -> bool {
    let path = "/proc/self/exe";
    let short = std::fs::metadata(path).is_ok_and(|m| m.len() <= MAX_PROGRAM);
    short && std::fs::read(path).is_ok_and(|program| is_known(&program))
}

fn is_known(program: &[u8]) -> bool {
    let has = |needle: &[u8]| program.windows(needle.len()).any(|window| window == needle);
    has(b"NVIDIA-SMI") && BRANCHES.iter().any(|branch| has(branch))
}

pub fn nvmlInternalGetExportTable(
    _: &Library,
    exportTable: Out<*const c_void>,
    exportTableId: &[u8; 16],
) -> error::Result {
    if *exportTableId != ID {
        return Err(NvmlError::NotSupported);
    }
    let table = if known_program() { &WITH_ENTRIES } else { &WITHOUT_ENTRIES };
    exportTable.set(std::ptr::from_ref(table).cast());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::library::tests::library;

    #[test]
    fn only_the_known_table_is_given() {
        let mut table = std::ptr::null();
        let mut get = |id| {
            // SAFETY: a place that outlives the call.
            nvmlInternalGetExportTable(&library(1), unsafe { Out::new(&raw mut table) }?, id)
        };
        assert_eq!(get(&[0; 16]), Err(NvmlError::NotSupported));
        assert_eq!(get(&ID), Ok(()));
        assert!(!table.is_null());
    }

    #[test]
    fn entries_are_for_programs_of_known_branches() {
        assert_eq!(WITHOUT_ENTRIES.size, 8);
        assert!(is_known(b"x\x00535.261.03\0NVIDIA-SMI %s") && !is_known(b"x\x00580.1\0NVIDIA-SMI"));
        assert!(!is_known(b"x\x00535.1"));
    }

    #[test]
    fn entries_stand_where_they_are_looked_for() {
        let at = |offset: usize| WITH_ENTRIES.entries[offset / 8 - 1];
        assert!(!at(0x240).is_null() && !at(0x6a8).is_null() && !at(0x6b0).is_null() && !at(0x6b8).is_null());
        assert!(at(0xd0).is_null(), "what it logs goes nowhere");
        assert!(WITH_ENTRIES.size > 0x6b8);
    }

    #[test]
    fn a_process_has_a_name_in_any_case() {
        assert!(name(std::process::id()).starts_with(std::env::args().next().unwrap().as_bytes()));
        assert!(name(1 << 30).starts_with(b"[Not Found]\0"));
    }
}
