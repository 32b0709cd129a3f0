//! A broker in a thread that speaks the control queue, and a carrier to reach it: all in this process's memory.

use super::device::{Chain, MockDevice};
use crate::carrier::{Block, Carrier, ClientMemory, MemoryError, Queue};
use crate::memory::{Page, Rings, punch, sparse_file};
use crate::wait::{borrow, drain, readable};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vgpu_spec::wire::control::{self as wire, PciAddress, kind, status};
use vgpu_spec::wire::lane::Layout;
use vgpu_spec::wire::{HUGE_PAGE, Range, VERSION, split};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use zerocopy::IntoBytes;

/// Guest-physical address of the control page.
const PAGES: u64 = 4 << 30;
const EVENT_RINGS: u64 = 128 << 10;
const CLIENT_MEMORY: u64 = 64 << 20;
/// Where a program's file is said to lie.
pub const ADOPTED: u64 = 1 << 40;

/// Queues in this process's memory.
#[derive(Debug)]
pub struct MockCarrier {
    queues: Vec<Queue>,
    pub lost: Mutex<Option<String>>,
    polling: bool,
}

impl MockCarrier {
    pub fn new(lanes: u16, polling: bool) -> Arc<Self> {
        let page = |i: u64| Arc::new(Page::sparse("test", PAGES + i * HUGE_PAGE).unwrap());
        let queue = |page: Arc<Page>, base, size| Queue {
            rings: Rings { page, base, layout: Layout::new(size).unwrap() },
            kick: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).unwrap(),
            completion: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).unwrap(),
        };
        let control = page(0);
        let mut queues = vec![queue(control.clone(), 0, 16), queue(control, EVENT_RINGS, 16)];
        queues.extend((0..u64::from(lanes)).map(|i| queue(page(i + 1), 0, 64)));
        Arc::new(Self { queues, lost: Mutex::new(None), polling })
    }
}

impl Carrier for MockCarrier {
    fn ownership(&self) -> String {
        "test".into()
    }
    fn queues(&self) -> &[Queue] {
        &self.queues
    }
    fn event_idx(&self) -> bool {
        true
    }
    fn polling(&self) -> bool {
        self.polling
    }
    fn pci_address(&self) -> PciAddress {
        PciAddress { bus: 7, present: 1, ..PciAddress::default() }
    }
    fn notify(&self, index: u16) {
        self.queues[usize::from(index)].kick.write(1).unwrap();
    }
    fn lost(&self) -> Option<String> {
        self.lost.lock().unwrap().clone()
    }
    fn client_memory(&self) -> Result<Box<dyn ClientMemory>, MemoryError> {
        let file = Arc::new(sparse_file("test", CLIENT_MEMORY).unwrap());
        Ok(Box::new(MockMemory { file, next: 0 }))
    }
    fn reset(&self) {}
}

#[derive(Debug)]
struct MockMemory {
    file: Arc<std::os::fd::OwnedFd>,
    next: u64,
}

impl ClientMemory for MockMemory {
    fn allocate(&mut self, len: u64) -> Result<Block, MemoryError> {
        let offset = self.next;
        if offset + len > CLIENT_MEMORY {
            return Err(MemoryError::Full { wanted: len, limit: CLIENT_MEMORY });
        }
        self.next += len;
        Ok(Block { file: self.file.clone(), offset, len, extents: vec![Range { base: offset, len }] })
    }
    fn in_small_pages(&mut self, _: &Block) -> Result<Option<Arc<std::os::fd::OwnedFd>>, MemoryError> {
        Ok(None)
    }
    fn adopt(&mut self, file: std::os::fd::OwnedFd, offset: u64, len: u64) -> Result<Block, MemoryError> {
        crate::local::check_adopted(file.as_fd(), offset, len)?;
        let extents = vec![Range { base: ADOPTED, len }];
        Ok(Block { file: Arc::new(file), offset, len, extents })
    }
    fn free(&mut self, block: Block) {
        if !Arc::ptr_eq(&block.file, &self.file) {
            return;
        }
        punch(self.file.as_fd(), block.offset, block.len).unwrap();
    }
    fn close(self: Box<Self>) {}
}

/// Kind and body.
type Request = (u32, Vec<u8>);

/// What the broker does out of the ordinary.
#[derive(Debug, Default)]
pub struct Behaviour {
    /// Status of the next request of this kind.
    pub refuse: Option<(u32, u32)>,
    /// Does not answer at all.
    pub silent: bool,
    /// Bytes that it claims to have written.
    pub claim: Option<u32>,
}

