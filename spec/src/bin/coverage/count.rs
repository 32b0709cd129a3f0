//! What counts as supported: one line per function of an API, whatever versions of it are exported.

use std::collections::{BTreeMap, BTreeSet};
use vgpu_spec::api::{self, Class, Function, ProcAddress, base_name};
use vgpu_spec::nvml;

/// The functions of CUDA 13.0, by base name.
const CLASSIFICATION: &str = include_str!("../../../data/classification.tsv");
/// The version whose newest symbols count: 1000 × major + 10 × minor.
const VERSION: u32 = 13000;

/// Why the functions could not be counted.
#[derive(Debug, thiserror::Error)]
pub enum CountError {
    #[error(transparent)]
    Description(#[from] api::ParseError),
    #[error("counting {base}: cuGetProcAddress of version {VERSION} gives no symbol for it")]
    NoSymbol { base: String },
    #[error("counting {base}: its symbol {symbol} is not described")]
    NotDescribed { base: String, symbol: String },
}

/// One function of an API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Without version: `cuMemAlloc`.
    pub name: String,
    /// What a program that asks for it gets: `cuMemAlloc_v2`.
    pub symbol: String,
    /// The file that describes it.
    pub noun: String,
    pub class: &'static str,
    pub supported: bool,
    /// It is not supported, but answers what is wrong: only what would be done is refused.
    pub checks: bool,
    /// It is supported, and a test program calls it, in whichever version.
    pub tested: bool,
    /// Why it is not supported; empty if it is.
    pub reason: String,
}

/// An API and its functions, sorted by name.
#[derive(Debug, Clone)]
pub struct Api {
    /// As the totals name it.
    pub name: &'static str,
    pub functions: Vec<Line>,
}

impl Api {
    pub fn supported(&self) -> usize {
        self.functions.iter().filter(|line| line.supported).count()
    }

    pub fn tested(&self) -> usize {
        self.functions.iter().filter(|line| line.tested).count()
    }
}

/// All APIs, in the order in which they are printed: the driver API's totals are the last line.
///
/// # Errors
/// A description that does not parse, or that lacks a function.
pub fn apis() -> Result<Vec<Api>, CountError> {
    let tested = api::tested();
    let functions = driver(&bases(), &api::cuda()?, &api::proc_addresses(), &tested)?;
    let driver = Api { name: "driver API 13.0", functions };
    let management = Api { name: "NVML", functions: management(&nvml::functions()?, &tested) };
    Ok(vec![management, driver])
}

/// NVML has no look-up by version: every exported symbol is a function.
fn management(functions: &[nvml::Function], tested: &BTreeSet<&str>) -> Vec<Line> {
    let line = |function: &nvml::Function| {
        let supported = function.class != nvml::Class::Unsupported;
        Line {
            name: function.name.clone(),
            symbol: function.name.clone(),
            noun: function.noun.clone(),
            class: function.class.name(),
            supported,
            checks: !supported,
            tested: supported && tested.contains(function.name.as_str()),
            reason: function.reason.clone().unwrap_or_default(),
        }
    };
    let mut lines: Vec<Line> = functions.iter().map(line).collect();
    lines.sort_by(|a, b| a.name.cmp(&b.name));
    lines
}

/// A line of totals per API.
pub fn totals(apis: &[Api]) -> String {
    let line = |api: &Api| {
        let (all, supported) = (api.functions.len(), api.supported());
        format!("{}: {supported} of {all} supported, {} unsupported\n", api.name, all - supported)
    };
    apis.iter().map(line).collect()
}

/// The base names of CUDA 13.0.
fn bases() -> BTreeSet<&'static str> {
    let rows = CLASSIFICATION.lines().filter(|line| !line.starts_with('#'));
    rows.filter_map(|line| line.split('\t').nth(1)).map(str::trim).filter(|name| !name.is_empty()).collect()
}

/// A function is as supported as the symbol that cuGetProcAddress gives for it; older versions of it do not count.
fn driver(
    bases: &BTreeSet<&str>,
    functions: &[Function],
    addresses: &[ProcAddress],
    tested: &BTreeSet<&str>,
) -> Result<Vec<Line>, CountError> {
    let described: BTreeMap<&str, &Function> =
        functions.iter().filter(|f| !f.message).map(|f| (f.name.as_str(), f)).collect();
    // In ascending order of version: the last one stays.
    let newest: BTreeMap<&str, &str> = addresses
        .iter()
        .filter(|entry| entry.since <= VERSION)
        .map(|entry| (entry.api.as_str(), entry.symbol.as_str()))
        .collect();
    let tested: BTreeSet<&str> = tested.iter().map(|symbol| base_of(symbol)).collect();
    let line = |&base: &&str| {
        let no_symbol = || CountError::NoSymbol { base: base.into() };
        let symbol = *newest.get(base).ok_or_else(no_symbol)?;
        let not_described = || CountError::NotDescribed { base: base.into(), symbol: symbol.into() };
        let function = described.get(symbol).ok_or_else(not_described)?;
        let supported = function.supported();
        Ok(Line {
            name: base.into(),
            symbol: symbol.into(),
            noun: function.noun.clone(),
            class: if supported { function.class.name() } else { Class::Unsupported.name() },
            supported,
            checks: !supported && function.class != Class::Unsupported,
            tested: supported && tested.contains(base),
            reason: function.reason.clone().unwrap_or_default(),
        })
    };
    bases.iter().map(line).collect()
}

