"""A memory: some images of earlier steps, with their masks, that a later step trains on again."""
from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from commands import refused, run, says
from conftest import QUICK

import wilson
from wilson.data.samples import training_samples
from wilson.data.tasks import Task
from wilson.datasets.base import Location
from wilson.datasets.custom import find_dataset
from wilson.core.errors import InputError
from wilson.experiments.start import memory_split

TASK = Task("shapes", "striped disc|dotted square")


def data():
    return find_dataset("shapes", "data/few").open(Location("data/few"))


def test_a_memory_has_masks_of_old_classes_and_shows_no_new_one(quick_root):
    step = TASK.step(1)
    own = training_samples(data().train, step, None, reads_masks=False).split.ids
    part = memory_split(data(), step, 3, seed=1)
    memory = [i for i, mask in zip(part.ids, part.masks) if mask]
    assert len(memory) == 3 and {*part.ids} == {*own, *memory} and not {*own} & {*memory}
    labels = dict(zip(part.ids, part.labels))
    assert all(labels[i][list(step.groups[0])].any() and not labels[i][list(step.groups[1])].any() for i in memory)
    assert memory_split(data(), step, 3, seed=1).fingerprint == part.fingerprint
    everything = memory_split(data(), step, 9999, seed=1)
    shown = data().train.labels
    old_only = shown[:, list(step.groups[0])].any(1) & ~shown[:, list(step.groups[1])].any(1)
    assert sum(mask is not None for mask in everything.masks) == old_only.sum() > 3
    assert any(memory_split(data(), step, 3, seed=s).fingerprint != part.fingerprint for s in range(2, 5))
    samples = training_samples(part, step, None, corrected=True, negatives=True)
    masks = [samples[0, n].mask.numpy() for n, i in enumerate(samples.split.ids) if i in memory]
    assert len(samples) == len(part) and all({*np.unique(mask)} <= {0, 1, 255} for mask in masks)
    found = data()
    with pytest.raises(InputError, match="memory_images=3.*leave memory_images out"):
        memory_split(replace(found, train=replace(found.train, masks=None)), step, 3, seed=1)


def test_a_run_with_a_memory_is_marked(quick_root, capsys):
    arguments = ("train", *QUICK, "--method", "old-first", "--step", "1", "--memory-images", "3")
    assert run(*arguments, "--name", "remembers") == 0
    record = json.loads(next(quick_root.glob("runs/*/remembers/step1/config.json")).read_text(encoding="utf-8"))
    plain = json.loads(next(quick_root.glob("runs/*/wilson-s42/step1/config.json")).read_text(encoding="utf-8"))
    assert record["marks"] == ["memory"] and "memory" in record["identity"]
    assert record["data"]["images"] == plain["data"]["images"] + 3
    table = wilson.runs("*/step1")
    assert {n.split("/")[1]: m for n, m in table.marks.items()} == {"remembers": "memory", "wilson-s42": ""}
    capsys.readouterr()
    assert run("compare") == 0 and "(memory)" in capsys.readouterr().out
    says(refused(capsys, *arguments[:-1], "4", "--name", "remembers"), "another configuration", "memory_images")
    says(refused(capsys, *arguments, "--name", "both", "--corrected-masks", "data/few"), "memory_images=3", "corrected_masks")


def test_objects_of_the_memory_are_pasted(quick_root, capsys):
    arguments = ("train", *QUICK, "--method", "old-first", "--step", "1", "--memory-paste", "true")
    says(refused(capsys, *arguments, "--name", "nothing"), "memory_paste", "set memory_images")
    weights = []
    for name, more in (("pasted", ()), ("replayed", ("--memory-paste", "false"))):
        assert run(*arguments[:-2 if more else None], *more, "--memory-images", "40", "--name", name) == 0
        step, = quick_root.glob(f"runs/*/{name}/step1")
        assert json.loads((step / "config.json").read_text(encoding="utf-8"))["marks"] == ["memory"]
        weights.append((step / "weights.safetensors").read_bytes())
    assert weights[0] != weights[1]
