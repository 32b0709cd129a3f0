//! Parses the lines of an `.api` file.

use super::{Class, Context, Count, Direction, Function, HANDLE_KINDS, InChild, Parameter, Type};

/// Where and why a description does not parse.
#[derive(Debug, thiserror::Error)]
#[error("reading {file}.api: line {line}: {reason}")]
pub struct ParseError {
    pub file: String,
    pub line: usize,
    pub reason: String,
}

const SCALARS: &[&str] = &["u8", "u16", "u32", "i32", "u64", "i64", "usize", "f32", "f64"];

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
            file: noun.into(),
            line: number + 1,
            reason,
        })?;
        functions.push(function);
    }
    Ok(functions)
}

fn parse_line(noun: &str, line: &str) -> Result<Function, String> {
    let (message, line) = match line.strip_prefix("message ") {
        Some(rest) => (true, rest),
        None => (false, line),
    };
    let (class, rest) = line.split_once(' ').ok_or("no class")?;
    let class = parse_class(class)?;
    let open = rest.find('(').ok_or("no parameter list")?;
    let close = rest.rfind(')').ok_or("parameter list does not end")?;
    let inside = rest.get(open + 1..close).ok_or("parameter list does not end")?;
    let parameters = inside
        .split(',')
        .map(str::trim)
        .filter(|p| !p.is_empty())
        .map(parse_parameter)
        .collect::<Result<Vec<_>, _>>()?;
    let mut function = Function {
        name: rest[..open].trim().to_string(),
        noun: noun.into(),
        class,
        parameters,
        message,
        by_hand_in_shim: class == Class::Local,
        by_hand_in_worker: false,
        context: Context::ByParameters,
        early: false,
        always: false,
        in_child: InChild::Refused,
        reports: false,
        in_stream: false,
        work: false,
        launches: false,
        waits: false,
        settles: false,
        kernels: false,
        unsafe_in_capture: false,
        in_legacy_stream: false,
        reason: None,
        ptsz: false,
        ptds: false,
    };
    parse_modifiers(&mut function, rest[close + 1..].trim())?;
    check(&function)?;
    Ok(function)
}

fn parse_class(word: &str) -> Result<Class, String> {
    [Class::Local, Class::Async, Class::Create, Class::Destroy, Class::Sync, Class::Unsupported]
        .into_iter()
        .find(|c| c.name() == word)
        .ok_or_else(|| format!("class `{word}` is not known"))
}

fn parse_modifiers(function: &mut Function, text: &str) -> Result<(), String> {
    let (words, reason) = text.split_once('"').map_or((text, None), |(words, rest)| (words, Some(rest)));
    if let Some(reason) = reason {
        function.reason = Some(reason.strip_suffix('"').ok_or("the reason does not end the line")?.into());
    }
    for word in words.split_whitespace() {
        match word {
            "@shim" => function.by_hand_in_shim = true,
            "@worker" => function.by_hand_in_worker = true,
            "nocontext" => function.context = Context::None,
            "anycontext" => function.context = Context::Any,
            "livecontext" => function.context = Context::Live,
            "current" => function.context = Context::Current,
            "early" => function.early = true,
            "always" => function.always = true,
            "forked" => function.in_child = InChild::GoesOn,
            "reports" => function.reports = true,
            "instream" => function.in_stream = true,
            "work" => function.work = true,
            "launches" => function.launches = true,
            "waits" => function.waits = true,
            "settles" => function.settles = true,
            "kernels" => function.kernels = true,
            "nocapture" => function.unsafe_in_capture = true,
            "legacy" => function.in_legacy_stream = true,
            other => match other.strip_prefix("forked=").map(str::parse) {
                Some(Ok(code)) => function.in_child = InChild::Answers(code),
                _ => return Err(format!("modifier `{other}` is not known")),
            },
        }
    }
    Ok(())
}

fn parse_parameter(text: &str) -> Result<Parameter, String> {
    let (name, rest) = text.split_once(':').ok_or_else(|| format!("parameter `{text}` has no type"))?;
    let mut rest = rest.trim();
    let optional = rest.ends_with('?');
    rest = rest.trim_end_matches('?').trim();
    let mut direction = Direction::Value;
    for (word, meaning) in [
        ("in ", Direction::In),
        ("out ", Direction::Out),
        ("new ", Direction::New),
        ("made ", Direction::Made),
    ] {
        if let Some(after) = rest.strip_prefix(word) {
            direction = meaning;
            rest = after.trim();
            break;
        }
    }
    let mut count = None;
    if let Some((ty, inside)) = rest.split_once('[') {
        let inside = inside.strip_suffix(']').ok_or_else(|| format!("`{text}`: the count does not end"))?;
        count = Some(match inside.parse() {
            Ok(n) => Count::Fixed(n),
            Err(_) => Count::Parameter(inside.into()),
        });
        rest = ty.trim();
    }
    Ok(Parameter { name: name.trim().into(), direction, ty: parse_type(rest)?, count, optional })
}

fn parse_type(word: &str) -> Result<Type, String> {
    if let Some(scalar) = SCALARS.iter().find(|s| **s == word) {
        return Ok(Type::Scalar(scalar));
    }
    if let Some(name) = word.strip_prefix("struct ") {
        return Ok(Type::Struct(name.trim().into()));
    }
    Ok(match word {
        "DevPtr" => Type::DevPtr,
        "Device" => Type::Device,
        "str" => Type::Str,
        "ptr" => Type::Pointer,
        "fn" => Type::Callback,
        "Callable" => Type::Handle(word.into()),
        kind if HANDLE_KINDS.contains(&kind) => Type::Handle(kind.into()),
        other => return Err(format!("type `{other}` is not known")),
    })
}

