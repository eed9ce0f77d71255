"""The papermill of `make setup`, and what an executed notebook prints."""
from __future__ import annotations

import sys
from pathlib import Path

import nbformat

# what the papermill of `make setup` is
PAPERMILL = [sys.executable, "-c", "import sys; from wilson.experiments.papermill import run_papermill; "
                                   "sys.argv[0] = 'papermill'; sys.exit(run_papermill())"]


def outputs(path: Path) -> str:
    "All text of an executed notebook, its error included."
    texts = []
    for cell in nbformat.read(path, 4).cells:
        for output in cell.get("outputs", []):
            texts += [output.get("text", ""), output.get("evalue", ""), output.get("data", {}).get("text/plain", "")]
    return "\n".join(texts)
