//! Queue 0: requests of the agent.
//!
//! SECURITY: a request is copied out of guest memory once, bounded by MAX_REQUEST, and parsed from the copy. A refused
//! request changes nothing; its sender gets a status, and the log a line within limits.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vgpu_spec::wire::control::{
    CONTROL_QUEUE, ClientClose, ClientOpen, ClientOpenReply, FIRST_LANE, Hello, HelloReply, LaneAttachReply,
    MAX_REPLY, MAX_REQUEST, ReplyHeader, ShareDrop, ShareKeep, WindowMap, WindowUnmap, status,
};
use vgpu_spec::wire::{Range, VERSION};
use vhost_user_backend::VringT;
use virtio_queue::QueueT;
use vm_memory::{GuestAddressSpace, GuestMemoryMmap};
use zerocopy::IntoBytes;

use super::lock;
use super::request::Request;
use super::vm::{Client, Vm};
use super::windows::{Translation, Windows};
use super::worker_link::REAP_TIMEOUT;
use super::{assign, lending, presence, reading};
use crate::devices::DeviceSet;
use crate::link::message;
use crate::log::{chain, printable};

/// A chain of descriptors in a VM's memory.
pub type Chain = virtio_queue::DescriptorChain<Arc<GuestMemoryMmap>>;

/// For a worker to map and register a window: 1 GiB takes about 100 ms.
const WINDOW_TIMEOUT: Duration = Duration::from_secs(30);
/// For a worker to exit by itself when its client is closed.
const CLOSE_GRACE: Duration = Duration::from_millis(500);
/// How long closing a client, or a suspended VM, may keep other requests waiting. A worker's end takes as long as the driver needs for its context.
const CLOSE_WAIT: Duration = Duration::from_millis(20);

/// A request that is answered with a status other than OK.
#[derive(Debug, thiserror::Error)]
#[error("refused ({}): {text}", status::describe(*.status))]
pub struct Refusal {
    pub status: u32,
    pub text: String,
}

impl Refusal {
    pub fn new(status: u32, text: impl Into<String>) -> Self {
        Refusal { status, text: text.into() }
    }

    pub fn no_client(client: u32) -> Self {
        Refusal::new(status::NO_CLIENT, format!("client {client} is not known or lost"))
    }
}

/// Answers all requests that are available.
pub fn serve(vm: &Vm) {
    let Some(ring) = vm.ring(CONTROL_QUEUE) else { return };
    loop {
        let mut served = 0;
        let _ = ring.disable_notification();
        while ring.settings().running {
            let memory = vm.memory.memory();
            let epoch = lock(&vm.state).control_epoch;
            let chain = ring.get_mut().get_queue_mut().pop_descriptor_chain(memory.into_inner());
            let Some(chain) = chain else { break };
            served += 1;
            answer(vm, chain, epoch);
        }
        let more = ring.enable_notification().unwrap_or(false);
        // SECURITY: with a nonsensical available index there is always "more" and never a chain.
        if !more || served == 0 {
            return;
        }
    }
}

fn answer(vm: &Vm, chain: Chain, epoch: u64) {
    let Some(ring) = vm.ring(CONTROL_QUEUE) else { return };
    let head = chain.head_index();
    let reply = match read_request(&chain) {
        Ok(request) => {
            let (status, body) = match handle(vm, &request) {
                Ok(body) => (status::OK, body),
                Err(refusal) => {
                    if refusal.status != status::AGAIN {
                        vm.complain(&refusal);
                    }
                    (refusal.status, Vec::new())
                }
            };
            let len = u32::try_from(body.len()).unwrap_or(0);
            let mut reply = ReplyHeader { status, len }.as_bytes().to_vec();
            reply.extend_from_slice(&body);
            reply
        }
        Err(what) => {
            vm.complain(&format_args!("control queue: {what}"));
            Vec::new()
        }
    };
    // Under the lock: if the queue was stopped meanwhile, its memory is not ours to write any more.
    let state = lock(&vm.state);
    if state.control_epoch != epoch {
        return;
    }
    let memory = chain.memory();
    let written = match chain.clone().writer(memory) {
        Ok(mut writer) => writer.write_all(&reply).map_or(0, |()| u32::try_from(reply.len()).unwrap_or(0)),
        Err(_) => 0,
    };
    // Fails for a head that is out of bounds: then there is nothing to give back.
    let _ = ring.add_used(head, written);
    if ring.needs_notification().unwrap_or(true) {
        let _ = ring.signal_used_queue();
    }
}

