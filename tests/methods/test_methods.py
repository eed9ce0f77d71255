"Every method trained to its end on a few images; the choices of `compat`; label maps made elsewhere."
from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import QUICK, wilson
from PIL import Image
from safetensors.torch import load_file

from wilson.analysis.results import evaluate_saved_step
from wilson.core.errors import InputError
from wilson.data.classes import SHAPES
from wilson.data.image_io import read_mask
from wilson.data.tasks import Task
from wilson.datasets.voc import open_folder
from wilson.engine.trainer import Trainer
from wilson.experiments.train import run_training
from wilson.methods.builtin import METHODS
from wilson.methods.facts import method_params
from wilson.methods.plop import PLOP
from wilson.run.config import SHARED, all_parameters, parse_config
from wilson.run.presets import resolve_config

PARAMETERS = {name.removeprefix("--").replace("-", "_"): value for name, value in zip(QUICK[::2], QUICK[1::2])}
STEP = Task("shapes", PARAMETERS["task"]).step(1)


def run(**more) -> dict:
    "Metrics of the last step."
    own = {*SHARED, *method_params(METHODS[more.get("method", "wilson")])}
    return run_training(parse_config({n: v for n, v in PARAMETERS.items() if n in own} | more))[-1].metrics


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "weights.safetensors")


@pytest.fixture
def root(tiny_run, tmp_path, monkeypatch) -> Path:
    "A copy of the root in which the base step and a weak step are trained, and the working directory."
    copy = tmp_path / "root"
    shutil.copytree(tiny_run, copy)
    monkeypatch.chdir(copy)
    return copy


def weak_step(root: Path) -> Path:
    return next(root.glob("runs/*/wilson-s42/step1"))


def masks_as_label_maps(root: Path, folder: str = "maps") -> Path:
    "The new class's pixels of the masks as label maps, as a perfect tool would make them."
    out = root / folder
    out.mkdir()
    for mask in open_folder("data/few", SHAPES).train.masks:
        labels = read_mask(mask)
        Image.fromarray(np.where(np.isin(labels, [*STEP.groups[1], 255]), labels, 0).astype(np.uint8)).save(out / mask.name)
    return out


# ------------------------------------------------------------------------------------- methods


TERMS = {"finetune": {"segmentation"}, "lwf": {"segmentation", "distillation"}, "lwf-mc": {"segmentation"},
         "icarl": {"segmentation", "distillation"}, "ilt": {"segmentation", "distillation", "features"},
         "mib": {"segmentation", "distillation"}, "plop": {"segmentation", "features", "distillation"}}


@pytest.mark.parametrize("method", TERMS)
def test_a_method_with_pixel_labels(root, method):
    "It trains, its terms are logged, it opens again, and the base step is shared."
    metrics = run(method=method)
    folder, = root.glob(f"runs/*/{method}-s42/step1")
    assert all(f"{term} " in (folder / "log.txt").read_text(encoding="utf-8") for term in TERMS[method])
    assert len(list(root.glob("runs/*/*/step0"))) == 1
    again = evaluate_saved_step(folder).metrics
    assert again["scores"] == metrics["scores"] and metrics["across_steps"]["published"]["mean_forgetting"] is not None
    assert ("pseudo_labels" in metrics) == (method == "plop")
    assert not any(name.startswith("localizer.") for name in weights(folder))


def test_every_choice_of_a_method_is_covered():
    weak = {name for name, kind in METHODS.items() if kind.supervision == "image labels"}  # tested on their own pages
    assert {*METHODS} - weak == {*TERMS, "joint", "external"} and "wilson" in weak


VARIANTS = [dict(prior="none"), dict(prior="fixed"), dict(pooling="mean"), dict(pooling="attention"), dict(affinity=False),
            dict(affinity_scale=2), dict(alpha=1), dict(alpha=0), dict(label_old_classes=True), dict(background="mix")]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, *v.items())))
