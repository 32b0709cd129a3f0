//! A worker for a client: taken from the pool, and told whose it is.

use std::sync::Arc;
use std::time::Duration;

use vgpu_spec::wire::control::{ClientOpen, status};
use zerocopy::IntoBytes;

use super::accounts::Account;
use super::control::{self, Refusal};
use super::pool::PoolError;
use super::vm::Vm;
use super::worker_link::{Worker, WorkerError};
use super::{room, sharing};
use crate::devices::DeviceSet;
use crate::link::message;
use crate::log::chain;

/// For a worker to be there for a new client.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// How a worker's words end that the driver gave no memory.
const NO_MEMORY: &str = ": CUDA error 2";
/// For a worker to learn whose it is.
const ASSIGN_TIMEOUT: Duration = Duration::from_secs(5);
/// Workers that are tried. One that was ready may have ended just now: the pool hears of it a moment later.
const MOST: u32 = 4;

/// The client's worker and its account.
pub fn worker(vm: &Vm, request: &ClientOpen) -> Result<(Arc<Worker>, Arc<Account>), Refusal> {
    let devices = control::devices(vm)?;
    let mut tried = 0;
    loop {
        let worker = take(vm, request.client, &devices)?;
        let account = vm.accounts.open(&worker);
        let account =
            account.ok_or_else(|| Refusal::new(status::LIMIT, "the VM's ledger has no free slot"))?;
        tried += 1;
        match assign(vm, request, &devices, &worker, &account) {
            Ok(()) => return Ok((worker, account)),
            Err(error) => {
                worker.kill();
                tracing::debug!(
                    vm = vm.name,
                    pid = worker.pid,
                    "a worker that was ready is not: {}",
                    chain(&error)
                );
                // One that hangs or refuses is no accident, and another would take its time too.
                let ended = matches!(error, WorkerError::Gone | WorkerError::Link(_));
                if !ended || tried >= MOST {
                    return Err(Refusal::new(status::NO_WORKER, chain(&error)));
                }
            }
        }
    }
}

fn take(vm: &Vm, number: u32, devices: &Arc<DeviceSet>) -> Result<Arc<Worker>, Refusal> {
    // Where its context is.
    let first = devices.host_ordinal(0).unwrap_or(0);
    let take = || vm.pool.take(devices, OPEN_TIMEOUT, &vm.closing);
    let worker = match take() {
        // For want of memory for its context.
        Err(PoolError::Start(why))
            if why.ends_with(NO_MEMORY) && vm.pool.suspender().make_room(&vm.tenant, first, OPEN_TIMEOUT) =>
        {
            take()
        }
        taken => taken,
    };
    worker.map_err(|error| match error {
        PoolError::Cancelled => Refusal::no_client(number),
        error => Refusal::new(status::NO_WORKER, chain(&error)),
    })
}

fn assign(
    vm: &Vm,
    request: &ClientOpen,
    devices: &DeviceSet,
    worker: &Arc<Worker>,
    account: &Account,
) -> Result<(), WorkerError> {
    let number = request.client;
    let assign = message::Assign {
        client: number,
        pid: request.pid,
        uid: request.uid,
        slot: account.number(),
        name: request.name,
        devices: devices.host_ordinals(),
    };
    let (weak, itself) = (vm.weak(), Arc::downgrade(worker));
    worker.on_request(move |pid, packet| match weak.upgrade() {
        Some(vm) if packet.header.kind == message::kind::ROOM => room::serve(&vm, itself.clone(), &packet),
        Some(vm) => sharing::serve(&vm, number, pid, packet),
        None => sharing::Asked::Broken,
    });
    worker.request(message::kind::ASSIGN, assign.as_bytes(), &vm.accounts.files(), ASSIGN_TIMEOUT).map(drop)
}
