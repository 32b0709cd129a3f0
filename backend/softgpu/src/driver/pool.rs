//! Allocation in stream order, and pools. Freed memory goes back to the device when the stream gets there.

use std::ffi::c_void;
use std::os::fd::IntoRawFd;
use std::sync::{Arc, PoisonError};

use super::graph_memory::default_properties;
use super::{Out, array_at, put};
use crate::model::context::Context;
use crate::model::graph::forbid_unsafe;
use crate::model::graph::{Op, capture_op};
use crate::model::graph_memory::GraphMemory;
use crate::model::pool::Pool;
use crate::model::shared_file::HANDLE;
use crate::model::special_stream;
use crate::model::stream::Stream;
use crate::model::work::Work;
use crate::model::{CudaError, Result, current, ipc, state};

/// `CU_MEM_LOCATION_TYPE_DEVICE`.
const ON_DEVICE: u32 = 1;
/// `CU_MEM_ALLOCATION_TYPE_PINNED`.
const PINNED: u32 = 1;
/// `CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR`.
const POSIX_FILE_DESCRIPTOR: u32 = 1;
/// `CU_MEM_ACCESS_FLAGS_PROT_READWRITE`.
const READ_WRITE: u32 = 3;

/// `CUmemLocation`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// `CUmemLocationType`.
    pub kind: u32,
    /// A device's ordinal.
    pub id: i32,
}

impl Location {
    /// The ordinal of a device location: `NOT_SUPPORTED` for the host, `INVALID_VALUE` for none.
    pub fn ordinal(self) -> Result<i32> {
        match self.kind {
            ON_DEVICE => Ok(self.id),
            2..=4 => Err(CudaError::NotSupported),
            _ => Err(CudaError::InvalidValue),
        }
    }
}

/// `CUmemAccessDesc`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// Whose access.
    pub location: Location,
    /// `CUmemAccess_flags`.
    pub flags: u32,
}

/// `CUmemPoolProps`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Props {
    allocation_type: u32,
    handle_types: u32,
    location: Location,
    security: u64,
    max_size: u64,
    usage: u16,
    reserved: [u8; 54],
}

/// A descriptor that the API passes as a pointer.
pub fn descriptor_in(handle: *mut c_void) -> Result<i32> {
    i32::try_from(handle.expose_provenance()).map_err(|_| CudaError::Unknown)
}

fn default_pool(device: i32) -> Result<Arc<Pool>> {
    let state = state()?;
    let device = state.device(device)?;
    let mut all = state.default_pools.lock().unwrap_or_else(PoisonError::into_inner);
    let pool = all.entry(device.ordinal()).or_insert_with(|| {
        let pool = Arc::new(Pool::new(device, 0));
        state.pools.insert(pool.handle(), Arc::clone(&pool));
        pool
    });
    Ok(Arc::clone(pool))
}

fn current_pool(device: i32) -> Result<Arc<Pool>> {
    let state = state()?;
    let ordinal = state.device(device)?.ordinal();
    let current = state.current_pools.lock().unwrap_or_else(PoisonError::into_inner).get(&ordinal).copied();
    match current.map(|handle| state.pools.get(handle)) {
        Some(Ok(pool)) => Ok(pool),
        // None was set, or it was destroyed.
        _ => default_pool(device),
    }
}

fn pool_at(handle: u64) -> Result<Arc<Pool>> {
    state()?.pools.get(handle).map_err(|_| CudaError::InvalidValue)
}

/// Bytes of an attribute's value.
fn width(attribute: u32) -> Result<usize> {
    match attribute {
        1..=3 => Ok(4),
        4..=8 => Ok(8),
        _ => Err(CudaError::InvalidValue),
    }
}

