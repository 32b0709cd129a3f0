"""PyTorch: products in every type, convolution, attention, training, graphs, allocators, data loading, sharing between processes."""

import os
import subprocess
import sys

from checks import Skip, check, digest, near, run

try:
    import torch
    import torch.nn as nn
    import torch.nn.functional as F
except ImportError as error:
    print(f"application\tskip: {error}")
    sys.exit(77)


def seeded(*shape, dtype=torch.float32, seed=0):
    """The same numbers in every run: made on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype).cuda()


def bits(*tensors):
    return digest(*(t.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy() for t in tensors))


def product(dtype):
    result = seeded(512, 384, dtype=dtype) @ seeded(384, 256, dtype=dtype, seed=1)
    return bits(result)


@check
def device():
    properties = torch.cuda.get_device_properties(0)
    return f"{properties.name} {properties.major}.{properties.minor} {properties.multi_processor_count}"


@check
def elementwise():
    x = seeded(1 << 20)
    return bits((x.sin() * 3 + x.exp()).sqrt().nan_to_num(), x.to(torch.bfloat16), x > 0)


@check
def reductions():
    x = seeded(1000, 1000)
    return bits(x.sum(0), x.amax(1), x.argmax(1), x.cumsum(0), x.std(1))


@check
def matmul_float32():
    return product(torch.float32)


@check
def matmul_tf32():
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        return product(torch.float32)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


@check
def matmul_float16():
    return product(torch.float16)


@check
def matmul_bfloat16():
    return product(torch.bfloat16)


@check
def matmul_float64():
    return product(torch.float64)


@check
def matmul_complex64():
    a = torch.complex(seeded(128, 128), seeded(128, 128, seed=1))
    return bits(torch.view_as_real(a @ a))


@check
def matmul_int8():
    a = (seeded(128, 64) * 20).to(torch.int8)
    b = (seeded(64, 128, seed=1) * 20).to(torch.int8)
    result = torch._int_mm(a, b)
    assert torch.equal(result.cpu(), a.cpu().int() @ b.cpu().int()), "not the integer product"
    return bits(result)


@check
def matmul_fp8():
    a = seeded(128, 128).to(torch.float8_e4m3fn)
    b = seeded(128, 128, seed=1).to(torch.float8_e4m3fn).t().contiguous().t()
    one = torch.ones((), device="cuda")
    return bits(torch._scaled_mm(a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16))


@check
def batched_matmul():
    return bits(torch.bmm(seeded(16, 64, 32), seeded(16, 32, 48, seed=1)), torch.einsum("bij,bkj->bik", seeded(4, 8, 8), seeded(4, 8, 8)))


@check
def convolution():
    torch.backends.cudnn.deterministic = True
    results = []
    for dtype in (torch.float32, torch.float16):
        x, w = seeded(4, 16, 64, 64, dtype=dtype), seeded(32, 16, 3, 3, dtype=dtype, seed=1)
        results.append(F.conv2d(x, w, padding=1))
        results.append(F.conv2d(x, w, stride=2, dilation=2))
    results.append(F.conv_transpose2d(seeded(2, 8, 16, 16), seeded(8, 4, 3, 3, seed=1)))
    results.append(F.conv1d(seeded(2, 8, 100), seeded(4, 8, 5, seed=1)))
    return bits(*results)


@check
def pooling_and_normalisation():
    x = seeded(4, 16, 32, 32)
    return bits(F.max_pool2d(x, 2), F.avg_pool2d(x, 3), F.group_norm(x, 4), F.layer_norm(x, (32, 32)), F.batch_norm(x, None, None, training=True))


def attention(backend):
    from torch.nn.attention import sdpa_kernel

    q, k, v = (seeded(2, 8, 256, 64, dtype=torch.float16, seed=seed).requires_grad_() for seed in range(3))
    with sdpa_kernel(backend):
        result = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    result.float().sum().backward()
    return result, q, k, v


@check
def attention_flash():
    from torch.nn.attention import SDPBackend

    result, q, k, v = attention(SDPBackend.FLASH_ATTENTION)
    return bits(result) + " " + near([x.grad.float().abs().sum() for x in (q, k, v)], 1e-3)  # the order of its atomic additions varies


@check
def attention_efficient():
    from torch.nn.attention import SDPBackend

    result, *_ = attention(SDPBackend.EFFICIENT_ATTENTION)
    return bits(result)


@check
def attention_cudnn():
    from torch.nn.attention import SDPBackend

    result, *_ = attention(SDPBackend.CUDNN_ATTENTION)
    return bits(result)


@check
def attention_math():
    from torch.nn.attention import SDPBackend

    result, q, k, v = attention(SDPBackend.MATH)
    return bits(result, q.grad, k.grad, v.grad)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.out = nn.Linear(8 * 15 * 15, 10)

    def forward(self, x):
        return self.out(F.max_pool2d(F.relu(self.norm(self.conv(x))), 2).flatten(1))


def trained(dtype, steps=4):
    torch.manual_seed(3)
    torch.backends.cudnn.deterministic = True
    model = Small().cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)
    losses = []
    for step in range(steps):
        x, y = seeded(16, 3, 32, 32, seed=step), torch.arange(16, device="cuda") % 10
        with torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
            loss = F.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return bits(torch.stack(losses), *model.parameters())


@check
def training_float32():
    return trained(torch.float32)


@check
def training_amp_float16():
    return trained(torch.float16)


@check
def training_amp_bfloat16():
    return trained(torch.bfloat16)


@check
def transformer_layer():
    torch.manual_seed(4)
    layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True).cuda()
    x = seeded(4, 32, 64).requires_grad_()
    y = layer(x)
    y.square().mean().backward()
    return bits(y) + " " + near(x.grad.abs().sum(), 1e-4)


@check
def random_numbers():
    torch.manual_seed(5)
    return bits(torch.rand(1000, device="cuda"), torch.randn(1000, device="cuda"), torch.randperm(1000, device="cuda"), F.dropout(torch.ones(1000, device="cuda")))


@check
def sort_and_index():
    x = seeded(100_000)
    values, order = x.sort(stable=True)
    return bits(values, order, x.topk(10).values, (x > 1).nonzero(), torch.unique((x * 10).int()))


@check
def linear_algebra():
    a = seeded(64, 64, dtype=torch.float64)
    spd = a @ a.T + 64 * torch.eye(64, device="cuda", dtype=torch.float64)
    checks = [torch.linalg.cholesky(spd).sum(), torch.linalg.inv(spd).sum(), torch.linalg.svdvals(a).sum(), torch.linalg.eigvalsh(spd).sum(),
              torch.linalg.det(spd).log(), torch.linalg.qr(a).R.abs().sum(), torch.linalg.solve(spd, a).sum()]
    return near(checks, 1e-9)


@check
def fft():
    return bits(torch.view_as_real(torch.fft.fft(seeded(64, 1000))), torch.fft.irfft2(torch.fft.rfft2(seeded(64, 64))))


@check
def sparse():
    dense = seeded(100, 100) * (seeded(100, 100, seed=1) > 1)
    return near((dense.to_sparse_csr() @ seeded(100, 8, seed=2)).abs().sum(), 1e-5)


@check
def streams_and_events():
    side, start, end = torch.cuda.Stream(), torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    x = seeded(1 << 20)
    start.record()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        y = x * 2
        y.record_stream(side)
    torch.cuda.current_stream().wait_stream(side)
    z = y + x
    end.record()
    end.synchronize()
    assert 0 < start.elapsed_time(end) < 10_000 and end.query() and side.query(), "events"
    return bits(z)


@check
def cuda_graph():
    model, x = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).cuda(), torch.zeros(16, 64, device="cuda")
    for i, p in enumerate(model.parameters()):
        p.data.copy_(seeded(*p.shape, seed=i))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), torch.no_grad():
        for _ in range(3):
            model(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.no_grad():
        y = model(x)
    results = []
    for seed in range(3):
        x.copy_(seeded(16, 64, seed=seed))
        graph.replay()
        results.append(y.clone())
        assert torch.equal(y, model(x)), "the replay is not the model"
    return bits(*results)


@check
def cuda_graph_of_training():
    torch.manual_seed(6)
    model = nn.Linear(32, 4).cuda()
    optimizer = torch.optim.Adam(model.parameters(), capturable=True)
    x, y = seeded(8, 32), seeded(8, 4, seed=1)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    for _ in range(5):
        graph.replay()
    return bits(loss, *model.parameters())


@check
def make_graphed_callables():
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(16, 16), nn.Tanh()).cuda()
    graphed = torch.cuda.make_graphed_callables(model, (torch.randn(4, 16, device="cuda", requires_grad=True),))
    x = seeded(4, 16).requires_grad_()
    y = graphed(x)
    y.sum().backward()
    return bits(y, x.grad)


@check
def memory_statistics():
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    x = torch.empty(64 << 20, dtype=torch.uint8, device="cuda")
    grown = torch.cuda.memory_allocated() - before
    free, total = torch.cuda.mem_get_info()
    assert 0 < free < total and x.is_cuda
    return f"{grown} {total}"


@check
def out_of_memory_is_an_exception():
    try:
        torch.empty(1 << 44, dtype=torch.uint8, device="cuda")
    except torch.cuda.OutOfMemoryError:
        return bits(torch.ones(4, device="cuda"))
    raise AssertionError("16 TiB were allocated")


@check
def pinned_copies():
    x = torch.arange(1 << 22, dtype=torch.float32).pin_memory()
    y = torch.empty_like(x).pin_memory()
    d = x.to("cuda", non_blocking=True)
    y.copy_(d * 2, non_blocking=True)
    torch.cuda.synchronize()
    assert x.is_pinned() and torch.equal(y, x * 2)
    return digest(y.numpy())


@check
def pageable_copies():
    x = torch.arange(50_000_001, dtype=torch.uint8)
    return bits(x.cuda()[1:]) + " " + bits(x.cuda().cpu())


def in_a_process(code, **environment):
    """The last line that the code prints in a Python of its own: what is set before CUDA starts."""
    result = subprocess.run([sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)
    if result.returncode != 0:
        raise RuntimeError((result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1])
    return result.stdout.strip().splitlines()[-1]


GROW = """
import torch, hashlib
kept = [torch.full((i << 20,), i, dtype=torch.uint8, device="cuda") for i in range(1, 24)]
del kept[::2]
more = torch.arange(100 << 20, dtype=torch.int32, device="cuda")
kept.append(more[::4096].contiguous())
x = torch.cat([k.reshape(-1).view(torch.uint8) for k in kept])
print(hashlib.sha256(x.cpu().numpy().tobytes()).hexdigest()[:16], torch.cuda.memory_allocated() >> 20)
"""


@check
def expandable_segments():
    return in_a_process(GROW, PYTORCH_CUDA_ALLOC_CONF="expandable_segments:True", PYTORCH_ALLOC_CONF="expandable_segments:True")


@check
def stream_ordered_allocator():
    return in_a_process(GROW, PYTORCH_CUDA_ALLOC_CONF="backend:cudaMallocAsync", PYTORCH_ALLOC_CONF="backend:cudaMallocAsync")


@check
def no_caching_allocator():
    return in_a_process(GROW, PYTORCH_NO_CUDA_MEMORY_CACHING="1")


@check
def launch_blocking():
    return in_a_process(GROW, CUDA_LAUNCH_BLOCKING="1")


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 256

    def __getitem__(self, index):
        return torch.full((3, 16), float(index)), index


@check
def data_loader_with_pinned_memory_and_workers():
    loader = torch.utils.data.DataLoader(Numbers(), batch_size=32, num_workers=2, pin_memory=True, persistent_workers=False)
    total = torch.zeros(16, device="cuda")
    for x, index in loader:
        assert x.is_pinned()
        total += x.to("cuda", non_blocking=True).sum((0, 1)) + index.to("cuda", non_blocking=True).sum()
    return bits(total)


def child(receive, send):
    tensor, event = receive.get()
    event.wait()
    tensor.mul_(2)
    torch.cuda.synchronize()
    send.put(float(tensor.sum()))
    receive.get()


@check
def tensors_shared_with_a_process():
    import torch.multiprocessing as mp

    context = mp.get_context("spawn")
    there, back = context.Queue(), context.Queue()
    process = context.Process(target=child, args=(there, back), daemon=True)
    process.start()
    try:
        tensor = torch.arange(1000, dtype=torch.float32, device="cuda")
        event = torch.cuda.Event(interprocess=True)
        event.record()
        there.put((tensor, event))
        seen = back.get(timeout=90)
        torch.cuda.synchronize()
        value = bits(tensor)
        there.put(None)
        process.join(30)
        return f"{seen} {value} {process.exitcode}"
    finally:
        if process.is_alive():
            process.kill()


@check
def fork_is_refused_after_start():
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            torch.ones(1, device="cuda")
        except RuntimeError as error:
            code = 42 if "forked subprocess" in str(error) else 43
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@check
def threads():
    from concurrent.futures import ThreadPoolExecutor

    def work(seed):
        with torch.cuda.stream(torch.cuda.Stream()):
            x = seeded(128, 128, seed=seed)
            for _ in range(20):
                x = (x @ x).tanh()
            torch.cuda.current_stream().synchronize()
            return bits(x)

    with ThreadPoolExecutor(4) as pool:
        return " ".join(pool.map(work, range(8)))


@check
def cpp_extension_like_kernel():
    kernel = torch.cuda.jiterator._create_jit_fn("template <typename T> T fused(T x, T y) { return x * x + y; }")
    x = seeded(1000)
    return bits(kernel(x, x))


@check
def compiled_kernel():
    if not hasattr(torch.cuda, "_compile_kernel"):
        raise Skip("this version has no _compile_kernel")
    kernel = torch.cuda._compile_kernel('extern "C" __global__ void twice(float* x, int n) { int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) x[i] *= 2; }', "twice")
    x = seeded(1000)
    kernel((4, 1, 1), (256, 1, 1), (x, 1000))
    return bits(x)


if __name__ == "__main__":
    torch.use_deterministic_algorithms(False)
    run("PyTorch", f"{torch.__version__} cuDNN {torch.backends.cudnn.version()}")
