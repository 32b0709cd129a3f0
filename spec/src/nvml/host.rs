//! Functions that the host's NVML answers: how they are asked, and how their outputs travel in a figure.

use super::{Class, Direction, Function, Parameter, Type};

/// Structures that are passed on as they are: bytes, and which version; 0 for one whose first member is not its version.
const STRUCTURES: &[(&str, usize, u32)] = &[
    ("BAR1Memory", 24, 0),
    ("EccErrorCounts", 32, 0),
    ("EccSramErrorStatus", 104, 1),
    ("MarginTemperature", 8, 1),
    ("RowRemapperHistogramValues", 20, 0),
    ("ViolationTime", 16, 0),
];

/// Most bytes of a text, with its NUL.
pub const TEXT: usize = 96;
/// Most answers of one function.
const MAX_ANSWERS: u32 = 64;

/// The arguments that say which answer is meant.
pub fn selectors(f: &Function) -> impl Iterator<Item = &Parameter> {
    let scalars = f.parameters.iter().filter(|p| matches!(p.ty, Type::Scalar(_)) && !p.is_pointer());
    scalars.filter(move |p| !f.is_capacity(p))
}

/// What the function writes, in the order of the figure.
pub fn outputs(f: &Function) -> impl Iterator<Item = &Parameter> {
    f.parameters.iter().filter(|p| p.is_pointer())
}

/// Bytes of an output other than a text.
pub fn size(ty: &Type) -> Option<usize> {
    match ty {
        Type::Scalar("u8") => Some(1),
        Type::Scalar("u32" | "i32") => Some(4),
        Type::Scalar("u64") => Some(8),
        Type::Struct(name) => STRUCTURES.iter().find(|(known, ..)| known == name).map(|(_, size, _)| *size),
        _ => None,
    }
}

/// What the first member of an output must hold when the function is called; 0 for one without a version.
pub fn version(ty: &Type) -> u32 {
    let Type::Struct(name) = ty else { return 0 };
    match STRUCTURES.iter().find(|(known, ..)| known == name) {
        None | Some((_, _, 0)) => 0,
        // No structure of NVML comes near 16 MiB.
        Some((_, size, number)) => *size as u32 | number << 24,
    }
}

/// How many answers the function has.
pub fn answers(f: &Function) -> u32 {
    f.select.iter().product()
}

/// The answer that selecting arguments `values` mean: each with what it is below. `None` if one is not below.
pub fn index(values: &[(u32, u32)]) -> Option<u32> {
    values.iter().try_fold(0_u32, |index, &(value, below)| {
        (value < below).then(|| index.checked_mul(below)?.checked_add(value))?
    })
}

/// The selecting arguments of answer `index`.
pub fn arguments(f: &Function, mut index: u32) -> Vec<u32> {
    let mut values: Vec<u32> = f
        .select
        .iter()
        .rev()
        .map(|&below| {
            let value = index % below.max(1);
            index /= below.max(1);
            value
        })
        .collect();
    values.reverse();
    values
}

/// The functions that the host is asked for.
///
/// # Errors
/// A description that does not parse.
pub fn functions() -> Result<Vec<Function>, super::ParseError> {
    Ok(super::functions()?.into_iter().filter(|f| f.class == Class::Host).collect())
}

pub(super) fn check(f: &Function) -> Result<(), String> {
    let device = Type::Handle("Device");
    if f.parameters.first().is_none_or(|p| p.ty != device || p.is_pointer()) {
        return Err("a function of the host asks a device".into());
    }
    if f.early || f.returns_text {
        return Err("a function of the host has no such modifier".into());
    }
    if selectors(f).count() != f.select.len() || !(1..=MAX_ANSWERS).contains(&answers(f)) {
        return Err(format!(
            "`select` has a number for each selecting argument, and at most {MAX_ANSWERS} answers"
        ));
    }
    if outputs(f).next().is_none() {
        return Err("a function of the host has an output".into());
    }
    for p in outputs(f) {
        let direction = if version(&p.ty) == 0 { Direction::Out } else { Direction::InOut };
        if p.direction != direction || p.optional {
            return Err(format!("`{}`: not a direction that can be passed on", p.name));
        }
        if p.ty != Type::Text && size(&p.ty).is_none() {
            return Err(format!("`{}`: the size is not known", p.name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(line: &str) -> Function {
        super::super::parse_file("test", line).unwrap().remove(0)
    }

    #[test]
    fn answers_are_numbered_by_their_selecting_arguments() {
        let f = function("host nvmlX(d: Device, a: u32, b: u32, c: out u64) select 2 5");
        assert_eq!(answers(&f), 10);
        for number in 0..10 {
            let [a, b] = arguments(&f, number)[..] else { unreachable!() };
            assert_eq!(index(&[(a, 2), (b, 5)]), Some(number));
        }
        assert_eq!((index(&[(2, 2), (0, 5)]), index(&[(0, 2), (5, 5)])), (None, None));
        assert_eq!((index(&[]), answers(&function("host nvmlX(d: Device, c: out u64)"))), (Some(0), 1));
    }

    #[test]
    fn a_texts_capacity_selects_nothing() {
        let f = function("host nvmlX(d: Device, t: out text[length], length: u32)");
        assert_eq!((selectors(&f).count(), outputs(&f).count()), (0, 1));
    }

    #[test]
    fn all_answers_of_a_device_fit_in_a_reading() {
        let answers: u32 = functions().unwrap().iter().map(answers).sum();
        assert!(answers + 256 < crate::wire::reading::MAX_FIGURES, "{answers}");
    }
}
