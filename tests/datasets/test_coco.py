"""COCO and COCO→VOC: real images where they are at hand, and what a user's folders may look like otherwise."""
from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import need
from PIL import Image

from wilson.core.errors import InputError
from wilson.data.classes import COCO, VOC
from wilson.data.image_io import read_mask, write_mask
from wilson.data.image_labels import read_labels
from wilson.data.label_maps import pseudo_label_split
from wilson.data.samples import evaluation_samples, training_samples
from wilson.data.splits import Split
from wilson.data.tasks import Task
from wilson.data.transforms import TrainingCrop
from wilson.formats.numbering import STUFFTHINGMAPS
from wilson.datasets.coco import VOC_AS_COCO, to_coco_ids, open_coco
from wilson.datasets.coco import open_coco_voc
from wilson.formats.coco_annotations import LABELS_FILE, annotated_labels, draw_masks, ids_with_masks, draw_mask
from wilson.formats.coco_annotations import read_annotations

# pycocotools is older than numpy's present rules
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

TASK = Task("coco-voc", "voc")
VOC_IDS = TASK.groups[1]

# ------------------------------------------------------------------------------------ made up

BOX = [[2, 2, 12, 2, 12, 12, 2, 12]]
OBJECTS = {7: [(6, 0, BOX), (18, 0, BOX)], 8: [(15, 0, BOX)], 9: [(1, 1, {"size": [20, 30], "counts": [300, 300]})]}


def instances() -> dict:
    objects = [(image, *o) for image, found in OBJECTS.items() for o in found]
    return {"images": [{"id": i, "file_name": f"{i:012d}.jpg", "height": 20, "width": 30} for i in OBJECTS],
            "categories": [{"id": i, "name": n} for i, n in zip(COCO.ids, COCO.names)],
            "annotations": [{"id": k, "image_id": i, "category_id": c, "iscrowd": crowd, "segmentation": s}
                            for k, (i, c, crowd, s) in enumerate(objects)]}


