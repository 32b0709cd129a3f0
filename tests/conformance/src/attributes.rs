//! What names and types do not say: values of enumerations, which parameters are inputs, what is left out.

use vgpu_spec::api::{Function, base_name};

/// Would stop or replace the process, or has no parameters in the description that could be right.
pub const LEFT_OUT: &[&str] = &["cuProfilerInitialize", "cuMemGetAttribute", "cuMemGetAttribute_v2"];

/// All values of an enumeration and one more, by function and parameter.
pub fn values(f: &Function, parameter: &str) -> Option<Vec<u64>> {
    let range = match (f.base(), parameter) {
        ("cuDeviceGetAttribute", "attrib") => 1..150,
        (
            "cuFuncGetAttribute" | "cuKernelGetAttribute" | "cuFuncSetAttribute" | "cuKernelSetAttribute",
            "attrib",
        ) => 0..17,
        ("cuPointerGetAttribute" | "cuPointerSetAttribute", "attribute") => 1..23,
        ("cuMemPoolGetAttribute" | "cuMemPoolSetAttribute", "attr") => 1..14,
        ("cuCtxGetLimit" | "cuCtxSetLimit", "limit") => 1..12,
        ("cuStreamGetAttribute" | "cuStreamSetAttribute", "attr") => 1..18,
        ("cuGraphKernelNodeGetAttribute" | "cuGraphKernelNodeSetAttribute", "attr") => 1..18,
        ("cuDeviceGetP2PAttribute", "attrib") => 1..7,
        ("cuDeviceGetGraphMemAttribute" | "cuDeviceSetGraphMemAttribute", "attr") => 1..5,
        ("cuCoredumpGetAttribute" | "cuCoredumpGetAttributeGlobal", "attrib") => 1..12,
        ("cuMemRangeGetAttribute", "attribute") => 1..10,
        ("cuMemAdvise", "advice") => 1..8,
        ("cuDeviceGetExecAffinitySupport" | "cuCtxGetExecAffinity", "type") => 1..3,
        ("cuDeviceGetDevResource" | "cuCtxGetDevResource" | "cuGreenCtxGetDevResource", "type") => 0..4,
        ("cuCtxSetCacheConfig" | "cuFuncSetCacheConfig" | "cuKernelSetCacheConfig", "config") => 1..5,
        ("cuCtxSetSharedMemConfig" | "cuFuncSetSharedMemConfig", "config") => 1..4,
        ("cuMemGetAllocationGranularity" | "cuMulticastGetGranularity", "option") => 1..3,
        ("cuStreamBeginCapture" | "cuStreamBeginCaptureToGraph", "mode") => 1..4,
        ("cuGraphNodeSetEnabled", "isEnabled") => 0..3,
        ("cuTensorMapEncodeTiled" | "cuTensorMapEncodeIm2col", "tensorDataType") => 0..17,
        ("cuTensorMapEncodeTiled" | "cuTensorMapEncodeIm2col", "interleave" | "l2Promotion" | "oobFill") => {
            1..5
        }
        ("cuTensorMapEncodeTiled" | "cuTensorMapEncodeIm2col", "swizzle") => 1..7,
        ("cuTensorMapEncodeTiled" | "cuTensorMapEncodeIm2col", "tensorRank") => 1..7,
        ("cuMemGetDefaultMemPool" | "cuMemGetMemPool" | "cuMemSetMemPool", "type") => 0..5,
        ("cuFlushGPUDirectRDMAWrites", "scope") => 199..202,
        ("cuLinkAddData", "type") => 2..8,
        ("cuGetErrorName" | "cuGetErrorString", "error") => return Some(CODES.to_vec()),
        ("cuGetProcAddress", "cudaVersion") => 11999..12002,
        _ => return None,
    };
    Some(range.collect())
}

/// The error codes of CUDA 13.0, and some numbers between them.
#[rustfmt::skip]
const CODES: &[u64] = &[
    1, 2, 3, 4, 5, 6, 7, 8, 9, 34, 35, 36, 37, 46, 63, 100, 101, 102, 200, 201, 202, 203,
    204, 205, 206, 207, 208, 209, 210, 211, 212, 213, 214, 215, 216, 217, 218, 219, 220, 221, 222, 223, 224, 225,
    226, 227, 300, 301, 302, 303, 304, 333, 400, 401, 402, 500, 600, 700, 701, 702, 703, 704, 705, 708, 709, 710,
    711, 712, 713, 714, 715, 716, 717, 718, 719, 720, 721, 800, 801, 802, 803, 804, 805, 806, 807, 808, 809, 810,
    811, 812, 900, 901, 902, 903, 904, 905, 906, 907, 908, 909, 910, 911, 912, 913, 914, 915, 916, 917, 998, 999,
    1000,
];

/// Flags that a function takes besides 0.
pub fn flags(f: &Function) -> &'static [u64] {
    match f.base() {
        "cuEventCreate" => &[1, 2, 3, 4, 6, 8],
        "cuStreamCreate" | "cuStreamCreateWithPriority" => &[1, 2],
        "cuEventRecordWithFlags" | "cuStreamWaitEvent" => &[1, 2],
        "cuCtxCreate" | "cuDevicePrimaryCtxSetFlags" | "cuCtxSetFlags" => {
            &[1, 2, 3, 4, 8, 16, 32, 64, 128, 256]
        }
        "cuMemHostAlloc" | "cuMemHostRegister" => &[1, 2, 3, 4, 7, 8],
        "cuMemAllocManaged" | "cuStreamAttachMemAsync" => &[1, 2, 4],
        "cuGraphInstantiateWithFlags" => &[1, 2, 4, 8, 16],
        "cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags"
        | "cuOccupancyMaxPotentialBlockSizeWithFlags" => &[1],
        "cuStreamUpdateCaptureDependencies" => &[1, 2],
        "cuUserObjectCreate" | "cuGraphRetainUserObject" => &[1, 2],
        "cuGetProcAddress" => &[1, 2, 3],
        _ => &[1],
    }
}

