//! What the tests share: the driver's functions with results as values.
#![allow(dead_code, clippy::unwrap_used)]

use std::ffi::{CString, c_void};
use std::mem::MaybeUninit;
use std::process::{Command, Output};

use vgpu_softgpu::driver::Out;
use vgpu_softgpu::driver::{context, copy, init, launch, memory, module, primary_context, stream};

/// Calls a function that writes one result.
pub fn get<T>(call: impl FnOnce(Out<'_, T>) -> u32) -> Result<T, u32> {
    let mut value = MaybeUninit::uninit();
    match call(Some(&mut value)) {
        // SAFETY: a function that answers success has written its result.
        0 => Ok(unsafe { value.assume_init() }),
        code => Err(code),
    }
}

/// Starts the driver and makes device 0's primary context current.
pub fn start() -> u64 {
    // SAFETY: the pointers are of live values.
    unsafe {
        assert_eq!(init::cuInit(0), 0);
        let handle = get(|out| primary_context::cuDevicePrimaryCtxRetain(out, 0)).unwrap();
        assert_eq!(context::cuCtxSetCurrent(handle), 0);
        handle
    }
}

pub fn alloc(bytes: usize) -> u64 {
    // SAFETY: the pointers are of live values.
    get(|out| unsafe { memory::cuMemAlloc_v2(out, bytes) }).unwrap()
}

pub fn address<T>(values: &[T]) -> u64 {
    values.as_ptr().expose_provenance() as u64
}

pub fn upload<T>(values: &[T]) -> u64 {
    let to = alloc(size_of_val(values));
    // SAFETY: the slice is as long as its size says.
    assert_eq!(unsafe { copy::cuMemcpyHtoD_v2(to, address(values), size_of_val(values)) }, 0);
    to
}

pub fn download<T: Clone + Default>(from: u64, count: usize) -> Vec<T> {
    let mut values = vec![T::default(); count];
    let to = values.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: the vector is as long as its size says.
    assert_eq!(unsafe { copy::cuMemcpyDtoH_v2(to, from, size_of_val(values.as_slice())) }, 0);
    values
}

pub fn load(source: &str) -> u64 {
    try_load(source.as_bytes()).unwrap()
}

/// Loads an image; a NUL is put behind it.
pub fn try_load(image: &[u8]) -> Result<u64, u32> {
    let image = [image, &[0]].concat();
    // SAFETY: the image ends in NUL or is as long as it says.
    get(|out| unsafe { module::cuModuleLoadData(out, address(&image)) })
}

pub fn function(module: u64, name: &str) -> u64 {
    let name = CString::new(name).unwrap();
    // SAFETY: the pointers are of live values.
    get(|out| unsafe { module::cuModuleGetFunction(out, module, name.as_ptr()) }).unwrap()
}

/// Launches with parameters of 8 bytes or less each, in the default stream.
pub fn launch(function: u64, grid: u32, block: u32, params: &[u64]) -> u32 {
    launch_in(0, function, grid, block, params)
}

pub fn launch_in(stream: u64, function: u64, grid: u32, block: u32, params: &[u64]) -> u32 {
    let pointers: Vec<*const c_void> = params.iter().map(|param| std::ptr::from_ref(param).cast()).collect();
    // SAFETY: there is a pointer for each parameter that the tests' kernels have.
    unsafe {
        launch::cuLaunchKernel(
            function,
            grid,
            1,
            1,
            block,
            1,
            1,
            0,
            stream,
            pointers.as_ptr(),
            std::ptr::null(),
        )
    }
}

pub fn synchronize() -> u32 {
    // SAFETY: there is no pointer.
    unsafe { context::cuCtxSynchronize() }
}

pub fn new_stream(flags: u32) -> u64 {
    // SAFETY: the pointers are of live values.
    get(|out| unsafe { stream::cuStreamCreate(out, flags) }).unwrap()
}

/// Makes `stream` wait until the sender is used or dropped.
pub fn block(stream: u64) -> std::sync::mpsc::Sender<()> {
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    host_function(stream, move || {
        let _ = receiver.recv();
    });
    sender
}

/// Runs `call` in the stream's order.
pub fn host_function(stream: u64, call: impl FnOnce() + Send + 'static) {
    unsafe extern "C" fn run(data: *mut c_void) {
        // SAFETY: this is the box made below, and it is called once.
        let call = unsafe { Box::from_raw(data.cast::<Box<dyn FnOnce() + Send>>()) };
        call();
    }
    let call: Box<Box<dyn FnOnce() + Send>> = Box::new(Box::new(call));
    // SAFETY: `run` takes the box.
    assert_eq!(unsafe { stream::cuLaunchHostFunc(stream, Some(run), Box::into_raw(call).cast()) }, 0);
}

const CHILD: &str = "SOFTGPU_TEST_CHILD";

/// Runs `body` in a process of its own, with `environment`: for what changes a process for good. `name` is the calling
/// test's. Returns what the process wrote.
pub fn in_own_process(name: &str, environment: &[(&str, &str)], body: impl FnOnce()) -> Option<Output> {
    if std::env::var_os(CHILD).is_some() {
        body();
        return None;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([name, "--exact", "--nocapture"]).env(CHILD, "1").envs(environment.iter().copied());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "no test is named {name}");
    Some(output)
}

/// Kernels that the tests use.
pub const KERNELS: &str = "
.version 8.0
.target sm_80
.address_size 64

.global .align 4 .u32 counter = 7;

// add(float *a, float *b, float *c, unsigned n)
.visible .entry add(.param .u64 a, .param .u64 b, .param .u64 c, .param .u32 n)
{
    .reg .pred %p<2>;
    .reg .b32 %r<6>;
    .reg .f32 %f<4>;
    .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [a];
    ld.param.u64 %rd2, [b];
    ld.param.u64 %rd3, [c];
    ld.param.u32 %r1, [n];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra DONE;
    mul.wide.u32 %rd4, %r5, 4;
    add.s64 %rd5, %rd1, %rd4;
    add.s64 %rd6, %rd2, %rd4;
    add.s64 %rd7, %rd3, %rd4;
    ld.global.f32 %f1, [%rd5];
    ld.global.f32 %f2, [%rd6];
    add.f32 %f3, %f1, %f2;
    st.global.f32 [%rd7], %f3;
DONE:
    ret;
}

// store(unsigned *to, unsigned value)
.visible .entry store(.param .u64 to, .param .u32 value)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [to];
    ld.param.u32 %r1, [value];
    st.global.u32 [%rd1], %r1;
    ret;
}

.visible .entry count()
{
    .reg .b32 %r<3>;
    ld.global.u32 %r1, [counter];
    add.u32 %r2, %r1, 1;
    st.global.u32 [counter], %r2;
    ret;
}

.visible .entry nothing() { ret; }
.visible .entry at_most_64() .maxntid 64, 1, 1 { ret; }
.visible .entry just_32_by_2() .reqntid 32, 2, 1 { ret; }
.visible .entry fail() { trap; ret; }
";
