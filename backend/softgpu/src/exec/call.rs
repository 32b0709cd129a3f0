//! Calls and returns, and the functions that the runtime provides.

use super::Fault;
use super::block::{Block, Context};
use super::inst::{CallSite, Callee, MemSpace, Op};
use super::memory::{BadAccess, MAX_LOCAL, View, lanes};
use super::printf;
use super::step::bad_access;
use super::warp::{Group, Warp};
use crate::ptx::ast::FUNCTION_WINDOW;

/// Deepest recursion.
const MAX_DEPTH: u32 = 16384;
/// Longest text that `%s` and messages of assertions take from memory.
const MAX_STRING: usize = 1 << 16;

/// Takes `size` bytes of stack for a frame; `None` when there is no more.
pub(crate) fn take_stack(warp: &mut Warp, frame: u32, size: u64, align: u32) -> Option<u32> {
    let frame = warp.frames.get_mut(frame as usize)?;
    let start = frame.local_top.checked_next_multiple_of(align)?;
    let end = u32::try_from(u64::from(start).checked_add(size)?).ok().filter(|end| *end <= MAX_LOCAL)?;
    frame.local_top = end;
    warp.local.reserve(end);
    Some(start)
}

/// Executes a call. True if the function was one of the runtime's and is done.
pub(crate) fn call(
    context: &Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    group: &Group,
    mask: u32,
    site: &CallSite,
) -> Result<bool, Fault> {
    match site.callee {
        Callee::Direct(function) => {
            warp.ready(group.mask & !mask, group.pc + 1, group.frame);
            enter(context, block, warp, group, mask, function, site)?;
            Ok(false)
        }
        Callee::Pointer(source) => {
            let targets = *warp.frames[group.frame as usize].source(&context.program.constants, source);
            warp.ready(group.mask & !mask, group.pc + 1, group.frame);
            let mut left = mask;
            while let Some(lane) = lanes(left).next() {
                let target = targets[lane as usize];
                let same = lanes(left)
                    .filter(|l| targets[*l as usize] == target)
                    .fold(0, |all, lane| all | 1 << lane);
                left &= !same;
                let Some(function) = function_at(context, target) else {
                    let place = block.place(context, warp, group.pc, same);
                    let reason = format!("call of {target:#x}, which is not a function");
                    return Err(Fault::IllegalInstruction { place, reason });
                };
                enter(context, block, warp, group, same, function, site)?;
            }
            Ok(false)
        }
        _ => {
            for lane in lanes(mask) {
                built_in(context, block, warp, group, lane, site)?;
            }
            Ok(true)
        }
    }
}

fn function_at(context: &Context<'_>, address: u64) -> Option<u32> {
    let ordinal = address.checked_sub(FUNCTION_WINDOW)?;
    if ordinal & 15 != 0 {
        return None;
    }
    let index = usize::try_from(ordinal / 16).ok()?.checked_sub(1)?;
    context.program.functions.get(index)?.entry?;
    u32::try_from(index).ok()
}

fn enter(
    context: &Context<'_>,
    block: &Block,
    warp: &mut Warp,
    group: &Group,
    mask: u32,
    function: u32,
    site: &CallSite,
) -> Result<(), Fault> {
    let program = context.program;
    let (Some(code), Some(formal)) =
        (program.functions.get(function as usize), program.module.functions.get(function as usize))
    else {
        return Ok(());
    };
    let caller = &warp.frames[group.frame as usize];
    let (caller_base, depth) = (caller.local_base, caller.depth + 1);
    let base = caller.local_top.next_multiple_of(16);
    let top = base.saturating_add(code.frame);
    if top > MAX_LOCAL || depth > MAX_DEPTH {
        let bad = BadAccess {
            lane: mask.trailing_zeros(),
            address: u64::from(base),
            length: u64::from(code.frame),
            misaligned: false,
        };
        return Err(bad_access(context, block, warp, group.pc, bad));
    }
    warp.local.reserve(top);
    for (actual, formal) in site.arguments.iter().zip(&formal.params) {
        for lane in lanes(mask) {
            let size = actual.1.min(formal.size);
            warp.local.copy(lane, caller_base + actual.0, base + formal.offset, size);
        }
    }
    let mut frame = warp.registers(code.values, code.preds);
    frame.parent = group.frame;
    frame.function = function;
    frame.return_pc = group.pc + 1;
    frame.depth = depth;
    (frame.local_base, frame.local_top) = (base, top);
    frame.alive = mask;
    let frame = warp.new_frame(frame);
    warp.ready(mask, code.entry.unwrap_or(0), frame);
    Ok(())
}

