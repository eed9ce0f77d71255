"""`wilson train`, `evaluate` and `predict` as processes: answers, interruption, several at once."""
from __future__ import annotations

import csv
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import QUICK, started, wait_for, wilson
from PIL import Image
from safetensors.torch import load_file

from wilson.cli.command import main
from wilson.core.errors import InputError
from wilson.data.classes import SHAPES
from wilson.engine.step_folder import StepFolder
from wilson.run.folder import lock_step, rebuild_results

RUNS = "shapes-striped_disc__dotted_square-overlap"
BASE, LATER = f"runs/{RUNS}/base-s42/step0", f"runs/{RUNS}/wilson-s42/step1"


@pytest.fixture(scope="module")
def trained(small_root, tmp_path_factory) -> Path:
    "A root where one task is trained by the command; what it printed is in trained.txt."
    root = tmp_path_factory.mktemp("trained") / "root"
    shutil.copytree(small_root, root)
    done = wilson(["train", *QUICK], root)
    assert done.returncode == 0, done.stderr
    (root / "trained.txt").write_text(done.stdout, encoding="utf-8")
    return root


def refusal(arguments, cwd: Path) -> str:
    "The message of a command that is refused with exit code 2."
    done = wilson(arguments, cwd)
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    return done.stderr


# ---------------------------------------------------------------------------------- answers


def test_help(small_root):
    done = wilson(["--help"], small_root)
    assert done.returncode == 0 and all(word in done.stdout for word in ("train", "evaluate", "predict"))
    done = wilson(["train", "--help"], small_root)
    assert done.returncode == 0
    for word in ("--task", "--lr-policy", "[--step_ckpt]", "(default: 15-5)"):
        assert word in done.stdout
    assert "--alpha" not in done.stdout
    done = wilson(["train", "--method", "wilson", "--help"], small_root)
    assert "--alpha" in done.stdout and "share of the hard label" in done.stdout
    assert wilson([], small_root).returncode == 2


@pytest.mark.parametrize("arguments, expected", [
    (["tarin"], ["no command 'tarin'", "Did you mean 'train'"]),
    (["train", "--alhpa", "0.3"], ["--alhpa", "Did you mean '--alpha'"]),
    (["train", "--task", "15-6", "--dataset", "shapes"], ["task='15-6'", "Did you mean '15-5'"]),
    (["train", "--task", "cat,dgo|cow", "--dataset", "voc"], ["no class 'dgo'", "Did you mean 'dog'"]),
    (["train", "--backbone", "resnet500"], ["backbone='resnet500'", "Did you mean 'resnet50"]),
    (["predict", "runs/nothing"], ["images"]),
])
def test_refused(arguments, expected, small_root):
    message = refusal(arguments, small_root)
    assert all(part in message for part in expected), message
    assert not (small_root / "runs").exists()


def test_underscores_and_hyphens_are_one(root):
    assert "batch_size='x'" in refusal(["train", "--batch_size", "x"], root)
    assert "batch_size='x'" in refusal(["train", "--batch-size=x"], root)


# ---------------------------------------------------------------------------------- results


def test_train_prints_the_table_and_writes_results(trained):
    table = (trained / "trained.txt").read_text(encoding="utf-8")
    assert all(word in table for word in ("published", "whole", "localizer", "taught: target", "taught: hard mask", "added")), table
    with open(trained / "runs/results.csv", encoding="utf-8", newline="") as f:
        rows = list(csv.DictReader(f))
    assert [(r["task"], r["run"], r["step"]) for r in rows] == [(RUNS, "base-s42", "0"), (RUNS, "wilson-s42", "1")]
    for row, folder in zip(rows, (BASE, LATER)):
        scores = json.loads((trained / folder / "metrics.json").read_text(encoding="utf-8"))["scores"]
        assert float(row["whole_all"]) == pytest.approx(scores["whole"]["miou"]["all"], abs=1e-3)
        assert StepFolder(trained / folder).state == "finished"


