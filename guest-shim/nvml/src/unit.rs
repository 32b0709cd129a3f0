//! S-class units: a guest has none.

use crate::{
    call::Out,
    error::{self, NvmlError},
    library::Library,
};

pub fn nvmlUnitGetCount(_: &Library, unitCount: Out<u32>) -> error::Result {
    unitCount.set(0);
    Ok(())
}

pub fn nvmlUnitGetHandleByIndex(_: &Library, _index: u32, _unit: Out<u64>) -> error::Result {
    Err(NvmlError::InvalidArgument)
}
