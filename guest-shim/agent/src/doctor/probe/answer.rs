//! What a probe found out, as it crosses from its process to doctor's.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A call and its code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub call: String,
    pub code: i64,
    /// The code's name, as the library gives it.
    pub name: String,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { call, code, name } = self;
        write!(f, "{call} returns {code} {name}")
    }
}

/// A device as an API shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub name: String,
    pub uuid: String,
    pub pci: String,
    pub free: u64,
    pub total: u64,
}

/// What a library did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Why it, or a function of it, could not be had; the loader's words.
    pub load_error: Option<String>,
    /// The call that failed; nothing was called after it.
    pub failed: Option<Step>,
    pub version: String,
    pub devices: Vec<Device>,
    /// What the self-test computed, if it is wrong.
    pub wrong_result: Option<String>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broken {
    Start(String),
    Signal(i32),
    Hung(u64),
    Unreadable(String),
}

/// What came of a probe, and what the libraries logged.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub answer: Result<Answer, Broken>,
    pub log: Vec<String>,
}
