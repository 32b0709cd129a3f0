//! Parses the lines of an `.api` file of NVML.

use super::{Class, Direction, Function, HANDLE_KINDS, Parameter, ParseError, Type};

const SCALARS: &[&str] = &["u8", "u32", "i32", "u64"];

/// Parses a file of the description; `noun` is its name without ending.
///
/// # Errors
/// The first line that does not parse.
pub fn parse_file(noun: &str, text: &str) -> Result<Vec<Function>, ParseError> {
    let mut functions = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let function = parse_line(noun, line).map_err(|reason| ParseError {
            file: format!("nvml/{noun}"),
            line: number + 1,
            reason,
        })?;
        functions.push(function);
    }
    Ok(functions)
}

fn parse_line(noun: &str, line: &str) -> Result<Function, String> {
    let (class, rest) = line.split_once(' ').ok_or("no class")?;
    let class = [Class::Local, Class::Host, Class::Unsupported]
        .into_iter()
        .find(|c| c.name() == class)
        .ok_or_else(|| format!("class `{class}` is not known"))?;
    let (name, rest) = rest.split_once('(').ok_or("no parameter list")?;
    let (inside, modifiers) = rest.split_once(')').ok_or("the parameter list does not end")?;
    let parameters = inside
        .split(',')
        .map(str::trim)
        .filter(|p| !p.is_empty())
        .map(parse_parameter)
        .collect::<Result<Vec<_>, _>>()?;
    let mut function = Function {
        name: name.trim().into(),
        noun: noun.into(),
        class,
        parameters,
        early: false,
        returns_text: false,
        select: Vec::new(),
        else_not_supported: false,
        once: false,
        reason: None,
    };
    parse_modifiers(&mut function, modifiers.trim())?;
    check(&function)?;
    Ok(function)
}

fn parse_modifiers(function: &mut Function, text: &str) -> Result<(), String> {
    if let Some(reason) = text.strip_prefix('"') {
        let reason = reason.strip_suffix('"').ok_or("the reason does not end")?;
        function.reason = Some(reason.into());
        return Ok(());
    }
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("early") {
            function.early = true;
            rest = after.trim();
        } else if let Some(after) = rest.strip_prefix("returns text") {
            function.returns_text = true;
            rest = after.trim();
        } else if let Some(after) = rest.strip_prefix("once") {
            function.once = true;
            rest = after.trim();
        } else if let Some(mut after) = rest.strip_prefix("select ") {
            while let Some((number, left)) = leading_number(after) {
                function.select.push(number);
                after = left;
            }
            let left = after.strip_prefix("else NOT_SUPPORTED");
            function.else_not_supported = left.is_some();
            rest = left.unwrap_or(after).trim();
        } else {
            return Err(format!("modifier `{rest}` is not known"));
        }
    }
    Ok(())
}

/// A number that `text` starts with, and what follows it.
fn leading_number(text: &str) -> Option<(u32, &str)> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    Some((word.parse().ok()?, rest.trim_start()))
}

fn parse_parameter(text: &str) -> Result<Parameter, String> {
    let (name, rest) = text.split_once(':').ok_or_else(|| format!("parameter `{text}` has no type"))?;
    let rest = rest.trim();
    let (mut rest, optional) = match rest.strip_suffix('?') {
        Some(before) => (before, true),
        None => (rest, false),
    };
    let mut direction = Direction::Value;
    for (word, meaning) in [("in ", Direction::In), ("out ", Direction::Out), ("inout ", Direction::InOut)] {
        if let Some(after) = rest.strip_prefix(word) {
            direction = meaning;
            rest = after;
            break;
        }
    }
    let mut count = None;
    if let Some((ty, inside)) = rest.split_once('[') {
        let inside = inside.strip_suffix(']').ok_or_else(|| format!("`{text}`: the count does not end"))?;
        count = Some(inside.to_string());
        rest = ty;
    }
    Ok(Parameter { name: name.trim().into(), direction, ty: parse_type(rest.trim())?, count, optional })
}

