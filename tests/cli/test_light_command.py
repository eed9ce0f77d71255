"""Commands that only read small files start without the large libraries."""
from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from conftest import environment

import wilson

HEAVY = ("torch", "torchvision", "pandas", "matplotlib", "tensorboard", "safetensors", "tqdm", "rich")
COMMANDS = (["--version"], ["--help"], ["train", "--help"], ["sweep", "--help"], ["verify", "--help"], ["runs"], ["compare"],
            ["compare", "--table", "published"], ["compare", "--table", "labels", "--format", "csv"], ["compare", "--format", "html"],
            ["runs", "--json"], ["compare", "--json"],
            ["predict", "--help"], ["evaluate", "--help"], ["verify", "voc", "--data-root", "gone"])
MISSING_DATA = "verify voc --data-root gone"  # ends before an image is decoded
# in one process, in this order: what a command imports, those after it have too
CODE = f"""
import contextlib, io, json, sys
from wilson.cli.command import main
for command in json.loads(sys.argv[1]):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            code = main(command)
        except SystemExit as e:
            code = e.code
    print(json.dumps([code, out.getvalue(), [name for name in {HEAVY} if name in sys.modules]]))
"""


@pytest.fixture(scope="module")
def answers(tiny_run) -> dict[str, tuple[int, str, list[str]]]:
    "Exit code, output and large libraries of each command."
    done = subprocess.run([sys.executable, "-c", CODE, json.dumps(COMMANDS)], cwd=tiny_run, env=environment(), capture_output=True,
                          text=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
    return {" ".join(command): json.loads(line) for command, line in zip(COMMANDS, done.stdout.splitlines(), strict=True)}


@pytest.mark.parametrize("command", [" ".join(command) for command in COMMANDS])
def test_command_imports_no_large_library(command, answers):
    code, out, imported = answers[command]
    if command == MISSING_DATA:
        assert code == 2
        imported = [name for name in imported if name != "tqdm"]  # its bar
    else:
        assert code in (0, None) and out
    assert not imported, f"`wilson {command}` imports {', '.join(imported)}"


def test_the_answers_are_whole(answers):
    assert answers["--version"][1] == f"wilson {wilson.__version__}\n"
    assert re.search("wilson-s42/step1  +finished  ", answers["runs"][1]) and re.search("^wilson  ", answers["compare"][1], re.MULTILINE)
