//! Copying past the caches.
//!
//! Line after line, a processor has too little under way: its prefetchers begin anew at each page, for one. So four pages are copied at
//! once, a line of each in turn. On a Xeon with four threads that copy while a GPU reads what they have written, 256 MiB went at
//! 21 GB/s line after line (25 with AVX-512), at 29 with two pages in turn and SSE2, and at 35 to 40 with four and AVX-512.
//!
//! A load waits for writes under way whose addresses have the same last 12 bits, as if it depended on them; with pages in turn there are
//! four times as many. So the lines of all four pages are loaded before one of them is written, and pages are copied from their ends where
//! the source lies before the destination within a page. Else some distances took five times as long on an EPYC.

/// Copies as `ptr::copy_nonoverlapping` does. The destination's lines are not read first and push nothing out of the caches, which is
/// faster for large copies; what reads the destination at once is slower.
///
/// # Safety
/// As `ptr::copy_nonoverlapping`.
pub unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    let fastest = ways().into_iter().find_map(|(_, way)| way).unwrap_or(cached);
    // SAFETY: the caller's promise; this processor has the way.
    unsafe { copy_with(fastest, from, to, len) }
}

/// Bytes of a cache line, and of a page.
const LINE: usize = 64;
const PAGE: usize = 4096;
/// Runs of bytes that are copied at once.
const RUNS: usize = 4;

/// Copies [`RUNS`] runs of so many bytes each, one behind the other in memory, a line of each in turn; from the last lines if `true`.
///
/// Its promise: as `ptr::copy_nonoverlapping`; the destination is aligned to lines and a run is whole lines; the processor has the
/// instructions.
type CopyRuns = unsafe fn(*const u8, *mut u8, usize, bool);

