//! A lane's ring: what a guest process writes into its page.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vgpu_backend::broker::lanes::LanePage;
use vgpu_backend::broker::ring::RingSettings;
use vgpu_backend::link::message::LaneStart;
use vgpu_backend::worker::message;
use vgpu_backend::worker::ring::{LaneRing, Popped};
use vgpu_spec::wire::HUGE_PAGE;
use vgpu_spec::wire::lane::{Dependency, EXPRESS_LEN, LINE, Layout, MAX_MESSAGE, MessageHeader};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use zerocopy::IntoBytes;

/// Entries of the rings.
const SIZE: u16 = 16;
const DESCRIPTORS: usize = 16 * SIZE as usize;
const AVAILABLE: usize = 4 + 2 * SIZE as usize + 2;
/// Places at which messages are found by their numbers.
const KNOWN: u16 = 2;
/// Options, index to begin at.
const HEAD: usize = 4;
/// Guest-physical place of the page.
const PAGE: u64 = 4 * HUGE_PAGE;

/// The page's file, which stays: making one takes longer than decoding.
static FILE: Mutex<Option<OwnedFd>> = Mutex::new(None);

/// Options, then the descriptor table, the available ring, and what lies in the command area.
struct Parts<'a> {
    event_idx: bool,
    next: u16,
    descriptors: &'a [u8],
    available: &'a [u8],
    commands: &'a [u8],
}

fn parts(bytes: &[u8]) -> Option<Parts<'_>> {
    let (head, rest) = bytes.split_at_checked(HEAD)?;
    let (descriptors, rest) = rest.split_at_checked(DESCRIPTORS)?;
    let (available, commands) = rest.split_at_checked(AVAILABLE)?;
    let next = u16::from_le_bytes([*head.get(2)?, *head.get(3)?]);
    Some(Parts { event_idx: head.first()? & 1 != 0, next, descriptors, available, commands })
}

fn layout() -> Layout {
    Layout::new(SIZE).unwrap_or_else(|| unreachable!("a power of two"))
}

