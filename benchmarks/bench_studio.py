"""How long a reader waits for the studio, in a real browser beside a real kernel: `python benchmarks/bench_studio.py`.

Measured is from the event of an input, as the browser stamps it, to the second animation frame after what it changes has
been drawn. The data has VOC's size: 500×375 pixels, 21 classes, a list of 10,582 images (hard links of a few), logits of
24×32 cells. The same maps follow on a page made in the usual way, matplotlib in an output widget.

    python benchmarks/bench_studio.py [folder]     # a folder of an earlier run is taken again, with its data and networks

Needs what the tests of the browser need. The table is also written as <folder>/bench_studio.json.
"""
from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import platform
import sqlite3
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import nbformat
import numpy as np
import torch
from PIL import Image
from playwright.sync_api import sync_playwright

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "helpers")]

from browsing import CHROMIUM, FLAGS, IS_OPEN, PATIENCE, served  # noqa: E402
from wilson.data.image_io import write_mask
from wilson.datasets.shapes import make_shapes
from wilson.evaluation.index_rows import ENTRY, ImageFacts, indexed_kinds
from wilson.experiments.train import run_training
from wilson.run.config import parse_config
from wilson.run.images import StepImages

N, REPEATS, WARM = 10_582, int(os.environ.get("REP", 40)), 5
PANELS = ("refined", "hard mask", "soft label", "target")  # all that a rule shapes
LOOK = 2000  # milliseconds that a reader looks at an image, while its neighbours are computed
ON_DISK, NEW = 200, 600   # positions from which logits are on the disk, and from which the networks have to run
WEAK = "runs/voc-15-5-overlap/wilson-s42/step1"
TICKING = """import asyncio, time
late = []
async def tick():
    while True:
        since = time.perf_counter()
        await asyncio.sleep(0.01)
        late.append(1000 * (time.perf_counter() - since) - 10)
ticking = asyncio.ensure_future(tick())"""
STUDIO = ["import time\nfrom wilson.widgets.studio import Studio",
          "began = time.perf_counter()\nstudio = Studio(run='voc-15-5-overlap/wilson-s42')\n"
          "took = time.perf_counter() - began\nstudio"]
# what one writes without a studio: the same maps and numbers, drawn by matplotlib into an output widget
USUAL = ["""import matplotlib.pyplot as plt
from ipywidgets import Button, FloatSlider, HBox, Output, VBox
from wilson.evaluation.maps import Maps
from wilson.evaluation.pictures import class_colours, classes_over
from wilson.run.images import StepImages
images = StepImages("%s")""" % WEAK, """out, forth = Output(), Button(description="next")
alpha = FloatSlider(0.5, min=0, max=1, step=0.05, description="alpha")
colours, maps, position = class_colours(images.step), None, -1

def show(_=None):
    global maps
    maps = maps.with_rule(maps.rule.with_values(alpha=alpha.value))
    with out:
        out.clear_output(wait=True)
        _, axes = plt.subplots(1, 4, figsize=(12, 3))
        for ax, name in zip(axes, %r):
            ax.imshow(classes_over(maps.logits.picture, maps.labels(name), colours, 0.7))
            ax.set(title=f"{name}, IoU {100 * maps.iou(name).nanmean():.1f}", xticks=[], yticks=[])
        plt.show()

def move(_=None):
    global maps, position
    position += 1
    maps = Maps(images.logits("validation", position), images.opened.rule)
    show()

for n in range(%d): images.logits("validation", n)
alpha.observe(show, "value"), forth.on_click(move)
move()
VBox([HBox([alpha, forth]), out])""" % (PANELS, WARM + REPEATS + 2)]
BENCH = """() => { window.bench = {
    app: () => window.jupyterapp.shell.currentWidget,
    frames: () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now())))),
    async painted(node) {  // what matplotlib sends has to be decoded
        if (node.matches(".widget-output")) await Promise.all([...node.querySelectorAll("img")].map((i) => i.decode()));
        return this.frames();
    },
    // the next event of a type, to the second frame after what `says` has changed; of several changes the last
    arm(type, selector, says, quiet) {
        const node = document.querySelector(selector);
        this.taken = new Promise((done, failed) => {
            setTimeout(() => failed(Error(`nothing came of ${type} within a minute`)), 60000);
            addEventListener(type, ({ timeStamp }) => {
                let last = says?.(node), end = says ? null : this.frames(), timer = 0;
                const finish = async () => { seen.disconnect(); done((await end) - timeStamp); };
                const seen = new MutationObserver(() => {
                    if (says(node) === last) return;
                    [last, end] = [says(node), this.fully_annotated(node)];
                    clearTimeout(timer);
                    timer = setTimeout(finish, quiet);
                });
                if (says) seen.observe(node, { subtree: true, childList: true, characterData: true, attributes: true });
                else finish();
            }, { capture: true, once: true });
        });
    },
    async run(cell) {
        const notebook = this.app().content;
        notebook.activeCellIndex = cell;
        await window.jupyterapp.commands.execute("notebook:run-cell");
    },
    async ask(code) {
        const future = this.app().sessionContext.session.kernel.requestExecute({ code, store_history: false });
        let text = "";
        future.onIOPub = ({ content }) => { text += content.text ?? content.evalue ?? ""; };
        await future.done;
        return text;
    },
    async opened() {
        const from = performance.now(), when = {}, find = (selector) => document.querySelector(selector);
        const there = { panels: () => find(".wilson-studio")?.dataset.drawn,
            table: () => /\\d/.test(find(".finder-row .finder-number")?.textContent) };
        this.run(1);
        while (Object.keys(when).length < 2) {
            await new Promise(requestAnimationFrame);
            for (const name in there) if (!(name in when) && there[name]()) when[name] = await this.frames() - from;
        }
        return when;
    },
    async replies() {
        const took = [];
        for (let from; this.go; ) {
            from = performance.now();
            await this.ask("1");
            took.push(performance.now() - from);
            await new Promise((done) => setTimeout(done, 50));
        }
        return took;
    },
}; }"""
DRAWN = "(root) => root.dataset.drawn"
ROWS = "(grid) => grid.textContent"
PICTURES = "(grid) => [...grid.querySelectorAll('img')].map((i) => i.src).join()"
AREA = ".widget-output"
FIGURE = "(area) => { const i = area.querySelector('img'); return i?.complete && i.naturalWidth ? i.src.length + i.src.slice(-999) : ''; }"


