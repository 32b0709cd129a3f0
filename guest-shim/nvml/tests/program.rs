//! The library as a C program uses it, from before nvmlInit to after nvmlShutdown. One test: the state is the process's.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    ffi::{CStr, c_char, c_void},
    ptr,
    sync::atomic::Ordering,
};
use support::{AGENT_STATUS, AGENT_VERSION, Nvml};
use vgpu_spec::{
    nvml::Class,
    wire::{VERSION, control::status},
};

type NoArgument = unsafe extern "C" fn() -> u32;
type Number = unsafe extern "C" fn(*mut u32) -> u32;
type ByIndex = unsafe extern "C" fn(u32, *mut u64) -> u32;
type DeviceText = unsafe extern "C" fn(u64, *mut c_char, u32) -> u32;
type DeviceNumber = unsafe extern "C" fn(u64, *mut u32) -> u32;
type SystemText = unsafe extern "C" fn(*mut c_char, u32) -> u32;
type Word = *const c_void;
/// No function has more than six parameters.
type Anything = unsafe extern "C" fn(Word, Word, Word, Word, Word, Word) -> u32;

const UNINITIALIZED: u32 = 1;
const INVALID_ARGUMENT: u32 = 2;
const NOT_SUPPORTED: u32 = 3;
const INSUFFICIENT_SIZE: u32 = 7;
const DRIVER_NOT_LOADED: u32 = 9;
const VERSION_MISMATCH: u32 = 18;

