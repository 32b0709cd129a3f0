//! Texel formats.

use crate::exec::alu_half;
use crate::ptx::types::Ty;

/// What each channel of a texel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Unsigned, 8 bits.
    U8,
    /// Unsigned, 16 bits.
    U16,
    /// Unsigned, 32 bits.
    U32,
    /// Signed, 8 bits.
    S8,
    /// Signed, 16 bits.
    S16,
    /// Signed, 32 bits.
    S32,
    /// Half precision.
    F16,
    /// Single precision.
    F32,
}

impl Channel {
    /// Bytes.
    pub fn size(self) -> u32 {
        match self {
            Channel::U8 | Channel::S8 => 1,
            Channel::U16 | Channel::S16 | Channel::F16 => 2,
            Channel::U32 | Channel::S32 | Channel::F32 => 4,
        }
    }

    /// Whether its values are floats in memory.
    pub fn is_float(self) -> bool {
        matches!(self, Channel::F16 | Channel::F32)
    }

    /// Whether it can be read as a fraction: integers of 8 and 16 bits.
    pub fn can_be_fraction(self) -> bool {
        self.size() < 4 && !self.is_float()
    }

    /// The bits that a fetch of an integer gives: extended by its sign.
    pub fn integer(self, raw: u32) -> u32 {
        match self {
            Channel::S8 => i32::from((raw as u8).cast_signed()).cast_unsigned(),
            Channel::S16 => i32::from((raw as u16).cast_signed()).cast_unsigned(),
            _ => raw,
        }
    }

    /// The value as a float: integers as fractions of the largest. The least signed one is a little below -1 here; see
    /// [`Channel::limit`].
    pub fn float(self, raw: u32) -> f32 {
        match self {
            Channel::U8 => (raw & 0xff) as f32 / 255.0,
            Channel::U16 => (raw & 0xffff) as f32 / 65535.0,
            Channel::S8 => f32::from((raw as u8).cast_signed()) / 127.0,
            Channel::S16 => f32::from((raw as u16).cast_signed()) / 32767.0,
            Channel::F16 => {
                let format = alu_half::format(Ty::F16);
                format.map_or(0.0, |format| alu_half::to_single(raw as u16, format))
            }
            Channel::U32 | Channel::S32 | Channel::F32 => f32::from_bits(raw),
        }
    }
}

impl Channel {
    /// What a fetch gives for a value: fractions end at -1.
    pub fn limit(self, value: f32) -> f32 {
        if self.can_be_fraction() { value.max(-1.0) } else { value }
    }

    /// What linear filtering gives for a mixture: of fractions, one with 16 bits, as an H100 was seen to answer.
    pub fn mixed(self, value: f64) -> f32 {
        let largest = match self {
            Channel::U8 | Channel::U16 => 65_535.0,
            Channel::S8 | Channel::S16 => 32_767.0,
            _ => return value as f32,
        };
        self.limit(((value * largest).round() / largest) as f32)
    }

    /// What a border color gives: a fraction that the channel could hold.
    pub fn border(self, value: f32) -> f32 {
        let (least, largest) = match self {
            Channel::U8 => (0.0, 255.0),
            Channel::U16 => (0.0, 65_535.0),
            Channel::S8 => (-1.0, 127.0),
            Channel::S16 => (-1.0, 32_767.0),
            _ => return value,
        };
        (value.clamp(least, 1.0) * largest).round() / largest
    }
}

/// A texel's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Each channel.
    pub channel: Channel,
    /// Channels: 1, 2 or 4.
    pub channels: u32,
}

impl Format {
    /// Bytes of a texel.
    pub fn bytes(self) -> u32 {
        self.channel.size() * self.channels
    }
}

/// A color channel of sRGB as linear light.
pub(super) fn linear_of_srgb(value: f32) -> f32 {
    if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_integers_are_fractions_of_the_largest() {
        assert_eq!(Channel::U8.float(255), 1.0);
        assert_eq!(Channel::U16.float(0), 0.0);
        assert_eq!(Channel::S8.limit(Channel::S8.float(0x80)), -1.0);
        assert_eq!(Channel::U8.border(7.0), 1.0);
        assert_eq!(Channel::U8.border(0.25), 64.0 / 255.0);
        assert_eq!(Channel::S16.float(0x8001), -1.0);
        assert_eq!(Channel::F16.float(0x3400), 0.25);
    }

    #[test]
    fn signs_are_extended() {
        assert_eq!(Channel::S8.integer(0xfe), 0xffff_fffe);
        assert_eq!(Channel::U16.integer(0xfffe), 0xfffe);
    }

    #[test]
    fn srgb_keeps_its_ends() {
        assert_eq!(linear_of_srgb(0.0), 0.0);
        assert!((linear_of_srgb(1.0) - 1.0).abs() < 1e-6);
    }
}
