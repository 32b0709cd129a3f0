//! Takes back what the record says, and nothing that somebody has changed since.

use super::apply::move_file;
use super::record::{BACKUPS, Entry, PATH, Record, digest};
use super::{InstallError, live};
use crate::system::root::Root;
use std::fs;
use std::io;
use std::path::Path;

/// Uninstalls from the system below `root`.
pub fn remove(root: &Root, dry: bool, say: &mut dyn FnMut(String)) -> Result<(), InstallError> {
    let Some(mut record) = Record::load(root)? else {
        say(format!("nothing is installed here: there is no record {PATH}"));
        return Ok(());
    };
    if root.is_live() && !dry {
        live::stop(say);
    }
    // What stands in the place of a backup goes before the backup comes back.
    let (backups, made): (Vec<_>, Vec<_>) =
        record.entries.iter().cloned().partition(|entry| matches!(entry, Entry::Backup { .. }));
    for entry in made.iter().rev().chain(backups.iter().rev()) {
        let done = undo(root, entry, dry)?;
        if !done.is_empty() {
            say(done);
        }
        if !dry {
            record.entries.retain(|left| left != entry);
            record.save(root)?;
        }
    }
    if dry {
        say("nothing was done (--dry-run)".into());
        return Ok(());
    }
    let _ = fs::remove_file(root.at(PATH));
    clear_folders(root);
    live::refresh_loader(root, say);
    if root.is_live() {
        live::reload(say);
    }
    say("uninstalled".into());
    Ok(())
}

/// Takes one thing back; says what was done.
fn undo(root: &Root, entry: &Entry, dry: bool) -> Result<String, InstallError> {
    let place = root.at(entry.path());
    let shown = entry.path().display();
    let would = if dry { "would have " } else { "" };
    let unchanged = match entry {
        Entry::Folder { .. } => return Ok(folder(root, entry.path(), dry)),
        Entry::Backup { path, kept } => return restore(root, path, kept, dry),
        Entry::File { digest: was, .. } => {
            let is_file = fs::symlink_metadata(&place).is_ok_and(|meta| meta.is_file());
            is_file && fs::read(&place).is_ok_and(|bytes| digest(&bytes) == *was)
        }
        Entry::Link { target, .. } => fs::read_link(&place).is_ok_and(|has| has == *target),
    };
    if fs::symlink_metadata(&place).is_err() {
        return Ok(format!("already gone: {shown}"));
    }
    if !unchanged {
        return Ok(format!("left {shown}: it was changed since"));
    }
    if !dry {
        let failed = |source| InstallError::File { what: "removing", path: entry.path().into(), source };
        fs::remove_file(&place).map_err(failed)?;
    }
    Ok(format!("{would}removed {shown}"))
}

fn folder(root: &Root, path: &Path, dry: bool) -> String {
    let would = if dry { "would have " } else { "" };
    // A folder that others use now stays; the system has it back to itself.
    if dry || fs::remove_dir(root.at(path)).is_ok() {
        format!("{would}removed {}", path.display())
    } else {
        String::new()
    }
}

fn restore(root: &Root, path: &Path, kept: &Path, dry: bool) -> Result<String, InstallError> {
    let (place, from) = (root.at(path), root.at(kept));
    if fs::symlink_metadata(&from).is_err() {
        return Ok(String::new());
    }
    let free = fs::symlink_metadata(&place).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    if !free && !dry {
        return Ok(format!("left {}: there is a new {}", kept.display(), path.display()));
    }
    if !dry {
        let failed = |source| InstallError::File { what: "bringing back", path: path.into(), source };
        move_file(&from, &place).map_err(failed)?;
    }
    Ok(format!("{}brought back {}", if dry { "would have " } else { "" }, path.display()))
}

/// Empty folders of backups, and our own.
fn clear_folders(root: &Root) {
    fn clear(folder: &Path) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                clear(&entry.path());
            }
        }
        let _ = fs::remove_dir(folder);
    }
    clear(&root.at(BACKUPS));
    let _ = fs::remove_dir(root.at(Path::new(PATH).parent().unwrap_or(Path::new(PATH))));
}
