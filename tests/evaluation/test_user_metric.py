"""A metric of one's own is one file outside of the repository; everything that shows scores shows it."""
from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import rank_jobs
from conftest import QUICK

from wilson.analysis.charts import read_curve
from wilson.analysis.comparison import comparison_figures
from wilson.analysis.results import evaluate_saved_step, result_table
from wilson.analysis.run_list import run_list, run_text
from wilson.analysis.tables import class_table, score_table
from wilson.cli.command import main
from wilson.core.errors import InputError
from wilson.engine.launch import launch
from wilson.experiments.measure import metric_classes
from wilson.experiments.train import run_training
from wilson.run.config import parse_config
from wilson.run.records import read_records, group_variants

MINE = '''
"Boundary IoU (Cheng et al., CVPR 2021), and how many pixels a map leaves undecided."
import torch
from torch.nn import functional as F

from wilson.evaluation.metrics import Metric, iou_of_counts


class BoundaryIoU(Metric):
    "IoU of the pixels within two of the edge of their class."
    name, title, digits, by = "boundary_iou", "boundary IoU", 2, "group"

    def __init__(self, step):
        super().__init__(step)
        self.add_state("counts", torch.zeros(3, step.n_classes, dtype=torch.int64))  # hit, true, predicted

    def update(self, prediction, truth, batch):
        known = (truth != 255) & (prediction != 255)
        for c in range(self.step.n_classes):
            true, found = (edge(labels == c) & known for labels in (truth, prediction))
            self.counts[:, c] += torch.stack([(true & found).sum(), true.sum(), found.sum()])

    def ious(self):
        hit, true, found = self.counts.double()
        return iou_of_counts(hit, true, found).where(true > 0, torch.nan)

    def compute(self):
        return self.by_group(self.ious())


class BoundaryByClass(BoundaryIoU):
    name, title, by = "boundary_iou_by_class", "boundary IoU", "class"

    def compute(self):
        return self.by_class(self.ious())


class Error(Metric):
    name, direction, unit, digits = "error", "less", "", 3

    def __init__(self, step):
        super().__init__(step)
        self.add_state("pixels", torch.zeros(2, dtype=torch.int64))

    def update(self, prediction, truth, batch):
        known = (truth != 255) & (prediction != 255)
        self.pixels += torch.stack([(known & (prediction != truth)).sum(), known.sum()])

    def compute(self):
        return self.pixels[0] / self.pixels[1]


class Later(Error):
    name = "later"


def edge(mask):
    return mask & (F.max_pool2d((~mask)[:, None].float(), 5, 1, 2)[:, 0] > 0)
'''
SMALL = {option[2:].replace("-", "_"): value for option, value in zip(QUICK[::2], QUICK[1::2])}
GROUPS = {"old", "new", "base", "added", "all"}


def metrics(folder: Path) -> str:
    "The file, written, and what the parameter `metrics` says of it."
    (folder / "mine.py").write_text(MINE, encoding="utf-8")
    return ",".join(f"{folder / 'mine.py'}:{name}" for name in ("BoundaryIoU", "BoundaryByClass", "Error"))


def boundary(mask: np.ndarray) -> np.ndarray:
    "Pixels of a mask within two of one outside, by loops."
    found = np.zeros_like(mask)
    for y, x in zip(*mask.nonzero()):
        found[y, x] = not mask[max(0, y - 2): y + 3, max(0, x - 2): x + 3].all()
    return found


def test_two_processes_count_what_one_does(root, tmp_path):
    "To the last bit, over a number of images that two does not divide; the numbers are those of the definition."
    parameters = dict(dataset="shapes", data_root="data/few", task="10-5", crop_size=48, batch_size=5, device="cpu", metrics=metrics(tmp_path))
    one = rank_jobs.scored_by_metrics(parameters)
    assert one == launch(rank_jobs.scored_by_metrics, (parameters,), 2, root / "logs", "cpu")
    assert one["boundary_iou"].keys() == GROUPS and 10 < one["boundary_iou"]["all"] < 90 and 0 < one["error"] < 0.5
    assert one["boundary_iou"] != one["later_ignored"]["boundary_iou"] and json.loads(json.dumps(one)) == one


def test_boundary_iou_by_loops(tmp_path):
    "On one image, with void and with pixels that have no label."
    import torch
    from wilson.data.tasks import Task
    step, random = Task("voc", "cat,dog|cow").step(1), np.random.default_rng(0)
    truth = np.kron(random.integers(0, 4, (4, 4)), np.ones((6, 6), int))
    found = np.roll(truth, 1, 0)
    truth[:2], found[:, 20:] = 255, 255
    metric = metric_classes(metrics(tmp_path))[0](step)
    metric.update(torch.from_numpy(found)[None], torch.from_numpy(truth)[None], None)
    known, ious = (truth != 255) & (found != 255), []
    for c in range(4):
        a, b = (boundary(labels == c) & known for labels in (truth, found))
        ious.append((a & b).sum() / (a | b).sum())
    assert metric.scores()["boundary_iou"]["all"] == pytest.approx(100 * np.mean(ious), abs=1e-4)
    assert metric.scores()["boundary_iou"]["new"] == pytest.approx(100 * ious[3], abs=1e-4)


