//! Memory of a device, and what a VM that has a part of it sees of it.
#![allow(non_snake_case)]

use super::{
    error::{CudaError, NOT_SUPPORTED, check},
    thread::Thread,
};
use std::sync::atomic::Ordering;

/// Allocates memory.
pub fn cuMemAlloc_v2(t: &mut Thread, bytes: usize) -> Result<u64, CudaError> {
    let allocate = t.driver.cuMemAlloc_v2.ok_or(NOT_SUPPORTED)?;
    if let Some(address) = t.allocate_again(bytes as u64) {
        return Ok(address);
    }
    let make = || {
        let mut address = 0_u64;
        // SAFETY: a place that outlives the call.
        check(unsafe { allocate(&raw mut address, bytes) })?;
        Ok((address, bytes as u64))
    };
    t.allocate_blocks(bytes as u64, make, |address| free(t, address))
}

/// Allocates rows of memory: address and bytes from row to row.
pub fn cuMemAllocPitch_v2(
    t: &mut Thread,
    width: usize,
    height: usize,
    element: u32,
) -> Result<(u64, usize), CudaError> {
    let allocate = t.driver.cuMemAllocPitch_v2.ok_or(NOT_SUPPORTED)?;
    let mut pitch = 0_usize;
    let make = || {
        let mut address = 0_u64;
        // SAFETY: places that outlive the call.
        check(unsafe { allocate(&raw mut address, &raw mut pitch, width, height, element) })?;
        Ok((address, (pitch as u64).saturating_mul(height as u64)))
    };
    let least = (width as u64).saturating_mul(height as u64);
    let address = t.allocate_blocks(least, make, |address| free(t, address))?;
    Ok((address, pitch))
}

/// Undoes an allocation that the VM may not have.
fn free(t: &Thread, address: u64) {
    if let Some(free) = t.driver.cuMemFree_v2 {
        // SAFETY: just allocated, and nobody has been told of it.
        unsafe { free(address) };
    }
}

/// Frees memory of any sort.
pub fn cuMemFree_v2(t: &mut Thread, address: u64) -> Result<(), CudaError> {
    if t.free_later(address) { Ok(()) } else { t.free_at(address) }
}

impl Thread {
    /// Frees memory of any sort now.
    pub fn free_at(&self, address: u64) -> Result<(), CudaError> {
        let free = self.driver.cuMemFree_v2.ok_or(NOT_SUPPORTED)?;
        // SAFETY: the driver looks the address up.
        self.free_blocks(address, || check(unsafe { free(address) }))
    }
}

/// Free and whole memory of the current context's device: the driver's, and where the VM has a limit, what is left of that.
pub fn cuMemGetInfo_v2(
    t: &mut Thread,
    want_free: bool,
    want_total: bool,
) -> Result<(usize, usize), CudaError> {
    let get = t.driver.cuMemGetInfo_v2.ok_or(NOT_SUPPORTED)?;
    if want_free && t.client.account.others_leave() {
        // Natively a process whose end is known has given everything back. If that takes too long, what is free now is the answer.
        let _ = t.client.make_room(t.device().unwrap_or(0), true);
    }
    let (mut free, mut total) = (0, 0);
    let place = |wanted: bool, value: *mut usize| if wanted { value } else { std::ptr::null_mut() };
    // SAFETY: places that outlive the call, or none.
    check(unsafe { get(place(want_free, &raw mut free), place(want_total, &raw mut total)) })?;
    // The shim asks for neither to learn whether the context has failed.
    if !(want_free || want_total) {
        return Ok((free, total));
    }
    let device = t.device()?;
    let Some(limit) = t.client.account.device(device).and_then(crate::ledger::Device::limit) else {
        return Ok((free, total));
    };
    if want_free {
        // A pool may have given back what nobody has asked about since.
        if !t.session.turns.captures() {
            t.settle();
        }
    }
    let used = t.client.account.device(device).map_or(0, |d| d.used.load(Ordering::Acquire));
    Ok(of_vm(limit, used, free, total))
}

/// What a VM with that limit and use sees of a device with so much free and in all. Free is what a program can still get, so what other
/// VMs have taken counts too.
fn of_vm(limit: u64, used: u64, free: usize, total: usize) -> (usize, usize) {
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let shown = if total == 0 { size(limit) } else { size(limit).min(total) };
    (free.min(shown.saturating_sub(size(used))), shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_is_what_the_vm_and_the_device_have_left() {
        let seen = |limit, used| of_vm(limit, used, 60, 100);
        assert_eq!(seen(50, 20), (30, 50));
        assert_eq!(seen(90, 20), (60, 90), "other VMs have taken the rest");
        assert_eq!(seen(50, 70), (0, 50), "more than it may use");
        assert_eq!(seen(1000, 20), (60, 100), "the whole device");
        assert_eq!(of_vm(50, 20, 60, 0), (30, 50), "only free was asked for");
    }
}
