//! A block of threads: its warps in turn, its shared memory and its barriers.

use super::frame::NO_FRAME;
use super::inst::{BlockReduce, Op};
use super::memory::{LocalMemory, View, lanes};
use super::program::Program;
use super::step::Pause;
use super::warp::{State, Warp};
use super::{Fault, Launch, Memory, Place};

/// Barriers that a block has; the last one is for clusters.
const BARRIERS: usize = 17;
/// Bytes of shared memory that programs do not see, as on the hardware from sm_80.
const RESERVED_SHARED: usize = 1024;
/// Instructions that a warp runs before the next one gets its turn.
const WARP_SLICE: u32 = 8192;

/// What all blocks of a launch share.
pub(crate) struct Context<'a> {
    pub program: &'a Program,
    pub kernel: &'a str,
    pub launch: &'a Launch<'a>,
    pub memory: &'a dyn Memory,
    /// Index of the kernel's function.
    pub function: usize,
    /// Where dynamic shared memory begins, and how much there is in all.
    pub dynamic_base: u32,
    pub shared_bytes: u32,
    pub grid_id: u64,
    /// The barrier of a cooperative launch, 0 for other launches: its blocks must all be under way at once.
    pub workspace: u64,
    pub started: std::time::Instant,
}

impl Context<'_> {
    /// Bytes of shared memory with what is reserved.
    fn shared_length(&self) -> usize {
        self.shared_bytes.next_multiple_of(16) as usize + RESERVED_SHARED
    }
}

/// How a turn of a block ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Finished,
    /// The block could go on, but others should have a turn.
    Paused,
}

#[derive(Debug)]
pub(crate) struct Block {
    pub index: [u32; 3],
    pub number: u64,
    /// The shape for which the warps were made.
    shape: [u32; 3],
    warps: Vec<Warp>,
    pub shared: Vec<u64>,
    /// Barriers at which threads may wait, as a mask.
    waiting: u32,
    /// Threads that `bar.arrive` has counted at each barrier.
    arrived: [u32; BARRIERS],
    /// Text printed and not yet handed on.
    pub output: Vec<u8>,
}

impl Block {
    pub fn new(context: &Context<'_>, number: u64) -> Block {
        let mut block = Block {
            index: [0; 3],
            number,
            shape: [0; 3],
            warps: Vec::new(),
            shared: Vec::new(),
            waiting: 0,
            arrived: [0; BARRIERS],
            output: Vec::new(),
        };
        block.restart(context, number);
        block
    }

    /// Makes this block, which has ended, the one with `number`, in the memory that it has.
    pub fn restart(&mut self, context: &Context<'_>, number: u64) {
        let [gx, gy, _] = context.launch.grid.map(|n| u64::from(n.max(1)));
        let part = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        self.index = [part(number % gx), part(number / gx % gy), part(number / gx / gy)];
        self.number = number;
        self.arrived = [0; BARRIERS];
        self.waiting = 0;
        self.shared.resize(context.shared_length().div_ceil(8), 0);
        self.fill(context);
    }

    fn fill(&mut self, context: &Context<'_>) {
        let [bx, by, bz] = context.launch.block;
        let threads = bx * by * bz;
        let warps = threads.div_ceil(32);
        if self.shape != context.launch.block {
            self.shape = context.launch.block;
            self.warps = (0..warps).map(|index| Warp { index, ..Warp::default() }).collect();
            for warp in &mut self.warps {
                let first = warp.index * 32;
                warp.tids = (first..(first + 32).min(threads))
                    .map(|thread| [thread % bx, thread / bx % by, thread / bx / by])
                    .collect();
            }
        }
        let Some(code) = context.program.functions.get(context.function) else { return };
        for warp in &mut self.warps {
            let lanes = u32::try_from(warp.tids.len()).unwrap_or(32);
            let mask = if lanes >= 32 { u32::MAX } else { (1 << lanes) - 1 };
            warp.live = mask;
            warp.local.reserve(code.frame);
            let mut frame = warp.registers(code.values, code.preds);
            frame.parent = NO_FRAME;
            frame.function = u32::try_from(context.function).unwrap_or(0);
            frame.depth = 0;
            (frame.local_base, frame.local_top) = (0, code.frame);
            frame.alive = mask;
            let frame = warp.new_frame(frame);
            warp.ready(mask, code.entry.unwrap_or(0), frame);
        }
    }

    /// Runs the block until it ends, fails, or has used its turn of about `turn` instructions.
    pub fn run(&mut self, context: &Context<'_>, turn: u64) -> Result<Turn, Fault> {
        let mut left = turn;
        loop {
            let mut waiting = true;
            for index in 0..self.warps.len() {
                let mut warp = std::mem::take(&mut self.warps[index]);
                // A warp may come to a barrier that opens at once, and so run again.
                let result = self.warp_turn(context, &mut warp, &mut left);
                waiting &= !warp.has_ready();
                self.warps[index] = warp;
                result?;
            }
            if self.warps.iter().all(|warp| warp.groups.is_empty()) {
                return Ok(Turn::Finished);
            }
            if !self.open_barriers(context) && waiting {
                return Err(self.deadlock(context));
            }
            if left == 0 {
                return Ok(Turn::Paused);
            }
        }
    }

