"Scores against other implementations, and against loops that follow the definitions word by word."
from __future__ import annotations

import json
import random

import pytest
import torch
from torch.nn import functional as F
from torchmetrics.classification import MulticlassJaccardIndex, MulticlassPrecision, MulticlassRecall

from wilson.data.batches import Batch
from wilson.data.tasks import Task
from wilson.evaluation.evaluate import LATER, evaluate, evaluate_labels
from wilson.evaluation.metrics import count_confusion, scores
from wilson.evaluation.scores import incremental_scores
from wilson.methods.losses import segmentation_loss, self_loss
from wilson.models.segmenter import grow, make_segmenter
from wilson.pseudo.step_targets import batch_targets, step_target_functions
from wilson.pseudo.targets import TargetRule

STEP = Task("voc", "cat,dog|cow,bus|car|sheep,sofa").step(2)  # 6 classes seen, 2 later
SEEDS = range(6)


def random_batches(seed: int, count: int = 4, size: int = 12) -> tuple[list[Batch], list[torch.Tensor]]:
    "Batches with void and later pixels, some classes absent, and logits that are right in part."
    torch.manual_seed(seed)
    kept = torch.randint(0, STEP.n_classes, (4,))  # classes the truth shows: not all of them
    batches, maps = [], []
    for b in range(count):
        mask = kept[torch.randint(0, len(kept), (2, size, size))]
        mask[torch.rand(mask.shape) < 0.1] = 255
        mask[torch.rand(mask.shape) < 0.15] = LATER
        right = F.one_hot(mask.where(mask < STEP.n_classes, 0), STEP.n_classes).permute(0, 3, 1, 2)
        maps.append(2 * right + torch.randn(right.shape))
        batches.append(Batch(torch.zeros(2, 3, size, size), mask, torch.zeros(2, STEP.n_classes - 1), [f"{b}a", f"{b}b"]))
    return batches, maps


def given(batches: list[Batch], values: list[torch.Tensor]):
    "The function from a batch to its values."
    by_id = {batch.ids[0]: value for batch, value in zip(batches, values)}
    return lambda batch: by_id[batch.ids[0]]


# ---------------------------------------------------------------------------- one step


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("later_becomes", [0, 255])
def test_by_class_as_torchmetrics(seed, later_becomes):
    "Later classes as background and ignored, both from one pass."
    batches, maps = random_batches(seed)
    result = evaluate(given(batches, maps), batches, STEP)
    if later_becomes == 255:
        result = result["later_ignored"]
    truth = torch.cat([b.masks for b in batches]).masked_fill(torch.cat([b.masks for b in batches]) == LATER, later_becomes)
    predicted = torch.cat(maps).argmax(1)
    for kind, metric in (("iou", MulticlassJaccardIndex), ("recall", MulticlassRecall), ("precision", MulticlassPrecision)):
        theirs = metric(STEP.n_classes, average=None, ignore_index=255)(predicted, truth)
        for c, name in enumerate(STEP.names):
            if kind != "precision" and not (truth == c).any():
                assert result[kind][name] is None
            else:
                assert result[kind][name] == pytest.approx(100 * theirs[c].item(), abs=1e-3)


def mean(values):
    values = [v for v in values if v is not None]
    return pytest.approx(sum(values) / len(values)) if values else None


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("classes_per_step", [(6,), (3, 3), (3, 2, 1), (1, 1, 4)])
def test_groups_by_definition(seed, classes_per_step):
    "Old, new, base, added and all, with and without background, and the harmonic mean."
    rng = random.Random(seed)
    matrix = torch.tensor([[rng.choice([0, 1, 5, 30]) for _ in range(6)] for _ in range(6)])
    matrix[rng.randrange(6)] = 0
    result = scores(matrix, STEP.names, classes_per_step)
    json.dumps(result, allow_nan=False)

    step_of = [t for t, n in enumerate(classes_per_step) for _ in range(n)]
    last = len(classes_per_step) - 1
    belongs = {"old": lambda t: t < last, "new": lambda t: t == last, "base": lambda t: t == 0, "added": lambda t: t > 0,
               "all": lambda t: True}
    ious = [result["iou"][name] for name in STEP.names]
    for group, holds in belongs.items():
        foreground = [ious[c] for c in range(1, 6) if holds(step_of[c])]
        without = mean(foreground)
        assert result["miou_without_background"][group] == without
        if without is not None or group == "all":
            assert result["miou_with_background"][group] == mean([ious[0], *foreground])
        else:
            assert result["miou_with_background"][group] is None
        published = result["miou_with_background" if group == "all" else "miou_without_background"][group]
        assert result["miou"][group] == published

    old, new = result["miou"]["old"], result["miou"]["new"]
    if old is None or new is None:
        assert result["harmonic"] is None
    else:
        expected = 0 if 0 in (old, new) else 1 / ((1 / old + 1 / new) / 2)
        assert result["harmonic"] == pytest.approx(expected)
        assert min(old, new) - 1e-9 <= result["harmonic"] <= (old + new) / 2 + 1e-9


