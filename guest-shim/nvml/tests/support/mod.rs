//! The library as a program loads it, and an agent that knows one snapshot.
#![allow(dead_code, clippy::unwrap_used)] // each test uses a part

use rustix::{
    fd::OwnedFd,
    net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType},
};
use std::{
    ffi::CString,
    path::PathBuf,
    sync::atomic::{AtomicU16, AtomicU32, Ordering},
};
use vgpu_spec::wire::{
    Range, VERSION,
    control::{PciAddress, status},
    reading::{Figure, ProcessUse, Reading},
    snapshot::{Device, DeviceRecord, NO_ATTRIBUTE, Snapshot, SnapshotHeader},
    socket::{HelloReply, ReplyHeader, Request, hello, kind},
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// What the agent answers; tests change it.
pub static AGENT_VERSION: AtomicU16 = AtomicU16::new(VERSION);
pub static AGENT_STATUS: AtomicU32 = AtomicU32::new(status::OK);

/// How often it was asked what the device does.
pub static READINGS: AtomicU32 = AtomicU32::new(0);

/// The built library, which cargo puts beside this test's program.
pub fn path() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let path = program.with_file_name("libvgpu_nvml.so");
    assert!(path.exists(), "{} is not built", path.display());
    path
}

pub struct Nvml(libloading::Library);

impl Nvml {
    pub fn open() -> Self {
        // SAFETY: the library does nothing when it is loaded.
        Nvml(unsafe { libloading::Library::new(path()) }.unwrap())
    }

    pub fn has(&self, name: &str) -> bool {
        let name = CString::new(name).unwrap();
        // SAFETY: only asked whether it is there.
        unsafe { self.0.get::<*const ()>(name.as_bytes_with_nul()) }.is_ok()
    }

    /// The function `name`.
    ///
    /// # Safety
    /// `F` is its type.
    pub unsafe fn get<F: Copy>(&self, name: &str) -> F {
        let name = CString::new(name).unwrap();
        // SAFETY: the caller's promise.
        *unsafe { self.0.get::<F>(name.as_bytes_with_nul()) }.unwrap()
    }
}

/// Serves snapshots at `path`, until the process ends.
pub fn start_agent(path: &std::path::Path) {
    let _ = std::fs::remove_file(path);
    let listener =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .unwrap();
    rustix::net::bind(&listener, &SocketAddrUnix::new(path).unwrap()).unwrap();
    rustix::net::listen(&listener, 8).unwrap();
    std::thread::spawn(move || {
        while let Ok(socket) = rustix::net::accept_with(&listener, SocketFlags::CLOEXEC) {
            // Each by a thread of its own: a shim keeps its connection.
            std::thread::spawn(move || serve(&socket));
        }
    });
}

/// Answers a HELLO, and then what the device does until the shim goes.
fn serve(socket: &OwnedFd) {
    serve_hello(socket);
    let mut bytes = [0; 256];
    while let Ok((len, _)) = rustix::net::recv(socket, &mut bytes, RecvFlags::empty()) {
        let Ok(request) = Request::read_from_bytes(&bytes[..len]) else { return };
        assert_eq!((request.kind, request.arg0), (kind::READING, 0));
        READINGS.fetch_add(1, Ordering::SeqCst);
        let body = reading().encode();
        let header = ReplyHeader { status: status::OK, len: u32::try_from(body.len()).unwrap() };
        let packet = [header.as_bytes(), &body].concat();
        rustix::net::send(socket, &packet, SendFlags::NOSIGNAL).unwrap();
    }
}

/// 200 W, and two processes in 3 GiB.
fn reading() -> Reading {
    let function = vgpu_spec::wire::lane::function_id("nvmlDeviceGetPowerUsage");
    let bytes = 200_000_u32.to_ne_bytes().to_vec();
    let process =
        |pid, memory| ProcessUse { pid, utilization: 40, memory_utilization: 7, reserved: 0, memory };
    Reading {
        memory_used: 3 << 30,
        figures: vec![Figure { function, index: 0, status: 0, bytes }],
        processes: vec![process(70, 1 << 30), process(71, 2 << 30)],
    }
}

fn serve_hello(socket: &OwnedFd) {
    let mut bytes = [0; 256];
    let (len, _) = rustix::net::recv(socket, &mut bytes, RecvFlags::empty()).unwrap();
    let request = Request::read_from_bytes(&bytes[..len]).unwrap();
    assert_eq!((request.kind, request.arg0), (kind::HELLO, hello::SNAPSHOT_ONLY), "a worker was asked for");
    let status = AGENT_STATUS.load(Ordering::SeqCst);
    let mut body = Vec::new();
    if status == status::OK {
        let reply = HelloReply {
            version: AGENT_VERSION.load(Ordering::SeqCst),
            reserved: 0,
            client: 0,
            pci: PciAddress { domain: 0, bus: 0, device: 0x1e, function: 0, present: 1 },
            device_ranges: [Range::default(); 4],
        };
        body = [reply.as_bytes(), &snapshot().encode()].concat();
    }
    let header = ReplyHeader { status, len: u32::try_from(body.len()).unwrap() };
    let packet = [header.as_bytes(), &body].concat();
    rustix::net::send(socket, &packet, SendFlags::NOSIGNAL).unwrap();
}

/// One device: 24 GiB, compute capability 8.9, 128 multiprocessors.
fn snapshot() -> Snapshot {
    let mut record = DeviceRecord::new_zeroed();
    record.name[..10].copy_from_slice(b"Test GPU 1");
    record.uuid = [0x5a; 16];
    record.total_memory = 24 << 30;
    let mut attributes = vec![NO_ATTRIBUTE; 120];
    (attributes[15], attributes[74], attributes[75]) = (128, 8, 9);
    record.attribute_count = 120;
    let header = SnapshotHeader { driver_version: 12080, device_count: 1, driver_name: [0; 32] };
    Snapshot { header, devices: vec![Device { record, attributes }] }
}
