//! The driver API: it starts, shows the devices, and computes.

use super::probe::Kind;
use super::probe::answer::{Answer, Broken, Outcome, Step};
use super::report::Report;
use super::subject::{Facts, Subject};
use crate::config::Bdf;
use crate::system::CUDA;

const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

pub fn check(subject: &Subject, facts: &mut Facts, report: &mut Report) {
    let Some(prober) = &subject.prober else { return report.note("not tried: the system does not run") };
    let outcome = prober.run(Kind::Cuda, CUDA, &subject.environment);
    // Without the variable: whether it is what hides the devices.
    let without = || {
        let mut environment = subject.environment.clone();
        environment.remove(VISIBLE)?;
        prober.run(Kind::Cuda, CUDA, &environment).answer.ok()
    };
    let hidden =
        outcome.answer.as_ref().is_ok_and(|answer| answer.devices.is_empty()).then(without).flatten();
    facts.cuda = judge(subject, &outcome, hidden.as_ref(), report);
}

/// Judges what the probe found; `unhidden` is what it finds without CUDA_VISIBLE_DEVICES, if that was tried.
fn judge(
    subject: &Subject,
    outcome: &Outcome,
    unhidden: Option<&Answer>,
    report: &mut Report,
) -> Option<Answer> {
    let answer = answered("cuda", "the driver API", outcome, report)?;
    if let Some(error) = &answer.load_error {
        report.error("libcuda-load", format!("{CUDA} cannot be loaded: {error}"), "see the check library");
        return None;
    }
    if let Some(unhidden) = unhidden.filter(|unhidden| !unhidden.devices.is_empty()) {
        let value = subject.environment.get(VISIBLE).map_or("", String::as_str);
        let names: Vec<_> = unhidden.devices.iter().map(|device| device.uuid.as_str()).collect();
        report.error(
            "devices-hidden",
            format!("{VISIBLE}={value:?} hides every device"),
            format!(
                "unset it, or name one that exists: an ordinal from 0 to {}, or {}",
                names.len() - 1,
                names.join(", ")
            ),
        );
        return None;
    }
    if let Some(step) = &answer.failed {
        failed(step, report);
        report.log(&outcome.log);
        return None;
    }
    good(subject, answer, report);
    Some(answer.clone())
}

/// What a probe of `what` answered; reports it if that crashed, hung or made no sense.
pub fn answered<'a>(api: &str, what: &str, outcome: &'a Outcome, report: &mut Report) -> Option<&'a Answer> {
    match &outcome.answer {
        Ok(answer) => Some(answer),
        Err(broken) => {
            no_answer(api, what, broken, report);
            report.log(&outcome.log);
            None
        }
    }
}

fn no_answer(api: &str, what: &str, broken: &Broken, report: &mut Report) {
    let nvml = api == "nvml";
    match broken {
        Broken::Signal(signal) => report.error(
            if nvml { "nvml-crash" } else { "cuda-crash" },
            format!("a program that uses {what} dies by signal {signal}"),
            "a defect of the library that is loaded, or of the worker: please report it with the logs of agent and broker",
        ),
        Broken::Hung(seconds) => report.error(
            if nvml { "nvml-hang" } else { "cuda-hang" },
            format!("a program that uses {what} hangs for {seconds} s"),
            "the broker or its worker does not answer: see their log on the host",
        ),
        Broken::Start(why) | Broken::Unreadable(why) => report.error(
            "probe",
            format!("trying {what} in a process of its own: {why}"),
            "is the file of vgpu-agent still there?",
        ),
    }
}

fn failed(step: &Step, report: &mut Report) {
    let fault = if step.call == "cuInit" { "cuda-init" } else { "self-test" };
    report.error(fault, step.to_string(), remedy(step.code));
}

/// What an error of the driver API mostly means here.
pub fn remedy(code: i64) -> &'static str {
    match code {
        2 => "memory of the GPU, or huge pages of the guest, are short: the lines of the log say which",
        34 => "a stub of the CUDA toolkit was loaded: take the folder stubs out of LD_LIBRARY_PATH",
        46 => "the worker on the host died or the device is lost: see the broker's log, restart vgpu-agent",
        100 => {
            "no device: the agent does not serve, or CUDA_VISIBLE_DEVICES hides it; the lines of the log say which"
        }
        209 | 218 | 222 => {
            "the program's code does not fit the GPU: softgpu runs PTX only, and a GPU needs code of its kind"
        }
        801 => "a function that is not supported: docs/coverage.md lists them",
        803 | 804 => "a libcuda of another driver was loaded: see the check library",
        _ => "vgpu-trace PROGRAM shows each call; the broker's log shows the worker's side",
    }
}

