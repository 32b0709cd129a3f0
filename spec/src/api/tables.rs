//! The tables beside the description: what the 580 driver exports, what cuGetProcAddress answers, sizes of structures.

use std::collections::{BTreeSet, HashMap};

/// Symbols that the 580 driver exports, one a line.
pub const EXPORTS: &str = include_str!("../../data/driver580_exports.txt");
const PROC_ADDRESS: &str = include_str!("../../data/proc_address.tsv");
const STRUCTS: &str = include_str!("../../api/cuda/types.tsv");
const TESTED: &str = include_str!("../../data/tested.txt");

/// One answer of cuGetProcAddress.
#[derive(Debug, Clone)]
pub struct ProcAddress {
    /// The name asked for.
    pub api: String,
    /// 1000 × major + 10 × minor of the first CUDA version that has it.
    pub since: u32,
    pub symbol: String,
    /// The symbol with flag 2 (per-thread default stream).
    pub per_thread: String,
}

fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()).map(|l| l.split('\t').collect())
}

/// The exported names.
pub fn exports() -> BTreeSet<&'static str> {
    EXPORTS.lines().map(str::trim).filter(|l| !l.is_empty()).collect()
}

/// The answers of cuGetProcAddress, in ascending order of name and version.
pub fn proc_addresses() -> Vec<ProcAddress> {
    let mut all: Vec<ProcAddress> = rows(PROC_ADDRESS)
        .filter_map(|row| match row[..] {
            [api, since, symbol, per_thread] => Some(ProcAddress {
                api: api.into(),
                since: since.parse().ok()?,
                symbol: symbol.into(),
                per_thread: per_thread.into(),
            }),
            _ => None,
        })
        .collect();
    all.sort_by(|a, b| (&a.api, a.since).cmp(&(&b.api, b.since)));
    all
}

/// Bytes and alignment of a C structure.
pub fn struct_layout(name: &str) -> Option<(usize, usize)> {
    let table: HashMap<&str, (usize, usize)> = rows(STRUCTS)
        .filter_map(|row| Some((*row.first()?, (row.get(1)?.parse().ok()?, row.get(2)?.parse().ok()?))))
        .collect();
    table.get(name).copied()
}

/// Symbols that the end-to-end tests call (`./scripts/test` keeps the list true).
pub fn tested() -> BTreeSet<&'static str> {
    TESTED.lines().filter(|l| !l.starts_with('#')).map(str::trim).filter(|l| !l.is_empty()).collect()
}
