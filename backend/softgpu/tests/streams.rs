//! Streams, events and their order.

#![allow(clippy::unwrap_used)]

mod common;

use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::*;
use vgpu_softgpu::driver::{capture, copy, event, pool, stream};

const INVALID_VALUE: u32 = 1;
const INVALID_HANDLE: u32 = 400;
const NOT_READY: u32 = 600;
const NON_BLOCKING: u32 = 1;

fn query(stream: u64) -> u32 {
    // SAFETY: there is no pointer.
    unsafe { stream::cuStreamQuery(stream) }
}

fn wait(stream: u64) -> u32 {
    // SAFETY: there is no pointer.
    unsafe { stream::cuStreamSynchronize(stream) }
}

fn new_event(flags: u32) -> u64 {
    // SAFETY: the pointers are of live values.
    get(|out| unsafe { event::cuEventCreate(out, flags) }).unwrap()
}

fn record(event: u64, stream: u64) -> u32 {
    // SAFETY: there is no pointer.
    unsafe { event::cuEventRecord(event, stream) }
}

/// A list that host functions write their names to.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<&'static str>>>);

impl Log {
    fn note(&self, stream: u64, name: &'static str) {
        let log = Arc::clone(&self.0);
        host_function(stream, move || log.lock().unwrap().push(name));
    }

    fn seen(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().clone()
    }
}

/// Each test has a context of its own, so that the default stream's rules do not reach the others.
fn own_context() {
    start();
    // SAFETY: the pointers are of live values.
    get(|out| unsafe { vgpu_softgpu::driver::context::cuCtxCreate_v4(out, None, 0, 0) }).unwrap();
}

#[test]
fn a_stream_is_not_ready_until_its_work_is_done() {
    own_context();
    let stream = new_stream(0);
    assert_eq!(query(stream), 0);
    let release = block(stream);
    assert_eq!(query(stream), NOT_READY);
    release.send(()).unwrap();
    assert_eq!(wait(stream), 0);
    assert_eq!(query(stream), 0);
}

#[test]
fn work_is_done_in_the_order_given() {
    own_context();
    let stream = new_stream(0);
    let next = Arc::new(AtomicU32::new(0));
    for number in 0..1000 {
        let next = Arc::clone(&next);
        host_function(stream, move || {
            let _ = next.compare_exchange(number, number + 1, Ordering::SeqCst, Ordering::SeqCst);
        });
    }
    assert_eq!(wait(stream), 0);
    assert_eq!(next.load(Ordering::SeqCst), 1000);
}

#[test]
fn the_legacy_stream_waits_for_blocking_streams_and_they_for_it() {
    own_context();
    let (before, after) = (new_stream(0), new_stream(0));
    let log = Log::default();
    let release = block(before);
    log.note(before, "before");
    log.note(0, "default");
    log.note(after, "after");
    assert_eq!(query(0), NOT_READY);
    assert_eq!(query(after), NOT_READY);
    release.send(()).unwrap();
    assert_eq!(wait(after), 0);
    assert_eq!(log.seen(), ["before", "default", "after"]);
}

#[test]
fn a_non_blocking_stream_does_not_wait_for_the_legacy_stream() {
    own_context();
    let independent = new_stream(NON_BLOCKING);
    let log = Log::default();
    let release = block(0);
    log.note(0, "default");
    log.note(independent, "independent");
    assert_eq!(wait(independent), 0);
    assert_eq!(log.seen(), ["independent"]);
    assert_eq!(query(1), NOT_READY);
    release.send(()).unwrap();
    assert_eq!(synchronize(), 0);
    assert_eq!(log.seen(), ["independent", "default"]);
}

#[test]
fn the_legacy_stream_is_not_ready_while_a_blocking_stream_is_busy() {
    own_context();
    let stream = new_stream(0);
    let release = block(stream);
    assert_eq!(query(0), NOT_READY);
    assert_eq!(query(2), 0);
    release.send(()).unwrap();
    assert_eq!(wait(0), 0);
    assert_eq!(query(stream), 0);
}

