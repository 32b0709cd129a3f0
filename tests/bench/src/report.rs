//! The table, as text and as JSON.

use crate::operations::{Goal, Operation, Unit};
use crate::run::{Pair, Results, Side, Values};
use serde_json::{Value, json};
use std::fmt::Write;

/// A median with the least and the greatest value.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub most: f64,
    pub count: usize,
}

impl Spread {
    /// None without values.
    pub fn of(values: &[f64]) -> Option<Spread> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            0 => (sorted.get(middle - 1)? + sorted.get(middle)?) / 2.0,
            _ => *sorted.get(middle)?,
        };
        Some(Spread { median, least, most, count: sorted.len() })
    }
}

/// One operation's comparison.
pub struct Comparison<'a> {
    pub operation: &'a Operation,
    pub native: Option<Spread>,
    pub virtual_: Option<Spread>,
    /// virtual / native and virtual - native of turns side by side: for what one processor does, the steadier measure.
    pub pair_ratio: Option<Spread>,
    pub pair_more: Option<Spread>,
}

impl<'a> Comparison<'a> {
    pub fn of(operation: &'a Operation, values: &Values) -> Self {
        let spread = |side| values.values.get(&side).and_then(|values| Spread::of(values));
        let pairs = |of: fn(&Pair) -> f64| Spread::of(&values.pairs.iter().map(of).collect::<Vec<_>>());
        Comparison {
            operation,
            native: spread(Side::Native),
            virtual_: spread(Side::Virtual),
            pair_ratio: pairs(|pair| pair.ratio),
            pair_more: pairs(|pair| pair.more),
        }
    }

    /// virtual / native, of the medians.
    pub fn ratio(&self) -> Option<f64> {
        Some(self.virtual_?.median / self.native?.median)
    }

    /// virtual - native, of the medians.
    fn more(&self) -> Option<f64> {
        Some(self.virtual_?.median - self.native?.median)
    }

    /// Whether the goal is met; None without a goal or without both values.
    pub fn met(&self) -> Option<bool> {
        let (ratio, more) = (self.ratio()?, self.more()?);
        match (self.operation.goal, self.operation.unit) {
            (Goal::None, _) => None,
            (Goal::More(nanoseconds), _) => Some(more <= nanoseconds),
            (Goal::Ratio(goal), Unit::Nanoseconds) => Some(ratio <= goal),
            (Goal::Ratio(goal), _) => Some(ratio >= goal),
        }
    }
}

fn goal(operation: &Operation) -> String {
    match (operation.goal, operation.unit) {
        (Goal::None, _) => String::new(),
        (Goal::More(nanoseconds), _) => format!("≤ +{:.1} µs", nanoseconds / 1000.0),
        (Goal::Ratio(ratio), Unit::Nanoseconds) => format!("≤ {ratio:.2}"),
        (Goal::Ratio(ratio), _) => format!("≥ {ratio:.2}"),
    }
}

/// In what a value is shown: how much one is, its name, and digits.
fn scale(value: f64, unit: Unit) -> (f64, &'static str, usize) {
    match unit {
        Unit::Nanoseconds if value < 1e3 => (1.0, "ns", 0),
        Unit::Nanoseconds if value < 1e6 => (1e3, "µs", 2),
        Unit::Nanoseconds => (1e6, "ms", 2),
        Unit::BytesPerSecond => (1e9, "GB/s", 2),
        Unit::LaunchesPerSecond => (1e3, "k/s", 0),
    }
}

/// "median unit (least – most)".
fn spread(spread: Option<Spread>, unit: Unit) -> String {
    let Some(Spread { median, least, most, .. }) = spread else { return "-".into() };
    let (one, name, digits) = scale(median, unit);
    let number = |value: f64| format!("{:.digits$}", value / one);
    format!("{} {name} ({} – {})", number(median), number(least), number(most))
}

/// The ratio, or the difference in µs where the goal is one: of the medians, and of turns side by side with the spread of the rounds.
fn compared(c: &Comparison<'_>) -> (String, String) {
    let show = |value: f64| match c.operation.goal {
        Goal::More(_) => format!("{:+.2}", value / 1e3),
        _ => format!("{value:.3}"),
    };
    let (medians, pairs) = match c.operation.goal {
        Goal::More(_) => (c.more(), c.pair_more),
        _ => (c.ratio(), c.pair_ratio),
    };
    let pairs = pairs.map(|s| format!("{} ({} – {})", show(s.median), show(s.least), show(s.most)));
    (medians.map_or("-".into(), show), pairs.unwrap_or_else(|| "-".into()))
}

