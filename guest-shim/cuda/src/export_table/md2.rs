//! MD2 (RFC 1319) and HMAC over it (RFC 2104). Used by the self-test because the driver does; no security rests on it.

/// A permutation of 0 to 255 made from the digits of pi (RFC 1319, section 3.2).
#[rustfmt::skip]
const PI: [u8; 256] = [
     41,  46,  67, 201, 162, 216, 124,   1,  61,  54,  84, 161, 236, 240,   6,  19,
     98, 167,   5, 243, 192, 199, 115, 140, 152, 147,  43, 217, 188,  76, 130, 202,
     30, 155,  87,  60, 253, 212, 224,  22, 103,  66, 111,  24, 138,  23, 229,  18,
    190,  78, 196, 214, 218, 158, 222,  73, 160, 251, 245, 142, 187,  47, 238, 122,
    169, 104, 121, 145,  21, 178,   7,  63, 148, 194,  16, 137,  11,  34,  95,  33,
    128, 127,  93, 154,  90, 144,  50,  39,  53,  62, 204, 231, 191, 247, 151,   3,
    255,  25,  48, 179,  72, 165, 181, 209, 215,  94, 146,  42, 172,  86, 170, 198,
     79, 184,  56, 210, 150, 164, 125, 182, 118, 252, 107, 226, 156, 116,   4, 241,
     69, 157, 112,  89, 100, 113, 135,  32, 134,  91, 207, 101, 230,  45, 168,   2,
     27,  96,  37, 173, 174, 176, 185, 246,  28,  70,  97, 105,  52,  64, 126,  15,
     85,  71, 163,  35, 221,  81, 175,  58, 195,  92, 249, 206, 186, 197, 234,  38,
     44,  83,  13, 110, 133,  40, 132,   9, 211, 223, 205, 244,  65, 129,  77,  82,
    106, 220,  55, 200, 108, 193, 171, 250,  36, 225, 123,   8,  12, 189, 177,  74,
    120, 136, 149, 139, 227,  99, 232, 109, 233, 203, 213, 254,  59,   0,  29,  57,
    242, 239, 183,  14, 102,  88, 208, 228, 166, 119, 114, 248, 235, 117,  75,  10,
     49,  68,  80, 180, 143, 237,  31,  26, 219, 153, 141,  51, 159,  17, 131,  20,
];

const BLOCK: usize = 16;
const ROUNDS: u8 = 18;

/// A hash in progress.
#[derive(Clone)]
pub struct Md2 {
    state: [u8; BLOCK],
    checksum: [u8; BLOCK],
    pending: [u8; BLOCK],
    filled: usize,
}

impl Md2 {
    pub const fn new() -> Self {
        Self { state: [0; BLOCK], checksum: [0; BLOCK], pending: [0; BLOCK], filled: 0 }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.push(byte);
        }
    }

    pub fn finish(mut self) -> [u8; 16] {
        let missing = BLOCK - self.filled;
        let padding = [u8::try_from(missing).unwrap_or(0); BLOCK];
        self.update(&padding[..missing]);
        let checksum = self.checksum;
        self.mix(&checksum);
        self.state
    }

    fn push(&mut self, byte: u8) {
        self.pending[self.filled] = byte;
        self.filled += 1;
        if self.filled == BLOCK {
            self.filled = 0;
            let block = self.pending;
            self.mix(&block);
            self.sum(&block);
        }
    }

    /// The checksum that follows the message, with the RFC's erratum: the old value is mixed in.
    fn sum(&mut self, block: &[u8; BLOCK]) {
        let mut last = self.checksum[BLOCK - 1];
        for (sum, byte) in self.checksum.iter_mut().zip(block) {
            *sum ^= PI[usize::from(byte ^ last)];
            last = *sum;
        }
    }

    fn mix(&mut self, block: &[u8; BLOCK]) {
        let mut words = [0; 3 * BLOCK];
        for index in 0..BLOCK {
            words[index] = self.state[index];
            words[BLOCK + index] = block[index];
            words[2 * BLOCK + index] = block[index] ^ self.state[index];
        }
        let mut carry = 0;
        for round in 0..ROUNDS {
            for word in &mut words {
                *word ^= PI[usize::from(carry)];
                carry = *word;
            }
            carry = carry.wrapping_add(round);
        }
        self.state.copy_from_slice(&words[..BLOCK]);
    }
}

/// HMAC with a key of exactly one block.
pub struct Hmac {
    inner: Md2,
    outer: Md2,
}

impl Hmac {
    pub fn new(key: &[u8; BLOCK]) -> Self {
        let keyed = |pad: u8| {
            let mut hash = Md2::new();
            hash.update(&key.map(|byte| byte ^ pad));
            hash
        };
        Self { inner: keyed(0x36), outer: keyed(0x5c) }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.inner.update(bytes);
    }

    pub fn finish(mut self) -> [u8; 16] {
        self.outer.update(&self.inner.finish());
        self.outer.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn md2(message: &str) -> String {
        let mut hash = Md2::new();
        hash.update(message.as_bytes());
        hex(&hash.finish())
    }

    #[test]
    fn md2_agrees_with_the_test_suite_of_rfc_1319() {
        assert_eq!(md2(""), "8350e5a3e24c153df2275c9f80692773");
        assert_eq!(md2("a"), "32ec01ec4a6dac72c0ab96fb34c0b5d1");
        assert_eq!(md2("abc"), "da853b0d3f88d99b30283a69e6ded6bb");
        assert_eq!(md2("message digest"), "ab4f496bfb2a530b219ff33031fe06b0");
        assert_eq!(md2("abcdefghijklmnopqrstuvwxyz"), "4e8ddff3650292ab5a4108c3aa47940b");
        let digits = "1234567890".repeat(8);
        assert_eq!(md2(&digits), "d5976f79d83d3a0dc9806c3c66f3efd8");
    }

    #[test]
    fn every_byte_occurs_once_in_the_permutation() {
        let mut sorted = PI;
        sorted.sort_unstable();
        assert!(sorted.iter().zip(0u8..=255).all(|(&left, right)| left == right));
    }

    // Computed with pycryptodome's HMAC and MD2.
    #[test]
    fn hmac_agrees_with_another_implementation() {
        let key = std::array::from_fn(|index| u8::try_from(index).unwrap());
        let mut mac = Hmac::new(&key);
        mac.update(b"what do ya want ");
        mac.update(b"for nothing?");
        assert_eq!(hex(&mac.finish()), "022f90a619e88463118324aa4749d100");
    }
}
