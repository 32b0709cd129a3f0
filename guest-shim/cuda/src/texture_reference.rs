//! Texture references.

use crate::{calls, error, handles};
use vgpu_spec::plain::Blob4;

pub unsafe fn cuTexRefDestroy(hTexRef: u64) -> error::Result {
    handles::check_texturereference(hTexRef)?;
    match calls::cuTexRefDestroy(hTexRef) {
        // The worker does not know it any more: it ended with its context.
        Ok(()) | Err(error::INVALID_HANDLE) => handles::remove(hTexRef),
        Err(status) => return Err(status),
    }
    Ok(())
}

/// The reference is looked at before the place.
pub unsafe fn cuSurfRefGetArray(phArray: *mut u64, hSurfRef: u64) -> error::Result {
    handles::check_surfacereference(hSurfRef)?;
    // SAFETY: the program's pointer.
    let place = unsafe { phArray.as_mut() }.ok_or(error::INVALID_VALUE)?;
    calls::cuSurfRefGetArray(place, hSurfRef)
}

// The forms with 32-bit addresses want a context of the API's first version, as `call::only_in_old_contexts`.

pub unsafe fn cuTexRefGetAddress(_: *mut u32, hTexRef: u64) -> error::Result {
    handles::check_texturereference(hTexRef)?;
    Err(error::INVALID_CONTEXT)
}

/// Looks at the kind of context before the reference.
pub unsafe fn cuTexRefSetAddress(_: *mut u32, hTexRef: u64, _: u32, _: u32) -> error::Result {
    Err(if hTexRef == 0 { error::INVALID_HANDLE } else { error::INVALID_CONTEXT })
}

pub unsafe fn cuTexRefSetAddress2D(hTexRef: u64, _: *const Blob4<16>, _: u32, _: u32) -> error::Result {
    handles::check_texturereference(hTexRef)?;
    Err(error::INVALID_CONTEXT)
}
