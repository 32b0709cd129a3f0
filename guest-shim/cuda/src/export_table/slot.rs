//! How a table is built: its size, its known slots, and a refusal in every other slot.

use std::collections::BTreeSet;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use super::status;

/// One word of a table: a function's address, or the table's size.
pub type Slot = *const c_void;

/// The most slots that a table can have here.
const MOST: usize = 100;

/// A CUuuid.
#[derive(Clone, Copy)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// Reads the usual text form. A constant that is wrong does not compile.
    pub const fn new(text: &str) -> Self {
        let text = text.as_bytes();
        assert!(text.len() == 36);
        let mut bytes = [0; 16];
        let (mut from, mut to) = (0, 0);
        while to < 16 {
            if text[from] == b'-' {
                from += 1;
            }
            bytes[to] = digit(text[from]) << 4 | digit(text[from + 1]);
            from += 2;
            to += 1;
        }
        assert!(from == text.len());
        Self(bytes)
    }

    /// The first four bytes, which name a table in the log.
    pub const fn prefix(self) -> u32 {
        u32::from_be_bytes([self.0[0], self.0[1], self.0[2], self.0[3]])
    }
}

const fn digit(character: u8) -> u8 {
    match character {
        b'0'..=b'9' => character - b'0',
        b'a'..=b'f' => character - b'a' + 10,
        _ => panic!("a hexadecimal digit was expected"),
    }
}

/// A table of `N` words.
#[repr(transparent)]
pub struct Table<const N: usize>([Slot; N]);

// SAFETY: the words are function addresses and sizes that nobody writes to or reads through.
unsafe impl<const N: usize> Sync for Table<N> {}

impl<const N: usize> Table<N> {
    /// A table that starts with its size in bytes. `ID` is the UUID's prefix, `known` the implemented slots.
    pub const fn sized<const ID: u32>(known: &[(usize, Slot)]) -> Self {
        let mut table = Self::starting_with_function::<ID>(known);
        table.0[0] = std::ptr::without_provenance(N * size_of::<Slot>());
        table
    }

    /// A table that starts with a function.
    pub const fn starting_with_function<const ID: u32>(known: &[(usize, Slot)]) -> Self {
        let refusals = refusals::<ID>();
        let mut slots = [std::ptr::null(); N];
        let mut index = 0;
        while index < N {
            slots[index] = refusals[index];
            index += 1;
        }
        let mut next = 0;
        while next < known.len() {
            slots[known[next].0] = known[next].1;
            next += 1;
        }
        Self(slots)
    }

    /// The address that a caller finds in a slot.
    pub fn slot(&self, index: usize) -> Option<Slot> {
        self.0.get(index).copied()
    }
}

/// A table of any length, as a caller gets it.
pub trait Start: Sync {
    fn start(&self) -> *const c_void;
    #[cfg(test)]
    fn words(&self) -> Vec<usize>;
}

impl<const N: usize> Start for Table<N> {
    fn start(&self) -> *const c_void {
        self.0.as_ptr().cast()
    }

    #[cfg(test)]
    fn words(&self) -> Vec<usize> {
        self.0.iter().map(|slot| slot.addr()).collect()
    }
}

/// A slot that is not implemented. Each has an address of its own, so that the log can tell them apart. The
/// arguments are not known and not looked at, which the calling convention allows.
extern "C" fn refuse<const ID: u32, const SLOT: usize>() -> u32 {
    static SEEN: Mutex<BTreeSet<(u32, usize)>> = Mutex::new(BTreeSet::new());
    let first = SEEN.lock().unwrap_or_else(PoisonError::into_inner).insert((ID, SLOT));
    if first {
        super::log(&format!("calling slot {SLOT} of private table {ID:08x}: not supported"));
    }
    status::NOT_SUPPORTED
}

const fn refusals<const ID: u32>() -> [Slot; MOST] {
    macro_rules! rows {
        ($($ten:literal)*) => { [$(
            refuse::<ID, { $ten }> as Slot,
            refuse::<ID, { $ten + 1 }> as Slot,
            refuse::<ID, { $ten + 2 }> as Slot,
            refuse::<ID, { $ten + 3 }> as Slot,
            refuse::<ID, { $ten + 4 }> as Slot,
            refuse::<ID, { $ten + 5 }> as Slot,
            refuse::<ID, { $ten + 6 }> as Slot,
            refuse::<ID, { $ten + 7 }> as Slot,
            refuse::<ID, { $ten + 8 }> as Slot,
            refuse::<ID, { $ten + 9 }> as Slot,
        )*] };
    }
    rows!(0 10 20 30 40 50 60 70 80 90)
}
