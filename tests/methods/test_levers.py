"""Levers in whole trainings: several steps, every lever at once, resumed in a refit."""
from __future__ import annotations

import copy
from pathlib import Path

import pytest
import rank_jobs
import torch
from conftest import QUICK_PARAMETERS

import wilson
from wilson.data.batches import Batch
from wilson.engine.checkpoint import read_carried
from wilson.engine.launch import launch
from wilson.methods.levers import Levers
from wilson.models.segmenter import grow, make_segmenter
from wilson.run.opened import open_step

VALUES = {**QUICK_PARAMETERS, "task": "striped disc,plain disc|dotted square|plain cross", "history_images": 0, "epochs": "1/2", "pseudo_epoch": 0}
LEVERS = dict(frozen_norms=True, fusion=True, refit_epochs=1, loss_negatives=0.2, loss_relation=1, confidence_power=1, balance_classes=True,
              teacher_decay=0.9, estimate_old=True, threshold_by_area=True, loss_prototypes=0.1, fit_new_rows=True)


def test_every_lever_over_three_steps(root):
    "Each step starts from the one before; norms of the backbone are those of the base step, mixed by no fusion."
    run = wilson.train(**VALUES, method="old-first", **LEVERS)
    assert [step.step.index for step in run.steps] == [0, 1, 2] and all(run.metrics["across_steps"].values())
    states = [open_step(step.path, with_old=False).segmenter.state_dict() for step in run.steps]
    means = [[value for name, value in state.items() if name.startswith("backbone.") and name.endswith("running_mean")] for state in states]
    assert means[0] and all(torch.equal(a, b) for later in means[1:] for a, b in zip(means[0], later))
    assert any(not torch.equal(states[0][n], states[1][n]) for n in states[0] if n.startswith("head."))
    assert [read_carried(step.path / "weights.safetensors")["rule.pairs"].shape for step in run.steps[1:]] == [(4, 2, 2), (4, 3, 2)]
    prototypes = [read_carried(step.path / "weights.safetensors")["prototypes"] for step in run.steps[1:]]
    assert len(prototypes[0]) == 3 and len(prototypes[1]) == 4 and all(p.isfinite().all() and p[0, 0] > 0 for p in prototypes)
    assert "relation " in (Path(run.path) / "log.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("epoch", [2, 3])
def test_a_state_in_a_refit_goes_on_as_it_was(epoch):
    "A method that loads the state of another one gives the same losses, and does not fuse again."
    torch.manual_seed(0)
    batch = Batch(torch.randn(4, 3, 48, 48), None, torch.tensor([[0.0, 0, 1]] * 3 + [[0, 0, 0]]), list("abcd"))
    old = make_segmenter("shapes_net", (3,), output_stride=8, crop_size=48)
    grown = grow(old, 1)
    first, second = (Levers(copy.deepcopy(grown), old, pseudo_epoch=1, **LEVERS | {"refit_epochs": 2}) for _ in range(2))
    first.epochs = second.epochs = 4
    first.train()
    with torch.no_grad():
        first.segmenter.cls.groups[0].weight.add_(1)
    for e in (1, 2):
        sum(first(batch, e).values()).backward()
        first.after_update()
    assert first.fused == 1
    second.load_state_dict(first.state_dict())
    second.train()
    first.train()
    assert all(torch.equal(a, b) for a, b in zip(first(batch, epoch).values(), second(batch, epoch).values(), strict=True))
    assert torch.equal(first.segmenter.cls.groups[0].weight, second.segmenter.cls.groups[0].weight)


def test_two_ranks_are_one_process(root):
    "Sums over the step and class balances are those of the whole batch; prototypes are drawn by each rank and left out."
    values = {**VALUES, "task": "striped disc,plain disc|dotted square", "pseudo_epoch": 1, "batch_size": 9, "optimizer": "sgd", "lr": "0.02/0.01", "lr_policy": "poly",
              "class_prior": 0.5}  # at the start every class is claimed somewhere
    wilson.train(**{**values, "step": 0, "lr": "0.0001/0.01"})
    levers = {**LEVERS, "loss_prototypes": 0, "refit_epochs": 0}
    arguments = ({**values, **levers, "step": 1, "lr": "0.0001/0.01", "method": "old-first", "lookalike_share": 0.2}, 1, 2)
    (losses, state), (theirs, their_state) = rank_jobs.updated(*arguments), launch(rank_jobs.updated, arguments, 2, root / "logs", "cpu")
    assert losses[-1].keys() >= {"segmentation", "self", "negatives", "relation"} and state["pairs"].any() and state["pixels"].any()
    for ours, other in zip(losses, theirs, strict=True):
        assert ours == pytest.approx(other, rel=1e-5, abs=1e-7)
    for name in ("pairs", "counts", "pixels", "segmenter.cls.1.weight", "local.4.bias"):
        torch.testing.assert_close(state[name], their_state[name], rtol=1e-5, atol=1e-6)
