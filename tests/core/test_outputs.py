"""What is written where: files of others stay, folders that were named as sources stay, and nothing of others is run or shown as code."""
from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import http.server
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import tracemalloc
import zipfile
from dataclasses import replace
from functools import partial
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import QUICK, REPO, environment
from matplotlib.figure import Figure
from nbconvert.exporters import HTMLExporter
from scenes import STEP, made_up

from wilson.analysis.comparison import write_figures, write_tables
from wilson.analysis.image_report import ReportImage, write_image_report
from wilson.analysis.tables import Column, Table, to_csv, to_html, to_latex, to_markdown
from wilson.cli.command import main
from wilson.core.errors import InputError
from wilson.core.output_files import RECORD, OutputFolder, data_set_around, output_file
from wilson.core.paths import one_line
from wilson.data.classes import SHAPES
from wilson.formats.dataset_file import read_dataset_file
from wilson.datasets.download import Archive, download
from wilson.datasets.prepare import prepare_dataset
from wilson.datasets.shapes import make_shapes
from wilson.datasets.unpack import unpack
from wilson.datasets.voc import VOC_TRAINVAL
from wilson.engine.launch import launch
from wilson.experiments.plan import plan_text
from wilson.experiments.slurm import array_commands, render_script, write_script, write_sweep
from wilson.experiments.slurm_resources import Resources
from wilson.experiments.plan import Job, plan
from wilson.experiments.sweep import RunningJob, run_sweep
from wilson.run.config import parse_config

LATER = "runs/shapes-striped_disc__dotted_square-overlap/wilson-s42/step1"


def snapshot(*folders: Path) -> dict[str, tuple]:
    "Every file, folder and link below, with content and time of change."
    found = {}
    for path in sorted(p for folder in folders for p in folder.rglob("*")):
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        found[str(path)] = content, path.lstat().st_mtime_ns
    return found


def refused(capsys, *arguments) -> str:
    "The sentence with which the command refuses."
    assert main([*map(str, arguments)]) == 2
    return capsys.readouterr().err


# ---------------------------------------------------------------------------------- files of others


@pytest.fixture
def project(tiny_run, tmp_path, monkeypatch) -> Path:
    "A root with a base and a weak step, and the working directory."
    shutil.copytree(tiny_run, tmp_path / "root")
    monkeypatch.chdir(tmp_path / "root")
    return tmp_path / "root"


def test_predict_leaves_files_of_others(project, tmp_path, capsys):
    "Masks of the same names, in a folder of any name; the same command again may replace its own, until one is edited."
    images = sorted((project / "data/few/JPEGImages").glob("val_*.jpg"))[:2]
    theirs = tmp_path / "anywhere"
    theirs.mkdir()
    (theirs / f"{images[1].stem}.png").write_bytes(b"drawn by hand")
    before = snapshot(tmp_path)
    said = refused(capsys, "predict", LATER, *images, "--out", theirs)
    assert f"{images[1].stem}.png exists already" in said and "--overwrite" in said and snapshot(tmp_path) == before

    own = ("predict", LATER, *images, "--out", tmp_path / "own")
    for _ in range(2):
        assert main([*map(str, own)]) == 0
    assert {p.name for p in (tmp_path / "own").iterdir()} == {
        RECORD, *(f"{i.stem}{end}.png" for i in images for end in ("", "-overlay"))}
    edited = tmp_path / f"own/{images[0].stem}.png"
    edited.write_bytes(edited.read_bytes() + b"edited")
    before = snapshot(tmp_path)
    assert "changed since" in refused(capsys, *own) and snapshot(tmp_path) == before
    assert main([*map(str, own), "--overwrite"]) == 0 and not edited.read_bytes().endswith(b"edited")
    linked = tmp_path / f"own/{images[1].stem}.png"
    linked.rename(tmp_path / "kept.png")
    linked.symlink_to(tmp_path / "kept.png")
    kept = (tmp_path / "kept.png").read_bytes()
    refused(capsys, *own)
    assert main([*map(str, own), "--overwrite"]) == 0 and not linked.is_symlink() and (tmp_path / "kept.png").read_bytes() == kept


