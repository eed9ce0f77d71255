"""A real browser, and a JupyterLab for it: what the tests of widgets and of `make lab` share.

Needs Debian's chromium and playwright. WILSON_SCREENSHOTS names a folder that keeps the screenshots.
"""
from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from conftest import REPO, need

CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
PATIENCE = 120_000  # ms, for what starts a process
SOON = 60_000       # ms, for the rest
IS_OPEN = "name => window.jupyterapp?.shell.currentWidget?.context?.path === name"
RUN_ALL = """async () => {
    const app = window.jupyterapp;
    await app.restored;
    await app.shell.currentWidget.sessionContext.ready;
    app.commands.execute("notebook:run-all-cells");  // not awaited: the test waits for what a reader sees
}"""


def alone(home: Path) -> dict[str, str]:
    "The environment without the user's own Jupyter settings."
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("JUPYTER", "IPYTHON"))}
    return kept | {"HOME": str(home), "PYTHONPATH": str(REPO), "PYTHONUNBUFFERED": "1"}


def without_news(home: Path) -> None:
    "JupyterLab asks at its first start whether it may fetch news; the answer is no."
    settings = home / ".jupyter/lab/user-settings/@jupyterlab/apputils-extension"
    settings.mkdir(parents=True, exist_ok=True)
    (settings / "notification.jupyterlab-settings").write_text(json.dumps({"fetchNews": "false"}), encoding="utf-8")


@pytest.fixture(scope="module")
def lab(root):
    pytest.importorskip("jupyterlab")
    with served(root) as address:
        yield address


@contextlib.contextmanager
def served(root: Path):
    "A JupyterLab on `root`, as the address of a notebook in it."
    without_news(root)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token, log = secrets.token_hex(16), root / "lab.log"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1",
               f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}",
               f"--ServerApp.root_dir={root}", "--LabApp.expose_app_in_browser=True",
               "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with log.open("w", encoding="utf-8") as out:
        server = subprocess.Popen(command, cwd=root, env=alone(root), stdout=out, stderr=out,
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
    pytest.fail(f"jupyter lab did not answer:\n{log.read_text(encoding='utf-8')[-3000:]}")


@contextlib.contextmanager
def proxied(port: int, prefix: str):
    "A reverse proxy as nginx is: what is under the prefix goes on as it is, the rest is refused; its port, and what it refused."
    refused = []

    def forward(reader: socket.socket, writer: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := reader.recv(65536):
                writer.sendall(data)
        with contextlib.suppress(OSError):
            writer.shutdown(socket.SHUT_WR)

    def answer(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head and (data := client.recv(65536)):
                head += data
            if not head:
                return
            head, _, body = head.partition(b"\r\n\r\n")
            lines = head.split(b"\r\n")
            path = lines[0].split()[1].decode()
            if not path.startswith(prefix):
                refused.append(path)
                client.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            if not any(line.lower().startswith(b"upgrade:") for line in lines):  # each request is looked at
                lines = [line for line in lines if not line.lower().startswith(b"connection:")] + [b"Connection: close"]
            with socket.create_connection(("127.0.0.1", port)) as server:
                server.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + body)
                threading.Thread(target=forward, args=(client, server), daemon=True).start()
                forward(server, client)

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1], refused


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


def screenshot(page, name: str, tmp_path: Path) -> None:
    folder = Path(os.environ.get("WILSON_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png")
