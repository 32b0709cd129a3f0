//! The virtio 1.x PCI transport (virtio 1.2, section 4.1): registers of the common configuration and the notify area.

use super::access::{Access, AccessError};
use super::capability::{self, CapabilityError, Place};
use crate::memory::Mapping;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Offsets in the common configuration (section 4.1.4.3).
mod register {
    pub const DEVICE_FEATURE_SELECT: usize = 0;
    pub const DEVICE_FEATURE: usize = 4;
    pub const DRIVER_FEATURE_SELECT: usize = 8;
    pub const DRIVER_FEATURE: usize = 12;
    pub const CONFIG_VECTOR: usize = 16;
    pub const NUM_QUEUES: usize = 18;
    pub const STATUS: usize = 20;
    pub const QUEUE_SELECT: usize = 22;
    pub const QUEUE_SIZE: usize = 24;
    pub const QUEUE_VECTOR: usize = 26;
    pub const QUEUE_ENABLE: usize = 28;
    pub const QUEUE_NOTIFY_OFF: usize = 30;
    /// Descriptor table, available ring, used ring: 8 bytes each.
    pub const QUEUE_ADDRESSES: [usize; 3] = [32, 40, 48];
}

/// Device status bits (section 2.1).
pub mod status {
    pub const ACKNOWLEDGE: u8 = 1;
    pub const DRIVER: u8 = 2;
    pub const DRIVER_OK: u8 = 4;
    pub const FEATURES_OK: u8 = 8;
    pub const NEEDS_RESET: u8 = 64;
}

/// No interrupt vector (section 4.1.5.1.2.1).
pub const NO_VECTOR: u16 = 0xffff;
/// PCI command register: memory access, bus master, no INTx.
const COMMAND_BITS: u16 = 0x2 | 0x4 | 0x400;
const COMMAND: usize = 4;
/// A reset may wait for the device process on the host.
const RESET_TIME: Duration = Duration::from_secs(10);

/// Why the device does not come up.
#[derive(Debug, thiserror::Error)]
pub enum VirtioError {
    #[error(transparent)]
    Capability(#[from] CapabilityError),
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error(
        "reading the device's capabilities: a structure lies at {offset:#x}+{len:#x} of BAR {bar}, which has {has:#x} bytes"
    )]
    Outside { bar: u8, offset: u32, len: u32, has: usize },
    #[error("resetting the device: its status is still {status:#x} after {} s; is the broker alive?", RESET_TIME.as_secs())]
    Reset { status: u8 },
    #[error("negotiating features: the device lacks {0}")]
    Lacks(&'static str),
    #[error("negotiating features: the device refuses them; leave iommu_platform=off in QEMU")]
    Refused,
    #[error("setting up queue {queue}: the device does not accept interrupt vector {vector}")]
    Vector { queue: u16, vector: u16 },
    #[error("setting up queue {queue}: its notify register lies outside the notify area")]
    Notify { queue: u16 },
}

/// What a queue gets.
#[derive(Debug, Clone, Copy)]
pub struct QueueSetup {
    pub size: u16,
    /// Guest-physical addresses of descriptor table, available and used ring.
    pub addresses: [u64; 3],
    /// Interrupt vector or [`NO_VECTOR`].
    pub vector: u16,
}

/// A structure in a mapped BAR.
#[derive(Debug)]
struct Structure {
    bar: Arc<Mapping>,
    offset: usize,
    len: usize,
}

/// The device's registers.
#[derive(Debug)]
pub struct VirtioPci {
    common: Structure,
    notify: Structure,
    multiplier: u32,
}

impl VirtioPci {
    /// Enables memory access and DMA, maps the structures and resets the device.
    pub fn new(access: &dyn Access) -> Result<Self, VirtioError> {
        let config = access.read_config()?;
        let capabilities = capability::parse(&config)?;
        let command = u16::from_le_bytes([config[COMMAND], config[COMMAND + 1]]);
        access.write_command(command | COMMAND_BITS)?;
        let common_bar = Arc::new(access.map_bar(capabilities.common.bar)?);
        let notify_bar = if capabilities.notify.bar == capabilities.common.bar {
            common_bar.clone()
        } else {
            Arc::new(access.map_bar(capabilities.notify.bar)?)
        };
        let device = Self {
            common: structure(common_bar, capabilities.common)?,
            notify: structure(notify_bar, capabilities.notify)?,
            multiplier: capabilities.multiplier,
        };
        device.reset()?;
        Ok(device)
    }

