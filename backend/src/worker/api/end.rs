//! The end of a wait, told to the program by the device itself.
//!
//! A reply is complete when its header has the message's number (PROTOCOL.md, 9.4). For a wait that ends well there is nothing to say but that:
//! the device writes it, behind the work, into the lane's page, where the program looks. That is half a microsecond sooner than by way of
//! this thread, which would see the device's word, and write the number to a line that the program then has to fetch.
//!
//! SECURITY: what the guest makes of its page is its own affair. This thread looks at a word of its own, which the device writes after that one.

use super::{driver::Driver, stream_memory_operation::Operation};
use std::{
    ffi::c_void,
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering},
};
use vgpu_spec::plain::Blob8;
use vgpu_spec::wire::lane::ReplyHeader;

/// CU_MEMHOSTREGISTER_PORTABLE and CU_MEMHOSTREGISTER_DEVICEMAP.
const FLAGS: u32 = 1 | 2;
/// CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED.
const ALREADY_REGISTERED: u32 = 712;
/// What is registered: the memory page of the header, with which the command area begins.
const PAGE: usize = 4096;
/// Waits before the page is registered, which takes as long as some hundreds of them gain.
const PAYS: u32 = 100;
/// CU_STREAM_MEM_OP_WRITE_VALUE_32.
const WRITE_32: u32 = 2;

/// Where the program looks for the end of a call that it waits for.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// The reply's header, in the lane's page.
    pub header: &'a [AtomicU32; 4],
    /// The message's.
    pub number: u32,
}

/// The same during the call.
#[derive(Debug, Clone, Copy)]
struct Place {
    header: NonNull<[AtomicU32; 4]>,
    number: u32,
}

/// The device's address of a memory page that is registered.
#[derive(Debug, Clone, Copy)]
struct Registered {
    start: usize,
    device: u64,
    /// The session's epoch: a context that ends takes what was registered in it along.
    epoch: u64,
}

/// What a lane thread knows for that.
#[derive(Debug, Default)]
pub struct Ends {
    place: Option<Place>,
    /// The device tells, or has told, the end of the call that is made.
    told: bool,
    registered: Option<Registered>,
    waits: u32,
    /// The driver does not do it.
    off: bool,
}

impl Ends {
    /// A call is about to be made; `end` if it has nothing to say at its end but that.
    #[inline]
    pub fn begin(&mut self, end: Option<End<'_>>) {
        self.place = end.map(|end| Place { header: NonNull::from(end.header), number: end.number });
        self.told = false;
    }

    /// The call is made. Whether the program knows that it went well.
    #[inline]
    pub fn take_told(&mut self) -> bool {
        let place = self.place.take();
        std::mem::take(&mut self.told)
            && place.is_some_and(|place| {
                // SAFETY: the caller of `begin` has the page for as long as the call.
                let header = unsafe { place.header.as_ref() };
                // It is behind the work that was waited for; a guest that has changed it gets it again.
                u32::from_le(header[3].load(Ordering::Acquire)) == place.number
            })
    }

    /// The call did not end as was foreseen.
    pub fn retract(&mut self) {
        self.told = false;
    }

    /// Has the device tell the program, and then write `number` to `word`. False if it does neither.
    pub fn tell(&mut self, driver: &Driver, epoch: u64, stream: u64, (word, number): (u64, u32)) -> bool {
        let Some(place) = self.place else { return false };
        if self.off || self.waits < PAYS {
            self.waits = self.waits.saturating_add(1);
            return false;
        }
        let told = self.try_to_tell(driver, epoch, stream, place, (word, number)).is_some();
        self.told = told;
        self.off |= !told;
        told
    }

