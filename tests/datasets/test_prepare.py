"""From archives, folders elsewhere or one's own images to a data set that trains: killed, full, hostile, offline."""
from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
import traceback
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import files, refused, run, says
from conftest import environment, need
from download_server import Server
from PIL import Image
from safetensors.torch import load_file

from wilson.core.errors import InputError
from wilson.data.classes import COCO
from wilson.data.image_io import read_mask, write_mask
from wilson.datasets import coco as coco_data, custom as own_data, voc as voc_data
from wilson.formats.coco_annotations import draw_mask, read_annotations
from wilson.datasets.download import Archive
from wilson.datasets.prepare import prepare_dataset
from wilson.datasets.shapes import draw_scene
from wilson.engine.step_folder import StepFolder

# pycocotools is older than numpy's present rules
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

quietly = partial(prepare_dataset, say=lambda line: None)


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    "Where data sets go: data/ of a root folder that is also the working directory."
    (tmp_path / "root/data").mkdir(parents=True)
    (tmp_path / "root/settings.ini").touch()
    monkeypatch.chdir(tmp_path / "root")
    return tmp_path / "root/data"


def said(work, *words: str) -> str:
    "The sentence of the InputError that `work` ends with."
    with pytest.raises(InputError) as e:
        work()
    says(str(e.value), *words)
    return str(e.value)


TIMES = re.compile(rb"fingerprint \w{16}, ")  # of the masks that labels were made from


def tree(folder: Path) -> dict[str, str | bytes]:
    "What a folder holds, hidden files and times aside: the content of a file, the target of a link."
    return {str(p.relative_to(folder)): os.readlink(p) if p.is_symlink() else TIMES.sub(b"", p.read_bytes())
            for p in sorted(folder.rglob("*")) if (p.is_symlink() or p.is_file()) and not hidden(p, folder)}


def hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


# ------------------------------------------------------------------------- archives


def jpeg(seed: int, classes: list[int], side: int = 48) -> bytes:
    Image.fromarray(draw_scene(np.random.default_rng(seed), side, classes)[0]).save(out := io.BytesIO(), "JPEG")
    return out.getvalue()


def png(seed: int, classes: list[int], side: int = 48) -> bytes:
    write_mask(out := io.BytesIO(), draw_scene(np.random.default_rng(seed), side, classes)[1])
    return out.getvalue()


