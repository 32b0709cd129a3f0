//! Good handles and memory, made when first asked for.

use crate::{
    driver::Driver,
    kernels::KERNELS,
    memory::{Fields, Piece},
};
use std::{collections::HashMap, ffi::CString};

/// Does nothing: host function, stream callback, destructor, size function.
pub extern "C" fn nothing() -> usize {
    0
}

/// What exists in this process. A fixture that the driver refuses is 0.
pub struct Fixtures<'d> {
    pub driver: &'d Driver,
    made: HashMap<&'static str, u64>,
    /// Nothing may be made any more, or nothing can: before cuInit.
    pub frozen: bool,
}

/// Functions that end a handle, for stale ones: kind, function, more arguments.
const DESTROYERS: &[(&str, &str)] = &[
    ("Context", "cuCtxDestroy_v2"),
    ("Stream", "cuStreamDestroy_v2"),
    ("Event", "cuEventDestroy_v2"),
    ("Module", "cuModuleUnload"),
    ("Library", "cuLibraryUnload"),
    ("Graph", "cuGraphDestroy"),
    ("GraphExec", "cuGraphExecDestroy"),
    ("GraphNode", "cuGraphDestroyNode"),
    ("MemoryPool", "cuMemPoolDestroy"),
    ("Array", "cuArrayDestroy"),
    ("MipmappedArray", "cuMipmappedArrayDestroy"),
    ("Texture", "cuTexObjectDestroy"),
    ("Surface", "cuSurfObjectDestroy"),
    ("TextureReference", "cuTexRefDestroy"),
    ("LinkState", "cuLinkDestroy"),
    ("GreenContext", "cuGreenCtxDestroy"),
    ("Allocation", "cuMemRelease"),
    ("DevPtr", "cuMemFree_v2"),
];

/// Whether a stale handle of this kind can be made.
pub fn can_be_stale(kind: &str) -> bool {
    DESTROYERS.iter().any(|d| d.0 == kind)
}

impl<'d> Fixtures<'d> {
    pub fn new(driver: &'d Driver) -> Self {
        Fixtures { driver, made: HashMap::new(), frozen: false }
    }

    /// Initialises the driver, makes the main context and makes it current.
    pub fn start(&mut self) -> u32 {
        let code = self.driver.cu("cuInit", &[0]);
        if code == 0 {
            self.get("Context");
        }
        code
    }

