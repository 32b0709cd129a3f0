//! The status in Prometheus's text format. <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::fmt::Write;

use super::status::{ClientStatus, Counts, MemoryStatus, Status, VmPlace, VmStatus};

const COUNTER: &str = "counter";
const GAUGE: &str = "gauge";

/// One value and its labels.
type Sample = (Vec<(&'static str, String)>, f64);

/// A metric: what it is called, what it is, and its values.
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    samples: fn(&Status) -> Vec<Sample>,
}

/// All of them.
const FAMILIES: &[Family] = &[
    family("vgpu_build_info", GAUGE, "The broker's version", |s| {
        vec![(vec![("version", s.version.clone())], 1.0)]
    }),
    family("vgpu_uptime_seconds", GAUGE, "Since the broker started", |s| one(s.uptime_ms as f64 / 1e3)),
    family("vgpu_device_memory_bytes", GAUGE, "Memory of a device of the host", devices),
    family("vgpu_workers_warm", GAUGE, "Workers that wait for a client", |s| one(s.workers.warm as f64)),
    family("vgpu_workers_starting", GAUGE, "Workers that are being started", |s| {
        one(s.workers.starting as f64)
    }),
    family("vgpu_worker_starts_total", COUNTER, "Workers started", |s| one(s.workers.starts as f64)),
    family("vgpu_worker_start_failures_total", COUNTER, "Workers that did not start", |s| {
        one(s.workers.failures as f64)
    }),
    family("vgpu_vm_connected", GAUGE, "Whether a front end is connected", |s| {
        vms(s, |vm| f64::from(u8::from(vm.front_end.is_some())))
    }),
    family("vgpu_vm_weight", GAUGE, "Share of a device's time against other VMs", |s| {
        vms(s, |vm| f64::from(vm.weight))
    }),
    family("vgpu_vm_cap_ratio", GAUGE, "Part of a device's time that the VM gets at most", |s| {
        vms(s, |vm| f64::from(vm.cap) / 100.0)
    }),
    family("vgpu_vm_suspended", GAUGE, "Whether the VM's device memory is in the host's", |s| {
        vms(s, |vm| f64::from(u8::from(vm.presence.place != VmPlace::Running)))
    }),
    family("vgpu_vm_suspensions_total", COUNTER, "Times that the VM was suspended", |s| {
        vms(s, |vm| vm.presence.suspensions as f64)
    }),
    family("vgpu_vm_clients", GAUGE, "Guest processes that use CUDA", |s| {
        vms(s, |vm| vm.clients.len() as f64)
    }),
    family("vgpu_vm_clients_limit", GAUGE, "Guest processes that may use CUDA at once", |s| {
        vms(s, |vm| f64::from(vm.max_clients))
    }),
    family("vgpu_vm_lanes", GAUGE, "Lanes that clients have", |s| {
        vms(s, |vm| vm.front_end.as_ref().map_or(0.0, |front_end| front_end.lanes as f64))
    }),
    family("vgpu_vm_queue_depth", GAUGE, "Messages in lanes that are not done", |s| {
        vms(s, |vm| vm.front_end.as_ref().map_or(0.0, |front_end| front_end.queue_depth as f64))
    }),
    family("vgpu_vm_memory_used_bytes", GAUGE, "Device memory that the VM uses", |s| {
        memory(s, |m| Some(m.used))
    }),
    family("vgpu_vm_memory_limit_bytes", GAUGE, "Device memory that the VM may use, if limited", |s| {
        memory(s, |m| m.limit)
    }),
    family("vgpu_vm_calls_total", COUNTER, "Calls, by whether the guest waited for them", |s| {
        of_vms(s, calls)
    }),
    family("vgpu_vm_errors_total", COUNTER, "Calls that failed", |s| of_vms(s, errors)),
    family("vgpu_vm_launches_total", COUNTER, "Kernels and graphs launched", |s| of_vms(s, launches)),
    family("vgpu_vm_copied_bytes_total", COUNTER, "Bytes copied, by direction", |s| of_vms(s, bytes)),
    family("vgpu_vm_device_seconds_total", COUNTER, "Time for which the VM's work had a device", |s| {
        of_vms(s, device_time)
    }),
    family("vgpu_vm_throttled_seconds_total", COUNTER, "Time for which the VM's lanes were held back", |s| {
        of_vms(s, throttled)
    }),
    family("vgpu_client_lanes", GAUGE, "Lanes that the client has", |s| {
        of_clients(s, |client| vec![(None, client.lanes as f64)])
    }),
    family("vgpu_client_memory_used_bytes", GAUGE, "Device memory that the client uses", client_memory),
    family("vgpu_client_calls_total", COUNTER, "Calls, by whether the guest waited for them", |s| {
        of_client_counts(s, calls)
    }),
    family("vgpu_client_errors_total", COUNTER, "Calls that failed", |s| of_client_counts(s, errors)),
    family("vgpu_client_launches_total", COUNTER, "Kernels and graphs launched", |s| {
        of_client_counts(s, launches)
    }),
    family("vgpu_client_copied_bytes_total", COUNTER, "Bytes copied, by direction", |s| {
        of_client_counts(s, bytes)
    }),
    family("vgpu_client_device_seconds_total", COUNTER, "Time for which its work had a device", |s| {
        of_client_counts(s, device_time)
    }),
    family("vgpu_client_throttled_seconds_total", COUNTER, "Time for which its lanes were held back", |s| {
        of_client_counts(s, throttled)
    }),
];

const fn family(
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    samples: fn(&Status) -> Vec<Sample>,
) -> Family {
    Family { name, kind, help, samples }
}

/// A value, and the label that tells it from the others of the same VM or client.
type Labelled = (Option<(&'static str, &'static str)>, f64);

fn calls(counts: &Counts) -> Vec<Labelled> {
    vec![
        (Some(("class", "async")), counts.calls_async as f64),
        (Some(("class", "round_trip")), counts.round_trips as f64),
    ]
}

fn errors(counts: &Counts) -> Vec<Labelled> {
    vec![(None, counts.errors as f64)]
}

fn launches(counts: &Counts) -> Vec<Labelled> {
    vec![(None, counts.launches as f64)]
}

fn bytes(counts: &Counts) -> Vec<Labelled> {
    vec![
        (Some(("direction", "to_device")), counts.bytes_to_device as f64),
        (Some(("direction", "from_device")), counts.bytes_from_device as f64),
    ]
}

fn device_time(counts: &Counts) -> Vec<Labelled> {
    vec![(None, counts.device_ns as f64 / 1e9)]
}

fn throttled(counts: &Counts) -> Vec<Labelled> {
    vec![(None, counts.throttled_ns as f64 / 1e9)]
}

fn one(value: f64) -> Vec<Sample> {
    vec![(Vec::new(), value)]
}

fn devices(status: &Status) -> Vec<Sample> {
    let of = |(i, device): (usize, &super::status::DeviceStatus)| {
        (vec![("device", i.to_string()), ("name", device.name.clone())], device.memory as f64)
    };
    status.devices.iter().enumerate().map(of).collect()
}

fn vms(status: &Status, value: impl Fn(&VmStatus) -> f64) -> Vec<Sample> {
    status.vms.iter().map(|vm| (vec![("vm", vm.name.clone())], value(vm))).collect()
}

fn labelled(labels: &[(&'static str, String)], values: Vec<Labelled>) -> Vec<Sample> {
    let of = |(label, value): Labelled| {
        let extra = label.map(|(key, text)| (key, text.to_owned()));
        (labels.iter().cloned().chain(extra).collect(), value)
    };
    values.into_iter().map(of).collect()
}

fn of_vms(status: &Status, values: fn(&Counts) -> Vec<Labelled>) -> Vec<Sample> {
    let of = |vm: &VmStatus| labelled(&[("vm", vm.name.clone())], values(&vm.counts));
    status.vms.iter().flat_map(of).collect()
}

/// Of the devices that VMs have.
fn memory(status: &Status, value: impl Fn(&MemoryStatus) -> Option<u64>) -> Vec<Sample> {
    let mut samples = Vec::new();
    for vm in &status.vms {
        let of_vm = |(device, memory): &(usize, &MemoryStatus)| vm.has_device(*device, memory.used);
        for (device, memory) in vm.memory.iter().enumerate().filter(of_vm) {
            if let Some(value) = value(memory) {
                let labels = vec![("vm", vm.name.clone()), ("device", device.to_string())];
                samples.push((labels, value as f64));
            }
        }
    }
    samples
}

/// What tells a client from all others, at this time and at others.
fn client_labels(vm: &VmStatus, client: &ClientStatus) -> Vec<(&'static str, String)> {
    vec![
        ("vm", vm.name.clone()),
        ("client", client.number.to_string()),
        ("process", client.name.clone()),
        ("worker", client.worker.to_string()),
    ]
}

fn of_client_counts(status: &Status, values: fn(&Counts) -> Vec<Labelled>) -> Vec<Sample> {
    of_clients(status, |client| values(&client.counts))
}

fn of_clients(status: &Status, values: impl Fn(&ClientStatus) -> Vec<Labelled>) -> Vec<Sample> {
    let mut samples = Vec::new();
    for vm in &status.vms {
        for client in &vm.clients {
            samples.extend(labelled(&client_labels(vm, client), values(client)));
        }
    }
    samples
}

fn client_memory(status: &Status) -> Vec<Sample> {
    let mut samples = Vec::new();
    for vm in &status.vms {
        for client in &vm.clients {
            let of_vm = |(device, used): &(usize, &u64)| vm.has_device(*device, **used);
            for (device, used) in client.memory.iter().enumerate().filter(of_vm) {
                let mut labels = client_labels(vm, client);
                labels.push(("device", device.to_string()));
                samples.push((labels, *used as f64));
            }
        }
    }
    samples
}

/// What a scraper is given.
pub fn text(status: &Status) -> String {
    let mut text = String::new();
    for family in FAMILIES {
        let Family { name, kind, help, samples } = family;
        let _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} {kind}");
        for (labels, value) in samples(status) {
            let labels: Vec<_> =
                labels.iter().map(|(key, text)| format!("{key}=\"{}\"", escaped(text))).collect();
            let _ = match labels.as_slice() {
                [] => writeln!(text, "{name} {value}"),
                labels => writeln!(text, "{name}{{{}}} {value}", labels.join(",")),
            };
        }
    }
    text
}

/// SECURITY: a process's name is the guest's: it must stay within its label.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::status::{DeviceStatus, FrontEnd};
    use super::*;

    /// One VM with one client, and one without.
    fn sample() -> Status {
        let counts = Counts { calls_async: 5, round_trips: 2, device_ns: 1_500_000_000, ..Counts::default() };
        let client =
            ClientStatus { name: "a\"b\\[7]".into(), memory: vec![10], counts, ..ClientStatus::default() };
        let vm = VmStatus {
            name: "one".into(),
            memory: vec![MemoryStatus { used: 10, limit: Some(20) }],
            counts,
            front_end: Some(FrontEnd { agent: true, lanes: 1, queue_depth: 3 }),
            clients: vec![client],
            ..VmStatus::default()
        };
        let idle = VmStatus {
            name: "two".into(),
            memory: vec![MemoryStatus { used: 0, limit: None }],
            ..VmStatus::default()
        };
        let device = DeviceStatus { name: "GPU".into(), memory: 100 };
        Status {
            version: "1".into(),
            devices: vec![device],
            vms: vec![one_named(vm), idle],
            ..Status::default()
        }
    }

    fn one_named(vm: VmStatus) -> VmStatus {
        VmStatus { cap: 50, ..vm }
    }

    #[test]
    fn values_stand_beside_their_labels() {
        let text = text(&sample());
        for line in [
            "# TYPE vgpu_vm_calls_total counter",
            "vgpu_vm_calls_total{vm=\"one\",class=\"async\"} 5",
            "vgpu_vm_calls_total{vm=\"two\",class=\"round_trip\"} 0",
            "vgpu_vm_memory_limit_bytes{vm=\"one\",device=\"0\"} 20",
            "vgpu_vm_cap_ratio{vm=\"one\"} 0.5",
            "vgpu_vm_device_seconds_total{vm=\"one\"} 1.5",
            "vgpu_vm_queue_depth{vm=\"one\"} 3",
            "vgpu_client_errors_total{vm=\"one\",client=\"0\",process=\"a\\\"b\\\\[7]\",worker=\"0\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing:\n{text}");
        }
        assert!(!text.contains("vgpu_vm_memory_limit_bytes{vm=\"two\""), "there is no limit");
    }

    #[test]
    fn of_devices_that_a_vm_does_not_have_there_is_no_memory() {
        let mut status = sample();
        let vm = &mut status.vms[0];
        vm.devices = Some(vec![1]);
        vm.memory = vec![MemoryStatus { used: 0, limit: Some(20) }, MemoryStatus { used: 10, limit: None }];
        vm.clients[0].memory = vec![0, 10];
        let text = text(&status);
        let lines: Vec<_> = text.lines().filter(|l| l.contains("memory") && l.contains("\"one\"")).collect();
        assert!(lines.len() == 2 && lines.iter().all(|l| l.contains("device=\"1\"")), "{lines:?}");
    }

    #[test]
    fn every_metric_has_a_value_and_a_place_in_the_documentation() {
        let text = text(&sample());
        let docs = include_str!("../../../docs/operations.md");
        let mut names = BTreeSet::new();
        for Family { name, kind, .. } in FAMILIES {
            assert!(names.insert(name), "{name} is there twice");
            assert_eq!(name.ends_with("_total"), *kind == COUNTER, "{name}");
            let value = |l: &str| l.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
            assert!(text.lines().any(value), "{name} has no value");
            assert!(docs.contains(&format!("`{name}`")), "{name} is not in docs/operations.md");
        }
    }

    #[test]
    fn the_dashboard_uses_metrics_that_there_are() {
        let dashboard = include_str!("../../../docs/grafana-dashboard.json");
        let parsed: serde_json::Value = serde_json::from_str(dashboard).unwrap();
        assert!(parsed["panels"].as_array().is_some_and(|panels| panels.len() > 5));
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let used: BTreeSet<_> = dashboard.split(|c| !word(c)).filter(|w| w.starts_with("vgpu_")).collect();
        assert!(used.len() > 8, "{used:?}");
        for name in used {
            assert!(FAMILIES.iter().any(|family| family.name == name), "there is no metric {name}");
        }
    }
}
