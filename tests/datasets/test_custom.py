"""A data set of one's own whose masks paint only the old classes of some images: who may learn what from them."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import refused, run, says
from conftest import QUICK

from wilson.data.classes import SHAPES
from wilson.data.image_io import read_mask, write_mask
from wilson.data.image_labels import write_labels
from wilson.datasets.base import Location
from wilson.datasets.custom import find_dataset
from wilson.run.opened import open_step

FARM = Path("data/farm")
NEW = SHAPES.ids[SHAPES.names.index("dotted square")]
GIVEN = dict(zip(QUICK[::2], QUICK[1::2])) | {"--dataset": "farm", "--data-root": "data/farm", "--task": "1-1",
                                              "--preset": "shapes", "--batch-size": "4", "--epochs": "1/1"}


def train(**options: str) -> list[str]:
    "A tiny training of the farm."
    given = GIVEN | {f"--{name.replace('_', '-')}": value for name, value in options.items()}
    if options.get("method", "wilson") != "wilson":
        del given["--pseudo-epoch"]
    return ["train", *(part for pair in given.items() for part in pair)]


@pytest.fixture
def farm(root) -> Path:
    "Masks paint no dotted square; of the images that show one, every third has a mask and all have a line of labels."
    shutil.copytree("data/few", FARM)
    whole = find_dataset("shapes").open(Location(FARM))
    new = np.flatnonzero(whole.train.labels[:, NEW])
    assert len(new) > 12
    for n, k in enumerate(new):
        mask = read_mask(whole.train.masks[k])
        write_mask(whole.train.masks[k], np.where(mask == NEW, 0, mask).astype(np.uint8))
        if n % 3:
            whole.train.masks[k].unlink()
    write_labels(FARM / "labels.csv", [whole.train.ids[k] for k in new], whole.train.labels[new], SHAPES)
    (FARM / "dataset.toml").write_text(f"classes = {json.dumps(SHAPES.names)}\n[tasks]\n"
                                       '"1-1" = "striped disc | dotted square"\n', encoding="utf-8")
    return root


def painted(farm: Path, count: int) -> list[str]:
    "Paint the new class into so many of the masks that leave it out; the ids of these images."
    data, source = find_dataset("farm", FARM).open(Location(FARM)), Path("data/few/SegmentationClass")
    left_out = [i for i, m, row in zip(data.train.ids, data.train.masks, data.train.labels) if m and row[NEW]]
    for i in left_out[:count]:
        shutil.copy(source / f"{i}.png", FARM / f"SegmentationClass/{i}.png")
    return left_out[:count]


def test_a_weak_step_takes_every_line_and_is_not_judged_by_masks_that_cannot(farm, capsys):
    assert run(*train()) == 0
    said = capsys.readouterr().out
    data = find_dataset("farm", FARM).open(Location(FARM))
    assert f"step1: {data.train.labels[:, NEW].sum()} images, dotted square" in said
    assert "without a mask left out" in said  # of the base step
    metrics = json.loads(next(Path("runs").glob("farm-1-1*/wilson-s42/step1/metrics.json")).read_text(encoding="utf-8"))
    assert "pseudo_labels" not in metrics and metrics["scores"]


def test_pixel_labels_that_are_not_there_are_missed_before_anything_is_trained(farm, capsys):
    says(refused(capsys, *train(method="finetune")), "no masks that show dotted square", "step 1", "method=wilson")


def test_pixel_labels_come_from_the_masks_that_show_the_class(farm, capsys):
    ids = painted(farm, 5)
    assert run(*train(method="finetune")) == 0
    left_out = find_dataset("farm", FARM).open(Location(FARM)).train.labels[:, NEW].sum() - len(ids)
    assert f"step1: 5 images, dotted square; {left_out} without a mask left out" in capsys.readouterr().out


def test_label_maps_are_held_against_the_masks_that_show_the_class(farm, capsys):
    ids = painted(farm, 5)
    assert run(*train()) == 0
    step = next(Path("runs").glob("farm-1-1*/wilson-s42/step1"))
    assert run("pseudo-labels", step, "--out", "maps") == 0
    assert run(*train(method="external", pseudo_dir="maps")) == 0
    for name, kind in (("wilson-s42", "target"), ("external-s42", "given")):
        metrics = json.loads((step.parents[1] / name / "step1/metrics.json").read_text(encoding="utf-8"))
        assert metrics["pseudo_labels"][kind]["images"] == len(ids)


def test_another_meaning_of_the_task_is_another_run(farm, capsys):
    assert run(*train(step="0")) == 0
    file = FARM / "dataset.toml"
    file.write_text(file.read_text(encoding="utf-8").replace("striped disc | dotted square", "checkered cross | dotted square"), encoding="utf-8")
    says(refused(capsys, *train(step="0")), "another configuration", "groups")


def test_a_finished_step_knows_its_classes_without_the_data(farm):
    assert run(*train(step="0")) == 0
    FARM.rename("data/elsewhere")
    opened = open_step(next(Path("runs").glob("farm-1-1*/base-s42/step0")))
    assert opened.step.names == ("background", "striped disc") and opened.task.classes.dataset == "farm"
    assert run("predict", opened.folder.path, "data/elsewhere/JPEGImages/val_00000.jpg") == 0
    assert run("evaluate", opened.folder.path) == 2
    assert run("evaluate", opened.folder.path, "--data-root", "data/elsewhere") == 0


def test_verify_calls_it_in_order(farm, capsys):
    assert run("verify", "farm") == 0
    assert "which its mask does not show" in capsys.readouterr().out
    assert run("verify", "farm", "--overlap", "no", "--task", "1-1") == 0
    assert "disjoint" in capsys.readouterr().out