    fn try_to_tell(
        &mut self,
        driver: &Driver,
        epoch: u64,
        stream: u64,
        place: Place,
        (word, number): (u64, u32),
    ) -> Option<()> {
        let write = driver.cuStreamBatchMemOp_v2?;
        let page = self.page(driver, place.header.addr().get() / PAGE * PAGE, epoch)?;
        // SAFETY: as in `take_told`.
        let header = unsafe { place.header.as_ref() };
        const { assert!(size_of::<ReplyHeader>() == size_of::<[AtomicU32; 4]>()) };
        // Mostly it is there from the wait before: then the line stays where the program looks at it.
        for (field, value) in header.iter().zip([0, size_of::<ReplyHeader>() as u32, 0].map(u32::to_le)) {
            if field.load(Ordering::Relaxed) != value {
                field.store(value, Ordering::Relaxed);
            }
        }
        let written = header[3].as_ptr().addr() - page.start;
        let mut operations =
            [write_32(page.device + written as u64, place.number.to_le()), write_32(word, number)];
        // SAFETY: a live stream of this client; the first address is in the registered page, which stays until `leave`, the second that of a word
        // of this thread's; a private array that outlives the call.
        let status = unsafe { write(stream, 2, operations.as_mut_ptr(), 0) };
        (status == 0).then_some(())
    }

    /// The registered memory page that begins at `start`.
    fn page(&mut self, driver: &Driver, start: usize, epoch: u64) -> Option<Registered> {
        if let Some(page) = self.registered.filter(|page| page.start == start && page.epoch == epoch) {
            return Some(page);
        }
        let (register, address) = (driver.cuMemHostRegister_v2?, driver.cuMemHostGetDevicePointer_v2?);
        let place = std::ptr::with_exposed_provenance_mut::<c_void>(start);
        let known = self.registered.is_some_and(|page| page.start == start);
        let mut page = Registered { start, device: 0, epoch };
        // SAFETY: a page of the lane's mapping, which stays until `leave`; a place that outlives the call.
        let found = unsafe {
            let status = register(place, PAGE, FLAGS);
            // It did not end with a context.
            (status == 0 || (known && status == ALREADY_REGISTERED))
                && address(&raw mut page.device, place, 0) == 0
        };
        self.registered = Some(page);
        found.then_some(page)
    }

    /// The mapping of the lane's page ends.
    pub fn leave(&mut self, driver: &Driver) {
        if let (Some(page), Some(unregister)) = (self.registered.take(), driver.cuMemHostUnregister) {
            // SAFETY: the driver looks the address up: what ended with its context it does not know any more. What it should know still it refuses
            // to register again.
            unsafe { unregister(std::ptr::with_exposed_provenance_mut(page.start)) };
        }
    }
}

