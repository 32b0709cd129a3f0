//! A limit on how long the broker may take for a vhost-user request.
//!
//! The vhost crate waits for a reply for ever, whatever the socket's own timeout is; closing the connection ends its wait.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
struct State {
    end: Option<Instant>,
    fired: bool,
    over: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes a connection when something takes too long.
#[derive(Debug)]
pub struct Deadline {
    shared: Arc<Shared>,
    patience: Duration,
}

/// While it lives, the time runs.
#[derive(Debug)]
pub struct Armed<'a>(&'a Shared);

impl Deadline {
    /// Starts the thread that looks at the clock.
    pub fn new(stream: &UnixStream, patience: Duration) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (stream, watched) = (stream.try_clone()?, shared.clone());
        std::thread::Builder::new().name("deadline".into()).spawn(move || watch(&stream, &watched))?;
        Ok(Self { shared, patience })
    }

    /// The time runs from now until the returned value is dropped.
    pub fn arm(&self) -> Armed<'_> {
        self.shared.lock().end = Some(Instant::now() + self.patience);
        self.shared.changed.notify_all();
        Armed(&self.shared)
    }

    /// Whether a time ran out.
    pub fn fired(&self) -> bool {
        self.shared.lock().fired
    }
}

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        self.0.lock().end = None;
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.shared.lock().over = true;
        self.shared.changed.notify_all();
    }
}

fn watch(stream: &UnixStream, shared: &Shared) {
    let mut state = shared.lock();
    while !state.over {
        let left = state.end.map(|end| end.saturating_duration_since(Instant::now()));
        state = match left {
            Some(Duration::ZERO) => {
                state.fired = true;
                let _ = stream.shutdown(Shutdown::Both);
                return;
            }
            Some(left) => shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            None => shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_wait_ends_when_the_time_is_over_and_not_before() {
        let (mut stream, _peer) = UnixStream::pair().unwrap();
        let deadline = Deadline::new(&stream, Duration::from_millis(50)).unwrap();
        drop(deadline.arm());
        std::thread::sleep(Duration::from_millis(100));
        assert!(!deadline.fired(), "what was done in time");
        let start = Instant::now();
        let _armed = deadline.arm();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        assert!(start.elapsed() >= Duration::from_millis(50));
        assert!(deadline.fired());
    }
}
