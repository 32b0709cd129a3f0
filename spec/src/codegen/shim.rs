//! The shim's part: `exports.rs` (every exported symbol), `calls.rs` (typed senders of what crosses a lane) and
//! `proc_address.rs` (the table of cuGetProcAddress).

use super::{
    CodegenError, first,
    text::{c_type, element, element_size, from_slot, identifier, to_slot},
    trace,
};
use crate::api::{self, Class, Count, Direction, Function, Parameter, Type};
use std::fmt::Write;

/// All three files, as (name, text).
///
/// # Errors
/// A description that does not parse or that derived code cannot serve.
pub fn generate() -> Result<[(&'static str, String); 3], CodegenError> {
    let functions = api::cuda()?;
    Ok([
        ("exports.rs", exports(&functions)?),
        ("calls.rs", calls(&functions)?),
        ("proc_address.rs", proc_address(&functions)),
    ])
}

fn signature(f: &Function) -> Result<String, CodegenError> {
    let list = f
        .parameters
        .iter()
        .map(|p| Ok(format!("{}: {}", identifier(&p.name), c_type(f, p)?)))
        .collect::<Result<Vec<_>, CodegenError>>()?;
    Ok(list.join(", "))
}

fn exports(functions: &[Function]) -> Result<String, CodegenError> {
    let mut out = String::from("// Derived from spec/api/cuda/*.api.\n");
    for f in functions.iter().filter(|f| !f.message) {
        if f.class == Class::Unsupported {
            for suffix in suffixes(f) {
                let name = format!("{}{suffix}", f.name);
                let _ = writeln!(
                    out,
                    "#[unsafe(no_mangle)]\npub extern \"C\" fn {name}() -> u32 {{\n    static SITE: crate::trace::Site = {};\n    crate::unsupported::report(&SITE, {})\n}}",
                    trace::site(f, suffix),
                    f.unsafe_in_capture
                );
            }
            continue;
        }
        for suffix in suffixes(f) {
            export(&mut out, f, suffix)?;
        }
    }
    Ok(out)
}

fn suffixes(f: &Function) -> Vec<&'static str> {
    let mut all = vec![""];
    if f.ptsz {
        all.push("_ptsz");
    }
    if f.ptds {
        all.push("_ptds");
    }
    all
}

/// One exported symbol. `_ptsz` makes stream 0 the per-thread stream; `_ptds` passes the per-thread stream on.
fn export(out: &mut String, f: &Function, suffix: &str) -> Result<(), CodegenError> {
    let name = format!("{}{suffix}", f.name);
    let _ =
        writeln!(out, "#[unsafe(no_mangle)]\npub unsafe extern \"C\" fn {name}({}) -> u32 {{", signature(f)?);
    if suffix == "_ptsz" {
        for p in f.parameters.iter().filter(|p| is_stream(p)) {
            let n = identifier(&p.name);
            let _ = writeln!(out, "    let {n} = crate::call::per_thread({n});");
        }
    }
    let _ = writeln!(
        out,
        "    static SITE: crate::trace::Site = {};\n    crate::call::enter(&SITE, {}, || {}, || {{",
        trace::site(f, suffix),
        first::needs_context(f),
        trace::arguments(f)
    );
    first::checks(out, f);
    if f.unsafe_in_capture {
        out.push_str("        crate::capture::refuse_unsafe()?;\n");
    }
    // The form of the per-thread stream works in that one.
    if f.in_legacy_stream && suffix != "_ptds" {
        out.push_str("        crate::capture::refuse_legacy()?;\n");
    }
    if f.by_hand_in_shim {
        let mut args: Vec<String> = f.parameters.iter().map(|p| identifier(&p.name)).collect();
        if f.ptds {
            args.push(if suffix == "_ptds" { "2".into() } else { "0".into() });
        }
        // The stream is inside a structure: the function itself has to know which form was called.
        if f.ptsz && !f.parameters.iter().any(is_stream) {
            args.push((suffix == "_ptsz").to_string());
        }
        let _ = writeln!(
            out,
            "        // SAFETY: the program's pointers, as the driver API documents them.\n        unsafe {{ crate::{}::{}({}) }}{}",
            f.noun,
            f.name,
            args.join(", "),
            if first::asks_at_the_end(f) { "?;\n        crate::client::started()" } else { "" }
        );
    } else {
        derived_body(out, f)?;
    }
    out.push_str("    })\n}\n");
    Ok(())
}

