//! An agent on a socket, in threads.

use super::device::{Device, Handler, Options};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::MemfdFlags;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use vgpu_spec::wire::control::{PciAddress, status};
use vgpu_spec::wire::snapshot::{Snapshot, SnapshotHeader};
use vgpu_spec::wire::socket::{HelloReply, ReplyHeader, Request, WindowReply, kind};
use vgpu_spec::wire::{Range, VERSION};
use zerocopy::{FromBytes, IntoBytes};

/// How this agent behaves. Lane k (from 0) is queue 2 + k.
pub struct Behaviour {
    pub version: u16,
    pub hello_status: u32,
    pub lanes: u16,
    pub options: Options,
    /// Makes the handler of a lane.
    pub handler: Box<dyn FnMut(u16) -> Handler + Send>,
    /// Bytes of windows at most.
    pub window_bytes: u64,
    /// Windows refused at first, as by a worker.
    pub refuse_windows: u32,
}

impl Default for Behaviour {
    fn default() -> Self {
        Behaviour {
            version: VERSION,
            hello_status: status::OK,
            lanes: 8,
            options: Options::default(),
            handler: Box::new(|_| super::device::echo()),
            window_bytes: 1 << 30,
            refuse_windows: 0,
        }
    }
}

pub struct Agent {
    pub path: PathBuf,
    pub state: Arc<State>,
}

pub struct State {
    behaviour: Mutex<Behaviour>,
    pub devices: Mutex<Vec<Device>>,
    pub windows: Mutex<Vec<(u32, u64, u64)>>,
    pub ended: AtomicU32,
    pub last_hello: Mutex<Option<Request>>,
}

impl Agent {
    pub fn start(behaviour: Behaviour) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("vgpu-client-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&path);
        let listener =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&listener, 8).unwrap();
        let state = Arc::new(State {
            behaviour: Mutex::new(behaviour),
            devices: Mutex::default(),
            windows: Mutex::default(),
            ended: AtomicU32::new(0),
            last_hello: Mutex::default(),
        });
        let served = state.clone();
        std::thread::spawn(move || {
            while let Ok(socket) = rustix::net::accept_with(&listener, SocketFlags::CLOEXEC) {
                let state = served.clone();
                std::thread::spawn(move || state.serve(&socket));
            }
        });
        Agent { path, state }
    }

    pub fn lanes(&self) -> usize {
        self.state.devices.lock().unwrap().len()
    }

    pub fn pause(&self, lane: usize, paused: bool) {
        self.state.devices.lock().unwrap()[lane].controls.pause(paused);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl State {
    fn serve(&self, socket: &OwnedFd) {
        let mut bytes = [0; 256];
        while let Ok((len, _)) = rustix::net::recv(socket, &mut bytes, RecvFlags::empty()) {
            if len == 0 {
                break;
            }
            let request = Request::read_from_bytes(&bytes[..len]).unwrap();
            match request.kind {
                kind::HELLO => self.hello(socket, request),
                kind::LANE => self.lane(socket),
                kind::WINDOW_ALLOC => self.window_alloc(socket, request),
                kind::WINDOW_FREE => self.window_free(socket, request),
                // A request of tests: the agent goes away.
                _ => break,
            }
        }
        self.ended.fetch_add(1, Ordering::SeqCst);
    }

    fn hello(&self, socket: &OwnedFd, request: Request) {
        *self.last_hello.lock().unwrap() = Some(request);
        let behaviour = self.behaviour.lock().unwrap();
        if behaviour.hello_status != status::OK {
            return send(socket, behaviour.hello_status, &[], &[]);
        }
        let mut device_ranges = [Range::default(); 4];
        device_ranges[1] = Range { base: 0x2900_0000_0000, len: 1 << 30 };
        let reply = HelloReply {
            version: behaviour.version,
            reserved: 0,
            client: 5,
            pci: PciAddress::default(),
            device_ranges,
        };
        let header = SnapshotHeader { driver_version: 13000, device_count: 0, driver_name: [0; 32] };
        let snapshot = Snapshot { header, devices: Vec::new() };
        send(socket, status::OK, &[reply.as_bytes(), &snapshot.encode()].concat(), &[]);
    }

    fn lane(&self, socket: &OwnedFd) {
        let mut behaviour = self.behaviour.lock().unwrap();
        let mut devices = self.devices.lock().unwrap();
        let number = devices.len() as u16;
        if number >= behaviour.lanes {
            return send(socket, status::LIMIT, &[], &[]);
        }
        let options = Options { queue: 2 + number, ..behaviour.options };
        let (device, grant) = Device::start(options, (behaviour.handler)(number));
        devices.push(device);
        let files = [grant.page.as_fd(), grant.kick.as_fd(), grant.completion.as_fd()];
        send(socket, status::OK, grant.reply.as_bytes(), &files);
    }

    fn window_alloc(&self, socket: &OwnedFd, request: Request) {
        let mut behaviour = self.behaviour.lock().unwrap();
        if behaviour.refuse_windows > 0 {
            behaviour.refuse_windows -= 1;
            return send(socket, status::FAILED, &[], &[]);
        }
        let mut windows = self.windows.lock().unwrap();
        if windows.iter().map(|window| window.1).sum::<u64>() + request.arg0 > behaviour.window_bytes {
            return send(socket, status::LIMIT, &[], &[]);
        }
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let window = NEXT.fetch_add(1, Ordering::SeqCst);
        windows.push((window, request.arg0, request.arg1));
        // The window starts one page into the file, so that an ignored offset shows.
        let file = rustix::fs::memfd_create("window", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, request.arg0 + 4096).unwrap();
        rustix::io::pwrite(&file, &u64::from(window).to_ne_bytes(), 4096).unwrap();
        let reply = WindowReply { window, reserved: 0, offset: 4096 };
        send(socket, status::OK, reply.as_bytes(), &[file.as_fd()]);
    }

    fn window_free(&self, socket: &OwnedFd, request: Request) {
        let mut windows = self.windows.lock().unwrap();
        let before = windows.len();
        windows.retain(|window| u64::from(window.0) != request.arg0);
        let status = if windows.len() < before { status::OK } else { status::INVALID };
        send(socket, status, &[], &[]);
    }
}

fn send(socket: &OwnedFd, status: u32, body: &[u8], files: &[BorrowedFd<'_>]) {
    let header = ReplyHeader { status, len: body.len() as u32 };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(files)));
    }
    let parts = [IoSlice::new(header.as_bytes()), IoSlice::new(body)];
    rustix::net::sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL).unwrap();
}