driver_api! {
    /// The pool that the device starts with.
    fn cuDeviceGetDefaultMemPool(pool: Out<'_, u64>, device: i32) {
        put(pool, default_pool(device)?.handle())
    }

    /// The pool that `cuMemAllocAsync` takes memory from.
    fn cuDeviceGetMemPool(pool: Out<'_, u64>, device: i32) {
        put(pool, current_pool(device)?.handle())
    }

    /// Makes a pool of the device's the one that `cuMemAllocAsync` takes memory from.
    fn cuDeviceSetMemPool(device: i32, pool: u64) {
        forbid_unsafe()?;
        let ordinal = state()?.device(device)?.ordinal();
        let pool = pool_at(pool)?;
        if pool.device().ordinal() != ordinal || pool.is_imported() {
            return Err(CudaError::InvalidValue);
        }
        let mut all = state()?.current_pools.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(ordinal, pool.handle());
        Ok(())
    }

    /// Makes a pool of device memory.
    fn cuMemPoolCreate(pool: Out<'_, u64>, props: Option<&Props>) {
        forbid_unsafe()?;
        let (out, props) = pool.zip(props).ok_or(CudaError::InvalidValue)?;
        if props.allocation_type != PINNED || props.security != 0 || props.reserved != [0; 54] {
            return Err(CudaError::InvalidValue);
        }
        if props.usage != 0 {
            return Err(CudaError::NotSupported);
        }
        let device = state()?.device(props.location.ordinal()?)?;
        let pool = Arc::new(match props.handle_types {
            0 => Pool::new(device, props.max_size),
            POSIX_FILE_DESCRIPTOR => Pool::shared(device, props.max_size)?,
            _ => return Err(CudaError::InvalidValue),
        });
        out.write(pool.handle());
        state()?.pools.insert(pool.handle(), pool);
        Ok(())
    }

    /// Ends a pool; its memory lives until it is freed. A default pool has no end.
    fn cuMemPoolDestroy(pool: u64) {
        forbid_unsafe()?;
        let pool = pool_at(pool)?;
        let ordinal = i32::try_from(pool.device().ordinal()).map_err(|_| CudaError::InvalidValue)?;
        if default_pool(ordinal)?.handle() == pool.handle() {
            return Err(CudaError::InvalidValue);
        }
        state()?.pools.remove(pool.handle()).map(drop)
    }

    /// A descriptor for other processes.
    fn cuMemPoolExportToShareableHandle(handle: *mut c_void, pool: u64, kind: u32, flags: u64) {
        let pool = pool_at(pool)?;
        if handle.is_null() || kind != POSIX_FILE_DESCRIPTOR || flags != 0 {
            return Err(CudaError::InvalidValue);
        }
        let file = pool.export()?;
        // SAFETY: the caller answers for room for a descriptor.
        unsafe { handle.cast::<i32>().write_unaligned(file.into_raw_fd()) };
        Ok(())
    }

    /// Another process's pool, by its descriptor.
    fn cuMemPoolImportFromShareableHandle(pool: Out<'_, u64>, handle: *mut c_void, kind: u32, flags: u64) {
        let out = pool.ok_or(CudaError::InvalidValue)?;
        if kind != POSIX_FILE_DESCRIPTOR || flags != 0 {
            return Err(CudaError::InvalidValue);
        }
        let pool = Pool::import(descriptor_in(handle)?)?;
        // The same pool again has the same handle.
        if let Some(known) = state()?.pools.all().iter().find(|known| known.is_same_import(&pool)) {
            out.write(known.handle());
            return Ok(());
        }
        out.write(pool.handle());
        state()?.pools.insert(pool.handle(), Arc::new(pool));
        Ok(())
    }

    /// What tells other processes where memory of a shared pool is.
    fn cuMemPoolExportPointer(data: Out<'_, [u8; HANDLE]>, address: u64) {
        let out = data.ok_or(CudaError::InvalidValue)?;
        if state()?.memory.at(address).is_none() {
            return Err(CudaError::InvalidValue);
        }
        out.write(ipc::export_memory(address, true)?);
        Ok(())
    }

    /// Memory of another process's pool.
    fn cuMemPoolImportPointer(address: Out<'_, u64>, pool: u64, data: Option<&[u8; HANDLE]>) {
        let (out, data) = address.zip(data).ok_or(CudaError::InvalidValue)?;
        let context = current::working_context()?;
        out.write(ipc::import_pool_memory(data, &pool_at(pool)?, context.handle())?);
        Ok(())
    }

    /// Nothing is kept, so there is nothing to trim.
    fn cuMemPoolTrimTo(pool: u64, _keep: usize) {
        forbid_unsafe()?;
        if pool_at(pool)?.is_imported() { Err(CudaError::InvalidValue) } else { Ok(()) }
    }

    /// One attribute of a pool.
    fn cuMemPoolGetAttribute(pool: u64, attribute: u32, to: *mut c_void) {
        forbid_unsafe()?;
        let (pool, width) = (pool_at(pool)?, width(attribute)?);
        if to.is_null() || pool.is_imported() {
            return Err(CudaError::InvalidValue);
        }
        let value = pool.attribute(attribute)?.to_le_bytes();
        // SAFETY: the caller answers for room for the attribute.
        unsafe { std::ptr::copy_nonoverlapping(value.as_ptr(), to.cast(), width) };
        Ok(())
    }

    /// Sets one attribute of a pool.
    fn cuMemPoolSetAttribute(pool: u64, attribute: u32, from: *const c_void) {
        forbid_unsafe()?;
        let (pool, width) = (pool_at(pool)?, width(attribute)?);
        if from.is_null() || pool.is_imported() {
            return Err(CudaError::InvalidValue);
        }
        let mut value = [0; 8];
        // SAFETY: the caller answers for a value as long as the attribute's type.
        unsafe { std::ptr::copy_nonoverlapping(from.cast(), value.as_mut_ptr(), width) };
        pool.set_attribute(attribute, u64::from_le_bytes(value))
    }

    /// The pool's own device has access, and no other can get it.
    fn cuMemPoolSetAccess(pool: u64, list: *const Access, count: usize) {
        forbid_unsafe()?;
        let pool = pool_at(pool)?;
        // SAFETY: the caller answers for the array.
        for access in unsafe { array_at(list, count) }? {
            let device = state()?.device(access.location.ordinal()?)?;
            if device.ordinal() != pool.device().ordinal() || access.flags != READ_WRITE {
                return Err(CudaError::InvalidValue);
            }
        }
        Ok(())
    }

    /// Whether a device has access.
    fn cuMemPoolGetAccess(flags: Out<'_, u32>, pool: u64, location: Option<&Location>) {
        forbid_unsafe()?;
        let pool = pool_at(pool)?;
        let device = state()?.device(location.ok_or(CudaError::InvalidValue)?.ordinal()?)?;
        put(flags, if device.ordinal() == pool.device().ordinal() { READ_WRITE } else { 0 })
    }
}

