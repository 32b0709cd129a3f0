//! The settings of a VM: one form for the command line, the configuration file and the operator's commands.

use std::path::PathBuf;

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use vgpu_spec::wire::control::FIRST_LANE;
use vgpu_spec::wire::snapshot::uuid_text;

use super::{ConfigError, MAX_QUEUES, VmConfig};
use crate::identity::{self, Identities, Setting};
use crate::limits::Limits;

const MIB: u64 = 1 << 20;
/// Guest processes of a VM.
pub const CLIENTS: (u64, u64) = (1, 1024);
/// Virtqueues of a VM's device.
pub const QUEUES: (u64, u64) = (FIRST_LANE as u64 + 1, MAX_QUEUES as u64);
pub const WEIGHT: (u64, u64) = (1, 10_000);
pub const CAP: (u64, u64) = (1, 100);
/// Seconds.
pub const SUSPEND_AFTER: (u64, u64) = (1, 1_000_000);
/// MiB.
pub const PINNED: (u64, u64) = (1, u32::MAX as u64);
/// The longest path of a socket.
const MAX_PATH: usize = 107;
/// The longest name of a VM.
const MAX_NAME: usize = 64;

/// What is said of a VM; the rest is the default, or stays.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct VmSettings {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    #[serde(
        deserialize_with = "names",
        serialize_with = "write_names",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub device_name: Vec<Setting<String>>,
    #[serde(
        deserialize_with = "uuids",
        serialize_with = "write_uuids",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub device_uuid: Vec<Setting<[u8; 16]>>,
    /// Bytes.
    #[serde(
        deserialize_with = "memories",
        serialize_with = "write_memories",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub device_memory: Vec<Setting<u64>>,
    /// The host's ordinals.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices: Option<Vec<u32>>,
    /// MiB.
    #[serde(deserialize_with = "pinned", skip_serializing_if = "Option::is_none")]
    pub pinned_memory: Option<u64>,
    #[serde(deserialize_with = "weight", skip_serializing_if = "Option::is_none")]
    pub weight: Option<u64>,
    #[serde(deserialize_with = "cap", skip_serializing_if = "Option::is_none")]
    pub cap: Option<u64>,
    #[serde(deserialize_with = "clients", skip_serializing_if = "Option::is_none")]
    pub clients: Option<u64>,
    #[serde(deserialize_with = "queues", skip_serializing_if = "Option::is_none")]
    pub queues: Option<u64>,
    /// Seconds.
    #[serde(deserialize_with = "suspend_after", skip_serializing_if = "Option::is_none")]
    pub suspend_after: Option<u64>,
}

fn narrow(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

impl VmSettings {
    /// These, and `common` for what they leave open. The common socket counts for nothing.
    #[must_use]
    pub fn over(mut self, common: &VmSettings) -> Self {
        fn fill<T: Clone>(own: &mut Vec<Setting<T>>, common: &[Setting<T>]) {
            let missing = |setting: &&Setting<T>| !own.iter().any(|own| own.device == setting.device);
            let missing: Vec<_> = common.iter().filter(missing).cloned().collect();
            own.extend(missing);
        }
        fill(&mut self.device_name, &common.device_name);
        fill(&mut self.device_uuid, &common.device_uuid);
        fill(&mut self.device_memory, &common.device_memory);
        self.devices = self.devices.or_else(|| common.devices.clone());
        self.pinned_memory = self.pinned_memory.or(common.pinned_memory);
        self.weight = self.weight.or(common.weight);
        self.cap = self.cap.or(common.cap);
        self.clients = self.clients.or(common.clients);
        self.queues = self.queues.or(common.queues);
        self.suspend_after = self.suspend_after.or(common.suspend_after);
        self
    }

    /// What is said of its devices.
    pub fn identities(&self) -> Result<Identities, ConfigError> {
        let mut identities = Identities::default();
        self.device_name.iter().cloned().try_for_each(|name| identities.set_name(name))?;
        self.device_uuid.iter().cloned().try_for_each(|uuid| identities.set_uuid(uuid))?;
        self.device_memory.iter().cloned().try_for_each(|memory| identities.set_memory(memory))?;
        Ok(identities)
    }

    /// `old` with what is said here.
    pub fn limits(&self, old: Limits) -> Limits {
        Limits {
            weight: self.weight.map_or(old.weight, narrow),
            cap: self.cap.map_or(old.cap, narrow),
            pinned: self.pinned_memory.map(|mib| mib.saturating_mul(MIB)).or(old.pinned),
            suspend_after: self.suspend_after.map(narrow).or(old.suspend_after),
        }
    }

    /// A VM of this name.
    pub fn vm(&self, name: &str) -> Result<VmConfig, ConfigError> {
        check_name(name)?;
        let socket = self.socket.clone().ok_or_else(|| ConfigError::NoSocket(name.to_owned()))?;
        let len = socket.as_os_str().len();
        if len > MAX_PATH {
            return Err(ConfigError::Long { path: socket, len });
        }
        Ok(VmConfig {
            name: name.to_owned(),
            identities: self.identities()?,
            limits: self.limits(Limits::default()),
            clients: self.clients.map_or(VmConfig::CLIENTS, narrow),
            queues: self.queues.and_then(|n| u16::try_from(n).ok()).unwrap_or(MAX_QUEUES),
            devices: self.devices.clone(),
            socket,
        })
    }
}

/// A name that fits into logs, labels of metrics and tables.
pub fn check_name(name: &str) -> Result<(), ConfigError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let fits = (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(allowed);
    if fits { Ok(()) } else { Err(ConfigError::Name(name.to_owned())) }
}

/// The name of a VM of which only the socket is known.
pub fn name_of(socket: &std::path::Path) -> String {
    let stem = socket.file_stem().unwrap_or_default().to_string_lossy();
    let clean = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let name: String = stem.chars().take(MAX_NAME).map(clean).collect();
    if name.is_empty() { "vm".into() } else { name }
}

/// One value or a list of values, each as the command line has it: `[N=]VALUE`.
struct Values<T>(fn(&str) -> Result<Setting<T>, String>);

impl<'de, T> Visitor<'de> for Values<T> {
    type Value = Vec<Setting<T>>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value or a list of \"N=VALUE\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        (self.0)(text).map(|setting| vec![setting]).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut values = Vec::new();
        while let Some(text) = sequence.next_element::<String>()? {
            values.push((self.0)(&text).map_err(de::Error::custom)?);
        }
        Ok(values)
    }
}

