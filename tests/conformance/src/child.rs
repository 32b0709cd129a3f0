//! Runs the cases of one unit in this process, from one on, and prints a line for each. The process that started it sees a crash.

use crate::{
    arguments::{self, Argument},
    attributes,
    driver::{Call, Driver},
    fixtures::Fixtures,
    memory::Piece,
    plan::{Case, State, Unit},
    show, states,
};
use serde_json::{Map, Value, json};
use std::io::Write as _;
use vgpu_spec::api::{Function, Type};

/// Begins each line that is a result; the driver may print too.
pub const MARK: &str = "@ ";
/// Exit code: the next case needs a new process.
pub const RENEW: i32 = 10;

/// A process that runs cases.
pub struct Child<'a> {
    pub driver: &'a Driver,
    pub fx: Fixtures<'a>,
    pub functions: &'a [Function],
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
    let mut child = Child { driver: &driver, fx: Fixtures::new(&driver), functions };
    let cases = &unit.cases[from.min(unit.cases.len())..];
    match cases.first().map(|c| c.state) {
        None => 0,
        Some(state) if State::SHARED.contains(&state) => states::run(&mut child, state, cases),
        Some(_) => child.normal(cases),
    }
}

/// Prints a result.
pub fn print(case: &Case, fields: Map<String, Value>) {
    let mut all = Map::new();
    all.insert("id".into(), case.id().into());
    all.extend(fields);
    let line = format!("{MARK}{}\n", Value::Object(all));
    let mut out = std::io::stdout().lock();
    // Nobody reads any more when this fails.
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
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
        for (i, case) in cases.iter().enumerate() {
            if attributes::ends_something(&case.symbol) {
                self.fx.renew();
            }
            let good = self.one(case);
            if i + 1 < cases.len() && (!good || attributes::spoils_process(&case.symbol)) {
                return RENEW;
            }
        }
        0
    }

    /// Runs one case and prints it; false if the process is not good for another.
    fn one(&mut self, case: &Case) -> bool {
        let context = self.fx.get("Context");
        let stream = self.fx.get("Stream");
        let (address, arguments, call) = self.prepare(case);
        let Some(address) = address else {
            print(case, Map::from_iter([("end".to_string(), json!("no symbol"))]));
            return true;
        };
        match case.state {
            State::NoContext => {
                self.driver.cu("cuCtxSetCurrent", &[0]);
            }
            State::Capture(mode) => {
                self.driver.cu("cuStreamBeginCapture_v2", &[stream, u64::from(mode)]);
            }
            _ if attributes::wants_capture(&case.symbol) => {
                self.driver.cu("cuStreamBeginCapture_v2", &[stream, 2]);
            }
            _ => {}
        }
        let result = self.driver.call(address, &call);
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
        let current = self.driver.cu("cuCtxSetCurrent", &[context]);
        let after = self.driver.cu("cuCtxSynchronize", &[]);
        if after != 0 {
            fields.insert("a".into(), json!(after));
        }
        print(case, fields);
        after == 0 && current == 0
    }

    /// What the call wrote, by parameter.
    pub fn outputs(&self, case: &Case, arguments: &[Argument]) -> Map<String, Value> {
        let f = self.function(case);
        let shown = |(p, a): (&vgpu_spec::api::Parameter, &Argument)| {
            Some((p.name.clone(), show::output(&self.fx, a)?.into()))
        };
        f.parameters.iter().zip(arguments).filter_map(shown).collect()
    }

    /// Ends a capture if there is one; what that said.
    fn end_capture(&self, stream: u64) -> u32 {
        let status = Piece::filled(0);
        self.driver.cu("cuStreamIsCapturing", &[stream, status.0]);
        if status.word(0) == 0 {
            return 0;
        }
        let graph = Piece::filled(0);
        let code = self.driver.cu("cuStreamEndCapture", &[stream, graph.0]);
        if graph.word(0) != 0 {
            self.driver.cu("cuGraphDestroy", &[graph.word(0)]);
        }
        code
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
