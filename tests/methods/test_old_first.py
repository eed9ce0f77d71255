"""Old classes first: trained from the command's parameters, what it measured is saved, and another rule is scored without training."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import QUICK_PARAMETERS

import wilson
from wilson.engine.checkpoint import read_carried
from wilson.run.opened import open_step

VALUES = {**QUICK_PARAMETERS, "task": "striped disc,plain disc|dotted square", "history_images": 0, "epochs": "1/2", "pseudo_epoch": 1}


@pytest.fixture
def step(root) -> Path:
    return wilson.train(**VALUES, method="old-first", lookalike_share=0.2).path


def test_the_pairs_that_a_step_measured_are_saved_and_turn_its_target(step):
    pairs = read_carried(step / "weights.safetensors")["rule.pairs"]
    assert pairs.shape == (4, 2, 2) and pairs.isfinite().all() and not read_carried(step / "weights.safetensors", "other")
    rule = open_step(step).rule
    assert torch.equal(rule.step_maps["pairs"], pairs) and rule["lookalike_share"] == 0.2
    run = wilson.load_run(step)
    image, labels = "data/few/JPEGImages/val_00000.jpg", [run.step.names[-1]]
    assert run.maps(image, labels=labels, exclusivity=0)["target"].shape == run.maps(image, labels=labels, first_class="new")["target"].shape
    table = run.what_if(first_class="new", split="val")
    assert len(table) == 4 and table.index.get_level_values("rule").unique().tolist() == ["as trained", "what if"]


def test_no_priority_is_wilson(root):
    "The same weights, to the bit: what the method measures beside must not touch them."
    ours = wilson.train(**VALUES, method="old-first", exclusivity=0, fit_new_rows=False, refit_epochs=0).path
    theirs = wilson.train(**VALUES, method="wilson").path
    a, b = (open_step(path, with_old=False).segmenter.state_dict() for path in (ours, theirs))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    changed = open_step(wilson.train(**VALUES, method="tme").path, with_old=False).segmenter.state_dict()
    assert any(not torch.equal(changed[name], b[name]) for name in b)
