//! The run: measuring processes, native and virtual in turns, and what the shim counted.

use crate::error::{Error, io};
use crate::measure::{Choice, Line, Only, SETTLE};
use crate::operations;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// Which driver a measuring process gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Native,
    Virtual,
}

/// What a run needs to know.
#[derive(Debug, Clone)]
pub struct Plan {
    pub choice: Choice,
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

/// An operation's values of both sides, one for each round, or why there is none.
#[derive(Debug, Default)]
pub struct Values {
    pub values: BTreeMap<Side, Vec<f64>>,
    pub errors: BTreeMap<Side, String>,
    pub counts: Option<Counts>,
}

/// Values by operation, in the order of the list.
pub type Results = Vec<(operations::Operation, Values)>;

/// Carries out the plan.
///
/// # Errors
/// A measuring process that cannot be started. What fails within one is in the results.
pub fn run(plan: &Plan) -> Result<Results, Error> {
    let chosen = operations::all().into_iter().filter(|o| plan.choice.has(o));
    let mut results: Results = chosen.map(|operation| (operation, Values::default())).collect();
    for round in 0..plan.rounds {
        // Who is first changes, so that what wears off or warms up meets both.
        let order =
            if round % 2 == 0 { [Side::Native, Side::Virtual] } else { [Side::Virtual, Side::Native] };
        for side in order {
            if side == Side::Native && !plan.native {
                continue;
            }
            eprintln!("vgpu-bench: round {} of {}, {side:?}", round + 1, plan.rounds);
            one(plan, side, &mut results)?;
        }
    }
    count(plan, &mut results)?;
    Ok(results)
}

fn one(plan: &Plan, side: Side, results: &mut Results) -> Result<(), Error> {
    if !plan.choice.quick {
        // What the process before has set going is over.
        std::thread::sleep(SETTLE);
    }
    let output = process(plan, side, &plan.choice, false)?;
    let mut lines = lines(&output.stdout);
    for (operation, values) in results {
        match lines.remove(&operation.name) {
            Some(Line { value: Some(value), .. }) => values.values.entry(side).or_default().push(value),
            Some(Line { error: Some(error), .. }) => drop(values.errors.insert(side, error)),
            _ => drop(values.errors.insert(side, ended(&output))),
        }
    }
    Ok(())
}

/// Each operation in a process of its own that prints the shim's counters at its end, less those of a process that only starts.
fn count(plan: &Plan, results: &mut Results) -> Result<(), Error> {
    let one = |name: &str| {
        let choice = Choice { only: Only::Name(name.into()), quick: true };
        process(plan, Side::Virtual, &choice, true)
    };
    let base = counted(&one("")?);
    for (operation, values) in results {
        let output = one(&operation.name)?;
        let calls = lines(&output.stdout).get(&operation.name).map_or(0, |line| line.calls);
        values.counts = match (counted(&output), base) {
            (Some(all), Some(base)) => Some(Counts {
                calls,
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

fn process(plan: &Plan, side: Side, choice: &Choice, stats: bool) -> Result<Output, Error> {
    let program = std::env::current_exe().map_err(io("finding this program"))?;
    let mut command = Command::new(program);
    command.arg("measure").args(choice.quick.then_some("--quick"));
    match &choice.only {
        Only::Parts(parts) => command.args(parts.iter().flat_map(|part| ["--only", part])),
        Only::Name(name) => command.arg("--name").arg(name),
    };
    let path = match side {
        Side::Native => plan.native_path.as_ref(),
        Side::Virtual => Some(&plan.virtual_path),
    };
    match path {
        Some(path) => command.env("LD_LIBRARY_PATH", path),
        None => command.env_remove("LD_LIBRARY_PATH"),
    };
    if stats {
        command.env("VGPU_STATS", "1");
    }
    command.stdin(Stdio::null()).output().map_err(io("starting a measuring process"))
}

fn lines(output: &[u8]) -> BTreeMap<String, Line> {
    let text = String::from_utf8_lossy(output);
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    lines.map(|line| (line.name.clone(), line)).collect()
}

fn counted(output: &Output) -> Option<Counts> {
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find_map(|line| line.strip_prefix("vgpu-stats "))?;
    serde_json::from_str(line).ok()
}

fn ended(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().last().unwrap_or("without a word");
    format!("the measuring process ended with {}: {last}", output.status)
}
