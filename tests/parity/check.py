"""Compare wilson with recorded results: `python tests/parity/check.py FILE.npz …`

A file holds inputs and results under plain names, in one of two forms: a *loss fixture* (losses,
pseudo-labels, schedules and metrics on given logits) or a *model fixture* (outputs of a network
whose weights are made from their names). Every result is computed anew by wilson's public
functions. The exit status is 1 when one differs, when a name is neither a known input nor a known
result, or when nothing was compared.
"""
from __future__ import annotations

import argparse
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # works from a checkout, uninstalled

from wilson.evaluation import metrics  # noqa: E402
from wilson.models import localizer, segmenter  # noqa: E402
from wilson.pseudo import labels, pamr  # noqa: E402
from wilson.engine import schedules  # noqa: E402
from wilson.methods import losses  # noqa: E402

TOLERANCE = 1e-4   # relative: max |a - b| / max |b|
ZERO_SCALE = 1e-4  # takes the place of max |b| where b is zero everywhere
EXACT = re.compile("metric_confusion|pseudo_hard_thresholded|hard_argmax|batch_weight.*|"
                   "(localizer_)?keys")

LOSS_INPUTS = {"n_old", "n_new", "image_labels", "images", "localizer_logits", "logits",
               "logits_old", "features", "features_old", "labels", "labels_new_only", "pamr_image",
               "localizer_prob", "metric_pred", "metric_label"}
MODEL_INPUTS = {"backbone", "image", "classes", "output_stride", "crop"}

Quantities = dict[str, Callable[[], object]]


class Result(NamedTuple):
    name: str
    error: float      # inf: could not be computed or compared
    tolerance: float  # 0: exact
    note: str = ""

    @property
    def passed(self) -> bool:
        return self.error < self.tolerance or self.error == 0


def relative_error(ours: np.ndarray, reference: np.ndarray) -> float:
    "max |ours - reference| / max |reference|; NaN must stand in the same places."
    if ours.shape != reference.shape:
        raise ValueError(f"shape {ours.shape}, expected {reference.shape}")
    ours, reference = ours.astype(np.float64), reference.astype(np.float64)
    if not np.array_equal(np.isnan(ours), np.isnan(reference)):
        raise ValueError("NaN in other places than expected")
    finite = ~np.isnan(reference)
    if not finite.any():
        return 0.0
    difference = np.abs(ours - reference)[finite].max()
    return float(difference / (np.abs(reference[finite]).max() or ZERO_SCALE))


def compare(name: str, ours: object, reference: np.ndarray) -> Result:
    "One quantity against its recorded value."
    ours = ours.detach().cpu().numpy() if isinstance(ours, Tensor) else np.asarray(ours)
    if not EXACT.fullmatch(name):
        return Result(name, relative_error(ours, reference), TOLERANCE)
    if np.array_equal(ours, reference):
        return Result(name, 0.0, 0.0)
    if ours.shape != reference.shape:
        raise ValueError(f"shape {ours.shape}, expected {reference.shape}")
    return Result(name, float((ours != reference).mean()), 0.0, "share of entries that differ")


# ---------------------------------------------------------------- loss fixtures

