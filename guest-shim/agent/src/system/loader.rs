//! Where the loader finds a library by its name (ld.so(8)): the folders of the library that asks, LD_LIBRARY_PATH, the cache, the
//! default folders.

use super::cache::{self, Entry};
use super::{elf, root::Root};
use std::fmt;
use std::path::{Path, PathBuf};

/// Folders that are searched last; distributions have one or another.
pub const DEFAULT_FOLDERS: [&str; 6] =
    ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"];

/// What made the loader look there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Via {
    Rpath,
    Environment,
    Runpath,
    Cache,
    Default,
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Via::Rpath => "the RPATH of the library that asks",
            Via::Environment => "LD_LIBRARY_PATH",
            Via::Runpath => "the RUNPATH of the library that asks",
            Via::Cache => "the loader's cache",
            Via::Default => "the default folders",
        })
    }
}

/// A library, found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where it was found; may be a link.
    pub path: PathBuf,
    pub via: Via,
}

/// The loader of a system, in one environment.
#[derive(Debug, Clone)]
pub struct Loader<'a> {
    pub root: &'a Root,
    entries: Vec<Entry>,
    environment: Vec<PathBuf>,
}

impl<'a> Loader<'a> {
    /// With LD_LIBRARY_PATH as given.
    pub fn new(root: &'a Root, library_path: Option<&str>) -> Self {
        let entries = cache::parse(&root.read("/etc/ld.so.cache").unwrap_or_default());
        let folders = library_path.unwrap_or_default().split([':', ';']).filter(|part| !part.is_empty());
        Self { root, entries, environment: folders.map(PathBuf::from).collect() }
    }

    /// As a program's main file without folders of its own finds it.
    pub fn find(&self, soname: &str) -> Option<Found> {
        self.find_for(soname, None)
    }

    /// As the library at `asks` finds it.
    pub fn find_for(&self, soname: &str, asks: Option<(&Path, &elf::Library)>) -> Option<Found> {
        let own = |folders: fn(&elf::Library) -> &Vec<String>| -> Vec<PathBuf> {
            let Some((path, library)) = asks else { return Vec::new() };
            let origin = self.root.real(path).parent().map(Path::to_path_buf).unwrap_or_default();
            folders(library).iter().map(|folder| expand(folder, &origin)).collect()
        };
        let runpath = own(|library| &library.runpath);
        // A RUNPATH makes the loader forget the RPATH.
        let rpath = if runpath.is_empty() { own(|library| &library.rpath) } else { Vec::new() };
        let in_folders = |folders: &[PathBuf], via| {
            let path = folders.iter().map(|folder| folder.join(soname)).find(|path| self.takes(path))?;
            Some(Found { path, via })
        };
        in_folders(&rpath, Via::Rpath)
            .or_else(|| in_folders(&self.environment, Via::Environment))
            .or_else(|| in_folders(&runpath, Via::Runpath))
            .or_else(|| self.in_cache(soname))
            .or_else(|| in_folders(&DEFAULT_FOLDERS.map(PathBuf::from), Via::Default))
    }

    fn in_cache(&self, soname: &str) -> Option<Found> {
        let mut known = self.entries.iter().filter(|entry| entry.soname == soname);
        let path = known.find(|entry| self.takes(&entry.path))?.path.clone();
        Some(Found { path, via: Via::Cache })
    }

    fn takes(&self, path: &Path) -> bool {
        elf::is_for_us(&self.root.behind(path))
    }
}

fn expand(folder: &str, origin: &Path) -> PathBuf {
    let origin = origin.to_string_lossy();
    folder.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tree::Tree;

    const FAKE: &[u8] = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0";

    #[test]
    fn folders_are_searched_in_the_loaders_order() {
        let tree = Tree::new();
        let name = "libcuda.so.1";
        let root = tree.root();
        let find = |environment: Option<&str>| Loader::new(&root, environment).find(name);
        assert_eq!(find(None), None);
        tree.file("usr/lib/libcuda.so.1", FAKE);
        assert_eq!(find(None).unwrap().via, Via::Default);
        tree.file("opt/a/libcuda.so.1", FAKE).file("opt/b/libcuda.so.1", FAKE);
        tree.file(
            "etc/ld.so.cache",
            cache::build(&[(name, "/gone/libcuda.so.1"), (name, "/opt/a/libcuda.so.1")]),
        );
        assert_eq!(
            find(None).unwrap().path,
            Path::new("/opt/a/libcuda.so.1"),
            "stale entries are passed over"
        );
        assert_eq!(find(Some("/none::/opt/b")).unwrap().path, Path::new("/opt/b/libcuda.so.1"));
        // A 32-bit library is passed over.
        tree.file("opt/c/libcuda.so.1", b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x03\0");
        assert_eq!(find(Some("/opt/c")).unwrap().via, Via::Cache);
    }

    #[test]
    fn a_library_s_own_folders_come_after_the_environment() {
        let tree = Tree::new();
        tree.file("opt/app/libcuda.so.1", FAKE).file("opt/b/libcuda.so.1", FAKE);
        let root = tree.root();
        let asks = |runpath: bool| {
            let folders = vec!["$ORIGIN".to_owned()];
            let (runpath, rpath) = if runpath { (folders, Vec::new()) } else { (Vec::new(), folders) };
            elf::Library { runpath, rpath, ..Default::default() }
        };
        let via = |environment, runpath| {
            let library = asks(runpath);
            let loader = Loader::new(&root, environment);
            loader
                .find_for("libcuda.so.1", Some((Path::new("/opt/app/libggml-cuda.so"), &library)))
                .unwrap()
                .via
        };
        assert_eq!(via(None, true), Via::Runpath);
        assert_eq!(via(Some("/opt/b"), true), Via::Environment);
        assert_eq!(via(Some("/opt/b"), false), Via::Rpath);
    }
}
