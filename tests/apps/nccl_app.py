"""NCCL over two GPUs: one process with both, and a process for each."""

import os
import socket
import sys

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


def rank_main(rank, world, port, answers):
    try:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        torch.cuda.set_device(rank)
        dist.init_process_group("nccl", rank=rank, world_size=world)
        result = {}
        x = seeded(1 << 20, rank, rank)
        dist.all_reduce(x)
        expected = sum(seeded(1 << 20, r, "cpu") for r in range(world))
        assert torch.allclose(x.cpu(), expected, atol=1e-5), "all_reduce: not the sum"
        result["all_reduce"] = bits(x)
        parts = [torch.empty(1000, device=rank) for _ in range(world)]
        dist.all_gather(parts, seeded(1000, rank, rank))
        result["all_gather"] = bits(*parts)
        out = torch.empty(1000, device=rank)
        dist.reduce_scatter_tensor(out, seeded(1000 * world, rank, rank))
        result["reduce_scatter"] = bits(out)
        x = seeded(1000, 7 + rank, rank)
        dist.broadcast(x, 0)
        result["broadcast"] = bits(x)
        peer = (rank + 1) % world
        out = torch.empty(5000, device=rank)
        work = dist.batch_isend_irecv([dist.P2POp(dist.isend, seeded(5000, rank, rank), peer), dist.P2POp(dist.irecv, out, (rank - 1) % world)])
        for one in work:
            one.wait()
        result["send_recv"] = bits(out)
        out = torch.empty(1000 * world, device=rank)
        dist.all_to_all_single(out, seeded(1000 * world, rank, rank))
        result["all_to_all"] = bits(out)
        model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(16, 4).to(rank), device_ids=[rank])
        model(seeded(128, rank, rank).view(8, 16)).sum().backward()
        mine = model.module.weight.grad.clone()
        other = mine.clone()
        dist.broadcast(other, 0)
        assert torch.equal(mine, other), "gradients differ between ranks"
        result["data_parallel"] = bits(mine)
        dist.barrier()
        torch.cuda.synchronize()
        dist.destroy_process_group()
        answers.put((rank, result))
    except BaseException as error:
        answers.put((rank, f"{type(error).__name__}: {str(error).splitlines()[0][:140] if str(error) else ''}"))
        raise


_answers = {}


def both_ranks():
    if torch.cuda.device_count() < 2:
        raise Skip("fewer than two GPUs")
    if not _answers:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        context = mp.get_context("spawn")
        answers = context.Queue()
        processes = [context.Process(target=rank_main, args=(rank, 2, port, answers), daemon=True) for rank in range(2)]
        for process in processes:
            process.start()
        try:
            for _ in processes:
                rank, result = answers.get(timeout=150)
                _answers[rank] = result
                if isinstance(result, str):
                    break
            for process in processes:
                process.join(20)
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
    return _answers


def from_ranks(name):
    def one():
        for rank, result in sorted(both_ranks().items()):
            if isinstance(result, str):
                raise RuntimeError(f"rank {rank}: {result}")
        return " ".join(_answers[rank][name] for rank in range(2))

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


for operation in ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "send_recv", "all_to_all", "data_parallel"):
    from_ranks(operation)

if __name__ == "__main__":
    run("NCCL", ".".join(map(str, torch.cuda.nccl.version())))
