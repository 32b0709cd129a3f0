//! Memory pools: what they count and are told to keep. Memory that is freed goes back to the device at once.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::device::Device;
use super::handle::{Kind, new_handle};
use super::{CudaError, Result, shared_file};

/// In the file that stands for a pool in other processes.
const MAGIC: u64 = u64::from_le_bytes(*b"softpool");
/// Bytes of that file.
const FILE: u64 = 4096;

/// Bytes in use, now and at most.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    now: u64,
    high: u64,
}

/// One pool of device memory.
#[derive(Debug)]
pub struct Pool {
    handle: u64,
    device: Arc<Device>,
    /// Most bytes, or 0 for as many as the device has.
    most: u64,
    used: Mutex<Used>,
    /// `CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES`, `_ALLOW_OPPORTUNISTIC`, `_ALLOW_INTERNAL_DEPENDENCIES`.
    policies: [AtomicU32; 3],
    threshold: AtomicU64,
    /// What stands for it in other processes, if it is for them.
    file: Option<OwnedFd>,
    /// The inode of the file that it was imported with; 0 for a pool of this process.
    imported: u64,
}

impl Pool {
    /// A pool of at most `most` bytes (0: the device's).
    pub fn new(device: &Arc<Device>, most: u64) -> Pool {
        Pool {
            handle: new_handle(Kind::Pool),
            device: Arc::clone(device),
            most,
            used: Mutex::default(),
            policies: [AtomicU32::new(1), AtomicU32::new(1), AtomicU32::new(1)],
            threshold: AtomicU64::new(0),
            file: None,
            imported: 0,
        }
    }

    /// A pool that other processes can import.
    pub fn shared(device: &Arc<Device>, most: u64) -> Result<Pool> {
        let file = shared_file::memory_file(FILE)?;
        shared_file::write(&file, 0, &[MAGIC, u64::from(device.number())])?;
        Ok(Pool { file: Some(file), ..Pool::new(device, most) })
    }

    /// Another process's pool, by its descriptor: `UNKNOWN` for any other.
    pub fn import(descriptor: i32) -> Result<Pool> {
        let unknown = |_| CudaError::Unknown;
        let file = shared_file::duplicate(descriptor).map_err(unknown)?;
        let (size, inode) = shared_file::size_and_inode(&file).map_err(unknown)?;
        if size != FILE {
            return Err(CudaError::Unknown);
        }
        let [magic, number] = shared_file::read::<2>(&file, 0).map_err(unknown)?;
        if magic != MAGIC {
            return Err(CudaError::Unknown);
        }
        let device = super::state()?.device_of_number(number)?;
        Ok(Pool { imported: inode, ..Pool::new(device, 0) })
    }

    /// A new descriptor for other processes: `INVALID_VALUE` for a pool that is not for them.
    pub fn export(&self) -> Result<OwnedFd> {
        let file = self.file.as_ref().ok_or(CudaError::InvalidValue)?;
        file.try_clone().map_err(|_| CudaError::OperatingSystem)
    }

    /// Whether other processes can import it.
    pub fn is_shared(&self) -> bool {
        self.file.is_some()
    }

    /// Whether another process has made it: nothing is allocated from it here.
    pub fn is_imported(&self) -> bool {
        self.imported != 0
    }

    /// Whether both are the same pool of another process.
    pub fn is_same_import(&self, other: &Pool) -> bool {
        self.imported == other.imported
    }

    /// The `CUmemoryPool`.
    pub fn handle(&self) -> u64 {
        self.handle
    }

    /// Where its memory is.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Counts `bytes` as used: `OUT_OF_MEMORY` beyond the pool's size.
    pub fn take(&self, bytes: u64) -> Result {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let now = used.now.checked_add(bytes).ok_or(CudaError::OutOfMemory)?;
        if self.most != 0 && now > self.most {
            return Err(CudaError::OutOfMemory);
        }
        *used = Used { now, high: used.high.max(now) };
        Ok(())
    }

    /// Takes `bytes` off again.
    pub fn give_back(&self, bytes: u64) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.now = used.now.saturating_sub(bytes);
    }

    /// The value of `CUmemPool_attribute` number `attribute`.
    pub fn attribute(&self, attribute: u32) -> Result<u64> {
        let used = *self.used.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(match attribute {
            1..=3 => u64::from(self.policy(attribute)?.load(Ordering::Relaxed)),
            4 => self.threshold.load(Ordering::Relaxed),
            // Nothing is reserved beyond what is used.
            5 | 7 => used.now,
            6 | 8 => used.high,
            _ => return Err(CudaError::InvalidValue),
        })
    }

    /// Sets an attribute: policies, the threshold, and the high marks to 0.
    pub fn set_attribute(&self, attribute: u32, value: u64) -> Result {
        match attribute {
            1..=3 => {
                let value = u32::try_from(value).map_err(|_| CudaError::InvalidValue)?;
                self.policy(attribute)?.store(value, Ordering::Relaxed);
            }
            4 => self.threshold.store(value, Ordering::Relaxed),
            6 | 8 if value == 0 => {
                let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
                used.high = used.now;
            }
            _ => return Err(CudaError::InvalidValue),
        }
        Ok(())
    }

    fn policy(&self, attribute: u32) -> Result<&AtomicU32> {
        let index = usize::try_from(attribute).ok().and_then(|n| n.checked_sub(1));
        index.and_then(|n| self.policies.get(n)).ok_or(CudaError::InvalidValue)
    }
}
