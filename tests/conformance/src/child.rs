//! Runs the cases of one unit in this process, from one on, and prints a line for each. The process that started it sees a crash.

use crate::{
    arguments::{self, Argument, Show},
    attributes,
    driver::{Call, Driver},
    fixtures::Fixtures,
    memory::Piece,
    plan::{Case, Change, State, Unit},
    show, states,
};
use serde_json::{Map, Value, json};
use std::io::Write as _;
use vgpu_spec::api::{Function, Type};

/// Begins each line that is a result; the driver may print too.
pub const MARK: &str = "@ ";
/// Exit code: the next case needs a new process.
pub const RENEW: i32 = 10;

/// Begins the line that says that a call crashed and the process goes on.
pub const DIRTY: &str = "@!";

/// Begins the line that says that a call's arguments are made, so that time spent on them does not count as the first call's.
pub const READY: &str = "@.";

extern "C" fn give_up(_: i32) {
    // SAFETY: ends the process, without what the driver does at exit.
    unsafe { libc::_exit(RENEW) }
}

/// A process that runs cases.
pub struct Child<'a> {
    pub driver: &'a Driver,
    pub fx: Fixtures<'a>,
    pub functions: &'a [Function],
    /// Whether the last call did.
    succeeded: bool,
}

/// Runs the unit's cases from `from` on; the exit code.
pub fn run(functions: &[Function], unit: &Unit, from: usize) -> i32 {
    let driver = match Driver::open() {
        Ok(driver) => driver,
        Err(error) => {
            eprintln!("vgpu-conformance: {error}");
            return 1;
        }
    };
    let mut child = Child { driver: &driver, fx: Fixtures::new(&driver), functions, succeeded: false };
    let cases = &unit.cases[from.min(unit.cases.len())..];
    match cases.first().map(|c| c.state) {
        None => 0,
        Some(state) if State::SHARED.contains(&state) => states::run(&mut child, state, cases),
        Some(_) => child.normal(cases),
    }
}

/// Whether a process ends with this case. What is no link crashes NVIDIA's linker, and its answers depend on what it did before: where such
/// a link is refused, the cases that follow are to find it as new.
fn ends_linker(case: &Case) -> bool {
    case.symbol.starts_with("cuLink") && matches!(case.change, Some((_, Change::Stale | Change::Random)))
}

/// Prints a result.
pub fn print(case: &Case, fields: Map<String, Value>) {
    let mut all = Map::new();
    all.insert("id".into(), case.id().into());
    all.extend(fields);
    say(&format!("{MARK}{}", Value::Object(all)));
}

pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody reads any more when this fails.
    let _ = out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush());
}

/// How a call ended that did not return.
pub fn end(how: &str) -> Map<String, Value> {
    Map::from_iter([("end".to_string(), json!(how))])
}

/// A code as a result's fields.
pub fn code(code: u32) -> Map<String, Value> {
    Map::from_iter([("r".to_string(), json!(code))])
}

