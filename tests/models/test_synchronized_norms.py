"""Norms synchronised over real processes against one process that has the whole batch.

All cases of a test run in the same processes: starting them is what takes time.
"""
from __future__ import annotations

import time
from itertools import product

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from conftest import THREADS, need
from torch.nn.parallel import DistributedDataParallel

from wilson.models.norms import inplace_available, make_abn
from wilson.models.segmenter import freeze, make_segmenter
from wilson.models.synchronized_norms import synchronize, local_norms

SHARES = [(3, 3), (3, 2, 1)]
TIME_LIMIT = 120
KINDS = ["plain", "inplace"] if inplace_available() else ["plain"]
CASES = list(product(KINDS, ["leaky_relu", "identity"], [torch.float32, torch.float64],
                     ["flat", "maps", "channels_last", "pooled", "far from zero"]))


def test_both_kinds_are_there():
    need(len(KINDS) == 2, "inplace_abn does not import, the tests below cover the plain layer alone")


# ------------------------------------------------------------------------------- processes


def ranks_run(work, folder, ranks: int, *arguments, backend="gloo") -> list:
    "What `work(rank, *arguments)` returns in each of `ranks` processes that form a group."
    rendezvous = folder / f"{work.__name__}{time.time_ns()}"
    context = mp.start_processes(in_group, (work, rendezvous, ranks, backend, arguments), ranks, join=False,
                                 start_method="spawn")
    end = time.monotonic() + TIME_LIMIT
    try:
        while not context.join(timeout=1):
            assert time.monotonic() < end, f"{work.__name__}: the ranks wait for each other"
    finally:
        for process in context.processes:
            process.kill()
    return [torch.load(f"{rendezvous}.{rank}", weights_only=False) for rank in range(ranks)]


def in_group(rank, work, rendezvous, ranks, backend, arguments):
    torch.set_num_threads(THREADS)
    dist.init_process_group(backend, init_method=f"file://{rendezvous}", rank=rank, world_size=ranks)
    torch.save(work(rank, *arguments), f"{rendezvous}.{rank}")
    dist.barrier()
    dist.destroy_process_group()


def relative(a, b):
    return float((a - b).abs().max() / b.abs().max())


# ------------------------------------------------------------------------------ single layers


def filled(norm):
    "`norm` with weights of both signs."
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(len(norm.weight), generator=draw))
        norm.bias.copy_(torch.randn(len(norm.bias), generator=draw))
    return norm


def batch_of(form, dtype, images=6):
    "Input of the layer and the gradient of its output."
    draw = torch.Generator().manual_seed(2)
    size = {"flat": (images, 16), "pooled": (images, 16, 1, 1)}.get(form, (images, 16, 9, 7))
    x, pull = torch.randn(2, *size, generator=draw, dtype=torch.float64)
    x = 3 * x + (500 if form == "far from zero" else 1)
    if form == "channels_last":
        x, pull = (t.contiguous(memory_format=torch.channels_last) for t in (x, pull))
    return x.to(dtype), pull.to(dtype)


def trained(norm, x, pull):
    "Results of one pass forward and backward, by name."
    x = x.clone().requires_grad_()
    y = norm(x * 1)    # a leaf cannot be overwritten in place
    (y * pull).sum().backward()
    return {"y": y.detach(), "dx": x.grad, "dw": norm.weight.grad, "db": norm.bias.grad,
            "mean": norm.running_mean, "var": norm.running_var, "seen": norm.num_batches_tracked}


def layer_of(case, device="cpu"):
    kind, activation, dtype, _ = case
    return filled(make_abn(16, activation, kind).to(device, dtype))


def layers(rank, shares, cases, device="cpu"):
    "Every case on this rank's share of the images."
    found = []
    for case in cases:
        x, pull = (t.split(shares)[rank].to(device) for t in batch_of(case[3], case[2]))
        found.append({n: t.cpu() for n, t in trained(synchronize(layer_of(case, device)), x, pull).items()})
    return found


