//! Stream-ordered allocation and its pools. A pool's words in the handle table: the device's ordinal, and 1 for a default pool.

use crate::{
    call,
    call::put,
    calls, capture, client, context, device, error, handles,
    location::{self, word},
    memory::{self, Origin},
    sharing::{self, Thing},
    stream, virtual_memory,
};
use std::{
    ffi::c_void,
    sync::{Mutex, MutexGuard, PoisonError},
};
use vgpu_spec::{
    handle::Kind,
    plain::{Blob1, Blob4, Blob8},
    wire::share::Token,
};

/// CU_MEM_ALLOCATION_TYPE_PINNED and _MANAGED.
const PINNED: u32 = 1;
const MANAGED: u32 = 2;

/// The pools of a device; 0 for one that nobody asked for yet.
#[derive(Clone, Copy, Default)]
struct Pools {
    default: u64,
    /// 0: the default one.
    current: u64,
}

static POOLS: Mutex<Vec<Pools>> = Mutex::new(Vec::new());

fn pools(device: i32) -> error::Result<(MutexGuard<'static, Vec<Pools>>, usize)> {
    client::get()?.devices.primary(device)?;
    let index = usize::try_from(device).map_err(|_| error::INVALID_DEVICE)?;
    let mut all = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    if all.len() <= index {
        all.resize(index + 1, Pools::default());
    }
    Ok((all, index))
}

/// The device's default pool; its handle is made at the first use and lives as long as the process.
pub fn default_pool(device: i32) -> error::Result<u64> {
    let (mut all, index) = pools(device)?;
    if all[index].default != 0 {
        return Ok(all[index].default);
    }
    let pool = handles::create_with(Kind::MemoryPool, u64::from(device.cast_unsigned()), 1)?;
    if let Err(status) = calls::vgpuPoolDefault(pool, device::host_ordinal(device)?) {
        handles::remove(pool);
        return Err(status);
    }
    all[index].default = pool;
    Ok(pool)
}

fn current_pool(device: i32) -> error::Result<u64> {
    let current = {
        let (all, index) = pools(device)?;
        all[index].current
    };
    if current == 0 { default_pool(device) } else { Ok(current) }
}

/// The device of a location that memory of the type can be in.
fn device_at(place: *const Blob4<8>, kind: u32) -> error::Result<i32> {
    // SAFETY: the program's pointer, or NULL.
    let place = unsafe { place.as_ref() }.ok_or(error::INVALID_VALUE)?;
    match kind {
        PINNED => match word(&place.0, 0) {
            0 => Err(error::INVALID_VALUE),
            // As natively, a device that is not there is an invalid value here, and what is no location at all is not supported.
            location::DEVICE => {
                let device = word(&place.0, 4).cast_signed();
                device::host_ordinal(device).map(|_| device).map_err(|_| error::INVALID_VALUE)
            }
            _ => Err(error::NOT_SUPPORTED),
        },
        MANAGED => Err(error::NOT_SUPPORTED),
        _ => Err(error::INVALID_VALUE),
    }
}

pub unsafe fn cuDeviceGetDefaultMemPool(pool_out: *mut u64, dev: i32) -> error::Result {
    // SAFETY: the program's pointer.
    unsafe { put(pool_out, default_pool(dev)?) }
}

/// Measured: for a device's current pool an ordinal that is none is an invalid value; for its default pool it is an invalid device.
fn no_device(code: u32) -> u32 {
    if code == error::INVALID_DEVICE { error::INVALID_VALUE } else { code }
}

pub unsafe fn cuDeviceGetMemPool(pool: *mut u64, dev: i32) -> error::Result {
    let current = current_pool(dev).map_err(no_device)?;
    // SAFETY: the program's pointer.
    unsafe { put(pool, current) }
}

pub unsafe fn cuDeviceSetMemPool(dev: i32, pool: u64) -> error::Result {
    let host = device::host_ordinal(dev).map_err(no_device)?;
    handles::check_memorypool(pool)?;
    calls::cuDeviceSetMemPool(host, pool)?;
    let (mut all, index) = pools(dev)?;
    all[index].current = pool;
    Ok(())
}

pub unsafe fn cuMemGetDefaultMemPool(
    pool_out: *mut u64,
    location: *const Blob4<8>,
    type_: u32,
) -> error::Result {
    // SAFETY: the program's pointer.
    unsafe { put(pool_out, default_pool(device_at(location, type_)?)?) }
}

pub unsafe fn cuMemGetMemPool(pool: *mut u64, location: *const Blob4<8>, type_: u32) -> error::Result {
    // SAFETY: the program's pointer.
    unsafe { put(pool, current_pool(device_at(location, type_)?)?) }
}

