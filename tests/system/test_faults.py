"""Killed, stopped, torn, full: the same command goes on, and what it ends with is bit for bit that of an undisturbed run."""
from __future__ import annotations

import hashlib
import json
import multiprocessing
import multiprocessing.forkserver
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from conftest import HELPERS, REPO, Hostile, environment, need, started, wait_for
from faulty import FAULTS, RECORD, Fault, job

from wilson.engine.checkpoint import read_weights
from wilson.engine.step_folder import STATE_FILES, StepFolder
from wilson.run.folder import resolve_existing, remove_step_files

TASK = "striped disc,dotted square,plain cross|checkered cross"
COMMAND = ("train", "--dataset", "shapes", "--data-root", "data/few", "--task", TASK, "--epochs", "2", "--crop-size", "48",
           "--batch-size", "4", "--pseudo-epoch", "1", "--val-interval", "1", "--device", "cpu")
OFTEN = ("--save-minutes", "1e-9")  # a state after every other update
PAIR = ("--nproc", "2")
RUNS = Path("runs/shapes-striped_disc+dotted_square+plain_cross__checkered_cross-overlap")
BASE, LATER = RUNS / "base-s42/step0", RUNS / "wilson-s42/step1"


# --------------------------------------------------------------------------------- processes


@pytest.fixture(scope="module", autouse=True)
def server():
    "Forks processes that have imported everything."
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(PYTHONPATH=os.pathsep.join((str(REPO), str(HELPERS)))).items():
            patch.setenv(name, value)
        multiprocessing.get_context("forkserver").set_forkserver_preload(["faulty"])
        multiprocessing.forkserver.ensure_running()


class Ended(NamedTuple):
    "A command that has run."
    code: int
    out: str
    err: str


class Begun:
    "`wilson …` in a forked process, with faults."

    def __init__(self, root: Path, arguments, *faults: Fault, **more: str):
        self.files = root / "said"
        path = os.pathsep.join((str(REPO), str(HELPERS)))
        given = environment(PYTHONPATH=path, **{FAULTS: json.dumps(faults)}, **more)
        self.process = multiprocessing.get_context("forkserver").Process(
            target=job, args=([str(a) for a in arguments], root, self.files, given))
        self.process.start()

    def end(self, timeout: float = 120) -> Ended:
        self.process.join(timeout)
        late = self.process.exitcode is None
        if late:
            os.killpg(self.process.pid, signal.SIGKILL)
        out, err = (self.files.with_suffix(f".{kind}").read_text(encoding="utf-8") for kind in ("out", "err"))
        assert not late, (out, err)
        return Ended(self.process.exitcode, out, err)


def run(root: Path, arguments, *faults: Fault, **more: str) -> Ended:
    "`wilson …` to its end, whatever that is."
    return Begun(root, arguments, *faults, **more).end()


def finished(root: Path, arguments, **more: str) -> Ended:
    "`wilson …` to a good end."
    done = run(root, arguments, **more)
    assert done.code == 0, done
    return done


def killed(root: Path, arguments, *faults: Fault) -> None:
    "`wilson …` until `kill -9`."
    done = run(root, arguments, *faults)
    assert done.code == -signal.SIGKILL, done


# ---------------------------------------------------------------------------------- equality


def epoch_lines(folder: Path) -> dict[str, None]:
    "What was said of epochs, speed left out; a line that is said again after a kill has to be the same."
    lines = (folder / "log.txt").read_text(encoding="utf-8").splitlines()
    said = [re.sub(r"  \(\d+ images/s[^)]*\)$", "", line) for line in lines if re.match("step .*epoch|    mIoU", line)]
    return dict.fromkeys(said)


def assert_same(ours: Path, theirs: Path) -> None:
    "Two step folders hold the same step, bit for bit, and nothing that an interruption left."
    for name in ("weights.safetensors", "best.safetensors"):
        (head, bits), (their_head, their_bits) = (content(folder / name) for folder in (ours, theirs))
        assert head == their_head, name
        assert hashlib.sha256(bits).hexdigest() == hashlib.sha256(their_bits).hexdigest(), name
    a, b = (StepFolder(folder).read("metrics.json") for folder in (ours, theirs))
    for name in ("scores", "localizer", "pseudo_labels", "across_steps"):
        assert a.get(name) == b.get(name), name
    maps = [{file.name: file.read_bytes() for file in (folder / "maps").iterdir()} for folder in (ours, theirs)]
    assert len(maps[0]) > 2 and maps[0] == maps[1]
    assert list(epoch_lines(ours)) == list(epoch_lines(theirs))
    assert StepFolder(ours).read("best.json") == StepFolder(theirs).read("best.json")
    assert StepFolder(ours).state == "finished"
    assert leftovers(ours) == []