def test_data_sets_are_not_written_to(project, tmp_path, capsys):
    "Named straight, through a link, or where the data set is a link to it; of labels as of predictions."
    few, elsewhere = project / "data/few", tmp_path / "elsewhere/labels"
    elsewhere.parent.mkdir()
    (few / "SegmentationClass").rename(elsewhere)
    (few / "SegmentationClass").symlink_to(elsewhere)
    (tmp_path / "shortcut").symlink_to(few / "JPEGImages")
    strange = tmp_path / "strange.jpg"  # a name that no mask has
    shutil.copy(next((few / "JPEGImages").glob("*.jpg")), strange)
    before = snapshot(few, elsewhere)
    for out in (few, few / "SegmentationClass", few / "new", few / "JPEGImages/new", elsewhere, tmp_path / "shortcut/new"):
        for command in (("predict", LATER, strange), ("pseudo-labels", LATER)):
            said = refused(capsys, *command, "--out", out)
            assert f"{out} lies in the data set {Path(os.path.realpath(few))}" in said.replace(str(few), os.path.realpath(few)), said
    assert snapshot(few, elsewhere) == before
    assert main(["pseudo-labels", LATER, "--out", str(few / "new"), "--overwrite"]) == 0 and any((few / "new").glob("*.png"))
    assert main(["pseudo-labels", LATER, "--out", "runs/label_maps"]) == main(["pseudo-labels", LATER, "--out", "runs/label_maps"]) == 0
    one = min(Path("runs/label_maps").glob("*.png"))
    one.write_bytes(b"mine")
    before = snapshot(Path("runs/label_maps"))
    assert f"{one.name} exists already" in refused(capsys, "pseudo-labels", LATER, "--out", "runs/label_maps")
    assert snapshot(Path("runs/label_maps")) == before


def test_tables_figures_and_reports_leave_files_of_others(project, capsys):
    "`compare --out` writes nothing where one of its figures is not its own; `verify --report`, tables and figures again and again."
    Path("shown").mkdir()
    Path("shown/scores.pdf").write_text("mine", encoding="utf-8")
    before = snapshot(project)
    said = refused(capsys, "compare", "--out", "shown")
    assert "scores.pdf exists already" in said and "--overwrite" in said and snapshot(project) == before

    verify = ["verify", "shapes", "--data-root", "data/few", "--report", "found.txt"]
    table, figure = Table("two", (Column("all"),), {"wilson": [[1.0]]}), Figure((1, 1))
    page = [ReportImage(made_up(5, [1, 17]))]
    writes = {"found.txt": lambda **how: main([*verify, *["--overwrite"] * bool(how)]), "t.csv": partial(write_tables, {"t": table}, "."),
              "f.pdf": partial(write_figures, {"f": figure}, "."), "r.html": partial(write_image_report, "r.html", "R", {}, page, STEP)}
    for file, write in writes.items():
        write()
        write()
        Path(file).write_text("mine", encoding="utf-8")
        if file == "found.txt":
            assert "found.txt exists already" in refused(capsys, *verify)
        else:
            with pytest.raises(InputError, match=f"{file} exists already"):
                write()
        assert Path(file).read_text(encoding="utf-8") == "mine"
        write(overwrite=True)
        assert Path(file).read_bytes() != b"mine"


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    "The old file stays whole and ours; a record that is a link is not followed; a folder stays a folder."
    file = tmp_path / "a.txt"
    with output_file(file) as aside:
        aside.write_text("one", encoding="utf-8")
    with pytest.raises(ZeroDivisionError), output_file(file) as aside:
        aside.write_text("tw", encoding="utf-8")
        raise ZeroDivisionError
    assert file.read_text(encoding="utf-8") == "one" and {p.name for p in tmp_path.iterdir()} == {"a.txt", RECORD}
    with pytest.raises(InputError, match="exists already"), output_file(tmp_path / "late.txt") as aside:
        (tmp_path / "late.txt").write_text("theirs, a moment before", encoding="utf-8")
    assert (tmp_path / "late.txt").read_text(encoding="utf-8").startswith("theirs")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(InputError, match="is a folder"), output_file(tmp_path / "folder.txt", overwrite=True):
        pass
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / RECORD).symlink_to(tmp_path / "victim")
    with pytest.raises(InputError, match="is a link"), output_file(tmp_path / "other/new.txt"):
        pass
    assert not (tmp_path / "victim").exists()


