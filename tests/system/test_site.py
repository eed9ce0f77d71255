"""The documentation site: every page built without a warning, and read in a browser that has no network."""
from __future__ import annotations

import html
import http.server
import re
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from urllib.parse import unquote

import pytest
from browsing import chromium, page  # noqa: F401 (fixtures)
from conftest import REPO, environment

import wilson


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    "Built as `make site` does it, the tour run, the other pages not; a link that leads nowhere is an error."
    pages, built = tmp_path_factory.mktemp("site") / "source", tmp_path_factory.mktemp("html")
    for command in (["python", ".ci/site/pages.py", pages, "index"],
                    ["sphinx-build", "-W", "-n", "-q", "-c", ".ci/site", pages, built]):
        done = subprocess.run([Path(sys.executable).parent / command[0], *command[1:]], cwd=REPO, env=environment(), text=True, encoding="utf-8",
                              capture_output=True, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr
    return built


def test_every_page_is_there_and_fetches_nothing(site):
    pages = [p.relative_to(REPO / "nbs").with_suffix(".html") for p in REPO.glob("nbs/**/*.ipynb") if "checkpoint" not in str(p)]
    assert len(pages) > 90
    menu = (site / "index.html").read_text(encoding="utf-8")
    for name in pages:
        text = (site / name).read_text(encoding="utf-8")
        assert str(name) in menu and "#|" not in re.sub(r"<[^>]+>", "", text), f"{name}: in the menu, without directives"
        assert not re.search(r'<(script|img|link)[^>]*(src|href)="(https?:)?//', text), name


def test_the_reference_documents_the_public_api(site):
    "Every name of `import wilson` has an entry with its docstring, and parameters their comments; every package has a page."
    text = (site / "reference/wilson.html").read_text(encoding="utf-8")
    assert not {name for name in wilson.__all__ if f'id="wilson.{name}"' not in text}
    words = " ".join(html.unescape(re.sub(r"<[^>]+>", "", text)).split())
    for part in ("Train all steps of a task that are not trained yet", ">>> wilson.collect_parameters",
                 "trust_code – execute code in the run", "a sentence without a full stop, for --help"):
        assert part in words, part
    for package in (p.parent.name for p in REPO.glob("wilson/*/__init__.py")):
        assert (site / "reference" / f"{package}.html").is_file(), package


def test_internal_links_lead_somewhere(site):
    "Links of the built pages, the menus included: the file is there and has the anchor. External links are not fetched."
    texts = {p: p.read_text(encoding="utf-8") for p in site.rglob("*.html")}
    anchors = {p: {*re.findall(r'\sid="([^"]+)"', text)} for p, text in texts.items()}
    dead, n_links = [], 0
    for page, text in texts.items():  # noqa: F402
        for link in {html.unescape(h) for h in re.findall(r'<a [^>]*?href="([^"]+)"', text)}:
            if re.match(r"[a-z]+:", link):
                continue
            n_links += 1
            name, _, anchor = link.partition("#")
            target = (page.parent / unquote(name)).resolve() if name else page
            if not target.is_file() or anchor and target in anchors and unquote(anchor) not in anchors[target]:
                dead.append((str(page.relative_to(site)), link))
    assert n_links > 10_000 and not dead, dead[:20]


def test_in_a_browser(site, page):  # noqa: F811
    "From the tour by the menu to a page with formulas, and by a word to another; no error in the console."
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home = f"http://127.0.0.1:{server.server_port}"
    try:
        wrong: list[str] = []
        page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
        page.route(lambda url: not url.startswith(home) and not url.startswith("data:"), lambda route: (
            wrong.append(route.request.url), route.abort()))
        page.goto(f"{home}/index.html")
        picture = page.locator(".cell_output img").first
        assert picture.evaluate("(i) => i.complete && i.naturalWidth > 500"), "the tour's picture"
        page.locator(".sidebar-tree a", has_text="Norms").first.click()
        page.locator("h1", has_text="Norms").wait_for()
        assert page.locator("math").count() == 4 and page.locator("math").first.bounding_box()["height"] > 10
        page.goto(f"{home}/search.html?q=embedding_bag")
        page.locator("#search-results a", has_text="PAMR").first.click()
        page.locator("h1", has_text="PAMR").wait_for()
        page.goto(f"{home}/search.html?q=load_run")
        page.locator("#search-results a[href*='reference/wilson.html#wilson.load_run']").first.click()
        page.locator("h1", has_text="import wilson").wait_for()
        assert not wrong
    finally:
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass
