"""TensorBoard, CSV and wandb at once: the same curves and pictures, offline, also of a training that was interrupted and resumed."""
from __future__ import annotations

import shutil

import pytest
from conftest import QUICK_PARAMETERS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import wilson
from wilson.analysis.charts import read_curve
from wilson.core.errors import InputError
from wilson.loggers.csv_logger import read_curves
from wilson.run.config import parse_config

STOP = '''
import os
import wilson


class StopAfterEpoch(wilson.Callback):
    affects = "nothing"

    def after_save(self):
        if self.trainer.epoch == 1 and os.path.exists("stop"):
            raise KeyboardInterrupt


class Mine(wilson.Callback):
    "A logger of one's own."
    affects = "nothing"

    def log_scalars(self, group, values, step):
        with open("mine.txt", "a", encoding="utf-8") as f:
            f.writelines(f"{step} {group}/{name}\\n" for name, value in values.items() if value is not None)
'''


@pytest.fixture
def trained(root, monkeypatch):
    "The folder of a base step that was interrupted after its first epoch and resumed, with every logger."
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    (root / "mine.py").write_text(STOP, encoding="utf-8")
    given = QUICK_PARAMETERS | dict(epochs="2", step="0", logger="tensorboard, csv,wandb", callbacks="mine.py:StopAfterEpoch,mine.py:Mine")
    (root / "stop").touch()
    with pytest.raises(KeyboardInterrupt):
        wilson.train(**given)
    (root / "stop").unlink()
    return wilson.train(**given).path


def test_every_logger_has_the_same_curves_and_pictures(trained, root):
    wandb_files = pytest.importorskip("wandb_files", reason="needs wandb")
    events = EventAccumulator(str(trained), size_guidance={"scalars": 0, "images": 0}).Reload()
    board = {(e.step, tag): e.value for tag in events.Tags()["scalars"] for e in events.Scalars(tag)}
    table = read_curves(trained)
    assert len(table) == len({row[:2] for row in table}), "a value is there twice"
    assert {(epoch, name): pytest.approx(value, rel=1e-5) for epoch, name, value in table} == board
    assert {epoch for epoch, name in board if name == "loss/segmentation"} == {1, 2} and any(name == "miou/all" for _, name in board)
    files = sorted(trained.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2 and len({file.name for file in files}) == 1, "a resumed run is the same run of wandb"
    rows = [row for file in files for row in wandb_files.history(file)]
    logged = {(row["epoch"], name): value for row in rows for name, value in row.items() if "/" in name and isinstance(value, float | int)}
    assert {key: pytest.approx(value, rel=1e-5) for key, value in logged.items()} == board
    pictures = {(e.step, tag) for tag in events.Tags()["images"] for e in events.Images(tag)}
    assert {(row["epoch"], name) for row in rows for name, value in row.items() if isinstance(value, dict)} >= pictures != set()
    assert len([*trained.glob("pictures/*.png")]) == len(pictures)
    assert {tag.rpartition("_")[0] for _, tag in pictures} == {"image-prediction-truth/val"}, "panels from left to right, and the image"
    mine = (root / "mine.txt").read_text(encoding="utf-8").splitlines()
    assert {(int(line.partition(" ")[0]), line.partition(" ")[2]) for line in mine} == {*board}
    shutil.rmtree(trained / "wandb")
    for file in trained.glob("*tfevents*"):
        file.unlink()
    assert read_curve(trained, "miou/all") == {epoch: value for epoch, name, value in table if name == "miou/all"} != {}


def test_a_logger_that_is_not_known_is_refused_before_training():
    for wrong, message in (("csv,wanbd", "Did you mean 'wandb'"), ("mine.py:Mine", "Pass your own logger as a callback"), (",", "contains no logger")):
        with pytest.raises(InputError, match=message):
            parse_config(QUICK_PARAMETERS | {"logger": wrong})