#[test]
fn a_program_uses_the_library_from_before_init_to_after_shutdown() {
    let folder = std::env::temp_dir().join(format!("vgpu-nvml-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (socket, log, calls) = (folder.join("agent"), folder.join("log"), folder.join("calls"));
    // SAFETY: the only test of this program, and no other thread of it reads the environment.
    unsafe {
        std::env::set_var("VGPU_AGENT_SOCKET", &socket);
        std::env::set_var("VGPU_LOG_FILE", &log);
        std::env::set_var("VGPU_CALLS", &calls);
    }
    let nvml = Nvml::open();
    // SAFETY: the functions have these types.
    let (init, shutdown) =
        unsafe { (nvml.get::<NoArgument>("nvmlInit_v2"), nvml.get::<NoArgument>("nvmlShutdown")) };
    // SAFETY: no arguments.
    let (init, shutdown) = (|| unsafe { init() }, || unsafe { shutdown() });

    before_init(&nvml);
    assert_eq!(shutdown(), UNINITIALIZED);
    for _ in 0..3 {
        assert_eq!(init(), DRIVER_NOT_LOADED, "without an agent");
    }
    let lines = std::fs::read_to_string(&log).unwrap();
    assert_eq!(lines.lines().count(), 1, "said once: {lines}");
    assert!(lines.contains("start vgpu-agent"), "{lines}");

    support::start_agent(&socket);
    AGENT_VERSION.store(VERSION + 1, Ordering::SeqCst);
    assert_eq!(init(), VERSION_MISMATCH);
    AGENT_VERSION.store(VERSION, Ordering::SeqCst);
    AGENT_STATUS.store(status::NO_WORKER, Ordering::SeqCst);
    assert_eq!(init(), DRIVER_NOT_LOADED, "the host has no driver");
    AGENT_STATUS.store(status::OK, Ordering::SeqCst);

    assert_eq!((init(), init()), (0, 0));
    devices(&nvml);
    live(&nvml);
    every_unsupported_function_refuses(&nvml);
    let sets = event_sets(&nvml);
    assert_eq!(shutdown(), 0);
    devices(&nvml);
    assert_eq!((sets > 0, event_sets(&nvml)), (true, 0), "they live on");
    assert_eq!(shutdown(), 0);
    before_init(&nvml);
    assert_eq!(shutdown(), UNINITIALIZED, "more often than nvmlInit");
    assert_eq!(init(), 0);
    devices(&nvml);
    assert_eq!(event_sets(&nvml), sets, "they ended with the library");

    drop(nvml);
    let called = std::fs::read_to_string(&calls).unwrap();
    assert!(called.lines().any(|line| line == "nvmlDeviceGetUUID"), "{called}");
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Everything but a few functions says that the library is not initialised, whatever its arguments.
fn before_init(nvml: &Nvml) {
    for function in vgpu_spec::nvml::functions().unwrap().iter().filter(|f| !f.early) {
        // SAFETY: every function takes words, and looks at none of them before nvmlInit.
        let code = unsafe {
            let call: Anything = nvml.get(&function.name);
            call(ptr::null(), ptr::null(), ptr::null(), ptr::null(), ptr::null(), ptr::null())
        };
        assert_eq!(code, UNINITIALIZED, "{}", function.name);
    }
    // SAFETY: its type.
    let text = unsafe { nvml.get::<unsafe extern "C" fn(u32) -> *const c_char>("nvmlErrorString") };
    // SAFETY: a static string.
    assert_eq!(unsafe { CStr::from_ptr(text(UNINITIALIZED)) }, c"Uninitialized");
    let mut version = [0_u8; 80];
    // SAFETY: its type, and a buffer of that length.
    let code = unsafe { nvml.get::<SystemText>("nvmlSystemGetNVMLVersion")(version.as_mut_ptr().cast(), 80) };
    assert_eq!((code, &version[..2]), (0, &b"13"[..]));
}

fn devices(nvml: &Nvml) {
    let (mut count, mut handle, mut buffer) = (0, 0, [0_u8; 80]);
    // SAFETY: the functions have these types; the places outlive the calls, and are as long as is said.
    unsafe {
        assert_eq!(nvml.get::<Number>("nvmlDeviceGetCount_v2")(&raw mut count), 0);
        assert_eq!(nvml.get::<Number>("nvmlDeviceGetCount_v2")(ptr::null_mut()), INVALID_ARGUMENT);
        assert_eq!(count, 1);
        let by_index: ByIndex = nvml.get("nvmlDeviceGetHandleByIndex_v2");
        assert_eq!(by_index(1, &raw mut handle), INVALID_ARGUMENT);
        assert_eq!(by_index(0, ptr::null_mut()), INVALID_ARGUMENT);
        assert_eq!(by_index(0, &raw mut handle), 0);

        let uuid: DeviceText = nvml.get("nvmlDeviceGetUUID");
        let place = buffer.as_mut_ptr().cast();
        assert_eq!(uuid(0, place, 80), INVALID_ARGUMENT, "no handle");
        assert_eq!(uuid(handle + 8, place, 80), INVALID_ARGUMENT, "a handle of no device");
        assert_eq!(uuid(handle, ptr::null_mut(), 80), INVALID_ARGUMENT);
        assert_eq!(uuid(handle, place, 40), INSUFFICIENT_SIZE);
        assert_eq!(uuid(handle, place, 41), 0);
        assert_eq!(&buffer[..41], b"GPU-5a5a5a5a-5a5a-5a5a-5a5a-5a5a5a5a5a5a\0");

        let version: SystemText = nvml.get("nvmlSystemGetDriverVersion");
        assert_eq!(version(place, 80), 0);
        assert_eq!(&buffer[..7], b"570.00\0", "from the version of the driver API");

        let cores: DeviceNumber = nvml.get("nvmlDeviceGetNumGpuCores");
        assert_eq!(cores(handle, &raw mut count), 0);
        assert_eq!(count, 128 * 128);
        let width: DeviceNumber = nvml.get("nvmlDeviceGetMemoryBusWidth");
        assert_eq!(width(handle, &raw mut count), NOT_SUPPORTED, "the host does not know it");

        // nvmlPciInfo_t, with the guest's own address.
        let mut pci = [0xee_u8; 68];
        let info: unsafe extern "C" fn(u64, *mut u8) -> u32 = nvml.get("nvmlDeviceGetPciInfo_v3");
        assert_eq!(info(handle, pci.as_mut_ptr()), 0);
        assert_eq!(&pci[..13], b"0000:00:1E.0\0");
        assert_eq!(&pci[36..53], b"00000000:00:1E.0\0");
        // The older versions leave what came later alone.
        pci.fill(0xee);
        let info: unsafe extern "C" fn(u64, *mut u8) -> u32 = nvml.get("nvmlDeviceGetPciInfo_v2");
        assert_eq!(info(handle, pci.as_mut_ptr()), 0);
        assert!(pci[36..].iter().all(|&byte| byte == 0xee));
    }
}

/// Makes as many event sets as there can be, and says how many.
fn event_sets(nvml: &Nvml) -> usize {
    let mut set = 0_u64;
    // SAFETY: the function has this type; the place outlives the calls.
    let create = unsafe { nvml.get::<unsafe extern "C" fn(*mut u64) -> u32>("nvmlEventSetCreate") };
    // SAFETY: as above.
    (0..1000).take_while(|_| unsafe { create(&raw mut set) } == 0).count()
}

/// Figures of the moment, all from one question to the agent.
fn live(nvml: &Nvml) {
    let (mut handle, mut value, mut memory, mut rates) = (0, 0, [0_u64; 3], [0_u32; 2]);
    let (mut count, mut processes) = (1, [0_u64; 6]);
    let before = support::READINGS.load(Ordering::SeqCst);
    // SAFETY: the functions have these types; the places outlive the calls, and are as long as is said.
    unsafe {
        assert_eq!(nvml.get::<ByIndex>("nvmlDeviceGetHandleByIndex_v2")(0, &raw mut handle), 0);
        let power: DeviceNumber = nvml.get("nvmlDeviceGetPowerUsage");
        assert_eq!((power(handle, &raw mut value), value), (0, 200_000));
        assert_eq!(power(handle, ptr::null_mut()), INVALID_ARGUMENT);
        assert_eq!(power(0, &raw mut value), INVALID_ARGUMENT);
        let speed: DeviceNumber = nvml.get("nvmlDeviceGetFanSpeed");
        assert_eq!(speed(handle, &raw mut value), NOT_SUPPORTED, "the host does not tell");
        let info: unsafe extern "C" fn(u64, *mut u64) -> u32 = nvml.get("nvmlDeviceGetMemoryInfo");
        assert_eq!((info(handle, memory.as_mut_ptr()), memory), (0, [24 << 30, 21 << 30, 3 << 30]));
        let utilization: DeviceNumber = nvml.get("nvmlDeviceGetUtilizationRates");
        assert_eq!((utilization(handle, rates.as_mut_ptr()), rates), (0, [80, 14]));
        let list: unsafe extern "C" fn(u64, *mut u32, *mut u64) -> u32 =
            nvml.get("nvmlDeviceGetComputeRunningProcesses_v3");
        let place = processes.as_mut_ptr();
        assert_eq!((list(handle, &raw mut count, place), count), (INSUFFICIENT_SIZE, 2));
        assert_eq!((list(handle, &raw mut count, place), count), (0, 2));
        // Behind a pid are four bytes that mean nothing.
        let pid = |word: u64| word & u64::from(u32::MAX);
        assert_eq!((pid(processes[0]), processes[1], pid(processes[3])), (70, 1 << 30, 71));
    }
    let asked = support::READINGS.load(Ordering::SeqCst) - before;
    assert!((1..=3).contains(&asked), "asked {asked} times for eight calls");
}

/// With a good device and places that are not NULL.
fn every_unsupported_function_refuses(nvml: &Nvml) {
    let mut handle = 0;
    // SAFETY: its type.
    assert_eq!(unsafe { nvml.get::<ByIndex>("nvmlDeviceGetHandleByIndex")(0, &raw mut handle) }, 0);
    let place = [0_u64; 16];
    let mut tested = 0;
    for function in vgpu_spec::nvml::functions().unwrap() {
        if function.class != Class::Unsupported {
            continue;
        }
        let device = |index: usize| {
            function
                .parameters
                .get(index)
                .is_some_and(|p| !p.is_pointer() && p.ty == vgpu_spec::nvml::Type::Handle("Device"))
        };
        let word = |index: usize| match device(index) {
            true => ptr::without_provenance(usize::try_from(handle).unwrap()),
            false => place.as_ptr().cast(),
        };
        // SAFETY: an unsupported function looks at no place, only whether it is NULL.
        let call: Anything = unsafe { nvml.get(&function.name) };
        // SAFETY: as above.
        let code = unsafe { call(word(0), word(1), word(2), word(3), word(4), word(5)) };
        assert_eq!(code, NOT_SUPPORTED, "{}", function.name);
        if device(0) {
            // SAFETY: as above.
            let code = unsafe { call(ptr::null(), word(1), word(2), word(3), word(4), word(5)) };
            assert_eq!(code, INVALID_ARGUMENT, "{} without a device", function.name);
        }
        tested += 1;
    }
    assert!(tested > 200, "{tested}");
}
