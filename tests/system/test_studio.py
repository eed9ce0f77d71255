"""The studio as a reader meets it: JupyterLab and a real browser.

Needs Debian's chromium and playwright. WILSON_SCREENSHOTS names a folder that keeps the screenshots.
"""
from __future__ import annotations

import csv
import json
import shutil

import nbformat
import pytest
from browsing import (IS_OPEN, PATIENCE, RUN_ALL, SOON, alone, chromium, lab, page,  # noqa: F401 (three are fixtures)
                      screenshot)
from conftest import REPO, waited
from PIL import Image

from wilson import testing
from wilson.experiments.train import run_training
from wilson.run.config import parse_config

SHORT = "shapes-15-5-overlap/wilson-s42"
PIXELS = """canvas => {
    const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let sum = 0;
    for (let i = 0; i < data.length; i++) sum = (sum * 31 + data[i]) >>> 0;
    return sum;
}"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    "A project of its own with the notebook and two short runs."
    folder = tmp_path_factory.mktemp("project")
    (folder / "settings.ini").touch()
    shutil.copy(REPO / "nbs/explore.ipynb", folder)
    shutil.copy(REPO / "nbs/compare.ipynb", folder)
    without = (folder / "explore.ipynb").read_text(encoding="utf-8").replace('runs_dir = \\"runs\\"', 'runs_dir = \\"no_runs\\"')
    assert "no_runs" in without
    (folder / "without.ipynb").write_text(without, encoding="utf-8")
    testing.demo_data(folder / "data/few", n_val=24)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        testing.tiny_run({"epochs": "1/2"})
        run_training(parse_config(testing.TINY | {"epochs": "1/2", "alpha": 1.0, "name": "hard-s42", "step": 1}))
    return folder


OWN = """
from torch import Tensor
from torch.nn import functional as F
from wilson.core.params import param
from wilson.evaluation.maps import MapKind
from wilson.pseudo.targets import Soften


class Sure(MapKind):
    name, reads, help, indexed, at_first = "sure", ("segmenter_logits",), "the prediction where it is sure", True, True

    def labels(self, maps):
        most = maps.soft("prediction").amax(0)[None, None]
        unsure = F.interpolate(most, maps.size, mode="bilinear")[0, 0] < 0.6
        return maps.labels("prediction").masked_fill(unsure, 255)


class Sharpen(Soften):
    sharpness: float = param(1.0, "power of the probabilities", min=1, max=8, step=0.5)

    def compute(self, masked: Tensor) -> Tensor:
        return super().compute(masked) ** self.sharpness
"""
OWN_STUDIO = f"""import wilson.pseudo.targets as targets
refine = targets.refine

def counted(*given):
    with open("refinements.txt", "a", encoding="utf-8") as calls:
        calls.write("x")
    return refine(*given)

