//! What a client does with its VM's turns on devices: which of its streams have work under way, told by marks (the driver's events) that
//! are put behind it. Nothing here knows CUDA: who calls has the driver.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::ledger::DEVICES;

/// Work that may be under way in a turn: what goes on after its end is no longer than this.
const AHEAD: Duration = Duration::from_millis(1);
/// Work between two marks of a stream. Each costs the device a microsecond or two between kernels; with less than half of what may be
/// under way there is always another to wait for.
const APART: Duration = Duration::from_micros(400);
/// The most calls between two marks.
const MOST_APART: u32 = 64;
/// Calls between two marks, and those that may be under way, as long as nothing has been measured.
const FIRST_APART: u32 = 4;
const FIRST: u32 = 16;
/// Work of which nothing ends for so long is no measure for anything.
const STALLED: Duration = Duration::from_millis(20);
/// Calls after which older ones count half.
const OF_LATE: u32 = 256;
/// So many calls may always be under way.
const LEAST: u32 = 2;

/// After so long without anything to do a turn is given up, at least.
const QUIET: Duration = Duration::from_micros(60);
/// A client that comes back sooner than this as a rule, as one does that waits for results and goes on, is waited for.
const SOON: Duration = Duration::from_micros(500);

/// A stream of the driver's, in a context: the special ones are there once for each.
pub type Stream = (u64, u64);

/// A mark behind `calls` calls.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    pub stream: Stream,
    pub event: u64,
    pub calls: u32,
}

/// A device's work of this client.
#[derive(Default)]
pub struct Track {
    /// Calls behind the last mark, by stream.
    unmarked: HashMap<Stream, u32>,
    marks: VecDeque<Mark>,
    /// Events that are not in use, by context.
    spare: HashMap<u64, Vec<u64>>,
    /// Calls that are not known to be done.
    calls: u32,
    /// Of late: calls that were done, and the time in which there was work. A call that was seen to be done late is followed by some that
    /// seem short, so only sums tell what one takes.
    done: u32,
    busy: Duration,
    /// When work was last known to be done, or begun on an idle device.
    since: Option<Instant>,
    last_call: Option<Instant>,
    /// Since when nothing is under way.
    idle_since: Option<Instant>,
    /// About how long that lasts, each time.
    pause: Duration,
}

impl Track {
    /// A call is about to be issued, which came at the time `came`: it may have waited since.
    pub fn comes(&mut self, came: Instant) {
        if let Some(since) = self.idle_since.take() {
            // One long pause is soon forgotten.
            let pause = came.saturating_duration_since(since).min(SOON * 4);
            self.pause = (self.pause * 3 + pause) / 4;
        }
    }

    /// Whether there was nothing to do for so long that the turn is better given up.
    pub fn is_over(&mut self, now: Instant) -> bool {
        if !self.is_idle() {
            return false;
        }
        let since = *self.idle_since.get_or_insert(now);
        let patience = if self.pause < SOON { QUIET + self.pause * 2 } else { QUIET };
        now.saturating_duration_since(since).max(self.quiet(now).min(QUIET)) >= patience
    }

    /// Another call was issued in `stream`; whether to put a mark behind it.
    pub fn issued(&mut self, stream: Stream, now: Instant) -> bool {
        if self.calls == 0 {
            self.since = Some(now);
        }
        self.last_call = Some(now);
        self.calls += 1;
        let each = self.each();
        let unmarked = self.unmarked.entry(stream).or_insert(0);
        *unmarked += 1;
        let apart = match u32::try_from(each.as_nanos()) {
            Ok(0) => FIRST_APART,
            Ok(each) => (u32::try_from(APART.as_nanos()).unwrap_or(u32::MAX) / each).clamp(1, MOST_APART),
            Err(_) => 1,
        };
        *unmarked >= apart
    }

    /// Streams with calls that no mark is behind.
    pub fn unmarked(&self) -> Vec<Stream> {
        self.unmarked.keys().copied().collect()
    }

    /// An event for a mark in that context, if there is one.
    pub fn spare(&mut self, context: u64) -> Option<u64> {
        self.spare.get_mut(&context)?.pop()
    }

    /// A mark was put behind all calls of `stream`; `None` if the driver did not take it: then nothing is known of them.
    pub fn marked(&mut self, stream: Stream, event: Option<u64>) {
        let Some(calls) = self.unmarked.remove(&stream) else { return };
        match event {
            Some(event) => self.marks.push_back(Mark { stream, event, calls }),
            None => self.calls = self.calls.saturating_sub(calls),
        }
    }

