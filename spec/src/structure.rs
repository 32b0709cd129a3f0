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
