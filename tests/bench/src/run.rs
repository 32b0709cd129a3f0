//! The run: measuring processes, native and virtual in turns, and what the shim counted.

use crate::error::{Error, io};
use crate::measure::Line;
use crate::operations::{self, Measure, Operation};
use crate::report::Spread;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Which driver a measuring process gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Native,
    Virtual,
}

/// What a run needs to know.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Operations whose name contains one of these; all if there is none.
    pub only: Vec<String>,
    /// Few repetitions and small sizes: for the counts.
    pub quick: bool,
    pub rounds: u32,
    /// Whether there are native runs.
    pub native: bool,
    /// Where the native `libcuda.so.1` is, if the loader does not find it by itself.
    pub native_path: Option<PathBuf>,
    /// The folder of the shim.
    pub virtual_path: PathBuf,
}

/// What the shim counted for an operation, with its set-up, for `calls` calls.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Counts {
    #[serde(default)]
    pub calls: u64,
    pub round_trips: u64,
    pub kicks: u64,
    pub interrupts: u64,
    pub bytes_copied: u64,
}

/// Two values of turns side by side, compared.
#[derive(Debug, Clone, Copy)]
pub struct Pair {
    /// virtual / native
    pub ratio: f64,
    /// virtual - native
    pub more: f64,
}

/// An operation's values of both sides, one for each round, or why there is none.
#[derive(Debug, Default)]
pub struct Values {
    pub values: BTreeMap<Side, Vec<f64>>,
    /// The medians of each round's pairs: the processor's speed is the same for both values of a pair, and another one in the next.
    pub pairs: Vec<Pair>,
    pub errors: BTreeMap<Side, String>,
    pub counts: Option<Counts>,
}

/// What the processes of either side answered in their turns.
type Answers = BTreeMap<Side, Vec<Result<f64, String>>>;

/// Values by operation, in the order of the list.
pub type Results = Vec<(operations::Operation, Values)>;

/// Turns of each process for an operation in a round, whose median is the round's value: so many, or less when they have taken so long
/// together.
const TURNS: usize = 5;
const ENOUGH: Duration = Duration::from_millis(300);
/// How long nothing is measured when a process has begun: the broker makes another worker for the one that was taken, which disturbs what
/// runs. It begins with that after a quarter of a second and takes about 0.3.
const SETTLE: Duration = Duration::from_secs(1);

/// Carries out the plan. The processor's speed changes by a quarter within seconds, so in each round a process of either side lives, and
/// they take turns with each operation: one waits for its next, without using anything, while the other works. `keep` gets the results after
/// each round: a run that is cut off has those.
///
/// # Errors
/// No operation is chosen, a measuring process that cannot be started, and what `keep` says. What fails within a process is in the results.
pub fn run(plan: &Plan, keep: impl Fn(&Results) -> Result<(), Error>) -> Result<Results, Error> {
    let chosen = operations::all().into_iter().filter(|operation| plan.has(operation));
    let mut results: Results = chosen.map(|operation| (operation, Values::default())).collect();
    if results.is_empty() {
        return Err(Error::Nothing);
    }
    for round in 0..plan.rounds {
        eprintln!("vgpu-bench: round {} of {}", round + 1, plan.rounds);
        // Who is first changes, so that what wears off or warms up meets both.
        let order =
            if round % 2 == 0 { [Side::Native, Side::Virtual] } else { [Side::Virtual, Side::Native] };
        let sides: Vec<Side> =
            order.into_iter().filter(|&side| plan.native || side == Side::Virtual).collect();
        one_round(plan, &sides, &mut results)?;
        keep(&results)?;
    }
    count(plan, &mut results)?;
    keep(&results)?;
    Ok(results)
}

