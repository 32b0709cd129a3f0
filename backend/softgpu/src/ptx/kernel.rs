/// What a launch of one `.entry` needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelInfo {
    /// The mangled name.
    pub name: String,
    /// Parameters in order of declaration.
    pub params: Vec<Param>,
    /// Bytes of statically sized shared memory.
    pub static_shared: u32,
    /// Bytes of local memory for each thread, without those of called functions.
    pub local_bytes: u32,
    /// Most threads in a block (`.maxntid`), where declared.
    pub max_threads: Option<u32>,
    /// The only block shape allowed (`.reqntid`), where declared.
    pub required_block: Option<[u32; 3]>,
}

/// One kernel parameter: where it lies in the parameter buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Param {
    /// Bytes from the start of the parameter buffer.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
    /// Bytes, a power of two.
    pub align: u32,
}