impl Child<'_> {
    pub fn function(&self, case: &Case) -> &Function {
        &self.functions[case.function]
    }

    /// Makes the arguments; the address is None if the driver has no such symbol.
    pub fn prepare(&mut self, case: &Case) -> (Option<usize>, Vec<Argument>, Call) {
        let functions = self.functions;
        let f = &functions[case.function];
        let mut arguments = arguments::good(&mut self.fx, f);
        let call = arguments::call(&mut self.fx, f, &mut arguments, case.change);
        (self.driver.symbol(&case.symbol), arguments, call)
    }

    fn normal(&mut self, cases: &[Case]) -> i32 {
        let code = self.fx.start();
        if code != 0 {
            eprintln!("vgpu-conformance: cuInit returned {code}");
        }
        let mut before: Option<&Case> = None;
        for (i, case) in cases.iter().enumerate() {
            let other = before.is_some_and(|b| b.symbol != case.symbol);
            if other || attributes::ends_something(&case.symbol) {
                self.fx.renew();
            }
            let fit = self.one(case) && !ends_linker(case);
            let spoiled = match cases.get(i + 1) {
                None => return 0,
                Some(next) if next.symbol == case.symbol => {
                    attributes::spoils_process(&case.symbol) && self.succeeded
                }
                Some(_) => {
                    attributes::spoils_process(&case.symbol) || attributes::spoils_others(&case.symbol)
                }
            };
            if !fit || spoiled {
                return RENEW;
            }
            before = Some(case);
        }
        0
    }

    /// Runs one case and prints it; false if the process is not good for another.
    fn one(&mut self, case: &Case) -> bool {
        let context = self.fx.get("Context");
        let stream = self.fx.get("Stream");
        let (address, arguments, call) = self.prepare(case);
        let Some(address) = address else {
            print(case, end("no symbol"));
            return true;
        };
        match case.state {
            State::NoContext => self.without_context(),
            State::Capture(mode) => {
                self.driver.cu("cuStreamBeginCapture_v2", &[stream, u64::from(mode)]);
            }
            _ if attributes::wants_capture(&case.symbol) => {
                self.driver.cu("cuStreamBeginCapture_v2", &[stream, 2]);
            }
            _ => {}
        }
        let Some(result) = self.driver.call(address, &call) else {
            print(case, end("crashed: signal 11"));
            // A linker that crashed answers nothing right any more.
            return self.recover(context, stream) && !case.symbol.starts_with("cuLink");
        };
        self.succeeded = result == 0;
        let mut fields = code(result);
        if result == 0 {
            let shown = self.outputs(case, &arguments);
            if !shown.is_empty() {
                fields.insert("o".into(), Value::Object(shown));
            }
        }
        if matches!(case.state, State::Capture(_)) {
            let end = self.end_capture(stream);
            if end != 0 {
                fields.insert("e".into(), json!(end));
            }
        } else if case.symbol.contains("Capture") {
            self.end_capture(stream);
            self.driver.cu("cuThreadExchangeStreamCaptureMode", &[Piece::filled(0).0]);
        }
        self.clean_up(case, result, &arguments);
        self.without_context();
        let current = self.driver.cu("cuCtxSetCurrent", &[context]);
        let after = self.driver.cu("cuCtxSynchronize", &[]);
        if after != 0 {
            fields.insert("a".into(), json!(after));
        }
        print(case, fields);
        after == 0 && current == 0
    }

    /// After a crash: makes all fixtures anew, unless that hangs; false if the process is of no more use.
    fn recover(&mut self, context: u64, stream: u64) -> bool {
        say(DIRTY);
        // SAFETY: the handler ends the process.
        unsafe {
            libc::signal(libc::SIGALRM, (give_up as *const ()).expose_provenance());
            libc::alarm(1);
        }
        self.end_capture(stream);
        let current = self.driver.cu("cuCtxSetCurrent", &[context]);
        let after = self.driver.cu("cuCtxSynchronize", &[]);
        self.fx.renew();
        let made = self.fx.get("Stream") != 0 && self.fx.get("Event") != 0;
        // SAFETY: plain system call.
        unsafe { libc::alarm(0) };
        current == 0 && after == 0 && made
    }

    /// What the call wrote, by parameter.
    pub fn outputs(&self, case: &Case, arguments: &[Argument]) -> Map<String, Value> {
        let f = self.function(case);
        let counts_up = attributes::counts_up(&case.id());
        let shown = |(p, a): (&vgpu_spec::api::Parameter, &Argument)| {
            let shown = match a.output {
                Some((piece, _)) if counts_up => Argument { output: Some((piece, Show::Opaque(8))), ..*a },
                _ => *a,
            };
            Some((p.name.clone(), show::output(&self.fx, &shown)?.into()))
        };
        f.parameters.iter().zip(arguments).filter_map(shown).collect()
    }

    /// Empties the stack of contexts.
    fn without_context(&self) {
        let place = Piece::filled(0);
        for _ in 0..8 {
            self.driver.cu("cuCtxGetCurrent", &[place.0]);
            if place.word(0) == 0 || self.driver.cu("cuCtxPopCurrent_v2", &[place.0]) != 0 {
                return;
            }
        }
    }

    /// Ends captures of the stream and of the per-thread one, if there are; what that said for the stream.
    fn end_capture(&self, stream: u64) -> u32 {
        let mut result = 0;
        for which in [2, stream] {
            let status = Piece::filled(0);
            self.driver.cu("cuStreamIsCapturing", &[which, status.0]);
            if status.word(0) == 0 {
                continue;
            }
            let graph = Piece::filled(0);
            let code = self.driver.cu("cuStreamEndCapture", &[which, graph.0]);
            if graph.word(0) != 0 {
                self.driver.cu("cuGraphDestroy", &[graph.word(0)]);
            }
            if which == stream {
                result = code;
            }
        }
        result
    }

    /// Gives back what would fill the device.
    fn clean_up(&self, case: &Case, result: u32, arguments: &[Argument]) {
        if result != 0 || !case.symbol.starts_with("cuCtxCreate") {
            return;
        }
        for (p, a) in self.function(case).parameters.iter().zip(arguments) {
            if p.ty == Type::Handle("Context".into())
                && let Some((piece, _)) = a.output
            {
                self.driver.cu("cuCtxDestroy_v2", &[piece.word(0)]);
            }
        }
    }
}
