"""Sweeps as real processes: interrupted and gone on with, one member wrong; and the table of what is there."""
from __future__ import annotations

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from conftest import QUICK, REPO, environment

from wilson.places import InputError
from wilson.training.runs import StepFolder
from wilson.training.sweep import gathered, over_seeds, plan, run_sweep, table

SMALL = {option[2:].replace("-", "_"): value for option, value in zip(QUICK[::2], QUICK[1::2])}
TASK = "shapes-striped_disc__dotted_square-overlap"
# bases long enough to be met in the middle
GROUPS = over_seeds({"wilson": {}, "finetune": {"method": "finetune"}}, (1, 2), SMALL | {"epochs": "6/1"})
MEMBERS = [member for group in GROUPS.values() for member in group]
WRONG = SMALL | {"alhpa": 0.3}


@pytest.fixture(autouse=True)
def children(monkeypatch):
    "Processes of a sweep get what those of the other tests get."
    for name, value in environment().items():
        monkeypatch.setenv(name, value)


def state(root: Path, step: str) -> StepFolder:
    return StepFolder(root / "runs" / TASK / step)


def states(outcomes) -> dict[str, str]:
    return {outcome.name.split("/")[-1]: outcome.state for outcome in outcomes}


def interrupted(root: Path) -> None:
    "A sweep in a process group of its own, interrupted as a terminal does it, in the middle of its first base."
    code = f"from wilson.training.sweep import run_sweep; run_sweep({MEMBERS!r}, name='ours')"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=root, text=True, start_new_session=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    base, until = state(root, "base-s1/step0"), time.monotonic() + 60
    while not (base.path / "last.pt").is_file() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0 and "KeyboardInterrupt" in err
    assert base.state == "interrupted"
    with pytest.raises(ProcessLookupError):  # no child outlives the sweep
        os.kill(base.read("status.json")["pid"], 0)


def test_a_sweep(root):
    "Killed in the middle; gone on with, each base trained once and the wrong member listed; then nothing left to do."
    interrupted(root)

    outcomes = run_sweep([WRONG, *MEMBERS], name="ours", jobs=2)
    assert states(outcomes) == {"member 1": "failed", **dict.fromkeys(
        ("base-s1", "base-s2", "wilson-s1", "wilson-s2", "finetune-s1", "finetune-s2"), "finished")}
    assert "no parameter 'alhpa'. Did you mean 'alpha'" in outcomes[0].reason

    logs = {path.stem: path.read_text() for path in (root / "runs/sweeps/ours" / TASK).glob("*.log")}
    assert re.search(r"going on from epoch \d+", logs["base-s1"]) and logs["base-s1"].count("$ wilson") == 2
    for member in MEMBERS:
        assert f"base-s{member['seed']}/step0 is finished with this configuration: used as it is" in logs[member["name"]]
        assert "step 0, epoch" not in logs[member["name"]]

    before = {path: path.stat().st_mtime_ns for path in (root / "runs").rglob("*.json")}
    assert set(states(run_sweep(MEMBERS, name="ours")).values()) == {"reused"}
    assert before == {path: path.stat().st_mtime_ns for path in (root / "runs").rglob("*.json")}

    assert_table_is_the_metrics(root)
    assert_a_failed_base_holds_back_its_members(root)


def assert_table_is_the_metrics(root: Path) -> None:
    "Mean and standard deviation as computed from the files; a member without a run is counted as missing."
    groups = GROUPS | {"finetune": [*GROUPS["finetune"], GROUPS["finetune"][0] | {"name": "none", "seed": 9}], "lost": [WRONG]}
    for protocol in ("published", "whole"):
        rows = {cells[1]: cells[2:-1] for cells in (re.split(r" ?\| ?", line) for line in
                                                    table(groups, ("new", "all"), protocol=protocol).splitlines())}
        for name in ("wilson", "finetune"):
            files = [state(root, f"{name}-s{s}/step1").path / "metrics.json" for s in (1, 2)]
            found = [json.loads(file.read_text())["scores"][protocol]["miou"] for file in files]
            assert rows[name][:2] == [f"{statistics.mean(v):.1f} ± {statistics.stdev(v):.1f}"
                                      for v in ([f[column] for f in found] for column in ("new", "all"))]
        assert [rows[name][2] for name in groups] == ["2", "2 of 3", "0 of 1"]
        assert rows["lost"][:2] == ["–", "–"]
    hard = {"wilson": [member | {"alpha": 1} for member in GROUPS["wilson"]]}
    assert gathered(hard) == {"wilson": []}, "runs of another configuration stand in their folders"


def assert_a_failed_base_holds_back_its_members(root: Path) -> None:
    "A base of another seed lies where seed 3 wants its own."
    shutil.copytree(state(root, "base-s1/step0").path, state(root, "base-s3/step0").path)
    third = [member | {"seed": 3, "name": f"{member['method']}-s3"} for member in
             (MEMBERS[0] | {"method": "wilson"}, MEMBERS[2])]
    outcomes = run_sweep([*third, MEMBERS[0]])
    assert states(outcomes) == {"base-s3": "failed", "base-s1": "reused", "wilson-s1": "reused",
                                "wilson-s3": "not started", "finetune-s3": "not started"}
    assert "seed is 1, wanted 3" in outcomes[0].reason
    assert {o.reason for o in outcomes if o.state == "not started"} == {f"base failed: {TASK}/base-s3"}
    assert "not started" in states(run_sweep([*third, MEMBERS[0]], fail_fast=True))["wilson-s1"]


def test_a_dry_run_prints_the_plan_and_starts_nothing(root, capsys):
    assert run_sweep([WRONG, *MEMBERS], dry_run=True) == []
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].split("/")[-1] for line in lines] == [
        "member 1", "base-s1", "base-s2", "wilson-s1", "wilson-s2", "finetune-s1", "finetune-s2"]
    assert all("wilson train --dataset=shapes" in line for line in lines[1:])
    assert not (root / "runs").exists()


@pytest.mark.parametrize(("more", "words"), [
    ({"epochs": "2/1"}, "epochs 6 and 2"),
    ({"alpha": 1, "name": "wilson-s1"}, "Two runs of the sweep are"),
])
def test_members_that_contradict_each_other_are_refused_at_once(more, words):
    with pytest.raises(InputError, match=words):
        plan([GROUPS["wilson"][0], GROUPS["wilson"][0] | {"name": "other"} | more])


def test_no_job_at_a_time_is_refused():
    with pytest.raises(InputError, match="jobs=0"):
        run_sweep(MEMBERS, jobs=0)


def test_parameters_cell_of_methods_is_tagged():
    "Without the tag papermill injects at the top and the defaults win."
    cells = nbformat.read(REPO / "nbs/methods.ipynb", 4).cells
    tagged = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1 and all(f"\n{name} = " in f"\n{tagged[0]}" for name in ("part", "seeds", "jobs", "epochs", "runs_dir"))
