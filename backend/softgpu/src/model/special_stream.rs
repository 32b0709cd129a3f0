//! What a `CUstream` argument means: NULL, the two special values, or a created stream.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use super::context::Context;
use super::stream::{Order, Stream};
use super::{CudaError, Result, current, state};

/// `CU_STREAM_LEGACY`.
const LEGACY: u64 = 1;
/// `CU_STREAM_PER_THREAD`.
const PER_THREAD: u64 = 2;

/// Which stream NULL means; the `_ptsz` and `_ptds` forms of the functions mean the thread's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultStream {
    /// The legacy default stream.
    Legacy,
    /// The calling thread's.
    PerThread,
}

/// The calling thread's own streams, by the context's number.
#[derive(Default)]
struct Own(HashMap<u64, (Arc<Context>, Arc<Stream>)>);

impl Drop for Own {
    fn drop(&mut self) {
        for (context, stream) in self.0.values() {
            context.forget_stream(stream);
        }
    }
}

thread_local! {
    static OWN: RefCell<Own> = RefCell::default();
}

/// The stream that `handle` means and its context, which must not have failed.
pub fn find(handle: u64, default: DefaultStream) -> Result<(Arc<Context>, Arc<Stream>)> {
    let special = match (handle, default) {
        (0, DefaultStream::Legacy) => LEGACY,
        (0, DefaultStream::PerThread) => PER_THREAD,
        _ => handle,
    };
    let found = match special {
        LEGACY => {
            let context = current::context()?;
            let stream = Arc::clone(context.legacy_stream());
            (context, stream)
        }
        PER_THREAD => {
            let context = current::context()?;
            if context.sm_limit().is_some() {
                // A green context has none.
                return Err(CudaError::InvalidHandle);
            }
            let stream = own_stream(&context)?;
            (context, stream)
        }
        _ => created(handle)?,
    };
    found.0.core().check()?;
    Ok(found)
}

/// Whether `handle` means a stream that no program may destroy.
pub fn is_special(handle: u64) -> bool {
    handle <= PER_THREAD
}

/// The created stream with this handle.
pub fn created(handle: u64) -> Result<(Arc<Context>, Arc<Stream>)> {
    let state = state()?;
    // A created stream needs a current context too, as on the real driver, but not its own.
    current::context()?;
    let stream = state.streams.get(handle)?;
    let context = state.contexts.get(stream.context()).map_err(|_| CudaError::ContextIsDestroyed)?;
    Ok((context, stream))
}

fn own_stream(context: &Arc<Context>) -> Result<Arc<Stream>> {
    let find = |own: &RefCell<Own>| {
        let mut own = own.borrow_mut();
        let make = || (Arc::clone(context), context.new_stream(Order::Blocking, 0));
        Arc::clone(&own.0.entry(context.id()).or_insert_with(make).1)
    };
    OWN.try_with(find).map_err(|_| CudaError::Deinitialized)
}

/// Drops the calling thread's stream of a context that ends.
pub fn forget(context_id: u64) {
    let _ = OWN.try_with(|own| own.borrow_mut().0.remove(&context_id));
}
