"""Label edits: the file two people write at once, and what training makes of it."""
from __future__ import annotations

import csv
import json
import multiprocessing
import os
import random
import signal
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from conftest import QUICK
from conftest import QUICK_PARAMETERS as PARAMETERS

from wilson import testing
from wilson.analysis.results import evaluate_saved_step
from wilson.cli.command import main
from wilson.core.errors import InputError
from wilson.data.classes import SHAPES, Classes
from wilson.data.label_edits import EDITS_FILE, LabelEdit, change_edit, apply_edits, edits_path, edits_text, read_edits
from wilson.data.samples import training_samples
from wilson.data.tasks import Task
from wilson.datasets.voc import open_folder
from wilson.engine.signals import Interrupted, Stop
from wilson.engine.step_folder import StepFolder
from wilson.experiments.train import validate_config, run_training, train_steps
from wilson.run.config import all_parameters, parse_config
from wilson.run.dataset import open_data
from wilson.run.folder import resolve_existing, recorded_config
from wilson.run.opened import open_step
from wilson.run.presets import step_fingerprint, resolve_config

OLD, NEW = "striped disc", "dotted square"  # the classes of QUICK's two steps
RUNS = "runs/shapes-striped_disc__dotted_square-overlap"
EDITS = f"data/few/{EDITS_FILE}"


def save_edit(path, edit: LabelEdit, classes) -> dict[str, LabelEdit]:
    return change_edit(path, edit.id, lambda before: edit, classes)


def write_edits(path, edits: dict[str, LabelEdit]) -> None:
    Path(path).write_bytes(edits_text(edits.values()).encode())


# ------------------------------------------------------------------------------- the file


ODD = Classes("odd", ("cat", "a;b", 'say "hi"', "x, y", "two\nlines", "née"), (1, 2, 3, 4, 5, 6))
LETTERS = ["a", "é", "猫", " ", ",", ";", '"', "'", "\n", "\r", "\t", "=", "#", "\ufeff", "\u2028", "yes", "id,add"]


@pytest.mark.parametrize("seed", range(40))
def test_round_trip(seed, tmp_path):
    "Whatever is in names and notes comes back, and the same edits are the same bytes."
    path, chance = tmp_path / EDITS_FILE, random.Random(seed)
    edits = {}
    for i in ("2007_000033", "b, c", 'a;"b"', "d"):
        add, remove = ({n for n in ODD.names if chance.random() < 0.4} for _ in range(2))
        note = "".join(chance.choices(LETTERS, k=chance.randrange(8)))
        edits[i] = LabelEdit(i, frozenset(add - remove), frozenset(remove), chance.random() < 0.5, chance.random() < 0.5, note)
    write_edits(path, edits)
    assert read_edits(path, ODD) == {i: e for i, e in edits.items() if not e.is_empty}
    content = path.read_bytes()
    write_edits(path, dict(reversed(edits.items())))
    assert path.read_bytes() == content


@pytest.mark.parametrize("note", ["=cmd()", '=HYPERLINK("http://x")', "<script>alert(1)</script>", "-1+1", "@SUM(A1)", "'; DROP", "a,b;c\n\"d\"", "é ☃ 猫"])
def test_a_hostile_note_is_kept_as_it_is(note, tmp_path):
    save_edit(tmp_path / "e.csv", LabelEdit("a", note=note), SHAPES)
    assert read_edits(tmp_path / "e.csv", SHAPES)["a"].note == note
    with open(tmp_path / "e.csv", newline="", encoding="utf-8") as f:
        assert list(csv.DictReader(f))[0]["note"] == note  # any reader of CSV


def test_one_line_changes_for_one_image(tmp_path):
    "What a review sees in a difference."
    path = tmp_path / EDITS_FILE
    write_edits(path, {i: LabelEdit(i, {OLD}) for i in ("c", "a", "b")})
    before = path.read_text(encoding="utf-8").splitlines()
    save_edit(path, LabelEdit("b", {OLD}, {NEW}, note="no square"), SHAPES)
    after = path.read_text(encoding="utf-8").splitlines()
    assert len(before) == len(after) and [n for n in range(4) if before[n] != after[n]] == [2]
    assert after[2] == "b,striped disc,dotted square,,,no square"


def save_some(path, who: str) -> None:
    for n in range(20):
        save_edit(path, LabelEdit(f"{who}{n}", {NEW}, note=f"by {who}"), SHAPES)
        save_edit(path, LabelEdit("both", flag=True), SHAPES)


