"""Checkpoints as people save them: read without running anything in them, or refused with what to do."""
from __future__ import annotations

import argparse
import collections
import gzip
import io
import itertools
import tarfile
import types
import zipfile
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from wilson.core.errors import InputError
from wilson.engine.step_folder import StepFolder
from wilson.models.backbones import BACKBONES, make_backbone
from wilson.models.pretrained import load_pretrained
from wilson.models.segmenter import make_segmenter
from wilson.models.weights import read_foreign
from wilson.run.opened import open_step
from wilson.run.published_checkpoints import import_published, published_name, read_published

SHAPES_NET = BACKBONES["shapes_net"]
SHAPES = {"dataset": "shapes", "task": "striped disc|dotted square", "crop_size": 48}


@pytest.fixture(scope="module")
def backbone():
    return make_backbone("shapes_net", 8, "plain").state_dict()


@pytest.fixture(scope="module")
def segmenter():
    torch.manual_seed(0)
    state = make_segmenter("shapes_net", (2,), 8, 48, norm="plain").state_dict()
    return {published_name(name): tensor for name, tensor in state.items()}


def loads(file: Path, reference) -> None:
    "The file's weights reach the network, to the bit."
    network = make_backbone("shapes_net", 8, "plain")
    for tensor in network.state_dict().values():
        tensor.zero_()
    load_pretrained(network, SHAPES_NET, file)
    assert all(torch.equal(tensor, reference[name]) for name, tensor in network.state_dict().items())


def refusal(function, *arguments, **named) -> str:
    with pytest.raises(InputError) as refused:
        function(*arguments, **named)
    return str(refused.value)


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


# ------------------------------------------------------------------------ what is around them


@pytest.mark.parametrize("prefix", ["".join(f"{p}." for p in parts) for n in (0, 1, 2, 3) for parts in
                                    itertools.permutations(("module", "_orig_mod", "model", "net"), n)]
                         + ["a.b.c.d.", "ema.", "_fsdp_wrapped_module.", "backbone._checkpoint_wrapped_module."])
def test_prefixes_in_any_order(prefix, backbone, segmenter, tmp_path):
    save_file(prefixed(backbone, prefix), tmp_path / "file.pth")  # whatever its name ends with
    loads(tmp_path / "file.pth", backbone)
    torch.save({"model_state": prefixed(segmenter, prefix)}, tmp_path / "file.pth")
    assert read_published(tmp_path / "file.pth").segmenter.keys() == segmenter.keys()


def test_wrappers_within_names(backbone, segmenter, tmp_path):
    "Parts that were compiled or wrapped one by one."
    inner = {name.replace("mod2.", "mod2._orig_mod.module.", 1): t for name, t in backbone.items()}
    torch.save(inner, tmp_path / "file.pth")
    loads(tmp_path / "file.pth", backbone)
    averaged = prefixed(backbone, "module.") | {"n_averaged": torch.tensor(9)}  # torch.optim.swa_utils
    torch.save(averaged, tmp_path / "file.pth")
    loads(tmp_path / "file.pth", backbone)
    torch.save(inner | prefixed({k: v for k, v in inner.items() if "mod1" in k}, "module."), tmp_path / "file.pth")
    assert "twice" in refusal(load_pretrained, make_backbone("shapes_net", 8), SHAPES_NET, tmp_path / "file.pth")


@pytest.mark.parametrize("wrap", [
    lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": {"state_dict": s}}, lambda s: {"checkpoint": {"net": {"module": s}}},
    lambda s: {"model_state_dict": s, "optimizer_state_dict": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}},
    lambda s: {"ema": {k: v * 0 for k, v in s.items()}, "model": s, "best": torch.tensor(0.5)},
    lambda s: {"state_dict": {k: v.numpy() for k, v in s.items()}},
    lambda s: {"state_dict": {k: torch.nn.Parameter(v, False) for k, v in s.items()}},
    lambda s: collections.OrderedDict(prefixed(s, "model.")) | prefixed({k: v * 0 for k, v in s.items()}, "model_ema."),
    lambda s: prefixed(s, "img_backbone.") | {"decode_head.conv.weight": torch.ones(2, 2), "fc.weight": torch.ones(1)},
])
def test_dictionaries_around_the_weights(wrap, backbone, tmp_path):
    for how in ({}, {"_use_new_zipfile_serialization": False}):
        torch.save(wrap(backbone), tmp_path / "model.tar", **how)
        loads(tmp_path / "model.tar", backbone)


class Settings(dict):
    "A dictionary of a program's own, as OmegaConf's is."


