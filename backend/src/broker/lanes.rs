//! Lanes in guest memory: where they lie, and what becomes of them when their worker is gone.
//!
//! SECURITY: everything here reads and writes memory that the guest may change at any time. Indices are read once,
//! loops run at most once per entry of the ring, and every access goes through vm-memory's bounds checks.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{Ordering, fence};

use vgpu_spec::wire::HUGE_PAGE;
use vgpu_spec::wire::lane::{Layout, Status, state};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use zerocopy::{FromBytes, IntoBytes};

use super::ring::RingSettings;

/// Why a lane's page was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LaneError {
    #[error("the page at {0:#x} is not aligned to 2 MiB")]
    Alignment(u64),
    #[error("the page at {0:#x} does not lie in one region of the VM's shared memory")]
    Memory(u64),
    #[error("a queue of {0} entries has no layout")]
    Size(u16),
    #[error("the rings are not where the layout has them in the page at {0:#x}")]
    Rings(u64),
}

/// A lane's place, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LanePage {
    /// Guest-physical address.
    pub page: u64,
    pub layout: Layout,
}

impl LanePage {
    /// Checks that `page` lies in one region and that the ring that the driver set up lies in it as the layout says.
    pub fn check(memory: &GuestMemoryMmap, page: u64, ring: &RingSettings) -> Result<Self, LaneError> {
        if !page.is_multiple_of(HUGE_PAGE) {
            return Err(LaneError::Alignment(page));
        }
        // SECURITY: one region, so that one descriptor and offset name the page, and no arithmetic can overflow below.
        let region = memory.find_region(GuestAddress(page)).ok_or(LaneError::Memory(page))?;
        let offset = page - region.start_addr().0;
        if region.len() - offset < HUGE_PAGE || region.file_offset().is_none() {
            return Err(LaneError::Memory(page));
        }
        let layout = Layout::new(ring.size).ok_or(LaneError::Size(ring.size))?;
        let expected = (page + layout.desc, page + layout.avail, page + layout.used);
        if (ring.desc, ring.avail, ring.used) != expected {
            return Err(LaneError::Rings(page));
        }
        Ok(LanePage { page, layout })
    }

