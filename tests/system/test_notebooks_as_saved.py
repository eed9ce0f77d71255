"""Notebooks as editors save them: kernels of other machines, outputs left in, cells reordered, tags lost."""
from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import nbformat
import pytest
from conftest import QUICK, REPO, environment
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from papermill_runs import PAPERMILL, outputs

from wilson.core.errors import InputError
from wilson.experiments.notebook_parameters import check_names, parse_parameters
from wilson.experiments.papermill import with_kernel, with_text
from wilson.run.config import parse_config

TRAIN = REPO / "nbs/train.ipynb"


def read() -> dict:
    return json.loads(TRAIN.read_text(encoding="utf-8"))


def saved(folder: Path, notebook: dict, newline: str = "\n", indent: int | None = 1) -> str:
    "The path of a notebook as an editor writes it."
    path = folder / "mine.ipynb"
    path.write_bytes(json.dumps(notebook, indent=indent).replace("\n", newline).encode())
    return str(path)


def kernel(notebook: dict, name: str | None, **more: str) -> dict:
    "Saved with another kernel; None: with none."
    notebook["metadata"] = {"kernelspec": {"name": name, "display_name": name, **more}} if name else {}
    return notebook


def vscode(notebook: dict) -> dict:
    notebook["metadata"] = {"kernelspec": {"name": "wilson-env", "display_name": "wilson-env (3.11.7)", "language": "python"},
                            "language_info": {"name": "python", "version": "3.11.7"}, "orig_nbformat": 4, "vscode": {"interpreter": {"hash": "0" * 64}}}
    for cell in notebook["cells"]:
        cell["metadata"] |= {"vscode": {"languageId": "python"}}
    return notebook


def colab(notebook: dict) -> dict:
    notebook["metadata"] = {"colab": {"provenance": []}, "accelerator": "GPU", "kernelspec": {"name": "python3", "display_name": "Python 3"}}
    for number, cell in enumerate(notebook["cells"]):
        cell["metadata"] |= {"id": f"x{number}", "colab": {"base_uri": "https://localhost:8080/"}}
        cell.pop("id", None)
    notebook["nbformat_minor"] = 0
    return notebook


def with_outputs(notebook: dict) -> dict:
    "Outputs, errors and the state of widgets left in."
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code":
            cell["execution_count"] = number
            cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["task = '10-2'\n"]},
                               {"output_type": "error", "ename": "X", "evalue": "y", "traceback": ["\x1b[31mz"]}]
    view = {"model_id": "0" * 32, "version_major": 2, "version_minor": 0}
    notebook["metadata"]["widgets"] = {"application/vnd.jupyter.widget-state+json": {
        "state": {"0" * 32: {"model_module": "@jupyter-widgets/base", "model_name": "LayoutModel", "state": {}}}, **view}}
    return notebook


SAVED = {"VS Code": vscode, "Colab": colab, "outputs and widgets": with_outputs, "no kernel": lambda n: kernel(n, None),
         "a conda kernel": lambda n: kernel(n, "conda-env-lab-py", language="python"), "no language": lambda n: kernel(n, "python3")}


@pytest.mark.parametrize("editor", SAVED)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_papermill_takes_it(editor, newline, tmp_path, capsys):
    "A kernel and a language are found, and the parameters arrive."
    path = saved(tmp_path, SAVED[editor](read()), newline)
    arguments = with_kernel(with_text([path, "out.ipynb", "-p", "task", "10-2", "-p", "name", "007"]))
    notebook = load_notebook_node(path)
    known = "-k" not in arguments and notebook.metadata.kernelspec.name == "python3" or arguments[arguments.index("-k") + 1] == "python3"
    assert known and (notebook.metadata.get("language_info") or notebook.metadata.get("kernelspec", {}).get("language") or "--language" in arguments)
    assert ("-k NAME" in capsys.readouterr().err) == (editor in ("VS Code", "a conda kernel"))
    cells = parameterize_notebook(notebook, {"task": "10-2", "name": "007"}, kernel_name="python3", language="python").cells
    config = parse_config(parse_parameters(["", *(c.source for c in cells if c.cell_type == "code")][:3]))
    assert (config.task, config.name) == ("10-2", "007")


def test_sources_with_carriage_returns():
    source = next("".join(c["source"]) for c in read()["cells"] if c["cell_type"] == "code").replace("\n", "\r\n")
    assert parse_parameters(["", source, '# Parameters\r\ntask = "10-2"\r\n'])["task"] == "10-2"


def test_a_lost_tag_is_refused_by_the_command(tmp_path):
    notebook = read()
    for cell in notebook["cells"]:
        cell["metadata"] = {}
    path = saved(tmp_path, notebook)
    for given in (["-p", "task", "10-2"], ["-r", "task", "10-2"], ["-y", "task: 10-2"]):
        with pytest.raises(InputError, match="no cell is tagged `parameters`.*Cell Tags"):
            with_text([path, "out.ipynb", *given])
    assert with_text([path, "out.ipynb"]) == [path, "out.ipynb"]  # nothing given, nothing lost


