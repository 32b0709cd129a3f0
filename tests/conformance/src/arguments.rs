//! The good arguments of a call, by the description's types and names; [`crate::special`] knows better for some.

use crate::{
    attributes,
    driver::Call,
    fixtures::{self, Fixtures},
    memory::Piece,
    plan::{self, Change},
    special, structs,
};
use vgpu_spec::api::{self, Count, Direction, Function, HANDLE_KINDS, Parameter, Type};

/// How what a call wrote is shown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Show {
    Nothing,
    /// Numbers of this type.
    Numbers(&'static str, usize),
    /// Handles or addresses: only which fixture they are, or whether they are null.
    Handles(usize),
    /// A structure of this many bytes; these words of it are handles, and of these the upper half is padding.
    Struct(usize, &'static [usize], &'static [usize]),
    /// These words of a structure, whose others are the driver's own.
    Words(&'static [usize]),
    /// Bytes that mean something to the driver only: whether there are any.
    Opaque(usize),
    Text,
    /// A pointer to a string.
    TextPointer,
    /// Only whether something was written.
    Written,
}

#[derive(Debug, Clone, Copy)]
pub enum Value {
    Integer(u64),
    Float(f32),
    Big([u64; 8]),
}

/// One parameter, ready.
#[derive(Debug, Clone, Copy)]
pub struct Argument {
    pub value: Value,
    /// What is shown of the memory that it points to.
    pub output: Option<(Piece, Show)>,
}

impl Argument {
    pub fn integer(value: u64) -> Argument {
        Argument { value: Value::Integer(value), output: None }
    }

    /// A pointer to memory that begins with `bytes`.
    pub fn input(bytes: &[u8]) -> Argument {
        Argument::integer(Piece::with(bytes).0)
    }

    /// A pointer to memory that the call may write.
    pub fn output(bytes: &[u8], show: Show) -> Argument {
        let piece = Piece::with(bytes);
        Argument { value: Value::Integer(piece.0), output: Some((piece, show)) }
    }
}

/// What outputs hold before the call.
pub const UNTOUCHED: u8 = 0xa5;

fn width(scalar: &str) -> usize {
    match scalar {
        "u8" => 1,
        "u16" => 2,
        "u32" | "i32" | "f32" => 4,
        _ => 8,
    }
}

/// A kind's name with the description's life time.
pub fn kind(name: &str) -> &'static str {
    HANDLE_KINDS.iter().find(|k| **k == name).copied().unwrap_or("Callable")
}

/// The good arguments of `f`.
pub fn good(fx: &mut Fixtures, f: &Function) -> Vec<Argument> {
    f.parameters.iter().map(|p| special::good(fx, f, &p.name).unwrap_or_else(|| by_type(fx, f, p))).collect()
}

fn by_type(fx: &mut Fixtures, f: &Function, p: &Parameter) -> Argument {
    match p.direction {
        Direction::Value => value(fx, f, p),
        Direction::In => match &p.ty {
            Type::Struct(name) => Argument::input(&structs::good(fx, name)),
            Type::Handle(name) => Argument::input(&fx.get(kind(name)).to_ne_bytes()),
            _ => Argument::input(&[0; 64]),
        },
        Direction::Out | Direction::New | Direction::Made => output(fx, f, p),
    }
}

fn output(fx: &mut Fixtures, f: &Function, p: &Parameter) -> Argument {
    let count = match &p.count {
        Some(Count::Fixed(n)) => *n,
        Some(Count::Parameter(_)) => 2,
        None => 1,
    };
    let untouched = |len| vec![UNTOUCHED; len];
    match &p.ty {
        _ if attributes::object(&p.name).is_some() => Argument::output(&untouched(8), Show::Handles(1)),
        Type::Scalar("u8") => Argument::output(&untouched(256), Show::Text),
        Type::Scalar(scalar) => {
            let show = if attributes::is_volatile(&f.name, &p.name) {
                Show::Written
            } else {
                Show::Numbers(scalar, count)
            };
            Argument::output(&untouched(width(scalar) * count), show)
        }
        Type::Struct(name) => {
            let len = api::struct_layout(name).map_or(64, |l| l.0);
            let bytes = if attributes::is_input(f, &p.name) { structs::good(fx, name) } else { vec![0; len] };
            let show = match structs::documented_words(name) {
                Some(words) => Show::Words(words),
                None if structs::is_opaque(name) => Show::Opaque(len),
                None => Show::Struct(len, structs::volatile_words(name), structs::padded_words(name)),
            };
            Argument::output(&bytes, show)
        }
        _ => Argument::output(&untouched(8 * count), Show::Handles(count)),
    }
}

