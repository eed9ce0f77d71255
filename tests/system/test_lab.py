"""`make lab` as a reader meets it: two processes trained from JupyterLab, stopped and gone on with; TensorBoard.

Needs Debian's chromium and playwright. WILSON_SCREENSHOTS names a folder that keeps the screenshots.
"""
from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import psutil
import pytest
from conftest import REPO, descendants, gone, ranks, waited
from browsing import (PATIENCE, RUN_ALL, alone, chromium, page, screenshot,  # noqa: F401 (two are fixtures)
                      without_news)

from wilson import testing
from wilson.engine.step_folder import StepFolder

# two steps of seconds, with epochs long enough to be stopped in
GIVEN = dict(dataset="shapes", data_root="data/few", task="15-5", epochs="2/1", crop_size=64, batch_size=6,
             pseudo_epoch=0, val_interval=2, device="cpu", nproc=2, save_minutes=0.02)
BASE, LAST = (f"runs/shapes-15-5-overlap/{step}" for step in ("base-s42/step0", "wilson-s42/step1"))
TRAINING, TABLE, PICTURE = "run = wilson.train(**parameters)", "run.scores", "figure = run.show()"
SECONDS = PATIENCE / 1000
OUTPUTS = """source => {
    for (const cell of window.jupyterapp.shell.currentWidget.content.model.cells)
        if (cell.sharedModel.source.includes(source)) return cell.outputs.toJSON();
}"""
SHOW = """source => {
    const notebook = window.jupyterapp.shell.currentWidget.content;
    const place = notebook.widgets.findIndex(cell => cell.model.sharedModel.source.includes(source));
    notebook.activeCellIndex = place;
    return notebook.scrollToItem(place, "start");
}"""
INTERRUPT = "() => { window.jupyterapp.commands.execute('notebook:interrupt-kernel'); }"
IS_OPEN = """name => {
    const widget = window.jupyterapp?.shell.currentWidget;
    return widget?.context?.path === name && widget.context.isReady;
}"""
IS_IDLE = "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    "A project of its own with the train notebook, as somebody left it who typed a cell below the parameters."
    folder = tmp_path_factory.mktemp("project")
    (folder / "nbs").mkdir()
    shutil.copy(REPO / "settings.ini", folder)
    shutil.copy(REPO / "nbs/explore.ipynb", folder / "nbs")
    notebook = nbformat.read(REPO / "nbs/train.ipynb", 4)
    place = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    typed = "\n".join(f"{name} = {value!r}" for name, value in GIVEN.items())
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(typed))
    nbformat.write(notebook, folder / "nbs/train.ipynb")
    testing.demo_data(folder / "data/few", n_train=160, n_val=12)
    without_news(folder)
    # somebody's own configuration must not open the server to the network
    (folder / ".jupyter/jupyter_server_config.py").write_text('c.ServerApp.ip = "0.0.0.0"\n', encoding="utf-8")
    return folder