def save_and_die(path) -> None:
    "Killed when the file is written aside, before it takes the old one's place."
    os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    save_edit(path, LabelEdit("new", flag=True), SHAPES)


def processes(*calls) -> list[int]:
    "Exit codes of functions called at once, each in a process of its own."
    born = [multiprocessing.get_context("fork").Process(target=call, args=given) for call, *given in calls]
    for process in born:
        process.start()
    for process in born:
        process.join(60)
    return [process.exitcode for process in born]


def test_two_processes_lose_nothing(tmp_path):
    path = tmp_path / EDITS_FILE
    assert processes((save_some, path, "a"), (save_some, path, "b")) == [0, 0]
    assert {*read_edits(path, SHAPES)} == {"both", *(f"{who}{n}" for who in "ab" for n in range(20))}
    assert [p.name for p in tmp_path.iterdir()] == [EDITS_FILE]  # no lock, nothing half


def test_killed_before_the_rename(tmp_path):
    "The old file is whole, and nobody waits for the dead."
    path = tmp_path / EDITS_FILE
    save_edit(path, LabelEdit("old", flag=True), SHAPES)
    before = path.read_bytes()
    assert processes((save_and_die, path)) == [-signal.SIGKILL] and path.read_bytes() == before
    assert [p for p in tmp_path.iterdir() if p.name.endswith(".part")]
    assert {*save_edit(path, LabelEdit("newer", flag=True), SHAPES)} == {"old", "newer"}
    assert [p.name for p in tmp_path.iterdir()] == [EDITS_FILE]


def test_a_link_stays_a_link(tmp_path):
    "The file may lie in a repository, and be linked beside the data."
    (tmp_path / "kept").mkdir()
    (tmp_path / EDITS_FILE).symlink_to(tmp_path / "kept/edits.csv")
    save_edit(tmp_path / EDITS_FILE, LabelEdit("a", flag=True), SHAPES)
    assert (tmp_path / EDITS_FILE).is_symlink() and {*read_edits(tmp_path / "kept/edits.csv", SHAPES)} == {"a"}


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file/e.csv", tmp_path / "not there/e.csv"):
        with pytest.raises(InputError, match="cannot be written"):
            save_edit(path, LabelEdit("a", flag=True), SHAPES)


def test_a_broken_file_is_not_overwritten(tmp_path):
    path = tmp_path / EDITS_FILE
    path.write_text("id,add,remarks\na,,keep me\n", encoding="utf-8")
    with pytest.raises(InputError, match="unknown column 'remarks'"):
        save_edit(path, LabelEdit("b", flag=True), SHAPES)
    assert "keep me" in path.read_text(encoding="utf-8")


# ------------------------------------------------------------------------------- training


@pytest.fixture
def data(root):
    "The demo data of the test's own root, before any edit."
    return open_folder("data/few", SHAPES)


def chosen(data, *, shows, lacks):
    "The first training image by its labels."
    of = dict(zip(SHAPES.names, SHAPES.ids))
    fits = data.train.labels[:, [of[n] for n in shows]].all(1) & ~data.train.labels[:, [of[n] for n in lacks]].any(1)
    return [data.train.ids[n] for n in np.flatnonzero(fits)]


def taught(config: dict, index: int) -> list[str]:
    "Ids of the images that a step trains on."
    config = parse_config(PARAMETERS | config)
    weak = index and config.method == "wilson"
    step = Task(SHAPES, config.task, config.overlap).step(index)
    return [*training_samples(open_data(replace(config, dataset="shapes")).train, step, None, reads_masks=not weak).split.ids]


def record(path) -> dict:
    return json.loads((path / "config.json").read_text(encoding="utf-8"))


