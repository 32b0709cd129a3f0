//! Pointer attributes, answered from what this process knows of its memory.

use crate::{
    context, error, handles, host_memory,
    memory::{self, Origin},
    memory_pool,
};
use std::{
    collections::BTreeMap,
    ffi::c_void,
    sync::{Mutex, PoisonError},
};
use vgpu_spec::{
    handle::Kind,
    wire::{HUGE_PAGE, SMALL_PAGE},
};

/// CUpointer_attribute.
mod attribute {
    pub const CONTEXT: u32 = 1;
    pub const MEMORY_TYPE: u32 = 2;
    pub const DEVICE_POINTER: u32 = 3;
    pub const HOST_POINTER: u32 = 4;
    pub const SYNC_MEMOPS: u32 = 6;
    pub const BUFFER_ID: u32 = 7;
    pub const IS_MANAGED: u32 = 8;
    pub const DEVICE_ORDINAL: u32 = 9;
    pub const IS_LEGACY_CUDA_IPC_CAPABLE: u32 = 10;
    pub const RANGE_START_ADDR: u32 = 11;
    pub const RANGE_SIZE: u32 = 12;
    pub const MAPPED: u32 = 13;
    pub const ALLOWED_HANDLE_TYPES: u32 = 14;
    pub const IS_GPU_DIRECT_RDMA_CAPABLE: u32 = 15;
    pub const ACCESS_FLAGS: u32 = 16;
    pub const MEMPOOL_HANDLE: u32 = 17;
    pub const MAPPING_SIZE: u32 = 18;
    pub const MAPPING_BASE_ADDR: u32 = 19;
    pub const MEMORY_BLOCK_ID: u32 = 20;
    pub const IS_HW_DECOMPRESS_CAPABLE: u32 = 21;
    pub const P2P_TOKENS: u32 = 5;
}

/// Bytes of a boolean: the real driver writes four, whatever the documentation calls a bool.
const BOOL: usize = 4;
/// CU_MEMORYTYPE_HOST and _DEVICE.
const HOST: u64 = 1;
const DEVICE: u64 = 2;
/// CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READWRITE.
const READ_WRITE: u64 = 3;
/// CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READ.
const READ: u64 = 1;

/// What is known of a pointer.
struct Known {
    base: u64,
    len: u64,
    context: u64,
    id: u64,
    host: bool,
    managed: bool,
    registered: bool,
    /// Registered for reading only.
    read_only: bool,
    /// From cuMemAlloc here.
    allocated: bool,
    /// The pool that the memory is from: 0 is the default one.
    pool: Option<u64>,
    /// Allocation and device of a mapping, which has no context.
    mapped: Option<(u64, i32)>,
    /// Base and bytes of the addresses that the memory may span: those of a reservation for a mapping.
    range: (u64, u64),
}

fn find(address: u64) -> Option<Known> {
    if let Some(block) = memory::find(address) {
        let mapped = match block.origin {
            Origin::Mapped { handle, device } => Some((handle, device)),
            _ => None,
        };
        return Some(Known {
            base: block.base,
            len: block.len,
            context: block.context,
            id: block.id,
            host: false,
            managed: block.origin == Origin::Managed,
            registered: false,
            read_only: false,
            allocated: block.origin == Origin::Allocated,
            pool: if let Origin::Pool(pool) = block.origin { Some(pool) } else { None },
            mapped,
            range: mapped.and_then(|_| memory::reservation(address)).unwrap_or((block.base, block.len)),
        });
    }
    host_memory::find(address).map(|b| Known {
        base: b.base,
        len: b.len,
        context: b.context,
        id: b.id,
        host: true,
        managed: false,
        registered: b.registered,
        read_only: b.read_only,
        allocated: false,
        pool: None,
        mapped: None,
        range: (b.base, b.len),
    })
}

/// What programs have set CU_POINTER_ATTRIBUTE_SYNC_MEMOPS to, by the memory's number. It is only remembered: memory operations that the
/// program waits for are waited for here in any case.
static SYNC_MEMOPS: Mutex<BTreeMap<u64, bool>> = Mutex::new(BTreeMap::new());

/// Device memory, managed memory included, has it set from the start, host memory has not.
fn sync_memops(known: &Known) -> bool {
    let set = SYNC_MEMOPS.lock().unwrap_or_else(PoisonError::into_inner);
    set.get(&known.id).copied().unwrap_or(!known.host && known.id != 0)
}

pub unsafe fn cuPointerSetAttribute(value: *mut c_void, attribute: u32, ptr: u64) -> error::Result {
    if value.is_null() || attribute != attribute::SYNC_MEMOPS || context::is_destroyed() {
        return Err(error::INVALID_VALUE);
    }
    let known = find(ptr).ok_or(error::INVALID_VALUE)?;
    if known.mapped.is_some() {
        return Err(error::NOT_SUPPORTED);
    }
    // SAFETY: the program's value, an unsigned int.
    let value = unsafe { value.cast::<u32>().read_unaligned() };
    SYNC_MEMOPS.lock().unwrap_or_else(PoisonError::into_inner).insert(known.id, value != 0);
    Ok(())
}

/// Base and bytes of what is mapped for the memory: whole pages of what was registered, else pages of 2 MiB.
fn mapping(known: &Known) -> (u64, u64) {
    let page = match known {
        Known { id: 0, .. } | Known { mapped: Some(_), .. } => return (known.base, known.len),
        Known { registered: true, .. } => SMALL_PAGE,
        _ => HUGE_PAGE,
    };
    let base = known.base & !(page - 1);
    (base, (known.base + known.len).next_multiple_of(page) - base)
}

