"""Data sets as objects: what is true of one is stated on it and nowhere else, and a new one is one file."""
from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import refused, run, says
from conftest import REPO

from wilson.checks.verify import verify_dataset
from wilson.core.errors import InputError
from wilson.data.classes import SHAPES, Classes
from wilson.datasets.base import PAPER_PRESET, Dataset
from wilson.datasets.built_in import DATASETS, PRESETS
from wilson.datasets.prepare import prepare_dataset
from wilson.run.config import TrainConfig, all_parameters, parse_config
from wilson.run.dataset import load_dataset
from wilson.run.opened import open_step
from wilson.run.presets import resolve_config

# ------------------------------------------------------------------------- one place

DEFINITIONS = {"data/classes.py", "datasets/voc.py", "datasets/coco.py", "datasets/built_in.py",
               "formats/writers.py"}  # names of formats, and keys of their JSON, that are names of data sets too


def compared_names(text: str) -> Iterator[int]:
    "Lines that decide by the name of a data set: comparisons, membership, prefixes, tables and look-ups with names in them."
    def is_name(node: ast.AST) -> bool:
        if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
            return any(map(is_name, node.elts))
        return isinstance(node, ast.Constant) and node.value in DATASETS

    for node in ast.walk(ast.parse(text)):
        parts: list[ast.AST | None] = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.Dict):
            parts = list(node.keys)
        elif isinstance(node, ast.MatchValue):
            parts = [node.value]
        elif isinstance(node, ast.Subscript):
            parts = [node.slice]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("startswith", "endswith", "get"):
            parts = list(node.args)
        if any(part is not None and is_name(part) for part in parts):
            yield node.lineno


@pytest.mark.parametrize("line", ['d == "voc"', 'd in ("auto", "coco")', '"shapes" != d', '{"coco-voc": 1}', 'd.startswith("coco")', 't["voc"]'])
def test_what_counts_as_a_comparison(line):
    assert list(compared_names(line)) == [1] and not list(compared_names('print("voc", voc == "vo")'))


def test_nothing_compares_the_name_of_a_data_set():
    found = [f"{path.relative_to(REPO)}:{line}" for path in sorted((REPO / "wilson").rglob("*.py"))
             if path.relative_to(REPO / "wilson").as_posix() not in DEFINITIONS and path.name != "_modidx.py"
             for line in compared_names(path.read_text(encoding="utf-8"))]
    assert not found


def test_help_and_choices_name_every_data_set(capsys):
    for command in ("train", "prepare"):
        assert run(command, "--help") == 0
        said = "".join(capsys.readouterr().out.split())  # lines break at hyphens too
        assert re.search("[,|]".join(DATASETS), said), command
    assert "coco:instances|stuffthingmaps" in said
    with pytest.raises(InputError, match="Did you mean 'shapes'"):
        TrainConfig(preset="shape")


@pytest.mark.parametrize("name", DATASETS)
def test_a_preset_is_complete(name):
    config = resolve_config(TrainConfig(), name)
    assert PRESETS[config.preset] == DATASETS[name].preset and config.data_root == DATASETS[name].default_root
    values, given = all_parameters(config), all_parameters(parse_config(DATASETS[name].preset))  # "1/10" is read as "1.0/10.0"
    assert all(values[parameter] == given[parameter] for parameter in DATASETS[name].preset)
    assert resolve_config(config, name) == config and PAPER_PRESET.keys() <= DATASETS[name].preset.keys()


def imports(code: str, *names: str) -> list[str]:
    "Which of the packages `names` a fresh Python has imported after `code`."
    code = f"import sys\n{code}\nprint(*(n for n in {names!r} if n in sys.modules))"
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, encoding="utf-8", check=True).stdout.split()


def test_torch_is_imported_when_pixels_are_read():
    assert imports("import wilson.datasets.prepare, wilson.run.presets", "torch", "pandas", "numpy") == ["numpy"]


# ------------------------------------------------------------------------- one file

