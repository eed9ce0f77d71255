"""Backbones as objects: their facts stand in one place, and one of your own is one file."""
from __future__ import annotations

import ast
import json
import sys

import pytest
import torch
from conftest import QUICK, REPO
from python_processes import run
from torch import nn

from wilson.cli.command import main
from wilson.core.errors import InputError
from wilson.models.backbones import BACKBONE_NAMES, BACKBONES, Backbone, Timm
from wilson.models.pretrained import find_pretrained, load_pretrained
from wilson.models.segmenter import make_segmenter, parameter_groups
from wilson.run.config import parse_config
from wilson.run.opened import open_step
from wilson.run.published_checkpoints import export_published, published_name
from wilson.run.chosen_method import load_backbone

OWN = """
from torch import nn

from wilson.models.backbones import Backbone, WeightsFile


class Tiny(Backbone):
    "Three convolutions that halve the map."

    strides, head_channels, head_dilations = (8, 4), 16, (1, 2, 3)
    weights = (WeightsFile("tiny.pth", "https://example.org/tiny.pth"),)

    def build(self, norm, output_stride):
        strides = (2, 2, 2 if output_stride == 8 else 1)
        parts = []
        for before, after, stride in zip((3, 8, 16), (8, 16, 24), strides):
            parts += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        network = nn.Sequential(*parts)
        network.channels, network.output_stride = 24, output_stride
        return network

    def rename(self, state, own):
        return {name.removeprefix("trunk."): tensor for name, tensor in state.items()}

    def tensor_names(self, own):
        return lambda name: name.removeprefix("trunk.") in own
"""


# ---- in one place --------------------------------------------------------------------------------

NAMES = {*BACKBONES, Timm.prefix}


def names_in(node: ast.AST | None) -> bool:
    "Whether a text below `node` is the name of a backbone."
    return node is not None and any(isinstance(n, ast.Constant) and n.value in NAMES for n in ast.walk(node))


def comparisons(source: str) -> list[int]:
    "Lines that decide by a backbone's name: comparisons, tables by name, patterns, beginnings."
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            decides = any(map(names_in, (node.left, *node.comparators)))
        elif isinstance(node, ast.Dict):
            decides = any(map(names_in, node.keys))
        elif isinstance(node, ast.MatchValue):
            decides = names_in(node)
        else:
            decides = (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
                       and node.func.attr in ("startswith", "endswith", "removeprefix", "get", "index")
                       and any(map(names_in, node.args)))
        found += [node.lineno] if decides and hasattr(node, "lineno") else []
    return found


def test_nothing_decides_by_the_name_of_a_backbone():
    found = {str(path.relative_to(REPO)): lines for path in sorted((REPO / "wilson").rglob("*.py"))
             if path.name != "_modidx.py" and (lines := comparisons(path.read_text(encoding="utf-8")))}
    assert not found


@pytest.mark.parametrize("line", [
    'small = backbone == "shapes_net"', 'x = 8 if name in ("wider_resnet38_a2", "shapes_net") else 16', 'strides = {"resnet50": (16, 8)}',
    'if name.startswith("timm:"): pass', 'match name:\n    case "mobilenet_v2": pass'])
def test_the_reading_of_comparisons(line):
    assert comparisons(line) and not comparisons('preset = dict(backbone="resnet101")')


def test_help_and_names_need_no_torch(tmp_path):
    code = "import sys, wilson.models.backbones as b; print(len(b.BACKBONE_NAMES), 'torch' in sys.modules)"
    assert run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(REPO)).split() == [str(len(BACKBONE_NAMES)), "False"]


def test_texts_name_every_backbone_and_every_file():
    page, readme = ((REPO / name).read_text(encoding="utf-8") for name in ("pretrained/README.md", "nbs/guide/weights.ipynb"))
    cell = json.loads((REPO / "nbs/train.ipynb").read_text(encoding="utf-8"))
    parameters = next("".join(c["source"]) for c in cell["cells"] if "parameters" in c["metadata"].get("tags", []))
    assert all(name in parameters for name in BACKBONE_NAMES)
    for name, backbone in BACKBONES.items():
        assert f"`{name}`" in page and f"`{name}`" in readme
        assert all(f"`{file.name}`" in page for file in backbone.weights), name


# ---- one of your own -----------------------------------------------------------------------------


class Strided(Backbone):
    "One convolution."

    strides, head_channels, head_dilations = (8,), 16, (1, 2, 3)

    def build(self, norm, output_stride):
        network = nn.Sequential(nn.Conv2d(3, 12, 3, output_stride, 1))
        network.channels, network.output_stride = 12, output_stride
        return network


