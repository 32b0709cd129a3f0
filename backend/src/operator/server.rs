//! The broker's end of the operator's socket.

use std::io::{BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::connections::Connections;
use super::peer;
use super::protocol::{self, Answer, MAX_REQUEST, ProtocolError, Reason, Request};
use crate::broker::socket::{SocketError, listen};
use crate::broker::status::status;
use crate::broker::vms::{Vms, VmsError};
use crate::config::OperatorConfig;
use crate::log::{Limit, chain};

/// Commands at once.
const MAX_CONNECTIONS: usize = 16;
/// For the other side to ask, or to take its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The bound socket. Removed with this.
pub struct Server {
    listener: UnixListener,
    /// To be removed at the end.
    file: Option<File>,
    group: Option<u32>,
}

/// A socket's file, which is removed at the end.
pub struct File(pub PathBuf);

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Server {
    /// Binds the socket, or takes the one that is bound. `None` if there is to be none, or another broker has the usual place.
    pub fn bind(config: &OperatorConfig, bound: Option<UnixListener>) -> Result<Option<Self>, SocketError> {
        let group = config.group;
        if let Some(listener) = bound {
            return Ok(Some(Server { listener, file: None, group }));
        }
        let Some(path) = &config.socket else { return Ok(None) };
        match Self::make(path, config) {
            Ok(listener) => Ok(Some(Server { listener, file: Some(File(path.clone())), group })),
            Err(error) if config.required => Err(error),
            Err(error) => {
                tracing::info!("no socket for the operator: {}", chain(&error));
                Ok(None)
            }
        }
    }

    fn make(path: &Path, config: &OperatorConfig) -> Result<UnixListener, SocketError> {
        let listener = listen(path)?;
        let rights = || {
            if let Some(group) = config.group {
                std::os::unix::fs::chown(path, None, Some(group))?;
            }
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(config.mode))
        };
        let file = File(path.to_owned());
        let hint = "giving it its group and mode";
        rights().map_err(|source| SocketError::Bind { path: path.to_owned(), hint, source })?;
        std::mem::forget(file);
        Ok(listener)
    }

    /// Answers on threads of their own, as long as the process lives.
    pub fn serve(self, vms: Arc<Vms>) -> std::io::Result<Option<File>> {
        let Server { listener, file, group } = self;
        if let Some(File(path)) = &file {
            tracing::info!("the operator's commands are heard at {}", path.display());
        }
        let connections = Connections::default();
        std::thread::Builder::new().name("operator".into()).spawn(move || {
            loop {
                let Ok((stream, _)) = listener.accept() else {
                    // Out of descriptors, for example: not in a busy loop.
                    std::thread::sleep(Duration::from_secs(1));
                    continue;
                };
                let Some(connection) = connections.open(MAX_CONNECTIONS) else {
                    refuse(&stream, Reason::Busy, "too many commands at once");
                    continue;
                };
                let vms = Arc::clone(&vms);
                let body = move || {
                    serve_one(&stream, group, &vms);
                    drop(connection);
                };
                let _ = std::thread::Builder::new().name("command".into()).spawn(body);
            }
        })?;
        Ok(file)
    }
}

fn refuse(mut stream: &UnixStream, reason: Reason, message: &str) {
    let _ = stream.set_write_timeout(Some(Duration::from_millis(100)));
    let _ = protocol::write(&mut stream, &Answer::Refused { reason, message: message.into() });
}

fn serve_one(stream: &UnixStream, group: Option<u32>, vms: &Vms) {
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let _ = stream.set_write_timeout(Some(PATIENCE));
    if !peer::may(stream, group) {
        tracing::warn!("a command of a user who may give none is refused");
        return refuse(stream, Reason::NotAllowed, "only root, the broker's user and its group may ask");
    }
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    let complaints = Limit::new();
    loop {
        let (answer, last) = match protocol::read::<Request>(&mut reader, MAX_REQUEST) {
            Ok(request) => (answer(request, vms), false),
            Err(ProtocolError::Closed | ProtocolError::Read(_) | ProtocolError::Write(_)) => return,
            Err(error) => {
                if complaints.pass().is_some() {
                    tracing::warn!("a command is refused: {}", chain(&error));
                }
                // After a line that is too long, nobody knows where the next begins.
                let last = matches!(error, ProtocolError::Long(_));
                let reason = match error {
                    ProtocolError::Version(_) => Reason::Version,
                    _ => Reason::Malformed,
                };
                (Answer::Refused { reason, message: chain(&error) }, last)
            }
        };
        if protocol::write(&mut writer, &answer).is_err() || writer.flush().is_err() || last {
            return;
        }
    }
}

fn answer(request: Request, vms: &Vms) -> Answer {
    let result = match request {
        Request::Status => return Answer::Status { status: Box::new(status(vms)) },
        Request::Add { name, settings } => {
            settings.vm(&name).map_err(VmsError::from).and_then(|vm| vms.add(&vm))
        }
        Request::Set { name, reset, settings } => vms.set(&name, &reset, &settings),
        Request::Remove { name } => vms.remove(&name),
        Request::Suspend { name, hold } => vms.suspend(&name, hold),
        Request::Resume { name } => vms.resume(&name),
    };
    match result {
        Ok(()) => Answer::Done,
        Err(error) => Answer::Refused { reason: reason(&error), message: chain(&error) },
    }
}

fn reason(error: &VmsError) -> Reason {
    match error {
        VmsError::Exists(_) => Reason::Exists,
        VmsError::Unknown(_) => Reason::Unknown,
        VmsError::TooMany
        | VmsError::Fixed(_)
        | VmsError::Devices { .. }
        | VmsError::Config(_)
        | VmsError::Identity(_) => Reason::Invalid,
        VmsError::Suspend(_)
        | VmsError::Stuck(_)
        | VmsError::Socket(_)
        | VmsError::Thread(_)
        | VmsError::NoSnapshot => Reason::Failed,
    }
}
