//! What an address is.

use std::ffi::c_void;
use std::sync::Arc;

use super::array_at;
use crate::model::allocation::{Allocation, RangeKind};
use crate::model::{CudaError, Result, state};

/// `CU_MEMORYTYPE_HOST`.
const TYPE_HOST: u32 = 1;
/// `CU_MEMORYTYPE_DEVICE`.
const TYPE_DEVICE: u32 = 2;
/// `CU_DEVICE_INVALID`.
const NO_DEVICE: i32 = -2;
/// `CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READWRITE`.
const READ_WRITE: u32 = 3;

/// An attribute's value, in the width that the program gives room for.
enum Value {
    Bool(bool),
    Int(i32),
    UInt(u32),
    Long(u64),
}

impl Value {
    /// # Safety
    /// `to` must have room for the value.
    unsafe fn write(self, to: *mut c_void) {
        // SAFETY: the caller answers for the room.
        unsafe {
            match self {
                // The real driver writes four bytes, whatever the documentation calls a bool.
                Value::Bool(value) => to.cast::<u32>().write_unaligned(u32::from(value)),
                Value::Int(value) => to.cast::<i32>().write_unaligned(value),
                Value::UInt(value) => to.cast::<u32>().write_unaligned(value),
                Value::Long(value) => to.cast::<u64>().write_unaligned(value),
            }
        }
    }

    /// The value of `attribute` for an address that nobody has allocated.
    fn of_nothing(attribute: u32) -> Result<Value> {
        Ok(match attribute {
            2 => Value::UInt(0),
            9 => Value::Int(NO_DEVICE),
            6 | 8 | 10 | 13 | 15 | 21 => Value::Bool(false),
            16 => Value::UInt(0),
            1 | 3 | 4 | 7 | 11 | 12 | 14 | 17..=20 => Value::Long(0),
            _ => return Err(CudaError::InvalidValue),
        })
    }

    fn of(attribute: u32, address: u64, range: &Allocation) -> Result<Value> {
        let is_device = range.is_device();
        Ok(match attribute {
            1 => Value::Long(range.context()),
            2 => Value::UInt(if is_device { TYPE_DEVICE } else { TYPE_HOST }),
            3 => Value::Long(address),
            4 if matches!(range.kind(), RangeKind::Device | RangeKind::Virtual) => {
                return Err(CudaError::InvalidValue);
            }
            4 => Value::Long(address),
            6 => Value::Bool(is_device),
            7 | 20 => Value::Long(range.id()),
            8 => Value::Bool(range.kind() == RangeKind::Managed),
            9 => Value::Int(i32::try_from(range.device().ordinal()).unwrap_or(0)),
            10 | 15 | 21 => Value::Bool(false),
            11 | 19 => Value::Long(range.base()),
            12 | 18 => Value::Long(range.size()),
            13 => Value::Bool(true),
            14 => Value::Long(0),
            17 => Value::Long(range.pool()),
            16 => Value::UInt(READ_WRITE),
            _ => return Err(CudaError::InvalidValue),
        })
    }
}

fn find(address: u64) -> Result<Option<Arc<Allocation>>> {
    Ok(state()?.memory.find(address, 1))
}

driver_api! {
    /// One property of an address; `INVALID_VALUE` for memory that the driver does not know.
    fn cuPointerGetAttribute(data: *mut c_void, attribute: u32, address: u64) {
        let range = find(address)?.ok_or(CudaError::InvalidValue)?;
        let value = Value::of(attribute, address, &range)?;
        if data.is_null() {
            return Err(CudaError::InvalidValue);
        }
        // SAFETY: the caller answers for room for the attribute.
        unsafe { value.write(data) };
        Ok(())
    }

    /// Several properties of an address; memory that the driver does not know has none, which is no error.
    fn cuPointerGetAttributes(count: u32, attributes: *const u32, data: *const *mut c_void, address: u64) {
        let count = usize::try_from(count).map_err(|_| CudaError::InvalidValue)?;
        // SAFETY: the caller answers for both arrays.
        let (attributes, data) = unsafe { (array_at(attributes, count)?, array_at(data, count)?) };
        let range = find(address)?;
        for (attribute, data) in attributes.iter().zip(data) {
            let value = match &range {
                Some(range) => Value::of(*attribute, address, range).or_else(|_| Value::of_nothing(*attribute))?,
                None => Value::of_nothing(*attribute)?,
            };
            if data.is_null() {
                return Err(CudaError::InvalidValue);
            }
            // SAFETY: the caller answers for room for each attribute.
            unsafe { value.write(*data) };
        }
        Ok(())
    }

    /// Only `CU_POINTER_ATTRIBUTE_SYNC_MEMOPS` can be set, and is always so.
    fn cuPointerSetAttribute(value: *const c_void, attribute: u32, address: u64) {
        let range = find(address)?.ok_or(CudaError::InvalidValue)?;
        if value.is_null() || attribute != 6 || !range.is_device() {
            return Err(CudaError::InvalidValue);
        }
        Ok(())
    }
}
