//! `PROTOCOL.md` and the types agree: every structure has its table there, field by field, and no field is left out.

use std::collections::BTreeMap;
use std::mem::{offset_of, size_of};
use vgpu_spec::wire::control::{self, *};
use vgpu_spec::wire::image::LinkedHeader;
use vgpu_spec::wire::lane::{self, Dependency, MessageHeader, Status};
use vgpu_spec::wire::reading::{FigureHeader, ProcessUse, ReadingHeader, ReadingRequest};
use vgpu_spec::wire::share::{self, Ticket, Token};
use vgpu_spec::wire::snapshot::{self, DeviceRecord, SnapshotHeader};
use vgpu_spec::wire::{self, Range, socket};

const PROTOCOL: &str = include_str!("../PROTOCOL.md");

/// Offset, size, name.
type Row = (usize, usize, String);

/// Bytes of the field that `_get` gives.
fn size_of_field<T, F>(_get: fn(&T) -> &F) -> usize {
    size_of::<F>()
}

macro_rules! structure {
    ($name:literal, $type:ty, $($field:ident),*) => {
        ($name, size_of::<$type>(), vec![$((
            offset_of!($type, $field),
            size_of_field(|value: &$type| &value.$field),
            stringify!($field).to_string(),
        )),*])
    };
}

fn structures() -> Vec<(&'static str, usize, Vec<Row>)> {
    vec![
        structure!("RequestHeader", RequestHeader, kind, len),
        structure!("ReplyHeader", control::ReplyHeader, status, len),
        structure!("Hello", Hello, version, reserved, features, pci),
        structure!("PciAddress", PciAddress, domain, bus, device, function, present),
        structure!("HelloReply", control::HelloReply, version, lanes, clients, features),
        structure!("SnapshotHeader", SnapshotHeader, driver_version, device_count, driver_name),
        structure!(
            "DeviceRecord",
            DeviceRecord,
            name,
            uuid,
            total_memory,
            pci_domain,
            pci_bus,
            pci_device,
            least_priority,
            greatest_priority,
            attribute_count
        ),
        structure!("ClientOpen", ClientOpen, client, pid, uid, reserved, name),
        structure!("ClientOpenReply", ClientOpenReply, device_ranges),
        structure!("Range", Range, base, len),
        structure!("ClientClose", ClientClose, client, reserved),
        structure!("LaneAttach", LaneAttach, client, queue, reserved, page),
        structure!("LaneAttachReply", LaneAttachReply, start, reserved),
        structure!("WindowMap", WindowMap, client, window, address, len, extents, reserved),
        structure!("WindowUnmap", WindowUnmap, client, window),
        structure!("ShareKeep", ShareKeep, client, reserved, token),
        structure!("ShareDrop", ShareDrop, token),
        structure!("LinkedHeader", LinkedHeader, magic, count, reserved),
        structure!("Token", Token, low, high),
        structure!("Ticket", Ticket, magic, token),
        structure!("ReadingRequest", ReadingRequest, device, reserved),
        structure!("ReadingHeader", ReadingHeader, figure_count, process_count, memory_used),
        structure!("FigureHeader", FigureHeader, function, index, status, len),
        structure!("ProcessUse", ProcessUse, pid, utilization, memory_utilization, reserved, memory),
        structure!("Event", Event, kind, client, signal, exit_code),
        structure!("Status", Status, state, error_count, error, error_function),
        structure!(
            "MessageHeader",
            MessageHeader,
            function,
            len,
            thread,
            context,
            dependencies,
            flags,
            number
        ),
        structure!("Dependency", Dependency, lane, reserved, count),
        structure!("LaneReplyHeader", lane::ReplyHeader, status, len, flags, written),
        structure!("SocketRequest", socket::Request, kind, arg2, arg0, arg1),
        structure!("SocketHelloReply", socket::HelloReply, version, reserved, client, pci, device_ranges),
        structure!("LaneReply", socket::LaneReply, queue, size, start, event_idx, polling),
        structure!("WindowReply", socket::WindowReply, window, reserved, offset),
    ]
}

/// The tables of the text: after a line that has "`Name`… , N bytes".
fn tables() -> BTreeMap<String, (usize, Vec<Row>)> {
    let mut tables: BTreeMap<String, (usize, Vec<Row>)> = BTreeMap::new();
    let mut current: Option<String> = None;
    for line in PROTOCOL.lines() {
        if let Some((name, size)) = heading(line) {
            assert!(tables.insert(name.clone(), (size, Vec::new())).is_none(), "{name} has two tables");
            current = Some(name);
        } else if line.starts_with('#') {
            current = None;
        } else if let (Some(name), Some(row)) = (&current, row(line))
            && let Some((_, rows)) = tables.get_mut(name)
        {
            rows.push(row);
        }
    }
    tables
}

/// "`Name` …, N bytes": name and N. What stands before the name does not matter.
fn heading(line: &str) -> Option<(String, usize)> {
    let (before, rest) = line.split_once(" bytes")?;
    let size = before.rsplit_once(", ")?.1.parse().ok()?;
    let ends = rest.starts_with(':') || rest.starts_with(',');
    let name = before.split('`').nth(1)?;
    ends.then(|| (name.to_string(), size))
}

fn row(line: &str) -> Option<Row> {
    let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
    let (offset, size, name) = (cells.next()?, cells.next()?, cells.next()?);
    Some((offset.parse().ok()?, size.parse().ok()?, name.to_string()))
}

