//! The one description of the driver API: `api/cuda/*.api`, a file per noun, parsed.
//!
//! A line describes one exported symbol, or one message that only shim and worker know:
//!
//! ```text
//! class name(parameter, …) modifiers
//! message class name(parameter, …) modifiers
//! class name(parameter, …) modifiers "reason"
//! ```
//!
//! A function with a reason is not supported. If its class is `unsupported`, it refuses every call; otherwise it answers what is wrong as
//! the driver does, and refuses what the driver would do.
//!
//! | class | what crosses the lane |
//! |---|---|
//! | `local` | nothing derived: the shim answers, or sends messages of its own |
//! | `async` | the call, without a reply; its error is deferred |
//! | `create` | as `async`; the handle is made by the shim |
//! | `destroy` | as `async`; the first parameter's handle ends |
//! | `sync` | the call, and a reply that the program waits for |
//!
//! A parameter is `name: [direction] type [count] [?]`. Directions: none (a value), `in` (a pointer that is read), `out` (a pointer that is
//! written), `new` (a pointer that gets a handle made by the shim), `made` (a pointer that gets a handle that the worker numbers). `[n]` gives an array's length: a parameter's name or a number.
//! `?` marks a pointer that may be NULL. Types: `u8 … f64`, `DevPtr`, `Device`, `str`, `ptr`, `fn`, `struct NAME` and handle kinds.
//!
//! Modifiers: `@shim` and `@worker` (written by hand in that noun's file), `reports` (may return the error of an earlier asynchronous
//! call), `nocapture` (unsafe during a stream capture: where the thread's capture mode does not allow it, it is refused and ends the
//! captures), `legacy` (works in the legacy default stream, which is refused, and ends captures, while a stream that it would wait for
//! captures), `instream` (an asynchronous call that touches nothing but the stream that it names), `work` (gives a device work: it waits for its VM's
//! turn), `launches` (what it gives has kernels), `waits` (the worker waits for the stream that it names), `settles` (after it pools may
//! hold less memory, or graphs more), `kernels` (after it kernels may be launched otherwise, or some have ended), and what the shim looks at before the function's own checks, as measured on driver 580. The two of
//! captures are for calls whose derived or written code does not wait for the driver's own refusal. First whether cuInit was called, and whether this is a forked
//! child, but for:
//!
//! | modifier | |
//! |---|---|
//! | `always` | the function is there before cuInit and in a forked child |
//! | `early` | the arguments are looked at before whether cuInit was called |
//! | `forked` | in a forked child it goes on with what the child has; it never sends anything |
//! | `forked=N` | in a forked child good handles give CUresult N: 0 for what asks for no work: destroying, asking, waiting |
//!
//! Then the current context. Where nothing is said, a call in a stream of the program's own, or on an event or a part of a graph, finds
//! its context there, and others need a current one. Else:
//!
//! | modifier | |
//! |---|---|
//! | `nocontext` | none, and the worker runs the call in none |
//! | `anycontext` | none; the worker runs the call in the current one if there is one |
//! | `livecontext` | not one that was destroyed; one only for the default streams |
//! | `current` | one, whatever the parameters say |

mod parse;
mod tables;

pub use parse::{ParseError, parse_file};
pub use tables::{EXPORTS, ProcAddress, exports, proc_addresses, struct_layout, tested};

/// The CUDA version that the description covers, as cuDriverGetVersion gives it; a newer driver is shown to programs as this one.
pub const NEWEST: u32 = 13000;

/// Kinds of handles, in the order of their numbers on the wire (the first is 1).
pub const HANDLE_KINDS: &[&str] = &[
    "Context",
    "Stream",
    "Event",
    "Module",
    "Function",
    "Library",
    "Kernel",
    "Graph",
    "GraphExec",
    "GraphNode",
    "Array",
    "MipmappedArray",
    "MemoryPool",
    "Texture",
    "Surface",
    "TextureReference",
    "SurfaceReference",
    "LinkState",
    "UserObject",
    "GreenContext",
    "ExternalMemory",
    "ExternalSemaphore",
    "Allocation",
    "GraphicsResource",
    "AsyncCallback",
    "LogsCallback",
    "ResourceDescription",
    "Conditional",
];

/// What a call sends and whether it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Local,
    Async,
    Create,
    Destroy,
    Sync,
    Unsupported,
}

impl Class {
    pub fn name(self) -> &'static str {
        match self {
            Class::Local => "local",
            Class::Async => "async",
            Class::Create => "create",
            Class::Destroy => "destroy",
            Class::Sync => "sync",
            Class::Unsupported => "unsupported",
        }
    }

    /// Whether the program waits for a reply.
    pub fn waits(self) -> bool {
        self == Class::Sync
    }
}

