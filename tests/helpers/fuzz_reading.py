"""Damaged files by the hundred, read in one process: prints what became of them as JSON. Run by `test_reading.py`.

python tests/helpers/fuzz_reading.py FOLDER CASES [KIND …] writes its files into FOLDER.
"""
from __future__ import annotations

import json
import sys
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from wilson.checks.files import look_at_image, look_at_mask
from wilson.core.errors import InputError
from wilson.data.classes import COCO, SHAPES
from wilson.data.image_io import image_size, read_image, read_mask
from wilson.data.image_labels import read_labels
from wilson.formats.coco_annotations import draw_mask, read_annotations
from wilson.formats.dataset_file import read_dataset_file
from wilson.datasets.shapes import draw_scene

# ------------------------------------------------------------------------------------- whole files


def saved(picture: Image.Image, format: str, **how) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, format, **how)
    return buffer.getvalue()


def annotations() -> bytes:
    "An instances file with polygons, run lengths and compressed run lengths."
    square = {"size": [16, 16], "counts": [32, 8, 8, 8, 200]}
    packed = {"size": [16, 16], "counts": rle.frPyObjects(square, 16, 16)["counts"].decode()}
    images = [{"id": n, "file_name": f"{n:012}.jpg", "height": 16, "width": 16} for n in (1, 2)]
    regions = [[[2, 2, 12, 2, 12, 12, 2, 12]], square, packed, [[1.5, 1.5, 9.25, 1.5, 9.25, 14, 3, 14]]]
    objects = [{"id": 10 + n, "image_id": 1 + n % 2, "category_id": 1 + n, "iscrowd": int(isinstance(r, dict)),
                "segmentation": r, "area": 100, "bbox": [0, 0, 9, 9]} for n, r in enumerate(regions)]
    categories = [{"id": i, "name": name} for i, name in zip(COCO.ids, COCO.names) if i <= 4]
    return json.dumps({"images": images, "annotations": objects, "categories": categories}).encode()


def whole_files() -> dict[str, tuple[str, bytes, Callable[[Path], object]]]:
    "By kind: file name, content, what reads it."
    scene, ids = draw_scene(np.random.default_rng(5), 48, [1, 2])
    picture, mask = Image.fromarray(scene[:, :40]), np.ascontiguousarray(ids[:, :40])
    exif = Image.Exif()
    exif[0x0112] = 6
    palette = Image.fromarray(mask)
    palette.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    filtered = Image.fromarray((np.add.outer(np.arange(48), np.arange(40)) * 2).astype(np.uint8))
    images = {
        "PNG": ("a.png", saved(picture, "PNG", exif=exif)),
        "JPEG": ("a.jpg", saved(picture, "JPEG", quality=90, exif=exif)),
        "progressive JPEG": ("b.jpg", saved(picture, "JPEG", quality=80, progressive=True)),
        "CMYK JPEG": ("c.jpg", saved(picture.convert("CMYK"), "JPEG")),
        "WebP": ("a.webp", saved(picture, "WEBP", quality=80)),
        "GIF": ("a.gif", saved(picture, "GIF")),
    }
    masks = {
        "palette mask": ("m.png", saved(palette, "PNG")),
        "grey mask": ("g.png", saved(filtered, "PNG", optimize=True)),
        "TIFF mask": ("m.tif", saved(filtered, "TIFF", compression="tiff_lzw")),
        "deflated TIFF mask": ("d.tif", saved(filtered, "TIFF", compression="tiff_adobe_deflate")),
        "BMP mask": ("m.bmp", saved(filtered, "BMP")),
        "GIF mask": ("m.gif", saved(filtered, "GIF")),
    }
    texts = {
        "annotations": ("instances.json", annotations(), masks_of),
        "dataset.toml": ("dataset.toml", b'classes = ["cow", "horse", "pig"]\n\n[colours]\ncow = "#d55e00"\nhorse = '
                         b'[0, 1, 2]\npig = "#0072b2"\n\n[tasks]\n2-1 = "cow, horse | pig"\n', read_dataset_file),
        "labels.csv": ("labels.csv", labels_table(),
                       lambda path: read_labels(path, ["a", "b", "c"], SHAPES)),
    }
    return ({k: (*v, check_image) for k, v in images.items()} | {k: (*v, check_mask) for k, v in masks.items()}
            | texts)


def labels_table() -> bytes:
    return "".join(f"{i},{SHAPES.names[n]},{SHAPES.names[n + 1]}\n" for n, i in enumerate("abc")).encode()


# ------------------------------------------------------------------------------------- damage


