//! What both generators say about types.

use super::CodegenError;
use crate::api::{Direction, Function, Parameter, Type, struct_layout};

/// Rust keywords that the API uses as parameter names.
pub fn identifier(name: &str) -> String {
    match name {
        "mod" | "type" | "ref" | "in" | "fn" | "use" => format!("{name}_"),
        _ => name.to_string(),
    }
}

/// The Rust type of one element at the C border: handles and device pointers are numbers.
pub fn element(function: &Function, p: &Parameter) -> Result<String, CodegenError> {
    Ok(match &p.ty {
        Type::Scalar(s) => (*s).to_string(),
        Type::Device => "i32".into(),
        Type::Handle(_) | Type::DevPtr | Type::Callback => "u64".into(),
        Type::Str => "std::ffi::c_char".into(),
        Type::Pointer => "*mut std::ffi::c_void".into(),
        Type::Struct(name) => {
            let (size, align) = struct_layout(name).ok_or_else(|| CodegenError::Unsupported {
                function: function.name.clone(),
                reason: format!("the size of structure {name} is not known"),
            })?;
            format!("vgpu_spec::plain::Blob{align}<{size}>")
        }
    })
}

/// Bytes of one element on the wire.
pub fn element_size(function: &Function, p: &Parameter) -> Result<usize, CodegenError> {
    Ok(match &p.ty {
        Type::Scalar("u8") => 1,
        Type::Scalar("u16") => 2,
        Type::Scalar("u32" | "i32" | "f32") => 4,
        Type::Struct(name) => struct_layout(name).map(|l| l.0).ok_or_else(|| CodegenError::Unsupported {
            function: function.name.clone(),
            reason: format!("the size of structure {name} is not known"),
        })?,
        _ => 8,
    })
}

/// The parameter's type in the exported C signature.
pub fn c_type(function: &Function, p: &Parameter) -> Result<String, CodegenError> {
    let e = element(function, p)?;
    Ok(match (p.direction, &p.ty) {
        (Direction::Value, Type::Str) => "*const std::ffi::c_char".into(),
        (Direction::Value, _) => e,
        (Direction::In, _) => format!("*const {e}"),
        (Direction::Out | Direction::New | Direction::Made, _) => format!("*mut {e}"),
    })
}

/// An expression that turns the value `name` of a scalar, handle or device pointer into a u64 slot.
pub fn to_slot(p: &Parameter, name: &str) -> String {
    match &p.ty {
        Type::Scalar("f32" | "f64") => format!("u64::from({name}.to_bits())"),
        Type::Scalar("i32") | Type::Device => format!("u64::from({name}.cast_unsigned())"),
        Type::Scalar("i64") => format!("{name}.cast_unsigned()"),
        Type::Scalar("u8" | "u16" | "u32") => format!("u64::from({name})"),
        Type::Scalar("usize") => format!("({name} as u64)"),
        _ => name.to_string(),
    }
}

/// An expression that reads a scalar, handle or device pointer from reader `r`: what does not fit its type is refused.
pub fn read_slot(p: &Parameter) -> String {
    match &p.ty {
        Type::Scalar("f32") => "f32::from_bits(r.u32()?)".into(),
        Type::Scalar("f64") => "f64::from_bits(r.u64()?)".into(),
        Type::Scalar("i32") | Type::Device => "r.u32()?.cast_signed()".into(),
        Type::Scalar("i64") => "r.u64()?.cast_signed()".into(),
        Type::Scalar("u32") => "r.u32()?".into(),
        Type::Scalar(s @ ("u8" | "u16" | "usize")) => format!("narrow::<{s}>(r.u64()?)?"),
        _ => "r.u64()?".into(),
    }
}

/// An expression that turns the u64 `slot` into the parameter's element type.
pub fn from_slot(p: &Parameter, slot: &str) -> String {
    match &p.ty {
        Type::Scalar("f32") => format!("f32::from_bits({slot} as u32)"),
        Type::Scalar("f64") => format!("f64::from_bits({slot})"),
        Type::Scalar("i32") | Type::Device => format!("({slot} as u32).cast_signed()"),
        Type::Scalar("i64") => format!("{slot}.cast_signed()"),
        Type::Scalar(s @ ("u8" | "u16" | "u32" | "usize")) => format!("({slot} as {s})"),
        _ => slot.to_string(),
    }
}
