//! Texture references.

use crate::{calls, error, handles};

pub unsafe fn cuTexRefDestroy(hTexRef: u64) -> error::Result {
    handles::check_texturereference(hTexRef)?;
    calls::cuTexRefDestroy(hTexRef)?;
    handles::remove(hTexRef);
    Ok(())
}
