//! Managed memory: memory of windows, which the program and the device reach at the same address, coherently. The device reaches it over
//! the bus: nothing migrates, so a kernel that works on managed memory runs at the bus's speed, not at that of device memory.
//!
//! Advice and prefetches are recorded here, page by page, and change nothing but the answers of cuMemRangeGetAttribute. What the device
//! does in a stream is visible when the stream is waited for, as natively; a prefetch has nothing to do and so is in order anywhere.

mod advice;

use crate::{call, call::put, capture, client, context, device, error, handles, location::word, memory};
use advice::{Advice, Place};
use std::{
    collections::BTreeMap,
    ffi::c_void,
    sync::{Mutex, PoisonError},
};
use vgpu_spec::plain::Blob4;

/// CU_MEM_ATTACH_GLOBAL, _HOST and _SINGLE.
const GLOBAL: u32 = 1;
const HOST: u32 = 2;
const SINGLE: u32 = 4;
const PAGE: u64 = 4096;
/// CU_DEVICE_CPU and CU_DEVICE_INVALID.
const CPU: i32 = -1;
const NO_DEVICE: i32 = -2;

/// CUmem_advise.
mod advise {
    pub const SET_READ_MOSTLY: u32 = 1;
    pub const UNSET_READ_MOSTLY: u32 = 2;
    pub const SET_PREFERRED_LOCATION: u32 = 3;
    pub const UNSET_PREFERRED_LOCATION: u32 = 4;
    pub const SET_ACCESSED_BY: u32 = 5;
    pub const UNSET_ACCESSED_BY: u32 = 6;
}

/// A live stream that does not capture: what is done to managed memory is no node of a graph.
fn check_stream(stream: u64) -> error::Result {
    handles::check_stream(stream)?;
    capture::refuse_in(stream)
}

/// What was advised, by allocation.
static ADVICE: Mutex<BTreeMap<u64, Advice>> = Mutex::new(BTreeMap::new());

pub unsafe fn cuMemAllocManaged(dptr: *mut u64, bytesize: usize, flags: u32) -> error::Result {
    if dptr.is_null() || bytesize == 0 || !matches!(flags, GLOBAL | HOST) {
        return Err(error::INVALID_VALUE);
    }
    if isize::try_from(bytesize).is_err() || bytesize as u64 > client::HEAP_LIMIT {
        return Err(error::OUT_OF_MEMORY);
    }
    let base = client::get()?.heap.alloc(bytesize as u64, PAGE).map_err(|e| error::heap(&e))?;
    memory::insert(base, bytesize, memory::Origin::Managed);
    // SAFETY: checked above; the program's pointer.
    unsafe { put(dptr, base) }
}

/// Frees managed memory; `None` if `base` is not where some begins. Waits for the device first: it may be using the memory.
pub fn free(base: u64) -> Option<error::Result> {
    if !memory::remove_managed(base) {
        return None;
    }
    ADVICE.lock().unwrap_or_else(PoisonError::into_inner).remove(&base);
    let _ = capture::wait_for_device();
    Some(client::get().map(|client| {
        client.heap.free(base);
    }))
}

/// The allocation that all of `[address, address + len)`, not empty, lies in, as whole pages from its start; else CUDA_ERROR_INVALID_VALUE.
fn pages(address: u64, len: usize) -> error::Result<(u64, u64, u64)> {
    let block = memory::managed(address, len as u64).filter(|_| len > 0).ok_or(error::INVALID_VALUE)?;
    let first = (address - block.base) / PAGE;
    let end = (address - block.base + len as u64).div_ceil(PAGE);
    Ok((block.base, first, end))
}

fn advice<T>(base: u64, body: impl FnOnce(&mut Advice) -> T) -> T {
    body(ADVICE.lock().unwrap_or_else(PoisonError::into_inner).entry(base).or_default())
}

/// A device of the program's, or the CPU; else CUDA_ERROR_INVALID_DEVICE.
fn device_or_cpu(ordinal: i32) -> error::Result<Place> {
    if ordinal == CPU {
        return Ok(Place::HOST);
    }
    device::host_ordinal(ordinal).map(|_| Place::device(ordinal))
}

