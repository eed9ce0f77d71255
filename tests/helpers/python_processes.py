"""Commands that must succeed."""
from __future__ import annotations

import subprocess
from pathlib import Path

from conftest import environment


def run(*command: object, cwd: Path, **variables: str) -> str:
    "Standard output of a command that must succeed."
    env = environment(**variables)
    if "PYTHONPATH" not in variables:
        env.pop("PYTHONPATH")
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True, encoding="utf-8", timeout=180)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout
