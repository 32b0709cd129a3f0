//! What `cuDeviceGetAttribute` answers, attribute by attribute.
//!
//! Where nothing is claimed that softgpu cannot keep, the value is an H100's. What softgpu lacks (cooperative launch,
//! clusters) is 0.

/// How an attribute's value is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// The same for every device.
    Fixed(i32),
    /// The number of streaming multiprocessors that the device claims.
    Sms,
    /// PCI domain of the made-up address.
    PciDomain,
    /// PCI bus of the made-up address.
    PciBus,
    /// PCI device of the made-up address.
    PciDevice,
}

use Value::Fixed;

/// The value of `CUdevice_attribute` number `attribute`; none for a number that CUDA 13.0 does not know.
pub fn find(attribute: u32) -> Option<Value> {
    let index = usize::try_from(attribute.checked_sub(1)?).ok()?;
    TABLE.get(index).map(|row| row.1)
}

/// By number, without gaps.
#[rustfmt::skip]
const TABLE: &[(u32, Value)] = &[
    (1, Fixed(1024)), // MAX_THREADS_PER_BLOCK
    (2, Fixed(1024)), // MAX_BLOCK_DIM_X
    (3, Fixed(1024)), // MAX_BLOCK_DIM_Y
    (4, Fixed(64)), // MAX_BLOCK_DIM_Z
    (5, Fixed(2147483647)), // MAX_GRID_DIM_X
    (6, Fixed(65535)), // MAX_GRID_DIM_Y
    (7, Fixed(65535)), // MAX_GRID_DIM_Z
    (8, Fixed(49152)), // MAX_SHARED_MEMORY_PER_BLOCK
    (9, Fixed(65536)), // TOTAL_CONSTANT_MEMORY
    (10, Fixed(32)), // WARP_SIZE
    (11, Fixed(2147483647)), // MAX_PITCH
    (12, Fixed(65536)), // MAX_REGISTERS_PER_BLOCK
    (13, Fixed(1000000)), // CLOCK_RATE
    (14, Fixed(512)), // TEXTURE_ALIGNMENT
    (15, Fixed(1)), // GPU_OVERLAP
    (16, Value::Sms), // MULTIPROCESSOR_COUNT
    (17, Fixed(0)), // KERNEL_EXEC_TIMEOUT
    (18, Fixed(0)), // INTEGRATED
    (19, Fixed(1)), // CAN_MAP_HOST_MEMORY
    (20, Fixed(0)), // COMPUTE_MODE
    (21, Fixed(131072)), // MAXIMUM_TEXTURE1D_WIDTH
    (22, Fixed(131072)), // MAXIMUM_TEXTURE2D_WIDTH
    (23, Fixed(65536)), // MAXIMUM_TEXTURE2D_HEIGHT
    (24, Fixed(16384)), // MAXIMUM_TEXTURE3D_WIDTH
    (25, Fixed(16384)), // MAXIMUM_TEXTURE3D_HEIGHT
    (26, Fixed(16384)), // MAXIMUM_TEXTURE3D_DEPTH
    (27, Fixed(32768)), // MAXIMUM_TEXTURE2D_LAYERED_WIDTH
    (28, Fixed(32768)), // MAXIMUM_TEXTURE2D_LAYERED_HEIGHT
    (29, Fixed(2048)), // MAXIMUM_TEXTURE2D_LAYERED_LAYERS
    (30, Fixed(512)), // SURFACE_ALIGNMENT
    (31, Fixed(1)), // CONCURRENT_KERNELS
    (32, Fixed(0)), // ECC_ENABLED
    (33, Value::PciBus), // PCI_BUS_ID
    (34, Value::PciDevice), // PCI_DEVICE_ID
    (35, Fixed(0)), // TCC_DRIVER
    (36, Fixed(1000000)), // MEMORY_CLOCK_RATE
    (37, Fixed(64)), // GLOBAL_MEMORY_BUS_WIDTH
    (38, Fixed(1048576)), // L2_CACHE_SIZE
    (39, Fixed(2048)), // MAX_THREADS_PER_MULTIPROCESSOR
    (40, Fixed(1)), // ASYNC_ENGINE_COUNT
    (41, Fixed(1)), // UNIFIED_ADDRESSING
    (42, Fixed(32768)), // MAXIMUM_TEXTURE1D_LAYERED_WIDTH
    (43, Fixed(2048)), // MAXIMUM_TEXTURE1D_LAYERED_LAYERS
    (44, Fixed(1)), // CAN_TEX2D_GATHER
    (45, Fixed(32768)), // MAXIMUM_TEXTURE2D_GATHER_WIDTH
    (46, Fixed(32768)), // MAXIMUM_TEXTURE2D_GATHER_HEIGHT
    (47, Fixed(8192)), // MAXIMUM_TEXTURE3D_WIDTH_ALTERNATE
    (48, Fixed(8192)), // MAXIMUM_TEXTURE3D_HEIGHT_ALTERNATE
    (49, Fixed(32768)), // MAXIMUM_TEXTURE3D_DEPTH_ALTERNATE
    (50, Value::PciDomain), // PCI_DOMAIN_ID
    (51, Fixed(32)), // TEXTURE_PITCH_ALIGNMENT
    (52, Fixed(32768)), // MAXIMUM_TEXTURECUBEMAP_WIDTH
    (53, Fixed(32768)), // MAXIMUM_TEXTURECUBEMAP_LAYERED_WIDTH
    (54, Fixed(2046)), // MAXIMUM_TEXTURECUBEMAP_LAYERED_LAYERS
    (55, Fixed(32768)), // MAXIMUM_SURFACE1D_WIDTH
    (56, Fixed(131072)), // MAXIMUM_SURFACE2D_WIDTH
    (57, Fixed(65536)), // MAXIMUM_SURFACE2D_HEIGHT
    (58, Fixed(16384)), // MAXIMUM_SURFACE3D_WIDTH
    (59, Fixed(16384)), // MAXIMUM_SURFACE3D_HEIGHT
    (60, Fixed(16384)), // MAXIMUM_SURFACE3D_DEPTH
    (61, Fixed(32768)), // MAXIMUM_SURFACE1D_LAYERED_WIDTH
    (62, Fixed(2048)), // MAXIMUM_SURFACE1D_LAYERED_LAYERS
    (63, Fixed(32768)), // MAXIMUM_SURFACE2D_LAYERED_WIDTH
    (64, Fixed(32768)), // MAXIMUM_SURFACE2D_LAYERED_HEIGHT
    (65, Fixed(2048)), // MAXIMUM_SURFACE2D_LAYERED_LAYERS
    (66, Fixed(32768)), // MAXIMUM_SURFACECUBEMAP_WIDTH
    (67, Fixed(32768)), // MAXIMUM_SURFACECUBEMAP_LAYERED_WIDTH
    (68, Fixed(2046)), // MAXIMUM_SURFACECUBEMAP_LAYERED_LAYERS
    (69, Fixed(268435456)), // MAXIMUM_TEXTURE1D_LINEAR_WIDTH
    (70, Fixed(131072)), // MAXIMUM_TEXTURE2D_LINEAR_WIDTH
    (71, Fixed(65000)), // MAXIMUM_TEXTURE2D_LINEAR_HEIGHT
    (72, Fixed(2097120)), // MAXIMUM_TEXTURE2D_LINEAR_PITCH
    (73, Fixed(32768)), // MAXIMUM_TEXTURE2D_MIPMAPPED_WIDTH
    (74, Fixed(32768)), // MAXIMUM_TEXTURE2D_MIPMAPPED_HEIGHT
    (75, Fixed(9)), // COMPUTE_CAPABILITY_MAJOR
    (76, Fixed(0)), // COMPUTE_CAPABILITY_MINOR
    (77, Fixed(32768)), // MAXIMUM_TEXTURE1D_MIPMAPPED_WIDTH
    (78, Fixed(1)), // STREAM_PRIORITIES_SUPPORTED
    (79, Fixed(1)), // GLOBAL_L1_CACHE_SUPPORTED
    (80, Fixed(1)), // LOCAL_L1_CACHE_SUPPORTED
    (81, Fixed(233472)), // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
    (82, Fixed(65536)), // MAX_REGISTERS_PER_MULTIPROCESSOR
    (83, Fixed(1)), // MANAGED_MEMORY
    (84, Fixed(0)), // MULTI_GPU_BOARD
    (85, Fixed(0)), // MULTI_GPU_BOARD_GROUP_ID
    (86, Fixed(0)), // HOST_NATIVE_ATOMIC_SUPPORTED
    (87, Fixed(2)), // SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO
    (88, Fixed(0)), // PAGEABLE_MEMORY_ACCESS
    (89, Fixed(1)), // CONCURRENT_MANAGED_ACCESS
    (90, Fixed(0)), // COMPUTE_PREEMPTION_SUPPORTED
    (91, Fixed(1)), // CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM
    (92, Fixed(0)), // CAN_USE_STREAM_MEM_OPS_V1
    (93, Fixed(0)), // CAN_USE_64_BIT_STREAM_MEM_OPS_V1
    (94, Fixed(0)), // CAN_USE_STREAM_WAIT_VALUE_NOR_V1
    (95, Fixed(0)), // COOPERATIVE_LAUNCH
    (96, Fixed(0)), // COOPERATIVE_MULTI_DEVICE_LAUNCH
    (97, Fixed(232448)), // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    (98, Fixed(0)), // CAN_FLUSH_REMOTE_WRITES
    (99, Fixed(1)), // HOST_REGISTER_SUPPORTED
    (100, Fixed(0)), // PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES
    (101, Fixed(0)), // DIRECT_MANAGED_MEM_ACCESS_FROM_HOST
    (102, Fixed(1)), // VIRTUAL_ADDRESS_MANAGEMENT_SUPPORTED
    (103, Fixed(1)), // HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED
    (104, Fixed(0)), // HANDLE_TYPE_WIN32_HANDLE_SUPPORTED
    (105, Fixed(0)), // HANDLE_TYPE_WIN32_KMT_HANDLE_SUPPORTED
    (106, Fixed(32)), // MAX_BLOCKS_PER_MULTIPROCESSOR
    (107, Fixed(0)), // GENERIC_COMPRESSION_SUPPORTED
    (108, Fixed(0)), // MAX_PERSISTING_L2_CACHE_SIZE
    (109, Fixed(0)), // MAX_ACCESS_POLICY_WINDOW_SIZE
    (110, Fixed(0)), // GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED
    (111, Fixed(1024)), // RESERVED_SHARED_MEMORY_PER_BLOCK
    (112, Fixed(0)), // SPARSE_CUDA_ARRAY_SUPPORTED
    (113, Fixed(1)), // READ_ONLY_HOST_REGISTER_SUPPORTED
    (114, Fixed(0)), // TIMELINE_SEMAPHORE_INTEROP_SUPPORTED
    (115, Fixed(1)), // MEMORY_POOLS_SUPPORTED
    (116, Fixed(0)), // GPU_DIRECT_RDMA_SUPPORTED
    (117, Fixed(0)), // GPU_DIRECT_RDMA_FLUSH_WRITES_OPTIONS
    (118, Fixed(0)), // GPU_DIRECT_RDMA_WRITES_ORDERING
    (119, Fixed(1)), // MEMPOOL_SUPPORTED_HANDLE_TYPES
    (120, Fixed(0)), // CLUSTER_LAUNCH
    (121, Fixed(0)), // DEFERRED_MAPPING_CUDA_ARRAY_SUPPORTED
    (122, Fixed(0)), // CAN_USE_64_BIT_STREAM_MEM_OPS
    (123, Fixed(0)), // CAN_USE_STREAM_WAIT_VALUE_NOR
    (124, Fixed(0)), // DMA_BUF_SUPPORTED
    (125, Fixed(1)), // IPC_EVENT_SUPPORTED
    (126, Fixed(1)), // MEM_SYNC_DOMAIN_COUNT
    (127, Fixed(0)), // TENSOR_MAP_ACCESS_SUPPORTED
    (128, Fixed(0)), // HANDLE_TYPE_FABRIC_SUPPORTED
    (129, Fixed(0)), // UNIFIED_FUNCTION_POINTERS
    (130, Fixed(0)), // NUMA_CONFIG
    (131, Fixed(-1)), // NUMA_ID
    (132, Fixed(0)), // MULTICAST_SUPPORTED
    (133, Fixed(0)), // MPS_ENABLED
    (134, Fixed(0)), // HOST_NUMA_ID
    (135, Fixed(0)), // D3D12_CIG_SUPPORTED
    (136, Fixed(0)), // MEM_DECOMPRESS_ALGORITHM_MASK
    (137, Fixed(0)), // MEM_DECOMPRESS_MAXIMUM_LENGTH
    (138, Fixed(0)), // VULKAN_CIG_SUPPORTED
    (139, Fixed(0)), // GPU_PCI_DEVICE_ID
    (140, Fixed(0)), // GPU_PCI_SUBSYSTEM_ID
    (141, Fixed(0)), // HOST_NUMA_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
    (142, Fixed(0)), // HOST_NUMA_MEMORY_POOLS_SUPPORTED
    (143, Fixed(0)), // HOST_NUMA_MULTINODE_IPC_SUPPORTED
    (144, Fixed(0)), // HOST_MEMORY_POOLS_SUPPORTED
    (145, Fixed(0)), // HOST_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
    (146, Fixed(0)), // HOST_ALLOC_DMA_BUF_SUPPORTED
    (147, Fixed(0)), // ONLY_PARTIAL_HOST_NATIVE_ATOMIC_SUPPORTED
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_no_gap() {
        for (row, number) in TABLE.iter().zip(1..) {
            assert_eq!(row.0, number);
        }
        assert_eq!(find(75), Some(Fixed(9)));
        assert_eq!(find(0), None);
        assert_eq!(find(148), None);
    }
}
