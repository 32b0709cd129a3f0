//! The operator's commands, metrics and configuration file, with a real broker.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use vgpu_spec::wire::control::{kind, status};
use vgpu_spec::wire::lane::state;
use zerocopy::IntoBytes;

use crate::broker::{BROKER, Broker, Folder, eventually, install_driver, kill, runs};
use crate::guest::*;

const SOCKET: &[&str] = &["--operator-socket", "operator.sock"];

pub fn operated(name: &str, more: &[&str]) -> Broker {
    let broker = Broker::start(name, &[SOCKET, more].concat());
    broker.wait_log("the operator's commands are heard at");
    broker
}

fn operator_socket(broker: &Broker) -> PathBuf {
    broker.socket.with_file_name("operator.sock")
}

/// Runs a command of the operator: its exit code, and what it said on stdout and stderr.
pub fn operate(broker: &Broker, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(BROKER);
    let output =
        command.args(arguments).arg("--operator-socket").arg(operator_socket(broker)).output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!text.contains("panicked"), "{arguments:?}: {text}");
    (output.status.code().unwrap(), text)
}

pub fn done(broker: &Broker, arguments: &[&str]) -> String {
    let (code, text) = operate(broker, arguments);
    assert_eq!(code, 0, "{arguments:?}: {text}\n{}", broker.log());
    text
}

pub fn refused(broker: &Broker, arguments: &[&str], code: i32, says: &str) {
    let (got, text) = operate(broker, arguments);
    assert_eq!(got, code, "{arguments:?}: {text}");
    assert!(text.contains(says), "{arguments:?}: {says:?} is not in {text}");
    assert!(code != 1 || text.trim_end().lines().count() == 1, "one line says what is wrong: {text}");
}

fn json(broker: &Broker) -> Value {
    serde_json::from_str(&done(broker, &["status", "--json"])).unwrap()
}

/// One VM of the status.
pub fn vm(broker: &Broker, name: &str) -> Value {
    let status = json(broker);
    let vms = status["vms"].as_array().unwrap();
    vms.iter().find(|vm| vm["name"] == name).unwrap_or_else(|| panic!("no {name} in {status}")).clone()
}

#[test]
fn vm_is_added_served_and_removed_with_a_live_client() {
    let mut broker = operated("add", &["--warm", "1"]);
    let socket = broker.socket.with_file_name("second.sock");
    let path = socket.to_str().unwrap();
    done(&broker, &["vm", "add", "second", "--socket", path, "--queues", "8", "--weight", "7"]);
    let text = done(&broker, &["vm", "list"]);
    assert!(text.contains("second") && text.contains(path), "{text}");
    refused(&broker, &["vm", "add", "second", "--socket", "/tmp/x.sock"], 1, "there is one already");
    refused(&broker, &["vm", "add", "third", "--socket", path], 1, "already served");
    let mut first = Guest::connect(&broker.socket);
    first.hello();
    first.open(1);
    let mut guest = Guest::connect(&socket);
    guest.hello();
    guest.open(5);
    assert_eq!(guest.attach(5, 2), status::OK);
    assert_eq!(guest.queues[2].call(&message(1, &[], &[])).0.status, NOT_SUPPORTED);
    let second = vm(&broker, "second");
    assert_eq!(second["front_end"]["lanes"], 1, "{second}");
    let worker = u32::try_from(second["clients"][0]["worker"].as_u64().unwrap()).unwrap();
    assert!(runs(worker));
    done(&broker, &["vm", "remove", "second"]);
    assert!(!runs(worker), "the worker still runs after the command");
    assert_eq!(guest.queues[2].status().state, state::LOST, "the guest is not told");
    assert!(!socket.exists(), "the socket is left");
    refused(&broker, &["vm", "remove", "second"], 1, "there is none of that name");
    // The other VM and the broker go on, and the name is free again.
    assert_eq!(first.attach(1, 2), status::OK);
    assert_eq!(first.queues[2].call(&message(1, &[], &[])).0.status, NOT_SUPPORTED);
    done(&broker, &["vm", "add", "second", "--socket", path]);
    Guest::connect(&socket).hello();
    assert!(broker.is_alive());
}

#[test]
fn vm_that_waits_for_a_front_end_is_removed_at_once() {
    let broker = operated("remove-idle", &[]);
    let before = broker.descriptors_at_rest();
    for round in 0..3 {
        let socket = broker.socket.with_file_name("x.sock");
        done(&broker, &["vm", "add", "x", "--socket", socket.to_str().unwrap()]);
        if round > 0 {
            let mut guest = Guest::connect(&socket);
            guest.hello();
        }
        done(&broker, &["vm", "remove", "x"]);
        assert!(!socket.exists());
    }
    eventually("no descriptor leaks", || broker.descriptors() <= before, || broker.log());
}

