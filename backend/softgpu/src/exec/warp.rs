//! A warp: its lanes in groups, its frames, and which group runs next.
//!
//! Lanes with the same place in the code and the same frame form a group. The group that runs is the one deepest in
//! calls, and of those the one with the lowest place in the code: so lanes that are behind catch up and groups meet again
//! where the branches of a program join. A group that spins while others could run gives way to them after a while.

use super::frame::{Frame, NO_FRAME};
use super::inst::{BlockReduce, Op};
use super::lanes::WARP;
use super::memory::LocalMemory;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    /// At a `.sync` instruction of the warp.
    Warp,
    /// At a barrier of the block.
    Block(u32),
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Group {
    pub mask: u32,
    pub pc: u32,
    pub frame: u32,
    pub state: State,
    /// When the group ran last, for fairness.
    pub stamp: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Warp {
    pub index: u32,
    pub groups: Vec<Group>,
    pub frames: Vec<Frame>,
    pub(super) free: Vec<u32>,
    pub local: LocalMemory,
    /// The carry flags.
    pub carry: u32,
    /// Lanes that have not exited.
    pub live: u32,
    /// `threadIdx` of each lane.
    pub tids: Vec<[u32; 3]>,
    pub(super) clock: u64,
    /// Instructions for which lanes chosen for fairness go before all others, and these lanes.
    pub favour: u32,
    pub(super) favoured: u32,
    pub(super) patience: u32,
    /// How often a group has given way since the block looked.
    pub gave_way: u32,
    /// Backward branches since the last change of group, while others could run.
    pub spins: u32,
}

/// Backward branches after which a group gives way: at first, and when that happens again and again.
const PATIENCE: u32 = 512;
const LEAST_PATIENCE: u32 = 32;
/// Instructions for which lanes that were given way run on.
const FAVOUR: u32 = 4096;

impl Warp {
    pub fn new_frame(&mut self, frame: Frame) -> u32 {
        if let Some(index) = self.free.pop() {
            self.frames[index as usize] = frame;
            return index;
        }
        self.frames.push(frame);
        u32::try_from(self.frames.len() - 1).unwrap_or(NO_FRAME)
    }

    /// Registers for a new frame, those of a dead one if there is any.
    pub fn registers(&mut self, values: u32, preds: u32) -> Frame {
        let mut frame = match self.free.last() {
            Some(index) => std::mem::take(&mut self.frames[*index as usize]),
            None => Frame::default(),
        };
        frame.values.resize(values as usize, [0; WARP]);
        frame.preds.resize(preds as usize, 0);
        frame
    }

    /// Takes `mask` out of a frame.
    pub fn leave_frame(&mut self, frame: u32, mask: u32) {
        if let Some(left) = self.frames.get_mut(frame as usize) {
            left.alive &= !mask;
            if left.alive == 0 {
                self.free.push(frame);
            }
        }
    }

    /// Ends the lanes of `mask`, which are in `frame`.
    pub fn exit(&mut self, frame: u32, mask: u32) {
        let mut at = frame;
        while at != NO_FRAME {
            let parent = self.frames.get(at as usize).map_or(NO_FRAME, |f| f.parent);
            self.leave_frame(at, mask);
            at = parent;
        }
        self.live &= !mask;
    }

    pub fn ready(&mut self, mask: u32, pc: u32, frame: u32) {
        if mask != 0 {
            self.groups.push(Group { mask, pc, frame, state: State::Ready, stamp: self.clock });
        }
    }

    fn depth(&self, group: &Group) -> u32 {
        self.frames.get(group.frame as usize).map_or(0, |frame| frame.depth)
    }

    /// Joins groups that have met.
    fn merge(&mut self) {
        let mut at = 0;
        while at < self.groups.len() {
            let mut other = at + 1;
            while other < self.groups.len() {
                let (a, b) = (self.groups[at], self.groups[other]);
                if a.pc == b.pc && a.frame == b.frame && a.state == b.state {
                    self.groups[at].mask |= b.mask;
                    self.groups.swap_remove(other);
                } else {
                    other += 1;
                }
            }
            at += 1;
        }
    }

    /// Takes out the group to run next, with the place in the code at which to choose again.
    pub fn choose(&mut self) -> Option<(Group, u32)> {
        if self.groups.len() > 1 {
            self.merge();
        }
        if self.groups.len() == 1 {
            self.patience = PATIENCE;
            self.spins = 0;
        }
        if self.impatient() {
            self.spins = 0;
            self.patience = (self.patience / 2).max(LEAST_PATIENCE);
            self.gave_way += 1;
            let ready = self.groups.iter().filter(|group| group.state == State::Ready);
            self.favoured = ready.min_by_key(|group| group.stamp)?.mask;
            self.favour = FAVOUR;
        }
        let favoured = self.favoured;
        let candidate = |group: &&Group| group.state == State::Ready && group.mask & favoured != 0;
        if self.favour == 0 || !self.groups.iter().any(|group| candidate(&group)) {
            self.favour = 0;
            self.favoured = u32::MAX;
        }
        let favoured = self.favoured;
        let candidate = |group: &&Group| group.state == State::Ready && group.mask & favoured != 0;
        let best =
            self.groups.iter().filter(candidate).min_by_key(|g| (std::cmp::Reverse(self.depth(g)), g.pc));
        let best = *best?;
        self.clock += 1;
        let index = self.groups.iter().position(|g| g.mask == best.mask)?;
        self.groups.swap_remove(index);
        let chosen = Group { stamp: self.clock, ..best };
        let depth = self.depth(&chosen);
        let same = self.groups.iter().filter(candidate).filter(|g| self.depth(g) == depth);
        let limit = same.map(|g| g.pc).min().unwrap_or(u32::MAX);
        Some((chosen, limit))
    }

    /// Whether the group that runs has spun for so long that others should.
    pub fn impatient(&self) -> bool {
        self.spins > self.patience
    }

    /// Whether another group could run.
    pub fn has_ready(&self) -> bool {
        self.groups.iter().any(|group| group.state == State::Ready)
    }

    /// Releases the groups that wait at barrier `id`, with the result of its reduction.
    pub fn release(&mut self, id: u32, code: &[super::inst::Inst], reduced: [u64; 3]) {
        for group in self.groups.iter_mut().filter(|group| group.state == State::Block(id)) {
            if let Some(Op::Block(barrier)) = code.get(group.pc as usize).map(|inst| &inst.op)
                && let Some(frame) = self.frames.get_mut(group.frame as usize)
            {
                let [count, and, or] = reduced;
                match barrier.reduce {
                    BlockReduce::None => {}
                    BlockReduce::Popc { d } => frame.write(d, group.mask, &[count; WARP]),
                    BlockReduce::And { p } => {
                        frame.write_predicate(p, group.mask, u32::from(and == 0).wrapping_sub(1))
                    }
                    BlockReduce::Or { p } => {
                        frame.write_predicate(p, group.mask, u32::from(or == 0).wrapping_sub(1))
                    }
                }
            }
            group.state = State::Ready;
            group.pc += 1;
        }
    }
}
