"""Checkpoints of the published trainer: a ResNet-50 of theirs in and out, NumPy's old names, files that are none."""
from __future__ import annotations

import os
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import QUICK
from model_states import relative, tensor_for

from wilson.cli.command import main
from wilson.core.errors import InputError
from wilson.engine.checkpoint import load_part, read_weights
from wilson.engine.step_folder import StepFolder
from wilson.models.localizer import Localizer
from wilson.models.segmenter import make_segmenter
from wilson.run.opened import open_step
from wilson.run.published_checkpoints import export_published, import_published, published_name, read_published

SHAPES = {"dataset": "shapes", "task": "striped disc|dotted square", "crop_size": 48}
FOLDER = "runs/shapes-striped_disc__dotted_square-overlap"


def prefixed(module):
    return {f"module.{published_name(name)}": tensor for name, tensor in module.state_dict().items()}


def by_name(state):
    "The parity fixtures' rule: every tensor made from its own name."
    return {name: torch.as_tensor(np.asarray(tensor_for(name, tuple(tensor.shape)), np.float32))
            if tensor.is_floating_point() else tensor for name, tensor in state.items()}


@pytest.fixture
def small():
    "The content of a base step's file, of the small backbone."
    torch.manual_seed(0)
    segmenter = make_segmenter("shapes_net", (2,), 8, 48, norm="plain")
    return {"epoch": 30, "model_state": prefixed(segmenter), "optimizer_state": {"state": {}},
            "best_score": np.float64(0.5)}


def network(opened):
    return opened.views.segmenter


# ------------------------------------------------------------------- a ResNet-50 of theirs


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    "Step 1 of 15-5 as the published trainer saves it, and its import; removed afterwards, being large."
    root = tmp_path_factory.mktemp("theirs")
    segmenter = make_segmenter("resnet50", (16, 5), norm="plain")
    content = {"epoch": 39, "best_score": np.float64(0.61), "model_state": by_name(prefixed(segmenter)),
               "pseudolabeler": by_name(prefixed(Localizer(2048, 21, norm="plain")))}
    torch.save(content, root / "WILSON_1.pth")
    folder = import_published(root / "WILSON_1.pth", "voc", "15-5", 1, runs_dir=str(root / "runs"))
    (root / "WILSON_1.pth").unlink()
    yield content, folder
    shutil.rmtree(root)


def test_a_published_step_comes_and_goes_bit_for_bit(theirs):
    content, folder = theirs
    assert folder.parts[-3:] == ("voc-15-5-overlap", "WILSON_1", "step1")
    assert StepFolder(folder).state == "finished"
    record = StepFolder(folder).read("config.json")
    assert record["published"]["file"] == "WILSON_1.pth" and record["parent"] is None
    opened = open_step(folder, with_old=False)
    assert (opened.config.backbone, opened.config.output_stride, opened.config.crop_size) == ("resnet50", 16, 512)
    again = torch.load(export_published(folder, folder / "again.pth"), weights_only=True)
    (folder / "again.pth").unlink()
    assert (again["epoch"], again["best_score"]) == (39, 0.61)
    for part in ("model_state", "pseudolabeler"):
        assert again[part].keys() == content[part].keys()
        assert all(torch.equal(again[part][n], t) for n, t in content[part].items())


def test_it_says_what_the_published_implementation_says(theirs, shared):
    content, folder = theirs
    with np.load(shared / "parity" / "shared_model_resnet50.npz") as file:
        fixture = dict(file)
    for part, keys in (("model_state", "keys"), ("pseudolabeler", "localizer_keys")):
        assert list(content[part]) == [f"module.{key}" for key in fixture[keys]]
    localizer = Localizer(2048, 21, norm="plain").eval()
    load_part(localizer, read_weights(folder / "weights.safetensors")[0], "localizer", folder)
    with torch.no_grad():
        out = network(open_step(folder, with_old=False))(torch.from_numpy(fixture["image"]))
        assert relative(out.logits, fixture["logits"]) < 1e-4
        assert relative(localizer(out.features), fixture["localizer_logits"]) < 1e-4


