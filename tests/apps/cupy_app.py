"""CuPy: element-wise, reductions, sorting, the CUDA libraries, kernels of its own, graphs, textures, allocators."""

import sys

from checks import check, digest, near, run

try:
    import cupy as cp
    import numpy as np
except ImportError as error:
    print(f"application\tskip: {error}")
    sys.exit(77)


def numbers(*shape, dtype=np.float32, seed=0):
    return cp.asarray(np.random.default_rng(seed).standard_normal(shape).astype(dtype))


def bits(*arrays):
    return digest(*(cp.asnumpy(a) for a in arrays))


@check
def device():
    properties = cp.cuda.runtime.getDeviceProperties(0)
    return f"{properties['name'].decode()} {properties['major']}.{properties['minor']} {properties['totalGlobalMem']}"


@check
def elementwise():
    x, y = numbers(100_000), numbers(100_000, seed=1)
    return bits(cp.sin(x) * y + cp.exp(-x), x > y, cp.where(x > 0, x, y), (x * 100).astype(cp.int32) % 7)


@check
def elementwise_kernel():
    kernel = cp.ElementwiseKernel("float32 x, float32 y", "float32 z", "z = (x - y) * (x - y)", "squared_difference")
    return bits(kernel(numbers(1000), numbers(1000, seed=1)))


@check
def fused():
    @cp.fuse()
    def f(x, y):
        return cp.sqrt(x * x + y * y)

    return bits(f(numbers(1000), numbers(1000, seed=1)))


@check
def reductions():
    x = numbers(300, 500)
    return bits(x.sum(0), x.max(1), x.argmin(1), x.any(), x.std()) + " " + near(float(x.mean()))


@check
def reduction_kernel():
    kernel = cp.ReductionKernel("T x", "T y", "x * x", "a + b", "y = sqrt(a)", "0", "length_of")
    return near(float(kernel(numbers(10_000))))


@check
def scan_and_sort():
    x = numbers(50_000)
    return bits(cp.sort(x), cp.argsort(x), cp.cumsum((x * 10).astype(cp.int64)), cp.unique((x * 5).astype(cp.int32)), cp.sort(cp.partition(x, 100)[:100]))


@check
def indexing_and_scatter():
    x = cp.zeros(64, dtype=cp.int32)
    cp.add.at(x, (cp.abs(numbers(10_000)) * 10).astype(cp.int32).clip(0, 63), 1)
    y = numbers(100, 100)
    return bits(x, y[y > 1], y[::3, ::-2], cp.take(y, cp.arange(50) * 3), cp.histogram(y, bins=20)[0], cp.bincount(cp.abs(y * 3).astype(cp.int32).ravel()))


@check
def cublas():
    results = [numbers(200, 300, dtype=t) @ numbers(300, 100, dtype=t, seed=1) for t in (np.float32, np.float64, np.float16)]
    results.append((numbers(50, 60) + 1j * numbers(50, 60, seed=1)) @ numbers(60, 40))
    results.append(cp.einsum("bij,bjk->bik", numbers(8, 16, 32), numbers(8, 32, 8, seed=1)))
    return bits(*results)


@check
def cufft():
    x = numbers(64, 1000)
    return bits(cp.fft.fft(x), cp.fft.rfft(x), cp.fft.irfft(cp.fft.rfft(x)), cp.fft.fft2(numbers(64, 128)), cp.fft.fftn(numbers(8, 9, 10)))


@check
def cusolver():
    a = numbers(64, 64, dtype=np.float64)
    spd = a @ a.T + 64 * cp.eye(64)
    return near([cp.linalg.cholesky(spd).sum(), cp.linalg.inv(spd).sum(), cp.linalg.svd(a, compute_uv=False).sum(), cp.linalg.eigvalsh(spd).sum(),
                 cp.linalg.slogdet(spd)[1], cp.abs(cp.linalg.qr(a)[1]).sum(), cp.linalg.solve(spd, a).sum()], 1e-9)


@check
def cusparse():
    from cupyx.scipy import sparse

    dense = numbers(100, 100)
    matrix = sparse.csr_matrix(cp.where(cp.abs(dense) > 1, dense, 0))
    return f"{matrix.nnz} " + near([(matrix @ numbers(100)).sum(), (matrix @ matrix.T).sum()], 1e-4)


@check
def curand():
    generator = cp.random.RandomState(7)
    new = cp.random.Generator(cp.random.XORWOW(7))
    return bits(generator.rand(1000), generator.randn(1000), generator.randint(0, 100, 1000), new.random(1000), new.integers(0, 10, 1000))


RAW = r"""
extern "C" __global__ void saxpy(float a, const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] += a * x[i];
}
extern "C" __global__ void reversed(const int* x, int* y) {
    extern __shared__ int tile[];
    tile[threadIdx.x] = x[blockIdx.x * blockDim.x + threadIdx.x];
    __syncthreads();
    y[blockIdx.x * blockDim.x + threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}
__constant__ float factor;
extern "C" __global__ void scaled(float* x) { x[threadIdx.x] *= factor; }
"""


@check
def raw_kernel():
    x, y = numbers(10_000), numbers(10_000, seed=1)
    cp.RawKernel(RAW, "saxpy")((40,), (256,), (np.float32(3), x, y, np.int32(10_000)))
    return bits(y)


@check
def raw_module():
    module = cp.RawModule(code=RAW)
    x, y = cp.arange(1024, dtype=cp.int32), cp.zeros(1024, dtype=cp.int32)
    module.get_function("reversed")((4,), (256,), (x, y), shared_mem=1024)
    pointer = module.get_global("factor")
    cp.ndarray((1,), cp.float32, pointer)[0] = 2.5
    z = cp.ones(32, dtype=cp.float32)
    module.get_function("scaled")((1,), (32,), (z,))
    return bits(y, z)


