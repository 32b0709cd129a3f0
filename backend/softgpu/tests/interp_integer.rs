//! Integer instructions against the same computation in Rust, over random values with many corner cases.

#![allow(clippy::unwrap_used)]

mod interp_support;

use interp_support::{Device, Random, kernel, launch, load, params};

const THREADS: usize = 1024;

/// Runs `code`, which makes `%rd9` from `%r1`, `%r2`, `%r3` and `%rd1`, `%rd2`, `%rd3`, for many inputs.
fn check(name: &str, code: &str, expected: impl Fn([u32; 3], [u64; 3]) -> u64) {
    let source = kernel(
        2,
        &format!(
            "ld.param.u64 %rd20, [p0]; ld.param.u64 %rd21, [p1]; mov.u32 %r20, %tid.x;
             mul.wide.u32 %rd22, %r20, 24; add.s64 %rd20, %rd20, %rd22; mul.wide.u32 %rd22, %r20, 8;
             add.s64 %rd21, %rd21, %rd22;
             ld.global.u64 %rd1, [%rd20]; ld.global.u64 %rd2, [%rd20+8]; ld.global.u64 %rd3, [%rd20+16];
             cvt.u32.u64 %r1, %rd1; cvt.u32.u64 %r2, %rd2; cvt.u32.u64 %r3, %rd3; mov.u64 %rd9, 0;
             {code}
             st.global.u64 [%rd21], %rd9;"
        ),
    );
    let mut device = Device::default();
    let program = load(&mut device, &source);
    let mut random = Random::new(name.len() as u64 + 3);
    let inputs: Vec<u64> =
        (0..3 * THREADS).map(|_| u64::from(random.word()) << 32 | u64::from(random.word())).collect();
    let bytes: Vec<u8> = inputs.iter().flat_map(|value| value.to_le_bytes()).collect();
    let (from, to) = (device.buffer(&bytes), device.buffer(&vec![0; 8 * THREADS]));
    launch(&device, &program, "k", 1, u32::try_from(THREADS).unwrap(), &params(&[from, to])).unwrap();
    for (input, result) in inputs.chunks_exact(3).zip(device.read_u64(to, THREADS)) {
        let wide: [u64; 3] = input.try_into().unwrap();
        let narrow = wide.map(|value| value as u32);
        let wanted = expected(narrow, wide);
        assert_eq!(result, wanted, "{name} of {wide:x?}: {result:x} where {wanted:x} is right");
    }
}

/// A 32-bit instruction `d, a, b, c`.
fn check32(instruction: &str, operands: &str, expected: impl Fn(u32, u32, u32) -> u32) {
    let code = format!("{instruction} %r9, {operands}; cvt.u64.u32 %rd9, %r9;");
    check(instruction, &code, |[a, b, c], _| u64::from(expected(a, b, c)));
}

/// A 64-bit instruction `d, a, b, c`.
fn check64(instruction: &str, operands: &str, expected: impl Fn(u64, u64, u64) -> u64) {
    check(instruction, &format!("{instruction} %rd9, {operands};"), |_, [a, b, c]| expected(a, b, c));
}

const AB: &str = "%r1, %r2";
const ABC: &str = "%r1, %r2, %r3";
const WIDE_AB: &str = "%rd1, %rd2";
const WIDE_ABC: &str = "%rd1, %rd2, %rd3";

#[test]
fn addition_and_multiplication_wrap() {
    check32("add.u32", AB, |a, b, _| a.wrapping_add(b));
    check32("sub.s32", AB, |a, b, _| a.wrapping_sub(b));
    check32("mul.lo.s32", AB, |a, b, _| a.wrapping_mul(b));
    check32("mad.lo.u32", ABC, |a, b, c| a.wrapping_mul(b).wrapping_add(c));
    check64("add.s64", WIDE_AB, |a, b, _| a.wrapping_add(b));
    check64("mul.lo.u64", WIDE_AB, |a, b, _| a.wrapping_mul(b));
    check64("mad.lo.s64", WIDE_ABC, |a, b, c| a.wrapping_mul(b).wrapping_add(c));
    check32("add.sat.s32", AB, |a, b, _| a.cast_signed().saturating_add(b.cast_signed()).cast_unsigned());
}

