//! Memory: what a VM that is shown a part of a device's memory sees of it.
#![allow(non_snake_case)]

use super::{
    error::{CudaError, NOT_SUPPORTED, UNKNOWN, check, complain},
    thread::Thread,
};
use crate::{link::message::VmMemory, log::chain};
use vgpu_spec::wire::reading::UNKNOWN_MEMORY;

/// Free and whole memory of the current context's device: the driver's, and where the VM is shown a size of its own, what is left of that.
pub fn cuMemGetInfo_v2(
    t: &mut Thread,
    want_free: bool,
    want_total: bool,
) -> Result<(usize, usize), CudaError> {
    let get = t.driver.cuMemGetInfo_v2.ok_or(NOT_SUPPORTED)?;
    let (mut free, mut total) = (0, 0);
    let place = |wanted: bool, value: *mut usize| if wanted { value } else { std::ptr::null_mut() };
    // SAFETY: places that outlive the call, or none.
    check(unsafe { get(place(want_free, &raw mut free), place(want_total, &raw mut total)) })?;
    // The shim asks for neither to learn whether the context has failed.
    if t.client.own_memory == 0 || !(want_free || want_total) {
        return Ok((free, total));
    }
    let device = device(t)?;
    if t.client.own_memory.checked_shr(device).unwrap_or(0) & 1 == 0 {
        return Ok((free, total));
    }
    let memory = t.client.broker.memory(device).map_err(|error| {
        complain(&chain(&error));
        UNKNOWN
    })?;
    Ok(of_vm(memory, free, total))
}

/// The host's ordinal of the current context's device.
fn device(t: &Thread) -> Result<u32, CudaError> {
    let get = t.driver.cuCtxGetDevice.ok_or(NOT_SUPPORTED)?;
    let mut device = 0;
    // SAFETY: a place that outlives the call.
    check(unsafe { get(&raw mut device) })?;
    u32::try_from(device).map_err(|_| UNKNOWN)
}

/// What a VM with that memory sees of a device with so much free and in all. Free is what a program can still get, so what other VMs have
/// taken counts too.
fn of_vm(memory: VmMemory, free: usize, total: usize) -> (usize, usize) {
    let shown = usize::try_from(memory.total).unwrap_or(usize::MAX).min(total);
    let used = match memory.used {
        UNKNOWN_MEMORY => 0,
        used => usize::try_from(used).unwrap_or(usize::MAX),
    };
    (free.min(shown.saturating_sub(used)), shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_is_what_the_vm_and_the_device_have_left() {
        let seen = |total, used| of_vm(VmMemory { total, used }, 60, 100);
        assert_eq!(seen(50, 20), (30, 50));
        assert_eq!(seen(90, 20), (60, 90), "other VMs have taken the rest");
        assert_eq!(seen(50, 70), (0, 50), "more than it is shown");
        assert_eq!(seen(50, UNKNOWN_MEMORY), (50, 50));
        assert_eq!(seen(u64::MAX, 20), (60, 100), "the whole device");
    }
}
