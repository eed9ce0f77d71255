"""A workbench without a clone: the distributions, `wilson new` from an installed wheel, and the user's card in it."""
from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from conftest import QUICK_PARAMETERS, REPO, environment

from wilson import testing
from wilson.cli.command import main
from wilson.workbench.new import workbench_sources


def run(*command: object, cwd: Path, **more: str) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment(**more), capture_output=True, text=True, encoding="utf-8", timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    "What `make dist` makes: the source distribution, and the wheel that is built from it."
    source, out = tmp_path_factory.mktemp("source") / "wilson", tmp_path_factory.mktemp("dist")
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=REPO, capture_output=True, text=True, encoding="utf-8", check=True)
    for name in filter(lambda n: (REPO / n).is_file(), listed.stdout.splitlines()):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / name, source / name)
    run(sys.executable, "-m", "build", "--no-isolation", "--skip-dependency-check", "-o", out, cwd=source, PYTHONPATH="")
    return out


@pytest.fixture(scope="module")
def installed(dist, tmp_path_factory) -> Path:
    "A folder with the wheel installed alone, without the index."
    target = tmp_path_factory.mktemp("installed") / "target"
    wheel, = dist.glob("wilson_wilss-*.whl")
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--disable-pip-version-check", "--target", target, wheel,
        cwd=dist, PYTHONPATH="")
    return target


def test_distributions(dist, installed):
    "Two files named wilson_wilss; the source contains what the wheel is built from, the wheel what a workbench starts with."
    wheel, = dist.glob("*.whl")
    archive, = dist.glob("*.tar.gz")
    assert wheel.name.startswith("wilson_wilss-") and archive.name.startswith("wilson_wilss-")
    with tarfile.open(archive) as tar:
        names = {n.partition("/")[2] for n in tar.getnames()}
    assert {"settings.ini", "setup.py", "README.md", "nbs/train.ipynb", "nbs/methods/05_wilson.ipynb", "wilson/workbench/templates/Makefile"} <= names
    files = installed / "wilson/workbench/files"
    assert {p.relative_to(files).as_posix() for p in files.rglob("*") if p.is_file()} == {*workbench_sources()}
    assert wheel.stat().st_size < 3_000_000
    metadata, = (p.read_text(encoding="utf-8") for p in installed.glob("wilson_wilss-*.dist-info/METADATA"))
    assert "Provides-Extra: export" in metadata and "\nName: wilson-wilss\n" in metadata
    pages = {p.relative_to(REPO).as_posix() for p in REPO.glob("nbs/**/*.ipynb") if ".ipynb_checkpoints" not in p.parts}
    assert len(pages) > 100 and not pages - names, "the source distribution lacks pages"


def test_the_notebooks_at_the_top_are_in_a_workbench():
    "Index and testing are for the project itself."
    assert {*(f"nbs/{p.name}" for p in REPO.glob("nbs/*.ipynb"))} - {*workbench_sources()} == {"nbs/index.ipynb", "nbs/testing.ipynb"}


def test_distributions_name_no_folder_of_this_machine(dist, tmp_path):
    "Neither the clone, nor the home, nor where they were built."
    for archive in (*dist.glob("*.whl"), *dist.glob("*.tar.gz")):
        shutil.unpack_archive(archive, tmp_path / archive.name, "zip" if archive.suffix == ".whl" else "gztar")
    folders = [str(place).encode() for place in (REPO, dist.parent, Path.home()) if len(place.parts) > 2]
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    wrong = [f"{file.relative_to(tmp_path)}: {folder.decode()}" for file in files for folder in folders if folder in file.read_bytes()]
    assert len(files) > 300 and not wrong


def test_the_users_card_runs_in_a_new_workbench(installed, tmp_path):
    "`wilson new`, then `papermill nbs/train.ipynb -p task …` as the front runs it; everything lands in the workbench."
    where = {"PYTHONPATH": str(installed), "HOME": str(tmp_path)}
    said = run(sys.executable, "-P", "-m", "wilson", "new", "bench", cwd=tmp_path, **where)
    bench = tmp_path / "bench"
    assert f"{bench} is a workbench. Now: cd bench; make setup; papermill nbs/train.ipynb -p task 15-5" in said
    assert {p.name for p in bench.iterdir()} == {"Makefile", "wilson.toml", "nbs", "data", "runs", "pretrained"}
    for name, source in workbench_sources().items():
        assert (bench / name).read_bytes() == source.read_bytes()
    testing.demo_data(bench / "data/few", n_train=160, n_val=16)
    given = [word for name, value in QUICK_PARAMETERS.items() for word in ("-p", name, value)]
    front = "import sys; from wilson.experiments.papermill import run_papermill; sys.exit(run_papermill())"
    run(sys.executable, "-P", "-c", front, "nbs/train.ipynb", *given, cwd=bench, **where)
    assert len([*(bench / "runs").glob("*/*/step*/weights.safetensors")]) == 2 and len([*(bench / "runs/notebooks").glob("train-*.ipynb")]) == 1
    assert "finished" in run(sys.executable, "-P", "-m", "wilson", "runs", cwd=bench / "nbs", **where)


def test_makefile_of_a_workbench(tmp_path, monkeypatch):
    "`make setup` puts the front beside PYTHON; the other targets call the commands."
    monkeypatch.chdir(tmp_path)
    assert main(["new", "bench"]) == 0
    python = tmp_path / "env dir/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    options = ("--no-print-directory", f"PYTHON={python}", "LAB_FLAGS=--port=9")  # make in a recipe of `make test` names the folder it enters
    lines = run("make", "-n", "setup", "demo", "lab", "studio", "bench", *options, cwd=tmp_path / "bench").splitlines()
    assert lines == [f'"{python}" -m wilson.workbench.papermill_front', *(f'"{python}" -m wilson {name}' for name in ("demo", "lab --port=9")),
                     f'"{python}" -m wilson studio ', f'"{python}" -m wilson bench']


def test_errors(tmp_path, monkeypatch, capsys):
    "A folder with contents is left alone; commands that need a workbench name the one that writes it."
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "there/file").touch()
    for arguments, message in ((["new", "there"], "is not empty; give the name of a new folder"), (["lab"], "contains no nbs/explore.ipynb"),
                               (["studio", "--port=9"], "wilson new FOLDER"), (["bench"], "there is no")):
        assert main(arguments) == 2 and message in capsys.readouterr().err
    assert main(["lab", "--help"]) == 0 and "flags of jupyter lab" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["there"] and os.listdir("there") == ["file"]


def test_demo_trains_the_demo_data(monkeypatch, capsys):
    "Both steps of 15-5 on the data that wilson draws."
    from wilson.experiments import train
    asked = []
    monkeypatch.setattr(train, "run_training", lambda config: asked.append((config.dataset, config.task, config.step)) or [])
    assert main(["demo"]) == 0 and asked == [("shapes", "15-5", "all")] and "`wilson lab` opens" in capsys.readouterr().out


def test_a_failure_leaves_no_half_of_a_workbench(tmp_path, monkeypatch, capsys):
    "The same command works afterwards; what was no part of it stays."
    monkeypatch.chdir(tmp_path)
    write, count = Path.write_bytes, iter(range(100))

    def full(self, content):
        if next(count) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, content)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        assert main(["new", "bench"]) == 2 and "Make room there" in capsys.readouterr().err
    assert not (tmp_path / "bench").exists()
    assert main(["new", "bench"]) == 0 and (tmp_path / "bench/nbs/train.ipynb").is_file()
    (tmp_path / "file").touch()
    assert main(["new", "file/bench"]) == 2 and "file/bench cannot be written" in capsys.readouterr().err
