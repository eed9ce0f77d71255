"""Losses, pseudo-labels, metrics and networks against recorded results; and the check itself."""
from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
CHECK = ROOT / "tests" / "parity" / "check.py"
RECORDED = ROOT.parent / "shared" / "parity"
FILES = sorted(RECORDED.glob("*.npz"))

spec = importlib.util.spec_from_file_location("parity_check", CHECK)
check = sys.modules["parity_check"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check)


def recorded(name: str) -> Path:
    "A recorded file; without it the test is skipped, or fails under WILSON_STRICT=1."
    if (RECORDED / name).exists():
        return RECORDED / name
    reason = f"no recorded results: {Path('..', 'shared', 'parity', name)} does not exist"
    if os.environ.get("WILSON_STRICT") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.mark.parametrize("name", [f.name for f in FILES] or ["*.npz"])
def test_recorded_results(name, capsys):
    failed = check.main([str(recorded(name))])
    assert not failed, capsys.readouterr().out


# ------------------------------------------------- a small file of the same form, made by loops

def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.fixture
def tiny() -> dict[str, np.ndarray]:
    "Two images, three old and two new classes; results from the textbook formulas in float64."
    rng = np.random.default_rng(0)
    f = {"n_old": np.array(3), "n_new": np.array(2),
         "image_labels": np.array([[0, 0, 1, 0], [0, 0, 1, 1]], np.float32),
         "logits": rng.normal(0, 2, (2, 5, 3, 4)).astype(np.float32),
         "logits_old": rng.normal(0, 2, (2, 3, 3, 4)).astype(np.float32),
         "labels": rng.integers(0, 5, (2, 3, 4)), "metric_label": rng.integers(0, 5, (2, 3, 4)),
         "metric_pred": rng.integers(0, 5, (2, 3, 4))}
    f["labels"][0, 0, :2] = f["metric_label"][1, 2] = 255
    prob = rng.dirichlet(np.ones(5), (2, 3, 4)).transpose(0, 3, 1, 2).astype(np.float32)
    prob[:, 3, 0, 0] = 9                           # class 3 is the maximum somewhere in both
    prob[:, 4] = np.minimum(prob[:, 4], prob[:, 0] / 2)  # class 4 nowhere, though image 1 shows it
    f["localizer_prob"] = prob
    f["masked_prob"] = prob * np.insert(f["image_labels"], 0, 1, axis=1)[:, :, None, None]
    best = f["masked_prob"] == f["masked_prob"].max(1, keepdims=True)
    f["pseudo_blend_0.3"] = 0.3 * best + 0.7 * f["masked_prob"]
    f["hard_argmax"] = best.astype(np.float32)
    f["batch_weight_alpha_1"] = np.array([1, 0], np.float32)

    target = (f["labels"][:, None] == np.arange(5)[:, None, None]).astype(float)
    p, valid = sigmoid(f["logits"].astype(float)), f["labels"][:, None] != 255
    loss = -(target * np.log(p) + (1 - target) * np.log(1 - p)) * valid
    f["bce"], f["bce_grad"] = loss.sum() / 24, (p - target) * valid / 24
    confusion = np.zeros((5, 5))
    for truth, pred in np.stack([f["metric_label"], f["metric_pred"]], -1).reshape(-1, 2):
        if truth != 255:
            confusion[truth, pred] += 1
    f["metric_confusion"] = confusion
    return f


def run(tmp_path: Path, arrays: dict[str, np.ndarray]) -> int:
    np.savez(tmp_path / "tiny.npz", **arrays)
    return check.main([str(tmp_path / "tiny.npz")])


def test_agreement_passes(tiny, tmp_path, capsys):
    assert run(tmp_path, tiny) == 0
    assert "7 quantities, 0 failed" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["masked_prob", "pseudo_blend_0.3", "hard_argmax",
                                  "batch_weight_alpha_1", "bce", "bce_grad", "metric_confusion"])
def test_a_difference_fails_by_name(tiny, tmp_path, capsys, name):
    values = tiny[name] = np.array(tiny[name], np.float64)
    values[...] += 2e-4 * np.abs(values).max()
    assert run(tmp_path, tiny) == 1
    assert f"1 failed\n  tiny.npz: {name}\n" in capsys.readouterr().out


def test_less_than_the_tolerance_passes(tiny, tmp_path):
    tiny["bce_grad"] = tiny["bce_grad"] + 5e-5 * np.abs(tiny["bce_grad"]).max()
    assert run(tmp_path, tiny) == 0


def test_unknown_name_fails(tiny, tmp_path, capsys):
    assert run(tmp_path, tiny | {"focal": np.array(1.0)}) == 1
    assert "unknown" in capsys.readouterr().out


@pytest.mark.parametrize("drop", ["labels", "n_old", "image_labels"])
def test_missing_input_fails(tiny, tmp_path, drop):
    del tiny[drop]
    assert run(tmp_path, tiny) == 1


