//! Looks at what the driver says that VMs with a memory limit use: what workers count is their word, this is the host's.
//!
//! Two things come of it. What a client uses beyond what its worker has counted (contexts, code that is loaded late, the driver's own) is
//! its overhead and counts from then on. And a VM that stays beyond its limit, which a worker that counts honestly does not allow, loses
//! its largest client.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use vgpu_spec::wire::reading::{Reading, UNKNOWN_MEMORY};

use super::accounts::Accounts;
use super::pool::Pool;
use super::worker_link::Worker;
use crate::ledger::DEVICES;

const PERIOD: Duration = Duration::from_secs(1);
/// How far the driver's figure may lie beyond the limit: pools grow in steps, blocks are rounded up, a client's overhead is known late.
const SLACK: u64 = 256 << 20;
/// And this part of the limit.
const SLACK_PART: u64 = 50;
/// How many readings in a row beyond that end a client.
const PATIENCE: u32 = 5;

/// Whether a VM that uses so much is beyond its limit by more than is explained.
fn is_beyond(used: u64, limit: u64) -> bool {
    used > limit.saturating_add(SLACK.max(limit / SLACK_PART))
}

/// What the driver says of the clients of one VM on one device: slot, worker, bytes.
fn of_clients(reading: &Reading, clients: &[(u32, Arc<Worker>)]) -> Vec<(u32, Arc<Worker>, u64)> {
    let listed: HashMap<u32, u64> = reading.processes.iter().map(|p| (p.pid, p.memory)).collect();
    let known = |(slot, worker): &(u32, Arc<Worker>)| {
        let bytes = *listed.get(&worker.pid)?;
        (bytes != UNKNOWN_MEMORY).then(|| (*slot, Arc::clone(worker), bytes))
    };
    clients.iter().filter_map(known).collect()
}

/// The thread's state.
pub struct Meter {
    pool: Arc<Pool>,
    /// Readings in a row beyond the limit, by VM and device.
    beyond: HashMap<(usize, u32), u32>,
}

impl Meter {
    /// Starts the thread.
    pub fn start(pool: Arc<Pool>) -> std::io::Result<()> {
        let mut meter = Meter { pool, beyond: HashMap::new() };
        std::thread::Builder::new().name("meter".into()).spawn(move || {
            loop {
                std::thread::sleep(PERIOD);
                meter.look();
            }
        })?;
        Ok(())
    }

    fn look(&mut self) {
        let vms: Vec<_> = self.pool.registry().all().into_iter().filter(|vm| vm.has_clients()).collect();
        let mut beyond = HashMap::new();
        for ordinal in 0..DEVICES {
            let limited =
                |vm: &&Arc<Accounts>| vm.ledger().device(ordinal).is_some_and(|d| d.limit().is_some());
            let limited: Vec<_> = vms.iter().filter(limited).collect();
            if limited.is_empty() {
                continue;
            }
            let uuid = self.pool.snapshot().and_then(|s| Some(s.devices.get(ordinal as usize)?.record.uuid));
            let before: Vec<_> = limited.iter().map(|vm| counted(vm, ordinal)).collect();
            let Some(reading) = uuid.and_then(|uuid| self.pool.monitor().processes(uuid)) else { continue };
            for (vm, before) in limited.into_iter().zip(before) {
                let key = (Arc::as_ptr(vm) as usize, ordinal);
                if let Some(worst) = measure(vm, ordinal, &reading, &before) {
                    let times = self.beyond.get(&key).map_or(1, |times| times + 1);
                    if times >= PATIENCE {
                        tracing::error!(
                            pid = worst.pid,
                            device = ordinal,
                            "a VM uses more memory than its limit allows: its largest client's worker is killed"
                        );
                        worst.kill();
                    } else {
                        beyond.insert(key, times);
                    }
                }
            }
        }
        self.beyond = beyond;
    }
}

/// What the VM's clients have counted, by slot.
fn counted(vm: &Accounts, ordinal: u32) -> HashMap<u32, u64> {
    let of = |slot: u32| {
        let used = vm.ledger().slot(slot)?.used.get(ordinal as usize)?;
        Some((slot, used.load(Ordering::Relaxed)))
    };
    vm.slots().into_iter().filter_map(of).collect()
}

/// Enters the overheads of the VM's clients; the worker of the largest if the VM is beyond its limit.
fn measure(
    vm: &Accounts,
    ordinal: u32,
    reading: &Reading,
    before: &HashMap<u32, u64>,
) -> Option<Arc<Worker>> {
    let clients = of_clients(reading, &vm.clients());
    let after = counted(vm, ordinal);
    for (slot, _, bytes) in &clients {
        // Of one that allocates just now nothing can be said.
        if let Some(counted) = after.get(slot).filter(|counted| before.get(slot) == Some(counted)) {
            vm.ledger().set_overhead(*slot, ordinal, bytes.saturating_sub(*counted));
        }
    }
    let limit = vm.ledger().device(ordinal)?.limit()?;
    let sum = clients.iter().fold(0_u64, |sum, (.., bytes)| sum.saturating_add(*bytes));
    let worst = clients.into_iter().max_by_key(|(.., bytes)| *bytes);
    worst.filter(|_| is_beyond(sum, limit)).map(|(_, worker, _)| worker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_explained_ends_nobody() {
        assert!(!is_beyond(SLACK + 100, 100));
        assert!(is_beyond(SLACK + 101, 100));
        let large = 100 * SLACK;
        assert!(!is_beyond(large + large / SLACK_PART, large));
        assert!(is_beyond(large + large / SLACK_PART + 1, large));
        assert!(!is_beyond(u64::MAX, u64::MAX));
    }
}
