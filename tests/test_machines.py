"""GPUs, processes and servers as machines have them: names of GPUs, launchers that are killed, addresses and prefixes."""
from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from conftest import descendants, environment, gone, wait_for

from wilson.training import launch
from wilson.training.runs import StepFolder

# a step that takes minutes, with a state after every other update
LONG = ("train", "--dataset", "shapes", "--data-root", "data/few", "--task", "striped disc,plain cross|checkered cross",
        "--epochs", "500", "--crop-size", "48", "--batch-size", "4", "--val-interval", "500", "--device", "cpu",
        "--save-minutes", "1e-9", "--step", "0")
STEP = Path("runs/shapes-striped_disc+plain_cross__checkered_cross-overlap/base-s42/step0")


# ------------------------------------------------------------------------- launchers that are killed


@contextlib.contextmanager
def training(root: Path, *command: str, **more: str):
    "A training of two ranks that is in its first epochs: the launcher, its ranks, and a file of what they say."
    said = root / "said.txt"
    state = root / STEP / "last.pt"
    before = state.stat().st_mtime_ns if state.exists() else 0
    with open(said, "w", encoding="utf-8") as out:
        process = subprocess.Popen([sys.executable, "-m", *command], cwd=root, env=environment(**more), stdout=out, stderr=out,
                                   start_new_session=True)
    ranks: list[psutil.Process] = []
    try:
        wait_for(lambda: state.exists() and state.stat().st_mtime_ns > before, process, 120)
        ranks = [p for p in descendants(process) if {"wilson", "--multiprocessing-fork"} & set(p.cmdline())]
        assert len(ranks) == 2, said.read_text(encoding="utf-8")
        yield process, ranks, said
    finally:
        for one in (process, *ranks):
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                one.kill()
        process.wait()


def within(seconds: float, ranks: list[psutil.Process]) -> bool:
    until = time.monotonic() + seconds
    while not gone(ranks) and time.monotonic() < until:
        time.sleep(0.05)
    return gone(ranks)


TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "wilson", *LONG)


def test_torchrun_is_asked_to_end_and_then_killed(root):
    "SIGTERM to torchrun, then kill -9 while a rank is stopped: each time the state is saved and no rank is left."
    with training(root, *TORCHRUN) as (agent, ranks, said):
        agent.send_signal(signal.SIGTERM)
        assert within(20, ranks), said.read_text(encoding="utf-8")
        agent.wait(20)
    status = StepFolder(root / STEP).read("status.json")
    assert status["state"] == "interrupted" and "by SIGTERM" in status["reason"]
    done = torch.load(root / STEP / "last.pt", weights_only=True)

    with training(root, *TORCHRUN, RANK="7", WORLD_SIZE="9", MASTER_ADDR="nowhere.invalid") as (agent, ranks, said):
        text = said.read_text(encoding="utf-8")
        assert f"going on from epoch {done['epoch'] + 1}" in text, text
        ranks[1].send_signal(signal.SIGSTOP)
        agent.kill()
        agent.wait()
        assert within(20, ranks), said.read_text(encoding="utf-8")
    assert StepFolder(root / STEP).state == "interrupted"


def test_the_process_that_waits_for_its_ranks_is_killed(root):
    "Also of `nproc`: ranks that nobody waits for any more save and end, even a stopped one."
    with training(root, "wilson", *LONG, "--nproc", "2") as (starter, ranks, said):
        ranks[1].send_signal(signal.SIGSTOP)
        starter.kill()
        starter.wait()
        assert within(20, ranks), said.read_text(encoding="utf-8")
    status = StepFolder(root / STEP).read("status.json")
    assert status["state"] == "interrupted" and "after update" in status["reason"] and "at once" not in status["reason"]


def test_a_rank_that_ends_without_an_answer_says_so(tmp_path):
    "What torchrun's rank records when its time after SIGTERM is over: of the step that it trains, and no other."
    ours, finished, theirs = (StepFolder(tmp_path / name) for name in ("ours", "finished", "theirs"))
    for folder, state in ((ours, "running"), (finished, "finished"), (theirs, "running")):
        folder.path.mkdir()
        folder.set_state(state)
    theirs.write("status.json", theirs.read("status.json") | {"pid": os.getpid() + 1})
    launch._recorded_by_rank(signal.SIGTERM, [StepFolder(tmp_path / "not begun"), ours, finished, theirs])
    assert [folder.state for folder in (ours, finished, theirs)] == ["interrupted", "finished", "running"]
    assert "by SIGTERM" in ours.read("status.json")["reason"]
