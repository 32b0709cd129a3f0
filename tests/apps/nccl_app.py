"""NCCL over two GPUs: one process with both, and a process for each."""

import datetime
import os
import queue
import socket
import sys
import time

from checks import Skip, check, digest, run

try:
    import torch
    import torch.distributed as dist
    import torch.multiprocessing as mp
except ImportError as error:
    print(f"application\tskip: {error}")
    sys.exit(77)


def bits(*tensors):
    return digest(*(t.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy() for t in tensors))


def seeded(n, seed, device):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)).to(device)


OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "send_recv", "all_to_all", "data_parallel")
INIT_SECONDS = 45
ALL_SECONDS = 150


def rank_main(rank, world, port, answers):
    """Answers (rank, operation, its value) after each operation, and (rank, None, what is wrong; empty if nothing is) at the end."""
    try:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        torch.cuda.set_device(rank)
        dist.init_process_group("nccl", rank=rank, world_size=world, timeout=datetime.timedelta(seconds=INIT_SECONDS))
        x = seeded(1 << 20, rank, rank)
        dist.all_reduce(x)
        expected = sum(seeded(1 << 20, r, "cpu") for r in range(world))
        assert torch.allclose(x.cpu(), expected, atol=1e-5), "all_reduce: not the sum"
        answers.put((rank, "all_reduce", bits(x)))
        parts = [torch.empty(1000, device=rank) for _ in range(world)]
        dist.all_gather(parts, seeded(1000, rank, rank))
        answers.put((rank, "all_gather", bits(*parts)))
        out = torch.empty(1000, device=rank)
        dist.reduce_scatter_tensor(out, seeded(1000 * world, rank, rank))
        answers.put((rank, "reduce_scatter", bits(out)))
        x = seeded(1000, 7 + rank, rank)
        dist.broadcast(x, 0)
        answers.put((rank, "broadcast", bits(x)))
        peer = (rank + 1) % world
        out = torch.empty(5000, device=rank)
        work = dist.batch_isend_irecv([dist.P2POp(dist.isend, seeded(5000, rank, rank), peer), dist.P2POp(dist.irecv, out, (rank - 1) % world)])
        for one in work:
            one.wait()
        answers.put((rank, "send_recv", bits(out)))
        out = torch.empty(1000 * world, device=rank)
        dist.all_to_all_single(out, seeded(1000 * world, rank, rank))
        answers.put((rank, "all_to_all", bits(out)))
        model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(16, 4).to(rank), device_ids=[rank])
        model(seeded(128, rank, rank).view(8, 16)).sum().backward()
        mine = model.module.weight.grad.clone()
        other = mine.clone()
        dist.broadcast(other, 0)
        assert torch.equal(mine, other), "gradients differ between ranks"
        answers.put((rank, "data_parallel", bits(mine)))
        dist.barrier()
        torch.cuda.synchronize()
        dist.destroy_process_group()
        answers.put((rank, None, ""))
    except BaseException as error:
        answers.put((rank, None, f"{type(error).__name__}: {str(error).splitlines()[0][:140] if str(error) else ''}"))
        raise


_answers = {}  # operation -> rank -> value, and None -> rank -> what went wrong


def run_ranks():
    if torch.cuda.device_count() < 2:
        raise Skip("fewer than two GPUs")
    if _answers:
        return
    _answers.update({name: {} for name in (*OPERATIONS, None)})
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = mp.get_context("spawn")
    answers = context.Queue()
    processes = [context.Process(target=rank_main, args=(rank, 2, port, answers), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    end = time.monotonic() + ALL_SECONDS
    try:
        while len(_answers[None]) < 2:
            dead = [r for r, process in enumerate(processes) if not process.is_alive() and r not in _answers[None]]
            try:
                rank, name, value = answers.get(timeout=1)
            except queue.Empty:  # what a process answered before its end is there already
                late = time.monotonic() > end
                if dead or late:
                    rank, value = (dead[0], f"ended with {processes[dead[0]].exitcode}") if dead else (0, f"not ready after {ALL_SECONDS} s")
                    _answers[None][rank] = value
                    break
                continue
            _answers[name][rank] = value
            if name is None and value:
                break  # the other rank would wait for this one
        else:
            for process in processes:
                process.join(20)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()


def from_ranks(name):
    def one():
        run_ranks()
        if len(_answers[name]) == 2:
            return " ".join(_answers[name][rank] for rank in range(2))
        # A rank that fails ends the run: one check tells of it, the later ones were not reached.
        first = next(operation for operation in OPERATIONS if len(_answers[operation]) < 2)
        if name != first:
            raise Skip(f"not reached: {first} failed")
        raise RuntimeError("; ".join(f"rank {rank}: {text}" for rank, text in sorted(_answers[None].items()) if text))

    one.__name__ = f"a_process_per_gpu_{name}"
    return check(one)


@check
def one_process_all_reduce():
    if torch.cuda.device_count() < 2:
        raise Skip("fewer than two GPUs")
    import torch.cuda.nccl as nccl

    tensors = [seeded(1 << 20, device, device) for device in range(2)]
    nccl.all_reduce(tensors)
    for device in range(2):
        torch.cuda.synchronize(device)
    expected = sum(seeded(1 << 20, device, "cpu") for device in range(2))
    assert all(torch.allclose(t.cpu(), expected, atol=1e-5) for t in tensors), "not the sum"
    return bits(*tensors)


@check
def one_process_all_gather_and_broadcast():
    if torch.cuda.device_count() < 2:
        raise Skip("fewer than two GPUs")
    import torch.cuda.nccl as nccl

    inputs = [seeded(1000, device, device) for device in range(2)]
    outputs = [torch.empty(2000, device=device) for device in range(2)]
    nccl.all_gather(inputs, outputs)
    nccl.broadcast(inputs, 0)
    return bits(*outputs, *inputs)


@check
def copies_between_gpus():
    if torch.cuda.device_count() < 2:
        raise Skip("fewer than two GPUs")
    x = seeded(1 << 22, 0, 0)
    y = x.to(1) * 2
    z = y.to(0)
    return f"{bits(z)} peer {torch.cuda.can_device_access_peer(0, 1)}"


for operation in OPERATIONS:
    from_ranks(operation)

if __name__ == "__main__":
    run("NCCL", ".".join(map(str, torch.cuda.nccl.version())))
