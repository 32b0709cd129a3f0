//! Good arguments where the type and the name are not enough.

use crate::{
    arguments::{Argument, Show, UNTOUCHED},
    fixtures::{Fixtures, text},
    kernels::KERNELS,
    memory::{Fields, Piece},
    structs,
};
use vgpu_spec::api::Function;

fn words(values: &[u64]) -> Argument {
    Argument::input(&values.iter().flat_map(|v| v.to_ne_bytes()).collect::<Vec<u8>>())
}

fn halves(values: &[u32]) -> Argument {
    Argument::input(&values.iter().flat_map(|v| v.to_ne_bytes()).collect::<Vec<u8>>())
}

/// A number that is read and written.
fn counter(value: u64) -> Option<Argument> {
    Some(Argument::output(&value.to_ne_bytes(), Show::Numbers("u64", 1)))
}

/// The run's folder for files, which goes when it ends.
fn folder() -> String {
    std::env::var(crate::run::FOLDER).unwrap_or_else(|_| "/tmp".into())
}

fn path(name: &str) -> u64 {
    text(&format!("{}/{}.{name}", folder(), std::process::id()))
}

/// The argument for a parameter, if it is a special one.
pub fn good(fx: &mut Fixtures, f: &Function, parameter: &str) -> Option<Argument> {
    let integer = |value| Some(Argument::integer(value));
    let written = |len| Some(Argument::output(&vec![UNTOUCHED; len], Show::Written));
    if let Some(argument) = by_parameter(fx, parameter) {
        return Some(argument);
    }
    match (f.base(), parameter) {
        // Device, entry
        ("cuDeviceGetByPCIBusId", "pciBusId") => {
            let place = Piece::filled(0).0;
            fx.driver.cu("cuDeviceGetPCIBusId", &[place, 64, 0]);
            integer(place)
        }
        ("cuDeviceGetAttribute", "attrib") => integer(16),
        ("cuDeviceGetLuid", "luid") => written(8),
        ("cuDeviceGetHostAtomicCapabilities" | "cuDeviceGetP2PAtomicCapabilities", "operations") => {
            Some(halves(&[0, 1]))
        }
        ("cuDeviceGetHostAtomicCapabilities" | "cuDeviceGetP2PAtomicCapabilities", "count") => integer(2),
        ("cuGetErrorName" | "cuGetErrorString" | "cuFuncGetName" | "cuKernelGetName", "pStr" | "name") => {
            Some(Argument::output(&[UNTOUCHED; 8], Show::TextPointer))
        }
        ("cuGetErrorName" | "cuGetErrorString", "error") => integer(0),
        ("cuGetProcAddress", "symbol") => integer(text("cuMemAlloc")),
        ("cuGetProcAddress", "cudaVersion") => integer(13000),
        ("cuGetExportTable", "ppExportTable") => Some(Argument::output(&[UNTOUCHED; 8], Show::Handles(1))),
        // Contexts
        ("cuCtxCreate", "paramsArray" | "ctxCreateParams") => integer(0),
        ("cuCtxDestroy" | "cuCtxDetach" | "cuCtxPushCurrent", "ctx") => integer(fx.get("other context")),
        ("cuCtxSetLimit", "value") => integer(2048),
        ("cuFlushGPUDirectRDMAWrites", "scope") => integer(100),
        ("cuDevicePrimaryCtxSetFlags", "flags") => integer(0),
        ("cuThreadExchangeStreamCaptureMode", "mode") => {
            Some(Argument::output(&0u32.to_ne_bytes(), Show::Numbers("u32", 1)))
        }
        // Events
        ("cuEventElapsedTime", "hEnd") => integer(fx.get("other event")),
        ("cuIpcGetEventHandle", "event") => integer(fx.get("interprocess event")),
        // Images
        ("cuModuleLoadData" | "cuModuleLoadDataEx" | "cuModuleLoadFatBinary", "image" | "fatCubin")
        | ("cuLibraryLoadData", "code")
        | ("cuLinkAddData", "data") => integer(KERNELS.as_ptr().expose_provenance() as u64),
        ("cuModuleLoad", "fname") | ("cuLibraryLoadFromFile", "fileName") | ("cuLinkAddFile", "path") => {
            integer(image_file())
        }
        ("cuLinkAddData", "size") => integer(KERNELS.to_bytes_with_nul().len() as u64),
        ("cuLinkAddData" | "cuLinkAddFile", "type") => integer(1),
        ("cuModuleGetGlobal" | "cuLibraryGetGlobal" | "cuLibraryGetManaged", "name") => {
            integer(text("counter"))
        }
        ("cuModuleEnumerateFunctions", "functions") | ("cuLibraryEnumerateKernels", "kernels") => written(64),
        ("cuFuncSetAttribute" | "cuKernelSetAttribute", "attrib") => integer(8),
        ("cuFuncSetAttribute", "value") | ("cuKernelSetAttribute", "val") => integer(1024),
        ("cuOccupancyMaxActiveClusters" | "cuOccupancyMaxPotentialClusterSize", "config") => {
            let config = structs::good(fx, "CUlaunchConfig");
            // One attribute: clusters of 1.
            let cluster = Piece::with(&Fields::new(72).u32(0, 4).u32(8, 1).u32(12, 1).u32(16, 1).0).0;
            Some(Argument::input(&Fields(config).u64(40, cluster).u32(48, 1).0))
        }
        (
            "cuOccupancyMaxPotentialBlockSize" | "cuOccupancyMaxPotentialBlockSizeWithFlags",
            "blockSizeToDynamicSMemSize",
        ) => integer(0),
        // Memory
        ("cuMemFree", "dptr") if f.name != "cuMemFree" => integer(fx.get("memory")),
        ("cuMemFreeAsync", "dptr") => integer(fx.get("stream memory")),
        ("cuMemFreeHost" | "cuMemHostGetFlags" | "cuMemHostGetDevicePointer", "p") => {
            integer(fx.get("pinned"))
        }
        ("cuMemHostRegister", "p") => integer(fx.get("unregistered")),
        ("cuMemHostUnregister", "p") => integer(fx.get("registered")),
        ("cuMemGetHandleForAddressRange", "handle") => written(8),
        ("cuMemGetHandleForAddressRange", "dptr") => integer(fx.get("mapped")),
        ("cuMemGetHandleForAddressRange", "handleType") => integer(1),
        ("cuMemAddressFree" | "cuMemMap", "ptr") => integer(fx.get("reserved")),
        ("cuMemUnmap" | "cuMemSetAccess" | "cuMemGetAccess", "ptr") => integer(fx.get("mapped")),
        ("cuMemRetainAllocationHandle", "addr") => integer(fx.get("mapped")),
        ("cuMemAddressReserve", "addr") => integer(0),
        (
            "cuMemAddressFree"
            | "cuMemMap"
            | "cuMemUnmap"
            | "cuMemSetAccess"
            | "cuMemAddressReserve"
            | "cuMemCreate"
            | "cuMemGetHandleForAddressRange"
            | "cuMulticastBindMem"
            | "cuMulticastBindAddr"
            | "cuMulticastUnbind",
            "size",
        ) => integer(2 << 20),
        ("cuMemExportToShareableHandle", "handle") => integer(fx.get("exportable allocation")),
        ("cuMemExportToShareableHandle", "shareableHandle")
        | ("cuMemPoolExportToShareableHandle", "handle_out") => written(8),
        ("cuMemPoolExportToShareableHandle", "pool") => integer(fx.get("exportable pool")),
        (
            "cuMemExportToShareableHandle"
            | "cuMemPoolExportToShareableHandle"
            | "cuMemPoolImportFromShareableHandle",
            "handleType",
        )
        | ("cuMemImportFromShareableHandle", "shHandleType") => integer(1),
        ("cuMemImportFromShareableHandle", "osHandle") | ("cuMemPoolImportFromShareableHandle", "handle") => {
            integer(u64::from(u32::MAX))
        }
        (
            "cuMemPoolGetAttribute"
            | "cuMemPoolSetAttribute"
            | "cuDeviceGetGraphMemAttribute"
            | "cuDeviceSetGraphMemAttribute",
            "value",
        ) => Some(Argument::output(&[0; 8], Show::Numbers("u64", 1))),
        ("cuMemPoolGetAttribute" | "cuMemPoolSetAttribute", "attr") => integer(4),
        ("cuMemGetDefaultMemPool" | "cuMemGetMemPool" | "cuMemSetMemPool", "type") => integer(1),
        ("cuPointerGetAttribute", "data") => Some(Argument::output(&[0; 16], Show::Struct(16, &[], &[]))),
        ("cuPointerGetAttribute", "attribute") => integer(2),
        ("cuPointerSetAttribute", "attribute") => integer(6),
        ("cuPointerSetAttribute", "value") => Some(words(&[1])),
        ("cuPointerGetAttributes", "numAttributes") => integer(2),
        ("cuPointerGetAttributes", "attributes") => Some(halves(&[2, 9])),
        ("cuPointerGetAttributes", "data") => {
            let places = Piece::filled(0);
            places.write(0, &(places.0 + 16).to_ne_bytes());
            places.write(8, &(places.0 + 24).to_ne_bytes());
            Some(Argument {
                output: Some((places, Show::Struct(32, &[0, 8], &[]))),
                ..Argument::integer(places.0)
            })
        }
        (
            "cuMemAdvise"
            | "cuMemPrefetchAsync"
            | "cuMemRangeGetAttribute"
            | "cuMemRangeGetAttributes"
            | "cuStreamAttachMemAsync",
            "devPtr" | "dptr",
        ) => integer(fx.get("managed")),
        ("cuMemAllocManaged", "flags") => integer(1),
        ("cuStreamAttachMemAsync", "flags") => integer(4),
        ("cuStreamAttachMemAsync", "length") => integer(0),
        ("cuMemAdvise", "advice") => integer(1),
        ("cuMemRangeGetAttribute", "data") => Some(Argument::output(&[0; 4], Show::Numbers("i32", 1))),
        ("cuMemRangeGetAttribute", "dataSize") => integer(4),
        ("cuMemRangeGetAttribute", "attribute") => integer(1),
        ("cuMemRangeGetAttributes", "attributes") => Some(halves(&[1])),
        ("cuMemRangeGetAttributes", "dataSizes") => Some(words(&[4])),
        ("cuMemRangeGetAttributes", "data") => Some(words(&[Piece::filled(0).0])),
        ("cuMemRangeGetAttributes", "numAttributes") => integer(1),
        (
            "cuMemPrefetchBatchAsync" | "cuMemDiscardAndPrefetchBatchAsync" | "cuMemDiscardBatchAsync",
            "dptrs",
        ) => Some(words(&[fx.get("managed")])),
        (
            "cuMemRangeGetAttribute" | "cuMemRangeGetAttributes" | "cuMemAdvise" | "cuMemPrefetchAsync",
            "count",
        ) => integer(4096),
        ("cuMemcpyBatchAsync", "dsts") => Some(words(&[fx.get("other memory")])),
        ("cuMemcpyBatchAsync", "srcs") => Some(words(&[fx.get("memory")])),
        (
            "cuMemcpyBatchAsync"
            | "cuMemPrefetchBatchAsync"
            | "cuMemDiscardAndPrefetchBatchAsync"
            | "cuMemDiscardBatchAsync",
            "sizes",
        ) => Some(words(&[256])),
        (
            "cuMemcpyBatchAsync" | "cuMemPrefetchBatchAsync" | "cuMemDiscardAndPrefetchBatchAsync",
            "attrsIdxs" | "prefetchLocIdxs",
        ) => Some(words(&[0])),
        _ => more(fx, f, parameter),
    }
}

