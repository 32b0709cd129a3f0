//! Arrays and mipmapped arrays. Levels and planes are arrays of the driver's that end with what they are part of.
#![allow(non_snake_case)]

use super::{
    array_memory::{Description, of_plane},
    error::{CudaError, INVALID_VALUE, NOT_SUPPORTED, check},
    thread::Thread,
};
use crate::worker::quota::{Share, Thing};
use vgpu_spec::{plain::Blob8, structure::array_map};

impl Thread {
    pub fn array(&self, number: u64) -> Result<u64, CudaError> {
        self.session.arrays.table.get(number)
    }

    pub fn mipmappedarray(&self, number: u64) -> Result<u64, CudaError> {
        self.session.mipmapped_arrays.table.get(number)
    }

    /// The number of an array that was just made. One of the same address ended with its context.
    pub fn number_array(&self, real: u64, _owner: u64) -> Result<u64, CudaError> {
        self.session.arrays.forget(real);
        self.session.arrays.number_in(real, 0, self.current_context())
    }

    /// The number of a mipmapped array that was just made.
    pub fn number_mipmappedarray(&self, real: u64, _owner: u64) -> Result<u64, CudaError> {
        self.session.mipmapped_arrays.forget(real);
        self.session.mipmapped_arrays.number_in(real, 0, self.current_context())
    }

    /// Ends the numbers of the arrays in the driver's context, which end with it.
    pub fn forget_arrays(&self, context: u64) {
        for numbers in [&self.session.arrays, &self.session.mipmapped_arrays] {
            for real in numbers.of_context(context) {
                numbers.forget(real);
                self.forget_parts(real);
            }
        }
    }

    /// Ends the numbers of the arrays that are parts of the driver's `owner`.
    fn forget_parts(&self, owner: u64) {
        for part in self.session.arrays.owned_by(owner) {
            self.session.arrays.forget(part);
            self.forget_parts(part);
        }
    }
}

impl Thread {
    /// Makes an array (`levels` 0) or mipmapped array of that description, which counts.
    fn make_array(
        &self,
        description: &Description,
        levels: u32,
        make: impl FnOnce(*mut u64) -> u32,
    ) -> Result<u64, CudaError> {
        let device = self.device()?;
        let bytes = self.array_bytes(device, description, levels);
        let real = self.with_memory(device, bytes, || {
            let mut real = 0_u64;
            check(make(&raw mut real)).map(|()| real)
        })?;
        let thing = if levels == 0 { Thing::Array } else { Thing::Mipmapped };
        self.session.quota.hold(thing, real, Share { device, bytes }, self.real_context());
        Ok(real)
    }
}

fn first<T: Copy>(given: Option<Vec<T>>) -> Result<T, CudaError> {
    given.and_then(|list| list.first().copied()).ok_or(INVALID_VALUE)
}

pub fn cuArrayCreate_v2(t: &mut Thread, plane: Option<Vec<Blob8<24>>>) -> Result<u64, CudaError> {
    let create = t.driver.cuArrayCreate_v2.ok_or(NOT_SUPPORTED)?;
    let plane = first(plane)?;
    // SAFETY: a place for the handle, and a description, that outlive the call.
    let real = t.make_array(&of_plane(&plane), 0, |place| unsafe { create(place, &raw const plane) })?;
    t.number_array(real, 0)
}

pub fn cuArray3DCreate_v2(t: &mut Thread, description: Option<Vec<Description>>) -> Result<u64, CudaError> {
    let create = t.driver.cuArray3DCreate_v2.ok_or(NOT_SUPPORTED)?;
    let description = first(description)?;
    // SAFETY: a place for the handle, and a description, that outlive the call.
    let real = t.make_array(&description, 0, |place| unsafe { create(place, &raw const description) })?;
    t.number_array(real, 0)
}

pub fn cuMipmappedArrayCreate(
    t: &mut Thread,
    description: Option<Vec<Description>>,
    levels: u32,
) -> Result<u64, CudaError> {
    let create = t.driver.cuMipmappedArrayCreate.ok_or(NOT_SUPPORTED)?;
    let description = first(description)?;
    // SAFETY: a place for the handle, and a description, that outlive the call.
    let make = |place| unsafe { create(place, &raw const description, levels) };
    let real = t.make_array(&description, levels.max(1), make)?;
    t.number_mipmappedarray(real, 0)
}

