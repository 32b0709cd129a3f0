/// Where a module-scope variable lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// `.global`
    Global,
    /// `.const`
    Const,
}

/// A module-scope `.global` or `.const` variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// The mangled name.
    pub name: String,
    /// Where it lives.
    pub space: Space,
    /// Bytes.
    pub size: u64,
    /// Bytes, a power of two.
    pub align: u64,
    /// Initial contents, filled with zeros to `size`. Addresses of functions are in it already.
    pub init: Vec<u8>,
    /// Addresses of other variables to write when the module is loaded.
    pub relocations: Vec<Relocation>,
    /// Declared `.extern`: defined by another module.
    pub is_extern: bool,
    /// Declared `.attribute(.managed)`.
    pub managed: bool,
    /// What it is instead of memory.
    pub opaque: Option<Opaque>,
}

/// A variable that is a reference: kernels name it and never read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opaque {
    /// `.texref`
    Texture,
    /// `.surfref`
    Surface,
}

/// A generic address of 8 bytes that is known only when the module is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relocation {
    /// Bytes from the start of the variable.
    pub offset: u64,
    /// The variable whose address is meant.
    pub symbol: String,
    /// Bytes to add to that address.
    pub addend: u64,
}
