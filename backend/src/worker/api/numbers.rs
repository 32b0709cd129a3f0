//! Numbers for handles that the driver hands out: graphs, their nodes, and what a node names. The same handle always has the same number.

use super::{
    error::{CudaError, OUT_OF_MEMORY},
    table::Table,
};
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};
use vgpu_spec::handle::{self, Kind, MAX_INDEX, WORKER_INDEX, next_generation};

#[derive(Clone, Copy)]
struct Known {
    number: u64,
    /// The driver's graph with which the handle ends; 0: it ends by itself.
    owner: u64,
    /// The driver's context with which the handle ends; 0: not known.
    context: u64,
}

/// A handle that is being ended.
pub struct Taken {
    real: u64,
    known: Known,
}

struct State {
    known: HashMap<u64, Known>,
    free: Vec<(u32, u16)>,
    next: u32,
}

/// The numbers of one kind, and the table in which they are found.
pub struct Numbers {
    kind: Kind,
    pub table: Table,
    state: Mutex<State>,
}

impl Numbers {
    pub fn new(kind: Kind) -> Self {
        let state = State { known: HashMap::new(), free: Vec::new(), next: WORKER_INDEX };
        Numbers { kind, table: Table::new(kind), state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the driver's handle `real`, which ends with `owner` unless that is 0. NULL is 0.
    pub fn number(&self, real: u64, owner: u64) -> Result<u64, CudaError> {
        self.number_in(real, owner, 0)
    }

    /// As [`Self::number`], for a handle that ends with `context` too.
    pub fn number_in(&self, real: u64, owner: u64, context: u64) -> Result<u64, CudaError> {
        if real == 0 {
            return Ok(0);
        }
        let mut state = self.lock();
        if let Some(known) = state.known.get_mut(&real) {
            if owner != 0 {
                known.owner = owner;
            }
            return Ok(known.number);
        }
        let (index, generation) = match state.free.pop() {
            Some(again) => again,
            None if state.next <= MAX_INDEX => {
                state.next += 1;
                (state.next - 1, 0)
            }
            None => return Err(OUT_OF_MEMORY),
        };
        let number = handle::make(self.kind, index, generation);
        self.table.insert_own(number, real)?;
        state.known.insert(real, Known { number, owner, context });
        Ok(number)
    }

    /// The driver's graph with which `real` ends; 0 if it ends by itself or is not known.
    pub fn owner(&self, real: u64) -> u64 {
        self.lock().known.get(&real).map_or(0, |k| k.owner)
    }

    /// The driver's handle is gone.
    pub fn forget(&self, real: u64) {
        let mut state = self.lock();
        let Some(known) = state.known.remove(&real) else { return };
        let _ = self.table.take(known.number);
        if let Some(parts) = handle::split(known.number) {
            state.free.push((parts.index, next_generation(parts.generation)));
        }
    }

    /// The number of the driver's handle `real`, if it is known.
    pub fn known(&self, real: u64) -> Option<u64> {
        self.lock().known.get(&real).map(|k| k.number)
    }

    /// Takes the driver's handle out while the driver is asked to end it: another thread may be given the same one at once.
    pub fn take(&self, real: u64) -> Option<Taken> {
        let known = self.lock().known.remove(&real)?;
        let _ = self.table.take(known.number);
        Some(Taken { real, known })
    }

    /// The driver ended what was taken: its index can be used again.
    pub fn release(&self, taken: Taken) {
        if let Some(parts) = handle::split(taken.known.number) {
            self.lock().free.push((parts.index, next_generation(parts.generation)));
        }
    }

    /// The driver refused to end what was taken.
    pub fn restore(&self, taken: Taken) -> Result<(), CudaError> {
        self.table.insert_own(taken.known.number, taken.real)?;
        self.lock().known.insert(taken.real, taken.known);
        Ok(())
    }

    /// The driver's handles that end with `context`.
    pub fn of_context(&self, context: u64) -> Vec<u64> {
        self.lock().known.iter().filter(|(_, k)| k.context == context).map(|(&real, _)| real).collect()
    }

    /// The driver's handles that end with `owner`.
    pub fn owned_by(&self, owner: u64) -> Vec<u64> {
        self.lock().known.iter().filter(|(_, k)| k.owner == owner).map(|(&real, _)| real).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_keeps_its_number_until_it_is_gone() {
        let numbers = Numbers::new(Kind::GraphNode);
        let first = numbers.number(0x1000, 7).unwrap();
        assert_eq!(numbers.number(0x1000, 0), Ok(first));
        assert_eq!(numbers.owner(0x1000), 7, "0 does not change the owner");
        assert_eq!(numbers.table.get(first), Ok(0x1000));
        assert!(handle::is_worker_made(handle::split(first).unwrap().index));
        let second = numbers.number(0x2000, 7).unwrap();
        assert_ne!(first, second);
        let mut owned = numbers.owned_by(7);
        owned.sort_unstable();
        assert_eq!(owned, [0x1000, 0x2000]);
        numbers.forget(0x1000);
        assert!(numbers.table.get(first).is_err());
        let third = numbers.number(0x1000, 8).unwrap();
        assert_ne!(third, first, "a stale number is not taken for the new handle");
        assert_eq!(numbers.number(0, 8), Ok(0));
    }

    #[test]
    fn handles_are_found_by_their_context() {
        let numbers = Numbers::new(Kind::Array);
        numbers.number_in(0x1000, 0, 5).unwrap();
        numbers.number_in(0x2000, 0, 6).unwrap();
        numbers.number(0x3000, 0x1000).unwrap();
        assert_eq!(numbers.of_context(5), [0x1000]);
        assert_eq!(numbers.of_context(7), [0; 0]);
    }

    #[test]
    fn a_handle_that_the_driver_keeps_keeps_its_number() {
        let numbers = Numbers::new(Kind::Array);
        let number = numbers.number(0x1000, 0).unwrap();
        let taken = numbers.take(0x1000).unwrap();
        assert!(numbers.take(0x1000).is_none() && numbers.table.get(number).is_err());
        let other = numbers.number(0x1000, 0).unwrap();
        assert_ne!(other, number, "the driver gave the same handle to another thread");
        numbers.forget(0x1000);
        numbers.restore(taken).unwrap();
        assert_eq!(numbers.known(0x1000), Some(number));
        assert_eq!(numbers.table.get(number), Ok(0x1000));
        let taken = numbers.take(0x1000).unwrap();
        numbers.release(taken);
        assert_eq!(numbers.known(0x1000), None);
        assert_ne!(numbers.number(0x1000, 0), Ok(number));
    }
}
