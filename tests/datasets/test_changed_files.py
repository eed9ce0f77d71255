"""Files that changed while their size and time stayed; and too many classes."""
from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import run
from farm import make_farm
from PIL import Image

from wilson.core.errors import InputError
from wilson.data.image_labels import cached_mask_labels, mask_fingerprint
from wilson.data.tasks import Task
from wilson.datasets.base import Location
from wilson.datasets.custom import find_dataset
from wilson.formats.dataset_file import DATASET_FILE, MOST_CLASSES, read_dataset_file
from wilson.datasets.parts import thumbnails
from wilson.evaluation.evaluate import LATER
from wilson.loading.cache import pack_name


def repaint(mask: Path, number: int) -> None:
    "Another class in a mask of the same size, with the file's times kept."
    before = mask.stat()
    content = mask.read_bytes()
    pixels = np.array(Image.open(mask))
    Image.fromarray(np.full_like(pixels, number)).save(mask)
    padding = max(0, len(content) - mask.stat().st_size)
    with open(mask, "ab") as f:
        f.write(b"\0" * padding)
    os.utime(mask, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def farm(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "settings.ini").touch()
    return make_farm(tmp_path / "data/farm", 5, 2, side=32)


def test_a_mask_repainted_with_its_time_kept(farm):
    data = find_dataset("farm", "data/farm").open(Location("data/farm"))
    mask = data.train.masks[0]
    before, size = mask.stat(), mask.stat().st_size
    fingerprint = data.fingerprint
    repaint(mask, 3)
    assert (mask.stat().st_size, mask.stat().st_mtime_ns) == (size, before.st_mtime_ns)
    again = find_dataset("farm", "data/farm").open(Location("data/farm"))
    assert np.flatnonzero(again.train.labels[0]).tolist() == [3] != np.flatnonzero(data.train.labels[0]).tolist()
    assert again.fingerprint != fingerprint


def test_a_mask_replaced_by_another_of_the_same_size_and_time(farm, tmp_path):
    mask = next((farm / "SegmentationClass").iterdir())
    before = mask.stat()
    other = tmp_path / "other.png"
    other.write_bytes(bytes(before.st_size))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    told, packed = mask_fingerprint([mask]), pack_name("masks", [mask])
    other.replace(mask)
    assert mask_fingerprint([mask]) != told and pack_name("masks", [mask]) != packed


def test_a_copy_of_the_data_is_the_same_data(farm, tmp_path):
    "Labels are read off the masks again there, and the identity of a run stays what it was."
    here = find_dataset("farm", "data/farm").open(Location("data/farm"))
    shutil.copytree(farm, tmp_path / "elsewhere/farm")
    there = find_dataset("farm", "elsewhere/farm").open(Location("elsewhere/farm"))
    assert there.fingerprint == here.fingerprint and np.array_equal(there.train.labels, here.train.labels)
    farm.rename(tmp_path / "moved")
    moved = replace(here.train, masks=tuple(tmp_path / "moved/SegmentationClass" / m.name for m in here.train.masks))
    assert mask_fingerprint(moved.masks) in (tmp_path / "moved/image_labels-train.csv").read_text(encoding="utf-8")
    assert cached_mask_labels(moved, tmp_path / "moved", tmp_path / "aside", here.classes)[1] == here.train.content


def test_an_older_image_in_its_place_gets_a_thumbnail(farm, tmp_path):
    image = sorted((farm / "JPEGImages").iterdir())[0]
    older = tmp_path / "older.jpg"
    Image.new("RGB", (32, 32), (255, 0, 0)).save(older, quality=95)
    os.utime(older, (10**9, 10**9))
    assert thumbnails([image], ["a"], tmp_path / "small") == 1 and thumbnails([image], ["a"], tmp_path / "small") == 0
    shutil.copy2(older, image)
    assert image.stat().st_mtime == 10**9 and thumbnails([image], ["a"], tmp_path / "small") == 1
    assert Image.open(tmp_path / "small/a.jpg").getpixel((5, 5))[0] > 240


@pytest.mark.parametrize("count", [MOST_CLASSES, MOST_CLASSES + 1, MOST_CLASSES + 2])
def test_the_number_of_classes(count, farm, capsys):
    "More than can be marked in a mask are refused by every command, before anything is trained."
    (farm / DATASET_FILE).write_text(f"classes = {[f'class {n}' for n in range(count)]}\n", encoding="utf-8")
    if count <= MOST_CLASSES:
        classes = read_dataset_file(farm / DATASET_FILE).classes
        step = Task(classes, "offline").step(0)
        assert step.n_classes < LATER and step.mask_table("evaluate", later=LATER).max() == 255
        return
    with pytest.raises(InputError, match=f"lists {count} classes; expected at most {MOST_CLASSES}"):
        read_dataset_file(farm / DATASET_FILE)
    for command in (["prepare", "farm"], ["verify", "farm"], ["train", "--dataset", "farm", "--task", "offline", "--device", "cpu"]):
        assert run(*command) == 2 and f"at most {MOST_CLASSES}" in capsys.readouterr().err
