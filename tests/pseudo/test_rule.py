"""A target rule as links between named maps: the same numbers as one function, and nothing computed twice."""
from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from wilson.core.errors import InputError
from wilson.core.params import param
from wilson.pseudo import targets as targets_page
from wilson.pseudo.labels import hard_mask, image_gate, mask_by_labels, segmentation_target, soft_label
from wilson.pseudo.links import Link
from wilson.pseudo.pamr import refine
from wilson.pseudo.rule_maps import unchanged_maps
from wilson.pseudo.targets import TargetRule, make_targets

N_OLD, N = 3, 5


def batch(seed: int = 0) -> tuple[Tensor, ...]:
    rng = torch.Generator().manual_seed(seed)
    labels = (torch.rand(2, N - 1, generator=rng) < 0.6).float()
    return (3 * torch.randn(2, N, 8, 8, generator=rng), 3 * torch.randn(2, N_OLD, 8, 8, generator=rng),
            torch.rand(2, 3, 32, 32, generator=rng), labels)


def at_once(logits, logits_old, pictures, labels, rule: TargetRule) -> dict[str, Tensor]:
    "The rule written as one function, without links."
    if not rule["label_old_classes"]:
        labels = torch.cat([torch.zeros_like(labels[:, : N_OLD - 1]), labels[:, N_OLD - 1:]], 1)
    prob = logits.float().softmax(1)
    masked = mask_by_labels(prob, labels)
    refined = masked
    if rule["affinity"]:
        scale, maps = rule["affinity_scale"], prob
        if scale > 1:
            maps = F.interpolate(maps, [scale * s for s in prob.shape[-2:]], mode="bilinear", align_corners=False)
        maps = refine(pictures, maps, rule["affinity_iterations"], tuple(map(int, rule["affinity_dilations"].split(","))))
        refined = mask_by_labels(F.avg_pool2d(maps, scale) if scale > 1 else maps, labels)
    soft = soft_label(masked, rule["alpha"])
    background = "min" if rule["background"] == "min" else rule["background_mix"]
    found = soft if rule["gate_labels"] == "soft" else soft_label(masked, 1.0)
    hard = hard_mask(refined, *(rule[f"threshold_{name}"] for name in ("background", "classes", "floor")))
    return {"cam": prob, "refined": refined, "hard": hard, "soft": soft,
            "target": segmentation_target(logits_old.float().sigmoid(), soft, N_OLD, background),
            "gate": image_gate(found, labels[:, N_OLD - 1:], N_OLD)}


OTHERWISE = dict(label_old_classes=True, affinity=False, affinity_iterations=3, affinity_dilations="1,2", affinity_scale=2,
                 threshold_background=0.5, threshold_classes=0.9, threshold_floor=0.05, alpha=0.9, background="mix",
                 background_mix=0.3, gate_labels="hard")


def test_the_links_give_the_numbers_of_one_function():
    rules = [TargetRule(), TargetRule(**OTHERWISE), TargetRule(**OTHERWISE | {"affinity": True})]
    rules += [TargetRule(**{name: value}) for name, value in OTHERWISE.items()]
    rules += [TargetRule(background="mix", background_mix=m, alpha=a) for m, a in itertools.product((0.0, 1.0), (0.0, 1.0))]
    assert {*OTHERWISE} == {*TargetRule().params}
    for seed, rule in enumerate(rules):
        given = batch(seed)
        maps, expected = make_targets(*given, rule), at_once(*given, rule)
        for name, value in expected.items():
            assert torch.equal(maps[name], value) and maps[name].dtype == value.dtype, (rule, name)


def test_any_way_through_the_rules_gives_the_same_maps():
    "Parameters are moved one after another, and what stays is kept: as if each rule were computed alone."
    given, maps = batch(), make_targets(*batch())
    for name, value in OTHERWISE.items():
        for wanted in ("target", "hard", "gate", "refined"):
            maps[wanted]
        maps = maps.with_rule(maps.rule.with_values(**{name: value}))
    switched = given[-1].flip(1)
    maps = maps.with_rule(maps.rule.with_values(affinity=True), image_labels=switched)
    for name, value in at_once(*given[:-1], switched, maps.rule).items():
        assert torch.equal(maps[name], value), name


@pytest.fixture
def refinements(monkeypatch) -> list[int]:
    "Grows with every call of PAMR."
    calls: list[int] = []

    def counted(*args):
        calls.append(1)
        return refine(*args)
    monkeypatch.setattr(targets_page, "refine", counted)
    return calls


@pytest.mark.parametrize("name", [*OTHERWISE])
def test_only_the_affinity_calls_pamr(refinements, name):
    maps = make_targets(*batch())
    assert maps["target"] is not None and not refinements  # the target needs none
    assert all(maps[n] is not None for n in maps.rule.links) and len(refinements) == 1
    moved = maps.with_rule(maps.rule.with_values(**{name: OTHERWISE[name]}))
    for each in ("cam", "refined", "hard", "soft", "target", "gate"):
        moved[each]
    again = name in ("affinity_iterations", "affinity_dilations", "affinity_scale")
    assert len(refinements) == 1 + again
    kept = unchanged_maps(moved, maps)
    assert all((moved[n] is maps[n]) == (n in kept) for n in maps.rule.links)
    assert moved.rule.links.keys() - kept == moved.rule.affected_by(name)


def test_other_image_labels_do_not_call_pamr(refinements):
    maps = make_targets(*batch())
    first, other = maps["hard"], 1 - batch()[-1]
    moved = maps.with_rule(maps.rule, image_labels=other)
    assert not torch.equal(moved["hard"], first) and len(refinements) == 1
    assert moved.with_rule(maps.rule, image_labels=other.clone())["hard"] is moved["hard"]


class Sharper(Link):
    "Probabilities to a power."
    reads, returns = ("masked",), "soft"
    sharpness: float = param(2.0, "power of the probabilities", min=1, max=8, step=0.5)

    def compute(self, masked: Tensor) -> Tensor:
        power = masked ** self.sharpness
        return power / power.sum(1, keepdim=True).clamp(min=1e-6)


def test_another_link_takes_the_place_of_one():
    rule = TargetRule().replace(soft=Sharper())
    assert "alpha" not in rule.params and rule.params["sharpness"].max == 8
    given = batch()
    masked = make_targets(*given)["masked"]
    assert torch.equal(make_targets(*given, rule)["soft"], Sharper().compute(masked))
    assert rule.with_values(sharpness=3)["sharpness"] == 3 and rule != TargetRule()
    assert rule.describe()["links"]["soft"] == "Sharper" and rule.describe() != TargetRule().describe()
    with pytest.raises(InputError, match="no parameter 'alpha'"):
        rule.with_values(alpha=0.3)
    with pytest.raises(InputError, match="sharpness=9.0: expected at least 1, at most 8"):
        rule.with_values(sharpness=9)


def test_a_link_that_reads_what_is_not_there_says_so():
    class Lost(Sharper):
        reads = ("maskd",)
    maps = make_targets(*batch(), TargetRule().replace(soft=Lost()))
    with pytest.raises(InputError, match="Did you mean 'masked'"):
        maps["target"]
