//! One client's window memory in a VM: huge pages.

use super::access::Access;
use super::dma::{HugeBlock, HugePages};
use super::udmabuf;
use crate::carrier::{Block, ClientMemory, MemoryError};
use crate::extent;
use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use vgpu_spec::wire::{HUGE_PAGE, Range};

/// What keeps a window's pages where they are.
#[derive(Debug)]
struct Held {
    file: Arc<OwnedFd>,
    extents: Vec<Range>,
    /// Pins the pages together with the file: the device was told their addresses.
    _mapping: crate::memory::Mapping,
}

/// A client's windows, each with huge pages of its own.
#[derive(Debug)]
pub struct PciMemory {
    pages: Arc<HugePages>,
    access: Arc<dyn Access>,
    held: HashMap<RawFd, Held>,
}

impl PciMemory {
    pub fn new(pages: Arc<HugePages>, access: Arc<dyn Access>) -> Self {
        Self { pages, access, held: HashMap::new() }
    }
}

impl ClientMemory for PciMemory {
    fn allocate(&mut self, len: u64) -> Result<Block, MemoryError> {
        let HugeBlock { file, mapping, addresses } = self.pages.allocate("vgpu-window", len / HUGE_PAGE)?;
        let extents = extent::merge(addresses, HUGE_PAGE);
        self.access
            .map_dma(&extents, &mapping)
            .map_err(|error| MemoryError::Create(std::io::Error::other(crate::error::chain(&error))))?;
        let file = Arc::new(file);
        let held = Held { file: file.clone(), extents: extents.clone(), _mapping: mapping };
        self.held.insert(file.as_raw_fd(), held);
        Ok(Block { file, offset: 0, len, extents })
    }

    fn in_small_pages(&mut self, block: &Block) -> Result<Option<Arc<OwnedFd>>, MemoryError> {
        let shared = udmabuf::share(&block.file, block.len).map_err(MemoryError::SmallPages)?;
        Ok(Some(Arc::new(shared)))
    }

    /// Pages of files are small, and move: the device could not be told where they are.
    fn adopt(&mut self, _: OwnedFd, _: u64, _: u64) -> Result<Block, MemoryError> {
        Err(MemoryError::NoAdoption)
    }

    fn free(&mut self, block: Block) {
        if let Some(held) = self.held.remove(&block.file.as_raw_fd()) {
            self.access.unmap_dma(&held.extents);
            drop(held.file);
        }
    }

    fn close(self: Box<Self>) {
        for held in self.held.values() {
            self.access.unmap_dma(&held.extents);
        }
    }
}
