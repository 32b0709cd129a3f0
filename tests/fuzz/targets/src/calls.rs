//! Lane messages of every function, decoded and executed on softgpu in this process.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cudarc::driver::sys;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vgpu_backend::devices::DeviceSet;
use vgpu_backend::ledger::Ledger;
use vgpu_backend::link::Link;
use vgpu_backend::link::message::Extent;
use vgpu_backend::worker::account::Account;
use vgpu_backend::worker::broker_link::Broker;
use vgpu_backend::worker::executor::{ClientState, Executor, Message};
use vgpu_backend::worker::{address_space, api};
use vgpu_spec::api::Function;
use vgpu_spec::handle::{self, Kind};
use vgpu_spec::wire::lane::function_id;
use vgpu_spec::wire::{HUGE_PAGE, Range, WINDOW_AREA};
use vgpu_tests::arguments::Arguments;
use vgpu_tests::kernels::KERNELS;

const WINDOW: Range = Range { base: WINDOW_AREA, len: HUGE_PAGE };
/// Calls of an input at most: what comes behind has no effect.
const MAX_CALLS: usize = 64;

/// What is made once in a process: CUDA, and memory for a window.
struct Setup {
    functions: Vec<Function>,
    file: OwnedFd,
}

/// Waits for what a guest does, which nobody does here.
fn waits(function: &Function) -> bool {
    ["Callback", "HostFunc", "HostNode", "WaitValue", "BatchMemOp", "BatchMemOpNode", "ExternalSemaphores"]
        .iter()
        .any(|part| function.name.contains(part))
}

fn setup() -> &'static Setup {
    static SETUP: OnceLock<Setup> = OnceLock::new();
    SETUP.get_or_init(|| {
        address_space::reserve_windows().unwrap_or_else(|error| panic!("{error}"));
        if let Err(error) = api::warm_up() {
            panic!("{error}; softgpu's folder must be in LD_LIBRARY_PATH (vgpu-fuzz does it with --softgpu)");
        }
        let mut functions = vgpu_spec::api::cuda().unwrap_or_default();
        functions.retain(|function| !waits(function));
        let file = memfd_create("window", MemfdFlags::CLOEXEC).unwrap_or_else(|error| panic!("{error}"));
        ftruncate(&file, HUGE_PAGE).unwrap_or_else(|error| panic!("{error}"));
        let _ = rustix::io::pwrite(&file, KERNELS.to_bytes_with_nul(), 0);
        Setup { functions, file }
    })
}

/// A client of its own, without a broker that answers.
fn client() -> Option<Arc<ClientState>> {
    let (link, broker) = Link::pair().ok()?;
    drop(broker);
    let (ledger, _) = Ledger::new().ok()?;
    let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok()?;
    let account = Account::new(ledger, 0, bell, DeviceSet::default().host_ordinals())?;
    let broker = Arc::new(Broker::new(Arc::new(link)));
    Some(Arc::new(ClientState::new("fuzz".into(), 1, broker, account)))
}

/// Executes calls one after another; each is the function's number, the length of its arguments, and these.
fn execute(bytes: &[u8], functions: &[&Function], file: &OwnedFd) {
    // One at a time: the window has one place.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(client) = client() else { return };
    let extent = Extent { file: 0, reserved: 0, offset: 0, len: WINDOW.len };
    let Ok(file) = file.try_clone() else { return };
    client.windows.map(WINDOW, &[extent], &[file]).unwrap_or_else(|error| panic!("{error}"));
    {
        let mut executor = api::new_executor(&client, 2);
        let context = handle::make(Kind::Context, 1, 0).to_le_bytes();
        let retain = [&context[..], &[0; 16]].concat();
        call(executor.as_mut(), "vgpuPrimaryContextRetain", &retain);
        let mut rest = bytes;
        for _ in 0..MAX_CALLS {
            let Some(([low, high, len, more], behind)) = rest.split_first_chunk() else { break };
            let number = usize::from(u16::from_le_bytes([*low, *high]));
            let len = usize::from(u16::from_le_bytes([*len, *more])).min(behind.len());
            let (args, behind) = behind.split_at(len);
            rest = behind;
            if let Some(function) = functions.get(number % functions.len().max(1)) {
                call(executor.as_mut(), &function.name, args);
            }
        }
        executor.issue(&mut Vec::new());
    }
    reset();
    let _ = client.windows.unmap(WINDOW);
}

fn call(executor: &mut dyn Executor, name: &str, args: &[u8]) {
    let message = Message { function: function_id(name), thread: 1, context: 1, flags: 0, end: None, args };
    // As a lane does that is behind.
    if executor.hold(&message) {
        return;
    }
    executor.issue(&mut Vec::new());
    let mut reply = Vec::new();
    let _ = executor.execute(&message, true, &mut reply);
    let _ = executor.reply_flags();
}

/// Takes what an input has left, a sticky error too.
fn reset() {
    let mut context = std::ptr::null_mut();
    // SAFETY: device 0 is there; the context is made current to this thread and nowhere else.
    unsafe {
        let _ = sys::cuDevicePrimaryCtxReset_v2(0);
        let _ = sys::cuDevicePrimaryCtxRetain(&raw mut context, 0);
        let _ = sys::cuCtxSetCurrent(context);
    }
}

pub fn run(bytes: &[u8]) {
    let setup = setup();
    execute(bytes, &setup.functions.iter().collect::<Vec<_>>(), &setup.file);
}

fn graphs(functions: &[Function]) -> Vec<&Function> {
    functions.iter().filter(|function| function.name.contains("Graph")).collect()
}

pub fn run_graphs(bytes: &[u8]) {
    let setup = setup();
    execute(bytes, &graphs(&setup.functions), &setup.file);
}

/// Sequences of calls with arguments of the functions' shapes.
fn sequences(functions: &[&Function], count: usize) -> Vec<Vec<u8>> {
    let mut arguments = Arguments::new(7, WINDOW.base, KERNELS.to_bytes_with_nul().len() as u64);
    let mut number = 0;
    let mut sequence = || {
        let mut bytes = Vec::new();
        for _ in 0..12 {
            let Some(function) = functions.get(number % functions.len().max(1)) else { break };
            let args = arguments.of(function);
            bytes.extend(u16::try_from(number % functions.len()).unwrap_or(0).to_le_bytes());
            bytes.extend(u16::try_from(args.len()).unwrap_or(0).to_le_bytes());
            bytes.extend(args);
            number += 1;
        }
        bytes
    };
    (0..count).map(|_| sequence()).collect()
}

fn described() -> Vec<Function> {
    let mut functions = vgpu_spec::api::cuda().unwrap_or_default();
    functions.retain(|function| !waits(function));
    functions
}

pub fn seeds() -> Vec<Vec<u8>> {
    let functions = described();
    let count = functions.len().div_ceil(12);
    sequences(&functions.iter().collect::<Vec<_>>(), count)
}

pub fn seeds_graphs() -> Vec<Vec<u8>> {
    let functions = described();
    let graphs = graphs(&functions);
    sequences(&graphs, 2 * graphs.len().div_ceil(12))
}
