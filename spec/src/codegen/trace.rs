//! What the shim's trace knows of a symbol: its parameters as a table, and the arguments as numbers.

use super::text::{identifier, to_slot};
use crate::api::{Class, Count, Direction, Function, Parameter, Type, struct_layout};

/// The `Site` of a symbol, as an expression.
pub fn site(f: &Function, suffix: &str) -> String {
    // What refuses every call does not look at its arguments.
    let shown: &[Parameter] = if f.class == Class::Unsupported { &[] } else { &f.parameters };
    let reason = f.reason.as_deref().unwrap_or_default();
    let parameters: Vec<String> = shown.iter().map(|p| parameter(f, p)).collect();
    format!(
        "crate::trace::Site {{ name: \"{}{suffix}\", class: \"{}\", parameters: &[{}], reason: {reason:?} }}",
        f.name,
        f.class.name(),
        parameters.join(", ")
    )
}

fn parameter(f: &Function, p: &Parameter) -> String {
    let passing = match p.direction {
        Direction::Value => "Value",
        Direction::In => "In",
        Direction::Out | Direction::New | Direction::Made => "Out",
    };
    let count = match &p.count {
        None => "One".into(),
        Some(Count::Fixed(n)) => format!("Fixed({n})"),
        Some(Count::Parameter(name)) => match f.parameters.iter().position(|q| q.name == *name) {
            Some(index) => format!("Argument({index})"),
            None => "One".into(),
        },
    };
    format!(
        "crate::trace::Parameter {{ name: \"{}\", passing: crate::trace::Passing::{passing}, kind: crate::trace::Kind::{}, count: crate::trace::Count::{count} }}",
        p.name,
        kind(&p.ty)
    )
}

fn kind(ty: &Type) -> String {
    match ty {
        Type::Scalar("u8") => "Unsigned(1)".into(),
        Type::Scalar("u16") => "Unsigned(2)".into(),
        Type::Scalar("u32") => "Unsigned(4)".into(),
        Type::Scalar("i32") | Type::Device => "Signed(4)".into(),
        Type::Scalar("i64") => "Signed(8)".into(),
        Type::Scalar("f32") => "F32".into(),
        Type::Scalar("f64") => "F64".into(),
        Type::Scalar(_) => "Unsigned(8)".into(),
        Type::Handle(_) => "Handle".into(),
        Type::DevPtr | Type::Pointer | Type::Callback => "Address".into(),
        Type::Str => "Text".into(),
        Type::Struct(name) => {
            format!("Structure(\"{name}\", {})", struct_layout(name).map_or(0, |layout| layout.0))
        }
    }
}

/// The arguments as an array of u64: values, and addresses of what is passed by address.
pub fn arguments(f: &Function) -> String {
    let each: Vec<String> = f
        .parameters
        .iter()
        .map(|p| {
            let n = identifier(&p.name);
            match (p.direction, &p.ty) {
                (Direction::Value, Type::Struct(_)) => format!("(&raw const {n}).addr() as u64"),
                (Direction::Value, Type::Str | Type::Pointer) => format!("{n}.addr() as u64"),
                (Direction::Value, _) => to_slot(p, &n),
                _ => format!("{n}.addr() as u64"),
            }
        })
        .collect();
    format!("[{}] as [u64; {}]", each.join(", "), each.len())
}
