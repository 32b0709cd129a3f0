//! The one description of NVML: `api/nvml/*.api`, a file per noun, parsed.
//!
//! Every function that `nvml.h` 13 declares is a line, and the three that driver 580 exports besides. The shim's exports, what
//! they check of their arguments, and the coverage page derive from it.
//!
//! ```text
//! local name(parameter, …) modifiers
//! host name(parameter, …) modifiers
//! unsupported name(parameter, …) "reason"
//! ```
//!
//! `local` functions are answered by the shim, in the file of their noun. `host` ones have the answer of the host's NVML
//! ([`crate::wire::reading`]): the host asks it for each value of the selecting arguments, and the shim passes on code and outputs.
//! `unsupported` ones check their arguments and return
//! NVML_ERROR_NOT_SUPPORTED.
//!
//! A parameter is `name: [direction] type [count] [?]`. Directions: none (a value), `in`, `out`, `inout` (a pointer that is read,
//! written, both). `[n]` gives the capacity of an array or text: the name of the parameter that holds it. `?` marks a pointer that
//! may be NULL. Types: `u8 u32 i32 u64`, `str` (NUL-terminated, read), `text` (characters that are written), `ptr`,
//! `struct NAME` (in the header `nvmlNAME_t`) and kinds of handles ([`HANDLE_KINDS`]).
//!
//! Modifiers: `early` (needs no nvmlInit), `returns text` (returns `const char *` instead of a code); of `host` functions `select N …`
//! (the first, second, … number that is passed is below N: one that is not is NVML_ERROR_INVALID_ARGUMENT, or with `else NOT_SUPPORTED`
//! behind the numbers NVML_ERROR_NOT_SUPPORTED) and `once` (the answer never changes).

pub mod codegen;
pub mod host;
mod parse;

pub use crate::api::ParseError;
pub use parse::parse_file;

/// Kinds of opaque handles.
pub const HANDLE_KINDS: &[&str] =
    &["Device", "Unit", "EventSet", "SystemEventSet", "GpuInstance", "ComputeInstance", "GpmSample"];

/// Who answers a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The shim, from what it knows.
    Local,
    /// The host's NVML.
    Host,
    /// Nobody: NVML_ERROR_NOT_SUPPORTED.
    Unsupported,
}

impl Class {
    pub fn name(self) -> &'static str {
        match self {
            Class::Local => "local",
            Class::Host => "host",
            Class::Unsupported => "unsupported",
        }
    }
}

/// A parameter's direction; anything but a value is a pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Value,
    In,
    Out,
    InOut,
}

/// A parameter's element type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    /// `u8`, `u32` (enumerations as well), `i32`, `u64`.
    Scalar(&'static str),
    /// A handle of this kind ([`HANDLE_KINDS`]).
    Handle(&'static str),
    /// A NUL-terminated string that is read.
    Str,
    /// Characters that are written, with a NUL.
    Text,
    /// A pointer that is not followed.
    Pointer,
    /// A C structure of the shim's `abi` module.
    Struct(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    pub name: String,
    pub direction: Direction,
    pub ty: Type,
    /// The parameter that holds the array's capacity.
    pub count: Option<String>,
    pub optional: bool,
}

impl Parameter {
    pub fn is_pointer(&self) -> bool {
        self.direction != Direction::Value || matches!(self.ty, Type::Str | Type::Pointer)
    }
}

/// One function of NVML: an exported symbol.
#[derive(Debug, Clone)]
pub struct Function {
    pub name: String,
    /// The file that describes it, without its ending: the noun.
    pub noun: String,
    pub class: Class,
    pub parameters: Vec<Parameter>,
    /// Works before nvmlInit.
    pub early: bool,
    /// Returns a text, not a code.
    pub returns_text: bool,
    /// Of a `host` function: what each selecting argument is below.
    pub select: Vec<u32>,
    /// Of a `host` function: one that is not below is NVML_ERROR_NOT_SUPPORTED.
    pub else_not_supported: bool,
    /// Of a `host` function: the answer never changes.
    pub once: bool,
    /// Why it is not supported.
    pub reason: Option<String>,
}

impl Function {
    /// Whether `p` holds the capacity of one of the arrays and texts.
    pub fn is_capacity(&self, p: &Parameter) -> bool {
        self.parameters.iter().any(|q| q.count.as_ref() == Some(&p.name))
    }
}

macro_rules! nouns {
    ($($noun:literal),* $(,)?) => {
        const FILES: &[(&str, &str)] = &[$(($noun, include_str!(concat!("../../api/nvml/", $noun, ".api")))),*];
    };
}
nouns!(
    "accounting",
    "clock",
    "confidential",
    "device",
    "ecc",
    "encoder",
    "error",
    "event",
    "excluded",
    "export_table",
    "fabric",
    "field",
    "gpm",
    "inforom",
    "library",
    "memory",
    "mig",
    "nvlink",
    "pci",
    "power",
    "power_profile",
    "process",
    "system",
    "thermal",
    "topology",
    "unit",
    "vgpu",
);

/// The whole description, in the order of the files' names and of their lines.
///
/// # Errors
/// The first line that does not parse.
pub fn functions() -> Result<Vec<Function>, ParseError> {
    let mut functions = Vec::new();
    for (noun, text) in FILES {
        functions.extend(parse_file(noun, text)?);
    }
    Ok(functions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_function_is_described_once() {
        let functions = functions().unwrap();
        let names: BTreeSet<&str> = functions.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names.len(), functions.len(), "a name is described twice");
        // 436 declarations of nvml.h 13.5 and 3 that only the driver's library has.
        assert_eq!(names.len(), 439);
    }

    #[test]
    fn names_that_the_header_maps_to_newer_versions_are_there_in_all_versions() {
        let functions = functions().unwrap();
        for base in [
            "nvmlInit",
            "nvmlDeviceGetCount",
            "nvmlDeviceGetHandleByIndex",
            "nvmlDeviceGetHandleByPciBusId",
            "nvmlDeviceGetNvLinkRemotePciInfo",
            "nvmlDeviceRemoveGpu",
            "nvmlEventSetWait",
            "nvmlDeviceGetAttributes",
            "nvmlComputeInstanceGetInfo",
            "nvmlDeviceGetGpuInstancePossiblePlacements",
            "nvmlVgpuInstanceGetLicenseInfo",
            "nvmlDeviceGetDriverModel",
        ] {
            for name in [base.to_string(), format!("{base}_v2")] {
                assert!(functions.iter().any(|f| f.name == name), "{name}");
            }
        }
    }
}
