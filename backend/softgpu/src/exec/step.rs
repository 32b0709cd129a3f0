//! The interpreter's loop: one warp, instruction after instruction.

use std::sync::atomic::{Ordering, fence};

use super::block::{Block, Context};
use super::frame::NO_FRAME;
use super::inst::{ALWAYS, BlockBarrier, Inst, Op, Special};
use super::lanes::{Lanes, WARP};
use super::memory::{BadAccess, lanes, resolve};
use super::warp::{Group, State, Warp};
use super::{Fault, access, call, texture_access};

/// Why a warp stopped running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pause {
    /// All its lanes wait or have exited.
    Idle,
    /// Its slice is used up.
    Slice,
    /// It has nothing to do but wait for others.
    Yield,
}

/// What a control instruction did with its group.
enum Next {
    /// It goes on.
    Continue(Group),
    /// The groups have changed: choose again.
    Choose,
    Yield,
}

/// Runs `warp` until it waits or has used up `slice` instructions.
pub(crate) fn run(
    context: &Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    slice: &mut u32,
) -> Result<Pause, Fault> {
    let program = context.program;
    let code = program.code.as_slice();
    let constants = program.constants.as_slice();
    'choose: loop {
        let Some((mut group, mut limit)) = warp.choose() else { return Ok(Pause::Idle) };
        let mut first = true;
        loop {
            if *slice == 0 || (group.pc >= limit && !first) {
                warp.groups.push(group);
                if *slice == 0 {
                    return Ok(Pause::Slice);
                }
                continue 'choose;
            }
            first = false;
            *slice -= 1;
            if warp.favour > 0 {
                warp.favour -= 1;
                limit = if warp.favour == 0 { 0 } else { limit };
            }
            let Some(inst) = code.get(group.pc as usize) else {
                return Err(illegal(context, block, warp, &group, "execution left the code"));
            };
            let frame = &mut warp.frames[group.frame as usize];
            let mut mask = group.mask;
            if inst.guard != ALWAYS {
                let guard = frame.preds[inst.guard as usize];
                mask &= if inst.guard_negated { !guard } else { guard };
                if mask == 0 {
                    group.pc += 1;
                    continue;
                }
            }
            if frame.execute(&inst.op, mask, constants, &mut warp.carry) {
                group.pc += 1;
                continue;
            }
            match other(context, block, warp, group, mask, inst, constants)? {
                Next::Continue(next) => group = next,
                Next::Choose => continue 'choose,
                Next::Yield => return Ok(Pause::Yield),
            }
        }
    }
}

fn illegal(context: &Context<'_>, block: &Block, warp: &Warp, group: &Group, reason: &str) -> Fault {
    let place = block.place(context, warp, group.pc, group.mask);
    Fault::IllegalInstruction { place, reason: reason.to_string() }
}

pub(crate) fn bad_access(
    context: &Context<'_>,
    block: &Block,
    warp: &Warp,
    pc: u32,
    bad: BadAccess,
) -> Fault {
    let place = block.place(context, warp, pc, 1 << (bad.lane & 31));
    let BadAccess { address, length, misaligned, .. } = bad;
    if misaligned {
        Fault::MisalignedAddress { place, address, length }
    } else {
        Fault::IllegalAddress { place, address, length }
    }
}

