#!/usr/bin/env python3
"""Times applications natively and through the virtual GPU, in turns: the part of vgpu-bench that is not driver calls alone.

usage: with-vgpu applications.py [--rounds N] [--only PART] [--json FILE] [--python FILE]
       applications.py measure PART         one process's values, a line of JSON each; begins each turn when it gets a line
PART is pytorch or llama. The processor's speed changes by a quarter within seconds, so in each round a native and a virtual process live side
by side and work in turns of a fraction of a second: one waits, without using anything, while the other works. The values of one process are
medians; the table has the median of the rounds with the least and the greatest.
Every workload checks its result: both sides must have computed the same.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PARTS = ["pytorch", "llama"]
# How often a process measures each workload.
TURNS = 5
YIELDED = "turn\n"
# name: (unit, goal as virtual / native). A time is to be small, a rate great.
# Without a goal: what the processor gives a process that uses no GPU. Where it differs between the sides, so do the eager ones.
GOALS = {
    "Python alone, 1e5 steps": ("ms", None),
    "ResNet-50 batch 1, eager": ("ms", 0.90),
    "ResNet-50 batch 1, graph": ("ms", 1.01),
    "ResNet-50 batch 64, eager": ("ms", 1.01),
    "decoder, one token, eager": ("ms", 0.90),
    "decoder, one token, graph": ("ms", 1.01),
    "training step, batch 32": ("ms", 1.01),
    "llama.cpp decode": ("tokens/s", 0.99),
    "llama.cpp prompt of 512 tokens": ("tokens/s", 0.99),
    "llama.cpp prompt of 5 tokens": ("tokens/s", 0.95),
}


def emit(name, value, result):
    print(json.dumps({"name": name, "value": value, "result": result}), flush=True)


# PyTorch

def resnet(layers, block_expansion):
    """A ResNet with bottlenecks (expansion 4) or basic blocks (1), by its paper; torchvision need not be there."""
    from torch import nn

    def convolution(inputs, outputs, size, stride=1):
        return [nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False), nn.BatchNorm2d(outputs)]

    class Block(nn.Module):
        def __init__(self, inputs, width, stride):
            super().__init__()
            outputs = width * block_expansion
            if block_expansion == 1:
                parts = [*convolution(inputs, width, 3, stride), nn.ReLU(), *convolution(width, outputs, 3)]
            else:
                parts = [*convolution(inputs, width, 1), nn.ReLU(), *convolution(width, width, 3, stride), nn.ReLU(),
                         *convolution(width, outputs, 1)]
            self.body = nn.Sequential(*parts)
            same = stride == 1 and inputs == outputs
            self.shortcut = nn.Identity() if same else nn.Sequential(*convolution(inputs, outputs, 1, stride))
            self.end = nn.ReLU()

        def forward(self, x):
            return self.end(self.body(x) + self.shortcut(x))

    blocks, inputs = [*convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)], 64
    for stage, count in enumerate(layers):
        for i in range(count):
            blocks.append(Block(inputs, 64 << stage, 2 if stage and i == 0 else 1))
            inputs = (64 << stage) * block_expansion
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))


def decoder():
    """A decoder of 24 layers, 1024 wide, 16 heads, with a cache of 256 tokens: what one token of a language model costs."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.norms = nn.ModuleList(nn.LayerNorm(1024) for _ in range(2))
            self.project, self.out = nn.Linear(1024, 3072), nn.Linear(1024, 1024)
            self.up, self.down = nn.Linear(1024, 4096), nn.Linear(4096, 1024)
            self.register_buffer("keys", torch.randn(1, 16, 256, 64))
            self.register_buffer("values", torch.randn(1, 16, 256, 64))

        def forward(self, x):
            query, key, value = self.project(self.norms[0](x)).view(1, 1, 3, 16, 64).permute(2, 0, 3, 1, 4)
            self.keys[:, :, 255:].copy_(key)
            self.values[:, :, 255:].copy_(value)
            seen = functional.scaled_dot_product_attention(query, self.keys, self.values)
            x = x + self.out(seen.transpose(1, 2).reshape(1, 1, 1024))
            return x + self.down(functional.gelu(self.up(self.norms[1](x))))

    return nn.Sequential(*(Layer() for _ in range(24)))


