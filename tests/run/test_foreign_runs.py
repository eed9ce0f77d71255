"""Runs of others, moved runs and damaged ones: nothing of theirs is trusted, and one odd folder stops no list."""
from __future__ import annotations

import copy
import json
import os
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import QUICK
from safetensors.torch import load_file, save_file

from wilson.cli.command import main
from wilson.core.errors import InputError
from wilson.core.files import file_hash
from wilson.data.tasks import Task
from wilson.engine.checkpoint import read_weights, save_weights, weights_hash
from wilson.run.opened import open_step

TASK = "shapes-striped_disc__dotted_square-overlap"
BASE, LATER = Path("runs", TASK, "base-s42", "step0"), Path("runs", TASK, "wilson-s42", "step1")


@pytest.fixture
def trained(tiny_run, tmp_path, monkeypatch):
    "A copy of the root where both steps are trained, and the working directory."
    shutil.copytree(tiny_run, tmp_path / "root")
    monkeypatch.chdir(tmp_path / "root")
    return tmp_path / "root"


def change(file: Path, **fields) -> None:
    "Write other fields into a JSON file."
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(content | fields), encoding="utf-8")


def written(under: Path) -> dict[str, tuple]:
    "Every file and folder with its size and time."
    return {str(p): (p.lstat().st_size, p.lstat().st_mtime_ns) if p.is_file() else () for p in under.rglob("*")}


# ------------------------------------------------------------------------- the same weights


def test_the_same_weights_are_the_same_file(tmp_path):
    network = torch.nn.Linear(3, 3)
    step = Task("voc", "cat,dog|cow").step(1)
    for n in range(40):
        save_weights(tmp_path / f"{n}.safetensors", network, None, step)
    assert len({file_hash(file) for file in tmp_path.iterdir()}) == 1
    assert read_weights(tmp_path / "0.safetensors")[1] == ("background", "cat", "dog", "cow")


def test_a_base_that_was_trained_again_to_the_same_weights_is_the_same_base(trained, capsys):
    before = weights_hash(BASE / "weights.safetensors")
    shutil.rmtree(BASE)
    assert main(["train", *QUICK, "--step", "0"]) == 0
    assert weights_hash(BASE / "weights.safetensors") == before
    # as an earlier version has written it, or another program
    save_file(load_file(BASE / "weights.safetensors"), BASE / "weights.safetensors",
              {"step": "0", "classes": "background|striped disc", "more": "x"})
    capsys.readouterr()
    assert main(["train", *QUICK]) == 0
    assert capsys.readouterr().out.count("used as it is") == 2
    assert open_step(LATER).old is not None


def test_a_base_with_other_weights_is_noticed(trained, capsys):
    record = json.loads((LATER / "config.json").read_text(encoding="utf-8"))
    assert record["parent"]["hash"] == weights_hash(BASE / "weights.safetensors")
    assert open_step(LATER).old is not None
    assert main(["train", *QUICK]) == 0
    assert "another configuration" not in capsys.readouterr().err
    tensors = load_file(BASE / "weights.safetensors")
    name = next(iter(tensors))
    tensors[name] = torch.nextafter(tensors[name], torch.tensor(9.0))
    save_file(tensors, BASE / "weights.safetensors", {"classes": "background|striped disc"})
    assert record["parent"]["hash"] != weights_hash(BASE / "weights.safetensors")
    with pytest.raises(InputError, match="started from other weights"):
        open_step(LATER)
    assert main(["train", *QUICK]) == 2
    assert "parent is" in capsys.readouterr().err


# ------------------------------------------------------------- paths in a foreign config.json