pub unsafe fn cuMemSetMemPool(location: *const Blob4<8>, type_: u32, pool: u64) -> error::Result {
    // There are no pools of managed memory, so this is none.
    if type_ == MANAGED {
        return Err(error::INVALID_VALUE);
    }
    let device = device_at(location, type_)?;
    // SAFETY: no pointers.
    unsafe { cuDeviceSetMemPool(device, pool) }
}

/// Places in CUmemPoolProps.
mod props {
    pub const TYPE: usize = 0;
    pub const HANDLE_TYPES: usize = 4;
    pub const LOCATION: usize = 8;
    /// Windows' security attributes, which must be NULL.
    pub const SECURITY: std::ops::Range<usize> = 16..24;
    pub const MAX_SIZE: usize = 24;
    pub const USAGE: usize = 32;
    pub const RESERVED: std::ops::Range<usize> = 34..88;
}

/// What a pool is made with: device (the program's), most bytes (0: the driver's choice), usage flags, types of handles.
fn properties(bytes: &[u8; 88]) -> error::Result<(i32, usize, u32, u32)> {
    let zero = |range: std::ops::Range<usize>| bytes[range].iter().all(|&b| b == 0);
    if !zero(props::RESERVED) || !zero(props::SECURITY) {
        return Err(error::INVALID_VALUE);
    }
    match word(bytes, props::TYPE) {
        PINNED => {}
        MANAGED => return Err(error::NOT_SUPPORTED),
        _ => return Err(error::INVALID_VALUE),
    }
    let device = location::ordinal(bytes, props::LOCATION)?;
    let low = u64::from(word(bytes, props::MAX_SIZE));
    let high = u64::from(word(bytes, props::MAX_SIZE + 4));
    let max = usize::try_from(low | high << 32).map_err(|_| error::INVALID_VALUE)?;
    Ok((device, max, word(bytes, props::USAGE) & 0xffff, word(bytes, props::HANDLE_TYPES)))
}

pub unsafe fn cuMemPoolCreate(pool: *mut u64, poolProps: *const Blob8<88>) -> error::Result {
    // SAFETY: the program's pointer, or NULL.
    let wanted = unsafe { poolProps.as_ref() }.ok_or(error::INVALID_VALUE)?;
    if pool.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let (device, max, usage, handle_types) = properties(&wanted.0)?;
    let host = device::host_ordinal(device)?;
    let made = handles::create_with(Kind::MemoryPool, u64::from(device.cast_unsigned()), 0)?;
    if let Err(status) = calls::vgpuPoolCreate(made, host, max, usage, handle_types) {
        handles::remove(made);
        return Err(status);
    }
    // SAFETY: checked above; the program's pointer.
    unsafe { put(pool, made) }
}

/// Memory of the pool lives on until it is freed. A device whose current pool ends goes back to its default one.
pub unsafe fn cuMemPoolDestroy(pool: u64) -> error::Result {
    handles::check_memorypool(pool)?;
    if handles::words(Kind::MemoryPool, pool)?.1 == 1 {
        return Err(error::INVALID_VALUE);
    }
    let result = calls::cuMemPoolDestroy(pool);
    for pools in POOLS.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
        if pools.current == pool {
            pools.current = 0;
        }
    }
    handles::remove(pool);
    result
}

/// Bytes of an attribute's value: the reuse policies (1 to 3) are int, thresholds and counters (4 to 8) 64 bits.
fn attribute_len(attribute: u32) -> error::Result<usize> {
    match attribute {
        1..=3 => Ok(4),
        4..=8 => Ok(8),
        _ => Err(error::INVALID_VALUE),
    }
}

pub unsafe fn cuMemPoolGetAttribute(pool: u64, attr: u32, value: *mut c_void) -> error::Result {
    handles::check_memorypool(pool)?;
    let len = attribute_len(attr)?;
    if value.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let mut result = 0;
    calls::vgpuPoolGetAttribute(&mut result, pool, attr)?;
    // SAFETY: the program's place, as long as the attribute's type.
    unsafe { std::ptr::copy_nonoverlapping(result.to_le_bytes().as_ptr(), value.cast(), len) };
    Ok(())
}

pub unsafe fn cuMemPoolSetAttribute(pool: u64, attr: u32, value: *mut c_void) -> error::Result {
    handles::check_memorypool(pool)?;
    let len = attribute_len(attr)?;
    if value.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let mut bytes = [0; 8];
    // SAFETY: the program's value, as long as the attribute's type.
    unsafe { std::ptr::copy_nonoverlapping(value.cast(), bytes.as_mut_ptr(), len) };
    calls::vgpuPoolSetAttribute(pool, attr, u64::from_le_bytes(bytes))
}

