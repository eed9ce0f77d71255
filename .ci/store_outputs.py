"""Run pages and store their outputs: `python .ci/store_outputs.py nbs/methods/05_wilson.ipynb …`.

For pages that are read with their pictures (PAGES of tests/test_pictures.py). A page runs in a kernel, in its folder; cells that are marked
`slow`, `notest` or `eval: false` do not run and keep the outputs that they have. Pictures are stored with few colours, so that they are small.
A cell keeps its outputs if one of them is a picture or a table: other text is for whoever runs the page, and may hold times and places. What only a
kernel can show and what goes to the standard error is not stored; an output that names a place of this machine is an error.
"""
from __future__ import annotations

import base64
import io
import json
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

SKIPPED = re.compile(r"^#\|\s*(slow|notest|cuda|browser|eval:\s*false)\s*$", re.MULTILINE)
PLACE = re.compile("|".join(re.escape(str(p)) for p in {Path.home(), Path(tempfile.gettempdir()).resolve(), Path(__file__).resolve().parents[1]}))
SHOWN = {"image/png", "text/html", "text/markdown"}
DPI = "%config InlineBackend.rc = {'figure.dpi': 90, 'savefig.bbox': 'tight'}\n%matplotlib inline"


def small_png(data: str) -> str:
    "A picture of at most 255 colours, in base64."
    picture, small = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"), io.BytesIO()
    few = picture.quantize(255, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def stored(outputs: list[dict]) -> list[dict]:
    "Outputs as a reader without a kernel gets them."
    kept = []
    if not any(SHOWN & {*output.get("data", {})} for output in outputs):
        return kept
    for output in outputs:
        data = output.get("data", {})
        if output.get("name") == "stderr" or any("widget" in kind for kind in data):
            continue
        if "image/png" in data:
            data["image/png"] = small_png(data["image/png"])
        if set(data) == {"text/plain"}:
            continue  # the last line's object
        text = json.dumps([output.get("text"), {kind: value for kind, value in data.items() if kind != "image/png"}])
        if found := PLACE.search(text):
            sys.exit(f"an output names a place of this machine: {found[0]} in {text[:200]}")
        output.pop("execution_count", None)
        kept.append({**output, **({"execution_count": None} if output["output_type"] == "execute_result" else {})})
    return kept


def store(path: Path) -> None:
    notebook = nbformat.read(path, 4)
    source = json.loads(path.read_text(encoding="utf-8"))
    runs = [cell.cell_type == "code" and not SKIPPED.search(cell.source) for cell in notebook.cells]
    run = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(DPI), *(c for c, runs_it in zip(notebook.cells, runs) if runs_it)])
    NotebookClient(run, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
    outputs = iter([cell.outputs for cell in run.cells[1:]])
    for cell, runs_it in zip(source["cells"], runs):
        if runs_it:
            cell["outputs"] = json.loads(json.dumps(stored(next(outputs))))
            for output in cell["outputs"]:
                for holder, key in ((output, "text"), *((output.get("data", {}), kind) for kind in output.get("data", {}))):
                    if isinstance(holder.get(key), str) and key != "image/png":
                        holder[key] = holder[key].splitlines(keepends=True)
            cell["execution_count"] = None
    path.write_text(json.dumps(source, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        store(Path(name).resolve())
        print(name, f"{Path(name).stat().st_size / 1000:.0f} kB")
