//! VMs that wait to come back, and workers that wait for room: others are moved off for them.

use std::sync::Arc;
use std::time::Instant;

use super::{Engine, Vm, Waiting, key};
use crate::broker::presence::Place;
use crate::broker::suspend::policy::{Choice, Key, Seat, choose};
use crate::broker::tenant::Tenant;
use crate::devices::DeviceSet;
use crate::log::chain;

/// A VM for which the driver had no room is tried again after so many milliseconds, if nobody was moved off before.
const AGAIN: u64 = 2_000;
/// Milliseconds for which a worker waits for room.
const ROOM_PATIENCE: u64 = 120_000;

/// What came of looking for a VM to be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    Made,
    Later,
    None,
}

impl Engine {
    /// Brings VMs back, and makes room for workers. Only who has waited longest may have others moved: else they would push each other out.
    pub(super) fn serve_waits(&mut self) {
        let rooms = std::mem::take(&mut self.rooms);
        let coming = self.vms.iter().filter_map(|(&key, vm)| Some((vm.coming.as_ref()?.0, key, None)));
        let mut waits: Vec<_> = coming.collect();
        waits.extend(rooms.into_iter().map(|room| (room.since, room.key, Some(room))));
        waits.sort_by_key(|&(since, key, _)| (since, key));
        let mut first = true;
        for (_, key, room) in waits {
            let tenant = self.vms.get(&key).and_then(|vm| vm.tenant.upgrade());
            match (tenant, room) {
                (Some(tenant), None) => first &= self.try_back(&tenant, first),
                (Some(tenant), Some(room)) => first &= self.try_room(&tenant, room, first),
                (None, Some(room)) => (room.answer)(false),
                (None, None) => {}
            }
        }
    }

    /// Whether the worker has its answer, or others need not wait for it.
    fn try_room(&mut self, tenant: &Arc<Tenant>, room: Waiting, may_move: bool) -> bool {
        let now = self.now();
        if self.moves > room.moves && !tenant.accounts.presence().is_away() {
            (room.answer)(true);
            return true;
        }
        if now.saturating_sub(room.since) >= ROOM_PATIENCE {
            (room.answer)(false);
            return true;
        }
        if tenant.accounts.presence().is_away() {
            self.rooms.push(room);
            return true;
        }
        let device = room.device;
        let helps = |devices: &DeviceSet| devices.has(device);
        match if may_move { self.move_one(room.key, helps) } else { Room::Later } {
            Room::Made => {
                let now = self.now();
                if let Some(vm) = self.vms.get_mut(&room.key) {
                    (vm.since, vm.active) = (now, now);
                }
                (room.answer)(true);
                true
            }
            Room::Later => {
                self.rooms.push(room);
                false
            }
            Room::None => {
                (room.answer)(false);
                true
            }
        }
    }

    /// Whether it is back, or nothing can be done for it.
    fn try_back(&mut self, tenant: &Arc<Tenant>, may_move: bool) -> bool {
        let needed = tenant.accounts.presence().state().needs.clone();
        let own = tenant.devices_in_use();
        loop {
            let free = (self.free)();
            let result = if needed.iter().zip(&free).all(|(needed, free)| needed <= free) {
                self.come_back(tenant)
            } else {
                None
            };
            match result {
                Some(result) => {
                    if let Some(vm) = self.vms.get_mut(&key(tenant)) {
                        vm.said = false;
                        let told = vm.coming.take().map(|(_, told)| told).unwrap_or_default();
                        for done in told {
                            let _ = done.try_send(Ok(result));
                        }
                    }
                    return true;
                }
                None if may_move
                    && self.move_one(key(tenant), |devices| devices.overlaps(&own)) == Room::Made => {}
                None => {
                    if let Some(vm) = self.vms.get_mut(&key(tenant))
                        && !std::mem::replace(&mut vm.said, true)
                    {
                        tracing::warn!(vm = tenant.name, "waits for device memory before it goes on");
                    }
                    return false;
                }
            }
        }
    }

    /// `None` if there is no room for it.
    fn come_back(&mut self, tenant: &Arc<Tenant>) -> Option<()> {
        let (start, now, moves) = (Instant::now(), self.now(), self.moves);
        let full = self.vms.get(&key(tenant)).and_then(|vm| vm.full);
        if full.is_some_and(|(at, then)| now.saturating_sub(at) < AGAIN && then == moves) {
            return None;
        }
        match self.mover.come_back(tenant) {
            Ok(()) => {
                tracing::info!(vm = tenant.name, took = ?start.elapsed(), "resumed");
                self.listen(tenant, false);
                let now = self.now();
                if let Some(vm) = self.vms.get_mut(&key(tenant)) {
                    (vm.since, vm.active, vm.failed, vm.full) = (now, now, None, None);
                }
                Some(())
            }
            Err(error) => {
                tracing::debug!("{}", chain(&error));
                if let Some(vm) = self.vms.get_mut(&key(tenant)) {
                    vm.full = Some((now, moves));
                }
                None
            }
        }
    }

    /// Moves a VM off for `needy`: one whose devices are such that it helps.
    fn move_one(&mut self, needy: Key, helps: impl Fn(&DeviceSet) -> bool) -> Room {
        if !self.oversubscribe {
            return Room::None;
        }
        loop {
            let now = self.now();
            let seats: Vec<Seat> = self.vms.iter().filter_map(|(&key, vm)| seat(key, vm, &helps)).collect();
            let chosen = match choose(now, needy, &seats) {
                Choice::Move(key) => key,
                Choice::Later(_) => return Room::Later,
                Choice::Nobody => return Room::None,
            };
            let Some(tenant) = self.vms.get(&chosen).and_then(|vm| vm.tenant.upgrade()) else {
                return Room::Later;
            };
            tracing::info!(vm = tenant.name, "is suspended for another VM, which needs memory");
            if self.suspend(&tenant, false).is_ok() {
                return Room::Made;
            }
        }
    }
}

/// `None` of a VM that is gone, or of no help.
fn seat(key: Key, vm: &Vm, helps: &impl Fn(&DeviceSet) -> bool) -> Option<Seat> {
    let tenant = vm.tenant.upgrade().filter(|tenant| helps(&tenant.devices_in_use()))?;
    let accounts = &tenant.accounts;
    Some(Seat {
        key,
        here: accounts.presence().place() == Place::Here && accounts.has_clients(),
        since: vm.since,
        active: vm.active,
        suspend_after: accounts.limits().suspend_after.map(|seconds| u64::from(seconds) * 1000),
        failed: vm.failed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::accounts::Accounts;
    use crate::config::settings::VmSettings;

    #[test]
    fn who_does_not_have_the_full_device_is_not_moved_for_it() {
        let settings = VmSettings { socket: Some("/tmp/a".into()), ..VmSettings::default() };
        let tenant = Tenant::new(&settings.vm("a").unwrap(), Accounts::new().unwrap(), false).unwrap();
        tenant.set_devices(Arc::new(DeviceSet::new(Some(&[1]), 2).unwrap()));
        let vm = Vm {
            tenant: Arc::downgrade(&tenant),
            bell: None,
            messages: 0,
            active: 0,
            since: 0,
            failed: None,
            coming: None,
            said: false,
            full: None,
        };
        assert!(seat(1, &vm, &|devices: &DeviceSet| devices.has(1)).is_some());
        assert!(seat(1, &vm, &|devices: &DeviceSet| devices.has(0)).is_none());
        drop(tenant);
        assert!(seat(1, &vm, &|_: &DeviceSet| true).is_none(), "it is gone");
    }
}
