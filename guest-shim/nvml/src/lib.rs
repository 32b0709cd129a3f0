//! The guest's `libnvidia-ml.so.1`: every function of NVML, answered from what the agent says of this VM's devices.
//!
//! [`exports`] derives from the description in `spec/api/nvml`; each local function stands in the file of its noun. Names are NVML's
//! own. What a guest can't know, or may not change, returns NVML_ERROR_NOT_SUPPORTED. As the native library, this one ignores
//! CUDA_VISIBLE_DEVICES. Codes for wrong arguments were compared with driver 580.159.04 on an H100.
#![allow(non_snake_case)]

mod abi;
mod accounting;
mod call;
mod clock;
mod confidential;
mod device;
mod ecc;
mod encoder;
mod error;
mod event;
mod excluded;
mod export_table;
mod exports;
mod fabric;
mod field;
mod gpm;
mod identity;
mod inforom;
mod library;
mod memory;
mod mig;
mod nvlink;
mod pci;
mod process;
mod reading;
mod system;
mod thermal;
mod topology;
mod unit;
mod unsupported;
mod vgpu;