fn one_round(plan: &Plan, sides: &[Side], results: &mut Results) -> Result<(), Error> {
    let is_cold = |operation: &Operation| matches!(operation.measure, Measure::Cold(_));
    let mut processes = Vec::new();
    let mut cold = vec![Answers::new(); results.len()];
    for &side in sides {
        // What the process before has set going is over.
        plan.settle();
        let mut process = Process::start(plan, side)?;
        for ((operation, _), cold) in results.iter().zip(&mut cold) {
            if is_cold(operation) {
                cold.insert(side, vec![process.ask(&operation.name)]);
            }
        }
        // Why there is no context, what is asked next says too.
        let _ = process.ask("");
        processes.push(process);
    }
    plan.settle();
    for ((operation, values), mut answers) in results.iter_mut().zip(cold) {
        if !is_cold(operation) {
            answers = take_turns(plan, operation, sides, &mut processes);
        }
        values.take(&answers);
    }
    Ok(())
}

/// Has the processes, one for each side, carry out an operation in turns.
fn take_turns(plan: &Plan, operation: &Operation, sides: &[Side], processes: &mut [Process]) -> Answers {
    let mut answers = Answers::new();
    let start = Instant::now();
    for turn in 0..if plan.quick { 1 } else { TURNS } {
        if turn > 0 && start.elapsed() > ENOUGH {
            break;
        }
        for (&side, process) in sides.iter().zip(&mut *processes) {
            answers.entry(side).or_default().push(process.ask(&operation.name));
        }
    }
    answers
}

impl Plan {
    fn has(&self, operation: &Operation) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| operation.name.contains(part.as_str()))
    }

    fn settle(&self) {
        if !self.quick {
            std::thread::sleep(SETTLE);
        }
    }

    /// A measuring process that is to be told what to measure.
    fn process(&self, side: Side) -> Result<Command, Error> {
        let program = std::env::current_exe().map_err(io("finding this program"))?;
        let mut command = Command::new(program);
        command.arg("measure").args(self.quick.then_some("--quick"));
        let first = match side {
            Side::Native => self.native_path.as_ref(),
            Side::Virtual => Some(&self.virtual_path),
        };
        // What else is there both sides may need.
        let there = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        let others = std::env::split_paths(&there).filter(|path| *path != self.virtual_path);
        let folders = std::env::join_paths(first.cloned().into_iter().chain(others))
            .map_err(|e| Error::Child(format!("a folder of libraries: {e}")))?;
        command.env("LD_LIBRARY_PATH", folders);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Ok(command)
    }
}

impl Values {
    /// One round's answers.
    fn take(&mut self, answers: &Answers) {
        let mut round = BTreeMap::new();
        for (&side, answers) in answers {
            match answers.iter().cloned().collect::<Result<Vec<f64>, String>>() {
                Err(error) => drop(self.errors.insert(side, error)),
                Ok(values) => {
                    self.values.entry(side).or_default().extend(median(&values));
                    round.insert(side, values);
                }
            }
        }
        if let (Some(native), Some(virtual_)) = (round.get(&Side::Native), round.get(&Side::Virtual)) {
            let all = |compare: fn(f64, f64) -> f64| {
                median(&native.iter().zip(virtual_).map(|(&n, &v)| compare(n, v)).collect::<Vec<_>>())
            };
            self.pairs
                .extend(all(|n, v| v / n).zip(all(|n, v| v - n)).map(|(ratio, more)| Pair { ratio, more }));
        }
    }
}

fn median(values: &[f64]) -> Option<f64> {
    Spread::of(values).map(|spread| spread.median)
}

/// A measuring process that takes its turns.
struct Process {
    child: Child,
    /// `None` at its end, which it takes for its own.
    names: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(plan: &Plan, side: Side) -> Result<Self, Error> {
        let mut child = plan.process(side)?.spawn().map_err(io("starting a measuring process"))?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(names), Some(out)) => {
                Ok(Process { child, names: Some(names), lines: BufReader::new(out).lines() })
            }
            _ => Err(Error::Child("a measuring process without stdin and stdout".into())),
        }
    }

    /// Has it carry out an operation; its value, or why there is none.
    fn ask(&mut self, name: &str) -> Result<f64, String> {
        // Whether it could be written shows in whether there is an answer.
        let _ = self.names.as_mut().map(|names| writeln!(names, "{name}"));
        let line = self.lines.next().and_then(Result::ok);
        match line.as_deref().map(serde_json::from_str::<Line>) {
            Some(Ok(line)) if line.name != name => Err(format!("the answer for {:?}", line.name)),
            Some(Ok(Line { error: Some(error), .. })) => Err(error),
            Some(Ok(Line { value: Some(value), .. })) => Ok(value),
            Some(Ok(_)) => Err("no value".into()),
            Some(Err(error)) => Err(format!("no answer: {error}")),
            None => Err(self.child.wait().map_or_else(
                |e| format!("waiting for the measuring process: {e}"),
                |status| format!("the measuring process ended with {status}: see its stderr above"),
            )),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.names = None;
        let _ = self.child.wait();
    }
}