def seconds(work, count):
    """The median time of `work`, waited for each time, as a program waits that wants the result."""
    import torch

    times = []
    for _ in range(count):
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def alone():
    """The least time of a loop that calls nothing: how fast the processor is at the moment."""
    times = []
    for _ in range(10):
        start = time.perf_counter()
        for _ in range(100_000):
            pass
        times.append(time.perf_counter() - start)
    return min(times)


def graphed(work):
    import torch

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()
    return graph.replay, result


# Each part is a generator: it yields where another process may have its turn.

def pytorch():
    import torch

    torch.manual_seed(1)
    torch.backends.cudnn.deterministic = True
    speeds = []

    def timed(name, work, count, result):
        times = []
        for _ in range(TURNS):
            yield
            work()  # brings the caches back
            torch.cuda.synchronize()
            times.append(seconds(work, count))
        emit(name, statistics.median(times) * 1e3, float(result.float().abs().sum()))

    def both(name, work, count, graph=None):
        for _ in range(5):
            result = work()
        yield from timed(f"{name}, eager", work, count, result)
        speeds.append(alone())
        if graph:
            replay, result = graphed(work)
            replay()
            yield from timed(f"{name}, graph", replay, count, result)

    with torch.inference_mode():
        model = resnet([3, 4, 6, 3], 4).cuda().half().eval()
        picture = torch.randn(64, 3, 224, 224).cuda().half()
        yield from both("ResNet-50 batch 1", lambda: model(picture[:1]), 30, graph=True)
        yield from both("ResNet-50 batch 64", lambda: model(picture), 10)
        del model
        layers = decoder().cuda().half().eval()
        token = torch.randn(1, 1, 1024).cuda().half()
        yield from both("decoder, one token", lambda: layers(token), 30, graph=True)
        del layers
    emit("Python alone, 1e5 steps", statistics.median(speeds) * 1e3, None)
    yield from training(timed)


