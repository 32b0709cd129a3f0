//! The device as the operations use it, through cudarc, on whatever `libcuda.so.1` the loader finds.

use crate::error::{Error, Fail};
use cudarc::driver::{result, sys};
use std::ffi::{CString, c_void};
use std::ptr;

/// A kernel for any device that adds one to a counter: how a launch shows that it took place.
const MODULE: &str = "
.version 6.4
.target sm_52
.address_size 64
.visible .entry tick(.param .u64 counter)
{
    .reg .b64 %rd<3>;
    .reg .b32 %r<2>;
    ld.param.u64 %rd1, [counter];
    cvta.to.global.u64 %rd2, %rd1;
    mov.u32 %r1, 1;
    red.global.add.u32 [%rd2], %r1;
    ret;
}
";

/// The image as the driver wants it, with its NUL.
pub fn image() -> Result<CString, Error> {
    CString::new(MODULE).map_err(|_| Error::Wrong("the kernel contains NUL".into()))
}

/// A context with a stream, the kernel and a counter. Objects live as long as the process, which ends after its measurement.
pub struct Gpu {
    context: sys::CUcontext,
    pub stream: sys::CUstream,
    tick: sys::CUfunction,
    counter: sys::CUdeviceptr,
    /// Small sizes and few repetitions: for counts, not for times.
    pub quick: bool,
}

impl Gpu {
    /// From cuInit to a context with the kernel loaded.
    ///
    /// # Errors
    /// The driver's, with the call's name.
    pub fn open(quick: bool) -> Result<Gpu, Error> {
        result::init().fail("cuInit")?;
        let device = result::device::get(0).fail("cuDeviceGet")?;
        // SAFETY: the device is of the driver.
        let context = unsafe { result::primary_ctx::retain(device) }.fail("cuDevicePrimaryCtxRetain")?;
        Gpu::with(context, quick)
    }

    fn with(context: sys::CUcontext, quick: bool) -> Result<Gpu, Error> {
        // SAFETY: the context is of the driver.
        unsafe { result::ctx::set_current(context) }.fail("cuCtxSetCurrent")?;
        let image = image()?;
        // SAFETY: PTX that ends with NUL.
        let module = unsafe { result::module::load_data(image.as_ptr().cast()) }.fail("cuModuleLoadData")?;
        // SAFETY: the module was just loaded.
        let tick = unsafe { result::module::get_function(module, c"tick".to_owned()) }
            .fail("cuModuleGetFunction")?;
        let stream =
            result::stream::create(result::stream::StreamKind::NonBlocking).fail("cuStreamCreate")?;
        let gpu = Gpu { context, stream, tick, counter: allocate(4)?, quick };
        gpu.reset()?;
        Ok(gpu)
    }

    /// The same device for another thread: its own stream and counter.
    ///
    /// # Errors
    /// The driver's, with the call's name.
    pub fn for_thread(context: SharedContext, quick: bool) -> Result<Gpu, Error> {
        Gpu::with(context.0, quick)
    }

    pub fn shared(&self) -> SharedContext {
        SharedContext(self.context)
    }

    /// `count`, or less in a quick run.
    pub fn scaled(&self, count: u64) -> u64 {
        if self.quick { (count / 50).max(2) } else { count }
    }

    /// Sets the counter to zero and waits for it: a memset is asynchronous, and our stream does not wait for the default one.
    ///
    /// # Errors
    /// The driver's, with the call's name.
    pub fn reset(&self) -> Result<(), Error> {
        // SAFETY: four bytes of ours.
        unsafe { result::memset_d8_sync(self.counter, 0, 4) }.fail("cuMemsetD8")?;
        result::ctx::synchronize().fail("cuCtxSynchronize")
    }

    /// Launches `tick` in the stream.
    #[inline]
    pub fn tick(&self) -> Result<(), Error> {
        let mut counter = self.counter;
        let mut parameters = [ptr::from_mut(&mut counter).cast::<c_void>()];
        // SAFETY: the kernel takes one pointer, which is valid; the driver copies it.
        unsafe { result::launch_kernel(self.tick, (1, 1, 1), (1, 1, 1), 0, self.stream, &mut parameters) }
            .fail("cuLaunchKernel")
    }

    #[inline]
    pub fn synchronize(&self) -> Result<(), Error> {
        // SAFETY: the stream is ours.
        unsafe { result::stream::synchronize(self.stream) }.fail("cuStreamSynchronize")
    }

    /// The counter's value.
    pub fn count(&self) -> Result<u32, Error> {
        let mut value = [0u32];
        // SAFETY: four bytes of ours.
        unsafe { result::memcpy_dtoh_sync(&mut value, self.counter) }.fail("cuMemcpyDtoH")?;
        Ok(value[0])
    }

    /// Fails unless exactly `count` ticks took place since the last reset.
    pub fn expect_ticks(&self, count: u64) -> Result<(), Error> {
        let found = self.count()?;
        if u64::from(found) == count {
            Ok(())
        } else {
            Err(Error::Wrong(format!("{count} launches changed the counter {found} times")))
        }
    }
}

/// A context for other threads of the process.
#[derive(Clone, Copy)]
pub struct SharedContext(sys::CUcontext);
// SAFETY: the driver allows a context to be current in several threads; the pointer itself is never read.
unsafe impl Send for SharedContext {}

/// Device memory, for the life of the process or until it is freed.
pub fn allocate(bytes: usize) -> Result<sys::CUdeviceptr, Error> {
    // SAFETY: no precondition.
    unsafe { result::malloc_sync(bytes) }.fail("cuMemAlloc")
}
