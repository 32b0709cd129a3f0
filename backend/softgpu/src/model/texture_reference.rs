//! Texture references: the older form of textures, variables of modules or objects of their own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::handle::{self, Kind};
use super::texture::{ALIGNMENT, ARRAY, LINEAR, PITCH_ALIGNMENT, PITCH2D, Resource, Sampling, texture};
use super::{CudaError, Result, state};

/// What a reference shows and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What it shows; none before it was set.
    pub resource: Option<Resource>,
    /// How it is read.
    pub sampling: Sampling,
    /// `CUarray_format`.
    pub format: u32,
    /// Channels.
    pub channels: u32,
}

/// A `CUtexref`.
#[derive(Debug)]
pub struct TextureReference {
    handle: u64,
    /// The address of the module's variable; 0 for one of its own.
    variable: u64,
    settings: Mutex<Settings>,
}

impl TextureReference {
    /// The reference of the variable at an address, or one of its own for 0, which the state knows.
    pub fn create(variable: u64) -> Result<Arc<TextureReference>> {
        let handle = handle::new_handle(Kind::TextureReference);
        let sampling = Sampling { address: [1; 3], ..Sampling::default() };
        let settings = Settings { resource: None, sampling, format: 0x20, channels: 1 };
        let reference = Arc::new(TextureReference { handle, variable, settings: Mutex::new(settings) });
        state()?.texture_references.insert(handle, Arc::clone(&reference));
        Ok(reference)
    }

    /// The `CUtexref`.
    pub fn handle(&self) -> u64 {
        self.handle
    }

    /// A copy of its settings.
    pub fn settings(&self) -> Settings {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes settings, which kernels that start later see.
    pub fn change(&self, change: impl FnOnce(&mut Settings) -> Result) -> Result {
        let mut settings = self.lock();
        let mut changed = settings.clone();
        change(&mut changed)?;
        *settings = changed;
        if self.variable == 0 {
            return Ok(());
        }
        let bound = &state()?.bound_textures;
        // What cannot be read shows nothing; the real driver says so no earlier than the kernel.
        match settings.texture() {
            Ok(shown) => bound.insert(self.variable, Arc::new(shown)),
            Err(_) => drop(bound.remove(self.variable)),
        }
        Ok(())
    }

    /// Ends it. A module's variable then shows nothing.
    pub fn forget(&self) -> Result {
        let state = state()?;
        let _ = state.texture_references.remove(self.handle);
        let _ = state.bound_textures.remove(self.variable);
        Ok(())
    }
}

impl Settings {
    fn texture(&self) -> Result<crate::exec::texture::Texture> {
        let resource = self.resource.ok_or(CudaError::InvalidValue)?;
        texture(&resource, &self.sampling, None)
    }

    /// The handle of the array that it shows, if it is of this kind of resource; `INVALID_VALUE` otherwise.
    pub fn array(&self, kind: u32) -> Result<u64> {
        let resource = self.resource.filter(|resource| resource.kind == kind);
        resource.map(|resource| resource.words[0]).ok_or(CudaError::InvalidValue)
    }

    /// The address of the memory that it shows; `INVALID_VALUE` for none.
    pub fn address(&self) -> Result<u64> {
        let resource = self.resource.filter(|resource| matches!(resource.kind, LINEAR | PITCH2D));
        resource.map(|resource| resource.words[0]).ok_or(CudaError::InvalidValue)
    }

    fn format_word(&self) -> u64 {
        u64::from(self.format) | u64::from(self.channels) << 32
    }

    /// Shows an array or, by its kind, a mipmapped one.
    pub fn show_array(&mut self, kind: u32, handle: u64, format: u32, channels: u32) {
        let mut words = [0; 16];
        words[0] = handle;
        debug_assert!(kind == ARRAY || kind == super::texture::MIPMAPPED_ARRAY);
        self.resource = Some(Resource { kind, words, flags: 0 });
        (self.format, self.channels) = (format, channels);
    }

    /// Shows memory without rows, from the aligned address at or below `address`. Returns the bytes between.
    pub fn show_linear(&mut self, address: u64, bytes: u64) -> u64 {
        let offset = address % ALIGNMENT;
        let mut words = [0; 16];
        words[..3].copy_from_slice(&[address - offset, self.format_word(), bytes.saturating_add(offset)]);
        self.resource = (address != 0).then_some(Resource { kind: LINEAR, words, flags: 0 });
        offset
    }

    /// Shows rows of memory.
    pub fn show_rows(&mut self, address: u64, width: u64, height: u64, pitch: u64) -> Result {
        if !address.is_multiple_of(ALIGNMENT) || !pitch.is_multiple_of(PITCH_ALIGNMENT) {
            return Err(CudaError::InvalidValue);
        }
        let mut words = [0; 16];
        words[..5].copy_from_slice(&[address, self.format_word(), width, height, pitch]);
        self.resource = Some(Resource { kind: PITCH2D, words, flags: 0 });
        Ok(())
    }
}
