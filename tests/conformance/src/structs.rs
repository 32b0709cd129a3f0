//! Good contents of structures that calls read.

use crate::{
    fixtures::{self, Fixtures, callback},
    memory::{Fields, Piece},
};

/// A structure's good contents; zeros where nothing else is needed.
pub fn good(fx: &mut Fixtures, name: &str) -> Vec<u8> {
    let len = vgpu_spec::api::struct_layout(name).map_or(256, |l| l.0);
    let f = Fields::new(len);
    match name {
        "CUDA_ARRAY_DESCRIPTOR" => f.u64(0, 64).u64(8, 16).u32(16, 0x20).u32(20, 1),
        "CUDA_ARRAY_DESCRIPTOR_v1" => f.u32(0, 64).u32(4, 16).u32(8, 0x20).u32(12, 1),
        "CUDA_ARRAY3D_DESCRIPTOR" => Fields(fixtures::array3d(0, 0)),
        "CUDA_ARRAY3D_DESCRIPTOR_v1" => f.u32(0, 64).u32(4, 16).u32(12, 0x20).u32(16, 1),
        // From device memory to device memory, 4 rows of 64 bytes.
        "CUDA_MEMCPY2D" => f
            .u32(16, 2)
            .u64(32, fx.get("memory"))
            .u64(48, 256)
            .u32(72, 2)
            .u64(88, fx.get("other memory"))
            .u64(104, 256)
            .u64(112, 64)
            .u64(120, 4),
        "CUDA_MEMCPY2D_v1" => f
            .u32(8, 1)
            .u64(16, fx.get("host"))
            .u32(40, 256)
            .u32(52, 1)
            .u64(56, fx.get("host") + 8192)
            .u32(80, 256)
            .u32(84, 64)
            .u32(88, 4),
        "CUDA_MEMCPY3D" | "CUDA_MEMCPY3D_PEER" => {
            let f = f
                .u32(32, 2)
                .u64(48, fx.get("memory"))
                .u64(72, 256)
                .u64(80, 4)
                .u32(120, 2)
                .u64(136, fx.get("other memory"))
                .u64(160, 256)
                .u64(168, 4)
                .u64(176, 64)
                .u64(184, 4)
                .u64(192, 2);
            if name == "CUDA_MEMCPY3D" { f } else { f.u64(64, fx.get("Context")).u64(152, fx.get("Context")) }
        }
        "CUDA_MEMCPY3D_v1" => f
            .u32(16, 1)
            .u64(24, fx.get("host"))
            .u32(56, 256)
            .u32(60, 4)
            .u32(80, 1)
            .u64(88, fx.get("host") + 8192)
            .u32(120, 256)
            .u32(124, 4)
            .u32(128, 64)
            .u32(132, 4)
            .u32(136, 2),
        "CUDA_KERNEL_NODE_PARAMS" | "CUDA_KERNEL_NODE_PARAMS_v1" => kernel(fx, f, 0),
        "CUgraphNodeParams" => kernel(fx, f, 16),
        "CUDA_MEMSET_NODE_PARAMS" => {
            f.u64(0, fx.get("memory")).u64(8, 256).u32(16, 3).u32(20, 1).u64(24, 64).u64(32, 2)
        }
        "CUDA_HOST_NODE_PARAMS" => f.u64(0, callback()).u64(8, fx.get("host")),
        "CUstreamBatchMemOpParams" => f.u32(0, 2).u64(8, fx.get("memory")).u64(16, 7),
        "CUDA_BATCH_MEM_OP_NODE_PARAMS" => {
            let operation = Piece::with(&good(fx, "CUstreamBatchMemOpParams")).0;
            f.u64(0, fx.get("Context")).u32(8, 1).u64(16, operation)
        }
        "CUDA_MEM_ALLOC_NODE_PARAMS" => f.bytes(0, &fixtures::pool_properties()).u64(104, 4096),
        "CUmemPoolProps" => Fields(fixtures::pool_properties()),
        "CUmemAllocationProp" => Fields(fixtures::allocation_properties()),
        "CUmemAccessDesc" => Fields(fixtures::access()),
        "CUmemLocation" => f.u32(0, 1),
        "CUmulticastObjectProp" => f.u32(0, 1).u64(8, 2 << 20),
        "CUlaunchConfig" => {
            f.u32(0, 1).u32(4, 1).u32(8, 1).u32(12, 32).u32(16, 1).u32(20, 1).u64(32, fx.get("Stream"))
        }
        "CUexecAffinityParam" => f.u32(4, 8),
        "CUDA_RESOURCE_DESC" => Fields(fixtures::resource(fx.get("Array"))),
        "CUmemcpyAttributes" => f.u32(0, 1),
        "CUDA_MEMCPY3D_BATCH_OP" => f
            .u32(0, 1)
            .u64(8, fx.get("memory"))
            .u32(40, 1)
            .u64(48, fx.get("other memory"))
            .u64(80, 64)
            .u64(88, 1)
            .u64(96, 1)
            .u32(104, 1),
        "CUmemDecompressParams" => f
            .u64(0, 64)
            .u64(8, 64)
            .u64(16, fx.get("memory"))
            .u64(24, fx.get("memory"))
            .u64(32, fx.get("other memory")),
        "CUDA_LAUNCH_PARAMS" => {
            let stream = fx.get("other stream");
            let parameters = fx.get("kernel parameters");
            launch(fx, f, 0).u64(40, stream).u64(48, parameters)
        }
        // The first table that a CUDA runtime asks for.
        "CUuuid" => f.bytes(
            0,
            &[0x6b, 0xd5, 0xfb, 0x6c, 0x5b, 0xf4, 0xe7, 0x4a, 0x89, 0x87, 0xd9, 0x39, 0x12, 0xfd, 0x9d, 0xf9],
        ),
        _ => f,
    }
    .0
}

