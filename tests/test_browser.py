"""The explorer as a reader meets it: JupyterLab and a real browser.

Needs Debian's chromium and playwright. WILSON_SCREENSHOTS names a folder that keeps the screenshots.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from conftest import need

REPO = Path(__file__).resolve().parents[1]
CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
PATIENCE = 120_000  # ms, for what starts a process
SOON = 60_000       # ms, for the rest
WEAK = "shapes-15-5-overlap/wilson-s42"
MAKE_RUN = """
from pathlib import Path
import torch
from wilson.data.shapes import make_shapes
from wilson.training.config import parsed
from wilson.training.launch import train
torch.set_num_threads(1)
make_shapes(Path("data/few"), n_train=120, n_val=12)
train(parsed(dict(dataset="shapes", data_root="data/few", task="15-5", epochs="1", batch_size=8, crop_size=48,
                  pseudo_epoch=0)))
"""
IS_OPEN = "name => window.jupyterapp?.shell.currentWidget?.context?.path === name"
RUN_ALL = """async () => {
    const app = window.jupyterapp;
    await app.restored;
    await app.shell.currentWidget.sessionContext.ready;
    app.commands.execute("notebook:run-all-cells");  // not awaited: the test waits for what a reader sees
}"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    "A project of its own with the notebook and a short run."
    folder = tmp_path_factory.mktemp("project")
    (folder / "settings.ini").touch()
    shutil.copy(REPO / "nbs/explore.ipynb", folder)
    without = (folder / "explore.ipynb").read_text().replace('runs_dir = \\"runs\\"', 'runs_dir = \\"no_runs\\"')
    assert "no_runs" in without
    (folder / "without.ipynb").write_text(without)
    subprocess.run([sys.executable, "-c", MAKE_RUN], cwd=folder, env=environment(folder), check=True, timeout=300)
    return folder


def environment(home: Path) -> dict[str, str]:
    "The environment without the user's own Jupyter settings."
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("JUPYTER", "IPYTHON"))}
    return kept | {"HOME": str(home), "PYTHONPATH": str(REPO), "PYTHONUNBUFFERED": "1"}


@pytest.fixture(scope="module")
def lab(root):
    "A JupyterLab on `root`, as the address of a notebook in it."
    pytest.importorskip("jupyterlab")
    settings = root / ".jupyter/lab/user-settings/@jupyterlab/apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(json.dumps({"fetchNews": "false"}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token, log = secrets.token_hex(16), root / "lab.log"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1",
               f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}",
               f"--ServerApp.root_dir={root}", "--LabApp.expose_app_in_browser=True",
               "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with log.open("w") as out:
        server = subprocess.Popen(command, cwd=root, env=environment(root), stdout=out, stderr=out,
                                  stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        answers(f"http://127.0.0.1:{port}/api/status?token={token}", server, log)
        # a workspace for each notebook: a shared one would bring the others back
        yield lambda notebook: (f"http://127.0.0.1:{port}/lab/workspaces/{Path(notebook).stem}/tree/{notebook}"
                                f"?token={token}")
    finally:
        # kernels have sessions of their own: the server ends them when it is asked to end
        with contextlib.suppress(ProcessLookupError):
            server.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(30)
            os.killpg(server.pid, signal.SIGKILL)
        server.wait(10)


def answers(url: str, server: subprocess.Popen, log: Path) -> None:
    "Wait until a server answers; what it said is in the failure."
    end = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(url, timeout=5).read()
            return
        time.sleep(0.3)
    pytest.fail(f"jupyter lab did not answer:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def chromium():
    need(Path(CHROMIUM).exists(), f"{CHROMIUM} is not installed: apt-get install chromium")
    try:
        from playwright.sync_api import expect, sync_playwright
    except ImportError:
        need(False, "playwright is not installed: pip install playwright")
    with sync_playwright() as playwright:
        expect.set_options(timeout=SOON)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=PATIENCE)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium):
    page = chromium.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(SOON)
    yield page
    page.close()


