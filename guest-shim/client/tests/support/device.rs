//! The device side of a lane, in a thread. Rings and EVENT_IDX are those of the virtio-queue crate.

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd};
use rustix::fd::OwnedFd;
use rustix::fs::MemfdFlags;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use vgpu_client::connection::LaneGrant;
use vgpu_spec::wire::HUGE_PAGE;
use vgpu_spec::wire::lane::{Dependency, Layout, MessageHeader, ReplyHeader, Status, state};
use vgpu_spec::wire::socket::LaneReply;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use zerocopy::{FromBytes, IntoBytes};

type Memory = GuestMemoryMmap<()>;

#[derive(Clone, Copy)]
pub struct Options {
    pub queue: u16,
    pub size: u16,
    pub start: u16,
    pub event_idx: bool,
    /// No interrupts.
    pub polling: bool,
    /// The device never sleeps, so it wants no kicks.
    pub never_sleeps: bool,
    /// Replies say that they are complete, and the used ring tells of them some time later.
    pub early: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            queue: 2,
            size: 256,
            start: 0,
            event_idx: true,
            polling: false,
            never_sleeps: false,
            early: false,
        }
    }
}

/// A message as the device saw it.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    pub function: u32,
    pub thread: u32,
    pub context: u32,
    pub dependencies: Vec<Dependency>,
    pub args: Vec<u8>,
    /// Where in the page it lay.
    pub offset: u64,
    /// Bytes for a reply's body, or `None` if nobody waits.
    pub reply_space: Option<usize>,
}

/// What the device does with a message that waits.
pub enum Answer {
    Reply(u32, Vec<u8>),
    /// Exactly these bytes, header and all, and this used length.
    Raw(Vec<u8>, u32),
}

pub type Handler = Box<dyn FnMut(Message) -> Answer + Send>;

/// Answers every waiting call with its own arguments, and status = function.
pub fn echo() -> Handler {
    Box::new(|message| Answer::Reply(message.function, message.args))
}

/// A device in a thread, stopped when dropped.
pub struct Device {
    pub controls: Controls,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone)]
pub struct Controls {
    stop: Arc<AtomicBool>,
    paused: Arc<AtomicBool>,
    memory: Memory,
    layout: Layout,
}

impl Device {
    /// Starts a device that serves with `handler`, and what the agent would hand over for it.
    pub fn start(options: Options, handler: Handler) -> (Self, LaneGrant) {
        let page = rustix::fs::memfd_create("lane", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&page, HUGE_PAGE).unwrap();
        let (kick, completion) = (event(), event());
        let file = FileOffset::new(File::from(page.try_clone().unwrap()), 0);
        let memory =
            Memory::from_ranges_with_files([(GuestAddress(0), HUGE_PAGE as usize, Some(file))]).unwrap();
        let layout = Layout::new(options.size).unwrap();
        for index in [layout.avail + 2, layout.used + 2] {
            memory.write_obj(options.start, GuestAddress(index)).unwrap();
        }
        let controls = Controls { stop: Arc::default(), paused: Arc::default(), memory, layout };
        controls.set_state(state::ATTACHED);
        let worker = Worker {
            controls: controls.clone(),
            kick: kick.try_clone().unwrap(),
            completion: completion.try_clone().unwrap(),
            options,
            queue: queue(&options, &layout),
            handler,
            lingered: 1,
        };
        let thread = std::thread::spawn(move || worker.run());
        let reply = LaneReply {
            queue: options.queue,
            size: options.size,
            start: options.start,
            event_idx: options.event_idx.into(),
            polling: options.polling.into(),
        };
        (Device { controls, thread: Some(thread) }, LaneGrant { reply, page, kick, completion })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.controls.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let outcome = thread.join();
            if !std::thread::panicking() {
                outcome.unwrap();
            }
        }
    }
}

impl Controls {
    pub fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::SeqCst);
    }

    /// As the broker does for a lost worker, but without completing anything.
    pub fn set_state(&self, state: u32) {
        self.memory.write_obj(state, GuestAddress(self.layout.status)).unwrap();
    }

    /// Reports an error of an asynchronous call.
    pub fn fail(&self, error: u32, function: u32) {
        let at = |offset: usize| GuestAddress(self.layout.status + offset as u64);
        self.memory.write_obj(error, at(std::mem::offset_of!(Status, error))).unwrap();
        self.memory.write_obj(function, at(std::mem::offset_of!(Status, error_function))).unwrap();
        let count = at(std::mem::offset_of!(Status, error_count));
        let old: u32 = self.memory.read_obj(count).unwrap();
        std::sync::atomic::fence(Ordering::Release);
        self.memory.write_obj(old + 1, count).unwrap();
    }
}