fn other(
    context: &Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    mut group: Group,
    mask: u32,
    inst: &Inst,
    constants: &[Lanes],
) -> Result<Next, Fault> {
    let code = context.program.code.as_slice();
    match &inst.op {
        Op::Load(load) => access::load(context, block, warp, &group, mask, load)?,
        Op::Store(store) => access::store(context, block, warp, &group, mask, store)?,
        Op::Atom(atom) => access::atomic(context, block, warp, &group, mask, atom)?,
        Op::CopyAsync(copy) => access::copy_async(context, block, warp, &group, mask, copy)?,
        Op::Texture(fetch) => texture_access::fetch(context, block, warp, &group, mask, fetch)?,
        Op::Surface(access) => texture_access::surface(context, block, warp, &group, mask, access)?,
        Op::Query { d, handle, query, is_surface } => {
            texture_access::query(context, block, warp, &group, mask, (*d, *handle, *query, *is_surface))?;
        }
        Op::Branch { target } => return Ok(branch(warp, group, mask, *target)),
        Op::BranchIndex { index, targets } => {
            let values = *warp.frames[group.frame as usize].source(constants, *index);
            warp.ready(group.mask & !mask, group.pc + 1, group.frame);
            let mut left = mask;
            while let Some(lane) = lanes(left).next() {
                let index = values[lane as usize] as u32;
                let same = lanes(left)
                    .filter(|l| values[*l as usize] as u32 == index)
                    .fold(0, |all, lane| all | 1 << lane);
                left &= !same;
                let Some(target) = targets.get(index as usize) else {
                    return Err(illegal(context, block, warp, &group, "`brx.idx` beyond its targets"));
                };
                warp.ready(same, *target, group.frame);
            }
            return Ok(Next::Choose);
        }
        Op::Call(site) => {
            let built_in = call::call(context, block, warp, &group, mask, site)?;
            if !built_in {
                return Ok(Next::Choose);
            }
        }
        Op::Return => {
            warp.ready(group.mask & !mask, group.pc + 1, group.frame);
            call::give_back(context, warp, group.frame, mask);
            return Ok(Next::Choose);
        }
        Op::Exit => {
            warp.ready(group.mask & !mask, group.pc + 1, group.frame);
            warp.exit(group.frame, mask);
            warp.settle(code, constants);
            return Ok(Next::Choose);
        }
        Op::Trap => return Err(Fault::Trap { place: block.place(context, warp, group.pc, mask) }),
        Op::Yield => {
            // Others first: the lanes of this warp that lag behind, then other warps and blocks.
            group.pc += 1;
            warp.groups.push(group);
            warp.spins += 64;
            return Ok(Next::Yield);
        }
        Op::Warp(_) => {
            warp.synchronise(group, mask, code, constants);
            return Ok(Next::Choose);
        }
        Op::Block(barrier) => return barrier_reached(context, block, warp, group, mask, barrier),
        Op::Special { d, which } => {
            let values = special(context, block, warp, &group, mask, *which);
            warp.frames[group.frame as usize].write(*d, mask, &values);
        }
        Op::Space { p, a, space } => {
            let frame = &mut warp.frames[group.frame as usize];
            let addresses = *frame.source(constants, *a);
            let inside = lanes(mask)
                .filter(|lane| resolve(addresses[*lane as usize]).0 == *space)
                .fold(0, |all, lane| all | 1 << lane);
            frame.write_predicate(*p, mask, inside);
        }
        Op::Alloca { d, size, align } => {
            let sizes = *warp.frames[group.frame as usize].source(constants, *size);
            let most = lanes(mask).map(|lane| sizes[lane as usize]).max().unwrap_or(0);
            let Some(start) = call::take_stack(warp, group.frame, most, *align) else {
                let bad =
                    BadAccess { lane: mask.trailing_zeros(), address: 0, length: most, misaligned: false };
                return Err(bad_access(context, block, warp, group.pc, bad));
            };
            warp.frames[group.frame as usize].write(*d, mask, &[u64::from(start); WARP]);
        }
        Op::Fence => fence(Ordering::SeqCst),
        Op::Nop => {}
        Op::Unsupported(index) => return Err(context.program.unsupported(context.kernel, *index)),
        // The rest has been executed by the frame.
        _ => {}
    }
    group.pc += 1;
    Ok(Next::Continue(group))
}

fn branch(warp: &mut Warp, mut group: Group, mask: u32, target: u32) -> Next {
    if target <= group.pc && !warp.groups.is_empty() && warp.has_ready() {
        warp.spins += 1;
        if warp.impatient() {
            warp.ready(group.mask & !mask, group.pc + 1, group.frame);
            warp.ready(mask, target, group.frame);
            return Next::Choose;
        }
    }
    let staying = group.mask & !mask;
    if staying == 0 {
        group.pc = target;
        return Next::Continue(group);
    }
    warp.ready(staying, group.pc + 1, group.frame);
    warp.ready(mask, target, group.frame);
    Next::Choose
}

