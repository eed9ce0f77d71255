"""Pseudo-labels leave as files of annotation tools; corrected, they come back and stand in place of pseudo-labels."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import refused, run, says
from conftest import QUICK

from wilson.data.batches import Batch
from wilson.data.classes import SHAPES
from wilson.data.image_io import read_mask, write_mask
from wilson.data.samples import NO_MASK, training_samples
from wilson.data.tasks import Task
from wilson.datasets.base import Location
from wilson.datasets.custom import find_dataset
from wilson.datasets.prepare import prepare_dataset
from wilson.experiments.start import corrected_split
from wilson.pseudo.targets import make_targets, with_masks

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
TASK = Task("shapes", "striped disc|dotted square")
NEW = SHAPES.ids[SHAPES.names.index("dotted square")]


def step1() -> Path:
    return next(Path("runs").glob("*/wilson-s42/step1"))


def data():
    return find_dataset("shapes", "data/few").open(Location("data/few"))


def test_a_mask_stands_in_place_of_the_pseudo_label():
    torch.manual_seed(0)
    masks = torch.full((3, 32, 32), NO_MASK)
    masks[0, :16], masks[0, 16:] = 2, 255
    masks[2, :16], masks[2, 16:] = 0, 1
    labels = torch.tensor([[0, 1], [0, 1], [0, 1]]).float()
    batch = Batch(torch.rand(3, 3, 32, 32), masks, labels, ["a", "b", "c"])
    assert batch.covered.flatten(1).all(1).tolist() == [True, False, True]
    made = make_targets(torch.randn(3, 3, 8, 8), torch.randn(3, 2, 8, 8), batch.images, labels)
    found = with_masks(made, masks, batch.covered)
    assert (found.target[1] == made.target[1]).all() and found.gate[1] == made.gate[1] and found.gate[0] == found.gate[2] == 1
    assert (found.target[0, :, :4].argmax(0) == 2).all() and found.target[0, :, :4].sum() == 32
    assert (found.target[0, :, 4:] == made.target[0, :, 4:]).all()  # void: as without the mask
    assert (found.target[2].argmax(0)[4:] == 1).all()
    # the localizer learns the classes that the labels name; class 1 is an old one
    assert (found.hard[0, :4] == 2).all() and (found.hard[0, 4:] == 255).all() and (found.hard[2] == 0).all()


@pytest.mark.parametrize("format", ["voc", "coco", "labelme"])
def test_round_trip(quick_root, format, capsys):
    samples = training_samples(data().train, TASK.step(1), None, reads_masks=False)
    ids = samples.split.ids[:3]
    assert run("pseudo-labels", step1(), "--out", "export", "--format", format, "--images", ",".join(ids), "--device", "cpu") == 0
    assert "--corrected-masks data/corrected" in capsys.readouterr().out
    done = prepare_dataset("corrected", "export", val_share=0.3, say=lambda line: None)
    assert done.data.classes.names == SHAPES.names and {p.stem for p in (done.root / "SegmentationClass").iterdir()} == {*ids}
    if format == "voc":
        for i in ids:  # corrected: the truth
            shutil.copy(f"data/few/SegmentationClass/{i}.png", f"export/SegmentationClass/{i}.png")
        prepare_dataset("corrected", "export", val_share=0.3, say=lambda line: None)
        for i in ids:
            assert (read_mask(done.root / f"SegmentationClass/{i}.png") == read_mask(Path(f"data/few/SegmentationClass/{i}.png"))).all()
    part = corrected_split(done.root, data(), TASK.step(1))
    assert [i for i, mask in zip(part.ids, part.masks) if mask] == [*ids] and len(part) == len(samples)


def test_a_step_trains_on_some_masks_and_labels(quick_root, capsys):
    ids = training_samples(data().train, TASK.step(1), None, reads_masks=False).split.ids[:4]
    farm = Path("data/corrected")
    (farm / "SegmentationClass").mkdir(parents=True)
    for i in ids:
        shutil.copy(f"data/few/SegmentationClass/{i}.png", farm / "SegmentationClass")
    (farm / "dataset.toml").write_text(f"classes = {json.dumps(SHAPES.names)}\n", encoding="utf-8")
    arguments = ("train", *QUICK, "--method", "wilson", "--step", "1", "--name", "mixed", "--corrected-masks", "data/corrected")
    assert run(*arguments) == 0
    plain, mixed = (json.loads((step1().parents[1] / f"{name}/step1/config.json").read_text(encoding="utf-8")) for name in ("wilson-s42", "mixed"))
    assert plain["data"]["images"] == mixed["data"]["images"] and "corrected_masks" in mixed["identity"]
    write_mask(farm / f"SegmentationClass/{ids[0]}.png", np.zeros_like(read_mask(farm / f"SegmentationClass/{ids[0]}.png")))
    says(refused(capsys, *arguments), "another configuration", "corrected_masks")


def test_masks_of_no_image_and_foreign_classes_are_named(quick_root, capsys):
    farm = Path("data/corrected")
    (farm / "SegmentationClass").mkdir(parents=True)
    write_mask(farm / "SegmentationClass/x.png", np.zeros((9, 9), np.uint8))
    (farm / "dataset.toml").write_text('classes = ["cow"]\n', encoding="utf-8")
    arguments = ("train", *QUICK, "--method", "wilson", "--step", "1", "--name", "mixed", "--corrected-masks", "data/corrected")
    says(refused(capsys, *arguments), "none of its 1 masks is of an image that step 1 trains on")
    shutil.copy(data().train.masks[0], farm / f"SegmentationClass/{training_samples(data().train, TASK.step(1), None, reads_masks=False).split.ids[0]}.png")
    says(refused(capsys, *arguments), "a class 'cow'", "shapes lacks")
    says(refused(capsys, "pseudo-labels", step1(), "--out", "x", "--format", "vocc"), "expected one of voc, coco, labelme")
    says(refused(capsys, "pseudo-labels", step1(), "--out", "x", "--format", "voc", "--images", "nothing"), "does not train on 'nothing'")