/// Copies a request out of the guest's memory.
pub fn read_request(chain: &Chain) -> Result<Vec<u8>, &'static str> {
    let memory = chain.memory();
    let mut reader = chain.clone().reader(memory).map_err(|_| "a descriptor is not in memory")?;
    let writer = chain.clone().writer(memory).map_err(|_| "a descriptor is not in memory")?;
    if writer.available_bytes() < MAX_REPLY {
        return Err("the space for the reply is too small");
    }
    if reader.available_bytes() > MAX_REQUEST {
        return Err("the request is too long");
    }
    let mut request = vec![0; reader.available_bytes()];
    reader.read_exact(&mut request).map_err(|_| "the request cannot be read")?;
    Ok(request)
}

/// Carries out one request; returns the reply's body.
fn handle(vm: &Vm, request: &[u8]) -> Result<Vec<u8>, Refusal> {
    let greeted = lock(&vm.state).greeted;
    match Request::parse(request, greeted)? {
        Request::Hello(request) => hello(vm, &request),
        Request::Snapshot => snapshot(vm),
        Request::ClientOpen(request) => client_open(vm, &request),
        Request::ClientClose(request) => client_close(vm, &request),
        Request::LaneAttach(request) => {
            let start = lending::attach(vm, &request)?;
            tracing::debug!(vm = vm.name, client = request.client, queue = request.queue, start, "lane lent");
            Ok(LaneAttachReply { start, reserved: [0; 3] }.as_bytes().to_vec())
        }
        Request::WindowMap(request, extents) => window_map(vm, &request, extents),
        Request::WindowUnmap(request) => window_unmap(vm, &request),
        Request::ShareKeep(request) => share_keep(vm, &request),
        Request::ShareDrop(request) => share_drop(vm, &request),
        Request::Reading(request) => reading::serve(vm, &request),
    }
}

fn hello(vm: &Vm, request: &Hello) -> Result<Vec<u8>, Refusal> {
    if request.version != VERSION {
        let text = format!("protocol version {} of the agent, {VERSION} here", request.version);
        return Err(Refusal::new(status::UNSUPPORTED, text));
    }
    // An agent that says hello knows nothing of earlier clients: the guest was reset, or its agent restarted.
    vm.drop_clients("a new agent said hello");
    {
        let mut state = lock(&vm.state);
        state.greeted = true;
        state.devices = Some(vm.tenant.devices());
    }
    let pci = request.pci;
    tracing::info!(
        vm = vm.name,
        "agent says hello, device {:04x}:{:02x}:{:02x}.{}",
        pci.domain,
        pci.bus,
        pci.device,
        pci.function
    );
    let lanes = vm.tenant.queues - FIRST_LANE;
    // No features are defined yet, so none are in use.
    Ok(HelloReply { version: VERSION, lanes, clients: vm.tenant.clients(), features: 0 }.as_bytes().to_vec())
}

fn snapshot(vm: &Vm) -> Result<Vec<u8>, Refusal> {
    let devices = devices(vm)?;
    let snapshot = vm.pool.snapshot_of(&devices);
    let bytes = snapshot.map(|s| vm.tenant.identities().shown(&s, &devices).encode());
    bytes
        .filter(|b| b.len() <= MAX_REPLY - size_of::<ReplyHeader>())
        .ok_or_else(|| Refusal::new(status::NO_WORKER, "there is no snapshot"))
}

/// The host's devices that the agent is shown.
pub fn devices(vm: &Vm) -> Result<Arc<DeviceSet>, Refusal> {
    vm.devices().ok_or_else(|| Refusal::new(status::INVALID, "the agent has not said hello"))
}

