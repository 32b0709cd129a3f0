//! NVIDIA's runtime, libcudart 12 and 13, where there is one: how many devices it finds.

use super::cuda::{answered, remedy};
use super::probe::Kind;
use super::probe::answer::{Answer, Outcome};
use super::report::Report;
use super::subject::{Facts, Subject};
use crate::system::loader::Loader;
use std::path::{Path, PathBuf};

const NAMES: [&str; 2] = ["libcudart.so.12", "libcudart.so.13"];

pub fn check(subject: &Subject, facts: &mut Facts, report: &mut Report) {
    let Some(prober) = &subject.prober else { return report.note("not tried: the system does not run") };
    for name in NAMES {
        let Some(path) = find(subject, name) else {
            report.note(format!(
                "{name} is nowhere that doctor looks: not tried (LD_LIBRARY_PATH can name its folder)"
            ));
            continue;
        };
        let outcome = prober.run(Kind::Runtime, &path.to_string_lossy(), &subject.environment);
        judge(&path, &outcome, facts.cuda.as_ref(), report);
    }
}

/// Where the loader finds it, else where CUDA's packages and ollama put it.
fn find(subject: &Subject, name: &str) -> Option<PathBuf> {
    let found = Loader::new(&subject.root, subject.library_path()).find(name).map(|found| found.path);
    let toolkits = subject.root.names("/usr/local").into_iter().filter(|folder| folder.starts_with("cuda"));
    let toolkits = toolkits.map(|folder| PathBuf::from(format!("/usr/local/{folder}/lib64")));
    let ollama = super::ollama::folders(subject).into_iter().flat_map(|(_, backends)| backends);
    found.or_else(|| {
        toolkits.chain(ollama).map(|folder| folder.join(name)).find(|path| subject.root.has(path))
    })
}

fn judge(path: &Path, outcome: &Outcome, cuda: Option<&Answer>, report: &mut Report) {
    let shown = path.display();
    let Some(answer) = answered("cuda", &shown.to_string(), outcome, report) else { return };
    if let Some(error) = &answer.load_error {
        return report.error("cudart-load", format!("{shown} does not load: {error}"), "install it whole");
    }
    if let Some(step) = &answer.failed {
        let text = format!("{shown} ({}): {step}", answer.version);
        match step.code {
            35 => report.error(
                "cudart-version",
                text,
                "this runtime wants a newer driver than the host's: update the host's, or use the runtime of CUDA 12",
            ),
            code => report.error("cudart", text, remedy(code)),
        }
        return report.log(&outcome.log);
    }
    let others =
        |cuda: &&Answer| cuda.devices.iter().map(|d| &d.pci).ne(answer.devices.iter().map(|d| &d.pci));
    if let Some(cuda) = cuda.filter(others) {
        let list =
            |answer: &Answer| answer.devices.iter().map(|d| d.pci.clone()).collect::<Vec<_>>().join(", ");
        return report.error(
            "cudart-pci",
            format!("{shown} shows devices at {}, the driver API at {}", list(answer), list(cuda)),
            "ollama matches them by address and drops one: please report it",
        );
    }
    let free: Vec<_> = answer.devices.iter().map(|d| format!("{} MiB free", d.free >> 20)).collect();
    report.ok(format!("{shown} ({}): {} devices, {}", answer.version, answer.devices.len(), free.join(", ")));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::probe::answer::{Broken, Device, Step};

    fn devices(pci: &str) -> Answer {
        Answer { devices: vec![Device { pci: pci.into(), ..Device::default() }], ..Answer::default() }
    }

    fn found(answer: Result<Answer, Broken>) -> Vec<&'static str> {
        let mut report = Report::default();
        let outcome = Outcome { answer, log: Vec::new() };
        judge(Path::new("/x/libcudart.so.13"), &outcome, Some(&devices("0000:00:04.0")), &mut report);
        report.faults()
    }

    #[test]
    fn what_the_runtime_says_is_judged() {
        let fails = |code| {
            let step = Step { call: "cudaGetDeviceCount".into(), code, name: String::new() };
            Ok(Answer { failed: Some(step), ..Answer::default() })
        };
        assert!(found(Ok(devices("0000:00:04.0"))).is_empty());
        assert_eq!(found(Ok(devices("0000:41:00.0"))), ["cudart-pci"]);
        assert_eq!(found(fails(35)), ["cudart-version"]);
        assert_eq!(found(fails(100)), ["cudart"]);
        assert_eq!(
            found(Ok(Answer { load_error: Some(String::new()), ..Answer::default() })),
            ["cudart-load"]
        );
        assert_eq!(found(Err(Broken::Signal(11))), ["cuda-crash"]);
    }
}
