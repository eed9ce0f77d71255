"""The examples in the docstrings of the public API, run as a reader would type them."""
from __future__ import annotations

import doctest
import inspect
import subprocess
import sys

import pytest
import torch
from conftest import environment

import wilson
from wilson.datasets.shapes import make_shapes


def examples() -> list[doctest.DocTest]:
    "In the order of the names: `train` leaves the run that the others open."
    found, finder = [], doctest.DocTestFinder(recurse=False)
    for name in sorted(wilson.__all__, key=lambda n: n != "train"):
        offered = getattr(wilson, name)
        own = [c for c in getattr(offered, "__mro__", ()) if c.__module__.startswith("wilson.")]
        parts = [(name, offered), *((f"{name}.{n}", v) for c in own for n, v in vars(c).items() if inspect.isfunction(v) and n[0] != "_")]
        for place, value in parts:
            found += finder.find(value, place, globs={"wilson": wilson, "torch": torch, "__name__": __name__})
    return found


class Checker(doctest.OutputChecker):
    "Compares an example's value; lines that a training prints before it are not compared."

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        lines = len(want.splitlines())
        return not want or super().check_output(want, "".join(got.splitlines(keepends=True)[-lines:]), optionflags)


def test_every_public_name_has_an_example():
    tried = {test.name.partition(".")[0] for test in examples() if test.examples}
    assert not {*wilson.__all__} - tried


def test_examples_run(root, monkeypatch):
    monkeypatch.setattr(make_shapes, "__defaults__", (160, 16, *make_shapes.__defaults__[2:]))  # the demo data, smaller
    photo = next((root / "data/few/JPEGImages").glob("val_*"))
    (root / "photo.jpg").write_bytes(photo.read_bytes())
    (root / "photos").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (root / "photos" / name).write_bytes(photo.read_bytes())
    runner = doctest.DocTestRunner(Checker(), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in examples():
        said: list[str] = []
        runner.run(test, out=said.append, clear_globs=False)
        assert not said, "".join(said)


def test_import_is_light():
    code = "import sys, wilson; print([m for m in ('torch', 'numpy', 'pandas') if m in sys.modules], dir(wilson).count('train'))"
    said = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, encoding="utf-8", check=True)
    assert said.stdout.strip() == "[] 1"


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        wilson.trian
