//! `vgpu-agent install --root`: the built files, put into a folder that stands for a guest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use vgpu_tests::artifacts::Artifacts;
use vgpu_tests::host::Folder;

/// A guest of Debian's kind.
fn guest() -> Folder {
    let guest = Folder::new();
    for folder in ["usr/lib/x86_64-linux-gnu", "usr/lib/systemd/system", "etc/ld.so.conf.d", "var/lib"] {
        fs::create_dir_all(guest.join(folder)).unwrap();
    }
    fs::write(guest.join("etc/ld.so.conf"), "include /etc/ld.so.conf.d/*.conf\n").unwrap();
    fs::write(guest.join("etc/ld.so.conf.d/cuda.conf"), "/usr/local/cuda/compat\n").unwrap();
    guest
}

/// Runs the agent on a guest: exit code and everything that it said.
fn run(guest: &Folder, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(Artifacts::find().agent);
    let Output { status, stdout, stderr } =
        command.args(arguments).arg("--root").arg(guest.path()).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(!text.contains("panicked"), "{text}");
    (status.code().unwrap(), text)
}

#[track_caller]
fn succeed(guest: &Folder, arguments: &[&str]) -> String {
    let (code, text) = run(guest, arguments);
    assert_eq!(code, 0, "{text}");
    text
}

fn link(guest: &Folder, path: &str) -> PathBuf {
    fs::read_link(guest.join(path)).unwrap()
}

/// What the guest's loader finds for a name, from its cache; `None` if only root could make one.
fn cached(guest: &Folder, name: &str) -> Option<String> {
    let output = Command::new("/sbin/ldconfig").arg("-r").arg(guest.path()).arg("-p").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.trim_start().starts_with(&format!("{name} ")))?.to_owned();
    line.split("=> ").nth(1).map(str::to_owned)
}

#[test]
fn a_guest_gets_what_programs_look_for_and_loses_it_again() {
    let guest = guest();
    let text = succeed(&guest, &["install"]);
    assert!(text.contains("created /usr/local/lib/vgpu/libvgpu-cuda.so"), "{text}");
    for name in ["libcuda.so.1", "libcuda.so", "libnvidia-ml.so.1"] {
        let target = link(&guest, &format!("usr/lib/x86_64-linux-gnu/{name}"));
        assert_eq!(target, Path::new("/usr/local/lib/vgpu").join(name));
        assert!(guest.join("usr/local/lib/vgpu").join(name).exists(), "{name}");
    }
    assert!(
        guest
            .join("etc/systemd/system/multi-user.target.wants/vgpu-agent.service")
            .symlink_metadata()
            .is_ok()
    );
    if rustix::process::geteuid().is_root() {
        let found = cached(&guest, "libcuda.so.1").unwrap();
        assert_eq!(found, "/usr/local/lib/vgpu/libcuda.so.1");
    }
    let text = succeed(&guest, &["install"]);
    assert!(!text.contains("created") && !text.contains("replaced"), "{text}");
    let text = succeed(&guest, &["uninstall"]);
    assert!(text.contains("removed /usr/local/bin/vgpu-agent"), "{text}");
    for path in [
        "usr/local/bin/vgpu-agent",
        "usr/lib/x86_64-linux-gnu/libcuda.so.1",
        "etc/ld.so.conf.d/00-vgpu.conf",
        "etc/cdi",
    ] {
        assert!(guest.join(path).symlink_metadata().is_err(), "{path}");
    }
    assert!(guest.join("etc/ld.so.conf.d/cuda.conf").exists());
    assert!(succeed(&guest, &["uninstall"]).contains("nothing is installed"));
}

/// The driver's libraries as NVIDIA's package puts them: softgpu's file stands for the real one.
fn real_driver(guest: &Folder) {
    let softgpu = Artifacts::find().broker.with_file_name("softgpu").join("libcuda.so.1");
    let folder = guest.join("usr/lib/x86_64-linux-gnu");
    fs::copy(softgpu, folder.join("libcuda.so.580.159.04")).unwrap();
    std::os::unix::fs::symlink("libcuda.so.580.159.04", folder.join("libcuda.so.1")).unwrap();
}

