"""The notebooks at the top of nbs/: they use `import wilson` alone, and end with the pictures and tables that they name."""
from __future__ import annotations

import ast
import base64
import json
from pathlib import Path

import pytest
from conftest import REPO
from execnb.shell import CaptureShell

import wilson
from wilson import testing

TOP = ("index", "train", "explore", "prepare", "sweep", "compare")


def code_cells(name: str) -> list[str]:
    cells = json.loads((REPO / f"nbs/{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def used_of_wilson(source: str) -> set[str]:
    "What a cell imports of wilson's modules, as `wilson.module`, and the names of `wilson` that it uses."
    tree = ast.parse("\n".join("" if line.startswith(("%", "!")) else line for line in source.splitlines()))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "wilson":
            found |= {f"{node.module}:{a.name}" for a in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.startswith("wilson.")}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "wilson":
            found.add(node.attr)
    return found


@pytest.mark.parametrize("name", TOP)
def test_notebooks_at_the_top_use_the_public_api_alone(name):
    used = set().union(*map(used_of_wilson, code_cells(name)))
    assert used and used <= {*wilson.__all__}, f"not public: {sorted(used - {*wilson.__all__})}"


def test_the_reading_of_cells():
    source = "%matplotlib inline\nimport wilson, wilson.core.paths\nfrom wilson.data import tasks\nwilson.train(task='15-5')"
    assert used_of_wilson(source) == {"wilson.core.paths", "wilson.data:tasks", "train"}


def test_no_page_formats_a_table_for_the_notebook():
    "A table renders itself."
    wrong = [str(path) for path in (REPO / "nbs").rglob("*.ipynb") if "Markdown(markdown(" in path.read_text(encoding="utf-8")]
    assert not wrong


def run_page(name: str, replaced: dict[str, str]) -> list[object]:
    "What the cells of a page show, run in this process with other parameters."
    shell, shown = CaptureShell(), []
    for source in code_cells(name):
        for old, new in replaced.items():
            source = source.replace(old, new)
        shell.user_ns["In"].append(source)  # as a kernel does
        shell.run(source, stdout=False, stderr=False)
        if shell.exc:
            raise shell.exc
        shown.append(shell.result)
    return shown


@pytest.fixture
def project():
    with testing.temp_root() as root:
        testing.tiny_run()
        yield root


def test_prepare(project):
    shown = run_page("prepare", {"data_root = None ": 'data_root = "data/few" '})
    overview, histogram, together, samples = [one for one in shown if one is not None]
    assert overview.report.ok and overview.task.overlap and "plain disc" in overview._repr_html_()
    assert histogram.axes and together.axes and len(samples.axes) == 12


def test_explore(project):
    shown = run_page("explore", {"run = None ": 'run = "shapes-15-5-overlap/wilson-s42" '})
    assert any(type(one).__name__ == "Studio" for one in shown)
    assert len([*Path("runs/predictions").glob("*.png")]) == 2


def test_the_tour(project):
    shown = run_page("index", {
        'wilson.train(task="15-5", dataset="shapes")': f"wilson.train(**{testing.TINY})", "data/shapes": "data/few",
        "val_00141": "val_00003", 'wilson.sweep(method=["finetune", "wilson"], ': 'wilson.sweep(method=["finetune", "wilson"], dry_run=True, '})
    kinds = [type(one).__name__ for one in shown if one is not None]
    assert kinds == ["StepScores", "Page", "Page", "TargetRule", "DataFrame", "Table"]


def test_the_tour_is_kept_with_its_outputs():
    "A reader on GitHub sees tables and pictures; they are small, and nothing in them needs a kernel."
    cells = [c for c in json.loads((REPO / "nbs/index.ipynb").read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    assert all(c["outputs"] for c in cells)
    outputs = [o for c in cells for o in c["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr" or any("widget" in k for k in o.get("data", ()))]
    pictures = [base64.b64decode("".join(o["data"]["image/png"])) for o in outputs if "image/png" in o.get("data", ())]
    assert len(pictures) >= 2 and all(len(png) <= 100_000 for png in pictures)
    assert sum("text/html" in o.get("data", ()) for o in outputs) >= 4