/// Values with no good and bad, or whose bad ones wait for ever.
pub fn is_free_value(f: &Function, parameter: &str) -> bool {
    let base = f.base();
    (base.starts_with("cuStreamWaitValue") || base.starts_with("cuStreamWriteValue")) && parameter == "value"
        || base.starts_with("cuCheckpoint") && parameter == "pid"
        || matches!(parameter, "ui" | "us" | "uc" | "pixelBoxLowerCornerWidth" | "pixelBoxUpperCornerWidth")
}

/// Numbers that name an object as a handle does: kernels get them as parameters, so that they are the driver's own.
pub fn object(parameter: &str) -> Option<&'static str> {
    match parameter {
        "texObject" | "pTexObject" => Some("Texture"),
        "surfObject" | "pSurfObject" => Some("Surface"),
        _ => None,
    }
}

/// Structures that are read although the header's parameter is not const.
pub fn is_input(f: &Function, parameter: &str) -> bool {
    matches!(
        (f.base(), parameter),
        ("cuMemcpyBatchAsync", "attrs")
            | ("cuMemcpy3DBatchAsync", "opList")
            | ("cuMemBatchDecompressAsync", "paramsArray")
            | ("cuDevResourceGenerateDesc", "resources")
            | (
                "cuGraphAddMemAllocNode"
                    | "cuGraphAddNode"
                    | "cuGraphExecNodeSetParams"
                    | "cuGraphNodeSetParams",
                "nodeParams"
            )
            | ("cuGraphInstantiateWithParams", "instantiateParams")
            | ("cuMemPoolImportPointer", "shareData")
            | ("cuStreamBatchMemOp", "paramArray")
            | ("cuMemPrefetchBatchAsync" | "cuMemDiscardAndPrefetchBatchAsync", "prefetchLocs")
            | ("cuTensorMapReplaceAddress", "tensorMap")
            | ("cuMemMapArrayAsync", "mapInfoList")
            | ("cuLaunchCooperativeKernelMultiDevice", "launchParamsList")
            | ("cuCtxCreate", "paramsArray" | "ctxCreateParams")
    )
}

/// Functions after which fixtures are made anew.
pub fn ends_something(symbol: &str) -> bool {
    [
        "Destroy",
        "Unload",
        "Free",
        "Release",
        "Unmap",
        "Unregister",
        "Detach",
        "Reset",
        "EndCapture",
        "Complete",
        "IpcClose",
        "Remove",
    ]
    .iter()
    .any(|part| symbol.contains(part))
}

/// Functions whose good stream is one that captures.
pub fn wants_capture(symbol: &str) -> bool {
    [
        "cuStreamEndCapture",
        "cuStreamGetCaptureInfo",
        "cuStreamIsCapturing",
        "cuStreamUpdateCaptureDependencies",
    ]
    .iter()
    .any(|name| symbol.starts_with(name))
}

/// Functions that change what other cases of the process would see: a new process follows each case.
pub fn spoils_process(symbol: &str) -> bool {
    matches!(
        base_name(symbol),
        "cuDevicePrimaryCtxReset"
            | "cuDevicePrimaryCtxRelease"
            | "cuDevicePrimaryCtxSetFlags"
            | "cuCtxSetFlags"
            | "cuCtxDetach"
    ) || symbol.starts_with("cuCheckpointProcess")
}

/// Functions that change what other functions' cases would see: a new process follows the last of their cases.
pub fn spoils_others(symbol: &str) -> bool {
    matches!(
        base_name(symbol),
        "cuCtxSetLimit"
            | "cuCtxSetCacheConfig"
            | "cuCtxSetSharedMemConfig"
            | "cuDeviceSetMemPool"
            | "cuMemSetMemPool"
    )
}

/// Cases whose answer is a number that the driver counts up in each process: only whether it is one is shown.
pub fn counts_up(case: &str) -> bool {
    // CU_POINTER_ATTRIBUTE_BUFFER_ID and _MEMORY_BLOCK_ID.
    matches!(case, "cuPointerGetAttribute/attribute=7" | "cuPointerGetAttribute/attribute=20")
}

/// Numbers that differ from run to run.
pub fn is_volatile(symbol: &str, parameter: &str) -> bool {
    matches!(
        (base_name(symbol), parameter),
        ("cuCtxGetId" | "cuStreamGetId" | "cuGreenCtxGetId", _)
            | ("cuStreamGetCaptureInfo", "id_out")
            | ("cuMemGetInfo", "free")
            | (_, "pMilliseconds" | "tid" | "iterator_out" | "iterator")
            | (
                "cuMemAlloc" | "cuMemAllocPitch" | "cuMemGetAddressRange" | "cuModuleGetGlobal",
                "dptr" | "pbase"
            )
            | (
                "cuMemExportToShareableHandle"
                    | "cuMemPoolExportToShareableHandle"
                    | "cuMemGetHandleForAddressRange",
                _
            )
    )
}
