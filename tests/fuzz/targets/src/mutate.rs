//! Changed copies of inputs, the same in every run from the same seed.

use vgpu_tests::noise::Noise;

/// Numbers at which decoders go wrong.
const NUMBERS: &[u64] = &[
    0,
    1,
    2,
    7,
    8,
    15,
    16,
    63,
    64,
    127,
    128,
    255,
    256,
    4095,
    4096,
    65_535,
    65_536,
    1 << 21,
    (1 << 31) - 1,
    1 << 31,
    u32::MAX as u64,
    1 << 32,
    1 << 47,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX - 4095,
    u64::MAX - 7,
    u64::MAX,
];

/// A changed copy of one of `inputs`, of at most `limit` bytes.
pub fn mutated(noise: &mut Noise, inputs: &[Vec<u8>], limit: usize) -> Vec<u8> {
    let mut bytes = some(noise, inputs).to_vec();
    for _ in 0..=noise.below(6) {
        change(noise, &mut bytes, inputs);
    }
    bytes.truncate(limit);
    bytes
}

fn some<'a>(noise: &mut Noise, inputs: &'a [Vec<u8>]) -> &'a [u8] {
    let count = inputs.len().max(1) as u64;
    inputs.get(noise.below(count) as usize).map_or(&[], Vec::as_slice)
}

fn place(noise: &mut Noise, len: usize) -> usize {
    noise.below(len as u64 + 1) as usize
}

fn change(noise: &mut Noise, bytes: &mut Vec<u8>, inputs: &[Vec<u8>]) {
    let at = place(noise, bytes.len());
    match noise.below(9) {
        0 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << noise.below(8);
            }
        }
        1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = noise.number() as u8;
            }
        }
        // A number, at a place where one may be: most are aligned.
        2..=4 => {
            let width = noise.pick(&[1_usize, 2, 4, 8]);
            let at = if noise.below(4) == 0 { at } else { at / width * width };
            let number = noise.pick(NUMBERS).wrapping_add(noise.below(3)).wrapping_sub(1);
            for (byte, value) in bytes.iter_mut().skip(at).take(width).zip(number.to_le_bytes()) {
                *byte = value;
            }
        }
        5 => bytes.truncate(at),
        6 => {
            let len = noise.pick(&[1, 2, 4, 8, 16, 64]);
            let new = noise.bytes(len);
            bytes.splice(at..at, new);
        }
        7 => {
            let end = (at + noise.pick(&[1, 4, 8, 16, 64])).min(bytes.len());
            bytes.drain(at..end);
        }
        // A part of another input, or again of this one.
        _ => {
            let other = some(noise, inputs).to_vec();
            let from = place(noise, other.len());
            let to = (from + noise.pick(&[4, 8, 16, 64, 256])).min(other.len());
            bytes.splice(at..at, other.get(from..to).unwrap_or_default().iter().copied());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_inputs_and_keeps_the_limit() {
        let inputs = vec![vec![1; 100], (0..=255).collect::<Vec<u8>>()];
        let run = |seed| {
            let mut noise = Noise::new(seed);
            (0..500).map(|_| mutated(&mut noise, &inputs, 200)).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        assert!(run(3).iter().all(|bytes| bytes.len() <= 200));
        assert!(mutated(&mut Noise::new(1), &[], 10).len() <= 10);
    }
}
