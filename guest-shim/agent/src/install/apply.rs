//! Makes a system as the plan has it.

use super::driver::Driver;
use super::plan::{Content, Item, Plan};
use super::record::{BACKUPS, Entry, Record, digest};
use super::source::Source;
use super::{InstallError, InstallOptions, live};
use crate::system::library::is_ours_in;
use crate::system::root::Root;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Installs from `source` into the system below `root`.
pub fn apply(
    root: &Root,
    source: &Source,
    options: &InstallOptions,
    say: &mut dyn FnMut(String),
) -> Result<(), InstallError> {
    let record = Record::load(root)?.unwrap_or_default();
    let prefix = options.prefix.as_deref().or(source.in_place(root)).unwrap_or("/usr/local");
    let plan = Plan::new(root, source, prefix, options.huge_pages);
    let mut work = Work { root, record, dry: options.dry_run, say };
    let in_the_way = work.in_the_way(&plan);
    let driver = Driver::find(root);
    if !options.force {
        if driver.is_there() {
            return Err(InstallError::RealDriver(driver.signs()));
        }
        if !in_the_way.is_empty() {
            let paths: Vec<_> = in_the_way.iter().map(|path| path.display().to_string()).collect();
            return Err(InstallError::Occupied(paths.join(", ")));
        }
    }
    work.record.release = env!("CARGO_PKG_VERSION").into();
    // In the folder of our links, ldconfig would lead the names back to the driver's files.
    let beside = driver.libraries.iter().filter(|path| path.parent() == Some(&plan.libraries));
    let mut moved: Vec<PathBuf> = beside.cloned().chain(in_the_way).collect();
    moved.sort();
    moved.dedup();
    for path in moved {
        work.back_up(&path)?;
    }
    for item in &plan.items {
        work.put(item)?;
    }
    for reason in &plan.left_out {
        (work.say)(format!("left out: {reason}"));
    }
    let Work { say, .. } = work;
    if options.dry_run {
        say("nothing was done (--dry-run)".into());
        return Ok(());
    }
    live::refresh_loader(root, say);
    if root.is_live() {
        live::start(&plan, options, say);
    }
    say("installed; `vgpu-agent doctor` checks that it works".into());
    Ok(())
}

/// An installation under way.
struct Work<'a> {
    root: &'a Root,
    record: Record,
    dry: bool,
    say: &'a mut dyn FnMut(String),
}

