//! The calling thread's stack of current contexts.

use std::cell::RefCell;
use std::sync::Arc;

use super::context::Context;
use super::{CudaError, Result, state};

thread_local! {
    /// Handles, not contexts: a primary context that is activated again under its handle is current again.
    static STACK: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// The current context's handle; 0 if there is none.
pub fn handle() -> u64 {
    STACK.try_with(|stack| stack.borrow().last().copied().unwrap_or(0)).unwrap_or(0)
}

/// The current context: `INVALID_CONTEXT` if there is none, `CONTEXT_IS_DESTROYED` if it is gone.
pub fn context() -> Result<Arc<Context>> {
    let state = state()?;
    match handle() {
        0 => Err(CudaError::InvalidContext),
        handle => state.contexts.get(handle).map_err(|_| CudaError::ContextIsDestroyed),
    }
}

/// The current context, or the fault that it has had.
pub fn working_context() -> Result<Arc<Context>> {
    let context = context()?;
    context.core().check()?;
    Ok(context)
}

/// Makes `handle` current on top of what is current.
pub fn push(handle: u64) {
    let _ = STACK.try_with(|stack| stack.borrow_mut().push(handle));
}

/// Takes the current context off the stack; `INVALID_CONTEXT` if there is none.
pub fn pop() -> Result<u64> {
    let popped = STACK.try_with(|stack| stack.borrow_mut().pop()).ok().flatten();
    popped.ok_or(CudaError::InvalidContext)
}

/// Replaces the current context; 0 leaves what is below it.
pub fn set(handle: u64) {
    let _ = pop();
    if handle != 0 {
        push(handle);
    }
}
