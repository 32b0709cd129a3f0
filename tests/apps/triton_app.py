"""Triton kernels of its own: element-wise, reduction, matrix product, atomics, autotuning."""

import sys

from checks import check, digest, near, run

try:
    import torch
    import triton
    import triton.language as tl
except ImportError as error:
    print(f"application\tskip: {error}")
    sys.exit(77)


def seeded(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype).cuda()


def bits(*tensors):
    return digest(*(t.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy() for t in tensors))


@triton.jit
def add_kernel(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    tl.store(out + i, tl.load(x + i, mask=mask) + tl.load(y + i, mask=mask), mask=mask)


@triton.jit
def softmax_kernel(x, out, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    value = tl.load(x + row * columns + i, mask=i < columns, other=-float("inf"))
    value = tl.exp(value - tl.max(value, 0))
    tl.store(out + row * columns + i, value / tl.sum(value, 0), mask=i < columns)


@triton.jit
def product_kernel(a, b, c, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    i = tl.program_id(0) * BM + tl.arange(0, BM)
    j = tl.program_id(1) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for start in range(0, K, BK):
        x = tl.load(a + i[:, None] * K + (start + k)[None, :])
        y = tl.load(b + (start + k)[:, None] * N + j[None, :])
        total += tl.dot(x, y)
    tl.store(c + i[:, None] * N + j[None, :], total.to(tl.float16))


@triton.jit
def histogram_kernel(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.atomic_add(out + tl.load(x + i, mask=i < n, other=0), 1, mask=i < n)


@triton.autotune(configs=[triton.Config({"BLOCK": 128}, num_warps=2), triton.Config({"BLOCK": 512}, num_warps=4)], key=["n"])
@triton.jit
def scale_kernel(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n) * 2, mask=i < n)


@triton.jit
def print_kernel(x):
    tl.device_print("value", tl.load(x))


@check
def elementwise():
    x, y, out = seeded(100_001), seeded(100_001, seed=1), torch.empty(100_001, device="cuda")
    add_kernel[(triton.cdiv(100_001, 1024),)](x, y, out, 100_001, 1024)
    assert torch.equal(out, x + y)
    return bits(out)


@check
def softmax():
    x, out = seeded(128, 1000), torch.empty(128, 1000, device="cuda")
    softmax_kernel[(128,)](x, out, 1000, 1024)
    assert torch.allclose(out, x.softmax(1), atol=1e-6)
    return bits(out)


@check
def matrix_product():
    a, b = seeded(256, 128, dtype=torch.float16), seeded(128, 512, dtype=torch.float16, seed=1)
    c = torch.empty(256, 512, device="cuda", dtype=torch.float16)
    product_kernel[(4, 8)](a, b, c, 256, 512, 128, 64, 64, 32)
    assert torch.allclose(c, a @ b, atol=1e-1, rtol=1e-2)
    return bits(c)


@check
def atomics():
    x = (seeded(100_000).abs() * 10).int().clamp(max=63)
    out = torch.zeros(64, device="cuda", dtype=torch.int32)
    histogram_kernel[(triton.cdiv(100_000, 256),)](x, out, 100_000, 256)
    assert torch.equal(out.long(), torch.bincount(x, minlength=64))
    return bits(out)


@check
def autotuning():
    x, out = seeded(10_000), torch.empty(10_000, device="cuda")
    scale_kernel[lambda meta: (triton.cdiv(10_000, meta["BLOCK"]),)](x, out, 10_000)
    return bits(out)


@check
def device_print():
    print_kernel[(1,)](torch.ones(1, device="cuda"))
    torch.cuda.synchronize()
    return "printed"


@check
def benchmark_helper():
    x = seeded(1 << 20)
    milliseconds = triton.testing.do_bench(lambda: x * 2, warmup=5, rep=20)
    assert 0 < milliseconds < 1000
    return "measured"


if __name__ == "__main__":
    run("Triton", triton.__version__)
