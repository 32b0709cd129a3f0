//! The command lines of the operator's commands.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::reset::Reset;
use super::settings::{self, VmSettings};
use super::vm_args::VmArgs;
use super::{ConfigError, OPERATOR_SOCKET};
use crate::operator::commands::{Action, Order};

/// Which broker is meant.
#[derive(Args)]
pub struct BrokerSocket {
    /// The broker's socket for the operator
    #[arg(long, value_name = "PATH", default_value = OPERATOR_SOCKET)]
    operator_socket: PathBuf,
}

#[derive(Subcommand)]
pub enum VmCommands {
    /// Add a VM
    Add {
        /// What it is called
        name: String,
        /// Listen on this path
        #[arg(long, value_name = "PATH")]
        socket: PathBuf,
        #[command(flatten)]
        vm: Box<VmArgs>,
        #[command(flatten)]
        broker: BrokerSocket,
    },
    /// Change a VM
    ///
    /// Limits count at once. A name and a UUID of a device are seen when the agent of the guest starts next.
    Set {
        /// What it is called
        name: String,
        /// Take these settings back: the default counts again
        #[arg(long, value_name = "SETTING,…", value_delimiter = ',')]
        reset: Vec<Reset>,
        #[command(flatten)]
        vm: Box<VmArgs>,
        #[command(flatten)]
        broker: BrokerSocket,
    },
    /// Remove a VM: ends its processes, disconnects it and removes the socket
    Remove {
        /// What it is called
        name: String,
        #[command(flatten)]
        broker: BrokerSocket,
    },
    /// Suspend a VM: move its device memory to the host's
    ///
    /// The VM's next call of CUDA brings it back, unless it is held. What it has under way is waited for, for ten seconds at most.
    Suspend {
        /// What it is called
        name: String,
        /// Do not bring it back before `vm resume`: its calls of CUDA wait
        #[arg(long)]
        hold: bool,
        #[command(flatten)]
        broker: BrokerSocket,
    },
    /// Resume a suspended VM; waits for device memory
    Resume {
        /// What it is called
        name: String,
        #[command(flatten)]
        broker: BrokerSocket,
    },
    /// List the VMs
    List {
        #[command(flatten)]
        broker: BrokerSocket,
    },
}

#[derive(Args)]
pub struct StatusArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    broker: BrokerSocket,
}

#[derive(Args)]
pub struct TopArgs {
    /// Print one frame after a second, as text
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    broker: BrokerSocket,
}

impl BrokerSocket {
    fn order(self, action: Action) -> Order {
        Order { socket: self.operator_socket, action }
    }
}

impl VmCommands {
    pub fn order(self) -> Result<Order, ConfigError> {
        Ok(match self {
            VmCommands::Add { name, socket, vm, broker } => {
                settings::check_name(&name)?;
                let socket = std::path::absolute(&socket).unwrap_or(socket);
                let settings = VmSettings { socket: Some(socket), ..vm.one()? };
                broker.order(Action::Add { name, settings })
            }
            VmCommands::Set { name, reset, vm, broker } => {
                settings::check_name(&name)?;
                broker.order(Action::Set { name, reset, settings: vm.one()? })
            }
            VmCommands::Remove { name, broker } => broker.order(Action::Remove { name }),
            VmCommands::Suspend { name, hold, broker } => broker.order(Action::Suspend { name, hold }),
            VmCommands::Resume { name, broker } => broker.order(Action::Resume { name }),
            VmCommands::List { broker } => broker.order(Action::List),
        })
    }
}

impl StatusArgs {
    pub fn order(self) -> Order {
        self.broker.order(Action::Status { json: self.json })
    }
}

impl TopArgs {
    pub fn order(self) -> Order {
        self.broker.order(Action::Top { once: self.once })
    }
}