#[test]
fn a_real_driver_is_refused_and_with_force_kept() {
    let guest = guest();
    real_driver(&guest);
    let (code, text) = run(&guest, &["install"]);
    assert_eq!(code, 1, "{text}");
    assert!(
        text.contains("real NVIDIA driver")
            && text.contains("libcuda.so.580.159.04")
            && text.contains("--force"),
        "{text}"
    );
    assert!(!guest.join("usr/local").exists(), "something was installed all the same");
    let text = succeed(&guest, &["install", "--force"]);
    assert!(
        text.contains("kept /usr/lib/x86_64-linux-gnu/libcuda.so.580.159.04 as /var/lib/vgpu/backup/"),
        "{text}"
    );
    assert_eq!(
        link(&guest, "usr/lib/x86_64-linux-gnu/libcuda.so.1"),
        Path::new("/usr/local/lib/vgpu/libcuda.so.1")
    );
    succeed(&guest, &["uninstall"]);
    assert_eq!(link(&guest, "usr/lib/x86_64-linux-gnu/libcuda.so.1"), Path::new("libcuda.so.580.159.04"));
    assert!(guest.join("usr/lib/x86_64-linux-gnu/libcuda.so.1").exists());
}

#[test]
fn a_dry_run_changes_nothing() {
    let guest = guest();
    let text = succeed(&guest, &["install", "--dry-run"]);
    assert!(text.contains("would have created /usr/local/bin/vgpu-agent"), "{text}");
    assert!(!guest.join("usr/local").exists() && !guest.join("var/lib/vgpu").exists());
}

#[test]
fn the_file_for_containers_names_the_libraries_beside_the_agent() {
    let artifacts = Artifacts::find();
    let output = Command::new(&artifacts.agent).arg("cdi").output().unwrap();
    let file: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(file["kind"], "vgpu/gpu");
    let mounts = file["devices"][0]["containerEdits"]["mounts"].as_array().unwrap();
    let shim = artifacts.shim.canonicalize().unwrap().join("libcuda.so.1");
    assert!(mounts.iter().any(|mount| mount["hostPath"] == shim.to_str().unwrap()), "{file:#}");
}

#[test]
fn wrong_folders_are_named() {
    let guest = guest();
    for (arguments, code, part) in [
        (&["install", "--from", "/nonexistent"][..], 1, "/nonexistent/libvgpu-cuda.so"),
        (&["install", "--prefix", "/home"], 2, "--prefix"),
        (&["install", "--huge-pages", "many"], 2, "--huge-pages"),
    ] {
        let (got, text) = run(&guest, arguments);
        assert_eq!(got, code, "{text}");
        assert!(text.contains(part), "{text}");
    }
    let mut command = Command::new(Artifacts::find().agent);
    let output = command.args(["install", "--root", "/nonexistent/guest"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent/guest"));
}

#[test]
fn doctor_finds_an_image_in_order_and_a_driver_in_it() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("needs root to make the guest's cache: nothing is shown");
        return;
    }
    let guest = guest();
    succeed(&guest, &["install"]);
    let (_, text) = run(&guest, &["doctor"]);
    assert!(
        text.contains("libcuda.so.1 is /usr/local/lib/vgpu/libcuda.so.1, by the loader's cache"),
        "{text}"
    );
    fs::remove_file(guest.join("usr/local/lib/vgpu/libcuda.so.1")).unwrap();
    fs::remove_file(guest.join("usr/lib/x86_64-linux-gnu/libcuda.so.1")).unwrap();
    real_driver(&guest);
    let (code, text) = run(&guest, &["doctor"]);
    assert!(code == 1 && text.contains("[libcuda-foreign]"), "{text}");
}
