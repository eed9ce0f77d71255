"""Wrong input: a sentence with the remedy, exit code 2, and nothing half-written."""
from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import files, mounted, refused, run, says
from conftest import QUICK, Hostile
from PIL import Image

from wilson.core.errors import InputError
from wilson.data.image_io import write_mask
from wilson.data.tasks import Task
from wilson.engine.step_folder import StepFolder
from wilson.experiments.train import run_training
from wilson.loading.loader import Loader
from wilson.run.config import parse_config

FEW = Path("data/few")
BASE = Path("runs/shapes-striped_disc__dotted_square-overlap/base-s42/step0")
LATER = Path("runs/shapes-striped_disc__dotted_square-overlap/wilson-s42/step1")
FIRST = "train_00000"


def quick(**options: object) -> list[str]:
    "QUICK with some options changed."
    given = dict(zip(QUICK[::2], QUICK[1::2])) | {f"--{n.replace('_', '-')}": str(v) for n, v in options.items()}
    return ["train", *(part for pair in given.items() for part in pair)]


# ------------------------------------------------------------------------ names and values


@pytest.mark.parametrize("option, value, expected", [
    ("task", "15-6", ["task='15-6'", "Did you mean '15-5'", "Or write the classes out"]),
    ("task", "striped disk|dotted square", ["no class 'striped disk'", "Did you mean 'striped disc'"]),
    ("task", "striped disc|striped disc", ["names class 'striped disc' twice"]),
    ("task", "striped disc||ring", ["step 1 names no class"]),
    ("dataset", "shape", ["dataset='shape'", "Did you mean 'shapes'"]),
    ("method", "wilso", ["method='wilso'", "Did you mean 'wilson'"]),
    ("backbone", "resnet100", ["backbone='resnet100'", "'resnet101'"]),
    ("base_loss", "bse", ["base_loss='bse'", "'bce'"]),
    ("pooling", "gwp", ["pooling='gwp'", "'ngwp'"]),
    ("prior", "learnt", ["prior='learnt'", "'learned'"]),
    ("lr_policy", "pol", ["lr_policy='pol'", "'poly'"]),
    ("alpha", "2", ["alpha=2.0", "at least 0, at most 1"]),
    ("alpha", "nan", ["alpha=nan", "at least 0, at most 1"]),
    ("overlap", "maybe", ["overlap='maybe'", "true or false"]),
    ("affinity", "2", ["affinity='2'", "true or false"]),
    ("nproc", "9", ["nproc=9", "a pass has 8 images", "at most nproc=8"]),
    ("nproc", "0", ["nproc=0", "more than 0"]),
    ("nproc", "two", ["nproc='two'", "a whole number"]),
    ("accumulate_grad", "3", ["accumulate_grad=3", "batch_size=8 does not divide"]),
    ("accumulate_grad", "8", ["accumulate_grad=8", "a pass of one image", "at most accumulate_grad=4"]),
    ("precision", "fp8", ["precision='fp8'", "'fp16'"]),
    ("compile", "maybe", ["compile='maybe'", "true or false"]),
    ("max_bad_updates", "0", ["max_bad_updates=0", "more than 0"]),
    ("save_minutes", "-1", ["save_minutes=-1", "at least 0"]),
    ("save_minutes", "nan", ["save_minutes=nan", "at least 0"]),
    ("histograms", "2", ["histograms='2'", "true or false"]),
    ("history_images", "-1", ["history_images=-1", "at least 0"]),
    ("history_images", "some", ["history_images='some'", "a whole number"]),
    ("step", "7", ["step=7", "steps 0 to 1"]),
    ("step", "first", ["step='first'", "'all' or the number"]),
    ("epochs", "0", ["epochs=0", "more than 0"]),
    ("epochs", "1/2/3", ["epochs='1/2/3'", "base/later"]),
    ("epochs", "1.5", ["epochs='1.5'", "a whole number"]),
    ("batch_size", "eight", ["batch_size='eight'", "a whole number"]),
    ("batch_size", "0", ["batch_size=0", "more than 0"]),
    ("crop_size", "-48", ["crop_size=-48", "more than 0"]),
    ("lr", "fast", ["lr='fast'", "a number"]),
    ("lr", "nan", ["lr=nan"]),
    ("lr", "inf", ["lr=inf"]),
    ("seed", "-1", ["seed=-1"]),
    ("seed", "lucky", ["seed='lucky'", "a whole number"]),
    ("num_workers", "-1", ["num_workers=-1"]),
    ("momentum", "-1", ["momentum=-1"]),
    ("weight_decay", "-1", ["weight_decay=-1"]),
    ("output_stride", "7", ["output_stride", "7"]),
])
def test_value(option, value, expected, root, capsys):
    says(refused(capsys, *quick(**{option: value})), *expected)


