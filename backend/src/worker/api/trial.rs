//! A bit of everything that a driver does with its device, to see whether it can, as a worker is confined.

use std::ffi::{CStr, c_void};
use std::ptr::null_mut;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use vgpu_spec::plain::{Blob1, Blob8};

use super::driver::{self, Driver};

/// Adds 1 to a number.
const KERNEL: &CStr = c"
.version 7.0
.target sm_50
.address_size 64
.visible .entry count(.param .u64 place)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [place];
    atom.global.add.u32 %r1, [%rd1], 1;
    ret;
}
";
/// More than the driver has at hand.
const BYTES: usize = 64 << 20;
/// Less than any device lacks.
const FEW: usize = 4 << 10;
const PINNED: usize = 2 << 20;
/// CU_MEM_ALLOCATION_TYPE_PINNED, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, CU_MEM_LOCATION_TYPE_DEVICE.
const ALLOCATION_KIND: [u32; 3] = [1, 1, 1];

/// What another process finds.
const WRITTEN: u32 = 0x5eed_cafe;
/// CU_EVENT_DISABLE_TIMING, CU_EVENT_INTERPROCESS.
const EVENT_FOR_OTHERS: u32 = 2 | 4;

type Outcome = Result<(), String>;

/// What was tried, and how it went. The first device's context is current to this thread.
pub fn trial() -> Vec<(&'static str, Outcome)> {
    let Some(driver) = driver::get() else { return vec![("a driver", Err("none is loaded".into()))] };
    vec![
        ("copies, a compiled kernel", compute(driver, BYTES)),
        ("pinned host memory", pinned(driver)),
        ("managed memory", managed(driver)),
        ("memory of a stream's order", ordered(driver)),
        ("an allocation to share", shareable(driver)),
    ]
}

/// What most programs do first, in the context that is current, so that what the driver does but once is done before there is one. It holds
/// no more than before.
pub fn rehearse(driver: &Driver) -> Outcome {
    compute(driver, FEW)?;
    pinned(driver)
}

fn check(what: &str, status: u32) -> Outcome {
    if status == 0 { Ok(()) } else { Err(format!("{what}: CUDA error {status}")) }
}

/// A function that the driver must have.
macro_rules! function {
    ($driver:ident, $name:ident) => {
        $driver.$name.ok_or(concat!("the driver lacks ", stringify!($name)))?
    };
}

/// A kernel, from its text to its result. Gives back all that it takes.
fn compute(driver: &Driver, bytes: usize) -> Outcome {
    let mut place = 0;
    // SAFETY: a place that lives during the call.
    check("allocating", unsafe { function!(driver, cuMemAlloc_v2)(&raw mut place, bytes) })?;
    let counted = count(driver, place);
    // SAFETY: allocated above; nothing uses it any more, whatever has failed.
    let freed = check("freeing", unsafe { function!(driver, cuMemFree_v2)(place) });
    counted.and(freed)
}

fn count(driver: &Driver, place: u64) -> Outcome {
    let (mut number, mut module) = (41_u32, 0);
    let data: *mut c_void = (&raw mut number).cast();
    // SAFETY: all places live during the calls, and the image ends with NUL.
    unsafe {
        check("copying there", function!(driver, cuMemcpyHtoD_v2)(place, data, size_of::<u32>()))?;
        let image = KERNEL.as_ptr().cast_mut().cast();
        check("compiling", function!(driver, cuModuleLoadData)(&raw mut module, image))?;
        let launched = launch(driver, module, place);
        let unloaded = check("unloading", function!(driver, cuModuleUnload)(module));
        launched.and(unloaded)?;
        check("copying back", function!(driver, cuMemcpyDtoH_v2)(data, place, size_of::<u32>()))?;
    }
    if number == 42 { Ok(()) } else { Err(format!("41 + 1 is {number}")) }
}

fn launch(driver: &Driver, module: u64, mut place: u64) -> Outcome {
    let (mut function, none) = (0, null_mut());
    let mut parameters: [*mut c_void; 1] = [(&raw mut place).cast()];
    // SAFETY: all places live during the calls; the launch's parameter is the kernel's one.
    unsafe {
        let find = function!(driver, cuModuleGetFunction);
        check("finding the kernel", find(&raw mut function, module, c"count".as_ptr()))?;
        let launch = function!(driver, cuLaunchKernel);
        check("launching", launch(function, 1, 1, 1, 1, 1, 1, 0, 0, parameters.as_mut_ptr(), none))?;
        check("waiting", function!(driver, cuCtxSynchronize)())
    }
}

