//! The host's NVML: loaded by name, asked as the description says.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::path::{Path, PathBuf};

use vgpu_spec::nvml::{Function, Type, host};
use vgpu_spec::wire::lane::function_id;
use vgpu_spec::wire::reading::{Figure, Reading};
use vgpu_spec::wire::snapshot::uuid_text;

use super::{clock, process};

/// What the native library is called.
const NAME: &str = "libnvidia-ml.so.1";
/// No function that is asked has more parameters.
const WORDS: usize = 6;
/// NVML_ERROR_NOT_SUPPORTED, also for a function that this NVML lacks.
const NOT_SUPPORTED: u32 = 3;
/// Fields of nvmlDeviceGetFieldValues that monitoring programs ask for and that mean something to a guest: ECC, retired pages, what
/// limits clocks, memory's temperature, energy, PCIe errors, remapped rows, power, thresholds.
const FIELDS: [std::ops::RangeInclusive<u32>; 7] =
    [1..=31, 74..=83, 91..=95, 142..=145, 169..=169, 173..=196, 251..=253];

/// An integer or a pointer. All parameters are one or the other, and each is passed in a register of its own.
type Word = *mut c_void;
type Call = unsafe extern "C" fn(Word, Word, Word, Word, Word, Word) -> u32;
type NoArgument = unsafe extern "C" fn() -> u32;
type ByUuid = unsafe extern "C" fn(*const std::ffi::c_char, *mut Word) -> u32;

/// `nvmlFieldValue_t`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct FieldValue {
    field: u32,
    scope: u32,
    timestamp: i64,
    latency: i64,
    kind: u32,
    status: u32,
    value: u64,
}

/// Why there is no NVML.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    #[error("loading the host's NVML ({name})")]
    Load { name: String, source: libloading::Error },
    #[error("starting the host's NVML: it returned {0}")]
    Init(u32),
}

/// A loaded NVML after nvmlInit.
pub struct Library {
    library: libloading::Library,
    functions: Vec<Function>,
    /// What never changes, by device.
    once: HashMap<[u8; 16], Vec<Figure>>,
}

impl Library {
    /// Loads it from `folder`, or else the system's. In a folder the CUDA driver's library may have NVML's functions too (softgpu).
    pub fn open(folder: Option<&Path>) -> Result<Self, LibraryError> {
        let names: Vec<PathBuf> = match folder {
            Some(folder) => vec![folder.join(NAME), folder.join("libcuda.so")],
            None => vec![NAME.into()],
        };
        let mut failed = None;
        for name in names {
            match load(&name) {
                Ok((library, init)) => {
                    // SAFETY: nvmlInit_v2 has no arguments.
                    return match unsafe { init() } {
                        0 => Ok(Library {
                            library,
                            functions: host::functions().unwrap_or_default(),
                            once: HashMap::new(),
                        }),
                        code => Err(LibraryError::Init(code)),
                    };
                }
                Err(source) => {
                    failed.get_or_insert(LibraryError::Load { name: name.display().to_string(), source });
                }
            }
        }
        Err(failed.unwrap_or(LibraryError::Init(NOT_SUPPORTED)))
    }

    /// # Safety
    /// `T` is the type of the function `name`.
    unsafe fn function<T: Copy>(&self, name: &str) -> Option<T> {
        let name = CString::new(name).ok()?;
        // SAFETY: the caller's promise; the library stays loaded for the life of the process.
        unsafe { self.library.get::<T>(name.as_bytes_with_nul()) }.ok().map(|f| *f)
    }

    /// What the device of this UUID does; `None` if NVML does not know it.
    pub fn read(&mut self, uuid: [u8; 16]) -> Option<Reading> {
        let device = self.device(uuid)?;
        if !self.once.contains_key(&uuid) {
            let mut figures = self.answers(device, true);
            figures.extend(clock::list(self.caller(device)));
            self.once.insert(uuid, figures);
        }
        let mut figures = self.once.get(&uuid).cloned().unwrap_or_default();
        figures.extend(self.answers(device, false));
        figures.extend(self.memory(device));
        figures.extend(self.utilization(device));
        figures.extend(self.fields(device));
        figures.extend(self.firmware(device));
        Some(Reading { memory_used: 0, figures, processes: process::list(self.caller(device)) })
    }

    /// A reading of the processes alone.
    pub fn read_processes(&self, uuid: [u8; 16]) -> Option<Reading> {
        let device = self.device(uuid)?;
        Some(Reading { memory_used: 0, figures: Vec::new(), processes: process::list(self.caller(device)) })
    }

    fn device(&self, uuid: [u8; 16]) -> Option<Word> {
        // SAFETY: its type.
        let by_uuid: ByUuid = unsafe { self.function("nvmlDeviceGetHandleByUUID") }?;
        let text = CString::new(format!("GPU-{}", uuid_text(&uuid))).ok()?;
        let mut device = std::ptr::null_mut();
        // SAFETY: a NUL-terminated text and a place for a handle.
        (unsafe { by_uuid(text.as_ptr(), &raw mut device) } == 0).then_some(device)
    }

    /// Calls a function with words, of which there may be more than it takes: those are in registers that it does not look at.
    ///
    /// # Safety
    /// The words are what the function wants.
    unsafe fn call(&self, name: &str, words: &[Word]) -> u32 {
        // SAFETY: every function of NVML that is called so takes integers and pointers only, six at most.
        let Some(call) = (unsafe { self.function::<Call>(name) }) else { return NOT_SUPPORTED };
        let mut all = [std::ptr::null_mut(); WORDS];
        for (place, word) in all.iter_mut().zip(words) {
            *place = *word;
        }
        let [a, b, c, d, e, f] = all;
        // SAFETY: the caller's promise.
        unsafe { call(a, b, c, d, e, f) }
    }

