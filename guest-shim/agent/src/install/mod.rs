//! `vgpu-agent install` and `uninstall`: the shims, their names, the loader's configuration, the unit and the huge pages of a guest.
//!
//! | module | what |
//! |---|---|
//! | [`source`] | where the files come from |
//! | [`driver`] | a real driver, which is not overwritten |
//! | [`plan`] | what is to be where |
//! | [`cdi`] | the file that gives containers the GPU |
//! | [`apply`] | makes it so |
//! | [`remove`] | takes it back |
//! | [`record`] | what was done |
//! | [`live`] | the loader's cache, systemd and the kernel of a running system |

pub mod apply;
pub mod cdi;
pub mod driver;
pub mod live;
pub mod plan;
pub mod record;
pub mod remove;
pub mod source;
#[cfg(test)]
mod tests;

use crate::system::elf::ElfError;
use crate::system::root::Root;
use clap::Args;
use std::io;
use std::path::PathBuf;

/// Huge pages unless told otherwise: 16 lanes, the control page, and 94 MiB for the windows of programs.
const HUGE_PAGES: u64 = 64;

/// What `install` is told.
#[derive(Debug, Clone, Args)]
pub struct InstallOptions {
    /// The system to install into: a mounted image, for instance
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,

    /// Folder with libvgpu-cuda.so and libvgpu-nvml.so [default: ../lib/vgpu beside this program]
    #[arg(long, value_name = "DIR")]
    pub from: Option<PathBuf>,

    /// Where bin/vgpu-agent and lib/vgpu go [default: where they are if that is /usr, else /usr/local]
    #[arg(long, value_name = "DIR", value_parser = ["/usr", "/usr/local", "/opt/vgpu"])]
    pub prefix: Option<String>,

    /// Huge pages of 2 MiB that are set aside at boot; 0 leaves the setting alone
    #[arg(long, value_name = "N", default_value_t = HUGE_PAGES)]
    pub huge_pages: u64,

    /// Install although there is a real NVIDIA driver or a file in the way; what is in the way is kept and comes back with uninstall
    #[arg(long)]
    pub force: bool,

    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Do not start the agent
    #[arg(long)]
    pub no_start: bool,
}

/// What `uninstall` is told.
#[derive(Debug, Clone, Args)]
pub struct UninstallOptions {
    /// The system to uninstall from
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,

    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Why nothing, or not everything, was done.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error(
        "changing the running system needs root: run it as root, or give the root of another system (--root DIR)"
    )]
    NotRoot,
    #[error("finding the system's root {}: there is no such folder", .0.display())]
    NoRoot(PathBuf),
    #[error("finding the library {}; give the folder that has it with --from", path.display())]
    NoShim {
        path: PathBuf,
        #[source]
        source: ElfError,
    },
    #[error("taking the library {}: it is {owner}, this agent is of release {}", path.display(), env!("CARGO_PKG_VERSION"))]
    OtherRelease { path: PathBuf, owner: String },
    #[error(
        "there is a real NVIDIA driver ({0}): vgpu would take its place. --force installs all the same, keeps what is overwritten, \
         and uninstall brings it back"
    )]
    RealDriver(String),
    #[error(
        "these files are somebody else's: {0}. --force replaces them, keeps them, and uninstall brings them back"
    )]
    Occupied(String),
    #[error("{what} {}", path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("finding this program's own file")]
    Own(#[source] io::Error),
    #[error("writing what was done")]
    Output(#[source] io::Error),
}

/// The root of an option, checked.
fn checked_root(folder: &std::path::Path) -> Result<Root, InstallError> {
    let folder = folder.canonicalize().map_err(|_| InstallError::NoRoot(folder.into()))?;
    let root = Root::new(folder);
    if root.is_live() && !rustix::process::geteuid().is_root() {
        return Err(InstallError::NotRoot);
    }
    Ok(root)
}

/// This program's file. A package's scripts may run where no /proc is mounted: then by the name with which it was started.
fn own_program() -> Result<PathBuf, InstallError> {
    let by_kernel = std::env::current_exe();
    let by_name = || {
        let name = PathBuf::from(std::env::args_os().next()?);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut found = std::env::split_paths(&path).map(|folder| folder.join(&name));
        if name.components().count() > 1 {
            name.canonicalize().ok()
        } else {
            found.find(|path| path.is_file())
        }
    };
    by_kernel.or_else(|error| by_name().ok_or(InstallError::Own(error)))
}

/// Installs; each line that `say` gets is something that was done.
pub fn install(options: &InstallOptions, say: &mut dyn FnMut(String)) -> Result<(), InstallError> {
    let root = checked_root(&options.root)?;
    let agent = own_program()?;
    let source = source::Source::find(options.from.as_deref(), agent)?;
    apply::apply(&root, &source, options, say)
}

/// Takes back what the record says.
pub fn uninstall(options: &UninstallOptions, say: &mut dyn FnMut(String)) -> Result<(), InstallError> {
    let root = checked_root(&options.root)?;
    remove::remove(&root, options.dry_run, say)
}