    /// The fixture's name, if the value is one's.
    pub fn name_of(&self, value: u64) -> Option<&'static str> {
        // Several kinds can have one value: the first name in order, so that it is the same each time.
        self.made.iter().filter(|(_, v)| **v == value && value != 0).map(|(name, _)| *name).min()
    }

    /// Forgets all but what the process has once, so that the next case gets new ones.
    pub fn renew(&mut self) {
        self.made.retain(|name, _| matches!(*name, "Context" | "host"));
    }

    pub fn get(&mut self, name: &'static str) -> u64 {
        if let Some(value) = self.made.get(name) {
            return *value;
        }
        if self.frozen {
            return 0;
        }
        let value = self.make(name);
        self.made.insert(name, value);
        value
    }

    /// A handle of this kind that was destroyed.
    pub fn stale(&mut self, kind: &'static str) -> u64 {
        let Some((_, destroyer)) = DESTROYERS.iter().find(|d| d.0 == kind) else { return 0 };
        let value = match kind {
            "Context" => self.make("other context"),
            "Graph" => self.make("other graph"),
            "GraphNode" => {
                let graph = self.get("Graph");
                self.out("cuGraphAddEmptyNode", |p| vec![p, graph, 0, 0])
            }
            _ => self.make(kind),
        };
        self.driver.cu(destroyer, &[value]);
        value
    }

    /// Calls a function that writes a handle or address through the pointer that `arguments` is given.
    fn out(&self, function: &str, arguments: impl FnOnce(u64) -> Vec<u64>) -> u64 {
        let place = Piece::filled(0);
        let words = arguments(place.0);
        if self.driver.cu(function, &words) == 0 { place.word(0) } else { 0 }
    }

    fn make(&mut self, name: &'static str) -> u64 {
        match name {
            "host" => Piece::filled(0x11).0,
            "text" => text("fill"),
            "Context" => {
                let value = self.out("cuDevicePrimaryCtxRetain", |p| vec![p, 0]);
                self.driver.cu("cuCtxSetCurrent", &[value]);
                value
            }
            "other context" => {
                let value = self.out("cuCtxCreate_v2", |p| vec![p, 0, 0]);
                self.driver.cu("cuCtxPopCurrent_v2", &[Piece::filled(0).0]);
                value
            }
            "Stream" => self.out("cuStreamCreate", |p| vec![p, 0]),
            "other stream" => self.out("cuStreamCreate", |p| vec![p, 1]),
            "Event" | "other event" => {
                let value = self.out("cuEventCreate", |p| vec![p, 0]);
                let stream = self.get("Stream");
                self.driver.cu("cuEventRecord", &[value, stream]);
                self.driver.cu("cuEventSynchronize", &[value]);
                value
            }
            "interprocess event" => self.out("cuEventCreate", |p| vec![p, 6]),
            "memory" | "DevPtr" | "other memory" => {
                let value = self.out("cuMemAlloc_v2", |p| vec![p, 64 << 10]);
                self.driver.cu("cuMemsetD8_v2", &[value, 0, 64 << 10]);
                value
            }
            "stream memory" => {
                let stream = self.get("Stream");
                let value = self.out("cuMemAllocAsync", |p| vec![p, 64 << 10, stream]);
                self.driver.cu("cuStreamSynchronize", &[stream]);
                value
            }
            "pinned" => self.out("cuMemHostAlloc", |p| vec![p, 64 << 10, 2]),
            "registered" => {
                let host = Piece::filled(0x22).0;
                self.driver.cu("cuMemHostRegister_v2", &[host, 16 << 10, 0]);
                host
            }
            "unregistered" => Piece::filled(0x22).0,
            "managed" => self.out("cuMemAllocManaged", |p| vec![p, 64 << 10, 1]),
            "Module" => {
                self.out("cuModuleLoadData", |p| vec![p, KERNELS.as_ptr().expose_provenance() as u64])
            }
            "Function" | "Callable" => self.function("fill"),
            "empty function" => self.function("empty"),
            "fault function" => self.function("fault"),
            "trap function" => self.function("trapped"),
            "Library" => self.out("cuLibraryLoadData", |p| {
                vec![p, KERNELS.as_ptr().expose_provenance() as u64, 0, 0, 0, 0, 0, 0]
            }),
            "Kernel" => {
                let library = self.get("Library");
                self.out("cuLibraryGetKernel", |p| vec![p, library, text("fill")])
            }
            "MemoryPool" => {
                let properties = Piece::with(&pool_properties()).0;
                self.out("cuMemPoolCreate", |p| vec![p, properties])
            }
            "exportable pool" => {
                let properties = Piece::with(&Fields(pool_properties()).u32(4, 1).0).0;
                self.out("cuMemPoolCreate", |p| vec![p, properties])
            }
            "Array" => {
                let d = Piece::with(&Fields::new(24).u64(0, 64).u64(8, 16).u32(16, 0x20).u32(20, 1).0).0;
                self.out("cuArrayCreate_v2", |p| vec![p, d])
            }
            "surface array" => {
                let d = Piece::with(&array3d(0, 2)).0;
                self.out("cuArray3DCreate_v2", |p| vec![p, d])
            }
            "MipmappedArray" => {
                let d = Piece::with(&array3d(0, 0)).0;
                self.out("cuMipmappedArrayCreate", |p| vec![p, d, 3])
            }
            "Texture" => {
                let resource = Piece::with(&resource(self.get("Array"))).0;
                let description = Piece::filled(0).0;
                self.out("cuTexObjectCreate", |p| vec![p, resource, description, 0])
            }
            "Surface" => {
                let resource = Piece::with(&resource(self.get("surface array"))).0;
                self.out("cuSurfObjectCreate", |p| vec![p, resource])
            }
            "TextureReference" => self.out("cuTexRefCreate", |p| vec![p]),
            "LinkState" => {
                let state = self.out("cuLinkCreate_v2", |p| vec![0, 0, 0, p]);
                let (image, len) =
                    (KERNELS.as_ptr().expose_provenance() as u64, KERNELS.to_bytes_with_nul().len() as u64);
                self.driver.cu("cuLinkAddData_v2", &[state, 1, image, len, text("kernels"), 0, 0, 0]);
                state
            }
            "UserObject" => self.out("cuUserObjectCreate", |p| vec![p, Piece::filled(0).0, callback(), 4, 1]),
            "device resource" => {
                let place = Piece::filled(0);
                self.driver.cu("cuDeviceGetDevResource", &[0, place.0, 1]);
                place.0
            }
            "ResourceDescription" => {
                let resource = self.get("device resource");
                self.out("cuDevResourceGenerateDesc", |p| vec![p, resource, 1])
            }
            "GreenContext" => {
                let description = self.get("ResourceDescription");
                self.out("cuGreenCtxCreate", |p| vec![p, description, 0, 1])
            }
            "Allocation" => self.allocation(0),
            "exportable allocation" => self.allocation(1),
            "reserved" => self.out("cuMemAddressReserve", |p| vec![p, 2 << 20, 0, 0, 0]),
            "mapped" => {
                let (range, allocation) = (self.make("reserved"), self.get("Allocation"));
                self.driver.cu("cuMemMap", &[range, 2 << 20, 0, allocation, 0]);
                let access = Piece::with(&access()).0;
                self.driver.cu("cuMemSetAccess", &[range, 2 << 20, access, 1]);
                range
            }
            "AsyncCallback" => self.out("cuDeviceRegisterAsyncNotification", |p| vec![0, callback(), 0, p]),
            "LogsCallback" => self.out("cuLogsRegisterCallback", |p| vec![callback(), 0, p]),
            "kernel parameters" => {
                let values =
                    Piece::with(&Fields::new(16).u64(0, self.get("memory")).u32(8, 16).u32(12, 7).0).0;
                Piece::with(&Fields::new(24).u64(0, values).u64(8, values + 8).u64(16, values + 12).0).0
            }
            _ => self.make_graph(name),
        }
    }

    fn function(&mut self, name: &str) -> u64 {
        let module = self.get("Module");
        self.out("cuModuleGetFunction", |p| vec![p, module, text(name)])
    }

    fn allocation(&mut self, handle_types: u32) -> u64 {
        let properties = Piece::with(&Fields(allocation_properties()).u32(4, handle_types).0).0;
        self.out("cuMemCreate", |p| vec![p, 2 << 20, properties, 0])
    }

    /// One graph with a node of each kind that the driver takes, and what belongs to it.
    fn make_graph(&mut self, name: &'static str) -> u64 {
        if let Some(kind) = name.strip_suffix(" node") {
            let graph = match kind {
                "alloc" | "free" => self.get("allocating graph"),
                _ => self.get("Graph"),
            };
            // Making the graph made its nodes.
            return match self.made.get(name) {
                Some(node) => *node,
                None => self.add_node(kind, graph),
            };
        }
        match name {
            "GraphNode" => self.get("kernel node"),
            "Graph" => {
                let graph = self.out("cuGraphCreate", |p| vec![p, 0]);
                self.made.insert("Graph", graph);
                let first = self.get("kernel node");
                for kind in
                    ["copy node", "memset node", "host node", "child node", "record node", "wait node"]
                {
                    self.get(kind);
                }
                let before = Piece::with(&first.to_ne_bytes()).0;
                let after = self.out("cuGraphAddEmptyNode", |p| vec![p, graph, before, 1]);
                self.made.insert("empty node", after);
                graph
            }
            "small graph" | "allocating graph" | "other graph" => {
                let graph = self.out("cuGraphCreate", |p| vec![p, 0]);
                if name != "allocating graph" {
                    self.out("cuGraphAddEmptyNode", |p| vec![p, graph, 0, 0]);
                }
                graph
            }
            "graph clone" => {
                let graph = self.get("Graph");
                self.out("cuGraphClone", |p| vec![p, graph])
            }
            "GraphExec" => {
                let graph = self.get("Graph");
                self.out("cuGraphInstantiateWithFlags", |p| vec![p, graph, 0])
            }
            "Conditional" => {
                let (graph, context) = (self.get("small graph"), self.get("Context"));
                self.out("cuGraphConditionalHandleCreate", |p| vec![p, graph, context, 1, 1])
            }
            _ => 0,
        }
    }

    fn add_node(&mut self, kind: &str, graph: u64) -> u64 {
        let context = self.get("Context");
        let (function, mut rest): (&str, Vec<u64>) = match kind {
            "kernel" => (
                "cuGraphAddKernelNode_v2",
                vec![Piece::with(&crate::structs::good(self, "CUDA_KERNEL_NODE_PARAMS")).0],
            ),
            "copy" => (
                "cuGraphAddMemcpyNode",
                vec![Piece::with(&crate::structs::good(self, "CUDA_MEMCPY3D")).0, context],
            ),
            "memset" => (
                "cuGraphAddMemsetNode",
                vec![Piece::with(&crate::structs::good(self, "CUDA_MEMSET_NODE_PARAMS")).0, context],
            ),
            "host" => (
                "cuGraphAddHostNode",
                vec![Piece::with(&crate::structs::good(self, "CUDA_HOST_NODE_PARAMS")).0],
            ),
            "child" => ("cuGraphAddChildGraphNode", vec![self.get("small graph")]),
            "record" => ("cuGraphAddEventRecordNode", vec![self.get("Event")]),
            "wait" => ("cuGraphAddEventWaitNode", vec![self.get("Event")]),
            "batch" => (
                "cuGraphAddBatchMemOpNode",
                vec![Piece::with(&crate::structs::good(self, "CUDA_BATCH_MEM_OP_NODE_PARAMS")).0],
            ),
            "alloc" => (
                "cuGraphAddMemAllocNode",
                vec![Piece::with(&crate::structs::good(self, "CUDA_MEM_ALLOC_NODE_PARAMS")).0],
            ),
            "free" => {
                let place = Piece::with(&crate::structs::good(self, "CUDA_MEM_ALLOC_NODE_PARAMS"));
                let alloc = self.out("cuGraphAddMemAllocNode", |p| vec![p, graph, 0, 0, place.0]);
                let before = Piece::with(&alloc.to_ne_bytes()).0;
                return self.out("cuGraphAddMemFreeNode", |p| vec![p, graph, before, 1, place.word(112)]);
            }
            _ => ("cuGraphAddEmptyNode", Vec::new()),
        };
        self.out(function, |p| {
            let mut words = vec![p, graph, 0, 0];
            words.append(&mut rest);
            words
        })
    }
}

pub fn callback() -> u64 {
    (nothing as *const ()).expose_provenance() as u64
}

/// A string that stays.
pub fn text(text: &str) -> u64 {
    CString::new(text).unwrap_or_default().into_raw().expose_provenance() as u64
}

pub fn pool_properties() -> Vec<u8> {
    Fields::new(88).u32(0, 1).u32(8, 1).0
}

pub fn allocation_properties() -> Vec<u8> {
    Fields::new(32).u32(0, 1).u32(8, 1).0
}

pub fn access() -> Vec<u8> {
    Fields::new(12).u32(0, 1).u32(8, 3).0
}

pub fn array3d(depth: u64, flags: u32) -> Vec<u8> {
    Fields::new(40).u64(0, 64).u64(8, 16).u64(16, depth).u32(24, 0x20).u32(28, 1).u32(32, flags).0
}

pub fn resource(array: u64) -> Vec<u8> {
    Fields::new(144).u64(8, array).0
}
