//! The operator's commands: asks the broker that runs, and shows what it says.

use std::io::{BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::protocol::{self, Answer, MAX_ANSWER, ProtocolError, Request};
use super::status::Status;
use super::{render, top};
use crate::broker::suspend::COMMAND_TIMEOUT;
use crate::config::reset::Reset;
use crate::config::settings::VmSettings;
use crate::log::chain;

/// For the broker to answer: removing a VM waits for its workers to end.
const PATIENCE: Duration = Duration::from_secs(90);

/// A command, and to which broker it goes.
#[derive(Debug)]
pub struct Order {
    pub socket: PathBuf,
    pub action: Action,
}

/// What is to be done.
#[derive(Debug)]
pub enum Action {
    Add { name: String, settings: VmSettings },
    Set { name: String, reset: Vec<Reset>, settings: VmSettings },
    Remove { name: String },
    Suspend { name: String, hold: bool },
    Resume { name: String },
    List,
    Status { json: bool },
    Top { once: bool },
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("no broker answers at {path}; it is started with --operator-socket {path}")]
    NoBroker { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    #[error("{0}")]
    Refused(String),
    #[error("the broker's answer is none to what was asked")]
    Strange,
    #[error("writing")]
    Output(#[source] std::io::Error),
    #[error("the terminal")]
    Terminal(#[source] std::io::Error),
}

/// A connection to a broker.
pub struct Broker {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Broker {
    pub fn connect(path: &PathBuf) -> Result<Self, CommandError> {
        let connect = || {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok((stream.try_clone()?, stream))
        };
        let (reader, writer) =
            connect().map_err(|source| CommandError::NoBroker { path: path.clone(), source })?;
        Ok(Broker { reader: BufReader::new(reader), writer })
    }

    /// Lets the broker take so long to answer.
    fn wait(&self, time: Duration) -> Result<(), CommandError> {
        self.writer.set_read_timeout(Some(time)).map_err(|e| ProtocolError::Read(e).into())
    }

    fn ask(&mut self, request: &Request) -> Result<Answer, CommandError> {
        // A broker that refuses at once may have closed its end already: what it said counts.
        let sent = protocol::write(&mut self.writer, request);
        match protocol::read(&mut self.reader, MAX_ANSWER) {
            Ok(Answer::Refused { message, .. }) => Err(CommandError::Refused(message)),
            Ok(answer) => Ok(answer),
            Err(error) => Err(sent.err().unwrap_or(error).into()),
        }
    }

    pub fn status(&mut self) -> Result<Status, CommandError> {
        match self.ask(&Request::Status)? {
            Answer::Status { status } => Ok(*status),
            _ => Err(CommandError::Strange),
        }
    }

    fn change(&mut self, request: &Request) -> Result<(), CommandError> {
        match self.ask(request)? {
            Answer::Done => Ok(()),
            _ => Err(CommandError::Strange),
        }
    }
}

/// Does it; the process's exit code.
pub fn run(order: Order) -> ExitCode {
    match execute(order) {
        Ok(()) => ExitCode::SUCCESS,
        // As of `status | head`.
        Err(CommandError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("vgpu-backend: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn execute(order: Order) -> Result<(), CommandError> {
    let mut broker = Broker::connect(&order.socket)?;
    match order.action {
        Action::Add { name, settings } => broker.change(&Request::Add { name, settings }),
        Action::Set { name, reset, settings } => broker.change(&Request::Set { name, reset, settings }),
        Action::Remove { name } => broker.change(&Request::Remove { name }),
        Action::Suspend { name, hold } => {
            broker.wait(COMMAND_TIMEOUT + PATIENCE)?;
            broker.change(&Request::Suspend { name, hold })
        }
        Action::Resume { name } => {
            broker.wait(COMMAND_TIMEOUT + PATIENCE)?;
            broker.change(&Request::Resume { name })
        }
        Action::List => print(&render::list(&broker.status()?)),
        Action::Status { json: false } => print(&render::status(&broker.status()?)),
        Action::Status { json: true } => {
            let text = serde_json::to_string_pretty(&broker.status()?).map_err(ProtocolError::Malformed)?;
            print(&(text + "\n"))
        }
        Action::Top { once } => top::run(broker, once),
    }
}

/// Writes to stdout.
pub fn print(text: &str) -> Result<(), CommandError> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(CommandError::Output)
}
