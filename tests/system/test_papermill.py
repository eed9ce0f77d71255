"""`papermill nbs/train.ipynb -p task …` as typed: in a terminal, redirected, with an output path, misspelt."""
from __future__ import annotations

import ast
import contextlib
import fcntl
import os
import pty
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import nbclient
import nbformat
import pytest
from conftest import QUICK, REPO, environment, gone, need, ranks, waited
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from papermill_runs import PAPERMILL, outputs

from wilson.core.errors import InputError
from wilson.engine.step_folder import StepFolder
from wilson.experiments.notebook_parameters import parse_parameters
from wilson.experiments.papermill import with_output
from wilson.methods.facts import builtin_facts
from wilson.run.config import SHARED, TrainConfig, parse_config

GIVEN = [part for name, value in zip(QUICK[::2], QUICK[1::2])
         for part in ("-p", name[2:].replace("-", "_"), value)]
FINISHED = "runs/shapes-striped_disc__dotted_square-overlap/wilson-s42/step1"


def parameters_cell(path: Path) -> str:
    "The source of the one cell tagged `parameters`."
    tagged = [cell for cell in nbformat.read(path, 4).cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1, f"{path.name} has {len(tagged)} cells tagged parameters"
    return tagged[0].source


def assigned(source: str) -> dict[str, object]:
    "Names and constants of a parameters cell."
    return {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(source).body}


def executed(root: Path) -> Path:
    "The executed notebook under runs/notebooks."
    found = list((root / "runs/notebooks").glob("train-*.ipynb"))
    assert len(found) == 1, found
    return found[0]


def assert_trained(root: Path, notebook: Path) -> None:
    "Both steps are there and the notebook shows their table."
    text = outputs(notebook)
    assert all(word in text for word in ("published", "whole", "taught: target")), text
    assert StepFolder(root / FINISHED).state == "finished"


# -------------------------------------------------------------------------------- the cells


@pytest.mark.parametrize("name", ["train", "explore", "prepare", "guide/your_data"])
def test_parameters_cell_is_tagged(name):
    "Without the tag papermill injects at the top and the defaults win, with exit code 0."
    path = REPO / "nbs" / f"{name}.ipynb"
    assert path.is_file()
    source = parameters_cell(path)
    assert assigned(source)
    # papermill does not know a parameter in whose line it sees two of them
    assert not [line for line in source.splitlines() if line.count("=") > 1]


def test_parameters_of_train_are_the_configuration():
    "Same names, and the same defaults."
    given = assigned(parameters_cell(REPO / "nbs/train.ipynb"))
    own = {n for facts in builtin_facts().values() for n in facts.params} - {*SHARED}
    assert given == {n: p.default for n, p in SHARED.items()} | dict.fromkeys(own)
    assert parse_config(given) == TrainConfig()


def injected(**parameters) -> dict[str, object]:
    "What train.ipynb takes as given when papermill injects `parameters`."
    notebook = parameterize_notebook(load_notebook_node(str(REPO / "nbs/train.ipynb")), parameters)
    return parse_parameters([cell.source for cell in notebook.cells if cell.cell_type == "code"])


def test_injected_values_win_and_every_name_is_checked():
    config = parse_config(injected(task="10-2", alpha=0.3, overlap="false", epochs=5, momentum=0, lr=1e-3))
    assert (config.task, config.method_params["alpha"], config.overlap, config.epochs) == ("10-2", 0.3, False, "5")
    assert (config.momentum, config.lr, config.seed) == (0.0, "0.001", 42)
    with pytest.raises(InputError, match="no parameter 'alhpa'. Did you mean 'alpha'"):
        parse_config(injected(alhpa=0.3))
    with pytest.raises(InputError, match="alpha=2.0: expected at least 0, at most 1"):
        parse_config(injected(alpha=2))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_no_literal_is_not_dropped(value):
    "papermill writes float('nan'); if that cell went unread, the task beside it would be lost in silence."
    with pytest.raises(InputError, match="alpha"):
        parse_config(injected(task="10-2", alpha=value))


# ------------------------------------------------------------------------------ as processes


@pytest.fixture
def notebook(root) -> bytes:
    "The train notebook's bytes in the root of the test."
    need((root / "nbs/train.ipynb").is_file(), "needs nbs/train.ipynb")
    return (root / "nbs/train.ipynb").read_bytes()


class Terminal:
    "A process whose standard input, output and error are a terminal of its own."

    def __init__(self, command, cwd: Path, **variables: str):
        self.ours, theirs = pty.openpty()
        self.said = b""
        self.process = subprocess.Popen(
            command, cwd=cwd, env=environment(**variables), stdin=theirs, stdout=theirs, stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))  # what makes a typed Ctrl-C a signal
        os.close(theirs)
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):  # the other end is closed
            while said := os.read(self.ours, 4096):
                self.said += said

    @property
    def text(self) -> str:
        return self.said.decode(errors="replace")

    def type(self, keys: bytes) -> None:
        os.write(self.ours, keys)

    def ended(self, timeout: float = 120) -> int:
        "The exit code."
        code = self.process.wait(timeout)
        self.listener.join(10)
        return code

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.listener.join(10)
        os.close(self.ours)


