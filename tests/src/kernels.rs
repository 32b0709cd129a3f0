//! The kernels of the tests, as PTX.

use std::ffi::CStr;

/// A module image.
pub const KERNELS: &CStr = c"
.version 8.0
.target sm_80
.address_size 64

.visible .entry empty()
{
    ret;
}

// Adds 1 to the number at `place`.
.visible .entry count(.param .u64 place)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [place];
    atom.global.add.u32 %r1, [%rd1], 1;
    ret;
}

// Takes the number at `place` from `from` to `from` + 1; counts behind it how often it was another.
.visible .entry step(.param .u64 place, .param .u32 from)
{
    .reg .pred %p<2>;
    .reg .b32 %r<5>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [place];
    ld.param.u32 %r1, [from];
    ld.volatile.global.u32 %r2, [%rd1];
    setp.eq.u32 %p1, %r1, %r2;
    @%p1 bra good;
    atom.global.add.u32 %r3, [%rd1+4], 1;
good:
    add.u32 %r4, %r1, 1;
    st.volatile.global.u32 [%rd1], %r4;
    ret;
}

// Runs until the number at `flag` is not 0.
.visible .entry spin(.param .u64 flag)
{
    .reg .pred %p<2>;
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [flag];
again:
    ld.volatile.global.u32 %r1, [%rd1];
    setp.eq.u32 %p1, %r1, 0;
    @%p1 bra again;
    ret;
}

// Runs for so many nanoseconds.
.visible .entry last(.param .u64 nanoseconds)
{
    .reg .pred %p<2>;
    .reg .b64 %rd<5>;
    ld.param.u64 %rd1, [nanoseconds];
    mov.u64 %rd2, %globaltimer;
again:
    mov.u64 %rd3, %globaltimer;
    sub.u64 %rd4, %rd3, %rd2;
    setp.lt.u64 %p1, %rd4, %rd1;
    @%p1 bra again;
    ret;
}

// out[i] = i * seed ^ (i + seed)
.visible .entry mix(.param .u64 out, .param .u32 n, .param .u32 seed)
{
    .reg .pred %p<2>;
    .reg .b32 %r<10>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [out];
    ld.param.u32 %r1, [n];
    ld.param.u32 %r2, [seed];
    mov.u32 %r3, %ctaid.x;
    mov.u32 %r4, %ntid.x;
    mov.u32 %r5, %tid.x;
    mad.lo.u32 %r6, %r3, %r4, %r5;
    setp.ge.u32 %p1, %r6, %r1;
    @%p1 bra done;
    mul.lo.u32 %r7, %r6, %r2;
    add.u32 %r8, %r6, %r2;
    xor.b32 %r9, %r7, %r8;
    mul.wide.u32 %rd2, %r6, 4;
    add.u64 %rd3, %rd1, %rd2;
    st.global.u32 [%rd3], %r9;
done:
    ret;
}

.visible .entry store(.param .u64 place, .param .u32 value)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [place];
    ld.param.u32 %r1, [value];
    st.global.u32 [%rd1], %r1;
    ret;
}

.visible .entry fault()
{
    trap;
    ret;
}
";
