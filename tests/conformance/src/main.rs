//! Runs one list of calls of the driver API, good and bad, on whatever libcuda.so.1 is, and compares two runs.

mod arguments;
mod attributes;
mod child;
mod compare;
mod crash;
mod driver;
mod fixtures;
mod kernels;
mod memory;
mod plan;
mod run;
mod show;
mod special;
mod states;
mod structs;

use std::{process::ExitCode, time::Duration};

const USAGE: &str = "usage: vgpu-conformance run OUTPUT [--jobs N] [--seconds N] [--known FILE] [--only PART]… [--every N]
       vgpu-conformance list [--only PART]… [--every N]
       vgpu-conformance compare NATIVE VIRTUAL [--reasons FILE] [--percent N] [--codes] [--all]
       vgpu-conformance passed NATIVE VIRTUAL
  run      runs the list and writes a line of JSON per case to OUTPUT
             --jobs N     processes at a time (default 2)
             --seconds N  starts nothing new after that time (default 3600)
             --known FILE an earlier OUTPUT: its cases come last, and stand for those that there was no time for
             --only PART  only cases whose identifier contains PART
             --every N    every Nth case besides the good ones
  list     prints the cases' identifiers
  compare  prints what is the same and what differs; exit code 1 below a percentage (default 98)
             --reasons FILE  known differences: a pattern with *, a tab, a reason
             --codes         compares codes, not values: the devices are different ones
             --all           prints every difference, not only those without a reason
  passed   prints the symbols whose good case succeeds in both";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["run", output, rest @ ..] => start(output, rest),
        ["list", rest @ ..] => list(rest),
        ["child", unit, from, rest @ ..] => child_process(unit, from, rest),
        ["compare", native, virtual_, rest @ ..] => compare::compare(native, virtual_, rest),
        ["passed", native, virtual_] => compare::passed(native, virtual_),
        _ => Err(USAGE.into()),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(message) => {
            eprintln!("vgpu-conformance: {message}");
            ExitCode::from(2)
        }
    }
}

/// The value that follows an option.
fn option<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    let at = words.iter().position(|w| *w == name)?;
    words.get(at + 1).copied()
}

fn number(words: &[&str], name: &str, default: u64) -> Result<u64, String> {
    option(words, name)
        .map_or(Ok(default), |text| text.parse().map_err(|_| format!("{name} needs a number, got '{text}'")))
}

type Chosen = (Vec<vgpu_spec::api::Function>, Vec<plan::Unit>);

/// The units with the chosen cases only.
fn choose(words: &[&str]) -> Result<Chosen, String> {
    let (functions, mut units) = plan::units()?;
    let parts: Vec<&str> = words.windows(2).filter(|w| w[0] == "--only").map(|w| w[1]).collect();
    let every = usize::try_from(number(words, "--every", 1)?.max(1)).map_err(|e| e.to_string())?;
    let mut count = 0;
    for unit in &mut units {
        unit.cases.retain(|case| {
            count += 1;
            let id = case.id();
            (parts.is_empty() || parts.iter().any(|p| id.contains(p)))
                && (case.name == "good" || count % every == 0)
        });
    }
    units.retain(|u| !u.cases.is_empty());
    Ok((functions, units))
}

fn start(output: &str, rest: &[&str]) -> Result<u8, String> {
    let (_, units) = choose(rest)?;
    let choice = rest
        .chunks(2)
        .filter(|c| matches!(c[0], "--only" | "--every"))
        .flatten()
        .map(|w| (*w).to_string())
        .collect();
    let options = run::Options {
        jobs: usize::try_from(number(rest, "--jobs", 2)?).map_err(|e| e.to_string())?.max(1),
        output: output.into(),
        patience: Duration::from_secs(number(rest, "--patience", 10)?),
        deadline: Duration::from_secs(number(rest, "--seconds", 3600)?),
        known: option(rest, "--known").map(String::from),
        choice,
    };
    let started = std::time::Instant::now();
    let count = run::run(&units, &options)?;
    eprintln!("vgpu-conformance: {count} cases in {} s", started.elapsed().as_secs());
    Ok(0)
}

fn list(rest: &[&str]) -> Result<u8, String> {
    for case in choose(rest)?.1.iter().flat_map(|u| &u.cases) {
        println!("{}", case.id());
    }
    Ok(0)
}

fn child_process(unit: &str, from: &str, rest: &[&str]) -> Result<u8, String> {
    let (functions, units) = choose(rest)?;
    let index = |text: &str| text.parse::<usize>().map_err(|e| e.to_string());
    let unit = units.get(index(unit)?).ok_or("no such unit")?;
    let code = child::run(&functions, unit, index(from)?);
    // At once: what the driver does at exit is not a case.
    // SAFETY: nothing is buffered.
    unsafe { libc::_exit(code) }
}
