#!/usr/bin/env python3
"""Times applications natively and through the virtual GPU, in turns: the part of vgpu-bench that is not driver calls alone.

usage: with-vgpu applications.py [--rounds N] [--only PART] [--json FILE] [--python FILE]
       applications.py measure PART CPU     one process's values, a line of JSON for each workload; begins each turn when it gets a line
PART is pytorch (with PyTorch) or llama (after ./scripts/apps-prepare llama). The processors' speed changes by a half within seconds, and one
is not as fast as another. So in each round a native and a virtual process live side by side and work in turns of 10 to 100 ms: one waits,
without using anything, while the other works. The thread that measures uses the same CPU on both sides, another one in each round. The
table has the medians of the rounds, their ratio, and the ratios of two turns side by side: a round's is their median, and shown is the
rounds' median with the least and the greatest.
Every workload checks its result: both sides must have computed the same. A goal that is missed is no failure.
"""

import argparse
import contextlib
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
TURNS = 15
# Tokens that llama.cpp writes in a turn, and turns for an answer.
TOKENS, TURNS_OF_ANSWER = 16, 4
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


# Seconds after which a turn hangs: the first one is the start.
TURN_AT_MOST = 300
# The CPU of the thread that measures.
CPU = None


def emit(name, values, result):
    """A workload's values, one for each turn, and what it computed."""
    assert name in GOALS, f"{name} is not in the table"
    assert result is None or result == result, f"{name} computed NaN"
    print(json.dumps({"name": name, "values": values, "result": result}), flush=True)


@contextlib.contextmanager
def on_its_cpu():
    """This thread alone: others, and those that begin outside of this, go where they like. (As PyTorch's own, which computes gradients.)"""
    anywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {CPU})
    try:
        yield
    finally:
        os.sched_setaffinity(0, anywhere)


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
    """The median time of `work`, waited for each time, as a program waits that wants the result; and the last result."""
    import torch

    times = []
    with on_its_cpu():
        work()  # brings the caches back
        torch.cuda.synchronize()
        for _ in range(count):
            start = time.perf_counter()
            result = work()
            torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    return statistics.median(times), result


def turns(work, count):
    """Takes the turns of a workload: its milliseconds in each, and the last result."""
    times = []
    for _ in range(TURNS):
        yield
        taken, result = seconds(work, count)
        times.append(taken * 1e3)
    return times, result


def alone():
    """The time of a loop that calls nothing: how fast the processor is at the moment."""
    with on_its_cpu():
        start = time.perf_counter()
        for _ in range(100_000):
            pass
        return time.perf_counter() - start


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

    def timed(name, work, count, replayed=None):
        """`replayed` is where a graph leaves its result."""
        times, result = yield from turns(work, count)
        emit(name, times, float((result if replayed is None else replayed).float().abs().sum()))

    def both(name, work, count, graph=None):
        for _ in range(5):
            work()
        yield from timed(f"{name}, eager", work, count)
        if graph:
            replay, result = graphed(work)
            result.zero_()
            yield from timed(f"{name}, graph", replay, count, result)

    with torch.inference_mode():
        model = resnet([3, 4, 6, 3], 4).cuda().half().eval()
        picture = torch.randn(64, 3, 224, 224).cuda().half()
        yield from both("ResNet-50 batch 1", lambda: model(picture[:1]), 8, graph=True)
        yield from both("ResNet-50 batch 64", lambda: model(picture), 5)
        del model
        layers = decoder().cuda().half().eval()
        token = torch.randn(1, 1, 1024).cuda().half()
        yield from both("decoder, one token", lambda: layers(token), 8, graph=True)
        del layers
    speeds = []
    for _ in range(TURNS):
        yield
        speeds.append(alone() * 1e3)
    emit("Python alone, 1e5 steps", speeds, None)
    yield from training()


def training():
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

    first = step().item()
    for _ in range(5):
        step()
    times, last = yield from turns(step, 5)
    # The last one is not the same in each run: gradients are added up in any order.
    assert last.item() < first, f"it does not learn: the loss was {first} and is {last.item()}"
    emit("training step, batch 32", times, first)


# llama.cpp

def llama():
    sys.path.insert(0, os.path.join(os.path.dirname(HERE), "apps"))
    from llama_cpp import Llama

    model = Llama()
    long = (model.tokens("The quick brown fox jumps over the lazy dog. " * 80))[:512]

    def clocked(work, *arguments):
        start = time.perf_counter()
        result = work(*arguments)
        return time.perf_counter() - start, result

    def answer():
        yield
        with on_its_cpu():
            taken, _ = clocked(model.read, long)
        rates["512"].append(len(long) / taken)
        tokens, count, total = [], 0, 0
        for part in range(TURNS_OF_ANSWER):
            yield
            with on_its_cpu():
                # The first one brings the caches back. The first of an answer is not like the others, and counts.
                unmeasured = 1 if part else 0
                tokens += model.write(unmeasured)
                taken, more = clocked(model.write, TOKENS - unmeasured)
            tokens, count, total = tokens + more, count + len(more), total + taken
        rates["decode"].append(count / total)
        with on_its_cpu():
            taken, _ = clocked(model.read, long[:5])
            tokens += model.write(1)
        rates["5"].append(5 / taken)
        answers.add(str(tokens))

    model.generate(long, TOKENS)  # loads kernels
    model.generate(long[:5], 1)
    rates, answers = {"decode": [], "512": [], "5": []}, set()
    for _ in range(TURNS):
        yield from answer()
    for name, what in (("decode", "decode"), ("512", "prompt of 512 tokens"), ("5", "prompt of 5 tokens")):
        emit(f"llama.cpp {what}", rates[name], sorted(answers))