    /// Takes out the marks that are done, as `done` tells of each.
    pub fn look(&mut self, now: Instant, mut done: impl FnMut(&Mark) -> bool) {
        let (mut calls, mut left) = (0, VecDeque::new());
        for mark in std::mem::take(&mut self.marks) {
            if done(&mark) {
                calls += mark.calls;
                self.spare.entry(mark.stream.0).or_default().push(mark.event);
            } else {
                left.push_back(mark);
            }
        }
        self.marks = left;
        if calls == 0 {
            return;
        }
        self.calls = self.calls.saturating_sub(calls);
        self.busy += self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.done = self.done.saturating_add(calls);
        self.since = Some(now);
        if self.done >= OF_LATE {
            self.done /= 2;
            self.busy /= 2;
        }
    }

    /// About what a call takes; zero as long as that is not known.
    fn each(&self) -> Duration {
        self.busy.checked_div(self.done).unwrap_or_default()
    }

    /// About how long the work goes on that is not known to be done.
    fn ahead(&self) -> Duration {
        self.each().saturating_mul(self.calls)
    }

    /// About how long the work goes on that is under way; `None` if nothing is known of how long calls take.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        let since = self.since.filter(|_| self.done > 0)?;
        Some(self.ahead().saturating_sub(now.saturating_duration_since(since)))
    }

    /// Whether another call may be issued: not too much is under way, or nothing has ended for so long that it may wait for this call.
    pub fn has_room(&self, now: Instant) -> bool {
        let each = self.each();
        let stalled = STALLED.max(each * 4);
        if self.since.is_some_and(|since| now.saturating_duration_since(since) > stalled) {
            return true;
        }
        if each.is_zero() {
            return self.calls < FIRST;
        }
        self.calls < LEAST || self.ahead() < AHEAD
    }

    /// Nothing is under way that is known of.
    pub fn is_idle(&self) -> bool {
        self.marks.is_empty() && self.unmarked.is_empty()
    }

    pub fn has_marks(&self) -> bool {
        !self.marks.is_empty()
    }

    /// Whether nothing was issued for a moment.
    pub fn is_quiet(&self, now: Instant) -> bool {
        self.quiet(now) >= QUIET
    }

    fn quiet(&self, now: Instant) -> Duration {
        self.last_call.map_or(Duration::MAX, |last| now.saturating_duration_since(last))
    }

    fn forget(&mut self, ends: impl Fn(&Stream) -> bool) -> Vec<u64> {
        let mut events = Vec::new();
        self.unmarked.retain(|stream, calls| {
            let gone = ends(stream);
            self.calls -= if gone { (*calls).min(self.calls) } else { 0 };
            !gone
        });
        self.marks.retain(|mark| {
            let gone = ends(&mark.stream);
            if gone {
                self.calls = self.calls.saturating_sub(mark.calls);
                events.push(mark.event);
            }
            !gone
        });
        events
    }

    /// A stream ends. Its marks' events are spare: whoever records one again no longer asks about the old mark.
    fn forget_stream(&mut self, stream: u64) {
        let contexts: Vec<u64> =
            self.marks.iter().filter(|m| m.stream.1 == stream).map(|m| m.stream.0).collect();
        let events = self.forget(|known| known.1 == stream);
        for (context, event) in contexts.into_iter().zip(events) {
            self.spare.entry(context).or_default().push(event);
        }
    }

    /// A context ends, and its events with it.
    fn forget_context(&mut self, context: u64) {
        self.forget(|known| known.0 == context);
        self.spare.remove(&context);
    }
}

/// A device of this client's.
#[derive(Default)]
pub struct Tracked {
    track: Mutex<Track>,
    /// Grows when there is work to watch; the keeper sleeps on it.
    pub kicks: AtomicU32,
    /// The keeper runs.
    pub kept: AtomicBool,
}

impl Tracked {
    pub fn track(&self) -> MutexGuard<'_, Track> {
        self.track.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client's part in turns.
pub struct Turns {
    /// The driver's streams in which a capture was begun and has not ended.
    capturing: Mutex<HashSet<u64>>,
    captures: AtomicUsize,
    devices: Vec<Tracked>,
}

impl Default for Turns {
    fn default() -> Self {
        let devices = (0..DEVICES).map(|_| Tracked::default()).collect();
        Turns { capturing: Mutex::default(), captures: AtomicUsize::new(0), devices }
    }
}

impl Turns {
    /// Whether the client records something: the driver must be asked nothing then that would end it.
    pub fn captures(&self) -> bool {
        self.captures.load(Ordering::Acquire) != 0
    }