def together(parts):
    "Of all ranks: batches joined, gradients of parameters summed, statistics as rank 0 has them."
    joined = {name: torch.cat([p[name] for p in parts]) for name in ("y", "dx")}
    summed = {name: sum(p[name] for p in parts) for name in ("dw", "db")}
    return joined | summed | {name: parts[0][name] for name in ("mean", "var", "seen")}


@pytest.mark.parametrize("shares", SHARES, ids=str)
def test_ranks_compute_what_one_process_does(shares, tmp_path):
    results, worst = ranks_run(layers, tmp_path, len(shares), shares, CASES), {}
    for case, *parts in zip(CASES, *results):
        for name in ("mean", "var", "seen"):
            assert all(part[name].equal(parts[0][name]) for part in parts), (case, name)
        whole, found = trained(layer_of(case), *batch_of(case[3], case[2])), together(parts)
        exact = trained(layer_of((*case[:2], torch.float64, case[3])), *batch_of(case[3], torch.float64))
        for name, expected in whole.items():
            error = relative(found[name].double(), exact[name].double())
            own = relative(expected.double(), exact[name].double())    # of the one process, by rounding
            bound = 1e-12 if case[2] == torch.float64 else 1e-6
            if case[3] == "far from zero":
                bound *= 500 / 3
            assert error < max(bound, 2 * own), (case, name, error, own)
            key = case[0], str(case[2])[6:], "far from zero" if case[3] == "far from zero" else ""
            worst[key] = max(worst.get(key, (0, 0)), (relative(found[name], expected), own))
    for key, (difference, own) in worst.items():
        print(shares, *key, f"worst difference {difference:.1e}; one process itself is off by {own:.1e}")


def differences(rank):
    "Input gradients of this rank beside central differences of the loss that all ranks share."
    x, pull = (t.split((3, 2, 1))[rank] for t in batch_of("maps", torch.float64))
    norms = [synchronize(layer_of((kind, "leaky_relu", torch.float64, "maps"))) for kind in KINDS]
    leaf, found = x.clone().requires_grad_(), []

    def loss(changed):
        total = (norm(changed.clone()).detach().square() * pull).sum()
        dist.all_reduce(total)
        return total

    for norm, owner, place in product(norms, range(3), [(0, 0, 0, 0), (0, 5, 4, 3), (-1, 11, 8, 6)]):
        leaf.grad = None
        (norm(leaf * 1).square() * pull).sum().backward()
        step = torch.zeros_like(x)
        if rank == owner:
            step[place] = 1e-4
        slope = (loss(x + step) - loss(x - step)) / 2e-4
        if rank == owner:
            found.append((leaf.grad[place], slope))
    return torch.tensor(found)


def test_gradient_is_the_slope_of_the_common_loss(tmp_path):
    for pairs in ranks_run(differences, tmp_path, 3):
        torch.testing.assert_close(pairs[:, 0], pairs[:, 1], rtol=1e-5, atol=1e-7)


def in_half_precision(rank, shares):
    "As under autocast: a bfloat16 input, parameters and statistics in float32."
    x, pull = (t.split(shares)[rank] for t in batch_of("maps", torch.bfloat16))
    return trained(synchronize(layer_of(("plain", "leaky_relu", torch.float32, "maps"))), x, pull)


def test_half_precision_keeps_statistics_in_float32(tmp_path):
    shares = (3, 2, 1)
    parts = ranks_run(in_half_precision, tmp_path, 3, shares)
    x, pull = batch_of("maps", torch.bfloat16)
    found, whole, exact = together(parts), *(
        trained(layer_of(("plain", "leaky_relu", dtype, "maps")), x.to(like), pull.to(like))
        for dtype, like in [(torch.float32, torch.bfloat16), (torch.float64, torch.float64)])
    assert found["y"].dtype == found["dx"].dtype == torch.bfloat16 and found["mean"].dtype == torch.float32
    for name in ("mean", "var"):
        assert relative(found[name], exact[name]) < 1e-6
    for name in ("y", "dx", "dw", "db"):
        errors = [relative(t[name].double(), exact[name]) for t in (found, whole)]
        assert errors[0] < max(1.1 * errors[1], 2 ** -8), (name, errors)


# ------------------------------------------------------------------------------ whole networks


