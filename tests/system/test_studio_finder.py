"""The finder of the studio in a real browser, without Jupyter: ten thousand rows, and what is really shown of them.

Needs Debian's chromium and playwright. WILSON_SCREENSHOTS names a folder that keeps the screenshots.
"""
from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import need

STUDIO = Path(__file__).resolve().parents[2] / "wilson/widgets/browser"
CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
ROWS = 10_582
NAMES = ["background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
         "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"]
COLUMNS = [("iou:CAM", "CAM", "IoU, %", True, 1), ("iou:hard", "hard mask", "IoU, %", True, 1),
           ("iou:target", "target", "IoU, %", True, 1), ("iou:prediction", "predic\u00adtion", "IoU, %", True, 1),
           ("disagreement", "disagree\u00adment %", "", False, 1), ("confidence", "confi\u00addence", "", True, 2),
           ("labels", "count", "", None, 0), ("coverage", "coverage %", "", None, 1)]
KEYS = [key for key, *_ in COLUMNS]
DARK = {"--jp-layout-color1": "#111111", "--jp-layout-color2": "#2b2b2b", "--jp-ui-font-color1": "#e0e0e0",
        "--jp-ui-font-color2": "#a8a8a8", "--jp-border-color2": "#555555", "--jp-brand-color1": "#64b5f6"}
PAGE = """<body style="margin: 0; background: var(--jp-layout-color1, #fff)">
<div class="wilson-studio" style="width: %dpx; margin: 12px"><div class="place"></div></div>"""
# what the widget's main part will do, and a record of every call that the finder makes
HARNESS = """
window.calls = {open: [], flag: [], thumbnails: [], ask: []};
const dot = "data:image/svg+xml," + encodeURIComponent(
  "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><rect width='9' height='9' fill='#7a9'/></svg>");
window.finder = createFinder(document.querySelector(".place"), {
  open: (position) => calls.open.push(position),
  flag: (position, on) => calls.flag.push([position, on]),
  thumbnails: async (positions) => { calls.thumbnails.push(positions); return new Map(positions.map((p) => [p, p % 7 ? dot : null])); },
  ask: (question) => calls.ask.push(question),
});
window.give = (text) => {
  const table = JSON.parse(text);
  const columns = table.columns.map((c) => ({...c, data: Float32Array.from(c.data, (v) => v === null ? NaN : v)}));
  finder.setTable({...table, columns});
};
window.giveConfusion = (confusion) => finder.setConfusion({...confusion, counts: Float64Array.from(confusion.counts)});
window.painted = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
"""
SHOWN = """() => [...document.querySelectorAll(".finder-row")].map((row) => ({
    top: row.getBoundingClientRect().top, id: row.querySelector(".finder-id").textContent,
    cells: [...row.querySelectorAll(".finder-number")].map((cell) => cell.textContent)})).sort((a, b) => a.top - b.top)"""


def colours(n: int) -> list[str]:
    return [f"#{(i * 0x3F5A71 + 0x205080) % 0xFFFFFF:06x}" for i in range(n)]


def synthetic(n: int = ROWS, names=NAMES, seed: int = 0) -> dict:
    "A table as the kernel gives it: values to one decimal, so that there are ties; some are missing."
    chance = np.random.default_rng(seed)
    labels = [sorted(chance.choice(np.arange(1, len(names)), chance.choice([1, 2, 3, 5], p=[.6, .25, .1, .05]), replace=False).tolist())
              for _ in range(n)]
    target = np.clip(100 * chance.beta(5, 2, n), 0, 100)
    values = {"iou:target": target, "iou:prediction": np.clip(target + chance.normal(0, 12, n), 0, 100),
              "iou:CAM": np.clip(target - 15 + chance.normal(0, 8, n), 0, 100),
              "iou:hard": np.clip(target - 5 + chance.normal(0, 8, n), 0, 100), "disagreement": 60 * chance.beta(1, 4, n),
              "confidence": chance.beta(8, 2, n), "labels": np.array([len(x) for x in labels]), "coverage": 100 * chance.beta(3, 3, n)}
    values = {k: np.float32(np.round(v, 1)) for k, v in values.items()}
    for key in KEYS[:4]:
        values[key][chance.random(n) < 0.01] = np.nan
    order = chance.permutation(n)
    return {"ids": [f"2007_{i:06d}" for i in order], "labels": labels, "values": values,
            "classes": [{"name": name, "colour": c} for name, c in zip(names, colours(len(names)), strict=True)]}