def loss_quantities(arrays: dict[str, np.ndarray]) -> Quantities:
    "How wilson computes each result of a loss fixture; nothing runs before it is asked for."
    f = SimpleNamespace(**{k: torch.as_tensor(v) for k, v in arrays.items()})
    for name in ("localizer_logits", "logits", "features"):
        if name in arrays:
            getattr(f, name).requires_grad_()
    n_old = int(f.n_old)
    names = [str(i) for i in range(n_old + int(f.n_new))]
    new_labels = lambda: f.image_labels[:, n_old - 1:]
    masked = lambda: labels.mask_by_labels(f.localizer_prob, f.image_labels)
    soft = lambda alpha: labels.soft_label(masked(), alpha)
    old_prob = lambda: f.logits_old.sigmoid()
    masked_pamr = lambda: labels.mask_by_labels(f.pamr_out, f.image_labels)
    hard = lambda: labels.hard_mask(masked_pamr())
    gate = lambda alpha: labels.image_gate(soft(alpha), new_labels(), n_old)
    target = lambda alpha: labels.segmentation_target(old_prob(), soft(alpha), n_old)

    def confusion():
        return metrics.count_confusion(f.metric_pred, f.metric_label, len(names))[:, :-1]

    def score(key):
        value = metrics.scores(confusion(), names, (n_old, int(f.n_new)))[key]
        return (value["all"] if key == "miou" else value) / 100

    def rates(factor):  # 60 iterations from 0.01
        return [0.01 * factor(i, 60) for i in range(60)]

    # name: (value, tensor that `<name>_grad` is taken for)
    class_scores = lambda: localizer.pool_class_scores(f.localizer_logits)
    valued = {
        "cls_score": (class_scores, None),
        "cls_score_no_focal": (lambda: localizer.weighted_pool(f.localizer_logits), None),
        "loss_cls": (lambda: losses.classification_loss(class_scores(), new_labels(), n_old),
                     "localizer_logits"),
        "loss_loc": (lambda: losses.prior_loss(f.localizer_logits, f.logits_old),
                     "localizer_logits"),
        "loss_de": (lambda: losses.feature_loss(f.features, f.features_old), "features"),
        "loss_self": (lambda: losses.self_loss(f.localizer_logits, hard(), f.image_labels),
                      "localizer_logits"),
        "bce": (lambda: losses.bce_loss(f.logits, f.labels), "logits"),
        "ce": (lambda: losses.ce_loss(f.logits, f.labels), "logits"),
        "unce": (lambda: losses.unbiased_ce_loss(f.logits, f.labels_new_only, n_old),
                 "logits"),
        "kd": (lambda: losses.kd_loss(f.logits, f.logits_old), "logits"),
        "unkd": (lambda: losses.unbiased_kd_loss(f.logits, f.logits_old), "logits"),
        "icarl_disjoint": (lambda: losses.lwf_mc_loss(f.logits, f.logits_old, f.labels_new_only,
                                                      n_old), "logits"),
        "pamr_out": (lambda: pamr.refine(f.pamr_image, f.localizer_prob), None),
        "pamr_out_1iter": (lambda: pamr.refine(f.pamr_image, f.localizer_prob, 1, (1, 2)),
                           None),
        "masked_prob": (masked, None),
        "masked_pamr": (masked_pamr, None),
        "pseudo_hard_thresholded": (lambda: labels.one_hot(hard(), len(names)), None),
        "hard_argmax": (lambda: soft(1.0), None),
        "lr_poly": (lambda: rates(schedules.poly_factor), None),
        "lr_warmup": (lambda: rates(lambda i, n: schedules.warmup_factor(i, n, 20)), None),
        "metric_confusion": (confusion, None),
        "metric_iou": (lambda: metrics.iou(confusion()), None),
        "metric_miou": (lambda: score("miou"), None),
        "metric_macc": (lambda: score("mean_accuracy"), None),
        "metric_acc": (lambda: score("accuracy"), None),
        "metric_mprec": (lambda: score("mean_precision"), None),
    }
    for name in arrays:  # those that carry an α in their name; 0.5 where it is left out
        if blend := re.fullmatch(r"pseudo_blend_([\d.]+)", name):
            valued[name] = (lambda a=float(blend[1]): soft(a), None)
        elif match := re.fullmatch(r"(batch_weight|seg_target|loss_seg)(?:_alpha_([\d.]+))?",
                                   name):
            a = float(match[2] or 0.5)
            valued[name] = {
                "batch_weight": (lambda a=a: gate(a), None),
                "seg_target": (lambda a=a: target(a), None),
                "loss_seg": (lambda a=a: losses.segmentation_loss(f.logits, target(a), gate(a)),
                             "logits"),
            }[match[1]]

    quantities: Quantities = {name: value for name, (value, _) in valued.items()}
    for name, (value, leaf) in valued.items():
        if leaf in arrays:
            quantities[name + "_grad"] = partial(gradient, value, getattr(f, leaf))
    return quantities


def gradient(value: Callable[[], Tensor], leaf: Tensor) -> Tensor:
    return torch.autograd.grad(value(), leaf)[0]


def pamr_from_images(arrays: dict[str, np.ndarray]) -> Tensor:
    "The refined masks again, this time from the normalised images at full size."
    mean, std = torch.tensor([.485, .456, .406]), torch.tensor([.229, .224, .225])
    images = torch.as_tensor(arrays["images"]) * std[:, None, None] + mean[:, None, None]
    return pamr.refine(images, torch.as_tensor(arrays["localizer_prob"]))


# ---------------------------------------------------------------- model fixtures

def tensor_for(key: str, shape: tuple[int, ...]) -> np.ndarray:
    "The weights that belong to a tensor's name (published, `module.` in front)."
    numbers = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    z = numbers.standard_normal(shape).astype(np.float32)
    if key.endswith("running_var"):
        return np.exp(0.1 * z)
    if key.endswith("running_mean"):
        return 0.1 * z
    if len(shape) == 4:
        return z * np.sqrt(1.6 / np.prod(shape[1:]))
    if key.endswith("bias"):
        return 0.1 * z
    return 1 + 0.1 * z


