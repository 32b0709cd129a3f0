//! This process's mappings, from /proc/self/maps (proc(5)).

use std::path::PathBuf;

/// A mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    pub start: u64,
    pub end: u64,
    pub readable: bool,
    pub writable: bool,
    pub shared: bool,
    /// Where in its file it starts.
    pub offset: u64,
    /// Device and inode of its file; inode 0 for none.
    pub file: (u64, u64),
    /// The main thread's stack.
    pub is_stack: bool,
}

fn parse(line: &str) -> Option<Mapping> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let access = fields.next()?.as_bytes();
    let offset = fields.next()?;
    let (major, minor) = fields.next()?.split_once(':')?;
    let inode = fields.next()?.parse().ok()?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let device = rustix::fs::makedev(u32::try_from(hex(major)?).ok()?, u32::try_from(hex(minor)?).ok()?);
    Some(Mapping {
        start: hex(start)?,
        end: hex(end)?,
        readable: access.first() == Some(&b'r'),
        writable: access.get(1) == Some(&b'w'),
        shared: access.get(3) == Some(&b's'),
        offset: hex(offset)?,
        file: (device, inode),
        is_stack: fields.next() == Some("[stack]"),
    })
}

fn all() -> String {
    std::fs::read("/proc/self/maps")
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

/// The path of a mapping's file. Whether there is still that file is not said.
pub fn path(mapping: &Mapping) -> Option<PathBuf> {
    let all = all();
    let line = all.lines().find(|line| parse(line).as_ref() == Some(mapping))?;
    let path = line.find('/').and_then(|start| line.get(start..))?;
    Some(path.into())
}

/// The mappings that `[address, address + len)` touches, in order.
pub fn touching(address: u64, len: u64) -> Vec<Mapping> {
    let text = all();
    let end = address.saturating_add(len);
    text.lines().filter_map(parse).filter(|m| m.start < end && address < m.end).collect()
}

/// The same, if they cover the range without a gap.
pub fn within(address: u64, len: u64) -> Option<Vec<Mapping>> {
    let found = touching(address, len);
    let mut at = address;
    for mapping in &found {
        if mapping.start > at {
            return None;
        }
        at = mapping.end;
    }
    (at >= address.checked_add(len)?).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_the_kernel_writes_them() {
        let line =
            "7f0000001000-7f0000003000 rw-s 00001000 00:05 4711                       /memfd:vgpu (deleted)";
        let expected = Mapping {
            start: 0x7f00_0000_1000,
            end: 0x7f00_0000_3000,
            readable: true,
            writable: true,
            shared: true,
            offset: 4096,
            file: (rustix::fs::makedev(0, 5), 4711),
            is_stack: false,
        };
        assert_eq!(parse(line), Some(expected));
        let stack = parse("7ffc00000000-7ffc00021000 r--p 00000000 00:00 0   [stack]").unwrap();
        assert!(stack.is_stack && stack.readable && !stack.writable && !stack.shared && stack.file.1 == 0);
        assert_eq!(parse("nonsense"), None);
    }

    #[test]
    fn own_memory_is_within_and_the_first_page_is_not() {
        let bytes = vec![1_u8; 100_000];
        assert!(within(bytes.as_ptr() as u64, 100_000).is_some_and(|m| m[0].writable));
        assert_eq!(within(0, 4096), None);
    }
}