/// An allocation becomes a node; memory is then the graph's, whatever the pool.
fn capture_allocation(out: Out<'_, u64>, context: &Context, stream: &Arc<Stream>, bytes: usize) -> Result {
    let out = out.ok_or(CudaError::InvalidValue)?;
    let bytes = u64::try_from(bytes).map_err(|_| CudaError::OutOfMemory)?;
    let memory = GraphMemory::create(context, bytes, default_properties(context.device().ordinal()))?;
    let address = memory.address();
    capture_op(stream, Op::Allocate(memory))?;
    out.write(address);
    Ok(())
}

fn allocate(out: Out<'_, u64>, pool: &Arc<Pool>, context: u64, bytes: usize) -> Result {
    let out = out.ok_or(CudaError::InvalidValue)?;
    let bytes = u64::try_from(bytes).map_err(|_| CudaError::OutOfMemory)?;
    if pool.is_imported() {
        return Err(CudaError::InvalidValue);
    }
    out.write(state()?.memory.allocate_from(pool, context, bytes)?.base());
    Ok(())
}

stream_api! {
    /// Allocates from the device's current pool; the memory can be used at once, which includes in the stream's order.
    fn cuMemAllocAsync | cuMemAllocAsync_ptsz(default; address: Out<'_, u64>, bytes: usize, stream: u64) {
        let (context, stream) = special_stream::find(stream, default)?;
        if stream.captures() {
            return capture_allocation(address, &context, &stream, bytes);
        }
        let ordinal = i32::try_from(context.device().ordinal()).map_err(|_| CudaError::InvalidDevice)?;
        allocate(address, &current_pool(ordinal)?, context.handle(), bytes)
    }

    /// Allocates from a pool.
    fn cuMemAllocFromPoolAsync | cuMemAllocFromPoolAsync_ptsz(
        default; address: Out<'_, u64>, bytes: usize, pool: u64, stream: u64
    ) {
        let (context, stream) = special_stream::find(stream, default)?;
        if stream.captures() {
            return capture_allocation(address, &context, &stream, bytes);
        }
        allocate(address, &pool_at(pool)?, context.handle(), bytes)
    }

    /// Frees device memory when the stream gets there.
    fn cuMemFreeAsync | cuMemFreeAsync_ptsz(default; address: u64, stream: u64) {
        let (context, stream) = special_stream::find(stream, default)?;
        if let Some(graphs) = GraphMemory::find(address) {
            return if stream.captures() { capture_op(&stream, Op::Free(graphs)) } else { graphs.free() };
        }
        let memory = &state()?.memory;
        // Memory from elsewhere is not a capture's to free.
        let can_be_freed = memory.at(address).is_some_and(|range| range.can_be_freed());
        if !can_be_freed || stream.captures() {
            return Err(CudaError::InvalidValue);
        }
        let free = Box::new(move |_: &_| drop(memory.remove(address)));
        context.submit(&stream, Vec::new(), Work::Task(free)).map(drop)
    }
}
