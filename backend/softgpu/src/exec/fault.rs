use std::fmt;

/// Where a kernel was when it failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// The kernel's mangled name.
    pub kernel: String,
    /// Line in the PTX source, from 1; 0 where none applies.
    pub line: u32,
    /// `blockIdx`
    pub block: [u32; 3],
    /// `threadIdx` of the first thread concerned.
    pub thread: [u32; 3],
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([bx, by, bz], [tx, ty, tz]) = (self.block, self.thread);
        write!(
            f,
            "kernel {}, PTX line {}, block ({bx},{by},{bz}), thread ({tx},{ty},{tz})",
            self.kernel, self.line
        )
    }
}

/// Why a launch failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The kernel executed `trap`.
    #[error("running {place}: trap executed")]
    Trap { place: Place },
    /// A device `assert` failed; `message` is what CUDA prints for it, without the newline.
    #[error("running {place}: {message}")]
    Assert { place: Place, message: String },
    /// An access outside of the memory that the device may use.
    #[error("running {place}: access of {length} bytes at illegal address {address:#x}")]
    IllegalAddress { place: Place, address: u64, length: u64 },
    /// An access whose address is not a multiple of its size.
    #[error("running {place}: access of {length} bytes at misaligned address {address:#x}")]
    MisalignedAddress { place: Place, address: u64, length: u64 },
    /// A call through a pointer that is not a function, or a barrier that does not exist.
    #[error("running {place}: illegal instruction: {reason}")]
    IllegalInstruction { place: Place, reason: String },
    /// The kernel can reach an instruction that this interpreter does not know.
    #[error("launching {kernel}: PTX line {line} (`{text}`): {reason}")]
    Unsupported { kernel: String, line: u32, text: String, reason: String },
    /// The launch itself is not valid.
    #[error("launching {kernel}: {reason}")]
    BadLaunch { kernel: String, reason: String },
    /// All remaining threads of a block wait for each other.
    #[error("running {place}: deadlock: {reason}")]
    Deadlock { place: Place, reason: String },
}

/// Why a module cannot be linked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// A variable that the code names has no address.
    #[error("linking module: variable `{name}` has no address")]
    MissingVariable { name: String },
}
