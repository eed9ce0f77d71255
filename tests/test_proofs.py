"""The proofs in pages can fail."""
from __future__ import annotations

import ast
import collections
import json
from collections.abc import Iterator

import pytest
from conftest import REPO


def proofs() -> Iterator[tuple[str, ast.Module]]:
    "Every code cell of a page that is not exported."
    for path in sorted(REPO.glob("nbs/**/*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            source = "".join("\n" if line.startswith(("%", "!")) else line for line in cell["source"])
            if cell["cell_type"] == "code" and "#| export" not in source and ".ipynb_checkpoints" not in path.parts:
                yield path.relative_to(REPO).as_posix(), ast.parse(source)


def is_report(node: ast.stmt) -> bool:
    "`pass`, or a call of print."
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
                                          and getattr(node.value.func, "id", "") == "print")


def is_empty(node: ast.AST) -> bool:
    "Whether this is a `try` that checks an error only if one is raised."
    if not isinstance(node, ast.Try) or not node.handlers or node.orelse:
        return False
    handled = [statement for handler in node.handlers for statement in handler.body]
    if any(isinstance(n, (ast.Raise, ast.Assign, ast.Return)) for statement in (*node.body, *handled) for n in ast.walk(statement)):
        return False  # the block raises where nothing else did, or what happened is kept and looked at later
    return any(isinstance(statement, ast.Assert) for statement in handled) or all(map(is_report, handled))


def returns_none(node: ast.AST) -> bool:
    "Whether this is a function that returns the error it catches, and None where none is raised."
    if not isinstance(node, ast.FunctionDef) or not isinstance(last := node.body[-1], ast.Try) or last.orelse:
        return False
    caught = any(isinstance(n, ast.Return) for handler in last.handlers for n in ast.walk(handler))
    return caught and not any(isinstance(n, (ast.Raise, ast.Return)) for statement in last.body for n in ast.walk(statement))


@pytest.mark.parametrize("source, expected", [
    ("try: f()\nexcept E as e: assert 'x' in str(e)", True),
    ("try: f()\nexcept E as e: print(e)", True),
    ("try: f()\nexcept E: pass", True),
    ("try: f()\nexcept E as e: assert 'x' in str(e)\nelse: raise AssertionError", False),
    ("try:\n    f()\n    raise AssertionError\nexcept E: pass", False),
    ("try: f()\nexcept E as e: said = str(e)", False),
    ("try: x = f()\nexcept E: pass", False),
    ("try: f()\nfinally: g()", False),
])
def test_what_an_empty_proof_is(source, expected):
    assert is_empty(ast.parse(source).body[0]) is expected


@pytest.mark.parametrize("end, expected", [
    ("", True), ("    raise AssertionError", False), ("    else: raise AssertionError", False)])
def test_what_a_silent_helper_is(end, expected):
    source = f"def message():\n    try: f()\n    except E as e: return str(e)\n{end}"
    assert returns_none(ast.parse(source).body[0]) is expected


def test_errors_are_proved_to_be_raised():
    found = collections.Counter(page for page, cell in proofs() for node in ast.walk(cell) if is_empty(node) or returns_none(node))
    assert not found, f"pass also when nothing is raised; use wilson.testing.raises: {dict(found)}"


def test_no_assertion_mixes_and_with_or():
    "`assert a and b or c` passes without a and b where c is true, which is hardly ever meant; write two assertions."
    mixed = [f"{page}: {ast.unparse(node)}" for page, cell in proofs() for node in ast.walk(cell)
             if isinstance(node, ast.Assert) and isinstance(node.test, ast.BoolOp) and isinstance(node.test.op, ast.Or)
             and any(isinstance(part, ast.BoolOp) for part in node.test.values)]
    assert not mixed