# The table

class Process:
    """One measuring process."""

    def __init__(self, part, python, virtual, cpu):
        environment = dict(os.environ)
        if not virtual:
            # with-vgpu put the shim's folder first.
            environment["LD_LIBRARY_PATH"] = ":".join(environment["LD_LIBRARY_PATH"].split(":")[1:])
            environment.pop("VGPU_AGENT_SOCKET")
        self.lines, self.failure, self.offered = [], None, False
        self.stderr = tempfile.TemporaryFile("w+")
        command = [python, os.path.abspath(__file__), "measure", part, str(cpu)]
        self.child = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.stderr, text=True)

    def turn(self):
        """Has it take the turn that it offered, if any, and waits until it offers the next; whether it does."""
        hang = threading.Timer(TURN_AT_MOST, self.child.kill)
        hang.start()
        try:
            return self.turn_at_most(hang)
        finally:
            hang.cancel()

    def turn_at_most(self, hang):
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
        if not hang.is_alive():
            self.failure = f"took longer than {TURN_AT_MOST} s for a turn"
        return False


def measure(part, cpu):
    global CPU
    CPU = int(cpu)
    for _ in {"pytorch": pytorch, "llama": llama}[part]():
        print(YIELDED, end="", flush=True)
        sys.stdin.readline()


def run(options):
    """What the processes printed: for each round {side: {workload: line}}; and what failed."""
    rounds, failures = [], []
    cpus = sorted(os.sched_getaffinity(0))
    for round_ in range(options.rounds):
        for part in options.only or PARTS:
            print(f"round {round_ + 1} of {options.rounds}: {part}", file=sys.stderr, flush=True)
            # Who is first changes, so that what wears off or warms up meets both.
            order = ("native", "virtual") if round_ % 2 == 0 else ("virtual", "native")
            cpu = cpus[round_ % len(cpus)]
            processes = {side: Process(part, options.python, side == "virtual", cpu) for side in order}
            going = list(order)
            while going:
                going = [side for side in going if processes[side].turn()]
            failures += [f"{part}, {side}: {process.failure}" for side, process in processes.items() if process.failure]
            rounds.append({side: {line["name"]: line for line in process.lines} for side, process in processes.items()})
            if options.json:
                keep(options.json, rounds, failures)
    return rounds, failures


def rows(rounds):
    return [row(name, rounds) for name in GOALS if any(name in lines for sides in rounds for lines in sides.values())]


def row(name, rounds):
    unit, goal = GOALS[name]
    lines = {side: [sides[side][name] for sides in rounds if name in sides[side]] for side in ("native", "virtual")}
    out = {"name": name, "unit": unit, "goal": goal}
    for side, values in lines.items():
        out[side] = [statistics.median(line["values"]) for line in values]
    both = [(sides["native"][name], sides["virtual"][name]) for sides in rounds if all(name in sides[side] for side in lines)]
    if both:
        out["ratios"] = [statistics.median(v / n for n, v in zip(native["values"], virtual["values"])) for native, virtual in both]
        out["ratio"] = statistics.median(out["virtual"]) / statistics.median(out["native"])
        if goal is not None:
            out["met"] = out["ratio"] <= goal if unit == "ms" else out["ratio"] >= goal
        out["equal"] = len({str(line["result"]) for pair in both for line in pair}) == 1
    return out


def keep(path, rounds, failures):
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"applications": rows(rounds), "failures": failures}, file, indent=2)


def show(values):
    return f"{statistics.median(values):.3f} ({min(values):.3f} – {max(values):.3f})" if values else "-"


def at_least_one(text):
    if int(text) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return int(text)


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--rounds", type=at_least_one, default=5)
    parser.add_argument("--only", action="append", choices=PARTS)
    parser.add_argument("--json")
    parser.add_argument("--python", default=sys.executable)
    options = parser.parse_args()
    if "VGPU_AGENT_SOCKET" not in os.environ or not os.environ.get("LD_LIBRARY_PATH"):
        parser.error("there is no virtual GPU here: run this by with-vgpu")
    rounds, failures = run(options)
    print(f"{'application':<34}{'unit':>10}{'native':>32}{'virtual':>32}{'ratio':>8}{'of turns side by side':>24}{'goal':>8}")
    for r in rows(rounds):
        goal = f"{'≤' if r['unit'] == 'ms' else '≥'} {r['goal']:.2f}" if r["goal"] else ""
        verdict = {True: "met", False: "MISSED", None: ""}[r.get("met")] + ("" if r.get("equal", True) else ", RESULTS DIFFER")
        sides = f"{show(r['native']):>32}{show(r['virtual']):>32}"
        ratio = f"{r['ratio']:.3f}" if "ratio" in r else "-"
        print(f"{r['name']:<34}{r['unit']:>10}{sides}{ratio:>8}{show(r.get('ratios')):>24}{goal:>8}  {verdict}")
    for failure in failures:
        print(failure)
    return 1 if failures or not all(r.get("equal", False) for r in rows(rounds)) else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(*sys.argv[2:4])
    else:
        sys.exit(main())