def test_unknown_parameter_names_the_nearest():
    "What the notebooks go through; the command line's own is in test_command."
    with pytest.raises(InputError, match="no parameter 'alhpa'. Did you mean 'alpha'"):
        parse_config({"alhpa": 0.3})


def test_device_that_is_not_there(root, capsys):
    device = "cuda:99" if torch.cuda.is_available() else "cuda"
    says(refused(capsys, *quick(device=device)), f"device='{device}'", "not on this machine", "auto or cpu")
    says(refused(capsys, *quick(device="gpu")), "device='gpu'", "auto or cpu")


def test_no_name_leads_out_of_the_runs_folder(root, capsys):
    says(refused(capsys, *quick(base_name="../../../elsewhere")), "base_name=")
    says(refused(capsys, *quick(name="a/b")), "name=")


# ------------------------------------------------------------------------------------ data


def test_data_folder_missing(root, capsys):
    says(refused(capsys, *quick(dataset="voc", task="15-5", data_root="data/nowhere")), "data_root=", "data/nowhere",
         "no such folder", "expected JPEGImages/")


def test_folder_is_no_data_set(root, capsys):
    (root / "data/empty").mkdir()
    says(refused(capsys, *quick(dataset="voc", task="15-5", data_root="data/empty")), "data/empty", "no JPEGImages/")


def test_demo_folder_holds_something_else(root, capsys):
    (root / "data/shapes").mkdir()
    (root / "data/shapes/mine.txt").write_text("mine", encoding="utf-8")
    says(refused(capsys, *quick(data_root="data/shapes")), "data/shapes", "Delete the folder")
    assert (root / "data/shapes/mine.txt").read_text(encoding="utf-8") == "mine"


def test_no_masks(root, capsys):
    shutil.rmtree(FEW / "SegmentationClass")
    says(refused(capsys, *quick()), "data/few", "no masks", "SegmentationClass")


def test_no_list(root, capsys):
    says(refused(capsys, *quick(train_list="trian")), "data/few", "no list 'trian'", "Did you mean 'train'")
    (FEW / "ImageSets/Segmentation/train.txt").write_text("\n", encoding="utf-8")
    says(refused(capsys, *quick()), "train.txt", "is empty")


def test_listed_image_missing(root, capsys):
    (FEW / f"JPEGImages/{FIRST}.jpg").unlink()
    says(refused(capsys, *quick()), "train.txt", "1 of 160 images", FIRST, "restore")


def test_listed_mask_missing(root, capsys):
    (FEW / f"SegmentationClass/{FIRST}.png").unlink()
    says(refused(capsys, *quick()), f"{FIRST}.png", "is missing", "add the mask")


def test_mask_of_another_size(root, capsys):
    write_mask(FEW / f"SegmentationClass/{FIRST}.png", np.zeros((90, 96), np.uint8))
    says(refused(capsys, *quick()), f"{FIRST}.png is 96×90", f"{FIRST}.jpg is 96×96", "one size")


def test_mask_of_foreign_ids(root, capsys):
    write_mask(FEW / f"SegmentationClass/{FIRST}.png", np.full((96, 96), 21, np.uint8))
    says(refused(capsys, *quick()), f"{FIRST}.png", "[21]", "1 to 20", "255")


