//! A program that uses the driver API as any program does: libcuda.so.1 by dlopen. Its first argument is a scenario.
//!
//! It says on standard output what the scenario found, one line each, and fails with what was wrong. Where a scenario has to
//! wait for its test, it says a word and reads a line.
// A failed expectation of a scenario is a failed test.
#![allow(clippy::unwrap_used)]

mod copies;
mod driver;
mod faults;
mod fill;
mod order;
mod places;
mod refusals;

use driver::{Code, Driver};
use std::io::Write;

/// Says `line`; it leaves at once.
pub fn say(line: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

/// Says `word` and waits for the test.
pub fn pause(word: &str) {
    say(word);
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

/// Argument `index` as a number.
fn number(index: usize) -> u32 {
    let text = std::env::args().nth(index).unwrap_or_else(|| panic!("argument {index} is missing"));
    text.parse().unwrap_or_else(|_| panic!("argument {index} is no number: {text}"))
}

/// Counts launches of a kernel that counts.
fn count(launches: u32) {
    let d = Driver::start();
    let count = d.function(d.module(), c"count");
    let place = d.upload(&[0]).unwrap();
    for _ in 0..launches {
        d.launch(count, 1, 1, 0, &[place]).unwrap();
    }
    d.synchronize().unwrap();
    say(d.download::<u32>(place, 1).unwrap()[0]);
}

fn empty(launches: u32) {
    let d = Driver::start();
    let empty = d.function(d.module(), c"empty");
    for _ in 0..launches {
        d.launch(empty, 1, 1, 0, &[]).unwrap();
    }
    d.synchronize().unwrap();
}

/// Computes until the input ends, and checks each result.
fn compute() {
    let d = Driver::start();
    let worker = std::thread::spawn(|| std::io::stdin().read_line(&mut String::new()));
    let mut rounds = 0;
    while !worker.is_finished() {
        check_compute(&d, rounds);
        rounds += 1;
        if rounds == 1 {
            say("computing");
        }
    }
    say(format_args!("{rounds} rounds"));
}

/// Gives the device work from one line on to the next, with a little under way all the time; then checks what it computed.
fn busy() {
    let d = Driver::start();
    let n = 4000_u32;
    let out = d.allocate(4 * n as usize).unwrap();
    let mix = d.function(d.module(), c"mix");
    keep_busy(&d, 4, &|| d.launch(mix, n.div_ceil(64), 64, 0, &[out, u64::from(n), 7]).unwrap());
    let expected: Vec<u32> = (0..n).map(|i| i.wrapping_mul(7) ^ (i + 7)).collect();
    assert_eq!(d.download::<u32>(out, n as usize).unwrap(), expected);
}

/// The same with kernels that take so many microseconds, and much of it under way.
fn occupy(microseconds: u32) {
    let d = Driver::start();
    let last = d.function(d.module(), c"last");
    keep_busy(&d, 16, &|| d.launch(last, 1, 1, 0, &[u64::from(microseconds) * 1000]).unwrap());
}

/// Launches from one line on to the next, with two batches under way.
fn keep_busy(d: &Driver, batch: u32, launch: &dyn Fn()) {
    launch();
    d.synchronize().unwrap();
    pause("ready");
    let end = std::thread::spawn(|| std::io::stdin().read_line(&mut String::new()));
    let mut launches = 0;
    // One batch is waited for while the next is under way.
    let events = [d.event().unwrap(), d.event().unwrap()];
    for round in 0.. {
        if end.is_finished() {
            break;
        }
        (0..batch).for_each(|_| launch());
        launches += batch;
        d.record(events[round % 2], 0).unwrap();
        if round > 0 {
            d.synchronize_event(events[(round + 1) % 2]).unwrap();
        }
    }
    d.synchronize().unwrap();
    say(format_args!("{launches} launches"));
}

/// A kernel, and much behind it, that waits for what another stream does later.
fn wait_for_later_work() {
    let d = Driver::start();
    let (first, second) = (d.stream().unwrap(), d.stream().unwrap());
    let flag = d.upload(&[0]).unwrap();
    let (spin, empty) = (d.function(d.module(), c"spin"), d.function(d.module(), c"empty"));
    for _ in 0..3 {
        (0..100).for_each(|_| d.launch(empty, 1, 1, first, &[]).unwrap());
        d.set8(flag, 0, 4).unwrap();
        d.synchronize().unwrap();
        d.launch(spin, 1, 1, first, &[flag]).unwrap();
        (0..40).for_each(|_| d.launch(empty, 1, 1, first, &[]).unwrap());
        d.set8_async(flag, 1, 4, second).unwrap();
        d.synchronize().unwrap();
    }
}

fn check_compute(d: &Driver, seed: u32) {
    let n = 1000 + seed % 500;
    let out = d.allocate(4 * n as usize).unwrap();
    let mix = d.function(d.module(), c"mix");
    d.launch(mix, n.div_ceil(64), 64, 0, &[out, u64::from(n), u64::from(seed)]).unwrap();
    let expected: Vec<u32> = (0..n).map(|i| i.wrapping_mul(seed) ^ (i + seed)).collect();
    assert_eq!(d.download::<u32>(out, n as usize).unwrap(), expected);
    d.free(out).unwrap();
}

/// What cuInit says, and how many devices there are.
fn init() {
    let d = Driver::load();
    match d.init() {
        Ok(()) => say(format_args!("cuInit: 0, {} devices", d.device_count().unwrap())),
        Err(code) => say(format_args!("cuInit: {code}")),
    }
}

/// The visible devices' UUIDs.
fn devices() {
    let d = Driver::load();
    if let Err(code) = d.init() {
        return say(format_args!("cuInit: {code}"));
    }
    for ordinal in 0..d.device_count().unwrap() {
        say(d.uuid(ordinal).unwrap());
    }
}

/// What each device is: name, UUID, MiB of memory.
fn identity() {
    let d = Driver::load();
    d.init().unwrap();
    for ordinal in 0..d.device_count().unwrap() {
        let (name, uuid) = (d.name(ordinal).unwrap(), d.uuid(ordinal).unwrap());
        say(format_args!("{name}, {uuid}, {}", d.total(ordinal).unwrap() >> 20));
    }
}

/// Says how many MiB are free, and of how many: at first, with some more allocated, and without these. Waits in between.
fn memory_left(more: u32) {
    let d = Driver::start();
    let left = || {
        let (free, total) = d.memory().unwrap();
        pause(&format!("{} of {}", free >> 20, total >> 20));
    };
    left();
    let place = d.allocate((more as usize) << 20).unwrap();
    left();
    d.free(place).unwrap();
    left();
}

fn main() {
    let scenario = std::env::args().nth(1).unwrap_or_default();
    match scenario.as_str() {
        "init" => init(),
        "devices" => devices(),
        "identity" => identity(),
        "memory-left" => memory_left(number(2)),
        "fill" => fill::fill(&std::env::args().nth(2).unwrap_or_default(), number(3)),
        "count" => count(number(2)),
        "empty" => empty(number(2)),
        "busy" => busy(),
        "occupy" => occupy(number(2)),
        "wait-for-later-work" => wait_for_later_work(),
        "compute" => compute(),
        "compute-once" => check_compute(&Driver::start(), 3),
        "order" => order::order(number(2), number(3)),
        "order-of-handles" => order::handles(number(2)),
        "order-of-copies" => order::copies(number(2)),
        "copies" => copies::sizes(number(2)),
        "copies-in-threads" => copies::threads(number(2)),
        "large-copies" => copies::large(number(2)),
        "copy-unmapped" => copies::unmapped(),
        "memory" => places::memory(),
        "places" => places::places(),
        "handle" => places::handle(),
        "use-handle" => places::use_handle(),
        "refusals" => refusals::all(),
        "deferred" => faults::deferred(),
        "blocking-fault" => faults::blocking_fault(),
        "fork" => faults::fork(),
        "spin" => faults::spin(),
        "copy-for-ever" => faults::copy_for_ever(),
        "lose" => faults::lose(),
        "lose-before-a-thread" => faults::lose_before_a_thread(),
        "lose-in-call" => faults::lose_in_call(),
        "trap" => faults::trap(),
        other => panic!("unknown scenario {other:?}"),
    }
}

/// Fails unless `result` is the error `expected`.
#[track_caller]
pub fn refuses<T>(what: &str, result: Result<T, Code>, expected: Code) {
    let got = result.err().unwrap_or(0);
    assert_eq!(got, expected, "{what}");
}
