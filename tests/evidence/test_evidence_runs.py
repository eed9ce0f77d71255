"""Evidence from outside: a run that uses it, its record, its marks in tables, its maps in the studio; wrong folders."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import QUICK, QUICK_PARAMETERS
from PIL import Image

import wilson
from wilson.analysis.comparison import find_variants
from wilson.analysis.run_list import run_list, run_text
from wilson.analysis.tables import FORMATS, score_table
from wilson.cli.command import main
from wilson.core.errors import InputError
from wilson.data.classes import SHAPES
from wilson.data.image_io import read_mask
from wilson.data.tasks import Task
from wilson.datasets.voc import open_folder

STEP = Task("shapes", QUICK_PARAMETERS["task"]).step(1)
NEW = STEP.new[0]


def write_evidence(folder: Path, every: int = 3) -> None:
    "The masks as a perfect model would see them: soft maps of the new class, regions; for some images neither."
    data = open_folder("data/few", SHAPES)
    folder.mkdir()
    for split in (data.train, data.val):
        for n, (image, path) in enumerate(zip(split.ids, split.masks)):
            mask = read_mask(path)
            if n % every:
                found = (mask == STEP.ids[-1]).astype(np.float16)[None, ::2, ::2]
                np.savez_compressed(folder / f"{image}.npz", maps=found, classes=[NEW])
                Image.fromarray(np.where(mask == 255, 0, mask + 1).astype(np.uint8)).save(folder / f"{image}.png")


@pytest.fixture
def root(tiny_run, tmp_path, monkeypatch) -> Path:
    "A copy of the root in which the base step and a step of `wilson` are trained, and the working directory."
    shutil.copytree(tiny_run, tmp_path / "root")
    monkeypatch.chdir(tmp_path / "root")
    return tmp_path / "root"


def test_a_run_with_evidence_is_recorded_and_marked(root, capsys):
    write_evidence(root / "evidence")
    run = wilson.train(**{**QUICK_PARAMETERS, "method": "wilson-evidence", "evidence_dir": "evidence"})
    said = capsys.readouterr().out
    record = json.loads((run.path / "config.json").read_text(encoding="utf-8"))
    evidence = record["evidence"]
    assert evidence["soft"] == evidence["regions"] > 0 < evidence["without"]
    assert evidence["soft"] + evidence["without"] == evidence["images"] == record["data"]["images"]
    assert f"evidence (evidence): of {evidence['images']} images {evidence['soft']} have soft maps" in said
    assert record["marks"] == ["outside evidence"] and record["identity"]["evidence"] == evidence["hash"]
    plain = next(root.glob("runs/*/wilson-s42/step1"))
    assert json.loads((plain / "config.json").read_text(encoding="utf-8"))["marks"] == []
    # the marks
    found, _ = find_variants()
    labels = [v.label for v in found]
    assert labels == ["wilson", "wilson-evidence (outside evidence)"]
    assert all("wilson-evidence (outside evidence)" in write(score_table(found)) for write in FORMATS.values())
    lines = [line for line in run_text(run_list()).splitlines() if "evidence" in line]
    assert len(lines) == 1 and "wilson-evidence-s42/step1 (outside evidence)" in lines[0]
    table = wilson.runs("*/step1")
    assert table.marks.tolist() == ["outside evidence" * name.split("/")[1].startswith("wilson-evidence") for name in table.index]
    results = (root / "runs/results.csv").read_text(encoding="utf-8").splitlines()
    column = results[0].split(",").index("marks")
    assert [line.split(",")[column] for line in results[1:] if "wilson-evidence" in line] == ["outside evidence"]
    assert not any(line.split(",")[column] for line in results[1:] if "wilson-evidence" not in line)
    # the maps: a perfect model's evidence finds more of the new class than the localizer
    images = run.images
    samples = images.lists["training"]
    position = next(n for n, i in enumerate(samples.split.ids) if (root / f"evidence/{i}.npz").is_file())
    maps = run.maps(samples.split.ids[position])
    one = images.logits("training", position)
    assert {*one.evidence} == {"evidence_soft", "evidence_regions"} and maps["target"].shape == one.truth.shape
    cams = [one.targets(run.images.rule.with_values(evidence_weight=w))["cam"][0, -1] for w in (0.0, 0.5, 1.0)]
    truth = torch.nn.functional.interpolate((one.truth == STEP.n_old)[None, None].float(), cams[0].shape, mode="area")[0, 0]
    errors = [(cam - truth).abs().mean().item() for cam in cams]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.05
    scores = run.what_if(split="train", evidence_weight=1.0)
    assert scores.loc[scores.index[-1]].notna().any()
    # the same files: finished; other files: another run
    again = wilson.train(**{**QUICK_PARAMETERS, "method": "wilson-evidence", "evidence_dir": "evidence"})
    assert again.path == run.path and "used as it is" in capsys.readouterr().out
    shutil.move(root / "evidence", root / "moved")
    assert run.maps(samples.split.ids[position])["target"].shape == one.truth.shape  # opened before
    assert wilson.load_run(run.path).maps("val_00003") is not None and "there is no folder evidence" in capsys.readouterr().out
    (root / "moved" / f"{samples.split.ids[position]}.npz").unlink()
    with pytest.raises(InputError, match="evidence"):
        wilson.train(**{**QUICK_PARAMETERS, "method": "wilson-evidence", "evidence_dir": "moved"})


def test_wrong_folders_are_sentences(root, capsys):
    command = ["train", *QUICK, "--method", "wilson-evidence"]
    assert main(command) == 2 and "needs evidence_dir=" in capsys.readouterr().err
    assert main([*command, "--evidence-dir", "nowhere"]) == 2
    assert "evidence_dir=nowhere has no file for any of the step's" in capsys.readouterr().err
    write_evidence(root / "evidence")
    split = open_folder("data/few", SHAPES).train
    shows = [image for image, path in zip(split.ids, split.masks) if (read_mask(path) == STEP.ids[-1]).any()]
    wrong = next(file for image in shows if (file := root / f"evidence/{image}.npz").is_file())
    np.savez_compressed(wrong, maps=np.ones((1, 4, 40)), classes=[NEW])
    assert main([*command, "--evidence-dir", "evidence"]) == 2
    assert wrong.name in capsys.readouterr().err
    assert main(["train", *QUICK, "--evidence-dir", "evidence"]) == 2  # of a method without it
    assert "wilson-evidence" in capsys.readouterr().err