HARMLESS = {
    "namespace": argparse.Namespace(lr=0.1, path=Path("a/b"), nested=argparse.Namespace(x=None)),
    "simple": types.SimpleNamespace(a=1), "path": Path("/a"), "windows": PureWindowsPath("c:/x"),
    "default": collections.defaultdict(list, a=[1]), "counter": collections.Counter("ab"), "set": {1, 2},
    "frozen": frozenset([1]), "size": torch.Size([1, 2]), "device": torch.device("cpu"), "dtype": torch.float16, "complex": 1j,
    "scalars": [np.float64(0.5), np.float32(1), np.float16(1), np.int64(3), np.int32(3), np.uint8(7), np.bool_(True), np.str_("x")],
    "arrays": [np.arange(6).reshape(2, 3), np.ones(3, np.float32), np.array(0.5), np.zeros(0), np.asfortranarray(np.eye(3)),
               np.arange(3, dtype=">i4")],
}


@pytest.mark.parametrize("name", HARMLESS)
def test_plain_objects_beside_the_weights(name, backbone, segmenter, tmp_path):
    torch.save({"state_dict": backbone, "more": HARMLESS[name]}, tmp_path / "file.pth")
    loads(tmp_path / "file.pth", backbone)
    torch.save({"model_state": segmenter, "epoch": 3, "more": HARMLESS[name]}, tmp_path / "file.pth")
    assert read_published(tmp_path / "file.pth").epoch == 3


def test_values_of_plain_objects(tmp_path):
    torch.save(HARMLESS, tmp_path / "file.pth")
    found = read_foreign(tmp_path / "file.pth")
    assert found["namespace"].path == "a/b" and found["default"] == {"a": [1]}
    assert found["scalars"] == [0.5, 1.0, 1.0, 3, 3, 7, True, "x"]
    assert all(np.array_equal(a.array, b) for a, b in zip(found["arrays"], HARMLESS["arrays"]))


@pytest.mark.parametrize("content", [
    lambda backbone: {"state_dict": backbone, "config": Settings(lr=0.1)},
    lambda backbone: {"epoch": 1, "model_state": torch.nn.Linear(2, 2)},
    lambda backbone: torch.nn.Linear(2, 2),
])
@pytest.mark.parametrize("zipped", [True, False])
def test_the_three_lines_of_a_refusal_save_the_weights(content, zipped, backbone, tmp_path):
    torch.save(content(backbone), tmp_path / "it's.pth", _use_new_zipfile_serialization=zipped)
    said = refusal(read_foreign, tmp_path / "it's.pth")
    assert "may run code: refused" in said and "only if you trust" in said
    exec("\n".join(line.strip() for line in said.splitlines()[1:]), {})
    found = read_foreign(tmp_path / "it's-weights.pth")
    assert len(said.splitlines()) == 4 and {*found} & {"state_dict", "model_state", "weight"}


# -------------------------------------------------------------------------- what is no weights


