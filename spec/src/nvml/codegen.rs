//! The exports of the shim, for its build script.

use super::{Class, Direction, Function, Parameter, ParseError, Type};
use std::fmt::Write;

/// The file `exports.rs`: every exported symbol. A local one checks its arguments and calls the function of its name in the module
/// of its noun; an unsupported one checks them and refuses.
///
/// # Errors
/// A description that does not parse.
pub fn exports() -> Result<String, ParseError> {
    let mut out = String::from("// Derived from spec/api/nvml/*.api.\n");
    for function in super::functions()? {
        match function.class {
            Class::Local => local(&mut out, &function),
            Class::Host => host(&mut out, &function),
            Class::Unsupported => unsupported(&mut out, &function),
        }
    }
    Ok(out)
}

/// The name as a Rust identifier.
fn identifier(p: &Parameter) -> String {
    if p.name == "type" { "r#type".into() } else { p.name.clone() }
}

/// The element type at the C border: handles are numbers.
fn element(ty: &Type) -> String {
    match ty {
        Type::Scalar(s) => (*s).into(),
        Type::Handle(_) => "u64".into(),
        Type::Str | Type::Text => "std::ffi::c_char".into(),
        Type::Pointer => "std::ffi::c_void".into(),
        Type::Struct(name) => format!("crate::abi::{name}"),
    }
}

fn c_type(p: &Parameter) -> String {
    let e = element(&p.ty);
    match (p.direction, &p.ty) {
        (Direction::Value, Type::Str | Type::Pointer) | (Direction::In, _) => format!("*const {e}"),
        (Direction::Value, _) => e,
        (Direction::Out, Type::Pointer) => "*mut *const std::ffi::c_void".into(),
        (Direction::Out | Direction::InOut, _) => format!("*mut {e}"),
    }
}

fn open(out: &mut String, f: &Function) {
    let signature: Vec<String> =
        f.parameters.iter().map(|p| format!("{}: {}", identifier(p), c_type(p))).collect();
    let returns = if f.returns_text { "*const std::ffi::c_char" } else { "u32" };
    let _ = writeln!(
        out,
        "#[unsafe(no_mangle)]\npub unsafe extern \"C\" fn {}({}) -> {returns} {{",
        f.name,
        signature.join(", ")
    );
}

/// Checks the arguments, and writes what the host's NVML answered into the outputs.
fn host(out: &mut String, f: &Function) {
    open(out, f);
    let mut checks = String::new();
    for p in f.parameters.iter().filter(|p| !f.is_capacity(p)) {
        border(&mut checks, f, p);
    }
    let device = f.parameters.first().map(identifier).unwrap_or_default();
    let selectors = super::host::selectors(f).zip(&f.select);
    let selectors: Vec<String> =
        selectors.map(|(p, below)| format!("({}, {below})", identifier(p))).collect();
    for p in super::host::outputs(f).filter(|p| super::host::version(&p.ty) != 0) {
        let _ = writeln!(checks, "        crate::call::check_version({})?;", identifier(p));
    }
    if f.else_not_supported {
        let selectors = selectors.join(", ");
        let _ = writeln!(
            checks,
            "        vgpu_spec::nvml::host::index(&[{selectors}]).ok_or(crate::error::NvmlError::NotSupported)?;"
        );
    }
    let mut writes = String::new();
    for p in super::host::outputs(f) {
        let read = match &p.ty {
            Type::Text => "text",
            ty if super::host::version(ty) != 0 => "versioned",
            _ => "value",
        };
        let _ = writeln!(writes, "        figure.{read}({})?;", identifier(p));
    }
    let _ = writeln!(
        out,
        "    crate::call::enter(\"{name}\", |library| {{\n{checks}        let mut figure = library.figure({device}, \"{name}\", &[{}])?;\n{writes}        Ok(())\n    }})\n}}",
        selectors.join(", "),
        name = f.name,
    );
}

fn local(out: &mut String, f: &Function) {
    open(out, f);
    let mut args = Vec::new();
    let mut checks = String::new();
    for p in f.parameters.iter().filter(|p| !f.is_capacity(p)) {
        border(&mut checks, f, p);
        args.push(identifier(p));
    }
    if f.returns_text {
        let _ = writeln!(
            out,
            "    vgpu_client::record::call(\"{}\");\n    crate::{}::{}({})\n}}",
            f.name,
            f.noun,
            f.name,
            args.join(", ")
        );
        return;
    }
    let (enter, library) = if f.early {
        ("enter_early", "")
    } else {
        args.insert(0, "library".into());
        ("enter", "library")
    };
    let _ = writeln!(
        out,
        "    crate::call::{enter}(\"{}\", |{library}| {{\n{checks}        crate::{}::{}({})\n    }})\n}}",
        f.name,
        f.noun,
        f.name,
        args.join(", ")
    );
}

