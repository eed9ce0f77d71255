"""Tables and charts of COCO's 80 classes and the background: every name and number can be read."""
from __future__ import annotations

import io
import json
import re
import sys
from itertools import pairwise

import numpy as np
import pytest

from wilson.cli.output import TextTable, print_table
from wilson.data.classes import COCO

NAMES = ["background", *COCO.names]


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def drawn(monkeypatch, table: TextTable, columns: int) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stdout", out := Terminal())
    print_table(table)
    return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()


def test_a_terminal_shows_a_table_of_81_columns_from_top_to_bottom(monkeypatch):
    pytest.importorskip("rich")
    rows = [[label, *(f"{number + k:.1f}" for k in range(81))] for label, number in (("wilson", 10), ("mib", 100))]
    lines = drawn(monkeypatch, TextTable(["", *NAMES], rows, "classes"), 80)
    assert max(map(len, lines)) <= 80
    for k, name in enumerate(NAMES):
        assert any(line.split() == [*name.split(), f"{10 + k:.1f}", f"{100 + k:.1f}"] for line in lines), name
    few = drawn(monkeypatch, TextTable(["", "cow", "hen"], [["wilson", "1.0", "2.0"]]), 80)
    assert any(line.split() == ["wilson", "1.0", "2.0"] for line in few)


def overlapping(labels, renderer, axis: int) -> list[str]:
    "Labels of an axis that touch the next one, across the direction in which they run on."
    boxes = [(label.get_text(), label.get_window_extent(renderer)) for label in labels if label.get_text()]
    if axis == 0:
        return [a for (a, x), (_, y) in pairwise(boxes) if x.x1 > y.x0 + 1]
    return [a for (a, x), (_, y) in pairwise(sorted(boxes, key=lambda b: b[1].y0)) if x.y1 > y.y0 + 1]


def test_charts_of_81_classes_keep_every_name_on_the_page(tmp_path):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from wilson.analysis.confusion import confusion_matrix
    rng = np.random.default_rng(0)
    matrix = rng.integers(0, 50, (82, 81)) + 1000 * np.eye(82, 81, dtype=int)
    details = {"classes": NAMES, "n_old": 61, "confusion": {"published": matrix.tolist()}, "calibration": {}}
    (tmp_path / "details.json").write_text(json.dumps(details), encoding="utf-8")
    figure = confusion_matrix(tmp_path)
    assert figure is not None
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer, (width, height) = canvas.get_renderer(), canvas.get_width_height()
    ax = figure.axes[0]
    texts = [t for t in (*ax.get_xticklabels(), *ax.get_yticklabels(), ax.xaxis.label, ax.yaxis.label) if t.get_text()]
    assert [t.get_text() for t in ax.get_xticklabels()] == NAMES and len(ax.get_yticklabels()) == 82
    for text in texts:
        box = text.get_window_extent(renderer)
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, text.get_text()
    assert not overlapping(ax.get_xticklabels(), renderer, 0) and not overlapping(ax.get_yticklabels(), renderer, 1)