    /// A capture in `stream` begins or has ended.
    pub fn capture(&self, stream: u64, begins: bool) {
        let mut capturing = self.capturing.lock().unwrap_or_else(PoisonError::into_inner);
        if begins {
            capturing.insert(stream);
        } else {
            capturing.remove(&stream);
        }
        self.captures.store(capturing.len(), Ordering::Release);
        drop(capturing);
        if begins {
            // Marks that are being recorded are done when this has been held.
            self.kept().for_each(|device| drop(device.track()));
        }
    }

    pub fn device(&self, ordinal: u32) -> Option<&Tracked> {
        self.devices.get(ordinal as usize)
    }

    fn kept(&self) -> impl Iterator<Item = &Tracked> {
        self.devices.iter().filter(|device| device.kept.load(Ordering::Acquire))
    }

    /// The driver's stream is about to end.
    pub fn forget_stream(&self, stream: u64) {
        self.kept().for_each(|device| device.track().forget_stream(stream));
    }

    /// The driver's context is about to end.
    pub fn forget_context(&self, context: u64) {
        self.kept().for_each(|device| device.track().forget_context(context));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: Stream = (1, 9);

    #[test]
    fn work_is_bounded_by_what_calls_take() {
        let (mut track, mut now) = (Track::default(), Instant::now());
        let mut marks = 0;
        while track.has_room(now) {
            if track.issued(STREAM, now) {
                marks += 1;
                track.marked(STREAM, Some(marks));
            }
        }
        assert_eq!((track.calls, marks), (FIRST, 4), "nothing is known yet");
        // 100 µs for each. The first mark is seen late, the second right after it.
        now += Duration::from_micros(790);
        track.look(now, |mark| mark.event == 1);
        now += Duration::from_micros(10);
        track.look(now, |mark| mark.event == 2);
        assert_eq!((track.each(), track.calls), (Duration::from_micros(100), 8));
        assert!(track.has_room(now), "0.8 ms are under way");
        assert!(!track.issued(STREAM, now) && track.has_room(now));
        assert!(!track.issued(STREAM, now) && !track.has_room(now), "a mark each 400 µs");
        assert_eq!(track.left(now + Duration::from_micros(800)), Some(Duration::from_micros(200)));
        assert!(track.has_room(now + STALLED * 2), "it may wait for another call");
        now += Duration::from_micros(1000);
        track.look(now, |_| true);
        track.marked(STREAM, None);
        assert!(track.is_idle() && track.calls == 0 && track.has_room(now));
    }

    #[test]
    fn who_comes_back_soon_is_waited_for() {
        let (mut track, mut now) = (Track::default(), Instant::now());
        let mut pause_of = |pause: u64, times: u32| {
            let mut waited = Duration::ZERO;
            for _ in 0..times {
                track.comes(now);
                track.issued(STREAM, now);
                track.marked(STREAM, Some(1));
                assert!(!track.is_over(now));
                track.look(now, |_| true);
                waited = (0..2000).map(Duration::from_micros).find(|&t| track.is_over(now + t)).unwrap();
                now += Duration::from_micros(pause);
            }
            waited
        };
        assert!(pause_of(2000, 20) <= QUIET);
        let patient = pause_of(200, 40);
        assert!(patient > Duration::from_micros(400) && patient < Duration::from_micros(600), "{patient:?}");
    }

    #[test]
    fn what_ends_is_not_asked_about() {
        let (mut track, now) = (Track::default(), Instant::now());
        for (i, stream) in [(1, 9), (1, 0), (2, 0)].into_iter().enumerate() {
            track.issued(stream, now);
            track.marked(stream, Some(i as u64));
            track.issued(stream, now);
        }
        track.forget_stream(9);
        assert_eq!((track.calls, track.spare(1)), (4, Some(0)));
        track.forget_context(1);
        assert_eq!((track.calls, track.unmarked()), (2, vec![(2, 0)]));
        track.look(now, |mark| {
            assert_eq!(mark.event, 2);
            true
        });
        assert_eq!((track.spare(1), track.spare(2)), (None, Some(2)));
    }

    #[test]
    fn captures_are_counted_by_stream() {
        let turns = Turns::default();
        turns.capture(5, true);
        turns.capture(5, true);
        turns.capture(6, true);
        turns.capture(5, false);
        assert!(turns.captures());
        turns.capture(6, false);
        turns.capture(7, false);
        assert!(!turns.captures());
    }
}