def test_in_a_terminal(root, notebook):
    with Terminal([*PAPERMILL, "nbs/train.ipynb", *GIVEN], root) as terminal:
        code, text = terminal.ended(), terminal.text
    assert code == 0, text
    assert f"executed notebook: {executed(root).relative_to(root)}" in text
    assert "Unable to parse" not in text and "unknown parameter" not in text
    assert (root / "nbs/train.ipynb").read_bytes() == notebook
    assert_trained(root, executed(root))


# epochs long enough to be stopped in
TWO = [part for name, value in dict(dataset="shapes", data_root="data/few", task="15-5", epochs="2/1", crop_size=64,
                                    batch_size=6, pseudo_epoch=0, val_interval=2, device="cpu", nproc=2).items()
       for part in ("-p", name, str(value))]


def test_two_processes_stopped_and_gone_on_with(root, notebook):
    "Ctrl-C in the terminal: both ranks save and end, what is said is short, and the same command goes on."
    step = StepFolder(root / "runs/shapes-15-5-overlap/base-s42/step0")
    with Terminal([*PAPERMILL, "nbs/train.ipynb", *TWO], root) as terminal:
        waited(lambda: "epoch 2/2:" in terminal.text or terminal.process.poll() is not None, "a bar", 120)
        both = ranks(terminal.process)
        assert len(both) == 2, terminal.text
        terminal.type(b"\x03")
        asked = time.monotonic()
        waited(lambda: gone(both), "the end of both ranks", 20)
        took = time.monotonic() - asked
        code, text = terminal.ended(60), terminal.text
    assert took < 5, took
    assert code == 130 and "Interrupted in epoch 2; the same command goes on" in text, text
    assert "Traceback" not in text and len(text.split("^C")[-1].splitlines()) < 12, text
    assert step.state == "interrupted" and "Interrupted in epoch 2" in outputs(executed(root))
    updates = int(step.read("status.json")["reason"].rpartition(" ")[2])
    done = subprocess.run([*PAPERMILL, "nbs/train.ipynb", "again.ipynb", *TWO], cwd=root, env=environment(),
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"going on from epoch 2, update {updates + 1}" in outputs(root / "again.ipynb")
    assert StepFolder(root / "runs/shapes-15-5-overlap/wilson-s42/step1").state == "finished"


FAULTY = """
import sys
if any("spawn_main" in part for part in sys.orig_argv):  # a rank
    from wilson.core.distributed import rank
    from wilson.engine.callbacks import FiniteGuard
    guard = FiniteGuard.on_stats
    def faulty(self, stats):
        if rank() == 1 and self.trainer.done == 2:
            raise KeyError("lost")
        guard(self, stats)
    FiniteGuard.on_stats = faulty
"""


def test_a_failing_rank(root, notebook, tmp_path):
    "The error is that of the rank which failed, without the frames of papermill."
    (tmp_path / "faulty").mkdir()
    (tmp_path / "faulty/sitecustomize.py").write_text(FAULTY, encoding="utf-8")
    done = subprocess.run([*PAPERMILL, "nbs/train.ipynb", *GIVEN, "-p", "nproc", "2"], cwd=root, timeout=120,
                          env=environment(PYTHONPATH=f"{tmp_path / 'faulty'}{os.pathsep}{REPO}"),
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 1
    assert "rank 1 of 2 failed" in done.stderr and "KeyError: 'lost'" in done.stderr, done.stderr
    assert done.stderr.count("Traceback") == 1 and "click" not in done.stderr, done.stderr
    assert "in faulty" in outputs(executed(root))
    assert StepFolder(root / FINISHED.replace("wilson-s42/step1", "base-s42/step0")).state == "failed"


def test_redirected(root, notebook, tmp_path):
    "Output to a file, and a pipe on standard input: the notebook must be read, not written."
    with open(tmp_path / "out.txt", "wb") as out:
        done = subprocess.run([*PAPERMILL, "nbs/train.ipynb", *GIVEN], cwd=root, env=environment(), input=b"", stdout=out,
                              stderr=subprocess.PIPE, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    assert (root / "nbs/train.ipynb").read_bytes() == notebook
    assert_trained(root, executed(root))


def test_from_another_folder_with_an_output_path(root, notebook):
    "What is given stays as given; runs are found from the root all the same."
    done = subprocess.run([*PAPERMILL, "train.ipynb", "mine.ipynb", *GIVEN], cwd=root / "nbs", env=environment(),
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
    assert (root / "nbs/train.ipynb").read_bytes() == notebook
    assert not (root / "runs/notebooks").exists()
    assert_trained(root, root / "nbs/mine.ipynb")


def test_misspelt_parameter(root, notebook):
    "papermill itself only warns about a name it does not know."
    sentence = "There is no parameter 'alhpa'. Did you mean 'alpha'"
    done = subprocess.run([*PAPERMILL, "nbs/train.ipynb", *GIVEN, "-p", "alhpa", "0.3"], cwd=root, env=environment(), stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, encoding="utf-8", timeout=120)
    assert done.returncode != 0
    assert sentence in done.stderr + done.stdout
    assert sentence in outputs(executed(root))
    assert (root / "nbs/train.ipynb").read_bytes() == notebook
    assert not list((root / "runs").glob("shapes-*"))


# ------------------------------------------------------------------------- the command line


def test_only_a_lone_notebook_gets_an_output_path(root, notebook):
    for given in ([], ["--help"], ["--version"], ["nbs/missing.ipynb"], ["nbs/train.ipynb", "out.ipynb"],
                  ["nbs/train.ipynb", "out.ipynb", "-p", "task", "15-5"], ["-", "-"], ["--help-notebook", "nbs/train.ipynb"]):
        completed = with_output(given)
        assert completed == given or given[:1] == ["--help-notebook"]
    for given in (["nbs/train.ipynb", "-p", "task", "15-5"], ["-p", "task", "15-5", "nbs/train.ipynb"],
                  ["--log-output", "nbs/train.ipynb", "-r", "step", "0"]):
        completed = with_output(given)
        place = completed.index("nbs/train.ipynb") + 1
        assert Path(completed[place]).parent == root / "runs/notebooks"
        rest = completed[:place] + completed[place + 1:]
        added = [] if "--log-output" in given else [rest.pop(place)]
        assert rest == given and added in ([], ["--log-output"])


def test_the_papermill_of_the_environment_is_the_front():
    "`make setup` puts it there; another environment has papermill's own."
    command = Path(sys.executable).with_name("papermill")
    need(command.is_file(), "needs papermill beside this python")
    assert "wilson.experiments.papermill" in command.read_text(encoding="utf-8"), f"{command} is not the one of `make setup`"


def test_run_all_twice_in_one_kernel(root, notebook):
    "JupyterLab's Run All, and again: the second time finds the run finished, and the cells' other names do no harm."
    twice = nbformat.reads(notebook.decode(), as_version=4)
    for cell in list(twice.cells):
        if "parameters" in cell.metadata.get("tags", ()):
            place = twice.cells.index(cell) + 1
    twice.cells.insert(place, nbformat.v4.new_code_cell("\n".join(
        f"{name} = {value!r}" for name, value in (("dataset", "shapes"), ("data_root", "data/few"), ("epochs", "1"),
                                                  ("task", "striped disc|dotted square"), ("crop_size", 48),
                                                  ("batch_size", 8), ("pseudo_epoch", 0), ("device", "cpu")))))
    twice.cells += [nbformat.from_dict({**cell, "id": f"again-{i}"}) for i, cell in enumerate(twice.cells)]
    done = nbclient.NotebookClient(twice, timeout=120, resources={"metadata": {"path": str(root)}}).execute()
    printed = ["".join(o.text if o.output_type == "stream" else o.get("data", {}).get("text/plain", "")
                       for o in c.get("outputs", ())) for c in done.cells]
    assert sum("used as it is" in text for text in printed) == 1
    assert sum("step  scored" in text for text in printed) == 2


# ------------------------------------------------------------------------------ data


def papermill(root: Path, name: str, *given: str) -> tuple[int, str]:
    "Exit code of a workbench notebook, and all it shows."
    done = subprocess.run([*PAPERMILL, f"nbs/{name}.ipynb", "out.ipynb", *given], cwd=root, env=environment(),
                          capture_output=True, text=True, encoding="utf-8", timeout=300)
    return done.returncode, outputs(root / "out.ipynb") + done.stderr


def test_prepare(root):
    "A whole data set, then one with a broken file: the page shows it and ends with an error."
    code, text = papermill(root, "prepare", "-p", "data_root", "data/few")
    assert code == 0 and "image-level labels: 176 images" in text, text
    shown = nbformat.read(root / "out.ipynb", 4)
    pictures = [o for c in shown.cells for o in c.get("outputs", ()) if "image/png" in o.get("data", {})]
    assert len(pictures) == 3
    pages = [o.data["text/html"] for c in shown.cells for o in c.get("outputs", ()) if "text/html" in o.get("data", {})]
    assert len(pages) == 1 and "no problem in 176 images" in pages[0] and "striped disc" in pages[0]
    (root / "data/few/JPEGImages/train_00003.jpg").write_bytes(b"")
    code, text = papermill(root, "prepare", "-p", "data_root", "data/few")
    assert code != 0 and "1 problem in 1 file" in text
    code, text = papermill(root, "prepare", "-p", "soruce", "data/few")
    assert code != 0 and "Did you mean 'source'" in text


def test_your_data(root):
    "From the raw folder that the page makes to a finished incremental step, which learned from the table alone."
    code, text = papermill(root, "guide/your_data", "-p", "images", "80", "-p", "epochs", "1/2", "-p", "pseudo_epoch", "1",
                           "-p", "crop_size", "48")
    assert code == 0, text
    assert "SegmentationClass: 59 masks turned from colours into class numbers" in text
    assert "without a mask left out" in text  # of the base step: they have lines in the table alone
    assert "step  scored" in text and StepFolder(root / "runs/drawings-3-2-overlap/wilson-s42/step1").state == "finished"
