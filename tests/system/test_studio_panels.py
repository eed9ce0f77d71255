"""The studio's linked maps in a real browser, without Jupyter: what is drawn, said and linked.

Needs Debian's chromium and playwright. WILSON_SCREENSHOTS names a folder that keeps the screenshots.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from browsing import REPO, SOON, chromium  # noqa: F401

PARTS = REPO / "wilson/widgets/browser"
LIGHT = "body { background: #fff }"
DARK = """body { background: #111 }
:root { --jp-layout-color1: #111; --jp-layout-color2: #424242; --jp-ui-font-color1: rgba(255, 255, 255, .87);
        --jp-ui-font-color2: rgba(255, 255, 255, .54); --jp-border-color2: #616161; --jp-brand-color1: #2196f3 }"""
CLASSES = [{"name": "background", "colour": "#000000"}, {"name": "<b>sheep</b>", "colour": "#c00000"},
           {"name": "cow", "colour": "#00c000"}, {"name": "horse", "colour": "#0000c0"}]

# A view from JSON: `labels` and `soft.data` as lists, the picture as one colour or as "noise"
VIEW = """window.made = (view, colour = "#808080", size = view.size) => {
    const image = document.createElement("canvas"), [h, w] = size, pen = Object.assign(image, {width: w, height: h}).getContext("2d");
    pen.fillStyle = colour === "noise" ? "#fff" : colour;
    pen.fillRect(0, 0, w, h);
    for (let i = 0; colour === "noise" && i < h * w; i++) {
        pen.fillStyle = (i * 7919) % 13 < 6 ? "#000" : "#fff";
        pen.fillRect(i % w, Math.floor(i / w), 1, 1);
    }
    view.truth &&= Uint8Array.from(view.truth);
    for (const panel of view.rows.flatMap((row) => row.panels)) {
        panel.image = image;
        panel.labels &&= Uint8Array.from(panel.labels);
        if (panel.soft) panel.soft.data = Uint8Array.from(panel.soft.data);
    }
    return view;
}
window.frames2 = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
// colours of a panel at fractions of its canvas
window.pixels = (root, name, places, row = 0) => {
    const canvas = root.querySelector(`[data-panel="${name}"][data-row="${row}"] canvas`);
    return places.map(([u, v]) => [...canvas.getContext("2d").getImageData(u * canvas.width, v * canvas.height, 1, 1).data.slice(0, 3)]);
}"""


@pytest.fixture
def opened(chromium, tmp_path):  # noqa: F811
    "A function that opens a page with one or two empty panels, `root0` and `root1`."
    pages = []

    def page_of(width: int = 1000, height: int = 800, style: str = LIGHT, ratio: float = 1):
        page = chromium.new_page(viewport={"width": width, "height": height}, device_scale_factor=ratio)
        page.set_default_timeout(SOON)
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.set_content(f"<!doctype html><style>{style}</style><div style='height: 2000px'>"
                         "<div class='wilson-studio' id='root0'></div><div class='wilson-studio' id='root1'></div></div>")
        page.add_style_tag(path=PARTS / "elements.css")
        page.add_style_tag(path=PARTS / "panels.css")
        page.add_script_tag(path=PARTS / "elements.js")
        page.add_script_tag(path=PARTS / "panels.js")
        page.add_script_tag(content=VIEW)
        page.evaluate("""() => {
            window.told = [];
            window.root = [0, 1].map((i) => document.getElementById(`root${i}`));
            window.panels = root.map((r) => createPanels(r, { onHover: (p) => told.push(p) }));
        }""")
        pages.append(page)
        return page

    yield page_of
    for page in pages:
        assert not page.errors
        page.close()


def panel(name: str, labels=None, soft=None, kind: str = "classes", note: str = "") -> dict:
    return {"name": name, "note": note, "kind": kind, "labels": labels, "soft": soft}


def view(*rows: list[dict], size=(8, 8), key: str = "a", truth=None, n_old: int = 2) -> dict:
    return {"key": key, "classes": CLASSES, "nOld": n_old, "size": list(size), "truth": truth,
            "rows": [{"title": f"run {i}" if len(rows) > 1 else "", "panels": row} for i, row in enumerate(rows)]}


def show(page, shown: dict, colour: str = "#808080", at: int = 0, size=None, **look) -> None:
    page.evaluate("async ([view, colour, at, size, look]) => { panels[at].show(made(view, colour, size ?? view.size)); "
                  "panels[at].set(look); await frames2(); }", [shown, colour, at, size, look])


def look(page, **changes) -> None:
    page.evaluate("async (look) => { panels[0].set(look); await frames2(); }", changes)


def pixels(page, name: str, *places: tuple[float, float], row: int = 0, at: int = 0) -> list[list[int]]:
    return page.evaluate("([at, ...rest]) => pixels(root[at], ...rest)", [at, name, places, row])


def canvas(page, name: str, row: int = 0, at: int = 0):
    return page.locator(f"#root{at} [data-panel='{name}'][data-row='{row}'] canvas")


def over(page, name: str, u: float, v: float, row: int = 0) -> None:
    "Move the mouse to fractions of a canvas."
    box = canvas(page, name, row).bounding_box()
    page.mouse.move(box["x"] + u * box["width"], box["y"] + v * box["height"])
    page.evaluate("frames2()")


def wheel(page, delta: int, *, ctrl: bool = False) -> None:
    if ctrl:
        page.keyboard.down("Control")
    page.mouse.wheel(0, delta)
    page.wait_for_timeout(100)  # the browser sends it on when it likes
    if ctrl:
        page.keyboard.up("Control")
    page.evaluate("frames2()")


def press(page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)
    page.evaluate("frames2()")


def said(page, name: str, row: int = 0, at: int = 0) -> list[str]:
    "The entries of a readout that are seen, as one text each."
    entries = page.locator(f"#root{at} [data-panel='{name}'][data-row='{row}'] .wilson-panel-entry")
    return [" ".join(e.inner_text().replace("\u202f", " ").split()) for e in entries.all() if e.is_visible()]


def quarters(*classes: int) -> list[int]:
    "8 × 8 labels: left upper, right upper, left lower and right lower quarter."
    a, b, c, d = classes
    return ([a] * 4 + [b] * 4) * 4 + ([c] * 4 + [d] * 4) * 4


CORNERS = (0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)


# ------------------------------------------------------------------------------------- what is drawn


def test_opacity_lies_between_picture_and_class(opened):
    page = opened()
    show(page, view([panel("image", kind="image"), panel("truth", quarters(0, 1, 2, 3))]), opacity=1)
    assert pixels(page, "truth", *CORNERS) == [[128, 128, 128], [192, 0, 0], [0, 192, 0], [0, 0, 192]]
    assert pixels(page, "image", *CORNERS) == [[128, 128, 128]] * 4
    look(page, opacity=0)
    assert pixels(page, "truth", *CORNERS) == [[128, 128, 128]] * 4
    look(page, opacity=0.5)
    assert pixels(page, "truth", CORNERS[1])[0] == pytest.approx([160, 64, 64], abs=1)


def test_no_label_is_hatched_and_a_difference_has_its_colours(opened):
    page = opened()
    kinds = [panel("hard mask", quarters(0, 255, 1, 1)), panel("difference", quarters(0, 1, 2, 3), kind="difference"),
             panel("void", quarters(255, 255, 255, 255), kind="difference")]
    show(page, view(kinds), "#204060", opacity=1)
    line = [(0.55 + i / 100, 0.25) for i in range(40)]
    for name in ("hard mask", "void"):
        hatch = pixels(page, name, *line)
        assert all(r == g == b for r, g, b in hatch)
        assert min(hatch)[0] < 110 and max(hatch)[0] > 170, "stripes"
    assert pixels(page, "difference", *CORNERS) == [[32, 64, 96], [0, 114, 178], [230, 159, 0], [204, 121, 167]]
    assert page.locator("#root0 .wilson-panel-key").inner_text().split() == ["missed", "invented", "confused", "no", "label"]
    look(page, opacity=0)
    assert pixels(page, "hard mask", *line[:3]) == [[32, 64, 96]] * 3


def brightness(colour: list[int]) -> float:
    return 0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2]


def test_heat_is_ordered_and_summed(opened):
    page = opened()
    ramp = [round(255 * i / 15) for i in range(16)]
    soft = {"c": 4, "h": 1, "w": 16, "data": [0] * 16 + ramp + ramp[::-1] + ramp}
    show(page, view([panel("CAM", quarters(1, 1, 1, 1), soft), panel("truth", quarters(0, 1, 2, 2))]), opacity=1, heat=1)
    line = [(i / 32 + 1 / 64, 0.5) for i in range(32)]
    rising = [brightness(c) for c in pixels(page, "CAM", *line)]
    assert rising == sorted(rising) and rising[0] < 10 and rising[-1] > 200
    # class 1 is seen in full where there are no probabilities, the others fade
    assert pixels(page, "truth", CORNERS[1]) == [[192, 0, 0]]
    assert pixels(page, "truth", CORNERS[2])[0] == pytest.approx([100, 142, 100], abs=2)
    look(page, heat="new")  # channels 2 and 3: falling and rising, together 1 everywhere
    flat = {tuple(c) for c in pixels(page, "CAM", *line)}
    assert flat == {(252, 253, 191)}
    look(page, heat="old")  # class 1 alone: background does not count
    assert [brightness(c) for c in pixels(page, "CAM", *line)] == rising
    look(page, heat="background")
    assert {tuple(c) for c in pixels(page, "CAM", *line)} == {(0, 0, 4)}
    look(page, heat=None)
    assert pixels(page, "CAM", (0.5, 0.5)) == [[192, 0, 0]]


def test_outline_of_the_truth_ignores_its_void_strip(opened):
    page = opened()
    truth = ([1] * 3 + [255] * 2 + [0] * 3) * 8
    show(page, view([panel("image", kind="image")], truth=truth), outline=True)
    row = pixels(page, "image", *((i / 480, 0.5) for i in range(480)))
    drawn = [i for i, colour in enumerate(row) if colour != [128, 128, 128]]
    assert 2 <= len(drawn) <= 4 and all(abs(i - 180) <= 3 for i in drawn), drawn
    assert min(row[i][0] for i in drawn) < 90 and max(row[i][0] for i in drawn) > 180, "dark and light"
    look(page, outline=False)
    assert pixels(page, "image", (0.375, 0.5)) == [[128, 128, 128]]


def test_small_pictures_keep_their_pixels_and_large_ones_are_smoothed(opened):
    page = opened()
    places = [(i / 97, j / 31) for i in range(97) for j in range(31)]
    noise = panel("image", kind="image")
    show(page, view([noise], size=(96, 96)), "noise")
    assert {tuple(c) for c in pixels(page, "image", *places)} == {(0, 0, 0), (255, 255, 255)}
    show(page, view([noise], size=(96, 96), key="b"), "noise", size=(960, 960))
    greys = [c[0] for c in pixels(page, "image", *places)]
    assert sum(30 < g < 225 for g in greys) > 0.9 * len(greys)


@pytest.mark.parametrize("ratio", [1, 2])
def test_a_canvas_has_the_screens_pixels(opened, ratio):
    page = opened(ratio=ratio)
    show(page, view([panel("truth", [1] * 12), panel("CAM", [1] * 12)], size=(3, 4)))
    w, css_w, css_h = page.evaluate("(() => { const c = root[0].querySelector('canvas'); return [c.width, c.clientWidth, c.clientHeight]; })()")
    assert w == ratio * css_w and css_h / css_w == pytest.approx(3 / 4, abs=0.01)


# ------------------------------------------------------------------------------------- what is said


def test_interpolation_is_that_of_torch(opened):
    page = opened()
    torch.manual_seed(0)
    soft = torch.randint(0, 256, (3, 4, 5), dtype=torch.uint8)
    there = page.evaluate("""(data) => Array.from({ length: 9 * 13 }, (_, i) =>
        panelSoftAt({ data, c: 3, h: 4, w: 5 }, i % 13, Math.floor(i / 13), [9, 13]))""", soft.flatten().tolist())
    here = torch.nn.functional.interpolate(soft[None].double() / 255, (9, 13), mode="bilinear", align_corners=False)[0]
    assert torch.allclose(torch.tensor(there, dtype=torch.float64).T.reshape(3, 9, 13), here, atol=1e-9)


# 2 × 2 probabilities on 8 × 8 pixels. At x 3, y 2 the right column weighs 0.375 and the lower row 0.125
SOFT = {"c": 4, "h": 2, "w": 2, "data": [0, 0, 204, 204, 255, 0, 0, 0, 0, 255, 0, 0, 0, 0, 0, 26]}


def test_readout_of_every_panel_at_one_pixel(opened):
    page = opened()
    rows = [panel("image", kind="image"), panel("CAM", quarters(1, 2, 0, 0), SOFT), panel("truth", quarters(255, 1, 0, 9)),
            panel("difference", quarters(2, 0, 0, 0), kind="difference")]
    show(page, view(rows))
    over(page, "image", 3.5 / 8, 2.5 / 8)
    # 0.625 · 0.875, 0.375 · 0.875 and 0.8 · 0.125; names are text, never HTML
    assert said(page, "CAM") == ["<b>sheep</b> 55 %", "cow 33 %", "background 10 %"]
    assert said(page, "truth") == ["no label"] and said(page, "image") == [] and said(page, "difference") == ["invented"]
    swatch = page.locator("[data-panel='CAM'] .wilson-panel-entry i").first
    assert swatch.evaluate("e => getComputedStyle(e).backgroundColor") == "rgb(192, 0, 0)"
    assert page.evaluate("told") == [{"x": 3, "y": 2}]
    look(page, heat=3)  # 0.375 · 0.125 · 26 / 255: in the readout because it is what the heat map shows
    assert said(page, "CAM") == ["<b>sheep</b> 55 %", "cow 33 %", "horse <1 %"]
    assert page.locator("#root0 .wilson-panel-key").inner_text().split()[:4] == ["0", "to", "1", "horse"]
    look(page, heat="new")
    assert said(page, "CAM")[2] == "new classes 33 %"
    over(page, "truth", 0.9, 0.9)
    assert said(page, "truth") == ["class 9"]
    page.mouse.move(5, 790)
    page.evaluate("frames2()")
    assert page.evaluate("told.at(-1)") is None and said(page, "CAM") == []
    assert page.locator("#root0 .wilson-panel b b").count() == 0


def test_rings_are_at_the_same_place_in_every_panel(opened):
    page = opened()
    show(page, view([panel("CAM", quarters(0, 1, 2, 3), SOFT), panel("truth", quarters(0, 1, 2, 3))]))
    over(page, "CAM", 0.8, 0.3)
    offsets = page.evaluate("""[...root[0].querySelectorAll('.wilson-panel-ring')].map((ring) => {
        const at = ring.getBoundingClientRect(), box = ring.parentNode.getBoundingClientRect();
        return [(at.x - box.x) / box.width, (at.y - box.y) / box.height]; })""")
    assert offsets[0] == pytest.approx([6.5 / 8, 2.5 / 8], abs=0.01) and offsets[0] == offsets[1]


# ------------------------------------------------------------------------------------- what is linked


def numbered() -> list[int]:
    "16 × 16 labels whose classes change from pixel to pixel."
    return [(x + 2 * y + x * y) % 4 for y in range(16) for x in range(16)]


def windows(page, *names: str) -> list[list]:
    "What is seen in each panel, as colours on a grid."
    grid = [(i / 23 + 0.01, j / 23 + 0.01) for i in range(23) for j in range(23)]
    return [pixels(page, n, *grid) for n in names]


@pytest.fixture
def linked(opened):
    page = opened()
    show(page, view([panel("CAM", numbered()), panel("truth", numbered())], size=(16, 16)), opacity=1)
    return page


def test_wheel_zooms_all_about_the_pointer_and_only_when_asked(linked):
    page = linked
    whole = windows(page, "CAM")[0]
    over(page, "CAM", 0.7, 0.4)
    wheel(page, -100)
    assert windows(page, "CAM")[0] == whole, "a wheel scrolls the page"
    page.evaluate("scrollTo(0, 0)")
    over(page, "CAM", 0.7, 0.4)
    under = pixels(page, "CAM", (0.7, 0.4))
    for _ in range(3):
        wheel(page, -100, ctrl=True)
        assert pixels(page, "CAM", (0.7, 0.4)) == under == pixels(page, "truth", (0.7, 0.4))
    first, second = windows(page, "CAM", "truth")
    assert first == second != whole and page.evaluate("devicePixelRatio") == 1
    # dragged to the right the left is seen; a double click shows all again
    page.mouse.down()
    over(page, "CAM", 0.9, 0.4)
    page.mouse.up()
    assert pixels(page, "truth", (0.9, 0.4)) == under
    dragged = windows(page, "CAM", "truth")
    assert dragged[0] == dragged[1] != first
    page.mouse.dblclick(*centre(page, "truth"))
    page.evaluate("frames2()")
    assert windows(page, "CAM", "truth") == [whole, whole]


def centre(page, name: str) -> tuple[float, float]:
    box = canvas(page, name).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_a_clicked_map_takes_the_wheel_until_escape(linked):
    page = linked
    whole = windows(page, "CAM")[0]
    page.mouse.click(*centre(page, "CAM"))
    wheel(page, -100)
    assert windows(page, "truth")[0] != whole and page.evaluate("scrollY") == 0
    press(page, "0", "Escape")
    wheel(page, 100)
    assert windows(page, "truth")[0] == whole and page.evaluate("scrollY") > 0


def test_keys_zoom_move_and_point(linked):
    page = linked
    page.evaluate("window.leaked = []; document.addEventListener('keydown', (e) => leaked.push(e.key))")
    whole = windows(page, "CAM")[0]
    canvas(page, "truth").focus()
    press(page, "+", "+", "+", "+")
    zoomed = windows(page, "CAM", "truth")
    assert zoomed[0] == zoomed[1] != whole
    press(page, "ArrowRight")
    assert windows(page, "CAM")[0] != zoomed[0]
    press(page, "ArrowLeft")
    assert windows(page, "CAM")[0] == zoomed[0]
    press(page, "-", "-", "-", "-", "-")
    assert windows(page, "CAM")[0] == whole
    press(page, "+", "0")
    assert windows(page, "CAM")[0] == whole
    press(page, "Shift+ArrowRight")
    press(page, "Shift+ArrowRight")
    press(page, "Shift+ArrowUp")
    assert page.evaluate("told") == [{"x": 8, "y": 8}, {"x": 9, "y": 8}, {"x": 9, "y": 7}]
    assert said(page, "CAM") == [CLASSES[numbered()[7 * 16 + 9]]["name"]]
    press(page, "x", "Control+s", "Escape")
    assert page.evaluate("told.at(-1)") is None
    assert set(page.evaluate("leaked")) <= {"Control", "s", "Shift"}, "Jupyter has shortcuts on single letters"


def test_the_pointers_keys_move_the_window_along(linked):
    page = linked
    canvas(page, "truth").focus()
    press(page, *"+" * 10)
    before = windows(page, "truth")[0]
    press(page, *["Shift+ArrowLeft"] * 30)
    assert page.evaluate("told.at(-1)")["x"] == 0 and windows(page, "truth")[0] != before
    assert not page.locator("[data-panel='truth'] .wilson-panel-ring").evaluate("ring => ring.hidden")


def test_zoom_and_focus_stay_with_the_image(linked):
    page = linked
    whole = windows(page, "CAM")[0]
    canvas(page, "truth").focus()
    press(page, "+", "+")
    zoomed = windows(page, "CAM")[0]
    again = view([panel("CAM", numbered(), note="IoU 61.2"), panel("truth", numbered())], size=(16, 16))
    show(page, again)
    assert windows(page, "CAM")[0] == zoomed != whole
    assert page.locator("[data-panel='CAM'] .wilson-panel-note").inner_text() == "IoU 61.2"
    show(page, again | {"key": "another"})
    assert windows(page, "CAM")[0] == whole
    assert page.evaluate("document.activeElement.closest('figure').dataset.panel") == "truth"


def test_two_on_a_page_know_nothing_of_each_other(linked):
    page = linked
    show(page, view([panel("CAM", numbered())], size=(16, 16)), at=1, opacity=1)
    before = pixels(page, "CAM", *CORNERS, at=1)
    over(page, "CAM", 0.1, 0.1)
    wheel(page, -100, ctrl=True)
    assert said(page, "CAM") and not said(page, "CAM", at=1) and pixels(page, "CAM", *CORNERS, at=1) == before
    page.evaluate("panels[0].destroy()")
    assert page.locator("#root0 > *").count() == 0
    page.evaluate("async () => { panels[1].set({ opacity: 0 }); await frames2(); }")
    assert pixels(page, "CAM", *CORNERS, at=1) == [[128, 128, 128]] * 4


# ------------------------------------------------------------------------------------- how it lies on the page


def blobs(height: int = 90, width: int = 120) -> list[int]:
    def inside(x, y, cx, cy, r):
        return (x / width - cx) ** 2 + (y / height - cy) ** 2 < r ** 2
    return [1 if inside(x, y, 0.35, 0.5, 0.2) else 255 if inside(x, y, 0.35, 0.5, 0.23) else 2 if inside(x, y, 0.8, 0.6, 0.13)
            else 0 for y in range(height) for x in range(width)]


@pytest.mark.parametrize("width, style", [(1000, LIGHT), (700, DARK), (320, LIGHT)], ids=["1000-light", "700-dark", "320-light"])
def test_maps_of_two_runs_are_one_above_the_other(opened, width, style, tmp_path):
    page, labels = opened(width, 1400, style), blobs()
    full = [panel("image", kind="image"), panel("CAM", labels, SOFT, note="IoU 61.2"), panel("soft label", labels, SOFT),
            panel("prediction", labels, SOFT), panel("truth", labels)]
    show(page, view(full, [full[0], full[3], full[4]], size=(90, 120), truth=labels), "#7a9a6a")
    over(page, "CAM", 0.35, 0.5)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = {(n, r): canvas(page, n, r).bounding_box() for r in (0, 1) for n in ("image", "prediction", "truth")}
    for name in ("image", "prediction", "truth"):
        above, below = boxes[name, 0], boxes[name, 1]
        assert above["x"] == below["x"] and above["width"] == below["width"]
        assert above["y"] < below["y"] < above["y"] + 1.8 * above["height"] + 90, "the next line"
    sizes = page.evaluate("""['.wilson-panel-head', '.wilson-panel-readout', '.wilson-panel-hint'].map((s) =>
        parseFloat(getComputedStyle(root[0].querySelector(s)).fontSize))""")
    assert all(12 <= s <= 13 for s in sizes)
    over_edge = page.evaluate("""[...root[0].querySelectorAll('figure *')].filter((e) => {
        const a = e.getBoundingClientRect(), b = e.closest('figure').getBoundingClientRect();
        return !e.closest('.wilson-panel-ring') && a.width && a.right > b.right + 1; }).length""")
    assert over_edge == 0
    before = canvas(page, "truth", 1).bounding_box()
    over(page, "CAM", 0.8, 0.6)
    assert canvas(page, "truth", 1).bounding_box() == before, "nothing jumps"
    folder = Path(os.environ.get("WILSON_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"panels-{width}.png")


def test_a_narrower_page_has_fewer_columns(opened):
    page = opened()
    show(page, view([panel(f"map {i}", quarters(0, 1, 2, 3)) for i in range(5)]), opacity=1)
    count = "new Set([...root[0].querySelectorAll('canvas')].map((c) => c.getBoundingClientRect().x)).size"
    assert page.evaluate(count) == 5
    page.set_viewport_size({"width": 600, "height": 800})
    page.wait_for_function(f"{count} === 3")
    page.evaluate("frames2()")
    assert pixels(page, "map 4", CORNERS[1]) == [[192, 0, 0]]
    page.evaluate("async () => { root[0].hidden = true; await frames2(); root[0].hidden = false; await frames2(); }")
    assert pixels(page, "map 4", CORNERS[1]) == [[192, 0, 0]]


def test_the_first_and_the_empty_view(opened):
    page = opened()
    look(page, opacity=1, heat=1)
    show(page, view([panel("truth", quarters(0, 1, 2, 3))]))
    assert pixels(page, "truth", CORNERS[1]) == [[192, 0, 0]]
    show(page, view(key="b"))
    assert page.locator("#root0 canvas").count() == 0, "no rows, no panels"
    assert json.loads(page.evaluate("JSON.stringify(Object.keys(panels[0]))")) == ["show", "set", "resetZoom", "destroy"]
