//! The driver API by dlopen, with results as `Result`.

use std::ffi::{CStr, c_char, c_void};
use std::mem::MaybeUninit;
use std::ptr::{null, null_mut};
use vgpu_tests::kernels::KERNELS;

/// A CUresult other than 0.
pub type Code = u32;

pub const INVALID_VALUE: Code = 1;
pub const NOT_INITIALIZED: Code = 3;
pub const DEVICE_UNAVAILABLE: Code = 46;
pub const INVALID_DEVICE: Code = 101;
pub const INVALID_IMAGE: Code = 200;
pub const INVALID_CONTEXT: Code = 201;
pub const NO_BINARY: Code = 209;
pub const INVALID_PTX: Code = 218;
pub const FILE_NOT_FOUND: Code = 301;
pub const INVALID_HANDLE: Code = 400;
pub const CONTEXT_IS_DESTROYED: Code = 709;
pub const NOT_FOUND: Code = 500;
pub const ILLEGAL_ADDRESS: Code = 700;
pub const CAPTURE_UNSUPPORTED: Code = 900;
pub const CAPTURE_INVALIDATED: Code = 901;
pub const CAPTURE_IMPLICIT: Code = 906;

macro_rules! api {
    ($($name:ident = $symbol:literal ($($parameter:ty),*);)*) => {
        /// The functions, as cuda.h declares them.
        pub struct Api {
            $(pub $name: unsafe extern "C" fn($($parameter),*) -> u32,)*
        }

        impl Api {
            fn load(library: &libloading::Library) -> Self {
                Api {
                    // SAFETY: the signatures are those of cuda.h, and the library stays loaded.
                    $($name: unsafe { *library.get(concat!($symbol, "\0").as_bytes()).unwrap() },)*
                }
            }
        }
    };
}
api! {
    init = "cuInit"(u32);
    device_count = "cuDeviceGetCount"(*mut i32);
    device = "cuDeviceGet"(*mut i32, i32);
    uuid = "cuDeviceGetUuid_v2"(*mut [u8; 16], i32);
    name = "cuDeviceGetName"(*mut c_char, i32, i32);
    total = "cuDeviceTotalMem_v2"(*mut usize, i32);
    attribute = "cuDeviceGetAttribute"(*mut i32, i32, i32);
    retain = "cuDevicePrimaryCtxRetain"(*mut u64, i32);
    set_current = "cuCtxSetCurrent"(u64);
    destroy_context = "cuCtxDestroy_v2"(u64);
    synchronize = "cuCtxSynchronize"();
    load_data = "cuModuleLoadData"(*mut u64, *const c_void);
    load_file = "cuModuleLoad"(*mut u64, *const c_char);
    unload = "cuModuleUnload"(u64);
    function = "cuModuleGetFunction"(*mut u64, u64, *const c_char);
    global = "cuModuleGetGlobal_v2"(*mut u64, *mut usize, u64, *const c_char);
    library_unload = "cuLibraryUnload"(u64);
    launch = "cuLaunchKernel"(u64, u32, u32, u32, u32, u32, u32, u32, u64, *mut *mut c_void, *mut *mut c_void);
    allocate = "cuMemAlloc_v2"(*mut u64, usize);
    allocate_pitch = "cuMemAllocPitch_v2"(*mut u64, *mut usize, usize, usize, u32);
    allocate_async = "cuMemAllocAsync"(*mut u64, usize, u64);
    create_memory = "cuMemCreate"(*mut u64, usize, *const c_void, u64);
    array = "cuArray3DCreate_v2"(*mut u64, *const c_void);
    mipmapped = "cuMipmappedArrayCreate"(*mut u64, *const c_void, u32);
    free = "cuMemFree_v2"(u64);
    memory = "cuMemGetInfo_v2"(*mut usize, *mut usize);
    host_allocate = "cuMemHostAlloc"(*mut *mut c_void, usize, u32);
    host_free = "cuMemFreeHost"(*mut c_void);
    to_device = "cuMemcpyHtoD_v2"(u64, *const c_void, usize);
    to_device_async = "cuMemcpyHtoDAsync_v2"(u64, *const c_void, usize, u64);
    to_host = "cuMemcpyDtoH_v2"(*mut c_void, u64, usize);
    to_host_async = "cuMemcpyDtoHAsync_v2"(*mut c_void, u64, usize, u64);
    within_device = "cuMemcpyDtoD_v2"(u64, u64, usize);
    copy_batch = "cuMemcpyBatchAsync"(*mut u64, *mut u64, *mut usize, usize, *const [u32; 6], *mut usize, usize, *mut usize, u64);
    set8 = "cuMemsetD8_v2"(u64, u8, usize);
    set8_async = "cuMemsetD8Async"(u64, u8, usize, u64);
    stream_create = "cuStreamCreate"(*mut u64, u32);
    stream_destroy = "cuStreamDestroy_v2"(u64);
    stream_synchronize = "cuStreamSynchronize"(u64);
    stream_wait = "cuStreamWaitEvent"(u64, u64, u32);
    begin_capture = "cuStreamBeginCapture_v2"(u64, u32);
    end_capture = "cuStreamEndCapture"(u64, *mut u64);
    event_create = "cuEventCreate"(*mut u64, u32);
    event_record = "cuEventRecord"(u64, u64);
    event_synchronize = "cuEventSynchronize"(u64);
    event_destroy = "cuEventDestroy_v2"(u64);
    pointer_attribute = "cuPointerGetAttribute"(*mut c_void, u32, u64);
}