/// The same in every function.
fn by_parameter(fx: &mut Fixtures, parameter: &str) -> Option<Argument> {
    Some(match parameter {
        "kernelParams" => Argument::integer(fx.get("kernel parameters")),
        "extra"
        | "jitOptions"
        | "jitOptionsValues"
        | "libraryOptions"
        | "libraryOptionValues"
        | "options"
        | "optionValues" => Argument::integer(0),
        "numJitOptions" | "numLibraryOptions" | "numOptions" | "numDependencies_in" => Argument::integer(0),
        _ => return None,
    })
}

/// Graphs, streams, the rest.
fn more(fx: &mut Fixtures, f: &Function, parameter: &str) -> Option<Argument> {
    let integer = |value| Some(Argument::integer(value));
    let base = f.base();
    if parameter == "hNode" || parameter == "hOriginalNode" {
        return integer(fx.get(node_of(base)));
    }
    match (base, parameter) {
        ("cuGraphAddDependencies" | "cuGraphRemoveDependencies", "from") => {
            Some(words(&[fx.get("kernel node")]))
        }
        ("cuGraphRemoveDependencies", "to") => Some(words(&[fx.get("empty node")])),
        ("cuGraphAddDependencies", "to") => Some(words(&[fx.get("copy node")])),
        ("cuGraphAddDependencies" | "cuGraphRemoveDependencies", "hGraph") => integer(fx.get("Graph")),
        ("cuGraphAddDependencies" | "cuGraphRemoveDependencies", "numDependencies") => integer(1),
        (_, "numNodes" | "numRootNodes" | "numEdges" | "numDependentNodes") => counter(8),
        ("cuGraphNodeGetDependencies", "numDependencies") => counter(8),
        (
            "cuGraphGetNodes" | "cuGraphGetRootNodes" | "cuGraphGetEdges",
            "nodes" | "rootNodes" | "from" | "to",
        )
        | (
            "cuGraphNodeGetDependencies" | "cuGraphNodeGetDependentNodes",
            "dependencies" | "dependentNodes",
        ) => Some(Argument::output(&[0; 64], Show::Handles(8))),
        ("cuGraphAddChildGraphNode" | "cuGraphExecChildGraphNodeSetParams", "childGraph") => {
            integer(fx.get("small graph"))
        }
        ("cuGraphAddMemFreeNode", "dptr") => integer(fx.get("stream memory")),
        ("cuGraphAddMemAllocNode" | "cuGraphAddMemFreeNode", "hGraph") => integer(fx.get("allocating graph")),
        ("cuGraphClone" | "cuGraphDestroy", "originalGraph" | "hGraph") => integer(fx.get("other graph")),
        ("cuGraphKernelNodeCopyAttributes", "dst" | "src") => integer(fx.get("kernel node")),
        ("cuGraphNodeFindInClone", "hClonedGraph") => integer(fx.get("graph clone")),
        ("cuGraphKernelNodeGetAttribute" | "cuGraphKernelNodeSetAttribute", "attr") => integer(2),
        ("cuGraphDebugDotPrint", "path") | ("cuLogsDumpToFile", "pathToFile") => integer(path("out")),
        ("cuGraphInstantiate", "logBuffer") => Some(Argument::output(&[0; 256], Show::Text)),
        ("cuGraphConditionalHandleCreate", "pHandle_out") => {
            Some(Argument::output(&[UNTOUCHED; 8], Show::Handles(1)))
        }
        ("cuGraphConditionalHandleCreate", "hGraph") => integer(fx.get("small graph")),
        (
            "cuGraphRetainUserObject"
            | "cuGraphReleaseUserObject"
            | "cuUserObjectRelease"
            | "cuUserObjectRetain",
            "count",
        ) => integer(1),
        ("cuUserObjectCreate" | "cuGraphRetainUserObject", "flags") => {
            integer(u64::from(base == "cuUserObjectCreate"))
        }
        ("cuStreamGetAttribute" | "cuStreamSetAttribute", "attr") => integer(3),
        ("cuStreamSetAttribute", "param") => Some(Argument::input(&Fields::new(64).u32(0, 1).0)),
        ("cuStreamCopyAttributes", "dstStream") => integer(fx.get("other stream")),
        ("cuStreamBeginCaptureToGraph", "hGraph") => integer(fx.get("other graph")),
        ("cuStreamWaitValue32" | "cuStreamWaitValue64", "value") => integer(0),
        ("cuTensorMapEncodeTiled" | "cuTensorMapEncodeIm2col" | "cuTensorMapEncodeIm2colWide", _) => {
            tensor(fx, parameter)
        }
        ("cuTensorMapReplaceAddress", "tensorMap") => {
            Some(Argument::output(&encoded(fx), Show::Struct(128, &[0], &[])))
        }
        (_, "globalAddress") => integer(fx.get("memory")),
        // Green contexts
        ("cuDevResourceGenerateDesc", "resources") | ("cuDevSmResourceSplitByCount", "input") => {
            integer(fx.get("device resource"))
        }
        ("cuDeviceGetDevResource" | "cuCtxGetDevResource" | "cuGreenCtxGetDevResource", "type") => integer(1),
        ("cuDevSmResourceSplitByCount", "nbGroups") => {
            Some(Argument::output(&1u32.to_ne_bytes(), Show::Numbers("u32", 1)))
        }
        ("cuGreenCtxCreate" | "cuGreenCtxStreamCreate", "flags") => integer(1),
        // Other processes and files
        ("cuCheckpointProcessGetState" | "cuCheckpointProcessGetRestoreThreadId", "pid") => {
            integer(u64::from(std::process::id()))
        }
        (_, "pid") => integer(0x7fff_fff0),
        ("cuCoredumpGetAttribute" | "cuCoredumpGetAttributeGlobal", "value") => {
            Some(Argument::output(&[0; 64], Show::Struct(8, &[], &[])))
        }
        (
            "cuCoredumpGetAttribute"
            | "cuCoredumpGetAttributeGlobal"
            | "cuCoredumpSetAttribute"
            | "cuCoredumpSetAttributeGlobal",
            "size",
        ) => Some(Argument::output(&1u64.to_ne_bytes(), Show::Numbers("u64", 1))),
        ("cuCoredumpGetAttribute" | "cuCoredumpGetAttributeGlobal", "attrib") => integer(1),
        ("cuCoredumpSetAttribute" | "cuCoredumpSetAttributeGlobal", "attrib") => integer(3),
        ("cuLogsDumpToFile" | "cuLogsDumpToMemory", "iterator") => integer(0),
        ("cuLogsDumpToMemory", "size") => Some(Argument::output(&25600u64.to_ne_bytes(), Show::Written)),
        ("cuLogsDumpToMemory", "buffer") => Some(Argument::output(&[0; 8], Show::Nothing)),
        // Textures
        ("cuTexObjectCreate", "pResViewDesc") => integer(0),
        ("cuTexRefSetArray" | "cuTexRefSetMipmappedArray" | "cuSurfRefSetArray", "Flags") => integer(1),
        ("cuTexRefSetBorderColor", "pBorderColor") => Some(halves(&[0, 0, 0, 0])),
        ("cuTexRefGetBorderColor", "pBorderColor") => {
            Some(Argument::output(&[UNTOUCHED; 16], Show::Numbers("f32", 4)))
        }
        ("cuTexRefSetAddress2D", "Pitch") => integer(512),
        ("cuSurfObjectCreate", "pResDesc") => {
            let array = fx.get("surface array");
            Some(Argument::input(&crate::fixtures::resource(array)))
        }
        _ => None,
    }
}