def make() -> None:
    "Data, a run of two short steps with ResNet-101, a list of `N` images, and some logits on the disk."
    few, root = make_shapes(Path("few"), n_train=12, n_val=40), Path("data/voc")
    images, masks, lists = (root / name for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"))
    for folder in (images, masks, lists):
        folder.mkdir(parents=True)
    train_ids, ids = ((few / f"ImageSets/Segmentation/{name}.txt").read_text(encoding="utf-8").split() for name in ("train", "val"))
    for name in (*train_ids, *ids):
        Image.open(few / f"JPEGImages/{name}.jpg").resize((500, 375), Image.BICUBIC).save(images / f"{name}.jpg", quality=98)
        mask = Image.open(few / f"SegmentationClass/{name}.png").resize((500, 375), Image.NEAREST)
        write_mask(masks / f"{name}.png", np.asarray(mask))
    (lists / "train.txt").write_text("\n".join(train_ids), encoding="utf-8")
    (lists / "val.txt").write_text("\n".join(ids[:4]), encoding="utf-8")  # training is scored on few
    run_training(parse_config(dict(dataset="voc", task="15-5", epochs="1", batch_size=4, crop_size=64, pseudo_epoch=0,
                      pretrained="none", num_workers=0, history_images=0)))
    every = [f"2007_{n:06d}" for n in range(N)]
    for name, of in zip(every, itertools.cycle(ids)):
        os.link(images / f"{of}.jpg", images / f"{name}.jpg")
        os.link(masks / f"{of}.png", masks / f"{name}.png")
    (lists / "val.txt").write_text("\n".join(every), encoding="utf-8")
    step = StepImages(WEAK)
    for n in range(ON_DISK, ON_DISK + WARM + REPEATS + 2):
        step.logits("validation", n)


def likely(rng: np.random.Generator, pairs: int = 9) -> ImageFacts:
    "Facts as of an image with three classes."
    entries, some = np.empty(len(indexed_kinds()) * pairs, ENTRY), rng.choice(21, 3, replace=False)
    entries["map"] = np.repeat(np.arange(len(indexed_kinds())), pairs)
    entries["truth"], entries["found"] = rng.choice(some, len(entries)), rng.choice([*some, 21], len(entries))
    entries["pixels"] = rng.integers(1, 20_000, len(entries))
    return ImageFacts(entries, bytes([1, *rng.integers(0, 2, 20)]), *rng.random(4))


def timed(page, acts: Iterable[Callable[[], object]], event: str, selector: str = "body", says: str = "null",
          quiet: int = 0, pause: int = 120) -> list[float]:
    "Milliseconds of each act, without those that warm up; `pause` milliseconds after one the next begins."
    taken = []
    for act in acts:
        page.evaluate(f"() => bench.arm({event!r}, {selector!r}, {says}, {quiet})")
        act()
        taken.append(page.evaluate("() => bench.taken"))
        page.wait_for_timeout(pause)
    return taken[WARM:]


def cycle(act: Callable[[object], object], over: Iterable[object], n: int = WARM + REPEATS) -> Iterable[Callable]:
    return (functools.partial(act, each) for each in itertools.islice(itertools.cycle(over), n))


BOTH_WAYS = ["ArrowRight"] * 4 + ["ArrowLeft"] * 4


def what_if(page, name: str) -> list[float]:
    return timed(page, cycle(page.locator(f".ws-{name} input").press, BOTH_WAYS), "input", ".wilson-studio", DRAWN)


def next_image(page, key: str, n: int = WARM + REPEATS, pause: int = 120) -> list[float]:
    page.locator(".ws-forth").focus()
    return timed(page, cycle(page.keyboard.press, [key], n), "keydown", ".wilson-studio", DRAWN, pause=pause)


def jump(page, position: int) -> None:
    page.locator(".ws-id").fill(f"2007_{position:06d}")
    timed(page, [lambda: page.locator(".ws-id").press("Enter")], "keydown", ".wilson-studio", DRAWN)


def opened(browser, address: str, name: str, cells: list[str]):
    "A page with a notebook whose first cell has run."
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, f"{name}.ipynb")
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(PATIENCE)
    page.on("pageerror", lambda e: print("error in the page:", e))
    page.goto(address(f"{name}.ipynb"), timeout=PATIENCE)
    page.wait_for_function(IS_OPEN, arg=f"{name}.ipynb", timeout=PATIENCE)
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.ready")
    page.evaluate("() => window.jupyterapp.commands.execute('application:toggle-left-area')")
    page.evaluate(BENCH)
    page.evaluate("() => bench.run(0)")
    return page