def test_mask_in_colour(root, capsys):
    Image.new("RGB", (96, 96)).save(FEW / f"SegmentationClass/{FIRST}.png")
    says(refused(capsys, *quick()), f"{FIRST}.png", "mode RGB", "8-bit PNG of class ids")


@pytest.mark.parametrize("folder, name", [("JPEGImages", f"{FIRST}.jpg"), ("SegmentationClass", f"{FIRST}.png")])
def test_unreadable_file(folder, name, root, capsys):
    (FEW / folder / name).write_bytes(b"no picture")
    says(refused(capsys, *quick()), f"{folder}/{name}", "cannot be read", "replace the file")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_image_that_breaks_only_in_training(num_workers, root, capsys):
    "A torn JPEG has a whole header: it is found when its pixels are wanted, by a worker or by the trainer."
    labels = Task("shapes", "striped disc|dotted square").step(0)
    assert run(*quick(step=0)) == 0  # leaves image_labels-train.csv
    shutil.rmtree(root / "runs")
    ids = [line.split(",")[0] for line in (FEW / "image_labels-train.csv").read_text(encoding="utf-8").splitlines()
           if any(name in line for name in labels.new)]
    for name in ids:
        image = FEW / f"JPEGImages/{name}.jpg"
        image.write_bytes(image.read_bytes()[:700])
    message = refused(capsys, *quick(step=0, num_workers=num_workers), new_files=True)
    says(message, "JPEGImages/train_", "cannot be read as an image", "replace the file")
    assert message.count("\n") == 1, "one sentence, not a worker's traceback"
    status = StepFolder(root / BASE).read("status.json")
    assert status["state"] == "failed" and "cannot be read as an image" in status["reason"]
    assert "Traceback" not in status["reason"]
    assert not (root / BASE / "metrics.json").exists() and not (root / BASE / "weights.safetensors").exists()


def test_batch_larger_than_the_data(root, capsys):
    message = refused(capsys, *quick(batch_size=500))
    says(message, "batch_size=500 is larger than the step's")
    assert re.search(r"(\d+) training images; choose at most \1\.", message)


def test_image_labels_of_unknown_class_or_missing_image(root, capsys):
    labels = root / "labels.csv"
    labels.write_text(f"{FIRST},striped disk\n", encoding="utf-8")
    says(refused(capsys, *quick(image_labels="labels.csv")), "labels.csv", "line 1", "no class for one name: 'striped disk'", "'striped disc'")
    labels.write_text(f"{FIRST},striped disc\n", encoding="utf-8")
    (FEW / "SegmentationClass/train_00001.png").unlink()  # the others have masks, which say what they show
    says(refused(capsys, *quick(image_labels="labels.csv")), "labels.csv", "no line for 1 images", "train_00001")
    says(refused(capsys, *quick(image_labels="label.csv")), "image_labels=", "label.csv")


# ----------------------------------------------------------------------- steps and parents


def test_step_without_its_base(root, capsys):
    says(refused(capsys, *quick(step=1)), "Step 1 starts from", str(BASE), "not there", "step=0", "parent=")


@pytest.fixture(scope="module")
def based_root(small_root, tmp_path_factory):
    "A root where step 0 is trained."
    root = tmp_path_factory.mktemp("based") / "root"
    shutil.copytree(small_root, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert run(*quick(step=0)) == 0
    return root


@pytest.fixture
def based(based_root, tmp_path, monkeypatch):
    "A copy of it."
    shutil.copytree(based_root, tmp_path / "root")
    monkeypatch.chdir(tmp_path / "root")
    return tmp_path / "root"


def test_parent_of_other_classes(based, capsys):
    says(refused(capsys, *quick(task="plain cross|dotted square", step=1, parent=BASE)), str(BASE),
         "striped disc", "plain cross", "builds on")


def test_parent_of_another_backbone(based, capsys):
    says(refused(capsys, *quick(step=1, parent=BASE, backbone="mobilenet_v2")), str(BASE), "shapes_net", "mobilenet_v2")


def test_parent_is_no_step(based, capsys):
    says(refused(capsys, *quick(step=1, parent="runs")), "runs", "not there", "parent=")


@pytest.mark.parametrize("how", ["torn", "foreign", "missing"])
def test_parent_weights(how, based, capsys):
    weights = based / BASE / "weights.safetensors"
    if how == "missing":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:5000] if how == "torn" else b"nothing of ours" * 100)
    expected = ("is missing",) if how == "missing" else ("not a valid weights file", "Train the step again")
    says(refused(capsys, *quick(step=1)), "weights.safetensors", *expected)
    says(refused(capsys, "evaluate", BASE), "weights.safetensors", *expected)


