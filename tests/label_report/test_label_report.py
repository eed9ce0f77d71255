"The report without masks: against reference implementations, on a run, and its estimates against the truth."
from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_average_precision

import wilson
from wilson.core.errors import InputError
from wilson.data import samples, splits
from wilson.label_report.grades import Grade, grade_pixels
from wilson.label_report.grading_file import open_grading, read_estimates
from wilson.label_report.held_out import labelled_images
from wilson.label_report.iou_estimate import Frame, draw_sample, estimate_iou
from wilson.label_report.measure import build_report
from wilson.label_report.presence import average_precision, best_threshold
from wilson.label_report.simulated_grader import check_estimate, check_step, grade_masks
from wilson.run.opened import open_step

STEP = "runs/shapes-striped_disc__dotted_square-overlap/wilson-s42/step1"


@pytest.fixture(scope="module")
def project(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "root"
    shutil.copytree(tiny_run, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def report(project):
    return build_report(project / STEP, device="cpu", most=6)


# ------------------------------------------------------------------------------------- presence


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_is_that_of_torchmetrics(ties):
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores, truth = rng.random(40), rng.random(40) < 0.4
        scores = scores.round(1) if ties else scores
        expected = binary_average_precision(torch.tensor(scores), torch.tensor(truth.astype(int))).item()
        assert average_precision(scores, truth) == pytest.approx(expected, abs=1e-5)


def test_the_threshold_has_the_greatest_f1():
    rng = np.random.default_rng(0)
    def f1(t, scores, truth): return 2 * ((scores >= t) & truth).sum() / ((scores >= t).sum() + truth.sum())
    for _ in range(20):
        scores, truth = rng.random(30), rng.random(30) < 0.4
        assert f1(best_threshold(scores, truth), scores, truth) == max(f1(t, scores, truth) for t in scores)


# ------------------------------------------------------------------------------------- a run


def test_report_has_its_tables_and_writes_a_page(report, project):
    assert report.classes == ("dotted square",) and report.images == 16
    assert [*report.tables] == ["summary", "presence", "stability", "agreement", "forgetting"]
    shares = [f.same + f.background + f.other_old + f.new + f.denied for f in report.forgetting if f.pixels]
    assert shares == pytest.approx([1] * len(shares))
    page = report.write("out/report.html").read_text(encoding="utf-8")
    assert page.count("<table") == 5 and "<script" not in page and "dotted square" in page
    assert json.loads(json.dumps(report.to_json()))["run"].endswith("wilson-s42/step1")
    assert "dotted square" in report._repr_html_() and "Stability" in str(report)


def test_no_mask_is_read(report, project, monkeypatch):
    def refuse(path, *rest):
        raise AssertionError(f"{path} was read")
    for module, name in ((samples, "mask_of"), (samples, "read_mask"), (splits, "read_mask")):
        monkeypatch.setattr(module, name, refuse)
    assert build_report(project / STEP, device="cpu", most=6).to_json() == report.to_json()


def test_own_images_need_no_old_data(project, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    names = sorted(p.name for p in (project / "data/few/JPEGImages").glob("val_*"))[:6]
    for name in names:
        shutil.copy(project / "data/few/JPEGImages" / name, photos)
    table = {name: ["dotted square"] if n % 2 else [] for n, name in enumerate(names)}
    (tmp_path / "labels.json").write_text(json.dumps(table), encoding="utf-8")
    data = project / "data/few"
    data.rename(project / "data/away")
    try:
        found = wilson.load_run(project / STEP, device="cpu").label_report(photos, tmp_path / "labels.json")
    finally:
        (project / "data/away").rename(data)
    assert found.images == 6 and found.presence[0].positives == 3 and not found.agreement
    assert [*found.tables] == ["summary", "presence", "stability", "forgetting"]
    assert any("there is no such folder" in note for note in found.notes)


def test_without_the_old_model_forgetting_is_left_out(project):
    base = project / "runs/shapes-striped_disc__dotted_square-overlap/base-s42"
    away = base.with_name("away")
    base.rename(away)
    try:
        found = build_report(project / STEP, device="cpu", most=4)
    finally:
        away.rename(base)
    assert not found.forgetting and not found.agreement and found.presence
    assert any("Forgetting is not measured" in note for note in found.notes)


def test_a_base_step_has_a_report_too(project):
    found = build_report(project / "runs/shapes-striped_disc__dotted_square-overlap/base-s42/step0", device="cpu", most=2)
    assert found.classes == ("striped disc",) and not found.forgetting and found.presence[0].average_precision is not None


# ------------------------------------------------------------------------------------- grades


def disc(y, x, r):
    return (np.arange(48)[:, None] - y) ** 2 + (np.arange(48) - x) ** 2 < r * r


def scene(rng, shift, miss, alarm):
    "A prediction and the truth of one image; half of the images show no disc."
    y, x, r, there = *rng.uniform(12, 36, 2), rng.uniform(4, 14), rng.random() < 0.5
    predicted = rng.random() > miss if there else rng.random() < alarm
    moved = disc(y + shift * rng.normal(), x + shift * rng.normal(), r * rng.uniform(0.7, 1.2))
    return moved & predicted, disc(y, x, r) & there


@pytest.mark.parametrize("count", [20, 40, 200])
def test_intervals_contain_the_truth(count):
    "Nominally 95 % do; at least 87 % of 60 are asked for. The estimate is not far off on average."
    checks = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        scenes = [scene(rng, rng.uniform(0, 5), rng.uniform(0, 0.4), 0.2) for _ in range(120)]
        checks.append(check_estimate("disc", scenes.__getitem__, len(scenes), count, seed))
    assert sum(c.estimate.contains(c.iou) for c in checks) >= 52, [str(c) for c in checks if not c.estimate.contains(c.iou)]
    assert abs(np.mean([c.estimate.iou - c.iou for c in checks])) < 0.03
    assert np.mean([c.estimate.high - c.estimate.low for c in checks]) < 0.3


def test_more_grades_narrow_the_interval():
    rng = np.random.default_rng(1)
    scenes = [scene(rng, 3, 0.3, 0.2) for _ in range(300)]
    few, many = (check_estimate("disc", scenes.__getitem__, 300, count).estimate for count in (10, 100))
    assert many.high - many.low < few.high - few.low


def test_a_grade_stands_for_what_its_masks_have():
    "Intersection and union of single images: within what a quarter leaves open."
    rng = np.random.default_rng(2)
    for prediction, truth in (scene(rng, 4, 0.2, 0.3) for _ in range(200)):
        both, either = (prediction & truth).sum(), (prediction | truth).sum()
        intersection, union = grade_pixels(grade_masks(prediction, truth), prediction.sum(), truth.size)
        assert abs((both / either if either else 0) - (intersection / union if union else 0)) <= 0.126


def test_false_alarms_need_no_grade():
    "By their labels they are known: their pixels belong to the union alone."
    frame = Frame("cow", tuple("abcdefghij"), np.full(10, 100), np.full(10, 50), np.arange(10) < 8)
    assert {*draw_sample(frame, 40)} == {*range(8)}
    found = estimate_iou(frame, {i: Grade(4, false=True) for i in "abcdefgh"})
    assert found.iou == pytest.approx(8 * 50 * 0.9375 / 500)


def test_a_trained_step_is_graded_by_its_masks(project):
    "All through, on a run: the sheet's file, the estimates, and their place in the report."
    opened = open_step(project / STEP)
    check = check_step(opened)["dotted square"]
    assert check.estimate.contains(check.iou), str(check)
    held_out = labelled_images(opened)
    sheet = open_grading(opened, held_out, scan=lambda: facts(opened, held_out))
    for image in sheet.sample:
        sheet.save_grade(image, Grade(0, missed=True, area=0.1) if sheet.frame.predicted[held_out.ids.index(image)] == 0 else Grade(1))
    estimate, = read_estimates(opened, held_out)
    assert estimate == sheet.estimate() and estimate.graded == len(sheet.sample)
    assert build_report(project / STEP, device="cpu", most=2).tables["summary"].rows[0][-1].startswith(f"{100 * estimate.iou:.1f} [")


def facts(opened, held_out):
    from wilson.label_report.predictions import StepPredictor, scan_images
    return scan_images(StepPredictor(opened), held_out)


def test_a_class_without_images_cannot_be_graded(project, tmp_path):
    opened = open_step(project / STEP)
    (tmp_path / "labels.csv").write_text("image,class\nval_00000,striped disc\n", encoding="utf-8")
    held_out = labelled_images(opened, project / "data/few/JPEGImages", tmp_path / "labels.csv")
    with pytest.raises(InputError, match="No image of .* has the label 'dotted square'"):
        open_grading(opened, held_out)
    with pytest.raises(InputError, match="count=0: expected the number of images"):
        open_grading(opened, held_out, count=0)
