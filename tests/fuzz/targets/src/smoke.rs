//! The smoke run: the corpus, then changed copies of it for some time, each target in a process of its own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use vgpu_tests::noise::Noise;

use super::Target;
use super::mutate::mutated;

/// A corpus that cannot be read.
#[derive(Debug)]
pub struct CorpusError {
    pub path: PathBuf,
    pub source: io::Error,
}

impl std::fmt::Display for CorpusError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "reading the corpus {}: {}", self.path.display(), self.source)
    }
}

/// The inputs of a target: what its folder has, and its seeds.
pub fn inputs(target: &Target, corpus: &Path) -> Result<Vec<Vec<u8>>, CorpusError> {
    let folder = corpus.join(target.name);
    let mut paths = match fs::read_dir(&folder) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect::<Vec<_>>(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(source) => return Err(CorpusError { path: folder, source }),
    };
    // In the order of names, so that a run can be had again.
    paths.sort();
    let read = |path: PathBuf| fs::read(&path).map_err(|source| CorpusError { path, source });
    let mut inputs = paths.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
    for seed in (target.seeds)() {
        // The corpus has older ones, or the same.
        if !inputs.contains(&seed) {
            inputs.push(seed);
        }
    }
    Ok(inputs)
}

/// Runs `target` on its inputs and on changed ones, for `time`; how many those were. The input that is being run is kept in `last`.
pub fn run(target: &Target, inputs: &[Vec<u8>], seed: u64, time: Duration, last: &Path) -> io::Result<u64> {
    let one = |bytes: &[u8]| {
        fs::write(last, bytes)?;
        (target.run)(bytes);
        Ok::<(), io::Error>(())
    };
    for input in inputs {
        one(input)?;
    }
    let (begun, mut noise, mut count) = (Instant::now(), Noise::new(seed), 0);
    while begun.elapsed() < time {
        one(&mutated(&mut noise, inputs, target.limit))?;
        count += 1;
    }
    Ok(count)
}
