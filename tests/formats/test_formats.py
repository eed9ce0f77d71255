"""Folders of many formats become data sets; those of none are described."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import says
from PIL import Image

from wilson.core.errors import InputError
from wilson.data.classes import VOC, palette
from wilson.data.image_io import image_size, read_image, read_mask
from wilson.datasets.prepare import prepare_dataset
from wilson.formats.base import Problems
from wilson.formats.dataset_file import read_dataset_file
from wilson.formats.recognition import recognize
from wilson.formats.survey import survey

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 255, (48, 64, 3), dtype=np.uint8)
SQUARE = np.zeros((48, 64), np.uint8)
SQUARE[10:30, 10:40] = 1
TOML = 'classes = ["cow", "hen"]\n'


@pytest.fixture
def raw(tmp_path, monkeypatch) -> Path:
    "A folder for raw data beside the root folder, which is the working directory."
    (tmp_path / "root/data").mkdir(parents=True)
    (tmp_path / "root/settings.ini").touch()
    monkeypatch.chdir(tmp_path / "root")
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


def save(path: Path, array: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if "palette" in options:
        image.putpalette(options.pop("palette"))
    image.save(path, **options)


def pairs(raw: Path, ext: str = ".jpg", mask_ext: str = ".png", toml: str | None = TOML, masks=lambda n: SQUARE * (1 + n % 2), n: int = 4) -> None:
    for k in range(n):
        save(raw / f"images/im{k}{ext}", PHOTO)
        save(raw / f"masks/im{k}{mask_ext}", masks(k))
    if toml:
        (raw / "dataset.toml").write_text(toml, encoding="utf-8")


def made(raw: Path, name: str = "farm", **options) -> tuple[Path, str]:
    lines: list[str] = []
    done = prepare_dataset(name, raw, say=lines.append, **options)
    return done.root, "\n".join(lines)


def refusal(raw: Path, *words: str, **options) -> str:
    with pytest.raises(InputError) as error:
        made(raw, **options)
    says(str(error.value), *words)
    return str(error.value)


def masks_of(root: Path) -> dict[str, np.ndarray]:
    return {p.stem: read_mask(p) for p in sorted((root / "SegmentationClass").glob("*.png"))}


# ------------------------------------------------------------------------- images and masks


@pytest.mark.parametrize("ext", [".jpg", ".png", ".webp", ".bmp", ".tif", ".TIFF"])
def test_kinds_of_images(raw, ext):
    pairs(raw, ext)
    root, _ = made(raw)
    image = next((root / "JPEGImages").iterdir())
    assert read_image(image).shape == (3, 48, 64) and image_size(image) == (48, 64)


@pytest.mark.parametrize("mask_ext", [".png", ".bmp", ".tif"])
def test_kinds_of_masks(raw, mask_ext):
    pairs(raw, mask_ext=mask_ext)
    root, _ = made(raw)
    assert {i: int(m.max()) for i, m in masks_of(root).items()} == {"im0": 1, "im1": 2, "im2": 1, "im3": 2}


def test_a_tiff_of_several_pages_or_16_bits_is_named(tmp_path):
    pages = [Image.fromarray(PHOTO)] * 2
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(InputError, match="pages.tif.*2 frames"):
        read_image(tmp_path / "pages.tif")
    Image.fromarray(SQUARE.astype(np.uint16)).save(tmp_path / "deep.tif")
    with pytest.raises(InputError, match="deep.tif.*more than 8 bits.*8 bits a channel"):
        read_image(tmp_path / "deep.tif")


def test_a_turned_tiff_is_read_upright_and_its_size_says_so(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PHOTO).save(tmp_path / "turned.tif", exif=exif)
    assert read_image(tmp_path / "turned.tif").shape[1:] == image_size(tmp_path / "turned.tif")


def test_black_and_white_masks_need_a_class(raw):
    pairs(raw, masks=lambda n: SQUARE * 255)
    refusal(raw, "only 0 and 255", "void", "[mask_values]", '"cow" = 255')
    (raw / "dataset.toml").write_text(TOML + "[mask_values]\ncow = 255\n", encoding="utf-8")
    root, _ = made(raw)
    assert {int(m.max()) for m in masks_of(root).values()} == {1}


def test_black_and_white_masks_of_one_bit_as_bmp(raw):
    pairs(raw, toml=TOML + "[mask_values]\nhen = 255\n")
    for path in (raw / "masks").iterdir():
        Image.fromarray(SQUARE * 255).convert("1").save(path.with_suffix(".bmp"))
        path.unlink()
    root, _ = made(raw)
    assert {int(m.max()) for m in masks_of(root).values()} == {2}


def test_masks_without_a_dataset_file_say_what_to_write(raw):
    pairs(raw, toml=None)
    refusal(raw, "the numbers 0, 1, 2", "[classes]", "class1 = 1")
    for k in range(4):
        save(raw / f"masks/im{k}.png", palette()[SQUARE * 3])
    (raw / "masks/im0.png").unlink()
    refusal(raw, "the colours #808000", "[colours]")


def test_masks_as_jpeg_are_refused(raw):
    pairs(raw, mask_ext=".jpg")
    refusal(raw, "masks", "is a JPEG", "export it anew")


def test_folders_in_folders(raw):
    for folder in ("a", "b"):
        for k in range(2):
            save(raw / f"images/{folder}/{k}.jpg", PHOTO)
            save(raw / f"masks/{folder}/{k}.png", SQUARE)
    (raw / "dataset.toml").write_text(TOML, encoding="utf-8")
    (raw / "train.txt").write_text("a/0.jpg\nimages/a/1.jpg\nb/0\n", encoding="utf-8")
    root, _ = made(raw)
    assert [*masks_of(root)] == ["a__0", "a__1", "b__0", "b__1"]
    assert (root / "splits/train.txt").read_text(encoding="utf-8").split() == ["a__0", "a__1", "b__0"]
    (raw / "train.txt").write_text("0.jpg\n", encoding="utf-8")
    refusal(raw, "train.txt names 0.jpg", "2 images have that name", name="other")


def test_splits_as_folders(raw):
    for split in ("training", "validation"):
        for k in range(2):
            save(raw / f"{split}/images/{split}{k}.jpg", PHOTO)
            save(raw / f"{split}/masks/{split}{k}.png", SQUARE)
    (raw / "dataset.toml").write_text(TOML, encoding="utf-8")
    root, said = made(raw)
    assert "2 to train on, 2 to validate on" in said and [*masks_of(root)] == ["training0", "training1", "validation0", "validation1"]


def test_masks_with_an_ending_and_masks_beside_their_images(raw):
    for k in range(4):
        save(raw / f"im{k}.jpg", PHOTO)
        save(raw / f"im{k}_mask.png", SQUARE)
    (raw / "dataset.toml").write_text(TOML, encoding="utf-8")
    root, said = made(raw)
    assert "'_mask' after the image's name" in said and [*masks_of(root)] == ["im0", "im1", "im2", "im3"]


def test_a_folder_for_each_class(raw):
    other = np.zeros_like(SQUARE)
    other[20:40, 20:60] = 255
    for k in range(3):
        save(raw / f"images/im{k}.jpg", PHOTO)
        save(raw / f"masks/cow/im{k}.png", SQUARE * 255)
    save(raw / "masks/hen/im0.png", other)
    root, said = made(raw)
    assert read_dataset_file(root / "dataset.toml").classes.names == ("cow", "hen") and "class-folders" in said
    mask = masks_of(root)["im0"]
    assert (mask[12, 12], mask[35, 50], mask[25, 25], mask[0, 0]) == (1, 2, 255, 0)
    save(raw / "masks/hen/im1.png", PHOTO[..., 0])
    refusal(raw, "more than two values", name="other", format="class-folders")


# ------------------------------------------------------------------------- VOC and CVAT


@pytest.mark.parametrize("coded", ["rgb", "palette", "numbers"])
def test_voc_in_its_own_colours(raw, coded):
    for k in range(4):
        save(raw / f"JPEGImages/im{k}.jpg", PHOTO)
        numbers = SQUARE * (k + 1)
        array = palette()[numbers] if coded == "rgb" else numbers
        save(raw / f"SegmentationClass/im{k}.png", array, **({"palette": palette().tobytes()} if coded == "palette" else {}))
    root, said = made(raw)
    assert "format: voc" in said and read_dataset_file(root / "dataset.toml").classes.names == VOC.names
    assert [int(m.max()) for m in masks_of(root).values()] == [1, 2, 3, 4]


def test_cvat(raw):
    colours = np.uint8([[0, 0, 0], [48, 112, 32], [176, 112, 32]])
    for k in range(4):
        save(raw / f"JPEGImages/f{k}.jpg", PHOTO)
        save(raw / f"SegmentationClass/f{k}.png", colours[SQUARE * (1 + k % 2)])
    text = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nllama:48,112,32::\nalpaca:176,112,32::\n"
    (raw / "labelmap.txt").write_text(text, encoding="utf-8")
    root, said = made(raw)
    file = read_dataset_file(root / "dataset.toml")
    assert file.classes.names == ("llama", "alpaca") and file.classes.colours == ((48, 112, 32), (176, 112, 32)) and "labelmap.txt lists" in said
    assert [int(m.max()) for m in masks_of(root).values()] == [1, 2, 1, 2]
    save(raw / "SegmentationClass/f0.png", colours[SQUARE] + 1)
    refusal(raw, "f0.png", "the colour #", name="other")
    shutil.rmtree(raw / "JPEGImages")
    refusal(raw, "Save images", name="third")


# ------------------------------------------------------------------------- COCO


def coco_content() -> dict:
    box = [[10, 10, 40, 10, 40, 30, 10, 30]]
    return {"images": [{"id": k, "file_name": f"im{k}.jpg", "height": 48, "width": 64} for k in range(4)],
            "categories": [{"id": 3, "name": "llama"}, {"id": 8, "name": "alpaca"}],
            "annotations": [{"id": k, "image_id": k, "category_id": 3 + 5 * (k % 2), "segmentation": box} for k in range(4)]}


def coco(raw: Path, content: dict, name: str = "result.json") -> None:
    for k in range(4):
        save(raw / f"images/im{k}.jpg", PHOTO)
    (raw / name).parent.mkdir(parents=True, exist_ok=True)
    (raw / name).write_text(json.dumps(content), encoding="utf-8")


def test_coco_with_categories_of_ones_own(raw):
    coco(raw, coco_content())
    root, said = made(raw)
    assert read_dataset_file(root / "dataset.toml").classes.names == ("llama", "alpaca") and "format: coco (result.json" in said
    assert [int(m.max()) for m in masks_of(root).values()] == [1, 2, 1, 2]
    made(raw)  # again: nothing is drawn
    content = coco_content()
    content["annotations"] = content["annotations"][:1]
    (raw / "result.json").write_text(json.dumps(content), encoding="utf-8")
    root, said = made(raw)
    assert [int(m.max()) for m in masks_of(root).values()] == [1, 0, 0, 0]


BROKEN = {
    "polygon of fewer than 3 points": {"segmentation": [[1, 2, 3, 4]]},
    "without an outline": {"segmentation": []},
    "flat list": {"segmentation": [1, 1, 9, 1, 9, 9]},
    "odd number": {"segmentation": [[1, 1, 9, 1, 9, 9, 5]]},
    "outline beyond": {"segmentation": [[1, 1, 900, 1, 900, 900]]},
    "box beyond": {"segmentation": [[1, 1, 9, 1, 9, 9]], "bbox": [1, 1, 900, 900]},
    "another size": {"segmentation": {"size": [9, 9], "counts": [81]}},
    "cannot be decoded": {"segmentation": {"size": [48, 64], "counts": "##"}},
    "no category": {"category_id": 77, "segmentation": [[1, 1, 9, 1, 9, 9]]},
    "no image": {"image_id": 77, "segmentation": [[1, 1, 9, 1, 9, 9]]},
    "not a list of numbers": {"segmentation": [["a", "b"]]},
    "not numbers of pixels": {"segmentation": [[1, 1, float("inf"), 1, 9, 9]]},
    "without an area": {"segmentation": [[1, 1, 2, 2, 3, 3]]},
}


def test_broken_annotations_are_left_out_counted_and_listed(raw):
    content = coco_content()
    content["annotations"] += [{"id": f"bad{n}", "image_id": 0, "category_id": 3} | change for n, change in enumerate(BROKEN.values())]
    coco(raw, content)
    refusal(raw, f"{len(BROKEN)} annotations are broken", "annotation bad0", "strict", strict=True)
    assert not (Path("data/farm") / "SegmentationClass").exists()
    root, said = made(raw)
    assert f"left out {len(BROKEN)} annotations (" in said and "lists all" in said
    listed = (root / "left_out.csv").read_text(encoding="utf-8")
    assert all(kind in said and kind in listed for kind in BROKEN), listed
    assert (masks_of(root)["im0"][12:28, 12:38] == 1).all()
    made(raw)
    assert (root / "left_out.csv").is_file()


def test_coco_of_roboflow(raw):
    "A file for each part beside its images, and a first category that only names the project."
    content = coco_content()
    content["categories"] = [{"id": 0, "name": "farm-animals", "supercategory": "none"}, *content["categories"]]
    for part, images in (("train", content["images"][:3]), ("valid", content["images"][3:])):
        for image in images:
            save(raw / part / image["file_name"], PHOTO)
        ids = {image["id"] for image in images}
        text = json.dumps(content | {"images": images, "annotations": [a for a in content["annotations"] if a["image_id"] in ids]})
        (raw / part / "_annotations.coco.json").write_text(text, encoding="utf-8")
    root, said = made(raw)
    assert "3 to train on, 1 to validate on" in said and read_dataset_file(root / "dataset.toml").classes.names == ("llama", "alpaca")


def test_the_classes_of_a_dataset_file_count(raw):
    coco(raw, coco_content())
    (raw / "dataset.toml").write_text("[classes]\nalpaca = 4\nllama = 9\n", encoding="utf-8")
    root, _ = made(raw)
    assert [int(m.max()) for m in masks_of(root).values()] == [9, 4, 9, 4]
    (raw / "dataset.toml").write_text("[classes]\nalpaca = 4\n", encoding="utf-8")
    refusal(raw, "a class 'llama'", "add the class", name="other")


def test_coco_as_pycocotools_writes_it(raw):
    mask = pytest.importorskip("pycocotools.mask")
    content = coco_content()
    for annotation in content["annotations"]:
        runs = mask.encode(np.asfortranarray(SQUARE))
        annotation |= {"segmentation": {"size": runs["size"], "counts": runs["counts"].decode()}, "bbox": mask.toBbox(runs).tolist(), "iscrowd": 0}
        annotation["area"] = int(mask.area(runs))
    coco(raw, content, "annotations/instances_default.json")
    root, _ = made(raw)
    assert all(((m > 0) == (SQUARE > 0)).all() for m in masks_of(root).values())


def test_coco_as_supervision_writes_it(raw):
    sv = pytest.importorskip("supervision")
    detections = {f"im{k}.jpg": sv.Detections(xyxy=np.array([[10, 10, 40, 30]], float), mask=(SQUARE > 0)[None], class_id=np.array([k % 2]))
                  for k in range(4)}
    for name in detections:
        save(raw / "source" / name, PHOTO)
    images = [str(raw / "source" / name) for name in detections]
    data = sv.DetectionDataset(["llama", "alpaca"], images, dict(zip(images, detections.values())))
    data.as_coco(images_directory_path=str(raw / "export/images"), annotations_path=str(raw / "export/annotations.json"))
    root, said = made(raw / "export")
    assert "format: coco" in said and read_dataset_file(root / "dataset.toml").classes.names == ("llama", "alpaca")
    for k, m in enumerate(masks_of(root).values()):
        overlap = ((m == 1 + k % 2) & (SQUARE > 0)).sum() / ((m > 0) | (SQUARE > 0)).sum()
        assert overlap > 0.9


# ------------------------------------------------------------------------- Labelme


def labelme(raw: Path, name: str, shapes: list[dict], **more) -> None:
    "As `labelme.LabelFile.save` of Labelme 6.3.1 writes it."
    save(raw / f"{name}.jpg", PHOTO)
    content = {"version": "6.3.1", "flags": {}, "shapes": shapes, "imagePath": f"{name}.jpg", "imageData": None, "imageHeight": 48, "imageWidth": 64}
    (raw / f"{name}.json").write_text(json.dumps(content | more, ensure_ascii=False, indent=2), encoding="utf-8")


def shape(label: str, points: list, kind: str = "polygon", **more) -> dict:
    return {"label": label, "points": points, "group_id": None, "description": "", "shape_type": kind, "flags": {}, "mask": None} | more


def test_labelme(raw):
    box = [[10, 10], [39, 10], [39, 29], [10, 29]]
    for k in range(3):
        labelme(raw, f"im{k}", [shape("hen", box), shape("__ignore__", [[0, 40], [5, 47]], "rectangle")])
    labelme(raw, "bad", [shape("cow", [[1, 1], [2, 2]]), shape("cow", [[1, 1]], "point"), shape("cow", [[30, 20], [36, 20]], "circle"),
                         shape("cow", [[1, 1], [9, 9]], "mask", mask="no")])
    labelme(raw, "tagged", [], flags={"cow": True, "hen": False})
    root, said = made(raw)
    assert "format: labelme" in said and "left out 3 annotations" in said
    masks = masks_of(root)
    assert ((masks["im0"] == 2) == (SQUARE > 0)).all() and masks["im0"][45, 2] == 255 and masks["bad"][20, 30] == 1 and "tagged" not in masks
    assert (root / "labels.csv").read_text(encoding="utf-8") == "tagged,cow\n"
    (raw / "im0.json").write_text('{"shapes": [], "imagePath"', encoding="utf-8")
    refusal(raw, "im0.json is not valid JSON", name="other")


def test_labelme_as_supervision_writes_it(raw):
    sv = pytest.importorskip("supervision")
    found = sv.Detections(xyxy=np.array([[10, 10, 40, 30]], float), mask=(SQUARE > 0)[None], class_id=np.array([1]))
    images = [str(raw / f"source/im{k}.jpg") for k in range(3)]
    for path in images:
        save(Path(path), PHOTO)
    sv.DetectionDataset(["llama", "alpaca"], images, {path: found for path in images}).as_labelme(
        images_directory_path=str(raw / "export"), annotations_directory_path=str(raw / "export"))
    root, said = made(raw / "export")
    assert "format: labelme" in said
    for m in masks_of(root).values():
        assert ((m > 0) & (SQUARE > 0)).sum() / ((m > 0) | (SQUARE > 0)).sum() > 0.9


# ------------------------------------------------------------------------- folders of none


@pytest.mark.parametrize("files, words", [
    (["a.txt", "b/c.docx"], ("1 .docx in b/, such as b/c.docx", "no image in it")),
    (["export.zip"], ("1 .zip", "Unpack export.zip first")),
    (["photos1/a.jpg", "photos2/b.jpg"], ("2 .jpg in photos1/, photos2/", "Move the images into images/", "labels.csv")),
    (["images/a.jpg", "masks/b.png", "masks/c.png"], ("2 .png in masks/", "No mask in masks/ has the name of an image")),
    ([], ("no file",)),
])
def test_a_folder_of_no_format_is_described(raw, files, words):
    for name in files:
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_bytes(b"x")
    refusal(raw, *words, "coco", "labelme")


def test_a_folder_of_two_formats_asks(raw):
    coco(raw, coco_content())
    labelme(raw, "im0", [shape("cow", [[1, 1], [9, 1], [9, 9]])])
    shutil.move(raw / "im0.jpg", raw / "images/im0.jpg")
    refusal(raw, "2 ways", "coco (COCO JSON): result.json", "labelme (Labelme JSON)", "--format coco or --format labelme")
    assert "format: coco" in made(raw, format="coco")[1]
    refusal(raw, "is not Pascal VOC", "It is recognized as", format="voc", name="other")
    refusal(raw, "expected one of coco, cvat", format="vocc", name="other")
    refusal(raw, "layout of its own", format="coco", name="voc")


def test_an_archive_in_place_of_a_folder(raw):
    (raw / "export.zip").touch()
    refusal(raw / "export.zip", "is a file", "unpack it")


def test_a_prepared_export_is_prepared_again_without_its_source(raw):
    coco(raw, coco_content())
    root, _ = made(raw)
    before = masks_of(root)
    assert "SegmentationClass: there" in made(None)[1] and masks_of(root).keys() == before.keys()


def test_a_recognizer_reads_no_file_whole(raw):
    "Recognition of a folder in which nothing is broken yet draws nothing and has no problems."
    coco(raw, coco_content())
    format, evidence = recognize(survey(raw))
    export = format.convert(survey(raw), None)
    assert evidence.reasons and not export.problems and export.draw("im0", Problems()).any()
