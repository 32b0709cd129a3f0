//! Two runs of the list side by side.

use crate::{option, plan};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

type Results = BTreeMap<String, Value>;

fn read(name: &str) -> Result<Results, String> {
    let text = std::fs::read_to_string(name).map_err(|e| format!("reading {name}: {e}"))?;
    let mut results = Results::new();
    for line in text.lines() {
        let value: Value = serde_json::from_str(line).map_err(|e| format!("reading {name}: {e}"))?;
        if let Some(id) = value.get("id").and_then(Value::as_str) {
            results.insert(id.to_string(), value);
        }
    }
    Ok(results)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Same,
    /// The same code, from a later call, as CUDA allows for an asynchronous one.
    Later,
    /// The native driver crashed or hung: there is nothing to compare with.
    Nothing,
    Values,
    Differs,
}

fn field(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or(0)
}

fn verdict(native: &Value, other: Option<&Value>, codes_only: bool) -> Verdict {
    if native.get("end").is_some() {
        return Verdict::Nothing;
    }
    let Some(other) = other.filter(|o| o.get("end").is_none()) else { return Verdict::Differs };
    let (r, a) = (field(native, "r"), field(native, "a"));
    if (field(other, "r"), field(other, "a")) != (r, a) {
        let later = r != 0 && (a == 0 || a == r) && field(other, "r") == 0 && field(other, "a") == r;
        return if later { Verdict::Later } else { Verdict::Differs };
    }
    if field(native, "e") != field(other, "e") {
        return Verdict::Differs;
    }
    if codes_only || outputs_agree(native, other) { Verdict::Same } else { Verdict::Values }
}

/// What both show of the call's outputs is the same.
fn outputs_agree(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.get("o").and_then(Value::as_object), b.get("o").and_then(Value::as_object))
    else {
        return true;
    };
    a.iter().all(|(name, value)| b.get(name).is_none_or(|other| other == value))
}

/// A pattern with `*` against a whole text.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, rest)) => text.strip_prefix(before).is_some_and(|text| {
            rest.is_empty()
                || (0..=text.len()).filter(|i| text.is_char_boundary(*i)).any(|i| matches(rest, &text[i..]))
        }),
    }
}

fn reasons(name: Option<&str>) -> Result<Vec<(String, String)>, String> {
    let Some(name) = name else { return Ok(Vec::new()) };
    let text = std::fs::read_to_string(name).map_err(|e| format!("reading {name}: {e}"))?;
    let rows = text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty());
    rows.map(|l| {
        let (pattern, reason) =
            l.split_once('\t').ok_or_else(|| format!("reading {name}: no tab in '{l}'"))?;
        Ok((pattern.to_string(), reason.to_string()))
    })
    .collect()
}

#[derive(Default, Clone, Copy)]
struct Row {
    cases: u32,
    same: u32,
    later: u32,
    values: u32,
    differ: u32,
    explained: u32,
    nothing: u32,
}

impl Row {
    fn add(&mut self, verdict: Verdict, explained: bool) {
        self.cases += 1;
        let count = match verdict {
            Verdict::Same => &mut self.same,
            Verdict::Later => &mut self.later,
            Verdict::Nothing => &mut self.nothing,
            Verdict::Values => &mut self.values,
            Verdict::Differs => &mut self.differ,
        };
        *count += 1;
        if explained && matches!(verdict, Verdict::Values | Verdict::Differs) {
            self.explained += 1;
        }
    }

    fn percent(&self) -> f64 {
        let compared = self.cases - self.nothing;
        if compared == 0 { 100.0 } else { f64::from(self.same + self.later) * 100.0 / f64::from(compared) }
    }

    fn print(&self, name: &str) {
        println!(
            "{name:26} {:6} {:6} {:6} {:6} {:6} {:9} {:7} {:7.2}",
            self.cases,
            self.same,
            self.later,
            self.values,
            self.differ,
            self.explained,
            self.nothing,
            self.percent()
        );
    }
}

fn brief(value: Option<&Value>) -> String {
    let Some(value) = value else { return "not run".into() };
    if let Some(end) = value.get("end").and_then(Value::as_str) {
        return end.into();
    }
    let mut text = field(value, "r").to_string();
    for (name, word) in [("a", "then"), ("e", "capture")] {
        if field(value, name) != 0 {
            text += &format!(" {word} {}", field(value, name));
        }
    }
    if let Some(outputs) = value.get("o") {
        text += &format!(" {outputs}");
    }
    text
}

