//! The guest's `libcuda.so.1`: every symbol of the CUDA driver, answered here or sent to the worker over a lane.
//!
//! [`exports`], [`calls`] and the table of [`proc_address`] derive from the description in `spec/api/cuda`; what needs thought
//! stands in the file of its noun. Names are the driver API's own.
#![allow(non_snake_case)]

mod batch_copy;
mod call;
mod callback;
mod calls;
mod capture;
mod client;
mod context;
mod copy;
mod copy_strided;
mod device;
mod entry;
mod error;
mod event;
mod export_table;
mod exports;
mod function;
mod graph;
mod graph_copy;
mod graph_kernel;
mod graph_node;
mod handles;
mod host_memory;
mod host_tables;
mod image;
mod ipc;
mod kernel;
mod launch;
mod library;
mod location;
mod memory;
mod memory_pool;
mod memset;
mod module;
mod occupancy;
mod output;
mod peer;
mod pointer;
mod primary_context;
mod proc_address;
mod sharing;
mod staging;
mod stream;
mod tensor_map;
mod unsupported;
mod user_object;
mod virtual_memory;
mod visible;
