"""Code of the user: kept with a run, part of what tells runs apart, and run only where it is trusted."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import QUICK

import wilson
from wilson.cli.command import main
from wilson.core.errors import InputError
from wilson.methods.wilson import Wilson
from wilson.run import user_code
from wilson.run.opened import open_step

IDEA = """from pathlib import Path

from helpers import share
from wilson.core.params import param
from wilson.methods.wilson import Wilson
from wilson.pseudo.targets import Soften, TargetRule

with open(Path(__file__).anchor + {mark!r}, "a") as f:
    f.write("run\\n")


class Sharper(Soften):
    power: float = param(2.0, "exponent of the soft label", min=1, max=4, step=0.5)

    def compute(self, masked):
        return share * super().compute(masked) ** self.power


class Mine(Wilson):
    name, target_rule = "mine", TargetRule().replace(soft=Sharper())
"""


@pytest.fixture(scope="module")
def trained(small_root, tmp_path_factory) -> tuple[Path, Path]:
    "A root with a run of a method from a file outside of it, and the folder of the file."
    folder, root = tmp_path_factory.mktemp("ideas"), tmp_path_factory.mktemp("trained") / "root"
    (folder / "ideas.py").write_text(IDEA.format(mark=str(folder / "mark").lstrip("/")), encoding="utf-8")
    (folder / "helpers.py").write_text("share = 1.0\n", encoding="utf-8")
    shutil.copytree(small_root, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert main(["train", *QUICK, "--method", f"{folder}/ideas.py:Mine", "--power", "3"]) == 0
    return root, folder


@pytest.fixture
def stranger(trained, tmp_path, monkeypatch) -> tuple[Path, Path]:
    "The run in another folder, on a machine of somebody who has never seen its code: step and mark of what was run."
    root, folder = trained
    copy = tmp_path / "root"
    shutil.copytree(root, copy)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(user_code, "_allowed", set())
    monkeypatch.setattr(user_code, "_loaded", {})
    (folder / "mark").write_text("", encoding="utf-8")
    return next((copy / "runs").glob("*/mine-s42/step1")), folder / "mark"


def test_what_a_run_keeps(trained):
    step = next((trained[0] / "runs").glob("*/mine-s42/step1"))
    record = json.loads((step / "config.json").read_text(encoding="utf-8"))
    (reference, code), = record["code"].items()
    assert reference.endswith("ideas.py:Mine") and record["identity"]["code"] == f"{reference}={code[:12]}"
    assert sorted(p.name for p in step.glob(f"code/{code[:12]}/*")) == ["helpers.py", "ideas.py"]
    assert record["parameters"]["power"] == 3.0 and record["method_facts"]["name"] == "mine"


def test_nothing_is_run_unasked(stranger, capsys):
    step, mark = stranger
    image = next((step.parents[3] / "data/few/JPEGImages").glob("val_*"))
    assert main(["runs"]) == 0 and main(["compare"]) == 0
    assert main(["predict", str(step), str(image), "--out", "out"]) == 0
    assert main(["evaluate", str(step), "--device", "cpu"]) == 0
    assert "execute helpers.py, ideas.py there" in capsys.readouterr().out
    assert main(["pseudo-labels", str(step), "--out", "maps", "--device", "cpu"]) == 2
    assert wilson.load_run(step).predict(image).shape == (96, 96)
    with pytest.raises(InputError, match="trust_code=True"):
        wilson.load_run(step).maps()
    assert mark.read_text(encoding="utf-8") == ""
    assert "target" in wilson.load_run(step, trust_code=True).maps(power=2.0).names
    assert mark.read_text(encoding="utf-8") == "run\n"


def test_naming_the_file_is_trust(stranger, trained):
    step, mark = stranger
    assert "target" in wilson.load_run(step, method=f"{trained[1]}/ideas.py:Mine").maps().names
    other = step.parents[3] / "other.py"
    other.write_text("class Mine:\n    pass\n", encoding="utf-8")
    with pytest.raises(InputError, match="trained with other code"):
        wilson.load_run(step, method=f"{other}:Mine")


def test_changed_copies_are_refused(stranger):
    step, mark = stranger
    folder = next(step.glob("code/*"))
    user_code.trust_run(step)
    (folder / "os.py").write_text("", encoding="utf-8")  # a module that the code would find first
    with pytest.raises(InputError, match="changed, added or removed"):
        open_step(step).rule
    (folder / "os.py").unlink()
    (folder / "ideas.py").write_text((folder / "ideas.py").read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with pytest.raises(InputError, match="changed, added or removed"):
        open_step(step).rule
    record = json.loads((step / "config.json").read_text(encoding="utf-8"))
    record["code"] = dict.fromkeys(record["code"], user_code.read_files(folder / "ideas.py", "code").hash)  # the hash too
    (step / "config.json").write_text(json.dumps(record), encoding="utf-8")
    folder.rename(folder.with_name(next(iter(record["code"].values()))[:12]))
    with pytest.raises(InputError, match="would execute"):
        open_step(step).rule
    assert mark.read_text(encoding="utf-8") == ""


def test_no_way_out_of_the_code_folder(stranger):
    "Links, and a hash that is a path, name nothing that would be run unasked."
    step, mark = stranger
    folder, evil = next(step.glob("code/*")), step.parent / "evil"
    shutil.copytree(folder, evil)
    record = json.loads((step / "config.json").read_text(encoding="utf-8"))
    record["code"] = dict.fromkeys(record["code"], "../../evil")
    config = (step / "config.json").read_text(encoding="utf-8")
    (step / "config.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(InputError, match="is missing"):
        open_step(step).rule
    (step / "config.json").write_text(config, encoding="utf-8")
    (folder / "ideas.py").unlink()
    (folder / "ideas.py").symlink_to(evil / "ideas.py")
    with pytest.raises(InputError, match="would execute"):
        open_step(step).rule
    shutil.rmtree(folder)
    folder.symlink_to(evil)
    with pytest.raises(InputError, match="would execute"):
        open_step(step).rule
    assert mark.read_text(encoding="utf-8") == ""


def test_copies_are_for_the_processes_of_one_training(trained, tmp_path):
    "A later training of the same process reads the file as it is then."
    file = tmp_path / "ideas.py"
    file.write_text("a = 1\n", encoding="utf-8")
    with user_code.code_copies([f"{file}:Mine"], tmp_path / "logs"):
        copy = user_code.file_to_load(file)
        assert copy != file and copy.read_text(encoding="utf-8") == "a = 1\n"
    assert user_code.file_to_load(file) == file


def test_edited_code_is_another_run(stranger, trained, capsys):
    "The identity holds the code; the run in the folder stays as it is."
    root, folder = trained
    copy = stranger[0].parents[3] / "ideas.py"
    copy.write_text((folder / "ideas.py").read_text(encoding="utf-8").replace("share *", "1 *"), encoding="utf-8")
    (copy.parent / "helpers.py").write_text("share = 1.0\n", encoding="utf-8")
    assert main(["train", *QUICK, "--method", "ideas.py:Mine", "--power", "3"]) == 2
    assert "step of another configuration: code is" in capsys.readouterr().err


class Calm(Wilson):
    "A class of a cell."
    name = "calm"


def test_class_of_a_cell(stranger, capsys):
    step, mark = stranger
    quick = {n.removeprefix("--").replace("-", "_"): v for n, v in zip(QUICK[::2], QUICK[1::2])}
    run = wilson.train(**quick, method=Calm)
    assert run.name.endswith("/calm-s42/step1") and "target" in run.maps().names
    assert "target" in wilson.load_run(run.path, method=Calm).maps().names
    with pytest.raises(InputError, match="Put it into a file"):
        wilson.train(**quick, method=Calm, nproc=2, name="pair")
