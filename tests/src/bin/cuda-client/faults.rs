//! Errors that come later, and processes that end badly.

use crate::driver::*;
use crate::{pause, refuses, say};
use std::ffi::CStr;
use std::time::{Duration, Instant};

/// A kernel that says how many threads a block may have: the worker's driver knows, the library does not ask.
const FEW: &CStr =
    c".version 7.0\n.target sm_70\n.address_size 64\n.visible .entry few() .maxntid 32, 1, 1 { ret; }\n";

/// An asynchronous call that fails is reported by the next call that may report it, once; with CUDA_LAUNCH_BLOCKING=1 by itself.
pub fn deferred() {
    let d = Driver::start();
    let stream = d.stream().unwrap();
    let few = d.function(d.load_text(FEW).unwrap(), c"few");
    d.synchronize().unwrap();
    let blocking = std::env::var("CUDA_LAUNCH_BLOCKING").is_ok_and(|v| v == "1");
    let waited = d.launch(few, 1, 64, stream, &[]);
    if blocking {
        refuses("the call itself", waited, INVALID_VALUE);
    } else {
        assert_eq!(waited, Ok(()), "the asynchronous call");
        // What may not report stays silent, what may speaks.
        d.memory().unwrap();
        refuses("the next call that may report", d.synchronize(), INVALID_VALUE);
    }
    assert_eq!(d.synchronize(), Ok(()), "an error is reported once");
    d.launch(d.function(d.module(), c"empty"), 1, 1, stream, &[]).unwrap();
    d.synchronize().unwrap();
    say("reported");
}

/// With CUDA_LAUNCH_BLOCKING=1 what a kernel does wrong is the launch's own error.
pub fn blocking_fault() {
    let d = Driver::start();
    let module = d.module();
    assert_eq!(d.launch(d.function(module, c"empty"), 1, 1, 0, &[]), Ok(()));
    let launched = d.launch(d.function(module, c"store"), 1, 1, 0, &[0x10, 1]);
    refuses("the launch of a wild store", launched, ILLEGAL_ADDRESS);
    say("blamed");
}

/// A forked child cannot use its parent's client, and does not harm it.
pub fn fork() {
    let d = Driver::start();
    let place = d.upload(&[5]).unwrap();
    let empty = d.function(d.module(), c"empty");
    let pinned = d.host_allocate(4096).unwrap();
    // Threads that help with copies, and memory that they are made through, are the parent's.
    let mut large = vec![1; 9 << 20];
    let memory = d.allocate(large.len()).unwrap();
    d.to_device(memory, &large).unwrap();
    d.to_host(&mut large[..100], memory).unwrap();
    let (stream, event) = (d.stream().unwrap(), d.event().unwrap());
    d.record(event, stream).unwrap();
    // SAFETY: the child only makes calls that must fail quickly, and _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let began = Instant::now();
        let results = [
            d.synchronize(),
            d.init(),
            d.launch(empty, 1, 1, 0, &[]),
            d.allocate(64).map(drop),
            d.to_device(place, &[1; 4]),
            d.to_device(memory, &large),
            d.to_host(&mut large, memory),
            d.to_host(&mut large[..100], memory),
            d.host_allocate(64).map(drop),
            d.stream().map(drop),
            d.record(event, stream),
            d.wait_event(stream, event),
            d.set8_async(place, 9, 4, stream),
        ];
        // What asks for no work is accepted, as by NVIDIA's driver, and a bad handle is refused.
        let accepted = [d.synchronize_stream(stream), d.synchronize_event(event), d.destroy_event(event)];
        let refused = d.synchronize_event(0);
        let right = results.iter().all(|&r| r == Err(NOT_INITIALIZED))
            && accepted.iter().all(Result::is_ok)
            && refused == Err(INVALID_HANDLE);
        let code = if !right { 1 } else { i32::from(began.elapsed() > Duration::from_secs(1)) * 2 };
        if !right {
            eprintln!("in the child: {results:?}, {accepted:?}, {refused:?}");
        }
        // SAFETY: ends the child without the parent's exit handlers.
        unsafe { libc::_exit(code) };
    }
    assert!(child > 0);
    let mut status = 0;
    // SAFETY: a live child and a live place.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "1 in the upper byte: a wrong code, 2: it took too long");
    // The parent goes on, with its event, and its memory as it was.
    d.synchronize_event(event).unwrap();
    d.destroy_event(event).unwrap();
    d.synchronize_stream(stream).unwrap();
    assert_eq!(d.download::<u32>(place, 1).unwrap(), [5]);
    pinned[..4].copy_from_slice(&6_u32.to_le_bytes());
    d.launch(empty, 1, 1, 0, &[]).unwrap();
    d.to_device_async(place, &pinned[..4], 0).unwrap();
    assert_eq!(d.download::<u32>(place, 1).unwrap(), [6]);
    say("forked");
}