/// A location's place. A NUMA node that the guest does not have, and what is no location, is CUDA_ERROR_INVALID_VALUE; a device that is
/// not there `no_device`.
fn place(location: &Blob4<8>, no_device: u32) -> error::Result<Place> {
    let place = Place { kind: word(&location.0, 0), id: word(&location.0, 4).cast_signed() };
    match place.kind {
        Place::DEVICE => device::host_ordinal(place.id).map(|_| place).map_err(|_| no_device),
        Place::ON_HOST => Ok(Place::HOST),
        Place::NUMA if !has_node(place.id) => Err(error::INVALID_VALUE),
        Place::NUMA | Place::NUMA_CURRENT => Ok(place),
        _ => Err(error::INVALID_VALUE),
    }
}

fn has_node(node: i32) -> bool {
    node == 0 || (node > 0 && std::path::Path::new(&format!("/sys/devices/system/node/node{node}")).exists())
}

/// `place` is only looked at where the advice has one.
fn apply(
    address: u64,
    len: usize,
    advice_number: u32,
    place: impl FnOnce() -> error::Result<Place>,
) -> error::Result {
    let (base, first, end) = pages(address, len)?;
    let set = |change: &dyn Fn(&mut advice::Page)| advice(base, |a| a.change(first, end, change));
    match advice_number {
        advise::SET_READ_MOSTLY => set(&|page| page.read_mostly = true),
        advise::UNSET_READ_MOSTLY => set(&|page| page.read_mostly = false),
        advise::SET_PREFERRED_LOCATION => {
            let place = place()?;
            // The driver takes NUMA nodes and leaves what it tells as it was.
            if !place.is_node() {
                set(&|page| page.preferred = Some(place));
            }
        }
        advise::UNSET_PREFERRED_LOCATION => set(&|page| page.preferred = None),
        advise::SET_ACCESSED_BY | advise::UNSET_ACCESSED_BY => {
            let place = place()?;
            if place.is_node() {
                return Err(error::INVALID_VALUE);
            }
            let on = advice_number == advise::SET_ACCESSED_BY;
            set(&|page| page.set_accessed_by(place.ordinal(), on));
        }
        _ => return Err(error::INVALID_VALUE),
    }
    Ok(())
}

pub unsafe fn cuMemAdvise(devPtr: u64, count: usize, advice: u32, device: i32) -> error::Result {
    apply(devPtr, count, advice, || device_or_cpu(device))
}

pub unsafe fn cuMemAdvise_v2(devPtr: u64, count: usize, advice: u32, location: Blob4<8>) -> error::Result {
    if !(Place::DEVICE..=Place::NUMA_CURRENT).contains(&word(&location.0, 0)) {
        return Err(error::INVALID_VALUE);
    }
    apply(devPtr, count, advice, || place(&location, error::INVALID_VALUE))
}

fn prefetch(address: u64, len: usize, place: Place) -> error::Result {
    let (base, first, end) = pages(address, len)?;
    advice(base, |a| a.change(first, end, &|page| page.prefetched = Some(place)));
    Ok(())
}

pub unsafe fn cuMemPrefetchAsync(devPtr: u64, count: usize, dstDevice: i32, hStream: u64) -> error::Result {
    check_stream(hStream)?;
    pages(devPtr, count)?;
    prefetch(devPtr, count, device_or_cpu(dstDevice)?)
}

pub unsafe fn cuMemPrefetchAsync_v2(
    devPtr: u64,
    count: usize,
    location: Blob4<8>,
    flags: u32,
    hStream: u64,
) -> error::Result {
    check_stream(hStream)?;
    if flags != 0 {
        return Err(error::INVALID_VALUE);
    }
    pages(devPtr, count)?;
    prefetch(devPtr, count, place(&location, error::INVALID_DEVICE)?)
}