/// Each operation in a process of its own that prints the shim's counters at its end, less those of a process that only starts.
fn count(plan: &Plan, results: &mut Results) -> Result<(), Error> {
    let plan = Plan { quick: true, ..plan.clone() };
    let base = counted(&alone(&plan, None)?);
    for (operation, values) in results {
        let output = alone(&plan, Some(&operation.name))?;
        let line = serde_json::from_slice::<Line>(&output.stdout).ok().filter(|line| line.value.is_some());
        values.counts = match (line, counted(&output), base) {
            (Some(line), Some(all), Some(base)) => Some(Counts {
                calls: line.calls,
                round_trips: all.round_trips.saturating_sub(base.round_trips),
                kicks: all.kicks.saturating_sub(base.kicks),
                interrupts: all.interrupts.saturating_sub(base.interrupts),
                bytes_copied: all.bytes_copied.saturating_sub(base.bytes_copied),
            }),
            _ => None,
        };
    }
    Ok(())
}

/// A process that carries out one operation, or none, to its end.
fn alone(plan: &Plan, name: Option<&str>) -> Result<Output, Error> {
    let mut command = plan.process(Side::Virtual)?;
    let mut child = command
        .env("VGPU_STATS", "1")
        .stderr(Stdio::piped())
        .spawn()
        .map_err(io("starting a measuring process"))?;
    if let (Some(mut names), Some(name)) = (child.stdin.take(), name) {
        // Whether it could be written shows in whether there is an answer.
        let _ = writeln!(names, "{name}");
    }
    child.wait_with_output().map_err(io("waiting for a measuring process"))
}

/// What the process and those that it started counted.
fn counted(output: &Output) -> Option<Counts> {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines = text.lines().filter_map(|line| line.strip_prefix("vgpu-stats "));
    lines.map(|line| serde_json::from_str::<Counts>(line).ok()).reduce(|all, one| {
        let (all, one) = (all?, one?);
        Some(Counts {
            calls: all.calls + one.calls,
            round_trips: all.round_trips + one.round_trips,
            kicks: all.kicks + one.kicks,
            interrupts: all.interrupts + one.interrupts,
            bytes_copied: all.bytes_copied + one.bytes_copied,
        })
    })?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_compared_with_those_beside_them() {
        let answers = |values: [f64; 3]| values.map(Ok).to_vec();
        let mut values = Values::default();
        // The processor slows down from turn to turn.
        let both =
            [(Side::Native, answers([10.0, 20.0, 40.0])), (Side::Virtual, answers([11.0, 22.0, 60.0]))];
        values.take(&both.into());
        assert_eq!(
            (values.values[&Side::Native].as_slice(), values.values[&Side::Virtual].as_slice()),
            ([20.0].as_slice(), [22.0].as_slice())
        );
        assert!(values.pairs.len() == 1 && (values.pairs[0].ratio - 1.1).abs() < 1e-9);
        assert!((values.pairs[0].more - 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_round_with_an_error_compares_nothing() {
        let mut values = Values::default();
        let both = [(Side::Native, vec![Ok(1.0)]), (Side::Virtual, vec![Err("no".to_owned())])];
        values.take(&both.into());
        assert!(values.pairs.is_empty() && values.errors[&Side::Virtual] == "no");
        values.take(&Answers::from([(Side::Virtual, vec![Ok(1.0)])]));
        assert!(values.pairs.is_empty() && values.values[&Side::Virtual] == [1.0]);
    }
}