/// `0` → `Ok`.
pub fn check(code: u32) -> Result<(), Code> {
    if code == 0 { Ok(()) } else { Err(code) }
}

/// A call that writes one result.
///
/// # Safety
/// `call` writes through its pointer if it returns 0.
unsafe fn get<T>(call: impl FnOnce(*mut T) -> u32) -> Result<T, Code> {
    let mut place = MaybeUninit::uninit();
    check(call(place.as_mut_ptr()))?;
    // SAFETY: the caller's promise.
    Ok(unsafe { place.assume_init() })
}

/// Numbers that may be copied as bytes.
pub trait Number: Copy + Default {}
impl Number for u8 {}
impl Number for u32 {}

/// The driver, and the context that threads work in.
pub struct Driver {
    pub api: Api,
    pub context: u64,
}

impl Driver {
    /// Loads the library.
    pub fn load() -> Self {
        // SAFETY: the shim's initialisers are harmless.
        let library = unsafe { libloading::Library::new("libcuda.so.1") }.unwrap();
        let api = Api::load(&library);
        std::mem::forget(library);
        Driver { api, context: 0 }
    }

    /// Loads and initialises it; the primary context is current.
    pub fn start() -> Self {
        let mut driver = Driver::load();
        driver.init().unwrap();
        // SAFETY: written on success.
        driver.context = unsafe { get(|p| (driver.api.retain)(p, 0)) }.unwrap();
        driver.enter();
        driver
    }

    /// Makes the context current to this thread.
    pub fn enter(&self) {
        // SAFETY: no pointers.
        check(unsafe { (self.api.set_current)(self.context) }).unwrap();
    }

    pub fn init(&self) -> Result<(), Code> {
        // SAFETY: no pointers.
        check(unsafe { (self.api.init)(0) })
    }

    pub fn device_count(&self) -> Result<i32, Code> {
        // SAFETY: written on success.
        unsafe { get(|p| (self.api.device_count)(p)) }
    }

    pub fn uuid(&self, ordinal: i32) -> Result<String, Code> {
        // SAFETY: written on success.
        let bytes = unsafe { get(|p| (self.api.uuid)(p, ordinal)) }?;
        Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
    }

    pub fn name(&self, ordinal: i32) -> Result<String, Code> {
        let mut text = [0_u8; 256];
        // SAFETY: a place of that length.
        check(unsafe { (self.api.name)(text.as_mut_ptr().cast(), 256, ordinal) })?;
        Ok(CStr::from_bytes_until_nul(&text).unwrap().to_str().unwrap().into())
    }

    /// Bytes of memory of a device.
    pub fn total(&self, ordinal: i32) -> Result<usize, Code> {
        // SAFETY: written on success.
        unsafe { get(|p| (self.api.total)(p, ordinal)) }
    }

    pub fn synchronize(&self) -> Result<(), Code> {
        // SAFETY: no pointers.
        check(unsafe { (self.api.synchronize)() })
    }

