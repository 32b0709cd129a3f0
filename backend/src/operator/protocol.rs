//! What goes over the operator's socket: one line of JSON asks, one line answers.

use std::io::{BufRead, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::status::Status;
use crate::config::reset::Reset;
use crate::config::settings::VmSettings;

/// Grows when what an older side says could be misunderstood.
pub const VERSION: u32 = 1;
/// Bytes of a request.
pub const MAX_REQUEST: u64 = 64 << 10;
/// Bytes of an answer: a status of all the VMs and clients that there can be fits.
pub const MAX_ANSWER: u64 = 64 << 20;

/// A line.
#[derive(Debug, Serialize, Deserialize)]
struct Line<T> {
    version: u32,
    #[serde(flatten)]
    body: T,
}

/// The part of a line that no version changes.
#[derive(Deserialize)]
struct AnyLine {
    version: u32,
}

/// What is asked.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Request {
    Status,
    Add {
        name: String,
        settings: VmSettings,
    },
    /// What is taken back, then what is said.
    Set {
        name: String,
        reset: Vec<Reset>,
        settings: VmSettings,
    },
    Remove {
        name: String,
    },
    Suspend {
        name: String,
        hold: bool,
    },
    Resume {
        name: String,
    },
}

/// What is answered.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    Done,
    Status { status: Box<Status> },
    Refused { reason: Reason, message: String },
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The two sides' versions differ.
    Version,
    /// It is not a request.
    Malformed,
    /// This user may not ask.
    NotAllowed,
    /// Too many ask at once.
    Busy,
    /// There is no such VM.
    Unknown,
    /// There is such a VM already.
    Exists,
    /// A setting is wrong, or cannot be changed.
    Invalid,
    /// It was tried, and failed.
    Failed,
}

/// A line that is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    #[error("the other side has closed the connection")]
    Closed,
    #[error("reading")]
    Read(#[source] std::io::Error),
    #[error("writing")]
    Write(#[source] std::io::Error),
    #[error("a line is longer than {0} bytes")]
    Long(u64),
    #[error("the other side speaks version {0}, this one {VERSION}: both must be of the same release")]
    Version(u32),
    #[error("a line is malformed")]
    Malformed(#[source] serde_json::Error),
}

/// Reads a line of at most `most` bytes; what follows it stays unread.
pub fn read<T: DeserializeOwned>(from: &mut impl BufRead, most: u64) -> Result<T, ProtocolError> {
    let mut line = Vec::new();
    from.take(most).read_until(b'\n', &mut line).map_err(ProtocolError::Read)?;
    match line.last() {
        None => return Err(ProtocolError::Closed),
        Some(b'\n') => {}
        Some(_) if line.len() as u64 >= most => return Err(ProtocolError::Long(most)),
        Some(_) => return Err(ProtocolError::Closed),
    }
    let AnyLine { version } = serde_json::from_slice(&line).map_err(ProtocolError::Malformed)?;
    if version != VERSION {
        return Err(ProtocolError::Version(version));
    }
    let line: Line<T> = serde_json::from_slice(&line).map_err(ProtocolError::Malformed)?;
    Ok(line.body)
}

/// Writes a line.
pub fn write<T: Serialize>(to: &mut impl Write, body: &T) -> Result<(), ProtocolError> {
    let mut line = serde_json::to_vec(&Line { version: VERSION, body }).map_err(ProtocolError::Malformed)?;
    line.push(b'\n');
    to.write_all(&line).map_err(ProtocolError::Write)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Request, ProtocolError> {
        read(&mut text.as_bytes(), 100)
    }

    #[test]
    fn requests_survive_the_socket() {
        let settings = VmSettings { weight: Some(7), ..VmSettings::default() };
        for request in [
            Request::Status,
            Request::Set { name: "a".into(), reset: vec![Reset::DeviceMemory], settings },
            Request::Remove { name: "a".into() },
        ] {
            let mut bytes = Vec::new();
            write(&mut bytes, &request).unwrap();
            assert_eq!(read::<Request>(&mut bytes.as_slice(), 1000).unwrap(), request);
        }
    }

    #[test]
    fn bad_lines_are_told_apart() {
        assert!(parse("{\"version\":1,\"command\":\"status\"}\n").is_ok());
        assert!(matches!(parse(""), Err(ProtocolError::Closed)));
        assert!(matches!(parse("{\"version\":1"), Err(ProtocolError::Closed)));
        assert!(matches!(parse(&"x".repeat(200)), Err(ProtocolError::Long(100))));
        assert!(matches!(parse("{\"version\":2,\"command\":7}\n"), Err(ProtocolError::Version(2))));
        for text in ["\n", "[]\n", "{}\n", "{\"version\":1}\n", "{\"version\":1,\"command\":\"x\"}\n"] {
            assert!(matches!(parse(text), Err(ProtocolError::Malformed(_))), "{text}");
        }
        let text = "{\"version\":1,\"command\":\"set\",\"name\":\"a\",\"settings\":{\"wieght\":1}}\n";
        assert!(matches!(parse(text), Err(ProtocolError::Malformed(_))));
    }
}