    fn warp_turn(&mut self, context: &Context<'_>, warp: &mut Warp, left: &mut u64) -> Result<(), Fault> {
        let mut slice = WARP_SLICE;
        let pause = super::step::run(context, self, warp, &mut slice)?;
        let used = u64::from(WARP_SLICE - slice);
        // What looks like waiting, for another warp or another block, counts as a long time.
        let waits = u64::from(std::mem::take(&mut warp.gave_way)) + u64::from(pause == Pause::Yield);
        *left = left.saturating_sub(used + waits * u64::from(WARP_SLICE));
        Ok(())
    }

    /// The shared memory as bytes, with the warp's own memory.
    pub fn view<'a>(&'a mut self, context: &'a Context<'_>, local: &'a mut LocalMemory) -> View<'a> {
        let bytes = self.shared.len() * 8;
        let length = bytes.min(context.shared_length());
        let start = self.shared.as_mut_ptr().cast::<u8>();
        // SAFETY: the bytes are those of `self.shared`, borrowed mutably for as long as the slice; any byte is a valid u8.
        let shared = unsafe { std::slice::from_raw_parts_mut(start, length) };
        View {
            global: context.memory,
            heap: &context.program.heap,
            shared,
            local,
            params: context.launch.params,
        }
    }

    /// Counts a `bar.arrive`, of a whole warp where all its lanes come together.
    pub fn arrive(&mut self, id: u32, threads: u32) {
        if let Some(arrived) = self.arrived.get_mut(id as usize) {
            *arrived += threads;
        }
    }

    /// Opens the barriers at which all threads are that they wait for. False if there is none.
    fn open_barriers(&mut self, context: &Context<'_>) -> bool {
        let code = &context.program.code;
        let mut opened = false;
        for number in lanes(self.waiting) {
            let id = number as usize;
            let Some((expected, reduced, present)) = self.at_barrier(context, number) else { continue };
            let arrived = self.arrived[id];
            let complete = match expected {
                Some(count) => present.counted + arrived >= count,
                None => present.threads + arrived >= present.live,
            };
            if complete {
                self.arrived[id] = 0;
                self.waiting &= !(1 << number);
                for warp in &mut self.warps {
                    warp.release(number, code, reduced);
                }
                opened = true;
            }
        }
        opened
    }

    /// Who waits at barrier `id`: the count that they wait for, and the reduction of their predicates.
    fn at_barrier(&self, context: &Context<'_>, id: u32) -> Option<(Option<u32>, [u64; 3], Present)> {
        let mut present = Present::default();
        let mut expected = None;
        let (mut count, mut all, mut any) = (0u64, true, false);
        for warp in &self.warps {
            present.live += warp.live.count_ones();
            let mut here = 0;
            for group in warp.groups.iter().filter(|group| group.state == State::Block(id)) {
                here |= group.mask;
                let Some(frame) = warp.frames.get(group.frame as usize) else { continue };
                let Some(Op::Block(barrier)) = context.program.code.get(group.pc as usize).map(|i| &i.op)
                else {
                    continue;
                };
                if let Some(source) = barrier.count {
                    let lane = group.mask.trailing_zeros() & 31;
                    expected = Some(frame.source(&context.program.constants, source)[lane as usize] as u32);
                }
                if barrier.reduce != BlockReduce::None {
                    let yes = frame.predicate(barrier.value) & group.mask;
                    count += u64::from(yes.count_ones());
                    all &= yes == group.mask;
                    any |= yes != 0;
                }
            }
            present.threads += here.count_ones();
            // Barriers with a count count whole warps, whatever lanes a warp has.
            present.counted += if here != 0 && here == warp.live { 32 } else { here.count_ones() };
        }
        (present.threads > 0).then_some((expected, [count, u64::from(all), u64::from(any)], present))
    }

    /// Whether a block has a barrier with this number.
    pub fn barrier_exists(id: u64) -> bool {
        id < BARRIERS as u64
    }

    /// Notes that threads wait at a barrier.
    pub fn note_waiting(&mut self, id: u32) {
        self.waiting |= 1 << id;
    }

    fn deadlock(&self, context: &Context<'_>) -> Fault {
        let stuck = self.warps.iter().find_map(|warp| Some((warp, warp.groups.first()?)));
        let (place, reason) = match stuck {
            Some((warp, group)) => {
                let reason = match group.state {
                    State::Block(id) => format!("threads wait at barrier {id} for threads that never come"),
                    _ => "lanes wait for lanes of their warp that never come".to_string(),
                };
                (self.place(context, warp, group.pc, group.mask), reason)
            }
            None => (Place::default(), "nothing can run".to_string()),
        };
        Fault::Deadlock { place, reason }
    }

    pub fn place(&self, context: &Context<'_>, warp: &Warp, pc: u32, mask: u32) -> Place {
        let line = context.program.code.get(pc as usize).map_or(0, |inst| inst.line);
        let thread = warp.tids.get(mask.trailing_zeros() as usize).copied().unwrap_or_default();
        Place { kernel: context.kernel.to_string(), line, block: self.index, thread }
    }
}

#[derive(Debug, Default, Clone, Copy)]
struct Present {
    /// Threads at the barrier.
    threads: u32,
    /// The same, with whole warps counted as 32.
    counted: u32,
    /// Threads that have not exited.
    live: u32,
}
