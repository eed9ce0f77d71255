"""Verifying a data set: every way to break one is named with its file and a remedy, all in one pass."""
from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wilson.checks.report import Report, check_dataset
from wilson.data.classes import SHAPES, VOC
from wilson.data.image_io import read_mask, write_mask
from wilson.data.splits import Split, SegmentationFolder
from wilson.data.tasks import Task
from wilson.datasets.shapes import make_shapes
from wilson.datasets.voc import open_folder

TASKS = {"15-5": Task("shapes", "15-5"), "10-1": Task("shapes", "10-1", overlap=False)}
EMPTY = 20  # the class that is taken from every training image


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("verify") / "shapes", n_train=160, n_val=40)


def turned(size: tuple[int, int], path: Path) -> None:
    "A JPEG that viewers turn by a quarter."
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", size, (90, 160, 70)).save(path, exif=exif)


def masked(path: Path, size: tuple[int, int], class_id: int) -> None:
    write_mask(path, np.full(size[::-1], class_id, np.uint8))


def labels_of(split: Split, position: int) -> list[int]:
    return np.flatnonzero(split.labels[position]).tolist()


def break_images(data: SegmentationFolder) -> None:
    "Of the training images 0 to 9."
    at = data.train.images
    at[0].write_bytes(at[0].read_bytes()[:-400])
    at[1].write_bytes(b"")
    at[2].write_bytes(b"<html>404 not found</html>")
    at[3].unlink()
    Image.fromarray(np.full((96, 96), 40_000, np.uint16)).save(at[4], format="PNG")
    at[5].write_bytes(b"\0\0\0\x18ftypheic" + bytes(32))
    for k, mode in ((6, "CMYK"), (7, "L")):
        with Image.open(at[k]) as image:
            changed = image.convert(mode)
        changed.save(at[k], format="JPEG")
    turned((96, 64), at[8])  # its mask is upright
    masked(data.train.masks[8], (64, 96), labels_of(data.train, 8)[0])
    turned((96, 64), at[9])  # its mask is as stored
    masked(data.train.masks[9], (96, 64), labels_of(data.train, 9)[0])


def break_masks(data: SegmentationFolder) -> None:
    "Of the training images 10 to 19."
    at = data.train.masks
    masks = {k: read_mask(at[k]) for k in range(10, 20)}
    Image.fromarray(masks[10].astype(np.uint16)).save(at[10])
    Image.fromarray(masks[11]).convert("RGB").save(at[11])
    Image.fromarray(np.minimum(masks[12], 1)).save(at[12], bits=4)
    Image.fromarray(masks[13]).save(at[13], format="JPEG")
    write_mask(at[14], masks[14][:, ::2])
    masks[15][:2, :5] = 77
    write_mask(at[15], masks[15])
    at[16].unlink()
    at[17].write_bytes(at[17].read_bytes()[:-40])
    at[18].write_bytes(b"")


def break_lists(data: SegmentationFolder) -> tuple[Split, Split]:
    "Places 20 and on; the splits with odd lists and labels."
    train, val = data.train, data.val
    labels, ids, masks = train.labels.copy(), list(train.ids), list(train.masks)
    labels[:, EMPTY] = False
    there = labels_of(train, 20)[0]
    labels[20, [there, there % 19 + 1]] = False, True
    labels[21] = False
    shutil.copy(train.images[22], train.images[23])  # twins in one list
    shutil.copy(train.images[24], val.images[0])     # twins on both sides
    ids[25] = ids[26].upper()
    masks[27] = None
    parts = replace(train, ids=tuple(ids), labels=labels, masks=tuple(masks))
    again = parts.at([*range(len(parts)), 28])       # an id twice
    both = [*range(len(val)), 0]                     # an image of train in val
    val = replace(val.at(both), ids=(*val.ids, ids[29]), images=(*val.images, train.images[29]),
                  masks=(*val.masks, train.masks[29]), labels=np.vstack([val.labels, train.labels[29:30]]))
    return again, val


@pytest.fixture(scope="module")
def broken(clean, tmp_path_factory) -> tuple[SegmentationFolder, Report]:
    "Everything broken, verified once."
    root = tmp_path_factory.mktemp("broken") / "shapes"
    shutil.copytree(clean, root)
    data = open_folder(root, SHAPES)
    break_images(data)
    break_masks(data)
    train, val = break_lists(data)
    return data, check_dataset({"train": train, "val": val}, SHAPES, TASKS, threads=2, progress=False)


