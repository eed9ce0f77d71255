"""How long one waits before anything happens: `python benchmarks/bench_start.py`.

Imports in fresh processes (medians of five, taking turns, warm file cache, compiled bytecode) beside torch's own; commands that read small
files, as multiples of Python with numpy, taking turns with it; then a kernel's way from nothing to the first picture of a page, as
JupyterLab runs it. `python benchmarks/bench_start.py commands` measures the commands alone.
"""
from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

REPO = Path(__file__).resolve().parents[1]
IMPORTS = ("torch", "torch, torchvision", "wilson", "wilson.evaluation.maps", "wilson.experiments.train", "wilson.widgets.studio")

# without a runs folder, `compare` ends with an error after its imports
COMMANDS = ("--version", "train --help", "runs --runs-dir gone", "compare --runs-dir gone", "verify --help", "verify voc --data-root gone",
            "predict --help")
# as after an installation, whose modules are compiled
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {"PYTHONPATH": str(REPO)}


def process(*arguments: str, check: bool = True) -> float:
    "Seconds of a Python process."
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=check, cwd=REPO, capture_output=True, env=ENVIRONMENT)
    return time.perf_counter() - begin


def imported(names: str) -> float:
    "Seconds of a fresh process that imports, less those of one that does nothing."
    return process("-c", f"import {names}") - process("-c", "pass")


def first_picture() -> float:
    "Seconds from starting a kernel until the first picture of the page of maps is drawn."
    page = nbformat.read(REPO / "nbs/evaluation/03_pictures.ipynb", 4)
    at = next(i for i, cell in enumerate(page.cells) if "imshow" in cell.source)
    begin = time.perf_counter()
    client = NotebookClient(page, kernel_name="python3")
    with client.setup_kernel(cwd=str(REPO / "nbs/evaluation")):
        for i, cell in enumerate(page.cells[: at + 1]):
            client.execute_cell(cell, i)
    assert any("image/png" in output.get("data", {}) for output in page.cells[at].outputs)
    return time.perf_counter() - begin


def measure_imports() -> None:
    "Print what each import takes beside torch's."
    times: dict[str, list[float]] = {names: [] for names in IMPORTS}
    for _ in range(5):
        for names in IMPORTS:
            times[names].append(imported(names))
    torch_alone = statistics.median(times["torch"])
    for names, spent in times.items():
        beyond = "" if names in ("torch", "wilson") else f", {statistics.median(spent) - torch_alone:.2f} beyond torch"
        print(f"import {names:26} {statistics.median(spent):5.2f} s{beyond}")


def measure_commands() -> None:
    "Print what each command takes, as a multiple of Python with numpy."
    times: dict[str, list[float]] = {command: [] for command in ("numpy", *COMMANDS)}
    for _ in range(8):  # the first turn compiles and warms the file cache
        times["numpy"].append(process("-c", "import numpy"))
        for command in COMMANDS:
            times[command].append(process("-m", "wilson", *command.split(), check=False))
    medians = {command: statistics.median(spent[1:]) for command, spent in times.items()}
    for command in COMMANDS:
        print(f"wilson {command:28} {medians[command]:5.2f} s, {medians[command] / medians['numpy']:.1f} times Python with numpy")


def main(commands_only: bool) -> None:
    measure_commands()
    if not commands_only:
        measure_imports()
        print(f"first picture of a page {statistics.median(first_picture() for _ in range(3)):.1f} s")


if __name__ == "__main__":
    main("commands" in sys.argv[1:])
