//! Confidential computing: off in a guest, whose host sees what it computes.

use crate::{
    abi::{ConfComputeSystemCaps, ConfComputeSystemState},
    call::Out,
    error,
    library::Library,
};

/// NVML_CC_ACCEPTING_CLIENT_REQUESTS_TRUE.
const ACCEPTING: u32 = 1;

pub fn nvmlSystemGetConfComputeState(_: &Library, state: Out<ConfComputeSystemState>) -> error::Result {
    state.set(ConfComputeSystemState::default());
    Ok(())
}

pub fn nvmlSystemGetConfComputeCapabilities(
    _: &Library,
    capabilities: Out<ConfComputeSystemCaps>,
) -> error::Result {
    capabilities.set(ConfComputeSystemCaps::default());
    Ok(())
}

/// Without confidential computing devices take work always.
pub fn nvmlSystemGetConfComputeGpusReadyState(_: &Library, isAcceptingWork: Out<u32>) -> error::Result {
    isAcceptingWork.set(ACCEPTING);
    Ok(())
}
