//! Devices: made-up identities, and the memory that they have left.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::attributes::{self, Value};
use super::context::Context;
use super::{CudaError, Result, usage};

/// The name of every softgpu device.
pub const NAME: &str = "vgpu softgpu (CPU)";
/// Bytes of device memory when `VGPU_SOFTGPU_MEMORY` does not say.
const DEFAULT_MEMORY: u64 = 4 << 30;
/// The most devices that `VGPU_SOFTGPU_DEVICES` can ask for.
const MAX_DEVICES: u32 = 16;
/// Streaming multiprocessors that a device claims, at most.
const MAX_SMS: usize = 8;
/// PCI bus of every device, chosen so that it looks like a virtual machine's own.
const PCI_BUS: u32 = 0;
/// PCI device number of device 0.
const PCI_FIRST_DEVICE: u32 = 0x1f;

/// One device.
#[derive(Debug)]
pub struct Device {
    ordinal: u32,
    number: u32,
    sm_count: u32,
    total: u64,
    used: AtomicU64,
    fault: AtomicU32,
    primary: Mutex<Primary>,
}

/// The primary context and who holds it.
#[derive(Debug, Default)]
pub struct Primary {
    /// The context, while it is active.
    pub context: Option<Arc<Context>>,
    /// The same for as long as the process lives, as the real driver's.
    pub handle: u64,
    /// Retains that have not been released.
    pub references: u32,
    /// Flags for the next activation.
    pub flags: u32,
}

impl Device {
    /// The machine's devices: those that the environment asks for.
    pub fn all_from_environment() -> Vec<Device> {
        let count = number_from("VGPU_SOFTGPU_DEVICES").unwrap_or(1);
        let count = u32::try_from(count).unwrap_or(MAX_DEVICES).min(MAX_DEVICES);
        let total = number_from("VGPU_SOFTGPU_MEMORY").unwrap_or(DEFAULT_MEMORY);
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_SMS));
        let sm_count = u32::try_from(cpus).unwrap_or(1);
        (0..count).map(|number| Device::new(number, sm_count, total)).collect()
    }

    pub(super) fn new(number: u32, sm_count: u32, total: u64) -> Device {
        Device {
            ordinal: number,
            number,
            sm_count,
            total,
            used: AtomicU64::new(0),
            fault: AtomicU32::new(0),
            primary: Mutex::default(),
        }
    }

    /// The device as a process has it that knows it by `ordinal`.
    pub(super) fn numbered(&self, ordinal: u32) -> Device {
        Device { ordinal, ..Device::new(self.number, self.sm_count, self.total) }
    }

    /// The `CUdevice`.
    pub fn ordinal(&self) -> u32 {
        self.ordinal
    }

    /// Which of the machine's devices it is, for all processes the same.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Streaming multiprocessors claimed.
    pub fn sm_count(&self) -> u32 {
        self.sm_count
    }

    /// Bytes of device memory in all.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Bytes of device memory that nothing has taken.
    pub fn free(&self) -> u64 {
        self.total.saturating_sub(self.used.load(Ordering::Relaxed))
    }

    /// Takes `bytes` of the device's memory, or `OUT_OF_MEMORY`.
    pub fn take(&self, bytes: u64) -> Result {
        let take = |used: u64| used.checked_add(bytes).filter(|&used| used <= self.total);
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.map_err(|_| CudaError::OutOfMemory)?;
        usage::take(self.number, bytes);
        Ok(())
    }

    /// Gives `bytes` back.
    pub fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        usage::give_back(self.number, bytes);
    }

    /// Remembers the first fault. It stays until the process ends, as on a real device: a new context answers it too.
    pub fn set_fault(&self, error: CudaError) {
        let _ = self.fault.compare_exchange(0, error.code(), Ordering::AcqRel, Ordering::Acquire);
    }

    /// The first fault, as an error.
    pub fn check_fault(&self) -> Result {
        match self.fault.load(Ordering::Acquire) {
            0 => Ok(()),
            code => Err(CudaError::from_code(code)),
        }
    }

    /// The primary context's record.
    pub fn primary(&self) -> MutexGuard<'_, Primary> {
        self.primary.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to `cuDeviceGetAttribute`.
    pub fn attribute(&self, attribute: u32) -> Result<i32> {
        let unsigned = match attributes::find(attribute).ok_or(CudaError::InvalidValue)? {
            Value::Fixed(value) => return Ok(value),
            Value::Sms => self.sm_count,
            Value::PciDomain => 0,
            Value::PciBus => PCI_BUS,
            Value::PciDevice => self.pci_device(),
        };
        Ok(i32::try_from(unsigned).unwrap_or(i32::MAX))
    }

    fn pci_device(&self) -> u32 {
        PCI_FIRST_DEVICE - self.number
    }

    /// The PCI address as `cuDeviceGetPCIBusId` writes it.
    pub fn pci_bus_id(&self) -> String {
        format!("0000:{PCI_BUS:02X}:{:02X}.0", self.pci_device())
    }

    /// The 16 bytes of the UUID, fixed per number.
    pub fn uuid(&self) -> [u8; 16] {
        let mut uuid = *b"vgpu-softgpu\0\0\0\0";
        let [.., a, b, c, d] = &mut uuid;
        [*a, *b, *c, *d] = self.number.to_be_bytes();
        uuid
    }
}

/// A number from the environment, in bytes or with the suffix K, M or G.
fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = parse_number(text.trim());
    if number.is_none() {
        eprintln!("softgpu: reading {variable}: not a number, ignored: {text:?}");
    }
    number
}

fn parse_number(text: &str) -> Option<u64> {
    let (digits, shift) = match text.char_indices().last()? {
        (at, 'k' | 'K') => (text.get(..at)?, 10),
        (at, 'm' | 'M') => (text.get(..at)?, 20),
        (at, 'g' | 'G') => (text.get(..at)?, 30),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_cannot_be_taken_beyond_the_total() {
        let device = Device::new(0, 1, 1000);
        assert_eq!(device.take(600), Ok(()));
        assert_eq!(device.take(500), Err(CudaError::OutOfMemory));
        assert_eq!(device.take(u64::MAX), Err(CudaError::OutOfMemory));
        device.give_back(600);
        assert_eq!(device.take(1000), Ok(()));
        assert_eq!(device.free(), 0);
    }

    #[test]
    fn devices_differ_in_uuid_and_address() {
        let (first, second) = (Device::new(0, 1, 0), Device::new(1, 1, 0));
        assert_ne!(first.uuid(), second.uuid());
        assert_ne!(first.pci_bus_id(), second.pci_bus_id());
        assert_eq!(first.pci_bus_id(), "0000:00:1F.0");
    }

    #[test]
    fn a_size_may_have_a_suffix() {
        assert_eq!(parse_number("512"), Some(512));
        assert_eq!(parse_number("2G"), Some(2 << 30));
        assert_eq!(parse_number("x"), None);
        assert_eq!(parse_number("99999999999999G"), None);
    }

    #[test]
    fn the_first_fault_stays() {
        let device = Device::new(0, 1, 0);
        assert_eq!(device.check_fault(), Ok(()));
        device.set_fault(CudaError::IllegalAddress);
        device.set_fault(CudaError::LaunchFailed);
        assert_eq!(device.check_fault(), Err(CudaError::IllegalAddress));
    }
}
