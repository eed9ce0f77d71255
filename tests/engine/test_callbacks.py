"""Callbacks of one's own: a file outside of the repository is all that an average of the weights takes."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import environment

from wilson.core.errors import InputError
from wilson.engine.checkpoint import read_weights
from wilson.engine.step_folder import StepFolder
from wilson.engine.trainer import Trainer
from wilson.experiments import step as step_module
from wilson.experiments.train import run_training
from wilson.run.config import parse_config

BASE = dict(dataset="shapes", data_root="data/few", task="striped disc|dotted square", epochs="2", crop_size=48, batch_size=4,
            pseudo_epoch=0, device="cpu", step="0", optimizer="sgd", lr="0.02", val_interval=1, history_images=0, save_minutes=1e-9)
STEP = Path("runs/shapes-striped_disc__dotted_square-overlap/base-s42/step0")
EMA = """
import torch
from wilson.engine.callbacks import Callback


class EMA(Callback):
    "Evaluates and saves an exponential moving average of the weights."

    def before_fit(self, trainer):
        self.trained = trainer.method.state_dict()
        self.average = {name: t.clone() for name, t in self.trained.items()}

    def after_update(self):
        for name, average in self.average.items():
            if average.is_floating_point():
                average.lerp_(self.trained[name], 0.1)

    def weights(self):
        return self.average

    def state_dict(self):
        return self.average

    def load_state_dict(self, state):
        for name, average in self.average.items():
            average.copy_(state[name])
"""
OTHERS = """
from pathlib import Path
from wilson.engine.callbacks import Callback


class Watch(Callback):
    affects = "nothing"

    def on_stats(self, stats):
        self.trainer.log_scalars("watch", {"loss": stats.terms["segmentation"]}, self.trainer.reported)


class Forgets(Callback):
    def state_dict(self):
        return {"files": [Path("a.png")]}
