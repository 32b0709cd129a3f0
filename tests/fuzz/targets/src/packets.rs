//! What a worker or the monitor says to the broker.

use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use vgpu_backend::broker::sharing::{Request, Shares};
use vgpu_backend::broker::worker_link::first_message;
use vgpu_backend::link::Link;
use vgpu_backend::link::message::{Fetch, Header, Ready, Share, Shared, kind, share_kind};
use vgpu_spec::wire::reading::{Figure, ProcessUse, Reading};
use vgpu_spec::wire::share::Token;
use vgpu_spec::wire::snapshot::{Device, DeviceRecord, Snapshot, SnapshotHeader};
use zerocopy::{FromZeros, IntoBytes};

/// Both ends of a worker's link: a socket for its bytes, and the broker's.
fn link() -> Option<(OwnedFd, Link)> {
    let (theirs, ours) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .ok()?;
    Some((theirs, Link::from_fd(ours)))
}

fn send(socket: &OwnedFd, bytes: &[u8], files: usize) {
    use std::os::fd::AsFd;
    let descriptors = vec![socket.as_fd(); files];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if files > 0 {
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    let parts = [std::io::IoSlice::new(bytes)];
    let _ = rustix::net::sendmsg(socket, &parts, &mut control, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}

/// Packets one after another, each behind its number of files and its length.
pub fn run(bytes: &[u8]) {
    let Some((theirs, link)) = link() else { return };
    let mut shares = Shares::default();
    let mut tokens = vec![Token::default()];
    let mut rest = bytes;
    while let Some(([files, low, high], behind)) = rest.split_first_chunk() {
        let len = usize::from(u16::from_le_bytes([*low, *high])).min(behind.len());
        let (packet, behind) = behind.split_at(len);
        rest = behind;
        if packet.is_empty() {
            continue;
        }
        send(&theirs, packet, usize::from(files % 4));
        let Ok(packet) = link.receive() else { continue };
        let owner = packet.header.seq % 3;
        match Request::parse(packet) {
            Some(Request::Share { kind, shared, file }) => {
                tokens.extend(shares.insert(owner, kind, shared, file).ok());
            }
            Some(Request::Fetch { kind, token }) => {
                assert!(shares.get(token, kind).is_none(), "a guessed token")
            }
            Some(Request::Unshare(token)) => shares.withdraw(owner, token),
            None => {}
        }
        // What the agent may do at any time.
        let token = tokens.get(usize::from(files / 4) % tokens.len()).copied().unwrap_or_default();
        match files % 7 {
            0 => drop(shares.keep(owner, token)),
            1 => drop(shares.drop_kept(token)),
            2 => shares.forget_client(owner),
            _ => {}
        }
    }
}

/// A worker's first message, or a reading.
pub fn run_snapshot(bytes: &[u8]) {
    let Some((which, body)) = bytes.split_first() else { return };
    if which & 1 == 0 {
        if let Some(reading) = Reading::decode(body) {
            let again = Reading::decode(&reading.encode()).map(|again| again.encode());
            assert_eq!(again, Some(reading.encode()), "a reading changes on its way");
        }
        return;
    }
    let Some((theirs, link)) = link() else { return };
    send(&theirs, body, 0);
    drop(theirs);
    if let Ok((_, snapshot)) = first_message(&link) {
        let again = Snapshot::decode(&snapshot.encode()).map(|again| again.encode());
        assert_eq!(again, Some(snapshot.encode()), "a snapshot changes on its way");
    }
}

fn packet(kind: u32, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).unwrap_or(0);
    [Header { kind, seq: 1, status: 0, len }.as_bytes(), body].concat()
}

pub fn seeds() -> Vec<Vec<u8>> {
    let framed = |files: u8, packet: Vec<u8>| {
        let len = u16::try_from(packet.len()).unwrap_or(0).to_le_bytes();
        [&[files][..], &len, &packet].concat()
    };
    let share = |kind| {
        let share = Share { kind, reserved: 0, shared: Shared { tag: 0, data: [3; 64] } };
        packet(kind::SHARE, share.as_bytes())
    };
    let fetch = Fetch { token: Token::default(), kind: share_kind::MEMORY, reserved: 0 };
    let all = [
        framed(0, share(share_kind::MEMORY)),
        framed(0, share(share_kind::EVENT)),
        framed(1, share(share_kind::ALLOCATION)),
        framed(4, packet(kind::FETCH, fetch.as_bytes())),
        framed(8, packet(kind::UNSHARE, Token::default().as_bytes())),
        framed(0, packet(kind::REPLY, &[])),
    ];
    let together = all.concat();
    all.into_iter().chain([together]).collect()
}

pub fn seeds_snapshot() -> Vec<Vec<u8>> {
    let record = DeviceRecord { attribute_count: 4, ..DeviceRecord::new_zeroed() };
    let device = Device { record, attributes: vec![1, 2, 3, 4] };
    let header = SnapshotHeader { device_count: 1, ..SnapshotHeader::new_zeroed() };
    let snapshot = Snapshot { header, devices: vec![device] }.encode();
    let ready = [Ready::new_zeroed().as_bytes(), &snapshot].concat();
    let reading = Reading {
        memory_used: 5,
        figures: Vec::<Figure>::new(),
        processes: vec![ProcessUse::new_zeroed(), ProcessUse::new_zeroed()],
    };
    vec![
        [&[1][..], &packet(kind::READY, &ready)].concat(),
        [&[1][..], &packet(kind::FAILED, b"no driver")].concat(),
        [&[0][..], &reading.encode()].concat(),
    ]
}
