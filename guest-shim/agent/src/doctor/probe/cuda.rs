//! The driver API, as programs use it: start, devices, memory, and a computation whose result is checked.

use super::answer::{Answer, Device};
use super::library::{Loaded, Stop, ask, c, c_text};
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::path::Path;
use std::ptr::null_mut;
use vgpu_spec::wire::snapshot::{text, uuid_text};

const PTX: &str = include_str!("self_test.ptx");
const BLOCKS: u32 = 8;
const THREADS: u32 = 64;
const FACTOR: u32 = 40_503;
/// Bytes of the self-test's array: 4 for each thread.
const BYTES: usize = (BLOCKS * THREADS) as usize * 4;

type Get = unsafe extern "C" fn(*mut c_int) -> c_int;
type Of = unsafe extern "C" fn(*mut c_int, c_int) -> c_int;
type Text = unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int;
type Pointer = *mut c_void;

/// Loads `library` and uses it.
pub fn probe(library: &Path) -> Answer {
    ask(library, name, run)
}

fn name(loaded: &Loaded, code: i64) -> String {
    type Name = unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int;
    let Some(function) = loaded.find::<Name>("cuGetErrorName") else { return String::new() };
    let mut name = std::ptr::null();
    // SAFETY: the place outlives the call, and a name lasts.
    unsafe {
        function(c_int::try_from(code).unwrap_or(c_int::MAX), &raw mut name);
        c_text(name)
    }
}

fn run(cuda: &mut Loaded) -> Result<(), Stop> {
    let init = cuda.get::<unsafe extern "C" fn(c_uint) -> c_int>("cuInit")?;
    // SAFETY: as cuda.h has it; flags must be 0.
    let code = unsafe { init(0) };
    cuda.check("cuInit", code)?;
    let mut version = 0;
    let get = cuda.get::<Get>("cuDriverGetVersion")?;
    // SAFETY: the place outlives the call.
    let code = unsafe { get(&raw mut version) };
    cuda.check("cuDriverGetVersion", code)?;
    cuda.answer.version = format!("{}.{}", version / 1000, version % 1000 / 10);
    let mut count = 0;
    let get = cuda.get::<Get>("cuDeviceGetCount")?;
    // SAFETY: as above.
    let code = unsafe { get(&raw mut count) };
    cuda.check("cuDeviceGetCount", code)?;
    for ordinal in 0..count {
        device(cuda, ordinal)?;
    }
    Ok(())
}

fn device(cuda: &mut Loaded, ordinal: c_int) -> Result<(), Stop> {
    let mut handle = 0;
    let get = cuda.get::<Of>("cuDeviceGet")?;
    // SAFETY: the place outlives the call.
    let code = unsafe { get(&raw mut handle, ordinal) };
    cuda.check("cuDeviceGet", code)?;
    let mut device = Device { name: text_of(cuda, "cuDeviceGetName", handle)?, ..Device::default() };
    device.pci = text_of(cuda, "cuDeviceGetPCIBusId", handle)?;
    let mut uuid = [0_u8; 16];
    let get = cuda.get::<unsafe extern "C" fn(*mut u8, c_int) -> c_int>("cuDeviceGetUuid_v2")?;
    // SAFETY: 16 bytes are written.
    let code = unsafe { get(uuid.as_mut_ptr(), handle) };
    cuda.check("cuDeviceGetUuid_v2", code)?;
    device.uuid = format!("GPU-{}", uuid_text(&uuid));
    let mut context: Pointer = null_mut();
    let retain =
        cuda.get::<unsafe extern "C" fn(*mut Pointer, c_int) -> c_int>("cuDevicePrimaryCtxRetain")?;
    // SAFETY: the place outlives the call.
    let code = unsafe { retain(&raw mut context, handle) };
    cuda.check("cuDevicePrimaryCtxRetain", code)?;
    let set = cuda.get::<unsafe extern "C" fn(Pointer) -> c_int>("cuCtxSetCurrent")?;
    // SAFETY: the context was just given.
    let code = unsafe { set(context) };
    cuda.check("cuCtxSetCurrent", code)?;
    let (mut free, mut total) = (0_usize, 0_usize);
    let info = cuda.get::<unsafe extern "C" fn(*mut usize, *mut usize) -> c_int>("cuMemGetInfo_v2")?;
    // SAFETY: both places outlive the call.
    let code = unsafe { info(&raw mut free, &raw mut total) };
    cuda.check("cuMemGetInfo_v2", code)?;
    (device.free, device.total) = (free as u64, total as u64);
    cuda.answer.devices.push(device);
    compute(cuda)
}

