"""A small set of numba-cuda on softgpu, compared with NumPy.

numba-cuda has NVIDIA's driver link its PTX when nvJitLink is not installed; softgpu's linker keeps PTX.
"""

import math

import numpy as np

if not hasattr(np, "row_stack"):
    np.row_stack = np.vstack  # numba 0.68 asks for it; NumPy 2.5 has it no more
import numba
from numba import cuda, float32, guvectorize, int32, vectorize

from checks import check, must_pass


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@check
def device_says_what_it_is():
    name = cuda.get_current_device().name
    name = name.decode() if isinstance(name, bytes) else name
    assert "softgpu" in name.lower(), name
    return name


@check
def kernel():
    @cuda.jit
    def saxpy(a, x, y):
        i = cuda.grid(1)
        if i < x.size:
            y[i] += a * x[i]

    x, y = numbers(1000), numbers(1000, seed=1)
    d = cuda.to_device(y)
    saxpy[4, 256](np.float32(3), cuda.to_device(x), d)
    np.testing.assert_allclose(d.copy_to_host(), y + np.float32(3) * x, rtol=1e-5, atol=1e-6)
    return "ok"


@check
def kernel_on_host_arrays():
    @cuda.jit
    def transpose(x, y):
        i, j = cuda.grid(2)
        if i < x.shape[0] and j < x.shape[1]:
            y[j, i] = x[i, j]

    x, y = numbers(20, 30), np.zeros((30, 20), np.float32)
    transpose[(2, 2), (16, 16)](x, y)
    np.testing.assert_array_equal(y, x.T)
    return "ok"


@check
def ufunc():
    @vectorize(["float32(float32, float32)"], target="cuda")
    def f(x, y):
        return math.sqrt(x * x + y * y)

    x, y = numbers(1000), numbers(1000, seed=1)
    np.testing.assert_allclose(f(x, y), np.hypot(x, y), rtol=1e-5)
    return "ok"


