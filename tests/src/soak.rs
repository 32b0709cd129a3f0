//! How long tests go on that could go on for ever, and where their random numbers begin.

use std::time::Duration;

/// Seconds from VGPU_SOAK, else `short`.
pub fn seconds(short: u64) -> Duration {
    Duration::from_secs(number("VGPU_SOAK").unwrap_or(short))
}

/// From VGPU_SEED, else always the same.
pub fn seed() -> u64 {
    number("VGPU_SEED").unwrap_or(1)
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}: \"{text}\" is no number")))
}
