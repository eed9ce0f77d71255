"""A small data set of one's own, `farm`, as a file tree that tests break."""
from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wilson.checks.verify import verify_dataset
from wilson.core.errors import InputError
from wilson.data.image_io import write_mask
from wilson.datasets.shapes import draw_scene

FARM = Path("data/farm")
DATASET_FILE = 'classes = ["cow", "horse", "sheep"]\n\n[tasks]\n2-1 = "cow, horse | sheep"\n'
SHOWN = [1], [2], [3], [1, 3], [2, 3]  # class ids of every fifth image
TRAIN = ("train", "--dataset", "farm", "--task", "2-1", "--preset", "shapes", "--epochs", "1", "--crop-size", "48",
         "--batch-size", "8", "--pseudo-epoch", "0", "--device", "cpu")
FIRST = "train00"  # shows a cow: step 0 trains on it


def make_farm(folder: Path, n_train: int = 25, n_val: int = 6, side: int = 64) -> Path:
    "A data set of one's own, ready to train on."
    for name in ("JPEGImages", "SegmentationClass", "splits"):
        (folder / name).mkdir(parents=True)
    for split, count in (("train", n_train), ("val", n_val)):
        for n in range(count):
            image, mask = draw_scene(np.random.default_rng([count, n]), side, SHOWN[n % 5])
            Image.fromarray(image).save(folder / f"JPEGImages/{split}{n:02}.jpg", quality=95)
            write_mask(folder / f"SegmentationClass/{split}{n:02}.png", mask)
        (folder / f"splits/{split}.txt").write_text("".join(f"{split}{n:02}\n" for n in range(count)), encoding="utf-8")
    (folder / "dataset.toml").write_text(DATASET_FILE, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("bad") / "root"
    make_farm(root / FARM)
    (root / "settings.ini").touch()
    return root


@pytest.fixture
def root(made, tmp_path, monkeypatch) -> Path:
    "A root folder of the test's own with the data set `farm`, and the working directory."
    shutil.copytree(made, tmp_path / "root")
    monkeypatch.chdir(tmp_path / "root")
    return tmp_path / "root"


def listed() -> str:
    "What verify lists, a line a finding, E or n (note) in front; or the sentence with which it refuses."
    try:
        report = verify_dataset("farm", progress=False)
    except InputError as e:
        return f"refused: {e}"
    return "\n".join(f"{'E' if f.error else 'n'} {f}" for f in report.findings)


def image(name: str = FIRST, suffix: str = ".jpg") -> Path:
    return FARM / f"JPEGImages/{name}{suffix}"


def mask(name: str = FIRST) -> Path:
    return FARM / f"SegmentationClass/{name}.png"
