"""`wilson predict` on folders and patterns, as COCO JSON: read by pycocotools and by the importer of annotations."""
from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import run
from PIL import Image

import wilson
from wilson.data.image_io import read_mask
from wilson.engine.checkpoint import save_weights
from wilson.formats.base import Problems
from wilson.formats.recognition import recognize
from wilson.formats.survey import survey
from wilson.run.opened import open_step

STEP = "runs/shapes-striped_disc__dotted_square-overlap/wilson-s42/step1"


@pytest.fixture(scope="module")
def place(tiny_run, tmp_path_factory) -> Path:
    "A step that predicts more than the background, and photographs in folders."
    root = tmp_path_factory.mktemp("predict") / "root"
    shutil.copytree(tiny_run, root)
    opened = open_step(root / STEP, with_old=False)
    torch.manual_seed(0)
    for group in opened.segmenter.cls.groups:
        torch.nn.init.normal_(group.weight)
    torch.nn.init.zeros_(opened.segmenter.cls.groups[0].weight[:1])  # of the background
    save_weights(root / STEP / "weights.safetensors", opened.segmenter, opened.localizer, opened.step)
    for number, name in enumerate(("photos/a.jpg", "photos/more/a.jpg", "photos/more/b.PNG")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with Image.open(root / f"data/few/JPEGImages/val_{number:05d}.jpg") as image:
            image.crop((0, 0, 96 - 7 * number, 80)).save(root / name)
    (root / "photos/notes.txt").touch()
    return root


def test_coco_json_of_folders_and_patterns(place, monkeypatch, capfd):
    coco = pytest.importorskip("pycocotools.coco", reason="needs pycocotools")
    monkeypatch.chdir(place)
    capfd.readouterr()
    assert run("predict", STEP, "photos/**/a.*", "photos/more/b.PNG", "--format", "coco", "--out", "found", "--device", "cpu", "--json") == 0
    printed = json.loads(capfd.readouterr().out)
    assert printed["predictions"] == "found/predictions.json" and printed["results"] == "found/results.json"
    assert [(i["image"], i["image_id"]) for i in printed["images"]] == [("photos/a.jpg", 1), ("photos/more/a.jpg", 2), ("photos/more/b.PNG", 3)]
    truth = coco.COCO("found/predictions.json")
    results = truth.loadRes("found/results.json")
    step = wilson.load_run(place / STEP).step
    assert {c["id"]: c["name"] for c in truth.dataset["categories"]} == dict(zip(step.ids, step.names[1:]))
    assert [i["file_name"] for i in truth.dataset["images"]] == ["a.jpg", "more/a.jpg", "more/b.PNG"]
    assert [(i["height"], i["width"]) for i in truth.dataset["images"]] == [(80, 96), (80, 89), (80, 82)]
    assert {*json.loads(Path("found/results.json").read_text(encoding="utf-8"))[0]} == {"image_id", "category_id", "segmentation", "score"}
    assert run("predict", STEP, "photos/more/b.PNG", "--out", "masks", "--device", "cpu") == 0
    mask, drawn = read_mask(Path("masks/b.png")), np.zeros((80, 82), np.uint8)
    for annotation in results.loadAnns(results.getAnnIds(3)):
        inside = results.annToMask(annotation) > 0
        drawn[inside] = annotation["category_id"]
        rows, columns = inside.any(1).nonzero()[0], inside.any(0).nonzero()[0]
        assert annotation["area"] == inside.sum() and 0 < annotation["score"] <= 1
        assert annotation["bbox"].tolist() == [columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1]
    assert mask.any() and (drawn == mask).all()


def test_the_importer_reads_predictions_beside_their_images(place, monkeypatch):
    pytest.importorskip("pycocotools", reason="needs pycocotools")
    monkeypatch.chdir(place)
    shutil.copytree("photos/more", "mine")
    assert run("predict", STEP, "mine", "--format", "coco", "--out", "mine", "--device", "cpu") == 0
    format, _ = recognize(found := survey(place / "mine"))
    export = format.convert(found, None)
    run_, names = wilson.load_run(place / STEP), {number: name for name, number in export.classes.items()}
    assert format.name == "coco" and {*export.classes} <= {*run_.step.names[1:]} and {*export.images} == {"a", "b"}
    for id, file in export.images.items():
        drawn, expected = export.draw(id, problems := Problems()), run_.predict(file)
        of_id = dict(zip(run_.step.ids, run_.step.names[1:]))
        assert not problems and expected.any()
        assert [names.get(n) for n in drawn.ravel().tolist()] == [of_id.get(n) for n in expected.ravel().tolist()]


def test_predict_refuses_before_it_segments(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    for arguments, message in ((["photos/*.tif"], "the pattern matches no image"), (["photos", "--format", "cocco"], "Did you mean 'coco'"),
                               (["photos", "photos/more/a.jpg"], "would be overwritten")):
        assert run("predict", STEP, *arguments, "--out", "never", "--device", "cpu") == 2
        assert message in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    assert run("predict", STEP, "photos", "--out", "never", "--format", "coco", "--device", "cpu") == 2
    assert "pip install 'wilson-wilss[coco]'" in capsys.readouterr().err and not Path("never").exists()
