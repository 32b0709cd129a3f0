//! The protocol of vgpu: wire types, and the one description of the driver API from which the shim's
//! exports, the cuGetProcAddress table, the encoding, the worker's dispatch and the coverage page derive.
//!
//! `PROTOCOL.md` beside this crate is the normative text; the types here are its tables.

pub mod api;
pub mod codegen;
pub mod handle;
pub mod nvml;
pub mod plain;
pub mod result;
pub mod structure;
pub mod wire;
