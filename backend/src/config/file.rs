//! The configuration file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{self, Deserializer};

use super::globals::{Globals, POLL_US, Sandbox, TURN_MS, WARM, parse_metrics, parse_mode, parse_turns};
use super::settings::{VmSettings, Within};
use super::{ConfigError, MetricsAddress, VmConfig};
use crate::sandbox::{Layers, User, calls};

/// A larger one is none that a person has written.
const MAX_SIZE: u64 = 1 << 20;
/// Of a line that is wrong, in a message.
const MAX_LINE: usize = 80;

/// Everything that the file says.
#[derive(Debug, Default)]
pub struct File {
    pub globals: Globals,
    pub vms: Vec<VmConfig>,
}

/// As it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Document {
    cuda_dir: Option<PathBuf>,
    softgpu: Option<bool>,
    #[serde(deserialize_with = "turns")]
    turns: Option<bool>,
    #[serde(deserialize_with = "turn_ms")]
    turn_ms: Option<u64>,
    oversubscribe: Option<bool>,
    #[serde(deserialize_with = "warm")]
    warm: Option<u64>,
    #[serde(deserialize_with = "poll_us")]
    poll_us: Option<u64>,
    #[serde(deserialize_with = "log")]
    log: Option<String>,
    #[serde(deserialize_with = "layers")]
    sandbox: Option<Layers>,
    #[serde(deserialize_with = "calls")]
    sandbox_allow: Option<Vec<i64>>,
    #[serde(deserialize_with = "user")]
    worker_user: Option<User>,
    compute_cache: Option<PathBuf>,
    operator_socket: Option<PathBuf>,
    group: Option<String>,
    #[serde(deserialize_with = "mode")]
    mode: Option<u32>,
    #[serde(deserialize_with = "metrics")]
    metrics: Option<MetricsAddress>,
    /// For all VMs.
    defaults: VmSettings,
    vm: BTreeMap<String, VmSettings>,
}

impl File {
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let failed = |source| ConfigError::Read { path: path.to_owned(), source };
        let size = std::fs::metadata(path).map_err(failed)?.len();
        if size > MAX_SIZE {
            return Err(failed(std::io::ErrorKind::FileTooLarge.into()));
        }
        Self::parse(path, &std::fs::read_to_string(path).map_err(failed)?)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let document: Document = toml::from_str(text).map_err(|e| placed(path, text, &e))?;
        let sandbox = Sandbox {
            layers: document.sandbox,
            allow: document.sandbox_allow,
            user: document.worker_user,
            compute_cache: document.compute_cache,
        };
        let globals = Globals {
            cuda_dir: document.cuda_dir,
            softgpu: document.softgpu,
            turns: document.turns,
            turn_ms: document.turn_ms,
            oversubscribe: document.oversubscribe,
            warm: document.warm,
            poll_us: document.poll_us,
            sandbox,
            log: document.log,
            operator_socket: document.operator_socket,
            group: document.group,
            mode: document.mode,
            metrics: document.metrics,
        };
        let defaults = document.defaults;
        let vm = |(name, settings): (String, VmSettings)| {
            let vm = settings.over(&defaults).vm(&name);
            vm.map_err(|error| ConfigError::InFile {
                path: path.to_owned(),
                message: format!("vm.{name}: {}", crate::log::chain(&error)),
            })
        };
        Ok(File { globals, vms: document.vm.into_iter().map(vm).collect::<Result<_, _>>()? })
    }
}

/// What is wrong and where, in one line.
fn placed(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let message = error.message().replace('\n', "; ");
    let path = path.to_owned();
    let before = error.span().and_then(|span| text.get(..span.start));
    let Some(before) = before else { return ConfigError::InFile { path, message } };
    let line = before.matches('\n').count();
    let of_line = text.lines().nth(line).unwrap_or_default().trim();
    let text = of_line.chars().take(MAX_LINE).map(|c| if c.is_control() { '?' } else { c }).collect();
    ConfigError::File { path, line: line + 1, text, message }
}

fn warm<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    from.deserialize_any(Within(WARM)).map(Some)
}

fn turn_ms<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    from.deserialize_any(Within(TURN_MS)).map(Some)
}

fn poll_us<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    from.deserialize_any(Within(POLL_US)).map(Some)
}

/// A text that `parse` understands.
fn parsed<'de, D: Deserializer<'de>, T>(
    from: D,
    parse: fn(&str) -> Result<T, String>,
) -> Result<Option<T>, D::Error> {
    let text = String::deserialize(from)?;
    parse(&text).map(Some).map_err(de::Error::custom)
}

fn turns<'de, D: Deserializer<'de>>(from: D) -> Result<Option<bool>, D::Error> {
    parsed(from, parse_turns)
}