#[test]
fn work_in_the_legacy_stream_breaks_the_captures_that_it_would_wait_for() {
    own_context();
    let (blocking, independent) = (new_stream(0), new_stream(NON_BLOCKING));
    let (to, from) = (alloc(64), alloc(64));
    for (stream, copied, ended) in [(blocking, 906, 901), (independent, 0, 0)] {
        // SAFETY: the pointers are of live values.
        unsafe {
            assert_eq!(capture::cuStreamBeginCapture_v2(stream, 2), 0);
            assert_eq!(copy::cuMemcpyDtoD_v2(to, from, 64), copied);
            assert_eq!(get(|out| capture::cuStreamEndCapture(stream, out)).err().unwrap_or(0), ended);
        }
    }
}

#[test]
fn threads_have_default_streams_of_their_own() {
    own_context();
    // SAFETY: the pointers are of live values.
    let id = |stream| get(|out| unsafe { stream::cuStreamGetId(stream, out) }).unwrap();
    let context = vgpu_softgpu::model::current::handle();
    let here = id(2);
    assert_eq!(id(2), here);
    assert_ne!(id(0), here);
    assert_eq!(id(0), id(1));
    let there = std::thread::spawn(move || {
        // SAFETY: there is no pointer.
        assert_eq!(unsafe { vgpu_softgpu::driver::context::cuCtxSetCurrent(context) }, 0);
        // SAFETY: the pointers are of live values.
        get(|out| unsafe { stream::cuStreamGetId(2, out) }).unwrap()
    });
    assert_ne!(there.join().unwrap(), here);
}

#[test]
fn a_stream_waits_for_an_event_of_another() {
    own_context();
    let (first, second) = (new_stream(NON_BLOCKING), new_stream(NON_BLOCKING));
    let log = Log::default();
    let event = new_event(0);
    let release = block(first);
    log.note(first, "first");
    assert_eq!(record(event, first), 0);
    // SAFETY: there is no pointer.
    assert_eq!(unsafe { stream::cuStreamWaitEvent(second, event, 0) }, 0);
    log.note(second, "second");
    assert_eq!(query(second), NOT_READY);
    release.send(()).unwrap();
    assert_eq!(wait(second), 0);
    assert_eq!(log.seen(), ["first", "second"]);
}

#[test]
fn an_event_is_ready_when_its_record_is_reached() {
    own_context();
    let stream = new_stream(0);
    let (start, end, untimed) = (new_event(0), new_event(1), new_event(2));
    let milliseconds = |start, end| {
        // SAFETY: the pointers are of live values.
        get(|out| unsafe { event::cuEventElapsedTime_v2(out, start, end) })
    };
    // SAFETY: there is no pointer.
    unsafe {
        assert_eq!(event::cuEventQuery(start), 0);
        assert_eq!(event::cuEventSynchronize(start), 0);
        assert_eq!(milliseconds(start, end), Err(INVALID_HANDLE));
        assert_eq!(record(start, stream), 0);
        let release = block(stream);
        assert_eq!(record(end, stream), 0);
        assert_eq!(event::cuEventQuery(end), NOT_READY);
        assert_eq!(milliseconds(start, end), Err(NOT_READY));
        std::thread::sleep(Duration::from_millis(20));
        release.send(()).unwrap();
        assert_eq!(event::cuEventSynchronize(end), 0);
        assert!((20.0..5000.0).contains(&milliseconds(start, end).unwrap()));
        assert!(milliseconds(end, start).unwrap() <= -20.0);
        assert_eq!(record(untimed, stream), 0);
        assert_eq!(event::cuEventSynchronize(untimed), 0);
        assert_eq!(milliseconds(start, untimed), Err(INVALID_HANDLE));
        assert_eq!(get(|out| event::cuEventCreate(out, 64)), Err(INVALID_VALUE));
        assert_eq!(event::cuEventDestroy_v2(start), 0);
        assert_eq!(event::cuEventDestroy_v2(start), INVALID_HANDLE);
    }
}

