//! What a device does at the moment, and which of the VM's processes use it: what the host's NVML says, for the guest's.
//!
//! Bytes: [`ReadingHeader`], then its figures (each a [`FigureHeader`] and its bytes, padded to 8), then its [`ProcessUse`]s. A figure
//! is the answer of one function of NVML: its code and, one after the other, what it wrote into its outputs.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The most figures of a reading.
pub const MAX_FIGURES: u32 = 1024;
/// The most bytes of a figure.
pub const MAX_FIGURE: u32 = 1024;
/// The most processes of a reading.
pub const MAX_PROCESSES: u32 = 1024;
/// `memory`, `utilization` and `memory_utilization` where the host does not tell them.
pub const UNKNOWN_MEMORY: u64 = u64::MAX;
pub const UNKNOWN_SHARE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ReadingRequest {
    /// Ordinal of the device in the snapshot.
    pub device: u32,
    pub reserved: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ReadingHeader {
    pub figure_count: u32,
    pub process_count: u32,
    /// Bytes of the device that the VM's processes use, or [`UNKNOWN_MEMORY`].
    pub memory_used: u64,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FigureHeader {
    /// [`super::lane::function_id`] of the function of NVML.
    pub function: u32,
    /// Which of its answers: made of its arguments, or 0.
    pub index: u32,
    /// nvmlReturn_t.
    pub status: u32,
    /// Bytes that follow, without the padding; 0 unless the status is 0.
    pub len: u32,
}

/// A process that uses the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ProcessUse {
    /// As the guest numbers it.
    pub pid: u32,
    /// Percent of the time in which its kernels ran, or [`UNKNOWN_SHARE`].
    pub utilization: u32,
    /// Percent of the time in which its kernels used memory, or [`UNKNOWN_SHARE`].
    pub memory_utilization: u32,
    pub reserved: u32,
    /// Bytes, or [`UNKNOWN_MEMORY`].
    pub memory: u64,
}

/// The answer of a function of NVML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figure {
    pub function: u32,
    pub index: u32,
    pub status: u32,
    pub bytes: Vec<u8>,
}

/// A reading, decoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    pub memory_used: u64,
    pub figures: Vec<Figure>,
    pub processes: Vec<ProcessUse>,
}

impl Reading {
    /// What is beyond the limits is left out.
    pub fn encode(&self) -> Vec<u8> {
        let figures = self.figures.iter().filter(|f| f.bytes.len() <= MAX_FIGURE as usize);
        let figures: Vec<&Figure> = figures.take(MAX_FIGURES as usize).collect();
        let processes = self.processes.get(..MAX_PROCESSES as usize).unwrap_or(&self.processes);
        let header = ReadingHeader {
            figure_count: figures.len() as u32,
            process_count: processes.len() as u32,
            memory_used: self.memory_used,
        };
        let mut bytes = header.as_bytes().to_vec();
        for figure in figures {
            let &Figure { function, index, status, .. } = figure;
            let header = FigureHeader { function, index, status, len: figure.bytes.len() as u32 };
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(&figure.bytes);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        bytes.extend_from_slice(processes.as_bytes());
        bytes
    }

    /// Decodes `bytes`; `None` if they are not a reading within the limits.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (header, mut rest) = super::split::<ReadingHeader>(bytes)?;
        if header.figure_count > MAX_FIGURES || header.process_count > MAX_PROCESSES {
            return None;
        }
        let mut figures = Vec::new();
        for _ in 0..header.figure_count {
            let (figure, after) = super::split::<FigureHeader>(rest)?;
            if figure.len > MAX_FIGURE {
                return None;
            }
            let len = figure.len as usize;
            let FigureHeader { function, index, status, .. } = figure;
            figures.push(Figure { function, index, status, bytes: after.get(..len)?.to_vec() });
            rest = after.get(len.next_multiple_of(8)..)?;
        }
        let mut processes = Vec::new();
        for _ in 0..header.process_count {
            let (process, after) = super::split::<ProcessUse>(rest)?;
            processes.push(process);
            rest = after;
        }
        rest.is_empty().then_some(Reading { memory_used: header.memory_used, figures, processes })
    }

    /// The answer `index` of `function`, if it is among the figures.
    pub fn figure(&self, function: &str, index: u32) -> Option<&Figure> {
        let function = super::lane::function_id(function);
        self.figures.iter().find(|f| (f.function, f.index) == (function, index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Reading {
        let figure = |index, bytes: &[u8]| Figure { function: 7, index, status: 0, bytes: bytes.into() };
        let process = ProcessUse {
            pid: 77,
            utilization: 40,
            memory_utilization: UNKNOWN_SHARE,
            reserved: 0,
            memory: 1 << 30,
        };
        Reading {
            memory_used: 3 << 30,
            figures: vec![figure(0, b"abc"), figure(1, &[0; 16]), Figure { status: 3, ..figure(2, &[]) }],
            processes: vec![process, ProcessUse { pid: 78, ..process }],
        }
    }

    #[test]
    fn a_reading_survives_encoding() {
        assert_eq!(Reading::decode(&sample().encode()), Some(sample()));
    }

    #[test]
    fn a_reading_that_is_cut_or_too_long_is_refused() {
        let bytes = sample().encode();
        for len in 0..bytes.len() {
            assert_eq!(Reading::decode(&bytes[..len]), None, "{len} of {} bytes", bytes.len());
        }
        assert_eq!(Reading::decode(&[&bytes[..], &[0; 8]].concat()), None);
    }

    #[test]
    fn counts_and_lengths_beyond_the_limits_are_refused() {
        for (offset, value) in [(0, MAX_FIGURES + 1), (4, MAX_PROCESSES + 1), (16 + 12, MAX_FIGURE + 1)] {
            let mut bytes = sample().encode();
            bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
            bytes.resize(1 << 20, 0);
            assert_eq!(Reading::decode(&bytes), None, "{value} at {offset}");
        }
    }

    #[test]
    fn a_figure_is_found_by_function_and_index() {
        let function = super::super::lane::function_id("nvmlDeviceGetPowerUsage");
        let mut reading = sample();
        reading.figures.push(Figure { function, index: 0, status: 0, bytes: vec![1] });
        assert_eq!(reading.figure("nvmlDeviceGetPowerUsage", 0).map(|f| f.bytes[0]), Some(1));
        assert_eq!(reading.figure("nvmlDeviceGetPowerUsage", 1), None);
        assert_eq!(reading.figure("nvmlDeviceGetTemperature", 0), None);
    }
}