/// Calls `f` with the file of a page that holds the input.
fn with_page(bytes: &[u8], f: impl FnOnce(&Parts<'_>, &OwnedFd)) {
    let Some(parts) = parts(bytes) else { return };
    let mut file = FILE.lock().unwrap_or_else(PoisonError::into_inner);
    if file.is_none() {
        *file = memfd_create("page", MemfdFlags::CLOEXEC).ok();
    }
    let Some(file) = file.as_ref() else { return };
    if ftruncate(file, HUGE_PAGE).is_err() {
        return;
    }
    let layout = layout();
    let used = [0_u8; 4 + 8 * SIZE as usize + 2];
    for (offset, bytes) in [
        (layout.desc, parts.descriptors),
        (layout.avail, parts.available),
        (layout.used, &used),
        (layout.commands, parts.commands),
    ] {
        let _ = rustix::io::pwrite(file, bytes, offset);
    }
    f(&parts, file);
}

/// Serves the ring until it has nothing more, as a worker's lane does.
pub fn run(bytes: &[u8]) {
    with_page(bytes, |parts, file| {
        let event_idx = parts.event_idx.into();
        let start = LaneStart {
            queue: 2,
            size: SIZE,
            next: parts.next,
            event_idx,
            has_call: 1,
            page: PAGE,
            offset: 0,
        };
        let Ok(file) = file.as_fd().try_clone_to_owned() else { return };
        let Ok(mut ring) = LaneRing::new(file, &start) else { return };
        let mut bytes = Vec::new();
        ring.disable_kicks();
        // A ring has at most its size outstanding, and a message at each of the two known places: more would be a loop without an end.
        for round in 0..=SIZE + KNOWN {
            let _ = ring.has_more();
            let Popped::Chain(chain) = ring.pop(&mut bytes) else { break };
            assert!(round < SIZE + KNOWN, "more chains than entries");
            assert!(bytes.len() <= MAX_MESSAGE);
            if let Ok((message, dependencies)) = message::parse(&bytes) {
                assert!(message.args.len() <= bytes.len());
                let _ = dependencies.iter().count();
            }
            let written = match chain.reply {
                Some((address, room)) if ring.write_reply(address, &[7; 16], &[]) => room.min(16),
                _ => 0,
            };
            ring.mark_written(&chain);
            ring.complete(&chain, written);
            let _ = ring.tell();
        }
        ring.report(1, 2, 3);
        let _ = (ring.has_more(), ring.enable_kicks(), ring.next());
    });
}

/// Cleans the ring up, as the broker does for a worker that is gone.
pub fn run_lost(bytes: &[u8]) {
    with_page(bytes, |parts, file| {
        let Ok(file) = file.as_fd().try_clone_to_owned() else { return };
        let region = (GuestAddress(PAGE), HUGE_PAGE as usize, Some(FileOffset::new(file.into(), 0)));
        let Ok(memory) = GuestMemoryMmap::<()>::from_ranges_with_files([region]) else { return };
        let layout = layout();
        let settings = RingSettings {
            size: SIZE,
            desc: PAGE + layout.desc,
            avail: PAGE + layout.avail,
            used: PAGE + layout.used,
            next_avail: parts.next,
            event_idx: parts.event_idx,
            running: true,
        };
        let Ok(lane) = LanePage::check(&memory, PAGE, &settings) else { return };
        let _ = memory.write_obj(parts.next, GuestAddress(PAGE + layout.used + 2));
        lane.set_attached(&memory);
        let _ = lane.complete_all(&memory);
        let _ = lane.drain(&memory);
        assert_eq!(lane.avail_idx(&memory), lane.used_idx(&memory), "something is outstanding");
    });
}

fn descriptor(address: u64, len: usize, flags: u16, next: u16) -> Vec<u8> {
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    [&address.to_le_bytes()[..], &len.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()].concat()
}

/// A ring with a message that waits and one that does not.
pub fn seeds() -> Vec<Vec<u8>> {
    let commands = layout().commands;
    let message = |number: u32, dependencies: &[u8]| {
        let header = MessageHeader {
            function: 1,
            len: u32::try_from(size_of::<MessageHeader>() + dependencies.len() + 16).unwrap_or(0),
            thread: 1,
            context: 0,
            dependencies: u16::try_from(dependencies.len() / 8).unwrap_or(0),
            flags: 0,
            number,
        };
        [header.as_bytes(), dependencies, &[5; 16]].concat()
    };
    let waits = message(0, &[]);
    let depends = message(0, Dependency { lane: 3, reserved: 0, count: 7 }.as_bytes());
    let ring = |options: u8, next: u16| {
        let mut table = descriptor(commands, waits.len(), 1, 1);
        table.extend(descriptor(commands + 4096, 64, 2, 0));
        table.extend(descriptor(commands + waits.len() as u64, depends.len(), 0, 0));
        table.resize(DESCRIPTORS, 0);
        let mut available = [0, next.wrapping_add(2)].map(u16::to_le_bytes).concat();
        let mut entries = [0_u16; SIZE as usize];
        for (count, head) in [0, 2].into_iter().enumerate() {
            if let Some(entry) = entries.get_mut((usize::from(next) + count) % usize::from(SIZE)) {
                *entry = head;
            }
        }
        available.extend(entries.iter().flat_map(|e| e.to_le_bytes()));
        available.resize(AVAILABLE, 0);
        [&[options, 0][..], &next.to_le_bytes(), &table, &available, &waits, &depends].concat()
    };
    // One that is found in the ring, and two that are found by the numbers that come next.
    let mut commands = vec![0; (EXPRESS_LEN + 4096) as usize];
    for (offset, number) in [(LINE, 2), (EXPRESS_LEN, 3), (EXPRESS_LEN + 2048, 1)] {
        let message = message(number, &[]);
        commands[offset as usize..][..message.len()].copy_from_slice(&message);
    }
    let mut table = descriptor(layout().commands + EXPRESS_LEN + 2048, waits.len(), 0, 0);
    table.resize(DESCRIPTORS, 0);
    let mut available = [0_u16, 1].map(u16::to_le_bytes).concat();
    available.resize(AVAILABLE, 0);
    let known = [&[1, 0, 0, 0][..], &table, &available, &commands].concat();
    vec![ring(0, 0), ring(1, 0), ring(1, 65_535), known]
}