#[test]
fn high_halves_and_wide_products_are_exact() {
    check32("mul.hi.u32", AB, |a, b, _| ((u64::from(a) * u64::from(b)) >> 32) as u32);
    check32("mul.hi.s32", AB, |a, b, _| {
        ((i64::from(a.cast_signed()) * i64::from(b.cast_signed())) >> 32) as u32
    });
    check64("mul.hi.u64", WIDE_AB, |a, b, _| ((u128::from(a) * u128::from(b)) >> 64) as u64);
    check64("mul.hi.s64", WIDE_AB, |a, b, _| {
        ((i128::from(a.cast_signed()) * i128::from(b.cast_signed())) >> 64) as u64
    });
    check("mul.wide.s32", "mul.wide.s32 %rd9, %r1, %r2;", |[a, b, _], _| {
        (i64::from(a.cast_signed()) * i64::from(b.cast_signed())).cast_unsigned()
    });
    check("mad.wide.u32", "mad.wide.u32 %rd9, %r1, %r2, %rd3;", |[a, b, _], [_, _, c]| {
        (u64::from(a) * u64::from(b)).wrapping_add(c)
    });
}

#[test]
fn division_by_zero_and_overflow_do_not_fail() {
    check32("div.u32", AB, |a, b, _| a.checked_div(b).unwrap_or(u32::MAX));
    check32("rem.u32", AB, |a, b, _| a.checked_rem(b).unwrap_or(a));
    check32("div.s32", AB, |a, b, _| match b {
        0 => u32::MAX,
        _ => a.cast_signed().wrapping_div(b.cast_signed()).cast_unsigned(),
    });
    check64("rem.s64", WIDE_AB, |a, b, _| match b {
        0 => a,
        _ => a.cast_signed().wrapping_rem(b.cast_signed()).cast_unsigned(),
    });
}

#[test]
fn shifts_clamp_their_amount() {
    check32("shl.b32", AB, |a, b, _| a.checked_shl(b).unwrap_or(0));
    check32("shr.u32", AB, |a, b, _| a.checked_shr(b).unwrap_or(0));
    check32("shr.s32", AB, |a, b, _| (a.cast_signed() >> b.min(31)).cast_unsigned());
    check("shl.b64", "shl.b64 %rd9, %rd1, %r2;", |[_, b, _], [a, ..]| a.checked_shl(b).unwrap_or(0));
    check("shr.s64", "shr.s64 %rd9, %rd1, %r2;", |[_, b, _], [a, ..]| {
        (a.cast_signed() >> b.min(63)).cast_unsigned()
    });
    let both = |a: u32, b: u32| u64::from(b) << 32 | u64::from(a);
    check32("shf.l.wrap.b32", ABC, |a, b, c| ((both(a, b) << (c & 31)) >> 32) as u32);
    check32("shf.l.clamp.b32", ABC, |a, b, c| ((both(a, b) << c.min(32)) >> 32) as u32);
    check32("shf.r.wrap.b32", ABC, |a, b, c| (both(a, b) >> (c & 31)) as u32);
    check32("shf.r.clamp.b32", ABC, |a, b, c| (both(a, b) >> c.min(32)) as u32);
}

/// `bfe` as the loop over bits that defines it.
fn extract(a: u64, b: u32, c: u32, width: u32, signed: bool) -> u64 {
    let (position, length) = (b & 255, c & 255);
    let sign_at = (position + length).saturating_sub(1).min(width - 1);
    let sign = signed && length > 0 && a >> sign_at & 1 == 1;
    (0..width).fold(0, |all, i| {
        let bit = if i < length && position + i < width { a >> (position + i) & 1 == 1 } else { sign };
        all | u64::from(bit) << i
    })
}

#[test]
fn bit_fields_are_taken_and_put() {
    check32("bfe.u32", ABC, |a, b, c| extract(u64::from(a), b, c, 32, false) as u32);
    check32("bfe.s32", ABC, |a, b, c| extract(u64::from(a), b, c, 32, true) as u32);
    check("bfe.u64", "bfe.u64 %rd9, %rd1, %r2, %r3;", |[_, b, c], [a, ..]| extract(a, b, c, 64, false));
    check("bfe.s64", "bfe.s64 %rd9, %rd1, %r2, %r3;", |[_, b, c], [a, ..]| extract(a, b, c, 64, true));
    check32("bfi.b32", "%r1, %r2, %r3, 7", |a, b, c| {
        (0..7).filter(|i| (c & 255) + i < 32).fold(b, |all, i| {
            let at = (c & 255) + i;
            all & !(1 << at) | (a >> i & 1) << at
        })
    });
}

