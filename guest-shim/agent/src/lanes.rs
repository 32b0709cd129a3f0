//! Which lane is lent to whom.

use crate::carrier::{Carrier, Queue};
use crate::control::{Control, ControlError};
use crate::wait;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vgpu_spec::wire::control::FIRST_LANE;
use vgpu_spec::wire::lane::{Status, state};

/// What a lane is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Free,
    Lent(u32),
    /// Its indexes disagree, so no client can start with it.
    Unusable,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    held: Use,
    /// Who had it last. A child of a dead client may still have the page mapped, so it goes to the same user again if it can.
    last_uid: Option<u32>,
}

/// A lane that was lent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Number of the virtqueue.
    pub queue: u16,
    /// Available and used index with which it starts.
    pub start: u16,
}

/// Why a lane could not be lent.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    #[error("lending a lane: all {0} are in use")]
    AllLent(usize),
    #[error("lending lane {queue}: the broker starts it at {start}, its rings say {avail} and {used}")]
    Indexes { queue: u16, start: u16, avail: u16, used: u16 },
    #[error(transparent)]
    Control(#[from] ControlError),
}

/// All lanes of the device.
#[derive(Debug)]
pub struct Lanes {
    carrier: Arc<dyn Carrier>,
    slots: Mutex<Vec<Slot>>,
}

impl Lanes {
    /// All of `carrier`'s lanes but at most `limit`.
    pub fn new(carrier: Arc<dyn Carrier>, limit: u16) -> Self {
        let count = carrier.queues().len().saturating_sub(usize::from(FIRST_LANE)).min(usize::from(limit));
        let slots = Mutex::new(vec![Slot { held: Use::Free, last_uid: None }; count]);
        Self { carrier, slots }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.slots().len()
    }

    /// How many are lent now.
    pub fn lent(&self) -> usize {
        self.slots().iter().filter(|slot| matches!(slot.held, Use::Lent(_))).count()
    }

    /// Lends a lane to `client`, a process of user `uid`.
    pub fn lend(&self, control: &Control, client: u32, uid: u32) -> Result<Lease, LaneError> {
        let queue = self.reserve(client, uid)?;
        let lane = self.lane(queue);
        prepare(lane);
        match self.attach(control, client, queue) {
            Ok(start) => Ok(Lease { queue, start }),
            Err(error) => {
                match error {
                    // The broker has lent it already, so it is not free either.
                    LaneError::Indexes { .. } => self.set(queue, Use::Unusable),
                    _ => self.release(queue),
                }
                Err(error)
            }
        }
    }

    /// Takes `queue` back. Only after the broker has closed its client: then nobody but dead programs' children touches it.
    pub fn release(&self, queue: u16) {
        let rings = &self.lane(queue).rings;
        let (avail, used) = indexes(self.lane(queue));
        status_word(self.lane(queue), 0).store(state::IDLE, Ordering::Release);
        rings.page.clear_from((rings.base + rings.layout.commands) as usize);
        let held = if avail == used {
            Use::Free
        } else {
            tracing::warn!(
                "lane {queue} is not used any more: its indexes are {avail} and {used} after its client's end"
            );
            Use::Unusable
        };
        self.set(queue, held);
    }

    fn set(&self, queue: u16, held: Use) {
        if let Some(slot) = self.slots().get_mut(usize::from(queue - FIRST_LANE)) {
            slot.held = held;
        }
    }

    /// Marks the lanes of `client` lost and wakes whoever waits on them; returns how many.
    pub fn mark_lost(&self, client: u32) -> usize {
        self.mark(|held| held == Use::Lent(client))
    }

    /// As [`Self::mark_lost`], for every client: the device is gone.
    pub fn mark_all_lost(&self) -> usize {
        self.mark(|held| matches!(held, Use::Lent(_)))
    }

    fn mark(&self, matches: impl Fn(Use) -> bool) -> usize {
        let slots = self.slots();
        let queues = (FIRST_LANE..).zip(slots.iter()).filter(|(_, slot)| matches(slot.held));
        queues
            .map(|(queue, _)| {
                let lane = self.lane(queue);
                status_word(lane, 0).store(state::LOST, Ordering::SeqCst);
                if let Err(error) = lane.completion.write(1) {
                    tracing::debug!("waking lane {queue}: {error}");
                }
            })
            .count()
    }

    /// The queue behind a lane. Queue numbers come from this table, so it is there.
    pub fn lane(&self, queue: u16) -> &Queue {
        &self.carrier.queues()[usize::from(queue)]
    }

    fn reserve(&self, client: u32, uid: u32) -> Result<u16, LaneError> {
        let mut slots = self.slots();
        let count = slots.len();
        let rank = |slot: &Slot| match slot.last_uid {
            Some(last) if last == uid => 0,
            None => 1,
            Some(_) => 2,
        };
        let free = (FIRST_LANE..).zip(slots.iter_mut()).filter(|(_, slot)| slot.held == Use::Free);
        let (queue, slot) = free.min_by_key(|(_, slot)| rank(slot)).ok_or(LaneError::AllLent(count))?;
        *slot = Slot { held: Use::Lent(client), last_uid: Some(uid) };
        Ok(queue)
    }

    fn attach(&self, control: &Control, client: u32, queue: u16) -> Result<u16, LaneError> {
        let lane = self.lane(queue);
        let start = control.lane_attach(client, queue, lane.rings.page.gpa)?;
        let (avail, used) = indexes(lane);
        if avail != start || used != start {
            return Err(LaneError::Indexes { queue, start, avail, used });
        }
        // The broker may have said more already (LOST), which stays.
        let word = status_word(lane, 0);
        let _ = word.compare_exchange(state::IDLE, state::ATTACHED, Ordering::SeqCst, Ordering::SeqCst);
        Ok(start)
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Clears a lane's page, all but the two indexes, which the device goes on from.
fn prepare(lane: &Queue) {
    let rings = &lane.rings;
    let (page, layout) = (&rings.page, rings.layout);
    let at = |offset: u64| (rings.base + offset) as usize;
    let memory = &page.mapping;
    memory.zero(at(layout.desc), at(layout.avail));
    // Flags are 2 bytes, then the index.
    memory.zero(at(layout.avail), at(layout.avail) + 2);
    memory.zero(at(layout.avail) + 4, at(layout.used));
    memory.zero(at(layout.used), at(layout.used) + 2);
    memory.zero(at(layout.used) + 4, at(layout.status));
    memory.zero(at(layout.status), at(layout.commands));
    page.clear_from(at(layout.commands));
    // Until the worker sets its event index, the first entry kicks.
    let avail_event = memory.u16(at(layout.used) + 4 + 8 * usize::from(layout.size));
    avail_event.store(rings.avail_index().load(Ordering::Relaxed), Ordering::Release);
    wait::drain(&lane.kick);
    wait::drain(&lane.completion);
}

fn indexes(lane: &Queue) -> (u16, u16) {
    let load = |index: &std::sync::atomic::AtomicU16| index.load(Ordering::SeqCst);
    (load(lane.rings.avail_index()), load(lane.rings.used_index()))
}

/// A word of the lane's status; 0 is [`Status`]'s `state`.
fn status_word(lane: &Queue, word: usize) -> &std::sync::atomic::AtomicU32 {
    const { assert!(std::mem::offset_of!(Status, state) == 0) };
    let at = (lane.rings.base + lane.rings.layout.status) as usize;
    lane.rings.page.mapping.u32(at + 4 * word)
}