def tar(path: Path, content: dict[str, bytes], *members: tarfile.TarInfo, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as t:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
        for member in members:
            t.addfile(member)
    return path


def zipped(path: Path, content: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as z:
        for name, data in content.items():
            z.writestr(name, data)
    return path


def archive(path: Path, *mirrors: str) -> Archive:
    "What `path` is published as."
    return Archive(path.name, mirrors or ("http://127.0.0.1:9/nobody",), path.stat().st_size,
                   f"md5:{hashlib.md5(path.read_bytes()).hexdigest()}")


ARCHIVES = {"VOCtrainval_11-May-2012.tar": "VOC_TRAINVAL", "SegmentationClassAug.zip": "VOC_AUG_MASKS",
            "benchmark.tgz": "SBD", "train2017.zip": "COCO_TRAIN", "val2017.zip": "COCO_VAL",
            "annotations_trainval2017.zip": "COCO_ANNOTATIONS",
            "stuffthingmaps_trainval2017.zip": "COCO_STUFFTHINGMAPS"}


def published(patch: pytest.MonkeyPatch, folder: Path, url: str = "http://127.0.0.1:9") -> None:
    "The archives of `folder` are the published ones; the others cannot be had."
    for name, constant in ARCHIVES.items():
        known = archive(folder / name, f"{url}/{name}") if (folder / name).is_file() else (
            Archive(name, (f"{url}/{name}",), 10, "md5:0"))
        patch.setattr(voc_data if hasattr(voc_data, constant) else coco_data, constant, known)


IDS = {name: [f"2007_{n:06}" for n in numbers] for name, numbers in {
    "train": range(1, 5), "val": range(5, 8), "extra": range(8, 14)}.items()}  # extra: SBD's alone
EVERY = sum(IDS.values(), [])
VOC = {  # the layout of the published tar
    **{f"VOCdevkit/VOC2012/JPEGImages/{i}.jpg": jpeg(n, [n % 20 + 1]) for n, i in enumerate(EVERY)},
    **{f"VOCdevkit/VOC2012/SegmentationClass/{i}.png": png(n, [n % 20 + 1])
       for n, i in enumerate(IDS["train"] + IDS["val"])},
    **{f"VOCdevkit/VOC2012/SegmentationObject/{i}.png": b"not wanted" for i in IDS["train"]},
    **{f"VOCdevkit/VOC2012/Annotations/{i}.xml": b"not wanted" for i in EVERY},
    "VOCdevkit/VOC2012/ImageSets/Main/cow_train.txt": b"not wanted",
    **{f"VOCdevkit/VOC2012/ImageSets/Segmentation/{name}.txt": "".join(f"{i}\n" for i in IDS[name]).encode()
       for name in ("train", "val")}}
AUG = {f"SegmentationClassAug/{i}.png": png(n, [n % 20 + 1]) for n, i in enumerate(EVERY)}


@pytest.fixture(scope="module")
def voc_archives(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("voc")
    tar(folder / "VOCtrainval_11-May-2012.tar", VOC)
    zipped(folder / "SegmentationClassAug.zip", AUG)
    return folder


BOX = [[2, 2, 12, 2, 12, 12, 2, 12]]
COCO_SHOWN = {7: 18, 8: 15, 9: 1}  # image → category


@pytest.fixture(scope="module")
def coco_archives(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("coco")
    names = [f"{i:012d}" for i in COCO_SHOWN]
    instances = json.dumps({
        "images": [{"id": i, "file_name": f"{i:012d}.jpg", "height": 48, "width": 48} for i in COCO_SHOWN],
        "categories": [{"id": i, "name": n} for i, n in zip(COCO.ids, COCO.names)],
        "annotations": [{"id": i, "image_id": i, "category_id": c, "iscrowd": 0, "segmentation": BOX}
                        for i, c in COCO_SHOWN.items()]}).encode()
    stuff = np.full((48, 48), 150, np.uint8)
    stuff[:9] = 17  # a dog
    write_mask(out := io.BytesIO(), stuff)
    for part in ("train2017", "val2017"):
        zipped(folder / f"{part}.zip", {f"{part}/{name}.jpg": jpeg(n, [1]) for n, name in enumerate(names)})
    zipped(folder / "annotations_trainval2017.zip", {
        "annotations/captions_val2017.json": b"not wanted",
        **{f"annotations/instances_{part}.json": instances for part in ("train2017", "val2017")}})
    zipped(folder / "stuffthingmaps_trainval2017.zip", {
        f"{part}/{name}.png": out.getvalue() for part in ("train2017", "val2017") for name in names})
    return folder


@pytest.fixture
def served(monkeypatch):
    "Serves a folder on localhost: the address."
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    servers = []

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    def serve(folder: Path) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def is_voc(root: Path) -> None:
    "Everything that training reads is there, and nothing else of the archives."
    expected = {name.removeprefix("VOCdevkit/VOC2012/"): data for name, data in (VOC | AUG).items()
                if data != b"not wanted"}
    found = tree(root)
    assert {name: found.get(name) for name in expected} == expected
    assert found["splits/train_aug.txt"].decode().split() == IDS["train"] + IDS["extra"]
    assert {name.partition("/")[0] for name in found} <= {
        "JPEGImages", "SegmentationClass", "SegmentationClassAug", "ImageSets", "splits", "thumbnails", "archives",
        "prepared.json", "image_labels-train_aug.csv", "image_labels-val.csv"}


def test_voc_from_archives_in_a_folder(voc_archives, root, monkeypatch):
    "Nothing is fetched or copied, and nothing is written there."
    published(monkeypatch, voc_archives)
    before = files(voc_archives)
    made = quietly("voc", voc_archives)
    is_voc(root / "voc")
    assert len(made.data.train) == 10 and len(made.data.val) == 3 and made.root == root / "voc"
    assert not (root / "voc/archives").exists() and files(voc_archives) == before
    assert len(list((root / "voc/thumbnails").glob("*.jpg"))) == 13
    assert json.loads((root / "voc/prepared.json").read_text(encoding="utf-8"))["images"] == {"train_aug": 10, "val": 3}


def test_voc_fetched(voc_archives, root, served, monkeypatch):
    published(monkeypatch, voc_archives, served(voc_archives))
    quietly("voc")
    is_voc(root / "voc")
    assert {p.name for p in (root / "voc/archives").iterdir()} == {p.name for p in voc_archives.iterdir()}


def test_voc_from_a_folder_of_the_usual_layout(voc_archives, root, tmp_path, monkeypatch):
    "Parts that are unpacked already are linked; the other comes from its archive."
    published(monkeypatch, voc_archives)
    with tarfile.open(voc_archives / "VOCtrainval_11-May-2012.tar") as t:
        t.extractall(tmp_path / "there", filter="data")
    shutil.copy(voc_archives / "SegmentationClassAug.zip", tmp_path / "there")
    before = files(tmp_path / "there")
    made = quietly("voc", tmp_path / "there")
    assert (root / "voc/JPEGImages").readlink() == tmp_path / "there/VOCdevkit/VOC2012/JPEGImages"
    assert (root / "voc/SegmentationClassAug").is_dir() and not (root / "voc/SegmentationClassAug").is_symlink()
    assert len(made.data.train) == 10 and files(tmp_path / "there") == before


def matlab(path: Path, mask: np.ndarray) -> None:
    from scipy.io import savemat
    fields = [("Segmentation", "O"), ("Boundaries", "O"), ("CategoriesPresent", "O")]
    struct = np.zeros((1, 1), fields)
    struct["Segmentation"][0, 0], struct["CategoriesPresent"][0, 0] = mask, np.unique(mask[mask > 0])
    savemat(path, {"GTcls": struct}, do_compression=True)


@pytest.fixture
def sbd(voc_archives, tmp_path, monkeypatch) -> Path:
    "VOC's archive and SBD's; SBD has VOC's training images too, with masks of its own."
    need(find_spec("scipy"), "needs scipy, which makes and reads MATLAB files")
    folder, content = tmp_path / "sbd", {}
    folder.mkdir()
    shutil.copy(voc_archives / "VOCtrainval_11-May-2012.tar", folder)
    for n, i in enumerate(IDS["train"] + IDS["extra"]):
        matlab(tmp_path / "one.mat", np.full((48, 48), n + 1, np.uint8))
        content[f"benchmark_RELEASE/dataset/cls/{i}.mat"] = (tmp_path / "one.mat").read_bytes()
        content[f"benchmark_RELEASE/dataset/img/{i}.jpg"] = b"not wanted"
    tar(folder / "benchmark.tgz", content, mode="w:gz")
    published(monkeypatch, folder)
    return folder


def test_masks_of_sbd(sbd, root):
    "VOC's own mask where there is one, else SBD's."
    made = quietly("voc", sbd, masks="sbd")
    assert len(made.data.train) == 10 and len(made.data.val) == 3
    for n, i in enumerate(IDS["train"] + IDS["extra"]):
        mask = read_mask(root / f"voc/SegmentationClassAug/{i}.png")
        drawn = VOC.get(f"VOCdevkit/VOC2012/SegmentationClass/{i}.png")
        assert (mask == (n + 1 if drawn is None else np.array(Image.open(io.BytesIO(drawn))))).all(), i
    assert not list((root / "voc").rglob("img"))


def test_broken_mask_of_sbd(sbd, root):
    "It is named; removing the folder, as told, and preparing again mends it."
    quietly("voc", sbd, masks="sbd")
    shutil.rmtree(root / "voc/SegmentationClassAug")
    (root / f"voc/sbd/cls/{IDS['extra'][0]}.mat").write_bytes(b"no matlab file at all" * 20)
    said(partial(quietly, "voc", sbd, masks="sbd"), f"sbd/cls/{IDS['extra'][0]}.mat is not a mask of SBD", "remove")
    assert not (root / "voc/SegmentationClassAug").exists()
    shutil.rmtree(root / "voc/sbd/cls")
    assert len(quietly("voc", sbd, masks="sbd").data.train) == 10


# ------------------------------------------------------------------------- COCO


def test_coco_fetched(coco_archives, root, served, monkeypatch):
    need(find_spec("pycocotools"), "needs pycocotools, which draws masks")
    published(monkeypatch, coco_archives, served(coco_archives))
    made = quietly("coco")
    assert [np.flatnonzero(row).tolist() for row in made.data.train.labels] == [[c] for c in COCO_SHOWN.values()]
    assert sorted(p.name for p in (root / "coco/annotations").iterdir()) == [
        "instances_train2017.json", "instances_val2017.json"]
    assert not (root / "coco/stuffthingmaps").exists() and len(made.data.val) == 3


def test_coco_with_stuffthingmaps(coco_archives, root, monkeypatch):
    "Ids are one less there, and stuff is background."
    published(monkeypatch, coco_archives)
    before = files(coco_archives)
    made = quietly("coco", coco_archives, masks="stuffthingmaps")
    assert np.unique(made.data.train.read(0)).tolist() == [0, 18] and made.data.train.labels[:, 18].all()
    assert not (root / "coco/annotations").exists() and files(coco_archives) == before


def test_coco_of_a_folder_is_linked(shared, root):
    "Real images; not a byte of them is copied, and nothing is written beside them."
    need(find_spec("pycocotools"), "needs pycocotools, which draws masks")
    before = files(shared / "coco_mini")
    made = quietly("coco", shared / "coco_mini")
    for name in ("images/train2017", "images/val2017", "annotations"):
        assert (root / "coco" / name).readlink() == (shared / "coco_mini" / name).resolve()
    assert len(made.data.train) == len(made.data.val) == 80 and made.data.train.labels.any(1).sum() > 70
    assert files(shared / "coco_mini") == before
    assert len(list((root / "coco/masks/train2017").glob("*.png"))) == 80


def test_coco_voc(voc_archives, coco_archives, root, monkeypatch):
    "COCO is prepared, VOC has to be there."
    need(find_spec("pycocotools"), "needs pycocotools, which draws masks")
    published(monkeypatch, coco_archives)
    said(partial(quietly, "coco-voc", coco_archives), "data_root=", "data/voc", "there is no such folder",
         "wilson prepare")
    published(monkeypatch, voc_archives)
    quietly("voc", voc_archives)
    made = quietly("coco-voc", coco_archives)
    assert (len(made.data.train), len(made.data.later), len(made.data.more_val["voc"])) == (3, 10, 3)
    assert made.root == root / "coco"


# ------------------------------------------------------------------------- one's own


COLOURS = {1: (213, 94, 0), 2: (0, 114, 178), 3: (240, 228, 66)}  # cow, horse, sheep
OWN_FILE = """classes = ["cow", "horse", "sheep"]

[colours]
cow = "#d55e00"
horse = [0, 114, 178]
sheep = "#f0e442"

[tasks]
2-1 = "cow, horse | sheep"
"""


def in_colours(ids: np.ndarray) -> Image.Image:
    table = np.zeros((256, 3), np.uint8)
    table[[*COLOURS]], table[255] = [*COLOURS.values()], (224, 224, 192)
    return Image.fromarray(table[ids])


def in_palette(ids: np.ndarray) -> Image.Image:
    "Colours as a drawing program keeps them: in an order of its own."
    picture = Image.fromarray(np.array([9, 7, 5, 3, *[0] * 251, 1], np.uint8)[ids])
    colours = np.zeros((256, 3), np.uint8)
    colours[[9, 7, 5, 3, 1]] = [(0, 0, 0), *COLOURS.values(), (224, 224, 192)]
    picture.putpalette(colours.tobytes())
    return picture


CODINGS = {"numbers": Image.fromarray, "RGB": in_colours, "RGBA": lambda ids: in_colours(ids).convert("RGBA"),
           "palette": in_palette}


def make_own(folder: Path, coding: str = "RGB", count: int = 20, side: int = 48) -> Path:
    "Images, masks and a dataset file as their owner has them."
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for n in range(count):
        scene, ids = draw_scene(np.random.default_rng(n), side, [n % 3 + 1])
        Image.fromarray(scene).save(folder / f"images/p{n:02}.jpg")
        CODINGS[coding](ids).save(folder / f"masks/p{n:02}.png")
    (folder / "dataset.toml").write_text(OWN_FILE, encoding="utf-8")
    return folder


@pytest.fixture
def own(root, tmp_path) -> Path:
    return make_own(tmp_path / "own")


def lists(root: Path) -> tuple[list[str], list[str]]:
    return tuple((root / f"farm/splits/{name}.txt").read_text(encoding="utf-8").split() for name in ("train", "val"))


@pytest.mark.parametrize("coding", CODINGS)
def test_codings_of_masks(coding, root, tmp_path):
    "The same numbers from each; what holds numbers already is linked, not copied."
    own = make_own(tmp_path / "own", coding, count=10)
    before = files(own)
    made = quietly("farm", own)
    for n in range(10):
        ids = draw_scene(np.random.default_rng(n), 48, [n % 3 + 1])[1]
        assert np.array_equal(read_mask(root / f"farm/SegmentationClass/p{n:02}.png"), ids)
    assert (root / "farm/SegmentationClass").is_symlink() == (coding == "numbers")
    assert (root / "farm/JPEGImages").readlink() == own / "images" and files(own) == before
    assert sum(map(len, (made.data.train, made.data.val))) == 10


def test_prepared_where_it_lies(root):
    "Without a source the data set's folder holds images/ and masks/; they stay as they are."
    own = make_own(root / "farm")
    before = files(own)
    quietly("farm")
    assert {n: f for n, f in files(own).items() if n in before} == before
    assert (own / "JPEGImages").readlink() == own / "images"


def test_labels_for_some_of_the_images(own, root):
    "Of 20, five have a line in place of a mask, and two have neither."
    for n in range(7):
        (own / f"masks/p{n:02}.png").unlink()
    (own / "labels.csv").write_text("".join(f"p{n:02}.jpg,cow\n" for n in range(5)), encoding="utf-8")
    lines = []
    made = prepare_dataset("farm", own, say=lines.append)
    train, val = lists(root)
    assert {*train} >= {f"p{n:02}" for n in range(5)} and len(train) + len(val) == 18 and not {*train} & {*val}
    assert "2 images without mask and labels are in neither" in "\n".join(lines)
    assert sum(mask is None for mask in made.data.train.masks) == 5 and all(made.data.val.masks)


def test_table_alone(own, root):
    shutil.rmtree(own / "masks")
    (own / "labels.csv").write_text("".join(f"p{n:02},sheep\n" for n in range(20)), encoding="utf-8")
    made = quietly("farm", own)
    assert made.data.train.masks is None and made.data.train.labels[:, 3].all()


def test_choice_of_validation_is_stable(own, root):
    "More images: none changes sides, none is lost."
    quietly("farm", own)
    train, val = lists(root)
    for n in range(20, 60):
        scene, ids = draw_scene(np.random.default_rng(n), 48, [n % 3 + 1])
        Image.fromarray(scene).save(own / f"images/p{n:02}.jpg")
        in_colours(ids).save(own / f"masks/p{n:02}.png")
    made = quietly("farm", own)
    train_after, val_after = lists(root)
    assert {*train} < {*train_after} and {*val} < {*val_after} and len(train_after) + len(val_after) == 60
    assert len(made.data.train) == len(train_after) and 0.1 < len(val_after) / 60 < 0.35


def test_given_lists(own, root):
    for name, numbers in (("train", range(10)), ("val", range(10, 15))):
        (own / f"{name}.txt").write_text("".join(f"p{n:02}.jpg\r\n" for n in numbers), encoding="utf-8")
    made = quietly("farm", own)
    assert made.data.train.ids == tuple(f"p{n:02}" for n in range(10)) and len(made.data.val) == 5
    assert (root / "farm/splits/train.txt").readlink() == own / "train.txt"


def test_one_given_list_of_two(own, root):
    "The other is of the other images, or a sentence says that both are wanted."
    (own / "val.txt").write_text("p00\np01\np02\n", encoding="utf-8")
    try:
        assert quietly("farm", own).data.val.ids == ("p00", "p01", "p02")
    except InputError as e:
        says(str(e), "train.txt")


def test_lists_given_later(own, root):
    quietly("farm", own)
    for name, numbers in (("train", range(10)), ("val", range(10, 15))):
        (own / f"{name}.txt").write_text("".join(f"p{n:02}\n" for n in numbers), encoding="utf-8")
    assert len(quietly("farm", own).data.val) == 5


def test_images_added_where_it_lies(root):
    make_own(root / "farm")
    quietly("farm")
    scene, ids = draw_scene(np.random.default_rng(99), 48, [1])
    Image.fromarray(scene).save(root / "farm/images/p99.jpg")
    in_colours(ids).save(root / "farm/masks/p99.png")
    quietly("farm")
    assert "p99" in sum(lists(root), [])


def test_no_lists_and_no_choice(own, root):
    "All images on one side leave none for the other; one image cannot be on both."
    for share in (0, 1, 20):
        said(partial(quietly, "farm", own, val_share=share), f"val_share={share}", "more than 0 and less than 1")
    for path in [*(own / "masks").iterdir()][1:]:
        path.unlink()
    said(partial(quietly, "farm", own), "no image is left for the list train", "train.txt, val.txt")


def test_masks_that_are_repainted(own, root):
    "Only they are made anew."
    quietly("farm", own)
    before = files(root / "farm/SegmentationClass")
    in_colours(np.full((48, 48), 2, np.uint8)).save(own / "masks/p03.png")
    quietly("farm", own)
    path = root / "farm/SegmentationClass/p03.png"
    assert (read_mask(path) == 2).all()
    assert {n for n, f in files(path.parent).items() if before[n] != f} == {str(path)}


@pytest.mark.parametrize("change, expected", [
    (lambda own: (own / "dataset.toml").unlink(), ["has no dataset.toml", "the colours #", "[colours]"]),
    (lambda own: shutil.rmtree(own / "images"), ["20 .png in masks/", "images/"]),
    (lambda own: shutil.rmtree(own / "masks"), ["20 .jpg in images/", "masks/ or labels.csv"]),
    (lambda own: [p.unlink() for p in (own / "masks").iterdir()], ["holds no PNG", "one mask an image"]),
    (lambda own: (own / "masks/p04.png").write_bytes(b""), ["masks/p04.png cannot be read as a mask", "replace"]),
    (lambda own: Image.new("RGB", (48, 48), (1, 2, 3)).save(own / "masks/p04.png"), [
        "masks/p04.png has the colour #010203 in 2304 pixels", "[colours]"]),
    (lambda own: Image.fromarray(np.ones((48, 48), np.uint16)).save(own / "masks/p04.png"), [
        "masks/p04.png has mode I;16", "class numbers of 8 bits"]),
    (lambda own: (own / "labels.csv").write_text("p99,cow\n", encoding="utf-8"), ["labels.csv names 1 images", "first p99"]),
    (lambda own: (own / "dataset.toml").write_text('name = "zoo"\n' + OWN_FILE, encoding="utf-8"), ["name = 'zoo'", "by that name"]),
    (lambda own: (own / "images/p04.jpg").unlink() or (own / "masks/p04.png").rename(own / "masks/pO4.png"), []),
], ids=["no dataset file", "no images", "no masks", "empty masks", "empty mask", "strange colour", "16 bits",
        "labels of no image", "another name", "mask of no image"])
def test_wrong_in_ones_own(change, expected, own, root):
    "A sentence, and no folder of masks that looks whole; a mask without an image is nobody's business."
    change(own)
    if expected:
        said(partial(quietly, "farm", own), *expected)
        assert not (root / "farm/prepared.json").exists()
        if "p04.png" in expected[0]:
            assert not (root / "farm/SegmentationClass").exists()
    else:
        assert "p04" not in quietly("farm", own).data.train.ids


def test_the_remedy_for_a_missing_dataset_file_works(own, root):
    "What to write is said with the classes of the table."
    (own / "dataset.toml").unlink()
    (own / "labels.csv").write_text("".join(f"p{n:02},cow,sheep\n" for n in range(20)), encoding="utf-8")
    shutil.rmtree(own / "masks")
    message = said(partial(quietly, "farm", own), 'classes = ["cow", "sheep"]')
    (own / "dataset.toml").write_text(message.partition("Write into it: ")[2], encoding="utf-8")
    assert quietly("farm", own).data.classes.names == ("cow", "sheep")


@pytest.mark.parametrize("name", ["p00.jpg", "p00.JPG", "p00.png", "p00.jpg copy"])
def test_suffix_within_a_name(name, own, root):
    "As Windows leaves p00.jpg.jpg where suffixes are not shown."
    (own / "images/p00.jpg").rename(own / f"images/{name}.jpg")
    (own / "masks/p00.png").rename(own / f"masks/{name}.png")
    data = quietly("farm", own).data
    assert name in data.train.ids + data.val.ids


def test_masks_named_by_the_whole_image_name(own, root):
    "p00.jpg.png for p00.jpg, as labelling tools write them: used, or said in a sentence that names them."
    for n in range(20):
        (own / f"masks/p{n:02}.png").rename(own / f"masks/p{n:02}.jpg.png")
    try:
        assert all(quietly("farm", own).data.train.masks)
    except InputError as e:
        says(str(e), "p00.jpg.png")


def test_unusual_names(own, root):
    for n, name in enumerate(("a cow", "Kühe", "#1", "x.y", "IMG, 2", "-1")):
        (own / f"images/p{n:02}.jpg").rename(own / f"images/{name}.jpg")
        (own / f"masks/p{n:02}.png").rename(own / f"masks/{name}.png")
    data = quietly("farm", own).data
    assert {"a cow", "Kühe", "#1", "x.y", "IMG, 2", "-1"} < {*data.train.ids, *data.val.ids}


def test_masks_of_another_size(own, root):
    in_colours(np.ones((40, 48), np.uint8)).save(own / "masks/p04.png")
    said(partial(quietly, "farm", own), "p04.png is 48×40 but p04.jpg is 48×48", "wilson verify farm")


# ------------------------------------------------------------------------- what is there already


SMALL = "prepared.json", "farm/splits/train.txt", "farm/splits/val.txt"  # made anew at every call, all the same


@pytest.fixture
def twice(own, voc_archives, root, monkeypatch) -> tuple[set[str], list[str]]:
    "Two data sets prepared twice: files that the second time wrote, and what it said."
    published(monkeypatch, voc_archives)
    for work in (both := (partial(prepare_dataset, "farm", own), partial(prepare_dataset, "voc", voc_archives))):
        work(say=lambda line: None)
    before, content, lines = files(root), tree(root), []
    for work in both:
        work(say=lines.append)
    assert tree(root) == content
    return {n for n, f in files(root).items() if before.get(n) != f}, lines


def test_twice_changes_nothing(twice):
    written, lines = twice
    assert not [n for n in written if not n.endswith(SMALL)] and lines.count("thumbnails: 0 made") == 2
    assert not [line for line in lines if "unpacked" in line or "linked" in line or "turned" in line]


def test_twice_writes_nothing(twice):
    assert not twice[0]


@pytest.mark.parametrize("part, said_of", [
    ("JPEGImages", "VOCtrainval"), ("SegmentationClassAug", "SegmentationClassAug.zip: unpacked SegmentationClassAug"),
    ("ImageSets", "VOCtrainval_11-May-2012.tar: unpacked"), ("splits", "train_aug.txt: 10 images"),
    ("thumbnails", "thumbnails: 13 made")])
def test_only_the_missing_part_is_made(part, said_of, voc_archives, root, monkeypatch):
    published(monkeypatch, voc_archives)
    quietly("voc", voc_archives)
    before, lines = files(root), []
    shutil.rmtree(root / "voc" / part)
    prepare_dataset("voc", voc_archives, say=lines.append)
    says("\n".join(lines), said_of)
    is_voc(root / "voc")
    after = files(root)
    for other in {"JPEGImages", "SegmentationClass", "SegmentationClassAug", "ImageSets", "splits"} - {part}:
        kept = {n: f for n, f in before.items() if f"/voc/{other}/" in n}
        assert kept and {n: after.get(n) for n in kept} == kept


def test_what_is_somebody_elses_stays(own, root):
    "Files and folders of any name, even of ours; a folder that is there is taken as it is."
    (root / "farm/splits").mkdir(parents=True)
    (root / "farm/splits/mine.txt").write_text("p01\n", encoding="utf-8")
    (root / "farm/thesis.tex").write_text("mine", encoding="utf-8")
    (root / "farm/SegmentationClass").mkdir()
    Image.fromarray(np.full((48, 48), 3, np.uint8)).save(root / "farm/SegmentationClass/extra.png")
    before = files(root / "farm")
    quietly("farm", own)
    assert {n: f for n, f in files(root / "farm").items() if n in before} == before


def test_lists_of_ones_own_in_the_data_set_stay(own, root):
    "train.txt and val.txt that were put into the data set, not into the source."
    (root / "farm/splits").mkdir(parents=True)
    for name, numbers in (("train", range(5, 20)), ("val", range(5))):
        (root / f"farm/splits/{name}.txt").write_text("".join(f"p{n:02}\n" for n in numbers), encoding="utf-8")
    before = lists(root)
    quietly("farm", own)
    assert lists(root) == before


def test_link_that_leads_nowhere(own, root):
    "It is named with its target; with that put back it goes on."
    quietly("farm", own)
    own.rename(own.with_name("moved"))
    said(partial(quietly, "farm", own), "--from", f"there is no folder {own}")
    said(partial(quietly, "farm", own.with_name("moved")), f"farm/dataset.toml is a link to {own}/dataset.toml",
         "which is gone", "put that back, or remove the link")
    own.with_name("moved").rename(own)
    quietly("farm", own)


def test_no_source(root):
    said(partial(quietly, "farm", "elsewhere"), "--from", "there is no folder", "elsewhere")
    said(partial(quietly, "voc", masks="sbt"), "masks='sbt': expected aug or sbd for voc")
    said(partial(quietly, "shapes", masks="aug"), "masks='aug'", "for shapes")
    assert not (root / "voc").exists()


# ------------------------------------------------------------------------- archives that are wrong


def with_member(folder: Path, **kind: object) -> None:
    "Add one member to VOC's archive in `folder`."
    info = tarfile.TarInfo("VOCdevkit/VOC2012/JPEGImages/x.jpg")
    for name, value in kind.items():
        setattr(info, name, value)
    tar(folder / "VOCtrainval_11-May-2012.tar", VOC, info)


@pytest.mark.parametrize("kind, words", [
    (dict(name="../../../outside.jpg"), "leads out of the folder"),
    (dict(name="VOCdevkit/VOC2012/JPEGImages/../../../../outside.jpg"), "leads out of the folder"),
    (dict(name="/tmp/wilson-outside.jpg"), "has an absolute name"),
    (dict(type=tarfile.SYMTYPE, linkname="/etc"), "is not a file but a symbolic link"),
    (dict(type=tarfile.LNKTYPE, linkname="/etc/passwd"), "is not a file but a hard link"),
])
def test_hostile_archive(kind, words, voc_archives, root, tmp_path, monkeypatch):
    source = tmp_path / "hostile"
    shutil.copytree(voc_archives, source)
    with_member(source, **kind)
    published(monkeypatch, source)
    before = files(tmp_path)
    said(partial(quietly, "voc", source), "VOCtrainval_11-May-2012.tar has a member", words, "nothing was unpacked")
    assert files(tmp_path) == before and not list(root.rglob("outside*")) and not (root / "voc/JPEGImages").exists()
    assert not Path("/tmp/wilson-outside.jpg").exists()


@pytest.mark.parametrize("how, words", [("changed", "its md5 is"), ("cut", "bytes, expected"), ("empty", "0 bytes")])
def test_archive_that_is_not_the_published_one(how, words, voc_archives, root, tmp_path, monkeypatch):
    published(monkeypatch, voc_archives)
    source = tmp_path / "source"
    shutil.copytree(voc_archives, source)
    path = source / "VOCtrainval_11-May-2012.tar"
    content = path.read_bytes()
    path.write_bytes({"changed": content[:5000] + b"?" + content[5001:], "cut": content[:9000], "empty": b""}[how])
    said(partial(quietly, "voc", source), f"{path} is not the published file", words, "Move it away or delete it")
    assert not list((root / "voc").glob("*")) and path.exists()


def test_what_comes_is_not_the_published_file(voc_archives, root, served, monkeypatch):
    published(monkeypatch, voc_archives, served(voc_archives))
    known = voc_data.VOC_TRAINVAL
    monkeypatch.setattr(voc_data, "VOC_TRAINVAL", Archive(known.name, known.mirrors, known.size, "md5:" + "0" * 32))
    said(partial(quietly, "voc"), "could not be downloaded", "its md5 is", "expected " + "0" * 32)
    assert not (root / "voc/JPEGImages").exists() and not list((root / "voc/archives").glob("[!.]*"))


def test_without_a_network(voc_archives, root, served, monkeypatch):
    "Every mirror is named with its reason, and what to do by hand; that then works."
    published(monkeypatch, voc_archives)
    mirrors = ("http://127.0.0.1:9/first.tar", "http://nowhere.invalid/second.tar")
    known = archive(voc_archives / "VOCtrainval_11-May-2012.tar", *mirrors)
    monkeypatch.setattr(voc_data, "VOC_TRAINVAL", known)
    by_hand = root / "voc/archives/VOCtrainval_11-May-2012.tar"
    said(partial(quietly, "voc"), *mirrors, "By hand: fetch VOCtrainval_11-May-2012.tar", known.digest,
         f"{known.size:,}", f"put it as {by_hand}", "the same command again", "http_proxy")
    assert not (root / "voc/JPEGImages").exists() and not (root / "voc/prepared.json").exists()
    for path in voc_archives.iterdir():
        shutil.copy(path, by_hand.parent)
    quietly("voc")
    is_voc(root / "voc")


# ------------------------------------------------------------------------- killed


CHANGES = ("open", "os.rename", "os.mkdir", "os.symlink", "os.remove", "shutil.rmtree")  # audit events


def forked(work, root: Path, record: Path | None = None, kill_at: int = 0) -> int:
    """`work` in a process of its own: its exit code, negative where a signal ended it.

    `record` gets a line for every change under `root`. Before the change `kill_at` the process is killed; if
    that is a file being opened to be written, the file is left with four bytes.
    """
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    count, log = 0, open(record, "w", encoding="utf-8") if record else None

    def hook(event: str, args: tuple) -> None:
        nonlocal count
        if event not in CHANGES or not str(args[0]).startswith(f"{root}/"):
            return
        if event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR) or count < 0:
            return
        count += 1
        if log:
            print(event, args[1] if event == "os.rename" else args[0], file=log, flush=True)
        if count == kill_at:
            count = -1
            if event == "open":
                Path(args[0]).write_bytes(b"torn")
            os.kill(os.getpid(), signal.SIGKILL)

    code = 3
    try:
        sys.addaudithook(hook)
        work()
        code = 0
    except InputError as e:
        print(e, file=sys.stderr)
        code = 2
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def moments(record: Path, root: Path, some: int = 6) -> list[int]:
    "When to kill: before every change of what lies at the top of the data set, and at some others."
    lines = [line.split(" ", 1) for line in record.read_text(encoding="utf-8").splitlines()]
    top = [n for n, (_, path) in enumerate(lines, 1) if Path(path).parent == root and not hidden(Path(path), root)]
    return sorted({*top, *range(2, len(lines), max(1, len(lines) // some))})


def nothing_looks_whole(found: dict, whole: dict, moment: int) -> None:
    "What is there is right; of a folder that training reads all is there, or nothing; the record comes last."
    assert not [n for n in found if found[n] != whole.get(n)], moment
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationClassAug", "ImageSets", "sbd", "images/train2017",
                   "images/val2017", "annotations", "stuffthingmaps"):
        here, all_of_it = ({n for n in t if n.startswith(f"{folder}/")} for t in (found, whole))
        assert not here or here == all_of_it, (moment, folder, here)
    if "prepared.json" in found:
        assert found.keys() == whole.keys(), moment


@pytest.fixture(params=["voc", "sbd", "coco", "own"])
def preparation(request, root, tmp_path, monkeypatch):
    "A data set's folder, and what prepares it."
    if request.param == "own":
        return root / "farm", partial(quietly, "farm", make_own(tmp_path / "own", count=12))
    if request.param == "sbd":
        source = request.getfixturevalue("sbd")
        return root / "voc", partial(quietly, "voc", source, masks="sbd")
    source = request.getfixturevalue(f"{request.param}_archives")
    published(monkeypatch, source)
    more = {"masks": "stuffthingmaps"} if request.param == "coco" else {}
    return root / request.param, partial(quietly, request.param, source, **more)


def test_killed_at_any_moment(preparation, tmp_path):
    "What is there is whole, and the same command finishes: the same files as if nothing had happened."
    root, work = preparation
    assert forked(work, root, tmp_path / "record") == 0
    whole, failed = tree(root), []
    for moment in moments(tmp_path / "record", root):
        shutil.rmtree(root)
        assert forked(work, root, kill_at=moment) == -signal.SIGKILL
        nothing_looks_whole(tree(root), whole, moment)
        if forked(work, root) != 0 or tree(root) != whole:
            failed.append((tmp_path / "record").read_text(encoding="utf-8").splitlines()[moment - 1])
    assert not failed


def command(text: str, *arguments: object) -> list[str]:
    "What runs `text` as a process, with this module as `t`."
    lines = [f"import sys; sys.path[:0] = {[p for p in sys.path if p.startswith(str(Path(__file__).parents[1]))]!r}", "from pathlib import Path",
             "import pytest, time, test_prepare as t", textwrap.dedent(text)]
    return [sys.executable, "-c", "\n".join(lines), *map(str, arguments)]


def started(text: str, *arguments: object) -> subprocess.Popen:
    return subprocess.Popen(command(text, *arguments), env=environment(), text=True, encoding="utf-8",
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def killed_when(process: subprocess.Popen, there) -> None:
    "Kill it as soon as `there` says so."
    end = time.monotonic() + 60
    while not there():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.communicate()


def test_killed_while_masks_are_made(own, root):
    "What is made by then is not made again."
    process = started("""
        draw, one_at_a_time = t.own_data.write_mask, t.threading.Lock()
        def slowly(path, mask):
            with one_at_a_time:
                time.sleep(0.05)
                draw(path, mask)
        t.own_data.write_mask = slowly
        t.prepare_dataset("farm", sys.argv[1])
    """, own)
    half = root / "farm/.SegmentationClass.part"
    killed_when(process, lambda: len(list(half.glob("p*.png"))) > 5)
    assert not (root / "farm/SegmentationClass").exists() and not (root / "farm/prepared.json").exists()
    before = files(half)
    quietly("farm", own)
    after = files(root / "farm/SegmentationClass")
    kept = [n for n, f in before.items() if after.get(n.replace(".SegmentationClass.part", "SegmentationClass")) == f]
    assert len(kept) > 5 and len(after) == 20 and not half.exists()


def test_masks_repainted_after_the_kill(own, root):
    record = root.parent / "record"
    forked(partial(quietly, "farm", own), root / "farm", record)
    shutil.rmtree(root / "farm")
    lines = record.read_text(encoding="utf-8").splitlines()
    renamed = lines.index(f"os.rename {root}/farm/SegmentationClass") + 1
    forked(partial(quietly, "farm", own), root / "farm", kill_at=renamed)
    assert (root / "farm/.SegmentationClass.part/p03.png").exists()
    in_colours(np.full((48, 48), 2, np.uint8)).save(own / "masks/p03.png")
    quietly("farm", own)
    assert (read_mask(root / "farm/SegmentationClass/p03.png") == 2).all()


def test_killed_while_downloading(voc_archives, root, monkeypatch):
    "The archive is half there under a hidden name; the next call asks for the rest alone."
    server, path = Server(), voc_archives / "VOCtrainval_11-May-2012.tar"
    server.content, server.pause = path.read_bytes(), 0.3
    published(monkeypatch, voc_archives, server.url)
    (root / "voc/archives").mkdir(parents=True)
    shutil.copy(voc_archives / "SegmentationClassAug.zip", root / "voc/archives")
    process = started("""
        t.published(pytest.MonkeyPatch(), Path(sys.argv[1]), sys.argv[2])
        t.prepare_dataset("voc")
    """, voc_archives, server.url)
    half = root / f"voc/archives/.{path.name}.part"
    killed_when(process, lambda: half.is_file() and half.stat().st_size)
    assert {p.name for p in (root / "voc").iterdir()} == {"archives"}
    assert not (root / "voc/archives" / path.name).exists()
    come, server.pause = half.stat().st_size, 0
    quietly("voc")
    is_voc(root / "voc")
    assert server.requests[-1][1] == f"bytes={come}-" and not half.exists()
    server.http.shutdown()
    server.http.server_close()


def test_two_at_once(preparation, tmp_path, monkeypatch):
    "Both end well, and what is there is what one alone would have made."
    root, work = preparation
    assert forked(work, root) == 0
    whole, draw = tree(root), own_data.write_mask
    shutil.rmtree(root)
    for module in (own_data, voc_data):
        monkeypatch.setattr(module, "write_mask", lambda path, mask: time.sleep(0.03) or draw(path, mask))
    codes = []
    other = threading.Thread(target=lambda: codes.append(forked(work, root)))
    other.start()
    codes.append(forked(work, root))
    other.join()
    assert codes == [0, 0] and tree(root) == whole


# ------------------------------------------------------------------------- full, read-only


def alone(mount: str, text: str, *arguments: object) -> str:
    "What `text` prints as a process that alone sees what `mount` mounts."
    allowed = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True)
    need(allowed.returncode == 0, "needs `unshare -rm mount …`, which this machine does not permit")
    within = ["unshare", "-rm", "bash", "-c", f'{mount} && exec "$@"', "bash", *command(text, *arguments)]
    done = subprocess.run(within, env=environment(), capture_output=True, text=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def shown(work) -> None:
    "Print the sentence that `work` ends with, or that it is ready."
    try:
        print("ready:", work().root)
    except InputError as e:
        print("refused:", e)


def filled(source: Path, archives: Path, sizes: str) -> None:
    "Prepare on a disk that is too small, then again when it is larger."
    published(pytest.MonkeyPatch(), archives)
    for dataset, there, size in [(d, s, n) for d, s in (("farm", source), ("voc", archives)) for n in sizes.split()]:
        print(f"== {dataset} {size}")
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", "data"], check=True)
        shown(partial(quietly, dataset, there))
        print("whole:", *(n for n in ("SegmentationClass", "prepared.json") if Path("data", dataset, n).exists()))
        subprocess.run(["mount", "-o", "remount,size=9m", "none", "data"], check=True)
        shown(partial(quietly, dataset, there))
        subprocess.run(["umount", "data"], check=True)


def test_disk_full(own, voc_archives, root):
    "A sentence that names the folder; with room made, the same command goes on to the end."
    sizes = "16k 40k 80k 100k 120k 140k"
    out = alone("true", "t.filled(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])", own, voc_archives, sizes)
    cases = out.split("== ")[1:]
    assert len(cases) == 12
    for case in cases:
        name, first, whole, second = case.strip().splitlines()
        assert first.startswith("refused:") and "data/" in first and "prepared.json" not in whole, case
        says(first.lower(), "room")
        assert second == f"ready: {root}/{name.split()[0]}", case


READ_ONLY = "mount --bind data data && mount -o remount,ro,bind data"


def test_read_only_root(own, voc_archives, root, monkeypatch):
    "Nothing can be made there; what is ready stays ready."
    published(monkeypatch, voc_archives)
    quietly("voc", voc_archives)
    before = files(root)
    out = alone(READ_ONLY, """
        t.published(pytest.MonkeyPatch(), Path(sys.argv[2]))
        t.shown(lambda: t.quietly("voc", sys.argv[2]))
        t.shown(lambda: t.quietly("farm", sys.argv[1]))
    """, own, voc_archives).splitlines()
    assert out[0] == f"ready: {root}/voc"
    says(out[1], "refused:", f"{root}/farm", "Read-only", "name another folder (data_root)")
    assert files(root) == before and not (root / "farm").exists()


def test_ones_own_on_a_read_only_disk(own, root):
    quietly("farm", own)
    assert alone(READ_ONLY, 't.shown(lambda: t.quietly("farm", sys.argv[1]))', own) == f"ready: {root}/farm\n"


# ------------------------------------------------------------------------- from photographs to a trained step


LEARNED = {"person": 1, "bottle": 2, "bowl": 3, "cup": 4, "chair": 5}  # the first two in step 0
TINTS = {"person": (213, 94, 0), "bottle": (0, 114, 178), "bowl": (240, 228, 66), "cup": (0, 158, 115),
         "chair": (204, 121, 167)}
WEAK = ("train", "--dataset", "kitchen", "--task", "2-3", "--preset", "shapes", "--epochs", "1/2", "--pseudo-epoch",
        "1", "--crop-size", "64", "--batch-size", "8", "--device", "cpu")


def painted_mask(source, name: str, classes) -> np.ndarray:  # H, W, 3 uint8
    "The objects of `classes` in their colours, crowds as void, on black."
    ids, picture = draw_mask(source, name), np.zeros((*source.sizes[name], 3), np.uint8)
    for c in classes:
        picture[ids == COCO.ids[COCO.names.index(c)]] = TINTS[c]
    picture[ids == 255] = (224, 224, 192)
    return picture


@pytest.fixture
def kitchen(shared, root, tmp_path) -> Path:
    """Photographs of one's own: validation images with masks of all classes; training images of the base classes
    alone with masks, all others with a line in a table."""
    need(find_spec("pycocotools"), "needs pycocotools, which draws masks")
    need((shared / "coco_mini").is_dir(), "needs coco_mini in the shared folder")
    folder, table, listed = tmp_path / "kitchen", ["image,class"], {"train": [], "val": []}
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for part, every in (("train", 1), ("val", 8)):
        source = read_annotations(shared / f"coco_mini/annotations/instances_{part}2017.json")
        for name, regions in sorted(source.regions.items())[::every]:
            shows = [c for c in LEARNED if any(r["category_id"] == COCO.ids[COCO.names.index(c)] for r in regions)]
            if part == "train" and not shows:
                continue
            listed[part].append(name)
            shutil.copy(shared / f"coco_mini/images/{part}2017/{name}.jpg", folder / "images")
            if part == "val" or {*shows} <= {"person", "bottle"}:
                picture = painted_mask(source, name, LEARNED if part == "val" else ("person", "bottle"))
                Image.fromarray(picture).save(folder / f"masks/{name}.png", compress_level=1)
            else:
                table.append(",".join([name, *shows]))
    for part, names in listed.items():
        (folder / f"{part}.txt").write_text("".join(f"{n}\n" for n in names), encoding="utf-8")
    (folder / "labels.csv").write_text("\n".join(table) + "\n", encoding="utf-8")
    colours = "\n".join(f'{c} = "#{r:02x}{g:02x}{b:02x}"' for c, (r, g, b) in TINTS.items())
    (folder / "dataset.toml").write_text(f"classes = {[*LEARNED]}\n\n[colours]\n{colours}\n\n[tasks]\n"
                                         '2-3 = "person, bottle | bowl, cup, chair"\n', encoding="utf-8")
    return folder


def test_photographs_to_a_trained_step(kitchen, root, capsys):
    "Prepared, verified and trained by the commands; a weak step then does without a single mask."
    before = files(kitchen)
    assert run("prepare", "kitchen", "--from", kitchen, "--no-verify") == 0
    says(capsys.readouterr().out, "masks turned from colours into class numbers")
    assert run("verify", "kitchen") == 0
    assert files(kitchen) == before and (root / "kitchen/JPEGImages").readlink() == kitchen / "images"

    assert run(*WEAK) == 0
    runs = root.parent / "runs/kitchen-2-3-overlap"
    table = [line.split(",") for line in (kitchen / "labels.csv").read_text(encoding="utf-8").splitlines()[1:]]
    left_out = sum(bool({*shows} & {"person", "bottle"}) for _, *shows in table)
    says((runs / "base-s42/step0/log.txt").read_text(encoding="utf-8"), f"person, bottle; {left_out} without a mask left out")
    says((runs / "wilson-s42/step1/log.txt").read_text(encoding="utf-8"), f": {len(table)} images, bowl, cup, chair")
    assert StepFolder(runs / "wilson-s42/step1").state == "finished" and left_out > 5

    masks = {p.stem: p for p in (root / "kitchen/SegmentationClass").iterdir()}
    lost = [masks[name] for name in (kitchen / "train.txt").read_text(encoding="utf-8").split() if name in masks]
    known = dict(zip((p.stem for p in lost), map(read_mask, lost)))
    for path in lost:
        path.unlink()
    says(refused(capsys, *WEAK, "--step", 1, "--name", "again"), f"labels.csv has no line for {len(lost)} images",
         "add `")
    with open(kitchen / "labels.csv", "a", encoding="utf-8") as f:
        f.writelines(",".join([name, *(c for c, i in LEARNED.items() if (mask == i).any())]) + "\n"
                     for name, mask in known.items())
    says(refused(capsys, *WEAK, "--step", 0, "--base-name", "again"), "has no masks", "method=wilson")
    assert run(*WEAK, "--step", 1, "--name", "again") == 0
    assert StepFolder(runs / "again/step1").state == "finished"
    ours, theirs = (load_file(runs / name / "step1/weights.safetensors") for name in ("wilson-s42", "again"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours), "labels alone decide"