@pytest.mark.parametrize("seed", SEEDS)
def test_order_and_parts_do_not_matter(seed):
    "Any order of batches, one image at a time, or merged parts: the same numbers to the last bit."
    batches, maps = random_batches(seed)
    whole = evaluate(given(batches, maps), batches, STEP)
    order = random.Random(seed).sample(range(len(batches)), len(batches))
    assert evaluate(given(batches, maps), [batches[i] for i in order], STEP) == whole

    singles = [Batch(b.images[i:i + 1], b.masks[i:i + 1], b.image_labels[i:i + 1], [b.ids[i]]) for b in batches for i in (0, 1)]
    assert evaluate(given(singles, [m[i:i + 1] for m in maps for i in (0, 1)]), singles, STEP) == whole

    parts = [count_confusion(m.argmax(1), batch.masks.masked_fill(batch.masks == LATER, 0), STEP.n_classes)
             for batch, m in zip(batches, maps)]
    merged = scores(sum(parts)[:, :-1], STEP.names, STEP.classes_per_step)
    assert merged == {name: value for name, value in whole.items() if name != "later_ignored"}


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_ignored_has_no_say(seed):
    "Other predictions under void change nothing; under later classes, nothing in `later_ignored`."
    batches, maps = random_batches(seed)
    before = evaluate(given(batches, maps), batches, STEP)
    noise = [torch.randn_like(m) for m in maps]
    for ignored, same in ([255], True), ([255, LATER], False):
        where = [torch.isin(b.masks, torch.tensor(ignored))[:, None] for b in batches]
        after = evaluate(given(batches, [torch.where(w, n, m) for w, n, m in zip(where, noise, maps)]), batches, STEP)
        assert after["later_ignored"] == before["later_ignored"]
        assert ({**after, "later_ignored": None} == {**before, "later_ignored": None}) is same


# ------------------------------------------------------------------------- across steps


@pytest.mark.parametrize("seed", range(20))
def test_across_steps_by_definition(seed):
    rng = random.Random(seed)
    names = ["background", *"abcdefgh"[: rng.randint(4, 8)]]
    known = sorted(rng.sample(range(2, len(names) + 1), rng.randint(1, 3)))  # classes after each step
    score = lambda: rng.choice([None, rng.uniform(0, 100), rng.uniform(0, 100)])
    by_step = [{"iou": {n: score() for n in names[:k]}, "miou": {"all": rng.uniform(0, 100)}} for k in known]
    result = incremental_scores(json.loads(json.dumps(by_step)))

    assert result["all_by_step"] == [s["miou"]["all"] for s in by_step]
    assert result["average"] == mean(result["all_by_step"])
    expected = {}
    for name in by_step[-2]["iou"] if len(by_step) > 1 else []:
        best = None
        for step in by_step[:-1]:
            value = step["iou"].get(name)
            if value is not None and (best is None or value > best):
                best = value
        now = by_step[-1]["iou"][name]
        expected[name] = best - now if best is not None and now is not None else None
    assert result["forgetting"] == expected
    assert result["mean_forgetting"] == mean([f for n, f in expected.items() if n != "background"])