    /// Calls `f` with the descriptor and the offset at which the page can be mapped.
    pub fn with_file<T>(
        &self,
        memory: &GuestMemoryMmap,
        f: impl FnOnce(BorrowedFd<'_>, u64) -> T,
    ) -> Option<T> {
        let region = memory.find_region(GuestAddress(self.page))?;
        let file = region.file_offset()?;
        let offset = file.start().checked_add(self.page - region.start_addr().0)?;
        Some(f(file.file().as_fd(), offset))
    }

    fn at(&self, offset: u64) -> GuestAddress {
        GuestAddress(self.page + offset)
    }

    /// The available index that the driver published.
    pub fn avail_idx(&self, memory: &GuestMemoryMmap) -> Option<u16> {
        memory.load::<u16>(self.at(self.layout.avail + 2), Ordering::Acquire).ok().map(u16::from_le)
    }

    /// The used index in memory. The guest can write it too.
    pub fn used_idx(&self, memory: &GuestMemoryMmap) -> Option<u16> {
        memory.load::<u16>(self.at(self.layout.used + 2), Ordering::Acquire).ok().map(u16::from_le)
    }

    /// Marks the lane as lent: no errors yet.
    pub fn set_attached(&self, memory: &GuestMemoryMmap) {
        let status = Status { state: state::ATTACHED, error_count: 0, error: 0, error_function: 0 };
        let _ = memory.write_slice(status.as_bytes(), self.at(self.layout.status));
        fence(Ordering::Release);
    }

    /// Sets `Status.state` and leaves the errors.
    pub fn set_state(&self, memory: &GuestMemoryMmap, value: u32) {
        let _ = memory.store(value.to_le(), self.at(self.layout.status), Ordering::Release);
    }

    /// Forgets what is outstanding: used index = available index. Returns that index.
    pub fn drain(&self, memory: &GuestMemoryMmap) -> Option<u16> {
        let avail = self.avail_idx(memory)?;
        memory.store(avail.to_le(), self.at(self.layout.used + 2), Ordering::Release).ok()?;
        Some(avail)
    }

    /// Completes every outstanding chain with length 0, so that whoever waits for one wakes up. Returns the index then.
    pub fn complete_all(&self, memory: &GuestMemoryMmap) -> Option<u16> {
        let avail = self.avail_idx(memory)?;
        // A worker serves in order: its used index is the truth about what it finished.
        let used = self.used_idx(memory)?;
        let outstanding = avail.wrapping_sub(used);
        // SECURITY: more than the ring holds is the guest's nonsense; then there is nothing to complete.
        if outstanding <= self.layout.size {
            for i in 0..outstanding {
                self.complete(memory, used.wrapping_add(i))?;
            }
        }
        memory.store(avail.to_le(), self.at(self.layout.used + 2), Ordering::Release).ok()?;
        Some(avail)
    }

    fn complete(&self, memory: &GuestMemoryMmap, index: u16) -> Option<()> {
        let slot = u64::from(index % self.layout.size);
        let mut head = [0_u8; 2];
        memory.read_slice(&mut head, self.at(self.layout.avail + 4 + 2 * slot)).ok()?;
        let mut element = [0_u8; 8];
        element[..2].copy_from_slice(&head);
        memory.write_slice(&element, self.at(self.layout.used + 4 + 8 * slot)).ok()
    }

    /// The lane's status, for tests and logs.
    pub fn status(&self, memory: &GuestMemoryMmap) -> Option<Status> {
        let mut bytes = [0_u8; size_of::<Status>()];
        memory.read_slice(&mut bytes, self.at(self.layout.status)).ok()?;
        Status::read_from_bytes(&bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use vm_memory::FileOffset;

    const BASE: u64 = 4 * HUGE_PAGE;

    fn memory() -> GuestMemoryMmap {
        let fd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(fd);
        file.set_len(2 * HUGE_PAGE).unwrap();
        let len = usize::try_from(2 * HUGE_PAGE).unwrap();
        GuestMemoryMmap::from_ranges_with_files([(GuestAddress(BASE), len, Some(FileOffset::new(file, 0)))])
            .unwrap()
    }

    fn ring(page: u64, size: u16) -> RingSettings {
        let layout = Layout::new(256).unwrap();
        RingSettings {
            size,
            desc: page + layout.desc,
            avail: page + layout.avail,
            used: page + layout.used,
            next_avail: 0,
            event_idx: true,
            running: true,
        }
    }

    fn set_indices(memory: &GuestMemoryMmap, lane: &LanePage, avail: u16, used: u16) {
        memory.store(avail, lane.at(lane.layout.avail + 2), Ordering::Relaxed).unwrap();
        memory.store(used, lane.at(lane.layout.used + 2), Ordering::Relaxed).unwrap();
    }

    #[test]
    fn page_outside_memory_or_off_layout_is_refused() {
        let memory = memory();
        let check = |page, ring: &RingSettings| LanePage::check(&memory, page, ring);
        assert!(check(BASE, &ring(BASE, 256)).is_ok());
        assert_eq!(check(BASE + 4096, &ring(BASE + 4096, 256)), Err(LaneError::Alignment(BASE + 4096)));
        let beyond = BASE + 2 * HUGE_PAGE;
        assert_eq!(check(beyond, &ring(beyond, 256)), Err(LaneError::Memory(beyond)));
        let last = u64::MAX - HUGE_PAGE + 1;
        assert_eq!(check(last, &ring(BASE, 256)), Err(LaneError::Memory(last)));
        assert_eq!(check(BASE, &ring(BASE, 512)), Err(LaneError::Rings(BASE)));
        assert_eq!(check(BASE, &ring(BASE + HUGE_PAGE, 256)), Err(LaneError::Rings(BASE)));
        assert_eq!(check(BASE, &ring(BASE, 255)), Err(LaneError::Size(255)));
    }

    #[test]
    fn lost_lane_completes_what_is_outstanding_over_the_wrap() {
        let memory = memory();
        let lane = LanePage::check(&memory, BASE, &ring(BASE, 256)).unwrap();
        set_indices(&memory, &lane, 2, 65534);
        for (slot, head) in [(254_u64, 7_u16), (255, 8), (0, 9), (1, 300)] {
            memory.write_obj(head, lane.at(lane.layout.avail + 4 + 2 * slot)).unwrap();
        }
        assert_eq!(lane.complete_all(&memory), Some(2));
        assert_eq!(lane.used_idx(&memory), Some(2));
        for (slot, head) in [(254_u64, 7_u32), (255, 8), (0, 9), (1, 300)] {
            let element: [u32; 2] = memory.read_obj(lane.at(lane.layout.used + 4 + 8 * slot)).unwrap();
            assert_eq!(element, [head, 0]);
        }
    }

    #[test]
    fn malicious_indices_complete_nothing() {
        let memory = memory();
        let lane = LanePage::check(&memory, BASE, &ring(BASE, 256)).unwrap();
        set_indices(&memory, &lane, 0x8000, 1);
        memory.write_obj(0xdead_beef_u32, lane.at(lane.layout.used + 4 + 8)).unwrap();
        assert_eq!(lane.complete_all(&memory), Some(0x8000));
        let untouched: u32 = memory.read_obj(lane.at(lane.layout.used + 4 + 8)).unwrap();
        assert_eq!(untouched, 0xdead_beef);
    }
}