def test_folders_that_only_look_like_data_sets(tmp_path, monkeypatch):
    "A project at the data set's own root writes to its runs; a home with images and masks is no data set as a whole."
    (tmp_path / "settings.ini").write_text("[DEFAULT]\nlib_name = wilson\n", encoding="utf-8")
    for name in ("JPEGImages", "images", "masks", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert data_set_around("runs/predictions") is None and data_set_around("masks/new") == tmp_path
    (tmp_path / "JPEGImages").rmdir()
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "settings.ini").unlink()
    assert data_set_around(tmp_path / "work/out") is None and data_set_around(tmp_path / "images") == tmp_path
    OutputFolder(tmp_path / "work").check(["a.png"], [tmp_path / "gone"])


# ----------------------------------------------------------------------------------- what is started


PLANTED = "import pathlib; pathlib.Path({!r}).touch()\nraise SystemExit({})\n"


def plant(folder: Path, code: int = 0) -> Path:
    "Modules that a Python which looks into this folder first would run; they make the file that is returned."
    mark = folder / "PLANTED"
    (folder / "wilson").mkdir()
    for name in ("wilson/__init__", "wilson/__main__", "torch", "json", "socket", "pickle", "runpy", "this"):
        (folder / f"{name}.py").write_text(PLANTED.format(str(mark), code), encoding="utf-8")
    return mark


@pytest.fixture
def lab():
    "What `make lab` and `make studio` are made of."
    from wilson.workbench import servers
    return servers


def test_logs_of_servers_are_private(lab, tmp_path, monkeypatch):
    "New, also where a log of other modes was there and somebody reads it; and no module of the working directory is run."
    monkeypatch.chdir(tmp_path)
    mark = plant(tmp_path)
    lab.LOGS.mkdir(parents=True)
    lab.LOGS.chmod(0o755)
    (lab.LOGS / "jupyterlab.log").touch(0o644)
    before = os.umask(0)
    try:
        with open(lab.LOGS / "jupyterlab.log", encoding="utf-8") as spy:
            for name in ("jupyterlab", "voila", "tensorboard"):
                assert lab.start_server(name, "this").wait(60) == 0
                assert (lab.LOGS / f"{name}.log").stat().st_mode & 0o777 == 0o600 and "Zen" in (lab.LOGS / f"{name}.log").read_text(encoding="utf-8")
            assert spy.read() == ""
    finally:
        os.umask(before)
    assert lab.LOGS.stat().st_mode & 0o777 == 0o700 and not mark.exists()


def test_a_sweep_runs_nothing_of_the_folders_around(small_root, tmp_path, monkeypatch):
    "Its root and its working directory hold a wilson, a torch and a json of somebody else; PYTHONPATH has an empty entry."
    mine = tmp_path / "me"
    shutil.copytree(small_root / "data", mine / "data")
    marks = [plant(tmp_path), plant(mine)]
    shutil.copy(small_root / "settings.ini", tmp_path)
    monkeypatch.chdir(mine)
    monkeypatch.setenv("PYTHONPATH", f"{os.pathsep}{REPO}")
    member = dict(zip((n[2:].replace("-", "_") for n in QUICK[::2]), QUICK[1::2])) | {"method": "joint", "data_root": str(mine / "data/few")}
    del member["pseudo_epoch"]
    outcome, = run_sweep([member])
    assert outcome.state == "finished", outcome
    assert not any(mark.exists() for mark in marks)


