//! What the operator is shown of the broker, its VMs and their clients.

use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use vm_memory::{GuestAddressSpace, GuestMemoryMmap};

use super::accounts::Totals;
use super::lock;
use super::presence::{Place, Presence};
use super::tenant::Tenant;
use super::vm::{Client, Lent, State, Vm};
use super::vms::Vms;
use crate::ledger::{Counter, Ledger};
use crate::log::printable;
use crate::operator::status::{
    ClientStatus, Counts, DeviceStatus, FrontEnd, MemoryStatus, PresenceStatus, Status, VmPlace, VmStatus,
    WorkersStatus,
};

/// Since when this process answers.
fn uptime() -> std::time::Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// Starts the clock.
pub fn start_clock() {
    let _ = uptime();
}

/// All of it at this moment.
pub fn status(vms: &Vms) -> Status {
    let snapshot = vms.pool().snapshot();
    let devices: Vec<DeviceStatus> = snapshot.iter().flat_map(|s| &s.devices).map(device).collect();
    let figures = vms.pool().figures();
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        uptime_ms: u64::try_from(uptime().as_millis()).unwrap_or(u64::MAX),
        workers: WorkersStatus {
            warm: figures.warm,
            starting: figures.starting,
            starts: figures.starts,
            failures: figures.failures,
        },
        vms: vms.all().iter().map(|tenant| vm(tenant, &devices)).collect(),
        devices,
    }
}

fn device(device: &vgpu_spec::wire::snapshot::Device) -> DeviceStatus {
    DeviceStatus { name: printable(device.name().as_bytes()), memory: device.record.total_memory }
}

fn vm(tenant: &Tenant, devices: &[DeviceStatus]) -> VmStatus {
    let accounts = &tenant.accounts;
    let limits = accounts.limits();
    let memory = |ordinal: u32| {
        let device = accounts.ledger().device(ordinal)?;
        let limit = device.limit.load(Ordering::Relaxed);
        Some(MemoryStatus {
            used: device.used.load(Ordering::Relaxed),
            limit: (limit != u64::MAX).then_some(limit),
        })
    };
    let connected = tenant.vm();
    let (front_end, clients) = match &connected {
        Some(vm) => front_end(vm, accounts.ledger(), devices.len()),
        None => (None, Vec::new()),
    };
    VmStatus {
        name: tenant.name.clone(),
        socket: tenant.socket.clone(),
        weight: limits.weight,
        cap: limits.cap,
        pinned_limit: limits.pinned,
        suspend_after: limits.suspend_after,
        presence: presence(accounts.presence()),
        max_clients: tenant.clients(),
        queues: tenant.queues,
        devices: tenant.devices().ordinals(),
        memory: (0_u32..).zip(devices).map_while(|(ordinal, _)| memory(ordinal)).collect(),
        counts: counts(&accounts.totals()),
        front_end,
        clients,
    }
}

/// Messages in the VM's lanes that are not done.
pub fn queue_depth(vm: &Vm) -> u64 {
    let memory = vm.memory.memory();
    lock(&vm.state).lanes.iter().flatten().filter_map(|lane| depth(lane, &memory)).sum()
}

fn depth(lane: &Lent, memory: &GuestMemoryMmap) -> Option<u64> {
    // SECURITY: both indices are the guest's: a hint, bounded by the ring's size.
    let waiting = lane.page.avail_idx(memory)?.wrapping_sub(lane.page.used_idx(memory)?);
    Some(u64::from(waiting.min(lane.page.layout.size)))
}

fn front_end(vm: &Vm, ledger: &Ledger, devices: usize) -> (Option<FrontEnd>, Vec<ClientStatus>) {
    let memory = vm.memory.memory();
    let state = lock(&vm.state);
    let lent = || state.lanes.iter().flatten();
    let front_end = FrontEnd {
        agent: state.greeted,
        lanes: lent().count(),
        queue_depth: lent().filter_map(|lane| depth(lane, &memory)).sum(),
    };
    let mut clients: Vec<_> =
        state.clients.iter().map(|(&number, c)| client(number, c, &state, ledger, devices)).collect();
    clients.sort_by_key(|client| client.number);
    (Some(front_end), clients)
}

fn client(number: u32, client: &Client, state: &State, ledger: &Ledger, devices: usize) -> ClientStatus {
    let slot = ledger.slot(client.account.number());
    let used = |ordinal: u32| slot.map_or(0, |slot| slot.memory(ordinal));
    let totals = Counter::ALL.map(|counter| slot.map_or(0, |slot| slot.get(counter)));
    ClientStatus {
        number,
        name: client.label.clone(),
        pid: client.pid,
        worker: client.worker.pid,
        lost: client.lost,
        lanes: state.lanes.iter().flatten().filter(|lane| lane.client == number).count(),
        memory: (0_u32..).take(devices).map(used).collect(),
        counts: counts(&totals),
    }
}

fn presence(presence: &Presence) -> PresenceStatus {
    let state = presence.state();
    let (place, hold) = match state.place {
        Place::Here => (VmPlace::Running, false),
        Place::Leaving => (VmPlace::Suspending, false),
        Place::Away { hold } => (VmPlace::Suspended, hold),
        Place::Returning => (VmPlace::Resuming, false),
    };
    let since = state.since.map_or_else(Duration::default, |since| since.elapsed());
    PresenceStatus {
        place,
        hold,
        since_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        suspensions: state.times,
        failure: state.failure.clone(),
    }
}

fn counts(totals: &Totals) -> Counts {
    let of = |counter: Counter| totals.get(counter as usize).copied().unwrap_or(0);
    let messages = of(Counter::Messages);
    let round_trips = of(Counter::RoundTrips);
    Counts {
        // SECURITY: a worker's numbers need not fit each other.
        calls_async: messages.saturating_sub(round_trips),
        round_trips,
        errors: of(Counter::Errors),
        launches: of(Counter::Launches),
        bytes_to_device: of(Counter::BytesToDevice),
        bytes_from_device: of(Counter::BytesFromDevice),
        device_ns: of(Counter::DeviceTime),
        throttled_ns: of(Counter::Throttled),
    }
}
