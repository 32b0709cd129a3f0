//! What brings the queues: a vhost-user socket (local mode) or a PCI device, behind one trait.

use crate::memory::Rings;
use std::fmt::Debug;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use vgpu_spec::wire::{Range, control::PciAddress};
use vmm_sys_util::eventfd::EventFd;

/// A queue as the agent set it up.
#[derive(Debug)]
pub struct Queue {
    pub rings: Rings,
    /// Signalled by the driver side, non-blocking.
    pub kick: EventFd,
    /// Signalled by the device side, non-blocking; never if the carrier polls.
    pub completion: EventFd,
}

/// The device, brought up: every queue has its memory and runs until [`Carrier::reset`].
pub trait Carrier: Debug + Send + Sync {
    /// How the device is owned, for people.
    fn ownership(&self) -> String;
    /// All queues in use: control, events, then lanes.
    fn queues(&self) -> &[Queue];
    /// Whether EVENT_IDX was negotiated.
    fn event_idx(&self) -> bool;
    /// Whether completions come without a signal.
    fn polling(&self) -> bool;
    /// The device's address in the guest; not present in local mode.
    fn pci_address(&self) -> PciAddress;
    /// Tells the device that queue `index` has new entries.
    fn notify(&self, index: u16);
    /// Why the device is gone, if it is known to be.
    fn lost(&self) -> Option<String>;
    /// Memory for the windows of one client.
    fn client_memory(&self) -> Result<Box<dyn ClientMemory>, MemoryError>;
    /// Stops the device: afterwards it touches no memory of the guest.
    fn reset(&self);
}

/// Where one client's windows come from. Closed only after the broker has closed the client.
pub trait ClientMemory: Debug + Send {
    /// Memory for a window of `len` bytes, a multiple of 2 MiB; it reads as zero.
    fn allocate(&mut self, len: u64) -> Result<Block, MemoryError>;
    /// A file that has the block's memory at its start and can be mapped in units of 4 KiB; `None` if the block's own can.
    fn in_small_pages(&mut self, block: &Block) -> Result<Option<Arc<OwnedFd>>, MemoryError>;
    /// The memory of a window that is `len` bytes of a program's own file from `offset` on.
    fn adopt(&mut self, file: OwnedFd, offset: u64, len: u64) -> Result<Block, MemoryError>;
    /// Takes a window's memory back. The device must not reach it any more.
    fn free(&mut self, block: Block);
    /// Gives everything back.
    fn close(self: Box<Self>);
}

/// The memory of a window.
#[derive(Debug)]
pub struct Block {
    /// What the client maps, from `offset` on.
    pub file: Arc<OwnedFd>,
    pub offset: u64,
    pub len: u64,
    pub extents: Vec<Range>,
}

/// Why there is no memory for a client.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    #[error(
        "allocating {wanted} bytes of window memory: the client's {limit} bytes are used up or too fragmented"
    )]
    Full { wanted: u64, limit: u64 },
    #[error("registering window memory with the broker: {0}")]
    Register(String),
    #[error("creating window memory")]
    Create(#[source] std::io::Error),
    #[error("making huge pages mappable in units of 4 KiB with /dev/udmabuf")]
    SmallPages(#[source] std::io::Error),
    #[error("adopting {len:#x} bytes of a program's file: {why}")]
    Adopt { len: u64, why: String },
    #[error("adopting a program's file: a device in a VM cannot map it")]
    NoAdoption,
    #[error(transparent)]
    HugePages(#[from] crate::device::dma::DmaError),
}