fn client_open(vm: &Vm, request: &ClientOpen) -> Result<Vec<u8>, Refusal> {
    let number = request.client;
    let epoch = {
        let state = lock(&vm.state);
        if state.clients.contains_key(&number) {
            return Err(Refusal::new(status::INVALID, format!("client {number} exists already")));
        }
        if state.clients.len() >= vm.tenant.clients() as usize {
            return Err(Refusal::new(status::LIMIT, format!("the VM has {} clients", state.clients.len())));
        }
        state.epoch
    };
    let (worker, account) = assign::worker(vm, request)?;
    let label = format!("{}[{}]", printable(&request.name), request.pid);
    {
        let mut state = lock(&vm.state);
        if state.epoch != epoch {
            worker.kill();
            return Err(Refusal::no_client(number));
        }
        let client = Client {
            worker: Arc::clone(&worker),
            windows: Windows::default(),
            account: Arc::clone(&account),
            pid: request.pid,
            label: label.clone(),
            lost: false,
            closing: None,
        };
        state.clients.insert(number, client);
    }
    let (weak, pid) = (vm.weak(), worker.pid);
    worker.on_exit(move |exit| {
        account.settle();
        if let Some(vm) = weak.upgrade() {
            lending::worker_ended(&vm, number, pid, exit);
        }
    });
    tracing::info!(vm = vm.name, client = label, uid = request.uid, pid, "client opened");
    Ok(ClientOpenReply { device_ranges: worker.device_ranges }.as_bytes().to_vec())
}

fn client_close(vm: &Vm, request: &ClientClose) -> Result<Vec<u8>, Refusal> {
    let number = request.client;
    let (worker, begun) = {
        let mut state = lock(&vm.state);
        let client = state.clients.get_mut(&number).ok_or_else(|| Refusal::no_client(number))?;
        let begun = client.closing;
        client.closing.get_or_insert_with(Instant::now);
        client.account.set_leaving(true);
        if !client.worker.is_alive() {
            // It has been settled already, or is about to be.
            client.account.set_leaving(false);
        }
        (Arc::clone(&client.worker), begun)
    };
    let so_far = begun.map(|begun| begun.elapsed());
    match so_far {
        None => worker.ask_to_exit(),
        Some(time) if time >= CLOSE_GRACE => worker.kill(),
        Some(_) => {}
    }
    if !worker.wait_ended(CLOSE_WAIT) {
        if so_far.is_none_or(|time| time < CLOSE_GRACE + REAP_TIMEOUT) {
            return Err(Refusal::new(status::AGAIN, format!("worker {} is ending", worker.pid)));
        }
        // Its lanes and windows stay taken: it may still write there.
        tracing::error!(vm = vm.name, pid = worker.pid, "worker does not die");
        return Err(Refusal::new(status::FAILED, format!("worker {} does not die", worker.pid)));
    }
    lending::take_back(vm, number);
    let gone = {
        let mut state = lock(&vm.state);
        state.shares.forget_client(number);
        state.clients.remove(&number)
    };
    if let Some(client) = gone {
        tracing::info!(vm = vm.name, client = client.label, pid = worker.pid, "client closed");
    }
    Ok(Vec::new())
}

/// The live worker of a client, after `check` of its windows.
fn with_windows<T>(
    vm: &Vm,
    number: u32,
    f: impl FnOnce(&mut Windows) -> Result<T, super::windows::WindowError>,
) -> Result<(Arc<super::worker_link::Worker>, T), Refusal> {
    let mut state = lock(&vm.state);
    let client = state
        .clients
        .get_mut(&number)
        .filter(|c| !c.lost && c.closing.is_none())
        .ok_or_else(|| Refusal::no_client(number))?;
    let value = f(&mut client.windows).map_err(|error| {
        let status = match error {
            super::windows::WindowError::Limit => status::LIMIT,
            _ => status::INVALID,
        };
        Refusal::new(status, chain(&error))
    })?;
    Ok((Arc::clone(&client.worker), value))
}

