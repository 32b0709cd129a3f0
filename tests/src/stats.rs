//! The line that a shim prints at exit with `VGPU_STATS=1`.

use serde::Deserialize;

const MARK: &str = "vgpu-stats ";

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stats {
    pub calls: u64,
    pub async_calls: u64,
    pub round_trips: u64,
    pub kicks: u64,
    pub interrupts: u64,
    pub bytes_copied: u64,
}

impl Stats {
    /// The line in a program's standard error; fails the test if there is not exactly one.
    pub fn find(text: &str) -> Self {
        let lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(MARK)).collect();
        assert_eq!(lines.len(), 1, "one {MARK:?} line is expected in: {text}");
        serde_json::from_str(lines[0]).unwrap()
    }
}