def training(timed):
    import torch

    torch.manual_seed(2)
    model = resnet([2, 2, 2, 2], 1).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler()
    pictures, labels = torch.randn(32, 3, 224, 224).cuda(), torch.randint(0, 1000, (32,)).cuda()

    def step():
        optimizer.zero_grad()
        with torch.autocast("cuda"):
            loss = torch.nn.functional.cross_entropy(model(pictures), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    first = step().detach()
    for _ in range(5):
        step()
    yield from timed("training step, batch 32", step, 10, first)


# llama.cpp

def llama():
    sys.path.insert(0, os.path.join(os.path.dirname(HERE), "apps"))
    from llama_cpp import Llama

    model = Llama()
    long = (model.tokens("The quick brown fox jumps over the lazy dog. " * 80))[:512]
    rates = {name: [] for name in ("decode", "512", "5")}
    for turn in range(1 + 3 * TURNS):
        yield
        result, _, prompt, rest = model.generate(long, 64)
        short, _, five, _ = model.generate(long[:5], 1)
        if turn:  # the first one loads kernels
            rates["decode"].append(64 / rest)
            rates["512"].append(len(long) / prompt)
            rates["5"].append(5 / five)
    emit("llama.cpp decode", statistics.median(rates["decode"]), str(result))
    emit("llama.cpp prompt of 512 tokens", statistics.median(rates["512"]), str(result))
    emit("llama.cpp prompt of 5 tokens", statistics.median(rates["5"]), str(short))


# The table

class Process:
    """One measuring process."""

    def __init__(self, part, python, virtual):
        environment = dict(os.environ)
        if not virtual:
            # with-vgpu put the shim's folder first.
            paths = environment.get("LD_LIBRARY_PATH", "").split(":")[1:]
            environment["LD_LIBRARY_PATH"] = ":".join(paths)
            environment.pop("VGPU_AGENT_SOCKET", None)
        self.lines, self.failure, self.offered = [], None, False
        self.stderr = tempfile.TemporaryFile("w+")
        self.child = subprocess.Popen([python, os.path.abspath(__file__), "measure", part], env=environment, stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, stderr=self.stderr, text=True)
        self.hang = threading.Timer(300, self.child.kill)
        self.hang.start()

    def turn(self):
        """Has it take the turn that it offered, if any, and waits until it offers the next; whether it does."""
        try:
            self.child.stdin.write("\n" if self.offered else "")
            self.child.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: what it printed is still to be read
        for line in self.child.stdout:
            if line == YIELDED:
                self.offered = True
                return True
            if line.startswith("{"):
                self.lines.append(json.loads(line))
        code = self.child.wait()
        if code:
            self.stderr.seek(0)
            self.failure = f"exit code {code}: {(self.stderr.read().strip().splitlines() or ['nothing on stderr'])[-1]}"
        if not self.hang.is_alive():
            self.failure = "took longer than 300 s"
        self.hang.cancel()
        return False


def measure(part):
    for _ in {"pytorch": pytorch, "llama": llama}[part]():
        print(YIELDED, end="", flush=True)
        sys.stdin.readline()


def run(options):
    values, results, failures = {}, {}, []
    for round_ in range(options.rounds):
        for part in options.only or PARTS:
            print(f"round {round_ + 1} of {options.rounds}: {part}", file=sys.stderr, flush=True)
            # Who is first changes, so that what wears off or warms up meets both.
            order = ("native", "virtual") if round_ % 2 == 0 else ("virtual", "native")
            processes = {side: Process(part, options.python, side == "virtual") for side in order}
            going = list(order)
            while going:
                going = [side for side in going if processes[side].turn()]
            for side, process in processes.items():
                if process.failure:
                    failures.append(f"{part}, {side}: {process.failure}")
                for line in process.lines:
                    values.setdefault(line["name"], {}).setdefault(side, []).append(line["value"])
                    results.setdefault(line["name"], {}).setdefault(side, set()).add(str(line["result"]))
    return values, results, failures


def row(name, values, results):
    unit, goal = GOALS[name]
    native, virtual = ([*values.get(side, [])] for side in ("native", "virtual"))
    out = {"name": name, "unit": unit, "goal": goal, "native": native, "virtual": virtual}
    if native and virtual:
        out["ratio"] = statistics.median(virtual) / statistics.median(native)
        if goal is not None:
            out["met"] = out["ratio"] <= goal if unit == "ms" else out["ratio"] >= goal
        out["equal"] = results["native"] == results["virtual"]
    return out


def show(side):
    return f"{statistics.median(side):.3f} ({min(side):.3f} – {max(side):.3f})" if side else "-"


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", choices=PARTS)
    parser.add_argument("--json")
    parser.add_argument("--python", default=sys.executable)
    options = parser.parse_args()
    values, results, failures = run(options)
    rows = [row(name, values[name], results[name]) for name in GOALS if name in values]
    print(f"{'application':<34}{'unit':>10}{'native':>32}{'virtual':>32}{'ratio':>8}{'goal':>8}")
    for r in rows:
        goal = f"{'≤' if r['unit'] == 'ms' else '≥'} {r['goal']:.2f}" if r["goal"] else ""
        verdict = {True: "met", False: "MISSED", None: ""}[r.get("met")] + ("" if r.get("equal", True) else ", RESULTS DIFFER")
        ratio = f"{r['ratio']:.3f}" if "ratio" in r else "-"
        print(f"{r['name']:<34}{r['unit']:>10}{show(r['native']):>32}{show(r['virtual']):>32}{ratio:>8}{goal:>8}  {verdict}")
    for failure in failures:
        print(failure)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"applications": rows, "failures": failures}, file, indent=2)
    return 1 if failures or not all(r.get("equal", False) for r in rows) else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(sys.argv[2])
    else:
        sys.exit(main())