fn launch(fx: &mut Fixtures, f: Fields, at: usize) -> Fields {
    f.u64(at, fx.get("Function"))
        .u32(at + 8, 1)
        .u32(at + 12, 1)
        .u32(at + 16, 1)
        .u32(at + 20, 32)
        .u32(at + 24, 1)
        .u32(at + 28, 1)
}

fn kernel(fx: &mut Fixtures, f: Fields, at: usize) -> Fields {
    let parameters = fx.get("kernel parameters");
    launch(fx, f, at).u64(at + 40, parameters)
}

/// Words of a structure that are addresses or handles, whatever they look like.
pub fn volatile_words(name: &str) -> &'static [usize] {
    match name {
        "CUDA_KERNEL_NODE_PARAMS" | "CUDA_KERNEL_NODE_PARAMS_v1" => &[0, 40, 48, 56, 64],
        "CUDA_MEMSET_NODE_PARAMS" => &[0],
        "CUDA_HOST_NODE_PARAMS" => &[0, 8],
        "CUDA_MEMCPY3D" => &[40, 48, 56, 128, 136, 144],
        "CUgraphExecUpdateResultInfo" => &[8, 16],
        "CUDA_MEM_ALLOC_NODE_PARAMS" => &[88, 112],
        "CUDA_RESOURCE_DESC" => &[8],
        "CUDA_BATCH_MEM_OP_NODE_PARAMS" => &[0, 16],
        "CUDA_GRAPH_INSTANTIATE_PARAMS" => &[8, 16],
        "CUuuid" => &[0, 8],
        "CUtensorMap" => &[0],
        _ => &[],
    }
}

/// The words of a structure that are documented, where the others are the driver's own.
pub fn documented_words(name: &str) -> Option<&'static [usize]> {
    match name {
        "CUdevResource" => Some(&[0, 96, 104]),
        _ => None,
    }
}

/// Handles for other processes, of which programs know the length only.
pub fn is_opaque(name: &str) -> bool {
    matches!(name, "CUipcMemHandle" | "CUipcEventHandle" | "CUmemPoolPtrExportData")
}

/// Words of a structure whose upper half is padding.
pub fn padded_words(name: &str) -> &'static [usize] {
    match name {
        "CUDA_KERNEL_NODE_PARAMS" | "CUDA_KERNEL_NODE_PARAMS_v1" => &[32],
        "CUDA_MEMCPY3D" => &[32, 120],
        _ => &[],
    }
}
