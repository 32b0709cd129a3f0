//! What a VM may take of the host beyond device memory.

/// Limits of one VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Its share of a device against other VMs' weights, 1 to 10000.
    pub weight: u32,
    /// Percent of a device's time that it gets at most, 1 to 100, also when it is alone.
    pub cap: u32,
    /// Bytes of pinned memory that its clients may register; `None` for no limit.
    pub pinned: Option<u64>,
    /// Seconds without a call after which it may be suspended when another VM needs the memory; `None` for never.
    pub suspend_after: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { weight: 100, cap: 100, pinned: None, suspend_after: None }
    }
}