def test_looking_at_a_run_writes_nothing_outside_of_it(trained, tmp_path, capsys):
    from wilson.analysis.results import evaluate_saved_step
    from wilson.run.images import StepImages, edits_file
    evil = tmp_path / "evil"
    shutil.copytree("data/few", evil / "data")
    for table in evil.rglob("image_labels-*.csv"):
        table.unlink()
    (evil / "x/cache").mkdir(parents=True)
    (evil / "x/cache/logits.sqlite").write_text("a text of mine", encoding="utf-8")
    record = json.loads((LATER / "config.json").read_text(encoding="utf-8"))
    change(LATER / "config.json", parameters=record["parameters"] | {
        "runs_dir": str(evil / "x"), "data_root": str(evil / "data"), "cache_gb": 1.0, "label_edits": str(evil / "e.csv"),
        "pretrained": str(evil / "p.pth"), "voc_root": str(evil / "voc")})
    (LATER / "label_edits.csv").write_text("id,add,remove,exclude,flag,note\n", encoding="utf-8")
    before = written(evil)
    images = StepImages(LATER, "cpu")
    images.logits("validation", 0)
    images.index("validation")
    evaluate_saved_step(LATER, "cpu")
    assert written(evil) == before
    assert Path("runs/cache/logits.sqlite").is_file()
    assert [*Path("runs/image_labels").rglob("image_labels-val.csv")]
    assert edits_file(images.opened).is_relative_to(trained / "runs/label_edits")
    # who names the folder means it
    shutil.rmtree("runs/image_labels")
    evaluate_saved_step(LATER, "cpu", evil / "data")
    assert written(evil).keys() - before.keys() == {str(evil / "data" / f"image_labels-{n}.csv") for n in ("train", "val")}


def test_label_edits_of_data_elsewhere_stay_with_the_runs(trained, tmp_path):
    from wilson.widgets.viewer import Viewer
    from wilson.widgets.annotations import Annotations
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree("data/few", elsewhere)
    noted = "id,add,remove,exclude,flag,note\nval_00000,,,,yes,before\n"
    (elsewhere / "label_edits.csv").write_text(noted, encoding="utf-8")
    record = json.loads((LATER / "config.json").read_text(encoding="utf-8"))
    change(LATER / "config.json", parameters=record["parameters"] | {"data_root": str(elsewhere)})
    before, viewer = written(elsewhere), Viewer(device="cpu")
    viewer.begin()
    notes = Annotations(viewer)
    assert notes.edits()["val_00000"]["note"] == "before"
    notes.edit({"image": "val_00001", "edit": {"flag": True}})
    assert written(elsewhere) == before and notes.path.is_relative_to(trained / "runs")
    assert {i for i, e in notes.edits().items() if e["flag"]} == {"val_00000", "val_00001"}


def test_a_link_within_a_run_leads_nowhere(trained, tmp_path):
    from wilson.run.images import is_in_project
    (LATER / "data").symlink_to(tmp_path)
    (trained / "data/mine").symlink_to(tmp_path)
    runs = trained / "runs"
    assert not is_in_project(LATER / "data", runs) and not is_in_project(tmp_path, runs)
    assert not is_in_project("data/../../x", runs)
    assert is_in_project("data/mine", runs) and is_in_project("data/few", runs) and is_in_project(trained / "data", runs)


def test_a_moved_runs_folder_works_from_its_new_place(trained, tmp_path):
    from wilson.run.images import StepImages
    moved = tmp_path / "new place" / "runs"
    moved.parent.mkdir()
    Path("runs").rename(moved)
    images = StepImages(moved / LATER.relative_to("runs"), "cpu")
    images.logits("validation", 0)
    assert images.weak and (moved / "cache/logits.sqlite").is_file() and not Path("runs").exists()
    # a step on its own, its parent nowhere near
    alone = tmp_path / "alone"
    shutil.copytree(moved / LATER.relative_to("runs"), alone)
    with pytest.raises(InputError, match="where no trained step is"):
        open_step(alone)
    opened = open_step(alone, with_old=False)
    assert Path(opened.config.runs_dir).is_relative_to(alone)


@pytest.mark.parametrize("path", ["/etc", "../../../../../../..", "../step1", "\0", "x" * 5000, "", None, 3, ["a"]])
def test_a_parent_is_a_step_with_the_recorded_weights(path, trained):
    record = json.loads((LATER / "config.json").read_text(encoding="utf-8"))
    change(LATER / "config.json", parent=record["parent"] | {"path": path})
    with pytest.raises(InputError):
        open_step(LATER)


@pytest.mark.parametrize("parent", ["../base-s42/step0", ["path"], 3])
def test_a_parent_without_path_and_hash_is_refused(parent, trained):
    change(LATER / "config.json", parent=parent)
    with pytest.raises(InputError, match="expected a parent with path and hash"):
        open_step(LATER)


def test_a_parent_that_was_moved_is_found_beside_the_step(trained, tmp_path):
    record = json.loads((LATER / "config.json").read_text(encoding="utf-8"))
    elsewhere = "/somebody/else/runs" / BASE.relative_to("runs")
    change(LATER / "config.json", parent=record["parent"] | {"path": str(elsewhere)})
    assert open_step(LATER).old is not None