/// Prints the table and the differences; 1 when less is the same than the percentage.
///
/// # Errors
/// A file that cannot be read.
pub fn compare(native: &str, other: &str, words: &[&str]) -> Result<u8, String> {
    let (native, other) = (read(native)?, read(other)?);
    let reasons = reasons(option(words, "--reasons"))?;
    let codes_only = words.contains(&"--codes");
    let limit: f64 =
        option(words, "--percent").unwrap_or("98").parse().map_err(|_| "--percent needs a number")?;
    let nouns = nouns()?;
    let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
    let mut all = Row::default();
    let mut used = BTreeSet::new();
    let mut differences = Vec::new();
    for (id, here) in &native {
        let there = other.get(id);
        let verdict = verdict(here, there, codes_only);
        let reason = reasons.iter().find(|(pattern, _)| matches(pattern, id));
        let symbol = id.split('/').next().unwrap_or_default();
        let noun = nouns.get(symbol).map_or("?", String::as_str);
        rows.entry(noun).or_default().add(verdict, reason.is_some());
        all.add(verdict, reason.is_some());
        if matches!(verdict, Verdict::Values | Verdict::Differs) {
            if let Some((pattern, _)) = reason {
                used.insert(pattern);
            }
            differences.push((id, here, there, reason));
        }
    }
    for (id, here, there, reason) in &differences {
        if reason.is_none() || words.contains(&"--all") {
            println!(
                "{id}: {} ≠ {}{}",
                brief(Some(here)),
                brief(*there),
                reason.map_or(String::new(), |r| format!(" ({})", r.1))
            );
        }
    }
    for (pattern, reason) in reasons.iter().filter(|(p, _)| used.contains(p)) {
        println!("known: {pattern}: {reason}");
    }
    println!(
        "\n{:26} {:>6} {:>6} {:>6} {:>6} {:>6} {:>9} {:>7} {:>7}",
        "noun", "cases", "same", "later", "values", "differ", "explained", "crashed", "percent"
    );
    for (noun, row) in &rows {
        row.print(noun);
    }
    all.print("all");
    let new = other.keys().filter(|id| !native.contains_key(*id)).count();
    if new > 0 {
        println!("{new} cases are not in the first file");
    }
    println!("{:.2} % the same, the limit is {limit} %", all.percent());
    Ok(u8::from(all.percent() < limit))
}

/// The noun of each exported symbol.
fn nouns() -> Result<BTreeMap<String, String>, String> {
    let (functions, units) = plan::units()?;
    let cases = units.iter().flat_map(|u| &u.cases);
    Ok(cases.filter_map(|c| Some((c.symbol.clone(), functions.get(c.function)?.noun.clone()))).collect())
}

/// Prints the symbols whose good case succeeds in both.
///
/// # Errors
/// A file that cannot be read.
pub fn passed(native: &str, other: &str) -> Result<u8, String> {
    let (native, other) = (read(native)?, read(other)?);
    let good = |value: &Value| value.get("end").is_none() && field(value, "r") == 0;
    for (id, value) in &native {
        if let Some(symbol) = id.strip_suffix("/good")
            && good(value)
            && other.get(id).is_some_and(|o| good(o) && field(o, "a") == field(value, "a"))
        {
            println!("{symbol}");
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn codes_values_and_crashes_are_told_apart() {
        let one = |native: Value, other: Value| verdict(&native, Some(&other), false);
        assert_eq!(one(json!({"r": 1}), json!({"r": 1})), Verdict::Same);
        assert_eq!(one(json!({"r": 1}), json!({"r": 400})), Verdict::Differs);
        assert_eq!(one(json!({"r": 400}), json!({"r": 0, "a": 400})), Verdict::Later);
        assert_eq!(one(json!({"r": 0}), json!({"r": 0, "a": 400})), Verdict::Differs);
        assert_eq!(one(json!({"r": 0, "e": 901}), json!({"r": 0})), Verdict::Differs);
        assert_eq!(one(json!({"r": 0, "o": {"n": "1"}}), json!({"r": 0, "o": {"n": "2"}})), Verdict::Values);
        assert_eq!(one(json!({"end": "crashed: signal 11"}), json!({"r": 0})), Verdict::Nothing);
        assert_eq!(one(json!({"r": 1}), json!({"end": "hung"})), Verdict::Differs);
        assert_eq!(verdict(&json!({"r": 1}), None, false), Verdict::Differs);
    }

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, text, expected) in [
            ("cuMemAlloc_v2/good", "cuMemAlloc_v2/good", true),
            ("cuMem*/good", "cuMemAlloc_v2/good", true),
            ("cuMem*/good", "cuMemAlloc_v2/goods", false),
            ("*/@forked", "cuX/@forked", true),
            ("cu*Get*/good", "cuCtxSetLimit/good", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn what_crashes_natively_does_not_count() {
        let mut row = Row::default();
        for v in [Verdict::Same, Verdict::Later, Verdict::Differs, Verdict::Values, Verdict::Nothing] {
            row.add(v, false);
        }
        assert!((row.percent() - 50.0).abs() < 1e-9);
    }
}
