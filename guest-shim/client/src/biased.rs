//! A lock that costs its owner nothing until someone else wants it.
//!
//! A thread's lane is its own: no locked instruction on its path. When lanes run out, another thread revokes the bias: from
//! then on everyone takes the mutex. Owner: say "inside", look at "revoked". Revoker: say "revoked", then membarrier(2), which
//! puts a full barrier into every running thread, then wait until the owner is outside. Either the owner sees "revoked" or the
//! revoker sees "inside". Where membarrier is not available, locks start revoked: a plain mutex.

use rustix::thread::MembarrierCommand;
use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering, compiler_fence};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

pub(crate) struct Biased<T> {
    owner_inside: AtomicBool,
    revoked: AtomicBool,
    mutex: Mutex<()>,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached by one thread at a time: the owner while not revoked, else the holder of the mutex.
unsafe impl<T: Send> Sync for Biased<T> {}

/// Access to the value.
pub(crate) struct Access<'a, T> {
    lock: &'a Biased<T>,
    /// `None`: inside as the owner.
    mutex: Option<MutexGuard<'a, ()>>,
}

impl<T> Biased<T> {
    /// Owned by nobody yet.
    pub fn new(value: T) -> Self {
        let revoked = AtomicBool::new(!membarrier_works());
        Biased {
            owner_inside: AtomicBool::new(false),
            revoked,
            mutex: Mutex::new(()),
            value: UnsafeCell::new(value),
        }
    }

    /// Enters as the owner.
    ///
    /// # Safety
    /// Since the last [`Biased::reset`], at most one thread calls this without having called [`Biased::share`] before; none calls
    /// it while it is inside already.
    #[inline]
    pub unsafe fn enter(&self) -> Access<'_, T> {
        // Who shares must not touch `owner_inside`: the owner may still be inside, and a revoker may be waiting for that.
        if self.revoked.load(Ordering::Acquire) {
            return self.lock();
        }
        self.owner_inside.store(true, Ordering::Relaxed);
        // The revoker's membarrier makes the processor's half of this fence.
        compiler_fence(Ordering::SeqCst);
        if !self.revoked.load(Ordering::Acquire) {
            return Access { lock: self, mutex: None };
        }
        self.owner_inside.store(false, Ordering::Release);
        self.lock()
    }

    /// Ends the owner's privilege, and waits until it is outside. Any thread; must not be inside.
    pub fn share(&self) {
        if self.revoked.load(Ordering::Acquire) {
            return;
        }
        let _held = self.mutex.lock().unwrap_or_else(PoisonError::into_inner);
        self.revoked.store(true, Ordering::SeqCst);
        let barrier = rustix::thread::membarrier(MembarrierCommand::PrivateExpedited);
        debug_assert!(barrier.is_ok(), "registered in membarrier_works");
        while self.owner_inside.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Enters by the mutex, after [`Biased::share`].
    pub fn lock(&self) -> Access<'_, T> {
        let mutex = self.mutex.lock().unwrap_or_else(PoisonError::into_inner);
        Access { lock: self, mutex: Some(mutex) }
    }

    /// Gives the lock to a new owner.
    ///
    /// # Safety
    /// Nobody uses the lock, nor will without being told so after this call.
    pub unsafe fn reset(&self) {
        self.revoked.store(!membarrier_works(), Ordering::Release);
    }

    /// Whether the owner is inside, for choosing among locks.
    pub fn busy(&self) -> bool {
        self.owner_inside.load(Ordering::Relaxed)
    }
}

impl<T> Deref for Access<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: inside (see Biased), so no other thread reaches the value.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Access<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and this access is borrowed mutably.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Access<'_, T> {
    fn drop(&mut self) {
        if self.mutex.is_none() {
            self.lock.owner_inside.store(false, Ordering::Release);
        }
    }
}

/// Registers the process for membarrier, once; whether that worked.
fn membarrier_works() -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    *WORKS.get_or_init(|| {
        rustix::thread::membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok()
            && rustix::thread::membarrier(MembarrierCommand::PrivateExpedited).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn revoking_loses_no_update_of_the_owner() {
        for _ in 0..200 {
            let lock = Arc::new(Biased::new(0_u64));
            let owner = {
                let lock = lock.clone();
                std::thread::spawn(move || {
                    for _ in 0..2000 {
                        // SAFETY: this thread is the only owner.
                        *unsafe { lock.enter() } += 1;
                    }
                })
            };
            lock.share();
            for _ in 0..2000 {
                *lock.lock() += 1;
            }
            owner.join().unwrap();
            assert_eq!(*lock.lock(), 4000);
        }
    }

    #[test]
    fn a_revoker_waits_for_the_owner_to_leave() {
        let lock = Arc::new(Biased::new(0_u64));
        // SAFETY: this thread is the only owner.
        let mut inside = unsafe { lock.enter() };
        let revoker = {
            let lock = lock.clone();
            std::thread::spawn(move || {
                lock.share();
                *lock.lock()
            })
        };
        std::thread::sleep(Duration::from_millis(20));
        *inside = 7;
        drop(inside);
        assert_eq!(revoker.join().unwrap(), 7);
    }
}