/// `cuMemcpyAsync_ptsz` and `cuMemcpyHtoD_v2_ptds` → their base names.
fn base_of(symbol: &str) -> &str {
    let plain = symbol.strip_suffix("_ptsz").or_else(|| symbol.strip_suffix("_ptds")).unwrap_or(symbol);
    base_name(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESCRIPTION: &str = "unsupported cuAlloc(n: u32) \"old\"\n\
                               sync cuAlloc_v2(n: usize)\n\
                               sync cuAlloc_v3(n: usize)\n\
                               async cuCopy(n: usize)\n\
                               unsupported cuCopy_v2(n: usize) \"not yet\"\n\
                               local cuName()\n\
                               local cuPeer(n: usize) \"no peer\"\n\
                               message sync vgpuRead(n: usize)\n";

    fn addresses() -> Vec<ProcAddress> {
        let rows = [
            ("cuAlloc", 2000, "cuAlloc"),
            ("cuAlloc", 3020, "cuAlloc_v2"),
            ("cuAlloc", 13010, "cuAlloc_v3"),
            ("cuCopy", 4000, "cuCopy"),
            ("cuCopy", 13000, "cuCopy_v2"),
            ("cuName", 2000, "cuName"),
            ("cuPeer", 2000, "cuPeer"),
        ];
        let entry = |(api, since, symbol): (&str, u32, &str)| ProcAddress {
            api: api.into(),
            since,
            symbol: symbol.into(),
            per_thread: symbol.into(),
        };
        rows.map(entry).to_vec()
    }

    fn count(bases: &[&str], tested: &[&str]) -> Result<Vec<Line>, CountError> {
        let functions = api::parse_file("test", DESCRIPTION).unwrap();
        driver(&bases.iter().copied().collect(), &functions, &addresses(), &tested.iter().copied().collect())
    }

    #[test]
    fn the_newest_symbol_of_13_0_decides() {
        let lines = count(&["cuAlloc", "cuCopy", "cuName"], &[]).unwrap();
        let found: Vec<_> = lines.iter().map(|l| (l.symbol.as_str(), l.class, l.supported)).collect();
        assert_eq!(
            found,
            [("cuAlloc_v2", "sync", true), ("cuCopy_v2", "unsupported", false), ("cuName", "local", true)]
        );
        assert_eq!(lines[1].reason, "not yet");
        let api = Api { name: "test", functions: lines };
        assert_eq!(totals(&[api]), "test: 2 of 3 supported, 1 unsupported\n");
    }

    #[test]
    fn what_checks_its_arguments_and_refuses_is_not_supported() {
        let lines = count(&["cuCopy", "cuName", "cuPeer"], &["cuPeer"]).unwrap();
        let found: Vec<_> = lines.iter().map(|l| (l.class, l.supported, l.checks, l.tested)).collect();
        let refused = |checks| ("unsupported", false, checks, false);
        assert_eq!(found, [refused(false), ("local", true, false, false), refused(true)]);
        assert_eq!(lines[2].reason, "no peer");
    }

    #[test]
    fn a_call_of_any_version_or_stream_form_is_a_test() {
        let lines = count(&["cuAlloc", "cuCopy", "cuName"], &["cuAlloc_v2", "cuCopy_ptsz"]).unwrap();
        // A call of what is not supported tests nothing.
        assert_eq!(lines.iter().map(|l| l.tested).collect::<Vec<_>>(), [true, false, false]);
        let lines = count(&["cuAlloc", "cuName"], &["cuAlloc", "cuName_ptsz"]).unwrap();
        assert_eq!(Api { name: "test", functions: lines }.tested(), 2);
        assert_eq!(base_of("cuMemcpyHtoD_v2_ptds"), "cuMemcpyHtoD");
    }

    #[test]
    fn a_function_without_symbol_or_description_is_an_error() {
        assert!(matches!(count(&["cuGone"], &[]), Err(CountError::NoSymbol { base }) if base == "cuGone"));
        let functions = api::parse_file("test", "local cuOther()").unwrap();
        let result = driver(&["cuName"].into(), &functions, &addresses(), &BTreeSet::new());
        assert!(matches!(result, Err(CountError::NotDescribed { symbol, .. }) if symbol == "cuName"));
    }

    #[test]
    fn the_driver_api_has_447_functions_each_counted_once() {
        let apis = apis().unwrap();
        let driver = apis.last().unwrap();
        let names: BTreeSet<&str> = driver.functions.iter().map(|line| line.name.as_str()).collect();
        assert_eq!((driver.functions.len(), names.len()), (447, 447));
        // What no program can do without.
        for name in ["cuInit", "cuLaunchKernel", "cuMemcpyHtoDAsync", "cuMemAlloc"] {
            assert!(driver.functions.iter().any(|line| line.name == name && line.supported), "{name}");
        }
        let totals = totals(&apis);
        let last = totals.lines().last().unwrap();
        let (supported, unsupported) = (driver.supported(), 447 - driver.supported());
        assert_eq!(last, format!("driver API 13.0: {supported} of 447 supported, {unsupported} unsupported"));
    }

    #[test]
    fn every_symbol_of_nvml_counts() {
        let text = "local nvmlB()\nunsupported nvmlA_v2() \"not yet\"\nlocal nvmlA()\n";
        let functions = nvml::parse_file("test", text).unwrap();
        let lines = management(&functions, &["nvmlA", "nvmlA_v2"].into());
        let found: Vec<_> = lines.iter().map(|l| (l.name.as_str(), l.supported, l.tested)).collect();
        assert_eq!(found, [("nvmlA", true, true), ("nvmlA_v2", false, false), ("nvmlB", true, false)]);
    }

    #[test]
    fn an_unsupported_function_has_a_reason_and_a_supported_one_none() {
        for line in apis().unwrap().iter().flat_map(|api| &api.functions) {
            assert_eq!(line.supported, line.reason.is_empty(), "{line:?}");
        }
    }
}