def test_training_with_edits(root, data, capsys):
    "One image in, two out, and the record of it; the base of before is not taken for one with these edits."
    gains, = chosen(data, shows=[OLD], lacks=[NEW])[:1]
    loses, gone = chosen(data, shows=[NEW], lacks=[OLD])[:2]
    before = {k: {*taught({}, k)} for k in (0, 1)}
    write_edits(EDITS, {e.id: e for e in (
        LabelEdit(gains, {NEW}, note="=cmd()"), LabelEdit(loses, remove={NEW}), LabelEdit(gone, exclude=True, note="<b>blurred</b>"),
        LabelEdit(data.val.ids[0], remove=set(SHAPES.names), note="of the validation list"), LabelEdit(data.val.ids[1], exclude=True))})
    assert edits_path("data/few") == root / EDITS
    assert {*taught({}, 1)} == before[1]  # beside the data, but not named

    named = {"label_edits": EDITS}
    assert {*taught(named, 1)} == before[1] - {loses, gone} | {gains}
    assert {*taught(named | {"method": "finetune", "pseudo_epoch": None}, 1)} == before[1] - {loses, gone}  # by pixels: its mask has no square
    assert gains in before[0] and {*taught(named, 0)} == before[0]  # nor are the base's pixel labels another's

    base, = testing.tiny_run(PARAMETERS | {"step": 0})
    content = (root / EDITS).read_bytes()
    with pytest.raises(InputError, match=r"base-s42/step0 holds a step of another configuration: label_edits is None, wanted '\w{16}'; train_data"):
        run_training(parse_config(PARAMETERS | named))
    result, = run_training(parse_config(PARAMETERS | named | {"step": 1}))  # one step alone may start from it
    log = (result.path / "log.txt").read_text(encoding="utf-8")
    assert f"label edits: 2 images corrected, 1 excluded ({EDITS}); 2 of other lists" in log
    assert "label edits: those of the step it starts from were others" in log and "label edits" not in (base.path / "log.txt").read_text(encoding="utf-8")
    assert (result.path / EDITS_FILE).read_bytes() == content and not (base.path / EDITS_FILE).exists()
    found = record(result.path)
    assert found["data"]["images"] == len(before[1]) - 1 and found["parameters"]["label_edits"] == EDITS
    assert found["data"]["label_edits"] | {"hash": ""} == {"file": EDITS, "hash": "", "corrected": 2, "excluded": 1}
    assert found["data"]["val_data"] == record(base.path)["data"]["val_data"]

    # a finished step is the same with other notes, another with other labels
    save_edit(EDITS, LabelEdit(data.train.ids[0], flag=True, note="have a look"), SHAPES)
    again, = run_training(parse_config(PARAMETERS | named | {"step": 1}))
    assert again.reused
    save_edit(EDITS, LabelEdit(gone), SHAPES)
    with pytest.raises(InputError, match="label_edits is"):
        run_training(parse_config(PARAMETERS | named | {"step": 1}))

    # scored as it was, and opened with its own copy, when the file is gone
    (root / EDITS).unlink()
    scored = evaluate_saved_step(result.path)
    assert scored.metrics["scores"] == result.metrics["scores"]
    assert gone not in open_data(open_step(result.path).config).train.ids
    with pytest.raises(InputError, match="label_edits=.* cannot be read"):
        run_training(parse_config(PARAMETERS | named | {"step": 1}))


def test_edits_change_the_base_step(root, data):
    "An image is left out, one is in no step any more, and in the disjoint setting one comes in."
    both = chosen(data, shows=[OLD, NEW], lacks=[])
    with_old = chosen(data, shows=[OLD], lacks=[NEW])
    write_edits(EDITS, {e.id: e for e in (
        LabelEdit(with_old[0], exclude=True), LabelEdit(with_old[1], remove={OLD}), LabelEdit(with_old[2], {NEW}), *(LabelEdit(i, remove={NEW}) for i in both[:1]))})
    for overlap in (True, False):
        plain, edits = ({*taught({"overlap": overlap, "label_edits": path}, 0)} for path in (None, EDITS))
        expected = plain - {*with_old[:2]} if overlap else plain - {*with_old[:3]} | {*both[:1]}
        assert edits == expected
    result, = run_training(parse_config(PARAMETERS | {"step": 0, "label_edits": EDITS}))
    assert record(result.path)["data"]["images"] == len(taught({"label_edits": EDITS}, 0))
    assert record(result.path)["identity"]["label_edits"] and (result.path / EDITS_FILE).is_file()


def test_masks_stay_as_they_are(data):
    "Of an image whose labels are corrected too."
    image, = chosen(data, shows=[OLD], lacks=[NEW])[:1]
    new = apply_edits(data.train, {image: LabelEdit(image, {NEW}, {OLD})}, SHAPES)
    place = new.ids.index(image)
    assert new.masks == data.train.masks and (new.read(place) == data.train.read(place)).all()
    assert new.labels[place, SHAPES.ids[SHAPES.names.index(NEW)]] and new.content == data.train.content


