//! Values of a register for the 32 lanes of a warp.
//!
//! A register holds 64 bits per lane. Every reader takes only the bits of its own type, so what lies above them is
//! never seen and need not be cleared.

/// One register, or one operand, of a whole warp.
pub(crate) type Lanes = [u64; 32];

/// Most lanes in a warp.
pub(crate) const WARP: usize = 32;

pub(crate) type Fn1 = fn(&Lanes, &mut Lanes);
pub(crate) type Fn2 = fn(&Lanes, &Lanes, &mut Lanes);
pub(crate) type Fn3 = fn(&Lanes, &Lanes, &Lanes, &mut Lanes);
/// A comparison: bit n is the result of lane n.
pub(crate) type Compare = fn(&Lanes, &Lanes) -> u32;

/// A type as which the bits of a register are read and written.
pub(crate) trait Lane: Copy {
    fn get(bits: u64) -> Self;
    fn put(self) -> u64;
}

macro_rules! unsigned_lane {
    ($($t:ty),*) => {$(
        impl Lane for $t {
            #[inline(always)]
            fn get(bits: u64) -> $t {
                bits as $t
            }
            #[inline(always)]
            fn put(self) -> u64 {
                self as u64
            }
        }
    )*};
}

macro_rules! signed_lane {
    ($($t:ty: $u:ty),*) => {$(
        impl Lane for $t {
            #[inline(always)]
            fn get(bits: u64) -> $t {
                (bits as $u).cast_signed()
            }
            #[inline(always)]
            fn put(self) -> u64 {
                self as u64
            }
        }
    )*};
}

unsigned_lane!(u8, u16, u32, u64);
signed_lane!(i8: u8, i16: u16, i32: u32, i64: u64);

impl Lane for f32 {
    #[inline(always)]
    fn get(bits: u64) -> f32 {
        f32::from_bits(bits as u32)
    }
    #[inline(always)]
    fn put(self) -> u64 {
        u64::from(self.to_bits())
    }
}

impl Lane for f64 {
    #[inline(always)]
    fn get(bits: u64) -> f64 {
        f64::from_bits(bits)
    }
    #[inline(always)]
    fn put(self) -> u64 {
        self.to_bits()
    }
}

/// A warp-wide function from one of a lane.
macro_rules! un {
    ($t:ty => $r:ty, |$a:ident| $e:expr) => {{
        fn wide(x: &$crate::exec::lanes::Lanes, d: &mut $crate::exec::lanes::Lanes) {
            for (d, x) in d.iter_mut().zip(x) {
                let $a = <$t as $crate::exec::lanes::Lane>::get(*x);
                let r: $r = $e;
                *d = $crate::exec::lanes::Lane::put(r);
            }
        }
        wide as $crate::exec::lanes::Fn1
    }};
    ($t:ty, |$a:ident| $e:expr) => {
        $crate::exec::lanes::un!($t => $t, |$a| $e)
    };
}

macro_rules! bin {
    ($t:ty => $r:ty, |$a:ident, $b:ident| $e:expr) => {{
        fn wide(
            x: &$crate::exec::lanes::Lanes,
            y: &$crate::exec::lanes::Lanes,
            d: &mut $crate::exec::lanes::Lanes,
        ) {
            for (d, (x, y)) in d.iter_mut().zip(x.iter().zip(y)) {
                let $a = <$t as $crate::exec::lanes::Lane>::get(*x);
                let $b = <$t as $crate::exec::lanes::Lane>::get(*y);
                let r: $r = $e;
                *d = $crate::exec::lanes::Lane::put(r);
            }
        }
        wide as $crate::exec::lanes::Fn2
    }};
    ($t:ty, |$a:ident, $b:ident| $e:expr) => {
        $crate::exec::lanes::bin!($t => $t, |$a, $b| $e)
    };
}

macro_rules! tri {
    ($t:ty, $tc:ty => $r:ty, |$a:ident, $b:ident, $c:ident| $e:expr) => {{
        fn wide(
            x: &$crate::exec::lanes::Lanes,
            y: &$crate::exec::lanes::Lanes,
            z: &$crate::exec::lanes::Lanes,
            d: &mut $crate::exec::lanes::Lanes,
        ) {
            for (i, d) in d.iter_mut().enumerate() {
                let $a = <$t as $crate::exec::lanes::Lane>::get(x[i]);
                let $b = <$t as $crate::exec::lanes::Lane>::get(y[i]);
                let $c = <$tc as $crate::exec::lanes::Lane>::get(z[i]);
                let r: $r = $e;
                *d = $crate::exec::lanes::Lane::put(r);
            }
        }
        wide as $crate::exec::lanes::Fn3
    }};
    ($t:ty, |$a:ident, $b:ident, $c:ident| $e:expr) => {
        $crate::exec::lanes::tri!($t, $t => $t, |$a, $b, $c| $e)
    };
}

macro_rules! compare {
    ($t:ty, |$a:ident, $b:ident| $e:expr) => {{
        fn wide(x: &$crate::exec::lanes::Lanes, y: &$crate::exec::lanes::Lanes) -> u32 {
            let mut mask = 0u32;
            for (i, (x, y)) in x.iter().zip(y).enumerate() {
                let $a = <$t as $crate::exec::lanes::Lane>::get(*x);
                let $b = <$t as $crate::exec::lanes::Lane>::get(*y);
                mask |= u32::from($e) << i;
            }
            mask
        }
        wide as $crate::exec::lanes::Compare
    }};
}

pub(crate) use {bin, compare, tri, un};
