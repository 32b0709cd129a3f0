//! The C library's allocator, as the driver uses it in a worker.
//!
//! A lane's thread has an arena of its own, which by default gives memory back to the kernel as soon as 128 KiB are free at its end: each
//! graph that the driver makes and destroys would take and return hundreds of pages.

/// Free bytes at the end of an arena that are kept.
const KEPT: libc::c_int = 32 << 20;
/// Bytes by which an arena grows at least.
const STEP: libc::c_int = 1 << 20;
/// From so many bytes on an allocation is a mapping of its own.
const MAPPED: libc::c_int = 4 << 20;

/// Has arenas keep what they have.
pub fn keep_memory() {
    for (parameter, value) in
        [(libc::M_TRIM_THRESHOLD, KEPT), (libc::M_TOP_PAD, STEP), (libc::M_MMAP_THRESHOLD, MAPPED)]
    {
        // SAFETY: takes two numbers.
        if unsafe { libc::mallopt(parameter, value) } == 0 {
            tracing::debug!("mallopt({parameter}, {value}) was refused");
        }
    }
}
