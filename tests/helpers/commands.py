"""`wilson …` in this process, and what it says where it refuses."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from conftest import environment, need

from wilson.cli.command import main


def files(under: Path) -> dict[str, tuple[int, int]]:
    "Every file with size and time; lock files say nothing about a run."
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in under.rglob("*")
            if p.is_file() and p.suffix != ".lock"}


def run(*arguments) -> int:
    "Exit code of `wilson …` in this process, however it leaves."
    try:
        return main([str(a) for a in arguments])
    except SystemExit as e:
        return e.code


def refused(capsys, *arguments, new_files: bool = False) -> str:
    "What `wilson …` says on its way out with 2; it must have left no file and no run folder."
    root = Path.cwd()
    before, folders = files(root), set(root.glob("runs/*/*/step*"))
    capsys.readouterr()
    code = run(*arguments)
    said = capsys.readouterr()
    assert code == 2, said
    message = said.err.rpartition("\r")[2]  # after the progress bar has wiped itself out
    assert "Traceback" not in said.err and message.startswith(("wilson: ", "usage: ")), said.err
    if not new_files:
        after = {n: f for n, f in files(root).items() if not Path(n).name.startswith("image_labels-")}
        assert {n: before.get(n) for n in after} == after
        assert set(root.glob("runs/*/*/step*")) == folders, "a folder of a step that never began"
    return message


def says(message: str, *parts: str) -> None:
    missing = [p for p in parts if p not in message]
    assert not missing, f"{missing} not in: {message}"


def mounted(root: Path, mount: str, then: str = "true", *arguments) -> subprocess.CompletedProcess:
    "`wilson …` where only it sees what `mount` mounts; `then` runs before that is gone."
    allowed = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True)
    need(allowed.returncode == 0, "needs `unshare -rm mount …`, which this machine does not permit")
    script = f'{mount} || exit 99; "$@"; code=$?; {then}; exit $code'
    command = ["unshare", "-rm", "bash", "-c", script, "bash", sys.executable, "-m", "wilson", *map(str, arguments)]
    done = subprocess.run(command, cwd=root, env=environment(), capture_output=True, text=True, encoding="utf-8", timeout=120)
    assert done.returncode != 99, done.stderr
    return done
