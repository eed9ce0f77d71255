"""Runs beside each other as a user asks for them: the page by papermill, `wilson compare`, and thousands of runs."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from conftest import QUICK, REPO, environment

from wilson.experiments.train import run_training
from wilson.run.config import parse_config
from wilson.run.records import read_records, group_variants

TASK = "shapes-striped_disc__dotted_square-overlap"
SMALL = {option[2:].replace("-", "_"): value for option, value in zip(QUICK[::2], QUICK[1::2])}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    "Two seeds of two methods and one of hard labels, on a few images, with a run that failed beside them."
    from wilson.datasets.shapes import make_shapes
    root, here = tmp_path_factory.mktemp("compare"), os.getcwd()
    (root / "settings.ini").touch()
    make_shapes(root / "data/few", n_train=120, n_val=12)
    os.chdir(root)
    try:
        for seed in (1, 2):
            for own in ({}, {"method": "finetune", "pseudo_epoch": None}):
                run_training(parse_config(SMALL | own | {"seed": seed}))
        run_training(parse_config(SMALL | {"alpha": 1, "name": "hard-s1", "seed": 1}))
    finally:
        os.chdir(here)
    broken = root / "runs" / TASK / "broken/step1"
    shutil.copytree(root / "runs" / TASK / "wilson-s1/step1", broken)
    (broken / "status.json").write_text(json.dumps({"state": "failed"}), encoding="utf-8")
    return root


def said(root: Path, *arguments: str, code: int = 0) -> str:
    done = subprocess.run([sys.executable, "-m", "wilson", *arguments], cwd=root, env=environment(), text=True, encoding="utf-8",
                          capture_output=True, timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_page_as_a_report(trained):
    "Every table and picture, and all of them as files."
    out = trained / "report.ipynb"
    subprocess.run([sys.executable, "-m", "papermill", str(REPO / "nbs/compare.ipynb"), str(out), "-p", "out", "shown"],
                   cwd=trained, env=environment(), check=True, capture_output=True, timeout=300)
    text, pictures = "", 0
    for cell in nbformat.read(out, 4).cells:
        for output in cell.get("outputs", []):
            text += output.get("text", "") + output.get("data", {}).get("text/markdown", "")
            pictures += "image/png" in output.get("data", {})
    assert "| finetune |" in text and "| wilson alpha=1.0 |" in text and "broken" not in text
    files = {f.name for f in (trained / "shown").iterdir()}
    assert {f"{name}.{end}" for name in ("scores", "classes", "steps", "labels", "cost") for end in ("md", "tex", "csv")} <= files
    drawn = {"scores", "curves", "classes", "steps", "forgetting", "confusion-wilson", "confusion-finetune", "calibration", "by-alpha"}
    assert {f"{name}.{end}" for name in drawn for end in ("png", "pdf")} <= files and pictures > len(drawn)  # a third confusion


def test_the_command(trained):
    "One table, in four formats; all of them as files; and what is misspelt."
    scores = said(trained, "compare", "--format", "markdown")
    assert said(trained, "compare").splitlines()[0] == f"{TASK}: mean IoU in %"
    assert f"**{TASK}: mean IoU in %**" in scores and scores.count("±") >= 6
    assert r"\begin{tabular}" in said(trained, "compare", "--table", "classes", "--format", "latex")
    only = said(trained, "compare", "--methods", "wilson", "--runs", "*-s1", "--format", "csv", "--table", "steps")
    assert [line.split(",")[0] for line in only.splitlines()] == ["", "wilson", "wilson alpha=1.0"]
    assert "all.md" not in said(trained, "compare", "--out", "files") and (trained / "files/cost.tex").is_file()
    for arguments, words in [(["--table", "score"], "Did you mean 'scores'"), (["--methods", "wlson"], "Did you mean 'wilson'"),
                             (["--task", "voc*"], f"Results by task: {TASK} (5)"), (["--runs-dir", "none"], "There is no run in none"),
                             (["--protocol", "hole"], "Did you mean 'whole'"), (["--format", "word"], "format='word'")]:
        assert words in said(trained, "compare", *arguments, code=2)


def test_thousands_of_runs(trained, tmp_path):
    "Read without their metrics by class: a folder of three thousand steps is no reason to wait."
    before = {r.path for r in read_records(trained / "runs")}
    for n in range(250):
        shutil.copytree(trained / "runs" / TASK, tmp_path / f"task{n}", ignore=shutil.ignore_patterns(
            "*.safetensors", "events*", "*.pt", "maps", "logs", "*.lock", "log.txt"))
    began = time.process_time()
    records = read_records(tmp_path)
    results = group_variants(records)
    spent = time.process_time() - began
    assert len(records) == 250 * len(before) and len(results) == 250 and all(len(v) == 3 for v in results.values())
    print(f"{len(records)} steps in {spent:.1f} s")