/// What derived code cannot do must be written by hand, and is refused here rather than sent wrongly.
fn check(function: &Function) -> Result<(), String> {
    if function.class == Class::Unsupported && function.supported() {
        return Err("an unsupported function needs a reason".into());
    }
    if function.always && (function.early || function.in_child != InChild::Refused) {
        return Err("what is always there needs no `early` and no `forked`".into());
    }
    if function.in_child == InChild::GoesOn && function.crosses() {
        return Err("nothing crosses a lane in a forked child: `forked=N`".into());
    }
    if function.message && !function.crosses() {
        return Err("a message must cross the lane".into());
    }
    if function.message && !function.supported() {
        return Err("a message has no reason: no program calls it".into());
    }
    if (function.launches || function.waits || function.kernels) && !function.crosses() {
        return Err("nothing that the worker does not see launches, waits or changes kernels".into());
    }
    if function.launches && !function.work {
        return Err("what `launches` is `work`".into());
    }
    if !function.crosses() {
        return Ok(());
    }
    for p in &function.parameters {
        let followed = matches!(p.ty, Type::Pointer | Type::Callback);
        if followed {
            return Err(format!(
                "`{}`: a bare pointer or callback cannot cross; make the call local",
                p.name
            ));
        }
        if matches!(p.direction, Direction::Out | Direction::Made) && !function.class.waits() {
            return Err(format!("`{}`: a call without a reply has no output", p.name));
        }
        if matches!(p.direction, Direction::New | Direction::Made) && !matches!(p.ty, Type::Handle(_)) {
            return Err(format!("`{}`: only handles are made by shim or worker", p.name));
        }
        if p.direction == Direction::Out && matches!(p.ty, Type::Handle(_)) {
            return Err(format!(
                "`{}`: handles are made by the shim or the worker: use `new` or `made`",
                p.name
            ));
        }
        if let Some(Count::Parameter(count)) = &p.count
            && !function.parameters.iter().any(|q| q.name == *count)
        {
            return Err(format!("`{}`: count `{count}` is not a parameter", p.name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> Result<Function, ParseError> {
        parse_file("test", line).map(|mut v| v.remove(0))
    }

    #[test]
    fn a_line_gives_class_parameters_and_modifiers() {
        let f = one("sync cuX(a: out f32, b: Event, c: in u32[n]?, n: usize) reports nocontext").unwrap();
        assert_eq!(f.class, Class::Sync);
        assert!(f.reports && !f.in_context());
        assert_eq!(f.parameters[0].direction, Direction::Out);
        assert_eq!(f.parameters[1].ty, Type::Handle("Event".into()));
        assert_eq!(f.parameters[2].count, Some(Count::Parameter("n".into())));
        assert!(f.parameters[2].optional);
    }

    #[test]
    fn modifiers_say_what_is_looked_at_first() {
        let f = one("sync cuX(a: Event) early forked=401 anycontext").unwrap();
        assert!(f.early && !f.always && f.in_context());
        assert_eq!((f.context, f.in_child), (Context::Any, InChild::Answers(401)));
        let f = one("local cuX(a: Event) forked current").unwrap();
        assert_eq!((f.context, f.in_child), (Context::Current, InChild::GoesOn));
        let f = one("sync cuX(a: Event)").unwrap();
        assert!(!f.early && !f.always);
        assert_eq!((f.context, f.in_child), (Context::ByParameters, InChild::Refused));
    }

    #[test]
    fn a_reason_makes_a_function_unsupported_whatever_it_checks() {
        let f = one("local cuX(a: Stream) nocontext \"no such thing\"").unwrap();
        assert_eq!((f.class, f.in_context(), f.supported()), (Class::Local, false, false));
        assert_eq!(f.reason.as_deref(), Some("no such thing"));
        assert!(one("local cuX(a: Stream) nocontext").unwrap().supported());
        assert!(!one("unsupported cuX() \"not yet\"").unwrap().supported());
    }

    #[test]
    fn modifiers_stand_before_a_reason() {
        let f = one("unsupported cuX(a: u32) nocapture \"the reason: nocapture, legacy\"").unwrap();
        assert!(f.unsafe_in_capture && !f.in_legacy_stream);
        assert_eq!(f.reason.as_deref(), Some("the reason: nocapture, legacy"));
        assert!(one("local cuX(a: u32) legacy").unwrap().in_legacy_stream);
    }

    #[test]
    fn what_cannot_cross_is_refused_with_its_line() {
        for (line, part) in [
            ("async cuX(p: ptr)", "bare pointer"),
            ("async cuX(p: out u32)", "no output"),
            ("sync cuX(p: in u8[m])", "not a parameter"),
            ("sync cuX(p: out Event)", "made by the shim"),
            ("async cuX(p: made Event)", "no output"),
            ("sync cuX(p: made u32)", "only handles"),
            ("quick cuX()", "class"),
            ("sync cuX(p: Evnt)", "type"),
            ("unsupported cuX()", "reason"),
            ("sync cuX() forked=", "modifier"),
            ("sync cuX() forked", "forked child"),
            ("local cuX() always early", "no `early`"),
            ("message sync vgpuX() \"not yet\"", "no program"),
            ("local cuX(a: Stream) waits", "worker does not see"),
            ("async cuX(a: Stream) launches", "is `work`"),
            ("local cuX() \"not yet\" nocontext", "does not end the line"),
        ] {
            let error = parse_file("test", &format!("\n{line}")).unwrap_err();
            assert_eq!(error.line, 2);
            assert!(error.reason.contains(part), "{line}: {}", error.reason);
        }
    }
}
