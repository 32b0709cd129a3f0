//! All blocks of a launch, on one host thread or several.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Fault;
use super::block::{Block, Context, Turn};

/// How long a launch runs on the calling thread alone before others are asked to help.
const ALONE: Duration = Duration::from_micros(200);
/// Instructions of a warp after which a block that has not ended gives way to others.
const TURN: u64 = 1 << 17;
/// The same where blocks wait for each other.
const COOPERATIVE_TURN: u64 = 1 << 12;
/// Unfinished blocks that one host thread keeps, with their memory.
const MAX_OPEN: usize = 64;

struct Grid<'a, 'c> {
    context: &'a Context<'c>,
    blocks: u64,
    next: AtomicU64,
    stop: AtomicBool,
    fault: Mutex<Option<Fault>>,
    output: Mutex<Vec<u8>>,
}

/// Runs all blocks; `output` is called on the calling thread only.
pub(crate) fn run(context: &Context<'_>, blocks: u64, output: &mut dyn FnMut(&[u8])) -> Result<(), Fault> {
    let grid = Grid {
        context,
        blocks,
        next: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        fault: Mutex::new(None),
        output: Mutex::new(Vec::new()),
    };
    let mut worker = Worker::new(&grid);
    let started = Instant::now();
    let mut alone = true;
    std::thread::scope(|scope| {
        while worker.step() {
            grid.flush(output);
            if alone && started.elapsed() > ALONE {
                alone = false;
                let left = blocks.saturating_sub(grid.next.load(Ordering::Relaxed));
                let most = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
                for _ in 1..most.min(left + 1) {
                    let grid = &grid;
                    scope.spawn(move || {
                        let mut worker = Worker::new(grid);
                        while worker.step() {}
                    });
                }
            }
        }
    });
    drop(worker);
    grid.flush(output);
    let fault = grid.fault.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    fault.map_or(Ok(()), Err)
}

impl Grid<'_, '_> {
    fn take(&self) -> Option<u64> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number < self.blocks).then_some(number)
    }

    fn flush(&self, output: &mut dyn FnMut(&[u8])) {
        let text =
            std::mem::take(&mut *self.output.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        if !text.is_empty() {
            output(&text);
        }
    }

    fn print(&self, text: &mut Vec<u8>) {
        if !text.is_empty() {
            self.output.lock().unwrap_or_else(std::sync::PoisonError::into_inner).append(text);
        }
    }

    fn fail(&self, fault: Fault) {
        self.stop.store(true, Ordering::Relaxed);
        self.fault.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(fault);
    }
}

/// One host thread's share of a grid.
struct Worker<'a, 'b, 'c> {
    grid: &'a Grid<'b, 'c>,
    /// Blocks that have begun and not ended.
    open: VecDeque<Block>,
    /// A block that has ended, for its memory.
    spare: Option<Block>,
}

impl Drop for Worker<'_, '_, '_> {
    fn drop(&mut self) {
        if let Some(block) = self.spare.take() {
            self.grid.context.program.keep_spare(block);
        }
    }
}

impl<'a, 'b, 'c> Worker<'a, 'b, 'c> {
    fn new(grid: &'a Grid<'b, 'c>) -> Worker<'a, 'b, 'c> {
        Worker { grid, open: VecDeque::new(), spare: grid.context.program.take_spare() }
    }

    fn cooperative(&self) -> bool {
        self.grid.context.workspace != 0
    }

    /// Gives one block a turn. False when there is nothing left to do.
    fn step(&mut self) -> bool {
        if self.grid.stop.load(Ordering::Relaxed) {
            return false;
        }
        let Some(mut block) = self.pick() else { return false };
        let turn = if self.cooperative() { COOPERATIVE_TURN } else { TURN };
        let result = block.run(self.grid.context, turn);
        self.grid.print(&mut block.output);
        match result {
            Ok(Turn::Finished) => self.spare = Some(block),
            Ok(Turn::Paused) => self.open.push_back(block),
            Err(fault) => {
                self.grid.fail(fault);
                return false;
            }
        }
        true
    }

    /// A new block while few are open, so that blocks which wait for later ones do not wait for ever.
    fn pick(&mut self) -> Option<Block> {
        if (self.open.len() < MAX_OPEN || self.cooperative())
            && let Some(number) = self.grid.take()
        {
            return Some(match self.spare.take() {
                Some(mut block) => {
                    block.restart(self.grid.context, number);
                    block
                }
                None => Block::new(self.grid.context, number),
            });
        }
        self.open.pop_front()
    }
}
