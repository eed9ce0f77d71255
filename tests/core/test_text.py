"""Text in any script through any encoding, pipe and file: output never ends a command that did its work."""
from __future__ import annotations

import ast
import errno
import io
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO, environment, need
from farm import make_farm

import wilson.core.terminals
from wilson.cli.command import COMMANDS, main
from wilson.core.errors import InputError
from wilson.core.terminals import ESCAPES, Output, safe_output, use_utf8_names
from wilson.data.splits import files_by_id
from wilson.engine.launch import _into
from wilson.engine.step_folder import StepFolder
from wilson.experiments.plan import Job
from wilson.experiments.sweep import start_job
from wilson.run.config import parse_config

# as on old clusters: no UTF-8 anywhere, and Python does not put it right by itself
NO_UTF8 = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
TASK = "Kühe,牛"
TINY = ("--preset", "shapes", "--epochs", "1", "--crop-size", "48", "--batch-size", "8", "--device", "cpu", "--num-workers", "0")
STEP = "runs/höfe-Kühe+牛/base-s42/step0"

# ------------------------------------------------------------------------------- the sources


def sources() -> list[tuple[str, str]]:
    "Every piece of Python in the repository, with its place."
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "*.py", "*.ipynb"], cwd=REPO, check=True,
                           capture_output=True, encoding="utf-8").stdout.split("\n")
    found = []
    for name in filter(None, names):
        text = (REPO / name).read_text(encoding="utf-8")
        if name.endswith(".py"):
            found.append((name, text))
            continue
        for number, cell in enumerate(json.loads(text)["cells"]):
            if cell["cell_type"] == "code":
                lines = "".join(cell["source"]).splitlines()
                found.append((f"{name}[{number}]", "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in lines)))
    return found


def without_encoding(source: str) -> list[int]:
    "Lines that read or write text in the encoding of the locale."
    found = []
    for call in (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call)):
        given = {k.arg: k.value for k in call.keywords}
        if "encoding" in given or None in given:
            continue
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        if name == "param":  # `text` is another word there
            continue
        method = isinstance(call.func, ast.Attribute)
        mode = given.get("mode") or next((a for a in call.args[0 if method else 1:][:1]), None)
        mode = mode.value if isinstance(mode, ast.Constant) and isinstance(mode.value, str) else None
        text = any(isinstance(given.get(n), ast.Constant) and given[n].value is True for n in ("text", "universal_newlines"))
        if (name == "read_text" and not call.args or name == "write_text" and len(call.args) < 2
                or name == "open" and not method and (len(call.args) < 2 and "mode" not in given or mode and "b" not in mode)
                or name == "fdopen" and "b" not in str([ast.unparse(a) for a in call.args[1:]])
                or name == "open" and method and mode and set(mode) <= set("rwaxt+") and ast.unparse(call.func) != "tarfile.open"
                or name in ("NamedTemporaryFile", "TemporaryFile") and mode and "b" not in mode or text):
            found.append(call.lineno)
    return found


def test_every_text_is_read_and_written_as_utf8():
    wrong = [f"{name}:{line}" for name, source in sources() for line in without_encoding(source)]
    assert not wrong


@pytest.mark.parametrize("line, wrong", [
    ("open('x')", True), ("open('x', 'rb')", False), ("open('x', 'w')", True), ("open(x, mode='w', encoding='utf-8')", False),
    ("p.read_text()", True), ("p.read_text(encoding='utf-8')", False), ("p.write_text(t)", True), ("p.open('w')", True),
    ("Image.open(x)", False), ("tarfile.open(x, 'r:gz')", False), ("os.fdopen(n, 'w')", True), ("subprocess.run(c, text=True)", True),
    ("subprocess.run(c, text=True, encoding='utf-8')", False), ("subprocess.run(c, text=False)", False),
])
def test_the_search_for_encodings(line, wrong):
    assert bool(without_encoding(line)) == wrong


# ------------------------------------------------------------------------------- the streams


def through(encoding: str, *arguments: str) -> tuple[int, str]:
    "Exit code and standard output of `wilson …`, in this process, through a file of an encoding."
    before, stream = sys.stdout, io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    sys.stdout = stream
    try:
        code = main(list(arguments))
    except SystemExit as e:
        code = e.code
    finally:
        sys.stdout = before
    stream.flush()
    return code, stream.buffer.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-16"])
def test_help_in_any_encoding(encoding):
    for command in COMMANDS:
        code, text = through(encoding, command, "--help")
        assert code == 0 and f"wilson {command}" in text, text
        assert not [c for c in text if ord(c) < 32 and c != "\n"], text


def test_escapes_and_similar_characters():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Output(stream).write("K\u00fche \u2013 \u2192 \u2026 \ud83d\udc02".encode("utf-16", "surrogatepass").decode("utf-16") + os.fsdecode(b"\xff\x1b[2J\n"))
    stream.flush()
    assert stream.buffer.getvalue() == b"K\\xfche - -> ... \\U0001f402\\udcff\\x1b[2J\n"


class Refusing(io.StringIO):
    "A stream that cannot be written."

    def __init__(self, number: int):
        super().__init__()
        self.number = number

    def write(self, text: str) -> int:
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("number, reported", [(errno.ENOSPC, True), (errno.EIO, True), (errno.EPIPE, False)])
def test_a_stream_that_refuses(number, reported, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Refusing(number))
    assert main(["--help"]) == 0
    said = capsys.readouterr().err
    assert ("standard output cannot be written" in said) == reported and said.count("\n") == reported


def test_no_streams_at_all(monkeypatch):
    "pythonw, some services: sys.stdout is None."
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["--help"]) == 0 and main(["trian"]) == 2
    assert sys.stdout is None