"""


class Killed(BaseException):
    "As it were."


@pytest.fixture
def own(root, tmp_path) -> Path:
    "A folder with files of one's own, outside of the root."
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "average.py").write_text(EMA, encoding="utf-8")
    (folder / "others.py").write_text(OTHERS, encoding="utf-8")
    return folder


def trained(**more) -> Path:
    result, = run_training(parse_config(BASE | more))
    return result.path


def killed_at(update: int, patch: pytest.MonkeyPatch, **more) -> None:
    "Train until the run is killed in the middle of an update of its second epoch."
    original = Trainer._update

    def until_killed(trainer, *args):
        if trainer.epoch == 1 and trainer.done == update:
            raise Killed
        return original(trainer, *args)

    with patch.context() as inside, pytest.raises(Killed):
        inside.setattr(Trainer, "_update", until_killed)
        trained(**more)


def state_of(folder: Path) -> dict:
    return torch.load(folder / "last.pt", weights_only=True)


def assert_equal(ours: dict, theirs: dict) -> None:
    assert ours.keys() == theirs.keys()
    assert not [name for name, tensor in ours.items() if not torch.equal(tensor, theirs[name])]


def test_an_average_goes_on_bit_identically_with_another_number_of_threads(own, monkeypatch):
    "Killed in mid-epoch; the same command in an environment with two threads ends as the undisturbed run with one."
    monkeypatch.setattr(step_module, "remove_states", lambda folder: None)
    average = f"{own / 'average.py'}:EMA"
    whole = trained(callbacks=average, base_name="whole")
    killed_at(3, monkeypatch, callbacks=average)
    states = state_of(STEP)["callbacks"]["EMA"], state_of(STEP)["method"]
    assert any(not torch.equal(states[0][name], tensor) for name, tensor in states[1].items())
    given = [part for name, value in BASE.items() for part in (f"--{name}", str(value))] + ["--callbacks", average]
    code = ("import sys; from wilson.cli.command import main; from wilson.experiments import step; "
            "step.remove_states = lambda folder: None; sys.exit(main(sys.argv[1:]))")
    done = subprocess.run([sys.executable, "-c", code, "train", *given], env=environment(OMP_NUM_THREADS="2"), capture_output=True,
                          text=True, encoding="utf-8", timeout=200)
    assert done.returncode == 0, done.stderr
    assert "going on from epoch 2, update " in done.stdout and "threads: 1 as before, not 2" in done.stdout
    for part in (lambda folder: read_weights(folder / "weights.safetensors")[0], lambda folder: state_of(folder)["method"],
                 lambda folder: state_of(folder)["callbacks"]["EMA"], lambda folder: read_weights(folder / "best.safetensors")[0]):
        assert_equal(part(STEP), part(whole))
    final, state = read_weights(STEP / "weights.safetensors")[0], state_of(STEP)
    assert_equal(*({name: tensor for name, tensor in found.items() if name.startswith("segmenter.")}
                   for found in (final, state["callbacks"]["EMA"])))
    assert not torch.equal(final["segmenter.cls.0.bias"], state["method"]["segmenter.cls.0.bias"])
    assert json.loads((STEP / "config.json").read_text(encoding="utf-8"))["machine"]["threads"] == [1]
    scores = [StepFolder(folder).read("metrics.json")["scores"] for folder in (STEP, whole)]
    assert scores[0] == scores[1]


def test_a_run_goes_on_in_the_precision_it_began_with(root, monkeypatch):
    "Also where the machine would choose another one now."
    whole = trained(precision="bf16", base_name="whole")
    with monkeypatch.context() as patch:
        patch.setattr("wilson.experiments.build.compute_dtype", lambda *_: torch.bfloat16)
        killed_at(3, monkeypatch)
    ours = trained()
    record, theirs = (json.loads((folder / "config.json").read_text(encoding="utf-8")) for folder in (ours, whole))
    assert record["machine"]["precision"] == theirs["machine"]["precision"] == "bf16"
    assert record["parameters"]["precision"] == "auto"
    assert "precision: bf16 as before, not float32" in (ours / "log.txt").read_text(encoding="utf-8")
    assert_equal(*(read_weights(folder / "weights.safetensors")[0] for folder in (ours, whole)))


def test_what_belongs_to_a_run(own):
    "A callback that affects the weights makes another step; one that affects nothing does not."
    plain, watch = trained(epochs="1"), f"{own / 'others.py'}:Watch"
    assert trained(epochs="1", callbacks=watch) == plain
    average = f"{own / 'average.py'}:EMA"
    with pytest.raises(InputError, match="callbacks is None, wanted '.*average.py:EMA'"):
        trained(epochs="1", callbacks=f"{watch}, {average}")
    with pytest.raises(InputError, match="Did you mean 'EMA'"):
        trained(epochs="1", callbacks=f"{average}s")
    assert not [p for p in (plain.parents[1]).iterdir() if p != plain.parent and p.name != "results.csv"]
    watched = trained(epochs="1", callbacks=watch, base_name="watched")
    assert_equal(*(read_weights(folder / "weights.safetensors")[0] for folder in (plain, watched)))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    assert [event.step for event in EventAccumulator(str(watched)).Reload().Scalars("watch/loss")] == [1, 2, 3, 4]


def test_a_state_that_cannot_be_loaded_is_refused_at_the_first_save(own):
    "By name, place and type, while nothing is lost."
    with pytest.raises(InputError, match=r"callback Forgets: state_dict\(\)\['files'\]\[0\] has the type pathlib\..*PosixPath.*weights_only"):
        trained(callbacks=f"{own / 'others.py'}:Forgets")
    assert StepFolder(STEP).state == "failed" and not (STEP / "last.pt").exists()
    assert len((STEP / "log.txt").read_text(encoding="utf-8").splitlines()) == 1  # the first epoch has not ended


def test_a_file_is_all_that_was_written(own):
    assert sorted(os.listdir(own)) == ["average.py", "others.py"] and len(EMA.strip().splitlines()) < 26
