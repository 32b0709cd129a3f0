//! `vgpu-bench`: the same driver-API operations natively and through the virtual GPU on one machine, in turns.

mod error;
mod gpu;
mod limits;
mod measure;
mod operations;
mod plot;
mod report;
mod run;

use clap::{Parser, Subcommand};
use error::{Error, io};
use run::Plan;
use std::path::PathBuf;
use std::process::ExitCode;

/// Measures driver-API operations natively and through the virtual GPU.
///
/// Run it in local mode: `with-vgpu vgpu-bench run`.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Do,
}

#[derive(Subcommand)]
enum Do {
    /// Measures both in turns and prints the table. A goal that is missed is no failure.
    Run {
        /// Rounds, each with a process of either side.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
        /// Only operations whose name contains this.
        #[arg(long)]
        only: Vec<String>,
        /// Few repetitions and small sizes: for the counts.
        #[arg(long)]
        quick: bool,
        /// Leaves the native side out.
        #[arg(long)]
        no_native: bool,
        /// The folder of NVIDIA's libcuda.so.1, if the loader does not find it.
        #[arg(long)]
        native_path: Option<PathBuf>,
        /// The folder of the shim. Default: the first of LD_LIBRARY_PATH.
        #[arg(long)]
        virtual_path: Option<PathBuf>,
        /// Writes the table as JSON too, after each round.
        #[arg(long)]
        json: Option<PathBuf>,
        /// Draws the ratios as SVG.
        #[arg(long)]
        plot: Option<PathBuf>,
        /// A list of traffic that operations may cause at most; exit code 1 when one causes more.
        #[arg(long)]
        limits: Option<PathBuf>,
    },
    /// Prints the operations' names.
    List,
    #[command(hide = true)]
    Measure {
        #[arg(long)]
        quick: bool,
    },
    #[command(hide = true)]
    Part { launches: u64 },
}

fn main() -> ExitCode {
    match carry_out(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("vgpu-bench: {error}");
            ExitCode::from(2)
        }
    }
}

fn carry_out(command: Do) -> Result<ExitCode, Error> {
    match command {
        Do::List => operations::all().iter().for_each(|operation| println!("{}", operation.name)),
        Do::Measure { quick } => measure::measure(quick)?,
        Do::Part { launches } => operations::process_of_together(launches)?,
        Do::Run { rounds, only, quick, no_native, native_path, virtual_path, json, plot, limits } => {
            let virtual_path = virtual_path.or_else(shim_folder).ok_or_else(|| {
                Error::Child("there is no shim: run it with with-vgpu, or name --virtual-path".into())
            })?;
            let plan = Plan { only, quick, rounds, native: !no_native, native_path, virtual_path };
            let results = run::run(&plan, |results| {
                let Some(file) = &json else { return Ok(()) };
                let text = format!("{:#}\n", report::json(results));
                std::fs::write(file, text).map_err(io(format!("writing {}", file.display())))
            })?;
            print!("{}", report::table(&results));
            if let Some(file) = plot {
                plot::draw(&results, &file)?;
            }
            if results.iter().any(|(_, values)| !values.errors.is_empty()) {
                return Ok(ExitCode::FAILURE);
            }
            if let Some(file) = limits {
                let text =
                    std::fs::read_to_string(&file).map_err(io(format!("reading {}", file.display())))?;
                let above = limits::above(&limits::parse(&text)?, &results);
                above.iter().for_each(|line| println!("{line}"));
                if !above.is_empty() {
                    return Ok(ExitCode::FAILURE);
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// with-vgpu puts the shim first.
fn shim_folder() -> Option<PathBuf> {
    let list = std::env::var_os("LD_LIBRARY_PATH")?;
    std::env::split_paths(&list).next().filter(|path| path.join("libcuda.so.1").exists())
}
