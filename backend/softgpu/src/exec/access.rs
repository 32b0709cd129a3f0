//! Loads, stores and atomics of a group of lanes.

use std::sync::atomic::{Ordering, fence};

use super::Fault;
use super::atomic::compute;
use super::block::{Block, Context};
use super::inst::{Address, Atom, CopyAsync, Load, MemSpace, NOWHERE, Src, Store};
use super::lanes::{Lanes, WARP};
use super::memory::{BadAccess, View, lanes, read_global, resolve, write_global};
use super::step::bad_access;
use super::warp::{Group, Warp};

/// The address of each lane, and the space that they all are in if it is one.
fn addresses(
    context: &Context<'_>,
    warp: &Warp,
    group: &Group,
    mask: u32,
    address: &Address,
) -> (MemSpace, Lanes) {
    let frame = &warp.frames[group.frame as usize];
    let mut offset = address.offset.cast_unsigned();
    if address.frame {
        offset = offset.wrapping_add(u64::from(frame.local_base));
    }
    if address.dynamic {
        offset = offset.wrapping_add(u64::from(context.dynamic_base));
    }
    let mut all = *frame.source(&context.program.constants, address.base);
    all.iter_mut().for_each(|a| *a = a.wrapping_add(offset));
    let mut space = address.space;
    if space == MemSpace::Generic && lanes(mask).all(|lane| resolve(all[lane as usize]).0 == MemSpace::Global)
    {
        space = MemSpace::Global;
    }
    (space, all)
}

/// Runs `f` with the memory that the lanes of `warp` can reach.
fn with_view<T>(
    context: &Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    pc: u32,
    f: impl FnOnce(&mut View<'_>) -> Result<T, BadAccess>,
) -> Result<T, Fault> {
    let mut local = std::mem::take(&mut warp.local);
    let result = f(&mut block.view(context, &mut local));
    warp.local = local;
    result.map_err(|bad| bad_access(context, block, warp, pc, bad))
}

fn extend(value: u64, size: u8, signed: bool) -> u64 {
    if !signed || size >= 8 {
        return value;
    }
    let shift = 64 - 8 * u32::from(size);
    ((value << shift).cast_signed() >> shift).cast_unsigned()
}

pub(crate) fn load(
    context: &Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    group: &Group,
    mask: u32,
    load: &Load,
) -> Result<(), Fault> {
    let (space, from) = addresses(context, warp, group, mask, &load.address);
    let (size, count) = (u32::from(load.size), usize::from(load.count));
    let mut out = [[0u64; WARP]; 8];
    with_view(context, block, warp, group.pc, |view| {
        if space == MemSpace::Global {
            view.check_global(&from, mask, u64::from(size) * count as u64)?;
            for (element, values) in (0u64..).zip(out.iter_mut().take(count)) {
                for lane in lanes(mask) {
                    let address = from[lane as usize].wrapping_add(element * u64::from(size));
                    // SAFETY: `check_global` has found the whole access of each lane accessible and aligned.
                    values[lane as usize] = unsafe { read_global(address, size) };
                }
            }
            return Ok(());
        }
        let mut elements = [0u64; 8];
        for lane in lanes(mask) {
            view.read(space, lane, from[lane as usize], size, &mut elements[..count])?;
            for (values, element) in out.iter_mut().zip(&elements[..count]) {
                values[lane as usize] = *element;
            }
        }
        Ok(())
    })?;
    if load.acquire {
        fence(Ordering::SeqCst);
    }
    let frame = &mut warp.frames[group.frame as usize];
    for (d, values) in load.d.iter().zip(&mut out).take(count).filter(|(d, _)| **d != NOWHERE) {
        if load.signed {
            values.iter_mut().for_each(|value| *value = extend(*value, load.size, true));
        }
        frame.write(*d, mask, values);
    }
    Ok(())
}

pub(crate) fn store(
    context: &Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    group: &Group,
    mask: u32,
    store: &Store,
) -> Result<(), Fault> {
    let (space, to) = addresses(context, warp, group, mask, &store.address);
    let (size, count) = (u32::from(store.size), usize::from(store.count));
    let mut values = [[0u64; WARP]; 8];
    let frame = &warp.frames[group.frame as usize];
    for (value, source) in values.iter_mut().zip(&store.values).take(count) {
        *value = *frame.source(&context.program.constants, *source);
    }
    if store.release {
        fence(Ordering::SeqCst);
    }
    with_view(context, block, warp, group.pc, |view| {
        if space == MemSpace::Global {
            view.check_global(&to, mask, u64::from(size) * count as u64)?;
            for (element, values) in (0u64..).zip(values.iter().take(count)) {
                for lane in lanes(mask) {
                    let address = to[lane as usize].wrapping_add(element * u64::from(size));
                    // SAFETY: `check_global` has found the whole access of each lane accessible and aligned.
                    unsafe { write_global(address, size, values[lane as usize]) };
                }
            }
            return Ok(());
        }
        let mut elements = [0u64; 8];
        for lane in lanes(mask) {
            for (element, values) in elements.iter_mut().zip(&values).take(count) {
                *element = values[lane as usize];
            }
            view.write(space, lane, to[lane as usize], size, &elements[..count])?;
        }
        Ok(())
    })
}

pub(crate) fn atomic(
    context: &Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    group: &Group,
    mask: u32,
    atom: &Atom,
) -> Result<(), Fault> {
    let (space, at) = addresses(context, warp, group, mask, &atom.address);
    let frame = &warp.frames[group.frame as usize];
    let operand = |source: Src| *frame.source(&context.program.constants, source);
    let (b, c) = (operand(atom.b), operand(atom.c));
    let mut old = [0u64; WARP];
    with_view(context, block, warp, group.pc, |view| {
        for lane in lanes(mask) {
            let i = lane as usize;
            let new = |old| compute(atom.op, atom.ty, old, b[i], c[i]);
            old[i] = view.update(space, lane, at[i], atom.ty.size(), new)?;
        }
        Ok(())
    })?;
    if atom.d != NOWHERE {
        warp.frames[group.frame as usize].write(atom.d, mask, &old);
    }
    Ok(())
}

pub(crate) fn copy_async(
    context: &Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    group: &Group,
    mask: u32,
    copy: &CopyAsync,
) -> Result<(), Fault> {
    let (from_space, from) = addresses(context, warp, group, mask, &copy.from);
    let (to_space, to) = addresses(context, warp, group, mask, &copy.to);
    let frame = &warp.frames[group.frame as usize];
    let sizes = copy.source_size.map(|source| *frame.source(&context.program.constants, source));
    let ignored = copy.ignore.map_or(0, |p| frame.predicate(p));
    with_view(context, block, warp, group.pc, |view| {
        for lane in lanes(mask) {
            let i = lane as usize;
            let mut wanted = sizes.map_or(copy.size, |sizes| (sizes[i] as u32).min(copy.size));
            if ignored >> lane & 1 == 1 {
                wanted = 0;
            }
            let mut bytes = [0u64; 16];
            let wanted = wanted as usize;
            for (n, byte) in (0u64..).zip(bytes.iter_mut().take(wanted)) {
                view.read(from_space, lane, from[i].wrapping_add(n), 1, std::slice::from_mut(byte))?;
            }
            let length = u64::from(copy.size);
            for address in [to[i], from[i]] {
                if address & (length - 1) != 0 {
                    return Err(BadAccess { lane, address, length, misaligned: true });
                }
            }
            view.write(to_space, lane, to[i], 1, &bytes[..copy.size as usize])?;
        }
        Ok(())
    })
}
