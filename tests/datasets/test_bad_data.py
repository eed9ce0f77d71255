"""Broken or unusual data: training names the file and the remedy, verify lists it; what is only unusual works."""
# ruff: noqa: F811 (fixtures are parameters)
from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commands import files, mounted, refused, run, says
from farm import FARM, FIRST, SHOWN, TRAIN, image, listed, made, mask, root  # noqa: F401 (two are fixtures)
from PIL import Image

from wilson.core.errors import InputError
from wilson.data.classes import Classes
from wilson.data.image_io import read_image, read_mask, write_mask
from wilson.data.splits import SegmentationFolder
from wilson.datasets.base import Location
from wilson.datasets.custom import find_dataset
from wilson.datasets.shapes import draw_scene
from wilson.engine.step_folder import StepFolder

BASE, LATER = (Path(f"runs/farm-2-1-overlap/{run}") for run in ("base-s42/step0", "wilson-s42/step1"))


def opened() -> SegmentationFolder:
    return find_dataset("farm", FARM).open(Location(FARM))


def rewritten(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def listing(name: str = "train") -> Path:
    return FARM / f"splits/{name}.txt"


# ------------------------------------------------------------------------- what is refused


def two_files() -> None:
    Image.new("RGB", (64, 64)).save(image(suffix=".png"))


def labels_in(encoding: str, text: str) -> Callable[[], int]:
    return lambda: (FARM / "labels.csv").write_bytes(text.encode(encoding))


BROKEN = {  # what is done to the data, what training says, what verify says
    "truncated JPEG": (lambda: rewritten(image(), lambda b: b[:-400]), [
        "JPEGImages/train00.jpg cannot be read as an image", "truncated", "replace the file"],
        ["E data/farm/JPEGImages/train00.jpg is a broken JPEG", "replace the file"]),
    "empty JPEG": (lambda: image().write_bytes(b""), [
        "JPEGImages/train00.jpg cannot be read as an image", "replace the file"],
        ["E data/farm/JPEGImages/train00.jpg is empty (0 bytes)", "replace the file"]),
    "empty mask": (lambda: mask().write_bytes(b""), [
        "SegmentationClass/train00.png cannot be read as a mask", "replace the file"],
        ["E data/farm/SegmentationClass/train00.png is empty (0 bytes)", "replace the file"]),
    "16-bit mask": (lambda: Image.fromarray(np.ones((64, 64), np.uint16)).save(mask()), [
        "SegmentationClass/train00.png has mode I;16, expected an 8-bit PNG of class ids", "save its class ids"],
        ["E data/farm/SegmentationClass/train00.png has mode I;16", "save its class ids as an 8-bit PNG"]),
    "RGB mask": (lambda: Image.new("RGB", (64, 64)).save(mask()), [
        "SegmentationClass/train00.png has mode RGB, expected an 8-bit PNG of class ids", "wilson prepare"],
        ["E data/farm/SegmentationClass/train00.png has mode RGB", "save its class ids as an 8-bit PNG"]),
    "4-bit mask": (lambda: Image.new("L", (64, 64), 1).save(mask(), bits=4), [
        "SegmentationClass/train00.png is a grey PNG of 4 bits", "8-bit PNG"],
        ["E data/farm/SegmentationClass/train00.png is a grey PNG of 4 bits", "save its class ids as an 8-bit PNG"]),
    "mask of no class": (lambda: write_mask(mask(), np.full((64, 64), 4, np.uint8)), [
        "SegmentationClass/train00.png holds the ids [4]", "farm has 0 (background), 1 to 3, and 255 (void)"],
        ["E data/farm/SegmentationClass/train00.png holds 4 (4,096 pixels), expected 0 to 3, 255"]),
    "mask without its image": (lambda: image().unlink(), [
        "splits/train.txt names 1 of 25 images that", "JPEGImages does not hold, the first train00", "restore them"],
        ["E data/farm/JPEGImages/train00.jpg is missing, but a list names it", "restore it"]),
    "image without its mask": (lambda: mask().unlink(), [
        "SegmentationClass/train00.png is missing", "add the mask"],
        ["E data/farm/SegmentationClass/train00.png is missing", "add the mask"]),
    "empty list": (lambda: listing().write_text(" \n\n", encoding="utf-8"), [
        "splits/train.txt is empty", "one image id a line"], ["train"]),
    "an id twice": (lambda: rewritten(listing(), lambda b: b + b"train00.jpg\n"), [
        "splits/train.txt names 1 images twice, the first train00", "keep one line"],
        ["E list train names train00 2 times; leave one of them"]),
    "trained and validated on": (lambda: rewritten(listing(), lambda b: b + b"val00\n"), [
        "splits/train.txt and in val.txt, the first val00", "Take them out of one"],
        ["E data/farm/JPEGImages/val00.jpg is in list train, to train on, and in list val; take val00 out"]),
    "list not in UTF-8": (lambda: rewritten(listing(), lambda b: b + "Kühe\n".encode("latin-1")), [
        "splits/train.txt is not in UTF-8 (byte 201)", "save it in that encoding"],
        ["refused", "splits/train.txt is not in UTF-8 (byte 201)"]),
    "list in UTF-16": (lambda: rewritten(listing(), lambda b: b.decode().encode("utf-16")), [
        "splits/train.txt is not in UTF-8", "save it in that encoding"],
        ["refused", "splits/train.txt is not in UTF-8"]),
    "labels not in UTF-8": (labels_in("latin-1", "train00,cow\nKühe,horse\n"), [
        "labels.csv is not in UTF-8 (byte 13)", "save it in that encoding"],
        ["refused", "labels.csv is not in UTF-8 (byte 13)"]),
    "labels of an unknown class": (labels_in("utf-8", "train00,caw\n"), [
        "labels.csv: farm has no class for one name: 'caw' (line 1, near 'cow')"],
        ["refused", "labels.csv: farm has no class for one name: 'caw'"]),
    "labels of one image twice": (labels_in("utf-8", "train00,cow,sheep\ntrain00.jpg,horse\n"), [
        "labels.csv names the image train00 twice", "keep one line with all its classes"],
        ["refused", "labels.csv names the image train00 twice"]),
    "labels of an unknown image": (labels_in("utf-8", "train00,cow\ntrian01,horse\n"), [
        "labels.csv names 1 images that", "JPEGImages does not hold, the first trian01", "restore them",
        "Did you mean 'train01'"], ["trian01"]),
    "one id, two images": (two_files, [
        "JPEGImages contains train00.jpg and train00.png: one id, two images", "remove or rename one"], ["train00.png"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_training_names_it(case, root, capsys):
    spoil, said, _ = BROKEN[case]
    spoil()
    message = refused(capsys, *TRAIN, new_files=case == "truncated JPEG")  # found when its pixels are wanted
    says(message, *said)
    assert message.count("\n") == 1


@pytest.mark.parametrize("case", BROKEN)
def test_verify_lists_it(case, root):
    spoil, _, said = BROKEN[case]
    spoil()
    before = files(root)
    says(listed(), *said)
    assert {n: f for n, f in files(root).items() if "image_labels-" not in n} == before, "verify only looks"


def test_verify_lists_it_beside_other_problems(root):
    two_files()
    image("train05").write_bytes(b"")
    says(listed(), "train05.jpg is empty", "train00.png")


def test_labels_against_the_masks_are_listed(root):
    "Training goes by the table, as it is told; only verify can know."
    (FARM / "labels.csv").write_text("train00,sheep\n", encoding="utf-8")
    assert np.flatnonzero(opened().train.labels[0]).tolist() == [3]
    says(listed(), "n data/farm/JPEGImages/train00.jpg is labelled sheep, which its mask does not show",
         "E data/farm/JPEGImages/train00.jpg is not labelled cow, which its mask shows; correct the labels or the mask")


# ------------------------------------------------------------------------- what is only unusual


@pytest.mark.parametrize("mode", ["CMYK", "L"])
def test_colours_of_unusual_jpegs(mode, root):
    "CMYK and grey are read in the colours of the original, a step trains on them, and verify notes them."
    scene = Image.fromarray(draw_scene(np.random.default_rng(5), 64, [1, 2])[0])
    scene.convert(mode).save(image(), quality=95)
    expected = np.array(scene.convert("L").convert("RGB") if mode == "L" else scene, int)
    assert abs(read_image(image()).permute(1, 2, 0).numpy() - expected).mean() < 3
    assert run(*TRAIN, "--step", 0) == 0 and StepFolder(root / BASE).state == "finished"
    assert listed().startswith("n data/farm/JPEGImages/train00.jpg is " + {"L": "grey"}.get(mode, mode))


AS_STORED = {  # EXIF orientation → what makes an upright picture the stored one
    1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270}


def turned(path: Path, upright: Image.Image, orientation: int) -> None:
    "Store a picture so that viewers show `apply_orientation`."
    exif, how = Image.Exif(), AS_STORED[orientation]
    exif[0x0112] = orientation
    (upright if how is None else upright.transpose(how)).save(path, format="JPEG", exif=exif, quality=95)


@pytest.mark.parametrize("orientation", AS_STORED)
def test_turned_images_are_read_upright(orientation, tmp_path):
    upright = Image.fromarray(draw_scene(np.random.default_rng(5), 64, [1])[0][:, :48])
    turned(tmp_path / "a.jpg", upright, orientation)
    read = read_image(tmp_path / "a.jpg").permute(1, 2, 0).numpy()
    assert read.shape == (64, 48, 3) and abs(read - np.array(upright, int)).mean() < 8  # JPEG of a noisy picture


@pytest.fixture
def upright_mask(root) -> np.ndarray:
    "The first image is 48 wide and 64 high, stored lying on its side; the mask that belongs to it."
    scene, ids = draw_scene(np.random.default_rng(5), 64, [1])
    turned(image(), Image.fromarray(scene[:, :48]), 6)
    return np.ascontiguousarray(ids[:, :48])


def test_turned_image_with_an_upright_mask(upright_mask, root):
    write_mask(mask(), upright_mask)
    assert run(*TRAIN, "--step", 0) == 0 and StepFolder(root / BASE).state == "finished"
    said = listed()
    says(said, "n data/farm/JPEGImages/train00.jpg is stored 64×48 and turned upright by EXIF orientation 6")
    assert "E " not in said


def test_turned_image_with_a_mask_as_stored(upright_mask, root, capsys):
    write_mask(mask(), np.ascontiguousarray(np.rot90(upright_mask)))
    says(refused(capsys, *TRAIN), "train00.png is 64×48 but train00.jpg is 48×64", "EXIF", "turn the mask like it")
    says(listed(), "E data/farm/SegmentationClass/train00.png is 64×48 like the stored pixels of train00.jpg",
         "EXIF orientation 6", "turn the mask as viewers turn the image")


# ------------------------------------------------------------------------- names


def decomposed(name: str) -> str:
    return unicodedata.normalize("NFD", name)


NAMES = {  # file on disk → line of the list
    "a cow in the field.jpg": "a cow in the field",
    "Kühe.jpg": decomposed("Kühe"),
    decomposed("Öchslein.jpg"): "Öchslein",
    "farm.2024.05.01.jpg": "farm.2024.05.01",
    "SHEEP.JPG": "SHEEP",
    "cow, horse and sheep.jpeg": "cow, horse and sheep",
    "-dash.jpg": "-dash",
    'a "cow".jpg': 'a "cow"',
    "牛.jpg": "牛.jpg",
}


def renamed(old: str, on_disk: str, line: str) -> None:
    image(old).rename(FARM / "JPEGImages" / on_disk)
    mask(old).rename(FARM / "SegmentationClass" / f"{on_disk.rpartition('.')[0]}.png")
    rewritten(listing(), lambda b: b.replace(f"{old}\n".encode(), f"{line}\n".encode()))


def test_unusual_names_train(root, capsys):
    "A whole task; the second time, when the labels are read from their file, it is all there."
    for n, (on_disk, line) in enumerate(NAMES.items()):
        renamed(f"train{n:02}", on_disk, line)
    labels = opened().train.labels
    assert [np.flatnonzero(row).tolist() for row in labels[:5]] == [*SHOWN]
    assert run(*TRAIN) == 0 and StepFolder(root / LATER).state == "finished"
    assert np.array_equal(opened().train.labels, labels) and listed() == ""
    assert run(*TRAIN) == 0 and capsys.readouterr().out.count("used as it is") == 2


@pytest.mark.parametrize("name", ["#1", "image", "id", "file"])
def test_names_in_the_kept_labels(name, root):
    renamed(FIRST, f"{name}.jpg", name)
    labels = opened().train.labels
    assert np.array_equal(opened().train.labels, labels)


# ------------------------------------------------------------------------- lists and tables


@pytest.mark.parametrize("change", [
    lambda b: b.replace(b"\n", b"\r\n"), lambda b: b.replace(b"\n", b"\r"), lambda b: b"\xef\xbb\xbf" + b,
    lambda b: b.replace(b"\n", b" \t\n"), lambda b: b"\n" + b.replace(b"\n", b"\n\n"), lambda b: b.rstrip(),
    lambda b: b.replace(b"\n", b".jpg\n"), lambda b: b"".join(b"/JPEGImages/%s.jpg /masks/%s.png\n" % (i, i)
                                                              for i in b.split())],
    ids=["CRLF", "CR", "BOM", "trailing blanks", "empty lines", "no last newline", "file names", "two paths a line"])
def test_list_of_any_system(change, root):
    before = opened().train
    rewritten(listing(), change)
    after = opened().train
    assert after.ids == before.ids and after.images == before.images and after.masks == before.masks
    assert listed() == ""


@pytest.mark.parametrize("content", [
    b"image,class\r\ntrain00,cow\r\ntrain04,horse,sheep\r\n", b"image;class\ntrain00;cow\ntrain04;horse;sheep\n",
    b"\xef\xbb\xbftrain00,cow\ntrain04,horse,sheep\n", b"\xef\xbb\xbfimage;class;class\r\ntrain00;cow;\r\n"
    b"train04;horse;sheep\r\n", b"# made by hand\n\nfile, class\ntrain00.jpg, cow\n\ntrain04.jpg, horse, sheep",
    b'"image","class"\n"train00","cow"\n"train04","horse","sheep"\n'],
    ids=["CRLF", "semicolons", "BOM", "BOM, CRLF, semicolons and empty cells", "comment and blanks", "quotes"])
def test_labels_of_any_system(content, root):
    "Two images without masks; the others have theirs."
    for name in ("train00", "train04"):
        mask(name).unlink()
    (FARM / "labels.csv").write_bytes(content)
    train = opened().train
    assert [np.flatnonzero(train.labels[n]).tolist() for n in range(5)] == [*SHOWN]
    assert train.masks[0] is None and train.masks[4] is None and train.masks[1] is not None
    assert "E " not in listed() and "2 of 25 images without a mask" in listed()


def test_image_with_neither_mask_nor_label(root, capsys):
    (FARM / "labels.csv").write_text("train04,horse,sheep\n", encoding="utf-8")
    mask().unlink()
    says(refused(capsys, *TRAIN), "labels.csv has no line for 1 images", "the first train00", "add `train00,class,…`")
    says(listed(), "n data/farm/JPEGImages/train00.jpg has no class among its image-level labels")


# ------------------------------------------------------------------------- the dataset file


CLASSES = 'classes = ["cow", "horse", "sheep"]\n'


@pytest.mark.parametrize("text, expected", [
    ('classes = ["cow"', ["is not valid TOML"]),
    ('class = ["cow"]', ["has a part 'class'", "Did you mean 'classes'"]),
    ("", ["lists no classes", 'classes = ["cow", "horse"]']),
    ('classes = "cow"', ["lists no classes", 'classes = ["cow", "horse"]']),
    ("classes = []", ["lists no classes"]),
    ('classes = ["cow", "cow"]', ["a class is listed twice"]),
    ('classes = ["cow", "background"]', ["a class 'background'", "are there anyway"]),
    ('classes = ["cow|horse"]', ["a class 'cow|horse'", "without |"]),
    ("[classes]\ncow = 0", ["cow = 0", "1 to 254"]),
    ("[classes]\ncow = 255", ["cow = 255", "1 to 254"]),
    ('[classes]\ncow = "1"', ["cow = '1'", "1 to 254"]),
    ("[classes]\ncow = 1\nhorse = 1", ["two classes have one number"]),
    (f"classes = {[f'c{n}' for n in range(300)]}", ["lists 300 classes", "at most 252"]),
    (CLASSES + 'name = "voc"', ["name = 'voc'", "no name of a known data set"]),
    (CLASSES + 'name = "a/b"', ["name = 'a/b'", "letters, digits"]),
    (CLASSES + '[colours]\ncow = "red"', ["cow = 'red'", 'a colour like "#d55e00"']),
    (CLASSES + "[colours]\ncow = [300, 0, 0]", ["cow = [300, 0, 0]", "[213, 94, 0]"]),
    (CLASSES + '[colours]\ncaw = "#ff0000"', ["a colour of 'caw'", "Did you mean 'cow'"]),
    (CLASSES + '[colours]\ncow = "#ff0000"\nsheep = "#ff0000"', ["the colour of another class"]),
    (CLASSES + '[tasks]\n2-1 = "cow, caw | sheep"', ["task '2-1'", "no class 'caw'", "Did you mean 'cow'"]),
    (CLASSES + '[tasks]\n2-1 = "cow | "', ["task '2-1'", "step 1 names no class"]),
    (CLASSES + '[tasks]\n2-2 = "cow | horse"', ["task='2-1' is not a protocol of farm", "Did you mean '2-2'"]),
])
def test_dataset_file(text, expected, root, capsys):
    (FARM / "dataset.toml").write_text(text + "\n", encoding="utf-8")
    message = refused(capsys, *TRAIN)
    says(message, *expected)
    if "is not a protocol" not in message:
        says(message, "data/farm/dataset.toml")
        says(listed(), "refused", *expected)


def test_dataset_file_not_in_utf_8(root, capsys):
    rewritten(FARM / "dataset.toml", lambda b: "# Kühe\n".encode("latin-1") + b)
    says(refused(capsys, *TRAIN), "dataset.toml is not in UTF-8 (byte 3)", "save it in that encoding")


def test_no_dataset_file(root, capsys):
    (FARM / "dataset.toml").unlink()
    says(refused(capsys, *TRAIN), "dataset='farm' is not known", "there is no", "data/farm/dataset.toml", "Known: voc")


@pytest.mark.parametrize("text", [
    'classes = [["cow"], "horse"]', CLASSES + 'colours = ["#ff0000"]', CLASSES + 'tasks = "2-1"',
    CLASSES + "[colours]\ncow = [[1], 2, 3]"])
def test_dataset_file_of_other_shapes(text, root, capsys):
    (FARM / "dataset.toml").write_text(text + "\n", encoding="utf-8")
    says(refused(capsys, *TRAIN), "data/farm/dataset.toml")


def test_class_with_a_blank_around(root):
    "Refused, or taken without the blank; but the same the second time."
    (FARM / "dataset.toml").write_text('classes = [" cow", "horse", "sheep"]\n', encoding="utf-8")
    try:
        opened()
    except InputError as e:
        says(str(e), "dataset.toml", "' cow'")
    else:
        opened()


def test_numbers_and_colours_of_ones_own(root):
    (FARM / "dataset.toml").write_text('[classes]\ncow = 3\nhorse = 1\nsheep = 2\n\n[colours]\ncow = "#d55e00"\n', encoding="utf-8")
    classes = find_dataset("farm", FARM).classes
    assert classes == Classes("farm", ("cow", "horse", "sheep"), (3, 1, 2), ((213, 94, 0), (128, 0, 0), (0, 128, 0)))
    assert np.flatnonzero(opened().train.labels[0]).tolist() == np.setdiff1d(read_mask(mask()), [0, 255]).tolist()


# ------------------------------------------------------------------------- a folder that is not ours


def test_read_only_data(root):
    "Data of one's own that cannot be written to is trained on, images without masks included."
    (FARM / "labels.csv").write_text("train00,cow\n", encoding="utf-8")
    mask().unlink()
    before = files(root / "data")
    done = mounted(root, "mount --bind data data && mount -o remount,ro,bind data", "true", *TRAIN, "--step", 0)
    assert done.returncode == 0, done.stderr
    assert StepFolder(root / BASE).state == "finished" and files(root / "data") == before
    assert len(list((root / "runs/image_labels").rglob("*.csv"))) == 2
    says((root / BASE / "log.txt").read_text(encoding="utf-8"), "1 without a mask left out")