def test_a_terminal_keeps_its_bars():
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w", encoding="utf-8") as terminal:
        Output(terminal).write("\r 5%|#")
        Output(terminal).flush()
        assert os.read(ours, 100) == b"\r 5%|#"
    os.close(ours)


def test_a_rank_writes_utf8(tmp_path, monkeypatch):
    log = tmp_path / "rank0.log"
    child = os.fork()
    if child == 0:
        sys.stdout = None
        _into(log)
        print("Kühe → 牛", os.fsdecode(b"\xff"))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert log.read_text(encoding="utf-8") == "Kühe → 牛 \\udcff\n"


def test_utf8_names_start_python_again(monkeypatch):
    started_as = []
    monkeypatch.setattr(os, "execv", lambda *command: started_as.append(command))
    use_utf8_names()
    assert not started_as
    monkeypatch.setattr(wilson.core.terminals.sys, "getfilesystemencoding", lambda: "iso8859-1")
    monkeypatch.setenv("PYTHONUTF8", "0")
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    use_utf8_names()
    assert started_as[0][1][:3] == [sys.executable, "-X", "utf8"] and os.environ["PYTHONUTF8"] == "1"


# ---------------------------------------------------------------------------- whole commands


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    "A root in which a run of classes and images of several scripts was trained without UTF-8; its output is in log.txt."
    root = tmp_path_factory.mktemp("text") / "root"
    make_farm(root / "data/höfe")
    toml = (root / "data/höfe/dataset.toml")
    toml.write_text('classes = ["Kühe", "牛", "🐖 pig"]\n', encoding="utf-8")
    for folder, suffix in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        (root / f"data/höfe/{folder}/train00.{suffix}").rename(root / f"data/höfe/{folder}/Äpfel 🍎.{suffix}")
    listed = root / "data/höfe/splits/train.txt"
    listed.write_text(listed.read_text(encoding="utf-8").replace("train00", "Äpfel 🍎"), encoding="utf-8")
    (root / "settings.ini").touch()
    with open(root / "log.txt", "wb") as log:
        done = subprocess.run([sys.executable, "-m", "wilson", "train", "--dataset", "höfe", "--task", TASK, *TINY], cwd=root,
                              env=environment(**NO_UTF8), stdout=log, stderr=log, timeout=120)
    assert done.returncode == 0, (root / "log.txt").read_bytes()
    return root


def test_training_without_utf8(trained):
    "The table is whole, the log has neither bars nor control characters, and folders are named as everywhere."
    said = (trained / "log.txt").read_bytes()
    assert b"K\\xfche, \\u725b" in said and b"step  scored" in said and b"  -  " in said, said
    assert not [c for c in said if c >= 128 or c < 32 and c != 10], said
    assert StepFolder(trained / STEP).state == "finished"
    assert "Kühe, 牛" in (trained / STEP / "log.txt").read_text(encoding="utf-8")