def test_ranks_run_nothing_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mark = plant(tmp_path, code=3)
    assert launch(repr, (), 1, tmp_path / "logs", "cpu").startswith("<wilson.engine.signals.Stop")
    assert not mark.exists() and "PYTHONSAFEPATH" not in os.environ


def test_a_job_is_finished_by_its_folders(project):
    "Not by an exit code: nothing there, another configuration, no result, and all there."
    member = dict(zip((n[2:].replace("-", "_") for n in QUICK[::2]), QUICK[1::2]))
    Path("log").write_text("$ wilson\n", encoding="utf-8")

    def outcome(job, *command):
        process = subprocess.Popen(command)
        process.wait()
        return RunningJob(job, process, Path("log")).outcome()

    base, job = plan([member])
    assert outcome(base, "true").state == outcome(job, "true").state == "finished" and outcome(job, "false").state == "failed"
    other = plan([member | {"seed": 7}])[-1]
    assert "its state is not recorded" in outcome(other, "true").reason
    other = plan([member | {"epochs": 2}])[-1]
    assert "another configuration" in outcome(other, "true").reason and outcome(other, "true").state == "failed"
    status = job.folders[-1] / "status.json"
    status.write_text(status.read_text(encoding="utf-8").replace('"finished"', '"running"'), encoding="utf-8")
    assert "its state is running" in outcome(job, "true").reason


def stub(folder: Path, **programs: str) -> dict[str, str]:
    "Programs of a cluster as bash scripts, and the variables with which they are found first."
    folder.mkdir()
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
        (folder / name).chmod(0o755)
    return environment(PATH=f"{folder}{os.pathsep}{os.environ['PATH']}", SLURM_JOB_ID="1", SLURM_ARRAY_TASK_ID="0")


def test_a_slurm_job_is_finished_by_its_folders(project, tmp_path):
    "A step that ends well without having trained fails the job; and the script's own Python takes nothing from where it starts."
    member = dict(zip((n[2:].replace("-", "_") for n in QUICK[::2]), QUICK[1::2]))
    path = write_script(member, "job.sh")
    variables = stub(tmp_path / "bin", srun="true", squeue="echo RUNNING", sleep="true")
    run = partial(subprocess.run, ["bash", str(path)], env=variables, capture_output=True, encoding="utf-8", timeout=60)
    assert run().returncode == 0
    status = Path(LATER, "status.json")
    status.write_text(status.read_text(encoding="utf-8").replace('"finished"', '"failed"'), encoding="utf-8")
    done = run()
    assert done.returncode == 1 and f"this step is not finished: {project / LATER}" in done.stderr
    text = path.read_text(encoding="utf-8")
    assert f"{sys.executable} -P -m wilson" in text and "export PYTHONSAFEPATH=1" in text
    assert "--no-python" in write_script(member, "two.sh", Resources(nodes=2)).read_text(encoding="utf-8")


# ------------------------------------------------------------------------------ names in scripts


SHARP = ["\n", "\x1b[31m", "'", '"', "`touch X`", "$(touch X)", "\\", "#", ";", "&", "|", " ", "\t", "*", "~", "!", "${HOME}", "é", "\r", ")", "<", ">", "root"]


def hostile(count: int) -> list[str]:
    lots = random.Random(5)
    return ["".join(lots.choices([*SHARP, "a", "touch X"], k=lots.randint(1, 9))) for _ in range(count)]