/// The ranges of a batch, all of them in managed memory. The default stream takes no batches.
///
/// # Safety
/// The arrays have `count` elements, or are NULL.
unsafe fn ranges<'a>(
    addresses: *const u64,
    sizes: *const usize,
    count: usize,
    flags: u64,
    stream: u64,
) -> error::Result<(&'a [u64], &'a [usize])> {
    // SAFETY: the caller's promise.
    let (addresses, sizes) = unsafe { (call::slice(addresses, count), call::slice(sizes, count)) };
    let (Some(addresses), Some(sizes)) = (addresses, sizes) else { return Err(error::INVALID_VALUE) };
    if count == 0 || flags != 0 || handles::is_default_stream(stream) {
        return Err(error::INVALID_VALUE);
    }
    check_stream(stream)?;
    addresses.iter().zip(sizes).try_for_each(|(&address, &len)| pages(address, len).map(|_| ()))?;
    Ok((addresses, sizes))
}

/// Nothing is thrown away: what was discarded may have any contents, also its old ones.
pub unsafe fn cuMemDiscardBatchAsync(
    dptrs: *mut u64,
    sizes: *mut usize,
    count: usize,
    flags: u64,
    hStream: u64,
) -> error::Result {
    // SAFETY: the program's arrays.
    unsafe { ranges(dptrs, sizes, count, flags, hStream) }.map(|_| ())
}

#[allow(clippy::too_many_arguments)] // the driver API's parameters
pub unsafe fn cuMemPrefetchBatchAsync(
    dptrs: *mut u64,
    sizes: *mut usize,
    count: usize,
    prefetchLocs: *mut Blob4<8>,
    prefetchLocIdxs: *mut usize,
    numPrefetchLocs: usize,
    flags: u64,
    hStream: u64,
) -> error::Result {
    // SAFETY: the program's arrays.
    let ((addresses, sizes), locations, firsts) = unsafe {
        (
            ranges(dptrs, sizes, count, flags, hStream)?,
            call::slice(prefetchLocs, numPrefetchLocs).ok_or(error::INVALID_VALUE)?,
            call::slice(prefetchLocIdxs, numPrefetchLocs).ok_or(error::INVALID_VALUE)?,
        )
    };
    // The first range that each location is for: from 0 on, rising.
    if firsts.first() != Some(&0) || firsts.len() > count || !firsts.is_sorted_by(|a, b| a < b) {
        return Err(error::INVALID_VALUE);
    }
    let places = locations.iter().map(|location| place(location, error::INVALID_VALUE));
    let places: Vec<Place> = places.collect::<error::Result<_>>()?;
    for (i, (&address, &len)) in addresses.iter().zip(sizes).enumerate() {
        let index = firsts.partition_point(|&first| first <= i).saturating_sub(1);
        prefetch(address, len, *places.get(index).ok_or(error::INVALID_VALUE)?)?;
    }
    Ok(())
}

#[allow(clippy::too_many_arguments)] // the driver API's parameters
pub unsafe fn cuMemDiscardAndPrefetchBatchAsync(
    dptrs: *mut u64,
    sizes: *mut usize,
    count: usize,
    prefetchLocs: *mut Blob4<8>,
    prefetchLocIdxs: *mut usize,
    numPrefetchLocs: usize,
    flags: u64,
    hStream: u64,
) -> error::Result {
    // SAFETY: as there.
    unsafe {
        cuMemPrefetchBatchAsync(
            dptrs,
            sizes,
            count,
            prefetchLocs,
            prefetchLocIdxs,
            numPrefetchLocs,
            flags,
            hStream,
        )
    }
}

/// CUmem_range_attribute.
mod attribute {
    pub const READ_MOSTLY: u32 = 1;
    pub const PREFERRED_LOCATION: u32 = 2;
    pub const ACCESSED_BY: u32 = 3;
    pub const LAST_PREFETCH_LOCATION: u32 = 4;
    pub const PREFERRED_LOCATION_TYPE: u32 = 5;
    pub const PREFERRED_LOCATION_ID: u32 = 6;
    pub const LAST_PREFETCH_LOCATION_TYPE: u32 = 7;
    pub const LAST_PREFETCH_LOCATION_ID: u32 = 8;
}

