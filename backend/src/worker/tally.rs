//! What a lane has done since it last told the ledger.
//!
//! In plain fields: an atomic operation per message would cost as much as the rest of what a lane does for a launch.

use super::account::Account;
use super::executor::Work;
use crate::ledger::Counter;

/// CUDA_ERROR_NOT_READY: an answer, no failure.
const NOT_READY: u32 = 600;
/// Messages after which the ledger is told in any case.
const MOST: u64 = 64;

#[derive(Debug, Default)]
pub struct Tally {
    messages: u64,
    round_trips: u64,
    errors: u64,
}

impl Tally {
    /// A message was carried out, or refused.
    pub fn message(&mut self, waited_for: bool) {
        self.messages += 1;
        self.round_trips += u64::from(waited_for);
    }

    /// The CUresult of a message.
    pub fn result(&mut self, status: u32) {
        self.errors += u64::from(status != 0 && status != NOT_READY);
    }

    pub fn is_full(&self) -> bool {
        self.messages >= MOST
    }

    /// Tells the ledger, and begins anew. `work`: what the executor has done meanwhile.
    pub fn tell(&mut self, account: &Account, work: impl FnOnce() -> Work) {
        if self.messages == 0 {
            return;
        }
        let Tally { messages, round_trips, errors } = std::mem::take(self);
        let Work { launches, to_device, from_device } = work();
        for (counter, value) in [
            (Counter::Messages, messages),
            (Counter::RoundTrips, round_trips),
            (Counter::Errors, errors),
            (Counter::Launches, launches),
            (Counter::BytesToDevice, to_device),
            (Counter::BytesFromDevice, from_device),
        ] {
            if value > 0 {
                account.add(counter, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Ledger;

    #[test]
    fn the_ledger_is_told_once_of_each_message() {
        let (ledger, _file) = Ledger::new().unwrap();
        let bell = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        let account = Account::new(ledger, 1, bell, std::array::from_fn(|_| 0)).unwrap();
        let mut tally = Tally::default();
        tally.message(false);
        tally.result(0);
        tally.message(true);
        tally.result(700);
        tally.message(true);
        tally.result(NOT_READY);
        tally.tell(&account, || Work { launches: 1, to_device: 5, from_device: 0 });
        tally.tell(&account, || panic!("there is nothing to tell"));
        let slot = account.ledger().slot(1).unwrap();
        let told = [Counter::Messages, Counter::RoundTrips, Counter::Errors, Counter::Launches];
        assert_eq!(told.map(|counter| slot.get(counter)), [3, 2, 1, 1]);
        assert_eq!(slot.get(Counter::BytesToDevice), 5);
        (0..MOST).for_each(|_| tally.message(false));
        assert!(tally.is_full());
    }
}