# ------------------------------------------------------- odd folders among those that are listed

VALUES = (None, True, -1, 0, 7, 10 ** 400, float("nan"), float("inf"), 1e308, "", "x", "\ud800", "\x1b[2J\n<script>", [], {},
          [[[]]], {"a": {"b": []}}, ["x", 3], "../" * 3 + "x", "\0")


def mutated(content, chance: random.Random):
    "The same JSON with one to three values, keys or containers changed."
    content = json.loads(json.dumps(content))
    for _ in range(chance.randint(1, 3)):
        at, key = content, None
        while True:
            keys = [*at] if isinstance(at, dict) else [*range(len(at))]
            if not keys:
                break
            key = chance.choice(keys)
            if isinstance(at[key], dict | list) and at[key] and chance.random() < 0.7:
                at = at[key]
            else:
                break
        if key is None:
            continue
        how = chance.random()
        if how < 0.7:
            at[key] = copy.deepcopy(chance.choice(VALUES))
        elif how < 0.85 and isinstance(at, dict):
            del at[key]
        elif isinstance(at, dict):
            at[chance.choice(["x", "", "\ud800", "all", "published"])] = at.pop(key)
    return content


def broken(raw: bytes, chance: random.Random) -> bytes:
    "Bytes of a file, torn or foreign."
    return chance.choice([b"", raw[: chance.randint(1, len(raw) - 1)], b"\0" * len(raw), b"[" * 100_000, b"[]", b"3", b"null",
                          b'"x"', b"<html>", raw.decode().encode("utf-16"), b"\xff" + raw, raw.replace(b'"', b"'")])


def everything_that_lists() -> str:
    "What the commands that list runs say of those in runs/, other than by pictures."
    from wilson.run.records import read_records, group_variants
    from wilson.analysis.comparison import TABLES, comparison_table
    from wilson.analysis.run_list import run_list, run_text
    from wilson.analysis.tables import FORMATS
    from wilson.run.folder import rebuild_results
    from wilson.run.images import finished_steps, newest_step
    text = run_text(run_list())
    assert newest_step(finished_steps())
    rebuild_results("runs")
    records = read_records()
    for found in group_variants(records).values():
        for kind in TABLES:
            table = comparison_table(kind, found, records, next(iter(found[0].records[0].miou)))
            text += "".join(write(table) for write in FORMATS.values())
    return text


def test_no_content_of_a_file_stops_the_lists(trained, capsys):
    whole = {}
    for n in range(10):
        for step, source in ((0, BASE), (1, LATER)):
            folder = Path("runs", TASK, f"odd-s{n}", f"step{step}")
            folder.mkdir(parents=True)
            for name in ("config.json", "status.json", "metrics.json"):
                whole[folder / name] = (source / name).read_bytes()
                (folder / name).write_bytes(whole[folder / name])
    assert "odd-s9" in everything_that_lists() and "left out" not in capsys.readouterr().out
    left_out = 0
    for seed in range(30):
        chance = random.Random(seed)
        for n in range(10):  # one file of each run
            file = chance.choice([f for f in whole if f"odd-s{n}" in f.parts])
            changed = json.dumps(mutated(json.loads(whole[file]), chance)).encode()
            file.write_bytes(broken(whole[file], chance) if chance.random() < 0.2 else changed)
        text, said = everything_that_lists(), capsys.readouterr()
        assert "wilson-s42" in text and "base-s42" in text, seed
        for line in said.out.splitlines():
            assert "odd-s" in line and len(line) < 600 and line.isprintable(), (seed, line)
            assert "Remove" not in line, (seed, line)
        left_out += len({line for line in said.out.splitlines() if "is left out" in line})
        for file, content in whole.items():
            file.write_bytes(content)
    assert left_out > 150
    assert "odd-s9" in everything_that_lists() and "left out" not in capsys.readouterr().out


def test_parents_that_lead_back_to_themselves(trained, capsys):
    record = json.loads((LATER / "config.json").read_text(encoding="utf-8"))
    runs = {name: Path("runs", TASK, name, "step1") for name in "abcd"}
    for name, to in (("a", "b"), ("b", "a"), ("c", "a"), ("d", "d")):
        shutil.copytree(LATER, runs[name])
        change(runs[name] / "config.json", parent=record["parent"] | {"path": f"../../{to}/step1"})
    text = everything_that_lists()
    assert "wilson-s42" in text
    said = capsys.readouterr().out
    assert all(f"{path} is left out: the steps that it starts from lead back" in said for path in runs.values())
    for kind in ("steps", "cost"):
        assert main(["compare", "--table", kind]) == 0


