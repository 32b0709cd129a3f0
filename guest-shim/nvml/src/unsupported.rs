//! Functions that are not supported: each exists, checks its arguments, refuses, and is named once in the log.
//!
//! At level info: a program that monitors asks for everything and shows what it gets, so a refusal is nothing to warn of.

use crate::{call, error::NvmlError};
use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

static SEEN: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);

/// NVML_ERROR_NOT_SUPPORTED, unless the library was not initialised, one of the handles `devices` is wrong, or one of the pointers
/// that may not be NULL is (`nulls`).
pub fn answer(name: &'static str, reason: &'static str, devices: &[u64], nulls: &[bool]) -> u32 {
    call::enter(name, |library| {
        for device in devices {
            library.device(*device)?;
        }
        if nulls.contains(&true) {
            return Err(NvmlError::InvalidArgument);
        }
        let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.get_or_insert_with(HashSet::new).insert(name) {
            vgpu_client::info!("{name} is not supported: {reason}");
        }
        Err(NvmlError::NotSupported)
    })
}