/// Turns one C argument into what the function by hand takes; order is that of the native library: handles first, then pointers.
fn border(out: &mut String, f: &Function, p: &Parameter) {
    let n = identifier(p);
    let by_value = |count: &String| f.parameters.iter().any(|q| q.name == *count && !q.is_pointer());
    let value = match (p.direction, &p.ty, &p.count) {
        (Direction::Value, Type::Handle("Device"), _) => format!("library.device({n})?"),
        (Direction::Value, Type::Str, _) => format!("unsafe {{ crate::call::text({n}) }}?"),
        (Direction::Value, ..) => return,
        (Direction::In, ..) => format!("unsafe {{ crate::call::input({n}) }}?"),
        (Direction::InOut, _, None) => format!("unsafe {{ crate::call::in_out({n}) }}?"),
        (Direction::Out, _, None) => format!("unsafe {{ crate::call::Out::new({n}) }}?"),
        (Direction::Out, Type::Text, Some(count)) => {
            format!("unsafe {{ crate::call::Text::new({n}, {count}) }}?")
        }
        // Without a place for the count there is nothing to tell: all of the array is written.
        (Direction::Out, _, Some(count)) if by_value(count) => {
            format!("unsafe {{ crate::call::array({n}, {count}) }}?")
        }
        (Direction::Out, _, Some(count)) => format!("unsafe {{ crate::call::List::new({count}, {n}) }}?"),
        (Direction::InOut, _, Some(count)) => format!("unsafe {{ crate::call::array({n}, {count}) }}?"),
    };
    if value.starts_with("unsafe") {
        out.push_str("        // SAFETY: the program's pointer, valid or NULL as NVML documents it.\n");
    }
    let _ = writeln!(out, "        let {n} = {value};");
}

fn unsupported(out: &mut String, f: &Function) {
    let (mut signature, mut devices, mut pointers) = (Vec::new(), Vec::new(), Vec::new());
    for p in &f.parameters {
        let n = identifier(p);
        let handle = p.direction == Direction::Value && matches!(p.ty, Type::Handle(_));
        if handle && p.ty == Type::Handle("Device") {
            signature.push(format!("{n}: u64"));
            devices.push(n);
        } else if handle || p.is_pointer() {
            signature.push(format!("{}: *const std::ffi::c_void", if p.optional { "_" } else { &n }));
            if !p.optional {
                pointers.push(n);
            }
        } else {
            signature.push(format!("_: {}", element(&p.ty)));
        }
    }
    let _ = writeln!(
        out,
        "#[unsafe(no_mangle)]\npub extern \"C\" fn {name}({}) -> u32 {{\n    crate::unsupported::answer(\"{name}\", {:?}, &[{}], &[{}])\n}}",
        signature.join(", "),
        f.reason.as_deref().unwrap_or_default(),
        devices.join(", "),
        pointers.iter().map(|p| format!("{p}.is_null()")).collect::<Vec<_>>().join(", "),
        name = f.name,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derived(line: &str) -> String {
        let function = super::super::parse_file("device", line).unwrap().remove(0);
        let mut out = String::new();
        match function.class {
            Class::Local => local(&mut out, &function),
            Class::Host => host(&mut out, &function),
            Class::Unsupported => unsupported(&mut out, &function),
        }
        out
    }

    #[test]
    fn a_local_function_gets_checked_arguments_without_counts() {
        let text = derived("local nvmlX(device: Device, name: out text[length], length: u32)");
        assert!(
            text.contains("fn nvmlX(device: u64, name: *mut std::ffi::c_char, length: u32) -> u32"),
            "{text}"
        );
        assert!(text.contains("library.device(device)?"), "{text}");
        assert!(text.contains("crate::device::nvmlX(library, device, name)"), "{text}");
    }

    #[test]
    fn a_function_of_the_host_writes_its_figure_into_the_outputs() {
        let text = derived("host nvmlX(d: Device, type: u32, a: out u32, b: out u64) select 4");
        assert!(text.contains("let mut figure = library.figure(d, \"nvmlX\", &[(r#type, 4)])?;"), "{text}");
        let (a, b) = (text.find("figure.value(a)?").unwrap(), text.find("figure.value(b)?").unwrap());
        assert!(a < b, "{text}");
        let text = derived("host nvmlX(d: Device, t: out text[length], length: u32) once");
        assert!(text.contains("figure.text(t)?"), "{text}");
        let unknown = "host::index(&[(a, 4)]).ok_or(crate::error::NvmlError::NotSupported)?;";
        let line = "host nvmlX(d: Device, a: u32, b: out u32) select 4";
        assert!(!derived(line).contains(unknown));
        assert!(derived(&format!("{line} else NOT_SUPPORTED once")).contains(unknown));
    }

    #[test]
    fn an_unsupported_function_checks_devices_and_pointers_that_may_not_be_null() {
        let text = derived("unsupported nvmlX(d: Device, n: inout u32, a: out u32[n]?, k: u32) \"why\"");
        assert!(text.contains("answer(\"nvmlX\", \"why\", &[d], &[n.is_null()])"), "{text}");
    }
}
