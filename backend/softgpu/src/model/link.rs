//! Linking: PTX texts joined into one, which is the image that comes out.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::Mutex;

use super::CudaError;
use crate::ptx::{self, Definitions};

/// Functions that the device itself has.
const BUILT_IN: &[&str] = &["vprintf", "malloc", "free", "__assertfail"];

/// A `CUlinkState`.
#[derive(Debug, Default)]
pub struct Link {
    /// Addresses of the options and of their values, and how many there are: the program's, for the life of the link.
    options: (usize, usize, u32),
    /// Lengths of the information and of the error log's buffer.
    capacities: [u32; 2],
    parts: Mutex<Parts>,
}

/// What was added so far.
#[derive(Debug, Default)]
pub struct Parts {
    texts: Vec<String>,
    /// Each global symbol that is defined, with the name of the input that does.
    defined: HashMap<String, String>,
    /// Each symbol that is needed, with the name of an input that does.
    needed: HashMap<String, String>,
    /// What the linker refused an input with: it takes no other after that, and links nothing.
    refused: Option<CudaError>,
    /// The finished image.
    output: Option<CString>,
}

impl Link {
    /// A new link with options at these addresses.
    pub fn new(options: (usize, usize, u32), capacities: [u32; 2]) -> Link {
        Link { options, capacities, parts: Mutex::default() }
    }

    /// Lengths of the information and of the error log's buffer.
    pub fn capacities(&self) -> [u32; 2] {
        self.capacities
    }

    /// Addresses of the options and of their values, and how many there are.
    pub fn options(&self) -> (usize, usize, u32) {
        self.options
    }

    /// The parts, for one call.
    pub fn parts(&self) -> std::sync::MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Parts {
    /// Whether it is linked already.
    pub fn is_complete(&self) -> bool {
        self.output.is_some()
    }

    /// Notes that the linker refused an input, as opposed to the compiler before it.
    pub fn refuse(&mut self, code: CudaError) -> CudaError {
        *self.refused.get_or_insert(code)
    }

    /// An error once the linker has refused an input.
    pub fn usable(&self) -> Result<(), CudaError> {
        self.refused.map_or(Ok(()), Err)
    }

    /// Adds PTX; what is wrong with it: the code, and what the error log says.
    pub fn add(&mut self, source: String, name: &str) -> Result<(), (CudaError, String)> {
        let module = ptx::Module::parse(&source).map_err(|e| (CudaError::InvalidPtx, e.to_string()))?;
        self.usable().map_err(|code| (code, String::new()))?;
        let Definitions { defined, needed } = module.definitions();
        for symbol in &defined {
            if let Some(first) = self.defined.get(symbol) {
                let text = format!(
                    "error   : Multiple definition of '{symbol}' in '{name}', first defined in '{first}'"
                );
                return Err((self.refuse(CudaError::Unknown), text));
            }
        }
        self.defined.extend(defined.into_iter().map(|symbol| (symbol, name.to_owned())));
        self.needed.extend(needed.into_iter().map(|symbol| (symbol, name.to_owned())));
        self.texts.push(source);
        Ok(())
    }

    /// Links; the image with its NUL, or what is missing.
    pub fn complete(&mut self) -> Result<&CString, String> {
        let mut missing: Vec<_> = self
            .needed
            .iter()
            .filter(|(symbol, _)| !self.defined.contains_key(*symbol) && !BUILT_IN.contains(&symbol.as_str()))
            .map(|(symbol, name)| format!("error   : Undefined reference to '{symbol}' in '{name}'"))
            .collect();
        missing.sort();
        if !missing.is_empty() {
            return Err(missing.join("\n"));
        }
        let mut image = String::new();
        for text in &self.texts {
            image.push_str(text);
            image.push('\n');
        }
        if image.is_empty() {
            image.push_str(".version 8.0\n.target sm_75\n.address_size 64\n");
        }
        let image = CString::new(image).map_err(|error| error.to_string())?;
        Ok(self.output.insert(image))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::module::Code;

    const HEAD: &str = ".version 8.0\n.target sm_75\n.address_size 64\n";

    fn part(text: &str) -> String {
        format!("{HEAD}{text}")
    }

    #[test]
    fn parts_that_need_each_other_become_one_module() {
        let mut parts = Parts::default();
        let first = ".extern .func (.param .b32 r) twice(.param .b32 a);\n.extern .global .align 4 .u32 count;\n\
            .visible .entry k()\n{\nret;\n}\n";
        parts.add(part(first), "first").unwrap();
        assert!(parts.complete().unwrap_err().contains("Undefined reference to 'count' in 'first'"));
        assert!(!parts.is_complete());
        let second = ".visible .global .align 4 .u32 count = 21;\n.visible .func (.param .b32 r) twice(.param .b32 a)\n\
            {\nret;\n}\n";
        parts.add(part(second), "second").unwrap();
        let image = parts.complete().unwrap().to_str().unwrap().to_owned();
        let code = Code::parse(&image).unwrap();
        assert_eq!(code.entries.len(), 1);
        let count = code.module.variables().iter().find(|v| v.name == "count").unwrap();
        assert_eq!((count.is_extern, &count.init[..]), (false, &[21, 0, 0, 0][..]));
        assert!(parts.is_complete());
    }

    #[test]
    fn a_symbol_has_one_definition() {
        let mut parts = Parts::default();
        parts.add(part(".visible .global .u32 x;"), "a").unwrap();
        assert!(
            parts.add(part(".visible .global .u32 x;"), "b").unwrap_err().1.contains("first defined in 'a'")
        );
        assert!(parts.add(part("nonsense"), "c").is_err());
    }
}
