"""What computes in bfloat16 and what never does, in an update of a weak step."""
from __future__ import annotations

import pytest
import torch
from torch import nn

from wilson.data.batches import Batch
from wilson.engine.updates import Updates
from wilson.methods import wilson as method_module
from wilson.methods.wilson import Wilson
from wilson.inference.folding import fold_norms
from wilson.models.segmenter import freeze, grow, make_segmenter
from wilson.pseudo import targets as targets_module


@pytest.fixture
def dtypes(monkeypatch):
    "The dtypes that a weak update in bfloat16 uses, by where."
    seen: dict[str, set[torch.dtype]] = {}

    def note(name, *tensors):
        seen.setdefault(name, set()).update(t.dtype for t in tensors if isinstance(t, torch.Tensor) and t.is_floating_point())

    torch.manual_seed(0)
    old = make_segmenter("shapes_net", (3,), 8, 32, norm="plain")
    method = Wilson(grow(old, 2), old, pseudo_epoch=0).train()
    fold_norms(freeze(old))
    for network in (method.segmenter, method.localizer, old):
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(lambda module, inputs, output: note("convolutions", output))
    make_targets, refine = method_module.make_targets, targets_module.refine

    def targets(*given):
        made = make_targets(*given)
        note("targets", made.target, made.gate)
        return made

    def refined(image, mask, *more, **options):
        result = refine(image, mask, *more, **options)
        note("PAMR", result)
        return result

    monkeypatch.setattr(method_module, "make_targets", targets)
    monkeypatch.setattr(targets_module, "refine", refined)
    losses = method.losses

    def terms(batch, epoch):
        found = losses(batch, epoch)
        note("losses", *found.values())
        return found

    monkeypatch.setattr(method, "losses", terms)
    optimizer = torch.optim.AdamW(method.parameter_groups(1e-3, 1.0), fused=True)
    updates = Updates(method, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0), 4, dtype=torch.bfloat16)
    labels = torch.zeros(4, 4)
    labels[:, -2:] = 1
    updates(iter([Batch(torch.randn(4, 3, 32, 32), None, labels, [""] * 4)]), 0)
    stats = updates.last()
    assert stats is not None and not stats.bad and {"segmentation", "classification"} <= stats.terms.keys()
    note("weights", *method.parameters())
    note("gradients", *(p.grad for p in method.parameters()))
    note("running statistics", *method.buffers())
    note("optimizer", *(t for state in optimizer.state.values() for t in state.values()))
    return seen


def test_networks_compute_in_bfloat16_and_nothing_else_does(dtypes):
    assert dtypes.pop("convolutions") == {torch.bfloat16}
    assert dtypes.keys() == {"targets", "PAMR", "losses", "weights", "gradients", "running statistics", "optimizer"}
    assert {name: kinds for name, kinds in dtypes.items() if kinds != {torch.float32}} == {}