def damaged(rng: np.random.Generator, content: bytes) -> bytes:
    "One of the ways in which files are damaged."
    data, n = bytearray(content), len(content)
    way, place, length = rng.integers(10), int(rng.integers(n)), int(rng.integers(1, n // 2))
    if way == 0:    # one bit
        data[place] ^= 1 << int(rng.integers(8))
    elif way == 1:  # a few bytes
        for at in rng.integers(0, n, rng.integers(1, 4)):
            data[at] = rng.integers(256)
    elif way == 2:  # many
        for at in rng.integers(0, n, min(200, n // 4)):
            data[at] = rng.integers(256)
    elif way == 3:  # the header
        for at in rng.integers(0, min(64, n), 2):
            data[at] = rng.integers(256)
    elif way == 4:  # numbers become extreme
        data[place:place + 2] = rng.choice([b"\0\0", b"\xff\xff", b"\x7f\xff", b"\xff\xd9"])
    elif way == 5:  # cut
        data = data[:place]
    elif way == 6:  # cut, its end kept
        data = data[:place] + data[-12:]
    elif way == 7:  # a hole
        data[place:place + length] = bytes(len(data[place:place + length]))
    elif way == 8:  # a part twice
        data[place:place] = data[place:place + length]
    else:           # a part is missing
        del data[place:place + length]
    return bytes(data)


def rehashed(png: bytes) -> bytes:
    "A PNG whose checksums are right again: damage that only the decoder can find."
    data, place = bytearray(png), 8
    while place + 12 <= len(data):
        size = int.from_bytes(data[place:place + 4], "big")
        if place + 12 + size > len(data):
            break
        data[place + 8 + size:place + 12 + size] = zlib.crc32(data[place + 4:place + 8 + size]).to_bytes(4, "big")
        place += 12 + size
    return bytes(data)


ODD = [None, True, -1, 0, 300, 10**9, 2**70, 1.5, float("nan"), "", "x", "\0", [], [[]], {}, [1, 2, 3], "9" * 5000]


def odd_value(rng: np.random.Generator, content: bytes) -> bytes:
    "JSON that can be read, with another value at one place."
    whole = json.loads(content)
    places, node = [], whole
    while isinstance(node, (dict, list)) and node and (not places or rng.integers(8)):
        keys = list(node) if isinstance(node, dict) else range(len(node))
        key = keys[int(rng.integers(len(keys)))]
        places.append((node, key))
        node = node[key]
    node, key = places[-1]
    odd = ODD[int(rng.integers(len(ODD)))]
    if rng.integers(4):
        node[key] = odd
    else:
        del node[key]
    return json.dumps(whole).encode()


def odd_line(rng: np.random.Generator, content: bytes) -> bytes:
    "A text with another value behind one of its equal signs."
    parts = content.split(b"= ")
    n = int(rng.integers(1, len(parts)))
    value = [b"1", b"-1", b"[]", b"{}", b"true", b"nan", b"1979-05-27", b'""', b'[1, 2, 3]', b'[0.5, 1, 2]', b"[[1]]",
             b'"\\u0000"', b"[" * 3000, b"9" * 5000, b"{a = 1}"][int(rng.integers(15))]
    parts[n] = value + b"\n" + parts[n].partition(b"\n")[2]
    return b"= ".join(parts)


# ------------------------------------------------------------------------------------- readers


def outcome(read: Callable[[Path], object], path: Path):
    "What is read, or the error, which must name the file."
    try:
        return read(path)
    except InputError as e:
        assert path.name in str(e), f"does not name {path.name}: {e}"
        return e


def check_image(path: Path) -> None:
    size, image, look = outcome(image_size, path), outcome(read_image, path), look_at_image(path)
    assert (look.size is None) == isinstance(image, InputError) == any(f.error for f in look.findings), (look, image)
    if isinstance(image, InputError):
        raise image
    assert image.shape == (3, *size) and str(image.dtype) == "torch.uint8" and look.size == size[::-1]


def check_mask(path: Path) -> None:
    mask, look = outcome(read_mask, path), look_at_mask(path)
    assert (look.pixels is None) == isinstance(mask, InputError) == any(f.error for f in look.findings), (look, mask)
    if isinstance(mask, InputError):
        raise mask
    assert mask.ndim == 2 and mask.dtype == np.uint8 and look.size == mask.shape[::-1]


def masks_of(path: Path) -> None:
    found = read_annotations(path)
    for id, size in found.sizes.items():
        mask = draw_mask(found, id)
        assert mask.shape == size and mask.dtype == np.uint8


def main(folder: Path, cases: int, kinds: list[str]) -> dict[str, Counter]:
    warnings.simplefilter("ignore")  # Pillow remarks on what it mends
    figures = {}
    for kind, (name, content, read) in whole_files().items():
        if kinds and kind not in kinds:
            continue
        path, rng, figures[kind] = folder / name, np.random.default_rng([7, *kind.encode()]), Counter()
        path.write_bytes(content)
        read(path)  # it is whole
        for case in range(cases):
            changed = damaged(rng, content)
            if name.endswith(".png") and case % 2:
                changed = rehashed(changed)
            elif name.endswith(".json") and case % 2:
                changed = odd_value(rng, content)
            elif name.endswith(".toml") and case % 2:
                changed = odd_line(rng, content)
            path.write_bytes(changed)
            try:
                found = outcome(read, path)
                figures[kind]["refused" if isinstance(found, InputError) else "accepted"] += 1
            except Exception as e:
                figures[kind]["faults"] += 1
                figures[kind][f"{type(e).__name__}: {str(e)[:200]} in case {case}"] += 1
                traceback.print_exc()
    return figures


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]), indent=1))
