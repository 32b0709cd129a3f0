//! Accounting: off for a guest, which has no records of ended processes.

use crate::{
    call::{List, Out},
    device::DISABLED,
    error,
    identity::Device,
    library::Library,
};

pub fn nvmlDeviceGetAccountingMode(_: &Library, _: &Device, mode: Out<u32>) -> error::Result {
    mode.set(DISABLED);
    Ok(())
}

pub fn nvmlDeviceGetAccountingPids(_: &Library, _: &Device, pids: List<u32>) -> error::Result {
    pids.set_empty();
    Ok(())
}
