//! Waiting for and writing values of memory in stream order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::time::Duration;

use super::allocation::{Allocation, RangeKind};
use super::work::Core;
use super::{CudaError, Result, state};

/// How often a wait looks.
const PAUSE: Duration = Duration::from_micros(50);

/// `CUstreamBatchMemOpParams`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Parameters {
    pub operation: u32,
    /// Of a barrier and of a flush.
    pub own_flags: u32,
    pub address: u64,
    pub value: u64,
    pub flags: u32,
    pub pad: u32,
    pub alias: u64,
    pub unused: u64,
}

/// A checked operation.
#[derive(Clone, Debug)]
pub struct Operation {
    /// What the program asked for.
    pub parameters: Parameters,
    range: Option<Arc<Allocation>>,
}

/// `CUstreamBatchMemOpType`.
const WAIT_32: u32 = 1;
const WRITE_32: u32 = 2;
const FLUSH: u32 = 3;
const WAIT_64: u32 = 4;
const WRITE_64: u32 = 5;
const BARRIER: u32 = 6;

impl Operation {
    /// A wait for, or a write of, a value.
    pub fn value(operation: u32, address: u64, value: u64, flags: u32) -> Result<Operation> {
        Operation::check(Parameters { operation, address, value, flags, ..Parameters::default() })
    }

    /// Checks what the program asks for, as an H100 does: it cannot flush remote writes, and writes have no flags.
    pub fn check(parameters: Parameters) -> Result<Operation> {
        let most = match parameters.operation {
            // CU_STREAM_WAIT_VALUE_FLUSH.
            WAIT_32 | WAIT_64 if parameters.flags & 1 << 30 != 0 => return Err(CudaError::NotSupported),
            WAIT_32 | WAIT_64 => 3,
            WRITE_32 | WRITE_64 => 0,
            BARRIER if parameters.own_flags <= 1 => return Ok(Operation { parameters, range: None }),
            FLUSH => return Err(CudaError::NotSupported),
            _ => return Err(CudaError::InvalidValue),
        };
        let size = if matches!(parameters.operation, WAIT_64 | WRITE_64) { 8 } else { 4 };
        if parameters.flags > most || !parameters.address.is_multiple_of(size) {
            return Err(CudaError::InvalidValue);
        }
        let range = state()?.memory.find(parameters.address, size);
        let can_be_used = |range: &Arc<Allocation>| {
            range.is_device() || matches!(range.kind(), RangeKind::Host(_) | RangeKind::Registered(_))
        };
        let range = range.filter(can_be_used).ok_or(CudaError::InvalidValue)?;
        Ok(Operation { parameters, range: Some(range) })
    }

    /// Does it: a wait ends with its condition, or with a fault of the context.
    pub fn run(&self, core: &Core) {
        if self.range.is_none() {
            fence(Ordering::SeqCst);
            return;
        }
        let Parameters { operation, address, value, .. } = self.parameters;
        let place = std::ptr::with_exposed_provenance_mut::<u8>(usize::try_from(address).unwrap_or(0));
        // SAFETY: checked to lie, aligned, in a range that `self` keeps alive; other accesses of the program's may race, as on a device.
        let (narrow, wide) = unsafe { (AtomicU32::from_ptr(place.cast()), place.cast::<u64>()) };
        // SAFETY: as above; made only for operations on eight bytes.
        let wide = || unsafe { AtomicU64::from_ptr(wide) };
        match operation {
            WRITE_32 => narrow.store(value as u32, Ordering::SeqCst),
            WRITE_64 => wide().store(value, Ordering::SeqCst),
            WAIT_32 => self.wait(core, || {
                let found = narrow.load(Ordering::SeqCst);
                (
                    i64::from(found.wrapping_sub(value as u32).cast_signed()),
                    u64::from(found),
                    u64::from(u32::MAX),
                )
            }),
            _ => self.wait(core, || {
                let found = wide().load(Ordering::SeqCst);
                (found.wrapping_sub(value).cast_signed(), found, u64::MAX)
            }),
        }
    }

    /// `look` gives how far the value is beyond the wanted one, the value, and all bits of its width.
    fn wait(&self, core: &Core, look: impl Fn() -> (i64, u64, u64)) {
        loop {
            let (beyond, found, all) = look();
            let is_met = match self.parameters.flags {
                0 => beyond >= 0,
                1 => beyond == 0,
                2 => found & self.parameters.value & all != 0,
                _ => !(found | self.parameters.value) & all != 0,
            };
            if is_met || core.fault_code() != 0 {
                return;
            }
            std::thread::sleep(PAUSE);
        }
    }
}
