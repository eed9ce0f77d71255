"""Every command that prints a result prints it as JSON with `--json`; a new command without it fails here."""
from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path

import pytest
from commands import run
from conftest import QUICK

from wilson.cli.command import COMMANDS
from wilson.cli.output import Json
from wilson.cli.workbench_commands import WITH_FLAGS

STEP = "runs/shapes-striped_disc__dotted_square-overlap/wilson-s42/step1"
PHOTO = "data/few/JPEGImages/val_00000.jpg"
TASK = ("--dataset", "shapes", "--task", "striped disc|dotted square")
# what each command is called with, in this order; it finishes with 0
CALLS = {
    "prepare": [("shapes", "--data-root", "data/few", "--no-verify")],
    "verify": [("shapes", "--data-root", "data/few")],
    "train": [QUICK],
    "sweep": [(*QUICK, "--grid", "seed=42", "--dry-run")],
    "slurm": [(*QUICK, "--out", "job.sh"), (*QUICK, "--grid", "seed=42", "--out", "jobs")],
    "runs": [()],
    "evaluate": [(STEP, "--device", "cpu")],
    "predict": [(STEP, PHOTO, "--device", "cpu")],
    "compare": [(), ("--out", "tables")],
    "pseudo-labels": [(STEP, "--device", "cpu", "--out", "maps"),
                      (STEP, "--device", "cpu", "--out", "corrections", "--format", "labelme", "--images", "train_00050")],
    "export": [(STEP, "--format", "checkpoint", "--out", "step.pth")],
    "import-checkpoint": [("step.pth", *TASK, "--step", "1", "--name", "again")],
    "new": [("bench",)],
    "demo": [()],
    "label-report": [(STEP, "--device", "cpu")],
    "add-class": [(STEP, "--name", "goat", "--images", "photos", "--labels", "photos.csv", "--epochs", "1", "--batch-size", "2", "--device", "cpu")],
}


def lacks_json(command) -> bool:
    return all(parameter.annotation != Json for parameter in inspect.signature(command, eval_str=True).parameters.values())


def test_every_command_has_the_option():
    "The other commands hand their flags to a server or to papermill, which print no result of wilson's."
    assert not [name for name, command in COMMANDS.items() if lacks_json(command)]
    assert {*WITH_FLAGS} == {"lab", "studio", "bench"} and lacks_json(lambda: None)


@pytest.fixture
def place(tiny_run, tmp_path, monkeypatch) -> Path:
    shutil.copytree(tiny_run, tmp_path / "root")
    monkeypatch.chdir(tmp_path / "root")
    photos = sorted(Path("data/few/JPEGImages").glob("val_*"))[:6]
    Path("photos").mkdir()
    for photo in photos:
        shutil.copy(photo, "photos")
    Path("photos.csv").write_text("".join(f"{p.name},{'goat' if n % 2 else ''}\n" for n, p in enumerate(photos)), encoding="utf-8")
    return tmp_path / "root"


def test_every_command_prints_nothing_but_json(place, monkeypatch, capfd):
    from wilson.experiments import train
    from wilson.run.config import parse_config
    assert not COMMANDS.keys() - CALLS.keys(), "add a call of the new command to CALLS"
    trained = train.run_training
    quick = parse_config(dict(zip((name.removeprefix("--").replace("-", "_") for name in QUICK[::2]), QUICK[1::2])))
    printed = {}
    for name, calls in CALLS.items():
        for arguments in calls:
            with monkeypatch.context() as patch:
                if name == "demo":  # of 15-5 it would train for minutes
                    patch.setattr(train, "run_training", lambda config: trained(quick))
                capfd.readouterr()
                code = run(name, *arguments, "--json")
                out = capfd.readouterr()
            assert code == 0, (name, out.err)
            printed[name, *arguments[-2:]] = json.loads(out.out)
    printed = {name: printed[name, *calls[0][-2:]] for name, calls in CALLS.items()} | {"sweep of jobs": printed["slurm", "--out", "jobs"]}
    assert printed["slurm"]["scripts"] == ["job.sh"] and printed["slurm"]["submit"].startswith("sbatch ") and Path("job.sh").is_file()
    assert printed["sweep of jobs"]["submit"] == str(place / "jobs/submit.sh") and all(Path(f).is_file() for f in printed["sweep of jobs"]["scripts"])
    assert printed["pseudo-labels"] == {"folder": "maps", "format": "png", "kind": "cam"} and [*Path("maps").glob("*.png")]
    assert printed["export"] == {"step_folder": STEP, "format": "checkpoint", "path": "step.pth"} and Path("step.pth").is_file()
    again = printed["import-checkpoint"]
    assert again["step"] == 1 and Path(again["path"], "weights.safetensors").is_file() and "again" in again["path"]
    assert printed["new"] == {"folder": "bench"} and [s["step"] for s in printed["demo"]] == [0, 1]


def test_sentences_without_the_option(place, capfd):
    for arguments, words in ((("export", STEP, "--format", "checkpoint", "--out", "step.pth"), "step.pth"),
                             (("slurm", *QUICK, "--out", "job.sh"), "submit it with: sbatch"),
                             (("pseudo-labels", STEP, "--device", "cpu", "--out", "maps"), "--pseudo-dir maps"),
                             (("new", "bench"), "make setup")):
        capfd.readouterr()
        assert run(*arguments) == 0 and words in capfd.readouterr().out, arguments
