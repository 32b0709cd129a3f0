//! Copies of pageable memory in graphs: what a launch copies is read, or written, when it gets there.
//!
//! The device copies from or to a block of a window. Before it reads one, a callback brings the program's rows there; after it has
//! written one, a callback takes them out (the worker adds both to the graph). The blocks end with the last graph that has the copy.

use crate::{
    callback, calls, capture, client,
    copy_place::{Extent, Rows},
    copy_strided::{Sides, blob, pack, sides},
    error,
};
use std::{
    collections::{BTreeMap, HashMap},
    ffi::c_void,
    sync::{Mutex, PoisonError},
};
use vgpu_spec::{
    plain::Blob8,
    structure::{Memcpy3D, Memcpy3DSide, memory_type},
};

/// Blocks of executable graphs that are out of use and kept until the device is waited for.
const MOST_RETIRED: usize = 32;

/// One side of a copy that is not in a window, and its block.
struct Move {
    window: u64,
    outside: Rows,
    extent: Extent,
    into_window: bool,
}

impl Move {
    fn run(&self) {
        let plane_len = self.extent.width * self.extent.height;
        for plane in 0..self.extent.depth {
            let block = self.window + (plane * plane_len) as u64;
            // SAFETY: the program's memory, which it promised to the graph's launches; the block has room for all planes.
            unsafe {
                let (width, height) = (self.extent.width, self.extent.height);
                pack(self.outside, block, (0, 0, plane), width, height, self.into_window);
            }
        }
    }
}

/// Calls a [`Move`].
unsafe extern "C" fn run(argument: *mut c_void) {
    // SAFETY: registered with a `Move`, which lives until no graph has the callback.
    unsafe { &*argument.cast::<Move>() }.run();
}

/// The moves of one copy, with their callbacks' numbers.
#[derive(Default)]
struct Moves(Vec<(u64, Box<Move>)>);

impl Moves {
    fn end(self) {
        for (number, moved) in self.0 {
            callback::forget(number);
            SIDES.lock().unwrap_or_else(PoisonError::into_inner).remove(&moved.window);
            if let Ok(client) = client::get() {
                client.heap.free(moved.window);
            }
        }
    }
}

/// No graph has the copy any more.
unsafe extern "C" fn release(argument: *mut c_void) {
    // SAFETY: registered once with this, and called once.
    unsafe { Box::from_raw(argument.cast::<Moves>()) }.end();
}

/// Blocks in use, and the sides that the program gave.
static SIDES: Mutex<BTreeMap<u64, Memcpy3DSide>> = Mutex::new(BTreeMap::new());

/// The side that the program gave for one that the driver names.
fn given(side: Memcpy3DSide) -> Memcpy3DSide {
    let known = SIDES.lock().unwrap_or_else(PoisonError::into_inner).get(&side.host).copied();
    if side.kind == memory_type::HOST { known.unwrap_or(side) } else { side }
}

/// The copy that the program gave for one that the driver describes.
pub fn as_given(copy: &Memcpy3D) -> Memcpy3D {
    Memcpy3D { src: given(copy.src), dst: given(copy.dst), ..*copy }
}

/// A copy that can be sent, and what is needed for its pageable sides.
pub struct Prepared {
    copy: Memcpy3D,
    before: u64,
    after: u64,
    moves: Moves,
}

impl Prepared {
    /// # Errors
    /// As the driver for a description that is wrong; CUDA_ERROR_OUT_OF_MEMORY without a block for a pageable side.
    pub fn new(wanted: &Memcpy3D) -> error::Result<Self> {
        let Sides { copy, pageable, extent } = sides(wanted)?;
        let mut prepared = Prepared { copy, before: 0, after: 0, moves: Moves::default() };
        let [src, dst] = pageable;
        for (outside, into_window) in [(src, true), (dst, false)] {
            if let Some(outside) = outside
                && let Err(status) = prepared.stage(outside, extent, into_window)
            {
                prepared.moves.end();
                return Err(status);
            }
        }
        Ok(prepared)
    }

