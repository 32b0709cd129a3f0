"""numba-cuda: ufuncs, kernels with shared memory, atomics, reductions, streams, pinned and mapped arrays, grid synchronisation."""

import math
import sys

from checks import check, digest, near, run

try:
    import numpy as np

    if not hasattr(np, "row_stack"):
        np.row_stack = np.vstack  # numba 0.68 asks for it; NumPy 2.5 has it no more, so kernels fail natively as well
    import numba
    from numba import cuda, float32, guvectorize, int32, vectorize
except ImportError as error:
    print(f"application\tskip: {error}")
    sys.exit(77)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@check
def device():
    d = cuda.get_current_device()
    name = d.name.decode() if isinstance(d.name, bytes) else d.name
    return f"{name} {d.compute_capability[0]}.{d.compute_capability[1]} {d.MULTIPROCESSOR_COUNT} {d.WARP_SIZE}"


@check
def ufunc():
    @vectorize(["float32(float32, float32)"], target="cuda")
    def f(x, y):
        return math.sqrt(x * x + y * y)

    x, y = numbers(10_000), numbers(10_000, seed=1)
    result = f(x, y)
    assert np.allclose(result, np.hypot(x, y), rtol=1e-5)
    return digest(result)


@check
def generalised_ufunc():
    @guvectorize(["void(float32[:], float32[:])"], "(n)->(n)", target="cuda")
    def f(x, y):
        total = 0.0
        for i in range(x.shape[0]):
            total += x[i]
            y[i] = total

    return digest(f(numbers(64, 100)))


@check
def kernel():
    @cuda.jit
    def saxpy(a, x, y):
        i = cuda.grid(1)
        if i < x.size:
            y[i] += a * x[i]

    x, y = cuda.to_device(numbers(10_000)), cuda.to_device(numbers(10_000, seed=1))
    saxpy[40, 256](np.float32(3), x, y)
    return digest(y.copy_to_host())


@check
def kernel_2d_strided():
    @cuda.jit
    def transpose(x, y):
        i, j = cuda.grid(2)
        if i < x.shape[0] and j < x.shape[1]:
            y[j, i] = x[i, j]

    x = numbers(60, 200)
    y = cuda.device_array((100, 60), np.float32)
    transpose[(4, 13), (16, 16)](cuda.to_device(np.ascontiguousarray(x[:, ::2])), y)
    assert (y.copy_to_host() == x[:, ::2].T).all()
    return digest(y.copy_to_host())