def test_a_variant_of_wilson_is_another_step(root, variant):
    "It changes the weights, is refused under the name of the plain one, and opens again with what it was trained with."
    with pytest.raises(InputError, match=next(iter(variant))):
        run(**variant)
    metrics = run(name="variant", **variant)
    folder, = root.glob("runs/*/variant/step1")
    ours, plain = weights(folder), weights(weak_step(root))
    assert any(not torch.equal(ours[name], plain[name]) for name in plain)
    assert evaluate_saved_step(folder).metrics["localizer"] == metrics["localizer"]


def test_a_temperature_is_no_alpha(root):
    run(method="mib")
    with pytest.raises(InputError, match="method=mib has no parameter 'alpha'; methods that have it: wilson"):
        run(method="mib", alpha=0.1)
    with pytest.raises(InputError, match="temperature"):
        run(method="mib", temperature=2.0)


def test_plop_goes_on_with_its_thresholds(root, monkeypatch):
    "What is measured before the first epoch comes back with the state, not from another pass."
    class Killed(Exception):
        pass

    def killed(trainer, *args):
        "Before the second epoch."
        if trainer.epoch == 1:
            raise Killed
        return run_epoch(trainer, *args)

    prepare, passes, run_epoch = PLOP.prepare, [], Trainer._run_epoch
    monkeypatch.setattr(PLOP, "prepare", lambda self, batches: (passes.append(1), prepare(self, batches)))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Trainer, "_run_epoch", killed)
        run(method="plop", epochs="1/2")
    halved, = root.glob("runs/*/plop-s42/step1")
    medians = torch.load(halved / "last.pt", weights_only=True)["method"]["medians"]
    assert medians.shape == (2,) and medians.max() > 0
    run(method="plop", epochs="1/2")
    assert len(passes) == 1 and not (halved / "last.pt").exists()
    run(method="plop", epochs="1/2", name="whole")
    whole, = root.glob("runs/*/whole/step1")
    assert len(passes) == 2 and all(torch.equal(weights(halved)[n], w) for n, w in weights(whole).items())


# ------------------------------------------------------------------------- published and fixed


COMPAT = {n: p for n, p in (SHARED | method_params(METHODS["wilson"])).items() if p.fixed is not None}

def test_published_and_fixed_from_one_seed(root):
    "Both train side by side; every choice is recorded; the fixed one ignores void and later classes."
    run(compat="fixed")
    folder, = root.glob("runs/*/wilson-fixed-s42/step1")
    parameters = {name: json.loads((path / "config.json").read_text(encoding="utf-8"))["parameters"]
                  for name, path in (("published", weak_step(root)), ("fixed", folder))}
    for compat in ("published", "fixed"):
        assert {name: parameters[compat][name] for name in COMPAT} == {n: getattr(p, compat) or p.default for n, p in COMPAT.items()}
    bases = [weights(p) for p in sorted(root.glob("runs/*/base*-s42/step0"))]
    assert len(bases) == 2 and any(not torch.equal(a, b) for a, b in zip(bases[0].values(), bases[1].values()))
    fixed = json.loads((folder.parents[1] / "base-fixed-s42/step0/metrics.json").read_text(encoding="utf-8"))["scores"]["whole"]
    published = json.loads((weak_step(root).parents[1] / "base-s42/step0/metrics.json").read_text(encoding="utf-8"))["scores"]["whole"]
    assert "later_background" in fixed and "later_ignored" in published


@pytest.mark.parametrize("name", COMPAT)
def test_one_choice_alone(root, name):
    "A single choice may be turned; where it shapes a step, it makes it another step."
    fixed = COMPAT[name].fixed
    values = all_parameters(resolve_config(parse_config({name: fixed}), "shapes"))
    assert values[name] == fixed
    assert all(values[other] == (p.published or p.default) for other, p in COMPAT.items() if other != name)
    if name in ("eval_padding", "future_classes"):  # what is measured, not what is trained
        run(**{name: fixed})
    else:
        with pytest.raises(InputError, match=name):
            run(**{name: fixed})


