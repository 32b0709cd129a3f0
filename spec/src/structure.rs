//! C structures of the driver API that both shim and worker look into, as cuda.h lays them out on x86-64.

/// CUDA_MEMCPY3D: one side of it.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Memcpy3DSide {
    pub x: usize,
    pub y: usize,
    pub z: usize,
    pub lod: usize,
    /// CUmemorytype: see [`memory_type`].
    pub kind: u32,
    pub padding: u32,
    pub host: u64,
    pub device: u64,
    pub array: u64,
    pub reserved: u64,
    pub pitch: usize,
    pub height: usize,
}

/// CUDA_MEMCPY3D. Width in bytes.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Memcpy3D {
    pub src: Memcpy3DSide,
    pub dst: Memcpy3DSide,
    pub width: usize,
    pub height: usize,
    pub depth: usize,
}
const _: () = assert!(size_of::<Memcpy3D>() == 200);

/// CUmemorytype.
#[allow(missing_docs)]
pub mod memory_type {
    pub const HOST: u32 = 1;
    pub const DEVICE: u32 = 2;
    pub const ARRAY: u32 = 3;
    pub const UNIFIED: u32 = 4;
}

/// A number inside a structure: where it lies and how many bytes it has (4 or 8).
#[derive(Debug, Clone, Copy)]
pub struct Field {
    at: usize,
    len: usize,
}

impl Field {
    const fn u32(at: usize) -> Self {
        Field { at, len: 4 }
    }

    const fn u64(at: usize) -> Self {
        Field { at, len: 8 }
    }

    /// Its value; 0 beyond the end.
    pub fn get(self, bytes: &[u8]) -> u64 {
        let mut value = [0; 8];
        if let Some(part) = bytes.get(self.at..self.at + self.len) {
            value[..self.len].copy_from_slice(part);
        }
        u64::from_le_bytes(value)
    }

    /// Sets it, within the bytes, to the low bytes of `value`.
    pub fn set(self, bytes: &mut [u8], value: u64) {
        if let Some(part) = bytes.get_mut(self.at..self.at + self.len) {
            part.copy_from_slice(&value.to_le_bytes()[..self.len]);
        }
    }
}

/// CUDA_RESOURCE_DESC.
#[allow(missing_docs)]
pub mod resource {
    use super::Field;

    /// CUresourcetype.
    pub const KIND: Field = Field::u32(0);
    pub const ARRAY: u32 = 0;
    pub const MIPMAPPED_ARRAY: u32 = 1;
    pub const LINEAR: u32 = 2;
    pub const PITCH2D: u32 = 3;
    /// The array or mipmapped array, or the address of memory.
    pub const HANDLE: Field = Field::u64(8);
}

/// CUarrayMapInfo.
#[allow(missing_docs)]
pub mod array_map {
    use super::Field;

    /// CUresourcetype, as in [`super::resource`].
    pub const KIND: Field = Field::u32(0);
    pub use super::resource::{ARRAY, MIPMAPPED_ARRAY};
    pub const RESOURCE: Field = Field::u64(8);
    /// CUmemGenericAllocationHandle; 0 to unmap.
    pub const ALLOCATION: Field = Field::u64(64);
    /// Bits of device ordinals.
    pub const DEVICES: Field = Field::u32(80);
}

/// CUDA_ARRAY3D_DESCRIPTOR.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Array3DDescriptor {
    pub width: usize,
    pub height: usize,
    pub depth: usize,
    pub format: u32,
    pub channels: u32,
    pub flags: u32,
    pub padding: u32,
}
const _: () = assert!(size_of::<Array3DDescriptor>() == 40);

/// CUlaunchConfig.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct LaunchConfig {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub shared: u32,
    pub stream: u64,
    /// CUlaunchAttribute array of `count`.
    pub attributes: *const u8,
    pub count: u32,
}
const _: () = assert!(size_of::<LaunchConfig>() == 56);

/// CUlaunchAttribute: id u32, padding, value of 64 bytes.
pub mod launch_attribute {
    /// Bytes of one.
    pub const SIZE: usize = 72;
    /// Where its value begins.
    pub const VALUE: usize = 8;
    /// CU_LAUNCH_ATTRIBUTE_COOPERATIVE.
    pub const COOPERATIVE: u32 = 2;
    /// What an attribute's value has in it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Content {
        /// Numbers, and addresses of the device.
        Plain,
        /// An event, first.
        Event,
        /// A number and the device's handle of a node, which the driver writes.
        DeviceNode,
    }

    /// What is in the value of attribute `id` (CUlaunchAttributeID of CUDA 13.0); `None` for one that does not exist.
    pub fn content(id: u32) -> Option<Content> {
        match id {
            // Ignore, access policy window, cooperative, synchronization policy, cluster dimension and scheduling policy, programmatic
            // stream serialization, priority, memory synchronization domain map and domain, preferred cluster dimension, shared memory
            // carveout, NVLink-centric scheduling.
            0..=6 | 8..=11 | 14 | 16 => Some(Content::Plain),
            // Programmatic event, launch completion event.
            7 | 12 => Some(Content::Event),
            // Device-updatable kernel node.
            13 => Some(Content::DeviceNode),
            _ => None,
        }
    }

    /// The id of an attribute; `u32::MAX` if the bytes are too few.
    pub fn id(bytes: &[u8]) -> u32 {
        match bytes {
            [a, b, c, d, ..] => u32::from_le_bytes([*a, *b, *c, *d]),
            _ => u32::MAX,
        }
    }
}
