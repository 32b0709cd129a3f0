//! Every exported symbol, derived from the description.
//!
//! Each checks pointers and handles and calls a sender of [`crate::calls`], or the function of its name in its noun's file.
//!
//! # Safety
//! The functions take the program's pointers, which must be as the CUDA driver API documents them.
#![allow(missing_docs, unused_parens, clippy::all)]

include!(concat!(env!("OUT_DIR"), "/exports.rs"));
