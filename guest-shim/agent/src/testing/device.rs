//! A device in memory, for tests.

use crate::memory::{Page, Rings};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use vgpu_spec::wire::lane::Layout;

/// Rings of `size` entries in a page of their own at guest-physical address 2 MiB.
pub fn rings(size: u16) -> Rings {
    let page = Arc::new(Page::sparse("test", 2 << 20).unwrap());
    Rings { page, base: 0, layout: Layout::new(size).unwrap() }
}

/// A chain as the device finds it.
#[derive(Debug)]
pub struct Chain {
    pub head: u16,
    /// Address, length, device-writable.
    pub buffers: Vec<(u64, u32, bool)>,
}

/// The device's side of a queue, written apart from the driver's: plain offsets of virtio 1.2, section 2.7.
#[derive(Debug)]
pub struct MockDevice {
    rings: Rings,
    next: u16,
    used: u16,
}

impl MockDevice {
    pub fn new(rings: &Rings) -> Self {
        Self { rings: rings.clone(), next: 0, used: 0 }
    }

    fn offset(&self, part: u64, at: u64) -> usize {
        usize::try_from(self.rings.base + part + at).unwrap()
    }

    pub fn take(&mut self) -> Option<Chain> {
        let (layout, memory) = (self.rings.layout, &self.rings.page.mapping);
        if self.rings.avail_index().load(SeqCst) == self.next {
            return None;
        }
        let slot = u64::from(self.next % layout.size);
        self.next = self.next.wrapping_add(1);
        let head = memory.u16(self.offset(layout.avail, 4 + 2 * slot)).load(SeqCst);
        let mut buffers = Vec::new();
        let mut id = head;
        loop {
            let at = self.offset(layout.desc, 16 * u64::from(id));
            let flags = memory.u16(at + 12).load(SeqCst);
            buffers.push((memory.u64(at).load(SeqCst), memory.u32(at + 8).load(SeqCst), flags & 2 != 0));
            if flags & 1 == 0 {
                break;
            }
            id = memory.u16(at + 14).load(SeqCst);
        }
        Some(Chain { head, buffers })
    }

    pub fn complete(&mut self, head: u16, len: u32) {
        let (layout, memory) = (self.rings.layout, &self.rings.page.mapping);
        let at = self.offset(layout.used, 4 + 8 * u64::from(self.used % layout.size));
        memory.u32(at).store(u32::from(head), SeqCst);
        memory.u32(at + 4).store(len, SeqCst);
        self.used = self.used.wrapping_add(1);
        self.rings.used_index().store(self.used, SeqCst);
    }

    pub fn set_avail_event(&self, event: u16) {
        let size = u64::from(self.rings.layout.size);
        let at = self.offset(self.rings.layout.used, 4 + 8 * size);
        self.rings.page.mapping.u16(at).store(event, SeqCst);
    }

    pub fn used_event(&self) -> u16 {
        let size = u64::from(self.rings.layout.size);
        self.rings.page.mapping.u16(self.offset(self.rings.layout.avail, 4 + 2 * size)).load(SeqCst)
    }
}
