//! What is known of one process of a command.

use super::shims::Said;
use crate::system::library::{Owner, is_driver_name};
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};

/// Paths that are shown of those where it looked in vain.
const TRIED: usize = 5;
/// Characters of a command that are shown.
const COMMAND: usize = 60;

/// Libraries whose opening is of interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Library {
    Cuda,
    Nvml,
    Runtime,
    /// ggml's for CUDA.
    Backend,
}

impl Library {
    /// Which one a file's name is of.
    pub fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        match name {
            _ if is_driver_name(name) && name.starts_with("libcuda") => Some(Library::Cuda),
            _ if is_driver_name(name) => Some(Library::Nvml),
            _ if name.starts_with("libcudart.so") => Some(Library::Runtime),
            _ if name.starts_with("libggml-cuda.so") => Some(Library::Backend),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Library::Cuda => crate::system::CUDA,
            Library::Nvml => crate::system::NVML,
            Library::Runtime => "libcudart",
            Library::Backend => "libggml-cuda.so",
        }
    }
}

/// A file that the process opened, or tried to.
#[derive(Debug, Clone, Serialize)]
pub struct File {
    pub library: Library,
    pub path: String,
    pub opened: bool,
    /// Whose it is, in words; of libcuda and NVML only.
    pub whose: String,
    pub ours: bool,
}

/// The first call that failed.
#[derive(Debug, Clone, Serialize)]
pub struct FirstError {
    pub call: String,
    pub code: u32,
    pub name: String,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct Process {
    pub pid: u32,
    pub parent: u32,
    pub command: String,
    pub files: Vec<File>,
    /// Calls of our libraries.
    pub calls: u64,
    pub first_error: Option<FirstError>,
    /// What our libraries logged in it.
    pub log: Vec<String>,
    /// How it ended.
    pub end: Option<String>,
}

impl Process {
    /// Notes that it opened `path`, or tried to. The process waits meanwhile.
    pub fn opened(&mut self, path: &Path, opened: bool) {
        let Some(library) = Library::of(path) else { return };
        let shown = path.display().to_string();
        if self.files.iter().any(|file| file.path == shown && file.opened == opened) {
            return;
        }
        let mut file = File { library, path: shown, opened, whose: String::new(), ours: false };
        if opened && matches!(library, Library::Cuda | Library::Nvml) {
            // In the process's own view of the file system: it may be in a container.
            let seen = PathBuf::from(format!("/proc/{}/root{}", self.pid, file.path));
            match Owner::of_file(&seen) {
                Ok(owner) => (file.whose, file.ours) = (owner.to_string(), owner.is_ours()),
                // The loader passes over what is no library.
                Err(_) => file.opened = false,
            }
        }
        self.files.push(file);
    }

    /// Adds what our libraries in it said.
    pub fn said(&mut self, said: Said) {
        (self.calls, self.first_error, self.log) = (said.calls, said.first_error, said.log);
    }

    fn files_of(&self, library: Library) -> impl Iterator<Item = &File> {
        self.files.iter().filter(move |file| file.library == library)
    }

    /// Whether it opened one.
    pub fn has(&self, library: Library) -> bool {
        self.files_of(library).any(|file| file.opened)
    }

    /// Whether it tried.
    pub fn asked(&self, library: Library) -> bool {
        self.files_of(library).next().is_some()
    }

    pub fn looked_in_vain(&self, library: Library) -> bool {
        self.asked(library) && !self.has(library)
    }

    /// One that it opened and that is not ours.
    pub fn foreign(&self, library: Library) -> Option<&File> {
        self.files_of(library).find(|file| file.opened && !file.ours)
    }

    /// Where it looked, without the loader's subfolders for kinds of processors.
    pub fn tried(&self, library: Library) -> String {
        let mut tried: Vec<String> = Vec::new();
        for file in self.files_of(library) {
            let cut =
                ["/glibc-hwcaps/", "/tls/", "/x86_64/"].iter().filter_map(|part| file.path.find(part)).min();
            let folder = cut.and_then(|end| file.path.get(..end));
            let path = folder.map_or(file.path.clone(), |folder| format!("{folder}/{}", library.name()));
            if !tried.contains(&path) {
                tried.push(path);
            }
        }
        let shown = tried.get(..tried.len().min(TRIED)).unwrap_or_default().join(", ");
        if tried.len() > TRIED { format!("{shown} and {} more", tried.len() - TRIED) } else { shown }
    }

    /// Pid and command, for people.
    pub fn who(&self) -> String {
        let line = self.command.split_whitespace().collect::<Vec<_>>().join(" ");
        let short: String = line.chars().take(COMMAND).collect();
        let dots = if short.len() < line.len() { "…" } else { "" };
        format!("{}[{}]", if short.is_empty() { "process".into() } else { short + dots }, self.pid)
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}, child of {}", self.who(), self.parent)?;
        if let Some(end) = &self.end {
            write!(f, ", {end}")?;
        }
        for file in self.files.iter().filter(|file| file.opened) {
            let whose = if file.whose.is_empty() { String::new() } else { format!(" ({})", file.whose) };
            write!(f, "\n    loads {}{whose}", file.path)?;
        }
        for library in
            [Library::Cuda, Library::Nvml].into_iter().filter(|library| self.looked_in_vain(*library))
        {
            write!(f, "\n    looks for {} in vain: {}", library.name(), self.tried(library))?;
        }
        if self.calls > 0 {
            write!(f, "\n    {} calls", self.calls)?;
        }
        if let Some(FirstError { call, code, name }) = &self.first_error {
            write!(f, "\n    first error: {call} = {code} {name}")?;
        }
        for line in &self.log {
            write!(f, "\n    log: {line}")?;
        }
        Ok(())
    }
}
