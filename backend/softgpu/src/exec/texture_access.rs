//! `tex`, `tld4`, `txq` and the surface instructions of a group of lanes.

use std::sync::Arc;

use super::alu_half::narrow;
use super::atomic::{compute, update};
use super::block::{Block, Context};
use super::inst::{ImageQuery, NOWHERE, Src, SurfAccess, SurfKind, TexFetch, TexLevel};
use super::lanes::{Lanes, WARP};
use super::memory::{BadAccess, lanes};
use super::step::bad_access;
use super::texture::{BadTexel, Channel, Image, Layout, Lod, Position, Surface, Texture};
use super::texture::{read_array, write_array};
use super::warp::{Group, Warp};
use super::{Fault, Memory};

/// Objects by handle; the last one is likely wanted again.
struct Cache<T> {
    last: Option<(u64, Arc<T>)>,
    find: fn(&dyn Memory, u64) -> Option<Arc<T>>,
}

impl<T> Cache<T> {
    fn new(find: fn(&dyn Memory, u64) -> Option<Arc<T>>) -> Cache<T> {
        Cache { last: None, find }
    }

    fn get(&mut self, memory: &dyn Memory, lane: u32, handle: u64) -> Result<Arc<T>, BadAccess> {
        if let Some((known, object)) = &self.last
            && *known == handle
        {
            return Ok(Arc::clone(object));
        }
        let found = (self.find)(memory, handle);
        let object = found.ok_or(BadAccess { lane, address: handle, length: 0, misaligned: false })?;
        self.last = Some((handle, Arc::clone(&object)));
        Ok(object)
    }
}

fn signed(bits: u64) -> i32 {
    (bits as u32).cast_signed()
}

