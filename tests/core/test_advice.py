"""Advice leads somewhere: what a message proposes is tried, and neither this check nor the next refuses it."""
from __future__ import annotations

import ast
import re
import traceback
from pathlib import Path

import pytest
import torch
from conftest import QUICK

from wilson.core.errors import InputError
from wilson.data.classes import SHAPES, Classes
from wilson.data.tasks import Task
from wilson.experiments.start import local_world_size
from wilson.experiments.train import validate_config
from wilson.models.backbones import make_backbone
from wilson.run import config as config_module
from wilson.run.config import parse_config

BASE = {name[2:].replace("-", "_"): value for name, value in zip(QUICK[::2], QUICK[1::2])
        if name != "--pseudo-epoch"}  # which one method alone has

# parameters that the configuration refuses by itself
REFUSED = [
    dict(method="wilso"), dict(compat="fixd"), dict(pooling="ngpw"), dict(prior="learnt"), dict(optimizer="adam"),
    dict(preset="voc2"), dict(resume="atuo"), dict(crop_rng_key="images"), dict(eval_padding="onec"), dict(precision="fp8"), dict(norm="plane"),
    dict(void_label="backgroud"), dict(lr_policy="poli"), dict(backbone="resnet500"), dict(base_loss="bec"), dict(alhpa=0.3),
    dict(alpha=2), dict(background_mix=-1), dict(class_prior=0.9), dict(class_prior=0),
    dict(batch_size=0), dict(lr=-1), dict(seed=-1), dict(momentum="nan"), dict(temperature="inf"), dict(max_bad_updates=0), dict(history_images=-1),
    dict(epochs="x"), dict(epochs="1/2/3"), dict(overlap="maybe"), dict(seed=None), dict(seed=1.5), dict(seed=True), dict(name="a/b"),
    dict(name=7), dict(runs_dir="\udcff"), dict(norm="inplace", precision="bf16"),
    dict(batch_size=1), *(dict(batch_size=b, accumulate_grad=a) for b in range(2, 25) for a in range(1, b + 2)),
    dict(threshold_classes=1.1), dict(threshold_floor=-0.1), dict(affinity_dilations="1,0"), dict(affinity_dilations=""), dict(loss_kd=5), dict(method="mib", pseudo_epoch=None, alpha=0.5),
    dict(pseudo_dir="x", method="wilson"), dict(method="external"), dict(step="first"),
]
# and what is refused once data and machine are known, by the number of GPUs
REFUSED_HERE = [
    (0, dict(dataset="shape")), (0, dict(task="15-6")), (0, dict(task="nothing at all")), (0, dict(task="striped disk|dotted square")),
    (0, dict(step="7")), (0, dict(pseudo_epoch=1)), (0, dict(parent="x")), (0, dict(device="cuda:77")), (0, dict(device="gpu")),
    (0, dict(output_stride=7)), (0, dict(batch_size=500)), (0, dict(nproc=9)), (0, dict(nproc=5, accumulate_grad=2)),
    (2, dict(nproc=9, device="auto")), (2, dict(nproc=3, accumulate_grad=4, device="auto")), (2, dict(nproc=3, device="auto")),
]


def refusal(given: dict[str, object]) -> InputError | None:
    "What the configuration says of parameters; None if nothing."
    try:
        parse_config(BASE | given)
    except InputError as e:
        return e
    return None


def refusal_here(given: dict[str, object]) -> InputError | None:
    "What all checks before the first update say of parameters; None if nothing."
    try:
        config, _ = validate_config(parse_config(BASE | {"pseudo_epoch": 0} | given))
        local_world_size(config)
        make_backbone(config.backbone, config.output_stride)
    except InputError as e:
        return e
    return None