def test_another_configuration_in_the_same_folder(based, capsys):
    says(refused(capsys, *quick(step=0, lr="0.05", crop_size=32)), str(BASE), "another configuration",
         "crop_size is 48, wanted 32", "lr is 0.", "wanted 0.05", "base_name", "overwrite=True")
    assert run(*quick(step=0, crop_size=32, overwrite="true")) == 0
    assert StepFolder(based / BASE).read("config.json")["parameters"]["crop_size"] == 32
    assert StepFolder(based / BASE).state == "finished"


def test_same_configuration_is_used_again(based, capsys):
    before = files(based / BASE)
    assert run(*quick(step=0)) == 0
    assert "used as it is" in capsys.readouterr().out
    assert files(based / BASE) == before


def test_folder_of_something_else(root, capsys):
    (root / BASE).mkdir(parents=True)
    (root / BASE / "thesis.tex").write_text("mine", encoding="utf-8")
    says(refused(capsys, *quick()), str(BASE), "no config.json", "another name")
    assert (root / BASE / "thesis.tex").read_text(encoding="utf-8") == "mine"


def test_no_trained_step(based, capsys):
    says(refused(capsys, "evaluate", "runs"), "no config.json", "Did you mean", str(BASE))
    says(refused(capsys, "predict", "runs/nothing", FEW / f"JPEGImages/{FIRST}.jpg"), "runs/nothing", "not a trained step")


@pytest.mark.parametrize("content", [b"", b"{", b"[]"])
def test_run_files_that_are_no_json(content, based, capsys):
    (based / BASE / "config.json").write_bytes(content)
    says(refused(capsys, *quick()), "config.json", "cannot be read", "restore this one from a copy")


# ------------------------------------------------------------------------- foreign files


def test_hostile_pretrained_file(root, capsys):
    for write in (lambda: torch.save({"state_dict": Hostile(root / "harm")}, root / "weights.pth"),
                  lambda: (root / "weights.pth").write_bytes(pickle.dumps(Hostile(root / "harm")))):
        write()
        says(refused(capsys, *quick(pretrained="weights.pth")), "weights.pth", "weights")
        assert not (root / "harm").exists()


def test_pretrained_file_missing_or_of_another_backbone(root, capsys):
    says(refused(capsys, *quick(pretrained="weights.pth")), "weights.pth is missing", "pretrained=none")
    torch.save({"layer.weight": torch.zeros(1)}, root / "weights.pth")
    says(refused(capsys, *quick(pretrained="weights.pth")), "weights.pth", "misses", "shapes_net")


@pytest.mark.parametrize("how", ["hostile", "empty", "torn", "other"])
def test_state_to_resume_from(how, based, capsys):
    "A state is read without running anything in it; the remedy in the sentence works. See test_faults for more."
    last, folder = based / BASE / "last.pt", StepFolder(based / BASE)
    folder.set_state("interrupted")
    if how == "hostile":
        torch.save({"run": "", "epoch": 1, "done": 0, "optimizer": {}, "method": Hostile(based / "harm")}, last)
    elif how == "other":
        torch.save({"weights": torch.zeros(2)}, last)
    else:
        torch.save({"run": "", "epoch": 1, "done": 0, "optimizer": {}, "method": torch.zeros(100_000)}, last)
        last.write_bytes(last.read_bytes()[:100_000] if how == "torn" else b"")
    message = refused(capsys, *quick(step=0), new_files=True)
    says(message, "last.pt", "cannot be read", "resume=never")
    assert not (based / "harm").exists()
    assert folder.state in ("failed", "interrupted") and not list(folder.path.glob("*.part"))
    assert run(*quick(step=0, resume="never")) == 0 and folder.state == "finished"
    assert not list(folder.path.glob("*.pt"))


