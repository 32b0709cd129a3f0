//! What confines workers and the monitor, and what the broker itself gives up.
//!
//! A worker runs a guest's code in NVIDIA's user-space driver and counts as the guest's. It is confined in two steps, on its own single
//! thread before CUDA is loaded ([`Sandbox::enter`]), and on all threads when the driver has started and before any guest is known
//! ([`Sandbox::close`]): what the driver does only once, at its start, is not allowed to a guest.
//!
//! Each layer can be switched ([`Layers`]); what the machine lacks is left out and said once.

mod broker;
pub mod calls;
pub mod check;
mod compute_cache;
mod devices;
mod files;
mod layers;
mod limits;
mod namespaces;
mod options;
mod peer;
mod privileges;
mod refusals;
mod user;

use std::path::{Path, PathBuf};

pub use broker::enter as enter_broker;
pub use devices::prepare as prepare_devices;
pub use layers::{Layer, Layers};
pub use options::SandboxArgs;
pub use user::{User, become_user};

/// Where libraries may lie beside the system's folders: the driver's, this program's, and what the environment names.
pub fn library_folders(driver: Option<&Path>) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = driver.map(Path::to_owned).into_iter().collect();
    folders.extend(std::env::current_exe().ok().and_then(|path| path.parent().map(Path::to_owned)));
    if let Some(paths) = std::env::var_os("LD_LIBRARY_PATH") {
        folders.extend(std::env::split_paths(&paths).filter(|path| path.is_absolute()));
    }
    folders
}

/// Whether the driver is the software driver of this program.
fn is_softgpu(folders: &[PathBuf]) -> bool {
    let softgpu = crate::config::softgpu_folder().ok().and_then(|folder| folder.canonicalize().ok());
    softgpu.is_some_and(|softgpu| folders.first() == Some(&softgpu))
}

/// Why a layer is not there.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error("{what}")]
    System { what: &'static str, source: std::io::Error },
    #[error("restricting files (Landlock)")]
    Landlock(#[from] landlock::RulesetError),
    #[error("the kernel has no Landlock")]
    NoLandlock,
    #[error("making the filter of system calls")]
    Filter(#[from] seccompiler::BackendError),
    #[error("installing the filter of system calls")]
    Install(#[from] seccompiler::Error),
    #[error("thread {0} could not get the filter of system calls")]
    Thread(i64),
    #[error("the filters of system calls are for 64-bit x86 and Arm")]
    Architecture,
    #[error("the broker is gone")]
    Orphan,
    /// Landlock forbids that, as between any processes that it confines. Workers of the real driver share by way of the driver.
    #[error("softgpu's processes find each other's memory in /proc")]
    Softgpu,
}

impl SandboxError {
    fn system<E: Into<std::io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| SandboxError::System { what, source: source.into() }
    }
}

/// What became of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// In force; how.
    Active(String),
    /// Not asked for.
    Off,
    /// Not to be had here; why.
    Missing(String),
}

/// The confinement of this process.
#[derive(Debug)]
pub struct Sandbox {
    args: SandboxArgs,
    states: Vec<(Layer, State)>,
}

impl Sandbox {
    /// The first step: everything but the strict filter of system calls. The process must have one thread, and nothing open that it
    /// should not have. `folders` are those from which libraries may be loaded, beside the system's.
    ///
    /// # Errors
    /// If a layer that was named is not to be had, or the process would be left half confined.
    pub fn enter(args: &SandboxArgs, folders: &[PathBuf]) -> Result<Self, SandboxError> {
        let mut sandbox = Sandbox { args: args.clone(), states: Vec::new() };
        let cache = compute_cache::find(args);
        sandbox.layer(Layer::Limits, limits::enter)?;
        // Needs privileges, or gives them for itself.
        sandbox.layer(Layer::Namespaces, namespaces::enter)?;
        // Before the next ones, which want it.
        if args.layers.contains(Layer::Privileges) || args.layers.contains(Layer::Files) {
            privileges::renounce_new()?;
        }
        // Opens folders, with the rights that the process still has.
        sandbox.layer(Layer::Files, || {
            if !args.layers.required() && is_softgpu(folders) {
                return Err(SandboxError::Softgpu);
            }
            files::enter(folders, cache.as_deref(), args.allow.contains(&libc::SYS_connect))
        })?;
        if let Some(user) = args.user {
            // Asked for by name: a worker that stays root instead is not started.
            user::become_user(user)?;
        }
        let is = user::describe(args.user);
        sandbox
            .states
            .push((Layer::User, if args.user.is_some() { State::Active(is) } else { State::Missing(is) }));
        // Other workers have the same user. Landlock keeps them out, and the operator's tools, which suspend workers, may come in; without it
        // nobody may. softgpu's workers look into each other.
        let open = sandbox.is_active(Layer::Files) || is_softgpu(folders);
        sandbox.layer(Layer::Privileges, || {
            privileges::set_open(open)?;
            privileges::drop_all()
        })?;
        sandbox.layer(Layer::Calls, calls::forbid_hostile)?;
        Ok(sandbox)
    }

    /// The second step, when the driver has started: the strict filter of system calls, for all threads.
    ///
    /// # Errors
    /// If it was named and is not to be had.
    pub fn close(&mut self) -> Result<(), SandboxError> {
        if !self.is_active(Layer::Calls) {
            return Ok(());
        }
        self.states.retain(|(layer, _)| *layer != Layer::Calls);
        let allow = self.args.allow.clone();
        self.layer(Layer::Calls, move || calls::allow_listed(&allow))
    }

    fn layer(
        &mut self,
        layer: Layer,
        enter: impl FnOnce() -> Result<String, SandboxError>,
    ) -> Result<(), SandboxError> {
        let state = if self.args.layers.contains(layer) {
            match enter() {
                Ok(how) => State::Active(how),
                Err(error) if self.args.layers.required() => return Err(error),
                Err(error) => State::Missing(crate::log::chain(&error)),
            }
        } else {
            State::Off
        };
        self.states.push((layer, state));
        Ok(())
    }

    fn state(&self, layer: Layer) -> Option<&State> {
        self.states.iter().find(|(of, _)| *of == layer).map(|(_, state)| state)
    }

    /// Whether a layer is in force.
    pub fn is_active(&self, layer: Layer) -> bool {
        matches!(self.state(layer), Some(State::Active(_)))
    }

    /// What became of each layer, in the order in which they are named.
    pub fn states(&self) -> impl Iterator<Item = (Layer, &State)> {
        Layer::ALL.iter().filter_map(|&layer| Some((layer, self.state(layer)?)))
    }
}

/// In one line.
impl std::fmt::Display for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, (layer, state)) in self.states().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            match state {
                State::Active(_) => write!(f, "{separator}{layer}")?,
                State::Off => write!(f, "{separator}no {layer} (switched off)")?,
                State::Missing(why) => write!(f, "{separator}no {layer} ({why})")?,
            }
        }
        Ok(())
    }
}