def test_a_lost_tag_is_refused_by_the_page(tmp_path):
    "Where papermill runs without the command before it: it puts its cell at the top and only warns."
    for page in ("train", "prepare", "guide/your_data", "explore"):
        notebook = load_notebook_node(str(REPO / f"nbs/{page}.ipynb"))
        for cell in notebook.cells:
            cell.metadata.tags = []
        parameter = "runs_dir" if page == "explore" else "task"
        cells = [c.source for c in parameterize_notebook(notebook, {parameter: "10-2"}).cells if c.cell_type == "code"]
        check = parse_parameters if page == "train" else check_names
        with pytest.raises(InputError, match="has lost its tag `parameters`"):
            check(["", *cells[:3]])


def test_cells_reordered():
    "The cell of parameters below its use: nothing is trained with the defaults."
    with pytest.raises(InputError, match="run the cell tagged `parameters` first"):
        parse_parameters(["", "from wilson.run.config import parse_config\nconfig = parse_config(parse_parameters(In))"])


@pytest.mark.parametrize("change, expected", [
    (lambda s: s.replace('task = "15-5"', 'task = "10-2"') + "\nprint(task)", "10-2"),
    (lambda s: "%%time\n" + s.replace('task = "15-5"', 'task = "10-2"'), "10-2"),
    (lambda s: s.replace('task = "15-5"', 'task: str = "10-2"'), "10-2"),
    (lambda s: "import os\n" + s.replace('task = "15-5"', 'task = "10-2"'), "10-2"),
], ids=["print", "magic", "annotation", "import"])
def test_a_cell_of_parameters_that_people_changed(change, expected):
    "It was left out as a whole, and the defaults were trained."
    source = next("".join(c["source"]) for c in read()["cells"] if c["cell_type"] == "code")
    assert parse_config(parse_parameters(["", change(source), "config = 1 + 2"])).task == expected


def test_what_is_no_constant_is_refused():
    source = next("".join(c["source"]) for c in read()["cells"] if c["cell_type"] == "code")
    with pytest.raises(InputError, match="seed: a cell assigns a value that is not constant"):
        parse_parameters(["", source.replace("seed = 42", "seed = 40 + 2")])


def test_an_executed_notebook_is_run_again(tmp_path):
    "What papermill wrote under runs/notebooks, given to it once more with other parameters."
    first = parameterize_notebook(load_notebook_node(str(TRAIN)), {"task": "10-2", "seed": 1})
    path = str(tmp_path / "done.ipynb")
    nbformat.write(first, path)
    again = parameterize_notebook(load_notebook_node(path), {"task": "10-5"})
    config = parse_config(parse_parameters(["", *(c.source for c in again.cells if c.cell_type == "code")]))
    assert config.task == "10-5" and with_text([path, "out.ipynb", "-p", "task", "10-5"])[-2:] == ["task", "10-5"]


def test_foreign_notebooks_are_handed_through(tmp_path):
    "What does not use wilson is papermill's business: kernel, numbers, tags."
    notebook = {"cells": [{"cell_type": "code", "source": "name = 'x'", "metadata": {}, "outputs": [], "execution_count": None}],
                "metadata": {"kernelspec": {"name": "julia", "display_name": "julia"}}, "nbformat": 4, "nbformat_minor": 4}
    arguments = [saved(tmp_path, notebook), "out.ipynb", "-p", "name", "007"]
    assert with_kernel(with_text(arguments)) == arguments
    for text in ("", "{", "[]", '{"cells": 3}'):
        (tmp_path / "mine.ipynb").write_text(text, encoding="utf-8")
        assert with_kernel(with_text(arguments)) == arguments


def test_a_page_from_vs_code_trains(root):
    "As a process, with outputs redirected: no bars, no colours, no control characters."
    path = saved(root, with_outputs(vscode(read())))
    given = [part for name, value in zip(QUICK[::2], QUICK[1::2]) for part in ("-p", name[2:].replace("-", "_"), value)]
    done = subprocess.run([*PAPERMILL, path, "out.ipynb", "--log-output", *given, "-p", "step", "0", "-p", "base_name", "007"], cwd=root,
                          env=environment(LC_ALL="C"), capture_output=True, timeout=300)
    text = done.stderr.decode("utf-8")
    assert done.returncode == 0, text
    assert (root / "runs/shapes-striped_disc__dotted_square-overlap/007/step0/status.json").is_file()
    assert "kernel 'wilson-env', which is not on this machine; python3 is taken" in text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]|\d%\|", text), text
    assert "step  scored" in outputs(root / "out.ipynb")


@pytest.mark.parametrize("page", ["explore", "compare"])
def test_a_still_picture_without_a_kernel(page):
    "On GitHub or nbviewer the place of the widget holds a picture and a sentence."
    cells = json.loads((REPO / f"nbs/{page}.ipynb").read_text(encoding="utf-8"))["cells"]
    widget = next(i for i, c in enumerate(cells) if re.search(r"^(studio = wilson\.Studio|wilson\.Comparison)\(", "".join(c["source"]), re.MULTILINE))
    before = "".join(cells[widget - 1]["source"])
    picture = re.search(r"!\[[^\]]+\]\(([^)]+)\)", before)
    assert picture and (REPO / "nbs" / picture[1]).is_file() and re.search("needs? a running kernel", before)
    assert not cells[widget].get("outputs")
