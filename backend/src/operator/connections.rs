//! A bound on how many connections are served at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many there are.
#[derive(Clone, Default)]
pub struct Connections(Arc<AtomicUsize>);

/// One of them, until it is dropped.
pub struct Connection(Arc<AtomicUsize>);

impl Connections {
    /// One more, unless there are `most`.
    pub fn open(&self, most: usize) -> Option<Connection> {
        let more = |n: usize| (n < most).then_some(n + 1);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Connection(Arc::clone(&self.0)))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_holds_until_one_ends() {
        let connections = Connections::default();
        let first = connections.open(1);
        assert!(first.is_some() && connections.open(1).is_none());
        drop(first);
        assert!(connections.open(1).is_some());
    }
}