fn node_of(base: &str) -> &'static str {
    for (part, node) in [
        ("KernelNode", "kernel node"),
        ("MemcpyNode", "copy node"),
        ("MemsetNode", "memset node"),
        ("HostNode", "host node"),
        ("ChildGraphNode", "child node"),
        ("EventRecordNode", "record node"),
        ("EventWaitNode", "wait node"),
        ("BatchMemOpNode", "batch node"),
        ("MemAllocNode", "alloc node"),
        ("MemFreeNode", "free node"),
    ] {
        if base.contains(part) {
            return node;
        }
    }
    "kernel node"
}

/// A tensor of 64 × 64 32-bit numbers, in boxes of 16 × 16.
fn tensor(fx: &mut Fixtures, parameter: &str) -> Option<Argument> {
    Some(match parameter {
        "tensorDataType" => Argument::integer(2),
        "tensorRank" => Argument::integer(2),
        "globalAddress" => Argument::integer(fx.get("memory")),
        "globalDim" => words(&[64, 64, 64, 64, 64]),
        "globalStrides" => words(&[256, 256 * 64, 256 * 4096, 256 * 4096 * 64]),
        "boxDim" => halves(&[16, 16, 1, 1, 1]),
        "elementStrides" => halves(&[1, 1, 1, 1, 1]),
        "channelsPerPixel" | "pixelsPerColumn" => Argument::integer(16),
        _ => return None,
    })
}

fn encoded(fx: &mut Fixtures) -> Vec<u8> {
    let place = Piece::filled(0);
    let mut word = |name| match tensor(fx, name).map(|a| a.value) {
        Some(crate::arguments::Value::Integer(n)) => n,
        _ => 0,
    };
    let arguments = [
        place.0,
        word("tensorDataType"),
        word("tensorRank"),
        word("globalAddress"),
        word("globalDim"),
        word("globalStrides"),
        word("boxDim"),
        word("elementStrides"),
    ];
    fx.driver.cu("cuTensorMapEncodeTiled", &arguments);
    place.read(0, 128)
}

/// The kernels in a file.
fn image_file() -> u64 {
    let name = format!("{}/{}.ptx", folder(), std::process::id());
    // If it cannot be written, the case says so with its code.
    let _ = std::fs::write(&name, KERNELS.to_bytes());
    text(&name)
}