def test_void_is_background_or_ignored(root):
    from wilson.data.transforms import TrainingCrop
    from wilson.data.samples import training_samples
    data, step = open_folder("data/few", SHAPES), Task("shapes", PARAMETERS["task"]).step(0)
    seen = [set(np.unique(training_samples(data.train, step, TrainingCrop(96), void=void)[0, 0].mask)) for void in (0, 255)]
    assert 255 not in seen[0] and 255 in seen[1]


# ---------------------------------------------------------------- label maps made elsewhere


def test_external_learns_from_perfect_maps(root):
    "On maps cut out of the masks it is LwF-MC; they are scored at 100."
    metrics = run(method="external", pseudo_dir=str(masks_as_label_maps(root)))
    run(method="lwf-mc")
    external, mc = (weights(next(root.glob(f"runs/*/{m}-s42/step1"))) for m in ("external", "lwf-mc"))
    assert all(torch.equal(external[name], mc[name]) for name in mc)
    given = metrics["pseudo_labels"]["given"]
    assert given["miou"]["new"] > 99.9 and given["coverage"] > 80
    record = json.loads(next(root.glob("runs/*/external-s42/step1/config.json")).read_text(encoding="utf-8"))
    assert record["pseudo_labels"]["unfound"] == 0 and record["pseudo_labels"]["folder"] == "maps"


def test_other_maps_are_another_step(root):
    folder = masks_as_label_maps(root)
    run(method="mib", pseudo_dir=str(folder))
    data = open_folder("data/few", SHAPES).train
    first = folder / f"{data.ids[STEP.images(data.labels)[0]]}.png"
    Image.fromarray(np.zeros_like(read_mask(first))).save(first)
    with pytest.raises(InputError, match="pseudo_labels"):
        run(method="mib", pseudo_dir=str(folder))


def test_own_label_maps_from_the_command(root):
    folder = weak_step(root).relative_to(root)
    done = wilson(["pseudo-labels", folder, "--out", "maps", "--kind", "hard"], root)
    assert done.returncode == 0, done.stderr
    assert "--pseudo-dir maps" in done.stdout and len(list((root / "maps").glob("*.png")))
    assert run(method="external", pseudo_dir="maps")["pseudo_labels"]["given"]["coverage"] < 100
    done = wilson(["pseudo-labels", folder, "--kind", "sam"], root)
    assert done.returncode == 2 and "cam, refined, hard" in done.stderr


WRONG = [("missing", ["lacks pseudo-labels for 1 of", "the first"]),
         ("size", ["must be of one size"]),
         ("old class", ["Classes of other steps", "striped disc"]),
         ("mode", ["mode RGB"]),
         ("torn", ["cannot be read as a mask"])]


@pytest.mark.parametrize("kind, words", WRONG, ids=[kind for kind, _ in WRONG])
def test_wrong_label_maps_are_refused_before_anything_is_trained(root, kind, words):
    folder = masks_as_label_maps(root)
    data = open_folder("data/few", SHAPES)
    shown = data.train.at(STEP.images(data.train.labels))
    path = folder / f"{shown.ids[3]}.png"
    if kind == "missing":
        path.unlink()
    elif kind == "size":
        Image.fromarray(np.zeros((9, 96), np.uint8)).save(path)
    elif kind == "old class":
        Image.fromarray(np.full((96, 96), STEP.ids[0], np.uint8)).save(path)
    elif kind == "mode":
        Image.new("RGB", (96, 96)).save(path)
    else:
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError) as error:
        run(method="external", pseudo_dir=str(folder))
    assert all(word in str(error.value) for word in [path.stem, *words]), error.value
    assert not list(root.glob("runs/*/external-s42/step1/last.pt"))


def test_label_maps_where_nothing_reads_them(root):
    with pytest.raises(InputError, match="method=external"):
        parse_config(PARAMETERS | {"pseudo_dir": "maps"})
    with pytest.raises(InputError, match="wilson pseudo-labels"):
        parse_config(PARAMETERS | {"method": "external", "pseudo_epoch": None})
