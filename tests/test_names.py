"Public names: verbs for functions, nouns for values, one meaning each."
from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from wilson.cli.command import COMMANDS
from wilson.run.config import SHARED

REPO = Path(__file__).resolve().parents[1]
UNCLEAR = set("told said found made kept held shown taken given asked agreed placed joined painted counted decided met "
              "ready alone first house room floor sitting diary telling desk".split())
MAY_HOLD = {"is_ready",              # participles and adjectives are right for booleans
            "main_process_first",    # the usual name of this context
            "first_images", "first_image",  # the ordinal number
            "make_room"}
OLD_PARAMETERS = set("void gate later decay crops padding lr_head image_side keep_maps max_skips accumulate "
                     "initial_probability".split())


def public_definitions() -> Iterator[tuple[str, str, bool]]:
    "Name, place and whether it is a module's own, of every public function, class, method and property."
    for path in sorted((REPO / "wilson").rglob("*.py")):
        if path.name == "_modidx.py":
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
                continue
            place = f"{path.relative_to(REPO)}:{node.lineno}"
            yield node.name, place, True
            for child in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(child, ast.FunctionDef) and not child.name.startswith("_"):
                    yield child.name, f"{path.relative_to(REPO)}:{child.lineno}", False


def unclear(name: str) -> bool:
    participle = re.fullmatch(r"[a-z]+(ed|ought)", name)
    return name not in MAY_HOLD and bool(UNCLEAR & set(name.lower().split("_")) or participle)


def test_functions_and_classes_are_named_by_what_they_do():
    assert not [f"{place} {name}" for name, place, top in public_definitions() if top and unclear(name)]


def test_methods_hold_no_unclear_word():
    assert not [f"{place} {name}" for name, place, _ in public_definitions()
                if UNCLEAR & set(name.lower().split("_")) and name not in MAY_HOLD]


def test_a_public_name_is_defined_once():
    places = defaultdict(list)
    for name, place, top in public_definitions():
        # the public API names what other modules do: `wilson.train`, and `wilson.Segmenter` for use without training
        if top and not place.startswith(("wilson/api/", "wilson/deploy/pretrained.py")):
            places[name].append(place)
    assert not {name: where for name, where in places.items() if len(where) > 1}


def test_parameters_and_commands():
    assert not OLD_PARAMETERS & set(SHARED) and not {"labels", "import"} & set(COMMANDS)


@pytest.mark.parametrize("name", ["shown", "held", "kept_logits", "first", "prepared", "is_met"])
def test_these_would_be_found(name):
    assert unclear(name)
