//! What tells our libraries from others of the same name, in the file: a symbol with release and protocol version. Both shims
//! export it; `vgpu-agent install` and `doctor` read it without loading the library.

use vgpu_spec::wire::VERSION;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The symbol's name.
pub const SYMBOL: &str = "vgpu_library";

/// Begins the marker, so that a symbol of that name in another library is not taken for ours.
const MAGIC: [u8; 8] = *b"vgpu lib";

#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Marker {
    magic: [u8; 8],
    protocol: u16,
    /// The release, NUL-padded.
    release: [u8; 22],
}

#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static vgpu_library: Marker = Marker::ours();

impl Marker {
    /// The marker of this build.
    pub const fn ours() -> Self {
        let text = env!("CARGO_PKG_VERSION").as_bytes();
        let mut release = [0; 22];
        let mut index = 0;
        while index < text.len() && index < release.len() {
            release[index] = text[index];
            index += 1;
        }
        Marker { magic: MAGIC, protocol: VERSION, release }
    }

    /// Reads the symbol's bytes.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (marker, _) = Self::read_from_prefix(bytes).ok()?;
        (marker.magic == MAGIC).then_some(marker)
    }

    pub fn protocol(&self) -> u16 {
        self.protocol
    }

    pub fn release(&self) -> String {
        vgpu_spec::wire::snapshot::text(&self.release)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_told_from_other_bytes() {
        let bytes = vgpu_library.as_bytes();
        let marker = Marker::read(bytes).unwrap();
        assert_eq!((marker.protocol(), marker.release().as_str()), (VERSION, env!("CARGO_PKG_VERSION")));
        assert!(Marker::read(&bytes[1..]).is_none());
        assert!(Marker::read(&bytes[..16]).is_none());
    }
}
