//! The one description of the driver API: `api/cuda/*.api`, a file per noun, parsed.
//!
//! A line describes one exported symbol, or one message that only shim and worker know:
//!
//! ```text
//! class name(parameter, …) modifiers
//! message class name(parameter, …) modifiers
//! unsupported name(parameter, …) "reason"
//! ```
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
//! Modifiers: `@shim` and `@worker` (written by hand in that noun's file), `nocontext` (needs no current context),
//! `reports` (may return the error of an earlier asynchronous call), `instream` (an asynchronous call that touches nothing but the
//! stream that it names).

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
    /// A device's ordinal: the program's in the API, the host's on the wire (CUDA_VISIBLE_DEVICES changes the order).
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
    pub needs_context: bool,
    pub reports: bool,
    /// Touches nothing but its stream.
    pub in_stream: bool,
    /// Why it is not supported.
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

    /// Whether the parameters are described: those of other vendors' interfaces are not.
    pub fn has_signature(&self) -> bool {
        !self.message && (self.class != Class::Unsupported || !self.parameters.is_empty())
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
