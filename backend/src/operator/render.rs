//! The status as text for people.

use std::collections::HashMap;
use std::fmt::Write;

use super::status::{ClientStatus, Counts, MemoryStatus, Status, VmPlace, VmStatus};

const MIB: u64 = 1 << 20;

/// Columns, each as wide as its widest cell; the first `left` flush left, the others flush right.
fn table(rows: &[Vec<String>], left: usize) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |i: usize| rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (i, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            let gap = if i == 0 { "" } else { "  " };
            let _ = match i < left {
                true => write!(line, "{gap}{cell:<width$}"),
                false => write!(line, "{gap}{cell:>width$}"),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(String::from).to_vec()
}

fn memory(memory: &MemoryStatus) -> String {
    let limit = memory.limit.map_or_else(|| "-".into(), |limit| (limit / MIB).to_string());
    format!("{}/{limit}", memory.used / MIB)
}

/// Of all devices of the host, in MiB.
fn all_memory(vm: &VmStatus) -> String {
    let of = |(ordinal, status): (usize, &MemoryStatus)| match vm.has_device(ordinal, status.used) {
        true => memory(status),
        false => "-".into(),
    };
    vm.memory.iter().enumerate().map(of).collect::<Vec<_>>().join(" ")
}

fn devices(vm: &VmStatus) -> String {
    match &vm.devices {
        None => "all".into(),
        Some(devices) => devices.iter().map(u32::to_string).collect::<Vec<_>>().join(","),
    }
}

fn cap(vm: &VmStatus) -> String {
    if vm.cap >= 100 { "-".into() } else { format!("{}%", vm.cap) }
}

fn front_end(vm: &VmStatus) -> &'static str {
    match vm.presence.place {
        VmPlace::Suspended if vm.presence.hold => return "held",
        VmPlace::Suspended => return "suspended",
        VmPlace::Suspending => return "suspending",
        VmPlace::Resuming => return "resuming",
        VmPlace::Running => {}
    }
    match &vm.front_end {
        None => "none",
        Some(front_end) if front_end.agent => "agent",
        Some(_) => "connected",
    }
}

/// `vm list`.
pub fn list(status: &Status) -> String {
    let mut rows = vec![row([
        "NAME",
        "SOCKET",
        "GUEST",
        "DEVICES",
        "WEIGHT",
        "CAP",
        "MEMORY MiB",
        "PINNED MiB",
        "CLIENTS",
        "QUEUES",
    ])];
    for vm in &status.vms {
        rows.push(vec![
            vm.name.clone(),
            vm.socket.display().to_string(),
            front_end(vm).into(),
            devices(vm),
            vm.weight.to_string(),
            cap(vm),
            all_memory(vm),
            vm.pinned_limit.map_or_else(|| "-".into(), |bytes| (bytes / MIB).to_string()),
            format!("{}/{}", vm.clients.len(), vm.max_clients),
            vm.queues.to_string(),
        ]);
    }
    table(&rows, 3)
}

fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes}m{:02}s", seconds % 60),
        (0, _) => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

fn head(status: &Status) -> String {
    let clients: usize = status.vms.iter().map(|vm| vm.clients.len()).sum();
    let workers = &status.workers;
    let mut text = format!(
        "vgpu-backend {}, process {}, up {}: {} VMs, {clients} clients; workers: {} warm, {} starting, {} started, {} failed\n",
        status.version,
        status.pid,
        duration(status.uptime_ms),
        status.vms.len(),
        workers.warm,
        workers.starting,
        workers.starts,
        workers.failures
    );
    for (i, device) in status.devices.iter().enumerate() {
        let used: u64 = status.vms.iter().filter_map(|vm| vm.memory.get(i)).map(|m| m.used).sum();
        let _ = writeln!(
            text,
            "device {i}: {}, {} MiB, {} MiB used by VMs",
            device.name,
            device.memory / MIB,
            used / MIB
        );
    }
    text
}