targets.refine = counted
from wilson.widgets.studio import Studio
Studio(run="{SHORT}", map_kinds="my_ideas.py:Sure", links="my_ideas.py:Sharpen")"""


class Desk:
    "The studio on a page, in a reader's words."

    def __init__(self, page, studio):  # noqa: F811
        self.page, self.studio = page, studio
        self.status = studio.locator(".ws-status")

    def at(self, name: str, **more):
        return self.studio.locator(name, **more)

    def indexed(self) -> None:
        "Wait until every row has its numbers."
        self.page.wait_for_function("""s => s.querySelector(".finder-progress").hidden
            && s.querySelectorAll("[role=columnheader]").length > 6
            && ![...s.querySelectorAll(".finder-row")].some(row => row.innerText.includes("…"))""",
                                    arg=self.studio.element_handle(), timeout=SOON)

    def drawings(self) -> int:
        return int(self.studio.get_attribute("data-drawn") or 0)

    def after(self, act) -> None:
        "Act, and wait until the panels have been drawn anew."
        before = self.drawings()
        act()
        self.page.wait_for_function("([s, n]) => Number(s.dataset.drawn) > n", arg=[self.studio.element_handle(), before],
                                    timeout=SOON)

    def seen(self, row: int = 0) -> dict[str, int]:
        "By map, a number that changes with any pixel of its canvas."
        figures = self.at(f'.wilson-panel[data-row="{row}"]')
        return {figure.get_attribute("data-panel"): figure.locator("canvas").first.evaluate(PIXELS)
                for figure in figures.all()}

    def changed(self, act) -> set[str]:
        before = self.seen()
        self.after(act)
        self.page.wait_for_timeout(50)  # a frame to paint in
        return {name for name, pixels in self.seen().items() if before.get(name) != pixels}

    def move(self, slider: str, value: float) -> None:
        self.at(f"{slider} input").evaluate(
            "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', {bubbles: true})); }", value)

    def rows(self) -> list[str]:
        "Ids in the table, as far as they are in sight."
        return self.studio.evaluate("""s => [...s.querySelectorAll(".finder-row")]
            .sort((a, b) => a.ariaRowIndex - b.ariaRowIndex).map(row => row.querySelector(".finder-id").innerText)""")

    def cell(self, name: str, column: str) -> str:
        "What the table of classes says."
        table = self.at("table.ws-classes").first
        titles = table.locator("thead th").all_inner_texts()
        return table.locator("tbody tr", has_text=name).locator("td").nth(titles.index(column)).inner_text()


def opened(page, lab, notebook: str) -> Desk:  # noqa: F811
    "Open a notebook, run all its cells, and give the studio."
    page.goto(lab(notebook), timeout=PATIENCE)
    page.wait_for_function(IS_OPEN, arg=notebook, timeout=PATIENCE)
    page.evaluate("() => window.jupyterapp.shell.collapseLeft()")  # the workspace may have it collapsed already
    page.evaluate(RUN_ALL)
    studio = page.locator(".wilson-studio").first
    studio.wait_for(timeout=PATIENCE)
    return Desk(page, studio)


def test_from_all_images_to_a_corrected_one(lab, page, root, tmp_path):  # noqa: F811
    from playwright.sync_api import expect
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    desk = opened(page, lab, "explore.ipynb")
    expect(desk.status).to_contain_text("hard-s42 · step 1 · val_", timeout=PATIENCE)
    page.wait_for_function("s => s.dataset.drawn", arg=desk.studio.element_handle(), timeout=SOON)
    desk.indexed()
    expect(desk.at(".finder-count")).to_contain_text("24 of 24")
    desk.studio.evaluate("s => s.scrollIntoView()")
    screenshot(page, "studio", tmp_path)
    assert list(desk.seen()) == ["image", "CAM", "hard mask", "target", "prediction", "truth"]

    # another run, and the image by its id: the panels are those of that image
    assert "image" not in desk.changed(lambda: desk.at(".ws-run select").select_option(SHORT))
    expect(desk.status).to_contain_text("wilson-s42 · step 1")
    assert len(desk.rows()) >= 5

    def by_id():
        desk.at(".ws-id").fill("val_00007")
        desk.at(".ws-id").press("Enter")
    assert "image" in desk.changed(by_id)
    expect(desk.status).to_contain_text("val_00007 (8 of 24 validation images)")

    # alpha shapes the target and nothing else; a threshold the hard mask and nothing else; both can be taken back
    desk.after(lambda: desk.at('.ws-chip[data-map="soft label"]').click())
    assert desk.changed(lambda: desk.move(".ws-threshold-background", 0.99)) <= {"hard mask"}
    expect(desk.at(".ws-differs")).to_have_text("changed: threshold_background")
    assert desk.changed(lambda: desk.move(".ws-alpha", 1)) <= {"target", "soft label"}
    expect(desk.at(".ws-differs")).to_have_text("changed: alpha, threshold_background")
    assert "-p alpha 1.0" in desk.at(".ws-command").inner_text()
    desk.after(lambda: desk.at(".ws-reset").click())
    expect(desk.at(".ws-differs")).to_have_text("")

    # an image-level label switched on: the target begins to show its class
    row = desk.at("table.ws-classes tbody tr").filter(has=page.locator("input:not([disabled])")).first
    name, switch = row.locator(".ws-class").inner_text(), row.locator("input")
    for act, told in ((switch.check, name), (switch.uncheck, "none of this step"), (switch.check, name)):
        desk.after(act)
        expect(desk.status).to_contain_text(f"image-level labels: {told}")
    assert desk.changed(switch.uncheck) <= {"target", "soft label", "hard mask"}
    desk.after(switch.check)

    # it is saved as a correction, with a note and a flag; the file is beside the data
    desk.at(".ws-correct").click()
    expect(desk.status).to_contain_text("saved in data/few/label_edits.csv")
    desk.at(".ws-note input").fill("hidden, <b>half</b>")
    desk.at(".ws-note input").press("Tab")
    expect(desk.at(".ws-saved")).to_contain_text(f"+ {name} · in data/few/label_edits.csv")
    desk.at(".wilson-panel canvas").first.focus()
    page.keyboard.press("Escape")
    desk.studio.focus()
    page.keyboard.press("f")
    expect(desk.at(".ws-flag input")).to_be_checked()
    edits = root / "data/few/label_edits.csv"
    waited(lambda: "yes" in edits.read_text(encoding="utf-8"), "the flag is saved", 10)
    saved, = csv.DictReader(edits.read_text(encoding="utf-8").splitlines())
    assert saved == {"id": "val_00007", "add": name, "remove": "", "exclude": "", "flag": "yes", "note": "hidden, <b>half</b>"}
    assert "-p label_edits data/few/label_edits.csv" in desk.at(".ws-command").inner_text()

    # exports of the flagged image: a figure in both formats, and a report that needs nothing else
    desk.at(".ws-export-figure").click()
    expect(desk.at(".ws-exported")).to_contain_text("val_00007.png, runs/exports/shapes-15-5-overlap-wilson-s42-step1-val_00007.pdf", timeout=SOON)
    desk.at(".ws-exports select").select_option("flagged")
    desk.at(".ws-export-html").click()
    expect(desk.at(".ws-exported")).to_contain_text("val_00007.html", timeout=SOON)
    report = (root / "runs/exports/shapes-15-5-overlap-wilson-s42-step1-val_00007.html").read_text(encoding="utf-8")
    assert "hidden, &lt;b&gt;half&lt;/b&gt;" in report and "<b>half" not in report
    # next, and at once a flag: it is of the new image, and nothing else of the old one is taken over
    desk.after(lambda: desk.at(".ws-list select").select_option("training"))
    desk.at(".ws-exclude input").check()
    first = desk.at(".ws-id").input_value()
    waited(lambda: first in edits.read_text(encoding="utf-8"), "the exclusion is saved", 10)
    desk.studio.focus()
    page.keyboard.press("n")
    page.keyboard.press("f")
    waited(lambda: len(edits.read_text(encoding="utf-8").splitlines()) == 4, "the flag is saved", 10)
    by_id = {row["id"]: row for row in csv.DictReader(edits.read_text(encoding="utf-8").splitlines())}
    second = desk.at(".ws-id").input_value()
    assert second != first and by_id[second]["flag"] == "yes" and not by_id[second]["exclude"] and by_id[first]["exclude"] == "yes"
    assert Image.open(root / "runs/exports/shapes-15-5-overlap-wilson-s42-step1-val_00007.png").width > 2000
    assert not errors


def test_sorted_confused_replayed_and_compared(lab, page, root, tmp_path):  # noqa: F811
    from playwright.sync_api import expect
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    desk = opened(page, lab, "explore.ipynb")
    page.wait_for_function("s => s.dataset.drawn", arg=desk.studio.element_handle(), timeout=PATIENCE)
    desk.after(lambda: desk.at(".ws-run select").select_option(SHORT))
    desk.indexed()
    expect(desk.at(".finder-count")).to_contain_text("24 of 24")

    # sorted by disagreement, the greatest first; n and p walk in that order
    header = desk.at("[role=columnheader]", has_text="disagree")
    header.locator("button").click()
    header.locator("button").click()
    expect(header).to_have_attribute("aria-sort", "descending")
    order = desk.rows()
    assert order != sorted(order)
    desk.after(lambda: desk.at(".finder-row", has_text=order[0]).locator(".finder-id").click())
    expect(desk.status).to_contain_text(order[0])
    desk.studio.focus()
    desk.after(lambda: page.keyboard.press("n"))
    expect(desk.status).to_contain_text(order[1])
    desk.after(lambda: page.keyboard.press("p"))
    expect(desk.status).to_contain_text(order[0])

    # the confusion matrix opens the images behind a cell
    desk.at("[role=tab]", has_text="confusion").click()
    panel = desk.at("[role=tabpanel][aria-label=confusion]")
    panel.locator("canvas").focus()
    for _ in range(20):  # down the first column, to a class that is taken for background somewhere
        page.keyboard.press("ArrowDown")
        said = panel.locator("output").inner_text()
        if "taken for background" in said and "(0 pixels)" not in said and "no pixels" not in said:
            break
    page.keyboard.press("Enter")
    chip = desk.at(".finder-chip")
    expect(chip).to_contain_text("taken for background", timeout=SOON)
    shown = int(desk.at(".finder-count").inner_text().split(" of ")[0])
    assert 0 < shown <= 24, said
    screenshot(page, "studio-confusion", tmp_path)
    desk.at(".finder-chip button").click()
    expect(desk.at(".finder-count")).to_contain_text("24 of 24")

    # the epochs of an image whose maps were kept are replayed: what the networks said then, not now
    kept = json.loads((root / "runs/shapes-15-5-overlap/wilson-s42/step1/maps/images.json").read_text(encoding="utf-8"))["images"]
    image = next(i["id"] for i in kept if i["list"] == "validation")
    desk.at(".ws-id").fill(image)
    desk.after(lambda: desk.at(".ws-id").press("Enter"))
    expect(desk.at(".ws-player")).to_be_visible()
    assert {"CAM", "prediction"} & desk.changed(lambda: desk.move(".ws-epochs", 0))
    expect(desk.at(".ws-epoch")).to_have_text("epoch 0 of 2")
    before = desk.drawings()
    desk.at(".ws-play").click()
    expect(desk.at(".ws-epoch")).to_have_text("the finished step", timeout=SOON)
    assert desk.drawings() - before >= 2  # the start and the end of two epochs

    # two runs of one task on one image, with the differences by class
    desk.after(lambda: desk.at(".ws-compare select").select_option(label="hard-s42 · step 1"))
    other = desk.at('.wilson-panel[data-row="1"]')
    expect(other).to_have_count(6)
    assert desk.seen(0)["image"] == desk.seen(1)["image"]
    expect(desk.at("table.ws-classes .ws-delta").first).to_be_visible()
    desk.studio.evaluate("s => s.scrollIntoView()")
    screenshot(page, "studio-compared", tmp_path)

    # a pointer over one map says what every map has there
    desk.at('.wilson-panel[data-panel="prediction"] canvas').first.hover()
    expect(desk.at('.wilson-panel[data-panel="CAM"]').first).to_contain_text("%")

    # another rule over all images: four rows of scores
    desk.after(lambda: desk.move(".ws-alpha", 1))
    desk.at(".ws-score").click()
    expect(desk.at(".ws-scores tr")).to_have_count(5, timeout=PATIENCE)
    page.evaluate("() => window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    expect(page.locator("body")).to_have_attribute("data-jp-theme-light", "false")
    expect(page.locator("#jupyterlab-splash")).to_have_count(0)
    desk.studio.evaluate("s => s.scrollIntoView()")
    screenshot(page, "studio-dark", tmp_path)

    # the base step has neither pseudo-labels nor rules
    desk.after(lambda: desk.at(".ws-run select").select_option("shapes-15-5-overlap/base-s42"))
    assert set(desk.seen()) == {"image", "prediction", "truth"}
    expect(desk.at(".ws-rules")).to_be_hidden()
    assert not errors
    assert page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']").count() == 0


def test_a_map_and_a_link_of_ones_own_are_one_class_each(lab, page, root, tmp_path):  # noqa: F811
    "From a file in the project: a panel, a column of the list, a slider. Moving alpha refines nothing."
    from playwright.sync_api import expect
    (root / "my_ideas.py").write_text(OWN, encoding="utf-8")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(OWN_STUDIO)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, root / "own.ipynb")
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    desk = opened(page, lab, "own.ipynb")
    page.wait_for_function("s => s.dataset.drawn", arg=desk.studio.element_handle(), timeout=PATIENCE)
    desk.indexed()

    # the map: a panel with its IoU, a chip with its tooltip, a column, and a map of the confusion matrix
    assert "sure" in desk.seen()
    expect(desk.at('.ws-chip[data-map="sure"]')).to_have_attribute("title", "the prediction where it is sure")
    expect(desk.at('.wilson-panel[data-panel="sure"]')).to_contain_text("IoU")
    titles = desk.at("[role=columnheader]").all_inner_texts()
    assert any("sure" in title for title in titles), titles
    assert "sure" in desk.at("select[aria-label='map compared with the truth'] option").all_inner_texts()

    # the link: its own slider beside the one that it inherits; both change the soft label and what reads it
    def refinements() -> int:
        return len((root / "refinements.txt").read_text(encoding="utf-8"))
    desk.after(lambda: desk.at('.ws-chip[data-map="soft label"]').click())
    before = refinements()
    assert before > 0
    assert {"soft label"} <= desk.changed(lambda: desk.move(".ws-sharpness", 6)) <= {"soft label", "target"}
    expect(desk.at(".ws-differs")).to_have_text("changed: sharpness")
    assert {"soft label"} <= desk.changed(lambda: desk.move(".ws-alpha", 1)) <= {"soft label", "target"}
    desk.changed(lambda: desk.move(".ws-threshold-classes", 0.1))
    assert refinements() == before, "moving alpha, a link of one's own or a threshold must not call PAMR"
    desk.changed(lambda: desk.move(".ws-affinity-iterations", 3))
    assert refinements() == before + 1
    desk.studio.evaluate("s => s.scrollIntoView()")
    screenshot(page, "studio-own", tmp_path)
    assert not errors


def test_without_runs_it_says_what_to_do(lab, page, tmp_path):  # noqa: F811
    from playwright.sync_api import expect
    desk = opened(page, lab, "without.ipynb")
    expect(desk.studio).to_contain_text("make demo", timeout=PATIENCE)
    expect(desk.at("select")).to_have_count(0)
    expect(page.locator("pre", has_text="There is no run to predict with")).to_be_visible()
    screenshot(page, "studio-without-runs", tmp_path)


def test_runs_beside_each_other(lab, page, root, tmp_path):  # noqa: F811
    "nbs/compare.ipynb: a table, another, fewer runs, a picture, all as files."
    from playwright.sync_api import expect
    page.goto(lab("compare.ipynb"), timeout=PATIENCE)
    page.wait_for_function(IS_OPEN, arg="compare.ipynb", timeout=PATIENCE)
    page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
    page.evaluate(RUN_ALL)
    table = page.locator(".wilson-comparison table").first
    expect(table.locator("tbody tr")).to_have_count(2, timeout=PATIENCE)
    widget = page.locator(".jupyter-widgets.widget-vbox", has=page.locator(".wilson-comparison")).first
    expect(table.locator("thead")).to_contain_text("old")

    widget.get_by_role("button", name="classes", exact=True).first.click()
    expect(table).to_contain_text("plain disc")
    shown = widget.locator("img")
    assert shown.count() == 0
    widget.get_by_role("button", name="scores", exact=True).last.click()
    expect(shown).not_to_have_count(0)
    assert shown.first.evaluate("image => image.decode().then(() => image.naturalWidth)") > 300
    widget.evaluate("w => w.scrollIntoView()")
    screenshot(page, "comparison", tmp_path)

    widget.get_by_role("button", name="scores", exact=True).first.click()
    pattern = widget.locator("input[placeholder]").first
    pattern.fill("hard-*")
    pattern.press("Enter")
    expect(table.locator("tbody tr")).to_have_count(1)
    expect(table.locator("tbody th")).to_have_text("wilson")  # alone, nothing sets it apart
    shutil.rmtree(root / "runs/compare", ignore_errors=True)  # what the page itself has written
    widget.get_by_role("button", name="save").click()
    waited(lambda: (root / "runs/compare").is_dir() and any((root / "runs/compare").glob("*.csv")), "tables saved", SOON / 1000)
