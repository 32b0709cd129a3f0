//! The generated texts: `docs/coverage.md`, and the block in the README.

use crate::count::{Api, Line, totals};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::path::PathBuf;

const BEGIN: &str = "<!-- coverage: written by ./scripts/coverage --readme -->";
const END: &str = "<!-- coverage: end -->";

/// A file that is generated, or part of which is.
pub struct Page {
    /// From the root of the repository.
    path: &'static str,
    option: &'static str,
}

pub const COVERAGE: Page = Page { path: "docs/coverage.md", option: "--markdown" };
pub const README: Page = Page { path: "README.md", option: "--readme" };

/// What is wrong with a generated file.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    #[error("reading {path}")]
    Read { path: &'static str, source: io::Error },
    #[error("writing {path}")]
    Write { path: &'static str, source: io::Error },
    #[error("checking {path}: it is out of date; run ./scripts/coverage {option}")]
    Stale { path: &'static str, option: &'static str },
    #[error("rewriting the block in README.md: the line {0:?} is missing or not in its place")]
    NoMark(&'static str),
}

impl Page {
    fn file(&self) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(self.path)
    }

    pub fn read(&self) -> Result<String, PageError> {
        std::fs::read_to_string(self.file()).map_err(|source| PageError::Read { path: self.path, source })
    }

    pub fn write(&self, text: &str) -> Result<(), PageError> {
        std::fs::write(self.file(), text).map_err(|source| PageError::Write { path: self.path, source })
    }

    /// Fails unless the file has exactly this text.
    pub fn check(&self, text: &str) -> Result<(), PageError> {
        let same = self.read()? == text;
        if same { Ok(()) } else { Err(PageError::Stale { path: self.path, option: self.option }) }
    }
}

/// ": " and each cause of an error.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

/// `docs/coverage.md`.
pub fn coverage(apis: &[Api]) -> String {
    let mut out = String::from(
        "# Coverage\n\n\
         Written by `./scripts/coverage --markdown`; a test of `spec` fails when it is out of date. Everything here derives from\n\
         `spec/api` (what is supported, and how a call crosses) and `spec/data/tested.txt` (what the test programs call).\n\n\
         A function of the driver API is supported if the symbol that cuGetProcAddress gives for it at CUDA 13.0 is. What is not\n\
         supported exists too, refuses with CUDA_ERROR_NOT_SUPPORTED, and is named once in the log; it refuses every call, or only what is\n\
         right: then what is wrong is answered as by the driver. Supported does not mean every flag and\n\
         attribute: one that is not understood is refused. Classes: `local` is answered by the shim or sent by messages of its own;\n\
         `async`, `create` and `destroy` cross a lane and are not waited for; `sync` waits. Of NVML every exported symbol counts.\n",
    );
    for api in apis.iter().rev() {
        let _ = write!(out, "\n**{}**", totals(std::slice::from_ref(api)).trim_end());
        let _ = writeln!(out, "; the test programs call {} of the supported ones.", api.tested());
        supported(&mut out, api);
        unsupported(&mut out, api);
    }
    out
}

fn supported(out: &mut String, api: &Api) {
    let _ = write!(out, "\n## {}: supported\n\n", api.name);
    out.push_str("| function | symbol | class | tested | described in |\n|---|---|---|---|---|\n");
    for (noun, lines) in by_noun(api) {
        for line in lines.iter().filter(|line| line.supported) {
            let symbol = if line.symbol == line.name { "" } else { &line.symbol };
            let tested = if line.tested { "yes" } else { "no" };
            let _ = writeln!(out, "| {} | {symbol} | {} | {tested} | {noun} |", line.name, line.class);
        }
    }
}

fn unsupported(out: &mut String, api: &Api) {
    let _ = write!(out, "\n## {}: not supported\n\n", api.name);
    out.push_str("| described in | why | refuses | functions |\n|---|---|---|---|\n");
    for (noun, lines) in by_noun(api) {
        let mut reasons: BTreeMap<(&str, bool), Vec<&str>> = BTreeMap::new();
        for line in lines.iter().filter(|line| !line.supported) {
            reasons.entry((&line.reason, line.checks)).or_default().push(&line.name);
        }
        for ((reason, checks), names) in reasons {
            let refuses = if checks { "what is right" } else { "every call" };
            let _ = writeln!(out, "| {noun} | {reason} | {refuses} | {} |", names.join(", "));
        }
    }
}

fn by_noun(api: &Api) -> BTreeMap<&str, Vec<&Line>> {
    let mut nouns: BTreeMap<&str, Vec<&Line>> = BTreeMap::new();
    for line in &api.functions {
        nouns.entry(&line.noun).or_default().push(line);
    }
    nouns
}

/// `readme` with the block written anew.
pub fn with_block(readme: &str, apis: &[Api]) -> Result<String, PageError> {
    let (before, rest) = readme.split_once(BEGIN).ok_or(PageError::NoMark(BEGIN))?;
    let (_, after) = rest.split_once(END).ok_or(PageError::NoMark(END))?;
    Ok(format!("{before}{BEGIN}\n{}{END}{after}", block(apis)))
}

fn block(apis: &[Api]) -> String {
    let mut out = String::new();
    for api in apis.iter().rev() {
        if !out.is_empty() {
            out.push('\n');
        }
        let _ = writeln!(out, "**{}**\n", totals(std::slice::from_ref(api)).trim_end());
        let nouns: Vec<(String, usize, usize)> = by_noun(api)
            .into_iter()
            .map(|(noun, lines)| {
                let count = lines.iter().filter(|line| line.supported).count();
                (noun.replace('_', " "), count, lines.len())
            })
            .collect();
        let list = |wanted: &dyn Fn(usize, usize) -> bool, counts: bool| {
            let chosen = nouns.iter().filter(|(_, count, all)| wanted(*count, *all));
            let text = |(noun, count, all): &(String, usize, usize)| {
                if counts { format!("{noun} ({count} of {all})") } else { noun.clone() }
            };
            chosen.map(text).collect::<Vec<_>>().join(", ")
        };
        let parts = [
            ("whole", list(&|count, all| count == all, false)),
            ("in part", list(&|count, all| count > 0 && count < all, true)),
            ("not yet", list(&|count, _| count == 0, false)),
        ];
        for (title, names) in parts.iter().filter(|(_, names)| !names.is_empty()) {
            let _ = writeln!(out, "- {title}: {names}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api() -> Api {
        let line = |name: &str, noun: &str, supported: bool| Line {
            name: name.into(),
            symbol: format!("{name}_v2"),
            noun: noun.into(),
            class: if supported { "sync" } else { "unsupported" },
            supported,
            checks: noun == "memory_pool" && !supported,
            tested: supported,
            reason: if supported { String::new() } else { "not yet".into() },
        };
        let functions = vec![
            line("cuA", "event", true),
            line("cuB", "memory_pool", true),
            line("cuC", "memory_pool", false),
            line("cuD", "graph", false),
        ];
        Api { name: "test API", functions }
    }

    #[test]
    fn only_the_block_between_the_marks_is_rewritten() {
        let readme = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let text = with_block(&readme, &[api()]).unwrap();
        let expected = "**test API: 2 of 4 supported, 2 unsupported**\n\n\
                        - whole: event\n- in part: memory pool (1 of 2)\n- not yet: graph\n";
        assert_eq!(text, format!("before\n{BEGIN}\n{expected}{END}\nafter\n"));
        assert_eq!(with_block(&text, &[api()]).unwrap(), text);
    }

    #[test]
    fn the_page_tells_what_checks_its_arguments() {
        let page = coverage(&[api()]);
        assert!(page.contains("| memory_pool | not yet | what is right | cuC |\n"), "{page}");
        assert!(page.contains("| graph | not yet | every call | cuD |\n"), "{page}");
    }

    #[test]
    fn a_readme_without_marks_is_an_error() {
        assert!(matches!(with_block("text", &[]), Err(PageError::NoMark(mark)) if mark == BEGIN));
        let swapped = format!("{END}{BEGIN}");
        assert!(matches!(with_block(&swapped, &[]), Err(PageError::NoMark(mark)) if mark == END));
    }

    #[test]
    fn the_page_names_every_function_once() {
        let apis = crate::count::apis().unwrap();
        let page = coverage(&apis);
        let rows = page.lines().filter(|line| line.starts_with('|'));
        let cells: Vec<&str> = rows.flat_map(|row| row.split(['|', ','])).map(str::trim).collect();
        for line in apis.iter().flat_map(|api| &api.functions) {
            let count = cells.iter().filter(|cell| **cell == line.name).count();
            assert_eq!(count, 1, "{}", line.name);
        }
    }

    #[test]
    fn generated_texts_are_up_to_date() {
        let apis = crate::count::apis().unwrap();
        COVERAGE.check(&coverage(&apis)).unwrap_or_else(|error| panic!("{error}"));
        let readme = README.read().unwrap_or_else(|error| panic!("{error}"));
        let text = with_block(&readme, &apis).unwrap_or_else(|error| panic!("{error}"));
        README.check(&text).unwrap_or_else(|error| panic!("{error}"));
    }
}