# ------------------------------------------------------------------------------ what is read


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64])
@pytest.mark.parametrize("core", ["core", "_core"])
def test_numbers_of_old_and_new_numpy(kind, core, small, tmp_path):
    torch.save(small | {"best_score": kind(1)}, tmp_path / "new.pth")
    with zipfile.ZipFile(tmp_path / "new.pth") as new, zipfile.ZipFile(tmp_path / "file.pth", "w") as file:
        for name in new.namelist():
            data = re.sub(rb"cnumpy\._?core\.", f"cnumpy.{core}.".encode(), new.read(name))
            file.writestr(name, data)
            assert not name.endswith("data.pkl") or f"cnumpy.{core}.multiarray\nscalar\n".encode() in data
    assert read_published(tmp_path / "file.pth").score == 1


def test_older_files(small, tmp_path):
    "Without counters (older in-place ABN), not zipped (older torch), without optimizer, without `module.`."
    state = {n.removeprefix("module."): t for n, t in small["model_state"].items()}
    older = {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}
    assert len(older) < len(state)
    torch.save({"model_state": older}, tmp_path / "file.pth", _use_new_zipfile_serialization=False)
    found = read_published(tmp_path / "file.pth")
    assert found.segmenter.keys() == state.keys() and found.classes_per_step == (2,)


class Hostile:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def changed(content, **parts):
    return content | {"model_state": content["model_state"] | parts}


def without(content, beginning):
    return {"model_state": {n: t for n, t in content["model_state"].items() if not n.startswith(beginning)}}


@pytest.mark.parametrize("make, words", [
    (lambda c: [1, 2], "holds a list"),
    (lambda c: {"epoch": 3}, "contains no weights by name (epoch: int)"),
    (lambda c: {"model_state": None}, "contains no weights by name (model_state: NoneType)"),
    (lambda c: {"model_state": {}}, "contains no weights by name (model_state: dict)"),
    (lambda c: without(c, "module.cls."), "none of its 130 tensors is named cls.0.weight"),
    (lambda c: {"model_state": {0: torch.ones(1)}}, "contains no weights by name (0: Tensor)"),
    (lambda c: without(c, "module.body.mod3.block1."), "backbone shapes_net (132 tensors), but misses 15, the first "),
    (lambda c: changed(c, **{"module.body.mod9.weight": torch.ones(1)}), "has 1 more, the first body.mod9.weight"),
    (lambda c: changed(c, **{"module.cls.0.bias": torch.ones(7)}), "1 in other shapes, the first cls.0.bias"),
    (lambda c: c | {"pseudolabeler": {"module.0.weight": torch.ones(1)}}, "is named 4."),
    (lambda c: c | {"scaler": zipfile.ZipInfo("x")}, "may run code: refused"),
    (lambda c: c | {"best_score": np.array([None])}, "numpy"),
])
def test_no_checkpoint(make, words, small, tmp_path):
    file = tmp_path / "file.pth"
    torch.save(make(small), file)
    with pytest.raises(InputError) as refused:
        read_published(file)
    assert words in str(refused.value) and "file.pth" in str(refused.value), refused.value


def test_code_does_not_run(small, tmp_path):
    torch.save(small | {"scaler": Hostile(tmp_path / "ran")}, tmp_path / "file.pth")
    with pytest.raises(InputError, match="posix.mkdir.*refused"):
        read_published(tmp_path / "file.pth")
    assert not (tmp_path / "ran").exists()


def test_torn_files(small, tmp_path):
    torch.save(small, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "torn.pth").write_bytes(whole[:length])
        with pytest.raises(InputError, match="torn.pth is not a file of weights"):
            read_published(tmp_path / "torn.pth")
    for name in ("gone.pth", "."):
        with pytest.raises(InputError, match="is not a file"):
            read_published(tmp_path / name)