def test_hostile_values_arrive_in_bash_as_they_are(tmp_path):
    "Three hundred values as parameters, folders and bases of a job array, in one bash; nothing in them is run."
    jobs = [Job(f"task/{v}", {"task": v, "data_root": v[::-1]}, (Path(f"/{v}"),), base="base") for v in hostile(300)]
    bases = {"base": Job("base", {}, (Path("/runs\n/it's"),))}
    values = {"array": "0-299", "commands": array_commands(jobs, bases)}
    chosen = render_script("commands.sh", values).partition("\nesac\n")[0] + "\nesac"
    text = f"for SLURM_ARRAY_TASK_ID in {{0..299}}; do\n{chosen}\nprintf '%s\\0' \"${{train[@]}}\" \"${{folders[@]}}\" \"$base\"\ndone\n"
    done = subprocess.run(["bash"], input=text.encode(), cwd=tmp_path, capture_output=True, timeout=60)
    expected = [part for job in jobs for part in (*job.command, str(job.folders[0]), "/runs\n/it's")]
    assert done.stdout.decode().split("\0")[:-1] == expected and not done.stderr and not any(tmp_path.iterdir())


def test_names_that_are_no_names_are_refused(tmp_path, monkeypatch):
    "Of runs and bases, of a sweep and of the script, before anything is written; so are control characters in what Slurm reads."
    monkeypatch.chdir(tmp_path)
    (tmp_path / "settings.ini").write_text("[DEFAULT]\nlib_name = wilson\n", encoding="utf-8")
    bad = [v for v in hostile(200) if not v.isalpha()] + ["..", "-rf", ".hidden", "=1+1", "a/b", ""]
    for value in bad:
        for call in (lambda: parse_config({"name": value}), lambda: parse_config({"base_name": value}), lambda: run_sweep([{}], name=value)):
            with pytest.raises(InputError, match="letters, digits"):
                call()
    for value in [v for v in bad if "/" not in v and v not in ("", "..")]:
        with pytest.raises(InputError, match="letters, digits"):
            write_script({"dataset": "shapes"}, f"jobs/{value}")
        with pytest.raises(InputError, match="letters, digits"):
            write_sweep([{"dataset": "shapes"}], f"jobs/{value}")
    for option in ("partition", "account", "setup", "sbatch"):
        value = "a\n#SBATCH --wrap=x"
        with pytest.raises(InputError, match="line break"):
            Resources(**{option: (value,) if option in ("setup", "sbatch") else value})
    with pytest.raises(InputError, match="line break"):
        write_script({"dataset": "shapes", "runs_dir": "runs\ntouch X"}, "job.sh")
    assert {p.name for p in tmp_path.iterdir()} == {"settings.ini"}
    for good in ("mib-s1", "a=0.5+b", "Kühe_2", "7"):
        assert parse_config({"name": good}).name == good


def test_scripts_are_as_private_as_the_umask_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = os.umask(0o077)
    try:
        path = write_script({"dataset": "shapes"}, "job.sh")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o077 == 0 and os.access(path, os.X_OK)


# ------------------------------------------------------------------------------ sources are only read


