"""What shapes how a step is computed, and not what: precision, passes, kinds of norm, compilation, curves."""
from __future__ import annotations

import importlib.util
import json

import pytest
import torch
from conftest import need
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from wilson.core.errors import InputError
from wilson.engine.checkpoint import read_weights
from wilson.experiments.train import run_training
from wilson.run.config import parse_config
from wilson.run.opened import open_step

BASE = dict(dataset="shapes", data_root="data/few", task="striped disc|dotted square", epochs="2", crop_size=48, batch_size=8,
            pseudo_epoch=0, device="cpu", step="0", optimizer="sgd", lr="0.02", val_interval=1)


def step(**more):
    result, = run_training(parse_config(BASE | more))
    return result.path, read_weights(result.path / "weights.safetensors")[0]


def losses(path) -> list[float]:
    lines = (path / "log.txt").read_text(encoding="utf-8").splitlines()
    return [float(line.split("segmentation ")[1].split()[0]) for line in lines if "segmentation" in line]


@pytest.fixture
def usual(root):
    return step()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_the_same(usual, precision):
    "Losses within 2 % of float32's, weights in float32, and a step of its own."
    with pytest.raises(InputError, match="precision"):
        step(precision=precision)
    path, weights = step(precision=precision, base_name=precision)
    assert losses(path) == pytest.approx(losses(usual[0]), rel=0.02) and losses(path)[1] < losses(path)[0]
    assert all(t.dtype in (torch.float32, torch.int64) for t in weights.values())
    assert any(not torch.equal(t, usual[1][n]) for n, t in weights.items())


def test_a_step_is_evaluated_in_the_precision_of_its_training(root):
    "Where the device has it: in bfloat16 here, but not in the float16 of a GPU; maps are float32 in any case."
    for precision, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float32), ("float32", torch.float32)):
        path, _ = step(precision=precision, base_name=precision, epochs="1")
        segmenter, images = open_step(path).segmenter, torch.randn(1, 3, 48, 48)
        assert segmenter.inference_dtype == dtype
        with torch.no_grad():
            maps = segmenter(images).logits
            segmenter.inference_dtype = torch.float32
            exact = segmenter(images).logits
        assert maps.dtype == torch.float32 and torch.equal(maps, exact) == (dtype == torch.float32)
        torch.testing.assert_close(maps, exact, rtol=0.1, atol=0.1)


def test_in_place_norms_learn_the_same(usual):
    "Another kernel of the same function: the same step, to rounding."
    need(importlib.util.find_spec("inplace_abn"), "needs inplace_abn")
    path, weights = step(norm="inplace", base_name="inplace")
    assert losses(path) == pytest.approx(losses(usual[0]), rel=0.01) and weights.keys() == usual[1].keys()
    assert step(norm="inplace")[0] == usual[0]  # used as it is
    with pytest.raises(InputError, match="do not support bfloat16"):
        step(norm="inplace", precision="bf16")


def test_compiled_networks_learn_the_same(usual):
    path, weights = step(compile=True, base_name="compiled")
    assert losses(path) == pytest.approx(losses(usual[0]), rel=0.01) and weights.keys() == usual[1].keys()
    assert json.loads((path / "metrics.json").read_text(encoding="utf-8"))["scores"]["whole"]["miou"]["all"] is not None


def test_passes_make_one_update(usual):
    "Two passes of four images: as many updates, other statistics, so another step."
    with pytest.raises(InputError, match="accumulate_grad is 1, wanted 2"):
        step(accumulate_grad=2)
    path, _ = step(accumulate_grad=2, base_name="passes", histograms=True)
    assert losses(path) == pytest.approx(losses(usual[0]), rel=0.1)
    board = EventAccumulator(str(path)).Reload()
    assert "weights/segmenter.cls.0.bias" in board.Tags()["histograms"]
    assert not EventAccumulator(str(usual[0])).Reload().Tags()["histograms"]
    shares = [board.Scalars(f"taught/{kind}")[-1].value for kind in ("background", "old", "new")]
    assert sum(shares) == pytest.approx(1) and shares[1] == 0 and 0 < shares[2] < 0.5
    assert 0 <= board.Scalars("data/share_of_time_waited")[-1].value <= 1


def test_what_a_run_cost_is_on_record(usual):
    metrics = json.loads((usual[0] / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["cost"]["seconds"] > 0 and 0 < metrics["cost"]["memory"] < 100
    assert "of training" in (usual[0] / "log.txt").read_text(encoding="utf-8")
    machine = json.loads((usual[0] / "config.json").read_text(encoding="utf-8"))["machine"]
    assert machine["processes"] == 1 and machine["host"] and machine["time"].endswith("+00:00") and machine["device"] == "cpu"


def test_the_best_validation_is_kept(usual):
    best = json.loads((usual[0] / "best.json").read_text(encoding="utf-8"))
    board = EventAccumulator(str(usual[0])).Reload()
    scores = {event.step: event.value for event in board.Scalars("miou/all")}
    assert max(scores.values()) == pytest.approx(best["miou"], rel=1e-5)
    assert best["epoch"] == min(epoch for epoch, score in scores.items() if score == max(scores.values()))
    open_step(usual[0], weights="best")
    with pytest.raises(InputError, match="'best'"):
        open_step(usual[0], weights="bst")
