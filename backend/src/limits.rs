//! What a VM may take of the host's devices, besides memory.

/// A VM's limits. They can be changed while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Its share of a device's time against other VMs that want it too.
    pub weight: u32,
    /// Percent of a device's time that it gets at most; 100 for no limit.
    pub cap: u32,
    /// Bytes of guest memory that its clients may have pinned; `None` for no limit.
    pub pinned: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { weight: 100, cap: 100, pinned: None }
    }
}
