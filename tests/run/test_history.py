"""Maps of a few images, epoch by epoch: what is kept is what the networks said, and training knows nothing of it."""
from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from conftest import QUICK
from safetensors import SafetensorError

from wilson.core.errors import InputError
from wilson.engine.step_folder import StepFolder
from wilson.experiments import step as step_module
from wilson.experiments.train import run_training
from wilson.pseudo.targets import TargetRule
from wilson.run import history
from wilson.run.config import parse_config
from wilson.run.history import KeptMaps, whole_images
from wilson.run.images import data_of
from wilson.run.opened import open_step

RUNS = Path("runs/shapes-striped_disc__dotted_square-overlap")
BASE, WEAK = RUNS / "base-s42/step0", RUNS / "wilson-s42/step1"
GIVEN = {name.removeprefix("--").replace("-", "_"): value for name, value in zip(QUICK[::2], QUICK[1::2])}


def trained(**more) -> list[Path]:
    "Folders of the steps that were trained in this process."
    return [result.path for result in run_training(parse_config(GIVEN | more))]


@pytest.fixture(scope="module")
def whole(small_root, tmp_path_factory) -> Path:
    "A root where both steps were trained for three epochs, validated after the second and the last."
    root = tmp_path_factory.mktemp("kept") / "root"
    shutil.copytree(small_root, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        trained(epochs="3", val_interval=2)
    return root


@pytest.fixture
def copied(whole, tmp_path, monkeypatch) -> Path:
    "The same, to be written in; the working directory."
    shutil.copytree(whole, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


# ------------------------------------------------------------------------------- what is kept


@pytest.mark.parametrize("folder, new", [(BASE, 0), (WEAK, 1)])
def test_files_epochs_and_images(folder, new, copied):
    files = {"images.json", "epoch_0000.safetensors", "epoch_0002.safetensors", "epoch_0003.safetensors"}
    assert {p.name for p in (folder / "maps").iterdir()} == files | ({"old.safetensors"} if new else set())
    kept, opened = KeptMaps(folder), open_step(folder)
    lists = whole_images(opened.config, opened.step, data_of(opened))
    few = int(lists["validation"].split.labels[:, opened.step.groups[new][0]].sum())  # images that show the class
    assert kept.epochs == [0, 2, 3] and 0 < few
    assert [name for name, _ in kept.images] == ["training"] * 4 + ["validation"] * min(few, 4)
    record = json.loads((folder / "maps/images.json").read_text(encoding="utf-8"))["images"]
    for (name, i), line in zip(kept.images, record, strict=True):
        split = lists[name].split
        assert split.ids[line["position"]] == i
        assert split.labels[line["position"], opened.step.groups[new][0]], "it shows the new class"
    size = (folder / "maps/epoch_0003.safetensors").stat().st_size
    assert size < 8 * 5 * 12 * 12 * 2 + 4000  # at most 8 images × channels × cells × bytes, and a header


@pytest.mark.parametrize("folder", [BASE, WEAK])
def test_last_maps_are_those_of_the_finished_step(folder, copied):
    kept, opened = KeptMaps(folder), open_step(folder)
    lists = whole_images(opened.config, opened.step, data_of(opened))
    for name, i in kept.images:
        sample = lists[name][0, lists[name].split.ids.index(i)]
        said, then = opened.views(sample), kept.logits(3, sample)
        for part in ("segmenter", "localizer", "old"):
            ours, theirs = getattr(said, part), getattr(then, part)
            assert (ours is None) == (theirs is None) == (folder == BASE and part != "segmenter")
            if ours is not None:
                torch.testing.assert_close(theirs, ours, rtol=2**-10, atol=1e-4)
        assert not torch.equal(kept.at(0, i)[0], then.segmenter), "training moved the networks"
        if folder == WEAK:
            for rule in (TargetRule(alpha=0.0), TargetRule(alpha=1.0)):
                torch.testing.assert_close(then.targets(rule).cam, said.targets(rule).cam, rtol=0, atol=2e-3)


def test_start_of_a_weak_step_is_the_base(copied):
    "What the step starts from: the old classes as the base step left them."
    kept = KeptMaps(WEAK)
    for _, i in kept.images:
        segmenter, _, old = kept.at(0, i)
        torch.testing.assert_close(segmenter[:2], old, rtol=2**-10, atol=1e-3)


def test_seeds_keep_the_same_images(copied):
    "So that runs can be laid side by side."
    other, = trained(step="0", seed=7)
    assert KeptMaps(other).images == KeptMaps(BASE).images


# ----------------------------------------------------------------------- training knows nothing of it


def leaves(value) -> list:
    "Tensors and plain values of a state, in order."
    if isinstance(value, dict):
        return [leaf for key in value for leaf in (key, *leaves(value[key]))]
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


def test_same_weights_and_states_without(root, monkeypatch):
    monkeypatch.setattr(step_module, "remove_states", lambda folder: None)
    with_maps = trained(epochs="2", val_interval=1)
    without = trained(epochs="2", val_interval=1, history_images=0, base_name="bare", name="bare")
    for ours, theirs in zip(with_maps, without, strict=True):
        assert KeptMaps(ours).epochs == [0, 1, 2] and KeptMaps(theirs).epochs == KeptMaps(theirs).images == []
        assert not (theirs / "maps").exists()
        states = [torch.load(folder / "last.pt", weights_only=True) for folder in (ours, theirs)]
        assert states[0]["callbacks"]["BestWeights"] == states[1]["callbacks"]["BestWeights"]
        for part in ("method", "optimizer", "schedule", "random", "epoch"):
            a, b = (leaves(state[part]) for state in states)
            assert len(a) == len(b) and all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in zip(a, b))
        a, b = (StepFolder(folder).read("metrics.json") for folder in (ours, theirs))
        assert a["scores"] == b["scores"] and a.get("localizer") == b.get("localizer")


class Killed(BaseException):
    "As it were."


def test_broken_off_while_maps_are_written(root, monkeypatch):
    "The same command goes on, and has what an undisturbed run has; test_faults has every other moment, and two ranks."
    more = dict(step="0", epochs="3", val_interval=1)
    theirs, = trained(**more, base_name="undisturbed")
    save = history.save_file

    def until_killed(tensors, file):
        if ".epoch_0002" in str(file):
            raise Killed
        save(tensors, file)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(history, "save_file", until_killed)
        trained(**more)
    assert KeptMaps(BASE).epochs == [0, 1]
    (BASE / "maps/epoch_0003.safetensors").write_bytes(b"of a sitting that came further")
    (BASE / "maps/.epoch_0002.safetensors.x.part").touch()  # what kill -9 leaves
    ours, = trained(**more, history_images=2)  # the images stay those that it began with
    files = [{p.name: p.read_bytes() for p in (folder / "maps").iterdir()} for folder in (ours, theirs)]
    assert files[0] == files[1] and KeptMaps(ours).epochs == [0, 1, 2, 3]
    a, b = (open_step(folder).segmenter.state_dict() for folder in (ours, theirs))
    assert all(torch.equal(a[n], b[n]) for n in a)


def test_trained_anew_leaves_none(copied):
    trained(step="0", epochs="1", lr="0.001", history_images=0, overwrite=True)
    assert not (BASE / "maps").exists()


# --------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("spoilt", ["torn", "empty", "foreign"])
def test_torn_file_costs_its_epoch(spoilt, copied):
    kept = KeptMaps(WEAK)
    (_, i), file = kept.images[0], WEAK / "maps/epoch_0002.safetensors"
    if spoilt == "foreign":
        shutil.copy(WEAK / "weights.safetensors", file)
    else:
        os.truncate(file, 0 if spoilt == "empty" else file.stat().st_size // 2)
    with pytest.raises(InputError, match="after epoch 2" if spoilt == "foreign" else "epoch_0002.safetensors cannot be read"):
        kept.at(2, i)
    assert kept.epochs == [0, 2, 3] and all(len(kept.at(epoch, i)) == 3 for epoch in (0, 3))
    open_step(WEAK)


def test_what_is_not_there_is_named(copied):
    kept, (_, i) = KeptMaps(WEAK), KeptMaps(WEAK).images[0]
    with pytest.raises(InputError, match="after epoch 1. It has the epochs 0, 2, 3 and the images train_"):
        kept.at(1, i)
    with pytest.raises(InputError, match="no maps of image 'cat'"):
        kept.at(0, "cat")
    (WEAK / "maps/images.json").write_text('{"images": [{"id": 3', encoding="utf-8")
    with pytest.raises(InputError, match="images.json does not contain the list of images"):
        KeptMaps(WEAK).images
    assert len(kept.at(0, i)) == 3
    (WEAK / "maps/old.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="old.safetensors cannot be read"):
        kept.at(0, i)


@pytest.mark.parametrize("how", ["no folder", "full disk"])
def test_maps_that_cannot_be_written_are_left_out(how, root, monkeypatch, capsys):
    "It is said once, and training goes on to the same end."
    if how == "no folder":
        BASE.mkdir(parents=True)
        (BASE / "maps").symlink_to(root / "unplugged")
    else:
        def full(tensors, file):
            Path(file).write_bytes(b"half of it")
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        monkeypatch.setattr(history, "save_file", full)
    more = dict(step="0", epochs="2", val_interval=1, overwrite=True)
    ours, theirs = trained(**more) + trained(**more, history_images=0, base_name="bare")
    a, b = (open_step(folder).segmenter.state_dict() for folder in (ours, theirs))
    assert StepFolder(BASE).state == "finished" and all(torch.equal(a[n], b[n]) for n in a)
    log = (BASE / "log.txt").read_text(encoding="utf-8")
    assert log.count("are not kept, training goes on") == capsys.readouterr().out.count("are not kept") == 1
    assert ("No space left" in log) == (how == "full disk")
    assert KeptMaps(BASE).epochs == [] and [p.name for p in (BASE / "maps").glob("*")] == ["images.json"] * (how == "full disk")