@pytest.fixture
def coco(tmp_path, monkeypatch) -> Path:
    "A COCO of three images in each part; the working directory is beside it."
    root = tmp_path / "data/coco"
    for part in ("train2017", "val2017"):
        (root / "images" / part).mkdir(parents=True)
        for i in OBJECTS:
            Image.new("RGB", (30, 20)).save(root / f"images/{part}/{i:012d}.jpg")
    (root / "annotations").mkdir()
    write_instances(root, instances())
    (tmp_path / "settings.ini").write_text("", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return root


def write_instances(root: Path, content: dict) -> None:
    for part in ("train2017", "val2017"):
        (root / f"annotations/instances_{part}.json").write_text(json.dumps(content), encoding="utf-8")


def refused(root: Path, *words: str, **arguments) -> None:
    with pytest.raises(InputError) as raised:
        open_coco(root, **arguments)
    assert all(w in str(raised.value) for w in words), raised.value


def test_covered_objects_and_crowds(coco):
    "The bus is wholly covered by the dog: no pixel, no label. The crowd has a label and no pixel."
    train = open_coco(coco).train
    assert [np.flatnonzero(row).tolist() for row in train.labels] == [[18], [15], [1]]
    assert [np.unique(train.read(k)).tolist() for k in range(3)] == [[0, 18], [0, 15], [0, 255]]
    annotated = annotated_labels(read_annotations(coco / "annotations/instances_train2017.json"), train.ids)
    assert np.flatnonzero(annotated[0]).tolist() == [6, 18]


def test_nothing_is_printed(coco, capsys):
    open_coco(coco)
    assert capsys.readouterr().out == ""


def test_flat_layout_and_lists(coco):
    shutil.move(coco / "images/train2017", coco / "train2017")
    (coco / "split").mkdir()
    (coco / "split/train.txt").write_text("000000000009\n000000000007\n", encoding="utf-8")
    train = open_coco(coco).train
    assert train.name == "train" and train.ids == ("000000000009", "000000000007")
    assert {p.stem for p in (coco / "masks/train2017").glob("*.png")} == {*train.ids}
    (coco / "split/train.txt").unlink()  # another list: what is drawn stays, the rest is added
    stamp = train.masks[0].stat().st_mtime_ns
    whole = open_coco(coco).train
    assert len(whole) == 3 and train.masks[0].stat().st_mtime_ns == stamp


@pytest.mark.parametrize("folder", ["masks", "annotations_my", "annotations"])
def test_masks_in_category_ids(coco, folder):
    "A user's own masks are used as they are, and never drawn over."
    made = coco / folder / "train2017"
    made.mkdir(parents=True)
    for i in OBJECTS:
        write_mask(made / f"{i:012d}.png", np.full((20, 30), 90, np.uint8))
    train = open_coco(coco).train
    assert train.values is None and train.labels[:, 90].all() and train.labels.sum() == 3
    assert train.masks[0].parent == made and (read_mask(train.masks[0]) == 90).all()


def test_stuffthingmaps(coco):
    made = coco / "stuffthingmaps/train2017"
    made.mkdir(parents=True)
    for i in OBJECTS:
        write_mask(made / f"{i:012d}.png", np.repeat(np.array([[0, 89, 91, 181, 255]], np.uint8), 6, 1).repeat(20, 0))
    train = open_coco(coco).train
    assert train.values == STUFFTHINGMAPS and train.read(0)[0, ::6].tolist() == [1, 90, 0, 0, 255]
    assert np.flatnonzero(train.labels.any(0)).tolist() == [1, 90]
    write_mask(made / f"{7:012d}.png", np.full((20, 30), 11, np.uint8))  # id 12 is one of COCO's holes
    refused(coco, "numbers of two numberings", "91, 181", "stuffthingmaps", "11 (the first in 000000000007.png)")


def test_changed_annotations_are_drawn_anew(coco):
    before = open_coco(coco).train
    content = instances()
    content["annotations"] = content["annotations"][2:]
    write_instances(coco, content)
    after = open_coco(coco).train
    assert not after.labels[0].any() and not after.read(0).any() and after.fingerprint != before.fingerprint


def test_interrupted_drawing_goes_on(coco, monkeypatch):
    "The table is written last: until then nothing counts as drawn, and no PNG is a part of one."
    path = coco / "annotations/instances_train2017.json"
    annotations, ids = read_annotations(path), [f"{i:012d}" for i in OBJECTS]
    images = [coco / f"images/train2017/{i}.jpg" for i in ids]
    images[2].rename(aside := coco / "later.jpg")
    with pytest.raises(InputError, match="is missing"):
        draw_masks(annotations, ids, images, coco / "made", "drawn from these")
    assert not ids_with_masks(coco / "made", "drawn from these")
    aside.rename(images[2])
    drawn = []
    monkeypatch.setattr("wilson.formats.coco_annotations.draw_mask", lambda a, i, problems: drawn.append(i) or draw_mask(a, i, problems))
    draw_masks(annotations, ids, images, coco / "made", "drawn from these")
    assert drawn == ids[2:] and ids_with_masks(coco / "made", "drawn from these") == {*ids}
    assert [np.flatnonzero(row).tolist() for row in read_labels(coco / "made" / LABELS_FILE, ids, COCO)] == [[18], [15], [1]]
    assert sorted(p.name for p in (coco / "made").iterdir()) == sorted([*(f"{i}.png" for i in ids), LABELS_FILE])


def test_data_that_cannot_be_written_to(coco):
    (coco / "masks").write_text("in the way", encoding="utf-8")
    data = open_coco(coco)
    assert all(s.masks[0].is_relative_to(Path("runs/masks").resolve()) for s in (data.train, data.val))
    Path("elsewhere").write_text("in the way too", encoding="utf-8")
    write_instances(coco, instances() | {"info": {}})
    refused(coco, "neither", "can be written", masks_dir="elsewhere")


@pytest.mark.parametrize("change, words", [
    (lambda root: shutil.rmtree(root / "annotations"), ("no masks of train2017", "instances_train2017.json")),
    (lambda root: shutil.rmtree(root / "images"), ("neither images/train2017/ nor train2017/",)),
    (lambda root: [p.unlink() for p in (root / "images/train2017").iterdir()], ("holds no image",)),
    (lambda root: (root / "images/train2017/000000000008.jpg").unlink(), ("1 images that", "000000000008")),
    (lambda root: Image.new("RGB", (9, 9)).save(root / "images/train2017/x.jpg"), ("nothing on 1 of the 4", "first x")),
    (lambda root: Image.new("RGB", (9, 9)).save(root / "images/train2017/000000000007.jpg"), ("30×20", "9×9")),
    (lambda root: write_instances(root, []), ("not an instances file",)),
    (lambda root: write_instances(root, instances() | {"images": [], "annotations": []}), ("names no image",)),
    (lambda root: write_instances(root, instances() | {"categories": []}), ("has no category",)),
])
def test_wrong_folders(coco, change, words):
    change(coco)
    refused(coco, *words)


def test_wrong_folder_after_drawing(coco):
    "Masks once drawn do not hide that an image has gone."
    open_coco(coco)
    (coco / "images/train2017/000000000008.jpg").unlink()
    refused(coco, "1 images that", "000000000008")


def test_without_pycocotools(coco, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    refused(coco, "pip install pycocotools", "stuffthingmaps/")


def test_labels_in_place_of_masks(coco):
    shutil.rmtree(coco / "annotations")
    (coco / "labels.csv").write_text("".join(f"{i:012d},dog,bus\n" for i in OBJECTS), encoding="utf-8")
    data = open_coco(coco, image_labels=coco / "labels.csv")
    assert data.train.masks is None and np.flatnonzero(data.train.labels[0]).tolist() == [6, 18]
    refused(coco, "no masks", image_labels="annotations")


# ---------------------------------------------------------------------------------- real ones


@pytest.fixture(scope="session")
def real(shared, tmp_path_factory) -> Path:
    "The small real COCO through links, so that masks are drawn here and not there."
    source = shared / "coco_mini"
    need(source.is_dir() and (shared / "voc_animals").is_dir(), "needs coco_mini and voc_animals in the shared folder")
    root = tmp_path_factory.mktemp("real")
    for name, folder in (("coco", source), ("voc", shared / "voc_animals")):
        (root / name).mkdir()
        for path in folder.iterdir():
            if path.is_dir():
                (root / name / path.name).symlink_to(path, target_is_directory=True)
    voc = root / "voc"
    (voc / "splits").mkdir()
    for name, count in (("train", 40), ("val", 25)):
        ids = (voc / f"ImageSets/Segmentation/{name}_small.txt").read_text(encoding="utf-8").split("\n")
        (voc / f"splits/few_{name}.txt").write_text("\n".join(ids[:count]), encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def mixed(real):
    return open_coco_voc(real / "coco", real / "voc", voc_train_list="few_train", voc_val_list="few_val",
                         labels_dir=real / "labels", masks_dir=real / "masks")


def classes_of(mask: np.ndarray) -> frozenset[int]:
    return frozenset(np.unique(mask).tolist()) - {0, 255}


@pytest.fixture(scope="session")
def published(shared) -> dict[str, frozenset[int]]:
    "Published image-level labels of COCO val2017, category ids by image."
    with np.load(shared / "coco_meta/coco.npz") as meta:
        labels = meta["val_image_labels"]  # N, 91; column = category id - 1
        return {f"{i:012d}": frozenset((np.flatnonzero(row) + 1).tolist()) for i, row in zip(meta["val_ids"], labels)}


def test_labels_are_the_published_ones(mixed, published):
    val = mixed.val
    assert len(val) == 80 and {i: frozenset(np.flatnonzero(row).tolist()) for i, row in zip(val.ids, val.labels)} == {
        i: published[i] for i in val.ids}


@pytest.mark.parametrize("order, agreeing", [(None, 80), (lambda r: -r["area"], 72), (lambda r: r["area"], 72)])
def test_why_the_order_of_the_file(real, published, order, agreeing):
    "Large objects first or small ones first contradict the published labels in 8 images of 80."
    path = real / "coco/annotations/instances_val2017.json"
    annotations = read_annotations(path)
    area = {a["id"]: a["area"] for a in json.loads(path.read_bytes())["annotations"]}
    if order:
        for regions in annotations.regions.values():
            regions.sort(key=lambda r: order({"area": area[r["id"]]}))
    assert sum(classes_of(draw_mask(annotations, i)) == published[i] for i in annotations.sizes) == agreeing


def test_base_step_is_the_published_one(mixed, shared):
    with np.load(shared / "coco_meta/coco.npz") as meta:
        base = {f"{i:012d}" for i in meta["coco_voc_step0_train_ids"]}
    assert len(base) == 23274
    chosen = {mixed.train.ids[k] for k in TASK.step(0).images(mixed.train.labels)}
    assert chosen == base & {*mixed.train.ids} and len(chosen) == 13


def test_voc_step_takes_every_image(shared):
    with np.load(shared / "voc_meta/image_labels.npz") as meta:
        y = meta["train_aug"].astype(bool)
    labels = np.zeros((len(y), 256), bool)
    labels[:, 1:21] = y
    split = to_coco_ids(Split("train_aug", ("",) * len(y), (Path(),) * len(y), labels))
    assert len(TASK.step(1).images(split.labels)) == 10582


def test_samples_of_both_steps(mixed):
    steps = [TASK.step(k) for k in (0, 1)]
    base, new = (training_samples(mixed.train_of(k), steps[k], TrainingCrop(64)) for k in (0, 1))
    seen = [{i for k in range(len(s)) for i in s[0, k].mask.unique().tolist()} for s in (base, new)]
    assert seen[0] <= {*range(61)} and len(seen[0]) > 8 and seen[1] <= {0, *range(61, 81)} and len(seen[1]) > 5
    assert len(new) == 40 and not new.image_labels[:, :60].any() and new.image_labels[:, 60:].any(1).all()


def test_masks_are_vocs_by_name(mixed):
    "What VOC calls a class is what the sample calls it, in training and in validation."
    step, coco_name = TASK.step(1), dict(zip(COCO.ids, COCO.names))
    for split in (mixed.later, mixed.more_val["voc"]):
        for k in range(0, len(split), 5):
            on_disk = read_mask(split.masks[k])
            sample = evaluation_samples(split, step)[0, k].mask.numpy()
            for i, name in zip(VOC.ids, VOC.names):
                where = on_disk == i
                if where.any():
                    assert {step.names[n] for n in np.unique(sample[where])} == {coco_name[VOC_AS_COCO[i]]}
            assert ((on_disk == 255) == (sample == 255)).all() and ((on_disk == 0) == (sample == 0)).all()


def test_both_validations(mixed):
    assert list(mixed.vals) == ["val", "voc"] and [len(s) for s in mixed.vals.values()] == [80, 25]
    assert len(set(mixed.fingerprint.values())) == 5
    step = TASK.step(1)
    seen = {name: {i for k in range(len(s)) for i in np.unique(evaluation_samples(s, step)[0, k].mask).tolist()} - {0, 255}
            for name, s in mixed.vals.items()}
    assert len(seen["val"] & {*range(1, 61)}) > 40 and len(seen["val"] & {*range(61, 81)}) > 12
    assert seen["voc"] <= {*range(61, 81)}
    before = evaluation_samples(mixed.vals["voc"], TASK.step(0))
    assert {i for k in range(25) for i in np.unique(before[0, k].mask).tolist()} == {0, 255}


def test_pseudo_labels_in_vocs_numbers(mixed, tmp_path):
    "VOC's own pseudo-labels serve the step under COCO's ids; class 21 is no class of VOC."
    part = mixed.later.at(range(3))
    for i, path in zip(part.ids, part.masks):
        shutil.copy(path, tmp_path / f"{i}.png")
    split, coverage = pseudo_label_split(part, tmp_path, mixed.classes, VOC_IDS)
    assert (split.read(0) == part.read(0)).all() and coverage.unfound == 0 and coverage.images == 3
    write_mask(tmp_path / f"{part.ids[1]}.png", np.full_like(part.read(1), 21))
    with pytest.raises(InputError, match=rf"{part.ids[1]}.png holds the ids \[21\].*0 to 20, 255"):
        pseudo_label_split(part, tmp_path, mixed.classes, VOC_IDS)
    with pytest.raises(InputError, match="Classes of other steps"):
        pseudo_label_split(part, mixed.later.masks[0].parent, mixed.classes, (1,))


# ---------------------------------------------------------------------------------- trained


@pytest.fixture
def both(shared, tmp_path, monkeypatch) -> Path:
    "A root with a part of real COCO and of real VOC, by links and lists of a few images."
    for name, images in (("coco", "coco_mini"), ("voc", "voc_animals")):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        for part in (shared / images).iterdir():
            if part.name != "ImageSets":
                (folder / part.name).symlink_to(part)
    base = {f"{i:012d}" for i in np.load(shared / "coco_meta/coco.npz")["coco_voc_step0_train_ids"]}
    train = sorted(p.stem for p in (shared / "coco_mini/images/train2017").iterdir())
    val = sorted(p.stem for p in (shared / "coco_mini/images/val2017").iterdir())
    write_lists(tmp_path / "data/coco/split", train=[i for i in train if i in base], val=val[:6])
    ids = (shared / "voc_animals/ImageSets/Segmentation/train_small.txt").read_text(encoding="utf-8").split()
    write_lists(tmp_path / "data/voc/splits", train=ids[::100], val=ids[50:60])
    (tmp_path / "settings.ini").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_lists(folder: Path, **lists: list[str]) -> None:
    folder.mkdir()
    for name, ids in lists.items():
        (folder / f"{name}.txt").write_text("".join(f"{i}\n" for i in ids), encoding="utf-8")


def test_coco_to_voc_end_to_end(both):
    "60 classes on COCO with masks, then 20 on VOC from labels alone; scored on both; opened and scored again."
    from wilson.run.config import parse_config
    from wilson.experiments.train import run_training
    from wilson.analysis.results import evaluate_saved_step, result_table
    small = dict(dataset="coco-voc", task="voc", preset="shapes", train_list="train", voc_train_list="train", batch_size=4,
                 epochs="1", crop_size=48, pseudo_epoch=0, device="cpu")
    base, later = run_training(parse_config(small))
    assert set(base.metrics["scores"]) == {"published", "whole"}  # VOC shows no class of the base step
    assert set(later.metrics["scores"]) == {"published", "whole", "voc published", "voc whole"}
    record = json.loads((later.path / "config.json").read_text(encoding="utf-8"))
    assert record["classes_per_step"] == [61, 20] and "later_data" in record["data"] and "voc_val_data" in record["data"]
    assert later.metrics["pseudo_labels"]["target"]["images"] == record["data"]["images"] == 17
    assert later.metrics["scores"]["voc published"]["miou"]["new"] is not None
    assert evaluate_saved_step(later.path).metrics["scores"] == later.metrics["scores"]
    assert "voc published" in str(result_table([base, later]))
    with pytest.raises(InputError, match="method=joint with dataset=coco-voc"):
        run_training(parse_config(small | {"method": "joint", "pseudo_epoch": None}))
