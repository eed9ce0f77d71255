"""What commands print: JSON that parses, with nothing else on standard output; aligned text in a pipe; colours in a terminal alone."""
from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import run
from conftest import QUICK, environment

from wilson.cli.command import COMMANDS
from wilson.cli.output import as_json

TASK = "shapes-striped_disc__dotted_square-overlap"
STEP = f"runs/{TASK}/wilson-s42/step1"
ESCAPE = "\x1b["


@pytest.fixture(scope="module")
def place(tiny_run, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("printed") / "root"
    shutil.copytree(tiny_run, root)
    return root


def parsed(capfd, *arguments, code: int = 0):
    "The JSON that a command prints; whatever else it says is on standard error."
    capfd.readouterr()
    assert run(*arguments, "--json") == code
    return json.loads(capfd.readouterr().out)


def test_every_command_with_results_prints_json(place, monkeypatch, capfd):
    "One process, one after the other; the file 1 itself holds the JSON alone, as a pipe would have it."
    monkeypatch.chdir(place)
    steps = parsed(capfd, "train", *QUICK)
    assert [(s["step"], s["reused"]) for s in steps] == [(0, True), (1, True)] and steps[1]["path"] == STEP
    scores = steps[1]["scores"]["published"]["miou"]["all"]
    assert scores == json.loads((place / STEP / "metrics.json").read_text(encoding="utf-8"))["scores"]["published"]["miou"]["all"]
    again, = parsed(capfd, "evaluate", STEP, "--device", "cpu")
    assert again["scores"]["published"]["miou"]["all"] == pytest.approx(scores, abs=1e-3)
    photo, = parsed(capfd, "predict", STEP, "data/few/JPEGImages/val_00000.jpg", "--device", "cpu", "--out", "seen")
    assert photo["mask"] == "seen/val_00000.png" and Path(photo["overlay"]).is_file() and all(0 < s <= 1 for s in photo["shares"].values())
    runs = {r["step"]: r for r in parsed(capfd, "runs")}
    later = runs[f"{TASK}/wilson-s42/step1"]
    assert later["state"] == "finished" and later["scores"]["miou"]["published"]["all"] == pytest.approx(scores) and later["bytes"] > 0
    assert runs[f"{TASK}/base-s42/step0"]["used_by"] == [f"{TASK}/wilson-s42/step1"]
    table = parsed(capfd, "compare")
    assert table["columns"][:3] == ["old, published", "new, published", "all, published"] and table["rows"][0]["name"] == "wilson"
    assert table["rows"][0]["values"]["all, published"] == {"mean": pytest.approx(scores), "std": None, "n": 1}
    plan = parsed(capfd, "sweep", "--dry-run", *QUICK, "--grid", "seed=42;7")
    assert [p["state"] for p in plan].count("to train") == 2
    outcomes = parsed(capfd, "sweep", *QUICK, "--grid", "seed=42")
    assert {o["state"] for o in outcomes} == {"reused"} and len(outcomes) == 2


def test_data_commands_print_json(place, monkeypatch, capfd):
    monkeypatch.chdir(place)
    report = parsed(capfd, "verify", "shapes", "--data-root", "data/few")
    assert report["ok"] and report["images"] == 176 and [s["name"] for s in report["splits"]] == ["train", "val"]
    shutil.copytree("data/few", "data/broken")
    (place / "data/broken/JPEGImages/val_00001.jpg").write_bytes(b"")
    report = parsed(capfd, "verify", "shapes", "--data-root", "data/broken", code=1)
    finding, = (f for f in report["findings"] if f["error"] and f["kind"] == "image that cannot be read")
    assert finding["where"] == "data/broken/JPEGImages/val_00001.jpg" and "empty" in finding["problem"] and finding["remedy"]
    prepared = parsed(capfd, "prepare", "shapes", "--data-root", "data/few")
    assert prepared["report"]["ok"] and prepared["root"] == "data/few" and prepared["done"]


def test_help_names_the_option(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    for name in ("prepare", "verify", "train", "sweep", "runs", "evaluate", "predict", "compare"):
        assert name in COMMANDS and run(name, "--help") == 0
        assert "--json print the result as JSON; all other messages go to standard error" in " ".join(capsys.readouterr().out.split()), name


def test_an_error_is_no_json(place, monkeypatch, capfd):
    monkeypatch.chdir(place)
    capfd.readouterr()
    assert run("evaluate", "runs/nothing", "--json") == 2
    captured = capfd.readouterr()
    assert not captured.out and captured.err.startswith("wilson: ")


def test_forms_of_a_table(place, monkeypatch, capsys):
    "In a pipe, aligned without colours; Markdown where it is named."
    monkeypatch.chdir(place)
    for command in ("runs", "compare"):
        assert run(command) == 0
        plain = capsys.readouterr().out
        assert "|" not in plain and ESCAPE not in plain and "wilson" in plain
        assert run(command, "--format", "text") == 0 and capsys.readouterr().out == plain
        assert run(command, "--format", "markdown") == 0 and re.search(r"\| -+:? \|", capsys.readouterr().out)
        assert run(command, "--format", "markdwon") == 2 and "Did you mean 'markdown'" in capsys.readouterr().err


def in_terminal(place: Path, *arguments: str, **more: str) -> str:
    "What a command draws in a terminal of 120 columns."
    ours, theirs = pty.openpty()
    size = {"COLUMNS": "120", "LINES": "40", "TERM": "xterm-256color"}
    process = subprocess.Popen([sys.executable, "-m", "wilson", *arguments], cwd=place, env=environment(**size, **more), stdout=theirs)
    os.close(theirs)
    seen = b""
    try:
        while part := os.read(ours, 1 << 16):
            seen += part
    except OSError:  # its end has closed
        pass
    os.close(ours)
    assert process.wait(timeout=120) == 0
    return seen.decode()


def test_a_terminal_has_colours(place):
    drawn = in_terminal(place, "runs")
    assert ESCAPE in drawn and "finished" in drawn and "steps," in drawn
    plain = in_terminal(place, "runs", NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", plain) and "finished" in plain
    assert ESCAPE not in in_terminal(place, "compare", "--format", "text")


def test_values_of_json():
    assert as_json({1: float("inf"), "a": (Path("/x"), {"b"}, True, None)}) == {"1": None, "a": ["/x", ["b"], True, None]}


def test_processes_that_a_command_starts_do_not_write_into_the_json(tmp_path):
    code = ("import os, subprocess, sys; from wilson.cli.output import messages_to_stderr, print_json\n"
            "with messages_to_stderr():\n    print('ours'); subprocess.run([sys.executable, '-c', 'print(\"theirs\")'], check=True)\n"
            "print_json([1])")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True,
                          encoding="utf-8", timeout=120)
    assert json.loads(done.stdout) == [1] and sorted(done.stderr.split()) == ["ours", "theirs"], done