def about(report: Report, where: object) -> str:
    "What the report says of a file or list, a line a finding."
    return "\n".join(f"{'E' if f.error else 'n'} {f}" for f in report.findings if f.where == str(where))


def test_clean_folder_is_ok(clean):
    data = open_folder(clean, SHAPES)
    report = check_dataset({"train": data.train, "val": data.val}, SHAPES, [Task("shapes", "offline")], 2, False)
    assert report.ok and not [f for f in report.findings if "class" not in f.kind], str(report)
    assert report.images == 200 and report.sizes == {"shapes-offline": (160,)}
    assert "no problem in 200 images" in str(report).splitlines()[-1]
    facts = {s.name: s for s in report.splits}
    assert facts["val"].masks == 40 and facts["val"].sizes == ((96, 96),) * 3
    assert facts["val"].pixels.sum() == 40 * 96 * 96
    assert np.array_equal(facts["train"].labels, data.train.labels)


@pytest.mark.parametrize("place, error, problem, remedy", [
    (0, "E", "broken JPEG", "replace the file"),
    (1, "E", "is empty (0 bytes)", "replace the file"),
    (2, "E", "not an image, it begins with b'<html>404", "replace the file"),
    (3, "E", "is missing", "restore it, or take the id out of the list"),
    (4, "n", "16 bits a channel", "upper 8"),
    (5, "E", "is a HEIC", "replace the file"),
    (6, "n", "is CMYK", "save it as RGB"),
    (7, "n", "is grey", "three channels alike"),
    (8, "n", "turned upright by EXIF orientation 6", "read upright"),
])
def test_image(place, error, problem, remedy, broken):
    data, report = broken
    said = about(report, data.train.images[place])
    line = next(x for x in said.splitlines() if problem in x)
    assert line.startswith(f"{error} ") and remedy in line, said


@pytest.mark.parametrize("place, problem, remedy", [
    (9, "96×64 like the stored pixels of train_00009.jpg, which EXIF orientation 6 turns to 64×96", "turn the mask"),
    (10, "mode I;16", "8-bit PNG"),
    (11, "mode RGB", "8-bit PNG"),
    (12, "grey PNG of 4 bits", "8-bit PNG"),
    (13, "is a JPEG", "8-bit PNG"),
    (14, "is 48×96 but train_00014.jpg is 96×96", "make the mask anew"),
    (15, "holds 77 (10 pixels), expected 0 to 20, 255", "0 (background) or 255 (void)"),
    (16, "is missing", "add the mask"),
    (17, "broken PNG", "replace the file"),
    (18, "is empty (0 bytes)", "replace the file"),
])
def test_mask(place, problem, remedy, broken):
    data, report = broken
    said = about(report, data.train.masks[place])
    assert said.startswith("E ") and said.count("\n") == 0, said
    assert problem in said and remedy in said, said


def test_upright_mask_of_a_turned_image_is_right(broken):
    data, report = broken
    assert about(report, data.train.masks[8]) == ""


def test_labels(broken):
    data, report = broken
    there = labels_of(data.train, 20)[0]
    said = about(report, data.train.images[20])
    assert f"is labelled {SHAPES.names[there % 19]}, which its mask does not show; correct the labels or" in said
    assert f"is not labelled {SHAPES.names[there - 1]}" in said and said.count("E ") == 2
    said = about(report, data.train.images[21])
    assert "n " in said and "has no class among its image-level labels; no step trains on it" in said


def test_twins_and_shared_images(broken):
    data, report = broken
    said = about(report, data.train.images[23])
    assert "same picture as train_00022.jpg of list train; take train_00023 or train_00022 out" in said
    assert [x for x in said.splitlines() if "same picture" in x][0].startswith("n ")
    said = about(report, data.val.images[0])
    assert "E " in said and "same picture as train_00024.jpg of list train; take val_00000 or train_00024 out" in said
    said = about(report, data.train.images[29])
    assert "E " in said and "is in list train, to train on, and in list val; take train_00029 out" in said


def test_lists(broken):
    data, report = broken
    said = about(report, "list train")
    assert "E list train names train_00028 2 times; leave one of them" in said
    assert "n list train has 1 of 161 images without a mask" in said
    assert "E list train has no image in step 1 of 15-5 for plain ring; add images" in said
    assert "E list train has no image in step 10 of 10-1 for plain ring" in said
    assert "differs from train_00026 by case alone; rename one" in about(report, "id TRAIN_00026")


