//! Event sets. A device of a VM has no events to register for, and a wait ends by its time.
//!
//! The host's NVML reports errors (Xid), clock and power changes by device, without the process: which VM's an error was cannot be told,
//! and one VM's errors are not another's to see. Programs that watch health (NVIDIA's device plugin for Kubernetes) register for what
//! [`nvmlDeviceGetSupportedEventTypes`] says, and get along with none.

use crate::{
    abi::EventData,
    call::Out,
    error::{self, NvmlError},
    identity::Device,
    library::Library,
};
use std::{
    collections::BTreeSet,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Event types that a device has: none.
const SUPPORTED: u64 = 0;
/// The most sets at once.
const MAX_SETS: usize = 256;

/// Sets, as their handles: addresses, as those of devices are.
static HANDLES: [u64; MAX_SETS] = [0; MAX_SETS];
/// Numbers of the sets that exist.
static SETS: Mutex<BTreeSet<usize>> = Mutex::new(BTreeSet::new());
static FREED: Condvar = Condvar::new();

fn sets() -> MutexGuard<'static, BTreeSet<usize>> {
    SETS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn address(place: &u64) -> u64 {
    std::ptr::from_ref(place).addr() as u64
}

fn number(handle: u64) -> error::Result<usize> {
    HANDLES.iter().position(|place| address(place) == handle).ok_or(NvmlError::InvalidArgument)
}

pub fn nvmlEventSetCreate(_: &Library, set: Out<u64>) -> error::Result {
    let mut sets = sets();
    let free = (0..MAX_SETS).find(|number| !sets.contains(number)).ok_or(NvmlError::InsufficientResources)?;
    let place = HANDLES.get(free).ok_or(NvmlError::Unknown)?;
    sets.insert(free);
    set.set(address(place));
    Ok(())
}

pub fn nvmlEventSetFree(_: &Library, set: u64) -> error::Result {
    let number = number(set)?;
    let gone = sets().remove(&number);
    FREED.notify_all();
    if gone { Ok(()) } else { Err(NvmlError::InvalidArgument) }
}

/// Frees all sets: the library ends. Waits for them end.
pub fn end() {
    sets().clear();
    FREED.notify_all();
}

pub fn nvmlDeviceGetSupportedEventTypes(_: &Library, _: &Device, eventTypes: Out<u64>) -> error::Result {
    eventTypes.set(SUPPORTED);
    Ok(())
}

pub fn nvmlDeviceRegisterEvents(_: &Library, _: &Device, eventTypes: u64, set: u64) -> error::Result {
    if !sets().contains(&number(set)?) {
        return Err(NvmlError::InvalidArgument);
    }
    if eventTypes & !SUPPORTED != 0 {
        return Err(NvmlError::NotSupported);
    }
    Ok(())
}

pub fn nvmlEventSetWait_v2(_: &Library, set: u64, _data: Out<EventData>, timeoutms: u32) -> error::Result {
    let number = number(set)?;
    let sets = sets();
    if !sets.contains(&number) {
        return Err(NvmlError::InvalidArgument);
    }
    let time = Duration::from_millis(timeoutms.into());
    let waited = FREED.wait_timeout_while(sets, time, |sets| sets.contains(&number));
    let (_sets, result) = waited.unwrap_or_else(PoisonError::into_inner);
    // Freed by another thread meanwhile, it is no set any more.
    Err(if result.timed_out() { NvmlError::Timeout } else { NvmlError::InvalidArgument })
}

pub fn nvmlEventSetWait(library: &Library, set: u64, data: Out<EventData>, timeoutms: u32) -> error::Result {
    nvmlEventSetWait_v2(library, set, data, timeoutms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{call::tests::output, library::tests::library};
    use std::time::Instant;

    fn wait(library: &Library, set: u64, time: u32) -> error::Result {
        output(|o| nvmlEventSetWait_v2(library, set, o, time)).map(|_: EventData| ())
    }

    #[test]
    fn a_set_lives_from_create_to_free_and_a_wait_ends_by_its_time() {
        let library = library(1);
        let device = &library.devices()[0];
        let set = output(|o| nvmlEventSetCreate(&library, o)).unwrap();
        assert_eq!(nvmlDeviceRegisterEvents(&library, device, 0, set), Ok(()));
        assert_eq!(nvmlDeviceRegisterEvents(&library, device, 8, set), Err(NvmlError::NotSupported));
        let began = Instant::now();
        assert_eq!(wait(&library, set, 30), Err(NvmlError::Timeout));
        assert!(began.elapsed() >= Duration::from_millis(30));
        assert_eq!(nvmlEventSetFree(&library, set), Ok(()));
        assert_eq!(nvmlEventSetFree(&library, set), Err(NvmlError::InvalidArgument));
        assert_eq!(wait(&library, set, 0), Err(NvmlError::InvalidArgument));
        assert_eq!(nvmlDeviceRegisterEvents(&library, device, 0, 5), Err(NvmlError::InvalidArgument));
    }

    #[test]
    fn freeing_a_set_ends_a_wait() {
        let library = library(1);
        let set = output(|o| nvmlEventSetCreate(&library, o)).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| wait(&library, set, 60_000));
            std::thread::sleep(Duration::from_millis(50));
            assert_eq!(nvmlEventSetFree(&library, set), Ok(()));
            assert_eq!(waiting.join().unwrap(), Err(NvmlError::InvalidArgument));
        });
    }
}
