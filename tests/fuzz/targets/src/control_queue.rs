//! Queue 0 as a guest fills it: descriptors, available ring, and what they point to.

use std::sync::Arc;

use vgpu_backend::broker::control::read_request;
use vgpu_spec::wire::control::{MAX_REPLY, MAX_REQUEST};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::request;

const SIZE: u16 = 16;
const TABLE: u64 = 0;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const COMMANDS: u64 = 0x4000;
const BYTES: usize = 0x4_0000;
const TABLE_BYTES: usize = 16 * SIZE as usize;
const AVAILABLE_BYTES: usize = 6 + 2 * SIZE as usize;

/// Takes all chains and handles their requests.
pub fn run(bytes: &[u8]) {
    let Some((table, rest)) = bytes.split_at_checked(TABLE_BYTES) else { return };
    let Some((available, commands)) = rest.split_at_checked(AVAILABLE_BYTES) else { return };
    let Ok(memory) = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), BYTES)]) else { return };
    for (place, bytes) in [(TABLE, table), (AVAILABLE, available), (COMMANDS, commands)] {
        let _ = memory.write_slice(bytes, GuestAddress(place));
    }
    let memory = Arc::new(memory);
    let Ok(mut queue) = Queue::new(SIZE) else { return };
    queue.set_size(SIZE);
    queue.set_desc_table_address(Some(TABLE as u32), Some(0));
    queue.set_avail_ring_address(Some(AVAILABLE as u32), Some(0));
    queue.set_used_ring_address(Some(USED as u32), Some(0));
    queue.set_ready(true);
    for _ in 0..=SIZE {
        let Some(chain) = queue.pop_descriptor_chain(Arc::clone(&memory)) else { break };
        if let Ok(request) = read_request(&chain) {
            assert!(request.len() <= MAX_REQUEST, "{} bytes", request.len());
            request::handle(&request, true);
        }
        let _ = queue.add_used(memory.as_ref(), chain.head_index(), 0);
    }
    let _ = queue.iter(Arc::clone(&memory)).map(Iterator::count);
}

/// A queue with a request of each kind.
pub fn seeds() -> Vec<Vec<u8>> {
    let descriptor = |address: u64, len: usize, flags: u16, next: u16| {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        [&address.to_le_bytes()[..], &len.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()].concat()
    };
    let queue = |request: Vec<u8>| {
        let mut table = descriptor(COMMANDS, request.len(), 1, 1);
        table.extend(descriptor(COMMANDS + 0x1_0000, MAX_REPLY, 2, 0));
        table.resize(TABLE_BYTES, 0);
        let mut available = [0_u16, 1, 0].map(u16::to_le_bytes).concat();
        available.resize(AVAILABLE_BYTES, 0);
        [table, available, request].concat()
    };
    request::requests().into_iter().map(queue).collect()
}