def test_every_error_has_a_file_and_a_remedy(broken):
    _, report = broken
    assert not report.ok and all(f.where and f.problem and f.remedy and f.kind for f in report.findings)
    wrong = [f for f in report.findings if f.error]
    assert str(report).splitlines()[-1].startswith(f"{len(wrong)} problems in {len({f.where for f in wrong})} files")


def test_report_stops_at_twenty_of_a_kind(clean, tmp_path):
    shutil.copytree(clean, tmp_path / "shapes")
    data = open_folder(tmp_path / "shapes", SHAPES)
    for path in data.train.masks:
        path.unlink()
    report = check_dataset({"train": data.train, "val": data.val}, SHAPES, threads=2, progress=False)
    assert "Problem: mask that is missing (160)" in str(report) and "  … and 140 more" in str(report)
    assert str(report).count("is missing,") == 20 and report.text().count("is missing,") == 160
    assert "160 problems in 160 files" in str(report)


def test_nothing_that_a_disk_can_hold_stops_it(clean, tmp_path):
    "Folders and noise in place of files, and files that may not be read."
    shutil.copytree(clean, tmp_path / "shapes")
    data = open_folder(tmp_path / "shapes", SHAPES)
    noise = np.random.default_rng(0)
    for image, mask in zip(data.val.images[:30], data.val.masks[:30]):
        for path in (image, mask):
            content = bytearray(path.read_bytes())
            for place in noise.integers(2, len(content), 40):
                content[place] = noise.integers(256)
            path.write_bytes(content)
    for path in (data.val.images[30], data.val.masks[31]):
        path.unlink()
        path.mkdir()
    data.val.images[32].chmod(0)
    report = check_dataset({"val": data.val}, SHAPES, TASKS, threads=2, progress=False)
    assert "cannot be opened (Is a directory); replace" in about(report, data.val.images[30])
    assert "cannot be opened (Is a directory); replace" in about(report, data.val.masks[31])
    if os.geteuid():  # root may read everything
        assert "cannot be opened (Permission denied)" in about(report, data.val.images[32])
    assert not report.ok and report.images == 40 and report.sizes == {}


def test_numbers_of_the_files_are_honoured(clean):
    data = open_folder(clean, SHAPES)
    values = tuple(n + 100 if n in SHAPES.ids else 255 if n == 255 else 0 if n == 0 else 254 for n in range(256))
    moved = replace(SHAPES, ids=tuple(i + 100 for i in SHAPES.ids))
    split = replace(data.val, labels=np.roll(data.val.labels, 100, axis=1), values=values)
    assert check_dataset({"val": split}, moved, threads=2, progress=False).ok
    assert not check_dataset({"val": split}, SHAPES, threads=2, progress=False).ok


def test_published_lists(shared):
    "The real lists are the published ones; with them all 18 tasks have the published sizes."
    splits = {}
    for name, listed in (("train", "train_aug"), ("val", "val")):
        ids = tuple((shared / f"voc_meta/{listed}.txt").read_text(encoding="utf-8").split())
        labels = np.zeros((len(ids), 256), bool)
        labels[:, VOC.ids] = np.load(shared / "voc_meta/image_labels.npz")[listed]
        splits[name] = Split(listed, ids, tuple(shared / f"nowhere/{i}.jpg" for i in ids), labels)
    report = check_dataset(splits, VOC, [Task("voc", "15-5", overlap=False)], threads=2, progress=False)
    assert report.facts == ("list train_aug is the published train_aug", "list val is the published val",
                            "steps of 18 published tasks have the published sizes")
    assert report.sizes == {"voc-15-5-disjoint": (8437, 2145)}
    part = {name: split.at(range(1000)) for name, split in splits.items()}
    report = check_dataset(part, VOC, threads=2, progress=False)
    assert report.facts == () and "n list train_aug has 1,000 of 10,582 images: a part of" in about(
        report, "list train_aug")


def test_real_images(shared, tmp_path):
    "Nothing is wrong with real images."
    data = open_folder(shared / "voc_animals", VOC, train_list="train_small", val_list="val_small",
                       labels_dir=tmp_path)
    report = check_dataset({"train": data.train.at(range(0, 1700, 10)), "val": data.val.at(range(0, 300, 10))}, VOC,
                    threads=2, progress=False)
    assert report.ok and report.images == 200, str(report)
