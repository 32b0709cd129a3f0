//! What an exported function looks at before its own checks: whether cuInit was called, whether this is a forked child, and whether there
//! is a current context. The order is the driver's, from the description's modifiers.

use super::text::identifier;
use crate::api::{Context, Direction, Function, InChild, Parameter, Type};
use std::fmt::Write;

/// Whether the current context is looked at, as an expression. What has a stream of its own, an event or a part of a graph finds the
/// context there, so that the driver does not look at the current one (measured on driver 580: such calls succeed without one).
pub fn needs_context(f: &Function) -> String {
    let of = |kinds: &[&str]| {
        f.parameters.iter().find(|p| {
            p.direction == Direction::Value
                && matches!(&p.ty, Type::Handle(kind) if kinds.contains(&kind.as_str()))
        })
    };
    let special = of(&["Stream"])
        .map(|stream| format!("crate::handles::is_special_stream({})", identifier(&stream.name)));
    let needs = match (f.context, special) {
        (Context::None | Context::Any, _) => return "false".into(),
        (Context::Live, None) => "crate::context::is_destroyed()".into(),
        (Context::Live, Some(special)) => format!("({special} || crate::context::is_destroyed())"),
        (Context::Current, _) => "true".into(),
        (Context::ByParameters, Some(special)) => special,
        (Context::ByParameters, None) => {
            if of(&["Event", "Graph", "GraphNode", "GraphExec"]).is_some() {
                return "false".into();
            }
            "true".into()
        }
    };
    match (f.early, f.in_child) {
        // In a child it answers whatever is current there.
        (true, InChild::Answers(_)) if needs == "true" => "crate::client::get().is_ok()".into(),
        (false, InChild::Answers(_)) if needs == "true" => "!vgpu_client::fork::forked()".into(),
        (true, _) => format!("crate::client::started().is_ok() && {needs}"),
        (false, _) => needs,
    }
}

/// Writes the checks that come before the function's own.
pub fn checks(out: &mut String, f: &Function) {
    if let InChild::Answers(code) = f.in_child {
        in_child(out, f, code);
    }
    let guard = match (f.always, f.early, f.in_child) {
        (true, ..) => return,
        (_, true, InChild::Refused) => "not_forked",
        (_, true, _) => return,
        // Asked with the current context.
        (_, false, InChild::Refused) if needs_context(f) == "true" => return,
        (_, false, InChild::Refused) => "get",
        (_, false, _) => "started",
    };
    let _ = writeln!(out, "        crate::client::{guard}()?;");
}

/// Whether the function's own success before cuInit is none: what was wrong with the arguments comes first.
pub fn asks_at_the_end(f: &Function) -> bool {
    f.early && f.by_hand_in_shim
}

/// The answer in a forked child: nothing of it reaches the driver.
fn in_child(out: &mut String, f: &Function, code: u32) {
    out.push_str("        if vgpu_client::fork::forked() {\n");
    for p in f.parameters.iter().filter(|p| p.direction == Direction::Value) {
        if let Some(check) = handle(f, p) {
            let _ = writeln!(out, "            {check};");
        }
    }
    let _ = writeln!(out, "            return crate::call::in_child({code});\n        }}");
}

/// Whether NULL stands for the current context. Measured: a graph's nodes are of that where none is named.
pub fn stands_for_current(f: &Function, p: &Parameter) -> bool {
    f.noun == "graph" && p.ty == Type::Handle("Context".into())
}

/// The check of a handle that is given as a value, as an expression: of the handle, where NULL stands for another.
pub fn handle(f: &Function, p: &Parameter) -> Option<String> {
    let n = identifier(&p.name);
    let Type::Handle(kind) = &p.ty else { return None };
    Some(match (kind.as_str(), f.noun.as_str()) {
        _ if stands_for_current(f, p) => format!("crate::context::resolve({n})?"),
        ("Event", "graph") => {
            // An executable graph's node looks at it by itself.
            let any = if f.name.starts_with("cuGraphExec") {
                ".map_err(|_| crate::error::INVALID_VALUE)"
            } else {
                ""
            };
            format!("crate::handles::check_event_of_node({n}){any}?")
        }
        (kind, _) => format!("crate::handles::check_{}({n})?", kind.to_lowercase()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::parse_file;

    fn checks_of(line: &str) -> (String, String) {
        let f = parse_file("stream", line).unwrap().remove(0);
        let mut out = String::new();
        checks(&mut out, &f);
        (needs_context(&f), out)
    }

    #[test]
    fn the_current_context_is_looked_at_where_no_parameter_has_one() {
        for (line, needs) in [
            ("sync cuX(a: u32)", "true"),
            ("sync cuX(a: u32) nocontext", "false"),
            ("sync cuX(a: u32) anycontext", "false"),
            ("sync cuX(a: u32) livecontext", "crate::context::is_destroyed()"),
            (
                "sync cuX(s: Stream) livecontext",
                "(crate::handles::is_special_stream(s) || crate::context::is_destroyed())",
            ),
            ("sync cuX(a: Event)", "false"),
            ("sync cuX(a: Event) current", "true"),
            ("sync cuX(a: Event, s: Stream)", "crate::handles::is_special_stream(s)"),
            (
                "sync cuX(s: Stream) early",
                "crate::client::started().is_ok() && crate::handles::is_special_stream(s)",
            ),
        ] {
            assert_eq!(checks_of(line).0, needs, "{line}");
        }
    }

    #[test]
    fn what_comes_first_is_what_the_description_says() {
        for (line, guard) in [
            ("sync cuX(a: u32)", ""),
            ("sync cuX(a: Event)", "get"),
            ("sync cuX(a: Event) early", "not_forked"),
            ("local cuX(a: Event) forked", "started"),
            ("local cuX(a: Event) early forked", ""),
            ("local cuX(a: Event) always", ""),
        ] {
            let guard = if guard.is_empty() {
                String::new()
            } else {
                format!("        crate::client::{guard}()?;\n")
            };
            assert_eq!(checks_of(line).1, guard, "{line}");
        }
    }

    #[test]
    fn a_forked_child_looks_at_handles_and_makes_nothing() {
        let (_, out) = checks_of("sync cuX(a: u32, e: Event) early forked=0");
        let places = ["forked()", "check_event(e)", "in_child(0)"].map(|part| out.find(part).unwrap());
        assert!(places.is_sorted(), "{out}");
        let (_, out) = checks_of("sync cuX(node: made GraphNode, e: Event) early forked=1");
        assert!(!out.contains("create("), "{out}");
    }
}
