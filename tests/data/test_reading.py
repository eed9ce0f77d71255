"""Damaged, hostile and special files: none ends or blocks the process; verify lists them and training refuses them."""
from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from commands import refused, says
from conftest import REPO, environment, need
from farm import TRAIN, image, listed, made, mask, root  # noqa: F401
from fuzz_reading import rehashed
from PIL import Image

from wilson.checks.files import look_at_image, look_at_mask
from wilson.core.errors import InputError
from wilson.data.classes import COCO
from wilson.data.image_files import FileInputError
from wilson.data.image_io import image_size, read_image, read_mask, read_thumbnail
from wilson.data.splits import read_text
from wilson.formats.coco_annotations import draw_mask, read_annotations
from wilson.formats.dataset_file import read_dataset_file

CASES = 200  # of each kind


def test_fuzz(tmp_path):
    "Files damaged in ten ways, a process for all: it survives, and each is read whole or refused by its name."
    need(importlib.util.find_spec("pycocotools"), "needs pycocotools")
    process = subprocess.run([sys.executable, str(REPO / "tests/helpers/fuzz_reading.py"), str(tmp_path), str(CASES)],
                             env=environment(), capture_output=True, encoding="utf-8", timeout=300)
    assert process.returncode == 0, (process.returncode, process.stderr[-2000:])
    figures = json.loads(process.stdout)
    assert len(figures) == 15 and not any("faults" in f for f in figures.values()), figures
    assert all(f["refused"] + f.get("accepted", 0) == CASES for f in figures.values()), figures
    assert figures["PNG"]["refused"] > 180 and figures["JPEG"]["refused"] > 150, figures
    assert "JPEG data" not in process.stderr, "libjpeg's warnings are part of the error, not noise"


# ------------------------------------------------------------------------------------- one file


def photo(side: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side + 16, 3), np.uint8))


def saved(picture: Image.Image, format: str, **how) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, format, **how)
    return buffer.getvalue()


def patched(content: bytes, place: int, value: bytes) -> bytes:
    return content[:place] + value + content[place + len(value):]


def jpeg_of(width: int, height: int) -> bytes:
    "A JPEG of a few hundred bytes that claims a size."
    content = saved(Image.new("L", (8, 8)), "JPEG")
    return patched(content, content.index(b"\xff\xc0") + 5, height.to_bytes(2, "big") + width.to_bytes(2, "big"))


def png_of(width: int, height: int, packed: bytes) -> bytes:
    "A grey PNG that claims a size, with any pixel data."
    body = saved(Image.new("L", (8, 8)), "PNG")
    at = body.index(b"IDAT") - 4
    length = int.from_bytes(body[at:at + 4], "big")
    body = body[:at] + len(packed).to_bytes(4, "big") + b"IDAT" + packed + b"\0" * 4 + body[at + 12 + length:]
    return rehashed(patched(body, 16, width.to_bytes(4, "big") + height.to_bytes(4, "big")))