/// A parameter's direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Value,
    In,
    Out,
    /// A pointer that gets a handle made by the shim.
    New,
    /// A pointer that gets a handle that the worker numbers: one that the driver hands out, which may be known already.
    Made,
}

/// A parameter's element type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    /// `u8`, `u16`, `u32`, `i32`, `u64`, `i64`, `usize`, `f32`, `f64`.
    Scalar(&'static str),
    /// A handle of this kind ([`HANDLE_KINDS`]), or `Callable`: a Function or a Kernel.
    Handle(String),
    DevPtr,
    /// A device's ordinal: the program's in the API, the VM's on the wire (CUDA_VISIBLE_DEVICES changes the order).
    Device,
    /// A NUL-terminated string that is read.
    Str,
    /// A host pointer that is not followed.
    Pointer,
    Callback,
    /// A C structure without pointers that need following.
    Struct(String),
}

/// The length of an array parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Count {
    /// Another parameter's value.
    Parameter(String),
    Fixed(usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    pub name: String,
    pub direction: Direction,
    pub ty: Type,
    pub count: Option<Count>,
    pub optional: bool,
}

/// Which current context a call needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    /// One, unless a parameter has its own.
    ByParameters,
    /// `nocontext`
    None,
    /// `anycontext`
    Any,
    /// `livecontext`
    Live,
    /// `current`
    Current,
}

/// What a call does in a forked child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InChild {
    /// CUDA_ERROR_NOT_INITIALIZED.
    Refused,
    /// `forked`
    GoesOn,
    /// `forked=N`
    Answers(u32),
}

/// One symbol or message.
#[derive(Debug, Clone)]
pub struct Function {
    pub name: String,
    /// The file that describes it, without its ending: the noun.
    pub noun: String,
    pub class: Class,
    pub parameters: Vec<Parameter>,
    /// Known to shim and worker only; not exported.
    pub message: bool,
    pub by_hand_in_shim: bool,
    pub by_hand_in_worker: bool,
    pub context: Context,
    /// Its arguments are looked at before whether cuInit was called.
    pub early: bool,
    /// It is there before cuInit and in a forked child.
    pub always: bool,
    pub in_child: InChild,
    pub reports: bool,
    /// Touches nothing but its stream.
    pub in_stream: bool,
    /// Gives the device work.
    pub work: bool,
    /// That work has kernels.
    pub launches: bool,
    /// The worker waits for its stream.
    pub waits: bool,
    /// Pools may hold less, or graphs more, memory after it.
    pub settles: bool,
    /// Kernels may be launched otherwise after it, or have ended.
    pub kernels: bool,
    /// Unsafe during a capture, and the driver is not asked, or not waited for, in the call itself.
    pub unsafe_in_capture: bool,
    /// Works in the legacy default stream, with the same proviso.
    pub in_legacy_stream: bool,
    /// Why it is not supported; `None` if it is.
    pub reason: Option<String>,
    /// Exported also as `name_ptsz` (stream 0 means the per-thread stream).
    pub ptsz: bool,
    /// Exported also as `name_ptds` (the copy runs in the per-thread stream).
    pub ptds: bool,
}

impl Function {
    /// The name without its version: one function of the API.
    pub fn base(&self) -> &str {
        base_name(&self.name)
    }

    /// Whether what the driver would do is done.
    pub fn supported(&self) -> bool {
        self.reason.is_none()
    }

    /// Whether the parameters are described: those of other vendors' interfaces are not.
    pub fn has_signature(&self) -> bool {
        !self.message && (self.class != Class::Unsupported || !self.parameters.is_empty())
    }

    /// Whether the worker runs it in the current context.
    pub fn in_context(&self) -> bool {
        self.context != Context::None
    }

    /// Whether something of it crosses a lane by derived code.
    pub fn crosses(&self) -> bool {
        !matches!(self.class, Class::Local | Class::Unsupported)
    }
}

/// `cuMemAlloc_v2` → `cuMemAlloc`.
pub fn base_name(symbol: &str) -> &str {
    match symbol.rsplit_once("_v") {
        Some((base, version)) if !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit()) => base,
        _ => symbol,
    }
}