fn window_map(vm: &Vm, request: &WindowMap, extents: Vec<Range>) -> Result<Vec<u8>, Refusal> {
    let memory = vm.memory.memory();
    let translation = Translation::new(&memory, extents.into_iter(), request.len)
        .map_err(|e| Refusal::new(status::INVALID, chain(&e)))?;
    let window = Range { base: request.address, len: request.len };
    check_pinned(vm, request.len)?;
    let _use = use_devices(vm)?;
    let (worker, ()) = with_windows(vm, request.client, |w| w.insert(request.window, window))?;
    let map = message::WindowMap {
        address: window.base,
        len: window.len,
        extents: u32::try_from(translation.extents.len()).unwrap_or(u32::MAX),
        reserved: 0,
    };
    let mut bytes = map.as_bytes().to_vec();
    bytes.extend_from_slice(translation.extents.as_bytes());
    let files = translation.borrowed(&memory);
    match worker.request(message::kind::WINDOW_MAP, &bytes, &files, WINDOW_TIMEOUT) {
        Ok(_) => Ok(Vec::new()),
        Err(error) => {
            if let Some(client) = lock(&vm.state).clients.get_mut(&request.client) {
                client.windows.remove(request.window);
            }
            Err(Refusal::new(status::FAILED, format!("mapping window {}: {}", request.window, chain(&error))))
        }
    }
}

/// What a worker is asked next needs the driver: has the VM come back to its devices, which the agent waits for if it takes long.
fn use_devices(vm: &Vm) -> Result<presence::Use<'_>, Refusal> {
    let deadline = Instant::now() + CLOSE_WAIT;
    let used = vm.accounts.use_devices(|| Instant::now() >= deadline);
    used.ok_or_else(|| Refusal::new(status::AGAIN, "the VM is suspended"))
}

/// Windows are registered with the driver, and so pinned: whether the VM may have `more` bytes of them.
fn check_pinned(vm: &Vm, more: u64) -> Result<(), Refusal> {
    let Some(limit) = vm.accounts.limits().pinned else { return Ok(()) };
    let pinned = lock(&vm.state).clients.values().fold(more, |sum, c| sum.saturating_add(c.windows.bytes()));
    if pinned <= limit {
        return Ok(());
    }
    let text = format!("{} MiB of pinned memory, of which the VM may have {} MiB", pinned >> 20, limit >> 20);
    Err(Refusal::new(status::LIMIT, text))
}

fn window_unmap(vm: &Vm, request: &WindowUnmap) -> Result<Vec<u8>, Refusal> {
    let (worker, window) = with_windows(vm, request.client, |w| w.get(request.window))?;
    let _use = use_devices(vm)?;
    let unmap = message::WindowUnmap { address: window.base, len: window.len };
    worker.request(message::kind::WINDOW_UNMAP, unmap.as_bytes(), &[], WINDOW_TIMEOUT).map_err(|e| {
        Refusal::new(status::FAILED, format!("unmapping window {}: {}", request.window, chain(&e)))
    })?;
    if let Some(client) = lock(&vm.state).clients.get_mut(&request.client) {
        client.windows.remove(request.window);
    }
    Ok(Vec::new())
}

fn share_keep(vm: &Vm, request: &ShareKeep) -> Result<Vec<u8>, Refusal> {
    let mut state = lock(&vm.state);
    let number = request.client;
    if state.clients.get(&number).is_none_or(|c| c.lost || c.closing.is_some()) {
        return Err(Refusal::no_client(number));
    }
    state.shares.keep(number, request.token).map_err(|e| Refusal::new(status::INVALID, chain(&e)))?;
    Ok(Vec::new())
}

fn share_drop(vm: &Vm, request: &ShareDrop) -> Result<Vec<u8>, Refusal> {
    let dropped = lock(&vm.state).shares.drop_kept(request.token);
    dropped.map_err(|e| Refusal::new(status::INVALID, chain(&e)))?;
    Ok(Vec::new())
}
