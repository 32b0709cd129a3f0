//! The list of cases, generated from the description: a symbol's good case, then one parameter at a time made bad, then states.

use crate::{attributes, fixtures};
use vgpu_spec::api::{self, Direction, Function, Parameter, Type};

/// What a case changes in a parameter of the good call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Change {
    /// A null pointer or handle.
    Null,
    /// A handle that was destroyed.
    Stale,
    /// A handle of another kind.
    WrongKind,
    /// A number that is no handle and no mapped address.
    Random,
    /// This value.
    Set(u64),
    /// A structure whose bytes are all this.
    Fill(u8),
    /// Another fixture.
    Fixture(&'static str),
    /// A pointer to this text.
    Text(&'static str),
}

/// In which state the call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    Normal,
    NoContext,
    /// While a stream captures in this mode (0 global, 1 thread-local, 2 relaxed).
    Capture(u32),
    BeforeInit,
    /// After a kernel wrote to no memory.
    Fault,
    /// After a kernel's trap.
    Trap,
    /// The current context was destroyed by another thread.
    DestroyedContext,
    /// In a child of a process that uses CUDA.
    Forked,
}

impl State {
    /// States that a process enters once, for all functions of a noun.
    pub const SHARED: [State; 5] =
        [State::BeforeInit, State::Fault, State::Trap, State::DestroyedContext, State::Forked];

    pub fn name(self) -> &'static str {
        match self {
            State::Normal => "good",
            State::NoContext => "@no-context",
            State::Capture(0) => "@capture-global",
            State::Capture(1) => "@capture-thread-local",
            State::Capture(_) => "@capture-relaxed",
            State::BeforeInit => "@before-init",
            State::Fault => "@after-fault",
            State::Trap => "@after-trap",
            State::DestroyedContext => "@destroyed-context",
            State::Forked => "@forked",
        }
    }
}

/// One call and its circumstances.
#[derive(Debug, Clone)]
pub struct Case {
    /// The exported name, with `_ptsz` or `_ptds`.
    pub symbol: String,
    /// Index into the description.
    pub function: usize,
    pub name: String,
    pub change: Option<(usize, Change)>,
    pub state: State,
}

impl Case {
    pub fn id(&self) -> String {
        format!("{}/{}", self.symbol, self.name)
    }
}

/// What one process runs, in order; a new one goes on after a crash.
#[derive(Debug, Clone)]
pub struct Unit {
    pub noun: String,
    pub cases: Vec<Case>,
}

/// Not called: those that have no described parameters, and what would stop this process itself.
fn is_callable(f: &Function) -> bool {
    f.has_signature() && !attributes::LEFT_OUT.contains(&f.name.as_str())
}

/// Most cases of a unit; a function's stay together.
const UNIT: usize = 220;

/// Every unit of the list.
///
/// # Errors
/// The description does not parse.
pub fn units() -> Result<(Vec<Function>, Vec<Unit>), String> {
    let functions = api::cuda().map_err(|e| e.to_string())?;
    let mut units: Vec<Unit> = Vec::new();
    let callable = || functions.iter().enumerate().filter(|(_, f)| is_callable(f));
    for (index, f) in callable() {
        let mut all = cases(f, index);
        for (also, suffix) in [(f.ptsz, "_ptsz"), (f.ptds, "_ptds")] {
            if also {
                all.extend(form_cases(f, index, suffix));
            }
        }
        match units.last_mut() {
            Some(unit) if unit.noun == f.noun && unit.cases.len() + all.len() <= UNIT => {
                unit.cases.extend(all)
            }
            _ => units.push(Unit { noun: f.noun.clone(), cases: all }),
        }
    }
    for state in State::SHARED {
        let mut all: Vec<Case> = callable()
            .filter(|(_, f)| !(state == State::BeforeInit && f.name == "cuInit"))
            .map(|(index, f)| case(f, index, state.name().into(), None, state))
            .collect();
        // Those that end something come last: the others need it.
        all.sort_by_key(|c| attributes::ends_something(&c.symbol));
        units.extend(all.chunks(100).map(|part| Unit { noun: String::new(), cases: part.to_vec() }));
    }
    Ok((functions, units))
}

fn case(f: &Function, function: usize, name: String, change: Option<(usize, Change)>, state: State) -> Case {
    Case { symbol: f.name.clone(), function, name, change, state }
}

/// The good case and the null ones.
fn form_cases(f: &Function, index: usize, suffix: &str) -> Vec<Case> {
    let mut list = vec![case(f, index, "good".into(), None, State::Normal)];
    for (i, p) in f.parameters.iter().enumerate() {
        if is_pointer(p) || is_handle(p) {
            list.push(case(f, index, format!("{}=null", p.name), Some((i, Change::Null)), State::Normal));
        }
    }
    for c in &mut list {
        c.symbol.push_str(suffix);
    }
    list
}

fn cases(f: &Function, index: usize) -> Vec<Case> {
    let mut list = vec![case(f, index, "good".into(), None, State::Normal)];
    for (i, p) in f.parameters.iter().enumerate() {
        for (what, change) in changes(f, p) {
            list.push(case(f, index, format!("{}={what}", p.name), Some((i, change)), State::Normal));
        }
    }
    for state in [State::NoContext, State::Capture(0), State::Capture(1), State::Capture(2)] {
        list.push(case(f, index, state.name().into(), None, state));
    }
    list
}

