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

from wilson.analysis.tables import to_markdown, score_table
from wilson.core.errors import InputError
from wilson.engine.step_folder import StepFolder
from wilson.experiments.plan import plan, sweep_results
from wilson.experiments.sweep import JobQueue, run_sweep
from wilson.run.folder import is_step_locked, lock_step

SMALL = {option[2:].replace("-", "_"): value for option, value in zip(QUICK[::2], QUICK[1::2])}
TASK = "shapes-striped_disc__dotted_square-overlap"
# bases long enough to be met in the middle
MEMBERS = [SMALL | {"epochs": "6/1", "method": method, "seed": seed, "name": f"{method}-s{seed}",
                    "pseudo_epoch": 0 if method == "wilson" else None}
           for method in ("wilson", "finetune") for seed in (1, 2)]
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
    code = f"from wilson.experiments.sweep import run_sweep; run_sweep({MEMBERS!r}, name='ours')"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=root, text=True, encoding="utf-8", start_new_session=True,
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

    logs = {path.stem: path.read_text(encoding="utf-8") for path in (root / "runs/sweeps/ours" / TASK).glob("*.log")}
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
    "Mean and standard deviation as computed from the files; what lies in a member's folder but is of another configuration is none of its."
    missing = MEMBERS[2] | {"name": "none", "seed": 9}
    found, = sweep_results([*MEMBERS, missing, WRONG]).values()
    assert {v.label: len(v.records) for v in found} == {"finetune": 2, "wilson": 2}
    for protocol in ("published", "whole"):
        rows = {cells[1]: cells[2:-1] for cells in (re.split(r" ?\| ?", line.replace("*", "")) for line in
                                                    to_markdown(score_table(found, [protocol])).splitlines() if line.startswith("|"))}
        for name in ("wilson", "finetune"):
            files = [state(root, f"{name}-s{s}/step1").path / "metrics.json" for s in (1, 2)]
            scores = [json.loads(file.read_text(encoding="utf-8"))["scores"][protocol]["miou"] for file in files]
            assert rows[name][1:3] == [f"{statistics.mean(v):.1f} ± {statistics.stdev(v):.1f}"
                                       for v in ([f[column] for f in scores] for column in ("new", "all"))]
    hard = [member | {"alpha": 1} for member in MEMBERS[:2]]
    assert sweep_results(hard) == {}, "runs of another configuration stand in their folders"


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


def test_a_dry_run_prints_the_plan_and_starts_nothing(root):
    "By the command, as by the page: what is wrong, what is to be trained, and no estimate where nothing has been measured."
    (root / "members.json").write_text(json.dumps([WRONG, *MEMBERS]), encoding="utf-8")
    said = wilson(root, "sweep", "--members", "members.json", "--dry-run").stdout
    rows = [re.split("  +", line.strip()) for line in said.splitlines() if "shapes-" in line or "member" in line]
    assert [(row[0].split("/")[-1], row[1]) for row in rows] == [("member 1", "wrong"), *(
        (name, "to train") for name in ("base-s1", "base-s2", "wilson-s1", "wilson-s2", "finetune-s1", "finetune-s2"))]
    assert "Did you mean 'alpha'" in rows[0][2] and "6 without an estimate" in said
    assert not (root / "runs").exists()