def test_folders_and_files_of_odd_kinds(trained, capsys):
    odd = Path("runs", TASK, "odd")
    (odd / "step0" / "config.json").mkdir(parents=True)
    (odd / "step1").mkdir()
    os.mkfifo(odd / "step1" / "config.json")
    os.mkfifo(odd / "step1" / "status.json")
    (odd / "step2").symlink_to("step2")
    (odd / "step3").mkdir()
    (odd / "step3" / "config.json").symlink_to("/dev/zero")
    shutil.copytree(LATER, odd / "step²")
    (odd / "step4").write_bytes(b"")
    assert "wilson-s42" in everything_that_lists()
    assert main(["runs"]) == 0 and main(["compare"]) == 0
    assert "not a regular file" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b'{"state": "fin', "{'ü'}".encode("latin-1")])
def test_a_finished_run_whose_status_is_torn_stays(content, trained, capsys):
    (LATER / "status.json").write_bytes(content)
    assert main(["runs"]) == 0
    said = capsys.readouterr().out
    line = next(line for line in said.splitlines() if line.startswith(f"{LATER.relative_to('runs')}"))
    assert " unknown " in line and f"{LATER} is listed as unknown" in said
    assert main(["runs", "--state", "unknown"]) == 0
    before = written(LATER)
    assert main(["train", *QUICK]) == 2
    said = capsys.readouterr().err
    assert "status.json cannot be read" in said and "overwrite=True" in said and "emove" not in said
    assert written(LATER) == before
    assert main(["evaluate", str(LATER), "--device", "cpu"]) == 0


def test_a_record_in_another_encoding_is_not_thrown_away(trained, capsys):
    for name in ("config.json", "metrics.json"):
        content = (LATER / name).read_text(encoding="utf-8").replace("dotted square", "Kühe")
        (LATER / name).write_bytes(content.encode("latin-1"))
    assert main(["evaluate", str(LATER)]) == 2
    said = capsys.readouterr().err
    assert "config.json cannot be read: it is not in UTF-8" in said and "emove" not in said
    assert "wilson-s42" not in everything_that_lists() and "is left out" in capsys.readouterr().out


# ------------------------------------------------------------------------ index files of others

ENDLESS = "WITH RECURSIVE e(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM e) SELECT n id, 0 epoch, n position, 0.0 disagreement, " \
          "0.0 confidence, 0.0 coverage, 0.0 gate, x'' told, x'' entries FROM e"


def filled_index(path: Path, said: list):
    from wilson.evaluation.index import Index
    from wilson.evaluation.index_rows import ENTRY, ImageFacts
    index = Index(path, {"weights": "w"}, 3, said.append)
    index.add(0, ImageFacts(np.array([(0, 1, 2, 9)], ENTRY), bytes([1, 0, 1])))
    return index


@pytest.mark.parametrize("statements", [
    f"DROP TABLE facts; CREATE VIEW facts AS {ENDLESS}",
    "CREATE TRIGGER t AFTER INSERT ON facts BEGIN DELETE FROM facts; END",
    f"DROP TABLE belongs; CREATE VIEW belongs AS SELECT n identity FROM ({ENDLESS.replace('n id', 'n')})",
    "CREATE TABLE more (n)", "CREATE INDEX odd ON facts (abs(gate))", "DROP TABLE belongs; CREATE TABLE belongs (identity)",
])
def test_an_index_with_another_schema_is_begun_anew(statements, tmp_path):
    said = []
    filled_index(tmp_path / "i.sqlite", said).close()
    with closing(sqlite3.connect(tmp_path / "i.sqlite")) as db:
        db.executescript(statements)
    index = filled_index(tmp_path / "i.sqlite", said)
    assert index.known() == {0} and index.on_disk and "other tables" in " ".join(said)
    index.close()