def test_an_archive_is_not_unpacked_through_links(tmp_path, capsys):
    "The topmost folder is a link, or one below: what is behind it stays as it was, and is named."
    source, root = tmp_path / "source", tmp_path / "root"
    (source / "JPEGImages").mkdir(parents=True)
    (source / "JPEGImages/a.jpg").write_bytes(b"theirs")
    (root / "ImageSets").mkdir(parents=True)
    (root / "JPEGImages").symlink_to(source / "JPEGImages")
    (root / "ImageSets/Main").symlink_to(source)
    with tarfile.open(tmp_path / "voc.tar", "w") as tar:
        for name in ("JPEGImages/a.jpg", "JPEGImages/b.jpg", "ImageSets/Main/c.txt", "ImageSets/d.txt", "SegmentationClass/b.png"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
    before = snapshot(source)
    unpack(tmp_path / "voc.tar", root, lambda m: m)
    assert snapshot(source) == before
    assert (root / "ImageSets/d.txt").is_file() and (root / "SegmentationClass/b.png").is_file()
    said = capsys.readouterr().out
    assert f"{root / 'JPEGImages'} is a link to" in said and "1 file is left out" in said and "ImageSets/Main" in said


def test_prepare_only_reads_its_source(tmp_path, monkeypatch):
    "VOC with half of its images and the archive beside them, COCO, own data: before and after, to the file's time of change."
    monkeypatch.chdir(tmp_path)
    (tmp_path / "settings.ini").write_text("[DEFAULT]\nlib_name = wilson\n", encoding="utf-8")
    make_shapes(tmp_path / "made", n_train=8, n_val=4)
    made = tmp_path / "made"
    ids = sorted(p.stem for p in (made / "JPEGImages").iterdir())

    voc = tmp_path / "sources/voc"
    (voc / "VOC2012/JPEGImages").mkdir(parents=True)
    shutil.copytree(made / "SegmentationClass", voc / "VOC2012/SegmentationClassAug")
    shutil.copy(made / f"JPEGImages/{ids[0]}.jpg", voc / "VOC2012/JPEGImages")
    with tarfile.open(voc / VOC_TRAINVAL.name, "w") as tar:
        for folder in ("JPEGImages", "SegmentationClass"):
            tar.add(made / folder, f"VOCdevkit/VOC2012/{folder}")
        for name in ("train", "val"):
            tar.add(next(made.rglob(f"{name}.txt")), f"VOCdevkit/VOC2012/ImageSets/Segmentation/{name}.txt")
    content = (voc / VOC_TRAINVAL.name).read_bytes()
    archive = replace(VOC_TRAINVAL, size=len(content), digest=f"sha256:{hashlib.sha256(content).hexdigest()}")
    monkeypatch.setattr("wilson.datasets.voc.VOC_TRAINVAL", archive)

    own = tmp_path / "sources/own"
    shutil.copytree(made / "JPEGImages", own / "images")
    shutil.copytree(made / "SegmentationClass", own / "masks")
    (own / "dataset.toml").write_text(f"classes = {json.dumps([*SHAPES.names])}\n", encoding="utf-8")

    coco = tmp_path / "sources/coco"
    for name in ("train2017", "val2017"):
        shutil.copytree(made / "JPEGImages", coco / "images" / name)
        images = [{"id": n, "file_name": f"{i}.jpg", "width": 96, "height": 96} for n, i in enumerate(ids)]
        (coco / "annotations").mkdir(exist_ok=True)
        (coco / f"annotations/instances_{name}.json").write_text(json.dumps(
            {"images": images, "categories": [{"id": 1, "name": "person"}], "annotations": [
                {"id": n, "image_id": n, "category_id": 1, "iscrowd": 0, "bbox": [0, 0, 9, 9], "area": 81,
                 "segmentation": [[0, 0, 9, 0, 9, 9, 0, 9]]} for n in range(len(ids))]}), encoding="utf-8")

    sources = tmp_path / "sources"
    before = snapshot(sources)
    for path in [sources, *sources.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    for kind, source in (("voc", voc), ("own", own), ("coco", coco)):
        try:
            prepare_dataset(kind, source, f"data/{kind}", say=lambda line: None)
        except InputError as e:  # of VOC, whose images stay as incomplete as they are
            assert kind == "voc" and "b.jpg" not in str(e), e
        assert snapshot(sources) == before, kind
    assert not (tmp_path / "data/voc/JPEGImages" / f"{ids[1]}.jpg").exists()
    for data_root in (own, own / "prepared"):
        with pytest.raises(InputError, match="nothing is written there"):
            prepare_dataset("own", own, data_root)
    assert snapshot(sources) == before


# ------------------------------------------------------------------------------ names in tables and pages

SCRIPTS = ["<img src=x onerror=alert(1)>", "<script>alert(2)</script>", "a|b", "[x](javascript:alert(3))", "`code`", "x\ny", "\x1b[31mred", "$\\alpha$",
           "&lt;b&gt;", "*bold*", "\\", "=cmd|' /C calc'!A0", "<style onload=alert(4)>", "![p](http://evil.example/p.png)"]


def test_hostile_names_are_text_in_every_table(tmp_path):
    "As Markdown, LaTeX, CSV and HTML: no tag, no link, no line more, no formula of a spreadsheet."
    table = Table(SCRIPTS[0], tuple(Column(n) for n in SCRIPTS), {n: [[1.0]] * len(SCRIPTS) for n in SCRIPTS}, tuple(SCRIPTS))
    page = HTMLExporter(template_name="basic").markdown2html({}, to_markdown(table))
    for text in (page, to_html(table)):
        found = []
        reader = HTMLParser()
        reader.handle_starttag = lambda tag, attrs: found.append((tag, dict(attrs)))
        reader.feed(text)
        assert {t for t, _ in found} <= {"p", "strong", "b", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "caption"}, found
        assert not any(n.startswith("on") or n in ("src", "href") for _, attrs in found for n in attrs)
        assert text.count("<td") + text.count("<th") == (len(SCRIPTS) + 1) ** 2 + text.count("<thead")
    shown = unescape(re.sub(r"<[^>]*>", "", page))
    assert all(one_line(n) in shown for n in SCRIPTS)
    assert to_latex(table).count(r"\\" + "\n") == len(SCRIPTS) + 1 and "\x1b" not in to_latex(table)
    rows = list(csv.reader(io.StringIO(to_csv(table))))
    assert len(rows) == len(SCRIPTS) + 1 and not any(field.startswith(("=", "+", "@")) for row in rows for field in row)


def test_a_plan_and_a_list_show_names_as_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "<img" not in plan_text([{"dataset": "shapes", SCRIPTS[0]: 1}]) and "&lt;img" in plan_text([{"dataset": "shapes", SCRIPTS[0]: 1}])


@pytest.mark.parametrize("text", [*(f"classes = [{json.dumps(n)}]" for n in ("<b>", "a>b", "x\ny", "\x1b[31m", "\x7f")),
                                  *(f'classes = ["cow", "horse"]\n[tasks]\n{json.dumps(n)} = "cow | horse"' for n in
                                    ("../../x", "a\nb", "<b>", "a/../../b", ".."))])
def test_names_of_classes_and_tasks_are_plain(text, tmp_path):
    (tmp_path / "dataset.toml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="dataset.toml"):
        read_dataset_file(tmp_path / "dataset.toml")


# ------------------------------------------------------------------------------ archives and downloads


def packed(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as z:
        for name, content in members.items():
            z.writestr(name, content)
    return path


def test_archives_that_are_none_or_too_much(tmp_path, monkeypatch):
    "Zeros, nothing that is wanted, a header or a list as large as memory, sparse files, too many members, names with control characters."
    (tmp_path / "zeros.tar").write_bytes(bytes(20_480))
    packed(tmp_path / "other.zip", a=b"1")
    with gzip.open(tmp_path / "header.tar.gz", "wb") as f:
        member = tarfile.TarInfo("pax")
        member.type, member.size = tarfile.XHDTYPE, 64 << 20
        f.write(member.tobuf())
        f.write(bytes(64 << 20))
    member = tarfile.TarInfo("sparse")
    member.type = tarfile.GNUTYPE_SPARSE
    (tmp_path / "sparse.tar").write_bytes(member.tobuf() + bytes(10_240))
    tracemalloc.start()
    for name, words in {"zeros.tar": "none of the files that are expected", "other.zip": "none of the files that are expected",
                        "header.tar.gz": "a header of 67,108,864 bytes", "sparse.tar": "sparse file"}.items():
        with pytest.raises(InputError, match=words):
            unpack(tmp_path / name, tmp_path / "out", lambda m: m if m.suffix == ".png" else None)
    assert tracemalloc.get_traced_memory()[1] < 48 << 20
    tracemalloc.stop()
    for name in ("a\nb.png", "\x1b[2Ja.png", "a\x7f.png", "a\x85.png", "a\u2028.png"):
        with pytest.raises(InputError, match="control character"):
            unpack(packed(tmp_path / "names.zip", **{name: b""}), tmp_path / "out", lambda m: m)
    for limit, words in (("MOST_MEMBERS", "more than 1 members"), ("LARGEST_LIST", "list of members"), ("LARGEST_CONTENT", "its files would have")):
        with monkeypatch.context() as m, pytest.raises(InputError, match=words):
            m.setattr(f"wilson.core.archives.{limit}", 1)
            unpack(packed(tmp_path / "many.zip", a=b"11", b=b"22"), tmp_path / "out", lambda m: m)
    assert not (tmp_path / "out").exists()


def archive_at(content: bytes, url: str = "http://127.0.0.1:1/x.zip", **known) -> Archive:
    return Archive("x.zip", (url,), **known)


def test_a_file_that_is_no_such_archive_is_not_whole(tmp_path):
    "Of an archive without a digest: zeros, an empty one, one of other folders; larger than the disk has room."
    for content in (bytes(20_480), packed(tmp_path / "e.zip").read_bytes(), packed(tmp_path / "o.zip", **{"other/a.png": b"1"}).read_bytes()):
        (tmp_path / "x.zip").write_bytes(content)
        with pytest.raises(InputError, match="it holds no file"):
            download(archive_at(content, inside="Wanted"), tmp_path)
    packed(tmp_path / "x.zip", **{"top/Wanted/a.png": b"1"})
    assert download(archive_at(b"", inside="Wanted"), tmp_path) == tmp_path / "x.zip"
    usage = shutil.disk_usage(tmp_path)
    with pytest.MonkeyPatch.context() as m, pytest.raises(InputError, match="has 0 free"):
        m.setattr("wilson.core.archives.shutil.disk_usage", lambda p: usage._replace(free=0))
        download(archive_at(b"", inside="Wanted"), tmp_path)


def test_downloads_without_an_announced_size(tmp_path, monkeypatch, capsys):
    "They have a limit and leave room for others; the first file's digest is noted, and another one is refused."
    content = packed(tmp_path / "served.zip", a=random.Random(1).randbytes(900_000)).read_bytes()

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(self.server.content)

        def log_message(self, *_):
            pass

    monkeypatch.setattr("wilson.datasets.download._PAUSES", ())
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.content, folder = content, tmp_path / "archives"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    archive = archive_at(content, f"http://127.0.0.1:{server.server_port}/x.zip")
    try:
        with monkeypatch.context() as m, pytest.raises(InputError, match="whose size was not announced"):
            m.setattr("wilson.datasets.download.LARGEST", 500_000)
            download(archive, folder)
        usage = shutil.disk_usage(tmp_path)
        with monkeypatch.context() as m, pytest.raises(InputError, match="bytes free"):
            m.setattr("shutil.disk_usage", lambda p: usage._replace(free=1 << 20))
            download(archive, folder)
        path = download(archive, folder)
        assert "is noted in" in capsys.readouterr().err and (folder / "x.zip.sha256").read_text(encoding="utf-8").startswith(hashlib.sha256(content).hexdigest())
        path.unlink()
        server.content = packed(tmp_path / "changed.zip", a=b"another").read_bytes()
        with pytest.raises(InputError, match="that of the first download was"):
            download(archive, folder)
        path.write_bytes(server.content)
        with pytest.raises(InputError, match="is not the published file"):
            download(archive, folder)
    finally:
        server.shutdown()
        server.server_close()
