//! Paths below a root, with links followed as the system there would.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

/// As the kernel: more links than these are a loop.
const MAX_LINKS: usize = 40;

/// A system's root folder.
#[derive(Debug, Clone)]
pub struct Root(PathBuf);

impl Root {
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    /// Whether it is the running system.
    pub fn is_live(&self) -> bool {
        self.0 == Path::new("/")
    }

    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// Where the system's `path` lies for this process; its last part is not followed.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.outside(&self.follow(path.as_ref(), false))
    }

    /// Where the file is that the system's `path` leads to.
    pub fn behind(&self, path: impl AsRef<Path>) -> PathBuf {
        self.outside(&self.real(path))
    }

    /// The system's own path of what `path` leads to, without links. Parts that do not exist are kept.
    pub fn real(&self, path: impl AsRef<Path>) -> PathBuf {
        self.follow(path.as_ref(), true)
    }

    /// Whether `path` leads to something.
    pub fn has(&self, path: impl AsRef<Path>) -> bool {
        fs::symlink_metadata(self.behind(path)).is_ok_and(|meta| !meta.is_symlink())
    }

    pub fn read(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        fs::read(self.behind(path))
    }

    /// The file's text; empty if it cannot be read.
    pub fn text(&self, path: impl AsRef<Path>) -> String {
        self.read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The folder's entries by name, sorted; none if it cannot be read.
    pub fn names(&self, folder: impl AsRef<Path>) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.behind(folder)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    fn outside(&self, path: &Path) -> PathBuf {
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn follow(&self, path: &Path, last: bool) -> PathBuf {
        let mut done = PathBuf::from("/");
        let mut left: VecDeque<OsString> = parts(path).collect();
        let mut links = 0;
        while let Some(part) = left.pop_front() {
            if part == ".." {
                done.pop();
                continue;
            }
            let next = done.join(&part);
            let link = (last || !left.is_empty()).then(|| fs::read_link(self.outside(&next)).ok()).flatten();
            match link {
                Some(target) if links < MAX_LINKS => {
                    links += 1;
                    if target.is_absolute() {
                        done = PathBuf::from("/");
                    }
                    for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
                        left.push_front(part);
                    }
                }
                _ => done = next,
            }
        }
        done
    }
}

fn parts(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::tree::Tree;

    #[test]
    fn links_are_followed_below_the_root() {
        let tree = Tree::new();
        tree.file("usr/lib/real.so", b"x").link("lib", "usr/lib").link("usr/lib/a.so", "/lib/real.so");
        tree.link("usr/lib/up.so", "../../../../usr/lib/a.so").link("loop", "loop");
        let root = tree.root();
        assert_eq!(root.real("/lib/up.so").to_str(), Some("/usr/lib/real.so"));
        assert_eq!(root.at("/lib/a.so"), tree.path("usr/lib/a.so"));
        assert!(root.has("/lib/up.so") && !root.has("/loop") && !root.has("/lib/none"));
        assert_eq!(root.text("/usr/../lib/a.so"), "x");
    }
}