    fn stage(&mut self, outside: Rows, extent: Extent, into_window: bool) -> error::Result {
        let len = extent.bytes().ok_or(error::INVALID_VALUE)?;
        let heap = &client::get()?.heap;
        let window = heap.alloc(len.max(1) as u64, 4096).map_err(|e| error::heap(&e))?;
        let moved = Box::new(Move { window, outside, extent, into_window });
        let argument = (&raw const *moved).cast_mut().cast();
        let function = run as unsafe extern "C" fn(*mut c_void) as usize as u64;
        let number = callback::of_node(function, argument).inspect_err(|_| {
            heap.free(window);
        })?;
        self.moves.0.push((number, moved));
        let side = if into_window { &mut self.copy.src } else { &mut self.copy.dst };
        SIDES.lock().unwrap_or_else(PoisonError::into_inner).insert(window, *side);
        *side = Memcpy3DSide {
            kind: memory_type::HOST,
            host: window,
            pitch: extent.width,
            height: extent.height,
            ..Memcpy3DSide::default()
        };
        *(if into_window { &mut self.before } else { &mut self.after }) = number;
        Ok(())
    }

    /// Sends the copy to a graph, with which its blocks end: `send` gets description, and the callbacks before, after and at the end.
    pub fn into_graph(
        self,
        send: impl FnOnce(&[Blob8<200>], u64, u64, u64) -> error::Result,
    ) -> error::Result {
        let (blob, before, after) = (blob(&self.copy), self.before, self.after);
        if self.moves.0.is_empty() {
            return send(&[blob], 0, 0, 0);
        }
        let argument = Box::into_raw(Box::new(self.moves));
        let function = release as unsafe extern "C" fn(*mut c_void) as usize as u64;
        let end = || {
            // SAFETY: made above, and no callback has it.
            unsafe { Box::from_raw(argument) }.end();
        };
        let number = callback::of_object(function, argument.cast()).inspect_err(|_| end())?;
        send(&[blob], before, after, number).inspect_err(|_| {
            callback::forget(number);
            end();
        })
    }

    /// Sends the copy to an executable graph's node. No driver tells when a launch of what the node copied before is over.
    pub fn into_exec(
        self,
        exec: u64,
        node: u64,
        send: impl FnOnce(&[Blob8<200>], u64, u64, u64) -> error::Result,
    ) -> error::Result {
        let blob = blob(&self.copy);
        if let Err(status) = send(&[blob], self.before, self.after, 0) {
            self.moves.end();
            return Err(status);
        }
        let mut execs = EXECS.lock().unwrap_or_else(PoisonError::into_inner);
        let blocks = execs.get_or_insert_default().entry(exec).or_default();
        if let Some(old) = blocks.current.insert(node, self.moves)
            && !old.0.is_empty()
        {
            blocks.retired.push(old);
        }
        let retired = if blocks.retired.len() > MOST_RETIRED {
            std::mem::take(&mut blocks.retired)
        } else {
            Vec::new()
        };
        drop(execs);
        end_when_idle(retired);
        Ok(())
    }
}

/// Blocks of an executable graph whose nodes were changed.
#[derive(Default)]
struct Blocks {
    current: HashMap<u64, Moves>,
    retired: Vec<Moves>,
}

static EXECS: Mutex<Option<HashMap<u64, Blocks>>> = Mutex::new(None);

/// Ends blocks once no launch can use them; if that cannot be waited for now, they stay for the life of the process.
fn end_when_idle(moves: Vec<Moves>) {
    if moves.iter().all(|m| m.0.is_empty()) {
        return;
    }
    if capture::wait_for_device().is_ok() {
        moves.into_iter().for_each(Moves::end);
    } else {
        moves.into_iter().for_each(std::mem::forget);
    }
}

/// An executable graph has ended.
pub fn exec_ended(exec: u64) {
    let blocks =
        EXECS.lock().unwrap_or_else(PoisonError::into_inner).as_mut().and_then(|execs| execs.remove(&exec));
    if let Some(blocks) = blocks {
        end_when_idle(blocks.current.into_values().chain(blocks.retired).collect());
    }
}

/// Adds a copy to what `stream` captures.
pub fn capture(copy: &Memcpy3D, stream: u64) -> error::Result {
    Prepared::new(copy)?.into_graph(|copy, before, after, release| {
        calls::vgpuCapturePageableCopy(stream, copy, before, after, release)
    })
}

/// Adds a copy of `n` bytes to what `stream` captures; kinds are CUmemorytype.
pub fn capture_line(dst: (u32, u64), src: (u32, u64), n: usize, stream: u64) -> error::Result {
    let side = |(kind, address): (u32, u64)| {
        let (host, device) = if kind == memory_type::HOST { (address, 0) } else { (0, address) };
        Memcpy3DSide { kind, host, device, ..Memcpy3DSide::default() }
    };
    let copy = Memcpy3D { src: side(src), dst: side(dst), width: n, height: 1, depth: 1 };
    capture(&copy, stream)
}