def proposals(message: str, name: str) -> list[dict[str, object]]:
    "The parameters that a message proposes, as one would type them."
    found: list[dict[str, object]] = []
    found += [{n: v} for n, v in re.findall(r"\b(?:give|use|most|or) (\w+)=([\w./-]*\w)", message)]
    for known in re.findall(r"Did you mean ((?:'[^']+'(?: or )?)+)\?", message):
        for word in re.findall(r"'([^']+)'", known):
            if not re.match(r"There is no parameter", message) and "no class" not in message:
                found.append({name: word})
    found += [{name: word} for word in re.findall(r"such as (\d[\w.,]*\w)", message)]
    found += [{name: word} for word in re.findall(r"steps divided by '\|': \"([^\"]+)\"", message)]
    found += [{name: n} for n in re.findall(r"choose at most (\d+)", message)]
    found += [{name: end} for pair in re.findall(r"expected (\d[\d.]*) (?:or|\(soft\) to|\(old model\) to) (\d[\d.]*|more)", message)
              for end in pair if end != "more"]
    found += [{name: end} for end in re.findall(r"more than 0, at most (\d(?:\.\d+)?)", message)]
    found += [{name: end} for pair in re.findall(r"has steps (\d+) to (\d+)", message) for end in pair]
    found += [{name: word} for words in re.findall(r"use (\w+) or (\w+)\.$", message) for word in words]
    return found


def untrue(given: dict[str, object], check) -> list[str]:
    "The proposals that lead to another refusal; at least one must have been made."
    error = check(given)
    if error is None:
        return []
    wrong = []
    for change in proposals(str(error), next(iter(given))):
        if (second := check(given | change)) is not None:
            wrong.append(f"{given}: {error}\n    {change}: {second}")
    return wrong


def test_every_proposal_of_the_configuration_is_accepted():
    assert sum(len(proposals(str(e), next(iter(g)))) for g in REFUSED if (e := refusal(g))) > 150
    wrong = [line for given in REFUSED for line in untrue(given, refusal)]
    assert not wrong, "\n".join(wrong)


def test_every_proposal_about_data_and_machine_is_accepted(root, monkeypatch):
    made = 0
    monkeypatch.setattr("wilson.engine.devices.start_gpu", lambda device: None)
    for gpus, given in REFUSED_HERE:
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpus=gpus: gpus > 0)
        error = refusal_here(given)
        assert error is not None, given
        made += len(proposals(str(error), next(iter(given))))
        wrong = untrue(given, refusal_here)
        assert not wrong, "\n".join(wrong)
    assert made > 15, made


def raised_at() -> set[int]:
    "Lines of the configuration's module where a refusal of REFUSED was raised."
    found = set()
    for given in REFUSED:
        try:
            parse_config(BASE | given)
        except InputError as e:
            frames = [f for f in traceback.extract_tb(e.__traceback__) if f.filename == config_module.__file__]
            found.add(frames[-1].lineno)
    return found


def test_every_check_of_the_configuration_is_tried():
    "A check without a case in REFUSED would have its advice untried."
    tree = ast.parse(Path(config_module.__file__).read_text(encoding="utf-8"))
    lines = {n.lineno for n in ast.walk(tree) if isinstance(n, ast.Raise) and "InputError" in ast.unparse(n)
             or isinstance(n, ast.Raise) and "text_expected" in ast.unparse(n)}
    untried = lines - raised_at()
    assert not untried, f"{config_module.__file__}: lines {sorted(untried)}"


@pytest.mark.parametrize("names", [("cow",), ("cow", "hen"), ("cow", "hen", "pig"), SHAPES.names])
def test_a_task_is_proposed_that_exists(names):
    "Of data sets with one or two classes too."
    classes = Classes("farm", names, tuple(range(1, len(names) + 1)))
    with pytest.raises(InputError) as error:
        Task(classes, "no such")
    for change in proposals(str(error.value), "task"):
        assert len(Task(classes, change["task"])) >= 1
    assert "steps divided by" in str(error.value)


def test_names_that_differ_by_a_capital_or_an_accent_alone():
    classes = Classes("farm", ("cow", "Cow", "Ku\u0308he"), (1, 2, 3))  # the last as an editor on a Mac may write it
    assert Task(classes, "Cow|cow,K\u00fche").groups == ((2,), (1, 3))


@pytest.mark.parametrize("message, expected", [
    ("x=1: give at most accumulate_grad=4.", [{"accumulate_grad": "4"}]), ("x='a' is not known. Did you mean 'b' or 'c'?", [{"x": "b"}, {"x": "c"}]),
    ("x=5 is larger than 3; choose at most 3.", [{"x": "3"}]), ("x=7: expected 16 or 8", [{"x": "16"}, {"x": "8"}]),
])
def test_the_reading_of_proposals(message, expected):
    assert proposals(message, "x") == expected
