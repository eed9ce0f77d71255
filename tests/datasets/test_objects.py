"""Data sets as objects: what is true of one is stated on it and nowhere else."""
from __future__ import annotations

import os
import subprocess
import sys

from conftest import REPO


def imports(code: str, *names: str) -> list[str]:
    "Which of the packages `names` a fresh Python has imported after `code`."
    code = f"import sys\n{code}\nprint(*(n for n in {names!r} if n in sys.modules))"
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, encoding="utf-8", check=True).stdout.split()


def test_torch_is_imported_when_pixels_are_read():
    assert imports("import wilson.datasets.prepare, wilson.run.presets", "torch", "pandas", "numpy") == ["numpy"]