@check
def raw_kernel_attributes():
    kernel = cp.RawKernel(RAW, "reversed")
    return f"{kernel.num_regs > 0} {kernel.max_threads_per_block} {kernel.local_size_bytes} {kernel.const_size_bytes}"


@check
def cooperative_raw_kernel():
    source = r"""
#include <cooperative_groups.h>
extern "C" __global__ void rounds(int* x, int n) {
    auto grid = cooperative_groups::this_grid();
    int i = grid.thread_rank();
    for (int k = 0; k < 8; k++) { int v = x[(i + 1) % n]; grid.sync(); x[i] = v + 1; grid.sync(); }
}"""
    x = cp.arange(2048, dtype=cp.int32)
    cp.RawKernel(source, "rounds", enable_cooperative_groups=True)((8,), (256,), (x, np.int32(2048)))
    return bits(x)


@check
def texture():
    source = r"""extern "C" __global__ void sampled(cudaTextureObject_t t, float* out, int w, int h) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y;
    if (x < w) out[y * w + x] = tex2D<float>(t, x + 0.25f, y + 0.75f);
}"""
    width, height = 64, 32
    channel = cp.cuda.texture.ChannelFormatDescriptor(32, 0, 0, 0, cp.cuda.runtime.cudaChannelFormatKindFloat)
    array = cp.cuda.texture.CUDAarray(channel, width, height)
    array.copy_from(numbers(height, width))
    resource = cp.cuda.texture.ResourceDescriptor(cp.cuda.runtime.cudaResourceTypeArray, cuArr=array)
    modes = (cp.cuda.runtime.cudaAddressModeClamp,) * 2
    descriptor = cp.cuda.texture.TextureDescriptor(modes, cp.cuda.runtime.cudaFilterModeLinear, cp.cuda.runtime.cudaReadModeElementType)
    out = cp.zeros((height, width), dtype=cp.float32)
    cp.RawKernel(source, "sampled")((1, height), (64,), (cp.cuda.texture.TextureObject(resource, descriptor), out, np.int32(width), np.int32(height)))
    return bits(out)


@check
def image_filters():
    from cupyx.scipy import ndimage

    x = numbers(64, 64)
    return bits(ndimage.median_filter(x, 3)) + " " + near([ndimage.gaussian_filter(x, 2).sum(), ndimage.zoom(x, 1.5).sum()], 1e-4)


@check
def streams_and_events():
    start, end = cp.cuda.Event(), cp.cuda.Event()
    with cp.cuda.Stream(non_blocking=True) as stream:
        start.record()
        x = numbers(100_000) * 2
        end.record()
    end.synchronize()
    assert 0 <= cp.cuda.get_elapsed_time(start, end) < 60_000 and stream.done
    return bits(x)


@check
def host_callback():
    seen = []
    stream = cp.cuda.Stream(non_blocking=True)
    with stream:
        cp.arange(10).sum()
        stream.launch_host_func(seen.append, 42)
    stream.synchronize()
    return seen


@check
def graph():
    x, y = cp.zeros(1000, dtype=cp.float32), cp.zeros(1000, dtype=cp.float32)
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
    return bits(x, y)


@check
def pinned_memory():
    memory = cp.cuda.alloc_pinned_memory(4_000_000)
    host = np.frombuffer(memory, np.float32, 1_000_000)
    host[:] = np.arange(1_000_000)
    x = cp.empty(1_000_000, dtype=cp.float32)
    stream = cp.cuda.Stream(non_blocking=True)
    x.set(host, stream=stream)
    with stream:
        y = x * 2
    back = y.get(stream=stream)
    stream.synchronize()
    assert (back == host * 2).all()
    return bits(x)


def with_allocator(allocator):
    previous = cp.cuda.get_allocator()
    cp.cuda.set_allocator(allocator)
    try:
        parts = [cp.full(1 << n, n, dtype=cp.int32) for n in range(20)]
        value = bits(cp.concatenate(parts))
        del parts
        return value
    finally:
        cp.cuda.set_allocator(previous)


@check
def memory_pool():
    pool = cp.cuda.MemoryPool()
    value = with_allocator(pool.malloc)
    used = pool.used_bytes()
    pool.free_all_blocks()
    return f"{value} {used} {pool.total_bytes()}"


@check
def managed_memory():
    return with_allocator(cp.cuda.MemoryPool(cp.cuda.malloc_managed).malloc)


@check
def stream_ordered_memory():
    return with_allocator(cp.cuda.MemoryAsyncPool().malloc)


@check
def no_pool():
    return with_allocator(None)


@check
def illegal_address_is_an_exception():
    import subprocess

    code = "import cupy as cp\ncp.RawKernel('extern \"C\" __global__ void f(int* x) { *x = 1; }', 'f')((1,), (1,), (16,))\ntry:\n cp.cuda.Device().synchronize()\nexcept cp.cuda.runtime.CUDARuntimeError as e:\n print('code', e.status, flush=True)\n import os; os._exit(0)\nprint('no error')"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout.strip()


@check
def interface_with_numpy_and_dlpack():
    x = numbers(1000)
    y = cp.from_dlpack(x.toDlpack() if not hasattr(x, "__dlpack__") else x)
    return bits(np.sin(x), y) + f" {x.__cuda_array_interface__['version']} {y.data.ptr == x.data.ptr}"


if __name__ == "__main__":
    run("CuPy", cp.__version__)
