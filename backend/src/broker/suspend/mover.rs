//! Moving a VM off its devices and back: all of its workers or none.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::checkpointer::{CheckpointError, Checkpointer, DriverState};
use crate::broker::presence::Place;
use crate::broker::tenant::Tenant;
use crate::broker::worker_link::Worker;
use crate::config::Config;
use crate::log::chain;

/// For a request to a worker that needs the driver to end: as long as the broker waits for one.
const USE_TIMEOUT: Duration = Duration::from_secs(35);

/// Why a VM was not moved.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    #[error("vm {0}: a window is being mapped")]
    Busy(String),
    #[error("vm {name} goes on")]
    Leave { name: String, source: CheckpointError },
    #[error("vm {name} stays suspended: there is not enough device memory")]
    Full { name: String, source: CheckpointError },
}

pub struct Mover {
    checkpointer: Checkpointer,
}

impl Mover {
    pub fn new(config: Config) -> Self {
        Mover { checkpointer: Checkpointer::new(config) }
    }

    /// Moves a VM off. `free` tells how much memory devices have free. On failure the VM goes on as before.
    pub fn leave(
        &mut self,
        tenant: &Tenant,
        hold: bool,
        free: impl Fn() -> Vec<u64>,
    ) -> Result<(), MoveError> {
        let (name, accounts) = (&tenant.name, &tenant.accounts);
        self.checkpointer.start().map_err(|source| MoveError::Leave { name: name.clone(), source })?;
        if !accounts.leave(USE_TIMEOUT) {
            return Err(MoveError::Busy(name.clone()));
        }
        let before = free();
        // A client that comes from now on has a worker that has done nothing yet, and does not get to.
        let workers: Vec<_> = accounts.clients().into_iter().map(|(_, worker)| worker).collect();
        let moved =
            self.all(&workers, Checkpointer::lock).and_then(|locked| self.all(&locked, Checkpointer::save));
        match moved {
            Ok(saved) => {
                let after = free();
                let mut state = accounts.presence().state();
                // What others did meanwhile blurs that, so what is counted is a lower bound.
                let devices = tenant.devices_in_use();
                let needs = |((ordinal, after), before): ((u32, &u64), &u64)| {
                    if !devices.has(ordinal) {
                        return 0;
                    }
                    let used =
                        accounts.ledger().device(ordinal).map_or(0, |d| d.used.load(Ordering::Relaxed));
                    after.saturating_sub(*before).max(used)
                };
                state.needs = (0_u32..).zip(&after).zip(&before).map(needs).collect();
                (state.saved, state.failure) = (saved, None);
                drop(state);
                accounts.put(Place::Away { hold });
                Ok(())
            }
            Err(source) => {
                workers.iter().for_each(|worker| self.put_back(worker));
                accounts.put(Place::Here);
                Err(MoveError::Leave { name: name.clone(), source })
            }
        }
    }

    /// Does something to each worker; those that live after it. One that has died is no failure.
    fn all(
        &mut self,
        workers: &[Arc<Worker>],
        step: fn(&mut Checkpointer, &Worker) -> Result<(), CheckpointError>,
    ) -> Result<Vec<Arc<Worker>>, CheckpointError> {
        let mut done = Vec::new();
        for worker in workers {
            match step(&mut self.checkpointer, worker) {
                Ok(()) => done.push(Arc::clone(worker)),
                // Its exit is seen a little later than by the driver.
                Err(_) if worker.wait_ended(Duration::from_millis(100)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Has a worker go on, whatever became of it. One that cannot is ended: its client is told, rather than waits for ever.
    fn put_back(&mut self, worker: &Worker) {
        let result = self.checkpointer.state(worker).and_then(|state| match state {
            DriverState::Running => Ok(()),
            DriverState::Locked => self.checkpointer.unlock(worker),
            DriverState::Checkpointed => {
                self.checkpointer.restore(worker)?;
                self.checkpointer.unlock(worker)
            }
            DriverState::Failed => Err(CheckpointError::Refused {
                what: "looking at",
                pid: worker.pid,
                code: 0,
                text: "the driver says that it failed".into(),
            }),
        });
        if let Err(error) = result {
            self.lose(worker, &error);
        }
    }

    fn lose(&self, worker: &Worker, error: &CheckpointError) {
        if worker.is_alive() {
            tracing::error!(pid = worker.pid, "a worker cannot go on and is killed: {}", chain(error));
            worker.kill();
        }
    }

    /// Moves a VM back. If a device has no room for it, it stays away.
    pub fn come_back(&mut self, tenant: &Tenant) -> Result<(), MoveError> {
        let accounts = &tenant.accounts;
        let place = accounts.presence().place();
        let saved = accounts.presence().state().saved.clone();
        accounts.put(Place::Returning);
        let mut restored: Vec<&Arc<Worker>> = Vec::new();
        for worker in &saved {
            match self.checkpointer.restore(worker) {
                Ok(()) => restored.push(worker),
                Err(_) if worker.wait_ended(Duration::from_millis(100)) => {}
                Err(error) if error.is_full() && self.is_away(worker) => {
                    for worker in restored {
                        if let Err(error) = self.checkpointer.save(worker) {
                            self.lose(worker, &error);
                        }
                    }
                    accounts.put(place);
                    return Err(MoveError::Full { name: tenant.name.clone(), source: error });
                }
                Err(error) => self.lose(worker, &error),
            }
        }
        for worker in restored {
            if let Err(error) = self.checkpointer.unlock(worker) {
                self.lose(worker, &error);
            }
        }
        accounts.put(Place::Here);
        Ok(())
    }

    fn is_away(&mut self, worker: &Worker) -> bool {
        self.checkpointer.state(worker).is_ok_and(|state| state == DriverState::Checkpointed)
    }
}