fn float(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

/// The operands of a fetch, lane by lane.
struct Operands {
    handle: Lanes,
    at: [Lanes; 3],
    layer: Lanes,
    level: Option<Lanes>,
    gradient: Option<[[Lanes; 3]; 2]>,
}

impl Operands {
    fn position(&self, fetch: &TexFetch, lane: usize) -> Position {
        let lod = match (&self.level, &self.gradient) {
            (Some(level), _) => Lod::Level(float(level[lane])),
            (_, Some(by)) => Lod::Gradient([0, 1].map(|axis| [0, 1, 2].map(|n| float(by[axis][n][lane])))),
            _ => Lod::Base,
        };
        let at = [0, 1, 2].map(|axis| float(self.at[axis][lane]));
        Position { geometry: fetch.geometry, at, layer: self.layer[lane] as u32, lod }
    }

    fn fetch(
        &self,
        fetch: &TexFetch,
        texture: &Texture,
        lane: usize,
        memory: &dyn Memory,
    ) -> Result<[u32; 4], BadTexel> {
        if let Some(channel) = fetch.gather {
            return texture.gather(&self.position(fetch, lane), usize::from(channel), memory);
        }
        if !fetch.integer {
            return texture.sample(&self.position(fetch, lane), memory);
        }
        let at = [0, 1, 2].map(|axis| signed(self.at[axis][lane]));
        let level = self.level.as_ref().map_or(0, |level| signed(level[lane]));
        texture.fetch(fetch.geometry, at, self.layer[lane] as u32, level, memory)
    }
}

pub(crate) fn fetch(
    context: &Context<'_>,
    block: &Block,
    warp: &mut Warp,
    group: &Group,
    mask: u32,
    fetch: &TexFetch,
) -> Result<(), Fault> {
    let frame = &warp.frames[group.frame as usize];
    let source = |source: Src| *frame.source(&context.program.constants, source);
    let operands = Operands {
        handle: source(fetch.handle),
        at: fetch.at.map(source),
        layer: source(fetch.layer),
        level: match fetch.level {
            TexLevel::Level(level) => Some(source(level)),
            _ => None,
        },
        gradient: match fetch.level {
            TexLevel::Gradient(gradient) => Some(gradient.map(|by| by.map(source))),
            _ => None,
        },
    };
    let mut cache = Cache::new(|memory, handle| memory.texture(handle));
    let mut out = [[0u64; WARP]; 4];
    for lane in lanes(mask) {
        let index = lane as usize;
        let answer = cache.get(context.memory, lane, operands.handle[index]).and_then(|texture| {
            let bad = |BadTexel { address, length }| BadAccess { lane, address, length, misaligned: false };
            operands.fetch(fetch, &texture, index, context.memory).map_err(bad)
        });
        let texel = answer.map_err(|bad| bad_access(context, block, warp, group.pc, bad))?;
        if fetch.packed {
            let [r, g, b, a] = texel.map(|bits| u64::from(narrow(f32::from_bits(bits))));
            (out[0][index], out[1][index]) = (r | g << 16, b | a << 16);
        } else {
            out.iter_mut().zip(texel).for_each(|(out, bits)| out[index] = u64::from(bits));
        }
    }
    let frame = &mut warp.frames[group.frame as usize];
    for (d, values) in fetch.d.iter().zip(&out).filter(|(d, _)| **d != NOWHERE) {
        frame.write(*d, mask, values);
    }
    frame.write_predicate(fetch.resident, mask, u32::MAX);
    Ok(())
}

pub(crate) fn surface(
    context: &Context<'_>,
    block: &Block,
    warp: &mut Warp,
    group: &Group,
    mask: u32,
    access: &SurfAccess,
) -> Result<(), Fault> {
    let frame = &warp.frames[group.frame as usize];
    let source = |source: Src| *frame.source(&context.program.constants, source);
    let (handles, at) = (source(access.handle), access.at.map(source));
    let values = match &access.kind {
        SurfKind::Store(values) => values.map(source),
        SurfKind::Reduce { b, .. } => [source(*b); 4],
        SurfKind::Load(_) => [[0; WARP]; 4],
    };
    let mut cache = Cache::new(|memory, handle| memory.surface(handle));
    let mut out = [[0u64; WARP]; 4];
    for lane in lanes(mask) {
        let index = lane as usize;
        let at = at.each_ref().map(|axis| signed(axis[index]));
        let place = cache
            .get(context.memory, lane, handles[index])
            .and_then(|surface| Ok((find(&surface, access, lane, at)?, surface)));
        let (place, _alive) = place.map_err(|bad| bad_access(context, block, warp, group.pc, bad))?;
        let Some(address) = place else { continue };
        for element in 0..usize::from(access.count) {
            let address = address + element as u64 * u64::from(access.size);
            let (size, value) = (u32::from(access.size), values[element][index]);
            match &access.kind {
                // SAFETY: the surface, which `_alive` keeps, has the bytes: `find` has checked the bounds.
                SurfKind::Load(_) => out[element][index] = unsafe { read_array(address, size) },
                // SAFETY: as above.
                SurfKind::Store(_) => unsafe { write_array(address, size, value) },
                SurfKind::Reduce { op, ty, .. } => {
                    // SAFETY: as above, and `find` has checked the alignment of a reduction.
                    unsafe { update(address, size, |old| compute(*op, *ty, old, value, 0)) };
                }
            }
        }
    }
    if let SurfKind::Load(d) = &access.kind {
        let frame = &mut warp.frames[group.frame as usize];
        for (d, values) in d.iter().zip(&out).filter(|(d, _)| **d != NOWHERE) {
            frame.write(*d, mask, values);
        }
    }
    Ok(())
}

/// The address of an access; none where nothing is to be done.
fn find(surface: &Surface, access: &SurfAccess, lane: u32, at: [i32; 3]) -> Result<Option<u64>, BadAccess> {
    let length = u32::from(access.size) * u32::from(access.count);
    let address = u64::from(at[0].cast_unsigned());
    let bad = BadAccess { lane, address, length: u64::from(length), misaligned: false };
    if !address.is_multiple_of(u64::from(length)) {
        return Err(BadAccess { misaligned: true, ..bad });
    }
    let place = surface.image.place(at, length, access.boundary).map_err(|_| bad)?;
    let is_reduction = matches!(access.kind, SurfKind::Reduce { .. });
    match place {
        Some(address) if is_reduction && !address.is_multiple_of(u64::from(length)) => {
            Err(BadAccess { misaligned: true, ..bad })
        }
        place => Ok(place),
    }
}

pub(crate) fn query(
    context: &Context<'_>,
    block: &Block,
    warp: &mut Warp,
    group: &Group,
    mask: u32,
    (d, handle, query, is_surface): (u32, Src, ImageQuery, bool),
) -> Result<(), Fault> {
    let frame = &warp.frames[group.frame as usize];
    let handles = *frame.source(&context.program.constants, handle);
    let mut out = [0u64; WARP];
    for lane in lanes(mask) {
        let handle = handles[lane as usize];
        let memory = context.memory;
        let answer = if is_surface {
            memory.surface(handle).map(|surface| answer(&surface.image, query, false))
        } else {
            memory.texture(handle).map(|it| answer(&it.image, query, it.sampler.normalized))
        };
        let bad = BadAccess { lane, address: handle, length: 0, misaligned: false };
        let answer = answer.ok_or_else(|| bad_access(context, block, warp, group.pc, bad))?;
        out[lane as usize] = u64::from(answer);
    }
    warp.frames[group.frame as usize].write(d, mask, &out);
    Ok(())
}

fn answer(image: &Image, query: ImageQuery, normalized: bool) -> u32 {
    let [width, height, planes] = image.level(0).size;
    let is_plain = matches!(image.layout, Layout::Plain | Layout::Linear);
    match query {
        ImageQuery::Width => width,
        ImageQuery::Height => height,
        ImageQuery::Depth if is_plain => planes,
        ImageQuery::Depth => 1,
        ImageQuery::ArraySize if is_plain => 1,
        ImageQuery::ArraySize => planes,
        ImageQuery::Levels => u32::try_from(image.levels.len()).unwrap_or(u32::MAX),
        ImageQuery::Normalized => u32::from(normalized),
        // As OpenCL numbers them: CL_SIGNED_INT8 and its neighbours, CL_R, CL_RG, CL_RGBA.
        ImageQuery::ChannelType => match image.format.channel {
            Channel::S8 => 0x10d7,
            Channel::S16 => 0x10d8,
            Channel::S32 => 0x10d9,
            Channel::U8 => 0x10da,
            Channel::U16 => 0x10db,
            Channel::U32 => 0x10dc,
            Channel::F16 => 0x10dd,
            Channel::F32 => 0x10de,
        },
        ImageQuery::ChannelOrder => match image.format.channels {
            1 => 0x10b0,
            2 => 0x10b2,
            _ => 0x10b5,
        },
    }
}
