"""The grading sheet in a real browser, without Jupyter: keys, marks, undo, and grades that stay.

Needs Debian's chromium and playwright. WILSON_SCREENSHOTS names a folder that keeps the screenshots.
"""
from __future__ import annotations

import base64
import json
import shutil

import numpy as np
import pytest
from browsing import SOON, chromium, page, screenshot  # noqa: F401 (two are fixtures)

from wilson.core.errors import InputError
from wilson.label_report.grading_file import read_grading
from wilson.label_report.grades import Grade
from wilson.widgets.grading import GradingAnswers, GradingSheet, answer_grading

STEP = "runs/shapes-striped_disc__dotted_square-overlap/wilson-s42/step1"
# a model as anywidget gives it: a question goes to the test, its answer comes back as a message with buffers
OPEN = """async code => {
    const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
    const widget = (await import(url)).default, heard = new Set();
    const model = {
        on: (_, callback) => heard.add(callback), off: (_, callback) => heard.delete(callback),
        send: async (question) => {
            const { fields, buffers } = await window.kernel(question);
            const bytes = buffers.map((text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer));
            for (const callback of heard) callback({ id: question.id, ...fields }, bytes);
        } };
    window.ended = widget.render({ model, el: document.getElementById("root") });
}"""


@pytest.fixture
def answers(tiny_run, tmp_path, monkeypatch):
    root = tmp_path / "root"
    shutil.copytree(tiny_run, root)
    monkeypatch.chdir(root)
    images = root / "data/few/JPEGImages"
    table = {path.name: ["dotted square"] if n < 6 else [] for n, path in enumerate(sorted(images.glob("val_*")))}
    (root / "labels.json").write_text(json.dumps(table), encoding="utf-8")
    return GradingAnswers(root / STEP, images, root / "labels.json", count=6, device="cpu", say=lambda text: None)


@pytest.fixture
def sheet(page, answers):  # noqa: F811
    "A function that opens the sheet on the page, again if it was open."
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))

    def kernel(question):
        try:
            answer = answer_grading(answers, question)
        except InputError as e:
            return {"fields": {"error": str(e)}, "buffers": []}
        return {"fields": answer.fields, "buffers": [base64.b64encode(b).decode() for b in answer.buffers]}

    page.expose_function("kernel", kernel)

    def opened():
        page.set_content("<!doctype html><div id='root'></div>")
        page.add_style_tag(content=GradingSheet._css)
        page.evaluate(OPEN, GradingSheet._esm)
        page.wait_for_selector(".wilson-grading[data-ready='dotted square']")
        return answers.file

    yield opened
    assert not wrong


def settled(page, graded: int, image: str) -> None:  # noqa: F811
    "Wait until so many grades are saved and an image is on the page."
    page.wait_for_selector(f".wilson-grading[data-saved='{graded}'][data-shown='{image}']")


def test_a_sheet_is_graded_by_key(page, sheet, answers, tmp_path):  # noqa: F811
    file = sheet()
    ids, predicted = file.sample, dict(zip(file.frame.ids, file.frame.predicted))
    n = len(ids)
    assert n == 6
    # whatever the short training predicts, the page takes all but the second image for images with a prediction
    for position, image in enumerate(ids):
        file.frame.predicted[file.frame.ids.index(image)] = 0 if position == 1 else 400
    file._write()
    file = sheet()
    assert page.locator(".wg-count").text_content() == f"0 of {n} graded"
    assert page.locator("figure img").count() == 2 and page.locator("figcaption").first.text_content() == ids[0]
    page.keyboard.press("f")
    page.keyboard.press("3")
    settled(page, 1, ids[1])
    assert read_grading(file.path).grades == {ids[0]: Grade(3, false=True)}
    assert "Nothing is predicted here" in page.locator(".wg-question").text_content()
    page.keyboard.press("2")  # of nothing, nothing fits half
    assert page.locator(".wg-grade-2").is_disabled() and page.locator(".wg-count").text_content() == f"1 of {n} graded"
    page.keyboard.press("0")  # missed: how large is it?
    assert page.locator(".wg-areas").is_visible() and not page.locator(".wg-grades").is_visible()
    page.keyboard.press("Escape")
    assert page.locator(".wg-grades").is_visible()
    page.keyboard.press("0")
    page.keyboard.press("3")
    settled(page, 2, ids[2])
    assert read_grading(file.path).grades[ids[1]] == Grade(0, missed=True, area=0.1)
    screenshot(page, "grading-sheet", tmp_path)
    page.keyboard.press("u")  # the last grade is taken back, and its image is open again
    settled(page, 1, ids[1])
    assert [*read_grading(file.path).grades] == [ids[0]]
    page.keyboard.press("4")
    settled(page, 2, ids[2])
    file = sheet()  # the page again: it goes on where it was left
    page.wait_for_selector(f".wilson-grading[data-shown='{ids[2]}']")
    assert file.grades == {ids[0]: Grade(3, false=True), ids[1]: Grade(4)} and predicted.keys() == {*file.frame.ids}
    for k in range(2, n):
        page.locator(".wg-grade-2").click()
        page.wait_for_selector(f".wilson-grading[data-saved='{k + 1}']")
    assert page.locator(".wg-count").text_content() == f"{n} of {n} graded"
    assert page.locator(".wg-estimate").text_content().startswith("IoU ")
    assert np.isfinite(answers.file.estimate().iou)


def test_a_grade_that_cannot_be_saved_is_not_shown_as_saved(page, sheet, answers, monkeypatch):  # noqa: F811
    file = sheet()

    def refuse(image, grade):
        raise InputError("the disk is full")
    monkeypatch.setattr(file, "save_grade", refuse)
    page.keyboard.press("4")
    page.wait_for_selector(".ws-status.ws-wrong:has-text('Not saved: the disk is full')", timeout=SOON)
    assert page.locator(".wg-count").text_content() == f"0 of {len(file.sample)} graded" and not file.grades