/// CUstreamBatchMemOpParams of a write.
fn write_32(address: u64, value: u32) -> Operation {
    let mut bytes = [0; 48];
    bytes[..4].copy_from_slice(&WRITE_32.to_le_bytes());
    bytes[8..16].copy_from_slice(&address.to_le_bytes());
    bytes[16..20].copy_from_slice(&value.to_le_bytes());
    Blob8(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    const CONTEXT_ENDED: u32 = 201;

    thread_local!(static REGISTERED: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) });

    extern "C" fn register(place: *mut c_void, len: usize, flags: u32) -> u32 {
        assert_eq!((len, flags), (PAGE, FLAGS));
        REGISTERED.with_borrow_mut(|pages| {
            let known = pages.contains(&place.addr());
            pages.extend((!known).then_some(place.addr()));
            if known { ALREADY_REGISTERED } else { 0 }
        })
    }

    extern "C" fn unregister(place: *mut c_void) -> u32 {
        REGISTERED.with_borrow_mut(|pages| match pages.iter().position(|&page| page == place.addr()) {
            Some(at) => {
                pages.remove(at);
                0
            }
            None => CONTEXT_ENDED,
        })
    }

    extern "C" fn address(device: *mut u64, place: *mut c_void, _: u32) -> u32 {
        // SAFETY: a place for the address.
        unsafe { device.write(place.addr() as u64) };
        0
    }

    /// A device that is done at once.
    extern "C" fn write(_: u64, count: u32, list: *mut Operation, _: u32) -> u32 {
        // SAFETY: as many operations as were said.
        let list = unsafe { std::slice::from_raw_parts(list, count as usize) };
        for Blob8(bytes) in list {
            assert_eq!(bytes[..4], WRITE_32.to_le_bytes());
            let place = usize::from_le_bytes(bytes[8..16].try_into().unwrap());
            let value = u32::from_le_bytes(bytes[16..20].try_into().unwrap());
            // SAFETY: the tests' words.
            unsafe { std::ptr::with_exposed_provenance_mut::<u32>(place).write(value) };
        }
        0
    }

    fn driver() -> Driver {
        let mut driver = Driver::none();
        driver.cuMemHostRegister_v2 = Some(register);
        driver.cuMemHostUnregister = Some(unregister);
        driver.cuMemHostGetDevicePointer_v2 = Some(address);
        driver.cuStreamBatchMemOp_v2 = Some(write);
        driver
    }

    /// A lane's header and a thread's word, in a memory page.
    #[repr(align(4096))]
    #[derive(Default)]
    struct Memory {
        header: [AtomicU32; 4],
        word: AtomicU32,
    }

    impl Memory {
        /// A wait for the message of that number; whether the program was told.
        fn wait(&self, ends: &mut Ends, number: u32) -> bool {
            let word = self.word.as_ptr().expose_provenance() as u64;
            self.header[3].as_ptr().expose_provenance();
            ends.begin(Some(End { header: &self.header, number }));
            let told = ends.tell(&driver(), 0, 3, (word, number + 1000));
            assert_eq!(told, self.word.load(Ordering::Relaxed) == number + 1000);
            ends.take_told()
        }

        fn header(&self) -> [u32; 4] {
            self.header.each_ref().map(|field| field.load(Ordering::Relaxed))
        }
    }

    #[test]
    fn the_device_tells_once_it_pays() {
        let (memory, mut ends) = (Memory::default(), Ends::default());
        assert!((0..PAYS).all(|i| !memory.wait(&mut ends, 1 + i)));
        assert_eq!(memory.header(), [0; 4]);
        memory.header[0].store(700, Ordering::Relaxed);
        assert!(memory.wait(&mut ends, 500) && memory.wait(&mut ends, 501));
        assert_eq!(memory.header(), [0, 16, 0, 501]);
        assert_eq!(REGISTERED.with_borrow(Vec::len), 1);
        ends.leave(&driver());
        assert_eq!(REGISTERED.with_borrow(Vec::len), 0);
        assert!(memory.wait(&mut ends, 502), "in another page");
        ends.leave(&driver());
        assert!(!ends.off);
    }

    #[test]
    fn who_was_not_told_gets_a_reply() {
        let (memory, mut ends) = (Memory::default(), Ends { waits: PAYS, ..Ends::default() });
        assert!(memory.wait(&mut ends, 7));
        ends.begin(Some(End { header: &memory.header, number: 8 }));
        assert!(!ends.take_told(), "the device has not been asked");
        ends.begin(Some(End { header: &memory.header, number: 9 }));
        ends.told = true;
        assert!(!ends.take_told(), "another number is there");
        ends.begin(None);
        assert!(!ends.tell(&driver(), 0, 3, (0, 1)) && !ends.off);
        memory.wait(&mut ends, 10);
        ends.told = true;
        ends.retract();
        assert!(!ends.take_told());
        ends.leave(&driver());
    }

    #[test]
    fn a_page_ends_with_its_context_or_is_not_registered_twice() {
        let (memory, mut ends) = (Memory::default(), Ends { waits: PAYS, ..Ends::default() });
        assert!(memory.wait(&mut ends, 7));
        REGISTERED.with_borrow_mut(Vec::clear);
        ends.leave(&driver());
        assert!(memory.wait(&mut ends, 8));
        if let Some(page) = &mut ends.registered {
            page.epoch = 1;
        }
        assert!(memory.wait(&mut ends, 9), "in another context that lives");
        ends.registered = None;
        assert!(!memory.wait(&mut ends, 10) && ends.off, "the driver has it still");
    }
}
