//! What is looked at, and what checks have learnt of it.

use super::probe::Prober;
use super::probe::answer::Answer;
use crate::system::root::Root;
use std::collections::BTreeMap;
use std::path::PathBuf;
use vgpu_client::{Connection, ConnectionError, Mode};
use vgpu_spec::wire::control::PciAddress;
use vgpu_spec::wire::snapshot::Snapshot;

/// Environment variables.
pub type Environment = BTreeMap<String, String>;

/// A system and the environment in which programs run.
#[derive(Debug)]
pub struct Subject {
    pub root: Root,
    pub environment: Environment,
    /// The program that is going to be followed.
    pub program: Option<PathBuf>,
    /// Runs what must run; none for a system that does not.
    pub prober: Option<Prober>,
    pub agent: Result<Agent, AgentState>,
}

/// What the agent says.
#[derive(Debug, Clone)]
pub struct Agent {
    pub snapshot: Snapshot,
    pub pci: PciAddress,
}

/// Why it says nothing.
#[derive(Debug)]
pub enum AgentState {
    /// The system does not run.
    NotAsked,
    Unreachable(ConnectionError),
}

/// What later checks compare with.
#[derive(Debug, Default)]
pub struct Facts {
    /// What CUDA's driver API said.
    pub cuda: Option<Answer>,
}

impl Subject {
    /// The system below `root`, in the environment of this process. Only the running system is asked.
    pub fn new(root: Root, environment: Environment) -> Self {
        let agent = if root.is_live() { ask() } else { Err(AgentState::NotAsked) };
        let prober = if root.is_live() { Prober::new().ok() } else { None };
        Self { root, environment, program: None, prober, agent }
    }

    pub fn library_path(&self) -> Option<&str> {
        self.environment.get("LD_LIBRARY_PATH").map(String::as_str)
    }

    /// Whether the agent is of local mode: then no device of a VM is needed.
    pub fn is_local_mode(&self) -> bool {
        self.agent.as_ref().is_ok_and(|agent| agent.pci.present == 0)
    }

    /// For tests: files only.
    #[cfg(test)]
    pub fn files(root: Root) -> Self {
        Self {
            root,
            environment: Environment::new(),
            program: None,
            prober: None,
            agent: Err(AgentState::NotAsked),
        }
    }
}

fn ask() -> Result<Agent, AgentState> {
    let connection = Connection::open(Mode::SnapshotOnly).map_err(AgentState::Unreachable)?;
    Ok(Agent { snapshot: connection.snapshot.clone(), pci: connection.pci })
}
