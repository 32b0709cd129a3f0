//! Instructions that lanes of a warp do together: shuffles, votes, matches, reductions.

use super::inst::Inst;
use super::inst::{NOWHERE, Op, PredSrc, ReduxOp, ShuffleMode, Src, VoteMode, WarpOp, WarpSync};
use super::lanes::{Lane, Lanes, WARP};
use super::memory::lanes;
use super::warp::{Group, State, Warp};

/// What each lane brings, and takes away.
struct Exchange {
    mask: u32,
    a: Lanes,
    b: Lanes,
    c: Lanes,
    predicate: u32,
    result: Lanes,
    result_predicate: u32,
}

fn sync_at(code: &[Inst], pc: u32) -> Option<&WarpSync> {
    match code.get(pc as usize).map(|inst| &inst.op) {
        Some(Op::Warp(sync)) => Some(sync),
        _ => None,
    }
}

/// Whether two instructions can be one exchange: the same operation, whatever the registers.
fn alike(a: &WarpOp, b: &WarpOp) -> bool {
    match (a, b) {
        (WarpOp::Shuffle { mode: a, .. }, WarpOp::Shuffle { mode: b, .. }) => a == b,
        (WarpOp::Vote { mode: a, .. }, WarpOp::Vote { mode: b, .. }) => a == b,
        (WarpOp::Redux { op: a, signed: x, .. }, WarpOp::Redux { op: b, signed: y, .. }) => a == b && x == y,
        _ => std::mem::discriminant(a) == std::mem::discriminant(b),
    }
}

impl Warp {
    /// A group has come to a `.sync` instruction. Lanes whose partners are all there go on, the others wait.
    pub fn synchronise(&mut self, group: Group, mask: u32, code: &[Inst], constants: &[Lanes]) {
        let skipped = group.mask & !mask;
        self.ready(skipped, group.pc + 1, group.frame);
        let Some(sync) = sync_at(code, group.pc) else { return };
        let Some(frame) = self.frames.get(group.frame as usize) else { return };
        let named = frame.source(constants, sync.mask);
        let first = lanes(mask).next().map_or(0, |lane| named[lane as usize] as u32);
        let uniform = lanes(mask).all(|lane| named[lane as usize] as u32 == first);
        let group = Group { mask, state: State::Warp, ..group };
        if uniform && first & self.live & !mask == 0 {
            self.perform(&[group], code, constants);
            self.ready(mask, group.pc + 1, group.frame);
            return;
        }
        self.groups.push(group);
        self.settle(code, constants);
    }

    /// Lets waiting lanes go on whose partners have all come or exited.
    pub fn settle(&mut self, code: &[Inst], constants: &[Lanes]) {
        while let Some((named, mask)) = self.complete(code, constants) {
            let mut parts = Vec::new();
            for group in self.groups.iter_mut().filter(|group| group.state == State::Warp) {
                let taken = group.mask & mask & Self::naming(&self.frames, group, code, constants, named);
                if taken != 0 {
                    group.mask &= !taken;
                    parts.push(Group { mask: taken, ..*group });
                }
            }
            if parts.is_empty() {
                return;
            }
            self.groups.retain(|group| group.mask != 0);
            self.perform(&parts, code, constants);
            for part in parts {
                self.ready(part.mask, part.pc + 1, part.frame);
            }
        }
    }

    /// The lanes of a waiting group whose member mask is `named`.
    fn naming(
        frames: &[super::frame::Frame],
        group: &Group,
        code: &[Inst],
        constants: &[Lanes],
        named: u32,
    ) -> u32 {
        let (Some(sync), Some(frame)) = (sync_at(code, group.pc), frames.get(group.frame as usize)) else {
            return 0;
        };
        let masks = frame.source(constants, sync.mask);
        lanes(group.mask)
            .filter(|lane| masks[*lane as usize] as u32 == named)
            .fold(0, |all, lane| all | 1 << lane)
    }

