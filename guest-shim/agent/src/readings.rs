//! Readings of the devices, kept for a moment: however many programs watch, the broker is asked only so often.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How old a reading may be.
const FRESH: Duration = Duration::from_millis(100);

/// The last reading of each device that was asked for, and when it was taken.
type Last = HashMap<u32, (Instant, Arc<[u8]>)>;

#[derive(Debug, Default)]
pub struct Readings(Mutex<Last>);

impl Readings {
    /// The reading of `device`: the last one, or if that is too old what `ask` gives. Errors are not kept.
    pub fn get<E>(&self, device: u32, ask: impl FnOnce() -> Result<Vec<u8>, E>) -> Result<Arc<[u8]>, E> {
        // Held meanwhile: who comes then wants the same, and the control queue takes one request at a time anyway.
        let mut readings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((taken, bytes)) = readings.get(&device)
            && taken.elapsed() < FRESH
        {
            return Ok(Arc::clone(bytes));
        }
        let bytes: Arc<[u8]> = ask()?.into();
        readings.insert(device, (Instant::now(), Arc::clone(&bytes)));
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_reading_is_not_asked_for_again_and_an_error_is_not_kept() {
        let readings = Readings::default();
        assert_eq!(readings.get(0, || Err("no")), Err("no"));
        assert_eq!(readings.get(0, || Ok::<_, ()>(vec![1])).unwrap()[..], [1]);
        assert_eq!(readings.get(0, || Ok::<_, ()>(vec![2])).unwrap()[..], [1]);
        assert_eq!(readings.get(1, || Ok::<_, ()>(vec![3])).unwrap()[..], [3], "of another device");
        std::thread::sleep(FRESH);
        assert_eq!(readings.get(0, || Ok::<_, ()>(vec![4])).unwrap()[..], [4]);
    }
}
