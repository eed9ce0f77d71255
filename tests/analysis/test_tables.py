"""Result tables: the statistics are those of the values, and nothing heavy is imported before a table is written."""
from __future__ import annotations

import csv
import io
import statistics
import subprocess
import sys

import numpy as np
from conftest import environment

from wilson.analysis.tables import Column, Table, to_csv, to_markdown


def test_statistics_are_those_of_the_values():
    "Against Python's own, on cells of no, one and several values, missing ones among them; the best is what reads as the best."
    random = np.random.default_rng(1)
    columns = (Column("a"), Column("b", "less", 2), Column("c", "neither", 0))
    rows = {f"row {i}": [[None if random.random() < 0.2 else float(v) for v in random.uniform(0, 100, random.integers(0, 5))] for _ in columns]
            for i in range(40)}
    table = Table("drawn", columns, rows)
    values = {(label, k): [v for v in cell if v is not None] for label, cells in rows.items() for k, cell in enumerate(cells)}
    assert {len(v) for v in values.values()} >= {0, 1, 2, 3}
    lines = {line[0]: line[1:] for line in csv.reader(io.StringIO(to_csv(table)))}
    for (label, k), there in values.items():
        mean, std, count = lines[label][3 * k: 3 * k + 3]
        assert int(count) == len(there) and bool(mean) is bool(there) and bool(std) is (len(there) > 1)
        assert not there or abs(float(mean) - statistics.fmean(there)) < 1e-9
        assert not std or abs(float(std) - statistics.stdev(there)) < 1e-9
    for k, choose in ((0, max), (1, min)):
        means = {label: round(statistics.fmean(values[label, k]), columns[k].digits) for label in rows if values[label, k]}
        assert {label for label, at in table.best() if at == k} == {label for label, mean in means.items() if mean == choose(means.values())}
    assert not [at for at in table.best() if at[1] == 2] and to_markdown(table).count("**") == 2 * (1 + len(table.best()))


def test_modules_of_tables_import_neither_pandas_nor_jinja2():
    "`wilson --help` imports no torch either; both come with the first table or page that is written."
    code = """
import sys
import wilson.cli.command
before = "torch" in sys.modules
import wilson.analysis.run_list, wilson.analysis.comparison, wilson.analysis.image_report, wilson.checks.overview
from wilson.analysis.tables import Column, Table, to_csv, to_html
print(before, *(name in sys.modules for name in ("pandas", "jinja2")))
table = Table("one", (Column("all"),), {"wilson": [[1.0, 2.0]]})
to_csv(table)
print("jinja2" in sys.modules, "1.5" in to_html(table), "jinja2" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, encoding="utf-8", timeout=120)
    assert done.stdout.split() == ["False"] * 4 + ["True"] * 2, done.stdout + done.stderr
