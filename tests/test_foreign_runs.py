"""Runs of others, moved runs and damaged ones: nothing of theirs is trusted, and one odd folder stops no list."""
from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import QUICK
from safetensors.torch import load_file, save_file

from wilson.__main__ import main
from wilson.data.tasks import Task
from wilson.places import InputError
from wilson.training.checkpoints import open_step, read_weights, save_weights
from wilson.training.runs import StepFolder, file_hash, is_of_weights, weights_hash

TASK = "shapes-striped_disc__dotted_square-overlap"
BASE, LATER = Path("runs", TASK, "base-s42", "step0"), Path("runs", TASK, "wilson-s42", "step1")


@pytest.fixture(scope="module")
def trained_root(small_root, tmp_path_factory):
    "A root where both steps are trained."
    root = tmp_path_factory.mktemp("trained") / "root"
    shutil.copytree(small_root, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert main(["train", *QUICK]) == 0
    return root


@pytest.fixture
def trained(trained_root, tmp_path, monkeypatch):
    "A copy of it, and the working directory."
    shutil.copytree(trained_root, tmp_path / "root")
    monkeypatch.chdir(tmp_path / "root")
    return tmp_path / "root"


def change(file: Path, **fields) -> None:
    "Write other fields into a JSON file."
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(content | fields), encoding="utf-8")


def written(under: Path) -> dict[str, tuple]:
    "Every file and folder with its size and time."
    return {str(p): (p.lstat().st_size, p.lstat().st_mtime_ns) if p.is_file() else () for p in under.rglob("*")}


# ------------------------------------------------------------------------- the same weights


def test_the_same_weights_are_the_same_file(tmp_path):
    network = torch.nn.Linear(3, 3)
    step = Task("voc", "cat,dog|cow").step(1)
    for n in range(40):
        save_weights(tmp_path / f"{n}.safetensors", network, None, step)
    assert len({file_hash(file) for file in tmp_path.iterdir()}) == 1
    assert read_weights(tmp_path / "0.safetensors")[1] == ("background", "cat", "dog", "cow")


def test_a_base_that_was_trained_again_to_the_same_weights_is_the_same_base(trained, capsys):
    before = weights_hash(BASE / "weights.safetensors")
    shutil.rmtree(BASE)
    assert main(["train", *QUICK, "--step", "0"]) == 0
    assert weights_hash(BASE / "weights.safetensors") == before
    # as an earlier version has written it, or another program
    save_file(load_file(BASE / "weights.safetensors"), BASE / "weights.safetensors",
              {"step": "0", "classes": "background|striped disc", "more": "x"})
    capsys.readouterr()
    assert main(["train", *QUICK]) == 0
    assert capsys.readouterr().out.count("used as it is") == 2
    assert open_step(LATER).old is not None


def test_hashes_of_earlier_versions_stay_true(trained, capsys):
    whole = file_hash(BASE / "weights.safetensors")
    record = json.loads((LATER / "config.json").read_text(encoding="utf-8"))
    assert record["parent"]["hash"] == weights_hash(BASE / "weights.safetensors") != whole
    change(LATER / "config.json", parent=record["parent"] | {"hash": whole},
           identity=record["identity"] | {"parent": whole})
    assert open_step(LATER).old is not None
    assert main(["train", *QUICK]) == 0
    assert "another configuration" not in capsys.readouterr().err
    tensors = load_file(BASE / "weights.safetensors")
    name = next(iter(tensors))
    tensors[name] = torch.nextafter(tensors[name], torch.tensor(9.0))
    save_file(tensors, BASE / "weights.safetensors", {"classes": "background|striped disc"})
    assert not is_of_weights(record["parent"]["hash"], BASE / "weights.safetensors")
    with pytest.raises(InputError, match="started from other weights"):
        open_step(LATER)
    assert main(["train", *QUICK]) == 2
    assert "parent is" in capsys.readouterr().err
