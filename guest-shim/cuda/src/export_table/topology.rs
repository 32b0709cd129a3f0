//! Topology: which TPC belongs to which GPC. cuBLASLt (12.8 and later) crashes if the table is absent, and falls
//! back to a general heuristic if the map can't be had, which is the case here.

use super::slot::{Slot, Table, Uuid};
use super::status;

pub const ID: Uuid = Uuid::new("1734dc26-800d-4745-8726-c0f1e7dd8bca");

pub static TABLE: Table<17> = Table::sized::<{ ID.prefix() }>(&[(13, free as Slot)]);

/// Frees a map, of which none has been handed out.
extern "C" fn free() -> u32 {
    status::SUCCESS
}
