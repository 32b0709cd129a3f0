//! Resource limits.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::SandboxError;

/// Descriptors: what a client shares and maps, and the driver's own.
const DESCRIPTORS: u64 = 16 << 10;

/// Limits that are no obstacle to a driver.
pub fn enter() -> Result<String, SandboxError> {
    let set = |resource, limit: u64, what| {
        let hard = getrlimit(resource).maximum;
        let limit = Some(hard.map_or(limit, |hard| hard.min(limit)));
        setrlimit(resource, Rlimit { current: limit, maximum: limit }).map_err(SandboxError::system(what))
    };
    // A dump would have the guest's memory in it. With 1 instead of 0 no program that collects dumps gets one either (core(5) ignores 0 for
    // these, and the kernel takes 1 for such a program's own crash).
    set(Resource::Core, 1, "limiting core dumps")?;
    set(Resource::Nofile, DESCRIPTORS, "limiting descriptors")?;
    set(Resource::Msgqueue, 0, "limiting message queues")?;
    set(Resource::Rtprio, 0, "limiting priorities")?;
    Ok(format!("no core dumps, {DESCRIPTORS} descriptors"))
}