@pytest.mark.parametrize("name, value", [
    ("entries", bytes([0, 200, 1, 1, 0, 0, 0])), ("entries", bytes([0, 1, 200, 1, 0, 0, 0])), ("entries", bytes([9, 1, 1, 1, 0, 0, 0])),
    ("entries", b"x"), ("entries", "text"), ("told", bytes([1, 9, 0])), ("told", bytes(200)), ("told", 3), ("position", -1),
    ("position", "a"), ("epoch", "a"), ("gate", "x"),
])
def test_rows_that_no_image_can_have_are_removed_and_found_again(name, value, tmp_path):
    said = []
    filled_index(tmp_path / "i.sqlite", said).close()
    with closing(sqlite3.connect(tmp_path / "i.sqlite")) as db:
        db.execute(f"UPDATE facts SET {name} = ?", (value,))
        db.commit()
    from wilson.evaluation.index import Index
    index = Index(tmp_path / "i.sqlite", {"weights": "w"}, 3, said.append)
    assert index.missing(1) == [0] and "1 rows that no image" in said[-1]
    index.close()
    index = filled_index(tmp_path / "i.sqlite", said)
    assert index.missing(1) == [] and index.confusion("CAM")[1, 2] == 9 and len(said) == 1
    index.close()


@pytest.mark.parametrize("identity", [b"\xff", "[", "3", "[1]", 7, None])
def test_an_index_without_a_valid_identity_is_rebuilt(identity, tmp_path):
    said = []
    filled_index(tmp_path / "i.sqlite", said).close()
    with closing(sqlite3.connect(tmp_path / "i.sqlite")) as db:
        db.execute("UPDATE belongs SET identity = ?", (identity,))
        db.commit()
    index = filled_index(tmp_path / "i.sqlite", said)
    assert index.missing(1) == [] and index.on_disk and "rebuilding it" in said[-1]
    index.close()


def test_kept_logits_of_another_form_are_made_again(tmp_path):
    import zlib
    from wilson.evaluation.logit_cache import LogitsStore, _of_image, _packed
    from wilson.evaluation.logits import Logits
    from wilson.data.samples import Sample
    sample = Sample(torch.zeros(3, 8, 8, dtype=torch.uint8), None, torch.zeros(2), "a")
    maps = torch.zeros(3, 2, 2)
    assert _of_image((maps, None, None), sample) is not None
    for odd in ((None, None, None), (maps[:2], None, None), (maps, maps[:1], None), (maps, maps, maps), (maps / 0, None, None)):
        assert _of_image(odd, sample) is None
    store = LogitsStore(tmp_path / "l.sqlite", {"weights": "w"})
    assert store.put(0, Logits(sample.image, None, sample.image_labels, maps, None, None, "a"))
    packed = _packed(Logits(sample.image, None, sample.image_labels, maps, None, None, "a"))
    with closing(sqlite3.connect(tmp_path / "l.sqlite")) as db:
        for half in (b"", packed[:20], packed[:-1], packed.replace(b"3,2,2", b"9,9,9"), packed.replace(b"F16", b"F99"), "text"):
            raw = half.encode() if isinstance(half, str) else half
            db.execute("UPDATE content SET half = ?", (half,))
            db.execute("UPDATE kept SET digest = ?", (zlib.crc32(raw),))
            db.commit()
            assert store.get(0) is None
    store.close()


# ---------------------------------------------------------- a studio beside a training


def test_a_studio_notices_that_a_run_was_trained_again(trained):
    from wilson.widgets.studio import Studio
    run = "/".join(LATER.parts[1:3])
    studio = Studio(run=run, step=1, device="cpu")
    try:
        pushed, first = [], studio.images
        studio.push = lambda name, **fields: pushed.append(name)
        step = {"kind": "step", "side": 0, "run": run, "step": 1}
        assert studio.answer(step).fields["again"] == "" and studio.images is first
        tensors = load_file(LATER / "weights.safetensors")
        tensors["segmenter.cls.1.bias"] += 5
        save_file(tensors, LATER / "weights.safetensors.new", {"classes": "background|striped disc|dotted square"})
        os.replace(LATER / "weights.safetensors.new", LATER / "weights.safetensors")
        with pytest.raises(InputError, match="was trained again since it was opened"):
            studio.answer({"kind": "table", "list": "validation", "classIndex": None, "map": None})
        assert "retrained" in pushed
        answer = studio.answer(step)
        assert answer.fields["wrong"] == f"{LATER} was trained again; these are its new weights."
        assert studio.images is not first and studio.images.is_current
        assert torch.equal(studio.images.opened.segmenter.cls[1].bias, tensors["segmenter.cls.1.bias"])
        assert studio.images.logits("validation", 0).prediction().float().mean() > 1
    finally:
        studio.close()