    /// The kernels, loaded once per process by whoever needs them first.
    pub fn module(&self) -> u64 {
        static MODULE: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
        *MODULE.get_or_init(|| self.load_text(KERNELS).unwrap())
    }

    pub fn load_text(&self, image: &CStr) -> Result<u64, Code> {
        // SAFETY: written on success; the text ends with NUL.
        unsafe { get(|p| (self.api.load_data)(p, image.as_ptr().cast())) }
    }

    pub fn unload(&self, module: u64) -> Result<(), Code> {
        // SAFETY: no pointers.
        check(unsafe { (self.api.unload)(module) })
    }

    pub fn find_function(&self, module: u64, name: &CStr) -> Result<u64, Code> {
        // SAFETY: written on success.
        unsafe { get(|p| (self.api.function)(p, module, name.as_ptr())) }
    }

    pub fn function(&self, module: u64, name: &CStr) -> u64 {
        self.find_function(module, name).unwrap()
    }

    /// Launches in one dimension; each parameter has at most 8 bytes.
    pub fn launch(&self, f: u64, grid: u32, block: u32, stream: u64, values: &[u64]) -> Result<(), Code> {
        let mut pointers: Vec<*mut c_void> =
            values.iter().map(|v| (&raw const *v).cast_mut().cast()).collect();
        // SAFETY: as many pointers as the kernels have parameters, to values of at least their size.
        check(unsafe {
            (self.api.launch)(f, grid, 1, 1, block, 1, 1, 0, stream, pointers.as_mut_ptr(), null_mut())
        })
    }

    pub fn allocate(&self, bytes: usize) -> Result<u64, Code> {
        // SAFETY: written on success.
        unsafe { get(|p| (self.api.allocate)(p, bytes)) }
    }

    pub fn free(&self, address: u64) -> Result<(), Code> {
        // SAFETY: no host pointers.
        check(unsafe { (self.api.free)(address) })
    }

    /// Free and total bytes.
    pub fn memory(&self) -> Result<(usize, usize), Code> {
        let mut total = 0;
        // SAFETY: written on success.
        let free = unsafe { get(|p| (self.api.memory)(p, &raw mut total)) }?;
        Ok((free, total))
    }