#[test]
fn settings_are_changed_all_or_none() {
    let broker = operated("set", &["--device-memory", "16"]);
    let before = vm(&broker, "vm");
    assert_eq!(
        (&before["weight"], &before["memory"][0]["limit"]),
        (&Value::from(100), &Value::from(16 << 20))
    );
    let changes = ["--weight", "250", "--cap", "30", "--clients", "1", "--pinned-memory", "5"];
    done(&broker, &[&["vm", "set", "vm", "--device-memory", "8"], &changes[..]].concat());
    let after = vm(&broker, "vm");
    for (key, value) in
        [("weight", 250), ("cap", 30), ("max_clients", 1), ("pinned_limit", 5 << 20), ("queues", 64)]
    {
        assert_eq!(after[key], value, "{key} in {after}");
    }
    assert_eq!(after["memory"][0]["limit"], 8 << 20);
    for (arguments, code, says) in [
        (&["--weight", "9", "--socket", "/tmp/x"][..], 2, "--socket"),
        (&["--weight", "9", "--queues", "9"], 1, "queues: it cannot be changed"),
        (&["--weight", "9", "--device-memory", "99999999"], 1, "device-memory 0=99999999: device 0 has"),
        (&["--weight", "9", "--device-name", "7=x"], 1, "there is no device 7"),
        (&["--weight", "9", "--devices", "3"], 1, "devices 3: there is no device 3, the host shows 1"),
        (&["--weight", "9", "--devices", "0,0"], 1, "devices 0: given twice for one VM"),
        (&["--weight", "0"], 2, "1..=10000"),
        (&["--wieght", "9"], 2, "--wieght"),
    ] {
        refused(&broker, &[&["vm", "set", "vm"], arguments].concat(), code, says);
    }
    refused(&broker, &["vm", "set", "nobody", "--weight", "9"], 1, "there is none of that name");
    assert_eq!(vm(&broker, "vm")["weight"], 250, "what was refused changed something");
    // The limits count for what is opened from now on.
    let mut guest = Guest::connect(&broker.socket);
    guest.hello();
    guest.open(1);
    assert_eq!(guest.request(kind::CLIENT_OPEN, open_body(2).as_bytes()).0, status::LIMIT);
}

#[test]
fn calls_are_counted_and_shown_everywhere() {
    let broker = operated("counts", &["--metrics", "127.0.0.1:0"]);
    let mut guest = Guest::connect(&broker.socket);
    guest.hello();
    guest.open(3);
    assert_eq!(guest.attach(3, 2), status::OK);
    for _ in 0..100 {
        assert_eq!(guest.queues[2].call(&message(1, &[], &[])).0.status, NOT_SUPPORTED);
    }
    let counts = |key: &str| vm(&broker, "vm")["counts"][key].clone();
    eventually("100 round trips", || counts("round_trips") == 100, || json(&broker).to_string());
    assert_eq!((counts("errors"), counts("calls_async")), (Value::from(100), Value::from(0)));
    let frame = done(&broker, &["top", "--once"]);
    assert!(frame.contains("TRIPS/s") && frame.lines().any(|l| l.starts_with("  3 ")), "{frame}");
    // Of a client that has ended, the VM's counters keep what it did.
    let log = broker.log();
    let address = log.split("metrics at http://").nth(1).unwrap().split("/metrics").next().unwrap();
    let metrics = scrape(address);
    let of_client = metrics.iter().filter(|(key, _)| key.starts_with("vgpu_client_calls_total{"));
    assert_eq!(of_client.map(|(_, value)| value).sum::<f64>(), 100.0, "{metrics:#?}");
    assert_eq!(guest.close(3), status::OK);
    let metrics = scrape(address);
    let get =
        |key: &str| metrics.iter().find(|(k, _)| k == key).unwrap_or_else(|| panic!("{key}: {metrics:#?}")).1;
    assert_eq!(get("vgpu_vm_calls_total{vm=\"vm\",class=\"round_trip\"}"), 100.0);
    assert_eq!((get("vgpu_vm_connected{vm=\"vm\"}"), get("vgpu_vm_clients{vm=\"vm\"}")), (1.0, 0.0));
    assert!(get("vgpu_worker_starts_total") >= 1.0);
    assert!(!metrics.iter().any(|(key, _)| key.starts_with("vgpu_client_")), "{metrics:#?}");
}

/// Scrapes as Prometheus does, and checks each line's form: the samples.
fn scrape(address: &str) -> Vec<(String, f64)> {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: text/plain\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK") && head.contains("version=0.0.4"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
    let mut typed = Vec::new();
    let mut samples = Vec::new();
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            typed.push(rest.split(' ').next().unwrap().to_owned());
        } else if !line.starts_with("# HELP ") {
            let (key, value) = line.rsplit_once(' ').unwrap();
            let name = key.split('{').next().unwrap();
            assert_eq!(
                Some(name),
                typed.last().map(String::as_str),
                "a sample stands below its type: {line}"
            );
            samples.push((key.to_owned(), value.parse().unwrap()));
        }
    }
    samples
}