/// Waits in a call for a kernel that never ends, holding memory.
pub fn spin() {
    let d = Driver::start();
    let pinned = d.host_allocate(8 << 20).unwrap();
    pinned.fill(0);
    let memory = d.allocate(64 << 20).unwrap();
    d.set8(memory, 1, 64 << 20).unwrap();
    d.launch(d.function(d.module(), c"spin"), 1, 1, 0, &[pinned.as_ptr() as u64]).unwrap();
    say("spinning");
    refuses("waiting for a kernel that does not end", d.synchronize(), DEVICE_UNAVAILABLE);
    say("lost");
}

/// Copies without an end.
pub fn copy_for_ever() {
    let d = Driver::start();
    let mut bytes = vec![3; 3 << 20];
    let memory = d.allocate(bytes.len()).unwrap();
    for round in 0_u64.. {
        d.to_device(memory, &bytes).unwrap();
        if round == 2 {
            say("copying");
        }
        d.to_host(&mut bytes, memory).unwrap();
    }
}

/// The worker is killed between calls.
pub fn lose() {
    let d = Driver::start();
    let place = d.upload(&[1]).unwrap();
    let count = d.function(d.module(), c"count");
    d.synchronize().unwrap();
    pause("ready");
    let began = Instant::now();
    let mut results = Vec::new();
    for _ in 0..5000 {
        results.push(d.launch(count, 1, 1, 0, &[place]));
    }
    results.push(d.synchronize());
    assert_eq!(results.last(), Some(&Err(DEVICE_UNAVAILABLE)));
    refuses("allocating", d.allocate(64), DEVICE_UNAVAILABLE);
    refuses("reading", d.download::<u32>(place, 1), DEVICE_UNAVAILABLE);
    assert!(began.elapsed() < Duration::from_secs(1), "the calls took {:?}", began.elapsed());
    say("lost");
}

/// The worker is killed before a thread makes its first call.
pub fn lose_before_a_thread() {
    let d = Driver::start();
    let place = d.upload(&[1]).unwrap();
    pause("ready");
    refuses("this thread", d.synchronize(), DEVICE_UNAVAILABLE);
    let new = || {
        d.enter();
        (d.synchronize(), d.set8_async(place, 1, 4, 0), d.host_allocate(4 << 20).map(drop))
    };
    let (waits, posts, pins) = std::thread::scope(|scope| scope.spawn(new).join().unwrap());
    refuses("a call that waits, in a new thread", waits, DEVICE_UNAVAILABLE);
    refuses("a call that does not wait, in a new thread", posts, DEVICE_UNAVAILABLE);
    assert!(pins.is_err(), "pinned memory without a worker");
    say("lost");
}

/// The worker is killed while the program waits for it, in two threads.
pub fn lose_in_call() {
    let d = Driver::start();
    let flag = d.host_allocate(4096).unwrap();
    let barrier = std::sync::Barrier::new(3);
    std::thread::scope(|scope| {
        let wait = || {
            d.enter();
            // Has a lane from here on.
            d.synchronize().unwrap();
            barrier.wait();
            barrier.wait();
            say("waiting");
            refuses("waiting", d.synchronize(), DEVICE_UNAVAILABLE);
        };
        scope.spawn(wait);
        scope.spawn(wait);
        barrier.wait();
        d.launch(d.function(d.module(), c"spin"), 1, 1, 0, &[flag.as_ptr() as u64]).unwrap();
        barrier.wait();
    });
    say("lost");
}

/// A kernel that fails spoils this process only.
pub fn trap() {
    let d = Driver::start();
    let module = d.module();
    d.launch(d.function(module, c"store"), 1, 1, 0, &[0x10, 1]).unwrap();
    refuses("after a wild store", d.synchronize(), ILLEGAL_ADDRESS);
    refuses("and again", d.synchronize(), ILLEGAL_ADDRESS);
    refuses("allocating", d.allocate(64), ILLEGAL_ADDRESS);
    say("trapped");
}