def half_zero(content: bytes) -> bytes:
    return patched(content, len(content) // 2, bytes(len(content) // 2 - 2))


def many_flipped(content: bytes) -> bytes:
    data, rng = bytearray(content), np.random.default_rng(0)
    for place in rng.integers(len(content) // 3, len(content) - 2, 200):
        data[place] ^= int(rng.integers(1, 256))
    return bytes(data)


whole, drawn = saved(photo(), "JPEG", quality=90), saved(photo(), "PNG")
DAMAGED = {  # content, what is said of it
    "a.jpg half zero": (half_zero(whole), "is a broken JPEG (Corrupt JPEG data"),
    "b.jpg cut, with its end": (whole[:len(whole) // 2] + b"\xff\xd9", "premature end of data segment"),
    "c.jpg 200 bytes flipped": (many_flipped(whole), "is a broken JPEG ("),
    "d.jpg truncated": (whole[:-300], "truncated"),
    "e.jpg of 144 million pixels": (jpeg_of(12_000, 12_000), "bytes cannot contain 12,000×12,000 pixels"),
    "f.jpg of 4 billion pixels": (jpeg_of(65_500, 65_500), "has 65,500×65,500 pixels, and at most 268,435,456 are read"),
    "g.png one bit": (patched(drawn, len(drawn) // 2, bytes([drawn[len(drawn) // 2] ^ 4])), "wrong checksum"),
    "h.png one bit, checksum right": (
        rehashed(patched(drawn, len(drawn) // 2, bytes([drawn[len(drawn) // 2] ^ 4]))), "is a broken PNG"),
    "i.png of 4 billion pixels": (png_of(65_500, 65_500, zlib.compress(bytes(100))), "has 65,500×65,500 pixels"),
    "j.png without data": (png_of(9_000, 9_000, zlib.compress(bytes(100))), "compressed data for 9,000×9,000 pixels"),
    "k.webp truncated": (saved(photo(), "WEBP")[:-700], "is a broken WebP"),
    "l.webp of 268 million pixels": (
        patched(saved(photo(), "WEBP", lossless=True), 21, b"\xff\xff\xff\x0f"), "is a broken WebP"),
    "m.tif": (saved(Image.new("I;16", (8, 8)), "TIFF"), "is a TIFF of more than 8 bits a channel, and 8 are read"),
    "n.heic": (b"\0\0\0\x18ftypheic" + bytes(50), "is a HEIC or AVIF file, which is not read here"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_image(name, tmp_path, capfd):
    content, said = DAMAGED[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(FileInputError) as error:
        read_image(path)
    says(str(error.value), name, "cannot be read as an image", said)
    [finding] = look_at_image(path).findings
    assert finding.error and said in finding.problem
    assert capfd.readouterr() == ("", ""), "decoders write nothing of their own"


MASKS = {
    "bomb.png": (png_of(10, 10, zlib.compress(bytes(100_000_000))), "compressed data for 10×10 pixels"),
    "small bomb.png": (png_of(10, 10, zlib.compress(bytes(1_000_000))), "does not have the size of 10×10 pixels"),
    "short.png": (png_of(10, 10, zlib.compress(bytes(100))), "does not have the size of 10×10 pixels"),
    "stream.png": (png_of(10, 10, zlib.compress(bytes(110))[:-4] + b"abcd"), "is a broken PNG"),
}


@pytest.mark.parametrize("name", MASKS)
def test_damaged_mask(name, tmp_path):
    content, said = MASKS[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(FileInputError) as error:
        read_mask(path)
    says(str(error.value), name, "cannot be read as a mask", said)
    [finding] = look_at_mask(path).findings
    assert finding.error and said in finding.problem


def special(path: Path, kind: str) -> str:
    "Make a file that is none; what is said of it."
    if kind == "pipe":
        os.mkfifo(path)
        return "is a named pipe, expected a regular file"
    if kind == "device":
        path.symlink_to("/dev/zero")
        return "is a device, expected a regular file"
    if kind == "socket":
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(path.name)  # a short name, in the working directory
        return "is a socket, expected a regular file"
    if kind == "folder":
        path.mkdir()
        return "cannot be opened (Is a directory)"
    if kind == "loop":
        path.symlink_to(path)
        return "cannot be opened (Too many levels of symbolic links)"
    if kind == "locked":
        path.write_bytes(drawn)
        path.chmod(0)
        return "cannot be opened (Permission denied)"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    return "has 1,099,511,627,776 bytes, and at most 2,147,483,648 are read"


@pytest.mark.parametrize("kind", ["pipe", "device", "socket", "folder", "loop", "locked", "giant"])
def test_special_files(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.png"
    said = special(path, kind)
    if kind == "locked" and not os.geteuid():
        return  # root may read everything
    for read in (read_image, read_mask, image_size, lambda p: read_thumbnail(p, 64)):
        with pytest.raises(FileInputError) as error:
            read(path)
        says(str(error.value), "x.png", said)
    for look in (look_at_image, look_at_mask):
        assert [f.error and said in f.problem for f in look(path).findings] == [True]


@pytest.mark.parametrize("read", [read_text, read_annotations, read_dataset_file])
def test_texts_that_are_pipes(read, tmp_path):
    os.mkfifo(tmp_path / "text")
    with pytest.raises(InputError, match="text is not a regular file; expected a text file"):
        read(tmp_path / "text")


def test_sizes_agree_with_what_is_read(tmp_path):
    "Orientations that one decoder knows and another does not."
    turned, xmp = Image.Exif(), b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="6"/></x:xmpmeta>'
    turned[0x0112] = 6
    files = {
        "mpo.jpg": (saved(photo(), "MPO", save_all=True, append_images=[photo()], exif=turned), (80, 64)),
        "xmp.jpg": (saved(photo(), "JPEG", xmp=xmp), (64, 80)),
        "exif.png": (saved(photo(), "PNG", exif=turned), (80, 64)),
        "exif.webp": (saved(photo(), "WEBP", exif=turned), (64, 80)),
        "bad exif.jpg": (saved(photo(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"), (64, 80)),
        "alpha.png": (saved(photo().convert("RGBA"), "PNG"), (64, 80)),
        "palette.png": (saved(photo().convert("P"), "PNG", transparency=bytes(range(256))), (64, 80)),
    }
    for name, (content, size) in files.items():
        (tmp_path / name).write_bytes(content)
        assert image_size(tmp_path / name) == read_image(tmp_path / name).shape[1:] == size, name
        assert look_at_image(tmp_path / name).size == size[::-1], name
        assert read_thumbnail(tmp_path / name, 40).size == ((40, 32) if size == (64, 80) else (32, 40)), name


def test_limit_of_pixels(tmp_path, monkeypatch):
    "The variable that the error names, with the value that it names, is the remedy."
    path = tmp_path / "big.png"
    Image.new("L", (300, 200)).save(path)
    monkeypatch.setenv("WILSON_MAX_PIXELS", "50000")
    with pytest.raises(FileInputError) as error:
        read_image(path)
    variable, value = str(error.value).rstrip(".").split()[-1].split("=")
    monkeypatch.setenv(variable, value)
    assert read_image(path).shape == (3, 200, 300) and read_mask(path).shape == (200, 300)
    monkeypatch.setenv(variable, str(int(value) - 1))
    for read in (read_image, read_mask, image_size, lambda p: read_thumbnail(p, 64)):
        with pytest.raises(FileInputError):
            read(path)
    monkeypatch.setenv(variable, "many")
    with pytest.raises(InputError, match="WILSON_MAX_PIXELS='many': expected a number"):
        read_image(path)


def test_pillow_has_no_limit_of_its_own(tmp_path, recwarn):
    path = tmp_path / "satellite.png"
    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(bytes(14_001)) for _ in range(14_000)) + packer.flush()
    path.write_bytes(png_of(14_000, 14_000, packed))
    assert image_size(path) == (14_000, 14_000) and read_mask(path).shape == (14_000, 14_000)
    assert not [w for w in recwarn if "Decompression" in str(w.category)]


@pytest.mark.parametrize("change, said", [
    (lambda a: a["segmentation"].__setitem__(0, [0, 0, 1e9, 0, 1e9, 1e9]), "not numbers of pixels"),
    (lambda a: a["segmentation"].__setitem__(0, [0, 0, float("nan"), 0, 5, 5]), "not numbers of pixels"),
    (lambda a: a.update(segmentation={"size": [1 << 20, 1 << 20], "counts": [1 << 40]}), "run lengths of an image of another size"),
    (lambda a: a.update(segmentation={"size": [16, 16], "counts": [100]}), "run lengths that do not fill the image"),
], ids=["far away", "not a number", "another size", "other counts"])
def test_annotations_are_not_allocated_as_they_say(change, said, tmp_path):
    need(importlib.util.find_spec("pycocotools"), "needs pycocotools")
    annotation = {"id": 7, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": [[2, 2, 12, 2, 12, 12]]}
    content = {"images": [{"id": 1, "file_name": "1.jpg", "height": 16, "width": 16}],
               "annotations": [annotation], "categories": [{"id": COCO.ids[0], "name": COCO.names[0]}]}
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    assert draw_mask(read_annotations(path), "1").sum() > 40
    change(annotation)
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError) as error:
        draw_mask(read_annotations(path), "1")
    says(str(error.value), "instances.json, image 1, annotation 7", said)
    content["images"][0]["height"] = 10**9
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match="instances.json: image 1 has 16×1000000000 pixels"):
        read_annotations(path)


# ------------------------------------------------------------------------------------- a data set


def as_png(change) -> None:
    "The first image as a PNG, changed."
    with Image.open(image()) as picture:
        content = saved(picture, "PNG")
    image().unlink()
    image(suffix=".png").write_bytes(change(content))


def in_place_of(path: Path, make) -> None:
    path.unlink()
    make(path)


SPOILT = {  # what is done; what verify and training say
    "one bit of a PNG": (lambda: as_png(lambda b: patched(b, len(b) // 2, bytes([b[len(b) // 2] ^ 1]))),
                         "train00.png", "is a broken PNG (wrong checksum in chunk b'IDAT')"),
    "half a JPEG": (lambda: image().write_bytes(half_zero(image().read_bytes())), "train00.jpg", "Corrupt JPEG data"),
    "a header": (lambda: image().write_bytes(jpeg_of(12_000, 12_000)), "train00.jpg", "cannot contain 12,000×12,000"),
    "a pipe for a mask": (lambda: in_place_of(mask(), os.mkfifo), "train00.png", "is a named pipe"),
    "a device for a mask": (lambda: in_place_of(mask(), lambda p: p.symlink_to("/dev/zero")), "train00.png", "is a device"),
    "a bomb of a mask": (lambda: mask().write_bytes(MASKS["bomb.png"][0]), "train00.png", "for 10×10 pixels"),
}


LATE = ("one bit of a PNG", "half a JPEG")  # found when the pixels are wanted


@pytest.mark.parametrize("case", SPOILT)
def test_verify_lists_and_training_refuses(case, root, capsys):  # noqa: F811
    spoil, name, said = SPOILT[case]
    spoil()
    lines = [line for line in listed().splitlines() if name in line and said in line]
    assert lines and all(line.startswith("E ") for line in lines), listed()
    message = refused(capsys, *TRAIN, new_files=case in LATE)
    says(message, name, said)
    assert message.count("\n") == 1