#[test]
fn every_structure_has_its_table_field_by_field() {
    let mut tables = tables();
    for (name, size, fields) in structures() {
        let Some((said, rows)) = tables.remove(name) else { panic!("PROTOCOL.md has no table of {name}") };
        assert_eq!(said, size, "bytes of {name}");
        assert_eq!(rows, fields, "fields of {name}");
        let sum: usize = fields.iter().map(|(_, size, _)| size).sum();
        assert_eq!(sum, size, "{name} has padding, or a field that is not listed here");
    }
    assert_eq!(tables.keys().collect::<Vec<_>>(), Vec::<&String>::new(), "tables of no structure");
}

/// Whether the text has a row of a table with these cells first.
fn has_row(cells: &[&str]) -> bool {
    let start = format!("| {} |", cells.join(" | "));
    PROTOCOL.lines().any(|line| line.starts_with(&start))
}

#[test]
fn numbers_of_requests_statuses_and_states_are_in_the_text() {
    use control::{kind, status};
    for (number, name) in [
        (kind::HELLO, "HELLO"),
        (kind::SNAPSHOT, "SNAPSHOT"),
        (kind::CLIENT_OPEN, "CLIENT_OPEN"),
        (kind::CLIENT_CLOSE, "CLIENT_CLOSE"),
        (kind::LANE_ATTACH, "LANE_ATTACH"),
        (kind::WINDOW_MAP, "WINDOW_MAP"),
        (kind::WINDOW_UNMAP, "WINDOW_UNMAP"),
        (kind::SHARE_KEEP, "SHARE_KEEP"),
        (kind::SHARE_DROP, "SHARE_DROP"),
        (kind::READING, "READING"),
        (status::OK, "OK"),
        (status::INVALID, "INVALID"),
        (status::UNSUPPORTED, "UNSUPPORTED"),
        (status::LIMIT, "LIMIT"),
        (status::NO_WORKER, "NO_WORKER"),
        (status::NO_CLIENT, "NO_CLIENT"),
        (status::FAILED, "FAILED"),
        (status::AGAIN, "AGAIN"),
        (socket::kind::LANE, "LANE"),
        (socket::kind::WINDOW_ALLOC, "WINDOW_ALLOC"),
        (socket::kind::WINDOW_FREE, "WINDOW_FREE"),
        (socket::kind::WINDOW_ADOPT, "WINDOW_ADOPT"),
        (socket::kind::SHARE_FD, "SHARE_FD"),
        (socket::kind::READING, "READING"),
    ] {
        assert!(has_row(&[&number.to_string(), name]), "{number} {name}");
    }
    use lane::state;
    let states = format!("{} IDLE: not lent; {} ATTACHED", state::IDLE, state::ATTACHED);
    assert!(PROTOCOL.contains(&states) && PROTOCOL.contains(&format!("; {} LOST", state::LOST)));
    assert!(has_row(&[
        "0",
        "4",
        "kind",
        &format!("{}: WORKER_LOST, the worker of `client` ended by itself", event::WORKER_LOST)
    ]));
}

#[test]
fn limits_and_places_are_in_the_text() {
    assert!(PROTOCOL.contains(&format!("The protocol's version is **{}**", wire::VERSION)));
    let area = format!("[{:#x}, {:#x})", wire::WINDOW_AREA, wire::WINDOW_AREA + wire::WINDOW_AREA_LEN);
    assert!(PROTOCOL.contains(&area), "{area}");
    assert_eq!(control::MAX_REQUEST, control::MAX_REPLY);
    for cells in [
        ["request, reply on the control queue".to_string(), format!("{} bytes each", control::MAX_REQUEST)],
        ["packet on the agent's socket".to_string(), format!("{} bytes", socket::MAX_PACKET)],
        ["message, reply on a lane".to_string(), format!("{} bytes each", lane::MAX_MESSAGE)],
        ["entries of a lane".to_string(), lane::MAX_QUEUE_SIZE.to_string()],
        ["dependencies of a message".to_string(), lane::MAX_DEPENDENCIES.to_string()],
        ["extents of a WINDOW_MAP".to_string(), control::MAX_EXTENTS.to_string()],
        ["handles of a kind".to_string(), vgpu_spec::handle::MAX_INDEX.to_string()],
    ] {
        assert!(has_row(&[&cells[0], &cells[1]]), "{cells:?}");
    }
    assert!(PROTOCOL.contains(&format!("at most {} |", snapshot::MAX_DEVICES)));
    assert!(PROTOCOL.contains(&format!("at most {} |", snapshot::MAX_ATTRIBUTES)));
    assert_eq!(share::TICKET_MAGIC.to_le_bytes(), *b"vgpushar");
    assert!(PROTOCOL.contains("| 0 | 8 | magic | `vgpushar` |"));
    assert!(PROTOCOL.contains(socket::DEFAULT_PATH) && PROTOCOL.contains(socket::PATH_VARIABLE));
}

#[test]
fn layouts_of_the_text_are_those_of_the_code() {
    for size in [64_u16, 256, 1024] {
        let layout = lane::Layout::new(size).unwrap();
        let cells = [u64::from(size), layout.avail, layout.used, layout.status, layout.commands];
        let cells = cells.map(|cell| cell.to_string());
        assert!(has_row(&cells.each_ref().map(String::as_str)), "{cells:?}");
    }
}
