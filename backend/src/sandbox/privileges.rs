//! Privileges that a process has, and may get.

use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};

use super::SandboxError;

/// From now on no program that this process executes has more rights than it.
pub fn renounce_new() -> Result<(), SandboxError> {
    set_no_new_privs(true).map_err(SandboxError::system("renouncing new privileges"))
}

/// Gives up all capabilities, and that a program could give them back.
pub fn drop_all() -> Result<String, SandboxError> {
    keep(CapabilitySet::empty())?;
    Ok("no new privileges, no capabilities".into())
}

/// Gives up all capabilities but `kept`, as far as the process has them.
pub fn keep(kept: CapabilitySet) -> Result<(), SandboxError> {
    // Without the right to change the set nothing in it can be used either: no privileges can be gained.
    for number in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if !kept.contains(one) {
            let _ = remove_capability_from_bounding_set(one);
        }
    }
    let _ = clear_ambient_capability_set();
    let has = rustix::thread::capabilities(None).map_err(SandboxError::system("reading capabilities"))?;
    let left = has.permitted & kept;
    set_capabilities(
        None,
        CapabilitySets { effective: left, permitted: left, inheritable: CapabilitySet::empty() },
    )
    .map_err(SandboxError::system("dropping capabilities"))
}

/// Whether processes of the same user may look into this one, as into any other. The kernel's answer after a change of the user is no.
pub fn set_open(open: bool) -> Result<(), SandboxError> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    let behavior = if open { DumpableBehavior::Dumpable } else { DumpableBehavior::NotDumpable };
    set_dumpable_behavior(behavior).map_err(SandboxError::system("closing the process to others"))
}