fn value(fx: &mut Fixtures, f: &Function, p: &Parameter) -> Argument {
    Argument::integer(match &p.ty {
        Type::Handle(name) => fx.get(kind(name)),
        Type::DevPtr if p.name == "dst" || p.name == "dstDevice" => fx.get("other memory"),
        Type::DevPtr => fx.get("memory"),
        Type::Str => fx.get("text"),
        Type::Callback => fixtures::callback(),
        Type::Pointer => fx.get("host"),
        Type::Scalar("f32" | "f64") => return Argument { value: Value::Float(0.5), output: None },
        // Both kinds of struct by value: one fits a register, the others do not.
        Type::Struct(name) if name == "CUmemLocation" => 1,
        Type::Struct(_) => return Argument { value: Value::Big([0; 8]), output: None },
        _ if plan::is_device(p) => 0,
        Type::Scalar(_) => attributes::object(&p.name).map_or_else(|| number(f, &p.name), |o| fx.get(o)),
        Type::Device => 0,
    })
}

/// A good number by the parameter's name.
fn number(_: &Function, name: &str) -> u64 {
    match name {
        "bytesize" | "size" | "dataSize" | "bytes" | "length" => 4096,
        "ByteCount" | "bufferSize" | "len" => 256,
        "count" | "numOps" | "numDevices" | "nbResources" | "numBlocks" | "numPrefetchLocs" | "numAttrs" => 1,
        "N" => 64,
        "Width" | "WidthInBytes" | "minCount" => 16,
        "Height" | "ElementSizeBytes" => 4,
        "dstPitch" | "Pitch" => 256,
        "gridDimX" | "gridDimY" | "gridDimZ" | "blockDimY" | "blockDimZ" | "x" | "y" | "z" => 1,
        "grid_width"
        | "grid_height"
        | "numChannels"
        | "NumPackedComponents"
        | "initialRefcount"
        | "isEnabled" => 1,
        "blockDimX" | "blockSize" => 32,
        "format" | "fmt" => 0x20,
        "numMipmapLevels" | "numKernels" | "numFunctions" => 3,
        "maxAniso" => 4,
        _ => 0,
    }
}

/// The arguments as a call takes them, with one changed.
pub fn call(
    fx: &mut Fixtures,
    f: &Function,
    arguments: &mut [Argument],
    change: Option<(usize, Change)>,
) -> Call {
    if let Some((index, change)) = change {
        let p = &f.parameters[index];
        let value = changed(fx, p, &mut arguments[index], change);
        if let Some(value) = value {
            arguments[index] = Argument { value, output: None };
        }
    }
    let mut call = Call::default();
    let mut floats = 0;
    for argument in arguments.iter() {
        match argument.value {
            Value::Integer(n) => call.integers.push(n),
            Value::Float(x) => {
                if let Some(slot) = call.floats.get_mut(floats) {
                    *slot = x;
                }
                floats += 1;
            }
            Value::Big(words) => call.big = Some(words),
        }
    }
    call
}

fn changed(fx: &mut Fixtures, p: &Parameter, argument: &mut Argument, change: Change) -> Option<Value> {
    Some(Value::Integer(match change {
        Change::Null => 0,
        Change::Set(value) => value,
        Change::Random => 0x0000_0bad_f00d_0000,
        Change::Fixture(name) => fx.get(name),
        Change::Text(text) => fixtures::text(text),
        Change::WrongKind => match &p.ty {
            Type::Handle(name) if name == "Stream" => fx.get("Event"),
            _ => fx.get("Stream"),
        },
        Change::Stale => match (&p.ty, attributes::object(&p.name)) {
            (Type::Handle(name), _) => fx.stale(kind(name)),
            (_, Some(object)) => fx.stale(object),
            _ => fx.stale("DevPtr"),
        },
        Change::Fill(byte) => {
            let len = match &p.ty {
                Type::Struct(name) => api::struct_layout(name).map_or(64, |l| l.0),
                _ => 64,
            };
            // What is no output may be a fixture, which others use.
            let Some((piece, _)) = argument.output else {
                return Some(Value::Integer(Piece::with(&vec![byte; len]).0));
            };
            piece.write(0, &vec![byte; len]);
            return None;
        }
    }))
}