def test_evaluate_gives_the_scores_of_training(trained):
    done = wilson(["evaluate", LATER, "--device", "cpu"], trained)
    assert done.returncode == 0, done.stderr
    lines = [line for line in (trained / "trained.txt").read_text(encoding="utf-8").splitlines() if line.startswith("1 ")]
    assert lines == [line for line in done.stdout.splitlines() if line.startswith("1 ")]


def test_predict_images_of_ones_own(trained, tmp_path):
    rng = np.random.default_rng(0)
    colour, grey = tmp_path / "my photo.JPG", tmp_path / "grey.png"
    Image.fromarray(rng.integers(0, 256, (97, 130, 3), np.uint8)).save(colour, "JPEG")
    Image.fromarray(rng.integers(0, 256, (40, 33), np.uint8)).save(grey)
    done = wilson(["predict", trained / LATER, colour, grey, "--out", "seen", "--device", "cpu"], trained)
    assert done.returncode == 0, done.stderr
    ids = {0, *(SHAPES.ids[SHAPES.names.index(n)] for n in ("striped disc", "dotted square"))}
    for name, size in (("my photo", (130, 97)), ("grey", (33, 40))):
        with Image.open(trained / f"seen/{name}.png") as mask, Image.open(trained / f"seen/{name}-overlay.png") as overlay:
            assert mask.size == overlay.size == size and mask.mode == "P" and overlay.mode == "RGB"
            assert set(np.unique(np.array(mask)).tolist()) <= ids
        assert f"seen/{name}.png: " in done.stdout


def refusal_here(capsys, *arguments) -> str:
    "`refusal` without a process of its own."
    assert main([str(a) for a in arguments]) == 2
    return capsys.readouterr().err