MINE = f"""
from wilson.data.classes import Classes
from wilson.datasets.base import Dataset

class Tiles(Dataset):
    name = "tiles"
    classes = Classes("tiles", {SHAPES.names}, tuple(range(1, 21)), tasks=(("1-1", "striped disc|dotted square"),))
    preset = dict(
        lr_policy="poly/warmup", pseudo_epoch=0, lr="0.006/0.0003", lr_head_factor="1/3", lr_localizer=0.003, optimizer="adamw",
        epochs="1/1", batch_size=8, crop_size=48, backbone="shapes_net", output_stride=8, pretrained="none",
        class_prior=0.02, num_workers=0)

class Wrong(Tiles):
    name = "voc"

class Misspelt(Tiles):
    preset = dict(crop_sise=48)
"""
TILES = "../mine/my_data.py:Tiles"


@pytest.fixture
def mine(root) -> Path:
    "A folder outside the project with a class, and nothing else."
    (root.parent / "mine").mkdir()
    file = root.parent / "mine/my_data.py"
    file.write_text(MINE, encoding="utf-8")
    return file


def test_a_new_data_set_is_one_file(mine, capsys, monkeypatch):
    "Prepared, verified and trained by a reference to its class, its preset and its task with it."
    assert run("prepare", TILES, "--from", "data/few", "--no-verify") == 0
    assert Path("data/tiles/JPEGImages").is_symlink()
    assert json.loads(Path("data/tiles/prepared.json").read_text(encoding="utf-8"))["dataset"] == "tiles"
    assert run("verify", TILES) == 0
    assert "tiles-1-1-overlap: " in capsys.readouterr().out
    assert run("train", "--dataset", TILES, "--task", "1-1", "--device", "cpu") == 0
    steps = [Path("runs/tiles-1-1-overlap") / name for name in ("base-s42/step0", "wilson-s42/step1")]
    for step in steps:
        record = json.loads((step / "config.json").read_text(encoding="utf-8"))
        parameters = record["parameters"]
        assert (parameters["dataset"], parameters["batch_size"], parameters["backbone"]) == (TILES, 8, "shapes_net")
        assert parameters["weight_decay"] == PAPER_PRESET["weight_decay"]  # what the preset leaves out
        assert record["dataset"]["dataset"] == "tiles" and json.loads((step / "status.json").read_text(encoding="utf-8"))["state"] == "finished"
    times = [(step / "weights.safetensors").stat().st_mtime_ns for step in steps]
    assert run("train", "--dataset", TILES, "--task", "1-1", "--device", "cpu") == 0
    assert times == [(step / "weights.safetensors").stat().st_mtime_ns for step in steps]  # the same steps
    # tables and weights need no code of the data set
    mine.write_text("raise SystemExit('run')", encoding="utf-8")
    monkeypatch.setattr("wilson.run.user_code._modules", {}, raising=False)
    capsys.readouterr()
    assert run("runs") == 0 and "tiles-1-1-overlap" in capsys.readouterr().out
    assert open_step(steps[1]).step.new == ("dotted square",)


def test_what_is_wrong_with_it_is_named(mine, capsys):
    says(refused(capsys, "prepare", TILES), "data_root=", "data/tiles", "there is no such folder", f"`wilson verify {TILES}`")
    says(refused(capsys, "prepare", TILES, "--masks", "sbd"), "masks='sbd'", "expected nothing for tiles")
    says(refused(capsys, "verify", TILES), "data/tiles", "there is no such folder")
    says(refused(capsys, "verify", TILES.replace("Tiles", "Tile")), "defines no Tile", "Did you mean 'Tiles'")
    says(refused(capsys, "verify", TILES.replace("Tiles", "Wrong")), "its name is 'voc'", "no name of a built-in data set")
    says(refused(capsys, "train", "--dataset", TILES, "--task", "2-1"), "not a protocol of tiles", "1-1")
    says(refused(capsys, "train", "--dataset", TILES.replace("Tiles", "Misspelt")), "'crop_sise'", "Did you mean 'crop_size'")


def test_one_in_memory(root):
    "A class, or an object, is taken where a name is."
    class Tiles(Dataset):
        name, classes = "tiles", SHAPES.with_dataset_name("tiles")

    for tiles in (Tiles(), load_dataset(Tiles)):
        assert len(prepare_dataset(tiles, "data/few", "data/tiles", say=lambda line: None).data.train) == 160
        assert verify_dataset(tiles, "data/tiles", progress=False).ok
    with pytest.raises(InputError, match="derives from wilson's Dataset"):
        load_dataset(Classes)  # type: ignore[arg-type]
