//! A folder that stands for a system.

use crate::system::root::Root;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A test's own folder, removed at its end.
#[derive(Debug)]
pub struct Tree(PathBuf);

impl Tree {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("vgpu-tree-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn root(&self) -> Root {
        Root::new(&self.0)
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    pub fn file(&self, path: &str, bytes: impl AsRef<[u8]>) -> &Self {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), bytes).unwrap();
        self
    }

    pub fn link(&self, path: &str, target: impl AsRef<Path>) -> &Self {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, self.path(path)).unwrap();
        self
    }

    pub fn folder(&self, path: &str) -> &Self {
        fs::create_dir_all(self.path(path)).unwrap();
        self
    }

    pub fn remove(&self, path: &str) -> &Self {
        fs::remove_file(self.path(path)).unwrap();
        self
    }

    /// A library that gcc makes of `source`.
    pub fn library(&self, path: &str, source: &str, options: &[&str]) -> &Self {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        let code = self.path(&format!("{path}.c"));
        fs::write(&code, source).unwrap();
        let mut gcc = std::process::Command::new("gcc");
        gcc.args(["-shared", "-fPIC", "-nostdlib", "-o"]).arg(self.path(path)).arg(&code).args(options);
        assert!(gcc.status().unwrap().success());
        fs::remove_file(code).unwrap();
        self
    }

    /// A library of ours, as its marker says.
    pub fn ours(&self, path: &str, soname: &str) -> &Self {
        self.ours_with(path, soname, "", &[])
    }

    /// The same, with more source and options for gcc.
    pub fn ours_with(&self, path: &str, soname: &str, more: &str, options: &[&str]) -> &Self {
        use zerocopy::IntoBytes;
        let bytes: Vec<String> =
            vgpu_client::marker::Marker::ours().as_bytes().iter().map(u8::to_string).collect();
        let source = format!("const unsigned char vgpu_library[] = {{{}}};\n{more}", bytes.join(","));
        let soname = format!("-Wl,-soname,{soname}");
        self.library(path, &source, &[&[soname.as_str()], options].concat())
    }

    /// A library of somebody else.
    pub fn foreign(&self, path: &str, soname: &str) -> &Self {
        self.library(path, "int cuInit(unsigned f) { return 999; }", &[&format!("-Wl,-soname,{soname}")])
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
