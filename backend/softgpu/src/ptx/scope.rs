use std::collections::HashMap;

use super::ast::{Reg, Symbol};
use super::types::Ty;

/// One `{ … }` of a function: registers, variables and labels that it declares.
#[derive(Default)]
pub(crate) struct Scope {
    pub parent: Option<usize>,
    pub(super) registers: HashMap<String, Reg>,
    /// `%r<12>`: prefix, first slot, count, type.
    pub(super) ranges: Vec<(String, u32, u32, Ty)>,
    pub symbols: HashMap<String, Symbol>,
    pub labels: HashMap<String, usize>,
    /// What the function used when the scope was opened, to be used again after it.
    pub values: u32,
    pub preds: u32,
    pub frame: u32,
}

impl Scope {
    pub fn declare(&mut self, name: &str, reg: Reg) {
        self.registers.insert(name.to_string(), reg);
    }

    pub fn declare_range(&mut self, prefix: &str, first: u32, count: u32, ty: Ty) {
        self.ranges.push((prefix.to_string(), first, count, ty));
    }

    pub fn register(&self, name: &str) -> Option<Reg> {
        if let Some(reg) = self.registers.get(name) {
            return Some(*reg);
        }
        let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let digits = &name[prefix.len()..];
        let index: u32 = digits.parse().ok()?;
        if digits.len() > 1 && digits.starts_with('0') {
            return None;
        }
        // A prefix may itself end in digits (`%r1<4>`); that is rare, so it is tried last.
        let found = self.ranges.iter().rev().find(|(p, _, count, _)| p == prefix && index < *count);
        if let Some((_, first, _, ty)) = found {
            return Some(Reg { slot: first + index, ty: *ty });
        }
        self.ranges.iter().rev().find_map(|(p, first, count, ty)| {
            let index: u32 = name.strip_prefix(p.as_str())?.parse().ok()?;
            (index < *count).then_some(Reg { slot: first + index, ty: *ty })
        })
    }
}
