//! Traffic that operations may cause at most: what guards the fast paths where there is no GPU.

use crate::error::Error;
use crate::run::Results;

/// One line: an operation and what it may cause in a quick run, its set-up included.
#[derive(Debug, PartialEq, Eq)]
pub struct Limit {
    pub operation: String,
    pub round_trips: u64,
    /// Kicks and interrupts together: both are exits of a VM.
    pub exits: u64,
    pub bytes_copied: u64,
}

/// Lines of four columns, separated by tabs; `#` begins a comment.
///
/// # Errors
/// A line of another form.
pub fn parse(text: &str) -> Result<Vec<Limit>, Error> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| limit(line).ok_or_else(|| Error::Child(format!("no limit: {line:?}")))).collect()
}

fn limit(line: &str) -> Option<Limit> {
    let mut columns = line.split('\t');
    let operation = columns.next()?.to_owned();
    let mut number = || columns.next()?.parse().ok();
    Some(Limit { operation, round_trips: number()?, exits: number()?, bytes_copied: number()? })
}

/// What is above its limit, in words; also an operation that was not counted.
pub fn above(limits: &[Limit], results: &Results) -> Vec<String> {
    let mut out = Vec::new();
    for limit in limits {
        let counts =
            results.iter().find(|(o, _)| o.name == limit.operation).and_then(|(_, values)| values.counts);
        let Some(counts) = counts else {
            out.push(format!("{}: nothing was counted", limit.operation));
            continue;
        };
        let exits = counts.kicks + counts.interrupts;
        for (what, found, most) in [
            ("round trips", counts.round_trips, limit.round_trips),
            ("kicks and interrupts", exits, limit.exits),
            ("bytes copied", counts.bytes_copied, limit.bytes_copied),
        ] {
            if found > most {
                out.push(format!("{}: {found} {what}, {most} is the limit", limit.operation));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::{Goal, Unit, for_test};
    use crate::run::{Counts, Values};

    #[test]
    fn a_rise_and_a_missing_count_are_named() {
        let limits = parse("# comment\nx\t1\t2\t3\n").unwrap();
        let results =
            |counts| vec![(for_test(Unit::Nanoseconds, Goal::None), Values { counts, ..Values::default() })];
        let counts = Counts { calls: 1, round_trips: 1, kicks: 1, interrupts: 1, bytes_copied: 3 };
        assert!(above(&limits, &results(Some(counts))).is_empty());
        assert_eq!(above(&limits, &results(Some(Counts { kicks: 2, ..counts }))).len(), 1);
        assert_eq!(above(&limits, &results(None)).len(), 1);
        assert!(parse("x\t1\t2\n").is_err());
    }
}
