//! Loading code.

use super::{Goal, Operation, Sample, Unit, per_call};
use crate::error::{Error, Fail};
use crate::gpu::{Gpu, image};
use cudarc::driver::{result::module, sys::CUmodule};
use std::cell::RefCell;

pub fn list() -> Vec<Operation> {
    vec![Operation::new("module load, PTX in the compute cache", Unit::Nanoseconds, Goal::None, 20, load)]
}

/// Unloading is outside the time, and looking whether the kernel is there.
fn load(gpu: &Gpu, count: u64) -> Result<Sample, Error> {
    let image = image()?;
    let loaded: RefCell<Vec<CUmodule>> = RefCell::default();
    per_call(
        gpu.scaled(count),
        || {
            // SAFETY: PTX that ends with NUL.
            let module = unsafe { module::load_data(image.as_ptr().cast()) }.fail("cuModuleLoadData")?;
            loaded.borrow_mut().push(module);
            Ok(())
        },
        || {
            if let Some(&module) = loaded.borrow().last() {
                // SAFETY: just loaded.
                unsafe { module::get_function(module, c"tick".to_owned()) }.fail("cuModuleGetFunction")?;
            }
            for module in loaded.borrow_mut().drain(..) {
                // SAFETY: just loaded; no function of it was launched.
                unsafe { module::unload(module) }.fail("cuModuleUnload")?;
            }
            Ok(())
        },
    )
}