# ------------------------------------------------------------------------------- as a step


def command(*arguments, capsys):
    code = main(list(map(str, arguments)))
    said = capsys.readouterr()
    return code, said.out + said.err


def test_commands_from_file_to_file(root, small, capsys):
    torch.save(small, "Base_0.pth")
    given = ("import-checkpoint", "Base_0.pth", "--dataset", "shapes", "--task", SHAPES["task"], "--crop-size", 48, "--step", 0,
             "--data-root", "data/few")
    base = f"{FOLDER}/Base_0/step0"
    assert command(*given, capsys=capsys) == (0, f"{base} is a finished step now: wilson evaluate {base}\n")
    code, said = command(*given, capsys=capsys)
    assert code == 2 and f"{base} exists already" in said
    assert command(*given, "--overwrite", capsys=capsys)[0] == 0
    code, said = command("evaluate", base, "--device", "cpu", capsys=capsys)
    assert code == 0 and "published" in said
    image = next(Path("data/few/JPEGImages").glob("val_*"))
    assert command("predict", base, image, "--device", "cpu", capsys=capsys)[0] == 0
    code, said = command("export", base, "--format", "checkpoint", "--out", "again.pth", capsys=capsys)
    assert code == 0 and "shapes_net" in said and said.endswith("again.pth\n")
    again, first = read_published("again.pth"), read_published("Base_0.pth")
    assert again[1:] == first[1:]
    assert all(torch.equal(again.segmenter[n], t) for n, t in first.segmenter.items())


def test_a_step_is_trained_on_an_imported_one(root, small, capsys):
    torch.save(small, "Base_0.pth")
    base = import_published("Base_0.pth", step=0, data_root="data/few", **SHAPES)
    code, said = command("train", *QUICK, "--step", 1, "--parent", base, capsys=capsys)
    assert code == 0, said
    trained = Path(FOLDER, "wilson-s42", "step1")
    opened = open_step(trained)
    assert torch.equal(opened.views.old.cls[0].weight, small["model_state"]["module.cls.0.weight"])
    again = read_published(export_published(trained, "Wilson_1.pth"))
    assert again.classes_per_step == (2, 1) and again.epoch == 1 and 0 <= again.score < 1
    step = import_published("Wilson_1.pth", step=1, parent=base, data_root="data/few", **SHAPES)
    image = torch.randn(1, 3, 48, 48)
    with torch.no_grad():
        assert torch.equal(network(open_step(step))(image).logits, network(opened)(image).logits)
    code, said = command("train", *QUICK, "--base-name", "Base_0", capsys=capsys)
    assert code == 2 and "another configuration" in said  # an import is not taken for a step of one's own


def test_a_backbone_that_no_import_could_name_stays_here(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(small, "Base_0.pth")
    base = import_published("Base_0.pth", step=0, **SHAPES)
    monkeypatch.setattr("wilson.run.published_checkpoints.BACKBONES", {})
    with pytest.raises(InputError, match="has the backbone shapes_net, and no import"):
        export_published(base, "again.pth")
    assert not Path("again.pth").exists()


@pytest.mark.parametrize("other, words", [
    ({"step": 1}, "step 1 of 'striped disc|dotted square' has 2+1: give step=0"),
    ({"task": "15-5"}, "step 0 of '15-5' has 16: name the task"),
    ({"step": 2}, "has steps 0 to 1"),
    ({"dataset": "auto"}, "dataset='auto' is not known"),
    ({"output_stride": 16}, "output_stride=16"),
    ({"parent": "runs"}, "step 0 has no step before it"),
    ({"name": "a/b"}, "name='a/b'"),
])
def test_not_of_this_task(other, words, small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(small, "Base_0.pth")
    with pytest.raises(InputError) as refused:
        import_published("Base_0.pth", **({"step": 0} | SHAPES | other))
    assert words in str(refused.value), refused.value
    assert not Path("runs").exists()