    /// Pinned memory; it is the caller's until [`Driver::host_free`].
    pub fn host_allocate(&self, bytes: usize) -> Result<&'static mut [u8], Code> {
        // SAFETY: written on success.
        let place = unsafe { get(|p| (self.api.host_allocate)(p, bytes, 0)) }?;
        // SAFETY: as many bytes as were asked for, of shared memory that starts as zeros.
        Ok(unsafe { std::slice::from_raw_parts_mut(place.cast(), bytes) })
    }

    pub fn host_free(&self, memory: &'static mut [u8]) -> Result<(), Code> {
        // SAFETY: memory of `host_allocate`, used no more.
        check(unsafe { (self.api.host_free)(memory.as_mut_ptr().cast()) })
    }

    pub fn to_device(&self, to: u64, from: &[u8]) -> Result<(), Code> {
        // SAFETY: readable for the call.
        check(unsafe { (self.api.to_device)(to, from.as_ptr().cast(), from.len()) })
    }

    /// `from` must stay as it is until the stream is done, if it is pinned.
    pub fn to_device_async(&self, to: u64, from: &[u8], stream: u64) -> Result<(), Code> {
        // SAFETY: readable; pinned memory lives until it is given back.
        check(unsafe { (self.api.to_device_async)(to, from.as_ptr().cast(), from.len(), stream) })
    }

    pub fn to_host(&self, to: &mut [u8], from: u64) -> Result<(), Code> {
        // SAFETY: writable for the call.
        check(unsafe { (self.api.to_host)(to.as_mut_ptr().cast(), from, to.len()) })
    }

    pub fn to_host_async(&self, to: &mut [u8], from: u64, stream: u64) -> Result<(), Code> {
        // SAFETY: writable; pinned memory lives until it is given back.
        check(unsafe { (self.api.to_host_async)(to.as_mut_ptr().cast(), from, to.len(), stream) })
    }

    pub fn within_device(&self, to: u64, from: u64, bytes: usize) -> Result<(), Code> {
        // SAFETY: no host pointers.
        check(unsafe { (self.api.within_device)(to, from, bytes) })
    }

    /// Device memory with these numbers.
    pub fn upload(&self, numbers: &[u32]) -> Result<u64, Code> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        let place = self.allocate(bytes.len())?;
        self.to_device(place, &bytes)?;
        Ok(place)
    }

    pub fn download<T: Number>(&self, from: u64, count: usize) -> Result<Vec<T>, Code> {
        let mut values = vec![T::default(); count];
        // SAFETY: writable for the call; every pattern of bits is a number.
        check(unsafe { (self.api.to_host)(values.as_mut_ptr().cast(), from, size_of_val(&values[..])) })?;
        Ok(values)
    }

    pub fn set8(&self, at: u64, value: u8, bytes: usize) -> Result<(), Code> {
        // SAFETY: no host pointers.
        check(unsafe { (self.api.set8)(at, value, bytes) })
    }

    pub fn set8_async(&self, at: u64, value: u8, bytes: usize, stream: u64) -> Result<(), Code> {
        // SAFETY: no host pointers.
        check(unsafe { (self.api.set8_async)(at, value, bytes, stream) })
    }

    pub fn stream(&self) -> Result<u64, Code> {
        // SAFETY: written on success.
        unsafe { get(|p| (self.api.stream_create)(p, 0)) }
    }

    /// Lets the stream capture, in the relaxed mode.
    pub fn begin_capture(&self, stream: u64) -> Result<(), Code> {
        // SAFETY: no pointers.
        check(unsafe { (self.api.begin_capture)(stream, 2) })
    }

    pub fn end_capture(&self, stream: u64) -> Result<u64, Code> {
        // SAFETY: written on success.
        unsafe { get(|p| (self.api.end_capture)(stream, p)) }
    }

    /// A batch of one copy.
    pub fn copy_batch(&self, to: u64, from: u64, bytes: usize, stream: u64) -> Result<(), Code> {
        let (mut to, mut from, mut bytes, mut index, mut failed) = (to, from, bytes, 0, 0);
        // In the stream's order.
        let attributes = [1, 0, 0, 0, 0, 0];
        // SAFETY: arrays of one element.
        check(unsafe {
            (self.api.copy_batch)(
                &raw mut to,
                &raw mut from,
                &raw mut bytes,
                1,
                &raw const attributes,
                &raw mut index,
                1,
                &raw mut failed,
                stream,
            )
        })
    }

    pub fn destroy_stream(&self, stream: u64) -> Result<(), Code> {
        // SAFETY: no host pointers.
        check(unsafe { (self.api.stream_destroy)(stream) })
    }

    pub fn synchronize_stream(&self, stream: u64) -> Result<(), Code> {
        // SAFETY: no host pointers.
        check(unsafe { (self.api.stream_synchronize)(stream) })
    }

    pub fn wait_event(&self, stream: u64, event: u64) -> Result<(), Code> {
        // SAFETY: no host pointers.
        check(unsafe { (self.api.stream_wait)(stream, event, 0) })
    }

    pub fn event(&self) -> Result<u64, Code> {
        // SAFETY: written on success.
        unsafe { get(|p| (self.api.event_create)(p, 0)) }
    }

    pub fn record(&self, event: u64, stream: u64) -> Result<(), Code> {
        // SAFETY: no host pointers.
        check(unsafe { (self.api.event_record)(event, stream) })
    }

    pub fn synchronize_event(&self, event: u64) -> Result<(), Code> {
        // SAFETY: no host pointers.
        check(unsafe { (self.api.event_synchronize)(event) })
    }

    pub fn destroy_event(&self, event: u64) -> Result<(), Code> {
        // SAFETY: no host pointers.
        check(unsafe { (self.api.event_destroy)(event) })
    }

    /// Loads an image of which only the address is known.
    ///
    /// # Safety
    /// `image` is NULL or points to a whole image.
    pub unsafe fn load_image(&self, image: *const u8) -> Result<u64, Code> {
        // SAFETY: the caller's promise; written on success.
        unsafe { get(|p| (self.api.load_data)(p, image.cast())) }
    }
}

/// No name.
pub const NO_TEXT: *const c_char = null();