fn parse_type(word: &str) -> Result<Type, String> {
    if let Some(scalar) = SCALARS.iter().find(|s| **s == word) {
        return Ok(Type::Scalar(scalar));
    }
    if let Some(kind) = HANDLE_KINDS.iter().find(|k| **k == word) {
        return Ok(Type::Handle(kind));
    }
    if let Some(name) = word.strip_prefix("struct ") {
        return Ok(Type::Struct(name.trim().into()));
    }
    match word {
        "str" => Ok(Type::Str),
        "text" => Ok(Type::Text),
        "ptr" => Ok(Type::Pointer),
        other => Err(format!("type `{other}` is not known")),
    }
}

fn check(function: &Function) -> Result<(), String> {
    if (function.class == Class::Unsupported) != function.reason.is_some() {
        return Err("an unsupported function, and no other, has a reason".into());
    }
    if function.class == Class::Host {
        super::host::check(function)?;
    } else if function.once || !function.select.is_empty() {
        return Err("only a function of the host is asked `once` or with `select`".into());
    }
    for p in &function.parameters {
        if let Some(count) = &p.count
            && !function.parameters.iter().any(|q| q.name == *count)
        {
            return Err(format!("`{}`: count `{count}` is not a parameter", p.name));
        }
        let written = p.direction == Direction::Out && p.count.is_some();
        if (p.ty == Type::Text) && !written {
            return Err(format!("`{}`: a text is an output with a capacity", p.name));
        }
        if p.direction == Direction::Value && matches!(p.ty, Type::Struct(_)) {
            return Err(format!("`{}`: a structure is passed by pointer", p.name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_gives_class_parameters_and_modifiers() {
        let text =
            "local nvmlX(d: Device, n: inout u32, a: out struct P[n]?, t: out text[len], len: u32) early";
        let f = parse_file("test", text).unwrap().remove(0);
        assert_eq!((f.class, f.early, f.returns_text), (Class::Local, true, false));
        assert_eq!(f.parameters[0].ty, Type::Handle("Device"));
        assert_eq!(f.parameters[1].direction, Direction::InOut);
        assert_eq!(f.parameters[2].count.as_deref(), Some("n"));
        assert!(f.parameters[2].optional && !f.parameters[3].optional);
        assert_eq!(f.parameters[3].ty, Type::Text);
    }

    #[test]
    fn a_wrong_line_is_refused_with_its_number() {
        for (line, part) in [
            ("sync nvmlX()", "class"),
            ("local nvmlX(", "does not end"),
            ("local nvmlX(a: u33)", "type"),
            ("local nvmlX() soon", "modifier"),
            ("local nvmlX() \"why\"", "reason"),
            ("unsupported nvmlX()", "reason"),
            ("local nvmlX(a: out u32[n]?)", "not a parameter"),
            ("local nvmlX(a: out text)", "capacity"),
            ("local nvmlX(a: struct P)", "by pointer"),
            ("local nvmlX() once", "of the host"),
            ("host nvmlX(a: u32, b: out u32)", "device"),
            ("host nvmlX(d: Device, a: u32, b: out u32)", "select"),
            ("host nvmlX(d: Device, a: u32, b: out u32) select 0", "select"),
            ("host nvmlX(d: Device, a: u32, b: out u32) select 4 else UNKNOWN", "modifier"),
            ("host nvmlX(d: Device, b: out u32) else NOT_SUPPORTED", "modifier"),
            ("host nvmlX(d: Device)", "output"),
            ("host nvmlX(d: Device, b: out struct Unheard)", "size"),
            ("host nvmlX(d: Device, b: inout u32)", "direction"),
        ] {
            let error = parse_file("test", &format!("# x\n{line}")).unwrap_err();
            assert_eq!(error.line, 2);
            assert!(error.reason.contains(part), "{line}: {}", error.reason);
        }
    }
}