/// Destroys an array, and says whether it ended: the driver takes levels and planes without doing anything.
pub fn vgpuArrayDestroy(t: &mut Thread, array: u64) -> Result<u32, CudaError> {
    let destroy = t.driver.cuArrayDestroy.ok_or(NOT_SUPPORTED)?;
    if t.session.arrays.owner(array) != 0 {
        return Ok(0);
    }
    let taken = t.session.arrays.take(array).ok_or(INVALID_VALUE)?;
    // SAFETY: a live array of this client, just taken out of the table.
    match check(unsafe { destroy(array) }) {
        Ok(()) => {
            t.release_thing(Thing::Array, array);
            t.forget_parts(array);
            t.session.arrays.release(taken);
            Ok(1)
        }
        Err(status) => {
            t.session.arrays.restore(taken)?;
            Err(status)
        }
    }
}

pub fn cuMipmappedArrayDestroy(t: &mut Thread, mipmapped: u64) -> Result<(), CudaError> {
    let destroy = t.driver.cuMipmappedArrayDestroy.ok_or(NOT_SUPPORTED)?;
    let taken = t.session.mipmapped_arrays.take(mipmapped).ok_or(INVALID_VALUE)?;
    // SAFETY: a live mipmapped array of this client, just taken out of the table.
    match check(unsafe { destroy(mipmapped) }) {
        Ok(()) => {
            t.release_thing(Thing::Mipmapped, mipmapped);
            t.forget_parts(mipmapped);
            t.session.mipmapped_arrays.release(taken);
            Ok(())
        }
        Err(status) => {
            t.session.mipmapped_arrays.restore(taken)?;
            Err(status)
        }
    }
}

pub fn cuMipmappedArrayGetLevel(t: &mut Thread, mipmapped: u64, level: u32) -> Result<u64, CudaError> {
    let get = t.driver.cuMipmappedArrayGetLevel.ok_or(NOT_SUPPORTED)?;
    let mut real = 0_u64;
    // SAFETY: a live mipmapped array of this client, and a place that outlives the call.
    check(unsafe { get(&raw mut real, mipmapped, level) })?;
    t.session.arrays.number(real, mipmapped)
}

pub fn cuArrayGetPlane(t: &mut Thread, array: u64, plane: u32) -> Result<u64, CudaError> {
    let get = t.driver.cuArrayGetPlane.ok_or(NOT_SUPPORTED)?;
    let mut real = 0_u64;
    // SAFETY: a live array of this client, and a place that outlives the call.
    check(unsafe { get(&raw mut real, array, plane) })?;
    t.session.arrays.number(real, array)
}

impl Thread {
    /// A mapping with the driver's handles. What is no array is NULL, which the driver refuses.
    fn mapping(&self, given: &Blob8<96>) -> Result<Blob8<96>, CudaError> {
        let mut blob = *given;
        let resource = array_map::RESOURCE.get(&given.0);
        let real = match array_map::KIND.get(&given.0) as u32 {
            array_map::ARRAY => self.array(resource),
            array_map::MIPMAPPED_ARRAY => self.mipmappedarray(resource),
            _ => return Err(INVALID_VALUE),
        };
        array_map::RESOURCE.set(&mut blob.0, real.unwrap_or(0));
        let allocation = array_map::ALLOCATION.get(&given.0);
        if allocation != 0 {
            let real = self.allocation(allocation).map_err(|_| INVALID_VALUE)?;
            self.session.quota.physical().stays(real);
            array_map::ALLOCATION.set(&mut blob.0, real);
        }
        Ok(blob)
    }
}

/// Maps or unmaps parts of sparse arrays. The driver checks where.
pub fn cuMemMapArrayAsync(
    t: &mut Thread,
    list: Option<Vec<Blob8<96>>>,
    count: u32,
    stream: u64,
) -> Result<(), CudaError> {
    let map = t.driver.cuMemMapArrayAsync.ok_or(NOT_SUPPORTED)?;
    let list = list.ok_or(INVALID_VALUE)?;
    let list = list.iter().map(|m| t.mapping(m)).collect::<Result<Vec<_>, _>>()?;
    if list.len() != count as usize {
        return Err(INVALID_VALUE);
    }
    // SAFETY: as many mappings as the driver is told of, with live handles of this client.
    check(unsafe { map(list.as_ptr(), count, stream) })
}
