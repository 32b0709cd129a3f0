//! The layers, and sets of them as the command line names them.

use std::fmt;
use std::str::FromStr;

/// One means of confinement, independent of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// Resource limits.
    Limits,
    /// Network, System V IPC and host name of its own, with nothing in them.
    Namespaces,
    /// Landlock: which files, and no process outside.
    Files,
    /// A user that is not root.
    User,
    /// No new privileges, no capabilities.
    Privileges,
    /// Seccomp: which system calls.
    Calls,
}

impl Layer {
    pub const ALL: [Layer; 6] =
        [Layer::Limits, Layer::Namespaces, Layer::Files, Layer::User, Layer::Privileges, Layer::Calls];
    /// Those that `--sandbox` names; the user has an option of its own.
    const SWITCHED: [Layer; 5] =
        [Layer::Limits, Layer::Namespaces, Layer::Files, Layer::Privileges, Layer::Calls];

    pub fn name(self) -> &'static str {
        match self {
            Layer::Limits => "limits",
            Layer::Namespaces => "namespaces",
            Layer::Files => "files",
            Layer::User => "user",
            Layer::Privileges => "privileges",
            Layer::Calls => "calls",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is asked for: `all` that the machine has, `off`, or some by name, which must be there then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layers {
    bits: u8,
    required: bool,
}

impl Layers {
    pub const ALL: Layers = Layers { bits: u8::MAX, required: false };

    pub fn contains(self, layer: Layer) -> bool {
        self.bits & layer.bit() != 0
    }

    /// Whether a process without one of them must not run.
    pub fn required(self) -> bool {
        self.required
    }
}

impl Default for Layers {
    fn default() -> Self {
        Layers::ALL
    }
}

/// A name that is none of a layer.
#[derive(Debug, thiserror::Error)]
#[error("\"{0}\" is not a layer; give all, off, or some of limits,namespaces,files,privileges,calls")]
pub struct LayerError(String);

impl FromStr for Layers {
    type Err = LayerError;

    fn from_str(text: &str) -> Result<Self, LayerError> {
        match text {
            "all" => return Ok(Layers::ALL),
            "off" => return Ok(Layers { bits: 0, required: false }),
            _ => {}
        }
        let mut bits = 0;
        for name in text.split(',') {
            let layer = Layer::SWITCHED.iter().find(|layer| layer.name() == name);
            bits |= layer.ok_or_else(|| LayerError(name.to_owned()))?.bit();
        }
        Ok(Layers { bits, required: true })
    }
}

impl fmt::Display for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Layers::ALL {
            return f.write_str("all");
        }
        let names: Vec<_> =
            Layer::SWITCHED.iter().filter(|&&layer| self.contains(layer)).map(|l| l.name()).collect();
        f.write_str(if names.is_empty() { "off".to_owned() } else { names.join(",") }.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_written_as_they_are_read() {
        for text in ["all", "off", "calls", "limits,namespaces,files,privileges,calls", "files,calls"] {
            assert_eq!(text.parse::<Layers>().unwrap().to_string(), text);
        }
        assert_eq!("calls,files".parse::<Layers>().unwrap().to_string(), "files,calls");
        for text in ["", "user", "all,calls", "files,", "Files"] {
            assert!(text.parse::<Layers>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_named_layers_are_required() {
        let layers = |text: &str| text.parse::<Layers>().unwrap();
        assert!(!layers("all").required() && !layers("off").required());
        assert!(layers("calls").required() && layers("calls").contains(Layer::Calls));
        assert!(!layers("calls").contains(Layer::Files));
    }
}
