"""A class of the user that is gone, was changed, or cannot train: each has a message that says what to do. And its name in tables."""
from __future__ import annotations

from pathlib import Path

import pytest
from conftest import QUICK, QUICK_PARAMETERS

import wilson
from wilson.cli.command import main
from wilson.core.errors import InputError
from wilson.methods.wilson import Wilson
from wilson.run import user_code
from wilson.run.records import read_records, select_records

FILE = "from wilson.methods.base import Method\n\n\nclass Mine(Method):\n    name = 'mine'\n"


class Calm(Wilson):
    "A class of a cell."
    name = "calm"


class Loud(Wilson):
    "The class as it was changed since."
    name = "calm"


class Idle(wilson.Method):
    "A class without losses."


@pytest.fixture
def calm(root) -> wilson.Run:
    "A run of a class of a cell, as another process finds it."
    return wilson.train(**QUICK_PARAMETERS, method=Calm)


def test_a_class_of_a_cell(calm, monkeypatch):
    "Its name in tables; gone; changed; trained again after a change."
    assert wilson.runs(f"{calm.name}")["method"].tolist() == ["calm"] and wilson.compare(methods="calm").rows == {"calm": 1}
    assert [r.method for r in select_records(read_records(), methods="cell:Calm")] == ["calm"]
    monkeypatch.setattr(user_code, "_cells", {})
    monkeypatch.setattr(user_code, "_allowed", set())
    with pytest.raises(InputError, match=r"class of a notebook's cell.*wilson\.load_run\(…, method="):
        wilson.load_run(calm.path).maps()
    with pytest.raises(InputError, match="was trained with other code; give the class or file with the code of that training"):
        wilson.load_run(calm.path, method=Loud)
    with pytest.raises(InputError, match="step of another configuration: code is 'cell:Calm=.*wanted 'cell:Loud="):
        wilson.train(**QUICK_PARAMETERS, method=Loud)
    assert "target" in wilson.load_run(calm.path, method=Calm).maps().names


def test_a_class_without_a_name_has_that_of_the_class():
    from wilson.run.records import _own_method
    recorded = {"parameters": {"method": "my/ideas.py:Plain"}}
    assert _own_method(recorded) == _own_method(recorded | {"method_facts": {"name": "wilson"}}) == "Plain"
    assert _own_method(recorded | {"method_facts": {"name": "mine"}}) == "mine"
    assert _own_method({"parameters": {"method": "mib"}}) == ""


@pytest.mark.parametrize("method", ["ideas.py:Mine", Idle], ids=["file", "cell"])
def test_a_class_without_losses(root, method):
    Path("ideas.py").write_text(FILE, encoding="utf-8")
    with pytest.raises(InputError, match=r"defines no losses\(batch, epoch\); expected a method that returns the loss terms"):
        wilson.train(**QUICK_PARAMETERS, method=method)


def test_a_file_or_a_class_that_is_gone(root, capsys):
    assert main(["train", *QUICK, "--method", "ideas.py:Mine"]) == 2
    assert "ideas.py is not a file; expected FILE.py:CLASS" in capsys.readouterr().err
    Path("ideas.py").write_text(FILE.replace("Mine", "Mines"), encoding="utf-8")
    assert main(["train", *QUICK, "--method", "ideas.py:Mine"]) == 2
    assert "the file defines no Mine. Did you mean 'Mines'" in capsys.readouterr().err
