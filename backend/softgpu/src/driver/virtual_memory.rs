//! Virtual memory management.

use std::ffi::c_void;
use std::os::fd::IntoRawFd;
use std::sync::Arc;

use super::pool::{Access, Location, descriptor_in};
use super::{Out, array_at, put};
use crate::model::virtual_memory::{GRANULARITY, POSIX_FILE_DESCRIPTOR, Physical, release};
use crate::model::{CudaError, Result, state};

/// `CU_MEM_ALLOCATION_TYPE_PINNED`.
const PINNED: u32 = 1;
/// `CU_MEM_HANDLE_TYPE_FABRIC`, for which the machine lacks a channel.
const FABRIC: u32 = 8;
/// `CU_MEM_ACCESS_FLAGS_PROT_READWRITE`.
const READ_WRITE: u32 = 3;

/// `CUmemAllocationProp`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Props {
    kind: u32,
    handle_types: u32,
    location: Location,
    metadata: u64,
    compression: u8,
    rdma: u8,
    usage: u16,
    reserved: [u8; 4],
}

impl Props {
    fn check(&self) -> Result<i32> {
        if self.kind != PINNED || self.metadata != 0 || self.reserved != [0; 4] {
            return Err(CudaError::InvalidValue);
        }
        if self.compression != 0 || self.rdma != 0 || self.usage != 0 {
            return Err(CudaError::NotSupported);
        }
        self.location.ordinal()
    }
}

fn bytes(size: usize) -> Result<u64> {
    u64::try_from(size).map_err(|_| CudaError::InvalidValue)
}

driver_api! {
    /// Reserves addresses, for which nothing is paid until something is mapped there.
    fn cuMemAddressReserve(address: Out<'_, u64>, size: usize, alignment: usize, _hint: u64, flags: u64) {
        let out = address.ok_or(CudaError::InvalidValue)?;
        if flags != 0 {
            return Err(CudaError::InvalidValue);
        }
        out.write(state()?.virtual_memory.reserve(bytes(size)?, bytes(alignment)?)?);
        Ok(())
    }

    /// Gives a reservation back.
    fn cuMemAddressFree(address: u64, size: usize) {
        state()?.virtual_memory.free(address, bytes(size)?)
    }

    /// Allocates device memory without an address.
    fn cuMemCreate(handle: Out<'_, u64>, size: usize, props: Option<&Props>, flags: u64) {
        let (out, props) = handle.zip(props).ok_or(CudaError::InvalidValue)?;
        if flags != 0 {
            return Err(CudaError::InvalidValue);
        }
        let device = state()?.device(props.check()?)?;
        if props.handle_types & FABRIC != 0 {
            return Err(CudaError::NotPermitted);
        }
        if props.handle_types & !POSIX_FILE_DESCRIPTOR != 0 {
            return Err(CudaError::InvalidValue);
        }
        let physical = Arc::new(Physical::new(device, bytes(size)?, props.handle_types)?);
        out.write(physical.handle());
        state()?.physical.insert(physical.handle(), physical);
        Ok(())
    }

    /// Lets go of device memory.
    fn cuMemRelease(handle: u64) {
        release(handle)
    }

    /// A descriptor for other processes.
    fn cuMemExportToShareableHandle(place: *mut c_void, handle: u64, kind: u32, flags: u64) {
        let memory = state()?.physical.get(handle).map_err(|_| CudaError::InvalidValue)?;
        if place.is_null() || kind != POSIX_FILE_DESCRIPTOR || flags != 0 {
            return Err(CudaError::InvalidValue);
        }
        let file = memory.export()?;
        // SAFETY: the caller answers for room for a descriptor.
        unsafe { place.cast::<i32>().write_unaligned(file.into_raw_fd()) };
        Ok(())
    }

    /// Memory of a process, by its descriptor.
    fn cuMemImportFromShareableHandle(handle: Out<'_, u64>, descriptor: *mut c_void, kind: u32) {
        let out = handle.ok_or(CudaError::InvalidValue)?;
        match kind {
            POSIX_FILE_DESCRIPTOR => {}
            0 => return Err(CudaError::InvalidValue),
            _ => return Err(CudaError::NotSupported),
        }
        let physical = Arc::new(Physical::import(descriptor_in(descriptor)?)?);
        out.write(physical.handle());
        state()?.physical.insert(physical.handle(), physical);
        Ok(())
    }

    /// Maps device memory; `offset` must be 0, as on the real driver.
    fn cuMemMap(address: u64, size: usize, offset: usize, handle: u64, flags: u64) {
        if offset != 0 || flags != 0 {
            return Err(CudaError::InvalidValue);
        }
        let memory = state()?.physical.get(handle).map_err(|_| CudaError::InvalidValue)?;
        state()?.virtual_memory.map(address, bytes(size)?, memory)
    }

    /// Takes mappings away.
    fn cuMemUnmap(address: u64, size: usize) {
        state()?.virtual_memory.unmap(address, bytes(size)?)
    }

    /// Gives or takes access. Reading alone is not modelled, and no other device than the memory's gets access.
    fn cuMemSetAccess(address: u64, size: usize, list: *const Access, count: usize) {
        if count == 0 {
            return Err(CudaError::InvalidValue);
        }
        // SAFETY: the caller answers for the array.
        for access in unsafe { array_at(list, count) }? {
            let device = state()?.device(access.location.ordinal()?)?.ordinal();
            let accessible = match access.flags {
                0 => false,
                READ_WRITE => true,
                1 => return Err(CudaError::NotSupported),
                _ => return Err(CudaError::InvalidValue),
            };
            state()?.virtual_memory.set_access(address, bytes(size)?, device, accessible)?;
        }
        Ok(())
    }

    /// A device's access.
    fn cuMemGetAccess(flags: Out<'_, u64>, location: Option<&Location>, address: u64) {
        let device = state()?.device(location.ok_or(CudaError::InvalidValue)?.ordinal()?)?;
        let (memory, accessible) = state()?.virtual_memory.find(address).ok_or(CudaError::InvalidValue)?;
        let has = accessible && memory.device().ordinal() == device.ordinal();
        put(flags, if has { u64::from(READ_WRITE) } else { 0 })
    }

    /// What sizes are multiples of: least and recommended are the same.
    fn cuMemGetAllocationGranularity(granularity: Out<'_, usize>, props: Option<&Props>, option: u32) {
        let ordinal = props.ok_or(CudaError::InvalidValue)?.check()?;
        state()?.device(ordinal)?;
        if option > 1 {
            return Err(CudaError::InvalidValue);
        }
        put(granularity, usize::try_from(GRANULARITY).unwrap_or(usize::MAX))
    }

    /// What memory was made with.
    fn cuMemGetAllocationPropertiesFromHandle(props: Out<'_, Props>, handle: u64) {
        let memory = state()?.physical.get(handle).map_err(|_| CudaError::InvalidValue)?;
        let id = i32::try_from(memory.device().ordinal()).unwrap_or(0);
        put(props, Props {
            kind: PINNED,
            handle_types: memory.handle_types(),
            location: Location { kind: 1, id },
            metadata: 0,
            compression: 0,
            rdma: 0,
            usage: 0,
            reserved: [0; 4],
        })
    }

    /// The handle of what is mapped at an address.
    fn cuMemRetainAllocationHandle(handle: Out<'_, u64>, address: u64) {
        let out = handle.ok_or(CudaError::InvalidValue)?;
        out.write(state()?.virtual_memory.retain(address)?);
        Ok(())
    }
}
