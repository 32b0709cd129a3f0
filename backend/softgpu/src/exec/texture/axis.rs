//! One coordinate: which texels it meets, and how much of each.

/// What lies beyond the edges (`CUaddress_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressMode {
    /// The image again.
    Wrap,
    /// The texel at the edge.
    Clamp,
    /// The image mirrored.
    Mirror,
    /// The border color.
    Border,
}

impl AddressMode {
    /// The texel that `index` means of `count`; none for the border.
    pub fn texel(self, index: i64, count: u32) -> Option<u32> {
        let count = i64::from(count.max(1));
        let index = match self {
            AddressMode::Wrap => index.rem_euclid(count),
            AddressMode::Clamp => index.clamp(0, count - 1),
            AddressMode::Mirror => {
                let place = index.rem_euclid(2 * count);
                if place < count { place } else { 2 * count - 1 - place }
            }
            AddressMode::Border if (0..count).contains(&index) => index,
            AddressMode::Border => return None,
        };
        u32::try_from(index).ok()
    }
}

/// Two neighbours and the second one's weight, in 256ths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Axis {
    pub low: Option<u32>,
    pub high: Option<u32>,
    pub weight: u16,
}

/// Coordinates beyond this are as good as infinite.
const FAR: f32 = 1e9;

/// The coordinate in texels of a normalized one. Wrapping is done here, while there are bits for it.
fn scale(x: f32, count: u32, mode: AddressMode) -> f32 {
    let x = if mode == AddressMode::Wrap && x.is_finite() { x - x.floor() } else { x };
    x * count as f32
}

fn texels(x: f32, count: u32, mode: AddressMode, normalized: bool) -> f32 {
    let x = if normalized { scale(x, count, mode) } else { x };
    if x.is_nan() { 0.0 } else { x.clamp(-FAR, FAR) }
}

impl Axis {
    /// The texel that `x` lies in.
    pub fn nearest(x: f32, count: u32, mode: AddressMode, normalized: bool) -> Axis {
        let low = mode.texel(texels(x, count, mode, normalized).floor() as i64, count);
        Axis { low, high: low, weight: 0 }
    }

    /// The texels whose centres are on both sides of `x`. The weight has 8 bits (programming guide, "Linear Filtering").
    pub fn linear(x: f32, count: u32, mode: AddressMode, normalized: bool) -> Axis {
        let fixed = (f64::from(texels(x, count, mode, normalized)) * 256.0 - 128.0 + 0.5).floor() as i64;
        let index = fixed >> 8;
        Axis {
            low: mode.texel(index, count),
            high: mode.texel(index + 1, count),
            weight: u16::try_from(fixed & 0xff).unwrap_or(0),
        }
    }

    /// The texel with this number.
    pub fn exact(index: i64, count: u32, mode: AddressMode) -> Axis {
        let low = mode.texel(index, count);
        Axis { low, high: low, weight: 0 }
    }

    /// An axis that the image does not have.
    pub const NONE: Axis = Axis { low: Some(0), high: Some(0), weight: 0 };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mode_has_its_own_beyond() {
        let seen = |mode: AddressMode| [-5, -1, 0, 3, 4, 9].map(|index| mode.texel(index, 4));
        assert_eq!(seen(AddressMode::Wrap), [3, 3, 0, 3, 0, 1].map(Some));
        assert_eq!(seen(AddressMode::Clamp), [0, 0, 0, 3, 3, 3].map(Some));
        assert_eq!(seen(AddressMode::Mirror), [3, 0, 0, 3, 3, 1].map(Some));
        assert_eq!(seen(AddressMode::Border), [None, None, Some(0), Some(3), None, None]);
    }

    #[test]
    fn a_weight_has_eight_bits() {
        let at = |x| Axis::linear(x, 4, AddressMode::Clamp, false);
        assert_eq!(at(1.5), Axis { low: Some(1), high: Some(2), weight: 0 });
        assert_eq!(at(1.75), Axis { low: Some(1), high: Some(2), weight: 64 });
        assert_eq!(at(1.5 + 1.0 / 1024.0).weight, 0);
        assert_eq!(at(0.0), Axis { low: Some(0), high: Some(0), weight: 128 });
    }

    #[test]
    fn what_is_no_number_is_the_first_texel() {
        assert_eq!(Axis::nearest(f32::NAN, 4, AddressMode::Clamp, true).low, Some(0));
        assert_eq!(Axis::nearest(f32::INFINITY, 4, AddressMode::Clamp, false).low, Some(3));
    }
}