def test_the_run_under_another_encoding(trained, monkeypatch):
    "What was trained there is listed, scored and compared here, in any encoding."
    monkeypatch.chdir(trained)
    for encoding, name in (("utf-8", "Kühe+牛"), ("ascii", "K\\xfche+\\u725b"), ("latin-1", "Kühe+\\u725b")):
        code, text = through(encoding, "runs")
        assert code == 0 and re.search(rf"{re.escape(name)}/base-s42/step0 +finished", text), text
    for command in (["evaluate", STEP, "--device", "cpu"], ["verify", "höfe", "--task", TASK], ["compare", "--table", "classes"]):
        code, text = through("ascii", *command)
        assert code == 0 and text, command
    code, text = through("ascii", "predict", STEP, "data/höfe/JPEGImages/Äpfel 🍎.jpg", "--device", "cpu")
    assert code == 0 and "\\xc4pfel \\U0001f34e.png" in text


def test_a_sweeps_log_without_utf8(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(trained)
    for name, value in NO_UTF8.items():
        monkeypatch.setenv(name, value)
    running = start_job(Job("x", {"dataset": "höfe", "task": "Kühe,Ziegen", "device": "cpu"}), tmp_path / "log.txt", 1)
    assert running.process.wait(60) == 2
    assert "no class 'Ziegen'" in running.outcome().reason and "höfe" in running.outcome().reason


def test_a_pipe_that_closes_early_and_a_closed_output(trained):
    command = f"{sys.executable} -m wilson"
    script = f"""set -o pipefail
    {command} --help | true; echo "pipe $?"
    {command} --help >&-; echo "closed $?"
    {command} --help >/dev/full; echo "full $?" """
    done = subprocess.run(["bash", "-c", script], cwd=trained, env=environment(), capture_output=True, encoding="utf-8", timeout=120)
    assert done.stdout == "pipe 0\nclosed 0\nfull 0\n", done
    assert done.stderr.count("\n") == 1 and "No space left on device" in done.stderr, done.stderr


# ------------------------------------------------------------------- names that are not UTF-8


@pytest.fixture
def bytes_name(tmp_path) -> str:
    "The name of a folder that is not UTF-8."
    name = os.fsdecode(b"h\xf6fe")
    try:
        (tmp_path / name).mkdir()
    except OSError:
        need(False, "needs a file system whose names are bytes")
    return name


def test_file_names_that_are_not_utf8(tmp_path, bytes_name, monkeypatch):
    "A folder of any name is read from; a list could not name such an image, so it is named here; runs go elsewhere."
    monkeypatch.chdir(tmp_path)
    (tmp_path / "settings.ini").touch()
    make_farm(tmp_path / "made")
    source = tmp_path / bytes_name
    shutil.copytree(tmp_path / "made/JPEGImages", source / "images")
    shutil.copytree(tmp_path / "made/SegmentationClass", source / "masks")
    shutil.copy(tmp_path / "made/dataset.toml", source)
    code, text = through("utf-8", "prepare", "farm", "--from", str(source))
    assert code == 0 and "h\\udcf6fe/images" in text
    code, text = through("utf-8", "slurm", "--dataset", "farm", "--data-root", str(source), "--task", "2-1", "--out", "job.sh")
    assert code == 0 and b"h\xf6fe" in (tmp_path / "job.sh").read_bytes()
    for name, reason in (("runs_dir", "is not UTF-8"), ("name", "expected the name of one folder: letters")):
        with pytest.raises(InputError, match=reason):
            parse_config({name: bytes_name})
    (source / "images/train03.jpg").rename(source / "images" / os.fsdecode(b"k\xfche.jpg"))
    with pytest.raises(InputError, match=r"name is not UTF-8, 'k\\udcfche.jpg'; rename it"):
        files_by_id(source / "images")
    StepFolder(tmp_path).write("config.json", {"root": bytes_name})
    assert StepFolder(tmp_path).read("config.json") == {"root": bytes_name}
    assert "h\\udcf6fe".encode() in bytes_name.encode("utf-8", ESCAPES)


def test_a_record_in_another_encoding_is_not_called_foreign(tmp_path):
    (tmp_path / "config.json").write_bytes('{"classes": "Kühe"}'.encode("latin-1"))
    with pytest.raises(InputError, match="not in UTF-8.*iconv"):
        StepFolder(tmp_path).read("config.json")


def test_safe_output_gives_the_streams_back():
    before = sys.stdout, sys.stderr
    with safe_output():
        assert sys.stdout is not before[0]
    assert (sys.stdout, sys.stderr) == before
