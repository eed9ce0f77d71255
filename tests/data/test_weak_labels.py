"A weak step needs image-level labels and nothing else: proved by taking the masks away."
from __future__ import annotations

import json
import shutil

import pytest
from conftest import QUICK_PARAMETERS

from wilson import testing
from wilson.analysis.results import result_figure, result_table
from wilson.data.classes import SHAPES
from wilson.data.image_labels import write_labels
from wilson.datasets.voc import open_folder
from wilson.experiments.train import run_training
from wilson.run.config import parse_config

BASE = QUICK_PARAMETERS | {"step": 0}


@pytest.mark.parametrize("kept", ["validation", "none"])
def test_weak_step_without_masks(root, kept):
    "Only the validation images keep their masks, or no image does; the file of labels is enough to train."
    data = open_folder("data/few", SHAPES)
    testing.tiny_run(BASE)

    ids, labels = list(data.train.ids), data.train.labels
    masks = root / "data/few/SegmentationClass"
    if kept == "none":
        shutil.rmtree(masks)
        ids, labels = ids + list(data.val.ids), [*labels, *data.val.labels]
    else:
        for mask in data.train.masks:
            mask.unlink()
    write_labels(root / "labels.csv", ids, labels, SHAPES)
    result, = run_training(parse_config(QUICK_PARAMETERS | {"step": 1, "image_labels": "labels.csv"}))

    assert json.loads((result.path / "status.json").read_text(encoding="utf-8"))["state"] == "finished"
    assert (result.path / "weights.safetensors").is_file()
    assert "pseudo_labels" not in result.metrics  # there is nothing to hold them against
    assert bool(result.metrics["scores"]) == (kept == "validation")
    assert str(result_table([result])).startswith("step")
    titles = [text.get_text() for text in result_figure(result.path, count=1).texts]
    assert ("truth" in titles) == (kept == "validation") and "soft label" in titles


def test_finetuning_without_masks_is_refused(root):
    "A method with pixel labels says that it needs masks."
    data = open_folder("data/few", SHAPES)
    testing.tiny_run(BASE)
    write_labels(root / "labels.csv", data.train.ids + data.val.ids, [*data.train.labels, *data.val.labels], SHAPES)
    shutil.rmtree(root / "data/few/SegmentationClass")
    with pytest.raises(ValueError, match="no masks"):
        run_training(parse_config(QUICK_PARAMETERS | {"step": 1, "method": "finetune", "pseudo_epoch": None, "image_labels": "labels.csv"}))