/// Sends bytes to the operator's socket; the first line that comes back.
fn raw(broker: &Broker, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(operator_socket(broker)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // The broker may have refused before all of it is written.
    let _ = stream.write_all(bytes);
    let mut line = String::new();
    let _ = BufReader::new(stream).read_line(&mut line);
    line
}

#[test]
fn bad_requests_are_refused_and_nothing_stops() {
    let mut broker = operated("bad", &[]);
    for (bytes, says) in [
        (&b"hello\n"[..], "\"malformed\""),
        (b"{}\n", "\"malformed\""),
        (b"{\"version\":1,\"command\":\"reboot\"}\n", "\"malformed\""),
        (b"{\"version\":2,\"command\":\"status\"}\n", "speaks version 2, this one 1"),
        (b"{\"version\":1,\"command\":\"remove\",\"name\":\"\\u0000\"}\n", "\"unknown\""),
        (
            b"{\"version\":1,\"command\":\"add\",\"name\":\"a/b\",\"settings\":{\"socket\":\"/tmp/q\"}}\n",
            "\"invalid\"",
        ),
        (b"{\"version\":1,\"command\":\"add\",\"name\":\"a\",\"settings\":{}}\n", "it has no socket"),
        (
            b"{\"version\":1,\"command\":\"set\",\"name\":\"vm\",\"settings\":{\"cap\":200}}\n",
            "from 1 to 100",
        ),
        (&vec![b'x'; 100 << 10], "longer than 65536 bytes"),
        (&[0xff; 100], ""),
    ] {
        let line = raw(&broker, bytes);
        assert!(line.contains(says), "{:?} gave {line}", String::from_utf8_lossy(bytes));
    }
    assert!(broker.is_alive());
    assert_eq!(json(&broker)["vms"].as_array().unwrap().len(), 1);
}

#[test]
fn idle_connections_do_not_shut_others_out_for_ever() {
    let broker = operated("idle", &[]);
    let idle: Vec<_> = (0..16).map(|_| UnixStream::connect(operator_socket(&broker)).unwrap()).collect();
    eventually("no more are taken", || raw(&broker, b"").contains("\"busy\""), String::new);
    refused(&broker, &["status"], 1, "too many commands at once");
    drop(idle);
    eventually("the next is", || operate(&broker, &["status"]).0 == 0, || broker.log());
}

#[test]
fn other_users_are_refused() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIP: only root can be somebody else");
        return;
    }
    let folder = Folder::new("others-binary");
    let copy = folder.path().join("vgpu-backend");
    std::fs::copy(BROKER, &copy).unwrap();
    for (mode, group, says) in [
        ("0660", "0", "ermission denied"),
        ("0666", "0", "only root, the broker's user and its group may ask"),
        ("0660", "65534", ""),
    ] {
        let broker = operated(&format!("others-{mode}-{group}"), &["--mode", mode, "--group", group]);
        let mut command = Command::new(&copy);
        command.args(["status", "--operator-socket"]).arg(operator_socket(&broker)).uid(65534).gid(65534);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(i32::from(!says.is_empty())), "{mode} {group}: {text}");
        assert!(text.contains(says), "{mode} {group}: {text}");
    }
}

#[test]
fn second_broker_on_the_operators_socket_does_not_start() {
    let broker = operated("two", &[]);
    let other = Folder::new("two-other");
    install_driver(other.path());
    let output = Command::new(BROKER)
        .arg("--socket")
        .arg(other.path().join("vm.sock"))
        .arg("--cuda-dir")
        .arg(other.path())
        .arg("--operator-socket")
        .arg(operator_socket(&broker))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("operator.sock: already served by another process"), "{text}");
    assert_eq!(json(&broker)["pid"], broker.pid());
}

