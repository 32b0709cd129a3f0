//! The kernels of the cases, as PTX that softgpu takes too.

use std::ffi::CStr;

/// `fill(place, n, value)`, `empty()`, `fault()` (writes to no memory), `trapped()`; a global of 64 bytes, `counter`.
pub const KERNELS: &CStr = c"
.version 7.5
.target sm_75
.address_size 64

.visible .global .align 8 .b8 counter[64];

.visible .entry fill(.param .u64 place, .param .u32 n, .param .u32 value)
{
    .reg .pred %p<2>;
    .reg .b32 %r<8>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [place];
    ld.param.u32 %r1, [n];
    ld.param.u32 %r2, [value];
    mov.u32 %r3, %ctaid.x;
    mov.u32 %r4, %ntid.x;
    mov.u32 %r5, %tid.x;
    mad.lo.u32 %r6, %r3, %r4, %r5;
    setp.ge.u32 %p1, %r6, %r1;
    @%p1 bra done;
    mul.wide.u32 %rd2, %r6, 4;
    add.s64 %rd3, %rd1, %rd2;
    st.global.u32 [%rd3], %r2;
done:
    ret;
}

.visible .entry empty()
{
    ret;
}

.visible .entry fault()
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    mov.u64 %rd1, 64;
    mov.u32 %r1, 1;
    st.global.u32 [%rd1], %r1;
    ret;
}

.visible .entry trapped()
{
    trap;
    ret;
}
";