/// The values of an attribute for `room` ints.
fn values(advice: &Advice, first: u64, end: u64, attribute: u32, room: usize) -> error::Result<Vec<i32>> {
    let preferred = || advice.common(first, end, |page| page.preferred).flatten();
    let prefetched = || advice.common(first, end, |page| page.prefetched).flatten();
    let ordinal = |place: Option<Place>| place.map_or(NO_DEVICE, Place::ordinal);
    let kind = |place: Option<Place>| place.map_or(0, |place| place.kind.cast_signed());
    let id = |place: Option<Place>| place.map_or(NO_DEVICE, |place| place.id);
    if attribute == attribute::ACCESSED_BY {
        let mut list = advice.accessed_by(first, end);
        list.resize(room, NO_DEVICE);
        return Ok(list);
    }
    if room != 1 {
        return Err(error::INVALID_VALUE);
    }
    let value = match attribute {
        attribute::READ_MOSTLY => i32::from(advice.common(first, end, |page| page.read_mostly) == Some(true)),
        attribute::PREFERRED_LOCATION => ordinal(preferred()),
        attribute::LAST_PREFETCH_LOCATION => ordinal(prefetched()),
        attribute::PREFERRED_LOCATION_TYPE => kind(preferred()),
        attribute::PREFERRED_LOCATION_ID => id(preferred()),
        attribute::LAST_PREFETCH_LOCATION_TYPE => kind(prefetched()),
        attribute::LAST_PREFETCH_LOCATION_ID => id(prefetched()),
        _ => return Err(error::INVALID_VALUE),
    };
    Ok(vec![value])
}

pub unsafe fn cuMemRangeGetAttribute(
    data: *mut c_void,
    dataSize: usize,
    attribute: u32,
    devPtr: u64,
    count: usize,
) -> error::Result {
    let (base, first, end) = pages(devPtr, count)?;
    if data.is_null() || dataSize == 0 || !dataSize.is_multiple_of(4) || dataSize > MOST_VALUES {
        return Err(error::INVALID_VALUE);
    }
    let list = advice(base, |a| values(a, first, end, attribute, dataSize / 4))?;
    // SAFETY: the program's place of `dataSize` bytes, four for each value.
    unsafe { std::ptr::copy_nonoverlapping(list.as_ptr().cast::<u8>(), data.cast(), list.len() * 4) };
    Ok(())
}

/// Bytes of the longest list of devices.
const MOST_VALUES: usize = 1 << 20;

pub unsafe fn cuMemRangeGetAttributes(
    data: *mut *mut c_void,
    dataSizes: *mut usize,
    attributes: *mut u32,
    numAttributes: usize,
    devPtr: u64,
    count: usize,
) -> error::Result {
    // SAFETY: the program's arrays of `numAttributes` elements.
    let arrays = unsafe {
        (
            call::slice(data.cast::<u64>().cast_const(), numAttributes),
            call::slice(dataSizes, numAttributes),
            call::slice(attributes, numAttributes),
        )
    };
    let (Some(places), Some(sizes), Some(attributes)) = arrays else { return Err(error::INVALID_VALUE) };
    if numAttributes == 0 {
        return Err(error::INVALID_VALUE);
    }
    for ((&place, &size), &attribute) in places.iter().zip(sizes).zip(attributes) {
        let place = std::ptr::with_exposed_provenance_mut(place as usize);
        // SAFETY: the program's place of `size` bytes.
        unsafe { cuMemRangeGetAttribute(place, size, attribute, devPtr, count) }?;
    }
    Ok(())
}

/// Attachment limits who may use memory where the host must not touch what the device uses; here both always may.
pub unsafe fn cuStreamAttachMemAsync(hStream: u64, dptr: u64, length: usize, flags: u32) -> error::Result {
    check_stream(hStream)?;
    let block = memory::managed(dptr, 1).ok_or(error::INVALID_VALUE)?;
    let whole = block.base == dptr && (length == 0 || length as u64 == block.len);
    if !whole || !matches!(flags, GLOBAL | HOST | SINGLE) || (flags == SINGLE && hStream == 0) {
        return Err(error::INVALID_VALUE);
    }
    context::device_of(block.context).map(|_| ())
}
