"""Data that a training would learn nothing from: `verify` and `prepare` see it and agree."""
from __future__ import annotations

import shutil

import numpy as np
import pytest
from commands import run
from farm import FARM, image, listed, made, mask, root  # noqa: F401 (fixtures)
from PIL import Image

from wilson.data.image_io import read_mask, write_mask


def masks(which: str = "*") -> list:
    return sorted((FARM / "SegmentationClass").glob(f"{which}.png"))


def change_masks(change, which: str = "*") -> None:
    for path in masks(which):
        write_mask(path, change(read_mask(path)).astype(np.uint8))


def with_palette(path, colours: dict[int, tuple[int, int, int]], numbers=None) -> None:
    "The mask of a file with other colours, and other numbers, as a program writes it that numbers each file anew."
    pixels = read_mask(path)
    if numbers is not None:
        pixels = numbers[pixels]
    picture, palette = Image.fromarray(pixels), np.zeros((256, 3), np.uint8)
    palette[:] = np.arange(256)[:, None]
    for number, colour in colours.items():
        palette[number] = colour
    picture.putpalette(palette.tobytes())
    picture.save(path)


def only_void():
    change_masks(lambda m: np.full_like(m, 255))


def one_void():
    change_masks(lambda m: np.full_like(m, 255), "train02")


def most_void():
    change_masks(lambda m: np.full_like(m, 255), "train[01]*")
    change_masks(lambda m: np.full_like(m, 255), "train2[0-3]")


def only_background():
    change_masks(lambda m: m * 0, "val*")


def black_and_white():
    change_masks(lambda m: np.where(m > 0, 255, 0))


def no_sheep_to_train_on():
    change_masks(lambda m: np.where(m == 3, 0, m), "train*")


def no_sheep_to_validate_on():
    change_masks(lambda m: np.where(m == 3, 0, m), "val*")


def drawn_but_not_as_labelled():
    change_masks(lambda m: np.where(m == 3, 0, m))
    (FARM / "labels.csv").write_text("train02,sheep\ntrain07,sheep\n", encoding="utf-8")


def labels_that_contradict_masks():
    (FARM / "labels.csv").write_text("train00,horse\n", encoding="utf-8")


def numbered_anew():
    red, green, blue = (200, 0, 0), (0, 200, 0), (0, 0, 200)
    for path in masks():
        with_palette(path, {1: red, 2: green, 3: blue})
    with_palette(masks()[2], {1: blue}, np.where(np.arange(256) == 3, 1, np.arange(256)).astype(np.uint8))


def other_colours():
    with_palette(masks()[2], {3: (9, 9, 99)})


def same_pixels_in_train_and_val():
    "Saved anew, so that the bytes differ."
    with Image.open(image("train00")) as picture:
        picture.load()
        image("val00").unlink()
        picture.save(image("val00", ".png"), optimize=True)
    shutil.copy(mask("train00"), mask("val00"))


def other_task():
    "Validation images show cows and horses alone; the task has sheep alone."
    text = (FARM / "dataset.toml").read_text(encoding="utf-8").replace('2-1 = "cow, horse | sheep"', 'sheep = "sheep"')
    (FARM / "dataset.toml").write_text(text, encoding="utf-8")
    no_sheep_to_validate_on()


USELESS = {  # function → whether it is an error, parts of the finding
    only_void: (True, ["list train has 25 masks and none shows a class: all is void (255); give the pixels of each class its number"]),
    one_void: (False, ["n data/farm/SegmentationClass/train02.png is void throughout (255); its pixels teach nothing"]),
    most_void: (True, ["list train has 24 of 25 masks that are void throughout"]),
    only_background: (True, ["list val has 6 masks and none shows a class: all is background (0)", "no image of any class of the task: cow, horse, sheep"]),
    black_and_white: (True, ["all is background (0) or void (255); give the pixels of each class its number in dataset.toml, 1 to 254"]),
    no_sheep_to_train_on: (True, ["E list train has no image in step 1 of farm-2-1-overlap for sheep; add images"]),
    no_sheep_to_validate_on: (False, ["n list val has no image of sheep; these classes have no score"]),
    drawn_but_not_as_labelled: (False, ["class sheep is a label of 2 images with a mask; no mask shows it", "train02.jpg is labelled sheep, which its mask"]),
    labels_that_contradict_masks: (True, ["train00.jpg is labelled horse, which its mask does not show", "E data/farm/JPEGImages/train00.jpg is not labelled cow"]),
    numbered_anew: (True, ["E data/farm/SegmentationClass/train03.png has the number 3 for the colour #0000c8, which is 1 in train02.png",
                           "export all masks with one palette"]),
    other_colours: (False, ["has the colour", "#090963", "make sure that it is the same class"]),
    same_pixels_in_train_and_val: (True, ["val00.png is the same picture as train00.jpg of list train; take val00 or train00 out"]),
    other_task: (True, ["E list val has no image of any class of the task: sheep; validate on images that show them"]),
}


@pytest.mark.parametrize("damage", USELESS, ids=lambda f: f.__name__)
def test_prepare_and_verify_see_it_and_agree(damage, root, capsys):  # noqa: F811
    damage()
    is_error, parts = USELESS[damage]
    found = listed()
    assert not [part for part in parts if part not in found], found
    assert is_error == ("E " in found), found
    codes = run("prepare", "farm"), run("verify", "farm")
    printed = capsys.readouterr().out
    assert [bool(code) for code in codes] == [is_error] * 2, (codes, printed)


def test_nothing_is_found_in_a_good_set(root):  # noqa: F811
    assert listed() == ""


def test_more_classes_than_numbers_are_refused_in_a_sentence(root, capsys):  # noqa: F811
    names = ", ".join(f'"class {n}"' for n in range(300))
    (FARM / "dataset.toml").write_text(f"classes = [{names}]\n", encoding="utf-8")
    for command in ("prepare", "verify"):
        assert run(command, "farm") == 2
        message = capsys.readouterr().err
        assert "lists 300 classes; expected at most 252: a mask has 256 numbers" in message, message