#[test]
fn bits_are_counted_found_and_reversed() {
    check32("popc.b32", "%r1", |a, _, _| a.count_ones());
    check("popc.b64", "popc.b64 %r9, %rd1; cvt.u64.u32 %rd9, %r9;", |_, [a, ..]| u64::from(a.count_ones()));
    check32("clz.b32", "%r1", |a, _, _| a.leading_zeros());
    check32("brev.b32", "%r1", |a, _, _| a.reverse_bits());
    check64("brev.b64", "%rd1", |a, _, _| a.reverse_bits());
    check32("bfind.u32", "%r1", |a, _, _| (0..32).rev().find(|i| a >> i & 1 == 1).unwrap_or(u32::MAX));
    check32("bfind.s32", "%r1", |a, _, _| {
        let sign = a >> 31;
        (0..32).rev().find(|i| a >> i & 1 != sign).unwrap_or(u32::MAX)
    });
    check32("bfind.shiftamt.u32", "%r1", |a, _, _| match (0..32).rev().find(|i| a >> i & 1 == 1) {
        Some(i) => 31 - i,
        None => u32::MAX,
    });
}

#[test]
fn logic_tables_and_byte_permutations_follow_their_definition() {
    check32("lop3.b32", "%r1, %r2, %r3, 0x96", |a, b, c| a ^ b ^ c);
    check32("lop3.b32", "%r1, %r2, %r3, 0xe8", |a, b, c| a & b | a & c | b & c);
    check32("lop3.b32", "%r1, %r2, %r3, 0x1a", |a, b, c| {
        (0..32).fold(0, |all, i| {
            let row = (a >> i & 1) << 2 | (b >> i & 1) << 1 | c >> i & 1;
            all | (0x1a >> row & 1) << i
        })
    });
    check32("prmt.b32", ABC, |a, b, c| {
        let bytes = [a.to_le_bytes(), b.to_le_bytes()].concat();
        let chosen = [0, 4, 8, 12].map(|at| {
            let selector = c >> at & 15;
            let byte = bytes[(selector & 7) as usize];
            if selector & 8 != 0 { if byte >= 128 { 255 } else { 0 } } else { byte }
        });
        u32::from_le_bytes(chosen)
    });
    check32("prmt.b32.b4e", ABC, |a, b, c| {
        let bytes = [a.to_le_bytes(), b.to_le_bytes()].concat();
        u32::from_le_bytes([0, 7, 6, 5].map(|at| bytes[(c as usize % 4 + at) % 8]))
    });
}

#[test]
fn carries_chain_across_words() {
    // A 128-bit sum and difference out of four 32-bit words each.
    let split = "mov.b64 {%r10, %r11}, %rd1; mov.b64 {%r12, %r13}, %rd2; mov.b64 {%r14, %r15}, %rd3;";
    let sum = "add.cc.u32 %r16, %r10, %r14; addc.cc.u32 %r17, %r11, %r15; addc.cc.u32 %r18, %r12, 0; \
               addc.u32 %r19, %r13, 0; mov.b64 %rd9, {%r18, %r19};";
    check("add.cc", &format!("{split}{sum}"), |_, [a, b, c]| {
        let whole = u128::from(b) << 64 | u128::from(a);
        (whole.wrapping_add(u128::from(c)) >> 64) as u64
    });
    let difference = "sub.cc.u32 %r16, %r10, %r14; subc.cc.u32 %r17, %r11, %r15; subc.cc.u32 %r18, %r12, 0; \
                      subc.u32 %r19, %r13, 0; mov.b64 %rd9, {%r18, %r19};";
    check("sub.cc", &format!("{split}{difference}"), |_, [a, b, c]| {
        let whole = u128::from(b) << 64 | u128::from(a);
        (whole.wrapping_sub(u128::from(c)) >> 64) as u64
    });
    // The upper half of a 64-bit product from 32-bit parts.
    let product = "mul.lo.u32 %r16, %r10, %r12; mul.hi.u32 %r17, %r10, %r12;
        mad.lo.cc.u32 %r17, %r10, %r13, %r17; madc.hi.u32 %r18, %r10, %r13, 0;
        mad.lo.cc.u32 %r17, %r11, %r12, %r17; madc.hi.cc.u32 %r18, %r11, %r12, %r18; addc.u32 %r19, 0, 0;
        mad.lo.cc.u32 %r18, %r11, %r13, %r18; madc.hi.u32 %r19, %r11, %r13, %r19; mov.b64 %rd9, {%r18, %r19};";
    check("mad.cc", &format!("{split}{product}"), |_, [a, b, _]| {
        ((u128::from(a) * u128::from(b)) >> 64) as u64
    });
}