/// `status`.
pub fn status(status: &Status) -> String {
    let mut rows = vec![row([
        "VM / CLIENT",
        "GUEST",
        "MEMORY MiB",
        "LANES",
        "QUEUED",
        "ASYNC",
        "TRIPS",
        "ERRORS",
        "LAUNCHES",
        "TO DEVICE",
        "FROM DEVICE",
        "DEVICE s",
        "HELD s",
    ])];
    let counted = |counts: &Counts| {
        vec![
            counts.calls_async.to_string(),
            counts.round_trips.to_string(),
            counts.errors.to_string(),
            counts.launches.to_string(),
            bytes(counts.bytes_to_device as f64),
            bytes(counts.bytes_from_device as f64),
            format!("{:.1}", counts.device_ns as f64 / 1e9),
            format!("{:.1}", counts.throttled_ns as f64 / 1e9),
        ]
    };
    for vm in &status.vms {
        let (lanes, depth) = vm.front_end.as_ref().map_or((0, 0), |f| (f.lanes, f.queue_depth));
        let mut cells =
            vec![vm.name.clone(), front_end(vm).into(), all_memory(vm), lanes.to_string(), depth.to_string()];
        cells.extend(counted(&vm.counts));
        rows.push(cells);
        for client in &vm.clients {
            let state = if client.lost { "lost" } else { "" };
            let mut cells = vec![
                format!("  {} {}", client.number, client.name),
                state.into(),
                client_memory(vm, client),
                client.lanes.to_string(),
                String::new(),
            ];
            cells.extend(counted(&client.counts));
            rows.push(cells);
        }
    }
    let failed = |vm: &VmStatus| vm.presence.failure.as_ref().map(|why| format!("not suspended: {why}\n"));
    let failures: String = status.vms.iter().filter_map(failed).collect();
    head(status) + "\n" + &table(&rows, 2) + &failures
}

fn client_memory(vm: &VmStatus, client: &ClientStatus) -> String {
    let of = |(ordinal, used): (usize, &u64)| match vm.has_device(ordinal, *used) {
        true => (used / MIB).to_string(),
        false => "-".into(),
    };
    client.memory.iter().enumerate().map(of).collect::<Vec<_>>().join(" ")
}

/// In few characters, with a unit of 1000.
fn number(value: f64) -> String {
    match value {
        v if v < 9.95 && v > 0.0 => format!("{v:.1}"),
        v if v < 9_999.5 => format!("{v:.0}"),
        v if v < 999_950.0 => format!("{:.1}k", v / 1e3),
        v => format!("{:.1}M", v / 1e6),
    }
}

