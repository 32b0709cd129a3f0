//! The worker's part: `driver.rs` (the driver's functions, by symbol) and `dispatch.rs` (from message to call).

use super::{
    CodegenError,
    text::{c_type, element, element_size, identifier, read_slot, to_slot},
};
use crate::api::{self, Class, Count, Direction, Function, Parameter, Type};
use std::fmt::Write;

/// Both files, as (name, text).
///
/// # Errors
/// A description that does not parse or that derived code cannot serve.
pub fn generate() -> Result<[(&'static str, String); 2], CodegenError> {
    let functions = api::cuda()?;
    let crossing: Vec<Function> = functions.iter().filter(|f| f.crosses()).cloned().collect();
    Ok([("driver.rs", driver(&functions)?), ("dispatch.rs", dispatch(&crossing)?)])
}

/// A table of function pointers: what the driver lacks is `None`, and NOT_SUPPORTED for the guest.
fn driver(functions: &[Function]) -> Result<String, CodegenError> {
    let (mut fields, mut loads) = (String::new(), String::new());
    for f in functions.iter().filter(|f| f.has_signature()) {
        let types = f.parameters.iter().map(|p| c_type(f, p)).collect::<Result<Vec<_>, _>>()?;
        let _ = writeln!(
            fields,
            "    pub {}: Option<unsafe extern \"C\" fn({}) -> u32>,",
            f.name,
            types.join(", ")
        );
        let _ = writeln!(
            loads,
            "            // SAFETY: the signature is the driver API's for this symbol.\n            {0}: unsafe {{ symbol(library, c\"{0}\") }},",
            f.name
        );
    }
    Ok(format!(
        "// Derived from spec/api/cuda/*.api.\n/// The driver's functions that are described; `None` if the driver lacks one.\n#[allow(non_snake_case, dead_code)]\npub struct Driver {{\n{fields}}}\n\nimpl Driver {{\n    /// Resolves every symbol in `library`.\n    pub fn load(library: &libloading::Library) -> Self {{\n        Driver {{\n{loads}        }}\n    }}\n}}\n"
    ))
}

fn dispatch(functions: &[Function]) -> Result<String, CodegenError> {
    let mut arms = String::new();
    let mut names = String::new();
    let mut waits = Vec::new();
    for f in functions {
        let id = crate::wire::lane::function_id(&f.name);
        waits.extend(f.waits.then(|| format!("{id:#x}")));
        let _ = writeln!(names, "        {id:#x} => \"{}\",", f.name);
        arm(&mut arms, f, id)?;
    }
    Ok(format!(
        "// Derived from spec/api/cuda/*.api.\n/// The name of a function id.\npub fn name(id: u32) -> &'static str {{\n    match id {{\n{names}        _ => \"unknown\",\n    }}\n}}\n\n/// Whether a function waits for its stream itself.\npub const fn waits(id: u32) -> bool {{\n    matches!(id, {})\n}}\n\n/// Decodes the arguments of `function`, calls the driver, encodes the results.\n#[allow(non_snake_case, unused_parens, unused_variables, clippy::all)]\npub fn dispatch(t: &mut Thread, function: u32, mut r: Reader<'_>, w: &mut Results<'_>) -> Outcome {{\n    match function {{\n{arms}        _ => Err(error::NOT_SUPPORTED),\n    }}\n}}\n",
        waits.join(" | ")
    ))
}

fn is_output(p: &Parameter) -> bool {
    matches!(p.direction, Direction::Out | Direction::Made)
}

/// Whether the parameter is always one slot.
fn is_slot(p: &Parameter) -> bool {
    p.direction == Direction::New || (p.direction == Direction::Value && p.ty != Type::Str)
}

/// The driver's graph with which a made handle ends: that of the call's graph or node. A graph made from a graph is its own.
fn owner(f: &Function, made: &Parameter) -> String {
    let first = |kind: &str| {
        f.parameters.iter().find(|p| p.direction == Direction::Value && p.ty == Type::Handle(kind.into()))
    };
    match (first("Graph"), first("GraphNode")) {
        (Some(graph), _) if made.ty == Type::Handle("GraphNode".into()) => identifier(&graph.name),
        (_, Some(node)) => format!("t.graph_of({})", identifier(&node.name)),
        _ => "0".into(),
    }
}

fn arm(out: &mut String, f: &Function, id: u32) -> Result<(), CodegenError> {
    let _ = writeln!(out, "        {id:#x} => {{ // {}", f.name);
    // Looked at once, not for each.
    let slots = f.parameters.iter().take_while(|p| is_slot(p)).count();
    if slots > 1 {
        let _ = writeln!(out, "            r.at_least({slots})?;");
    }
    for p in &f.parameters {
        decode(out, f, p)?;
    }
    out.push_str("            r.finish()?;\n");
    capacities(out, f)?;
    let is_stream = |p: &&Parameter| p.direction == Direction::Value && p.ty == Type::Handle("Stream".into());
    let stream = f.parameters.iter().find(is_stream).map(|p| identifier(&p.name));
    if f.work {
        let _ = writeln!(out, "            t.await_turn({});", stream.as_deref().unwrap_or("0"));
    } else if let Some(stream) = stream.filter(|_| !f.reports) {
        // What tells of earlier calls gives the stream nothing to do.
        let _ = writeln!(out, "            t.issues({stream});");
    }
    let outs: Vec<&Parameter> = f.parameters.iter().filter(|p| is_output(p)).collect();
    if f.by_hand_in_worker {
        let single_output = |p: &Parameter| is_output(p) && p.count.is_none();
        let arg = |p: &Parameter| match identifier(&p.name) {
            name if !single_output(p) => Some(name),
            name if p.optional => Some(format!("want_{name}")),
            _ => None,
        };
        let args: Vec<String> = f.parameters.iter().filter_map(arg).collect();
        let names: Vec<String> = outs.iter().map(|p| identifier(&p.name)).collect();
        let pattern = match names.len() {
            0 => "()".to_string(),
            1 => names[0].clone(),
            _ => format!("({})", names.join(", ")),
        };
        // An array output is passed as its room in elements, an optional one as whether it is wanted; all come back as values.
        let _ = writeln!(
            out,
            "            let {pattern} = super::{}::{}(t, {})?;",
            f.noun,
            f.name,
            args.join(", ")
        );
    } else {
        call(out, f)?;
    }
    for p in &outs {
        encode(out, f, p)?;
    }
    if f.launches {
        out.push_str("            t.launched();\n");
    }
    if f.kernels {
        out.push_str("            t.kernels_changed();\n");
    }
    if f.settles {
        out.push_str("            t.settle_if_stale();\n");
    }
    out.push_str("            Ok(())\n        }\n");
    Ok(())
}

fn decode(out: &mut String, f: &Function, p: &Parameter) -> Result<(), CodegenError> {
    let n = identifier(&p.name);
    let e = element(f, p)?;
    match (p.direction, &p.ty) {
        (Direction::Value, Type::Str) => {
            let _ = writeln!(out, "            let {n} = text(r.bytes()?)?;");
        }
        (Direction::Value, Type::Handle(kind)) => {
            let _ = writeln!(out, "            let {n} = r.u64()?;");
            if f.class == Class::Destroy && f.parameters.first() == Some(p) {
                let _ = writeln!(out, "            let {n} = t.take_{}({n})?;", kind.to_lowercase());
            } else {
                let _ = writeln!(out, "            let {n} = t.{}({n})?;", kind.to_lowercase());
            }
        }
        (Direction::Value, _) => {
            let _ = writeln!(out, "            let {n} = {};", read_slot(p));
        }
        (Direction::New, _) => {
            let _ = writeln!(out, "            let {n} = r.u64()?;");
        }
        (Direction::In, Type::Handle(kind)) => {
            // A node of the program's can be several of the driver's: edges begin at the last and end at the first.
            let find = match (kind.as_str(), p.name.as_str()) {
                ("GraphNode", "to") => "first_node".into(),
                ("GraphNode", _) => "last_node".into(),
                _ => kind.to_lowercase(),
            };
            let _ = writeln!(out, "            let {n} = handles(r.bytes()?, |h| t.{find}(h))?;");
        }
        (Direction::In, Type::Scalar("u8")) => {
            let _ = writeln!(out, "            let {n} = r.bytes()?;");
        }
        (Direction::In, _) => {
            let _ = writeln!(out, "            let {n} = array::<{e}>(r.bytes()?)?;");
        }
        (Direction::Out | Direction::Made, _) => {
            let wanted = if p.optional { "r.u64()? != 0" } else { "true" };
            let _ = writeln!(out, "            let want_{n} = {wanted};");
        }
    }
    Ok(())
}

/// Room for array outputs, once all counts are known.
fn capacities(out: &mut String, f: &Function) -> Result<(), CodegenError> {
    for p in f.parameters.iter().filter(|p| is_output(p)) {
        let n = identifier(&p.name);
        let size = element_size(f, p)?;
        let count = match &p.count {
            Some(Count::Parameter(c)) => format!("{} as usize", identifier(c)),
            Some(Count::Fixed(c)) => c.to_string(),
            None => continue,
        };
        let _ =
            writeln!(out, "            let {n} = if want_{n} {{ bounded({count}, {size})? }} else {{ 0 }};");
    }
    Ok(())
}

/// Calls the driver by its table with places for the outputs.
fn call(out: &mut String, f: &Function) -> Result<(), CodegenError> {
    let mut args = Vec::new();
    let mut after = String::new();
    for p in &f.parameters {
        let n = identifier(&p.name);
        let e = element(f, p)?;
        args.push(match p.direction {
            Direction::Value if p.ty == Type::Str => format!("{n}.as_ptr()"),
            Direction::Value => n.clone(),
            Direction::In => {
                let need = match &p.count {
                    Some(Count::Parameter(c)) => format!("{} as usize", identifier(c)),
                    Some(Count::Fixed(c)) => c.to_string(),
                    None => "1".into(),
                };
                let _ = writeln!(out, "            enough({n}.as_deref(), {need}, {})?;", p.optional);
                format!("pointer({n}.as_deref())")
            }
            Direction::New => {
                let kind = match &p.ty {
                    Type::Handle(k) if k != "Callable" => k.to_lowercase(),
                    _ => "function".into(),
                };
                let _ = writeln!(out, "            let mut new_{n} = 0_u64;");
                let _ = writeln!(after, "            t.insert_{kind}({n}, new_{n})?;");
                format!("&raw mut new_{n}")
            }
            Direction::Out | Direction::Made if p.count.is_some() => {
                let _ = writeln!(out, "            let mut {n} = room::<{e}>({n})?;");
                format!("if {n}.is_empty() {{ std::ptr::null_mut() }} else {{ {n}.as_mut_ptr() }}")
            }
            Direction::Out | Direction::Made => {
                let _ = writeln!(out, "            let mut value_{n} = <{e} as Default>::default();");
                format!("if want_{n} {{ &raw mut value_{n} }} else {{ std::ptr::null_mut() }}")
            }
        });
    }
    let name = &f.name;
    let _ = writeln!(
        out,
        "            let driver_function = t.driver.{name}.ok_or(error::NOT_SUPPORTED)?;\n            // SAFETY: arguments are checked values, live handles of this client, and places that outlive the call.\n            let status = unsafe {{ driver_function({}) }};",
        args.join(", ")
    );
    out.push_str("            check(status)?;\n");
    out.push_str(&after);
    for p in f.parameters.iter().filter(|p| is_output(p) && p.count.is_none()) {
        let n = identifier(&p.name);
        let value = match (p.direction, &p.ty) {
            (Direction::Made, Type::Handle(kind)) => {
                format!("t.number_{}(value_{n}, {})?", kind.to_lowercase(), owner(f, p))
            }
            _ => format!("value_{n}"),
        };
        let _ = writeln!(out, "            let {n} = {value};");
    }
    Ok(())
}

fn encode(out: &mut String, f: &Function, p: &Parameter) -> Result<(), CodegenError> {
    let n = identifier(&p.name);
    let _ = element_size(f, p)?;
    if p.count.is_some() {
        let _ = writeln!(out, "            w.bytes(vgpu_spec::plain::bytes_of({n}.as_slice()));");
    } else if matches!(p.ty, Type::Struct(_)) {
        let _ = writeln!(out, "            w.bytes(vgpu_spec::plain::bytes_of(std::slice::from_ref(&{n})));");
    } else {
        let _ = writeln!(out, "            w.u64({});", to_slot(p, &n));
    }
    Ok(())
}