pub unsafe fn cuMemPoolSetAccess(pool: u64, map: *const Blob4<12>, count: usize) -> error::Result {
    handles::check_memorypool(pool)?;
    // SAFETY: the program's array of `count`.
    let list = unsafe { location::descriptions(map, count, error::NOT_SUPPORTED) }?;
    calls::cuMemPoolSetAccess(pool, &list, count)
}

pub unsafe fn cuMemPoolGetAccess(flags: *mut u32, memPool: u64, location: *const Blob4<8>) -> error::Result {
    handles::check_memorypool(memPool)?;
    // SAFETY: the program's pointers, or NULL.
    let (flags, place) = unsafe { (flags.as_mut(), location.as_ref()) };
    let (Some(flags), Some(&place)) = (flags, place) else { return Err(error::INVALID_VALUE) };
    let mut place = [place];
    location::to_host(&mut place[0].0, 0)?;
    calls::cuMemPoolGetAccess(flags, memPool, &place)
}

/// Allocates with `ask`, as memory of `pool`.
fn allocate(
    dptr: *mut u64,
    len: usize,
    stream: u64,
    pool: u64,
    ask: impl FnMut(&mut u64) -> error::Result,
) -> error::Result {
    let address = memory::place(len, ask, |address| calls::cuMemFreeAsync(address, stream))?;
    // In a capture it is the memory of a graph's node.
    let origin = if capture::captures(stream)? { Origin::Graph } else { Origin::Pool(pool) };
    memory::insert(address, len, origin);
    // SAFETY: the caller has checked it; the program's pointer.
    unsafe { put(dptr, address) }
}

pub unsafe fn cuMemAllocAsync(dptr: *mut u64, bytesize: usize, hStream: u64) -> error::Result {
    handles::check_stream(hStream)?;
    if dptr.is_null() {
        return Err(error::INVALID_VALUE);
    }
    if bytesize == 0 {
        // SAFETY: checked above; the program's pointer.
        return unsafe { put(dptr, 0) };
    }
    // The pool's handle is not made for this: 0 says that it is the default one.
    let pool = {
        let (all, index) = pools(context::device_of(stream::context_of(hStream)?)?)?;
        all[index].current
    };
    allocate(dptr, bytesize, hStream, pool, |place| calls::cuMemAllocAsync(place, bytesize, hStream))
}

pub unsafe fn cuMemAllocFromPoolAsync(
    dptr: *mut u64,
    bytesize: usize,
    pool: u64,
    hStream: u64,
) -> error::Result {
    handles::check_stream(hStream)?;
    handles::check_memorypool(pool)?;
    if dptr.is_null() {
        return Err(error::INVALID_VALUE);
    }
    if bytesize == 0 {
        // SAFETY: checked above; the program's pointer.
        return unsafe { put(dptr, 0) };
    }
    let ask = |place: &mut u64| calls::cuMemAllocFromPoolAsync(place, bytesize, pool, hStream);
    allocate(dptr, bytesize, hStream, pool, ask)
}

pub unsafe fn cuMemFreeAsync(dptr: u64, hStream: u64) -> error::Result {
    handles::check_stream(hStream)?;
    if dptr == 0 {
        return Ok(());
    }
    if memory::managed(dptr, 1).is_some_and(|block| block.base == dptr) {
        return Err(error::NOT_SUPPORTED);
    }
    let graphs = memory::is_graphs(dptr) || capture::captures(hStream)?;
    if !graphs && !memory::remove(dptr) {
        return Err(error::INVALID_VALUE);
    }
    sharing::withdraw(Thing::Memory(dptr));
    calls::cuMemFreeAsync(dptr, hStream)?;
    // Whether a launch has allocated it, or a capture can free it, the driver knows.
    if graphs { call::settle() } else { Ok(()) }
}

/// Only descriptors are given out; what the driver says of other types is passed on.
pub unsafe fn cuMemPoolExportToShareableHandle(
    handle_out: *mut c_void,
    pool: u64,
    handleType: u32,
    flags: u64,
) -> error::Result {
    handles::check_memorypool(pool)?;
    if handle_out.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let (device, _) = handles::words(Kind::MemoryPool, pool)?;
    let host = device::host_ordinal(i32::try_from(device).unwrap_or(-1))?;
    let token = sharing::token(|low, high| calls::vgpuSharePool(low, high, pool, host, handleType, flags))?;
    // SAFETY: checked above; the program's int.
    unsafe { sharing::put_descriptor(handle_out, token) }
}

