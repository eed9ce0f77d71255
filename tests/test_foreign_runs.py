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


# ------------------------------------------------------------- paths in a foreign config.json


def test_looking_at_a_run_writes_nothing_outside_of_it(trained, tmp_path, capsys):
    from wilson.training.results import evaluate_step
    from wilson.training.step_images import StepImages, edits_file
    evil = tmp_path / "evil"
    shutil.copytree("data/few", evil / "data")
    for table in evil.rglob("image_labels-*.csv"):
        table.unlink()
    (evil / "x/cache").mkdir(parents=True)
    (evil / "x/cache/logits.sqlite").write_text("a text of mine", encoding="utf-8")
    record = json.loads((LATER / "config.json").read_text(encoding="utf-8"))
    change(LATER / "config.json", parameters=record["parameters"] | {
        "runs_dir": str(evil / "x"), "data_root": str(evil / "data"), "cache_gb": 1.0, "label_edits": str(evil / "e.csv"),
        "pretrained": str(evil / "p.pth"), "voc_root": str(evil / "voc")})
    (LATER / "label_edits.csv").write_text("id,add,remove,exclude,flag,note\n", encoding="utf-8")
    before = written(evil)
    images = StepImages(LATER, "cpu")
    images.logits("validation", 0)
    images.index("validation")
    evaluate_step(LATER, "cpu")
    assert written(evil) == before
    assert Path("runs/cache/logits.sqlite").is_file()
    assert [*Path("runs/image_labels").rglob("image_labels-val.csv")]
    assert edits_file(images.opened).is_relative_to(trained / "runs/label_edits")
    # who names the folder means it
    shutil.rmtree("runs/image_labels")
    evaluate_step(LATER, "cpu", evil / "data")
    assert written(evil).keys() - before.keys() == {str(evil / "data" / f"image_labels-{n}.csv") for n in ("train", "val")}


def test_label_edits_of_data_elsewhere_stay_with_the_runs(trained, tmp_path):
    from wilson.widgets.looking import Looking
    from wilson.widgets.noting import Noting
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree("data/few", elsewhere)
    noted = "id,add,remove,exclude,flag,note\nval_00000,,,,yes,before\n"
    (elsewhere / "label_edits.csv").write_text(noted, encoding="utf-8")
    record = json.loads((LATER / "config.json").read_text(encoding="utf-8"))
    change(LATER / "config.json", parameters=record["parameters"] | {"data_root": str(elsewhere)})
    before, looking = written(elsewhere), Looking(device="cpu")
    looking.begin()
    noting = Noting(looking)
    assert noting.edits()["val_00000"]["note"] == "before"
    noting.edit({"image": "val_00001", "edit": {"flag": True}})
    assert written(elsewhere) == before and noting.path.is_relative_to(trained / "runs")
    assert {i for i, e in noting.edits().items() if e["flag"]} == {"val_00000", "val_00001"}


def test_a_link_within_a_run_leads_nowhere(trained, tmp_path):
    from wilson.training.step_images import is_in_project
    (LATER / "data").symlink_to(tmp_path)
    (trained / "data/mine").symlink_to(tmp_path)
    runs = trained / "runs"
    assert not is_in_project(LATER / "data", runs) and not is_in_project(tmp_path, runs)
    assert not is_in_project("data/../../x", runs)
    assert is_in_project("data/mine", runs) and is_in_project("data/few", runs) and is_in_project(trained / "data", runs)


def test_a_moved_runs_folder_works_from_its_new_place(trained, tmp_path):
    from wilson.training.step_images import StepImages
    moved = tmp_path / "new place" / "runs"
    moved.parent.mkdir()
    Path("runs").rename(moved)
    images = StepImages(moved / LATER.relative_to("runs"), "cpu")
    images.logits("validation", 0)
    assert images.weak and (moved / "cache/logits.sqlite").is_file() and not Path("runs").exists()
    # a step on its own, its parent nowhere near
    alone = tmp_path / "alone"
    shutil.copytree(moved / LATER.relative_to("runs"), alone)
    with pytest.raises(InputError, match="where no trained step is"):
        open_step(alone)
    opened = open_step(alone, with_old=False)
    assert Path(opened.config.runs_dir).is_relative_to(alone)


@pytest.mark.parametrize("path", ["/etc", "../../../../../../..", "../step1", "\0", "x" * 5000, "", None, 3, ["a"]])
def test_a_parent_is_a_step_with_the_recorded_weights(path, trained):
    record = json.loads((LATER / "config.json").read_text(encoding="utf-8"))
    change(LATER / "config.json", parent=record["parent"] | {"path": path})
    with pytest.raises(InputError):
        open_step(LATER)


def test_a_parent_that_was_moved_is_found_beside_the_step(trained, tmp_path):
    record = json.loads((LATER / "config.json").read_text(encoding="utf-8"))
    elsewhere = "/somebody/else/runs" / BASE.relative_to("runs")
    change(LATER / "config.json", parent=record["parent"] | {"path": str(elsewhere)})
    assert open_step(LATER).old is not None
