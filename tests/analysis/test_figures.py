"""Figures as a printer gets them and reports as a reader opens them: real files, a real browser.

Needs Debian's chromium and playwright. WILSON_SCREENSHOTS names a folder that keeps the screenshots.
"""
from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import environment, need
from PIL import Image
from scenes import STEP, made_up

from wilson.analysis.figures import qualitative, save_figure
from wilson.analysis.image_report import REPORTED, ReportImage, write_image_report
from wilson.core.errors import InputError
from wilson.data.tasks import Step
from wilson.evaluation.maps import Maps
from wilson.evaluation.metrics import count_confusion, iou
from wilson.evaluation.pictures import ROW, panels
from wilson.pseudo.targets import TargetRule

CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
WIDE, TALL = (64, 96), (96, 72)
HOSTILE = "<script>document.title = 'taken'</script>\"'&amp;"
# of a process that imports this file, without a display
BESIDE = environment(PYTHONPATH=os.pathsep.join([environment()["PYTHONPATH"], *(str(Path(__file__).parents[i]) for i in (0, 1))]), DISPLAY="")


@pytest.fixture(scope="module")
def scenes() -> list[Maps]:
    return [made_up(5, [1, 17]), made_up(8, [3, 20], WIDE), made_up(9, [2, 16], TALL)]


# ----------------------------------------------------------------------------------- figures


def at(figure, label: str, picture: Image.Image) -> np.ndarray:
    "What a saved picture shows where the figure has a panel."
    axes, = (a for a in figure.axes if a.get_label() == label)
    (left, bottom), (right, top) = axes.get_position().get_points() * picture.size
    return np.array(picture.convert("RGB").crop([round(v) for v in (left, picture.height - top, right, picture.height - bottom)]))


def test_png_has_the_size_of_print_and_shows_the_panels(scenes, tmp_path):
    figure = qualitative(scenes, STEP)
    png, _ = save_figure(figure, tmp_path / "figure.png")
    picture = Image.open(png)
    width, height = figure.get_size_inches() * 300
    assert abs(width - 17.2 / 2.54 * 300) < 1e-6
    assert abs(picture.width - width) <= 1 and abs(picture.height - height) <= 1
    for line, maps in enumerate(scenes):
        for name, panel in panels(maps, STEP).items():
            shown = at(figure, f"{line} {name}", picture)
            high, wide = panel.shape[:2]
            assert abs(shown.shape[0] / shown.shape[1] - high / wide) < 0.02  # no image is stretched
            small = np.array(Image.fromarray(shown).resize((wide, high), Image.Resampling.BOX)).astype(int)
            assert np.abs(small - panel)[2:-2, 2:-2].mean() < 4, (line, name)
    corner = np.array(picture.convert("RGB"))[:3, :3]
    assert (corner == 255).all()


def test_columns_are_one_below_the_other_and_nothing_overlaps(scenes):
    figure = qualitative(scenes, STEP)
    centre = {a.get_label(): a.get_position().get_points().mean(0)[0] for a in figure.axes}
    for name in ROW:
        assert len({round(centre[f"{line} {name}"], 6) for line in range(3)}) == 1
    boxes = [a.get_position() for a in figure.axes]
    boxes += [t.get_window_extent(figure.renderer).transformed(figure.transFigure.inverted()) for t in figure.texts]
    assert all(b.x0 > -1e-3 and b.y0 > -1e-3 and b.x1 < 1.001 and b.y1 < 1.001 for b in boxes)
    for i, one in enumerate(boxes):
        for other in boxes[i + 1:]:
            assert min(one.x1, other.x1) <= max(one.x0, other.x0) + 1e-6 or min(one.y1, other.y1) <= max(one.y0, other.y0) + 1e-6
    assert all(6.9 < t.get_fontsize() < 8.1 for t in figure.texts)


