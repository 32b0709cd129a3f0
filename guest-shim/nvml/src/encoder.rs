//! Sessions of video encoders and of frame capture: video engines do not reach a guest, so it has none.

use crate::{
    abi::{EncoderSessionInfo, FBCSessionInfo, FBCStats},
    call::{List, Out},
    error,
    identity::Device,
    library::Library,
};

pub fn nvmlDeviceGetEncoderSessions(
    _: &Library,
    _: &Device,
    infos: List<EncoderSessionInfo>,
) -> error::Result {
    infos.set_empty();
    Ok(())
}

pub fn nvmlDeviceGetEncoderStats(
    _: &Library,
    _: &Device,
    sessionCount: &mut u32,
    averageFps: Out<u32>,
    averageLatency: Out<u32>,
) -> error::Result {
    *sessionCount = 0;
    averageFps.set(0);
    averageLatency.set(0);
    Ok(())
}

pub fn nvmlDeviceGetFBCSessions(_: &Library, _: &Device, infos: List<FBCSessionInfo>) -> error::Result {
    infos.set_empty();
    Ok(())
}

pub fn nvmlDeviceGetFBCStats(_: &Library, _: &Device, fbcStats: Out<FBCStats>) -> error::Result {
    fbcStats.set(FBCStats::default());
    Ok(())
}
