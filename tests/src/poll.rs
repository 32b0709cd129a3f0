//! Waiting for what must happen soon.

use std::time::{Duration, Instant};

/// After so long it counts as never.
pub const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(2);

/// Whether `condition` holds within `limit`.
pub fn within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > limit {
            return false;
        }
        std::thread::sleep(PAUSE);
    }
    true
}

/// Waits until `condition` holds; fails the test with `what` if it does not within [`PATIENCE`].
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    assert!(within(PATIENCE, condition), "never: {what}");
}

/// What `look` finds, as soon as it finds something; fails as [`eventually`] does.
pub fn found<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let mut found = None;
    eventually(what, || {
        found = look();
        found.is_some()
    });
    found.unwrap()
}

/// What `look` says once it has said the same for half a second: what ends or begins late is over. A broker replaces a worker that it has
/// given away after a quarter of one.
pub fn steady<T: PartialEq + std::fmt::Debug>(mut look: impl FnMut() -> T) -> T {
    const SAME: u32 = 250;
    let start = Instant::now();
    let (mut last, mut times) = (look(), 0);
    while times < SAME {
        assert!(start.elapsed() < PATIENCE, "it never stays the same: {last:?}");
        std::thread::sleep(PAUSE);
        let now = look();
        times = if now == last { times + 1 } else { 0 };
        last = now;
    }
    last
}