fn text_of(cuda: &mut Loaded, function: &str, device: c_int) -> Result<String, Stop> {
    let mut bytes = [0_u8; 256];
    let get = cuda.get::<Text>(function)?;
    // SAFETY: the buffer has 256 bytes, as the call is told.
    let code = unsafe { get(bytes.as_mut_ptr().cast(), 256, device) };
    cuda.check(function, code)?;
    Ok(text(&bytes))
}

/// A kernel writes numbers that are known.
fn compute(cuda: &mut Loaded) -> Result<(), Stop> {
    let function = kernel(cuda)?;
    let mut memory = 0_u64;
    let allocate = cuda.get::<unsafe extern "C" fn(*mut u64, usize) -> c_int>("cuMemAlloc_v2")?;
    // SAFETY: the place outlives the call.
    let code = unsafe { allocate(&raw mut memory, BYTES) };
    cuda.check("cuMemAlloc_v2", code)?;
    launch(cuda, function, memory)?;
    let mut bytes = vec![0_u8; BYTES];
    let copy = cuda.get::<unsafe extern "C" fn(*mut u8, u64, usize) -> c_int>("cuMemcpyDtoH_v2")?;
    // SAFETY: the buffer has as many bytes as are asked for.
    let code = unsafe { copy(bytes.as_mut_ptr(), memory, BYTES) };
    cuda.check("cuMemcpyDtoH_v2", code)?;
    let free = cuda.get::<unsafe extern "C" fn(u64) -> c_int>("cuMemFree_v2")?;
    // SAFETY: the memory is not used any more.
    let code = unsafe { free(memory) };
    cuda.check("cuMemFree_v2", code)?;
    cuda.answer.wrong_result = wrong(&bytes);
    Ok(())
}

fn kernel(cuda: &mut Loaded) -> Result<Pointer, Stop> {
    let (mut module, mut function): (Pointer, Pointer) = (null_mut(), null_mut());
    let load = cuda.get::<unsafe extern "C" fn(*mut Pointer, *const c_char) -> c_int>("cuModuleLoadData")?;
    // SAFETY: the image is a text with a NUL behind it.
    let code = unsafe { load(&raw mut module, c(PTX).as_ptr()) };
    cuda.check("cuModuleLoadData", code)?;
    type Find = unsafe extern "C" fn(*mut Pointer, Pointer, *const c_char) -> c_int;
    let find = cuda.get::<Find>("cuModuleGetFunction")?;
    // SAFETY: the module was just loaded, the name is a C text.
    let code = unsafe { find(&raw mut function, module, c"vgpu_self_test".as_ptr()) };
    cuda.check("cuModuleGetFunction", code)?;
    Ok(function)
}

fn launch(cuda: &mut Loaded, function: Pointer, memory: u64) -> Result<(), Stop> {
    #[rustfmt::skip]
    type Launch = unsafe extern "C" fn(
        Pointer, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Pointer, *mut Pointer, *mut Pointer,
    ) -> c_int;
    let (mut memory, mut factor) = (memory, FACTOR);
    let mut parameters: [Pointer; 2] = [(&raw mut memory).cast(), (&raw mut factor).cast()];
    let launch = cuda.get::<Launch>("cuLaunchKernel")?;
    // SAFETY: the function has these two parameters, which live across the call; they are copied by it.
    let code = unsafe {
        launch(function, BLOCKS, 1, 1, THREADS, 1, 1, 0, null_mut(), parameters.as_mut_ptr(), null_mut())
    };
    cuda.check("cuLaunchKernel", code)?;
    let wait = cuda.get::<unsafe extern "C" fn() -> c_int>("cuCtxSynchronize")?;
    // SAFETY: a call without parameters.
    let code = unsafe { wait() };
    cuda.check("cuCtxSynchronize", code)
}

/// The first number that is not as it should be.
fn wrong(bytes: &[u8]) -> Option<String> {
    let numbers = bytes.chunks_exact(4).map(|b| b.try_into().map(u32::from_le_bytes).unwrap_or_default());
    let pairs = (0_u32..).zip(numbers).map(|(i, got)| (i, got, i.wrapping_mul(FACTOR).wrapping_add(i)));
    let (i, got, wanted) = pairs.into_iter().find(|(_, got, wanted)| got != wanted)?;
    Some(format!("number {i} is {got} and should be {wanted}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_number_is_named() {
        let mut bytes: Vec<u8> =
            (0..512_u32).flat_map(|i| (i.wrapping_mul(FACTOR + 1)).to_le_bytes()).collect();
        assert_eq!(wrong(&bytes), None);
        bytes[8] ^= 1;
        assert_eq!(wrong(&bytes).unwrap(), "number 2 is 81009 and should be 81008");
    }
}
