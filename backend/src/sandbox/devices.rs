//! The device nodes of the driver.

use std::path::Path;
use std::process::{Command, Stdio};

/// Makes the driver's nodes if they are missing, with NVIDIA's own program: to a process that renounced new privileges it is of no use any
/// more. A machine without the program has the nodes from elsewhere, or no driver.
pub fn prepare() {
    let missing = |name: &str| !Path::new("/dev").join(name).exists();
    if !Path::new("/proc/driver/nvidia").is_dir() || !(missing("nvidiactl") || missing("nvidia-uvm")) {
        return;
    }
    let devices = std::fs::read_dir("/proc/driver/nvidia/gpus").map_or(0, Iterator::count);
    for device in 0..devices.max(1) {
        let mut command = Command::new("nvidia-modprobe");
        command.args(["-u", "-c", &device.to_string()]).stdin(Stdio::null());
        match command.status() {
            Ok(status) if status.success() => {}
            Ok(status) => tracing::debug!("nvidia-modprobe: {status}"),
            Err(error) => tracing::debug!("nvidia-modprobe: {error}"),
        }
    }
}
