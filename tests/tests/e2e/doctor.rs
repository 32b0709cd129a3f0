//! `vgpu-agent doctor` on a host whose faults are provoked: each is named, in plain words, with what to do.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use vgpu_tests::artifacts::Artifacts;
use vgpu_tests::host::{Folder, Host};

/// How doctor is run.
struct Doctor {
    program: PathBuf,
    environment: BTreeMap<&'static str, String>,
    command: Vec<String>,
    user: Option<u32>,
    no_ptrace: bool,
}

/// What it said.
struct Said {
    code: i32,
    json: Value,
}

impl Doctor {
    fn new(artifacts: &Artifacts, socket: &Path) -> Self {
        let mut environment = BTreeMap::new();
        environment.insert("PATH", "/usr/bin:/bin".to_owned());
        environment.insert("LD_LIBRARY_PATH", artifacts.shim.to_str().unwrap().to_owned());
        environment.insert("VGPU_AGENT_SOCKET", socket.to_str().unwrap().to_owned());
        Doctor {
            program: artifacts.agent.clone(),
            environment,
            command: Vec::new(),
            user: None,
            no_ptrace: false,
        }
    }

    fn of(host: &Host) -> Self {
        Self::new(&host.artifacts, &host.agent_socket())
    }

    fn env(mut self, name: &'static str, value: impl AsRef<Path>) -> Self {
        self.environment.insert(name, value.as_ref().to_str().unwrap().to_owned());
        self
    }

    fn first_libraries(self, folder: &Path) -> Self {
        let path = format!("{}:{}", folder.display(), self.environment["LD_LIBRARY_PATH"]);
        self.env("LD_LIBRARY_PATH", path)
    }

    fn command(mut self, words: &[&str]) -> Self {
        self.command = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    fn run(self) -> Said {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(&self.program);
        command.args(["doctor", "--json"]).env_clear().envs(&self.environment);
        if !self.command.is_empty() {
            command.arg("--").args(&self.command);
        }
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        if self.no_ptrace {
            refuse(&mut command, libc::SYS_ptrace);
        }
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let json = serde_json::from_str(&text);
        let json =
            json.unwrap_or_else(|e| panic!("{e}: {text}\n{}", String::from_utf8_lossy(&output.stderr)));
        Said { code: output.status.code().unwrap(), json }
    }
}

impl Said {
    fn faults(&self) -> Vec<&str> {
        let findings = self.json["findings"].as_array().unwrap();
        findings.iter().filter_map(|finding| finding["fault"].as_str()).collect()
    }

