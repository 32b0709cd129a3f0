//! The GPU for containers: a file of the Container Device Interface, which Docker (25 and later), Podman and containerd read. A
//! container gets the libraries, where its own loader looks without a cache, and the folder of the agent's socket.

use super::InstallError;
use crate::system::{CUDA, NVML};
use serde_json::{Value, json};
use std::path::Path;

/// Where container engines look.
pub const PATH: &str = "/etc/cdi/vgpu.json";
/// What a container asks for: `--device vgpu/gpu=all`.
const KIND: &str = "vgpu/gpu";
/// The folder of the agent's socket. All of it, so that a container finds the socket of an agent that was started again.
const SOCKET_FOLDER: &str = "/run/vgpu";
/// Default folders of the loaders of Debian's and Red Hat's kin.
const FOLDERS: [&str; 2] = ["/usr/lib/x86_64-linux-gnu", "/usr/lib64"];

/// The file's text, for the shims beside this program.
pub fn own() -> Result<String, InstallError> {
    let program = super::own_program()?;
    let prefix = program.parent().and_then(Path::parent).unwrap_or(Path::new("/usr"));
    Ok(text(&prefix.to_string_lossy()))
}

/// The file's text, for shims below `prefix`.
pub fn text(prefix: &str) -> String {
    let mut mounts = vec![mount(SOCKET_FOLDER, SOCKET_FOLDER, &["rw", "nosuid", "nodev", "bind"])];
    for folder in FOLDERS {
        for name in [CUDA, NVML] {
            let from = format!("{prefix}/lib/vgpu/{name}");
            mounts.push(mount(&from, &format!("{folder}/{name}"), &["ro", "nosuid", "nodev", "bind"]));
        }
    }
    let device = json!({ "name": "all", "containerEdits": { "mounts": mounts } });
    let file = json!({ "cdiVersion": "0.5.0", "kind": KIND, "devices": [device] });
    format!("{file:#}\n")
}

fn mount(from: &str, to: &str, options: &[&str]) -> Value {
    json!({ "hostPath": from, "containerPath": to, "options": options })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_gets_the_libraries_and_the_socket() {
        let file: Value = serde_json::from_str(&text("/usr")).unwrap();
        let (vendor, class) = file["kind"].as_str().unwrap().split_once('/').unwrap();
        assert_eq!((vendor, class), ("vgpu", "gpu"));
        for device in file["devices"].as_array().unwrap() {
            let mounts = device["containerEdits"]["mounts"].as_array().unwrap();
            let has = |from: &str, to: &str| {
                mounts.iter().any(|mount| mount["hostPath"] == from && mount["containerPath"] == to)
            };
            assert!(has("/run/vgpu", "/run/vgpu"));
            assert!(has("/usr/lib/vgpu/libcuda.so.1", "/usr/lib/x86_64-linux-gnu/libcuda.so.1"));
            assert!(has("/usr/lib/vgpu/libnvidia-ml.so.1", "/usr/lib64/libnvidia-ml.so.1"));
        }
    }
}
