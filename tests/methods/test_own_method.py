"""A method of one's own: a class in one file outside the repository, and nothing else touched."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import refused, run
from conftest import QUICK, REPO

from wilson.core.errors import InputError
from wilson.engine.checkpoint import read_carried
from wilson.experiments.notebook_parameters import parse_parameters
from wilson.run.config import parse_config
from wilson.run.opened import open_step

MINE = '''\
"""An idea."""
import torch

from wilson.core.params import param
from wilson.methods.base import Method
from wilson.methods.losses import base_loss


class Mine(Method):
    "Masks, and a pull to the mean of the features, which wanders from step to step."
    name, supervision = "mine", "masks"
    strength: float = param(0.1, "weight of the pull", min=0, max=2)
    momentum_of_mean: float = param(0.5, "share of the mean of the step before", above=0, below=1)

    def __init__(self, segmenter, old, **params):
        super().__init__(segmenter, old, **params)
        self.register_buffer("mean", torch.zeros(segmenter.backbone.channels))
        self.register_buffer("saw", torch.zeros(1))

    @torch.no_grad()
    def prepare(self, batches):
        mean = torch.stack([self.old_output(b.images).features.mean((0, 2, 3)) for b in batches]).mean(0)
        before = self.carried.get("mean", mean)
        self.mean.copy_(self.momentum_of_mean * before + (1 - self.momentum_of_mean) * mean)
        self.saw.fill_("mean" in self.carried)

    def losses(self, batch, epoch):
        now = self.segmenter(batch.images)
        pull = (now.features.mean((0, 2, 3)) - self.mean).square().mean()
        return {"segmentation": base_loss(now.logits, batch.require_masks()), "pull": self.strength * pull}

    def carry(self):
        return {"mean": self.mean, "saw": self.saw}
'''
TASK = "striped disc|dotted square|plain disc"


@pytest.fixture
def mine(root, tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("ideas") / "my_ideas.py"
    file.write_text(MINE, encoding="utf-8")
    return f"{file}:Mine"


def train(method: str, *more: str) -> list[str]:
    given = dict(zip(QUICK[::2], QUICK[1::2])) | {"--task": TASK, "--method": method, "--history-images": "0"}
    del given["--pseudo-epoch"]
    return ["train", *(part for pair in given.items() for part in pair), *more]


def test_a_method_in_a_file_of_ones_own(mine, capsys, root):
    "Trained by the command over three steps; its tensor reaches the third from the second; its parameters are recorded."
    assert run(*train(mine, "--strength", "0.5")) == 0
    steps = [next(Path("runs").glob(f"*/mine-s42/step{k}")) for k in (1, 2)]
    carried = [read_carried(step / "weights.safetensors") for step in steps]
    assert [c["saw"].item() for c in carried] == [0, 1] and not carried[0]["mean"].equal(carried[1]["mean"])
    record = json.loads((steps[1] / "config.json").read_text(encoding="utf-8"))
    assert record["parameters"]["method"] == record["method"] == mine
    assert (record["parameters"]["strength"], record["parameters"]["momentum_of_mean"]) == (0.5, 0.5)
    assert record["identity"]["strength"] == 0.5 and "alpha" not in record["parameters"]
    assert "pull " in (steps[1] / "log.txt").read_text(encoding="utf-8")
    assert open_step(steps[1]).config.method_params["strength"] == 0.5
    capsys.readouterr()
    assert run(*train(mine, "--strength", "0.5")) == 0 and "used as it is" in capsys.readouterr().out
    assert "strength is 0.5, wanted 0.1" in refused(capsys, *train(mine), new_files=True)


def test_its_parameters_are_those_of_the_command(mine, capsys):
    assert run("train", "--method", mine, "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--strength" in text and "weight of the pull (default: 0.1)" in text and "Masks, and a pull" in text
    assert "strength=3.0: expected at least 0, at most 2." in refused(capsys, *train(mine, "--strength", "3"))
    assert "Did you mean '--strength'" in refused(capsys, *train(mine, "--strenght", "1"))
    assert "has no parameter 'alpha'; methods that have it: wilson, " in refused(capsys, *train(mine, "--alpha", "1"))


def test_its_parameters_are_those_of_the_notebook(mine):
    "papermill's cell has names that the notebook's own cell has not."
    notebook = json.loads((REPO / "nbs/train.ipynb").read_text(encoding="utf-8"))
    cell, = ["".join(c["source"]) for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", ())]
    given = parse_parameters(["", cell, f"# Parameters\nmethod = {mine!r}\nstrength = 1\n"])
    assert parse_config(given).method_params == {"strength": 1.0}
    with pytest.raises(InputError, match="no parameter 'strenth'. Did you mean 'strength'"):
        parse_config(given | {"strenth": 1})
