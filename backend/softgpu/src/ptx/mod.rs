//! PTX modules: text in, kernels, functions, variables and decoded statements out.
//!
//! The language is described in NVIDIA's "PTX ISA" (version 9.0); sections are cited where a rule is not obvious.

pub(crate) mod ast;
mod data;
mod error;
mod function;
mod instruction;
mod kernel;
pub(crate) mod layout;
mod lexer;
mod parse;
mod scope;
pub(crate) mod types;
mod variable;

pub use ast::{Definitions, Module};
pub use error::ParseError;
pub use kernel::{KernelInfo, Param};
pub use variable::{Opaque, Relocation, Space, Variable};