def closed(page) -> None:
    page.evaluate("() => bench.app().sessionContext.shutdown()")
    page.close()


def with_studio(browser, address: str) -> tuple[object, dict[str, float]]:
    "The studio on the long list, four maps on, and what its opening took."
    page = opened(browser, address, "studio", STUDIO)
    took = page.evaluate("() => bench.opened()") | {"kernel": 1000 * float(page.evaluate("() => bench.ask('print(took)')"))}
    for chip in page.locator(".ws-chip").all():
        if (chip.get_attribute("aria-pressed") == "true") != (chip.get_attribute("data-map") in PANELS):
            timed(page, [chip.click], "click", ".wilson-studio", DRAWN)
    return page, took


def of_studio(page) -> dict[str, list[float]]:
    found, label = {}, page.locator(".ws-classes tbody input:enabled").first
    for name in ("alpha", "threshold-classes", "threshold-background", "affinity-iterations"):
        found[f"what if: {name.replace('-', ' of the ')}"] = what_if(page, name)
    row = f".ws-classes tr[data-class='{label.evaluate('e => e.closest(`tr`).dataset.class')}'] input"
    found["what if: image label"] = timed(page, cycle(lambda _: page.locator(row).click(), [0]), "click", ".wilson-studio", DRAWN)

    jump(page, 1)
    found["next image: networks run, at once"] = next_image(page, "n")
    found["next image: in memory"] = next_image(page, "p")
    jump(page, ON_DISK)
    found["next image: on the disk"] = next_image(page, "n")
    jump(page, NEW)
    found[f"next image: networks run, after {LOOK / 1000:.0f} s on the last one"] = next_image(page, "n", WARM + REPEATS // 2, LOOK)

    found["opacity"] = timed(page, cycle(page.locator(".ws-opacity input").press, BOTH_WAYS), "input")
    canvas = page.locator(".wilson-panel canvas").first
    canvas.click()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 60)
    found["zoom"] = timed(page, cycle(lambda by: page.mouse.wheel(0, by), [-100] * 4 + [100] * 4), "wheel")
    found["hover"] = timed(page, cycle(lambda d: page.mouse.move(box["x"] + d, box["y"] + d), range(20, 90, 7)), "pointermove")

    rows = dict(selector=".finder-grid", says=ROWS)
    titles = page.locator(".finder-header .finder-number button")
    found["list: sort"] = timed(page, cycle(lambda k: titles.nth(k).click(), range(6)), "click", **rows)
    search = page.locator(".finder-filters input[type=search]")
    typed = ["1", "3", "Backspace", "Backspace", "5", "2", "Backspace", "Backspace"]
    found["list: filter by id"] = timed(page, cycle(search.press, typed), "input", **rows)
    search.fill("")
    page.locator(".finder-grid").hover()
    found["list: scroll"] = timed(page, cycle(lambda by: page.mouse.wheel(0, by), [600]), "wheel", **rows)
    found["list: scroll, until pictures are there"] = timed(
        page, cycle(lambda by: page.mouse.wheel(0, by), [900]), "wheel", ".finder-grid", PICTURES)
    holds = page.locator("select[aria-label='class among the labels']")
    found["list: class (asks the kernel)"] = timed(page, cycle(holds.select_option, [*map(str, range(1, 20))]), "input", **rows, quiet=400)
    return found