    /// A member mask all of whose live lanes wait for each other, and those lanes.
    fn complete(&self, code: &[Inst], constants: &[Lanes]) -> Option<(u32, u32)> {
        let waiting = || self.groups.iter().filter(|group| group.state == State::Warp);
        for group in waiting() {
            let (sync, frame) = (sync_at(code, group.pc)?, self.frames.get(group.frame as usize)?);
            let masks = frame.source(constants, sync.mask);
            for lane in lanes(group.mask) {
                let named = masks[lane as usize] as u32;
                let arrived = waiting()
                    .filter(|other| sync_at(code, other.pc).is_some_and(|s| alike(&s.op, &sync.op)))
                    .fold(0, |all, other| all | Self::naming(&self.frames, other, code, constants, named));
                if named & self.live & !arrived == 0 {
                    return Some((named, arrived));
                }
            }
        }
        None
    }

    /// Exchanges values between the lanes of `parts`, which execute the same operation.
    fn perform(&mut self, parts: &[Group], code: &[Inst], constants: &[Lanes]) {
        let mut exchange = Exchange {
            mask: 0,
            a: [0; WARP],
            b: [0; WARP],
            c: [0; WARP],
            predicate: 0,
            result: [0; WARP],
            result_predicate: 0,
        };
        let mut operation = None;
        for part in parts {
            let (Some(sync), Some(frame)) = (sync_at(code, part.pc), self.frames.get(part.frame as usize))
            else {
                return;
            };
            operation = Some(&sync.op);
            exchange.mask |= part.mask;
            let (sources, predicate) = inputs(&sync.op);
            let places = [&mut exchange.a, &mut exchange.b, &mut exchange.c];
            for (place, source) in places.into_iter().zip(sources) {
                let Some(source) = source else { continue };
                let values = frame.source(constants, source);
                lanes(part.mask).for_each(|lane| place[lane as usize] = values[lane as usize]);
            }
            exchange.predicate |= predicate.map_or(0, |p| frame.predicate(p)) & part.mask;
        }
        let Some(operation) = operation else { return };
        exchange.compute(operation);
        for part in parts {
            let (Some(sync), Some(frame)) =
                (sync_at(code, part.pc), self.frames.get_mut(part.frame as usize))
            else {
                return;
            };
            let (d, p) = outputs(&sync.op);
            if d != NOWHERE {
                frame.write(d, part.mask, &exchange.result);
            }
            frame.write_predicate(p, part.mask, exchange.result_predicate);
        }
    }
}

fn inputs(op: &WarpOp) -> ([Option<Src>; 3], Option<PredSrc>) {
    match op {
        WarpOp::Shuffle { a, b, c, .. } => ([Some(*a), Some(*b), Some(*c)], None),
        WarpOp::Vote { a, .. } => ([None; 3], Some(*a)),
        WarpOp::MatchAny { a, .. } | WarpOp::MatchAll { a, .. } | WarpOp::Redux { a, .. } => {
            ([Some(*a), None, None], None)
        }
        WarpOp::Barrier | WarpOp::Elect { .. } => ([None; 3], None),
    }
}

fn outputs(op: &WarpOp) -> (u32, u32) {
    match op {
        WarpOp::Shuffle { d, p, .. }
        | WarpOp::Vote { d, p, .. }
        | WarpOp::MatchAll { d, p, .. }
        | WarpOp::Elect { d, p } => (*d, *p),
        WarpOp::MatchAny { d, .. } | WarpOp::Redux { d, .. } => (*d, NOWHERE),
        WarpOp::Barrier => (NOWHERE, NOWHERE),
    }
}

