"""One more class for a finished run or an imported checkpoint: by command and from Python, step after step; wrong input."""
from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import wilson
from wilson.cli.command import main
from wilson.core.errors import InputError
from wilson.engine.step_folder import StepFolder
from wilson.experiments import step as training_step
from wilson.models.segmenter import make_segmenter
from wilson.new_class import data_folder
from wilson.run.published_checkpoints import import_published, published_name

RUN = "shapes-striped_disc__dotted_square-overlap/wilson-s42"
FEW = {"epochs": 1, "batch_size": 2, "device": "cpu"}
TYPED = ("--epochs", "1", "--batch-size", "2", "--device", "cpu")
GOATS = "runs/shapes+goat-striped_disc__dotted_square__goat-overlap/wilson-s42+goat/step2"


@pytest.fixture
def project(tiny_run, tmp_path, monkeypatch) -> Path:
    "A finished run, and a folder of eight photographs; the first five show a goat."
    root = tmp_path / "root"
    shutil.copytree(tiny_run, root, symlinks=True)
    monkeypatch.chdir(root)
    (root / "photos").mkdir()
    for n, path in enumerate(sorted((root / "data/few/JPEGImages").glob("val_*"))[:8]):
        shutil.copy(path, root / f"photos/{n}.jpg")
    lines = [f"{n}.jpg,{'goat' if n < 5 else ''}" for n in range(8)]
    (root / "labels.csv").write_text("\n".join(["image,class", *lines, ""]), encoding="utf-8")
    return root


def typed(*more: str, images: str = "photos", name: str = "goat", run: str = RUN) -> int:
    return main(["add-class", run, "--name", name, "--images", images, *TYPED, *more])


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def refused(capsys, *more: str, **values: str) -> str:
    "The sentence that the command ends with; nothing was written."
    before = {*os.listdir("data"), *os.listdir("runs")}
    capsys.readouterr()
    assert typed(*more, **values) == 2
    assert {*os.listdir("data"), *os.listdir("runs")} == before
    return capsys.readouterr().err


def test_the_command_adds_a_class(project, capsys):
    before = files_of(project / "photos"), files_of(project / "runs" / RUN.partition("/")[0])
    assert typed("--labels", "labels.csv", "--json") == 0
    out, err = capsys.readouterr()
    facts = json.loads(out)
    report = facts.pop("report")
    assert report["classes"] == ["goat"] and report["images"] == 2 and report["run"] == "/".join(GOATS.split("/")[1:])
    assert facts | {"path": None} == {"step": 2, "path": None, "reused": False, "classes": ["goat"], "data_root": "data/shapes+goat", "training": 6,
                                      "held_out": 2, "shown": {"goat": 5}, "notes": []}
    assert facts["path"] == GOATS and "8 images of photos (5 show goat): 6 for training and 2 held out" in err
    assert (files_of(project / "photos"), files_of(project / "runs" / RUN.partition("/")[0])) == before
    assert typed("--labels", "labels.csv") == 0                                       # the same command uses what is finished
    out = capsys.readouterr().out
    assert "used as it is" in out and "There is no IoU, because none of the 2 held-out images has a mask" in out and out.splitlines()[-1] == GOATS
    assert "average precision" in out and f"wilson label-report {GOATS} --out report.html" in out
    config = StepFolder(project / GOATS).read("config.json")["parameters"]
    assert config["method"] == "old-first" and config["negative_images"] is True and config["loss_negatives"] == 0
    assert main(["predict", GOATS, "photos", "--out", "masks"]) == 0
    assert len([*Path("masks").glob("?.png")]) == 8
    assert main(["runs"]) == 0 and main(["verify", "shapes+goat"]) in (0, 1)


