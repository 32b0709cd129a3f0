//! NVML: it starts, and shows the devices that CUDA shows.

use super::cuda::answered;
use super::probe::Kind;
use super::probe::answer::{Answer, Outcome};
use super::report::Report;
use super::subject::{Facts, Subject};
use crate::config::Bdf;
use crate::system::NVML;

/// ollama's cuda_v12 wants a driver at least so new.
const OLLAMA_WANTS: u32 = 550;
const ONE_RELEASE: &str = "install agent and libraries of one release: vgpu-agent install";

pub fn check(subject: &Subject, facts: &mut Facts, report: &mut Report) {
    let Some(prober) = &subject.prober else { return report.note("not tried: the system does not run") };
    let outcome = prober.run(Kind::Nvml, NVML, &subject.environment);
    judge(&outcome, facts.cuda.as_ref(), report);
}

fn judge(outcome: &Outcome, cuda: Option<&Answer>, report: &mut Report) {
    let Some(answer) = answered("nvml", "NVML", outcome, report) else { return };
    if let Some(error) = &answer.load_error {
        let text = format!("{NVML} cannot be loaded: {error}");
        return report.warning("nvml-load", text, "see the check library");
    }
    if let Some(step) = &answer.failed {
        report.error("nvml-init", step.to_string(), "the lines of the log, and the agent's, say why");
        return report.log(&outcome.log);
    }
    if let Some(cuda) = cuda {
        compare(answer, cuda, report);
    }
    let major = answer.version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_some_and(|major| major < OLLAMA_WANTS) {
        report.warning(
            "nvml-old",
            format!(
                "the host's driver is {}: ollama's cuda_v12 wants {OLLAMA_WANTS} or later",
                answer.version
            ),
            "update the driver of the host",
        );
    }
    report.ok(format!("driver {}, {} devices", answer.version, answer.devices.len()));
}

/// Every device of CUDA is one of NVML's. NVML shows more where CUDA_VISIBLE_DEVICES hides some.
fn compare(nvml: &Answer, cuda: &Answer, report: &mut Report) {
    for device in &cuda.devices {
        let Some(same) = nvml.devices.iter().find(|other| other.uuid.eq_ignore_ascii_case(&device.uuid))
        else {
            let text = format!("CUDA has {} and NVML has no device with that UUID", device.uuid);
            report.error("nvml-uuid", text, ONE_RELEASE);
            continue;
        };
        let address = |pci: &str| pci.parse::<Bdf>().ok();
        if address(&same.pci).is_none() || address(&same.pci) != address(&device.pci) {
            let text = format!("{} is at {} for CUDA and at {} for NVML", device.uuid, device.pci, same.pci);
            report.error("nvml-pci", text, ONE_RELEASE);
        }
        if same.total == 0 {
            report.error("nvml-memory", format!("NVML shows no memory of {}", device.uuid), ONE_RELEASE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::probe::answer::{Broken, Device, Step};

    fn answer(uuid: &str, pci: &str, total: u64) -> Answer {
        let device = Device { uuid: uuid.into(), pci: pci.into(), total, ..Device::default() };
        Answer { devices: vec![device], version: "580.159.04".into(), ..Answer::default() }
    }

    fn found(nvml: Result<Answer, Broken>) -> Vec<&'static str> {
        let cuda = answer("GPU-1", "0000:00:04.0", 1 << 30);
        let mut report = Report::default();
        judge(&Outcome { answer: nvml, log: Vec::new() }, Some(&cuda), &mut report);
        report.faults()
    }

    #[test]
    fn what_differs_from_cuda_is_named() {
        assert!(found(Ok(answer("gpu-1", "00000000:00:04.0", 1))).is_empty());
        assert_eq!(found(Ok(answer("GPU-2", "00000000:00:04.0", 1))), ["nvml-uuid"]);
        assert_eq!(found(Ok(answer("GPU-1", "00000000:41:00.0", 1))), ["nvml-pci"]);
        assert_eq!(found(Ok(answer("GPU-1", "00000000:00:04.0", 0))), ["nvml-memory"]);
    }

    #[test]
    fn failures_and_old_drivers_are_named() {
        let mut old = answer("GPU-1", "00000000:00:04.0", 1);
        old.version = "535.10".into();
        assert_eq!(found(Ok(old)), ["nvml-old"]);
        let step = Step { call: "nvmlInit_v2".into(), code: 9, name: "Driver Not Loaded".into() };
        assert_eq!(found(Ok(Answer { failed: Some(step), ..Answer::default() })), ["nvml-init"]);
        let lost = Answer { load_error: Some("no such file".into()), ..Answer::default() };
        assert_eq!(found(Ok(lost)), ["nvml-load"]);
        assert_eq!(found(Err(Broken::Signal(6))), ["nvml-crash"]);
        assert_eq!(found(Err(Broken::Hung(9))), ["nvml-hang"]);
    }
}