fn good(subject: &Subject, answer: &Answer, report: &mut Report) {
    for device in &answer.devices {
        if device.total == 0 {
            report.error(
                "memory-zero",
                format!("{} shows no memory", device.name),
                "the host's driver shows none: see the broker's log",
            );
        } else if device.free < 64 << 20 {
            report.warning(
                "memory-full",
                format!("{}: {} MiB of {} MiB are free", device.name, device.free >> 20, device.total >> 20),
                "other programs or VMs have the memory; ollama goes to the CPU",
            );
        }
        address(subject, &device.pci, report);
    }
    if let Some(wrong) = &answer.wrong_result {
        return report.error(
            "wrong-result",
            format!("the GPU computes wrongly: {wrong}"),
            "a defect: please report it with the logs of agent and broker",
        );
    }
    let names: Vec<_> = answer.devices.iter().map(|d| format!("{} at {}", d.name, d.pci)).collect();
    report.ok(format!("driver API {}: {} computes rightly", answer.version, names.join(", ")));
}

/// In a VM the device's address is that of the guest's own virtio device.
fn address(subject: &Subject, pci: &str, report: &mut Report) {
    let Ok(agent) = &subject.agent else { return };
    if agent.pci.present == 0 {
        return;
    }
    let Ok(shown) = pci.parse::<Bdf>() else {
        return report.error(
            "pci",
            format!("CUDA shows the PCI address {pci:?}, which is none"),
            "install agent and libraries of one release",
        );
    };
    let own = Bdf { domain: agent.pci.domain, bus: agent.pci.bus, device: agent.pci.device, function: 0 };
    let there = subject.root.has(format!("/sys/bus/pci/devices/{shown}"));
    if shown != own || !there {
        report.error(
            "pci",
            format!("CUDA shows the PCI address {shown}, the agent's device is {own}"),
            "programs that match devices by address (ollama) count it twice: install agent and libraries of one release",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::agent::tests::agent;
    use crate::doctor::probe::answer::Device;
    use crate::testing::tree::Tree;

    fn device() -> Device {
        let pci = "0000:00:04.0".into();
        Device { name: "GPU".into(), uuid: "GPU-1".into(), pci, free: 1 << 32, total: 1 << 33 }
    }

    fn found(answer: Result<Answer, Broken>, unhidden: Option<&Answer>) -> Vec<&'static str> {
        let tree = Tree::new();
        tree.folder("sys/bus/pci/devices/0000:00:04.0");
        let mut subject = Subject::files(tree.root());
        subject.agent = Ok(agent(1));
        let mut report = Report::default();
        judge(&subject, &Outcome { answer, log: vec!["a line".into()] }, unhidden, &mut report);
        report.faults()
    }

    fn with(change: impl FnOnce(&mut Answer)) -> Result<Answer, Broken> {
        let mut answer = Answer { devices: vec![device()], ..Answer::default() };
        change(&mut answer);
        Ok(answer)
    }

    fn fails(call: &str, code: i64) -> Result<Answer, Broken> {
        with(|answer| {
            answer.devices.clear();
            answer.failed = Some(Step { call: call.into(), code, name: String::new() });
        })
    }

    #[test]
    fn each_failure_has_its_name() {
        assert!(found(with(|_| ()), None).is_empty());
        let cases = [
            (with(|a| a.load_error = Some("undefined symbol: x".into())), "libcuda-load"),
            (fails("cuInit", 100), "cuda-init"),
            (fails("cuModuleLoadData", 222), "self-test"),
            (with(|a| a.wrong_result = Some("number 2".into())), "wrong-result"),
            (with(|a| a.devices[0].total = 0), "memory-zero"),
            (with(|a| a.devices[0].free = 1), "memory-full"),
            (with(|a| a.devices[0].pci = "0000:41:00.0".into()), "pci"),
            (with(|a| a.devices[0].pci = String::new()), "pci"),
            (Err(Broken::Signal(11)), "cuda-crash"),
            (Err(Broken::Hung(90)), "cuda-hang"),
            (Err(Broken::Unreadable(String::new())), "probe"),
        ];
        for (answer, fault) in cases {
            assert_eq!(found(answer, None), [fault]);
        }
    }

    #[test]
    fn a_variable_that_hides_the_devices_is_told_from_a_failure() {
        let all = with(|_| ()).unwrap();
        assert_eq!(found(fails("cuInit", 100), Some(&all)), ["devices-hidden"]);
        assert_eq!(found(fails("cuInit", 100), Some(&fails("cuInit", 100).unwrap())), ["cuda-init"]);
    }
}