def test_nothing_to_compare_fails(tiny, tmp_path):
    assert run(tmp_path, {k: v for k, v in tiny.items() if k in check.LOSS_INPUTS}) == 1
    (tmp_path / "tiny.npz").write_bytes(b"not an archive")
    assert check.main([str(tmp_path / "tiny.npz")]) == 1
    assert check.main([str(tmp_path / "absent.npz")]) == 1


def test_zero_reference(tiny, tmp_path):
    "With every gate closed loss and gradient are 0; that is compared, and anything else fails."
    tiny["image_labels"][:] = [0, 0, 0, 1]
    tiny = {k: v for k, v in tiny.items() if k in check.LOSS_INPUTS}
    zero = {"loss_seg_alpha_1": np.zeros(()), "loss_seg_alpha_1_grad": np.zeros((2, 5, 3, 4))}
    assert run(tmp_path, tiny | zero) == 0
    assert run(tmp_path, tiny | {"loss_seg": np.zeros(())}) == 1
    assert run(tmp_path, tiny | {"bce_grad": np.zeros((2, 5, 3, 4))}) == 1


def test_nan_and_shape_are_compared():
    nan, one = np.array([np.nan, 1.0]), np.array([1.0, 1.0])
    assert check.compare("x", nan, nan).passed
    for ours, reference in ((nan, one), (one, nan), (one, np.ones(3))):
        with pytest.raises(ValueError):
            check.compare("x", ours, reference)
    assert not check.compare("x", np.array(np.inf), np.array(1.0)).passed


def test_unknown_backbone_fails(tmp_path, capsys):
    arrays = {"backbone": np.array("resnet7"), "image": np.zeros((1, 3, 33, 33), np.float32),
              "classes": np.array([3, 2]), "output_stride": np.array(16), "crop": np.array(64),
              "logits": np.zeros((1, 5, 3, 3), np.float32)}
    assert run(tmp_path, arrays) == 1
    assert "resnet7" in capsys.readouterr().out


def test_stand_alone(tiny, tmp_path):
    "As a script from anywhere: exit status and closing line."
    for extra, status in ({}, 0), ({"focal": np.array(1.0)}, 1):
        np.savez(tmp_path / "tiny.npz", **(tiny | extra))
        done = subprocess.run([sys.executable, CHECK, "tiny.npz"], cwd=tmp_path, text=True, encoding="utf-8",
                              capture_output=True)
        assert done.returncode == status, done.stdout + done.stderr
        assert f"{status} failed" in done.stdout


# ------------------------------------------------- a broken function is noticed

def slightly_more(result):
    return result * 1.01


def void_as_background(result):
    return result.where(result != 255, result.new_zeros(()))


SCALED = {
    "models.localizer": ["pool_class_scores", "weighted_pool", "focal_penalty"],
    "pseudo.pamr": ["pixel_affinity", "refine"],
    "pseudo.labels": ["mask_by_labels", "one_hot", "soft_label", "segmentation_target"],
    "methods.losses": ["bce_loss", "ce_loss", "unbiased_ce_loss", "kd_loss", "unbiased_kd_loss",
                        "lwf_mc_loss", "classification_loss", "prior_loss", "feature_loss",
                        "segmentation_loss", "self_loss"],
    "engine.schedules": ["poly_factor", "warmup_factor"],
    "evaluation.metrics": ["iou", "recall", "precision", "accuracy"],
}
BROKEN = [("pseudo.labels.hard_mask", void_as_background),
          ("pseudo.labels.image_gate", lambda gate: 1 - gate),
          *[(f"{module}.{name}", slightly_more) for module in SCALED for name in SCALED[module]]]


def break_function(monkeypatch, name, change):
    module, function = f"wilson.{name}".rsplit(".", 1)
    original = getattr(sys.modules[module], function)
    monkeypatch.setattr(sys.modules[module], function, lambda *a, **k: change(original(*a, **k)))


@pytest.mark.parametrize("name, change", BROKEN, ids=[name for name, _ in BROKEN])
def test_a_broken_function_fails(monkeypatch, name, change):
    path = recorded("shared_15_5.npz")
    break_function(monkeypatch, name, change)
    assert check.main([str(path)]) == 1


def test_a_broken_network_fails(monkeypatch):
    path = recorded("shared_model_resnet50_small_pool.npz")
    break_function(monkeypatch, "models.segmenter.sliding_pool", slightly_more)
    assert check.main([str(path)]) == 1


def test_a_broken_function_fails_without_recorded_results(monkeypatch, tiny, tmp_path):
    for name in ("methods.losses.bce_loss", "pseudo.labels.soft_label"):
        with monkeypatch.context() as patched:
            break_function(patched, name, slightly_more)
            assert run(tmp_path, tiny) == 1
    assert run(tmp_path, tiny) == 0


def test_kernel_that_waits_for_a_gpu():
    "The refinement as a Triton kernel, which benchmarks/bench_gpu.sh measures, computes what `refine` does."
    pytest.importorskip("triton", reason="torch for CPUs comes without triton")
    done = subprocess.run([sys.executable, str(ROOT / "benchmarks/bench_pamr.py"), "equal"], capture_output=True, text=True, encoding="utf-8",
                          env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)})
    assert done.stdout.strip() == "equal", done.stderr
