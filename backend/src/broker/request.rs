//! Requests of the agent, decoded: bytes in, a typed request or a refusal out. Nothing here has a state.
//!
//! SECURITY: the bytes are a private copy. A body has exactly the size of its type, and a count is checked against what follows it.

use vgpu_spec::wire::control::{
    ClientClose, ClientOpen, Hello, LaneAttach, MAX_EXTENTS, RequestHeader, ShareDrop, ShareKeep, WindowMap,
    WindowUnmap, kind, status,
};
use vgpu_spec::wire::reading::ReadingRequest;
use vgpu_spec::wire::{Range, split};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::control::Refusal;

/// A request, its body checked as far as it can be without knowing the VM.
#[derive(Debug)]
pub enum Request {
    Hello(Hello),
    Snapshot,
    ClientOpen(ClientOpen),
    ClientClose(ClientClose),
    LaneAttach(LaneAttach),
    /// With the guest-physical extents of the window.
    WindowMap(WindowMap, Vec<Range>),
    WindowUnmap(WindowUnmap),
    ShareKeep(ShareKeep),
    ShareDrop(ShareDrop),
    Reading(ReadingRequest),
}

impl Request {
    /// Decodes a request. What an agent asks for that has not said HELLO is refused unseen.
    pub fn parse(bytes: &[u8], greeted: bool) -> Result<Self, Refusal> {
        let short = || invalid(format!("a request of {} bytes", bytes.len()));
        let (header, rest) = split::<RequestHeader>(bytes).ok_or_else(short)?;
        let body = rest.get(..header.len as usize).ok_or_else(short)?;
        if header.kind != kind::HELLO && !greeted {
            return Err(invalid("no hello yet".into()));
        }
        Ok(match header.kind {
            kind::HELLO => Request::Hello(exactly(body)?),
            kind::SNAPSHOT if body.is_empty() => Request::Snapshot,
            kind::SNAPSHOT => return Err(invalid("a snapshot request has no body".into())),
            kind::CLIENT_OPEN => Request::ClientOpen(exactly(body)?),
            kind::CLIENT_CLOSE => Request::ClientClose(exactly(body)?),
            kind::LANE_ATTACH => Request::LaneAttach(exactly(body)?),
            kind::WINDOW_MAP => window_map(body)?,
            kind::WINDOW_UNMAP => Request::WindowUnmap(exactly(body)?),
            kind::SHARE_KEEP => Request::ShareKeep(exactly(body)?),
            kind::SHARE_DROP => Request::ShareDrop(exactly(body)?),
            kind::READING => Request::Reading(exactly(body)?),
            other => return Err(Refusal::new(status::UNSUPPORTED, format!("request kind {other}"))),
        })
    }
}

fn invalid(text: String) -> Refusal {
    Refusal::new(status::INVALID, text)
}

/// A body, which must have exactly the size of `T`.
fn exactly<T: FromBytes + KnownLayout + Immutable>(body: &[u8]) -> Result<T, Refusal> {
    T::read_from_bytes(body)
        .map_err(|_| invalid(format!("a body of {} bytes instead of {}", body.len(), size_of::<T>())))
}

fn window_map(body: &[u8]) -> Result<Request, Refusal> {
    let (request, rest) =
        split::<WindowMap>(body).ok_or_else(|| invalid(format!("a window of {} bytes", body.len())))?;
    let extents = request.extents as usize;
    if extents == 0 || extents > MAX_EXTENTS || rest.len() != extents * size_of::<Range>() {
        return Err(invalid(format!("{extents} extents in {} bytes", rest.len())));
    }
    let extents = rest.chunks_exact(size_of::<Range>()).filter_map(|b| Range::read_from_bytes(b).ok());
    Ok(Request::WindowMap(request, extents.collect()))
}
