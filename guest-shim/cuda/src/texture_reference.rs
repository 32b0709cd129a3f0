//! Texture references.

use crate::{calls, error, handles};
use vgpu_spec::plain::Blob4;

pub unsafe fn cuTexRefDestroy(hTexRef: u64) -> error::Result {
    handles::check_texturereference(hTexRef)?;
    calls::cuTexRefDestroy(hTexRef)?;
    handles::remove(hTexRef);
    Ok(())
}

// The forms with 32-bit addresses want a context of the API's first version, as `call::only_in_old_contexts`.

pub unsafe fn cuTexRefGetAddress(_: *mut u32, hTexRef: u64) -> error::Result {
    handles::check_texturereference(hTexRef)?;
    Err(error::INVALID_CONTEXT)
}

pub unsafe fn cuTexRefSetAddress(_: *mut u32, hTexRef: u64, _: u32, _: u32) -> error::Result {
    handles::check_texturereference(hTexRef)?;
    Err(error::INVALID_CONTEXT)
}

pub unsafe fn cuTexRefSetAddress2D(hTexRef: u64, _: *const Blob4<16>, _: u32, _: u32) -> error::Result {
    handles::check_texturereference(hTexRef)?;
    Err(error::INVALID_CONTEXT)
}