/// A value and its bytes in the program's place.
fn value(known: &Known, attribute: u32, address: u64) -> error::Result<(u64, usize)> {
    let device = || match (known.mapped, known.pool) {
        (Some((_, device)), _) => Ok(u64::from(device.cast_unsigned())),
        // Memory of a pool may be of no context here: imported.
        (None, Some(pool)) if pool != 0 => handles::words(Kind::MemoryPool, pool).map(|words| words.0),
        _ => context::device_of(known.context).map(|d| u64::from(d.cast_unsigned())),
    };
    Ok(match attribute {
        // Memory of a pool belongs to no context.
        attribute::CONTEXT => (if known.pool.is_some() { 0 } else { known.context }, 8),
        attribute::MEMORY_TYPE => (if known.host { HOST } else { DEVICE }, 4),
        attribute::DEVICE_POINTER => (address, 8),
        attribute::HOST_POINTER if known.host || known.managed => (address, 8),
        attribute::HOST_POINTER => return Err(error::INVALID_VALUE),
        attribute::SYNC_MEMOPS => (u64::from(sync_memops(known)), BOOL),
        attribute::IS_MANAGED => (u64::from(known.managed), BOOL),
        attribute::IS_LEGACY_CUDA_IPC_CAPABLE => (u64::from(known.allocated), BOOL),
        // Said of such memory on devices without the engine, too.
        attribute::IS_HW_DECOMPRESS_CAPABLE => (u64::from(known.allocated), BOOL),
        attribute::BUFFER_ID => (known.id, 8),
        attribute::DEVICE_ORDINAL => (device()?, 4),
        attribute::RANGE_START_ADDR => (known.range.0, 8),
        attribute::RANGE_SIZE => (known.range.1, 8),
        attribute::MAPPING_BASE_ADDR => (mapping(known).0, 8),
        attribute::MAPPING_SIZE => (mapping(known).1, 8),
        attribute::MAPPED => (1, BOOL),
        attribute::ALLOWED_HANDLE_TYPES => (0, 8),
        attribute::MEMPOOL_HANDLE => match known.pool {
            Some(0) => (memory_pool::default_pool(context::device_of(known.context)?)?, 8),
            pool => (pool.unwrap_or(0), 8),
        },
        attribute::IS_GPU_DIRECT_RDMA_CAPABLE => (0, BOOL),
        attribute::ACCESS_FLAGS => (if known.read_only { READ } else { READ_WRITE }, 4),
        attribute::MEMORY_BLOCK_ID => (known.mapped.map_or(known.id, |m| m.0), 8),
        // Deprecated, and of use to other drivers on the host only.
        attribute::P2P_TOKENS if !known.host && known.id != 0 => return Err(error::NOT_SUPPORTED),
        _ => return Err(error::INVALID_VALUE),
    })
}

/// # Safety
/// `place` has room for `len` bytes.
unsafe fn write(place: *mut c_void, value: u64, len: usize) {
    let bytes = value.to_le_bytes();
    // SAFETY: the caller's promise; `len` is at most 8.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), place.cast(), len) };
}

pub unsafe fn cuPointerGetAttribute(data: *mut c_void, attribute: u32, ptr: u64) -> error::Result {
    if data.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let known = find(ptr).ok_or(error::INVALID_VALUE)?;
    let (value, len) = value(&known, attribute, ptr)?;
    // SAFETY: the program's place, as long as the attribute's type.
    unsafe { write(data, value, len) };
    Ok(())
}

/// For a pointer that CUDA does not know every value is 0 and the call succeeds; the device ordinal is −2 then, the host pointer the
/// pointer itself.
pub unsafe fn cuPointerGetAttributes(
    numAttributes: u32,
    attributes: *mut u32,
    data: *mut *mut c_void,
    ptr: u64,
) -> error::Result {
    if numAttributes == 0 || attributes.is_null() || data.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let known = find(ptr);
    for i in 0..numAttributes as usize {
        // SAFETY: the program's arrays of `numAttributes` elements.
        let (attribute, place) = unsafe { (attributes.add(i).read(), data.add(i).read()) };
        let nothing = Known {
            base: 0,
            len: 0,
            context: 0,
            id: 0,
            host: false,
            managed: false,
            registered: false,
            read_only: false,
            allocated: false,
            pool: None,
            mapped: None,
            range: (0, 0),
        };
        let (value, len) = match &known {
            Some(known) => value(known, attribute, ptr).or_else(|status| {
                // What this memory does not have is 0 in this form of the call.
                if attribute == attribute::HOST_POINTER { Ok((0, 8)) } else { Err(status) }
            })?,
            None if attribute == attribute::DEVICE_ORDINAL => (u64::from((-2_i32).cast_unsigned()), 4),
            // What is not known is taken for the program's own.
            None if attribute == attribute::HOST_POINTER => (ptr, 8),
            None if matches!(attribute, attribute::RANGE_START_ADDR | attribute::RANGE_SIZE) => {
                match memory::reservation(ptr) {
                    Some((base, len)) => (if attribute == attribute::RANGE_SIZE { len } else { base }, 8),
                    // Nothing is written.
                    None => (0, 0),
                }
            }
            None => (0, value(&nothing, attribute, 0)?.1),
        };
        if place.is_null() {
            return Err(error::INVALID_VALUE);
        }
        // SAFETY: the program's place, as long as the attribute's type.
        unsafe { write(place, value, len) };
    }
    Ok(())
}
