//! What the devices do at the moment, as the agent says it, kept for a moment: programs ask one figure after the other.

use crate::{
    call::{Out, Text},
    error::{self, NvmlError},
    identity::Device,
    library::Library,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use vgpu_client::{Connection, ConnectionError, Mode};
use vgpu_spec::{nvml::host, wire::reading::Reading};
use zerocopy::FromBytes;

/// How old a reading may be.
const FRESH: Duration = Duration::from_millis(100);

/// Where readings come from, and the last ones.
#[derive(Debug, Default)]
pub struct Readings {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The agent's connection, and the process whose it is: a forked child needs its own.
    connection: Option<(u32, Connection)>,
    last: HashMap<u32, (Instant, Arc<Reading>)>,
}

impl Readings {
    /// Asks over `connection` as long as that works.
    pub fn new(connection: Connection) -> Self {
        let connection = Some((std::process::id(), connection));
        Readings { state: Mutex::new(State { connection, ..State::default() }) }
    }

    fn get(&self, device: u32) -> error::Result<Arc<Reading>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((taken, reading)) = state.last.get(&device)
            && taken.elapsed() < FRESH
        {
            return Ok(Arc::clone(reading));
        }
        let reading = Arc::new(state.ask(device)?);
        state.last.insert(device, (Instant::now(), Arc::clone(&reading)));
        Ok(reading)
    }
}

impl State {
    fn ask(&mut self, device: u32) -> error::Result<Reading> {
        let own = std::process::id();
        if let Some((owner, connection)) = &self.connection
            && *owner == own
        {
            match connection.reading(device) {
                Ok(reading) => return Ok(reading),
                Err(error) => lost(&error)?,
            }
        }
        self.connection = None;
        // The agent may have been started anew meanwhile.
        let connection = Connection::open(Mode::SnapshotOnly).map_err(|_| NvmlError::GpuIsLost)?;
        let reading = connection.reading(device);
        self.connection = Some((own, connection));
        reading.map_err(|error| lost(&error).err().unwrap_or(NvmlError::GpuIsLost))
    }
}

/// Whether asking anew over another connection may help; else what to return.
fn lost(error: &ConnectionError) -> error::Result {
    match error {
        // An older agent or broker does not know the request.
        ConnectionError::Refused { .. } => Err(NvmlError::NotSupported),
        ConnectionError::Timeout { .. } => Err(NvmlError::Timeout),
        _ => Ok(()),
    }
}

/// A figure whose bytes are taken one output after the other.
#[derive(Debug)]
pub struct Outputs {
    bytes: Vec<u8>,
    at: usize,
}

impl Outputs {
    fn take(&mut self, len: usize) -> error::Result<&[u8]> {
        let end = self.at.checked_add(len).ok_or(NvmlError::Unknown)?;
        let bytes = self.bytes.get(self.at..end).ok_or(NvmlError::Unknown)?;
        self.at = end;
        Ok(bytes)
    }

    /// The next output, as a number or structure.
    pub fn read<T: FromBytes>(&mut self) -> error::Result<T> {
        T::read_from_bytes(self.take(size_of::<T>())?).map_err(|_| NvmlError::Unknown)
    }

    /// Writes the next output.
    pub fn value<T: FromBytes>(&mut self, out: Out<T>) -> error::Result {
        out.set(self.read()?);
        Ok(())
    }

    /// Writes the next output, a structure whose version was checked.
    pub fn versioned<T: FromBytes>(&mut self, out: &mut T) -> error::Result {
        *out = self.read()?;
        Ok(())
    }

    /// All numbers of an output of unknown length.
    pub fn numbers(&mut self) -> error::Result<Vec<u32>> {
        let len = self.bytes.len().saturating_sub(self.at);
        let bytes = self.take(len)?;
        Ok(bytes.chunks_exact(4).filter_map(|b| b.try_into().ok().map(u32::from_ne_bytes)).collect())
    }

    /// The only output, as a text.
    pub fn string(&mut self) -> error::Result<&str> {
        let len = self.bytes.len().saturating_sub(self.at);
        std::str::from_utf8(self.take(len)?).map_err(|_| NvmlError::Unknown)
    }