    /// Calls functions for the device with words behind it.
    fn caller(&self, device: Word) -> impl Fn(&str, &[Word]) -> u32 {
        move |name, words| {
            // SAFETY: it is for `clock::list` and `process::list` alone, which give each function what it wants.
            unsafe { self.call(name, &[&[device], words].concat()) }
        }
    }

    /// All answers of the functions of the description that are asked once, or of the others.
    fn answers(&self, device: Word, once: bool) -> Vec<Figure> {
        let functions = self.functions.iter().filter(|f| f.once == once);
        functions.flat_map(|f| (0..host::answers(f)).map(move |index| self.ask(f, index, device))).collect()
    }

    /// Asks for one answer of a function of the description.
    fn ask(&self, function: &Function, index: u32, device: Word) -> Figure {
        let mut selectors = host::arguments(function, index).into_iter();
        // Words of 8 bytes, so that all outputs are aligned.
        let mut places: Vec<Vec<u64>> = host::outputs(function)
            .map(|p| vec![0; host::size(&p.ty).unwrap_or(host::TEXT).div_ceil(8)])
            .collect();
        for (p, place) in host::outputs(function).zip(&mut places) {
            if let Some(first) = place.first_mut() {
                *first = host::version(&p.ty).into();
            }
        }
        let mut place = places.iter_mut();
        let mut words = vec![device];
        for p in function.parameters.iter().skip(1) {
            words.push(if p.is_pointer() {
                place.next().map_or(std::ptr::null_mut(), |p| p.as_mut_ptr().cast())
            } else if function.is_capacity(p) {
                number(host::TEXT as u32)
            } else {
                number(selectors.next().unwrap_or(0))
            });
        }
        // SAFETY: the words are made of the description: each output has a place of its size, a text's capacity is that of its place.
        let status = unsafe { self.call(&function.name, &words) };
        let mut bytes = Vec::new();
        if status == 0 {
            for (p, place) in host::outputs(function).zip(&places) {
                let written: Vec<u8> = place.iter().flat_map(|word| word.to_ne_bytes()).collect();
                let len = match p.ty {
                    Type::Text => written.iter().position(|&b| b == 0).unwrap_or(written.len()),
                    _ => host::size(&p.ty).unwrap_or(0),
                };
                bytes.extend_from_slice(written.get(..len).unwrap_or(&written));
            }
        }
        Figure { function: function_id(&function.name), index, status, bytes }
    }

    /// Asks for a structure of `N` words whose first holds its version (0: it has none).
    fn structure<const N: usize>(
        &self,
        name: &str,
        version: u32,
        len: usize,
        device: Word,
    ) -> Option<Figure> {
        let mut place = [0_u64; N];
        if let Some(first) = place.first_mut() {
            *first = version.into();
        }
        // SAFETY: a place of the structure's size.
        let status = unsafe { self.call(name, &[device, place.as_mut_ptr().cast()]) };
        let mut bytes: Vec<u8> = place.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.truncate(len);
        (status == 0).then(|| Figure { function: function_id(name), index: 0, status, bytes })
    }

    /// `nvmlMemory_v2_t`, of the whole device.
    fn memory(&self, device: Word) -> Option<Figure> {
        self.structure::<5>("nvmlDeviceGetMemoryInfo_v2", 0x0200_0028, 40, device)
    }

    /// `nvmlUtilization_t`, of the whole device.
    fn utilization(&self, device: Word) -> Option<Figure> {
        self.structure::<1>("nvmlDeviceGetUtilizationRates", 0, 8, device)
    }

    /// A text without a length: 0x40 bytes by definition.
    fn firmware(&self, device: Word) -> Option<Figure> {
        let mut figure = self.structure::<8>("nvmlDeviceGetGspFirmwareVersion", 0, 64, device)?;
        let len = figure.bytes.iter().position(|&b| b == 0).unwrap_or(figure.bytes.len());
        figure.bytes.truncate(len);
        Some(figure)
    }

    /// Type and value of each field.
    fn fields(&self, device: Word) -> Vec<Figure> {
        let name = "nvmlDeviceGetFieldValues";
        let mut values: Vec<FieldValue> =
            FIELDS.into_iter().flatten().map(|field| FieldValue { field, ..FieldValue::default() }).collect();
        let count = number(values.len() as u32);
        // SAFETY: an array of `nvmlFieldValue_t` and its length.
        if unsafe { self.call(name, &[device, count, values.as_mut_ptr().cast()]) } != 0 {
            return Vec::new();
        }
        let id = function_id(name);
        let bytes = |v: &FieldValue| match v.status {
            0 => [&v.kind.to_ne_bytes()[..], &[0; 4], &v.value.to_ne_bytes()].concat(),
            _ => Vec::new(),
        };
        values
            .iter()
            .map(|v| Figure { function: id, index: v.field, status: v.status, bytes: bytes(v) })
            .collect()
    }
}

/// A number as a word.
fn number(value: u32) -> Word {
    std::ptr::without_provenance_mut(value as usize)
}

fn load(name: &Path) -> Result<(libloading::Library, NoArgument), libloading::Error> {
    // SAFETY: the host's own library, named by its administrator.
    let library = unsafe { libloading::Library::new(name) }?;
    // SAFETY: its type.
    let init = *unsafe { library.get::<NoArgument>(b"nvmlInit_v2\0") }?;
    Ok((library, init))
}