    /// Resets the device; afterwards it touches no memory.
    pub fn reset(&self) -> Result<(), VirtioError> {
        self.set_status(0);
        let start = Instant::now();
        while self.status() != 0 {
            if start.elapsed() > RESET_TIME {
                return Err(VirtioError::Reset { status: self.status() });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// The status register; 0xff if the device is gone.
    pub fn status(&self) -> u8 {
        self.get(register::STATUS)
    }

    fn set_status(&self, status: u8) {
        self.set(register::STATUS, status);
    }

    /// Acknowledges the device and agrees on exactly `features`, which it must offer.
    pub fn negotiate(&self, features: &[(u64, &'static str)]) -> Result<(), VirtioError> {
        self.set_status(status::ACKNOWLEDGE);
        self.set_status(status::ACKNOWLEDGE | status::DRIVER);
        let offered = (0..2).fold(0_u64, |sum, half| {
            self.set(register::DEVICE_FEATURE_SELECT, half);
            sum | u64::from(self.get::<u32>(register::DEVICE_FEATURE)) << (32 * half)
        });
        let mut wanted = 0;
        for &(bit, name) in features {
            if offered & bit == 0 {
                return Err(VirtioError::Lacks(name));
            }
            wanted |= bit;
        }
        for half in 0..2_u32 {
            self.set(register::DRIVER_FEATURE_SELECT, half);
            self.set(register::DRIVER_FEATURE, (wanted >> (32 * half)) as u32);
        }
        let ok = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
        self.set_status(ok);
        if self.status() & status::FEATURES_OK == 0 {
            return Err(VirtioError::Refused);
        }
        self.set(register::CONFIG_VECTOR, NO_VECTOR);
        Ok(())
    }

    /// Queues that the device has.
    pub fn queue_count(&self) -> u16 {
        self.get(register::NUM_QUEUES)
    }

    /// The most entries of `queue`; 0 if it is not available.
    pub fn queue_max_size(&self, queue: u16) -> u16 {
        self.set(register::QUEUE_SELECT, queue);
        self.get(register::QUEUE_SIZE)
    }

    /// Sets `queue` up and enables it; returns where its notify register is.
    pub fn start_queue(&self, queue: u16, setup: &QueueSetup) -> Result<usize, VirtioError> {
        self.set(register::QUEUE_SELECT, queue);
        self.set(register::QUEUE_SIZE, setup.size);
        for (offset, address) in register::QUEUE_ADDRESSES.into_iter().zip(setup.addresses) {
            self.set(offset, address as u32);
            self.set(offset + 4, (address >> 32) as u32);
        }
        self.set(register::QUEUE_VECTOR, setup.vector);
        if self.get::<u16>(register::QUEUE_VECTOR) != setup.vector {
            return Err(VirtioError::Vector { queue, vector: setup.vector });
        }
        let units = usize::from(self.get::<u16>(register::QUEUE_NOTIFY_OFF));
        let offset = usize::try_from(self.multiplier).ok().and_then(|size| units.checked_mul(size));
        let offset = offset.filter(|&at| at.is_multiple_of(2) && at < self.notify.len.saturating_sub(1));
        let offset = offset.ok_or(VirtioError::Notify { queue })?;
        self.set(register::QUEUE_ENABLE, 1_u16);
        Ok(self.notify.offset + offset)
    }

    /// Starts the device; queues cannot be set up afterwards.
    pub fn start(&self) {
        self.set_status(status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK);
    }

    /// Kicks `queue`, whose notify register is at `place`.
    pub fn notify(&self, queue: u16, place: usize) {
        self.notify.bar.write_register(place, queue);
    }

    fn get<T: Copy>(&self, register: usize) -> T {
        self.common.bar.read_register(self.common.offset + register)
    }

    fn set<T: Copy>(&self, register: usize, value: T) {
        self.common.bar.write_register(self.common.offset + register, value);
    }
}

fn structure(bar: Arc<Mapping>, place: Place) -> Result<Structure, VirtioError> {
    let (offset, len) = (place.offset as usize, place.len as usize);
    let has = bar.len();
    if !offset.is_multiple_of(8) || offset.checked_add(len).is_none_or(|end| end > has) {
        return Err(VirtioError::Outside { bar: place.bar, offset: place.offset, len: place.len, has });
    }
    Ok(Structure { bar, offset, len })
}
