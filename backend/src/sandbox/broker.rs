//! What the broker itself gives up: it needs little, and must not die of it.

use rustix::thread::CapabilitySet;

use super::{Layer, SandboxArgs, SandboxError, calls, privileges};

/// To confine workers (users, namespaces), to end those of another user, and to serve sockets in folders of others.
const KEPT: CapabilitySet = CapabilitySet::SETUID
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::SYS_RESOURCE);

/// For workers' namespaces.
const NEEDED_CALLS: [i64; 1] = [libc::SYS_unshare];

/// Confines this process, before it has other threads. As for workers, what is not to be had is left out.
pub fn enter(args: &SandboxArgs) -> Result<(), SandboxError> {
    let attempt = |layer, result: Result<(), SandboxError>| match result {
        Err(error) if args.layers.required() => Err(error),
        Err(error) => {
            tracing::info!("the broker runs without the layer {layer}: {}", crate::log::chain(&error));
            Ok(())
        }
        Ok(()) => Ok(()),
    };
    if args.layers.contains(Layer::Privileges) {
        attempt(Layer::Privileges, privileges::renounce_new().and_then(|()| privileges::keep(KEPT)))?;
    }
    if args.layers.contains(Layer::Calls) {
        attempt(Layer::Calls, calls::forbid_hostile_but(&NEEDED_CALLS))?;
    }
    Ok(())
}
