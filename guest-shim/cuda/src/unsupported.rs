//! Functions that are not supported: each exists, refuses, and is named once in the log.

use crate::{client, error};
use std::{collections::HashSet, sync::Mutex, sync::PoisonError};

static SEEN: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);

/// The description's reason for what only contexts of before CUDA 3.2 could do; NVIDIA's driver refuses it with
/// CUDA_ERROR_INVALID_CONTEXT, whatever the arguments are (measured on driver 580).
const ADDRESSES_OF_32_BITS: &str = "device addresses do not fit in 32 bits";

/// CUDA_ERROR_NOT_SUPPORTED, and a line for the first call of `name`; as any function, CUDA_ERROR_NOT_INITIALIZED before cuInit.
pub fn report(name: &'static str, reason: &'static str) -> u32 {
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    if seen.get_or_insert_with(HashSet::new).insert(name) {
        vgpu_client::warn!("{name} is not supported: {reason}");
    }
    vgpu_client::record::call(name);
    let refusal = if reason == ADDRESSES_OF_32_BITS { error::INVALID_CONTEXT } else { error::NOT_SUPPORTED };
    client::get().err().unwrap_or(refusal)
}