def test_loss_that_is_not_finite(root, capsys):
    "Not the input's shape but its values: what is bad is left out and written down, and too much of it is a sentence."
    assert run(*quick(step=0, optimizer="sgd", lr="1e30", epochs=5, max_bad_updates=3)) == 2
    message = capsys.readouterr().err
    says(message, "not finite", "3 times in a row", "smaller lr", "skipped.jsonl")
    assert "Traceback" not in message
    assert StepFolder(root / BASE).state == "failed"
    lines = [json.loads(line) for line in (root / BASE / "skipped.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 3 and all(len(line["images"]) == 8 and "not_finite" in line for line in lines)


# --------------------------------------------------------------------------- full, read-only


def test_read_only_data(root):
    "Labels made from masks go beside the data; where that is read-only, under the runs."
    done = mounted(root, "mount --bind data data && mount -o remount,ro,bind data", "true", *quick(step=0))
    assert done.returncode == 0, done.stderr
    assert not list(FEW.glob("image_labels*"))
    kept = sorted(p.name for p in (root / "runs/image_labels").rglob("*.csv"))
    assert kept == ["image_labels-train.csv", "image_labels-val.csv"]


@pytest.fixture(scope="module")
def state_size(small_root, tmp_path_factory) -> int:
    "Bytes of a state, which a finished step keeps none of."
    root = tmp_path_factory.mktemp("state") / "root"
    shutil.copytree(small_root, root)
    sizes = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr("wilson.experiments.step.remove_states", lambda folder: sizes.append((folder / "last.pt").stat().st_size))
        assert run(*quick(step=0)) == 0
    return sizes[0]


@pytest.mark.parametrize("full_at", ["first file", "first state", "second state", "third state", "weights"])
def test_disk_full(full_at, root, based_root, state_size):
    "What is on the disk stays whole, the message says what to do, and with room the same command ends well."
    weights = (based_root / BASE / "weights.safetensors").stat().st_size
    size = {"first file": 4096, "first state": state_size // 3, "second state": state_size * 3 // 2,
            "third state": state_size * 5 // 2, "weights": state_size + weights // 2}[full_at]
    command = quick(step=0, epochs=1 if full_at == "weights" else 4, val_interval=4)
    (root / "runs").mkdir()
    done = mounted(root, f"mount -t tmpfs -o size={size} none runs", "cp -a runs kept", *command)
    last_line = done.stderr.strip().splitlines()[-1].rpartition("\r")[2]
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr[-1500:]
    assert "full" in last_line or "No space left" in last_line, last_line
    assert "runs/" in last_line, last_line
    step = root / "kept" / BASE.relative_to("runs")
    assert not list((root / "kept").rglob(".*.part")) and not (step / "metrics.json").exists()
    for file in step.glob("*.json"):
        json.loads(file.read_text(encoding="utf-8"))  # whole or not there
    assert StepFolder(step).state in (None, "failed", "running")
    epochs = {"second state": [1], "third state": [2, 1], "weights": [1]}.get(full_at, [])
    states = [torch.load(step / name, weights_only=True)["epoch"] for name in ("last.pt", "previous.pt") if (step / name).exists()]
    assert states == epochs and not (step / "next.pt").exists()
    os.rename(root / "kept", root / "runs")
    assert run(*command) == 0 and StepFolder(root / BASE).state == "finished"


# ------------------------------------------------------------------------------ the functions


def test_train_raises_the_same_sentence(root):
    "A notebook sees what the command line prints."
    with pytest.raises(InputError, match="Step 1 starts from .* not there"):
        run_training(parse_config({n[2:].replace("-", "_"): v for n, v in zip(QUICK[::2], QUICK[1::2])} | {"step": 1}))


def test_loader_refuses_before_the_first_batch():
    with pytest.raises(InputError, match="batch_size=4 is larger than the step's 3 training images"):
        Loader([0, 1, 2], 4, shuffle_seed=1)