fn is_stream(p: &Parameter) -> bool {
    p.direction == Direction::Value && p.ty == Type::Handle("Stream".into())
}

/// Checks pointers and handles, then calls the sender.
fn derived_body(out: &mut String, f: &Function) -> Result<(), CodegenError> {
    let mut args = Vec::new();
    for p in &f.parameters {
        args.push(border(out, f, p)?);
    }
    let call = format!("crate::calls::{}({})", f.name, args.join(", "));
    match f.class {
        Class::Create => {
            let new: Vec<&Parameter> =
                f.parameters.iter().filter(|p| p.direction == Direction::New).collect();
            let _ = writeln!(out, "        let result = {call};");
            for p in new {
                let n = identifier(&p.name);
                let _ = writeln!(
                    out,
                    "        if result == 0 {{ *out_{n} = {n}; }} else {{ crate::handles::remove({n}); }}"
                );
            }
            out.push_str("        result\n");
        }
        Class::Destroy => {
            let n = f.parameters.first().map(|p| identifier(&p.name)).unwrap_or_default();
            let _ = writeln!(
                out,
                "        let result = {call};\n        crate::handles::remove({n});\n        result"
            );
        }
        _ => {
            let _ = writeln!(out, "        {call}");
        }
    }
    Ok(())
}

/// Turns one C argument into the sender's; returns the expression to pass.
fn border(out: &mut String, f: &Function, p: &Parameter) -> Result<String, CodegenError> {
    let n = identifier(&p.name);
    let count = match &p.count {
        Some(Count::Parameter(c)) => Some(format!("{} as usize", identifier(c))),
        Some(Count::Fixed(c)) => Some(c.to_string()),
        None => None,
    };
    let fail = if p.optional { "" } else { ".ok_or(crate::error::INVALID_VALUE)?" };
    let safety = "// SAFETY: the program's pointer, valid or NULL as the driver API documents it.";
    match (p.direction, &p.ty) {
        (Direction::Value, Type::Str) => {
            let _ = writeln!(
                out,
                "        {safety}\n        let {n} = unsafe {{ crate::call::text({n}) }}{fail};"
            );
        }
        (Direction::Value, Type::Handle(_)) => {
            if let Some(check) = first::handle(f, p) {
                let keep =
                    if first::stands_for_current(f, p) { format!("let {n} = ") } else { String::new() };
                let _ = writeln!(out, "        {keep}{check};");
            }
        }
        (Direction::Value, Type::Device) => {
            let _ = writeln!(out, "        let {n} = crate::device::host_ordinal({n})?;");
        }
        (Direction::In, _) => {
            let c = count.unwrap_or_else(|| "1".into());
            let _ = writeln!(
                out,
                "        {safety}\n        let {n} = unsafe {{ crate::call::slice({n}, {c}) }}{fail};"
            );
            if let Type::Handle(kind) = &p.ty {
                let each = if p.optional { format!("{n}.into_iter().flatten()") } else { n.clone() };
                let _ = writeln!(
                    out,
                    "        for handle in {each} {{ crate::handles::check_{}(*handle)?; }}",
                    kind.to_lowercase()
                );
            }
        }
        (Direction::Out | Direction::Made, _) => {
            let get = match count {
                Some(c) => format!("crate::call::slice_mut({n}, {c})"),
                None => format!("{n}.as_mut()"),
            };
            let _ = writeln!(out, "        {safety}\n        let {n} = unsafe {{ {get} }}{fail};");
        }
        (Direction::New, Type::Handle(kind)) => {
            let kind = if kind == "Callable" { "Function" } else { kind };
            let _ = writeln!(
                out,
                "        {safety}\n        let out_{n} = unsafe {{ {n}.as_mut() }}.ok_or(crate::error::INVALID_VALUE)?;\n        let {n} = crate::handles::create(vgpu_spec::handle::Kind::{kind})?;"
            );
        }
        _ => {}
    }
    let _ = element(f, p)?;
    Ok(n)
}

