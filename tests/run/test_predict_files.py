"""`wilson predict` over files and folders: tiles, a torn file in a long list, Ctrl-C, and nothing half-written."""
from __future__ import annotations

import shutil
import threading

import numpy as np
import pytest
import torch
from PIL import Image

import wilson
from wilson.analysis import results
from wilson.cli.command import main
from wilson.core.errors import InputError


@pytest.fixture(scope="module")
def root(tiny_run, tmp_path_factory):
    "A root with the tiny run and a folder of photographs of several sizes."
    root = tmp_path_factory.mktemp("predict") / "root"
    shutil.copytree(tiny_run, root)
    rng = np.random.default_rng(0)
    (root / "photos").mkdir()
    for n in range(12):
        pixels = rng.integers(0, 256, (60 + 8 * (n % 3), 80, 3), np.uint8)
        Image.fromarray(pixels).resize((160, 120)).save(root / f"photos/{n:02d}.{'png' if n % 2 else 'jpg'}")
    (root / "photos/notes.txt").write_text("no image", encoding="utf-8")
    return root


@pytest.fixture
def step(root, monkeypatch):
    "The folder of the later step; the working directory is the root."
    monkeypatch.chdir(root)
    return sorted(root.glob("runs/*/wilson-s42/step1"))[-1]


def test_a_folder_gives_what_single_images_give(step, capsys):
    assert main(["predict", str(step), "photos", "--out", "masks", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0].rpartition("/")[2] for line in lines] == [f"{n:02d}.png" for n in range(12)]  # in order
    run = wilson.load_run(step, device="cpu")
    for n in (0, 5, 11):
        path = next(step.parents[3].glob(f"photos/{n:02d}.*"))
        with Image.open(step.parents[3] / f"masks/{n:02d}.png") as mask:
            assert np.array_equal(np.array(mask), run.predict(path))
    found = run.predict_files(["photos/00.jpg"], "again")
    assert [p.mask.name for p in found] == ["00.png"] and found[0].overlay.is_file()


def test_tiles_give_what_whole_images_give(step):
    image = torch.randint(0, 256, (3, 500, 420), dtype=torch.uint8)
    run = wilson.load_run(step, device="cpu")
    whole, tiled = run.predict(image, tile=0), run.predict(image, tile=64)
    assert whole.shape == tiled.shape == (500, 420)
    assert (whole != tiled).mean() < 1e-3  # where two classes tie
    with pytest.raises(InputError, match="tile=-5"):
        run.predict(image, tile=-5)


def test_no_image_in_a_folder_and_no_file(step, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="contains no image"):
        results.predict(step, [tmp_path / "empty"], "never")
    with pytest.raises(InputError, match="no such file"):
        results.predict(step, [tmp_path / "gone.jpg"], "never")
    assert not (step.parents[3] / "never").exists()


def whole_masks(folder) -> list[str]:
    "Names of the files in a folder; each must be a whole image."
    names = sorted(p.name for p in folder.iterdir() if not p.name.startswith(".") and p.suffix == ".png")
    for name in names:
        with Image.open(folder / name) as image:
            image.load()
    return names


def test_a_torn_file_of_a_long_list_is_named_after_the_masks_before_it(step, monkeypatch, tmp_path):
    monkeypatch.setattr(results, "DECODED_FIRST", 2)
    shutil.copytree("photos", tmp_path / "photos")
    good = (tmp_path / "photos/06.jpg").read_bytes()
    (tmp_path / "photos/06.jpg").write_bytes(good[: len(good) // 3])  # its header is there
    with pytest.raises(InputError, match="06.jpg"):
        results.predict(step, [tmp_path / "photos"], tmp_path / "masks", "cpu")
    assert whole_masks(tmp_path / "masks") == sorted(f"{n:02d}{end}.png" for n in range(6) for end in ("", "-overlay"))


def test_ctrl_c_leaves_whole_files_and_no_thread(step, monkeypatch, tmp_path):
    labels, seen = results.TiledSegmenter.labels, []

    def interrupted(self, picture):
        seen.append(picture)
        if len(seen) == 5:
            raise KeyboardInterrupt
        return labels(self, picture)

    monkeypatch.setattr(results.TiledSegmenter, "labels", interrupted)
    with pytest.raises(KeyboardInterrupt):
        results.predict(step, ["photos"], tmp_path / "masks", "cpu")
    names = whole_masks(tmp_path / "masks")
    assert len(names) <= 8 and all(int(name[:2]) < 4 for name in names)
    assert not [p for p in (tmp_path / "masks").iterdir() if p.suffix not in (".png", ".json") and not p.name.startswith(".")]
    assert not any(t.name.startswith(("load", "write")) for t in threading.enumerate())
