//! User objects, which graphs keep for the program.

use std::ffi::c_void;

use super::Out;
use super::graph::graph;
use crate::model::graph::{HostCall, HostFunction};
use crate::model::user_object::UserObject;
use crate::model::{CudaError, Result, state};

/// `CU_USER_OBJECT_NO_DESTRUCTOR_SYNC`, which must be given.
const NO_DESTRUCTOR_SYNC: u32 = 1;
/// `CU_GRAPH_USER_OBJECT_MOVE`.
const MOVE: u32 = 1;

fn object(handle: u64) -> Result<std::sync::Arc<UserObject>> {
    state()?.user_objects.get(handle).map_err(|_| CudaError::InvalidValue)
}

driver_api! {
    /// Makes an object; `destroy` is called when the last reference is gone.
    fn cuUserObjectCreate(
        out: Out<'_, u64>, data: *mut c_void, destroy: Option<HostFunction>, count: u32, flags: u32
    ) {
        let (out, destroy) = out.zip(destroy).ok_or(CudaError::InvalidValue)?;
        if count == 0 || flags != NO_DESTRUCTOR_SYNC {
            return Err(CudaError::InvalidValue);
        }
        out.write(UserObject::create(HostCall::new(destroy, data), count)?);
        Ok(())
    }

    /// Adds references of the program's.
    fn cuUserObjectRetain(handle: u64, count: u32) {
        if count == 0 {
            return Err(CudaError::InvalidValue);
        }
        object(handle)?.retain(count)
    }

    /// Takes references of the program's away.
    fn cuUserObjectRelease(handle: u64, count: u32) {
        if count == 0 {
            return Err(CudaError::InvalidValue);
        }
        object(handle)?.release(count).map(drop)
    }

    /// Adds references of a graph's, or moves the program's to it.
    fn cuGraphRetainUserObject(graph_handle: u64, handle: u64, count: u32, flags: u32) {
        if count == 0 || flags & !MOVE != 0 {
            return Err(CudaError::InvalidValue);
        }
        let object = object(handle)?;
        graph(graph_handle)?.objects().retain(handle, &object, count)?;
        if flags == MOVE { object.release(count).map(drop) } else { Ok(()) }
    }

    /// Takes references of a graph's away.
    fn cuGraphReleaseUserObject(graph_handle: u64, handle: u64, count: u32) {
        if count == 0 {
            return Err(CudaError::InvalidValue);
        }
        let ended = graph(graph_handle)?.objects().release(handle, count)?;
        drop(ended);
        Ok(())
    }
}