fn calls(functions: &[Function]) -> Result<String, CodegenError> {
    let mut out = String::from("// Derived from spec/api/cuda/*.api.\n");
    for f in functions.iter().filter(|f| f.crosses()) {
        sender(&mut out, f)?;
    }
    Ok(out)
}

fn sender_type(f: &Function, p: &Parameter) -> Result<String, CodegenError> {
    let e = element(f, p)?;
    let array = p.count.is_some();
    let ty = match (p.direction, &p.ty) {
        (Direction::Value, Type::Str) => "&std::ffi::CStr".into(),
        (Direction::Value | Direction::New, _) => return Ok(e),
        (Direction::In, _) => format!("&[{e}]"),
        (Direction::Out | Direction::Made, _) if array => format!("&mut [{e}]"),
        (Direction::Out | Direction::Made, _) => format!("&mut {e}"),
    };
    Ok(if p.optional { format!("Option<{ty}>") } else { ty })
}

/// The function that writes a message and, for a call that waits, reads the reply.
fn sender(out: &mut String, f: &Function) -> Result<(), CodegenError> {
    let parameters = f
        .parameters
        .iter()
        .map(|p| Ok(format!("{}: {}", identifier(&p.name), sender_type(f, p)?)))
        .collect::<Result<Vec<_>, CodegenError>>()?;
    let _ = writeln!(
        out,
        "/// Sends `{}` ({}).\npub fn {}({}) -> crate::error::Result {{",
        f.name,
        f.class.name(),
        f.name,
        parameters.join(", ")
    );
    let (mut slots, mut lens, mut write) = (0, String::new(), String::new());
    // Slots in a row, which are written together.
    let mut row = Vec::new();
    // Evaluated before the closures take the outputs.
    let mut before = String::new();
    let (mut reply, mut read) = (String::from("0"), String::new());
    for p in &f.parameters {
        let n = identifier(&p.name);
        match (p.direction, &p.ty) {
            (Direction::Value, Type::Str) => {
                let _ = write!(lens, " + vgpu_spec::wire::args::bytes_len({n}.to_bytes_with_nul().len())");
                write_row(&mut write, &mut row);
                let _ = writeln!(write, "        w.bytes({n}.to_bytes_with_nul());");
            }
            (Direction::Value | Direction::New, _) => {
                slots += 1;
                row.push(to_slot(p, &n));
            }
            (Direction::In, _) => {
                let value = if p.optional { n.clone() } else { format!("Some({n})") };
                let _ = write!(lens, " + crate::call::padded_slice({value})");
                write_row(&mut write, &mut row);
                let _ = writeln!(write, "        w.option({value}.map(vgpu_spec::plain::bytes_of));");
            }
            (Direction::Out | Direction::Made, _) => {
                if p.optional {
                    slots += 1;
                    let _ = writeln!(before, "    let want_{n} = {n}.is_some();");
                    row.push(format!("u64::from(want_{n})"));
                }
                output(f, p, &n, &mut reply, &mut read)?;
            }
        }
    }
    write_row(&mut write, &mut row);
    let id = crate::wire::lane::function_id(&f.name);
    if f.class.waits() {
        let _ = writeln!(
            out,
            "{before}    let reply_len = {reply};\n    crate::call::request({id:#x}, {}, {}, {} * 8{lens}, reply_len, |w| {{\n{write}    }}, |_r| {{\n{read}        Some(())\n    }})\n}}",
            f.in_context(),
            f.reports,
            slots
        );
    } else {
        let stream = f.parameters.iter().find(|p| f.in_stream && is_stream(p));
        let post = stream.map_or("post(".into(), |p| format!("post_in_stream({}, ", identifier(&p.name)));
        let _ = writeln!(
            out,
            "    crate::call::{post}{id:#x}, {}, {slots} * 8{lens}, |w| {{\n{write}    }})\n}}",
            f.in_context()
        );
    }
    Ok(())
}

