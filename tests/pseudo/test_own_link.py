"""A link of one's own in the target rule of a method of one's own: one file, and its parameter is a parameter of the run."""
from __future__ import annotations

import pytest
import torch
from wilson.core.errors import InputError
from wilson.methods.facts import method_params
from wilson.run.chosen_method import method_class
from wilson.run.config import parse_config
from wilson.run.opened import target_rule
from wilson.run.presets import step_fingerprint, resolve_config
from wilson.widgets.answers import rule_controls

MINE = '''
from torch import Tensor
from wilson.core.params import param
from wilson.methods.wilson import Wilson
from wilson.pseudo.targets import Soften, TargetRule


class Sharpen(Soften):
    sharpness: float = param(1.0, "power of the probabilities", min=1, max=8, step=0.5)

    def compute(self, masked: Tensor) -> Tensor:
        return super().compute(masked) ** self.sharpness


class Mine(Wilson):
    name = "mine"
    target_rule = TargetRule().replace(soft=Sharpen())
'''


@pytest.fixture
def mine(tmp_path) -> str:
    (tmp_path / "my_ideas.py").write_text(MINE, encoding="utf-8")
    return f"{tmp_path / 'my_ideas.py'}:Mine"


def test_its_parameter_is_one_of_the_run_and_has_a_control(mine):
    config = resolve_config(parse_config({"method": mine, "sharpness": "3", "alpha": 0.9, "dataset": "shapes"}), "shapes")
    rule = target_rule(config)
    assert rule["sharpness"] == 3 and rule["alpha"] == 0.9 and rule.affected_by("sharpness") == {"soft", "target", "gate"}
    soft = rule.links["soft"].compute(torch.full((1, 2, 1, 1), 0.5))
    torch.testing.assert_close(soft, torch.full_like(soft, (0.9 + 0.1 * 0.5) ** 3))
    group = next(g for g in rule_controls(rule) if g["title"] == "Soft label")
    assert [(p["name"], p["min"], p["max"], p["step"]) for p in group["params"]] == [("alpha", 0, 1, 0.05), ("sharpness", 1, 8, 0.5)]
    assert "sharpness" in method_params(method_class(mine)) and "sharpness" not in method_params(method_class("wilson"))
    other = resolve_config(parse_config({"method": mine, "sharpness": 4, "alpha": 0.9, "dataset": "shapes"}), "shapes")
    assert step_fingerprint(config, 1, {}) != step_fingerprint(other, 1, {})


def test_a_wrong_value_is_refused_as_for_any_parameter(mine):
    with pytest.raises(InputError, match="sharpness=9.0: expected at least 1, at most 8"):
        parse_config({"method": mine, "sharpness": 9})
    with pytest.raises(InputError, match="sharpness"):
        parse_config({"method": "wilson", "sharpness": 3})