# ------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("seed", SEEDS)
def test_labels_by_loops(seed):
    "Counts over pixels that have a label and a truth; labels of a third of the size."
    batches, _ = random_batches(seed)
    torch.manual_seed(seed)
    labels = [torch.randint(0, STEP.n_classes, (2, 4, 4)) for _ in batches]
    for label in labels:
        label[torch.rand(label.shape) < 0.4] = 255
    labels[1][0] = 255  # an image that is not used
    result = evaluate_labels(given(batches, labels), batches, STEP)

    matrix = torch.zeros(STEP.n_classes, STEP.n_classes, dtype=torch.int64)
    with_truth = with_label = 0
    for batch, label in zip(batches, labels):
        for i, y, x in (batch.masks != 255).nonzero().tolist():
            true, found = batch.masks[i, y, x].item(), label[i, y // 3, x // 3].item()
            with_truth += 1
            with_label += found != 255
            if found != 255:
                matrix[0 if true == LATER else true, found] += 1
    expected = scores(matrix, STEP.names, STEP.classes_per_step)
    assert {name: result[name] for name in expected} == expected
    assert result["coverage"] == pytest.approx(100 * with_label / with_truth)
    assert (result["images"], result["images_used"]) == (8, 7)
    assert evaluate_labels(given(batches, labels), batches[::-1], STEP) == result


def test_labels_everywhere_are_maps():
    "Labels on every pixel score as the maps whose arg-max they are."
    batches, maps = random_batches(0)
    result = evaluate_labels(given(batches, [m.argmax(1) for m in maps]), batches, STEP)
    assert result == evaluate(given(batches, maps), batches, STEP) | {"coverage": 100, "images": 8, "images_used": 8}


def test_no_label_and_no_truth():
    batches, _ = random_batches(0)
    nothing = evaluate_labels(lambda b: torch.full((2, 4, 4), 255), batches, STEP)
    assert nothing["coverage"] == 0 and nothing["images_used"] == 0 and nothing["miou"]["all"] is None
    for batch in batches:
        batch.masks.fill_(255)
    empty = evaluate_labels(lambda b: torch.zeros(2, 4, 4, dtype=torch.long), batches, STEP)
    assert empty["coverage"] is None and empty["images"] == 8
    json.dumps([nothing, empty], allow_nan=False)


@pytest.mark.parametrize("wrong", [-1, STEP.n_classes, STEP.n_classes + 1, 253, LATER])
def test_labels_of_unknown_classes_are_refused(wrong):
    batches, _ = random_batches(0)
    with pytest.raises(ValueError, match="class"):
        evaluate_labels(lambda b: torch.full((2, 4, 4), wrong), batches, STEP)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
@pytest.mark.parametrize("old_labels", [False, True])
def test_used_labels_are_those_with_a_gradient(alpha, old_labels):
    "What the two losses learn from is where their gradient is not 0."
    torch.manual_seed(1)
    old = make_segmenter("shapes_net", (3,), output_stride=8, crop_size=64).eval()
    new, n = grow(old, 2).eval(), 40
    blobs = 4 * F.interpolate(torch.randn(n, 5, 3, 3), (8, 8), mode="bilinear")  # what the localizer says
    images, labels = torch.randn(n, 3, 64, 64), (torch.rand(n, 4) < 0.4).float()
    labels[torch.arange(n), 2 + torch.arange(n) % 2] = 1  # every image of a step shows a new class
    rule = TargetRule(alpha=alpha, label_old_classes=old_labels)
    batch = Batch(images, None, labels, [str(i) for i in range(n)])
    taught = labels.clone()
    if not old_labels:
        taught[:, :2] = 0

    with torch.no_grad():
        models = new, lambda features, logits_old: blobs, old, rule
        made, labels_of = batch_targets(*models)(batch), step_target_functions(*models)
        hard, target = labels_of["hard_mask"](batch), labels_of["target"](batch)
    maps = torch.randn(n, 5, 8, 8, requires_grad=True)
    learns, = torch.autograd.grad(self_loss(maps, made.hard, taught), maps)
    assert torch.equal(hard != 255, (learns != 0).any(1))
    learns, = torch.autograd.grad(segmentation_loss(maps, made.target, made.gate), maps)
    assert torch.equal(target != 255, (learns != 0).any(1))
    used = hard != 255
    assert torch.equal(hard[used], made.hard[used])
    assert torch.equal(target[made.gate > 0], made.target.argmax(1)[made.gate > 0])
    assert used.any() and (made.hard != 255)[~used].any(), "the example leaves no image out"
    assert alpha < 1 or 0 < made.gate.sum() < n, "the example closes no gate"
