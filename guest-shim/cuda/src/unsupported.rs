//! Functions that are not supported: each exists, refuses, and is named once in the log. Those that first check their arguments as the
//! driver does are in the files of their nouns, and refuse with CUDA_ERROR_NOT_SUPPORTED.

use crate::{call, capture, client, context, error, trace::Site};
use std::{collections::HashSet, sync::Mutex, sync::PoisonError};

static SEEN: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);

/// The reason of what CUDA 3.1 and before had. The driver refuses these in every context that it makes for a device with more than
/// 4 GiB, with CUDA_ERROR_INVALID_CONTEXT (measured).
const NARROW: &str = "device addresses do not fit in 32 bits";

/// A line in the log for the first refusal of a function, or of something that a supported function would do.
pub fn note(what: &'static str, reason: &'static str) {
    // Not locked while it is logged: the program's callback for log entries may call a function of these.
    let first = SEEN.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default().insert(what);
    if first {
        vgpu_client::warn!("{what} is not supported: {reason}");
    }
}

/// CUDA_ERROR_NOT_SUPPORTED, and a line for the first call of the function; as any function, CUDA_ERROR_NOT_INITIALIZED before cuInit.
/// `unsafe_in_capture`: a capture may be in its way, as the driver finds before anything else.
pub fn report(site: &'static Site, unsafe_in_capture: bool) -> u32 {
    let refuse = || {
        client::get()?;
        if unsafe_in_capture {
            capture::refuse_unsafe()?;
        }
        if site.reason == NARROW {
            context::require()?;
            return Err(error::INVALID_CONTEXT);
        }
        Err(error::NOT_SUPPORTED)
    };
    call::enter(site, false, || [0; 0], refuse)
}