def published(key: str) -> str:
    "The published implementation calls the backbone `body`."
    return f"body.{key[9:]}" if key[:9] == "backbone." else key


def with_named_weights(network: torch.nn.Module) -> torch.nn.Module:
    "The network in eval mode, every floating-point tensor made from its name."
    state = network.state_dict()
    for key, value in state.items():
        if value.is_floating_point():
            made = tensor_for("module." + published(key), tuple(value.shape))
            state[key] = torch.as_tensor(np.asarray(made, np.float32))
    network.load_state_dict(state, strict=True)
    return network.eval()


def model_quantities(arrays: dict[str, np.ndarray]) -> Quantities:
    "Outputs of segmenter and localizer; the networks are built and run at the first question."
    made = SimpleNamespace(error=None, output=None)

    @torch.no_grad()
    def outputs():
        if made.error:
            raise made.error
        if made.output is None:
            try:
                classes = [int(n) for n in arrays["classes"]]
                made.segmenter = with_named_weights(segmenter.make_segmenter(
                    str(arrays["backbone"]), classes, output_stride=int(arrays["output_stride"]),
                    crop_size=int(arrays["crop"]), norm="plain"))
                output = made.segmenter(torch.as_tensor(arrays["image"]))
                made.localizer = with_named_weights(
                    localizer.Localizer(output.features.shape[1], sum(classes), norm="plain"))
                made.localizer_logits = made.localizer(output.features)
                made.output = output
            except Exception as error:
                made.error = error
                raise
        return made.output

    return {
        "logits": lambda: outputs().logits,
        "pre_logits": lambda: outputs().embedding,
        "body_mean": lambda: outputs().features.mean((2, 3)),
        "localizer_logits": lambda: outputs() and made.localizer_logits,
        "keys": lambda: outputs() and sorted(map(published, made.segmenter.state_dict())),
        "localizer_keys": lambda: outputs() and sorted(made.localizer.state_dict()),
    }


# ---------------------------------------------------------------- files

def check_arrays(arrays: dict[str, np.ndarray]) -> Iterator[Result]:
    "A result for every name that is not an input."
    if "backbone" in arrays:
        inputs, form = MODEL_INPUTS, model_quantities
        arrays |= {key: np.sort(arrays[key]) for key in arrays.keys() & {"keys", "localizer_keys"}}
    elif {"n_old", "n_new"} <= arrays.keys():
        inputs, form = LOSS_INPUTS, loss_quantities
    else:
        yield Result("(form)", float("inf"), 0.0,
                     "holds neither `backbone` (model) nor `n_old` and `n_new` (losses)")
        return
    try:
        quantities = form(arrays)
    except Exception as error:
        yield Result("(inputs)", float("inf"), 0.0, f"{type(error).__name__}: {error}")
        return
    for name, reference in arrays.items():
        if name in inputs:
            continue
        if name not in quantities:
            yield Result(name, float("inf"), 0.0, "unknown: neither an input nor a quantity")
            continue
        yield attempt(name, quantities[name], reference)
        if name == "pamr_out" and "images" in arrays:
            yield attempt("pamr_out (from images)", lambda: pamr_from_images(arrays), reference)


def attempt(name: str, compute: Callable[[], object], reference: np.ndarray) -> Result:
    "Compare, and turn whatever goes wrong in the computation into a failing result."
    try:
        return compare(name, compute(), reference)
    except Exception as error:
        tolerance = 0.0 if EXACT.fullmatch(name) else TOLERANCE
        return Result(name, float("inf"), tolerance, f"{type(error).__name__}: {error}")


def check_file(path: str | Path) -> list[Result]:
    "Results of one file; prints a line for each."
    print(f"{path}\n  {'quantity':32}{'error':>10}{'tolerance':>12}")
    try:
        with np.load(path) as data:
            arrays = {key: data[key] for key in data.files}
    except Exception as error:
        results = [Result("(file)", float("inf"), 0.0, f"{type(error).__name__}: {error}")]
    else:
        results = list(check_arrays(arrays))
        results = results or [Result("(file)", float("inf"), 0.0, "holds nothing to compare")]
    for r in results:
        tolerance = f"{r.tolerance:.0e}" if r.tolerance else "exact"
        notes = "" if r.passed else "  FAILED " + r.note
        print(f"  {r.name:32}{r.error:10.1e}{tolerance:>12}{notes}".rstrip())
    return results


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE")
    results = [(path, r) for path in parser.parse_args(argv).files for r in check_file(path)]
    failed = [f"{Path(path).name}: {r.name}" for path, r in results if not r.passed]
    print(f"{len(results)} quantities, {len(failed)} failed", *failed, sep="\n  ")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
