"""Every process of a training loads the copy of the user's code that the run holds: ranks of torchrun, and Slurm jobs."""
from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from conftest import QUICK, QUICK_PARAMETERS, environment

from wilson.cli.command import main
from wilson.experiments.slurm import write_script, write_sweep
from wilson.experiments.slurm_resources import Resources
from wilson.methods.wilson import Wilson
from wilson.run import user_code

IDEA = """import os
from wilson.methods.wilson import Wilson

with open("loaded", "a") as f:
    print(os.environ.get("RANK", "alone"), __file__, file=f)


class Mine(Wilson):
    name = "mine"
"""


def copies_in(script: Path) -> str:
    "The value of the variable that a job exports."
    line, = re.findall(r"^export WILSON_CODE_COPIES=(.*)$", script.read_text(encoding="utf-8"), re.MULTILINE)
    value, = shlex.split(line)
    return value


def test_ranks_of_torchrun(root):
    Path("ideas.py").write_text(IDEA, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "wilson", "train", *QUICK]
    done = subprocess.run([*command, "--method", "ideas.py:Mine"], cwd=root, env=environment(), capture_output=True, text=True,
                          encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    step, = Path("runs").glob("*/mine-s42/step1")
    copy, = (step.parent / "logs/code").glob("*/ideas.py")
    assert copy.read_text(encoding="utf-8") == IDEA == next(step.glob("code/*/ideas.py")).read_text(encoding="utf-8")
    loaded = {tuple(line.split()) for line in Path("loaded").read_text(encoding="utf-8").splitlines()}
    assert {(rank, str(copy.resolve())) for rank in ("0", "1")} <= loaded


def test_a_slurm_job_runs_the_code_of_its_script(root, monkeypatch):
    "The file is edited, and then removed, between the script and the job."
    Path("ideas.py").write_text(IDEA, encoding="utf-8")
    members = [QUICK_PARAMETERS | {"method": "ideas.py:Mine"}]
    script = write_script(members[0], "job.sh", Resources())
    _, bases, array = write_sweep(members, "jobs", Resources())
    assert copies_in(array) == copies_in(bases) == copies_in(script)
    (file, copy), = json.loads(copies_in(script)).items()
    assert file == str(root / "ideas.py") and Path(copy).read_text(encoding="utf-8") == IDEA
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    Path("ideas.py").unlink()
    monkeypatch.setattr(user_code, "_loaded", {})
    monkeypatch.setenv(user_code.COPIES, copies_in(script))  # as the job has it
    assert main(["train", *QUICK, "--method", "ideas.py:Mine"]) == 0
    step, = Path("runs").glob("*/mine-s42/step1")
    assert next(step.glob("code/*/ideas.py")).read_text(encoding="utf-8") == IDEA
    assert os.environ[user_code.COPIES] == copies_in(script)


def test_scripts_of_built_in_methods_name_no_copies(root):
    assert "WILSON_CODE_COPIES" not in write_script(QUICK_PARAMETERS, "job.sh", Resources()).read_text(encoding="utf-8")


def test_a_file_beside_wilson_itself(root):
    "In a clone the package lies beside the file, and is no module of the user's."
    (root / "wilson").mkdir()
    (root / "wilson/__init__.py").write_text("", encoding="utf-8")
    Path("ideas.py").write_text(f"import wilson\n{IDEA}", encoding="utf-8")
    assert user_code.load_class("ideas.py:Mine", Wilson, {}, "method").name == "mine"
    copy = user_code.keep_code("ideas.py:Mine", root / "kept")
    assert copy is not None and [p.name for p in copy.parent.iterdir()] == ["ideas.py"]