impl Exchange {
    fn compute(&mut self, op: &WarpOp) {
        match op {
            WarpOp::Barrier => {}
            WarpOp::Shuffle { mode, .. } => lanes(self.mask).for_each(|lane| self.shuffle(*mode, lane)),
            WarpOp::Vote { mode, .. } => self.vote(*mode),
            WarpOp::MatchAny { wide, .. } => {
                for lane in lanes(self.mask) {
                    self.result[lane as usize] = u64::from(self.equal(lane, *wide));
                }
            }
            WarpOp::MatchAll { wide, .. } => {
                let first = self.mask.trailing_zeros() & 31;
                let same = self.equal(first, *wide) == self.mask;
                self.result = [if same { u64::from(self.mask) } else { 0 }; WARP];
                self.result_predicate = if same { u32::MAX } else { 0 };
            }
            WarpOp::Redux { op, signed, .. } => {
                let values = lanes(self.mask).map(|lane| self.a[lane as usize] as u32);
                self.result = [u64::from(reduce(*op, *signed, values)); WARP];
            }
            WarpOp::Elect { .. } => {
                let leader = self.mask.trailing_zeros() & 31;
                self.result = [u64::from(leader); WARP];
                self.result_predicate = 1 << leader;
            }
        }
    }

    /// PTX section 9.7.9.6: segment mask and clamp are in the third operand.
    fn shuffle(&mut self, mode: ShuffleMode, lane: u32) {
        let i = lane as usize;
        let by = self.b[i] as u32 & 31;
        let clamp = self.c[i] as u32 & 31;
        let segment = (self.c[i] >> 8) as u32 & 31;
        let most = lane & segment | clamp & !segment;
        let least = lane & segment;
        let (lane, by) = (lane.cast_signed(), by.cast_signed());
        let (from, inside) = match mode {
            ShuffleMode::Up => (lane - by, lane - by >= most.cast_signed()),
            ShuffleMode::Down => (lane + by, lane + by <= most.cast_signed()),
            ShuffleMode::Butterfly => (lane ^ by, (lane ^ by) <= most.cast_signed()),
            ShuffleMode::Index => {
                let from = (least | by.cast_unsigned() & !segment).cast_signed();
                (from, from <= most.cast_signed())
            }
        };
        // A lane that does not take part has no value to give; the reader keeps its own.
        let from = if inside { from.cast_unsigned() & 31 } else { lane.cast_unsigned() };
        let given = self.mask >> from & 1 == 1;
        self.result[i] = self.a[if given { from as usize } else { i }];
        self.result_predicate |= u32::from(inside) << i;
    }

    fn vote(&mut self, mode: VoteMode) {
        let yes = self.predicate & self.mask;
        let holds = match mode {
            VoteMode::All => yes == self.mask,
            VoteMode::Any => yes != 0,
            VoteMode::Uniform => yes == self.mask || yes == 0,
            VoteMode::Ballot => {
                self.result = [u64::from(yes); WARP];
                return;
            }
        };
        self.result_predicate = if holds { u32::MAX } else { 0 };
    }

    fn equal(&self, lane: u32, wide: bool) -> u32 {
        let cut = |x: u64| if wide { x } else { u64::from(x as u32) };
        let mine = cut(self.a[lane as usize]);
        lanes(self.mask)
            .filter(|other| cut(self.a[*other as usize]) == mine)
            .fold(0, |all, other| all | 1 << other)
    }
}

fn reduce(op: ReduxOp, signed: bool, values: impl Iterator<Item = u32>) -> u32 {
    let signed_value = |x: u32| i32::get(u64::from(x));
    values
        .reduce(|a, b| match op {
            ReduxOp::Add => a.wrapping_add(b),
            ReduxOp::And => a & b,
            ReduxOp::Or => a | b,
            ReduxOp::Xor => a ^ b,
            ReduxOp::Min if signed => {
                if signed_value(a) <= signed_value(b) {
                    a
                } else {
                    b
                }
            }
            ReduxOp::Max if signed => {
                if signed_value(a) >= signed_value(b) {
                    a
                } else {
                    b
                }
            }
            ReduxOp::Min => a.min(b),
            ReduxOp::Max => a.max(b),
        })
        .unwrap_or(0)
}
