"""Pages that are kept with their pictures: small, without noise, and nothing in them that only a kernel can show."""
from __future__ import annotations

import base64
import io
import re

import nbformat
import pytest
from conftest import REPO
from pictured_pages import TEACHING
from PIL import Image

LARGEST, IN_ALL = 100_000, 3_000_000  # bytes of a picture, of all pages' pictures
NOISE = re.compile(r"images/s\b|\bs left\b|\d (?:s|min|ms)\b|/tmp/|\b0x[0-9a-f]{6,}")


def outputs_of(name: str) -> list[dict]:
    notebook = nbformat.read(REPO / name, 4)
    assert "widgets" not in notebook.metadata
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def picture_of(output: dict) -> bytes:
    return base64.b64decode(output.get("data", {}).get("image/png", ""))


@pytest.mark.parametrize("name", TEACHING)
def test_pictures_are_small_and_texts_are_the_same_each_time(name):
    outputs = outputs_of(name)
    pictures = [picture for output in outputs if (picture := picture_of(output))]
    assert pictures or any("text/markdown" in output.get("data", {}) for output in outputs), "nothing to look at"
    assert all(len(picture) <= LARGEST for picture in pictures)
    for picture in pictures:
        assert Image.open(io.BytesIO(picture)).width <= 1000
    for output in outputs:
        assert output.output_type != "error" and output.get("name") != "stderr"
        data = {kind: text for kind, text in output.get("data", {}).items() if kind != "image/png"}
        assert not any("widget" in kind for kind in data)
        if "text/html" not in data:  # lengths of a table are not times
            assert not NOISE.search(f"{output.get('text', '')} {data}"), name


def test_all_pictures_of_pages_are_few_bytes():
    "Those of the index, guides and stories too."
    sizes = [len(picture_of(output)) for path in sorted(REPO.glob("nbs/**/*.ipynb")) if ".ipynb_checkpoints" not in path.parts
             for output in outputs_of(path.relative_to(REPO).as_posix())]
    assert max(sizes) <= LARGEST and sum(sizes) <= IN_ALL


@pytest.mark.parametrize("text, noisy", [("12 images/s", True), ("about 10 s left", True), ("0 min 05 s", True), ("mIoU 71.2", False)])
def test_what_noise_is(text, noisy):
    assert bool(NOISE.search(text)) is noisy