pub unsafe fn cuMemPoolImportFromShareableHandle(
    pool_out: *mut u64,
    handle: *mut c_void,
    handleType: u32,
    flags: u64,
) -> error::Result {
    if pool_out.is_null() || flags != 0 {
        return Err(error::INVALID_VALUE);
    }
    virtual_memory::check_import(handle, handleType)?;
    let token = sharing::token_of_descriptor(handle).ok_or(error::UNKNOWN)?;
    let made = handles::create_with(Kind::MemoryPool, 0, 0)?;
    let (mut host, mut number) = (0, 0);
    let imported = calls::vgpuOpenPool(made, &mut host, &mut number, token.low, token.high, flags);
    // The same pool again has the same handle.
    if imported.is_ok() && number != made {
        handles::remove(made);
        handles::check_memorypool(number)?;
        // SAFETY: checked above; the program's pointer.
        return unsafe { put(pool_out, number) };
    }
    let device = imported.and_then(|()| {
        virtual_memory::imported_on(host, || calls::cuMemPoolDestroy(made).unwrap_or_default())
    });
    match device {
        Ok(device) => handles::set_word(made, 0, u64::from(device.cast_unsigned())),
        Err(status) => {
            handles::remove(made);
            return Err(status);
        }
    }
    // SAFETY: checked above; the program's pointer.
    unsafe { put(pool_out, made) }
}

pub unsafe fn cuMemPoolExportPointer(shareData_out: *mut Blob1<64>, ptr: u64) -> error::Result {
    if shareData_out.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let token = sharing::token(|low, high| calls::vgpuSharePoolMemory(low, high, ptr))?;
    let base = memory::find(ptr).map_or(ptr, |block| block.base);
    sharing::remember(Thing::Memory(base), token);
    // SAFETY: checked above; the program's pointer.
    unsafe { put(shareData_out, Blob1(token.to_handle())) }
}

pub unsafe fn cuMemPoolImportPointer(
    ptr_out: *mut u64,
    pool: u64,
    shareData: *const Blob1<64>,
) -> error::Result {
    handles::check_memorypool(pool)?;
    // SAFETY: the program's pointer, or NULL.
    let data = unsafe { shareData.as_ref() }.ok_or(error::INVALID_VALUE)?;
    if ptr_out.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let token = Token::from_handle(&data.0).ok_or(error::INVALID_VALUE)?;
    let (mut address, mut base, mut size) = (0, 0, 0);
    calls::vgpuOpenPoolMemory(&mut address, &mut base, &mut size, pool, token.low, token.high)?;
    if !memory::claim(base, size) {
        vgpu_client::warn!(
            "memory of another process is at {base:#x}, where this process has memory of the host"
        );
        let _ = calls::cuMemFree_v2(address);
        return Err(error::MAP_FAILED);
    }
    memory::insert(base, size, Origin::Pool(pool));
    // SAFETY: checked above; the program's pointer.
    unsafe { put(ptr_out, address) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::location::set_word;

    #[test]
    fn a_pools_properties_are_taken_or_refused_but_never_ignored() {
        let mut bytes = [0; 88];
        set_word(&mut bytes, props::TYPE, PINNED);
        set_word(&mut bytes, props::LOCATION, location::DEVICE);
        set_word(&mut bytes, props::LOCATION + 4, 2);
        set_word(&mut bytes, props::MAX_SIZE + 4, 1);
        set_word(&mut bytes, props::USAGE, 2);
        set_word(&mut bytes, props::HANDLE_TYPES, 1);
        assert_eq!(properties(&bytes), Ok((2, 1 << 32, 2, 1)));
        for (at, value, want) in [
            (props::TYPE, MANAGED, error::NOT_SUPPORTED),
            (props::TYPE, 0, error::INVALID_VALUE),
            (props::LOCATION, 3, error::NOT_SUPPORTED),
            (props::SECURITY.start, 1, error::INVALID_VALUE),
            (props::RESERVED.end - 4, 1, error::INVALID_VALUE),
        ] {
            let mut other = bytes;
            set_word(&mut other, at, value);
            assert_eq!(properties(&other), Err(want), "{value} at {at}");
        }
    }

    #[test]
    fn attributes_have_the_lengths_of_their_types() {
        assert_eq!([1, 3, 4, 8].map(attribute_len), [Ok(4), Ok(4), Ok(8), Ok(8)]);
        assert_eq!([0, 9].map(attribute_len), [Err(error::INVALID_VALUE); 2]);
    }
}