/// The broker's side, in a thread until it is dropped.
#[derive(Debug)]
pub struct MockBroker {
    carrier: Arc<MockCarrier>,
    pub behaviour: Arc<Mutex<Behaviour>>,
    /// Requests seen: kind and body.
    pub seen: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl MockBroker {
    pub fn start(carrier: &Arc<MockCarrier>) -> Self {
        let (behaviour, seen, stop) = (Arc::default(), Arc::default(), Arc::new(AtomicBool::new(false)));
        let mut side = Side {
            carrier: carrier.clone(),
            behaviour: Arc::clone(&behaviour),
            seen: Arc::clone(&seen),
            lent: Vec::new(),
        };
        let stopped = stop.clone();
        let run = move || {
            let mut device = MockDevice::new(&side.carrier.queues[0].rings);
            while !stopped.load(SeqCst) {
                let kick = &side.carrier.queues[0].kick;
                readable(borrow(kick), Some(Duration::from_millis(5))).unwrap();
                drain(kick);
                while let Some(chain) = device.take() {
                    side.serve(&mut device, &chain);
                }
            }
        };
        let thread = Some(std::thread::spawn(run));
        Self { carrier: carrier.clone(), behaviour, seen, stop, thread }
    }

    /// Sends an event, into the buffer that `device`, the event queue's other side, finds.
    pub fn send_event(&self, device: &mut MockDevice, event: &wire::Event) {
        let chain = device.take().expect("a buffer for the event");
        let page = &self.carrier.queues[1].rings.page;
        let (gpa, len, writable) = chain.buffers[0];
        assert!(writable && len as usize >= size_of_val(event));
        page.mapping.write(usize::try_from(gpa - page.gpa).unwrap(), event.as_bytes());
        device.complete(chain.head, size_of_val(event) as u32);
        self.carrier.queues[1].completion.write(1).unwrap();
    }

    pub fn kinds(&self) -> Vec<u32> {
        self.seen.lock().unwrap().iter().map(|(kind, _)| *kind).collect()
    }
}

impl Drop for MockBroker {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the mock broker panicked");
        }
    }
}

struct Side {
    carrier: Arc<MockCarrier>,
    behaviour: Arc<Mutex<Behaviour>>,
    seen: Arc<Mutex<Vec<Request>>>,
    lent: Vec<(u32, u16)>,
}

impl Side {
    fn serve(&mut self, device: &mut MockDevice, chain: &Chain) {
        let page = self.carrier.queues[0].rings.page.clone();
        let at = |gpa: u64| usize::try_from(gpa - page.gpa).unwrap();
        let [(from, request_len, false), (to, reply_len, true)] = chain.buffers[..] else {
            panic!("not a request: {chain:?}")
        };
        assert_eq!(reply_len as usize, wire::MAX_REPLY);
        let request = page.mapping.read(at(from), request_len as usize);
        let (header, body) = split::<wire::RequestHeader>(&request).unwrap();
        assert_eq!(header.len as usize, body.len());
        self.seen.lock().unwrap().push((header.kind, body.to_vec()));
        let (refuse, silent, claim) = {
            let mut behaviour = self.behaviour.lock().unwrap();
            let refuse = behaviour.refuse.take_if(|(kind, _)| *kind == header.kind);
            (refuse, behaviour.silent, behaviour.claim)
        };
        if silent {
            return;
        }
        let (status, reply) = match refuse {
            Some((_, status)) => (status, Vec::new()),
            None => (status::OK, self.reply(header.kind, body)),
        };
        let head = wire::ReplyHeader { status, len: reply.len() as u32 };
        let bytes = [head.as_bytes(), &reply].concat();
        page.mapping.write(at(to), &bytes);
        device.complete(chain.head, claim.unwrap_or(bytes.len() as u32));
        self.carrier.queues[0].completion.write(1).unwrap();
    }

    fn reply(&mut self, kind: u32, body: &[u8]) -> Vec<u8> {
        match kind {
            kind::HELLO => {
                let reply = wire::HelloReply { version: VERSION, lanes: 8, clients: 4, features: 0 };
                reply.as_bytes().to_vec()
            }
            kind::SNAPSHOT => b"snapshot".to_vec(),
            kind::READING => [b"reading ", body].concat(),
            kind::CLIENT_OPEN => {
                let mut reply = wire::ClientOpenReply { device_ranges: [Range::default(); 4] };
                reply.device_ranges[0] = Range { base: 0x7000_0000_0000, len: 1 << 40 };
                reply.as_bytes().to_vec()
            }
            kind::LANE_ATTACH => {
                let (attach, _) = split::<wire::LaneAttach>(body).unwrap();
                let queue = &self.carrier.queues[usize::from(attach.queue)];
                assert_eq!(attach.page, queue.rings.page.gpa);
                self.lent.push((attach.client, attach.queue));
                let start = queue.rings.used_index().load(SeqCst);
                wire::LaneAttachReply { start, reserved: [0; 3] }.as_bytes().to_vec()
            }
            kind::CLIENT_CLOSE => {
                let (close, _) = split::<wire::ClientClose>(body).unwrap();
                for (_, queue) in self.lent.extract_if(.., |(client, _)| *client == close.client) {
                    let rings = &self.carrier.queues[usize::from(queue)].rings;
                    rings.used_index().store(rings.avail_index().load(SeqCst), SeqCst);
                }
                Vec::new()
            }
            _ => Vec::new(),
        }
    }
}