def test_another_file_on_resume_is_refused(root, data):
    "An interrupted run goes on with the same edits, and not with others."
    image, other = chosen(data, shows=[OLD], lacks=[NEW])[:2]
    write_edits(EDITS, {image: LabelEdit(image, exclude=True)})
    given, stop = PARAMETERS | {"step": 0, "label_edits": EDITS}, Stop()
    stop.signal = signal.SIGTERM
    with pytest.raises(Interrupted):
        train_steps(*validate_config(parse_config(given)), stop)
    folder = StepFolder(root / RUNS / "base-s42/step0")
    assert folder.state == "interrupted"
    write_edits(EDITS, {image: LabelEdit(image, exclude=True), other: LabelEdit(other, exclude=True)})
    with pytest.raises(InputError, match=r"label_edits is '\w{16}', wanted '\w{16}'; train_data is .* or overwrite=True to replace it\.$"):
        run_training(parse_config(given))
    with pytest.raises(InputError, match="label_edits is '.*', wanted None"):
        run_training(parse_config({n: v for n, v in given.items() if n != "label_edits"}))
    assert folder.state == "interrupted" and len(read_edits(folder.path / EDITS_FILE, SHAPES)) == 1

    write_edits(EDITS, {image: LabelEdit(image, exclude=True, note="twice")})
    result, = run_training(parse_config(given))
    assert "going on from epoch 1, update 2" in (result.path / "log.txt").read_text(encoding="utf-8")
    assert read_edits(result.path / EDITS_FILE, SHAPES)[image].note == "twice"


def test_by_the_command(root, data, capsys):
    "The options are there, are read, and are recorded."
    image, = chosen(data, shows=[OLD], lacks=[NEW])[:1]
    save_edit(EDITS, LabelEdit(image, exclude=True, note="<b>"), SHAPES)
    assert main(["train", *QUICK, "--step", "0", "--label-edits", EDITS, "--affinity-dilations", "1,2", "--threshold-background=0.8", "--threshold-floor=0.1"]) == 0
    said = capsys.readouterr().out
    assert f"label edits: 0 images corrected, 1 excluded ({EDITS})" in said and "<b>" not in said
    opened = open_step(root / RUNS / "base-s42/step0")
    assert (opened.folder.path / EDITS_FILE).read_bytes() == (root / EDITS).read_bytes()
    assert [opened.rule[name] for name in ("affinity_dilations", "threshold_background", "threshold_floor", "affinity_iterations")] == ["1,2", 0.8, 0.1, 10]


@pytest.mark.parametrize("text, words", [
    ("id,add\n{0},dotted sqare\n", ["no class 'dotted sqare'", "'dotted square'"]),
    ("id,ad\n{0},dotted square\n", ["unknown column 'ad'", "'add'"]),
    ("id,add,remove\n{0},dotted square,dotted square\n", ["both added and removed"]),
    ("id,exclude\n{0},yes\n{0},\n", ["line 3", "merge the two lines"]),
    ("id,exclude\n{0}.jpg,yes\n", ["1 images", "does not have", "Did you mean '{0}'"]),
    ("id,exclude\nnobody,yes\n", ["nobody", "take the line out"]),
    ("id,exclude\n{0},maybe\n", ["exclude is 'maybe'", "expected yes"]),
])
def test_what_is_wrong_is_said(text, words, root, data, capsys):
    "Before anything is trained, in a sentence that names the file."
    (root / EDITS).write_text(text.format(data.train.ids[0]), encoding="utf-8")
    assert main(["train", *QUICK, "--label-edits", EDITS]) == 2
    said = capsys.readouterr().err
    assert EDITS in said and all(word.format(data.train.ids[0]) in said for word in words), said
    assert not (root / "runs").is_dir() or not list((root / "runs").glob("*/*/step*"))


def test_all_images_excluded(root, data, capsys):
    write_edits(EDITS, {i: LabelEdit(i, exclude=True) for i in data.train.ids})
    assert main(["train", *QUICK, "--label-edits", EDITS]) == 2
    assert "nothing to train on" in capsys.readouterr().err


def test_a_run_from_before_these_parameters(tmp_path):
    "It opens with what they were then, and is used as it is."
    config = resolve_config(parse_config(PARAMETERS), "shapes")
    new = ("label_edits", "max_image_size", "accumulate_grad")
    older = {n: v for n, v in all_parameters(config).items() if n not in new}
    assert asdict(recorded_config({"parameters": older})) == asdict(config)
    for step in (0, 1):
        folder, same = StepFolder(tmp_path / f"step{step}"), step_fingerprint(config, step, {})
        folder.write("config.json", {"step": step, "identity": {n: v for n, v in same.items() if n not in new}})
        folder.set_state("finished")
        assert resolve_existing(folder, same) == "reuse"
    with pytest.raises(InputError, match="threshold_background is 0.7, wanted 0.8"):
        resolve_existing(folder, step_fingerprint(replace(config, method_params={**config.method_params, "threshold_background": 0.8}), 1, {}))