fn log<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    parsed(from, crate::log::check_filter)
}

fn layers<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Layers>, D::Error> {
    parsed(from, |text| text.parse().map_err(|e| format!("{e}")))
}

fn user<'de, D: Deserializer<'de>>(from: D) -> Result<Option<User>, D::Error> {
    parsed(from, User::parse)
}

fn calls<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<i64>>, D::Error> {
    let names = Vec::<String>::deserialize(from)?;
    names.iter().map(|name| calls::parse(name).map_err(de::Error::custom)).collect::<Result<_, _>>().map(Some)
}

fn mode<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    parsed(from, parse_mode)
}

fn metrics<'de, D: Deserializer<'de>>(from: D) -> Result<Option<MetricsAddress>, D::Error> {
    parsed(from, parse_metrics)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;

    fn parse(text: &str) -> Result<File, String> {
        File::parse("b.toml".as_ref(), text).map_err(|e| e.to_string())
    }

    #[test]
    fn everything_can_be_said() {
        let file = parse(
            "warm = 2\noversubscribe = true\npoll-us = 0\nlog = 'debug'\nmetrics = '127.0.0.1:9445'\nmode = '0600'\n\
             [defaults]\nweight = 50\ndevice-memory = 1024\n\
             [vm.a]\nsocket = '/tmp/a'\nweight = 200\ncap = 40\npinned-memory = 10\nclients = 5\nqueues = 8\n\
             device-name = ['0=A', '1=B']\ndevice-uuid = 'GPU-00112233-4455-6677-8899-aabbccddeeff'\n\
             [vm.b]\nsocket = '/tmp/b'\nsuspend-after = 9\n",
        )
        .unwrap();
        let [a, b] = file.vms.as_slice() else { panic!("{:?}", file.vms) };
        assert_eq!(a.limits, Limits { weight: 200, cap: 40, pinned: Some(10 << 20), ..Limits::default() });
        assert_eq!((a.name.as_str(), a.clients, a.queues), ("a", 5, 8));
        assert_eq!(b.limits, Limits { weight: 50, suspend_after: Some(9), ..Limits::default() });
        assert_eq!(b.identities.memory(0), Some(1024 << 20));
        assert_eq!((file.globals.warm, file.globals.mode), (Some(2), Some(0o600)));
        assert_eq!(file.globals.oversubscribe, Some(true));
    }

    #[test]
    fn wrong_files_say_where_and_what_is_allowed() {
        for (text, says) in [
            ("warm = 1\nwram = 2", "b.toml:2: wram = 2: unknown field `wram`, expected one of `cuda-dir`"),
            (
                "[vm.a]\nsocket='/a'\nweigth = 1",
                "b.toml:3: weigth = 1: unknown field `weigth`, expected one of",
            ),
            (
                "[vm.a]\nsocket='/a'\nweight = 0",
                "b.toml:3: weight = 0: invalid value: integer `0`, expected a number from 1 to 10000",
            ),
            (
                "[vm.a]\ncap = 101",
                "b.toml:2: cap = 101: invalid value: integer `101`, expected a number from 1 to 100",
            ),
            ("[vm.a]\ncap = -1", "b.toml:2: cap = -1: "),
            (
                "[defaults]\nclients = '5'",
                "b.toml:2: clients = '5': invalid type: string \"5\", expected a number",
            ),
            ("[vm.a]\nqueues = 2", "from 3 to 64"),
            ("[vm.a]\ndevice-memory = 0", "b.toml:2: device-memory = 0: a device without memory"),
            ("[vm.a]\ndevice-uuid = 'GPU-1'", "8-4-4-4-12"),
            ("[vm.a]\ndevice-name = true", "a value or a list"),
            ("mode = '999'", "b.toml:1: mode = '999': \"999\" is no mode"),
            ("metrics = ':1'", "127.0.0.1:9445"),
            ("log = '=,='", "b.toml:1: log = "),
            ("[vm.a]\n", "b.toml: vm.a: vm a: it has no socket"),
            ("[vm.'a b']\nsocket = '/a'", "a name is made of"),
            ("[vm.a]\nsocket = '/a'\ndevice-name = ['1=x', '1=y']", "device-name 1=…: given twice"),
            ("[vm.a\n", "b.toml:1: [vm.a: "),
            ("x = 1\n[vm.a]\n[vm.a]\n", "b.toml:"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(says), "{text:?} gave: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
        let long = format!("[vm.a]\nsocket = '/{}'", "x".repeat(107));
        assert!(parse(&long).expect_err("accepted").contains("107"));
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = File::read("/nonexistent/b.toml".as_ref()).expect_err("read");
        assert!(error.to_string().contains("/nonexistent/b.toml"));
    }
}
