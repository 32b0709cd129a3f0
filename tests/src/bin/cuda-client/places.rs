//! Where device memory is, how much of it is left, and whose handles are whose.

use crate::driver::{CONTEXT_IS_DESTROYED, Driver, INVALID_VALUE};
use crate::{pause, refuses, say};

/// Free and total bytes, as a program finds them.
pub fn memory() {
    let (free, total) = Driver::start().memory().unwrap();
    say(format_args!("{free} of {total}"));
}

/// Lines of `/proc/self/maps` that meet `[base, base + len)` and allow any access.
fn accessible(base: u64, len: u64) -> Vec<String> {
    let meets = |line: &&str| {
        let mut fields = line.split(' ');
        let (start, end) = fields.next().unwrap().split_once('-').unwrap();
        let (start, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        start < base + len && base < end && !fields.next().unwrap().starts_with("---")
    };
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(meets).map(str::to_owned).collect()
}

/// Device pointers are no host pointers, before and after the program mapped more.
pub fn places() {
    let d = Driver::start();
    let mut blocks = Vec::new();
    let mut host = Vec::new();
    for i in 0..60_usize {
        let len = [64, 4096, 100_000, 3 << 20][i % 4];
        blocks.push((d.allocate(len).unwrap(), len as u64));
        // Above glibc's threshold: a mapping of its own.
        host.push(vec![1_u8; 1 << 20]);
    }
    blocks.push((d.allocate(1 << 30).unwrap(), 1 << 30));
    for &(base, len) in &blocks {
        assert_eq!(accessible(base, len), Vec::<String>::new(), "{base:#x}+{len:#x}");
    }
    let mut sorted = blocks.clone();
    sorted.sort_unstable();
    assert!(sorted.windows(2).all(|w| w[0].0 + w[0].1 <= w[1].0), "blocks overlap: {sorted:x?}");
    // Pinned memory is both: the device's address is the host's.
    let pinned = d.host_allocate(10_000).unwrap();
    assert!(!accessible(pinned.as_ptr() as u64, 10_000).is_empty());
    say("apart");
}

/// Makes a stream, an event, memory; says their numbers.
pub fn handle() {
    let d = Driver::start();
    let stream = d.stream().unwrap();
    // Not the first of its kind: another process has no such number.
    let events: Vec<u64> = (0..50).map(|_| d.event().unwrap()).collect();
    let memory = d.upload(&[42]).unwrap();
    say(format_args!("{stream} {} {memory}", events[49]));
    pause("made");
    assert_eq!(d.download::<u32>(memory, 1).unwrap(), [42]);
    d.record(events[49], stream).unwrap();
    d.synchronize().unwrap();
}

/// Tries numbers that are another process's.
pub fn use_handle() {
    let d = Driver::start();
    let argument = |i| std::env::args().nth(i).unwrap().parse::<u64>().unwrap();
    let (stream, event, memory) = (argument(2), argument(3), argument(4));
    refuses("a foreign stream", d.synchronize_stream(stream), CONTEXT_IS_DESTROYED);
    refuses("a foreign event", d.synchronize_event(event), CONTEXT_IS_DESTROYED);
    refuses("freeing foreign memory", d.free(memory), INVALID_VALUE);
    refuses("reading foreign memory", d.download::<u32>(memory, 1), INVALID_VALUE);
    refuses("writing foreign memory", d.to_device(memory, &[9; 4]), INVALID_VALUE);
    say("refused");
}
