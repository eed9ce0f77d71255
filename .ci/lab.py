"""`make lab`: JupyterLab at the explorer and TensorBoard beside it, on this machine's own address alone.

Ctrl-C ends both. What is given is handed to `jupyter lab`: `make lab LAB_FLAGS=--no-browser`.
"""
from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from jupyter_server.serverapp import list_running_servers

HOST = "127.0.0.1"
START = "lab/tree/nbs/explore.ipynb"
LOGS = Path("runs/lab")
PATIENCE = 15  # seconds for both to end when asked, kernels included


def private_log(name: str) -> int:
    "A new log that only its owner can read, whatever was there before: servers write their token into it."
    LOGS.mkdir(parents=True, exist_ok=True)
    LOGS.chmod(0o700)
    path = LOGS / f"{name}.log"
    path.unlink(missing_ok=True)  # somebody may have the old one open
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.fchmod(handle, 0o600)
    return handle


def started(name: str, *command: str) -> subprocess.Popen:
    "A Python module as a process that a Ctrl-C in this terminal does not reach; what it says goes to its log."
    log = private_log(name)
    try:
        # -P: no module is taken from the working directory.
        # A session of its own: JupyterLab would ask in the terminal whether the Ctrl-C was meant
        return subprocess.Popen([sys.executable, "-P", "-m", *command], stdin=subprocess.DEVNULL, stdout=log,
                                stderr=subprocess.STDOUT, start_new_session=True)
    finally:
        os.close(log)


def last_words(name: str) -> str:
    lines = (LOGS / f"{name}.log").read_text(errors="replace", encoding="utf-8").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def port_of_board() -> int:
    "TensorBoard's usual port, or 0, which stands for any free one."
    try:
        socket.create_server((HOST, 6006)).close()
    except OSError:
        return 0
    return 6006


def address_of_lab(process: subprocess.Popen) -> str | None:
    "Where the explorer is, once the server has written down where it listens."
    for server in list_running_servers():
        if server["pid"] == process.pid:
            return server["url"] + START + (f"?token={server['token']}" if server["token"] else "")
    return None


def address_of_board() -> str | None:
    found = re.search(rf" at (http://{re.escape(HOST)}:\d+/)", (LOGS / "tensorboard.log").read_text(errors="replace", encoding="utf-8"))
    return found and found[1]


def ended(*processes: subprocess.Popen) -> None:
    "Ask all to end, and kill those that do not in time."
    for process in processes:
        process.terminate()
    end = time.monotonic() + PATIENCE
    # a second Ctrl-C: at once
    with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
        for process in processes:
            process.wait(max(0.1, end - time.monotonic()))
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def watched(lab: subprocess.Popen, board: subprocess.Popen) -> int:
    "Say both addresses as soon as they are known, and whatever goes wrong; the exit code once JupyterLab has ended."
    of_lab = of_board = None
    board_is_gone = False
    while lab.poll() is None:
        if of_lab is None and (of_lab := address_of_lab(lab)):
            print(f"JupyterLab:  {of_lab}", flush=True)
        if board_is_gone:
            pass
        elif board.poll() is not None:
            board_is_gone = True
            what = "has ended" if of_board else "cannot start"
            print(f"TensorBoard {what} ({last_words('tensorboard')}); JupyterLab works without it.", flush=True)
        elif of_board is None and (of_board := address_of_board()):
            print(f"TensorBoard: {of_board}", flush=True)
        time.sleep(0.2)
    if lab.returncode:
        print(f"JupyterLab has ended ({last_words('jupyterlab')}); {LOGS / 'jupyterlab.log'} has the rest.", flush=True)
    return lab.returncode


def asked_to_end(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: the terminal was closed
        signal.signal(number, asked_to_end)
    processes = []
    try:
        # its own configuration may name another address or folder: what stands last wins
        processes.append(started("jupyterlab", "jupyterlab", *sys.argv[1:], f"--ServerApp.ip={HOST}",
                                 f"--ServerApp.root_dir={Path.cwd()}", f"--LabApp.default_url=/{START}"))
        processes.append(started("tensorboard", "tensorboard.main", "--logdir", "runs", "--host", HOST, "--port",
                                 str(port_of_board())))
        return watched(*processes)
    except KeyboardInterrupt:
        return 0
    finally:
        ended(*processes)


if __name__ == "__main__":
    sys.exit(main())
