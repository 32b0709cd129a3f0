//! Runs a command and follows its processes: which of them looks for which library, what the loader gives it, and which of its calls
//! is the first that fails. Children whose output is thrown away, and which live for milliseconds, are seen too.
//!
//! | module | what |
//! |---|---|
//! | [`tracer`] | every process, and every file that one opens (ptrace(2) with a seccomp(2) filter) |
//! | [`filter`] | the filter: only opening a file stops a process |
//! | [`shims`] | what our libraries in those processes trace and log |
//! | [`process`] | what is known of one process |

pub mod filter;
pub mod process;
pub mod shims;
pub mod tracer;

use super::cuda::remedy;
use super::report::Report;
use process::{Library, Process};
use shims::Shims;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::{Command, Stdio};
use tracer::{Event, TraceError};

/// Calls that a program makes before it can use anything: without them there is no GPU for it.
const FIRST_CALLS: [&str; 3] = ["cuInit", "cuDeviceGetCount", "nvmlInit_v2"];

/// Runs `command` and reports what its processes did. With `quiet_stdout` its output goes to stderr.
pub fn check(command: &[OsString], quiet_stdout: bool, report: &mut Report) -> Vec<Process> {
    let mut processes = BTreeMap::new();
    let result = run(command, quiet_stdout, &mut processes);
    let followed = result.is_ok();
    match result {
        Ok(()) => {}
        Err(error @ TraceError::Refused(_)) => report.warning(
            "not-followed",
            crate::error::chain(&error),
            "allow ptrace to this process (a container: --cap-add SYS_PTRACE); what vgpu's libraries say is here all the same",
        ),
        Err(error) => {
            report.error("command", crate::error::chain(&error), "check the command");
        }
    }
    let processes: Vec<Process> = processes.into_values().collect();
    judge(&processes, followed, report);
    processes
}

type Processes = BTreeMap<u32, Process>;

fn run(command: &[OsString], quiet_stdout: bool, processes: &mut Processes) -> Result<(), TraceError> {
    let shims = Shims::new().map_err(TraceError::Pipe)?;
    let start = || {
        let (program, arguments) =
            command.split_first().map_or((OsString::new(), &[][..]), |(p, a)| (p.clone(), a));
        let mut command = Command::new(program);
        command.args(arguments);
        shims.environment(&mut command);
        if quiet_stdout && let Ok(stderr) = rustix::io::dup(rustix::stdio::stderr()) {
            command.stdout(Stdio::from(stderr));
        }
        command
    };
    let followed = tracer::run(start(), &mut |event| note(processes, event));
    if matches!(followed, Err(TraceError::Refused(_))) {
        tracer::run_alone(start())?;
    }
    for (pid, said) in shims.finish() {
        process(processes, pid).said(said);
    }
    followed
}

fn process(processes: &mut Processes, pid: u32) -> &mut Process {
    processes.entry(pid).or_insert_with(|| Process { pid, ..Process::default() })
}

fn note(processes: &mut Processes, event: Event) {
    match event {
        Event::Started { pid, parent } => {
            let command = processes.get(&parent).map(|parent| parent.command.clone());
            let new = process(processes, pid);
            new.parent = parent;
            new.command = command.unwrap_or_default();
        }
        Event::Executes { pid, command } => process(processes, pid).command = command,
        Event::Opened { pid, path, opened } => process(processes, pid).opened(&path, opened),
        // Threads end as well; what ends here and is no process is not known.
        Event::Ended { pid, how } => {
            if let Some(process) = processes.get_mut(&pid) {
                process.end = Some(how);
            }
        }
    }
}

/// Without following, files are not known.
fn judge(processes: &[Process], followed: bool, report: &mut Report) {
    if processes.is_empty() {
        return;
    }
    let before = report.findings.len();
    for process in processes {
        libraries(process, report);
        calls(process, report);
        if let Some(how) =
            process.end.as_deref().filter(|how| how.starts_with("signal 11") || how.starts_with("signal 6"))
        {
            report.warning(
                "process-crash",
                format!("{} died: {how}", process.who()),
                "vgpu-trace shows its last calls",
            );
        }
    }
    let users: Vec<_> = processes.iter().filter(|process| process.has(Library::Cuda)).collect();
    if !followed {
        return;
    }
    if users.is_empty() && report.findings.len() == before {
        report.warning(
            "command-no-cuda",
            format!("none of {} processes looked for libcuda.so.1", processes.len()),
            "the program was built without CUDA, does not find its CUDA part, or another variable keeps it from it",
        );
    } else if report.findings.len() == before {
        let names: Vec<_> = users.iter().map(|process| process.who()).collect();
        report.ok(format!("{} processes; with vgpu's libcuda: {}", processes.len(), names.join(", ")));
    }
}

