"""Parameters arrive as typed: names that look like numbers, and `none`, from every front end alike."""
from __future__ import annotations

import json
import shlex
from pathlib import Path

import nbformat
import pytest
from commands import run
from conftest import REPO
from papermill.__main__ import papermill as papermill_command
from papermill.cli import _resolve_type
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from wilson.cli.command import Parser, add_options, arguments_of
from wilson.cli.run_commands import run_train
from wilson.core.errors import InputError
from wilson.experiments.grid import find_members, grid_members, member_config, read_grid
from wilson.experiments.notebook_parameters import check_names, parse_parameters
from wilson.experiments.papermill import text_parameters, with_text
from wilson.experiments.slurm import write_script, write_sweep
from wilson.experiments.slurm_resources import Resources
from wilson.experiments.plan import Job, plan
from wilson.run.config import SHARED, TrainConfig, as_bool, parse_config

TEXT = [name for name, p in SHARED.items() if p.text]  # names, ids and paths
NAMES = ("007", "1e3", "1_0", "nan", "inf", "true", "True", "null", "none", "no", "0x10", "1.0", "½")


def by_papermill(notebook: str, *given: str) -> dict[str, object]:
    "The parameters that reach the kernel, as papermill itself reads a command line."
    path = str(REPO / "nbs" / notebook)
    options = papermill_command.make_context("papermill", with_text([path, "out.ipynb", *given])).params
    parameters = {n: _resolve_type(v) for n, v in options["parameters"] or ()} | dict(options["parameters_raw"] or ())
    cells = parameterize_notebook(load_notebook_node(path), parameters).cells
    sources = [cell.source for cell in cells if cell.cell_type == "code"]
    if notebook == "train.ipynb":
        return parse_parameters(["", *sources])
    check_names(["", *sources[:3]], text=text_parameters(nbformat.read(path, 4)) & {*parameters})
    return parameters


def by_command(*given: str) -> TrainConfig:
    "The configuration of `wilson train`."
    parser = Parser(allow_abbrev=False)
    add_options(parser, run_train, given)
    arguments = arguments_of(run_train, vars(parser.parse_args([*given])))
    return parse_config(arguments["parameters"])


def typed(command: list[str]) -> TrainConfig:
    "The configuration of a command that a sweep or a script starts."
    assert command[0] == "train"
    return by_command(*command[1:])


@pytest.mark.parametrize("name", NAMES)
def test_a_name_by_every_front_end(name, tmp_path, monkeypatch):
    "papermill, the command line, a grid, a file of members, Slurm."
    monkeypatch.chdir(tmp_path)
    Path("settings.ini").touch()
    wanted = TrainConfig(name=name, base_name=name, train_list=name, data_root=name)
    options = [part for n in ("name", "base_name", "train_list", "data_root") for part in ("-p", n, name)]
    assert parse_config(by_papermill("train.ipynb", *options)) == wanted
    assert by_command(f"--name={name}", f"--base-name={name}", f"--train_list={name}", f"--data-root={name}") == wanted
    grid = shlex.join([f"{n}={name}" for n in ("name", "base_name", "train_list", "data_root")])
    member, = read_grid(grid)
    assert parse_config({n: v for n, (v,) in member.items()}) == wanted
    Path("members.json").write_text(json.dumps([{"name": name, "dataset": "shapes"}]), encoding="utf-8")
    member, = find_members(file="members.json")
    bases, job = plan([member])
    assert typed(job.command).name == name and job.name.endswith(f"/{name}")
    script = write_script({"name": name, "dataset": "shapes"}, "job.sh", Resources()).read_text(encoding="utf-8")
    assert f"  {shlex.quote(f'--name={name}')}\n" in script
    submit, *parts = write_sweep([member], "jobs", Resources())
    assert shlex.quote(f"--name={name}") in parts[-1].read_text(encoding="utf-8")


@pytest.mark.parametrize("path", ("-1", "+5", "1,000"))
def test_a_path_by_every_front_end(path, tmp_path, monkeypatch):
    "What may be the name of a list or a folder, though not of a run."
    monkeypatch.chdir(tmp_path)
    Path("settings.ini").touch()
    wanted = TrainConfig(train_list=path, data_root=path)
    assert parse_config(by_papermill("train.ipynb", "-p", "train_list", path, "-p", "data_root", path)) == wanted
    assert by_command(f"--train_list={path}", f"--data-root={path}") == wanted
    member, = read_grid(shlex.join([f"train_list={path}", f"data_root={path}"]))
    assert parse_config({n: v for n, (v,) in member.items()}) == wanted


