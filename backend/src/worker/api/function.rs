//! Functions that end.
#![allow(non_snake_case)]

use super::{
    error::{CudaError, INVALID_VALUE},
    thread::Thread,
};

/// Functions and kernels ended with their module or library.
pub fn vgpuFunctionsEnded(t: &mut Thread, numbers: Option<Vec<u64>>, n: usize) -> Result<(), CudaError> {
    let numbers = numbers.unwrap_or_default();
    if numbers.len() != n {
        return Err(INVALID_VALUE);
    }
    numbers.into_iter().for_each(|number| t.forget_callable(number));
    Ok(())
}
