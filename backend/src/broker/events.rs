//! Queue 1: events for the agent, in buffers that it posted.

use std::io::Write;

use vgpu_spec::wire::control::{EVENT_QUEUE, Event};
use vhost_user_backend::VringT;
use virtio_queue::QueueT;
use vm_memory::GuestAddressSpace;
use zerocopy::IntoBytes;

use super::vm::{State, Vm};

/// Events kept while the agent has posted no buffer. More than one per client does not come.
const MAX_PENDING: usize = 2048;

/// Sends `event` now, or when the agent posts a buffer.
pub fn send(vm: &Vm, state: &mut State, event: Event) {
    if state.events.len() < MAX_PENDING {
        state.events.push_back(event);
    }
    flush(vm, state);
}

/// Fills posted buffers with the events that wait.
pub fn flush(vm: &Vm, state: &mut State) {
    let Some(ring) = vm.ring(EVENT_QUEUE) else { return };
    let mut sent = false;
    while !state.events.is_empty() && ring.settings().running {
        let memory = vm.memory.memory();
        let chain = ring.get_mut().get_queue_mut().pop_descriptor_chain(memory.clone());
        let Some(chain) = chain else { break };
        let head = chain.head_index();
        let written = match (state.events.front(), chain.writer(&memory)) {
            (Some(event), Ok(mut writer)) => writer.write_all(event.as_bytes()).is_ok(),
            _ => false,
        };
        let len = if written {
            state.events.pop_front();
            size_of::<Event>() as u32
        } else {
            vm.complain(&"event queue: a buffer is too small or not in memory");
            0
        };
        if ring.add_used(head, len).is_err() {
            break;
        }
        sent = true;
    }
    // Without events nothing is taken from the ring, so kicks for new buffers are of no interest; with some waiting,
    // the next buffer must be announced.
    let _ = ring.enable_notification();
    if sent && ring.needs_notification().unwrap_or(true) {
        let _ = ring.signal_used_queue();
    }
}