/// # Safety
/// As `ptr::copy_nonoverlapping`; this processor has the way.
unsafe fn copy_with(copy_runs: CopyRuns, from: *const u8, to: *mut u8, len: usize) {
    // Up to the destination's first whole line.
    let mut at = to.align_offset(LINE).min(len);
    let backwards = from.addr().wrapping_sub(to.addr()) % PAGE >= PAGE / 2;
    // SAFETY: the parts are the caller's bytes, one after the other; runs begin aligned, for the parts before them are whole lines.
    unsafe {
        std::ptr::copy_nonoverlapping(from, to, at);
        while len - at >= RUNS * LINE {
            // Pages, and of what is left at the end, lines.
            let run = if len - at >= RUNS * PAGE { PAGE } else { LINE };
            copy_runs(from.add(at), to.add(at), run, backwards);
            at += RUNS * run;
        }
        std::ptr::copy_nonoverlapping(from.add(at), to.add(at), len - at);
    }
    // Writes past the caches are not ordered with later ones: whoever hears that the copy is done must see them.
    #[cfg(target_arch = "x86_64")]
    // SAFETY: all x86-64 processors have SSE.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

/// The ways to copy, the fastest first, those that this processor has. The library asks the processor once.
#[cfg(target_arch = "x86_64")]
fn ways() -> [(&'static str, Option<CopyRuns>); 4] {
    [
        ("AVX-512", is_x86_feature_detected!("avx512f").then_some(x86::avx512)),
        ("AVX2", is_x86_feature_detected!("avx2").then_some(x86::avx2)),
        ("SSE2", Some(x86::sse2)),
        ("cached", Some(cached)),
    ]
}

#[cfg(not(target_arch = "x86_64"))]
fn ways() -> [(&'static str, Option<CopyRuns>); 1] {
    [("cached", Some(cached))]
}

/// For processors that we know no better of.
///
/// # Safety
/// As [`CopyRuns`].
unsafe fn cached(from: *const u8, to: *mut u8, run: usize, _backwards: bool) {
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(from, to, RUNS * run) }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{LINE, RUNS};
    use std::arch::{asm, x86_64::*};

    /// Where a run's lines are.
    fn lines(run: usize, backwards: bool) -> impl Iterator<Item = usize> {
        (0..run).step_by(LINE).map(move |line| if backwards { run - LINE - line } else { line })
    }

    /// # Safety
    /// As [`super::CopyRuns`].
    pub unsafe fn avx512(from: *const u8, to: *mut u8, run: usize, backwards: bool) {
        for line in lines(run, backwards) {
            // Rust has these instructions as functions since 1.89. Use of the upper registers makes no later instruction slow.
            // SAFETY: a line in each of the caller's runs, aligned in the destination; no other memory and no flag is touched.
            unsafe {
                asm!(
                    "vmovdqu64 zmm16, [{from}]",
                    "vmovdqu64 zmm17, [{from} + {run}]",
                    "vmovdqu64 zmm18, [{from} + 2 * {run}]",
                    "vmovdqu64 zmm19, [{from} + {last}]",
                    "vmovntdq [{to}], zmm16",
                    "vmovntdq [{to} + {run}], zmm17",
                    "vmovntdq [{to} + 2 * {run}], zmm18",
                    "vmovntdq [{to} + {last}], zmm19",
                    from = in(reg) from.add(line),
                    to = in(reg) to.add(line),
                    run = in(reg) run,
                    last = in(reg) 3 * run,
                    out("zmm16") _,
                    out("zmm17") _,
                    out("zmm18") _,
                    out("zmm19") _,
                    options(nostack, preserves_flags),
                );
            }
        }
    }

    /// A way to copy with the vectors that Rust has functions for.
    macro_rules! with_vectors {
        ($name:ident, $feature:literal, $vector:ty, $load:ident, $stream:ident) => {
            /// # Safety
            /// As [`super::CopyRuns`].
            #[target_feature(enable = $feature)]
            pub unsafe fn $name(from: *const u8, to: *mut u8, run: usize, backwards: bool) {
                const PER_LINE: usize = LINE / size_of::<$vector>();
                for line in lines(run, backwards) {
                    // SAFETY: a line in each of the caller's runs, aligned in the destination; vectors may be zero.
                    unsafe {
                        let mut vectors: [[$vector; PER_LINE]; RUNS] = std::mem::zeroed();
                        for (i, vectors) in vectors.iter_mut().enumerate() {
                            let from = from.add(line + i * run).cast::<$vector>();
                            for (part, vector) in vectors.iter_mut().enumerate() {
                                *vector = $load(from.add(part));
                            }
                        }
                        for (i, vectors) in vectors.into_iter().enumerate() {
                            let to = to.add(line + i * run).cast::<$vector>();
                            for (part, vector) in vectors.into_iter().enumerate() {
                                $stream(to.add(part), vector);
                            }
                        }
                    }
                }
            }
        };
    }
    with_vectors!(avx2, "avx2", __m256i, _mm256_loadu_si256, _mm256_stream_si256);
    with_vectors!(sse2, "sse2", __m128i, _mm_loadu_si128, _mm_stream_si128);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where copies begin in source and destination.
    const OFFSETS: [(usize, usize); 7] = [(0, 0), (1, 0), (0, 1), (5, 63), (63, 64), (17, 33), (16, 4080)];

    /// Copies `len` bytes in every way that this processor has.
    fn check(from: &[u8], to: &mut [u8], (at, to_at): (usize, usize), len: usize) {
        for (name, way) in ways() {
            let Some(way) = way else { continue };
            to.fill(0xee);
            let (source, target) = (&from[at..at + len], &mut to[to_at..to_at + len]);
            // SAFETY: two slices of that length; the processor has the way.
            unsafe { copy_with(way, source.as_ptr(), target.as_mut_ptr(), len) };
            assert!(target == source, "{name}: {len} bytes, {at} to {to_at}");
            let mut around = to[..to_at].iter().chain(&to[to_at + len..]);
            assert!(around.all(|&b| b == 0xee), "{name}: around {len} bytes, {at} to {to_at}");
        }
    }

    #[test]
    fn every_byte_and_no_other_is_copied() {
        const BLOCK: usize = RUNS * PAGE;
        let from: Vec<u8> = (0..4 * BLOCK).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let mut to = vec![0; 4 * BLOCK];
        for offsets in OFFSETS {
            for len in (0..=600).chain([1000, PAGE, 2 * PAGE + 1]) {
                check(&from, &mut to[..3 * PAGE + 200], offsets, len);
            }
            for blocks in [BLOCK, 2 * BLOCK, 3 * BLOCK] {
                for len in
                    [blocks - 257, blocks - 64, blocks - 1, blocks, blocks + 1, blocks + 63, blocks + 320]
                {
                    check(&from, &mut to, offsets, len);
                }
            }
        }
    }

    #[test]
    fn the_chosen_way_copies() {
        let from: Vec<u8> = (0..5 * PAGE).map(|i| (i * 7 + i / 251) as u8).collect();
        let mut to = vec![0_u8; from.len()];
        // SAFETY: two buffers of that length.
        unsafe { copy(from.as_ptr(), to.as_mut_ptr(), from.len()) };
        assert!(to == from);
    }
}