def test_pdf_is_one_page_with_truetype_letters(scenes, tmp_path):
    _, pdf = save_figure(qualitative(scenes, STEP), tmp_path / "figure")
    data = pdf.read_bytes()
    (width, height), = re.findall(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", data)
    assert abs(float(width) / 72 * 2.54 - 17.2) < 0.01 and re.findall(rb"/Count (\d+)", data) == [b"1"]
    assert b"/CIDFontType2" in data and b"/FontFile2" in data and b"/Type3" not in data and b"/Type1" not in data
    assert b"Date" not in data and b"matplotlib" not in data.lower()


DRAW = """
import sys, threading
from pathlib import Path
import matplotlib, test_figures

def settings():  # as they lie there: to ask for the backend is to import pyplot
    return {n: repr(v) for n, v in dict.items(matplotlib.rcParams)}

before = settings()
scenes = [test_figures.made_up(5, [1, 17]), test_figures.made_up(8, [3, 20], test_figures.WIDE)]

def draw(name):
    figure = test_figures.qualitative(scenes, test_figures.STEP)
    test_figures.save_figure(figure, Path(sys.argv[1], name))

threads = [threading.Thread(target=draw, args=(n,)) for n in ("one", "two", "three")]
for t in threads: t.start()
for t in threads: t.join()
assert settings() == before and "matplotlib.pyplot" not in sys.modules
"""


def test_same_bytes_from_any_process_and_thread(tmp_path):
    "Without a display; hash seeds and a user's own settings of matplotlib make no difference."
    (tmp_path / "set").mkdir()
    (tmp_path / "set/matplotlibrc").write_text("font.size: 20\nsavefig.bbox: tight\npdf.fonttype: 3\npdf.use14corefonts: True\n"
                                               "figure.constrained_layout.use: True\nsavefig.transparent: True\n"
                                               "image.origin: lower\ntext.color: red\nsavefig.facecolor: black\n", encoding="utf-8")
    found = {"png": set(), "pdf": set()}
    for seed, settings in (("1", ""), ("2", str(tmp_path / "set"))):
        out = tmp_path / seed
        more = {"MATPLOTLIBRC": settings} if settings else {}
        env = BESIDE | {"PYTHONHASHSEED": seed} | more
        done = subprocess.run([sys.executable, "-c", DRAW, str(out)], env=env, capture_output=True, text=True, encoding="utf-8", timeout=180)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
        for kind in found:
            files = [*out.glob(f"*.{kind}")]
            assert len(files) == 3
            found[kind] |= {f.read_bytes() for f in files}
        assert len([*out.iterdir()]) == 7 and (out / ".written-by-wilson").is_file()  # nothing was left aside
    assert {kind: len(files) for kind, files in found.items()} == {"png": 1, "pdf": 1}


SAVE = """
import sys
from pathlib import Path
import test_figures as t
scenes = [t.made_up(5, [1, 17])]
for disk in map(Path, sys.argv[1:]):
    for write in (lambda: t.save_figure(t.qualitative(scenes, t.STEP), disk / "figure.pdf"),
                  lambda: t.write_image_report(disk / "report.html", "", {}, [t.ReportImage(m) for m in scenes], t.STEP)):
        try: write()
        except t.InputError as e: print(e)
    print(sorted(p.name for p in disk.iterdir()))
"""


def test_a_disk_that_takes_nothing(tmp_path):
    "Full or read-only: the file is named, and no part of it stays."
    allowed = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True)
    need(allowed.returncode == 0, "needs `unshare -rm mount …`, which this machine does not permit")
    disks = [tmp_path / "full", tmp_path / "read"]
    mounts = "".join(f'mount -t tmpfs -o {o} none "{d}" || exit 99; ' for d, o in zip(disks, ("size=16k", "ro")))
    for disk in disks:
        disk.mkdir()
    done = subprocess.run(["unshare", "-rm", "bash", "-c", mounts + 'exec "$@"', "bash", sys.executable, "-c", SAVE, *disks],
                          env=BESIDE, capture_output=True, text=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
    lines = iter(done.stdout.splitlines())
    for reason in ("No space left", "Read-only"):
        for name in ("figure.png", "report.html"):
            said = next(lines)
            assert f"{name} cannot be written" in said and reason in said
        assert next(lines) == "[]"


def test_names_are_shown_as_they_are(scenes):
    "A dollar is no formula, and a long name ends within its column."
    step = replace(STEP, names=tuple(f"${n}_{{x$ \\frac" for n in STEP.names))
    runs = [{"$\\alpha": maps, "a run with a very long name indeed, of many parameters": maps} for maps in scenes[:1]]
    figure = qualitative(runs, step, ("prediction", "truth"), titles={"truth": "$t$"}, width_cm=8.3)
    texts = [t.get_text() for t in figure.texts]
    assert step.names[1] in texts and "$t$" in texts and "$\\alpha" in texts and any(t.endswith("…") for t in texts)
    figure._repr_png_()


# ----------------------------------------------------------------------------------- reports


@pytest.fixture(scope="module")
def chromium():
    need(Path(CHROMIUM).exists(), f"{CHROMIUM} is not installed: apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        need(False, "playwright is not installed: pip install playwright")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=120_000)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def step() -> Step:
    "A step with a hostile class name."
    return replace(STEP, names=tuple(HOSTILE if c == 17 else n for c, n in enumerate(STEP.names)))


@pytest.fixture(scope="module")
def images(scenes) -> list[ReportImage]:
    rule = TargetRule(alpha=0.8)
    named = Maps(replace(scenes[1].logits, id=HOSTILE), rule, torch.arange(1, 21) == 16)  # class 20 removed, 16 added
    unseen = Maps(replace(scenes[2].logits, truth=None, id="a\udcff/b"), rule.with_values(affinity=False))
    return [ReportImage(scenes[0].with_rule(rule), "The rim is missed.\nTwice.", "look again"),
            ReportImage(named, HOSTILE, HOSTILE), ReportImage(unseen)]


@pytest.fixture(scope="module")
def file(images, step, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return write_image_report(folder / "report.html", f"Demo {HOSTILE}", {"run": HOSTILE, "step": "1", "date": "1 May"}, iter(images), step,
                  own_rule=TargetRule())


@pytest.fixture
def page(chromium, file):
    "The report in a browser, with all that the browser complains of or asks for."
    page = chromium.new_page(viewport={"width": 1280, "height": 800})
    page.asked, page.said = [], []
    page.on("request", lambda r: page.asked.append(r.url) if not r.url.startswith("data:") else None)
    page.on("console", lambda m: page.said.append(m.text))
    page.on("pageerror", lambda e: page.said.append(str(e)))
    page.goto(file.as_uri())
    yield page
    page.close()


def screenshot(page, name: str, tmp_path: Path) -> None:
    folder = Path(os.environ.get("WILSON_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png")


def test_report_refers_to_nothing_outside(file):
    "By its text: no address, no script, every source is data and every link a place in the file."
    tags, where = set(), []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags.add(tag)
            where.extend((n, v) for n, v in attrs if n in ("src", "href", "srcset", "action", "data", "poster", "background"))
            assert not any(n.startswith("on") for n, _ in attrs)

    text = file.read_text(encoding="utf-8")
    Reader().feed(text)
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    assert {n for n, _ in where} == {"src", "href"}
    assert all(v.startswith("data:image/jpeg;base64,") if n == "src" else re.fullmatch(r"#image-\d+", v) for n, v in where)
    assert not re.search(r"https?://|url\(|@import|//\w", re.sub(r"base64,[\w+/=]+", "", text))


def test_report_opens_without_a_request_or_a_complaint(page, tmp_path):
    assert len(page.asked) == 1 and page.asked[0].startswith("file:") and page.said == []
    sizes = page.evaluate("[...document.images].map(i => [i.complete, i.naturalWidth, i.naturalHeight])")
    sides = [(288, 288), (288, 192), (216, 288)]  # enlarged three times
    counts = [10, 10, 8]                          # the last has no truth
    assert sizes == [[True, *side] for side, n in zip(sides, counts) for _ in range(n)]
    names = page.evaluate("[...document.querySelectorAll('#image-1 figcaption span:first-child')].map(s => s.textContent)")
    assert names == [*REPORTED]
    screenshot(page, "report-light", tmp_path)
    assert page.title().startswith("Demo <script>")


def test_hostile_names_are_shown_literally(page):
    assert page.title() != "taken" and page.locator("script").count() == 0
    second = page.locator("#image-2")
    for selector in ("h3", ".note", ".flag"):
        assert HOSTILE in second.locator(selector).first.text_content()
    assert HOSTILE in page.locator("#image-1 table").text_content()
    assert HOSTILE in page.locator(".facts").text_content() and HOSTILE in page.locator("nav").text_content()
    assert second.locator("img").first.get_attribute("alt") == f"image of {HOSTILE}"
    assert page.locator("#image-3 h3").text_content() == "a\\udcff/b"
    assert page.locator("#image-1 .note").inner_text() == "The rim is missed.\nTwice."


def test_what_was_changed_is_said(page):
    "The rule against the run's own, labels against the data's."
    assert page.locator("header .changed").all_inner_texts() == ["alpha\n0.8 the run: 0.5"]
    assert page.locator("#image-3 .changed").all_inner_texts() == ["affinity\nno the run: yes"]
    assert page.locator("#image-1 .changed").count() == 0
    labels = page.locator("#image-2 .said").first
    assert STEP.names[16] in labels.locator("ins").text_content() and STEP.names[20] in labels.locator("del").text_content()
    assert page.locator("#image-1 ins, #image-1 del").count() == 0


def table(page, selector: str) -> dict[str, list[str]]:
    "Rows of a table by their heads."
    rows = page.evaluate("s => [...document.querySelectorAll(s + ' tr')].map(r => [...r.cells].map(c => c.textContent))", selector)
    return {head: cells for head, *cells in rows}


def test_numbers_are_those_of_the_maps(page, images, step):
    def told(values) -> list[str]:
        return ["–" if v != v else f"{100 * v:.1f}" for v in map(float, values)]

    for number, image in enumerate(images[:2], 1):
        maps = image.maps
        rows = table(page, f"#image-{number}")
        assert rows.pop("IoU, %") == list(maps.names)
        assert rows.pop("mean") == told(maps.iou(n).nanmean() for n in maps.names)
        found = torch.stack([maps.iou(n) for n in maps.names])
        classes = (~found.isnan()).any(0).nonzero().flatten().tolist()
        assert rows == {step.names[c]: told(found[:, c]) for c in classes} and len(classes) == 3
    assert page.locator("#image-3 table").count() == 0

    # over the images: counted by hand, for maps that know every class
    rows = table(page, "main > .scroll")
    for name in ("CAM", "target", "prediction"):
        confusion = sum(count_confusion(image.maps.labels(name), image.maps.logits.truth, 21) for image in images[:2])
        by_class, column = iou(confusion[:, :-1]), rows["IoU, %"].index(name)
        for c in (0, 1, 3, 17, 20):
            assert rows[step.names[c]][column] == told([by_class[c]])[0]
        assert rows["old classes"][column] == told([by_class[1:16].nanmean()])[0]
        assert rows["new classes"][column] == told([by_class[16:].nanmean()])[0]
    # the second image's class 20 was taken from its labels: what is made from them is not blamed
    assert rows[step.names[20]][rows["IoU, %"].index("soft label")] == "–"


@pytest.mark.parametrize("width, dark", [(1280, True), (390, False)])
def test_report_fits_the_screen(page, width, dark, tmp_path):
    "In the reader's own colours, and nothing but a table is scrolled sideways."
    page.emulate_media(color_scheme="dark" if dark else "light")
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == ("rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)")
    boxes = [page.locator("#image-1 img").nth(i).bounding_box() for i in range(5)]
    assert len({b["y"] for b in boxes}) == (1 if width == 1280 else 3) and min(b["width"] for b in boxes) > 150
    page.evaluate("document.querySelector('#image-1').scrollIntoView()")
    screenshot(page, f"report-{width}{'-dark' if dark else ''}", tmp_path)
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_an_error_names_the_file(scenes, tmp_path):
    (tmp_path / "taken").touch()
    for write in (lambda p: save_figure(qualitative(scenes[:1], STEP), p), lambda p: write_image_report(p, "", {}, [ReportImage(scenes[0])], STEP)):
        with pytest.raises(InputError, match="taken"):
            write(tmp_path / "taken" / "file.html")