fn names<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Setting<String>>, D::Error> {
    from.deserialize_any(Values(identity::parse_name))
}

fn uuids<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Setting<[u8; 16]>>, D::Error> {
    from.deserialize_any(Values(identity::parse_uuid))
}

fn memories<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Setting<u64>>, D::Error> {
    from.deserialize_any(Values(identity::parse_memory))
}

fn write<S: Serializer, T>(
    values: &[Setting<T>],
    to: S,
    text: impl Fn(&T) -> String,
) -> Result<S::Ok, S::Error> {
    to.collect_seq(values.iter().map(|v| format!("{}={}", v.device, text(&v.value))))
}

fn write_names<S: Serializer>(values: &[Setting<String>], to: S) -> Result<S::Ok, S::Error> {
    write(values, to, String::clone)
}

fn write_uuids<S: Serializer>(values: &[Setting<[u8; 16]>], to: S) -> Result<S::Ok, S::Error> {
    write(values, to, |uuid| format!("GPU-{}", uuid_text(uuid)))
}

fn write_memories<S: Serializer>(values: &[Setting<u64>], to: S) -> Result<S::Ok, S::Error> {
    write(values, to, |bytes| (bytes / MIB).to_string())
}

/// A whole number within bounds.
pub(super) struct Within(pub (u64, u64));

impl Visitor<'_> for Within {
    type Value = u64;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a number from {} to {}", self.0.0, self.0.1)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<u64, E> {
        let (least, most) = self.0;
        if (least..=most).contains(&number) {
            return Ok(number);
        }
        Err(E::invalid_value(de::Unexpected::Unsigned(number), &self))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<u64, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::invalid_value(de::Unexpected::Signed(number), &self)),
        }
    }
}

macro_rules! within {
    ($($name:ident: $bounds:expr;)*) => {$(
        fn $name<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
            from.deserialize_any(Within($bounds)).map(Some)
        }
    )*};
}
within! {
    pinned: PINNED;
    weight: WEIGHT;
    cap: CAP;
    clients: CLIENTS;
    queues: QUEUES;
    suspend_after: SUSPEND_AFTER;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> VmSettings {
        VmSettings {
            socket: Some("/tmp/a.sock".into()),
            device_name: vec![identity::parse_name("1=GPU = A").unwrap()],
            device_uuid: vec![identity::parse_uuid("GPU-00112233-4455-6677-8899-aabbccddeeff").unwrap()],
            device_memory: vec![identity::parse_memory("512").unwrap()],
            weight: Some(200),
            ..VmSettings::default()
        }
    }

    #[test]
    fn settings_survive_the_operators_socket() {
        let text = serde_json::to_string(&settings()).unwrap();
        assert_eq!(serde_json::from_str::<VmSettings>(&text).unwrap(), settings(), "{text}");
        assert!(!text.contains("cap"), "what is not said is not sent: {text}");
    }

    #[test]
    fn own_settings_come_before_the_common_ones() {
        let common = VmSettings {
            device_memory: vec![
                identity::parse_memory("0=1").unwrap(),
                identity::parse_memory("1=700").unwrap(),
            ],
            weight: Some(1),
            cap: Some(50),
            ..VmSettings::default()
        };
        let vm = settings().over(&common).vm("a").unwrap();
        assert_eq!(vm.limits, Limits { weight: 200, cap: 50, ..Limits::default() });
        assert_eq!((vm.identities.memory(0), vm.identities.memory(1)), (Some(512 << 20), Some(700 << 20)));
    }

    #[test]
    fn names_fit_into_labels() {
        for name in ["", "a b", "a\"b", "ä", &"x".repeat(65)] {
            assert!(check_name(name).is_err(), "{name}");
        }
        assert!(check_name("vm-1.test_A").is_ok());
        assert_eq!(name_of("/run/vgpu/vm 1.sock".as_ref()), "vm_1");
        assert!(check_name(&name_of("/".as_ref())).is_ok());
    }
}
