//! What arrays take of a device. An array has no address and the driver tells only of those that are not backed yet how large they are: so
//! it is asked about a twin that is made without memory.

use super::{driver::Driver, thread::Thread};
use vgpu_spec::plain::Blob8;

/// CUDA_ARRAY3D_DESCRIPTOR.
pub type Description = Blob8<40>;
/// CUDA_ARRAY_MEMORY_REQUIREMENTS: size, alignment.
type Requirements = Blob8<32>;

/// CUDA_ARRAY3D_SPARSE and _DEFERRED_MAPPING: without memory of their own.
const SPARSE: u32 = 0x40;
const DEFERRED: u32 = 0x80;
/// Where sums are rounded to if the driver does not tell.
const ROUNDING: u64 = 64 << 10;

fn long(bytes: &[u8; 40], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn word(bytes: &[u8; 40], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn flags(description: &Description) -> u32 {
    word(&description.0, 32)
}

/// CUDA_ARRAY_DESCRIPTOR as a description of three dimensions.
pub fn of_plane(plane: &Blob8<24>) -> Description {
    let mut bytes = [0; 40];
    bytes[..16].copy_from_slice(&plane.0[..16]);
    bytes[24..32].copy_from_slice(&plane.0[16..]);
    Blob8(bytes)
}

/// Bytes of an element's channel, by CUarray_format; of compressed and planar ones no less than they have.
fn channel(format: u32) -> u64 {
    match format {
        1 | 8 => 1,
        2 | 9 | 0x10 => 2,
        _ => 4,
    }
}

/// About what an array of that description takes: rows of 64 bytes, eight of them together.
fn computed(description: &Description, levels: u32) -> u64 {
    let bytes = &description.0;
    let element = channel(word(bytes, 24)).saturating_mul(u64::from(word(bytes, 28).clamp(1, 4)));
    let size = |at: usize, level: u32| (long(bytes, at) >> level.min(63)).clamp(1, 1 << 20);
    let level = |level: u32| {
        let row = size(0, level).saturating_mul(element).next_multiple_of(64);
        row.saturating_mul(size(8, level).next_multiple_of(8)).saturating_mul(size(16, level))
    };
    (0..levels.clamp(1, 32)).map(level).fold(0, u64::saturating_add).min(1 << 60).next_multiple_of(ROUNDING)
}

fn rounded(found: &Requirements) -> Option<u64> {
    let long = |at: usize| found.0.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
    let (size, alignment) = (long(0)?, long(8)?.max(1));
    size.checked_next_multiple_of(alignment).filter(|&bytes| bytes > 0)
}

/// What the driver says of an array (`levels` 0) or mipmapped array like that.
fn asked(driver: &Driver, device: i32, description: &Description, levels: u32) -> Option<u64> {
    let mut twin = *description;
    twin.0[32..36].copy_from_slice(&(flags(description) | DEFERRED).to_le_bytes());
    let (mut handle, mut found) = (0_u64, Requirements::default());
    let (status, destroy) = if levels == 0 {
        let (create, ask) = (driver.cuArray3DCreate_v2?, driver.cuArrayGetMemoryRequirements?);
        // SAFETY: places and a description that outlive the calls; the array was just made.
        let status = unsafe {
            if create(&raw mut handle, &raw const twin) != 0 {
                return None;
            }
            ask(&raw mut found, handle, device)
        };
        (status, driver.cuArrayDestroy?)
    } else {
        let (create, ask) = (driver.cuMipmappedArrayCreate?, driver.cuMipmappedArrayGetMemoryRequirements?);
        // SAFETY: as above.
        let status = unsafe {
            if create(&raw mut handle, &raw const twin, levels) != 0 {
                return None;
            }
            ask(&raw mut found, handle, device)
        };
        (status, driver.cuMipmappedArrayDestroy?)
    };
    // SAFETY: just made, and nobody has been told of it.
    unsafe { destroy(handle) };
    (status == 0).then(|| rounded(&found)).flatten()
}

impl Thread {
    /// Bytes that an array (`levels` 0) or mipmapped array of that description takes.
    pub fn array_bytes(&self, device: u32, description: &Description, levels: u32) -> u64 {
        if flags(description) & (SPARSE | DEFERRED) != 0 {
            return 0;
        }
        let mut key = description.0.to_vec();
        key.extend_from_slice(&levels.to_le_bytes());
        key.extend_from_slice(&device.to_le_bytes());
        if let Some(&bytes) = self.session.quota.sizes().get(&key) {
            return bytes;
        }
        let bytes = asked(self.driver, device.cast_signed(), description, levels)
            .unwrap_or_else(|| computed(description, levels));
        let mut sizes = self.session.quota.sizes();
        // SECURITY: a guest may go through any number of descriptions.
        if sizes.len() >= 1024 {
            sizes.clear();
        }
        sizes.insert(key, bytes);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(sizes: [u64; 3], format: u32, channels: u32, flags: u32) -> Description {
        let mut bytes = [0; 40];
        for (i, size) in sizes.iter().enumerate() {
            bytes[i * 8..i * 8 + 8].copy_from_slice(&size.to_le_bytes());
        }
        for (at, value) in [(24, format), (28, channels), (32, flags)] {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        Blob8(bytes)
    }

    #[test]
    fn a_plane_is_a_description_without_depth() {
        let mut plane = [0; 24];
        plane[0] = 5;
        plane[8] = 6;
        plane[16] = 0x20;
        plane[20] = 2;
        assert_eq!(of_plane(&Blob8(plane)).0, description([5, 6, 0], 0x20, 2, 0).0);
    }

    #[test]
    fn sizes_are_rounded_up_and_never_overflow() {
        assert_eq!(computed(&description([1, 0, 0], 1, 1, 0), 0), ROUNDING);
        assert_eq!(computed(&description([1024, 1024, 0], 0x20, 4, 0), 0), 16 << 20);
        assert_eq!(computed(&description([1024, 1024, 0], 0x20, 4, 0), 2), 20 << 20);
        assert!(computed(&description([u64::MAX; 3], 0x20, 4, 0), 32) > 1 << 50);
    }
}