fn pinned(driver: &Driver) -> Outcome {
    let (register, unregister) =
        (function!(driver, cuMemHostRegister_v2), function!(driver, cuMemHostUnregister));
    // SAFETY: the kernel picks a free range, which is unmapped when the driver has let go of it.
    unsafe {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let memory = mmap_anonymous(null_mut(), PINNED, protection, MapFlags::PRIVATE)
            .map_err(|error| format!("mapping memory: {error}"))?;
        let result = check("registering", register(memory, PINNED, 0))
            .and_then(|()| check("unregistering", unregister(memory)));
        let _ = munmap(memory, PINNED);
        result
    }
}

fn managed(driver: &Driver) -> Outcome {
    let mut place = 0;
    // SAFETY: a place that lives during the call; 1 is CU_MEM_ATTACH_GLOBAL.
    unsafe {
        check("allocating", function!(driver, cuMemAllocManaged)(&raw mut place, BYTES, 1))?;
        check("freeing", function!(driver, cuMemFree_v2)(place))
    }
}

fn ordered(driver: &Driver) -> Outcome {
    let mut place = 0;
    // SAFETY: as above; stream 0 is the default one.
    unsafe {
        check("allocating", function!(driver, cuMemAllocAsync)(&raw mut place, BYTES, 0))?;
        check("freeing", function!(driver, cuMemFreeAsync)(place, 0))?;
        check("waiting", function!(driver, cuCtxSynchronize)())
    }
}

fn shareable(driver: &Driver) -> Outcome {
    let (mut handle, mut file) = (0, -1_i32);
    let mut kind = Blob8([0_u8; 32]);
    for (bytes, word) in kind.0.chunks_exact_mut(4).zip(ALLOCATION_KIND) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    // SAFETY: places that live during the calls, of the types that the functions want; the descriptor is closed once.
    unsafe {
        check("creating", function!(driver, cuMemCreate)(&raw mut handle, PINNED, &raw const kind, 0))?;
        let export = function!(driver, cuMemExportToShareableHandle);
        let exported = check("exporting", export((&raw mut file).cast(), handle, 1, 0));
        if exported.is_ok() {
            libc::close(file);
        }
        check("releasing", function!(driver, cuMemRelease)(handle))?;
        exported
    }
}

/// What another process opens: memory, and an event behind what was written there.
pub struct Exported {
    pub memory: [u8; 64],
    pub event: [u8; 64],
}

/// Makes something for another process, which lasts as long as this one.
pub fn export() -> Result<Exported, String> {
    let driver = driver::get().ok_or("no driver is loaded")?;
    let (mut place, mut event) = (0, 0);
    let (mut memory_handle, mut event_handle) = (Blob1([0; 64]), Blob1([0; 64]));
    // SAFETY: places that live during the calls, of the types that the functions want.
    unsafe {
        check("allocating", function!(driver, cuMemAlloc_v2)(&raw mut place, PINNED))?;
        check("writing", function!(driver, cuMemsetD32_v2)(place, WRITTEN, 1))?;
        check("creating an event", function!(driver, cuEventCreate)(&raw mut event, EVENT_FOR_OTHERS))?;
        check("recording it", function!(driver, cuEventRecord)(event, 0))?;
        check("telling of memory", function!(driver, cuIpcGetMemHandle)(&raw mut memory_handle, place))?;
        check("telling of an event", function!(driver, cuIpcGetEventHandle)(&raw mut event_handle, event))?;
    }
    Ok(Exported { memory: memory_handle.0, event: event_handle.0 })
}

/// Opens what another process has made.
pub fn import(exported: &Exported) -> Outcome {
    let driver = driver::get().ok_or("no driver is loaded")?;
    let (mut place, mut event, mut number) = (0, 0, 0_u32);
    // SAFETY: as above. 1 is CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS.
    unsafe {
        let open = function!(driver, cuIpcOpenEventHandle);
        check("opening an event", open(&raw mut event, Blob1(exported.event)))?;
        check("waiting for it", function!(driver, cuEventSynchronize)(event))?;
        let open = function!(driver, cuIpcOpenMemHandle_v2);
        check("opening memory", open(&raw mut place, Blob1(exported.memory), 1))?;
        let read = function!(driver, cuMemcpyDtoH_v2);
        check("reading it", read((&raw mut number).cast(), place, size_of::<u32>()))?;
        check("closing it", function!(driver, cuIpcCloseMemHandle)(place))?;
    }
    if number == WRITTEN { Ok(()) } else { Err(format!("it has {number:#x} instead of {WRITTEN:#x}")) }
}
