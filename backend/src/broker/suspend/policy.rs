//! Who is moved off the devices when another VM needs the memory, as rules without clocks, threads or processes.
//!
//! Idle VMs go first, the one that was idle for longest. If none is idle, VMs that work take turns of [`RESIDENCE`], so that each gets
//! something done: a move costs seconds. Only VMs that may be suspended at all (`suspend-after`) are.

/// Milliseconds for which a VM that works is left alone after it has got its memory.
pub const RESIDENCE: u64 = 10_000;
/// And after it could not be moved.
pub const RETRY: u64 = 60_000;

/// A VM, by a number of the caller's.
pub type Key = usize;

/// What is known of a VM. Times are milliseconds of one clock.
#[derive(Debug, Clone, Copy)]
pub struct Seat {
    pub key: Key,
    /// It is on its devices and has clients there.
    pub here: bool,
    /// Since when it has had its memory.
    pub since: u64,
    /// When it was last seen to do something.
    pub active: u64,
    /// Milliseconds of idleness after which it may be moved; `None` for never.
    pub suspend_after: Option<u64>,
    /// When it last could not be moved.
    pub failed: Option<u64>,
}

/// What to do for a VM that needs memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    Move(Key),
    /// Nothing before that time.
    Later(u64),
    /// There is no VM that could be moved.
    Nobody,
}

/// Chooses for `needy` at the time `now`.
pub fn choose(now: u64, needy: Key, seats: &[Seat]) -> Choice {
    let movable = |seat: &&Seat| {
        let failed = seat.failed.is_some_and(|at| now.saturating_sub(at) < RETRY);
        seat.key != needy && seat.here && seat.suspend_after.is_some() && !failed
    };
    let movable = || seats.iter().filter(movable);
    let idle =
        movable().filter(|s| s.suspend_after.is_some_and(|after| now.saturating_sub(s.active) >= after));
    if let Some(idle) = idle.min_by_key(|seat| (seat.active, seat.key)) {
        return Choice::Move(idle.key);
    }
    let due = |seat: &Seat| seat.since.saturating_add(RESIDENCE);
    let idle_at = |seat: &Seat| seat.active.saturating_add(seat.suspend_after.unwrap_or(u64::MAX));
    match movable().min_by_key(|seat| (due(seat), seat.key)) {
        Some(seat) if due(seat) <= now => Choice::Move(seat.key),
        Some(_) => {
            let next = movable().map(|seat| due(seat).min(idle_at(seat))).min();
            Choice::Later(next.unwrap_or(u64::MAX).max(now + 1))
        }
        None => Choice::Nobody,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat(key: Key, since: u64, active: u64) -> Seat {
        Seat { key, here: true, since, active, suspend_after: Some(30_000), failed: None }
    }

    #[test]
    fn the_longest_idle_goes_first() {
        let seats = [seat(1, 0, 5_000), seat(2, 0, 2_000), seat(3, 0, 90_000)];
        assert_eq!(choose(100_000, 3, &seats), Choice::Move(2));
        assert_eq!(choose(100_000, 2, &seats), Choice::Move(1));
        let mut never = seats;
        never[1].suspend_after = None;
        never[0].here = false;
        assert_eq!(choose(100_000, 3, &never), Choice::Nobody);
    }

    #[test]
    fn one_that_works_is_left_alone_for_a_while() {
        let seats = [seat(1, 50_000, 54_000), seat(2, 52_000, 54_000)];
        assert_eq!(choose(54_000, 2, &seats), Choice::Later(60_000));
        assert_eq!(choose(60_000, 2, &seats), Choice::Move(1));
        // It becomes idle before that.
        let soon = [Seat { suspend_after: Some(1_000), ..seats[0] }];
        assert_eq!(choose(54_000, 2, &soon), Choice::Later(55_000));
        assert_eq!(choose(55_000, 2, &soon), Choice::Move(1));
    }

    #[test]
    fn one_that_could_not_be_moved_is_not_tried_at_once_again() {
        let failed = [Seat { failed: Some(99_000), ..seat(1, 0, 0) }];
        assert_eq!(choose(100_000, 2, &failed), Choice::Nobody);
        assert_eq!(choose(99_000 + RETRY, 2, &failed), Choice::Move(1));
    }

    /// Two VMs of which one fits, both with much to do: each gets its turns.
    #[test]
    fn two_that_do_not_fit_together_both_finish() {
        let (mut here, mut since, mut done) = (1, 0, [0_u64; 3]);
        let mut moves = 0;
        for now in (0..100_000).step_by(100) {
            done[here] += 100;
            let other = 3 - here;
            let seats = [
                Seat { here: here == 1, ..seat(1, since, now) },
                Seat { here: here == 2, ..seat(2, since, now) },
            ];
            if choose(now, other, &seats) == Choice::Move(here) {
                (here, since, moves) = (other, now, moves + 1);
            }
        }
        assert!(moves <= 10 && done[1] >= 40_000 && done[2] >= 40_000, "{moves} {done:?}");
    }
}