def tar_of(name, data):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zip_of(*names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in names:
            file.writestr(name, b"x")
    return buffer.getvalue()


@pytest.mark.parametrize("content, words", [
    (b"", "it is empty (0 bytes"), (b"\0" * 4096, "it is empty (4,096 bytes, all zero)"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
    (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "web page"), (b"<HTML>404", "web page"),
    (b'{"message": "Not Found"}', "JSON"), (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "XML"),
    (gzip.compress(b"x"), "gunzip"), (tar_of("a.pth", b"x"), "tar archive"), (b"\x89HDF\r\n\x1a\n", "HDF5"),
    (zip_of("model/weights.pth", "readme.txt"), "a zip archive of model/weights.pth, readme.txt"), (zip_of("a.npy"), "NumPy"),
    (zip_of("m/constants.pkl", "m/data.pkl"), "torch.jit.save"), (zip_of("a")[:-8], "damaged"), (b"PK\x03\x04", "damaged"),
    (b"Not Found", "damaged, or of another format"), ((50).to_bytes(8, "little") + b'{"a":', "damaged, or of another format"),
], ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes")  # archives hold the time
def test_what_lies_under_the_name_of_weights(content, words, tmp_path):
    file = tmp_path / "resnet50.pth"
    file.write_bytes(content)
    for read in (lambda: load_pretrained(make_backbone("shapes_net", 8), SHAPES_NET, file), lambda: read_published(file)):
        said = refusal(read)
        assert "resnet50.pth is not a file of weights" in said and words in said


def test_a_missing_part_is_named_with_what_is_there(backbone, segmenter, tmp_path):
    file, network = tmp_path / "file.pth", make_backbone("shapes_net", 8)
    other = {name.replace("mod2.block1.convs.conv1", "mod2.block1.convs.conv_1"): t for name, t in backbone.items()}
    torch.save(other, file)
    said = refusal(load_pretrained, network, SHAPES_NET, file)
    assert "misses mod2.block1.convs.conv1.weight (1 in all)" in said and "conv_1.weight (" in said
    torch.save({"encoder": {"a.x": torch.ones(1), "a.y": torch.ones(1), "b": torch.ones(1)}}, file)
    assert "The file has a… (2), b… (1)." in refusal(load_pretrained, network, SHAPES_NET, file)
    torch.save(prefixed(backbone, "module."), file)
    assert "none of its" in (said := refusal(read_published, file)) and "The file has mod" in said
    torch.save({"epoch": 3, "models": [backbone], "name": "x"}, file)
    assert "(epoch: int, models: list, name: str)" in refusal(load_pretrained, network, SHAPES_NET, file)


@pytest.mark.parametrize("odd, words", [
    (lambda t: t.to_sparse(), "sparse"), (lambda t: t.to("meta"), "without values"),
    (lambda t: torch.full_like(t, torch.nan), "NaN or infinity in"), (lambda t: torch.full_like(t, torch.inf), "NaN or infinity in"),
])
def test_tensors_of_odd_kinds(odd, words, backbone, segmenter, tmp_path):
    name = "mod3.block2.convs.conv2.weight"
    torch.save(backbone | {name: odd(backbone[name])}, tmp_path / "file.pth")
    said = refusal(load_pretrained, make_backbone("shapes_net", 8), SHAPES_NET, tmp_path / "file.pth")
    assert name in said and words in said
    name = "cls.0.weight"
    torch.save({"model_state": segmenter | {name: odd(segmenter[name])}}, tmp_path / "file.pth")
    said = refusal(read_published, tmp_path / "file.pth")
    assert name in said and words in said


# ------------------------------------------------------------------------------------- import


@pytest.mark.parametrize("epoch, score, kept", [
    (torch.tensor(7), torch.tensor(0.5), (7, 0.5)), (np.int64(7), np.float32(0.5), (7, 0.5)), (7.0, 1, (7, 1)),
    (10 ** 400, float("nan"), (None, None)), ("<script>", "0.5", (None, None)), (-1, float("inf"), (None, None)),
    (True, [0.5], (None, None)), (torch.ones(3), {"a": 1}, (None, None)), (None, 71.0, (None, None)),
])
def test_numbers_of_a_checkpoint_are_plain(epoch, score, kept, segmenter, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save({"model_state": segmenter, "epoch": epoch, "best_score": score}, "Base_0.pth")
    origin = StepFolder(import_published("Base_0.pth", step=0, **SHAPES)).read("config.json")["published"]
    assert (origin["epoch"], origin["score"]) == kept
    assert capsys.readouterr().out.count("it is left out") == sum(
        value is None and given is not None for value, given in zip(kept, (epoch, score)))


def test_a_failed_import_leaves_the_step_that_was_there(segmenter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model_state": segmenter}, "Base_0.pth")
    folder = import_published("Base_0.pth", step=0, **SHAPES)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    broken = segmenter | {"cls.0.bias": segmenter["cls.0.bias"] * torch.nan}
    torch.save({"model_state": broken}, "Base_0.pth")
    assert "cls.0.bias" in refusal(import_published, "Base_0.pth", step=0, overwrite=True, **SHAPES)
    torch.save({"model_state": segmenter}, "Base_0.pth")
    for name in ("save_weights", "StepFolder.write", "StepFolder.set_state"):
        with monkeypatch.context() as patch:
            def fail(*_, **__):
                raise OSError("the disk is full")
            patch.setattr(f"wilson.run.published_checkpoints.{name}", fail)
            with pytest.raises(OSError, match="full"):
                import_published("Base_0.pth", step=0, overwrite=True, **SHAPES)
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == before, name
        assert [*folder.parent.glob("[!.]*")] == [folder] and not [*folder.parent.glob(".step0.*[!k]")]
    assert import_published("Base_0.pth", step=0, overwrite=True, **SHAPES) == folder


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_not_opened(value, segmenter, tmp_path, monkeypatch):
    from safetensors.torch import load_file
    monkeypatch.chdir(tmp_path)
    torch.save({"model_state": segmenter}, "Base_0.pth")
    folder = import_published("Base_0.pth", step=0, **SHAPES)
    file = folder / "weights.safetensors"
    tensors = load_file(file)
    tensors["segmenter.cls.0.weight"][1, 5] = value
    save_file(tensors, file, {"classes": "background|striped disc"})
    said = refusal(open_step, folder)
    assert "segmenter.cls.0.weight" in said and "NaN or infinity in 1 of" in said
    large = torch.full((4,), 3e38)  # finite, though their sum is not in float32
    save_file(load_file(file) | {"segmenter.cls.0.weight": tensors["segmenter.cls.0.weight"].nan_to_num(3e38, 3e38, -3e38)}, file,
              {"classes": "background|striped disc"})
    assert large.sum().isinf() and open_step(folder)