@pytest.mark.parametrize("backbone", [Strided, Strided()])
def test_a_class_or_an_object_in_place_of_a_name(backbone):
    segmenter = make_segmenter(backbone, [3, 2], crop_size=64)
    assert segmenter(torch.randn(2, 3, 64, 96)).logits.shape == (2, 5, 8, 12)
    assert segmenter.head.channels == 16 and [c.dilation[0] for c in segmenter.head.map_convs] == [1, 1, 2, 3]
    with pytest.raises(InputError, match="output_stride=16 for backbone 'Strided': expected 8"):
        make_segmenter(backbone, [3], 16)


@pytest.fixture
def own(tmp_path) -> str:
    "A file outside the repository and outside the root, and the name of its backbone."
    (tmp_path / "ideas").mkdir()
    (tmp_path / "ideas/my.py").write_text(OWN, encoding="utf-8")
    return f"{tmp_path / 'ideas/my.py'}:Tiny"


def test_one_file_trains_both_steps_and_is_opened_again(own, root, capsys):
    "The proof by addition: nothing but the file is new."
    assert main(["train", *QUICK, "--backbone", own]) == 0
    steps = sorted(root.glob("runs/*/*/step*/config.json"))
    assert [json.loads(step.read_text(encoding="utf-8"))["parameters"]["backbone"] for step in steps] == [own, own]
    base, weak = (open_step(step.parent) for step in steps)
    images = torch.randn(1, 3, 48, 48)
    with torch.no_grad():
        assert base.segmenter(images).features.shape == weak.segmenter(images).features.shape == (1, 24, 6, 6)
    assert base.segmenter.head.channels == 16 and weak.localizer is not None and weak.old is not None
    with pytest.raises(InputError, match=r"my\.py:Tiny, and no import"):
        export_published(base.folder.path, "out.pth")
    capsys.readouterr()
    assert main(["train", *QUICK, "--backbone", own, "--step", "1", "--output-stride", "4", "--overwrite", "true"]) == 2
    assert "output_stride=4" in capsys.readouterr().err


def test_its_weights_are_found_renamed_and_missed(own, root, capsys):
    assert main(["train", *QUICK, "--backbone", own, "--step", "0", "--pretrained", "auto"]) == 2
    said = capsys.readouterr().err
    assert "tiny.pth is missing in" in said and "https://example.org/tiny.pth" in said and own in said
    assert parse_config({"backbone": own}).backbone == own  # text, as the record has it
    tiny = load_backbone(own)
    weights = {f"module.trunk.{name}": tensor + 1 for name, tensor in tiny.build("plain", 8).state_dict().items()}
    (root / "pretrained").mkdir()
    torch.save({"state_dict": weights}, root / "pretrained/tiny.pth")
    network = tiny.build("plain", 8)
    load_pretrained(network, tiny, find_pretrained(tiny, root / "pretrained"))
    assert all(torch.equal(t, weights[f"module.trunk.{n}"]) for n, t in network.state_dict().items())
    assert main(["train", *QUICK, "--backbone", own, "--step", "0", "--pretrained", "auto"]) == 0


@pytest.mark.parametrize("wrong, words", [
    ("{own}y", "Did you mean 'Tiny'"), ("{folder}/yours.py:Tiny", "yours.py is not a file"),
    ("resnet500", "Did you mean 'resnet50"), ("zzz", "timm:<model>, <file>.py:<class>")])
def test_wrong_names_are_answered(wrong, words, own, root, capsys):
    folder = own.rpartition("/")[0]
    assert main(["train", *QUICK, "--backbone", wrong.format(own=own, folder=folder)]) == 2
    assert words in capsys.readouterr().err


def test_the_backbone_of_a_segmenter_has_one_name():
    "In the network, its state and its optimizer; the published files call it `body`."
    segmenter = make_segmenter(Strided, [3], crop_size=64)
    assert {name.split(".")[0] for name in segmenter.state_dict()} == {"backbone", "head", "cls"}
    assert [group["name"] for group in parameter_groups(segmenter, 1.0, 10.0)] == ["backbone", "head", "classifier"]
    assert [published_name(n) for n in ("backbone.mod1.conv1.weight", "head.red_conv.weight", "backbone_x")] == [
        "body.mod1.conv1.weight", "head.red_conv.weight", "backbone_x"]