def batch_of_images(images=4):
    draw = torch.Generator().manual_seed(3)
    return torch.randn(images, 3, 40, 40, generator=draw, dtype=torch.float64)


def small_segmenter(kind):
    "Of a kind of ABN, or of a backbone with its own batch norms."
    torch.manual_seed(0)
    backbone, stride, norm = ("shapes_net", 8, kind) if kind in KINDS else (kind, 16, "plain")
    return make_segmenter(backbone, [3, 2], stride, 96, 16, (1, 2, 3), norm).double()


def taught(segmenter, images, steps=3):
    "The weights after a few steps of SGD."
    optimiser = torch.optim.SGD(segmenter.parameters(), lr=0.05, momentum=0.9)
    for _ in range(steps):
        optimiser.zero_grad()
        out = segmenter(images)
        (out.logits.square().mean() + out.features.mean() + out.embedding.square().mean()).backward()
        optimiser.step()
    return {name.removeprefix("module."): t for name, t in segmenter.state_dict().items()}


def networks(rank, kinds):
    images = batch_of_images().chunk(2)[rank]
    return [taught(DistributedDataParallel(synchronize(small_segmenter(kind))), images) for kind in kinds]


def test_networks_learn_as_on_one_process(tmp_path):
    "The last two backbones have torch's batch norm and timm's, which activates."
    kinds = [*KINDS, "mobilenet_v2", "timm:mobilenetv3_small_050"]
    for kind, *states in zip(kinds, *ranks_run(networks, tmp_path, 2, kinds)):
        whole, worst = taught(small_segmenter(kind), batch_of_images()), 0.0
        for state in states:
            assert state.keys() == whole.keys()
            for name, t in whole.items():
                if t.abs().max() > 1e-8:    # a bias before another norm stays zero but for rounding
                    worst = max(worst, relative(state[name], t))
        print(f"{kind}, whole network: worst relative difference after 3 steps {worst:.1e}")
        assert worst < 1e-8, kind    # rounding, enlarged by many norms over few values


def alone(rank):
    "Rank 0 alone uses a frozen network, one in evaluation with gradients, and one out of its group."
    images = batch_of_images(2)
    for kind in KINDS if rank == 0 else []:
        freeze(synchronize(small_segmenter(kind)))(images)
        synchronize(small_segmenter(kind)).eval()(images).logits.sum().backward()
        probe = synchronize(small_segmenter(kind))
        with local_norms(probe):
            probe(images).logits.sum().backward()
    return True


def test_one_rank_may_work_alone(tmp_path):
    assert ranks_run(alone, tmp_path, 2) == [True, True]


def in_parts(rank):
    "Running mean after a step of ranks 0 and 2 together, and of 1 by itself."
    groups = [dist.new_group([0, 2]), dist.new_group([1])]
    norm = synchronize(make_abn(1, "identity", "plain"), groups[rank % 2])
    norm(torch.tensor([[10.0 * rank**2]] * 2))
    return norm.running_mean.item()


def test_groups_keep_to_themselves(tmp_path):
    assert ranks_run(in_parts, tmp_path, 3) == pytest.approx([2.0, 1.0, 2.0])


# --------------------------------------------------------------------------------------- GPUs


def on_gpu(rank, shares, cases, several):
    device = f"cuda:{rank if several else 0}"
    torch.cuda.set_device(device)
    return layers(rank, shares, cases, device)


@pytest.mark.gpu
def test_ranks_on_gpus(tmp_path):
    "By nccl where there are two; else two processes share one and talk by gloo."
    shares, several = (4, 2), torch.cuda.device_count() > 1
    cases = [case for case in CASES if case[3] != "far from zero"]
    results = ranks_run(on_gpu, tmp_path, 2, shares, cases, several, backend="nccl" if several else "gloo")
    for case, *parts in zip(cases, *results):
        whole, found = trained(layer_of(case), *batch_of(case[3], case[2])), together(parts)
        for name, expected in whole.items():
            bound = 1e-5 if case[2] == torch.float32 else 1e-10
            assert relative(found[name], expected) < bound, (case, name)
