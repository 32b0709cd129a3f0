//! Order across threads: what returned in one thread comes before what begins in another.

use crate::driver::Driver;
use crate::say;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};

/// Bytes of the copies that keep a lane busy.
const BURDEN: usize = 48 << 10;

/// Runs `turn(thread, round)` in `threads` threads by turns, each as soon as the one before has returned.
fn by_turns(d: &Driver, rounds: u32, threads: u32, turn: impl Fn(u32, u32) + Sync) {
    let next = AtomicU32::new(0);
    let run = |me: u32| {
        d.enter();
        for round in (me..rounds).step_by(threads as usize) {
            let mut looks = 0_u32;
            while next.load(Ordering::Acquire) != round {
                looks += 1;
                if looks.is_multiple_of(64) {
                    std::thread::yield_now();
                }
                std::hint::spin_loop();
            }
            turn(me, round);
            next.store(round + 1, Ordering::Release);
        }
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|me| scope.spawn(move || run_checked(&run, me))).collect();
        for thread in all {
            thread.join().unwrap();
        }
    });
}

/// A thread that fails must not leave the others waiting for their turn.
fn run_checked(run: &impl Fn(u32), me: u32) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(me))).is_err() {
        std::process::exit(101);
    }
}

/// Each thread takes a number one further in the same stream. Every fourth round its lane is first given work that takes the
/// worker long, so that the next thread's call would overtake without a dependency. Every seventh looks at the number.
pub fn order(rounds: u32, threads: u32) {
    let d = Driver::start();
    let step = d.function(d.module(), c"step");
    let place = d.upload(&[0, 0]).unwrap();
    let stream = d.stream().unwrap();
    let scratch = d.allocate(BURDEN).unwrap();
    let burden = vec![7; BURDEN];
    by_turns(&d, rounds, threads, |_, round| {
        if round % 4 == 0 {
            for _ in 0..3 {
                d.to_device(scratch, &burden).unwrap();
            }
        }
        d.launch(step, 1, 1, stream, &[place, u64::from(round)]).unwrap();
        if round % 7 == 0 {
            let mut bytes = [0; 4];
            d.to_host_async(&mut bytes, place, stream).unwrap();
            d.synchronize_stream(stream).unwrap();
            assert_eq!(u32::from_le_bytes(bytes), round + 1, "what a synchronised copy saw");
        }
    });
    d.synchronize().unwrap();
    let [last, mistakes] = d.download::<u32>(place, 2).unwrap()[..] else { unreachable!() };
    assert_eq!((last, mistakes), (rounds, 0), "number reached, and steps out of order");
    say("in order");
}

/// Handles that one thread makes are used and ended by the next, none of them waiting.
pub fn handles(rounds: u32) {
    let d = Driver::start();
    let scratch = d.allocate(BURDEN).unwrap();
    let burden = vec![7; BURDEN];
    let count = d.function(d.module(), c"count");
    let place = d.upload(&[0]).unwrap();
    let (sender, receiver): (Sender<(u64, u64)>, _) = channel();
    std::thread::scope(|scope| {
        let d = &d;
        scope.spawn(move || {
            d.enter();
            for _ in 0..rounds {
                d.to_device(scratch, &burden).unwrap();
                let made = (d.stream().unwrap(), d.event().unwrap());
                sender.send(made).unwrap();
            }
        });
        d.enter();
        while let Ok((stream, event)) = receiver.recv() {
            d.launch(count, 1, 1, stream, &[place]).unwrap();
            d.record(event, stream).unwrap();
            d.wait_event(0, event).unwrap();
            d.destroy_event(event).unwrap();
            d.destroy_stream(stream).unwrap();
        }
    });
    d.synchronize().unwrap();
    assert_eq!(d.download::<u32>(place, 1).unwrap(), [rounds]);
    say("in order");
}

/// Two threads copy in one stream: what the one wrote from pinned memory the other reads, and the other way round.
pub fn copies(rounds: u32) {
    let d = Driver::start();
    let place = d.upload(&[0]).unwrap();
    let scratch = d.allocate(BURDEN).unwrap();
    let burden = vec![7; BURDEN];
    let pinned = std::sync::Mutex::new(d.host_allocate(8 * 1024).unwrap());
    by_turns(&d, rounds, 2, |me, round| {
        let mut pinned = pinned.lock().unwrap();
        if me == 0 {
            // A place of the round's own: the copy may still be under way.
            let at = (round as usize / 2 % 1024) * 4;
            let number = &mut pinned[at..at + 4];
            number.copy_from_slice(&round.to_le_bytes());
            d.to_device(scratch, &burden).unwrap();
            d.to_device_async(place, number, 0).unwrap();
        } else {
            assert_eq!(d.download::<u32>(place, 1).unwrap(), [round - 1]);
        }
    });
    say("in order");
}