#[test]
fn destroying_a_busy_stream_returns_at_once_and_its_work_is_done() {
    own_context();
    let stream = new_stream(NON_BLOCKING);
    let log = Log::default();
    let release = block(stream);
    log.note(stream, "done");
    let start = Instant::now();
    // SAFETY: there is no pointer.
    assert_eq!(unsafe { stream::cuStreamDestroy_v2(stream) }, 0);
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!(query(stream), INVALID_HANDLE);
    release.send(()).unwrap();
    assert_eq!(synchronize(), 0);
    assert_eq!(log.seen(), ["done"]);
}

#[test]
fn a_callback_gets_its_stream_its_data_and_success() {
    own_context();
    unsafe extern "C" fn note(stream: u64, status: u32, data: *mut c_void) {
        // SAFETY: this is the mutex below, which lives until the stream is synchronized.
        let seen = unsafe { &*data.cast::<Mutex<Vec<(u64, u32)>>>() };
        seen.lock().unwrap().push((stream, status));
    }
    let seen = Mutex::new(Vec::<(u64, u32)>::new());
    let stream = new_stream(0);
    let data = std::ptr::from_ref(&seen).cast_mut().cast();
    // SAFETY: the mutex lives until the stream is synchronized.
    unsafe {
        assert_eq!(stream::cuStreamAddCallback(stream, Some(note), data, 0), 0);
        assert_eq!(stream::cuStreamAddCallback(stream, Some(note), data, 1), INVALID_VALUE);
        assert_eq!(stream::cuStreamAddCallback(stream, None, data, 0), INVALID_VALUE);
    }
    assert_eq!(wait(stream), 0);
    assert_eq!(*seen.lock().unwrap(), [(stream, 0)]);
}

#[test]
fn freeing_in_stream_order_waits_for_the_stream() {
    own_context();
    let stream = new_stream(NON_BLOCKING);
    // SAFETY: the pointers are of live values.
    unsafe {
        let memory = get(|out| pool::cuMemAllocAsync(out, 4096, stream)).unwrap();
        let release = block(stream);
        assert_eq!(pool::cuMemFreeAsync(memory, stream), 0);
        assert_eq!(copy::cuMemcpyDtoDAsync_v2(memory, memory + 8, 4, 2), 0);
        release.send(()).unwrap();
        assert_eq!(wait(stream), 0);
        assert_eq!(copy::cuMemcpyDtoD_v2(memory, memory + 8, 4), INVALID_VALUE);
    }
}

#[test]
fn many_threads_and_streams_end() {
    own_context();
    let context = vgpu_softgpu::model::current::handle();
    let streams: Vec<u64> = (0..4).map(|_| new_stream(0)).collect();
    let count = Arc::new(AtomicU32::new(0));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (streams, count) = (&streams, &count);
            scope.spawn(move || {
                // SAFETY: there is no pointer.
                assert_eq!(unsafe { vgpu_softgpu::driver::context::cuCtxSetCurrent(context) }, 0);
                let event = new_event(2);
                for round in 0..200 {
                    let stream = if round % 5 == 0 { 0 } else { streams[(thread + round) % 4] };
                    let count = Arc::clone(count);
                    host_function(stream, move || {
                        count.fetch_add(1, Ordering::SeqCst);
                    });
                    assert_eq!(record(event, stream), 0);
                    // SAFETY: there is no pointer.
                    assert_eq!(unsafe { stream::cuStreamWaitEvent(streams[round % 4], event, 0) }, 0);
                }
            });
        }
    });
    assert_eq!(synchronize(), 0);
    assert_eq!(count.load(Ordering::SeqCst), 800);
}
