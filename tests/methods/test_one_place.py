"""A method is stated in one place: nothing else compares its name, and what is derived from it is up to date."""
from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys

import pytest
from conftest import REPO, environment

from wilson.methods.builtin import METHODS
from wilson.methods.facts import builtin_facts, facts_of_method


def compared_names(tree: ast.AST) -> list[int]:
    "Lines that compare something with the name of a method."
    return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Compare)
            for side in (node.left, *node.comparators) for part in ast.walk(side)
            if isinstance(part, ast.Constant) and part.value in METHODS]


def test_nothing_compares_a_string_with_the_name_of_a_method():
    found = [f"{path.relative_to(REPO)}:{line}" for path in sorted((REPO / "wilson").rglob("*.py"))
             if path.parent.name != "methods" for line in compared_names(ast.parse(path.read_text(encoding="utf-8")))]
    assert not found


@pytest.mark.parametrize("source, count", [("a == 'mib'", 1), ("a in ('joint', b)", 1), ("f('mib')", 0), ("a == 'mibs'", 0)])
def test_the_reading_of_comparisons(source, count):
    assert len(compared_names(ast.parse(source))) == count


def test_what_is_derived_is_up_to_date():
    "builtin.json, the cell of parameters of train.ipynb and README's table of methods; `make export` writes them."
    spec = importlib.util.spec_from_file_location("generate", REPO / ".ci/generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for file, text in ((generate.FACTS, generate.facts_text), (generate.TRAIN, generate.train_text), (generate.README, generate.readme_text),
                       (generate.INDEX, generate.index_text)):
        assert file.read_text(encoding="utf-8") == text(), f"{file.relative_to(REPO)} is out of date; run `make export`"
    assert builtin_facts() == {name: facts_of_method(method) for name, method in METHODS.items()}


def test_help_imports_no_torch():
    "Of a built-in method; that of a class of one's own has to import it."
    code = ("import sys; from wilson.cli.command import main\n"
            "try: main(['train', '--method', 'mib', '--help'])\n"
            "except SystemExit: pass\n"
            "assert not {'torch', 'pandas'} & {*sys.modules}, 'imported'")
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, encoding="utf-8", timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--loss-kd" in done.stdout and "weight of the distillation (default: 10.0)" in " ".join(done.stdout.split())
    assert "--seed" in done.stdout and "--alpha" not in done.stdout
