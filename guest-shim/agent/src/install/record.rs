//! What was installed, written down before it is done: uninstall goes by it and by nothing else.

use super::InstallError;
use crate::system::root::Root;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where the record is.
pub const PATH: &str = "/var/lib/vgpu/install.json";
/// Where files go that stood in the way.
pub const BACKUPS: &str = "/var/lib/vgpu/backup";

/// Something that install made or moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Entry {
    Folder {
        path: PathBuf,
    },
    /// With a digest of the content, so that a file which somebody has changed since is left alone.
    File {
        path: PathBuf,
        digest: String,
    },
    Link {
        path: PathBuf,
        target: PathBuf,
    },
    Backup {
        path: PathBuf,
        kept: PathBuf,
    },
}

impl Entry {
    pub fn path(&self) -> &Path {
        match self {
            Entry::Folder { path }
            | Entry::File { path, .. }
            | Entry::Link { path, .. }
            | Entry::Backup { path, .. } => path,
        }
    }
}

/// All of it, in the order in which it was done.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Record {
    pub release: String,
    pub entries: Vec<Entry>,
}

impl Record {
    /// The record of a system; `None` if nothing is installed there.
    pub fn load(root: &Root) -> Result<Option<Self>, InstallError> {
        let failed = |source| InstallError::File { what: "reading the record", path: PATH.into(), source };
        match root.read(PATH) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error)),
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| failed(error.into())),
        }
    }

    pub fn save(&self, root: &Root) -> Result<(), InstallError> {
        let failed = |source| InstallError::File { what: "writing the record", path: PATH.into(), source };
        let path = root.at(PATH);
        let text = serde_json::to_string_pretty(self).map_err(|error| failed(error.into()))?;
        let new = path.with_extension("new");
        let folder = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&new, text + "\n"))
            .and_then(|()| fs::rename(&new, &path))
            .map_err(failed)
    }

    /// Puts `entry` into the record in place of one of the same path; a backup and what stands in its place have both.
    pub fn note(&mut self, entry: Entry) {
        let backup = |entry: &Entry| matches!(entry, Entry::Backup { .. });
        let same = |old: &Entry| old.path() == entry.path() && backup(old) == backup(&entry);
        match self.entries.iter_mut().find(|old| same(old)) {
            // The first backup is the one of what was there before us.
            Some(old) if !backup(old) => *old = entry,
            Some(_) => {}
            None => self.entries.push(entry),
        }
    }

    pub fn has(&self, path: &Path) -> bool {
        self.entries.iter().any(|entry| entry.path() == path && !matches!(entry, Entry::Backup { .. }))
    }
}

/// Tells whether a file was changed; no protection against intent (FNV-1a, and the length).
pub fn digest(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    format!("{:x}-{hash:016x}", bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_backup_of_a_path_stays() {
        let mut record = Record::default();
        let backup = |kept: &str| Entry::Backup { path: "/a".into(), kept: kept.into() };
        record.note(backup("/first"));
        record.note(backup("/second"));
        record.note(Entry::Link { path: "/a".into(), target: "b".into() });
        record.note(Entry::Link { path: "/a".into(), target: "c".into() });
        assert_eq!(record.entries, [backup("/first"), Entry::Link { path: "/a".into(), target: "c".into() }]);
        assert!(record.has(Path::new("/a")));
    }
}