def content(file: Path) -> tuple[dict, bytes]:
    "Header and numbers of a file of weights; only the order within the header is not fixed."
    whole = file.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    return json.loads(whole[8:end]), whole[end:]


def updates_of(root: Path) -> int:
    "Of an epoch of the base step."
    return StepFolder(root / BASE).read("config.json")["data"]["images"] // 4


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if ".pt" in p.name or ".part" in p.name)


def parted(path: Path, small_root: Path) -> Path:
    shutil.copytree(small_root, path)
    return path


@pytest.fixture(scope="module")
def whole(small_root, tmp_path_factory) -> Path:
    "A root where both steps were trained without disturbance, and without a state within an epoch."
    root = parted(tmp_path_factory.mktemp("whole") / "root", small_root)
    finished(root, COMMAND)
    return root


@pytest.fixture(scope="module")
def whole_pair(small_root, tmp_path_factory) -> Path:
    "The same by two ranks."
    root = parted(tmp_path_factory.mktemp("pair") / "root", small_root)
    finished(root, [*COMMAND, *PAIR])
    return root


@pytest.fixture
def based(root, whole) -> Path:
    "A root where the base step is trained."
    shutil.copytree(whole / BASE, root / BASE)
    return root


def state_of(folder: Path) -> dict:
    "The last one."
    return torch.load(folder / "last.pt", weights_only=True)


# -------------------------------------------------------------------- one rank, every moment