/// The table for people.
pub fn table(results: &Results) -> String {
    let mut out = format!(
        "{:<44}{:>30}{:>30}{:>12}{:>26}{:>12}\n",
        "operation", "native", "virtual", "ratio or µs", "of turns side by side", "goal"
    );
    for (operation, values) in results {
        let c = Comparison::of(operation, values);
        let (medians, pairs) = compared(&c);
        let _ = writeln!(
            out,
            "{:<44}{:>30}{:>30}{medians:>12}{pairs:>26}{:>12}  {}",
            operation.name,
            spread(c.native, operation.unit),
            spread(c.virtual_, operation.unit),
            goal(operation),
            c.met().map_or("", |met| if met { "met" } else { "MISSED" })
        );
        for (side, error) in &values.errors {
            let _ = writeln!(out, "    {side:?}: {error}");
        }
    }
    let _ = write!(out, "\n{}", counts(results));
    out
}

/// What crossed between guest and host, for each operation with its set-up.
fn counts(results: &Results) -> String {
    let mut out = format!(
        "{:<44}{:>10}{:>14}{:>10}{:>12}{:>16}\n",
        "traffic, set-up included", "calls", "round trips", "kicks", "interrupts", "bytes copied"
    );
    for (operation, values) in results {
        if let Some(c) = values.counts {
            let _ = writeln!(
                out,
                "{:<44}{:>10}{:>14}{:>10}{:>12}{:>16}",
                operation.name, c.calls, c.round_trips, c.kicks, c.interrupts, c.bytes_copied
            );
        }
    }
    out
}

/// The table for programs.
pub fn json(results: &Results) -> Value {
    let side = |s: Option<Spread>| {
        s.map(|s| json!({"median": s.median, "least": s.least, "most": s.most, "rounds": s.count}))
    };
    let list: Vec<Value> = results
        .iter()
        .map(|(operation, values)| {
            let c = Comparison::of(operation, values);
            let errors: Vec<String> = values.errors.iter().map(|(side, e)| format!("{side:?}: {e}")).collect();
            json!({
                "operation": operation.name, "unit": operation.unit, "native": side(c.native), "virtual": side(c.virtual_),
                "ratio": c.ratio(), "pair_ratio": side(c.pair_ratio), "pair_difference": side(c.pair_more),
                "goal": goal(operation), "met": c.met(), "traffic": values.counts, "errors": errors,
            })
        })
        .collect();
    json!({ "operations": list })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison(unit: Unit, goal: Goal, native: f64, virtual_: f64) -> Option<bool> {
        let operation = crate::operations::for_test(unit, goal);
        let mut values = Values::default();
        values.values.insert(Side::Native, vec![native]);
        values.values.insert(Side::Virtual, vec![virtual_]);
        Comparison::of(&operation, &values).met()
    }

    #[test]
    fn a_time_is_to_be_small_and_a_rate_great() {
        assert_eq!(comparison(Unit::Nanoseconds, Goal::Ratio(0.5), 100.0, 50.0), Some(true));
        assert_eq!(comparison(Unit::Nanoseconds, Goal::Ratio(0.5), 100.0, 51.0), Some(false));
        assert_eq!(comparison(Unit::BytesPerSecond, Goal::Ratio(0.99), 100.0, 99.0), Some(true));
        assert_eq!(comparison(Unit::BytesPerSecond, Goal::Ratio(0.99), 100.0, 98.0), Some(false));
        assert_eq!(comparison(Unit::Nanoseconds, Goal::More(10.0), 100.0, 111.0), Some(false));
        assert_eq!(comparison(Unit::Nanoseconds, Goal::None, 100.0, 1.0), None);
    }

    #[test]
    fn a_spread_has_one_unit() {
        let of = |values: &[f64], unit| spread(Spread::of(values), unit);
        assert_eq!(of(&[900.0, 1500.0, 2e6], Unit::Nanoseconds), "1.50 µs (0.90 – 2000.00)");
        assert_eq!(of(&[5.5e10], Unit::BytesPerSecond), "55.00 GB/s (55.00 – 55.00)");
        assert_eq!(of(&[], Unit::Nanoseconds), "-");
    }

    #[test]
    fn a_spread_is_of_the_middle_and_the_ends() {
        let spread = Spread::of(&[3.0, 1.0, 2.0, 10.0]).unwrap();
        assert_eq!((spread.median, spread.least, spread.most, spread.count), (2.5, 1.0, 10.0, 4));
        assert!(Spread::of(&[]).is_none());
    }
}