fn write_row(write: &mut String, row: &mut Vec<String>) {
    if !row.is_empty() {
        let _ = writeln!(write, "        w.slots([{}]);", row.join(", "));
        row.clear();
    }
}

fn output(
    f: &Function,
    p: &Parameter,
    n: &str,
    reply: &mut String,
    read: &mut String,
) -> Result<(), CodegenError> {
    let size = element_size(f, p)?;
    let array = p.count.is_some() || matches!(p.ty, Type::Struct(_));
    if array {
        let bytes = match (&p.count, p.optional) {
            (Some(_), false) => format!("vgpu_spec::wire::args::bytes_len({n}.len() * {size})"),
            (Some(_), true) => {
                format!("{n}.as_ref().map_or(8, |o| vgpu_spec::wire::args::bytes_len(o.len() * {size}))")
            }
            (None, _) => format!("vgpu_spec::wire::args::bytes_len({size})"),
        };
        let _ = write!(reply, " + {bytes}");
        let fill = if p.count.is_some() {
            match p.direction {
                Direction::Made => {
                    "vgpu_spec::plain::fill(out, bytes); for handle in out.iter() { crate::handles::adopt(*handle); }"
                }
                _ => "vgpu_spec::plain::fill(out, bytes)",
            }
        } else {
            "vgpu_spec::plain::fill(std::slice::from_mut(out), bytes)"
        };
        let _ = writeln!(
            read,
            "        if let Some(bytes) = _r.bytes().ok()? {{ if let Some(out) = {} {{ {fill}; }} }}",
            if p.optional { n.to_string() } else { format!("Some({n})") }
        );
    } else {
        reply.push_str(" + 8");
        // Not `value`: parameters are called so.
        let value = match p.direction {
            Direction::Made => "crate::handles::adopt(slot_)".to_string(),
            _ => from_slot(p, "slot_"),
        };
        let _ = if p.optional {
            writeln!(
                read,
                "        let slot_ = _r.u64().ok()?;\n        if let Some(out) = {n} {{ *out = {value}; }}"
            )
        } else {
            writeln!(read, "        let slot_ = _r.u64().ok()?;\n        *{n} = {value};")
        };
    }
    Ok(())
}

fn proc_address(functions: &[Function]) -> String {
    let exports = api::exports();
    let mut out = String::from(
        "// Derived from spec/data/proc_address.tsv.\n/// Ascending by name, then by version.\npub static TABLE: &[Entry] = &[\n",
    );
    for e in api::proc_addresses() {
        if !exports.contains(e.symbol.as_str()) {
            continue;
        }
        let per_thread = if exports.contains(e.per_thread.as_str()) { &e.per_thread } else { &e.symbol };
        let _ = writeln!(
            out,
            "    Entry {{ api: \"{}\", since: {}, symbol: Address(exports::{} as *const ()), per_thread: Address(exports::{per_thread} as *const ()) }},",
            e.api, e.since, e.symbol
        );
    }
    out.push_str("];\n/// Names of the messages and functions by id, for the log.\npub static NAMES: &[(u32, &str)] = &[\n");
    for f in functions.iter().filter(|f| f.crosses()) {
        let _ = writeln!(out, "    ({:#x}, \"{}\"),", crate::wire::lane::function_id(&f.name), f.name);
    }
    out.push_str("];\n");
    out
}
