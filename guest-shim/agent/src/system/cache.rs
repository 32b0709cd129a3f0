//! The loader's cache, `/etc/ld.so.cache`, as ldconfig (glibc 2.2 and later) writes it.

use std::path::PathBuf;

/// Begins the format; older systems have it behind another one.
const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const HEADER: usize = 48;
const ENTRY: usize = 24;
/// A 64-bit x86 library for glibc (`FLAG_X8664_LIB64 | FLAG_ELF_LIBC6`).
const X86_64: u32 = 0x0303;

/// A library that the cache knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub soname: String,
    pub path: PathBuf,
}

/// Reads the cache's 64-bit libraries, in the loader's order; none if the bytes are no cache.
pub fn parse(bytes: &[u8]) -> Vec<Entry> {
    let start = bytes.windows(MAGIC.len()).position(|window| window == MAGIC);
    let Some(cache) = start.and_then(|start| bytes.get(start..)) else { return Vec::new() };
    let word = |at: usize| {
        let bytes = cache.get(at..at.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let text = |at: usize| {
        let from = cache.get(at..)?;
        let end = from.iter().position(|&byte| byte == 0)?;
        Some(String::from_utf8_lossy(from.get(..end)?).into_owned())
    };
    let count = word(MAGIC.len()).unwrap_or(0) as usize;
    let entries = (0..count).map_while(|index| {
        let at = index.checked_mul(ENTRY)?.checked_add(HEADER)?;
        Some((word(at)?, text(word(at + 4)? as usize)?, text(word(at + 8)? as usize)?))
    });
    entries
        .filter(|(flags, ..)| flags & 0xffff == X86_64)
        .map(|(_, soname, path)| Entry { soname, path: path.into() })
        .collect()
}

/// A cache with these libraries, for tests.
#[cfg(test)]
pub fn build(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut strings = Vec::new();
    let mut table = Vec::new();
    let base = HEADER + entries.len() * ENTRY;
    let mut place = |text: &str| {
        let at = u32::try_from(base + strings.len()).unwrap();
        strings.extend_from_slice(text.as_bytes());
        strings.push(0);
        at
    };
    for (soname, path) in entries {
        let words = [X86_64, place(soname), place(path), 0, 0, 0];
        table.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }
    let mut bytes = MAGIC.to_vec();
    bytes.extend(u32::try_from(entries.len()).unwrap().to_le_bytes());
    bytes.resize(HEADER, 0);
    [bytes, table, strings].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_in_order_and_bad_bytes_give_none() {
        let bytes = build(&[("libcuda.so.1", "/a/libcuda.so.1"), ("libcuda.so.1", "/b/libcuda.so.1")]);
        let paths: Vec<_> = parse(&bytes).into_iter().map(|entry| entry.path).collect();
        assert_eq!(paths, [PathBuf::from("/a/libcuda.so.1"), PathBuf::from("/b/libcuda.so.1")]);
        for len in 0..bytes.len() {
            assert!(parse(&bytes[..len]).len() < 2);
        }
        let mut many = bytes;
        many[MAGIC.len()..MAGIC.len() + 4].fill(0xff);
        assert!(parse(&many).len() >= 2, "what follows the entries is read as entries, within the bytes");
    }

    #[test]
    fn this_machines_cache_is_read() {
        let bytes = std::fs::read("/etc/ld.so.cache").unwrap();
        assert!(parse(&bytes).iter().any(|entry| entry.soname == "libc.so.6"));
    }
}