def test_predict_refuses_before_it_writes(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    torn = tmp_path / "torn.jpg"
    torn.write_bytes(b"no picture")
    good = trained / "data/few/JPEGImages/val_00000.jpg"
    message = refusal_here(capsys, "predict", LATER, good, torn, "--out", "never")
    assert "torn.jpg" in message and "cannot be read as an image" in message
    message = refusal_here(capsys, "predict", LATER, good, tmp_path / "gone.jpg", "--out", "never")
    assert "gone.jpg" in message and "no such file" in message and "list" not in message
    assert not (trained / "never").exists()


def test_predict_never_overwrites_an_image(trained, tmp_path, monkeypatch, capsys):
    "A mask named like the image, in the image's own folder, would take its place; so would one of the same name."
    monkeypatch.chdir(trained)
    image = tmp_path / "mine.png"
    shutil.copy(trained / "data/few/JPEGImages/val_00000.jpg", tmp_path / "val.jpg")
    Image.open(tmp_path / "val.jpg").save(image)
    before = image.read_bytes()
    message = refusal_here(capsys, "predict", LATER, image, "--out", tmp_path)
    assert "mine.png" in message and "out" in message
    assert image.read_bytes() == before
    (tmp_path / "other").mkdir()
    shutil.copy(image, tmp_path / "other")
    message = refusal_here(capsys, "predict", LATER, image, tmp_path / "other/mine.png", "--out", "twice")
    assert "mine.png" in message and not (trained / "twice").exists()


# ----------------------------------------------------------------------------- interruption

LONG = dict(zip(QUICK[::2], QUICK[1::2])) | {
    "--task": "striped disc,dotted square,plain cross|checkered cross", "--epochs": "3", "--step": "0"}
LONG_BASE = "runs/shapes-striped_disc+dotted_square+plain_cross__checkered_cross-overlap/base-s42/step0"


def long(**options) -> list[str]:
    given = LONG | {f"--{n.replace('_', '-')}": str(v) for n, v in options.items()}
    return ["train", *(part for pair in given.items() for part in pair)]


@pytest.fixture(scope="module")
def uninterrupted(small_root, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("uninterrupted") / "root"
    shutil.copytree(small_root, root)
    done = wilson(long(), root)
    assert done.returncode == 0, done.stderr
    return root


def stopped_after_an_epoch(root: Path):
    "Training that stands still after its first checkpoint, whatever the machine's speed."
    process = started(long(), root)
    wait_for((root / LONG_BASE / "last.pt").exists, process)
    process.send_signal(signal.SIGSTOP)
    return process


def assert_same_as_uninterrupted(root: Path, uninterrupted: Path) -> None:
    ours, theirs = ((r / LONG_BASE) for r in (root, uninterrupted))
    assert json.loads((ours / "metrics.json").read_text(encoding="utf-8"))["scores"] == \
        json.loads((theirs / "metrics.json").read_text(encoding="utf-8"))["scores"]
    weights, wanted = (load_file(p / "weights.safetensors") for p in (ours, theirs))
    assert weights.keys() == wanted.keys() and all(torch.equal(weights[n], wanted[n]) for n in wanted)
    assert list(ours.glob("*.pt")) == [] and StepFolder(ours).state == "finished"


def test_interrupted_then_resumed(root, uninterrupted):
    process = stopped_after_an_epoch(root)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, (out, err)
    assert "Traceback" not in err and "the same command goes on" in out
    status = StepFolder(root / LONG_BASE).read("status.json")
    assert status["state"] == "interrupted" and "by SIGINT in epoch" in status["reason"]
    assert not (root / LONG_BASE / "metrics.json").exists()

    done = wilson(long(), root)
    assert done.returncode == 0 and "going on from epoch" in done.stdout, done.stderr
    assert StepFolder(root / LONG_BASE).state == "finished"
    assert_same_as_uninterrupted(root, uninterrupted)


def test_two_at_once_then_killed_then_resumed(root, uninterrupted):
    process = stopped_after_an_epoch(root)
    message = refusal(long(), root)  # a second one on the same folder
    assert LONG_BASE in message and f"is being trained by process {process.pid}" in message

    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert StepFolder(root / LONG_BASE).state == "running"  # nobody was left to say otherwise

    done = wilson(long(), root)
    assert done.returncode == 0 and "going on from epoch" in done.stdout, done.stderr
    assert_same_as_uninterrupted(root, uninterrupted)
    assert not list((root / LONG_BASE).glob("*.part")) and not list((root / LONG_BASE).glob(".*.part"))


# --------------------------------------------------------------------------- several at once


def _write_rows(runs: Path, writer: int, count: int) -> None:
    for n in range(count):
        folder = StepFolder(runs / f"task{writer}" / f"run{n}" / "step0")
        folder.write("metrics.json", {"step": 0, "seconds": 1.0, "scores": {"whole": {"miou": {"all": float(n)}}}})
        rebuild_results(runs)


def test_results_of_many_writers(tmp_path):
    "Each adds rows and rebuilds the table; the last to leave leaves all rows."
    writers, count = 6, 8
    processes = [multiprocessing.get_context("fork").Process(target=_write_rows, args=(tmp_path, w, count))
                 for w in range(writers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    with open(tmp_path / "results.csv", encoding="utf-8", newline="") as f:
        rows = [(r["task"], r["run"], float(r["whole_all"])) for r in csv.DictReader(f)]
    assert sorted(rows) == sorted((f"task{w}", f"run{n}", float(n)) for w in range(writers) for n in range(count))
    assert not list(tmp_path.glob(".*.part"))


def test_a_held_folder_is_free_when_its_holder_has_died(tmp_path):
    "The lock belongs to the process, not to the file that is left."
    child = os.fork()
    if child == 0:
        with lock_step(StepFolder(tmp_path / "step0")):
            os._exit(0)  # without leaving the block
    assert os.waitpid(child, 0)[1] == 0
    second = lock_step(StepFolder(tmp_path / "step0"))
    with lock_step(StepFolder(tmp_path / "step0")), pytest.raises(InputError, match="is being trained by process"):
        second.__enter__()
