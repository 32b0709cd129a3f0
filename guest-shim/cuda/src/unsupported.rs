//! Functions that are not supported: each exists, refuses, and is named once in the log.

use crate::{
    error,
    trace::{self, Site},
};
use std::{collections::HashSet, sync::Mutex, sync::PoisonError};

static SEEN: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);

/// CUDA_ERROR_NOT_SUPPORTED, and a line for the first call of the function.
pub fn report(site: &'static Site) -> u32 {
    let began = trace::begin();
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    if seen.get_or_insert_with(HashSet::new).insert(site.name) {
        vgpu_client::warn!("{} is not supported: {}", site.name, site.reason);
    }
    drop(seen);
    vgpu_client::record::call(site.name);
    if let Some(began) = began {
        trace::end(began, site, &[], error::NOT_SUPPORTED);
    }
    error::NOT_SUPPORTED
}