def test_everything_that_shows_scores_shows_it(root, tmp_path, capsys):
    "One file is all there is to it; tables of the finished run do not even need that."
    named = metrics(tmp_path)
    last = run_training(parse_config(SMALL | {"metrics": named}))[-1]
    recorded = json.loads((last.path / "metrics.json").read_text(encoding="utf-8"))
    assert recorded["metrics"]["boundary_iou"] == {"title": "boundary IoU", "direction": "more", "unit": "%", "digits": 2, "by": "group", "column": True}
    assert recorded["metrics"]["error"]["direction"] == "less"
    for score in (*recorded["scores"].values(), recorded["localizer"], *recorded["pseudo_labels"].values()):
        assert score["boundary_iou"].keys() == GROUPS == score["later_ignored"]["boundary_iou"].keys() and 0 < score["error"] < 1
    assert "metrics" not in json.loads((last.path / "config.json").read_text(encoding="utf-8"))["identity"]
    published = recorded["scores"]["published"]
    for tag, value in (("boundary_iou/all", published["boundary_iou"]["all"]), ("error/all", published["error"])):
        assert read_curve(last.path, tag) == {1: pytest.approx(value, rel=1e-5)}, tag
    lines = [line.split() for line in str(result_table([last])).splitlines() if "published, boundary IoU" in line]
    assert [line[-1] for line in lines] == [f"{published['boundary_iou']['all']:.2f}"]

    # a step scored again, with metrics and without
    again = evaluate_saved_step(last.path, "cpu", metrics=named)
    assert again.metrics["scores"] == recorded["scores"] and again.metrics["metrics"] == recorded["metrics"]
    assert evaluate_saved_step(last.path, "cpu", metrics=metric_classes(named)).metrics == again.metrics
    assert "boundary_iou" not in evaluate_saved_step(last.path, "cpu").metrics["scores"]["published"]
    assert main(["evaluate", str(last.path), "--device", "cpu", "--metrics", named.split(",")[-1]]) == 0
    printed, = [line.split()[3:] for line in capsys.readouterr().out.splitlines() if "published, error" in line]
    assert printed == ["–"] * 4 + [f"{published['error']:.3f}"]

    run_training(parse_config(SMALL | {"metrics": f"{named},{tmp_path / 'mine.py'}:Later"}))
    assert f"it was not scored by later: wilson evaluate {last.path.relative_to(root)} --metrics {named}," in capsys.readouterr().out

    (tmp_path / "mine.py").unlink()
    with open("runs/results.csv", encoding="utf-8", newline="") as f:
        row = [*csv.DictReader(f)][-1]
    assert float(row["published_boundary_iou_all"]) == pytest.approx(published["boundary_iou"]["all"], abs=1e-4)
    assert float(row["published_error_all"]) == pytest.approx(published["error"], abs=1e-5)
    assert "| step | state | size | mean IoU in % | boundary IoU in % | error | used by |" in run_text(run_list())
    found, = group_variants(read_records()).values()
    table = score_table(found, ["published"])
    assert [c.name for c in table.columns] == ["old", "new", "all", "boundary IoU, old", "boundary IoU, new", "boundary IoU, all", "error", "runs"]
    assert [(c.better, c.digits) for c in table.columns[3:7]] == [("more", 2)] * 3 + [("less", 3)]
    assert [cell for cell, in table.rows["wilson"][3:7]] == [*(published["boundary_iou"][g] for g in ("old", "new", "all")), published["error"]]
    assert main(["compare"]) == 0
    assert "boundary IoU, all, whole" in capsys.readouterr().out
    table = class_table(found)
    assert [c.name for c in table.columns] == ["wilson", "wilson, boundary IoU"]
    assert {name: cells[1][0] for name, cells in table.rows.items()} == published["boundary_iou_by_class"]
    drawn = comparison_figures(found, read_records(), kinds=["scores", "classes", "curves"])
    assert drawn.keys() == {"scores", "scores boundary_iou", "scores error", "classes", "classes boundary_iou_by_class", "curves"}
    assert [ax.get_title() for ax in drawn["curves"].axes][-2:] == ["boundary_iou/all", "error/all"]


def test_a_metric_that_cannot_be_used_stops_nothing_late(root, tmp_path):
    "Before the first update, and with the place of the mistake."
    metrics(tmp_path)
    for name, words in (("Boundary", "Did you mean 'BoundaryIoU'"), ("edge", "expected a class that derives from wilson's Metric")):
        with pytest.raises(InputError, match=words):
            run_training(parse_config(SMALL | {"metrics": f"{tmp_path / 'mine.py'}:{name}"}))
    assert not [*Path("runs").rglob("config.json")]
