"""The documentation site: every page built without a warning, and read in a browser that has no network."""
from __future__ import annotations

import http.server
import re
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
from browsing import chromium, page  # noqa: F401 (fixtures)
from conftest import REPO, environment


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    "Built as `make site` does it, the tour run, the other pages not; a link that leads nowhere is an error."
    pages, html = tmp_path_factory.mktemp("site") / "source", tmp_path_factory.mktemp("html")
    for command in (["python", ".ci/site/pages.py", pages, "index"],
                    ["sphinx-build", "-W", "-n", "-q", "-c", ".ci/site", pages, html]):
        done = subprocess.run([Path(sys.executable).parent / command[0], *command[1:]], cwd=REPO, env=environment(), text=True, encoding="utf-8",
                              capture_output=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
    return html


def test_every_page_is_there_and_fetches_nothing(site):
    pages = [p.relative_to(REPO / "nbs").with_suffix(".html") for p in REPO.glob("nbs/**/*.ipynb") if "checkpoint" not in str(p)]
    assert len(pages) > 90
    menu = (site / "index.html").read_text(encoding="utf-8")
    for name in pages:
        text = (site / name).read_text(encoding="utf-8")
        assert str(name) in menu and "#|" not in re.sub(r"<[^>]+>", "", text), f"{name}: in the menu, without directives"
        assert not re.search(r'<(script|img|link)[^>]*(src|href)="(https?:)?//', text), name


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
        assert not wrong
    finally:
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass
