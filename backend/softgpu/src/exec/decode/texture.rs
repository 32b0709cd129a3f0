//! Textures and surfaces (PTX sections 9.7.10 and 9.7.11), in the unified mode: one handle is texture and sampler.

use super::opcode::Opcode;
use super::{Decoder, Refusal, exactly};
use crate::exec::inst::{AtomOp, ImageQuery, NOWHERE, Op, Src, SurfAccess, SurfKind, TexFetch, TexLevel};
use crate::exec::texture::{Boundary, Geometry};
use crate::ptx::ast::{Operand, Symbol};
use crate::ptx::types::Ty;

fn geometry_of(name: &str) -> Option<Geometry> {
    Some(match name {
        "1d" => Geometry::D1,
        "2d" => Geometry::D2,
        "3d" => Geometry::D3,
        "a1d" => Geometry::Layered1,
        "a2d" => Geometry::Layered2,
        "cube" => Geometry::Cube,
        "acube" => Geometry::LayeredCube,
        _ => return None,
    })
}

fn query_of(name: &str) -> Option<ImageQuery> {
    Some(match name {
        "width" => ImageQuery::Width,
        "height" => ImageQuery::Height,
        "depth" => ImageQuery::Depth,
        "array_size" => ImageQuery::ArraySize,
        "num_mipmap_levels" => ImageQuery::Levels,
        "normalized_coords" => ImageQuery::Normalized,
        "channel_data_type" => ImageQuery::ChannelType,
        "channel_order" => ImageQuery::ChannelOrder,
        _ => return None,
    })
}

/// The elements of a vector, or the one value.
fn items(operand: &Operand) -> &[Operand] {
    match operand {
        Operand::Vector(items) => items,
        other => std::slice::from_ref(other),
    }
}

/// The handle and the coordinates of `[t, {x, y}]`.
fn handle_and_coordinates(operand: &Operand) -> Result<(&Operand, &[Operand]), Refusal> {
    match operand {
        Operand::Vector(parts) => match parts.as_slice() {
            [Operand::Address(handle, 0), coordinates] => Ok((handle, items(coordinates))),
            _ => Err("a sampler of its own (independent mode) is not supported".to_string()),
        },
        _ => Err("`[handle, coordinates]` expected".to_string()),
    }
}

impl Decoder<'_> {
    /// True where the opcode is one of these.
    pub(super) fn texture(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<bool, Refusal> {
        match opcode.name {
            "tex" => self.fetch(opcode, operands)?,
            "tld4" => self.gather(opcode, operands)?,
            "txq" | "suq" => self.query(opcode, operands)?,
            "suld" => self.surface_load(opcode, operands)?,
            "sust" => self.surface_store(opcode, operands)?,
            "sured" => self.surface_reduce(opcode, operands)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn handle(&mut self, operand: &Operand) -> Result<Src, Refusal> {
        match operand {
            Operand::Reg(_) | Operand::Symbol(Symbol::Variable(_), _) => self.value(operand, Ty::U64),
            _ => Err("only handles in registers and variables are supported".to_string()),
        }
    }

    /// Where to fetch: handle, coordinates within the layer, layer.
    fn image_position(
        &mut self,
        operand: &Operand,
        geometry: Geometry,
        ty: Ty,
    ) -> Result<(Src, [Src; 3], Src), Refusal> {
        let (handle, mut coordinates) = handle_and_coordinates(operand)?;
        let handle = self.handle(handle)?;
        let mut layer = self.constant(0);
        if geometry.is_layered() {
            let [first, rest @ ..] = coordinates else { return Err("coordinates missing".to_string()) };
            layer = self.value(first, Ty::U32)?;
            coordinates = rest;
        }
        let at = self.triple(coordinates, geometry.dimensions(), ty)?;
        Ok((handle, at, layer))
    }

    /// The first `count` operands; what is behind them fills vectors up to four elements and means nothing.
    fn triple(&mut self, operands: &[Operand], count: usize, ty: Ty) -> Result<[Src; 3], Refusal> {
        let mut all = [self.constant(0); 3];
        if operands.len() < count || operands.len() > 4 {
            return Err(format!("{} coordinates where {count} are expected", operands.len()));
        }
        for (place, operand) in all.iter_mut().zip(operands.iter().take(count)) {
            *place = self.value(operand, ty)?;
        }
        Ok(all)
    }

    /// The registers of `{a, b, c, d}` or `{a, b, c, d}|p`.
    fn results(&mut self, operand: &Operand, count: usize) -> Result<([u32; 4], u32), Refusal> {
        let (operand, resident) = match operand {
            Operand::Pair(d, p) => (d.as_ref(), self.pred_destination(p)?),
            operand => (operand, NOWHERE),
        };
        let found = items(operand);
        if found.len() != count {
            return Err(format!("{} results where {count} are expected", found.len()));
        }
        let mut d = [NOWHERE; 4];
        for (place, item) in d.iter_mut().zip(found) {
            if *item != Operand::Sink {
                *place = self.destination(item)?;
            }
        }
        Ok((d, resident))
    }

    /// Takes `.v4.f32.s32` and the like: whether results are packed halves, how many, and the coordinates' type.
    fn fetch_types(opcode: &mut Opcode<'_>) -> Result<(bool, usize, Ty), Refusal> {
        let coordinates = opcode.ty()?;
        let (result, count) = (opcode.ty()?, Self::take_vector(opcode));
        let packed = match (result, count) {
            (Ty::F32 | Ty::U32 | Ty::S32, 4) => false,
            (Ty::F16x2, 2) => true,
            _ => return Err(format!("results of `{}` are not supported", opcode.full)),
        };
        match coordinates {
            Ty::F32 | Ty::S32 | Ty::U32 => Ok((packed, usize::from(count), coordinates)),
            _ => Err(format!("coordinates of `{}` are not supported", opcode.full)),
        }
    }

    fn fetch(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<(), Refusal> {
        let (packed, count, ty) = Self::fetch_types(opcode)?;
        let geometry = opcode.take_map(geometry_of).ok_or("`tex` has no known geometry")?;
        let (is_level, is_gradient) = (opcode.take("level"), opcode.take("grad"));
        opcode.ignore(&["base"]);
        let [d, place, rest @ ..] = operands else { return Err("operands missing".to_string()) };
        let (d, resident) = self.results(d, count)?;
        let (handle, at, layer) = self.image_position(place, geometry, ty)?;
        let level = match rest {
            [] if !is_level && !is_gradient => TexLevel::Base,
            [level] if is_level => TexLevel::Level(self.value(level, ty)?),
            [x, y] if is_gradient => {
                let dimensions = geometry.dimensions();
                let [x, y] = [x, y].map(|by| self.triple(items(by), dimensions, Ty::F32));
                TexLevel::Gradient([x?, y?])
            }
            _ => return Err("offsets and depth comparison are not supported".to_string()),
        };
        let integer = ty != Ty::F32;
        let fetch =
            TexFetch { handle, geometry, at, layer, integer, level, gather: None, packed, d, resident };
        self.emit(Op::Texture(Box::new(fetch)));
        Ok(())
    }

    fn gather(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<(), Refusal> {
        let (packed, count, ty) = Self::fetch_types(opcode)?;
        let geometry = opcode.take_map(geometry_of).filter(|g| g.dimensions() != 1 && *g != Geometry::D3);
        let geometry = geometry.ok_or("`tld4` has no known geometry")?;
        let channel = opcode.take_map(|m| match m {
            "r" => Some(0),
            "g" => Some(1),
            "b" => Some(2),
            "a" => Some(3),
            _ => None,
        });
        let gather = Some(channel.ok_or("`tld4` has no channel")?);
        if packed || ty != Ty::F32 {
            return Err(format!("`{}` is not supported", opcode.full));
        }
        let [d, place] = exactly(operands)?;
        let (d, resident) = self.results(d, count)?;
        let (handle, at, layer) = self.image_position(place, geometry, ty)?;
        let level = TexLevel::Base;
        let integer = false;
        let fetch = TexFetch { handle, geometry, at, layer, integer, level, gather, packed, d, resident };
        self.emit(Op::Texture(Box::new(fetch)));
        Ok(())
    }

    fn query(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<(), Refusal> {
        if opcode.ty()? != Ty::B32 {
            return Err("a query gives 32 bits".to_string());
        }
        let query = opcode.take_map(query_of).ok_or_else(|| format!("`{}` is not supported", opcode.full))?;
        let is_surface = opcode.name == "suq";
        let [d, Operand::Address(handle, 0)] = exactly(operands)? else {
            return Err("`d, [handle]` expected".to_string());
        };
        let (d, handle) = (self.destination(d)?, self.handle(handle)?);
        self.emit(Op::Query { d, handle, query, is_surface });
        Ok(())
    }

    /// Takes `.b.2d.v2.b32.clamp` and the like; the rest is the kind.
    fn surface_access(
        &mut self,
        opcode: &mut Opcode<'_>,
        place: &Operand,
        kind: impl FnOnce(&mut Self, Ty, usize) -> Result<SurfKind, Refusal>,
    ) -> Result<(), Refusal> {
        let boundary = opcode.take_map(|m| match m {
            "trap" => Some(Boundary::Trap),
            "clamp" => Some(Boundary::Clamp),
            "zero" => Some(Boundary::Zero),
            _ => None,
        });
        // The PTX default.
        let boundary = boundary.unwrap_or(Boundary::Trap);
        if !opcode.take("b") {
            return Err("only unformatted access (`.b`) of surfaces is supported".to_string());
        }
        opcode.ignore(&["ca", "cg", "cs", "cv", "wb", "wt"]);
        let ty = opcode.ty()?;
        let geometry = opcode.take_map(geometry_of).ok_or("a surface access has no known geometry")?;
        let count = Self::take_vector(opcode);
        if !matches!(count, 1 | 2 | 4) || u32::from(count) * ty.size() > 16 || ty == Ty::Pred {
            return Err(format!("width of `{}` is not supported", opcode.full));
        }
        let kind = kind(self, ty, usize::from(count))?;
        let (handle, mut at, layer) = self.image_position(place, geometry, Ty::S32)?;
        if geometry.is_layered() {
            at[2] = layer;
        }
        let size = u8::try_from(ty.size()).unwrap_or(8);
        self.emit(Op::Surface(Box::new(SurfAccess { handle, at, size, count, boundary, kind })));
        Ok(())
    }

    fn surface_load(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<(), Refusal> {
        let [d, place] = exactly(operands)?;
        self.surface_access(opcode, place, |this, _, count| Ok(SurfKind::Load(this.results(d, count)?.0)))
    }

    fn surface_store(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<(), Refusal> {
        let [place, values] = exactly(operands)?;
        self.surface_access(opcode, place, |this, ty, count| {
            let found = items(values);
            if found.len() != count {
                return Err(format!("{} values where {count} are expected", found.len()));
            }
            let mut values = [this.constant(0); 4];
            for (place, value) in values.iter_mut().zip(found) {
                *place = this.value(value, ty)?;
            }
            Ok(SurfKind::Store(values))
        })
    }

    fn surface_reduce(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<(), Refusal> {
        let op = opcode.take_map(|m| match m {
            "add" => Some(AtomOp::Add),
            "min" => Some(AtomOp::Min),
            "max" => Some(AtomOp::Max),
            "and" => Some(AtomOp::And),
            "or" => Some(AtomOp::Or),
            _ => None,
        });
        let op = op.ok_or("`sured` has no known operation")?;
        let [place, value] = exactly(operands)?;
        self.surface_access(opcode, place, |this, ty, count| {
            if count != 1 || ty.size() < 4 {
                return Err("`sured` takes one value of 32 or 64 bits".to_string());
            }
            Ok(SurfKind::Reduce { op, ty, b: this.value(value, ty)? })
        })
    }
}
