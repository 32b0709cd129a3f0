//! NVML's codes and their texts.

use std::ffi::{CStr, c_char};

macro_rules! errors {
    ($($name:ident = $code:literal),* $(,)?) => {
        /// What a function returns, besides NVML_SUCCESS.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u32)]
        pub enum NvmlError {
            $($name = $code),*
        }

        impl NvmlError {
            /// What a code says; none for NVML_SUCCESS. A code that is not known is NVML_ERROR_UNKNOWN.
            pub fn from_code(code: u32) -> Option<NvmlError> {
                match code {
                    0 => None,
                    $($code => Some(NvmlError::$name),)*
                    _ => Some(NvmlError::Unknown),
                }
            }
        }
    };
}
errors! {
    Uninitialized = 1,
    InvalidArgument = 2,
    NotSupported = 3,
    NoPermission = 4,
    NotFound = 6,
    InsufficientSize = 7,
    DriverNotLoaded = 9,
    Timeout = 10,
    IrqIssue = 11,
    FunctionNotFound = 13,
    CorruptedInforom = 14,
    GpuIsLost = 15,
    ResetRequired = 16,
    OperatingSystem = 17,
    LibRmVersionMismatch = 18,
    InUse = 19,
    Memory = 20,
    NoData = 21,
    InsufficientResources = 23,
    ArgumentVersionMismatch = 25,
    Deprecated = 26,
    NotReady = 27,
    InvalidState = 29,
    Unknown = 999,
}

pub type Result<T = ()> = std::result::Result<T, NvmlError>;

/// The code of a result.
pub fn code(result: Result) -> u32 {
    match result {
        Ok(()) => 0,
        Err(error) => error as u32,
    }
}

/// As driver 580 writes them.
const TEXTS: [&CStr; 31] = [
    c"Success",
    c"Uninitialized",
    c"Invalid Argument",
    c"Not Supported",
    c"Insufficient Permissions",
    c"Already Initialized",
    c"Not Found",
    c"Insufficient Size",
    c"Insufficient External Power",
    c"Driver Not Loaded",
    c"Timeout",
    c"Interrupt Request Issue",
    c"NVML Shared Library Not Found",
    c"Function Not Found",
    c"Corrupted infoROM",
    c"GPU is lost",
    c"GPU requires reset",
    c"GPU access blocked by the operating system",
    c"Driver/library version mismatch",
    c"In use by another client",
    c"Insufficient Memory",
    c"No data",
    c"vGPU ECC not supported",
    c"Insufficient Resources",
    c"Invalid Frequency",
    c"Argument version mismatch",
    c"Requested functionality has been deprecated",
    c"System is not in ready state",
    c"No supported GPUs were found",
    c"Resource not in correct state to perform requested operation",
    c"Reset type is not supported for given device",
];

/// The text of a code; of one that is not known, that of NVML_ERROR_UNKNOWN.
pub fn nvmlErrorString(result: u32) -> *const c_char {
    let text = usize::try_from(result).ok().and_then(|r| TEXTS.get(r)).copied();
    text.unwrap_or(c"Unknown Error").as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(code: u32) -> &'static str {
        // SAFETY: always a static string.
        unsafe { CStr::from_ptr(nvmlErrorString(code)) }.to_str().unwrap()
    }

    #[test]
    fn codes_are_read_as_they_are_written() {
        for code in 1..1000 {
            let error = NvmlError::from_code(code).unwrap();
            assert!(error as u32 == code || error == NvmlError::Unknown, "{code}");
        }
        assert_eq!(NvmlError::from_code(0), None);
        assert_eq!(NvmlError::from_code(15), Some(NvmlError::GpuIsLost));
    }

    #[test]
    fn codes_have_the_native_texts() {
        for (error, want) in [
            (NvmlError::Uninitialized, "Uninitialized"),
            (NvmlError::InsufficientSize, "Insufficient Size"),
            (NvmlError::DriverNotLoaded, "Driver Not Loaded"),
            (NvmlError::LibRmVersionMismatch, "Driver/library version mismatch"),
            (NvmlError::ArgumentVersionMismatch, "Argument version mismatch"),
            (NvmlError::Unknown, "Unknown Error"),
        ] {
            assert_eq!(text(error as u32), want);
        }
        assert_eq!(text(0), "Success");
        assert_eq!(text(30), "Reset type is not supported for given device");
        for unknown in [31, 998, u32::MAX] {
            assert_eq!(text(unknown), "Unknown Error");
        }
    }
}
