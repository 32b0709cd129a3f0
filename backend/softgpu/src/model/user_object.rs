//! User objects: a function of the program is called when the last reference is gone.

use std::sync::{Arc, Mutex, PoisonError};

use super::graph::HostCall;
use super::handle::{self, Kind};
use super::{CudaError, Result, state};

/// Calls the function when it ends.
#[derive(Debug)]
pub struct Destroyer(HostCall);

impl Drop for Destroyer {
    fn drop(&mut self) {
        self.0.call();
    }
}

/// References of the program's own, which end the handle with the last one.
#[derive(Debug)]
pub struct UserObject {
    own: Mutex<Option<(Arc<Destroyer>, u32)>>,
}

impl UserObject {
    /// An object with `count` references, which the state knows.
    pub fn create(call: HostCall, count: u32) -> Result<u64> {
        let handle = handle::new_handle(Kind::UserObject);
        let object = UserObject { own: Mutex::new(Some((Arc::new(Destroyer(call)), count))) };
        state()?.user_objects.insert(handle, Arc::new(object));
        Ok(handle)
    }

    /// Adds references.
    pub fn retain(&self, count: u32) -> Result {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, references) = own.as_mut().ok_or(CudaError::InvalidValue)?;
        *references = references.checked_add(count).ok_or(CudaError::InvalidValue)?;
        Ok(())
    }

    /// Takes references away; what they kept, for the caller to end.
    pub fn release(&self, count: u32) -> Result<Option<Arc<Destroyer>>> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, references) = own.as_mut().ok_or(CudaError::InvalidValue)?;
        *references = references.checked_sub(count).ok_or(CudaError::InvalidValue)?;
        Ok(if *references == 0 { own.take().map(|(kept, _)| kept) } else { None })
    }

    fn kept(&self) -> Result<Arc<Destroyer>> {
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        own.as_ref().map(|(kept, _)| Arc::clone(kept)).ok_or(CudaError::InvalidValue)
    }
}

/// What a graph keeps: objects by their handles, and how often.
#[derive(Clone, Debug, Default)]
pub struct Objects(Vec<(u64, Arc<Destroyer>, u32)>);

impl Objects {
    /// Adds references of `count` to an object.
    pub fn retain(&mut self, handle: u64, object: &UserObject, count: u32) -> Result {
        let kept = object.kept()?;
        match self.0.iter_mut().find(|(known, ..)| *known == handle) {
            Some((_, _, references)) => *references = references.saturating_add(count),
            None => self.0.push((handle, kept, count)),
        }
        Ok(())
    }

    /// Takes references away; what they kept, for the caller to end.
    pub fn release(&mut self, handle: u64, count: u32) -> Result<Option<Arc<Destroyer>>> {
        let place = self.0.iter().position(|(known, ..)| *known == handle).ok_or(CudaError::InvalidValue)?;
        let references = &mut self.0[place].2;
        *references = references.checked_sub(count).ok_or(CudaError::InvalidValue)?;
        Ok(if *references == 0 { Some(self.0.remove(place).1) } else { None })
    }

    /// All that it keeps.
    pub fn all(&self) -> Vec<Arc<Destroyer>> {
        self.0.iter().map(|(_, kept, _)| Arc::clone(kept)).collect()
    }
}
