//! Several threads of one process, and several processes, that launch at the same time.

use super::{Goal, Operation, Sample, Unit};
use crate::error::{Error, io};
use crate::gpu::Gpu;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::time::Instant;

/// Launches of each thread or process.
const LAUNCHES: u64 = 20_000;

pub fn list() -> Vec<Operation> {
    let mut list = Vec::new();
    for count in [1, 2, 4, 8, 16] {
        let goal = if count == 8 { Goal::Ratio(0.98) } else { Goal::None };
        list.push(Operation::new(
            format!("launching, {count} threads"),
            Unit::LaunchesPerSecond,
            goal,
            count,
            threads,
        ));
    }
    for count in [1, 2, 4, 8] {
        let goal = if count == 8 { Goal::Ratio(0.98) } else { Goal::None };
        let name = format!("launching, {count} processes");
        list.push(Operation::new(name, Unit::LaunchesPerSecond, goal, count, processes));
    }
    list
}

fn launch_all(gpu: &Gpu, count: u64) -> Result<(), Error> {
    for _ in 0..count {
        gpu.tick()?;
    }
    gpu.synchronize()
}

fn threads(gpu: &Gpu, count: u64) -> Result<Sample, Error> {
    let launches = gpu.scaled(LAUNCHES);
    let (context, quick) = (gpu.shared(), gpu.quick);
    let barrier = &Barrier::new(usize::try_from(count).unwrap_or(1) + 1);
    let time = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..count)
            .map(|_| {
                scope.spawn(move || {
                    let ready = Gpu::for_thread(context, quick);
                    barrier.wait();
                    let gpu = ready?;
                    launch_all(&gpu, launches)?;
                    gpu.expect_ticks(launches)
                })
            })
            .collect();
        barrier.wait();
        let start = Instant::now();
        for handle in handles {
            handle.join().map_err(|_| Error::Child("a thread panicked".into()))??;
        }
        Ok::<_, Error>(start.elapsed())
    })?;
    Ok(Sample { value: (count * launches) as f64 / time.as_secs_f64(), calls: count * launches })
}

/// A process that is ready to launch.
struct Worker {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Worker {
    fn start(launches: u64) -> Result<Worker, Error> {
        let program = std::env::current_exe().map_err(io("finding this program"))?;
        let mut child = Command::new(program)
            .args(["part", &launches.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(io("starting a process"))?;
        let output = child.stdout.take().ok_or_else(|| Error::Child("a process has no output".into()))?;
        Ok(Worker { child, output: BufReader::new(output) })
    }

    fn expect(&mut self, word: &str) -> Result<(), Error> {
        let mut line = String::new();
        self.output.read_line(&mut line).map_err(io("reading from a process"))?;
        if line.trim() == word {
            Ok(())
        } else {
            Err(Error::Child(format!("a process says {line:?} for {word:?}")))
        }
    }

    fn go(&mut self) -> Result<(), Error> {
        let input = self.child.stdin.as_mut().ok_or_else(|| Error::Child("a process has no input".into()))?;
        input.write_all(b"go\n").map_err(io("starting the launches"))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait(); // it ends when its input does
    }
}

fn processes(gpu: &Gpu, count: u64) -> Result<Sample, Error> {
    let launches = gpu.scaled(LAUNCHES);
    let mut workers = (0..count).map(|_| Worker::start(launches)).collect::<Result<Vec<_>, _>>()?;
    for worker in &mut workers {
        worker.expect("ready")?;
    }
    let start = Instant::now();
    for worker in &mut workers {
        worker.go()?;
    }
    for worker in &mut workers {
        worker.expect("done")?;
    }
    let time = start.elapsed();
    for worker in &mut workers {
        worker.expect("right")?;
    }
    Ok(Sample { value: (count * launches) as f64 / time.as_secs_f64(), calls: count * launches })
}

/// The part of one process: says that it is ready, waits for a line, launches, checks.
///
/// # Errors
/// The driver's, or a wrong count.
pub fn worker(launches: u64) -> Result<(), Error> {
    let gpu = Gpu::open(false)?;
    launch_all(&gpu, 10)?;
    gpu.reset()?;
    println!("ready");
    let mut line = String::new();
    if std::io::stdin().read_line(&mut line).map_err(io("waiting for the start"))? == 0 {
        return Ok(());
    }
    launch_all(&gpu, launches)?;
    println!("done");
    gpu.expect_ticks(launches)?;
    println!("right");
    Ok(())
}