MOMENTS = {
    "in the first epoch": Fault("update", count=8),
    "in the second epoch": Fault("updated", count=21),
    "while a state is written": Fault("half a state", count=5),
    "before a state is flushed": Fault("state before its flush", count=6),
    "before the first rename": Fault("rename to next.pt", count=7),
    "between first and second rename": Fault("renamed to next.pt", count=7),
    "between second and third rename": Fault("rename to last.pt", count=7),
    "between state and validation": Fault("validation", count=1),
    "in validation": Fault("validated", count=1),
    "between score and best weights": Fault("rename to best.safetensors", count=1),
    "between best weights and their record": Fault("rename to best.json", count=1),
    "after the last validation": Fault("said 0", count=1),
    "between weights and metrics": Fault("renamed to weights.safetensors"),
    "before the metrics are there": Fault("rename to metrics.json"),
    "between metrics and status": Fault("renamed to metrics.json"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_base_step_killed(moment, root, whole):
    command = [*COMMAND, *OFTEN, "--step", "0"]
    killed(root, command, MOMENTS[moment])
    assert StepFolder(root / BASE).state == "running"  # nobody was left to say otherwise
    done = finished(root, command)
    assert "going on from epoch" in done.out
    assert_same(root / BASE, whole / BASE)


def test_weak_step_killed(based, whole):
    "Three times in one life: before and after the pseudo-labels begin to teach, and in the last validation."
    command = [*COMMAND, *OFTEN]
    killed(based, command, Fault("update", count=2))
    killed(based, command, Fault("half a state", count=4))
    killed(based, command, Fault("validated", count=2))
    finished(based, command)
    assert_same(based / LATER, whole / LATER)
    assert_same(based / BASE, whole / BASE)


def test_killed_at_some_moment(root, whole):
    "The moment is drawn; the seed is printed, and TEST_SEED draws it again."
    seed = int(os.environ.get("TEST_SEED", time.time_ns() % 2**32))
    print(f"TEST_SEED={seed}")
    draw = random.Random(seed)
    for last in (8, 3):  # the second life begins at update 17 of 22 at the latest, and must reach its fault
        at = draw.choice(["update", "updated", "half a state", "state before its flush", "rename to last.pt"])
        fault = Fault(at, count=draw.randint(1, last))
        print(fault)
        killed(root, [*COMMAND, *OFTEN, "--step", "0"], fault)
    finished(root, [*COMMAND, *OFTEN, "--step", "0"])
    assert_same(root / BASE, whole / BASE)


def test_killed_before_the_states_are_removed(root, whole):
    "The step is finished; whoever uses it next removes what it no longer needs."
    command = [*COMMAND, *OFTEN, "--step", "0"]
    killed(root, command, Fault("removal of states"))
    assert StepFolder(root / BASE).state == "finished" and leftovers(root / BASE)
    assert "used as it is" in finished(root, command).out
    assert_same(root / BASE, whole / BASE)


def test_killed_while_a_folder_is_emptied(whole, tmp_path, monkeypatch):
    "A step that is to be replaced is never taken for a finished one that lacks files, nor for something foreign."
    class Killed(BaseException):
        pass

    same = StepFolder(whole / BASE).read("config.json")["identity"]
    files = len([p for p in (whole / BASE).rglob("*") if p.is_file()])
    unlink = os.unlink
    for count in range(files):
        folder = StepFolder(tmp_path / f"{count}")
        shutil.copytree(whole / BASE, folder.path)
        left = iter(range(count))

        def until_killed(path, *args, left=left, **more):
            if next(left, None) is None:
                raise Killed
            unlink(path, *args, **more)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(os, "unlink", until_killed)
            remove_step_files(folder)
        assert resolve_existing(folder, same) == ("new" if count else "reuse")


def test_never_more_than_three_states(root, whole):
    "Two that are whole and one that is written, at every moment; none of a finished step."
    finished(root, [*COMMAND, *OFTEN, "--step", "0"], **{RECORD: str(root / "record")})
    seen = [line.split() for line in (root / "record").read_text(encoding="utf-8").splitlines()]
    assert len(seen) > 50 and {len(names) for names in seen} == {1, 2, 3}
    assert all(any(name in STATE_FILES for name in names) for names in seen[1:])
    assert_same(root / BASE, whole / BASE)


# ---------------------------------------------------------------------------- states that are not whole


@pytest.fixture(scope="module")
def half(small_root, tmp_path_factory) -> Path:
    "A root whose base step was killed in its second epoch."
    root = parted(tmp_path_factory.mktemp("half") / "root", small_root)
    killed(root, [*COMMAND, *OFTEN, "--step", "0"], Fault("update", count=20))
    assert {p.name for p in (root / BASE).glob("*.pt")} == {"last.pt", "previous.pt"}
    return root


@pytest.fixture
def halved(half, tmp_path) -> Path:
    shutil.copytree(half, tmp_path / "halved")
    return tmp_path / "halved"


def spoilt(file: Path, how: str) -> None:
    "What a disk, another run or an enemy makes of a state."
    if how == "torn":
        os.truncate(file, file.stat().st_size // 2)
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "a zip of something else":
        with zipfile.ZipFile(file, "w") as z:
            z.writestr("thesis.tex", "mine")
    elif how == "hostile":
        torch.save(torch.load(file, weights_only=True) | {"best": Hostile(file.parent / "harm")}, file)
    else:
        torch.save(torch.load(file, weights_only=True) | {"run": "0123456789abcdef"}, file)


@pytest.mark.parametrize("how", ["torn", "another run's", "a zip of something else", "hostile"])
def test_last_state_is_not_whole(how, halved, whole):
    "It is named, and the one before it is used."
    spoilt(halved / BASE / "last.pt", how)
    done = finished(halved, [*COMMAND, "--step", "0"])
    assert f"{BASE}/last.pt cannot be read" in done.out and "previous.pt is used, after epoch 1" in done.out
    assert ("of another run" in done.out) == (how == "another run's")
    assert not (halved / BASE / "harm").exists()
    assert_same(halved / BASE, whole / BASE)


def test_no_state_is_whole(halved, whole):
    "One sentence with the remedy, which works."
    spoilt(halved / BASE / "last.pt", "empty")
    spoilt(halved / BASE / "previous.pt", "torn")
    done = run(halved, [*COMMAND, "--step", "0"])
    assert done.code == 2 and done.err.startswith("wilson: ") and done.err.count("\n") == 1, done
    assert all(word in done.err for word in ("last.pt", "previous.pt", "cannot be read", "resume=never"))
    assert StepFolder(halved / BASE).state == "failed"
    finished(halved, [*COMMAND, "--step", "0", "--resume", "never"])
    assert_same(halved / BASE, whole / BASE)


def test_disk_full_while_a_state_is_written(root, half, whole):
    "A disk with room for two states and a half: both are whole, and with more room the same command goes on."
    allowed = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True)
    need(allowed.returncode == 0, "needs `unshare -rm mount …`, which this machine does not permit")
    size, command = int(2.5 * (half / BASE / "last.pt").stat().st_size), [*COMMAND, *OFTEN, "--step", "0"]
    (root / "runs").mkdir()
    script = f'mount -t tmpfs -o size={size} none runs || exit 99; "$@"; code=$?; cp -a runs kept; exit $code'
    done = subprocess.run(["unshare", "-rm", "bash", "-c", script, "bash", sys.executable, "-m", "wilson", *command], cwd=root,
                          env=environment(), capture_output=True, text=True, encoding="utf-8", timeout=120)
    last_line = done.stderr.strip().splitlines()[-1].rpartition("\r")[2]
    assert done.returncode == 2 and "the disk is full" in last_line and "Traceback" not in done.stderr, done
    os.rename(root / "kept", root / "runs")
    assert leftovers(root / BASE) == ["last.pt", "previous.pt"] and state_of(root / BASE)["done"] > 1
    finished(root, command)
    assert_same(root / BASE, whole / BASE)


# ------------------------------------------------------------------------- updates that go wrong


def skipped(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "skipped.jsonl").read_text(encoding="utf-8").splitlines()]


def test_bad_update_is_left_out(root):
    "One rank's loss is not finite: all leave the update out, and the images of both are written down."
    done = run(root, [*COMMAND, *PAIR, "--step", "0"], Fault("losses", "nan", count=3, rank=1))
    assert done.code == 0, done
    line, = skipped(root / BASE)
    assert (line["epoch"], line["update"], line["not_finite"]) == (1, 3, "the loss 'segmentation'")
    assert len(set(line["images"])) == 4 and all(i.startswith("train_") for i in line["images"])
    assert done.out.count("left out") == 1 and "skipped.jsonl" in done.out
    header, _ = content(root / BASE / "weights.safetensors")
    weights, _ = read_weights(root / BASE / "weights.safetensors")
    assert header and all(torch.isfinite(tensor.float()).all() for tensor in weights.values())


def test_too_many_bad_updates(root, whole):
    "The run stops with a sentence; the last state is before them, and where the fault is gone the same command ends well."
    command = [*COMMAND, *OFTEN, "--step", "0"]
    done = run(root, [*command, "--max-bad-updates", "3"], Fault("losses", "inf", count=18, times=3))
    assert done.code == 2 and "3 times in a row" in done.err and "smaller lr" in done.err, done
    assert "Traceback" not in done.err
    assert [(line["epoch"], line["update"]) for line in skipped(root / BASE)] == [(2, 7), (2, 8), (2, 9)]
    status = StepFolder(root / BASE).read("status.json")
    assert status["state"] == "failed" and "times in a row" in status["reason"]
    finished(root, command)
    assert "going on from epoch 2, update 9" in (root / BASE / "log.txt").read_text(encoding="utf-8")


def test_memory_of_the_device_too_small(root):
    "The sentence says how many passes fit; what it says works."
    few = Fault("losses", "fits 2", times=10**6)
    done = run(root, [*COMMAND, "--step", "0"], few)
    assert done.code == 2 and "The memory of cpu is too small for a pass of 4 images of 48 pixels" in done.err, done
    assert "accumulate_grad=2" in done.err and StepFolder(root / BASE).state == "failed"
    assert run(root, [*COMMAND, "--step", "0", "--accumulate-grad", "2"], few).code == 0


def test_process_that_loads_data_is_killed(root):
    done = run(root, [*COMMAND, "--step", "0", "--num-workers", "2"], Fault("updated", "kill a worker", count=2))
    assert done.code == 2 and "A process that loads data was killed" in done.err and "num_workers=1" in done.err, done
    assert "Traceback" not in done.err and StepFolder(root / BASE).state == "failed"


# ----------------------------------------------------------------------------------- asked to stop


def test_asked_to_stop_by_every_signal(root, whole):
    "SIGUSR1, SIGTERM, SIGINT: the update is finished, the state saved in mid-epoch, the exit code says by which."
    command = [*COMMAND, "--step", "0"]  # no state but the one that is asked for
    for number, updates in ((signal.SIGUSR1, 4), (signal.SIGTERM, 8), (signal.SIGINT, 12)):
        done = run(root, command, Fault("update", f"signal {int(number)}", count=4))
        assert done.code == 128 + number and "Traceback" not in done.err, done
        assert "the same command goes on" in done.out
        status = StepFolder(root / BASE).read("status.json")
        assert status["state"] == "interrupted" and number.name in status["reason"]
        state = state_of(root / BASE)
        # it comes in the fourth update of the sitting, which is finished
        assert state["done"] and state["epoch"] * updates_of(root) + state["done"] == updates
    finished(root, command)
    assert_same(root / BASE, whole / BASE)


# --------------------------------------------------------------------------- written by other versions


def rewritten(folder: Path, **changes) -> None:
    "Change what lies in config.json."
    record = StepFolder(folder).read("config.json")
    for part, change in changes.items():
        change(record[part])
    (folder / "config.json").write_text(json.dumps(record), encoding="utf-8")


NEW = ("nproc", "accumulate_grad", "precision", "compile", "max_bad_updates", "save_minutes", "histograms", "history_images")


@pytest.mark.parametrize("version", ["older", "later"])
def test_step_of_another_version(version, whole, tmp_path):
    "It opens, is scored as it was, is used as it is, and carries a later step."
    root = tmp_path / "root"
    shutil.copytree(whole, root)
    shutil.rmtree(root / LATER)

    def changed(names: dict) -> None:
        for name in NEW if version == "older" else ():
            names.pop(name, None)
        if version == "later":
            names["warp"] = 9

    rewritten(root / BASE, parameters=changed, **{"identity": changed} if version == "older" else {})
    again = run(root, ["evaluate", BASE, "--device", "cpu"])
    assert again.code == 0, again
    done = finished(root, COMMAND)
    assert "used as it is" in done.out
    line, = {line for line in done.out.splitlines() if line.startswith("0 ") and "whole" in line}
    assert line in again.out
    assert_same(root / LATER, whole / LATER)


# --------------------------------------------------------------------------------------- two ranks


def alive(pid: int) -> bool:
    "Whether a process still runs; one that nobody has waited for does not."
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ranks_of(root: Path, run: str = "wilson-s42") -> list[int]:
    diaries = sorted((root / RUNS / run / "logs").glob("rank?.json"))
    return [json.loads(diary.read_text(encoding="utf-8"))["pid"] for diary in diaries]


def test_two_ranks_killed(root, whole_pair):
    "One of them in the base step, both while the weak step's state is written: the same command goes on each time."
    command = [*COMMAND, *OFTEN, *PAIR]
    began = time.monotonic()
    done = run(root, command, Fault("update", "kill", count=8, rank=1))
    pid = ranks_of(root)[1]
    assert done.code == 2 and f"Rank 1 of 2 (process {pid}) was killed from outside" in done.err, done
    assert "Traceback" not in done.err and not any(map(alive, ranks_of(root)))
    print(f"{time.monotonic() - began:.1f} s from the start to the end of both")
    status = StepFolder(root / BASE).read("status.json")
    assert status["state"] == "failed" and "Rank 1 of 2" in status["reason"]

    n = updates_of(whole_pair)
    states = -(-(n - state_of(root / BASE)["done"]) // 2) - (-n // 2)  # of the base step: after every other update
    killed(root, command, Fault("half a state", count=states + 5))  # two more at the ends of the epochs, three of the weak step
    assert StepFolder(root / BASE).state == "finished" and StepFolder(root / LATER).state == "running"

    done = finished(root, command)
    assert "going on from epoch" in done.out and "used as it is" in done.out
    for step in (BASE, LATER):
        assert_same(root / step, whole_pair / step)


def test_ctrl_c_ends_two_ranks(root, whole_pair):
    "Ctrl-C in a shell, which tells every process; meanwhile the folder is held against one process and against two."
    command = [*COMMAND, *OFTEN, *PAIR, "--step", "0"]
    process = started(command, root, start_new_session=True)
    wait_for((root / BASE / "last.pt").exists, process)
    os.killpg(process.pid, signal.SIGSTOP)
    for more in ((), PAIR):
        second = run(root, [*COMMAND, "--step", "0", "--name", "second", *more])
        holder = StepFolder(root / BASE).read("status.json")["pid"]
        assert second.code == 2 and f"is being trained by process {holder}" in second.err, second
        assert second.err.count("wilson: ") == 1
    os.killpg(process.pid, signal.SIGCONT)
    ranks, began = ranks_of(root), time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    while any(map(alive, ranks)) and time.monotonic() - began < 30:
        time.sleep(0.02)
    took = time.monotonic() - began
    out, err = process.communicate(timeout=60)
    print(f"ranks gone {took:.2f} s after Ctrl-C, the shell's prompt back after {time.monotonic() - began:.2f} s")
    assert process.returncode == 130 and len(ranks) == 2 and took <= 5, (took, out, err)
    assert "Traceback" not in err and "the same command goes on" in out, (out, err)
    status = StepFolder(root / BASE).read("status.json")
    assert status["state"] == "interrupted" and "SIGINT" in status["reason"] and state_of(root / BASE)["done"]
    finished(root, command)
    assert_same(root / BASE, whole_pair / BASE)


def torchrun(*options: str, command=COMMAND) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", *options, "-m", "wilson", *command]


def test_torchrun_is_nproc(root, whole_pair):
    "Started by torchrun: the same step, and every line once."
    done = subprocess.run(torchrun("--standalone", "--nproc-per-node", "2", command=[*COMMAND, "--step", "0"]), cwd=root,
                          env=environment(), capture_output=True, text=True, encoding="utf-8", timeout=180)
    assert done.returncode == 0, done.stderr
    assert_same(root / BASE, whole_pair / BASE)
    lines = done.stdout.splitlines()
    assert len([line for line in lines if "epoch 1/2: segmentation" in line]) == 1
    others = [line for line in lines if "mIoU" not in line]  # which may be the same twice
    assert len(lines) - len(others) == 2 and len(set(others)) == len(others)


def test_node_lost_and_back(root, whole_pair):
    "Two agents on one network; one is killed with its rank and started again: torch elastic goes on from the last state."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    options = ("--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "3", "--rdzv-backend", "c10d", "--rdzv-id", "lost",
               "--rdzv-endpoint", f"127.0.0.1:{port}", "--local-addr", "127.0.0.1", "--monitor-interval", "0.1", "--rdzv-conf",
               "join_timeout=60,last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt=2,close_timeout=5")
    command = torchrun(*options, command=[*COMMAND, *OFTEN, "--step", "0"])
    # an agent that stays tells the address of the first rank once only, where it shares its store: who comes back waits in vain
    network = {"GLOO_SOCKET_IFNAME": "lo", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}

    def node(name: str) -> subprocess.Popen:
        with open(root / f"{name}.txt", "a", encoding="utf-8") as f:
            return subprocess.Popen(command, cwd=root, env=environment(**network), stdout=f, stderr=f,
                                    start_new_session=True)

    def workers(agent: subprocess.Popen) -> list[int]:
        children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text(encoding="utf-8").split()
        return [int(pid) for pid in children]

    nodes = [node("first")]
    try:
        time.sleep(1)  # the first one is host of the rendezvous
        nodes.append(node("second"))
        wait_for((root / BASE / "previous.pt").exists, nodes[1], 90)
        lost = workers(nodes[1])
        for pid in (nodes[1].pid, *lost):
            os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        nodes[1].wait()
        assert StepFolder(root / BASE).state != "finished"
        nodes[1] = node("second")
        codes = [process.wait(120) for process in nodes]
        print(f"{time.monotonic() - began:.1f} s from the loss to the end")
    finally:
        for process in nodes:
            for pid in (process.pid, *(workers(process) if alive(process.pid) else ())):
                if alive(pid):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
    said = [(root / f"{name}.txt").read_text(encoding="utf-8") for name in ("first", "second")]
    assert codes == [0, 0], said
    assert "going on from epoch" in "".join(said)
    assert_same(root / BASE, whole_pair / BASE)