def of_usual(page) -> dict[str, list[float]]:
    page.evaluate("() => bench.run(1)")
    page.locator(f"{AREA} img").first.wait_for(timeout=5 * PATIENCE)  # the networks run for every image first
    figure = dict(selector=AREA, says=FIGURE, quiet=200)
    found = {"matplotlib: alpha": timed(page, cycle(page.locator(".noUi-handle").press, BOTH_WAYS), "keydown", **figure)}
    forth = page.locator(".jupyter-button")
    found["matplotlib: next image, in memory"] = timed(page, cycle(lambda _: forth.click(), [0]), "click", **figure)
    return found


def while_indexing(page) -> dict[str, list[float]]:
    "How late the kernel's main thread is meanwhile, and how long a cell waits."
    found = {}
    page.evaluate("(code) => bench.ask(code)", TICKING)

    def watched(name: str, act: Callable[[], object]) -> None:
        page.evaluate("() => { bench.go = true; bench.heard = bench.replies(); bench.ask('late.clear()'); }")
        act()
        found[f"kernel: a cell `1`, {name}"] = page.evaluate("() => { bench.go = false; return bench.heard; }")
        found[f"kernel: event loop late, {name}"] = json.loads(page.evaluate("() => bench.ask('print(late)')"))

    def play() -> None:
        found["what if: alpha, while the index is built"] = what_if(page, "alpha")
        jump(page, 1000)
        found["next image: networks run, while the index is built"] = next_image(page, "n", WARM + 5)
    watched("images opened, index built", play)

    def step(run: str) -> None:
        timed(page, [lambda: page.locator(".ws-run select").select_option(run)], "change", ".wilson-studio", DRAWN)
        page.wait_for_timeout(2000)
    watched("other steps opened", lambda: [step(f"voc-15-5-overlap/{run}-s42") for run in ("base", "wilson")])
    return found


def ready() -> None:
    "All rows of the index are there, and of the first images no logits."
    if not Path(WEAK, "status.json").exists():
        make()
    step, rng = StepImages(WEAK), np.random.default_rng(0)
    index = step.index("validation")
    index.add_all({n: likely(rng) for n in range(N)})
    index.close()
    forget("runs/cache/logits.sqlite", "DELETE FROM content WHERE id IN (SELECT id FROM kept WHERE position < {0} OR position > {1})",
           "DELETE FROM kept WHERE position < {0} OR position > {1}")


def forget(path: str, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        for statement in statements:
            db.execute(statement.format(ON_DISK, ON_DISK + WARM + REPEATS + 1))


def told(found: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    rows = {name: {"median": round(statistics.median(v), 1), "p95": round(float(np.percentile(v, 95)), 1),
                   "max": round(max(v), 1), "n": len(v)} for name, v in found.items()}
    print(f"\n{'milliseconds':56}{'median':>9}{'p95':>9}{'max':>9}{'n':>6}")
    for name, row in rows.items():
        print(f"{name:56}" + "".join(f"{row[k]:9.1f}" for k in ("median", "p95", "max")) + f"{row['n']:6}")
    return rows


def main(folder: Path) -> None:
    os.chdir(folder)
    Path("settings.ini").touch()
    ready()
    about = {"load before": os.getloadavg(), "cores": os.cpu_count(), "torch": torch.__version__, "backbone": "resnet101",
             "machine": platform.processor() or platform.machine()}
    with served(folder) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        about["browser"], took = f"chromium {browser.version}", []
        for n in range(3):
            page, each = with_studio(browser, address)
            took.append(each)
            if n < 2:
                closed(page)
        found = {f"opening a step: {k}": [t[k] for t in took] for k in ("kernel", "panels", "table")} | of_studio(page)
        told(found)  # what follows takes minutes
        closed(page)
        page = opened(browser, address, "usual", USUAL)
        found |= of_usual(page)
        closed(page)
        forget(f"{WEAK}/index/validation.sqlite", f"DELETE FROM facts WHERE position >= {N - 400}")
        page, _ = with_studio(browser, address)
        found |= while_indexing(page)
        closed(page)
    about["load after"] = os.getloadavg()
    print(", ".join(f"{k} {v}" for k, v in about.items()))
    rows = told(found)
    pairs = {"alpha": ("matplotlib: alpha", "what if: alpha"),
             "next image": ("matplotlib: next image, in memory", "next image: in memory")}
    ratios = {name: round(rows[a]["median"] / rows[b]["median"], 1) for name, (a, b) in pairs.items()}
    print(f"\nmatplotlib in an output widget takes {', '.join(f'{r} times as long ({n})' for n, r in ratios.items())}")
    Path("bench_studio.json").write_text(json.dumps({"about": about, "rows": rows, "ratios": ratios, "all": found}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]).resolve())
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder))