    /// The finding of `fault`; whether it is an error must fit the exit code.
    #[track_caller]
    fn finding(&self, fault: &str) -> &Value {
        let findings = self.json["findings"].as_array().unwrap();
        let found = findings.iter().find(|finding| finding["fault"] == fault);
        let found = found.unwrap_or_else(|| panic!("{fault} is not found in {:#}", self.json));
        assert!(found["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()), "{found:#}");
        assert_eq!(self.code, i32::from(self.json["worst"] == "error"), "{:#}", self.json);
        found
    }

    fn processes(&self) -> &Vec<Value> {
        self.json["processes"].as_array().unwrap()
    }
}

/// The library that a distribution would have: not ours.
fn softgpu(artifacts: &Artifacts) -> PathBuf {
    artifacts.broker.with_file_name("softgpu")
}

fn client(artifacts: &Artifacts) -> String {
    artifacts.client.to_str().unwrap().to_owned()
}

#[test]
fn nothing_is_wrong_with_a_host_that_works() {
    let host = Host::start();
    let said = Doctor::of(&host).run();
    assert!(said.faults().is_empty(), "{:#}", said.json);
    assert_eq!(said.code, 0);
    let texts = said.json["findings"].to_string();
    assert!(texts.contains("computes rightly") && texts.contains("softgpu"), "{texts}");
}

#[test]
fn nvidia_s_runtimes_find_the_device() {
    let host = Host::start();
    let runtimes = host.artifacts.shim.with_file_name("cuda");
    if !runtimes.exists() {
        eprintln!("{} is missing (./scripts/programs makes it): nothing is shown", runtimes.display());
        return;
    }
    let said = Doctor::of(&host).first_libraries(&runtimes).run();
    assert!(said.faults().is_empty(), "{:#}", said.json);
    let runtime = |name: &str| {
        let mut findings = said.json["findings"].as_array().unwrap().iter();
        findings.any(|f| f["severity"] == "ok" && f["text"].as_str().unwrap().contains(name))
    };
    assert!(
        runtime("libcudart.so.12 (12.8): 1 devices") && runtime("libcudart.so.13 (13.0): 1 devices"),
        "{:#}",
        said.json
    );
}

#[test]
fn an_agent_that_was_never_started_and_one_that_was_killed_are_told_apart() {
    let (artifacts, folder) = (Artifacts::find(), Folder::new());
    let said = Doctor::new(&artifacts, &folder.join("none.sock")).run();
    let text = said.finding("no-agent")["text"].as_str().unwrap();
    assert!(text.contains("none.sock") && text.contains("VGPU_AGENT_SOCKET"), "{text}");
    // What the library says in a program is with what the program sees.
    let log = said.finding("cuda-init")["log"].to_string();
    assert!(log.contains("no agent at"), "{log}");
    let mut host = Host::start();
    host.agent.kill();
    Doctor::of(&host).run().finding("agent-dead");
}

#[test]
fn a_socket_of_somebody_else_is_named() {
    let (artifacts, folder) = (Artifacts::find(), Folder::new());
    let socket = folder.join("other.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    Doctor::new(&artifacts, &socket).run().finding("agent-broken");
}

#[test]
fn a_socket_that_this_user_may_not_use_is_named() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("needs root to become another user: nothing is shown");
        return;
    }
    let host = Host::options().agent(&["--socket-mode", "0600"]).start();
    let program = host.folder().copy_program(&host.artifacts.agent);
    let mut doctor = Doctor::of(&host);
    (doctor.program, doctor.user) = (program, Some(65534));
    doctor.run().finding("agent-permission");
}

#[test]
fn variables_that_hide_the_device_are_named() {
    let host = Host::start();
    for value in ["7", "-1", "", "GPU-00000000"] {
        let said = Doctor::of(&host).env("CUDA_VISIBLE_DEVICES", value).run();
        let text = said.finding("devices-hidden")["text"].as_str().unwrap();
        assert!(text.contains(&format!("{value:?}")), "{text}");
    }
    assert!(Doctor::of(&host).env("CUDA_VISIBLE_DEVICES", "0").run().faults().is_empty());
}

#[test]
fn a_foreign_libcuda_and_a_stub_are_named() {
    let host = Host::start();
    let softgpu = softgpu(&host.artifacts);
    let said = Doctor::of(&host).first_libraries(&softgpu).run();
    let text = said.finding("libcuda-foreign")["text"].as_str().unwrap();
    assert!(text.contains(softgpu.to_str().unwrap()) && text.contains("LD_LIBRARY_PATH"), "{text}");
    let stubs = host.folder().join("stubs");
    std::fs::create_dir(&stubs).unwrap();
    std::fs::copy(softgpu.join("libcuda.so.1"), stubs.join("libcuda.so.1")).unwrap();
    Doctor::of(&host).first_libraries(&stubs).run().finding("libcuda-stub");
}

#[test]
fn libraries_that_are_missing_are_named() {
    let host = Host::start();
    let said = Doctor::of(&host).env("LD_LIBRARY_PATH", "/nonexistent").run();
    if said.json["findings"].to_string().contains("by the loader's cache") {
        eprintln!("this machine has libraries of a driver: nothing is shown");
        return;
    }
    for fault in ["libcuda-missing", "nvml-missing", "libcuda-load", "nvml-load"] {
        said.finding(fault);
    }
}

/// Makes a library of `source` with gcc.
fn compile(path: &Path, source: &str, options: &[&str]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let code = path.with_extension("c");
    std::fs::write(&code, source).unwrap();
    let mut gcc = Command::new("gcc");
    gcc.args(["-shared", "-fPIC", "-o"]).arg(path).arg(&code).args(options);
    assert!(gcc.status().unwrap().success());
}

#[test]
fn a_library_that_crashes_programs_is_named() {
    let host = Host::start();
    let bad = host.folder().join("bad/libnvidia-ml.so.1");
    compile(
        &bad,
        "int nvmlInit_v2(void) { *(volatile int *)0 = 1; return 0; }",
        &["-Wl,-soname,libnvidia-ml.so.1"],
    );
    let said = Doctor::of(&host).first_libraries(bad.parent().unwrap()).run();
    said.finding("nvml-foreign");
    let text = said.finding("nvml-crash")["text"].as_str().unwrap();
    assert!(text.contains("signal 11"), "{text}");
}

/// ollama's folders with a backend that imports `function` of libcuda.
fn ollama(host: &Host, function: &str) -> (PathBuf, PathBuf) {
    let base = host.folder().join("ollama");
    let backend = base.join("lib/ollama/cuda_v13");
    let source = format!("int {function}(unsigned); int f(void) {{ return {function}(0); }}");
    let cuda = host.artifacts.shim.join("libcuda.so.1");
    compile(
        &backend.join("libggml-cuda.so"),
        &source,
        &[cuda.to_str().unwrap(), "-Wl,--allow-shlib-undefined"],
    );
    std::fs::create_dir_all(base.join("bin")).unwrap();
    std::fs::write(base.join("bin/ollama"), "").unwrap();
    (base.join("bin"), backend)
}

#[test]
fn what_keeps_ollama_s_backend_from_the_device_is_named() {
    let host = Host::start();
    let (path, backend) = ollama(&host, "cuInit");
    let doctor = || Doctor::of(&host).env("PATH", &path);
    let said = doctor().run();
    assert!(said.faults().is_empty(), "{:#}", said.json);
    assert!(
        said.json["findings"].to_string().contains("the runner finds vgpu's libcuda.so.1"),
        "{:#}",
        said.json
    );
    std::fs::copy(softgpu(&host.artifacts).join("libcuda.so.1"), backend.join("libcuda.so.1")).unwrap();
    let said = doctor().run();
    said.finding("ollama-foreign");
    said.finding("ollama-libcuda");
    std::fs::remove_file(backend.join("libcuda.so.1")).unwrap();
    doctor().env("OLLAMA_LLM_LIBRARY", "rocm").run().finding("ollama-llm-library");
    doctor().env("CUDA_VISIBLE_DEVICES", "7").run().finding("ollama-runner");
    ollama(&host, "functionOfNobody");
    let text = doctor().run().finding("ollama-load")["text"].to_string();
    assert!(text.contains("undefined symbol: functionOfNobody"), "{text}");
    let (path, _) = ollama(&host, "cuOfTheFuture");
    let said = Doctor::of(&host).env("PATH", &path).run();
    let text = said.finding("ollama-imports")["text"].as_str().unwrap();
    assert!(text.contains("cuOfTheFuture"), "{text}");
}

#[test]
fn a_command_s_processes_are_followed_to_their_libraries() {
    let host = Host::start();
    // A grandchild whose output is thrown away, killed in the end: as ollama's discovery does it.
    let script = format!(
        "{} compute > /dev/null 2>&1 < /dev/zero & sleep 1; kill -9 $!; wait; true",
        client(&host.artifacts)
    );
    let said = Doctor::of(&host).command(&["sh", "-c", &script]).run();
    assert!(said.faults().is_empty(), "{:#}", said.json);
    let client = said.processes().iter().find(|process| process["calls"].as_u64() > Some(5)).unwrap();
    assert_eq!(client["end"], "signal 9", "{client:#}");
    let files = client["files"].as_array().unwrap();
    let shim = host.artifacts.shim.to_str().unwrap();
    let loaded = |file: &Value| {
        file["opened"] == true && file["ours"] == true && file["path"].as_str().unwrap().starts_with(shim)
    };
    assert!(files.iter().any(loaded), "{client:#}");
}

#[test]
fn a_process_with_another_libcuda_or_none_is_named() {
    let host = Host::start();
    let run = |libraries: &str| {
        let script = format!("LD_LIBRARY_PATH={libraries} {} init; true", client(&host.artifacts));
        Doctor::of(&host).command(&["sh", "-c", &script]).run()
    };
    let said = run(softgpu(&host.artifacts).to_str().unwrap());
    let text = said.finding("process-libcuda")["text"].as_str().unwrap();
    assert!(text.contains("cuda-client init") && text.contains("softgpu"), "{text}");
    // The loader passes over folders that do not exist without a try.
    let empty = host.folder().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let said = run(empty.to_str().unwrap());
    if !said.json["processes"].to_string().contains("\"opened\":true") {
        let text = said.finding("process-libcuda")["text"].as_str().unwrap();
        assert!(text.contains("/empty/libcuda.so.1"), "{text}");
    }
}

#[test]
fn the_first_error_of_a_process_is_shown_with_what_the_library_logged() {
    let (artifacts, folder) = (Artifacts::find(), Folder::new());
    let script = format!("{} init > /dev/null 2>&1; true", client(&artifacts));
    let said = Doctor::new(&artifacts, &folder.join("none.sock")).command(&["sh", "-c", &script]).run();
    let found = said.finding("process-init");
    assert!(found["text"].as_str().unwrap().contains("cuInit = 100 CUDA_ERROR_NO_DEVICE"), "{found:#}");
    assert!(found["log"].to_string().contains("no agent at"), "{found:#}");
    // A call that fails later, in a program that goes on.
    let host = Host::start();
    let said = Doctor::of(&host).command(&[&client(&host.artifacts), "refusals"]).run();
    assert!(said.finding("process-call")["text"].as_str().unwrap().contains("CUDA_ERROR"), "{:#}", said.json);
}

/// Has system calls of number `number` fail with EPERM in what the command starts, as containers do it.
fn refuse(command: &mut Command, number: i64) {
    use std::os::unix::process::CommandExt;
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let mut equal = statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, number as u32);
    equal.jf = 1;
    let filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        equal,
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let set = move || {
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
        // SAFETY: system calls; the program lives across the second, which reads it.
        let result = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
        };
        if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: the closure only makes system calls.
    unsafe { command.pre_exec(set) };
}

#[test]
fn where_ptrace_is_refused_the_libraries_of_ours_are_heard_all_the_same() {
    let host = Host::start();
    let mut doctor = Doctor::of(&host).command(&[&client(&host.artifacts), "refusals"]);
    doctor.no_ptrace = true;
    let said = doctor.run();
    said.finding("not-followed");
    said.finding("process-call");
    assert!(said.processes()[0]["calls"].as_u64() > Some(5), "{:#}", said.json);
}

#[test]
fn commands_that_use_no_cuda_or_do_not_start_are_named() {
    let host = Host::start();
    Doctor::of(&host).command(&["true"]).run().finding("command-no-cuda");
    Doctor::of(&host).command(&["/nonexistent/program"]).run().finding("command");
}

#[test]
fn the_report_for_people_names_the_fault_and_what_to_do() {
    let (artifacts, folder) = (Artifacts::find(), Folder::new());
    let mut command = Command::new(&artifacts.agent);
    command.arg("doctor").env("VGPU_AGENT_SOCKET", folder.join("none.sock"));
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for part in ["ERROR    agent", "[no-agent]", "→ ", "errors: "] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}