def plain(table: dict) -> dict:
    "The table with columns of numbers, None where there is none."
    columns = [{"key": k, "title": t, "group": g, "digits": d, "data": [None if np.isnan(v) else float(v) for v in table["values"][k]],
                **({} if h is None else {"higherIsBetter": h})} for k, t, g, h, d in COLUMNS]
    return {"ids": table["ids"], "labels": table["labels"], "classes": table["classes"], "columns": columns}


def given(page, table: dict) -> None:
    "Give a table to the finder. One text: the browser's protocol takes seconds for so many numbers."
    page.evaluate("async (text) => { give(text); await painted(); }", json.dumps(table if "columns" in table else plain(table)))


def confused(names=NAMES, seed: int = 1) -> dict:
    "Counts with a strong diagonal; a class without pixels."
    chance, n = np.random.default_rng(seed), len(names)
    counts = chance.gamma(0.15, 4000, (n, n + 1)).round()
    counts[np.arange(n), np.arange(n)] += 60_000
    counts[n // 2] = 0
    return {"maps": ["CAM", "hard mask", "target", "prediction"], "map": "target", "names": list(names), "colours": colours(n),
            "counts": counts.ravel().tolist()}


def ordered(values: np.ndarray, direction: int) -> np.ndarray:
    "Positions by value, stable, those without a value last: what a sort must show."
    missing = np.isnan(values)
    return np.lexsort((np.where(missing, 0, direction * values), missing))


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


def started(browser, width: int = 1000, table: dict | None = None):
    "A page with a finder of this width; an error in the page fails the test that uses it."
    page = browser.new_page(viewport={"width": width + 24, "height": 900})
    page.set_default_timeout(20_000)
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.set_content(PAGE % width)
    page.add_style_tag(path=STUDIO / "elements.css")
    page.add_style_tag(content=(STUDIO / "finder.css").read_text(encoding="utf-8"))
    page.add_script_tag(path=STUDIO / "elements.js")
    page.add_script_tag(content=(STUDIO / "finder.js").read_text(encoding="utf-8") + HARNESS)
    if table:
        given(page, table)
    return page


@pytest.fixture(scope="module")
def table() -> dict:
    return synthetic()


@pytest.fixture
def page(chromium, table):
    page = started(chromium, table=table)
    yield page
    errors = page.errors
    page.close()
    assert not errors


def shown(page) -> list[dict]:
    "Rows in view from top to bottom, as text."
    page.evaluate("painted()")
    return page.evaluate(SHOWN)


def visible(page) -> np.ndarray:
    return np.array(json.loads(page.evaluate("JSON.stringify(finder.visible())")), int)


def calls(page, name: str) -> list:
    return page.evaluate("(name) => calls[name].splice(0)", name)


def title(page, key: str):
    return page.locator(".finder-header [role=columnheader]").filter(
        has=page.locator(f"button[aria-label='{key}']"))


def dark(page) -> None:
    page.evaluate("(all) => { for (const [name, value] of Object.entries(all)) document.documentElement.style.setProperty(name, value); }", DARK)


def screenshot(page, name: str, tmp_path: Path) -> None:
    folder = Path(os.environ.get("WILSON_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    page.evaluate("painted()")
    page.screenshot(path=folder / f"{name}.png")


# ----------------------------------------------------------------------------------------- order


@pytest.mark.parametrize("key, label", [("iou:prediction", "prediction (IoU, %)"), ("disagreement", "disagreement %"),
                                        ("labels", "count")])
def test_the_order_shown_is_that_of_the_values(page, table, key, label):
    "Ascending, descending, as given; ties in the order given; rows without a value last, in both directions."
    header, n = title(page, label), KEYS.index(key)
    for direction, said in [(1, "ascending"), (-1, "descending"), (0, "none")]:
        header.locator("button").click()
        assert header.get_attribute("aria-sort") == said
        expected = ordered(table["values"][key], direction) if direction else np.arange(ROWS)
        assert (visible(page) == expected).all()
        assert [r["id"] for r in shown(page)][:5] == [table["ids"][p] for p in expected[:5]]
        page.locator(".finder-grid").evaluate("grid => { grid.scrollTop = 1e9; }")
        last = shown(page)[-1]
        assert last["id"] == table["ids"][expected[-1]]
        if direction and key == "iou:prediction":
            assert last["cells"][n] == "–" and np.isnan(table["values"][key][expected[-1]])


def test_ids_sort_by_the_numbers_in_them(page, table):
    title(page, "id").locator("button").click()
    assert (visible(page) == np.argsort(table["ids"], kind="stable")).all()
    given(page, {"ids": ["b10", "b9", "a"], "labels": [[], [], []], "classes": [], "columns": []})
    assert visible(page).tolist() == [2, 1, 0]


def test_numbers_stand_as_they_were_given(page, table):
    first = shown(page)[0]
    assert first["id"] == table["ids"][0]
    expected = ["–" if np.isnan(v := table["values"][k][0]) else f"{v:.{d}f}" for k, *_, d in COLUMNS]
    assert first["cells"] == expected


# ---------------------------------------------------------------------------------------- filter


def passing(table, condition) -> list[int]:
    return [p for p in range(len(table["ids"])) if condition(p)]


def test_filters_cut_and_reset_lifts_them(page, table):
    count, values, labels = page.locator(".finder-count"), table["values"], table["labels"]
    assert count.inner_text() == "10,582 of 10,582 images"
    page.get_by_label("search in ids").fill(" 2007_0012 ")
    assert visible(page).tolist() == passing(table, lambda p: "2007_0012" in table["ids"][p])
    assert count.inner_text() == "100 of 10,582 images"
    page.get_by_label("search in ids").fill("")

    page.get_by_label("class among the labels").select_option(label="sheep")
    page.get_by_label("fewest labels").fill("2")
    page.get_by_label("most labels").fill("3")
    sheep = passing(table, lambda p: 17 in labels[p] and 2 <= len(labels[p]) <= 3)
    assert visible(page).tolist() == sheep and sheep

    page.get_by_label("column of the range").select_option(label="CAM (IoU, %)")
    page.get_by_label("least value").fill("30.5")
    page.get_by_label("greatest value").fill("50")
    both = [p for p in sheep if 30.5 <= values["iou:CAM"][p] <= 50]
    assert visible(page).tolist() == both and both

    title(page, "CAM (IoU, %)").locator("button").click()
    assert visible(page).tolist() == sorted(both, key=lambda p: values["iou:CAM"][p])
    page.get_by_text("reset").click()
    assert count.inner_text() == "10,582 of 10,582 images"
    page.get_by_label("search in ids").fill("nothing of that name")
    assert page.locator(".finder-none").inner_text() == "No image passes the filter." and not shown(page)


def test_a_range_leaves_out_what_has_no_value(page, table):
    page.get_by_label("column of the range").select_option(label="target (IoU, %)")
    page.get_by_label("least value").fill("0")
    assert len(visible(page)) == ROWS - np.isnan(table["values"]["iou:target"]).sum() < ROWS


def test_a_range_of_a_column_that_has_gone_cuts_nothing(page, table):
    page.get_by_label("column of the range").select_option(label="target (IoU, %)")
    page.get_by_label("least value").fill("90")
    assert len(visible(page)) < ROWS
    fewer = plain(table)
    fewer["columns"] = [c for c in fewer["columns"] if not c["key"].startswith("iou")]
    given(page, fewer)
    assert len(visible(page)) == ROWS


# ---------------------------------------------------------------------------------------- picking


def pick(page, positions, pixels, name="truth sheep, taken for cow") -> None:
    page.evaluate("([title, positions, pixels]) => finder.pick({title, positions: Int32Array.from(positions), pixels: Float32Array.from(pixels)})",
                  [name, positions, pixels])


def test_a_pick_restricts_and_its_chip_lifts_it(page, table):
    title(page, "target (IoU, %)").locator("button").click()
    before = visible(page)
    pick(page, [7, 4000, 12, 10_000], [50, 12_345, 50, 900])
    assert visible(page).tolist() == [4000, 10_000, 7, 12]
    chip = page.locator(".finder-chip")
    assert chip.locator("span").inner_text() == "truth sheep, taken for cow"
    assert [r["cells"][0] for r in shown(page)] == ["12,345", "900", "50", "50"]
    page.get_by_label("class among the labels").select_option(index=table["labels"][7][0])
    assert 7 in visible(page) and set(visible(page)) <= {4000, 10_000, 7, 12}
    page.get_by_label("class among the labels").select_option(index=0)
    chip.locator("button").click()
    assert (visible(page) == before).all() and not chip.is_visible()
    pick(page, [], [])
    assert not len(visible(page))
    page.get_by_text("reset").click()
    assert len(visible(page)) == ROWS


# ------------------------------------------------------------------------------------------ rows


def test_few_rows_are_elements_and_each_thumbnail_is_asked_for_once(page, table):
    page.wait_for_function("calls.thumbnails.length > 0")
    first = calls(page, "thumbnails")
    assert len(first) == 1 and first[0] == list(range(len(first[0]))) and 6 <= len(first[0]) <= 8
    for top in (52 * 3, 200_000, 400_000, 0):
        page.locator(".finder-grid").evaluate("(grid, top) => { grid.scrollTop = top; }", top)
        page.wait_for_timeout(200)
        assert page.locator(".finder-row").count() < 20
        assert {top // 52 + i for i in range(5)} <= {table["ids"].index(r["id"]) for r in shown(page)}
    asked = [p for positions in calls(page, "thumbnails") for p in positions]
    assert len(asked) == len(set(asked)) and not set(asked) & set(first[0]) and len(asked) < 40
    assert page.locator(".finder-row", has_text=table["ids"][1]).locator("img").get_attribute("src").startswith("data:")

    page.get_by_label("compact rows").check()
    page.locator(".finder-grid").evaluate("grid => { grid.scrollTop = 100_000; }")
    page.wait_for_timeout(200)
    assert page.locator(".finder-row").count() < 40 and not calls(page, "thumbnails")
    assert page.locator(".finder-row").first.bounding_box()["height"] == 28


def test_a_thumbnail_that_fails_leaves_the_rest_alone(chromium, table):
    page = started(chromium)
    page.evaluate("""() => { finder.destroy(); window.finder = createFinder(document.querySelector(".place"),
        {open() {}, flag() {}, ask() {}, thumbnails() { throw new Error("no kernel"); }}); }""")
    given(page, synthetic(20))
    page.wait_for_timeout(200)
    assert len(shown(page)) >= 7 and not page.errors
    page.close()


def test_names_are_text_and_never_markup(chromium):
    hostile = "<img src=x onerror=alert(1)>"
    page, table = started(chromium), plain(synthetic(3))
    table["ids"][0] = hostile
    table["labels"][0] = [1]
    table["classes"][1]["name"] = hostile
    table["columns"][0]["title"] = table["columns"][0]["group"] = hostile
    given(page, table)
    pick(page, [0], [1], hostile)
    page.evaluate("c => giveConfusion(c)", {**confused([hostile, "b"]), "maps": [hostile], "map": hostile})
    page.evaluate("text => finder.setProgress({done: 1, total: 2, text})", hostile)
    assert shown(page)[0]["id"] == hostile
    for place in (".finder-labels .finder-label", ".finder-chip > span", ".finder-progress > span"):
        assert page.locator(place).first.inner_text() == hostile
    assert page.locator("img:not(.finder-thumb img)").count() == 0 and not page.errors
    page.close()


# -------------------------------------------------------------------------------- current and flags


def test_rows_open_and_the_current_one_comes_into_view(page, table):
    page.locator(".finder-row", has_text=table["ids"][3]).click()
    assert calls(page, "open") == [3]
    page.evaluate("finder.setCurrent(9000)")
    current = page.locator(".finder-row[aria-selected=true]")
    assert current.locator(".finder-id").inner_text() == table["ids"][9000]
    box, grid = current.bounding_box(), page.locator(".finder-grid").bounding_box()
    assert grid["y"] < box["y"] and box["y"] + box["height"] <= grid["y"] + grid["height"] + 1
    title(page, "target (IoU, %)").locator("button").click()
    order = ordered(table["values"]["iou:target"], 1).tolist()
    page.evaluate("finder.next(1)")
    page.evaluate("finder.next(-3)")
    at = order.index(9000)
    assert calls(page, "open") == [order[at + 1], order[at - 2]]
    page.evaluate("last => { finder.setCurrent(last); finder.next(1); }", order[-1])
    assert not calls(page, "open")  # there is none after the last
    assert shown(page)[-1]["id"] == table["ids"][order[-1]]


def test_a_current_image_is_shown_when_the_table_is(page, table):
    "Set while the widget is hidden, as in a closed tab."
    place = page.locator(".place")
    place.evaluate("e => { e.style.display = 'none'; finder.setCurrent(5000); }")
    page.evaluate("painted()")
    place.evaluate("e => { e.style.display = ''; }")
    page.wait_for_function("document.querySelector('.finder-grid').scrollTop > 0")
    assert table["ids"][5000] in [r["id"] for r in shown(page)]


def test_the_keyboard_goes_through_rows(page, table):
    page.locator(".finder-row[tabindex='0']").focus()
    for key, place in [("ArrowDown", 1), ("ArrowDown", 2), ("ArrowUp", 1), ("End", ROWS - 1), ("ArrowDown", ROWS - 1), ("Home", 0)]:
        page.keyboard.press(key)
        focused = page.locator(".finder-row:focus")
        assert focused.locator(".finder-id").inner_text() == table["ids"][place], key
        assert focused.get_attribute("aria-rowindex") == str(place + 2)
    page.keyboard.press("ArrowDown")
    page.locator(".finder-grid").evaluate("grid => { grid.scrollTop = 300_000; }")  # the focused row leaves the view, not the page
    page.evaluate("painted()")
    page.keyboard.press("Enter")
    page.keyboard.press(" ")
    assert calls(page, "open") == [1] and calls(page, "flag") == [[1, True]]


def test_flags(page, table):
    star = page.locator(".finder-row", has_text=table["ids"][2]).locator("button")
    star.click()
    assert star.inner_text() == "★" and star.get_attribute("aria-pressed") == "true"
    star.click()
    page.keyboard.press(" ")  # the row whose star was clicked has the keyboard
    assert calls(page, "flag") == [[2, True], [2, False], [2, True]] and not calls(page, "open")
    page.evaluate("finder.setFlags(new Set([2, 5, 8000]))")
    page.get_by_label("flagged only").check()
    assert visible(page).tolist() == [2, 5, 8000]
    page.locator(".finder-row", has_text=table["ids"][5]).locator("button").click()
    assert visible(page).tolist() == [2, 8000]


# --------------------------------------------------------------------------------------- building


def test_a_growing_table_keeps_sort_filter_scroll_and_focus(chromium, table):
    page, part = started(chromium), plain(table)
    for column in part["columns"]:
        if column["key"] != "labels":
            column["data"] = column["data"][:3000] + [None] * (ROWS - 3000)
    given(page, part)
    page.evaluate("finder.setProgress({done: 3000, total: 10582, text: 'indexed 3,000 of 10,582 · about 4 min'})")
    assert page.get_by_role("progressbar").inner_text() == "indexed 3,000 of 10,582 · about 4 min"
    title(page, "prediction (IoU, %)").locator("button").click()
    assert (visible(page) == ordered(np.where(np.arange(ROWS) < 3000, table["values"]["iou:prediction"], np.nan), 1)).all()
    page.locator(".finder-grid").evaluate("grid => { grid.scrollTop = 1e9; }")
    cells = shown(page)[-1]["cells"]
    assert cells[6] == str(len(table["labels"][-1])) and set(cells[:6] + cells[7:]) == {"…"}

    page.get_by_label("search in ids").fill("00")
    page.locator(".finder-grid").evaluate("grid => { grid.scrollTop = 5200; }")
    page.get_by_label("search in ids").focus()
    given(page, table)
    order = [p for p in ordered(table["values"]["iou:prediction"], 1) if "00" in table["ids"][p]]
    assert visible(page).tolist() == order
    assert page.locator(".finder-grid").evaluate("grid => grid.scrollTop") == 5200
    assert table["ids"][order[100]] in [r["id"] for r in shown(page)]
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "search in ids"
    assert title(page, "prediction (IoU, %)").get_attribute("aria-sort") == "ascending"
    title(page, "target (IoU, %)").locator("button").focus()
    given(page, table)
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "target (IoU, %)"
    page.evaluate("finder.setProgress({done: 10582, total: 10582})")
    assert not page.get_by_role("progressbar").is_visible()
    assert not page.errors
    page.close()


def test_the_same_table_with_other_values_is_seen(page):
    "Whoever builds the index may write into the arrays that were given before."
    page.evaluate("""window.mine = {ids: ["a", "b"], labels: [[], []], classes: [],
        columns: [{key: "k", title: "k", group: "", digits: 0, data: Float32Array.of(1, 2)}]}; finder.setTable(mine)""")
    title(page, "k").locator("button").click()
    assert visible(page).tolist() == [0, 1]
    page.evaluate("mine.columns[0].data[0] = 300; finder.setTable(mine)")
    assert visible(page).tolist() == [1, 0] and [r["cells"] for r in shown(page)] == [["2"], ["300"]]


# ----------------------------------------------------------------------------------------- scatter

LEFT, TOP, RIGHT, BOTTOM = 46, 8, 10, 38  # margins around the plot, as the axes are drawn


def places(page, across: np.ndarray, up: np.ndarray, top=(100, 100)) -> np.ndarray:
    "Where the points must lie, in pixels of the canvas."
    box = page.locator(".finder-canvas").first.bounding_box()
    return np.stack([LEFT + across / top[0] * (box["width"] - LEFT - RIGHT),
                     box["height"] - BOTTOM - up / top[1] * (box["height"] - TOP - BOTTOM)], 1)


def point(at) -> dict:
    return {"x": float(at[0]), "y": float(at[1])}


def test_a_click_opens_the_nearest_point(page, table):
    canvas, values = page.locator(".finder-canvas").first, table["values"]
    at = places(page, values["iou:target"], values["iou:prediction"])
    for position in np.flatnonzero(np.isfinite(at).all(1))[[5, 4000, -1]]:
        spot = at[position].round().astype(int)  # a mouse points at whole pixels
        nearest = np.nanmin(np.hypot(*(at - spot).T))
        canvas.hover(position=point(spot))
        canvas.click(position=point(spot))
        [opened] = calls(page, "open")
        assert np.hypot(*(at[opened] - spot)) <= nearest + 0.1
        target, prediction = (values[f"iou:{k}"][opened] for k in ("target", "prediction"))
        assert page.locator(".finder-readout").first.inner_text() == f"{table['ids'][opened]}: target {target:.1f}, prediction {prediction:.1f}"
    canvas.click(position={"x": LEFT + 250, "y": 280})  # nobody near: target 90, prediction 0
    assert not calls(page, "open")


def test_the_scatter_follows_the_filter_and_its_axes(page, table):
    canvas, values = page.locator(".finder-canvas").first, table["values"]
    pick(page, [10, 20, 30], [1, 2, 3])
    page.get_by_label("x axis").select_option(label="confidence")
    page.evaluate("painted()")
    at = places(page, values["confidence"], values["iou:prediction"], (1, 100))
    canvas.click(position=point(at[20]))
    hidden = next(p for p in range(40, ROWS) if np.hypot(*(at[[10, 20, 30]] - at[p]).T).min() > 12)
    canvas.click(position=point(at[hidden]))
    assert calls(page, "open") == [20]
    canvas.focus()
    by_x = sorted([10, 20, 30], key=lambda p: (values["confidence"][p], values["iou:prediction"][p]))
    for key in ["ArrowRight", *["ArrowLeft"] * 3, "ArrowRight", "Enter"]:  # first to the current one, then on
        page.keyboard.press(key)
    assert calls(page, "open") == [by_x[1]]


# --------------------------------------------------------------------------------------- confusion


def confusion_canvas(page):
    page.get_by_role("tab", name="confusion").click()
    page.evaluate("painted()")
    return page.locator(".finder-canvas").last


def cell(canvas, n: int, truth: int, column: int) -> dict:
    "The middle of a cell; the matrix ends two pixels before the canvas does."
    box = canvas.bounding_box()
    size = round((box["height"] - (84 if n < 30 else 24) - 2) / n)
    return {"x": box["width"] - 2 - (n + 1 - column - 0.5) * size, "y": box["height"] - 2 - (n - truth - 0.5) * size}


def test_a_cell_asks_for_its_images(page):
    confusion, n = confused(), len(NAMES)
    page.evaluate("c => giveConfusion(c)", confusion)
    canvas, counts = confusion_canvas(page), np.array(confusion["counts"]).reshape(n, n + 1)
    readout = page.locator(".finder-readout").last
    for truth, column, taken in [(17, 8, "taken for cat"), (3, 3, "recognised"), (0, 20, "taken for tvmonitor"), (20, 21, "without a label")]:
        spot = cell(canvas, n, truth, column)
        canvas.hover(position=spot)
        share = 100 * counts[truth, column] / counts[truth].sum()
        assert readout.inner_text() == f"truth {NAMES[truth]}, {taken}: {share:.1f} % ({counts[truth, column]:,.0f} pixels)"
        canvas.click(position=spot)
        predicted = 255 if column == n else column
        assert calls(page, "ask") == [{"confusion": {"map": "target", "truth": truth, "predicted": predicted}}]
    canvas.hover(position=cell(canvas, n, n // 2, 4))
    assert readout.inner_text() == "truth cow: no pixel"
    canvas.click(position={"x": 5, "y": 5})
    page.get_by_label("map compared with the truth").select_option("CAM")
    assert calls(page, "ask") == [{"confusion": {"map": "CAM"}}]


def test_the_keyboard_goes_through_cells(page):
    page.evaluate("c => giveConfusion(c)", confused())
    page.evaluate("painted()")
    page.get_by_role("tab", name="scatter").focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("tab", name="confusion").get_attribute("aria-selected") == "true"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    for key in ["ArrowDown", "ArrowDown", "ArrowRight", "ArrowLeft", "ArrowLeft", "ArrowRight", "Enter"]:
        page.keyboard.press(key)
    assert calls(page, "ask") == [{"confusion": {"map": "target", "truth": 2, "predicted": 1}}]


def test_eighty_one_classes_stay_usable(page):
    names = [f"class {i} with a rather long name" for i in range(81)]
    page.evaluate("c => giveConfusion(c)", confused(names))
    canvas = confusion_canvas(page)
    box = canvas.bounding_box()
    assert (box["height"] - 26) / 81 >= 5 and (box["width"] - 26) / 82 >= 5
    canvas.click(position=cell(canvas, 81, 80, 70))
    assert calls(page, "ask") == [{"confusion": {"map": "target", "truth": 80, "predicted": 70}}]
    assert "truth class 80 with a rather long name, taken for class 70" in page.locator(".finder-readout").last.inner_text()
    side = page.locator(".finder-side").bounding_box()
    assert side["width"] <= 341  # it scrolls within its panel


# ----------------------------------------------------------------------------------- looks and end


OVERFLOW = """() => { const edge = document.querySelector(".finder").getBoundingClientRect().right + 0.5;
    return [...document.querySelectorAll(".finder *")].filter((e) => !e.closest(".finder-grid, .finder-plot") &&
        e.getBoundingClientRect().right > edge).map((e) => e.className || e.tagName); }"""


@pytest.mark.parametrize("width", [1000, 700])
def test_it_fits_and_follows_the_theme(chromium, table, width, tmp_path):
    page = started(chromium, width, table)
    page.evaluate("c => giveConfusion(c)", confused())
    page.evaluate("finder.setFlags(new Set([5, 77, 900])); finder.setCurrent(77)")
    page.wait_for_timeout(300)
    screenshot(page, f"finder-{width}", tmp_path)
    assert page.evaluate(OVERFLOW) == []
    grid, side = page.locator(".finder-grid").bounding_box(), page.locator(".finder-side").bounding_box()
    assert side["x"] > grid["x"] + grid["width"] if width == 1000 else side["y"] > grid["y"] + grid["height"]
    assert page.locator(".finder-grid").evaluate("grid => grid.scrollWidth <= grid.clientWidth")
    numbers = page.evaluate("""() => [...document.querySelectorAll(".finder-row .finder-number")].filter((cell) => {
        const range = document.createRange(); range.selectNodeContents(cell); return range.getBoundingClientRect().left < cell.getBoundingClientRect().left; }).length""")
    assert numbers == 0  # no number is wider than its column

    paper = "() => [...document.querySelectorAll('canvas')].filter((c) => c.offsetWidth).map((c) => c.toDataURL())"
    before = page.evaluate(paper)
    dark(page)
    page.wait_for_timeout(300)
    assert all(now != then for now, then in zip(page.evaluate(paper), before, strict=True))  # drawn anew in the colours of the theme
    pick(page, list(range(0, 3000, 11)), list(range(273, 0, -1)))
    page.evaluate("finder.setProgress({done: 1200, total: 10582, text: 'indexed 1,200 of 10,582 · about 4 min'})")
    if width == 1000:
        page.get_by_role("tab", name="confusion").click()
    page.wait_for_timeout(300)
    screenshot(page, f"finder-{width}-dark", tmp_path)
    assert page.evaluate(OVERFLOW) == [] and not page.errors
    page.close()


def test_two_on_a_page_and_the_end_of_one(page, table):
    page.evaluate("""() => { const place = document.createElement("div"); document.querySelector(".wilson-studio").append(place);
        window.first = finder; window.finder = createFinder(place, {open() {}, flag() {}, ask() {}, thumbnails: async () => new Map()}); }""")
    given(page, synthetic(9))
    assert page.evaluate("[first.visible().length, finder.visible().length]") == [ROWS, 9]
    page.evaluate("first.destroy()")
    page.evaluate("painted()")
    assert page.evaluate("document.querySelector('.place').children.length") == 0
    assert page.evaluate("[...document.querySelectorAll('.finder')].length") == 1
    assert page.evaluate("[...document.querySelectorAll('.wilson-studio [id]')].length") == 0


def test_it_stands_alone():
    "One script of top-level functions whose names are its own; no network, no markup made of data."
    text = (STUDIO / "finder.js").read_text(encoding="utf-8")
    names = re.findall(r"^(?:async )?(?:function|const|let|class) (\w+)", text, re.MULTILINE)
    assert len(names) == len(set(names)) and all(n.lower().startswith("finder") or n == "createFinder" for n in names)
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|fetch\(|import |export |document\.body|eval\(", text)
    rules = re.sub(r"/\*.*?\*/", "", (STUDIO / "finder.css").read_text(encoding="utf-8"), flags=re.DOTALL)
    selectors = [s for s in re.findall(r"([^{};]+)\{", rules) if not s.strip().startswith("@")]
    assert all(".wilson-studio .finder" in s for s in selectors)