#[test]
fn commands_without_a_broker_say_so() {
    let folder = Folder::new("nobroker");
    for arguments in [&["status"][..], &["top", "--once"], &["vm", "list"], &["vm", "remove", "a"]] {
        let output = Command::new(BROKER)
            .args(arguments)
            .arg("--operator-socket")
            .arg(folder.path().join("none.sock"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("no broker answers at") && text.contains("none.sock"), "{text}");
    }
}

/// A folder with a driver and this configuration file.
fn configured(name: &str, file: &str) -> (Folder, PathBuf) {
    let folder = Folder::new(name);
    install_driver(folder.path());
    let config = folder.path().join("backend.toml");
    std::fs::write(&config, file.replace("FOLDER", folder.path().to_str().unwrap())).unwrap();
    (folder, config)
}

fn serve(config: &Path) -> Command {
    let mut command = Command::new(BROKER);
    command.args(["serve", "--config"]).arg(config).stderr(Stdio::piped());
    command
}

#[test]
fn configuration_file_is_served() {
    let (folder, config) = configured(
        "file",
        "cuda-dir = \"FOLDER\"\noperator-socket = \"FOLDER/operator.sock\"\nwarm = 0\n\
         [defaults]\nweight = 20\n\
         [vm.one]\nsocket = \"FOLDER/1.sock\"\ncap = 50\n[vm.two]\nsocket = \"FOLDER/2.sock\"\nweight = 40\n",
    );
    let mut child = serve(&config).spawn().unwrap();
    let operator = folder.path().join("operator.sock");
    let list = || {
        let mut command = Command::new(BROKER);
        let output = command.args(["vm", "list", "--operator-socket"]).arg(&operator).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    eventually("it answers", || list().contains("two"), String::new);
    let text = list();
    let line = |name: &str| text.lines().find(|l| l.starts_with(name)).unwrap().to_owned();
    assert!(line("one").contains(" 20 ") && line("one").contains("50%"), "{text}");
    assert!(line("two").contains(" 40 "), "{text}");
    Guest::connect(&folder.path().join("1.sock")).hello();
    kill(child.id(), libc::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    for name in ["1.sock", "2.sock", "operator.sock"] {
        assert!(!folder.path().join(name).exists(), "{name} is left");
    }
}

#[test]
fn wrong_configuration_file_is_one_line_with_its_place() {
    for (text, code, says) in [
        (
            "[vm.a]\nsocket = \"FOLDER/a\"\nwieght = 3\n",
            2,
            "backend.toml:3: wieght = 3: unknown field `wieght`, expected",
        ),
        (
            "warm = 100\n",
            2,
            "backend.toml:1: warm = 100: invalid value: integer `100`, expected a number from 0 to 64",
        ),
        ("operator-socket = \"none\"\n", 2, "nothing to serve"),
        ("[vm.a]\nsocket = \"FOLDER/a\"\n[vm.b]\nsocket = \"FOLDER/a\"\n", 2, "given twice"),
        (
            "cuda-dir = \"FOLDER\"\n[vm.a]\nsocket = \"FOLDER/a\"\ndevices = [5]\n",
            1,
            "devices 5: there is no device 5, the host shows 1",
        ),
        (
            "cuda-dir = \"FOLDER\"\n[vm.a]\nsocket = \"FOLDER/a\"\ndevice-memory = 9999999\n",
            1,
            "device-memory 0=9999999",
        ),
    ] {
        let (folder, config) = configured("wrong-file", text);
        let output = serve(&config).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{text}: {error}");
        let lines = error.lines().filter(|line| line.contains(says)).count();
        assert_eq!(lines, 1, "{text}: {error}");
        assert!(!folder.path().join("a").exists(), "a socket is left");
    }
}

#[test]
fn systemd_gives_sockets_and_is_told_when_they_are_served() {
    let (folder, config) =
        configured("systemd", "cuda-dir = \"FOLDER\"\nwarm = 0\n[vm.one]\nsocket = \"FOLDER/one.sock\"\n");
    let path = folder.path().join("one.sock");
    let operator = folder.path().join("operator.sock");
    let bound = [UnixListener::bind(&path).unwrap(), UnixListener::bind(&operator).unwrap()];
    let notified = UnixDatagram::bind(folder.path().join("notify")).unwrap();
    let mut command = Command::new("sh");
    command
        .args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\"", BROKER, "serve", "--config"])
        .arg(&config)
        .env("LISTEN_FDS", "2")
        .env("LISTEN_FDNAMES", "one:operator")
        .env("NOTIFY_SOCKET", folder.path().join("notify"));
    let fds = bound.each_ref().map(AsRawFd::as_raw_fd);
    // SAFETY: only system calls; the descriptors are open, and moved out of the way before they are put in their places.
    unsafe {
        command.pre_exec(move || {
            let away = fds.map(|fd| libc::fcntl(fd, libc::F_DUPFD, 100));
            for (place, fd) in (3..).zip(away) {
                libc::dup2(fd, place);
                libc::close(fd);
            }
            Ok(())
        });
    }
    let mut child = command.spawn().unwrap();
    notified.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut told = [0; 64];
    let count = notified.recv(&mut told).unwrap();
    assert_eq!(&told[..count], b"READY=1\n");
    Guest::connect(&path).hello();
    let status = Command::new(BROKER).args(["status", "--operator-socket"]).arg(&operator).output().unwrap();
    assert!(String::from_utf8_lossy(&status.stdout).contains("one"), "{status:?}");
    kill(child.id(), libc::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(path.exists() && operator.exists(), "systemd's sockets are systemd's to remove");
}