macro_rules! nouns {
    ($($noun:literal),* $(,)?) => {
        const FILES: &[(&str, &str)] = &[$(($noun, include_str!(concat!("../../api/cuda/", $noun, ".api")))),*];
    };
}
nouns!(
    "array",
    "array_copy",
    "async_notification",
    "batch_copy",
    "callback",
    "capture",
    "checkpoint",
    "context",
    "copy",
    "copy_strided",
    "coredump",
    "debugger",
    "decompress",
    "device",
    "entry",
    "event",
    "external",
    "external_node",
    "function",
    "graph",
    "graph_memory",
    "green_context",
    "host_memory",
    "host_register",
    "interop",
    "ipc",
    "kernel",
    "launch",
    "library",
    "link",
    "logs",
    "managed_memory",
    "memory",
    "memory_pool",
    "memset",
    "module",
    "occupancy",
    "output",
    "peer",
    "pointer",
    "primary_context",
    "profiler",
    "stream",
    "stream_memory_operation",
    "tensor_map",
    "texture",
    "texture_reference",
    "user_object",
    "virtual_memory",
);

/// The whole description, in the order of the files' names and of their lines.
///
/// # Errors
/// The first line that does not parse.
pub fn cuda() -> Result<Vec<Function>, ParseError> {
    let exports = exports();
    let mut functions = Vec::new();
    for (noun, text) in FILES {
        for mut function in parse_file(noun, text)? {
            function.ptsz = exports.contains(format!("{}_ptsz", function.name).as_str());
            function.ptds = exports.contains(format!("{}_ptds", function.name).as_str());
            functions.push(function);
        }
    }
    Ok(functions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeSet, HashMap};

    #[test]
    fn what_launches_waits_or_changes_kernels_is_said() {
        let functions = cuda().unwrap();
        let names = |is: fn(&Function) -> bool| {
            functions.iter().filter(|f| is(f)).map(|f| f.name.as_str()).collect::<BTreeSet<_>>()
        };
        let launches =
            ["vgpuLaunch", "vgpuLaunchEx", "vgpuLaunchWithEvent", "vgpuLaunchUpdatable", "cuGraphLaunch"];
        assert_eq!(names(|f| f.launches), BTreeSet::from(launches));
        let waits = ["cuStreamSynchronize", "vgpuCopyStagedToDevice", "vgpuCopyStagedFromDevice"];
        assert_eq!(names(|f| f.waits), BTreeSet::from(waits));
        let kernels = [
            "cuCtxSetCacheConfig",
            "cuCtxSetLimit",
            "cuCtxSetSharedMemConfig",
            "cuFuncSetAttribute",
            "cuFuncSetCacheConfig",
            "cuFuncSetSharedMemConfig",
            "cuKernelSetAttribute",
            "cuKernelSetCacheConfig",
            "cuLibraryUnload",
            "cuModuleUnload",
            "vgpuFunctionsEnded",
        ];
        assert_eq!(names(|f| f.kernels), BTreeSet::from(kernels));
    }

    #[test]
    fn every_exported_symbol_is_described_once() {
        let functions = cuda().unwrap();
        let mut seen = BTreeSet::new();
        for f in functions.iter().filter(|f| !f.message) {
            assert!(seen.insert(f.name.clone()), "{} is described twice", f.name);
            for (also, suffix) in [(f.ptsz, "_ptsz"), (f.ptds, "_ptds")] {
                if also {
                    seen.insert(format!("{}{suffix}", f.name));
                }
            }
        }
        let exports: BTreeSet<String> = exports().into_iter().map(String::from).collect();
        assert_eq!(
            exports.difference(&seen).collect::<Vec<_>>(),
            Vec::<&String>::new(),
            "exported, not described"
        );
        assert_eq!(
            seen.difference(&exports).collect::<Vec<_>>(),
            Vec::<&String>::new(),
            "described, not exported"
        );
        assert_eq!(seen.len(), 682);
    }

    #[test]
    fn function_ids_do_not_collide() {
        let mut ids = HashMap::new();
        for f in cuda().unwrap() {
            let id = crate::wire::lane::function_id(&f.name);
            if let Some(other) = ids.insert(id, f.name.clone()) {
                panic!("{} and {other} have the same id {id:#x}", f.name);
            }
        }
    }

    #[test]
    fn base_names_lose_their_version_only() {
        assert_eq!(base_name("cuMemAlloc_v2"), "cuMemAlloc");
        assert_eq!(base_name("cuCtxCreate_v4"), "cuCtxCreate");
        assert_eq!(base_name("cuMemcpy2D_v2"), "cuMemcpy2D");
        assert_eq!(base_name("cuDevice_vX"), "cuDevice_vX");
    }

    #[test]
    fn names_that_cudart_asks_for_are_exported() {
        let exports = exports();
        for entry in proc_addresses().iter().filter(|e| e.since <= 13000) {
            assert!(exports.contains(entry.symbol.as_str()), "{}", entry.symbol);
        }
    }
}