def test_old_classes_keep_their_numbers_and_weights_start_from_the_run(project):
    before = wilson.load_run(RUN, "cpu")
    shutil.rmtree("data/few")                                                         # the old data is not needed
    run = before.add_class("goat", images="photos", labels="labels.csv", **FEW)
    assert run.step.names == (*before.step.names, "goat") and run.step.ids[:-1] == before.step.ids
    assert [r.name for r in run.steps] == [*(r.name for r in before.steps), run.name]
    assert run.step.colours[:-1] == before.step.colours and len({*run.step.colours}) == 4
    mask = run.predict("photos/0.jpg")
    assert {*np.unique(mask).tolist()} <= {0, *run.step.ids}
    assert run.metrics["scores"] == {} and "goat" in run._repr_html_()
    images = run.images                                                               # as the studio opens it
    assert sorted(images.lists["training"].split.ids + images.lists["validation"].split.ids) == [str(n) for n in range(8)]
    assert run.maps("0")["target"].shape == (96, 96)
    other = before.add_class("goat", images="photos", labels="labels.csv", method="wilson", seed=1, **FEW)
    assert other.name.endswith("/wilson-s42+goat-wilson-s1/step2")                    # beside the first, from the same description


def test_a_third_and_a_fourth_step(project):
    first = wilson.load_run(RUN, "cpu").add_class("goat", images="photos", labels="labels.csv", **FEW)
    for n, folder in enumerate(["hen", "pig", "neither"] * 2):
        Path("farm", folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(f"photos/{n}.jpg", f"farm/{folder}/{n // 3}.jpg")                 # one name in several folders
    second = first.add_class(["hen", "pig"], images="farm", **FEW)
    third = second.add_class("dog", images="photos", **FEW)
    assert third.name == "shapes+goat+hen+pig+dog-striped_disc__dotted_square__goat__hen+pig__dog-overlap/wilson-s42+goat+hen+pig+dog/step4"
    assert len({*third.step.ids}) == third.step.n_classes - 1 and third.step.names[-4:] == ("goat", "hen", "pig", "dog")
    assert third.config["loss_negatives"] > 0 and not third.config["negative_images"]  # every photograph shows a dog
    shutil.rmtree("data/shapes+goat")                                                 # no old data is read
    assert third.predict("photos/0.jpg").shape == second.predict("photos/0.jpg").shape


def test_an_imported_checkpoint_gets_a_class(project):
    torch.manual_seed(0)
    segmenter = make_segmenter("shapes_net", (3,), 8, 48, norm="plain")
    state = {f"module.{published_name(name)}": tensor for name, tensor in segmenter.state_dict().items()}
    torch.save({"epoch": 3, "model_state": state}, "theirs.pth")
    folder = import_published("theirs.pth", "shapes", "striped disc,dotted square", 0, crop_size=48)
    run = wilson.load_run(folder, "cpu").add_class("goat", images="photos", pseudo_epoch=0, **FEW)
    assert run.step.new == ("goat",) and run.step.index == 1 and run.parent.path == folder
    assert run.name == "shapes+goat-striped_disc+dotted_square__goat-overlap/theirs+goat/step1"
    assert run.predict("photos/0.jpg").ndim == 2


def test_wrong_names(project, capsys):
    assert "already has a class 'dotted square'" in refused(capsys, name="Dotted_Square")
    assert "without | , ; /" in refused(capsys, name="a|b")
    assert "twice" in refused(capsys, name="goat,Goat")
    assert "is reserved for images without a class" in refused(capsys, name="background")


def test_wrong_images_and_labels(project, capsys):
    labels = Path("other.csv")
    for text, sentence in (("", "is empty"), ("image,class\n", "contains no image"), ("1.jpg,\n2.jpg,\n", "none of its 2 labeled images shows 'goat'"),
                           ("99.jpg,goat\n", "are not in photos, for example '99'"), ("1.jpg,gaot\n", "has no class for one name: 'gaot'")):
        labels.write_text(text, encoding="utf-8")
        assert sentence in refused(capsys, "--labels", "other.csv"), text
    assert "there is no such file" in refused(capsys, "--labels", "nowhere.csv")
    assert "there is no such folder" in refused(capsys, images="nowhere")
    Path("photos/1.jpg").write_bytes(b"\x00" * 99)
    assert "photos/1.jpg cannot be read as an image" in refused(capsys)


def test_wrong_parameters(project, capsys):
    assert "unrecognized argument" not in refused(capsys, "--method", "mib") and "mib" in refused(capsys, "--method", "mib")
    with pytest.raises(SystemExit):
        typed("--backbone", "resnet50")                                               # the network is the run's
    with pytest.raises(InputError, match="task='15-5'.*determine this parameter"):
        wilson.load_run(RUN).add_class("goat", images="photos", task="15-5")


def test_a_run_that_cannot_be_extended(project, capsys):
    step = Path("runs", RUN, "step1")
    folder = StepFolder(step.absolute())
    (step / "weights.safetensors").rename("aside")
    assert "its weights.safetensors is missing" in refused(capsys)
    Path("aside").rename(step / "weights.safetensors")
    folder.set_state("interrupted")
    assert "is interrupted; expected a finished step" in refused(capsys)
    assert "There is no run 'nowhere'" in refused(capsys, run="nowhere")


def test_a_folder_that_is_taken(project, capsys):
    assert typed("--labels", "labels.csv") == 0
    capsys.readouterr()
    before = files_of(project / "data/shapes+goat")
    assert "describes other images" in refused(capsys)                                # other labels, the same name
    assert files_of(project / "data/shapes+goat") == before
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine", encoding="utf-8")
    assert "contains files of another kind" in refused(capsys, "--data-root", "mine", "--overwrite", "true")
    assert Path("mine/notes.txt").read_text(encoding="utf-8") == "mine"
    assert typed("--overwrite", "true") == 0                                                  # replaces both: description and step
    assert StepFolder((project / GOATS)).read("config.json")["parameters"]["loss_negatives"] > 0


def test_a_full_disk(project, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with monkeypatch.context() as patch:
        patch.setattr(data_folder, "link_images", full)
        with pytest.raises(InputError, match="data/shapes.goat cannot be written: No space left on device. Make room"):
            wilson.load_run(RUN).add_class("goat", images="photos", labels="labels.csv", **FEW)
    assert sorted(os.listdir("data")) == ["few"]
    assert wilson.load_run(RUN, "cpu").add_class("goat", images="photos", labels="labels.csv", **FEW).state == "finished"


def test_the_same_call_resumes(project, monkeypatch, capsys):
    def interrupted(*args):
        raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(training_step, "save_weights", interrupted)                     # after the last epoch
        with pytest.raises(KeyboardInterrupt):
            wilson.load_run(RUN, "cpu").add_class("goat", images="photos", labels="labels.csv", **FEW)
    assert StepFolder(project / GOATS).state == "interrupted"
    assert typed("--labels", "labels.csv") == 0
    out = capsys.readouterr().out
    assert "already describes" in out and "going on from epoch" in out and StepFolder(project / GOATS).state == "finished"


def test_short_lists_get_more_epochs():
    from wilson.new_class.add_class import ParentStep, step_parameters
    parent = ParentStep(None, {"epochs": "30/40", "batch_size": 24, "val_interval": 4, "pseudo_epoch": 5, "lr": "0.01/0.001"}, None, None)
    long, short = step_parameters(parent, {}, 2400), step_parameters(parent, {}, 12)
    assert (long["epochs"], long["batch_size"], long["pseudo_epoch"]) == ("30/40", 24, 5)
    assert (short["epochs"], short["batch_size"], short["pseudo_epoch"], short["val_interval"]) == (300, 12, 38, 30)
    assert step_parameters(parent, {"epochs": 3}, 12)["epochs"] == 3
    with pytest.raises(InputError, match="batch norm needs at least 2"):
        step_parameters(parent, {}, 1)