@contextlib.contextmanager
def lab(root: Path, *flags: str, **variables: str):
    "What `make lab` starts: the process and its first two lines."
    command = [sys.executable, "-P", "-m", "wilson", "lab", "--no-browser", "--allow-root",
               "--LabApp.expose_app_in_browser=True", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", *flags]
    process = subprocess.Popen(command, cwd=root, env=alone(root) | variables, stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, text=True, encoding="utf-8")
    try:
        yield process, sorted([process.stdout.readline(), process.stdout.readline()])
    finally:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()


def listening(processes: list[psutil.Process]) -> set[tuple[str, int]]:
    "Addresses and ports on which any of them waits for connections."
    found = set()
    for process in processes:
        with contextlib.suppress(psutil.Error):
            found |= {tuple(c.laddr) for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    return found


def shown(page, source: str) -> str:  # noqa: F811
    "What a cell shows as text."
    outputs = page.evaluate(OUTPUTS, source) or []
    return "".join("".join(o.get("text", "")) + "".join(o.get("data", {}).get("text/plain", "")) + "\n".join(o.get("traceback", ()))
                   for o in outputs)


def pictured(page, name: str, source: str, tmp_path: Path) -> None:  # noqa: F811
    "A screenshot with a cell at its top."
    page.evaluate(SHOW, source)
    page.wait_for_timeout(300)  # until it is scrolled
    screenshot(page, name, tmp_path)


def test_training_on_two_processes(root, page, tmp_path):  # noqa: F811
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # somebody else's, then
            stack.enter_context(socket.create_server(("127.0.0.1", 6006)))
        server, said = stack.enter_context(lab(root, "--ServerApp.base_url", "/user/x"))  # as a JupyterHub has it
        addresses = [re.fullmatch(r"(JupyterLab|TensorBoard): +(http://127\.0\.0\.1:(\d+)/\S*)\n", line)
                     for line in said]
        assert all(addresses), said
        (explorer, of_lab), (board, of_board) = ((a[2], int(a[3])) for a in addresses)
        assert all(urlsplit(a).path.startswith("/user/x/") for a in (explorer, board))
        assert of_board != 6006 and "nbs/explore.ipynb?token=" in explorer

        # run all, and see the progress of the second epoch while it happens
        page.goto(explorer.replace("lab/tree/nbs/explore", "lab/workspaces/train/tree/nbs/train"), timeout=PATIENCE)
        page.wait_for_function(IS_OPEN, arg="nbs/train.ipynb", timeout=PATIENCE)
        page.evaluate(RUN_ALL)
        page.evaluate(SHOW, TRAINING)
        bar = page.locator(".jp-OutputArea-output pre", has_text=re.compile(r"epoch 2/2: +[1-9]\d*%"))
        bar.wait_for(timeout=PATIENCE)
        pictured(page, "progress", TRAINING, tmp_path)
        both = ranks(server)
        open_to = listening([psutil.Process(server.pid), *descendants(server)])

        # stop: at once, and in few words
        asked = time.monotonic()
        page.evaluate(INTERRUPT)
        waited(lambda: gone(both), "the end of both ranks", 20)
        took = time.monotonic() - asked
        page.wait_for_function(IS_IDLE)
        waited(lambda: "Run it again" in shown(page, TRAINING), "how to go on", SECONDS)
        pictured(page, "interrupted", TRAINING, tmp_path)
        assert len(both) == 2 and took < 5, took
        assert {(host, port) for host, port in open_to if host not in ("127.0.0.1", "::1")} == set()
        assert {("127.0.0.1", of_lab), ("127.0.0.1", of_board)} <= open_to
        text = shown(page, TRAINING)
        assert "Interrupted in epoch 2; the same command goes on" in text
        assert "Traceback" not in text and len(text.splitlines()) < 8, text
        assert {o["output_type"] for o in page.evaluate(OUTPUTS, TRAINING)} == {"stream", "error"}  # no bar is left
        status = StepFolder(root / BASE).read("status.json")
        assert status["state"] == "interrupted", status
        updates = int(status["reason"].rpartition(" ")[2])

        # run all again
        page.evaluate(RUN_ALL)
        waited(lambda: f"going on from epoch 2, update {updates + 1}" in shown(page, TRAINING), "going on", SECONDS)
        waited(lambda: "step  scored" in shown(page, TABLE), "the table", SECONDS)
        waited(lambda: any("image/png" in o.get("data", ()) for o in page.evaluate(OUTPUTS, PICTURE)), "the picture",
               SECONDS)
        assert "taught: target" in shown(page, TABLE) and StepFolder(root / LAST).state == "finished"
        text = shown(page, TRAINING)
        assert "%|" not in text and len(text.splitlines()) < 15, text
        pictured(page, "resumed", TRAINING, tmp_path)
        pictured(page, "finished", TABLE, tmp_path)

        # the curves of both steps, when TensorBoard has read them
        def curves() -> bool:
            with urllib.request.urlopen(f"{board}data/plugin/scalars/tags", timeout=30) as answer:
                tags = json.load(answer)
            return all("loss/segmentation" in tags.get(run.removeprefix("runs/"), ()) for run in (BASE, LAST))
        waited(curves, "the curves of both steps", SECONDS)
        page.goto(board, timeout=PATIENCE)
        page.locator("scalar-card line-chart").first.wait_for()
        page.wait_for_timeout(2000)  # until they are drawn
        screenshot(page, "tensorboard", tmp_path)


def test_without_tensorboard_and_ctrl_c(root, tmp_path):
    "One sentence says why; JupyterLab is there all the same, and Ctrl-C ends it and its kernels."
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard/__init__.py").touch()
    (tmp_path / "tensorboard/main.py").write_text("import pkg_resources_of_old\n", encoding="utf-8")
    with lab(root, PYTHONPATH=f"{tmp_path}{os.pathsep}{REPO}") as (process, said):
        assert said[0].startswith("JupyterLab:  http://127.0.0.1:"), said
        assert said[1] == ("TensorBoard cannot start (ModuleNotFoundError: No module named 'pkg_resources_of_old'); "
                           "JupyterLab works without it.\n")
        address, token = said[0].split()[1].split("lab/tree/nbs/explore.ipynb?token=")
        asked = urllib.request.Request(f"{address}api/kernels?token={token}", method="POST", data=b"{}")
        assert urllib.request.urlopen(asked, timeout=60).status == 201
        all_of_it = descendants(process)
        assert any("ipykernel_launcher" in part for p in all_of_it for part in p.cmdline())
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert gone(all_of_it) and process.stdout.read() == ""
