"""TQDM_DISABLE, which the command sets where its output is not a terminal, hides the bars of checks and of the demo data."""
from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import environment

CODE = """
import pathlib, sys
import wilson.checks.files as files
from tqdm.auto import tqdm
from wilson.datasets.base import open_folder
from wilson.datasets.shapes import SHAPES, make_shapes
files.tqdm = lambda *args, delay, **options: tqdm(*args, **options)  # shown at once
root = make_shapes(pathlib.Path(sys.argv[1]), 2, 1, progress=True)
assert len(files.look_at_all([open_folder(root, SHAPES).train])) == 2
"""


@pytest.mark.parametrize("hidden", [True, False])
def test_the_variable_hides_bars(tmp_path, hidden):
    variables = environment() | ({"TQDM_DISABLE": "1"} if hidden else {})
    if not hidden:
        variables.pop("TQDM_DISABLE", None)
    done = subprocess.run([sys.executable, "-c", CODE, tmp_path / "shapes"], env=variables, capture_output=True, text=True,
                          encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    assert [word in done.stderr for word in ("shapes", "verifying")] == [not hidden] * 2
