//! Copies in two and three dimensions, as rows.
#![allow(non_snake_case)]

use super::{
    error::{CudaError, INVALID_VALUE, NOT_SUPPORTED, check},
    thread::Thread,
};
use vgpu_spec::{
    plain::Blob8,
    structure::{Memcpy3D, Memcpy3DSide, memory_type},
};

/// `slice` is a whole number of rows.
fn side(address: u64, pitch: usize, slice: usize, on_host: bool) -> Result<Memcpy3DSide, CudaError> {
    if pitch == 0 || !slice.is_multiple_of(pitch) {
        return Err(INVALID_VALUE);
    }
    let (kind, host, device) =
        if on_host { (memory_type::HOST, address, 0) } else { (memory_type::DEVICE, 0, address) };
    Ok(Memcpy3DSide { kind, host, device, pitch, height: slice / pitch, ..Memcpy3DSide::default() })
}

/// Bytes from the first to the last.
pub fn span(pitch: usize, slice: usize, width: usize, height: usize, depth: usize) -> Option<usize> {
    let rows = pitch.checked_mul(height.checked_sub(1)?)?;
    let planes = slice.checked_mul(depth.checked_sub(1)?)?;
    rows.checked_add(planes)?.checked_add(width)
}

/// Copies rows in stream order.
#[allow(clippy::too_many_arguments)] // the message's parameters
pub fn vgpuCopyStrided(
    t: &mut Thread,
    dst: u64,
    dst_pitch: usize,
    dst_slice: usize,
    dst_host: u32,
    src: u64,
    src_pitch: usize,
    src_slice: usize,
    src_host: u32,
    width: usize,
    height: usize,
    depth: usize,
    stream: u64,
) -> Result<(), CudaError> {
    let (dst_host, src_host) = (dst_host != 0, src_host != 0);
    for (on_host, address, pitch, slice) in
        [(dst_host, dst, dst_pitch, dst_slice), (src_host, src, src_pitch, src_slice)]
    {
        let len = span(pitch, slice, width, height, depth).ok_or(INVALID_VALUE)?;
        if on_host && !t.client.windows.contains(address, len as u64) {
            return Err(INVALID_VALUE);
        }
    }
    let description = Memcpy3D {
        src: side(src, src_pitch, src_slice, src_host)?,
        dst: side(dst, dst_pitch, dst_slice, dst_host)?,
        width,
        height,
        depth,
    };
    let copy = t.driver.cuMemcpy3DAsync_v2.ok_or(NOT_SUPPORTED)?;
    // SAFETY: the description outlives the call; host sides lie in windows of this client, the driver checks device sides.
    check(unsafe { copy((&raw const description).cast(), stream) })?;
    t.count_copy(&description);
    Ok(())
}

/// CUDA_MEMCPY3D_PEER's forms in `vgpuCopy3D`.
const PEER: u32 = 1;
const PEER_ASYNC: u32 = 2;

impl Thread {
    /// A copy as the guest describes it, with the driver's handles: host sides lie in its windows. `contexts`: the reserved words
    /// are contexts.
    pub fn checked_copy(
        &self,
        given: Option<Vec<Blob8<200>>>,
        contexts: bool,
    ) -> Result<Memcpy3D, CudaError> {
        let blob = given.and_then(|g| g.first().copied()).ok_or(INVALID_VALUE)?;
        // SAFETY: both are 200 bytes, any bytes are a `Memcpy3D`, and reading does not need its alignment.
        let mut copy = unsafe { (&raw const blob).cast::<Memcpy3D>().read_unaligned() };
        let extent = (copy.width, copy.height, copy.depth);
        for side in [&mut copy.src, &mut copy.dst] {
            let array = std::mem::take(&mut side.array);
            match side.kind {
                memory_type::DEVICE => {}
                memory_type::HOST => self.check_host_side(side, extent)?,
                memory_type::ARRAY => side.array = self.array(array)?,
                _ => return Err(INVALID_VALUE),
            }
            // Nothing is read there in other copies.
            side.reserved = match side.reserved {
                context if contexts && context != 0 => self.context(context)?,
                _ => 0,
            };
        }
        Ok(copy)
    }

    /// Counts the bytes of a copy that the driver has taken, if it is between host and device.
    fn count_copy(&mut self, copy: &Memcpy3D) {
        let bytes = copy.width.saturating_mul(copy.height).saturating_mul(copy.depth) as u64;
        let on_host = |side: &Memcpy3DSide| side.kind == memory_type::HOST;
        match (on_host(&copy.src), on_host(&copy.dst)) {
            (true, false) => self.work.to_device = self.work.to_device.wrapping_add(bytes),
            (false, true) => self.work.from_device = self.work.from_device.wrapping_add(bytes),
            _ => {}
        }
    }

    fn check_host_side(
        &self,
        side: &Memcpy3DSide,
        (width, height, depth): (usize, usize, usize),
    ) -> Result<(), CudaError> {
        let pitch = if side.pitch == 0 { width } else { side.pitch };
        let rows = if side.height == 0 { height } else { side.height };
        let len = || {
            let slice = pitch.checked_mul(rows)?;
            let first =
                side.x.checked_add(side.y.checked_mul(pitch)?)?.checked_add(side.z.checked_mul(slice)?)?;
            first.checked_add(span(pitch, slice, width, height, depth)?)
        };
        let len = len().ok_or(INVALID_VALUE)?;
        if self.client.windows.contains(side.host, len as u64) { Ok(()) } else { Err(INVALID_VALUE) }
    }
}

/// Copies from or to arrays, or between contexts, in stream order.
pub fn vgpuCopy3D(
    t: &mut Thread,
    copy: Option<Vec<Blob8<200>>>,
    peer: u32,
    stream: u64,
) -> Result<(), CudaError> {
    let copy = t.checked_copy(copy, peer != 0)?;
    let place = (&raw const copy).cast();
    let outcome = match peer {
        0 => {
            let function = t.driver.cuMemcpy3DAsync_v2.ok_or(NOT_SUPPORTED)?;
            // SAFETY: the description outlives the call; handles are live, host sides lie in windows of this client, the driver
            // checks the others.
            check(unsafe { function(place, stream) })
        }
        PEER => {
            let function = t.driver.cuMemcpy3DPeer.ok_or(NOT_SUPPORTED)?;
            // SAFETY: as above.
            check(unsafe { function(place) })
        }
        PEER_ASYNC => {
            let function = t.driver.cuMemcpy3DPeerAsync.ok_or(NOT_SUPPORTED)?;
            // SAFETY: as above.
            check(unsafe { function(place, stream) })
        }
        _ => Err(INVALID_VALUE),
    };
    outcome.inspect(|()| t.count_copy(&copy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_span_of_rows_is_exact_and_overflow_is_refused() {
        assert_eq!(span(10, 50, 4, 3, 2), Some(20 + 50 + 4));
        assert_eq!(span(10, 50, 4, 1, 1), Some(4));
        assert_eq!(span(usize::MAX, 1, 4, 3, 1), None);
        assert_eq!(span(10, 50, 4, 0, 1), None);
    }
}
