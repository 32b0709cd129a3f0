//! What is not a file: the loader's cache, systemd, the kernel's huge pages. None of it makes an installation fail.

use super::InstallOptions;
use super::plan::Plan;
use crate::system::root::Root;
use std::path::Path;
use std::process::{Command, Stdio};

const UNIT: &str = "vgpu-agent.service";
const HUGE_PAGES: &str = "/proc/sys/vm/nr_hugepages";

/// Runs a command; what it said if it failed.
fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| format!("starting {name}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(format!("{name} ended with {}: {said}", output.status))
}

/// Has ldconfig write the loader's cache.
pub fn refresh_loader(root: &Root, say: &mut dyn FnMut(String)) {
    let program = ["/sbin/ldconfig", "/usr/sbin/ldconfig"].into_iter().find(|path| Path::new(path).exists());
    let mut command = Command::new(program.unwrap_or("ldconfig"));
    if !root.is_live() {
        command.arg("-r").arg(root.folder());
    }
    match run(&mut command) {
        Ok(()) => say("refreshed the loader's cache".into()),
        Err(error) => say(format!("the loader's cache is as it was ({error}): run ldconfig in that system")),
    }
}

fn has_systemd() -> bool {
    Path::new("/run/systemd/system").exists()
}

fn systemctl(arguments: &[&str], done: &str, say: &mut dyn FnMut(String)) {
    match run(Command::new("systemctl").args(arguments)) {
        Ok(()) => say(done.into()),
        Err(error) => say(format!("systemctl {}: {error}", arguments.join(" "))),
    }
}

/// Takes the huge pages and starts the agent.
pub fn start(plan: &Plan, options: &InstallOptions, say: &mut dyn FnMut(String)) {
    if plan.huge_pages {
        take_huge_pages(options.huge_pages, say);
    }
    if !plan.unit || !has_systemd() {
        return;
    }
    systemctl(&["daemon-reload"], "systemd knows the unit", say);
    if !options.no_start {
        // Not waited for: without a device the unit tries again and again.
        systemctl(&["--no-block", "restart", UNIT], "starting vgpu-agent", say);
    }
}

/// The pool only grows: what others asked for stays.
fn take_huge_pages(wanted: u64, say: &mut dyn FnMut(String)) {
    let read = || std::fs::read_to_string(HUGE_PAGES).ok()?.trim().parse::<u64>().ok();
    match read() {
        None => say("this kernel has no huge pages: vgpu-agent needs them".into()),
        Some(has) if has >= wanted => {}
        Some(_) => {
            let written = std::fs::write(HUGE_PAGES, wanted.to_string());
            let has = read().unwrap_or(0);
            match written {
                Ok(()) if has >= wanted => say(format!("took {has} huge pages")),
                _ => say(format!("took {has} of {wanted} huge pages: the rest comes with the next boot")),
            }
        }
    }
}

/// Ends the agent that the unit runs.
pub fn stop(say: &mut dyn FnMut(String)) {
    if has_systemd() {
        systemctl(&["stop", UNIT], "stopped vgpu-agent", say);
    }
}

/// Has systemd forget the unit.
pub fn reload(say: &mut dyn FnMut(String)) {
    if has_systemd() {
        systemctl(&["daemon-reload"], "systemd has forgotten the unit", say);
    }
}