@check
def shared_memory_product():
    @cuda.jit
    def product(a, b, c):
        ta = cuda.shared.array((16, 16), float32)
        tb = cuda.shared.array((16, 16), float32)
        i, j = cuda.grid(2)
        x, y = cuda.threadIdx.x, cuda.threadIdx.y
        total = float32(0)
        for k in range(a.shape[1] // 16):
            ta[x, y] = a[i, k * 16 + y]
            tb[x, y] = b[k * 16 + x, j]
            cuda.syncthreads()
            for n in range(16):
                total += ta[x, n] * tb[n, y]
            cuda.syncthreads()
        c[i, j] = total

    a, b = numbers(64, 96), numbers(96, 32, seed=1)
    c = cuda.device_array((64, 32), np.float32)
    product[(4, 2), (16, 16)](a, b, c)
    assert np.allclose(c.copy_to_host(), a @ b, atol=1e-4)
    return digest(c.copy_to_host())


@check
def dynamic_shared_memory():
    @cuda.jit
    def backwards(x):
        tile = cuda.shared.array(0, int32)
        i = cuda.threadIdx.x
        tile[i] = x[i]
        cuda.syncthreads()
        x[i] = tile[cuda.blockDim.x - 1 - i]

    x = cuda.to_device(np.arange(256, dtype=np.int32))
    backwards[1, 256, 0, 1024](x)
    return digest(x.copy_to_host())


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

    x = np.random.default_rng(0).integers(0, 64, 100_000).astype(np.int32)
    bins, extremes = cuda.to_device(np.zeros(64, np.int32)), cuda.to_device(np.array([0, 99, 0], np.int32))
    count[400, 256](x, bins, extremes)
    assert (bins.copy_to_host() == np.bincount(x, minlength=64)).all()
    return digest(bins.copy_to_host(), extremes.copy_to_host())


@check
def reduction():
    total = cuda.reduce(lambda a, b: a + b)
    return f"{total(np.arange(100_000, dtype=np.int64))} {near(total(numbers(10_000).astype(np.float64)), 1e-9)}"


@check
def warp_operations():
    @cuda.jit
    def f(x, y):
        i = cuda.grid(1)
        v = x[i]
        for offset in (16, 8, 4, 2, 1):
            v += cuda.shfl_down_sync(0xFFFFFFFF, v, offset)
        y[i] = v + cuda.popc(cuda.ballot_sync(0xFFFFFFFF, x[i] > 3)) + cuda.any_sync(0xFFFFFFFF, x[i] > 30) + cuda.laneid

    x, y = np.arange(64, dtype=np.int32) % 37, cuda.device_array(64, np.int32)
    f[1, 64](x, y)
    return digest(y.copy_to_host())


@check
def mathematics():
    @cuda.jit
    def f(x, y):
        i = cuda.grid(1)
        if i < x.size:
            y[0, i], y[1, i], y[2, i] = math.sin(x[i]), math.exp(x[i]), math.erf(x[i])
            y[3, i], y[4, i], y[5, i] = math.pow(abs(x[i]), 1.5), math.lgamma(abs(x[i]) + 1), math.atan2(x[i], 2.0)

    x = np.random.default_rng(1).standard_normal(1000)
    y = cuda.device_array((6, 1000), np.float64)
    f[4, 256](x, y)
    result = y.copy_to_host()
    assert np.allclose(result[0], np.sin(x)) and np.allclose(result[1], np.exp(x))
    return digest(result)


@check
def grid_synchronisation():
    @cuda.jit
    def rounds(x):
        grid = cuda.cg.this_grid()
        i = cuda.grid(1)
        for k in range(8):
            v = x[(i + 1) % x.size]
            grid.sync()
            x[i] = v + 1
            grid.sync()

    x = cuda.to_device(np.arange(2048, dtype=np.int32))
    rounds[8, 256](x)
    return digest(x.copy_to_host())


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
        total = 0
        for k in range(8):
            total += scratch[k] * (k + 1)
        y[i] = total

    y = cuda.device_array(512, np.int32)
    f[2, 256](y)
    return digest(y.copy_to_host())


@check
def random_numbers():
    from numba.cuda.random import create_xoroshiro128p_states, xoroshiro128p_uniform_float32

    @cuda.jit
    def f(states, y):
        i = cuda.grid(1)
        y[i] = xoroshiro128p_uniform_float32(states, i)

    y = cuda.device_array(1024, np.float32)
    f[4, 256](create_xoroshiro128p_states(1024, seed=1), y)
    return digest(y.copy_to_host())


@check
def constant_arrays():
    table = np.arange(32, dtype=np.int32) ** 2

    @cuda.jit
    def f(y):
        t = cuda.const.array_like(table)
        y[cuda.grid(1)] = t[cuda.grid(1) % 32]

    y = cuda.device_array(64, np.int32)
    f[1, 64](y)
    return digest(y.copy_to_host())


@cuda.jit
def twice(x):
    i = cuda.grid(1)
    if i < x.size:
        x[i] *= 2


@check
def streams_and_events():
    stream, start, end = cuda.stream(), cuda.event(), cuda.event()
    with cuda.pinned(host := numbers(100_000)):
        start.record(stream)
        x = cuda.to_device(host, stream=stream)
        twice[400, 256, stream](x)
        back = x.copy_to_host(stream=stream)
        end.record(stream)
        stream.synchronize()
    assert 0 <= start.elapsed_time(end) < 60_000
    return digest(back)


@check
def pinned_array():
    x = cuda.pinned_array(100_000, np.float32)
    x[:] = numbers(100_000)
    d = cuda.to_device(x)
    twice[400, 256](d)
    d.copy_to_host(x)
    return digest(x)


@check
def mapped_array():
    x = cuda.mapped_array(1000, np.float32)
    x[:] = numbers(1000)
    twice[4, 256](x)
    cuda.synchronize()
    return digest(np.array(x))


@check
def managed_array():
    x = cuda.managed_array(1000, np.float32)
    x[:] = numbers(1000)
    twice[4, 256](x)
    cuda.synchronize()
    return digest(np.array(x))


@check
def device_print():
    @cuda.jit
    def f():
        print("thread", cuda.threadIdx.x)

    f[1, 2]()
    cuda.synchronize()
    return "printed"


@check
def exceptions_in_debug_mode():
    @cuda.jit(debug=True, opt=False)
    def f(x):
        x[cuda.grid(1)] = 1 // x[0]

    try:
        f[1, 1](np.zeros(4, np.int32))
    except ZeroDivisionError:
        return "ZeroDivisionError"
    return "no exception"


if __name__ == "__main__":
    if not cuda.is_available():
        print("application\tskip: numba finds no CUDA device")
        sys.exit(77)
    try:
        import numba_cuda

        version = numba_cuda.__version__
    except ImportError:
        version = "built in"
    run("numba", f"{numba.__version__} numba-cuda {version}")
