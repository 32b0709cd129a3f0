//! Values of the driver API that cross a lane as their bytes: numbers, and C structures as opaque blobs.

/// A type of which any bytes are a value and which has no padding.
///
/// # Safety
/// Both must hold for the implementing type.
pub unsafe trait Plain: Copy + Default + 'static {}

macro_rules! numbers {
    ($($t:ty),*) => {$(
        // SAFETY: a number has no padding and any bytes are a value.
        unsafe impl Plain for $t {}
    )*};
}
numbers!(u8, u16, u32, i32, u64, i64, usize, f32, f64);

macro_rules! blobs {
    ($($(#[$doc:meta])* $name:ident, $align:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        #[repr(C, align($align))]
        pub struct $name<const N: usize>(pub [u8; N]);

        impl<const N: usize> Default for $name<N> {
            fn default() -> Self {
                // A size that C would pad would leave bytes here that are not part of the array.
                const { assert!(N.is_multiple_of($align)) };
                $name([0; N])
            }
        }

        // SAFETY: an array of bytes; `Default`, which every use needs, refuses sizes with padding.
        unsafe impl<const N: usize> Plain for $name<N> {}
    )*};
}
blobs! {
    /// A structure of alignment 1.
    Blob1, 1;
    /// A structure of alignment 4.
    Blob4, 4;
    /// A structure of alignment 8.
    Blob8, 8;
    /// A structure of alignment 128 (CUtensorMap).
    Blob128, 128;
}

/// The bytes of `values`.
pub fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: `Plain` has no padding, and u8 has no alignment; the length is that of the slice.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// Copies `bytes` over the front of `values`; what is missing stays, what is too much is ignored.
pub fn fill<T: Plain>(values: &mut [T], bytes: &[u8]) {
    let len = bytes.len().min(size_of_val(values));
    // SAFETY: any bytes are a `Plain` value; `len` is within both.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), values.as_mut_ptr().cast(), len) }
}

/// `bytes` as values, or `None` if they are not whole values.
pub fn values<T: Plain>(bytes: &[u8]) -> Option<Vec<T>> {
    let size = size_of::<T>();
    if size == 0 || !bytes.len().is_multiple_of(size) {
        return None;
    }
    let mut all = vec![T::default(); bytes.len() / size];
    fill(&mut all, bytes);
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_as_bytes() {
        let numbers = [1_u32, 0xdead_beef];
        assert_eq!(values::<u32>(bytes_of(&numbers)).unwrap(), numbers);
        assert!(values::<u32>(&[1, 2, 3]).is_none());
        let mut blob = [Blob8::<16>::default()];
        fill(&mut blob, &[7; 20]);
        assert_eq!(blob[0].0, [7; 16]);
    }
}