pub fn is_pointer(p: &Parameter) -> bool {
    p.direction != Direction::Value || matches!(p.ty, Type::Str | Type::Pointer | Type::Callback)
}

/// The kind of handle that a parameter is.
pub fn handle_kind(p: &Parameter) -> Option<&str> {
    match &p.ty {
        Type::Handle(kind) => Some(kind),
        _ => attributes::object(&p.name),
    }
}

pub fn is_handle(p: &Parameter) -> bool {
    p.direction == Direction::Value && matches!(p.ty, Type::Handle(_) | Type::DevPtr)
}

pub fn is_device(p: &Parameter) -> bool {
    let name = p.name.to_ascii_lowercase();
    p.direction == Direction::Value
        && (p.ty == Type::Device
            || p.ty == Type::Scalar("i32") && (name.contains("dev") || name == "ordinal" || name == "device"))
}

/// What is tried with a parameter: a name for the case, and the change.
fn changes(f: &Function, p: &Parameter) -> Vec<(String, Change)> {
    let mut list: Vec<(String, Change)> = Vec::new();
    let mut add = |name: &str, change| list.push((name.to_string(), change));
    if is_pointer(p) {
        add("null", Change::Null);
        if p.ty == Type::Str {
            add("empty", Change::Text(""));
            add("unknown", Change::Text("no/such name"));
        }
        if let (Type::Struct(_), true) =
            (&p.ty, p.direction == Direction::In || attributes::is_input(f, &p.name))
        {
            add("zeros", Change::Fill(0));
            add("ones", Change::Fill(0xff));
        }
    } else if let Some(kind) = handle_kind(p) {
        add("null", Change::Null);
        add("wrong-kind", Change::WrongKind);
        if fixtures::can_be_stale(kind) {
            add("stale", Change::Stale);
        }
        add("random", Change::Random);
        match kind {
            "Stream" => {
                add("legacy", Change::Set(1));
                add("per-thread", Change::Set(2));
            }
            "Callable" => add("kernel", Change::Fixture("Kernel")),
            _ => {}
        }
    } else if p.ty == Type::DevPtr {
        add("null", Change::Null);
        add("stale", Change::Stale);
        add("random", Change::Random);
        add("host", Change::Fixture("host"));
        add("pinned", Change::Fixture("pinned"));
    } else if is_device(p) {
        add("-1", Change::Set(u64::from(u32::MAX)));
        add("999", Change::Set(999));
    } else if let Type::Scalar(scalar) = p.ty {
        number_changes(f, p, scalar, &mut list);
    }
    list
}

fn number_changes(f: &Function, p: &Parameter, scalar: &str, list: &mut Vec<(String, Change)>) {
    if attributes::is_free_value(f, &p.name) {
        return;
    }
    if p.name.to_ascii_lowercase().contains("flags") {
        let bit = if scalar == "u64" { 1 << 62 } else { 1 << 30 };
        for value in attributes::flags(f) {
            list.push((value.to_string(), Change::Set(*value)));
        }
        list.push(("unknown-bit".into(), Change::Set(bit)));
        return;
    }
    if let Some(values) = attributes::values(f, &p.name) {
        list.extend(values.into_iter().map(|v| (v.to_string(), Change::Set(v))));
    }
    match scalar {
        "f32" | "f64" | "u8" | "u16" => {}
        "i32" => {
            list.push(("-1".into(), Change::Set(u64::from(u32::MAX))));
            list.push(("huge".into(), Change::Set(0x7fff_ffff)));
        }
        "u32" => {
            list.push(("zero".into(), Change::Set(0)));
            list.push(("huge".into(), Change::Set(u64::from(u32::MAX))));
        }
        _ => {
            list.push(("zero".into(), Change::Set(0)));
            list.push(("huge".into(), Change::Set(1 << 62)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_described_symbol_has_cases_with_names_of_their_own() {
        let (functions, units) = units().unwrap();
        let mut ids = BTreeSet::new();
        for case in units.iter().flat_map(|u| &u.cases) {
            assert!(ids.insert(case.id()), "{} is there twice", case.id());
        }
        for f in functions.iter().filter(|f| is_callable(f)) {
            for suffix in ["", "_ptsz", "_ptds"] {
                let exported =
                    suffix.is_empty() || suffix == "_ptsz" && f.ptsz || suffix == "_ptds" && f.ptds;
                assert_eq!(ids.contains(&format!("{}{suffix}/good", f.name)), exported, "{}{suffix}", f.name);
            }
        }
    }

    #[test]
    fn null_pointers_and_bad_handles_are_among_the_changes() {
        let (_, units) = units().unwrap();
        let ids: BTreeSet<String> = units.iter().flat_map(|u| u.cases.iter().map(Case::id)).collect();
        for id in [
            "cuMemAlloc_v2/dptr=null",
            "cuEventRecord/hEvent=stale",
            "cuEventRecord/hStream=wrong-kind",
            "cuMemAlloc_v2/bytesize=zero",
            "cuStreamCreate/Flags=unknown-bit",
            "cuDeviceGet/ordinal=-1",
            "cuMemcpyHtoD_v2_ptds/srcHost=null",
            "cuTexObjectDestroy/texObject=stale",
            "cuMemAlloc_v2/@after-fault",
            "cuMemAlloc_v2/@forked",
        ] {
            assert!(ids.contains(id), "{id}");
        }
    }
}