/// Returns lanes to their caller, with the values that the function returns.
pub(crate) fn give_back(context: &Context<'_>, warp: &mut Warp, frame: u32, mask: u32) {
    let Some(left) = warp.frames.get(frame as usize) else { return };
    let (base, parent, pc, function) = (left.local_base, left.parent, left.return_pc, left.function);
    let caller_base = warp.frames.get(parent as usize).map_or(0, |frame| frame.local_base);
    let call = context.program.code.get(pc.wrapping_sub(1) as usize).map(|inst| &inst.op);
    if let (Some(Op::Call(site)), Some(formal)) =
        (call, context.program.module.functions.get(function as usize))
    {
        for (actual, formal) in site.returns.iter().zip(&formal.returns) {
            for lane in lanes(mask) {
                warp.local.copy(
                    lane,
                    base + formal.offset,
                    caller_base + actual.0,
                    actual.1.min(formal.size),
                );
            }
        }
    }
    warp.leave_frame(frame, mask);
    warp.ready(mask, pc, parent);
}

/// The arguments of `vprintf`, in memory.
struct Printing<'a, 'b> {
    view: &'a mut View<'b>,
    lane: u32,
    buffer: u64,
}

impl printf::Arguments for Printing<'_, '_> {
    type Error = BadAccess;

    fn value(&mut self, offset: u64, size: u32) -> Result<u64, BadAccess> {
        let mut value = [0];
        self.view.read(MemSpace::Generic, self.lane, self.buffer.wrapping_add(offset), size, &mut value)?;
        Ok(value[0])
    }

    fn string(&mut self, address: u64) -> Result<Vec<u8>, BadAccess> {
        self.view.string(self.lane, address, MAX_STRING)
    }
}

enum Effect {
    Returns(u64),
    Prints(Vec<u8>, u32),
    Fails(String),
    /// A condition of the running graph, by its handle, and its new value.
    Sets(u64, u32),
}

fn built_in(
    context: &Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    group: &Group,
    lane: u32,
    site: &CallSite,
) -> Result<(), Fault> {
    let base = u64::from(warp.frames[group.frame as usize].local_base);
    let thread = warp.tids.get(lane as usize).copied().unwrap_or_default();
    let index = block.index;
    let mut local = std::mem::take(&mut warp.local);
    let effect = effect(&mut block.view(context, &mut local), lane, base, site, (index, thread));
    warp.local = local;
    let value = match effect.map_err(|bad| bad_access(context, block, warp, group.pc, bad))? {
        Effect::Fails(message) => {
            let place = block.place(context, warp, group.pc, 1 << lane);
            return Err(Fault::Assert { place, message });
        }
        Effect::Prints(text, count) => {
            block.output.extend_from_slice(&text);
            u64::from(count)
        }
        Effect::Sets(condition, value) => {
            context.memory.set_conditional(condition, value);
            0
        }
        Effect::Returns(value) => value,
    };
    if let Some((offset, size)) = site.returns.first().copied() {
        let mut local = std::mem::take(&mut warp.local);
        let at = base + u64::from(offset);
        let written =
            block.view(context, &mut local).write(MemSpace::Local, lane, at, size.clamp(1, 8), &[value]);
        warp.local = local;
        written.map_err(|bad| bad_access(context, block, warp, group.pc, bad))?;
    }
    Ok(())
}

fn effect(
    view: &mut View<'_>,
    lane: u32,
    base: u64,
    site: &CallSite,
    (block, thread): ([u32; 3], [u32; 3]),
) -> Result<Effect, BadAccess> {
    let mut arguments = [0u64; 5];
    for (value, (offset, size)) in arguments.iter_mut().zip(&site.arguments) {
        let at = base + u64::from(*offset);
        view.read(MemSpace::Local, lane, at, (*size).clamp(1, 8), std::slice::from_mut(value))?;
    }
    match site.callee {
        Callee::Print => {
            let format = view.string(lane, arguments[0], MAX_STRING)?;
            let mut printing = Printing { view, lane, buffer: arguments[1] };
            let (text, count) = printf::format(&format, &mut printing)?;
            Ok(Effect::Prints(text, count))
        }
        Callee::AssertFail => {
            let mut text = |address| {
                view.string(lane, address, MAX_STRING).map(|text| String::from_utf8_lossy(&text).into_owned())
            };
            let (message, file, function) = (text(arguments[0])?, text(arguments[1])?, text(arguments[3])?);
            let line = arguments[2] as u32;
            let ([bx, by, bz], [tx, ty, tz]) = (block, thread);
            Ok(Effect::Fails(format!(
                "{file}:{line}: {function}: block: [{bx},{by},{bz}], thread: [{tx},{ty},{tz}] Assertion `{message}` failed."
            )))
        }
        Callee::Malloc => Ok(Effect::Returns(view.heap.allocate(arguments[0]))),
        Callee::Free => {
            let address = arguments[0];
            if address != 0 && !view.heap.release(address) {
                return Err(BadAccess { lane, address, length: 1, misaligned: false });
            }
            Ok(Effect::Returns(0))
        }
        Callee::SetConditional => Ok(Effect::Sets(arguments[0], arguments[1] as u32)),
        Callee::Direct(_) | Callee::Pointer(_) => Ok(Effect::Returns(0)),
    }
}
