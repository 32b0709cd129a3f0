//! Every exported symbol, derived from the description.
//!
//! Each checks handles and pointers and calls the function of its name in its noun's file, or refuses.
//!
//! # Safety
//! The functions take the program's pointers, which must be as NVML documents them.
#![allow(missing_docs, clippy::all)]

include!(concat!(env!("OUT_DIR"), "/exports.rs"));
