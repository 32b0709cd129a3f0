"""torch.compile: Inductor's Triton kernels, compiled where the program runs."""

import os
import sys

from checks import check, digest, near, run

os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "4")
try:
    import torch
    import torch.nn as nn
    import torch.nn.functional as F
    import triton
except ImportError as error:
    print(f"application\tskip: {error}")
    sys.exit(77)


def seeded(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype).cuda()


def bits(*tensors):
    return digest(*(t.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy() for t in tensors))


@check
def pointwise_and_reduction():
    @torch.compile
    def f(x, y):
        return (x.sin() * y.cos() + x.exp()).sum(1), torch.softmax(x * y, -1)

    return bits(*f(seeded(256, 1000), seeded(256, 1000, seed=1)))


@check
def dynamic_shapes():
    @torch.compile(dynamic=True)
    def f(x):
        return F.gelu(x) * x.mean(-1, keepdim=True)

    return bits(*(f(seeded(n, 64)) for n in (3, 17, 200)))


@check
def model_with_backward():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.LayerNorm(128), nn.Linear(128, 10)).cuda()
    compiled = torch.compile(model)
    x = seeded(32, 64).requires_grad_()
    loss = F.cross_entropy(compiled(x), torch.arange(32, device="cuda") % 10)
    loss.backward()
    return near([loss, x.grad.abs().sum(), *(p.grad.abs().sum() for p in model.parameters())], 1e-4)


@check
def reduce_overhead_uses_cuda_graphs():
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)).cuda()
    compiled = torch.compile(model, mode="reduce-overhead")
    results = []
    with torch.no_grad():
        for seed in range(5):
            torch.compiler.cudagraph_mark_step_begin()
            results.append(compiled(seeded(8, 32, seed=seed)).clone())
    return bits(*results)


@check
def bfloat16_autocast():
    torch.manual_seed(3)
    model = torch.compile(nn.Sequential(nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 64)).cuda())
    with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16):
        return bits(model(seeded(16, 64)))


@check
def attention_block():
    @torch.compile
    def f(q, k, v):
        return F.scaled_dot_product_attention(q * 0.5, k, v, is_causal=True) + 1

    return bits(f(*(seeded(2, 4, 128, 64, dtype=torch.float16, seed=s) for s in range(3))))


@check
def flex_attention():
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention as flex

    mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, 256, 256)
    return bits(torch.compile(flex)(*(seeded(1, 2, 256, 64, dtype=torch.float16, seed=s) for s in range(3)), block_mask=mask))


if __name__ == "__main__":
    run("torch.compile", f"{torch.__version__} Triton {triton.__version__}")