def wilson(root: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess:
    done = subprocess.run([sys.executable, "-m", "wilson", *arguments], cwd=root, text=True, encoding="utf-8", capture_output=True, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_killed_and_gone_on_with(root):
    "kill -9 takes the sweep and leaves its child; the same sweep waits for that and trains what is left, no step twice."
    code = f"from wilson.experiments.sweep import run_sweep; run_sweep({MEMBERS[:2]!r}, name='ours')"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=root, start_new_session=True, stderr=subprocess.DEVNULL)
    base, until = state(root, "base-s1/step0"), time.monotonic() + 60
    while not (base.path / "last.pt").is_file() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.kill()
    process.wait()
    child = base.read("status.json")["pid"]
    os.kill(child, 0)  # it trains on
    assert is_step_locked(base.path)
    outcomes = states(run_sweep(MEMBERS[:2], name="ours"))
    assert outcomes == {"base-s1": "reused", "base-s2": "finished", "wilson-s1": "finished", "wilson-s2": "finished"}
    log = (root / "runs/sweeps/ours" / TASK / "base-s1.log").read_text(encoding="utf-8")
    assert log.count("$ wilson") == 1 and base.read("status.json")["pid"] == child


def test_another_sweep_was_first(root):
    "Two sweeps found the same base untrained: the job of the one that comes too late waits, and then uses that base."
    base, *_ = jobs = plan(MEMBERS[:1])
    queue = JobQueue(jobs, [None])
    folder = state(root, "base-s1/step0")
    with lock_step(folder):  # as the other sweep's process does
        queue.start(queue.next_job(), root / "late.log", threads=1)
        assert queue.running[0].process.wait(120) == 2
        folder.write("status.json", {"state": "running"})
        assert queue.collect() == 0 and queue.waiting == jobs and not queue.outcomes
        assert queue.free == [None] and queue.next_job() is None
    assert "base-s1/step0 is being trained by process" in (root / "late.log").read_text(encoding="utf-8")
    assert queue.next_job() == base


def test_a_failing_member(root):
    "A loss that is not finite fails one member; the others are there, it is listed, and tried again when that is asked for."
    common = " ".join(f"{n}='{v}'" for n, v in SMALL.items())
    page = ["nbs/sweep.ipynb", "out.ipynb", "-p", "grid", "method=finetune + loss_seg=1e39 max_bad_updates=1 name=wild",
            "-p", "common", common, "-p", "runs_dir", "runs"]
    page[0] = str(REPO / page[0])

    def executed(*more: str) -> str:
        subprocess.run([sys.executable, "-m", "papermill", *page, *more], cwd=root, check=True, capture_output=True, timeout=300)
        cells = nbformat.read(root / "out.ipynb", 4).cells
        return "".join(o.get("text", "") + "".join(o.get("data", {}).get(f"text/{kind}", "") for kind in ("markdown", "plain"))
                       for c in cells for o in c.get("outputs", []))

    assert "3 to train" in executed("-p", "dry_run", "true") and not (root / "runs").exists()
    said = executed()
    assert "2 finished, 1 failed" in said and re.search(r"wild failed: .*not finite", said) and "| finetune |" in said
    wild = state(root, "wild/step1")
    failed = wild.read("status.json")["time"]
    again = executed()
    assert "2 reused, 1 failed" in again and "retry_failed tries again" in again and re.search(r"/wild +failed", again)
    assert wild.read("status.json")["time"] == failed
    assert "2 reused, 1 failed" in executed("-p", "retry_failed", "true")
    assert wild.read("status.json")["time"] > failed
    listed = wilson(root, "runs", "--state", "failed").stdout
    assert f"{TASK}/wild/step1" in listed and "1 steps" in listed
    wilson(root, "runs", "--remove", f"{TASK}/base-s42", code=2)
    assert "removed" in wilson(root, "runs", "--remove", f"{TASK}/wild").stdout and not wild.path.parent.exists()


def test_gpus_are_dealt_out(root):
    "Each of two jobs at a time sees its half, and the next gets that of the one that has ended."
    members = [MEMBERS[0] | {"epochs": "1/1", "method": m, "name": m, "pseudo_epoch": 0 if m == "wilson" else None}
               for m in ("wilson", "finetune", "lwf")]
    assert set(states(run_sweep(members, name="ours", jobs=2, gpus=["0", "1", "2", "3"])).values()) == {"finished"}
    logs = [path.read_text(encoding="utf-8") for path in (root / "runs/sweeps/ours" / TASK).glob("*.log")]
    assert {re.match(r"\$ (\S+) wilson", log)[1] for log in logs} == {"CUDA_VISIBLE_DEVICES=0,2", "CUDA_VISIBLE_DEVICES=1,3"}


@pytest.mark.parametrize(("more", "words"), [
    ({"epochs": "2/1"}, "epochs 6 and 2"),
    ({"alpha": 1, "name": "wilson-s1"}, "Two runs of the sweep are"),
])
def test_members_that_contradict_each_other_are_refused_at_once(more, words):
    with pytest.raises(InputError, match=words):
        plan([MEMBERS[0], MEMBERS[0] | {"name": "other"} | more])


def test_no_job_at_a_time_is_refused():
    with pytest.raises(InputError, match="jobs=0"):
        run_sweep(MEMBERS, jobs=0)


def test_parameters_cell_of_methods_is_tagged():
    "Without the tag papermill injects at the top and the defaults win."
    cells = nbformat.read(REPO / "nbs/guide/methods.ipynb", 4).cells
    tagged = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1 and all(f"\n{name} = " in f"\n{tagged[0]}" for name in ("part", "seeds", "jobs", "epochs", "runs_dir"))


def test_the_papers_tables(root):
    "The page as typed, without VOC: every row of a table with its printed value, what it lacks, and nothing trained."
    subprocess.run([sys.executable, "-m", "papermill", str(REPO / "nbs/guide/paper.ipynb"), "out.ipynb", "-p", "part", "table3"], cwd=root,
                   check=True, capture_output=True, timeout=120)
    said = "".join(o.get("data", {}).get("text/markdown", "") for c in nbformat.read(root / "out.ipynb", 4).cells
                   for o in c.get("outputs", []))
    assert "| WILSON | COCO→VOC | 39.8 | 41.0 | 40.6 | 55.7 | – | – | – | – | – | to train |" in said
    assert "label_maps=…" in said and "swapped" in said and not (root / "runs").exists()
    bad = subprocess.run([sys.executable, "-m", "papermill", str(REPO / "nbs/guide/paper.ipynb"), "out.ipynb", "-p", "part", "tabel3"], cwd=root,
                         capture_output=True, text=True, encoding="utf-8", timeout=120)
    assert bad.returncode and "Did you mean 'table3'" in bad.stderr