#[test]
fn comparisons_and_selections_agree_with_the_sign_of_their_type() {
    let compare = |op: &str, ty: &str, operands: &str| {
        format!("setp.{op}.{ty} %p1, {operands}; selp.b64 %rd9, 1, 0, %p1;")
    };
    check("lt.s32", &compare("lt", "s32", AB), |[a, b, _], _| u64::from(a.cast_signed() < b.cast_signed()));
    check("lo.u32", &compare("lo", "u32", AB), |[a, b, _], _| u64::from(a < b));
    check("ge.u64", &compare("ge", "u64", WIDE_AB), |_, [a, b, _]| u64::from(a >= b));
    check("gt.s64", &compare("gt", "s64", WIDE_AB), |_, [a, b, _]| {
        u64::from(a.cast_signed() > b.cast_signed())
    });
    let both = "setp.lt.s32 %p3, %r3, 0; setp.lt.and.u32 %p1|%p2, %r1, %r2, !%p3;
                selp.b64 %rd9, 1, 0, %p1; @%p2 add.s64 %rd9, %rd9, 2;";
    check("setp.and", both, |[a, b, c], _| {
        let positive = c.cast_signed() >= 0;
        u64::from(a < b && positive) + 2 * u64::from(a >= b && positive)
    });
    check32("min.s32", AB, |a, b, _| a.cast_signed().min(b.cast_signed()).cast_unsigned());
    check32("max.u32", AB, |a, b, _| a.max(b));
    check32("slct.b32.s32", ABC, |a, b, c| if c.cast_signed() >= 0 { a } else { b });
    check32("set.gt.u32.u32", AB, |a, b, _| if a > b { u32::MAX } else { 0 });
}

#[test]
fn sums_of_products_of_bytes_keep_their_signs() {
    check32("dp4a.s32.u32", ABC, |a, b, c| {
        let pairs = a.to_le_bytes().into_iter().zip(b.to_le_bytes());
        pairs.fold(c, |sum, (a, b)| {
            sum.wrapping_add((i32::from(a.cast_signed()) * i32::from(b)).cast_unsigned())
        })
    });
    check32("dp2a.hi.u32.s32", ABC, |a, b, c| {
        let bytes = b.to_le_bytes();
        let low = i64::from(a & 0xffff) * i64::from(bytes[2].cast_signed());
        let high = i64::from(a >> 16) * i64::from(bytes[3].cast_signed());
        (i64::from(c) + low + high) as u32
    });
    check32("sad.s32", ABC, |a, b, c| c.wrapping_add(a.cast_signed().abs_diff(b.cast_signed())));
    check32("mul24.lo.s32", AB, |a, b, _| {
        let cut = |x: u32| (x << 8).cast_signed() >> 8;
        cut(a).wrapping_mul(cut(b)).cast_unsigned()
    });
    check32("fns.b32", "%r1, 5, 2", |a, _, _| (5..32).filter(|i| a >> i & 1 == 1).nth(1).unwrap_or(u32::MAX));
}

#[test]
fn narrow_integers_convert_with_sign_and_saturation() {
    check32("cvt.s32.s8", "%r1", |a, _, _| i32::from((a as u8).cast_signed()).cast_unsigned());
    check32("cvt.u32.u16", "%r1", |a, _, _| a & 0xffff);
    check32("cvt.sat.u8.s32", "%r1", |a, _, _| a.cast_signed().clamp(0, 255).cast_unsigned());
    check32("cvt.sat.s16.s32", "%r1", |a, _, _| a.cast_signed().clamp(-32768, 32767).cast_unsigned());
    check64("cvt.s64.s32", "%r1", |a, _, _| i64::from((a as u32).cast_signed()).cast_unsigned());
    check32("cvt.pack.sat.u8.s32.b32", ABC, |a, b, c| {
        let cut = |x: u32| x.cast_signed().clamp(0, 255).cast_unsigned();
        c << 16 | cut(a) << 8 | cut(b)
    });
}