    /// Writes the only output.
    pub fn text(&mut self, out: Text) -> error::Result {
        out.set(self.string()?)
    }
}

impl Library {
    /// What `device` does at the moment.
    pub fn reading(&self, device: &Device) -> error::Result<Arc<Reading>> {
        self.readings.get(device.ordinal)
    }

    /// What the host's NVML answered when it was asked for `function`, its selecting arguments being `selectors`, each with what it is
    /// below.
    pub fn figure(
        &self,
        device: &Device,
        function: &str,
        selectors: &[(u32, u32)],
    ) -> error::Result<Outputs> {
        let index = host::index(selectors).ok_or(NvmlError::InvalidArgument)?;
        self.numbered_figure(device, function, index)
    }

    /// As [`Library::figure`], by the figure's number.
    pub fn numbered_figure(&self, device: &Device, function: &str, index: u32) -> error::Result<Outputs> {
        let reading = self.reading(device)?;
        let figure = reading.figure(function, index).ok_or(NvmlError::NotSupported)?;
        match NvmlError::from_code(figure.status) {
            None => Ok(Outputs { bytes: figure.bytes.clone(), at: 0 }),
            Some(error) => Err(error),
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::{
        call::tests::{output, text_output},
        library::tests::library,
    };
    use vgpu_spec::wire::{lane::function_id, reading::Figure};

    /// The answer `index` of a function.
    pub fn figure(function: &str, index: u32, bytes: &[u8]) -> Figure {
        Figure { function: function_id(function), index, status: 0, bytes: bytes.into() }
    }

    impl Library {
        /// The library with device 0 doing `reading` for ever.
        pub fn with_reading(self, reading: Reading) -> Self {
            // Taken in an hour, it does not age before.
            let taken = Instant::now() + Duration::from_secs(3600);
            self.readings.state.lock().unwrap().last.insert(0, (taken, Arc::new(reading)));
            self
        }
    }

    #[test]
    fn outputs_are_taken_one_after_the_other() {
        let bytes = [&7_u32.to_ne_bytes()[..], &9_u64.to_ne_bytes()].concat();
        let library = library(1)
            .with_reading(Reading { figures: vec![figure("nvmlX", 2, &bytes)], ..Reading::default() });
        let device = &library.devices()[0];
        let mut outputs = library.figure(device, "nvmlX", &[(1, 3), (0, 2)]).unwrap();
        assert_eq!(output(|o| outputs.value::<u32>(o)), Ok(7));
        assert_eq!(output(|o| outputs.value::<u64>(o)), Ok(9));
        assert_eq!(
            output(|o| outputs.value::<u32>(o)),
            Err(NvmlError::Unknown),
            "a figure that is too short"
        );
    }

    #[test]
    fn the_hosts_code_is_passed_on_and_a_figure_that_is_not_there_is_not_supported() {
        let lost = Figure { status: NvmlError::GpuIsLost as u32, ..figure("nvmlX", 0, &[]) };
        let library = library(1).with_reading(Reading { figures: vec![lost], ..Reading::default() });
        let device = &library.devices()[0];
        assert_eq!(library.figure(device, "nvmlX", &[]).err(), Some(NvmlError::GpuIsLost));
        assert_eq!(library.figure(device, "nvmlY", &[]).err(), Some(NvmlError::NotSupported));
        assert_eq!(library.figure(device, "nvmlX", &[(3, 3)]).err(), Some(NvmlError::InvalidArgument));
    }

    #[test]
    fn a_text_needs_room() {
        let library = library(1)
            .with_reading(Reading { figures: vec![figure("nvmlX", 0, b"abc")], ..Reading::default() });
        let text = |capacity| {
            text_output(capacity, |t| library.figure(&library.devices()[0], "nvmlX", &[])?.text(t))
        };
        assert_eq!(text(4), Ok("abc".into()));
        assert_eq!(text(3), Err(NvmlError::InsufficientSize));
    }
}