/// As above, with units of bytes.
fn bytes(value: f64) -> String {
    let units = [(1_u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let found = units.into_iter().find(|&(unit, _)| value >= unit as f64);
    found.map_or_else(|| format!("{value:.0} B"), |(unit, name)| format!("{:.1} {name}", value / unit as f64))
}

/// What was done between two looks, for each second of it.
fn rates(before: &Counts, now: &Counts, seconds: f64) -> Vec<String> {
    // SECURITY: a worker's counters may go backwards.
    let rate = |of: fn(&Counts) -> u64| of(now).saturating_sub(of(before)) as f64 / seconds;
    let part = |of: fn(&Counts) -> u64| format!("{:.1}%", rate(of) / 1e7);
    vec![
        part(|c| c.device_ns),
        part(|c| c.throttled_ns),
        number(rate(|c| c.calls_async.saturating_add(c.round_trips))),
        number(rate(|c| c.round_trips)),
        number(rate(|c| c.launches)),
        bytes(rate(|c| c.bytes_to_device)),
        bytes(rate(|c| c.bytes_from_device)),
        number(rate(|c| c.errors)),
    ]
}

/// `top`: a frame of what changed from `before` to `now`.
pub fn top(before: &Status, now: &Status) -> String {
    let seconds = (now.uptime_ms.saturating_sub(before.uptime_ms).max(1)) as f64 / 1e3;
    let old_vms: HashMap<&str, &VmStatus> = before.vms.iter().map(|vm| (vm.name.as_str(), vm)).collect();
    let mut rows = vec![row([
        "VM / CLIENT",
        "MEMORY MiB",
        "WEIGHT",
        "CAP",
        "DEVICE",
        "HELD",
        "CALLS/s",
        "TRIPS/s",
        "LAUNCH/s",
        "TO DEV/s",
        "FROM DEV/s",
        "ERR/s",
    ])];
    for vm in &now.vms {
        let old = old_vms.get(vm.name.as_str());
        let name = match vm.presence.place {
            VmPlace::Running => vm.name.clone(),
            _ => format!("{} ({})", vm.name, front_end(vm)),
        };
        let mut cells = vec![name, all_memory(vm), vm.weight.to_string(), cap(vm)];
        cells.extend(rates(old.map_or(&vm.counts, |old| &old.counts), &vm.counts, seconds));
        rows.push(cells);
        // A worker serves one client.
        let old: HashMap<u32, &ClientStatus> =
            old.iter().flat_map(|vm| &vm.clients).map(|client| (client.worker, client)).collect();
        for client in &vm.clients {
            let state = if client.lost { " (lost)" } else { "" };
            let name = format!("  {} {}{state}", client.number, client.name);
            let mut cells = vec![name, client_memory(vm, client), String::new(), String::new()];
            let before = old.get(&client.worker).map_or_else(Counts::default, |old| old.counts);
            cells.extend(rates(&before, &client.counts, seconds));
            rows.push(cells);
        }
    }
    head(now) + "\n" + &table(&rows, 1)
}

#[cfg(test)]
mod tests {
    use super::super::status::{DeviceStatus, FrontEnd};
    use super::*;

    fn looks() -> (Status, Status) {
        let counts =
            Counts { calls_async: 1000, round_trips: 10, device_ns: 500_000_000, ..Counts::default() };
        let client = ClientStatus {
            number: 1,
            name: "python[7]".into(),
            worker: 99,
            memory: vec![3 * MIB],
            counts,
            ..ClientStatus::default()
        };
        let vm = VmStatus {
            name: "a".into(),
            cap: 100,
            weight: 100,
            max_clients: 64,
            memory: vec![MemoryStatus { used: 3 * MIB, limit: Some(1024 * MIB) }],
            counts,
            front_end: Some(FrontEnd { agent: true, lanes: 1, queue_depth: 0 }),
            clients: vec![client],
            ..VmStatus::default()
        };
        let device = DeviceStatus { name: "GPU".into(), memory: 4096 * MIB };
        let before = Status { devices: vec![device], vms: vec![vm], uptime_ms: 60_000, ..Status::default() };
        let mut now = before.clone();
        now.uptime_ms += 2000;
        let vm = &mut now.vms[0];
        for counts in [&mut vm.counts, &mut vm.clients[0].counts] {
            counts.calls_async += 4000;
            counts.device_ns += 1_000_000_000;
            counts.bytes_to_device += 6 * MIB;
        }
        (before, now)
    }

    #[test]
    fn top_shows_what_happened_between_two_looks() {
        let (before, now) = looks();
        let frame = top(&before, &now);
        let words = |start: &str| {
            let line =
                frame.lines().find(|l| l.starts_with(start)).unwrap_or_else(|| panic!("{start}: {frame}"));
            line.split_whitespace().map(String::from).collect::<Vec<_>>()
        };
        let rates = ["50.0%", "0.0%", "2000", "0", "0", "3.0", "MiB", "0", "B", "0"];
        assert_eq!(words("a ")[..4], ["a", "3/1024", "100", "-"]);
        assert_eq!(words("a ")[4..], rates);
        assert_eq!(words("  1 ")[..3], ["1", "python[7]", "3"]);
        assert_eq!(words("  1 ")[3..], rates);
    }

    #[test]
    fn counters_that_go_backwards_and_vms_that_are_new_are_no_rates() {
        let (before, now) = looks();
        let backwards = top(&now, &before);
        assert!(!backwards.contains("M") || backwards.contains("MiB"), "{backwards}");
        let frame = top(&Status::default(), &now);
        let line = frame.lines().find(|l| l.starts_with("a ")).unwrap();
        assert!(line.contains("0.0%"), "{line}");
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [(0.0, "0"), (0.52, "0.5"), (42.0, "42"), (12_345.0, "12.3k"), (2.5e6, "2.5M")] {
            assert_eq!(number(value), text);
        }
        assert_eq!((bytes(10.0), bytes(3.0 * 1024.0 * 1024.0 * 1024.0)), ("10 B".into(), "3.0 GiB".into()));
        assert_eq!(duration(90_061_000), "1d01h");
    }

    #[test]
    fn lists_have_a_line_for_each_vm() {
        let (_, now) = looks();
        let text = list(&now);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("3/1024") && text.contains("1/64"), "{text}");
        assert!(status(&now).contains("python[7]"));
    }

    #[test]
    fn a_device_that_a_vm_does_not_have_is_shown_as_none() {
        let (_, mut now) = looks();
        let vm = &mut now.vms[0];
        vm.devices = Some(vec![1]);
        let none = MemoryStatus { used: 0, limit: Some(MIB) };
        vm.memory = vec![none, MemoryStatus { used: 3 * MIB, limit: None }];
        vm.clients[0].memory = vec![0, 3 * MIB];
        let cells = |text: &str, start: &str| {
            let line = text.lines().find(|l| l.starts_with(start)).unwrap();
            line.split("  ").map(str::trim).filter(|c| !c.is_empty()).map(String::from).collect::<Vec<_>>()
        };
        assert_eq!(cells(&list(&now), "a ")[1..5], ["agent", "1", "100", "-"]);
        assert_eq!(cells(&list(&now), "a ")[5], "- 3/-");
        assert_eq!(cells(&status(&now), "  1 ")[1], "- 3");
    }
}