struct Worker {
    controls: Controls,
    kick: OwnedFd,
    completion: OwnedFd,
    options: Options,
    queue: Queue,
    handler: Handler,
    lingered: u32,
}

impl Worker {
    fn run(mut self) {
        let memory = self.controls.memory.clone();
        while !self.controls.stop.load(Ordering::SeqCst) {
            if self.controls.paused.load(Ordering::SeqCst) {
                std::thread::sleep(std::time::Duration::from_micros(100));
            } else if self.serve_one(&memory) {
            } else if self.options.never_sleeps {
                std::thread::yield_now();
            } else if !self.queue.enable_notification(&memory).unwrap() {
                self.sleep();
                self.queue.disable_notification(&memory).unwrap();
            }
        }
    }

    fn serve_one(&mut self, memory: &Memory) -> bool {
        let Some(chain) = self.queue.pop_descriptor_chain(memory) else { return false };
        let head = chain.head_index();
        let descriptors: Vec<_> = chain.collect();
        let request = descriptors[0];
        assert!(!request.is_write_only());
        assert!(descriptors.len() <= 2);
        let space = descriptors.get(1).map(|descriptor| {
            assert!(descriptor.is_write_only());
            assert_eq!(descriptor.addr().0 % 64, 0);
            *descriptor
        });
        let mut bytes = vec![0; request.len() as usize];
        memory.read_slice(&mut bytes, request.addr()).unwrap();
        let reply_space = space.map(|space| space.len() as usize - size_of::<ReplyHeader>());
        let answer = (self.handler)(parse(&bytes, request.addr().0, reply_space));
        let number = MessageHeader::read_from_prefix(&bytes).unwrap().0.number;
        let used = space.map_or(0, |space| {
            let (bytes, used) = encode(answer);
            memory.write_slice(&bytes, space.addr()).unwrap();
            if self.options.early && used != 0 {
                let written = space.addr().0 + std::mem::offset_of!(ReplyHeader, written) as u64;
                memory.store(number, GuestAddress(written), Ordering::Release).unwrap();
                self.linger(used);
            }
            used
        });
        self.queue.add_used(memory, head, used).unwrap();
        if self.queue.needs_notification(memory).unwrap() && !self.options.polling {
            rustix::io::write(&self.completion, &1_u64.to_ne_bytes()).unwrap();
        }
        true
    }

    /// Between nothing and some microseconds, in which the driver goes on.
    fn linger(&mut self, used: u32) {
        self.lingered = self.lingered.wrapping_mul(25).wrapping_add(used);
        (0..self.lingered % 4000).for_each(|_| std::hint::spin_loop());
    }

    fn sleep(&self) {
        let mut wanted = [PollFd::new(&self.kick, PollFlags::IN)];
        let limit = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        if rustix::event::poll(&mut wanted, Some(&limit)) == Ok(1) {
            rustix::io::read(&self.kick, &mut [0; 8]).unwrap();
        }
    }
}

fn parse(bytes: &[u8], offset: u64, reply_space: Option<usize>) -> Message {
    let (header, mut rest) = MessageHeader::read_from_prefix(bytes).unwrap();
    assert_eq!(header.len as usize, bytes.len());
    assert_eq!(header.flags, 0);
    let mut dependencies = Vec::new();
    for _ in 0..header.dependencies {
        let (dependency, after) = Dependency::read_from_prefix(rest).unwrap();
        dependencies.push(dependency);
        rest = after;
    }
    Message {
        function: header.function,
        thread: header.thread,
        context: header.context,
        dependencies,
        args: rest.to_vec(),
        offset,
        reply_space,
    }
}

fn encode(answer: Answer) -> (Vec<u8>, u32) {
    match answer {
        Answer::Raw(bytes, used) => (bytes, used),
        Answer::Reply(status, body) => {
            let len = (size_of::<ReplyHeader>() + body.len()) as u32;
            let mut bytes = ReplyHeader { status, len, flags: 0, written: 0 }.as_bytes().to_vec();
            bytes.extend_from_slice(&body);
            (bytes, len)
        }
    }
}

fn queue(options: &Options, layout: &Layout) -> Queue {
    let mut queue = Queue::new(options.size).unwrap();
    queue.set_size(options.size);
    queue.set_desc_table_address(Some(layout.desc as u32), Some(0));
    queue.set_avail_ring_address(Some(layout.avail as u32), Some(0));
    queue.set_used_ring_address(Some(layout.used as u32), Some(0));
    queue.set_event_idx(options.event_idx);
    queue.set_next_avail(options.start);
    queue.set_next_used(options.start);
    queue.set_ready(true);
    queue
}

fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}
