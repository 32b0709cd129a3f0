//! What this process uses of the devices, where other processes see it: softgpu's NVML lists processes by it, as the real driver's does.
//!
//! A page in memory, which ends with the process however that ends; others find it through `/proc`.

use std::fs;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::shared_file;

/// The most devices.
const DEVICES: usize = 16;
/// Begins the page.
const MAGIC: u64 = u64::from_le_bytes(*b"softgpu1");
const PAGE: u64 = 4096;
/// Numbers in `Page`.
const NUMBERS: usize = size_of::<Page>() / size_of::<u64>();

/// Bytes used and kernels that run, by number.
#[repr(C)]
struct Page {
    magic: AtomicU64,
    used: [AtomicU64; DEVICES],
    running: [AtomicU64; DEVICES],
}

/// The page; none if the system gives none: then nobody sees what is used.
static PAGE_OF_PROCESS: LazyLock<Option<&'static Page>> = LazyLock::new(|| {
    let file = shared_file::memory_file(PAGE).ok()?;
    let place = usize::try_from(shared_file::map(&file, 0, PAGE).ok()?).ok()?;
    // Open for as long as the process lives: by it others find the page.
    std::mem::forget(file);
    // SAFETY: a page of zeros, never unmapped, and all of `Page` is atomic numbers.
    let page = unsafe { &*std::ptr::with_exposed_provenance::<Page>(place) };
    page.magic.store(MAGIC, Ordering::Release);
    Some(page)
});

/// Lets others see this process, which uses nothing yet.
pub fn announce() {
    LazyLock::force(&PAGE_OF_PROCESS);
}

fn slot(of: fn(&Page) -> &[AtomicU64; DEVICES], number: u32) -> Option<&'static AtomicU64> {
    let page: &'static Page = (*PAGE_OF_PROCESS)?;
    of(page).get(usize::try_from(number).ok()?)
}

/// Counts memory that was taken.
pub fn take(number: u32, bytes: u64) {
    if let Some(used) = slot(|page| &page.used, number) {
        used.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Counts memory that was given back.
pub fn give_back(number: u32, bytes: u64) {
    if let Some(used) = slot(|page| &page.used, number) {
        used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A kernel runs on the device while this lives.
pub struct Running(u32);

impl Running {
    pub fn new(number: u32) -> Running {
        if let Some(running) = slot(|page| &page.running, number) {
            running.fetch_add(1, Ordering::Relaxed);
        }
        Running(number)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(running) = slot(|page| &page.running, self.0) {
            running.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A process that uses softgpu.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    /// Bytes.
    pub used: u64,
    pub running: bool,
}

/// The processes of this user that use the device.
pub fn processes(number: u32) -> Vec<Process> {
    let folders = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = folders.filter_map(|folder| folder.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| process(pid, number)).collect()
}

fn process(pid: u32, number: u32) -> Option<Process> {
    let ours = |path: &std::path::Path| {
        fs::read_link(path)
            .is_ok_and(|target| target.as_os_str().as_encoded_bytes().starts_with(b"/memfd:vgpu-softgpu"))
    };
    let files = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten().map(|entry| entry.path());
    files.filter(|path| ours(path)).find_map(|path| {
        let file = fs::File::open(path).ok()?.into();
        let [magic, numbers @ ..] = shared_file::read::<NUMBERS>(&file, 0).ok()?;
        if magic != MAGIC {
            return None;
        }
        let (used, running) = numbers.split_at(DEVICES);
        let at = usize::try_from(number).ok()?;
        Some(Process { pid, used: *used.get(at)?, running: *running.get(at)? != 0 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_see_what_this_process_uses() {
        // An number that no other test uses.
        let number = 13;
        let ours = || {
            processes(number).into_iter().find(|p| p.pid == std::process::id()).map(|p| (p.used, p.running))
        };
        take(number, 5000);
        assert_eq!(ours(), Some((5000, false)));
        let running = Running::new(number);
        give_back(number, 2000);
        assert_eq!(ours(), Some((3000, true)));
        drop(running);
        assert_eq!(ours(), Some((3000, false)));
        give_back(number, 3000);
    }

    #[test]
    fn devices_beyond_the_page_are_not_counted() {
        take(99, 1);
        assert_eq!(processes(99), []);
    }
}
