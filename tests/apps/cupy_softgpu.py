"""A small set of CuPy on softgpu, compared with NumPy.

CuPy compiles to PTX when asked to. softgpu runs no machine code, so CuPy's own precompiled kernels (CUB) and CUDA's libraries are left out.
"""

import os

os.environ["CUPY_COMPILE_WITH_PTX"] = "1"
os.environ["CUPY_ACCELERATORS"] = ""

import cupy as cp
import numpy as np

from checks import check, must_pass


def numbers(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def same(ours, expected, tolerance=0.0):
    ours, expected = cp.asnumpy(ours), np.asarray(expected)
    assert ours.shape == expected.shape and ours.dtype == expected.dtype, f"{ours.dtype}{ours.shape}, expected {expected.dtype}{expected.shape}"
    if tolerance:
        np.testing.assert_allclose(ours, expected, rtol=tolerance, atol=tolerance)
    else:
        np.testing.assert_array_equal(ours, expected)
    return "ok"


@check
def device_says_what_it_is():
    name = cp.cuda.runtime.getDeviceProperties(0)["name"].decode()
    assert "softgpu" in name.lower(), name
    return name


@check
def copies():
    x = numbers(100, 70)
    same(cp.asarray(x)[::2, 5:50].copy(), x[::2, 5:50])
    return same(cp.asarray(x).T.copy(), np.ascontiguousarray(x.T))


@check
def elementwise_arithmetic():
    x, y = numbers(1000), numbers(1000, seed=1)
    dx, dy = cp.asarray(x), cp.asarray(y)
    same(dx + dy * 2 - 1, x + y * 2 - 1)
    same(dx / dy, x / y)
    same(dx > dy, x > y)
    return same(cp.where(dx > 0, dx, dy), np.where(x > 0, x, y))


@check
def elementwise_integers():
    x = np.random.default_rng(0).integers(-1000, 1000, 1000)
    for dtype in (np.int8, np.uint8, np.int16, np.int32, np.uint32, np.int64):
        a = x.astype(dtype)
        b = cp.asarray(a)
        same(b // cp.asarray(7, dtype=dtype), a // np.asarray(7, dtype=dtype))
        same(b % cp.asarray(7, dtype=dtype), a % np.asarray(7, dtype=dtype))
        same((b << 1) ^ (b & 5), (a << 1) ^ (a & 5))
    return "ok"


@check
def elementwise_mathematics():
    x = numbers(1000)
    for name in ("sin", "cos", "exp", "tanh", "sqrt", "log1p", "floor", "arctan"):
        argument = np.abs(x) if name in ("sqrt", "log1p") else x
        same(getattr(cp, name)(cp.asarray(argument)), getattr(np, name)(argument), 2e-6)
    return "ok"


@check
def elementwise_doubles():
    x = numbers(500, dtype=np.float64)
    same(cp.exp(cp.asarray(x)), np.exp(x), 1e-14)
    return same(cp.sqrt(cp.asarray(np.abs(x))), np.sqrt(np.abs(x)))


@check
def half_precision():
    x, y = numbers(500, dtype=np.float16), numbers(500, dtype=np.float16, seed=1)
    return same(cp.asarray(x) * cp.asarray(y) + cp.asarray(x), x * y + x, 2e-3)


@check
def conversions():
    x = numbers(1000) * 100
    for dtype in (np.int8, np.int32, np.int64, np.float16, np.float64, np.bool_):
        same(cp.asarray(x).astype(dtype), x.astype(dtype))
    return "ok"


@check
def complex_numbers():
    x = (numbers(200) + 1j * numbers(200, seed=1)).astype(np.complex64)
    same(cp.asarray(x) * cp.asarray(x), x * x, 1e-5)
    return same(cp.abs(cp.asarray(x)), np.abs(x), 1e-5)


@check
def broadcasting():
    x, y = numbers(20, 1, 30), numbers(15, 1, seed=1)
    return same(cp.asarray(x) + cp.asarray(y), x + y)


@check
def reductions():
    x = numbers(40, 50)
    d = cp.asarray(x)
    same(d.sum(), x.sum(), 1e-5)
    same(d.sum(0), x.sum(0), 1e-5)
    same(d.max(1), x.max(1))
    same(d.argmin(1), x.argmin(1))
    same(d.mean(), x.mean(), 1e-5)
    same(d.any(), x.any())
    return same(cp.asarray(x.astype(np.float64)).prod(0), x.astype(np.float64).prod(0), 1e-12)


@check
def reduction_kernel():
    length = cp.ReductionKernel("T x", "T y", "x * x", "a + b", "y = sqrt(a)", "0", "length_of")
    x = numbers(1000, dtype=np.float64)
    return same(length(cp.asarray(x)), np.linalg.norm(x), 1e-12)


@check
def scans():
    x = np.random.default_rng(0).integers(0, 100, 3000)
    return same(cp.cumsum(cp.asarray(x)), np.cumsum(x))


@check
def indexing():
    x = numbers(50, 60)
    d = cp.asarray(x)
    rows = np.array([3, 1, 4, 1, 5])
    same(d[cp.asarray(rows)], x[rows])
    same(d[d > 1], x[x > 1])
    d[d < 0] = 0
    return same(d, np.maximum(x, 0))


@check
def scatter_with_atomics():
    index = np.random.default_rng(0).integers(0, 16, 2000)
    d = cp.zeros(16, dtype=cp.int32)
    cp.add.at(d, cp.asarray(index), 1)
    same(d, np.bincount(index, minlength=16).astype(np.int32))
    return same(cp.bincount(cp.asarray(index), minlength=16), np.bincount(index, minlength=16))


@check
def elementwise_kernel():
    kernel = cp.ElementwiseKernel("float32 x, float32 y", "float32 z", "z = (x - y) * (x - y)", "squared_difference")
    x, y = numbers(1000), numbers(1000, seed=1)
    return same(kernel(cp.asarray(x), cp.asarray(y)), (x - y) * (x - y), 1e-6)


@check
def fused():
    @cp.fuse()
    def f(x, y):
        return cp.sqrt(x * x + y * y)

    x, y = numbers(1000), numbers(1000, seed=1)
    return same(f(cp.asarray(x), cp.asarray(y)), np.sqrt(x * x + y * y), 1e-6)


RAW = r"""
extern "C" __global__ void product(const float* a, const float* b, float* c, int n) {
    __shared__ float ta[8][8], tb[8][8];
    int x = threadIdx.x, y = threadIdx.y, row = blockIdx.y * 8 + y, column = blockIdx.x * 8 + x;
    float total = 0;
    for (int k = 0; k < n; k += 8) {
        ta[y][x] = a[row * n + k + x];
        tb[y][x] = b[(k + y) * n + column];
        __syncthreads();
        for (int i = 0; i < 8; i++) total += ta[y][i] * tb[i][x];
        __syncthreads();
    }
    c[row * n + column] = total;
}
extern "C" __global__ void histogram(const int* x, int n, unsigned* bins) {
    extern __shared__ unsigned local[];
    for (int i = threadIdx.x; i < 32; i += blockDim.x) local[i] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd(&local[x[i]], 1u);
    __syncthreads();
    for (int i = threadIdx.x; i < 32; i += blockDim.x) atomicAdd(&bins[i], local[i]);
}
extern "C" __global__ void warp_sums(const float* x, float* y) {
    float v = x[blockIdx.x * blockDim.x + threadIdx.x];
    for (int offset = 16; offset; offset /= 2) v += __shfl_down_sync(0xffffffffu, v, offset);
    if (threadIdx.x % 32 == 0) y[(blockIdx.x * blockDim.x + threadIdx.x) / 32] = v;
}
__constant__ float factors[4];
extern "C" __global__ void scaled(float* x) { x[threadIdx.x] *= factors[threadIdx.x % 4]; }
"""


@check
def raw_kernel_with_shared_memory():
    a, b = numbers(32, 32), numbers(32, 32, seed=1)
    c = cp.zeros((32, 32), dtype=cp.float32)
    cp.RawKernel(RAW, "product")((4, 4), (8, 8), (cp.asarray(a), cp.asarray(b), c, np.int32(32)))
    return same(c, a @ b, 1e-4)


@check
def raw_kernel_with_dynamic_shared_memory_and_atomics():
    x = np.random.default_rng(0).integers(0, 32, 5000).astype(np.int32)
    bins = cp.zeros(32, dtype=cp.uint32)
    cp.RawKernel(RAW, "histogram")((4,), (64,), (cp.asarray(x), np.int32(5000), bins), shared_mem=128)
    return same(bins, np.bincount(x, minlength=32).astype(np.uint32))


@check
def raw_kernel_with_warp_shuffle():
    x = numbers(256)
    y = cp.zeros(8, dtype=cp.float32)
    cp.RawKernel(RAW, "warp_sums")((2,), (128,), (cp.asarray(x), y))
    return same(y, x.reshape(8, 32).sum(1), 1e-5)


@check
def raw_module_with_constant():
    module = cp.RawModule(code=RAW)
    factors = cp.ndarray((4,), cp.float32, module.get_global("factors"))
    factors[...] = cp.asarray([1, 2, 3, 4], dtype=cp.float32)
    x = numbers(64)
    d = cp.asarray(x)
    module.get_function("scaled")((1,), (64,), (d,))
    return same(d, x * np.tile(np.float32([1, 2, 3, 4]), 16))


@check
def streams_and_pinned_memory():
    memory = cp.cuda.alloc_pinned_memory(40_000)
    host = np.frombuffer(memory, np.float32, 10_000)
    host[:] = numbers(10_000)
    stream = cp.cuda.Stream(non_blocking=True)
    x = cp.empty(10_000, dtype=cp.float32)
    x.set(host, stream=stream)
    with stream:
        y = x * 2
    result = y.get(stream=stream)
    stream.synchronize()
    return same(result, host * 2)


@check
def graph():
    x, y = cp.zeros(100, dtype=cp.float32), cp.zeros(100, dtype=cp.float32)
    cp.add(x, 1, out=y)  # compiled before the capture
    stream = cp.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        cp.add(x, 1, out=y)
        cp.add(y, 1, out=x)
        captured = stream.end_capture()
        for _ in range(5):
            captured.launch(stream)
    stream.synchronize()
    return same(x, np.full(100, 10, np.float32))


if __name__ == "__main__":
    must_pass("CuPy", cp.__version__)
