"""`make studio` as a reader without Jupyter meets it: a real voila process and a real browser.

Needs Debian's chromium and playwright. WILSON_SCREENSHOTS names a folder that keeps the screenshots.
"""
from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from browsing import PATIENCE, alone, chromium, page, proxied, screenshot  # noqa: F401 (two are fixtures)
from conftest import REPO, descendants, gone, waited

from wilson import testing

DRAWN = """canvas => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return new Set(new Uint32Array(data.buffer)).size;
}"""
IN_VIEW = "canvas => canvas.getBoundingClientRect().bottom > 0 && canvas.getBoundingClientRect().top < innerHeight"
# a page that is closed has half a minute to be opened again
SOON_CULLED = ("--MappingKernelManager.cull_idle_timeout=30", "--MappingKernelManager.cull_interval=2")


def project(folder: Path) -> Path:
    "A root with the page, of somebody whose own configuration would open every door."
    (folder / "nbs").mkdir()
    (folder / "settings.ini").write_text("[DEFAULT]\nlib_name = wilson\n", encoding="utf-8")
    shutil.copy(REPO / "nbs/explore.ipynb", folder / "nbs")
    (folder / ".jupyter").mkdir()
    wrong = {"Voila": {"ip": "0.0.0.0", "token": "", "root_dir": "/", "port": 1},
             "VoilaConfiguration": {"strip_sources": False, "file_allowlist": [".*"]}, "KernelManager": {"ip": "0.0.0.0"}}
    for place in (folder, folder / ".jupyter"):
        (place / "voila.json").write_text(json.dumps(wrong), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = project(tmp_path_factory.mktemp("project"))
    testing.demo_data(folder / "data/few")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        testing.tiny_run()
    return folder


@contextlib.contextmanager
def studio(root: Path, *flags: str, host: str = "127.0.0.1", prefix: str = "/", warning: str | None = None):
    "What `make studio` starts: the process and the address it prints, after a warning where there is to be one."
    process = subprocess.Popen([sys.executable, "-P", "-m", "wilson", "studio", *flags], cwd=root,
                               env=alone(root) | {"JUPYTER_TOKEN": "of-something-else"},
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    try:
        said = process.stdout.readline()
        if warning:
            assert re.fullmatch(warning, said.rstrip()), said
            said = process.stdout.readline()
        found = re.fullmatch(rf"Studio: (http://{re.escape(host)}:\d+{prefix}\?token=[0-9a-f]{{32,}})\n", said)
        assert found, said
        yield process, found[1]
    finally:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()


def listening(processes: list[psutil.Process]) -> set[tuple[str, int]]:
    "Addresses and ports on which any of them waits for connections."
    return {tuple(c.laddr) for p in processes for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN}


def kernels(process: subprocess.Popen) -> list[psutil.Process]:
    "The kernels among what a process has started."
    found = []
    for child in descendants(process):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            if "ipykernel_launcher" in child.cmdline():
                found.append(child)
    return found


def refused(address: str) -> int:
    "The status of an answer that must be a refusal."
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(address, timeout=30)
    return error.value.code


def test_looking_without_jupyter(root, page, tmp_path):  # noqa: F811
    from playwright.sync_api import expect
    requests, errors = [], []
    page.on("request", lambda request: requests.append(request))
    page.on("websocket", lambda socket: requests.append(socket))
    page.on("pageerror", lambda error: errors.append(error))
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # somebody else's, then
            stack.enter_context(socket.create_server(("127.0.0.1", 8866)))
        process, address = stack.enter_context(studio(root, *SOON_CULLED))
        where, _, token = address.partition("?token=")
        assert urlsplit(address).port != 8866
        page.goto(address, timeout=PATIENCE)

        # every panel is drawn, and no code is shown
        studio_ = page.locator(".wilson-studio")
        status, panels = studio_.locator(".ws-status"), studio_.locator(".ws-panels canvas")
        expect(status).to_contain_text("validation images", timeout=PATIENCE)
        expect(panels).to_have_count(6)
        for canvas in panels.all():
            waited(lambda: canvas.evaluate(DRAWN) > 20, "a map that is drawn", 30)
        assert "Studio(runs_dir" not in page.content()
        assert page.locator(".jp-CodeCell .jp-InputArea").count() == 0
        screenshot(page, "studio-voila", tmp_path)

        # another image, another map, another place on the page
        before = status.inner_text()
        studio_.locator(".ws-forth").click()
        expect(status).not_to_have_text(before)
        chip = studio_.locator(".ws-chip[data-map='soft label']")
        expect(chip).to_have_attribute("aria-pressed", "false")
        chip.click()
        expect(chip).to_have_attribute("aria-pressed", "true")
        expect(panels).to_have_count(7)
        chip.click()
        expect(panels).to_have_count(6)
        assert panels.first.evaluate(IN_VIEW)
        page.mouse.move(500, 400)
        page.mouse.wheel(0, 5000)
        waited(lambda: not panels.first.evaluate(IN_VIEW), "a page that scrolls", 30)
        screenshot(page, "studio-voila-below", tmp_path)

        # the still figure and the prediction of the last cells
        assert page.locator(".jp-RenderedImage img").count() == 2
        assert not errors, errors

        # the browser has asked nobody else: what it refuses to ask for never leaves it
        assert any("labextensions/anywidget" in r.url for r in requests)
        others = {r.url: getattr(r, "failure", None) for r in requests
                  if urlsplit(r.url).scheme not in ("data", "blob") and urlsplit(r.url).hostname != "127.0.0.1"}
        assert set(others.values()) <= {"csp"}, others

        # nobody else can come in: not from another machine, nor without the address, nor to files by their names
        open_to = listening([psutil.Process(process.pid), *descendants(process)])
        assert ("127.0.0.1", urlsplit(address).port) in open_to and {host for host, _ in open_to} == {"127.0.0.1"}
        assert urllib.request.urlopen(where, timeout=30).url.startswith(f"{where}login")
        for name in ("data/few/dataset.toml", "settings.ini", next((root / "data").rglob("*.jpg")).relative_to(root)):
            assert refused(f"{where}voila/files/{name}?token={token}") == 403

        # a page that was closed keeps no kernel for long; the dark theme
        first = kernels(process)
        page.goto(f"{address}&theme=dark", timeout=PATIENCE)
        expect(status).to_contain_text("validation images", timeout=PATIENCE)
        expect(page.locator("body")).to_have_attribute("data-jp-theme-light", "false")
        waited(lambda: panels.count() == 6 and panels.nth(1).evaluate(DRAWN) > 20, "a map that is drawn", 30)
        screenshot(page, "studio-voila-dark", tmp_path)
        waited(lambda: gone(first), "the end of the kernel of the page that was left", 90)
        assert len(first) == len(kernels(process)) == 1

        # Ctrl-C
        everything = descendants(process)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert gone(everything) and process.stdout.read() == ""


def test_without_runs_it_says_what_to_do(tmp_path, page):  # noqa: F811
    "Also behind a proxy that knows one prefix alone, open to other machines where that is asked for, and with its port taken."
    from playwright.sync_api import expect
    (tmp_path / "project").mkdir()
    with contextlib.ExitStack() as stack:
        taken = stack.enter_context(socket.create_server(("0.0.0.0", 0))).getsockname()[1]
        where = ("--ip", "0.0.0.0", "--base_url=user/x", f"--port={taken}")
        process, address = stack.enter_context(studio(
            project(tmp_path / "project"), *where, host=socket.gethostname(), prefix="/user/x/",
            warning=r"Warning: The studio listens on 0\.0\.0\.0, .* has the token below controls this account\."))
        port = urlsplit(address).port
        assert port != taken and ("0.0.0.0", port) in listening(descendants(process))
        proxy, outside = stack.enter_context(proxied(port, "/user/x/"))
        page.goto(f"http://127.0.0.1:{proxy}/user/x/?{urlsplit(address).query}", timeout=PATIENCE)
        expect(page.locator(".wilson-studio")).to_contain_text("`make demo` trains one", timeout=PATIENCE)
        expect(page.locator(".wilson-studio select")).to_have_count(0)
        expect(page.locator("pre", has_text="There is no run to predict with")).to_be_visible()
        assert "Traceback" not in page.content()
        assert set(outside) <= {"/favicon.ico"}, outside
        screenshot(page, "studio-voila-without-runs", tmp_path)


def test_without_voila_one_sentence_says_what_to_do(tmp_path):
    (tmp_path / "nbs").mkdir()
    (tmp_path / "nbs/explore.ipynb").touch()
    hidden = ("import sys; from wilson.workbench import studio; studio.find_spec = lambda name: None; "
              "from wilson.cli.command import main; sys.exit(main(['studio']))")
    done = subprocess.run([sys.executable, "-c", hidden], cwd=tmp_path, env=alone(tmp_path), capture_output=True,
                          text=True, encoding="utf-8", timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(r"wilson: The studio needs voila, .* pip install 'wilson-wilss\[voila\]'\.\n", done.stderr), done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["nbs"]
