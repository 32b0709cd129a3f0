//! What a shared library says of itself. The file is read in parts: libraries of GPU code have gigabytes.

use object::read::elf::{ElfFile64, FileHeader, SectionTable};
use object::{Endianness, Object, ObjectSection, ObjectSymbol, ReadCache, elf};
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::Path;
use vgpu_client::marker::{Marker, SYMBOL};

/// Why a file is no library that this machine can load.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    #[error("opening it")]
    Open(#[source] io::Error),
    #[error("it is no shared library for x86-64: {0}")]
    Format(String),
}

/// A symbol that another library must have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Import {
    pub name: String,
    /// The loader does not mind if nobody has it.
    pub weak: bool,
}

/// A shared library's dynamic section and symbols.
#[derive(Debug, Clone, Default)]
pub struct Library {
    pub soname: Option<String>,
    pub needed: Vec<String>,
    /// Folders in which its own libraries are looked for; `$ORIGIN` is not replaced yet.
    pub runpath: Vec<String>,
    /// The same of the older kind, which counts before LD_LIBRARY_PATH.
    pub rpath: Vec<String>,
    pub imports: BTreeSet<Import>,
    pub exports: BTreeSet<String>,
    /// If it is ours.
    pub marker: Option<Marker>,
}

type Data<'a> = &'a ReadCache<File>;

/// Whether the loader of a 64-bit program takes the file: it passes over others without a word.
pub fn is_for_us(path: &Path) -> bool {
    use std::io::Read;
    let mut head = [0; 20];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut head));
    read.is_ok() && head.starts_with(b"\x7fELF\x02\x01") && head.ends_with(&elf::EM_X86_64.0.to_le_bytes())
}

/// Reads the library at `path`.
pub fn read(path: &Path) -> Result<Library, ElfError> {
    let cache = ReadCache::new(File::open(path).map_err(ElfError::Open)?);
    let format = |error: object::Error| ElfError::Format(error.to_string());
    let file = ElfFile64::<Endianness, Data<'_>>::parse(&cache).map_err(format)?;
    if file.elf_header().e_machine(file.endian()) != elf::EM_X86_64 {
        return Err(ElfError::Format("it is for another processor".into()));
    }
    let mut library = Library::default();
    dynamic(&mut library, file.elf_section_table(), file.endian(), &cache).map_err(format)?;
    for symbol in file.dynamic_symbols() {
        let Ok(name) = symbol.name() else { continue };
        if symbol.is_undefined() {
            if !name.is_empty() {
                library.imports.insert(Import { name: name.into(), weak: symbol.is_weak() });
            }
        } else {
            library.exports.insert(name.into());
            if name == SYMBOL {
                library.marker = marker(&file, symbol.address());
            }
        }
    }
    Ok(library)
}

fn dynamic<'a>(
    library: &mut Library,
    sections: &SectionTable<'a, elf::FileHeader64<Endianness>, Data<'a>>,
    endian: Endianness,
    data: Data<'a>,
) -> object::Result<()> {
    let table = sections.dynamic_table(endian, data)?;
    for entry in table.iter() {
        let text = || {
            table.string(entry).map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
        };
        let folders = || text().split(':').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        match entry.tag {
            elf::DT_SONAME => library.soname = Some(text()),
            elf::DT_NEEDED => library.needed.push(text()),
            elf::DT_RUNPATH => library.runpath = folders(),
            elf::DT_RPATH => library.rpath = folders(),
            _ => {}
        }
    }
    Ok(())
}

fn marker<'a>(file: &ElfFile64<'a, Endianness, Data<'a>>, address: u64) -> Option<Marker> {
    let size = size_of::<Marker>() as u64;
    let bytes = file.sections().find_map(|section| section.data_range(address, size).ok().flatten())?;
    Marker::read(bytes)
}
