use super::Refusal;
use crate::ptx::types::Ty;

/// An opcode and the modifiers that have not been understood yet.
pub(crate) struct Opcode<'a> {
    pub name: &'a str,
    pub full: &'a str,
    pub mods: Vec<&'a str>,
}

impl<'a> Opcode<'a> {
    pub fn new(text: &'a str) -> Opcode<'a> {
        let mut parts = text.split('.');
        let name = parts.next().unwrap_or("");
        Opcode { name, full: text, mods: parts.collect() }
    }

    /// Removes `modifier` and says whether it was there.
    pub fn take(&mut self, modifier: &str) -> bool {
        match self.mods.iter().position(|m| *m == modifier) {
            Some(index) => {
                self.mods.remove(index);
                true
            }
            None => false,
        }
    }

    /// Removes the first modifier for which `find` answers.
    pub fn take_map<T>(&mut self, find: impl Fn(&str) -> Option<T>) -> Option<T> {
        let (index, found) = self.mods.iter().enumerate().find_map(|(i, m)| Some((i, find(m)?)))?;
        self.mods.remove(index);
        Some(found)
    }

    /// Removes modifiers that change nothing here.
    pub fn ignore(&mut self, harmless: &[&str]) {
        self.mods.retain(|m| !harmless.contains(m));
    }

    /// Removes the last modifier, which must be a type.
    pub fn ty(&mut self) -> Result<Ty, Refusal> {
        let last = self.mods.pop().ok_or_else(|| format!("`{}` has no type", self.full))?;
        Ty::parse(last).ok_or_else(|| format!("type `.{last}` is not supported"))
    }

    /// Refuses modifiers that nobody has understood.
    pub fn finish(&self) -> Result<(), Refusal> {
        match self.mods.first() {
            None => Ok(()),
            Some(modifier) => Err(format!("modifier `.{modifier}` of `{}` is not supported", self.full)),
        }
    }
}
