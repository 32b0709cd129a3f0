//! What a VM is told of a device: the host's figures, and of the host's processes its own only, by the guest's numbers.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use vgpu_spec::wire::control::status;
use vgpu_spec::wire::reading::{ProcessUse, Reading, ReadingRequest, UNKNOWN_MEMORY, UNKNOWN_SHARE};

use super::control::{self, Refusal};
use super::lock;
use super::vm::{Client, Vm};

/// Answers READING.
pub fn serve(vm: &Vm, request: &ReadingRequest) -> Result<Vec<u8>, Refusal> {
    let snapshot =
        vm.pool.snapshot().ok_or_else(|| Refusal::new(status::NO_WORKER, "there is no snapshot"))?;
    let gone = || Refusal::new(status::INVALID, format!("device {} is not there", request.device));
    let ordinal = control::devices(vm)?.host_ordinal(request.device).ok_or_else(gone)?;
    let device = usize::try_from(ordinal).ok().and_then(|i| snapshot.devices.get(i)).ok_or_else(gone)?;
    let host = vm.pool.monitor().read(device.record.uuid);
    let clients = clients(vm);
    let numbers = clients.iter().map(|(&worker, &(pid, _))| (worker, pid)).collect();
    let mut reading = of_vm(host.as_deref(), &numbers);
    count_memory(vm, ordinal, &clients, &mut reading);
    Ok(reading.encode())
}

/// The guest's process number of each client whose process has not ended, and its slot of the ledger, by its worker's process number.
fn clients(vm: &Vm) -> HashMap<u32, (u32, u32)> {
    let state = lock(&vm.state);
    let entry = |c: &Client| (c.worker.pid, (c.pid, c.account.number()));
    state.clients.values().filter(|c| !c.lost && c.closing.is_none()).map(entry).collect()
}

/// Where the VM has a limit, all that tells of its memory tells what counts against it.
fn count_memory(vm: &Vm, ordinal: u32, clients: &HashMap<u32, (u32, u32)>, reading: &mut Reading) {
    let ledger = vm.accounts.ledger();
    let Some(device) = ledger.device(ordinal).filter(|d| d.limit().is_some()) else { return };
    reading.memory_used = device.used.load(Ordering::Relaxed);
    let slots: HashMap<u32, u32> = clients.values().copied().collect();
    for process in &mut reading.processes {
        if let Some(slot) = slots.get(&process.pid).and_then(|&slot| ledger.slot(slot)) {
            process.memory = slot.memory(ordinal);
        }
    }
}

/// A host that does not list this VM's workers (it has no NVML, or the broker is in a container that hides process numbers) does not
/// tell what each uses: they are listed without.
fn of_vm(host: Option<&Reading>, clients: &HashMap<u32, u32>) -> Reading {
    let listed = host.map_or(&[][..], |h| &h.processes);
    let mut processes: Vec<ProcessUse> =
        listed.iter().filter_map(|p| clients.get(&p.pid).map(|&pid| ProcessUse { pid, ..*p })).collect();
    if processes.is_empty() {
        processes = clients.values().map(|&pid| unknown(pid)).collect();
    }
    processes.sort_by_key(|p| p.pid);
    let known = |sum: u64, p: &ProcessUse| (p.memory != UNKNOWN_MEMORY).then(|| sum.saturating_add(p.memory));
    let memory_used = processes.iter().try_fold(0, known).unwrap_or(UNKNOWN_MEMORY);
    Reading { memory_used, figures: host.map(|h| h.figures.clone()).unwrap_or_default(), processes }
}

fn unknown(pid: u32) -> ProcessUse {
    ProcessUse {
        pid,
        utilization: UNKNOWN_SHARE,
        memory_utilization: UNKNOWN_SHARE,
        reserved: 0,
        memory: UNKNOWN_MEMORY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(processes: &[(u32, u64)]) -> Reading {
        let process = |&(pid, memory): &(u32, u64)| ProcessUse { memory, utilization: 5, ..unknown(pid) };
        Reading { memory_used: 0, figures: Vec::new(), processes: processes.iter().map(process).collect() }
    }

    #[test]
    fn a_vm_sees_its_own_processes_by_its_own_numbers() {
        let clients = HashMap::from([(100, 7), (101, 3), (102, 9)]);
        let reading = of_vm(Some(&host(&[(100, 10), (555, 1000), (101, 20)])), &clients);
        let seen: Vec<_> = reading.processes.iter().map(|p| (p.pid, p.memory, p.utilization)).collect();
        assert_eq!(seen, [(3, 20, 5), (7, 10, 5)]);
        assert_eq!(reading.memory_used, 30);
    }

    #[test]
    fn what_the_host_does_not_tell_is_unknown() {
        let clients = HashMap::from([(100, 7)]);
        for host in [None, Some(&host(&[])), Some(&host(&[(555, 1)])), Some(&host(&[(100, UNKNOWN_MEMORY)]))]
        {
            let reading = of_vm(host, &clients);
            assert_eq!((reading.processes.len(), reading.processes[0].pid), (1, 7));
            assert_eq!(reading.memory_used, UNKNOWN_MEMORY);
        }
        assert_eq!(of_vm(None, &HashMap::new()).memory_used, 0, "nobody uses anything");
    }
}