impl Work<'_> {
    /// What did, or would do.
    fn tell(&mut self, verb: &str, rest: &str) {
        let would = if self.dry { "would have " } else { "" };
        (self.say)(format!("{would}{verb} {rest}"));
    }

    fn note(&mut self, entry: Entry) -> Result<(), InstallError> {
        self.record.note(entry);
        self.record.save(self.root)
    }

    /// Paths of the plan that hold something of somebody else.
    fn in_the_way(&self, plan: &Plan) -> Vec<PathBuf> {
        let there = |item: &&Item| fs::symlink_metadata(self.root.at(&item.path)).is_ok();
        let ours = |item: &&Item| {
            self.record.has(&item.path) || self.is_as_wanted(item) || self.leads_to_ours(&item.path)
        };
        let foreign = plan.items.iter().filter(there).filter(|item| !ours(item));
        foreign.map(|item| item.path.clone()).collect()
    }

    /// One of our libraries, from before there was a record; or a link that leads nowhere.
    fn leads_to_ours(&self, path: &Path) -> bool {
        let nowhere = fs::read_link(self.root.at(path)).is_ok() && !self.root.has(path);
        nowhere || is_ours_in(self.root, path)
    }

    fn is_as_wanted(&self, item: &Item) -> bool {
        let place = self.root.at(&item.path);
        match &item.content {
            Content::Link(target) => fs::read_link(&place).is_ok_and(|has| &has == target),
            content => {
                let is_file = fs::symlink_metadata(&place).is_ok_and(|meta| meta.is_file());
                is_file && fs::read(&place).is_ok_and(|has| bytes(content).is_ok_and(|wanted| wanted == has))
            }
        }
    }

    fn back_up(&mut self, path: &Path) -> Result<(), InstallError> {
        let kept = PathBuf::from(format!("{BACKUPS}{}", path.display()));
        self.tell("kept", &format!("{} as {}", path.display(), kept.display()));
        if self.dry {
            return Ok(());
        }
        self.note(Entry::Backup { path: path.into(), kept: kept.clone() })?;
        let to = self.root.at(&kept);
        move_file(&self.root.at(path), &to).map_err(file("keeping", path))
    }

    fn put(&mut self, item: &Item) -> Result<(), InstallError> {
        let shown = item.path.display().to_string();
        let as_wanted = self.is_as_wanted(item);
        let entry = match &item.content {
            Content::Link(target) => Entry::Link { path: item.path.clone(), target: target.clone() },
            content => {
                let bytes = bytes(content).map_err(file("reading", source_of(item)))?;
                Entry::File { path: item.path.clone(), digest: digest(&bytes) }
            }
        };
        let place = self.root.at(&item.path);
        let there = fs::symlink_metadata(&place).is_ok();
        if as_wanted {
            (self.say)(format!("unchanged {shown}"));
        } else {
            let arrow = match &item.content {
                Content::Link(target) => format!("{shown} → {}", target.display()),
                _ => shown,
            };
            self.tell(if there { "replaced" } else { "created" }, &arrow);
        }
        if self.dry {
            return Ok(());
        }
        self.folders(item.path.parent().unwrap_or(Path::new("/")))?;
        self.note(entry)?;
        if as_wanted { Ok(()) } else { write(&place, &item.content).map_err(file("writing", &item.path)) }
    }

    /// Makes the folders of a path, noting those that are new.
    fn folders(&mut self, folder: &Path) -> Result<(), InstallError> {
        let mut missing: Vec<&Path> =
            folder.ancestors().take_while(|folder| !self.root.has(folder)).collect();
        missing.reverse();
        for folder in missing {
            self.note(Entry::Folder { path: folder.into() })?;
            match fs::create_dir(self.root.behind(folder)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(file("making the folder", folder)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn source_of(item: &Item) -> &Path {
    match &item.content {
        Content::Copy { from, .. } => from,
        _ => &item.path,
    }
}

fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_path_buf();
    move |source| InstallError::File { what, path, source }
}

fn bytes(content: &Content) -> io::Result<Vec<u8>> {
    match content {
        Content::Copy { from, .. } => fs::read(from),
        Content::Text(text) => Ok(text.clone().into_bytes()),
        Content::Link(_) => Ok(Vec::new()),
    }
}

/// By a new file and a rename: whoever has the old one open keeps it.
fn write(place: &Path, content: &Content) -> io::Result<()> {
    let mut new = place.as_os_str().to_owned();
    new.push(".vgpu-new");
    let new = PathBuf::from(new);
    let _ = fs::remove_file(&new);
    match content {
        Content::Link(target) => symlink(target, &new)?,
        content => {
            let mode = if let Content::Copy { mode, .. } = content { *mode } else { 0o644 };
            fs::write(&new, bytes(content)?)?;
            fs::set_permissions(&new, PermissionsExt::from_mode(mode))?;
        }
    }
    fs::rename(new, place)
}

/// Moves a file or link, to another file system as well.
pub fn move_file(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to.parent().unwrap_or(Path::new("/")))?;
    match fs::rename(from, to) {
        Err(error) if error.raw_os_error() == Some(libc::EXDEV) => {
            match fs::read_link(from) {
                Ok(target) => symlink(target, to)?,
                Err(_) => fs::copy(from, to).map(|_| ())?,
            }
            fs::remove_file(from)
        }
        other => other,
    }
}
