//! Queue 1: what the broker tells by itself.

use crate::carrier::Carrier;
use crate::lanes::Lanes;
use crate::memory::Rings;
use crate::queue::{Buffer, DriverQueue, QueueError};
use crate::wait::{borrow, drain, readable};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use vgpu_spec::wire::control::{EVENT_QUEUE, Event, event};
use vgpu_spec::wire::split;

/// Buffers for events that are kept with the broker.
const BUFFERS: u16 = 32;
/// Where in the control page they lie.
const OFFSET: usize = 512 << 10;
/// Time between two looks at the queue when the carrier has no signals.
const POLL: Duration = Duration::from_millis(20);
/// How long the thread sleeps at most before it looks whether it shall end or the device is lost.
const LOOK: Duration = Duration::from_secs(1);

/// The event queue and what to do with its events.
#[derive(Debug)]
pub struct Events {
    carrier: Arc<dyn Carrier>,
    lanes: Arc<Lanes>,
    rings: Rings,
    queue: DriverQueue,
    /// Which buffer a chain carries.
    buffers: HashMap<u16, u16>,
    stop: Arc<AtomicBool>,
}

impl Events {
    /// Posts all buffers. Ends after `stop` is set.
    pub fn new(
        carrier: Arc<dyn Carrier>,
        lanes: Arc<Lanes>,
        stop: Arc<AtomicBool>,
    ) -> Result<Self, QueueError> {
        let rings = carrier.queues()[usize::from(EVENT_QUEUE)].rings.clone();
        let count = BUFFERS.min(rings.layout.size);
        let queue = DriverQueue::new(rings.clone(), carrier.event_idx());
        let mut events = Self { carrier, lanes, rings, queue, buffers: HashMap::new(), stop };
        for buffer in 0..count {
            events.post(buffer)?;
        }
        Ok(events)
    }

    /// Handles events until the queue fails, the device is lost (the reason is returned) or the agent stops.
    pub fn run(mut self) -> Result<Option<String>, QueueError> {
        let carrier = self.carrier.clone();
        let completion = &carrier.queues()[usize::from(EVENT_QUEUE)].completion;
        let mut looked = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                if let Some(why) = carrier.lost() {
                    return Ok(Some(why));
                }
            }
            if carrier.polling() {
                self.queue.disable_signal();
            } else {
                self.queue.enable_signal();
            }
            if !self.take()? {
                let limit = if carrier.polling() { POLL } else { LOOK };
                if let Err(error) = readable(borrow(completion), Some(limit)) {
                    tracing::warn!("waiting for events of the broker: {error}");
                    std::thread::sleep(LOOK);
                }
                drain(completion);
            }
        }
        Ok(None)
    }

    /// Handles all events that are there; whether there were any.
    fn take(&mut self) -> Result<bool, QueueError> {
        let mut any = false;
        while let Some(used) = self.queue.pop()? {
            any = true;
            let Some(buffer) = self.buffers.remove(&used.head) else { continue };
            let len = (used.len as usize).min(size_of::<Event>());
            let bytes = self.rings.page.mapping.read(offset(buffer), len);
            self.post(buffer)?;
            match split::<Event>(&bytes) {
                Some((event, _)) => self.handle(&event),
                None => tracing::warn!("ignoring an event of {len} bytes from the broker"),
            }
        }
        Ok(any)
    }

    fn handle(&self, event: &Event) {
        if event.kind != event::WORKER_LOST {
            tracing::warn!("ignoring an event of unknown kind {} from the broker", event.kind);
            return;
        }
        let lanes = self.lanes.mark_lost(event.client);
        let how = match event.signal {
            0 => format!("exit code {}", event.exit_code),
            signal => format!("signal {signal}"),
        };
        tracing::warn!(
            "client {}: its worker on the host ended ({how}); {lanes} lanes are lost",
            event.client
        );
    }

    fn post(&mut self, buffer: u16) -> Result<(), QueueError> {
        let gpa = self.rings.page.gpa + offset(buffer) as u64;
        let len = size_of::<Event>() as u32;
        let (head, kick) = self.queue.add(&[Buffer { gpa, len, writable: true }])?;
        self.buffers.insert(head, buffer);
        if kick {
            self.carrier.notify(EVENT_QUEUE);
        }
        Ok(())
    }
}

fn offset(buffer: u16) -> usize {
    OFFSET + usize::from(buffer) * size_of::<Event>()
}