@check
def shared_memory():
    @cuda.jit
    def product(a, b, c):
        ta = cuda.shared.array((8, 8), float32)
        tb = cuda.shared.array((8, 8), float32)
        i, j = cuda.grid(2)
        x, y = cuda.threadIdx.x, cuda.threadIdx.y
        total = float32(0)
        for k in range(a.shape[1] // 8):
            ta[x, y] = a[i, k * 8 + y]
            tb[x, y] = b[k * 8 + x, j]
            cuda.syncthreads()
            for n in range(8):
                total += ta[x, n] * tb[n, y]
            cuda.syncthreads()
        c[i, j] = total

    a, b, c = numbers(32, 24), numbers(24, 16, seed=1), np.zeros((32, 16), np.float32)
    product[(4, 2), (8, 8)](a, b, c)
    np.testing.assert_allclose(c, a @ b, rtol=1e-4, atol=1e-4)
    return "ok"


@check
def atomics():
    @cuda.jit
    def count(x, bins, extremes):
        i = cuda.grid(1)
        if i < x.size:
            cuda.atomic.add(bins, x[i], 1)
            cuda.atomic.max(extremes, 0, x[i])
            cuda.atomic.min(extremes, 1, x[i])
            cuda.atomic.cas(extremes, 2, 0, 5)

    x = np.random.default_rng(0).integers(3, 32, 2000).astype(np.int32)
    bins, extremes = np.zeros(32, np.int32), np.array([0, 99, 0], np.int32)
    count[8, 256](x, bins, extremes)
    np.testing.assert_array_equal(bins, np.bincount(x, minlength=32))
    assert list(extremes) == [x.max(), x.min(), 5], extremes
    return "ok"


@check
def floating_point_atomics():
    @cuda.jit
    def total(x, y, z):
        i = cuda.grid(1)
        cuda.atomic.add(y, 0, x[i])
        cuda.atomic.max(z, 0, float(x[i]))

    x, y, z = numbers(512), np.zeros(1, np.float32), np.zeros(1, np.float64)
    total[2, 256](x, y, z)
    np.testing.assert_allclose(y[0], x.sum(), rtol=1e-4)
    assert z[0] == x.max()
    return "ok"


@check
def reduction():
    total = cuda.reduce(lambda a, b: a + b)
    assert total(np.arange(2000, dtype=np.int64)) == 1999000
    return "ok"


@check
def warp_operations():
    @cuda.jit
    def f(x, y):
        i = cuda.grid(1)
        v = x[i]
        for offset in (16, 8, 4, 2, 1):
            v += cuda.shfl_down_sync(0xFFFFFFFF, v, offset)
        y[0, i] = v
        y[1, i] = cuda.popc(cuda.ballot_sync(0xFFFFFFFF, x[i] > 3))

    x, y = np.arange(32, dtype=np.int32), np.zeros((2, 32), np.int32)
    f[1, 32](x, y)
    assert y[0, 0] == 496 and (y[1] == 28).all(), y
    return "ok"


@check
def mathematics():
    @cuda.jit
    def f(x, y):
        i = cuda.grid(1)
        if i < x.size:
            y[0, i], y[1, i], y[2, i] = math.sin(x[i]), math.exp(x[i]), math.erf(x[i])
            y[3, i], y[4, i] = math.pow(abs(x[i]), 1.5), math.atan2(x[i], 2.0)

    x = np.random.default_rng(1).standard_normal(100)
    y = np.zeros((5, 100))
    f[1, 128](x, y)
    expected = [np.sin(x), np.exp(x), [math.erf(v) for v in x], np.abs(x) ** 1.5, np.arctan2(x, 2)]
    np.testing.assert_allclose(y, expected, rtol=1e-13)
    return "ok"


@check
def device_functions_and_local_memory():
    @cuda.jit(device=True)
    def collatz(n):
        steps = 0
        while n != 1:
            n = 3 * n + 1 if n % 2 else n // 2
            steps += 1
        return steps

    @cuda.jit
    def f(y):
        scratch = cuda.local.array(8, int32)
        i = cuda.grid(1)
        for k in range(8):
            scratch[k] = collatz(i * 8 + k + 1)
        for k in range(8):
            y[i, k] = scratch[7 - k]

    def python(n):
        steps = 0
        while n != 1:
            n = 3 * n + 1 if n % 2 else n // 2
            steps += 1
        return steps

    y = np.zeros((32, 8), np.int32)
    f[1, 32](y)
    np.testing.assert_array_equal(y[:, ::-1].ravel(), [python(n + 1) for n in range(256)])
    return "ok"


@check
def constant_arrays():
    table = np.arange(32, dtype=np.int32) ** 2

    @cuda.jit
    def f(y):
        t = cuda.const.array_like(table)
        y[cuda.grid(1)] = t[cuda.grid(1) % 32]

    y = np.zeros(64, np.int32)
    f[1, 64](y)
    np.testing.assert_array_equal(y, np.tile(table, 2))
    return "ok"


@check
def streams_and_pinned_memory():
    @cuda.jit
    def twice(x):
        i = cuda.grid(1)
        if i < x.size:
            x[i] *= 2

    stream = cuda.stream()
    host = cuda.pinned_array(1000, np.float32)
    host[:] = numbers(1000)
    d = cuda.to_device(host, stream=stream)
    twice[4, 256, stream](d)
    back = d.copy_to_host(stream=stream)
    stream.synchronize()
    np.testing.assert_array_equal(back, host * 2)
    return "ok"


@check
def generalised_ufunc():
    @guvectorize(["void(float32[:], float32[:])"], "(n)->(n)", target="cuda")
    def f(x, y):
        total = float32(0)
        for i in range(x.shape[0]):
            total += x[i]
            y[i] = total

    x = numbers(16, 20)
    np.testing.assert_allclose(f(x), np.cumsum(x, 1), rtol=1e-4, atol=1e-5)
    return "ok"


@check
def dynamic_shared_memory():
    @cuda.jit
    def backwards(x):
        tile = cuda.shared.array(0, int32)
        i = cuda.threadIdx.x
        tile[i] = x[i]
        cuda.syncthreads()
        x[i] = tile[cuda.blockDim.x - 1 - i]

    x = np.arange(128, dtype=np.int32)
    backwards[1, 128, 0, 512](x)
    np.testing.assert_array_equal(x, np.arange(128)[::-1])
    return "ok"


@check
def mapped_array():
    @cuda.jit
    def twice(x):
        x[cuda.grid(1)] *= 2

    x = cuda.mapped_array(256, np.float32)
    x[:] = numbers(256)
    expected = np.array(x) * 2
    twice[1, 256](x)
    cuda.synchronize()
    np.testing.assert_array_equal(np.array(x), expected)
    return "ok"


@check
def errors_in_a_kernel_reach_python():
    @cuda.jit(debug=True, opt=False)
    def f(x):
        x[cuda.grid(1)] = 1 // x[0]

    try:
        f[1, 1](np.zeros(4, np.int32))
    except ZeroDivisionError:
        return "ok"
    raise AssertionError("no ZeroDivisionError")


if __name__ == "__main__":
    must_pass("numba", numba.__version__)