@pytest.mark.parametrize("number", [7, 1000.0, float("nan"), True])
def test_a_name_that_has_become_a_number_is_refused(number):
    "By every parameter that is a name; the message says what to type."
    for name in TEXT:
        with pytest.raises(InputError, match=rf"{name}=.*-r {name} TEXT instead of -p {name} TEXT.*quotes"):
            parse_config({name: number})
    with pytest.raises(InputError, match="member|name=7|text"):
        member_config({"name": number})


def test_text_is_what_the_configuration_takes_as_text():
    "Everything but choices, and what has a form of its own."
    for name in set(TEXT) - {"logger"}:  # names of a list
        more = {"method": "external"} if name == "pseudo_dir" else {}
        assert getattr(parse_config({name: "none"} | more), name) == "none"


def test_notebooks_hand_names_on():
    "Text by its default or by what the page checks; numbers stay numbers; None stays None."
    assert by_papermill("explore.ipynb", "-p", "image", "007", "-p", "step", "1") == {"image": "007", "step": 1}
    assert by_papermill("explore.ipynb", "-p", "run", "None") == {"run": None}
    assert by_papermill("compare.ipynb", "-p", "runs", "42", "-p", "task", "1e3") == {"runs": "42", "task": "1e3"}
    assert by_papermill("sweep.ipynb", "-p", "name", "1_0", "-p", "jobs", "2") == {"name": "1_0", "jobs": 2}
    assert by_papermill("guide/paper.ipynb", "-p", "dry_run", "false", "-p", "seed", "1") == {"dry_run": False, "seed": 1}
    assert by_papermill("guide/your_data.ipynb", "-p", "name", "true", "-p", "seed", "3") == {"name": "true", "seed": 3}
    assert by_papermill("prepare.ipynb", "-p", "dataset", "007", "-p", "val_share", "0.3") == {"dataset": "007", "val_share": 0.3}
    assert by_papermill("train.ipynb", "-p", "task", "15-5")["task"] == "15-5"
    assert by_papermill("train.ipynb", "-p", "name", "7", "-r", "name", "008")["name"] == "008"  # -r wins, as in papermill


def test_what_an_own_papermill_changed_is_refused_by_the_page():
    "Without the command of `make setup` before it."
    for page, name in (("explore", "image"), ("compare", "runs"), ("prepare", "dataset"), ("guide/your_data", "name"), ("sweep", "name")):
        notebook = load_notebook_node(str(REPO / f"nbs/{page}.ipynb"))
        cells = parameterize_notebook(notebook, {name: 7}).cells
        text = text_parameters(nbformat.read(REPO / f"nbs/{page}.ipynb", 4))
        with pytest.raises(InputError, match=f"-r {name} TEXT"):
            check_names(["", *[c.source for c in cells if c.cell_type == "code"][:3]], text=sorted(text))


def test_false_is_not_true():
    "papermill hands `-p dry_run false` on as text; a sweep that should train did nothing."
    assert [as_bool("dry_run", value) for value in (False, "false", "False", "no", "0", True, "true")] == [False] * 5 + [True] * 2
    with pytest.raises(InputError, match="dry_run='fals': expected true or false"):
        as_bool("dry_run", "fals")


def test_whole_numbers_are_exact():
    assert parse_config({"seed": "9007199254740993"}).seed == 9007199254740993 == parse_config({"seed": 9007199254740993}).seed
    assert parse_config({"seed": 12.0}).seed == 12 and parse_config({"seed": "1e3"}).seed == 1000


def test_several_numbers_through_a_sweep():
    "A list in a file of members is what `1,3` is on the command line."
    job = Job("x", {"affinity_dilations": [1, 2], "label_edits": None})
    assert job.command == ["train", "--affinity-dilations=1,2"]
    assert typed(job.command).method_params == {"affinity_dilations": "1,2"}


def test_an_empty_value_of_a_grid_is_one_not_given():
    "`none` is a name, so that a grid needs another word for what is left to its default."
    assert read_grid("label_edits=;edits.csv") == [{"label_edits": [None, "edits.csv"]}]
    members = grid_members(read_grid("background=;mix label_edits="), dict(dataset="shapes"))
    assert [(m["background"], member_config(m).label_edits) for m in members] == [(None, None), ("mix", None)]


def test_a_file_of_members_from_windows(tmp_path):
    (tmp_path / "m.json").write_bytes(b"\xef\xbb\xbf" + b'[\r\n{"name": "007"}]\r\n')
    assert find_members(file=tmp_path / "m.json") == [{"name": "007"}]


def test_a_list_called_none_is_looked_for(root, capsys):
    assert run("train", "--dataset", "shapes", "--data-root", "data/few", "--train-list", "none") == 2
    assert "no list 'none'" in capsys.readouterr().err