fn libraries(process: &Process, report: &mut Report) {
    let who = process.who();
    for (library, fault) in [(Library::Cuda, "process-libcuda"), (Library::Nvml, "process-nvml")] {
        if let Some(other) = process.foreign(library) {
            report.error(
                fault,
                format!("{who} loads {}: it is {}", other.path, other.whose),
                "take that folder out of its LD_LIBRARY_PATH, or remove the file",
            );
        } else if process.looked_in_vain(library) {
            let tried = process.tried(library);
            let text = format!("{who} looks for {} and finds none: {tried}", library.name());
            let remedy = "run vgpu-agent install as root";
            // Programs can do without NVML.
            if library == Library::Cuda {
                report.error(fault, text, remedy)
            } else {
                report.warning(fault, text, remedy)
            }
        }
    }
    if process.has(Library::Backend) && !process.asked(Library::Cuda) {
        report.error(
            "process-backend",
            format!("{who} opens {BACKEND} and then no libcuda: a library that it needs is missing, and the program goes to the CPU"),
            "ldd of that file, with the program's LD_LIBRARY_PATH, names what is missing",
        );
    }
}

const BACKEND: &str = "libggml-cuda.so";

fn calls(process: &Process, report: &mut Report) {
    let Some(error) = &process.first_error else { return };
    let text = format!(
        "{}: the first call that fails is {} = {} {}",
        process.who(),
        error.call,
        error.code,
        error.name
    );
    if FIRST_CALLS.contains(&error.call.as_str()) {
        report.error("process-init", text, remedy(i64::from(error.code)));
    } else {
        report.warning(
            "process-call",
            text,
            "programs try what they can do without; if this one ends there, this is why",
        );
    }
    report.log(&process.log);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tree::Tree;

    fn shell(script: &str) -> (Vec<Process>, Vec<&'static str>) {
        let mut report = Report::default();
        let command = ["sh", "-c", script].map(OsString::from);
        let processes = check(&command, true, &mut report);
        (processes, report.faults())
    }

    #[test]
    fn children_of_children_are_followed_and_their_files_seen() {
        let (processes, faults) =
            shell("(sh -c 'cat /nonexistent/libcuda.so.1 2> /dev/null; exit 3' & wait); true");
        assert!(processes.len() >= 3, "{processes:?}");
        let cat = processes.iter().find(|process| process.command.starts_with("cat")).unwrap();
        assert!(cat.looked_in_vain(Library::Cuda), "{cat:?}");
        assert!(
            processes.iter().any(|process| process.end.as_deref() == Some("exit code 3")),
            "{processes:?}"
        );
        assert_eq!(faults, ["process-libcuda"]);
    }

    #[test]
    fn a_killed_child_is_seen_until_its_end() {
        let (processes, _) = shell("sleep 100 & kill -9 $!; wait");
        assert!(processes.iter().any(|process| process.end.as_deref() == Some("signal 9")), "{processes:?}");
    }

    #[test]
    fn a_process_that_dies_and_one_without_nvml_are_named() {
        assert_eq!(shell("cat /nonexistent/libnvidia-ml.so.1 2> /dev/null; true").1, ["process-nvml"]);
        assert_eq!(shell("sh -c 'kill -SEGV $$'; true").1, ["process-crash"]);
    }

    #[test]
    fn a_program_without_cuda_and_one_that_is_not_there_are_named() {
        assert_eq!(shell("true").1, ["command-no-cuda"]);
        let mut report = Report::default();
        assert!(check(&["/nonexistent/program".into()], true, &mut report).is_empty());
        assert_eq!(report.faults(), ["command"]);
    }

    #[test]
    fn what_a_library_of_ours_says_is_the_process_s() {
        let call = r#"{\"pid\":'$$',\"tid\":1,\"at_ns\":1,\"call\":\"cuInit\",\"class\":\"local\",\"args\":{},\"result\":100,\"error\":\"CUDA_ERROR_NO_DEVICE\",\"ns\":1,\"messages\":0,\"round_trips\":0}"#;
        let log = "2026-01-01T00:00:00.000000Z vgpu['$$'] error: vgpu: no agent";
        let script = format!("sh -c 'echo \"{call}\" > $VGPU_TRACE; echo \"{log}\" > $VGPU_LOG_FILE'");
        let (processes, faults) = shell(&script);
        assert_eq!(faults, ["process-init"], "{processes:?}");
        let process = processes.iter().find(|process| process.calls == 1).unwrap();
        assert_eq!(process.log, ["vgpu: no agent"]);
    }

    #[test]
    fn a_backend_that_loads_no_libcuda_is_named() {
        let tree = Tree::new();
        tree.file(BACKEND, "");
        let (_, faults) = shell(&format!("cat {}", tree.path(BACKEND).display()));
        assert_eq!(faults, ["process-backend"]);
    }
}