def opened(page, lab, notebook: str):
    "Open a notebook, run all its cells, and give the explorer."
    page.goto(lab(notebook), timeout=PATIENCE)
    page.wait_for_function(IS_OPEN, arg=notebook, timeout=PATIENCE)
    page.evaluate(RUN_ALL)
    explorer = page.locator(".wilson-explorer").first
    explorer.wait_for(timeout=PATIENCE)
    explorer.scroll_into_view_if_needed()
    return explorer


def screenshot(page, name: str, tmp_path: Path) -> None:
    folder = Path(os.environ.get("WILSON_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png")


def test_choices_change_what_is_seen(lab, page, tmp_path):
    from playwright.sync_api import expect
    explorer = opened(page, lab, "explore.ipynb")
    status = explorer.locator(".wilson-status")
    expect(status).to_contain_text(f"{WEAK} · step 1 · val_", timeout=PATIENCE)
    pictures = {n: explorer.locator(f".wilson-panel-{n} img")
                for n in ("image", "CAM", "soft-label", "prediction", "truth")}
    for picture in pictures.values():
        expect(picture).to_be_visible()
        assert picture.bounding_box()["width"] >= 190
        assert picture.evaluate("image => image.complete && image.naturalWidth") == 384

    def sources():
        return {n: p.get_attribute("src") for n, p in pictures.items()}

    # another image: every panel and the status
    before, choice = sources(), explorer.locator(".wilson-image select")
    label = choice.locator("option").nth(5).inner_text().replace("\xa0", " ")
    choice.select_option(index=5)
    expect(status).to_contain_text(label.split(" ")[0])
    expect(pictures["truth"]).not_to_have_attribute("src", before["truth"])
    assert all(now != before[n] for n, now in sources().items())
    screenshot(page, "explorer", tmp_path)

    # one class: CAM and soft label become heat maps of it
    before = sources()
    explorer.locator(".wilson-class select").select_option(index=17)
    expect(explorer.locator(".wilson-panel-CAM")).to_contain_text("CAM of plain disc")
    expect(pictures["soft-label"]).not_to_have_attribute("src", before["soft-label"])
    assert sources()["prediction"] == before["prediction"]

    # background always has a share, so alpha must change its soft label, by keyboard, and nothing else
    explorer.locator(".wilson-class select").select_option(label="background")
    expect(explorer.locator(".wilson-panel-soft-label")).to_contain_text("background")
    before = sources()
    explorer.locator(".wilson-alpha .noUi-handle").focus()
    page.keyboard.press("End")
    expect(explorer.locator(".wilson-alpha .widget-readout")).to_have_text("1.00")
    expect(pictures["soft-label"]).not_to_have_attribute("src", before["soft-label"])
    assert [n for n, now in sources().items() if now != before[n]] == ["soft-label"]
    screenshot(page, "explorer-class", tmp_path)
    page.evaluate("() => window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    expect(page.locator("body")).to_have_attribute("data-jp-theme-light", "false")
    expect(page.locator("#jupyterlab-splash")).to_have_count(0)
    screenshot(page, "explorer-dark", tmp_path)

    # the base step has no localizer, and says so
    explorer.locator(".wilson-run select").select_option(index=0)
    expect(status).to_contain_text("no localizer")
    expect(pictures["CAM"]).to_have_count(0)
    expect(pictures["prediction"]).to_be_visible()
    screenshot(page, "explorer-base", tmp_path)
    assert page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']").count() == 0


def test_without_runs_it_says_what_to_do(lab, page, tmp_path):
    from playwright.sync_api import expect
    explorer = opened(page, lab, "without.ipynb")
    expect(explorer).to_contain_text("make demo", timeout=PATIENCE)
    expect(explorer.locator("select")).to_have_count(0)
    expect(page.locator("pre", has_text="Nothing to predict with")).to_be_visible()
    screenshot(page, "explorer-without-runs", tmp_path)