fn barrier_reached(
    context: &Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    mut group: Group,
    mask: u32,
    barrier: &BlockBarrier,
) -> Result<Next, Fault> {
    let lane = mask.trailing_zeros() & 31;
    let id = warp.frames[group.frame as usize].source(&context.program.constants, barrier.id)[lane as usize];
    let id = id & 0xffff_ffff;
    if !Block::barrier_exists(id) {
        return Err(illegal(context, block, warp, &group, &format!("barrier {id} does not exist")));
    }
    let id = id as u32;
    if barrier.arrive_only {
        block.arrive(id, if mask == warp.live { 32 } else { mask.count_ones() });
        group.pc += 1;
        return Ok(Next::Continue(group));
    }
    warp.ready(group.mask & !mask, group.pc + 1, group.frame);
    block.note_waiting(id);
    group.mask = mask;
    group.state = State::Block(id);
    warp.groups.push(group);
    Ok(Next::Choose)
}

fn special(
    context: &Context<'_>,
    block: &Block,
    warp: &Warp,
    group: &Group,
    mask: u32,
    which: Special,
) -> Lanes {
    let launch = context.launch;
    let per_lane = |f: &dyn Fn(u32) -> u64| {
        let mut values = [0; WARP];
        (0u32..).zip(values.iter_mut()).for_each(|(lane, value)| *value = f(lane));
        values
    };
    let all = |value: u32| [u64::from(value); WARP];
    let axis = |of: [u32; 3], axis: u8| all(of.get(usize::from(axis)).copied().unwrap_or(0));
    match which {
        Special::Tid(axis) => {
            let axis = usize::from(axis);
            per_lane(&|lane| {
                u64::from(warp.tids.get(lane as usize).and_then(|tid| tid.get(axis)).copied().unwrap_or(0))
            })
        }
        Special::Ntid(n) => axis(launch.block, n),
        Special::Ctaid(n) => axis(block.index, n),
        Special::Nctaid(n) => axis(launch.grid, n),
        Special::Lane => per_lane(&|lane| u64::from(lane)),
        Special::Warp => all(warp.index),
        Special::WarpCount => all(64),
        Special::Sm => [block.number % u64::from(launch.sm_count.max(1)); WARP],
        Special::SmCount => all(launch.sm_count),
        Special::Grid => [context.grid_id; WARP],
        Special::Clock => {
            let time = context.started.elapsed().as_nanos();
            [u64::try_from(time).unwrap_or(u64::MAX); WARP]
        }
        Special::GlobalTimer => {
            let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            [time.ok().and_then(|time| u64::try_from(time.as_nanos()).ok()).unwrap_or(0); WARP]
        }
        Special::LaneMaskEq => per_lane(&|lane| 1 << lane),
        Special::LaneMaskLt => per_lane(&|lane| (1 << lane) - 1),
        Special::LaneMaskLe => per_lane(&|lane| (2 << lane) - 1),
        Special::LaneMaskGt => per_lane(&|lane| !((2u64 << lane) - 1) & 0xffff_ffff),
        Special::LaneMaskGe => per_lane(&|lane| !((1u64 << lane) - 1) & 0xffff_ffff),
        Special::DynamicShared => all(launch.dynamic_shared),
        Special::TotalShared => all(context.shared_bytes),
        Special::ActiveMask => all(mask),
        Special::ReservedShared => all(context.shared_bytes.next_multiple_of(16)),
        Special::Workspace(upper) => [context.workspace >> if upper { 32 } else { 0 } & 0xffff_ffff; WARP],
        Special::DynamicBase => all(context.dynamic_base),
        Special::FrameBase => {
            debug_assert_ne!(group.frame, NO_FRAME);
            all(warp.frames.get(group.frame as usize).map_or(0, |frame| frame.local_base))
        }
    }
}
