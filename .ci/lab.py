"""`make lab`: JupyterLab at the explorer and TensorBoard beside it, on this machine's own address unless told otherwise.

Ctrl-C ends both. What is given is handed to `jupyter lab`: `make lab LAB_FLAGS=--no-browser`.
Another address is given by `--ip=0.0.0.0`, the prefix of a JupyterHub or an nginx by `--base_url=/user/name/`;
a proxy that passes on its own host name needs `--ServerApp.allow_remote_access=True` as well.
TensorBoard asks for no token, so it stays on localhost; under a prefix it is at `<prefix>tensorboard/`.
"""
from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

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


class Place(NamedTuple):
    "Where a server listens, and the flags that do not say where."
    ip: str            # as given; HOST if nothing is
    prefix: str        # "/" or "/user/name/"
    token: str | None  # where the flags give one; "": none is asked for
    flags: list[str]


def place_of(flags: Sequence[str], *applications: str) -> Place:
    "Address and prefix among the flags of a server, in any of the ways in which they can be written."
    names = {f"--{start}{name}": name for start in ("", *(f"{a}." for a in applications)) for name in ("ip", "base_url")}
    names["--base-url"] = "base_url"
    found, others, rest = {"ip": HOST, "base_url": "/"}, [], list(flags)
    while rest:
        flag = rest.pop(0)
        name, equals, value = flag.partition("=")
        if name not in names or not equals and not rest:
            others.append(flag)
            continue
        found[names[name]] = value if equals else rest.pop(0)
    ip = "" if found["ip"] == "*" else found["ip"].strip("[]")
    inner = found["base_url"].strip("/")
    tokens = [given[1] for flag in others if (given := re.fullmatch(r"--(?:\w+\.)?token=(.*)", flag))]
    return Place(ip, f"/{inner}/" if inner else "/", tokens[-1].strip("'\"") if tokens else None, others)


def problem_of(ip: str) -> str:
    "Why nothing can listen there; empty if something can."
    try:
        for family, kind, _, _, address in socket.getaddrinfo(ip or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE):
            with socket.socket(family, kind) as s:
                s.bind(address)
                return ""
        return "no address"
    except (OSError, UnicodeError) as e:
        return str(getattr(e, "strerror", None) or e)


def is_local(ip: str) -> bool:
    "Whether only this machine reaches the address."
    try:
        return all(ipaddress.ip_address(info[4][0].partition("%")[0]).is_loopback
                   for info in socket.getaddrinfo(ip, 0, type=socket.SOCK_STREAM)) if ip else False
    except OSError:
        return False


def can_listen(server: str, place: Place, more: str = "") -> bool:
    "Whether a server can listen there, said if it cannot; a warning where it is open to others."
    if problem := problem_of(place.ip):
        print(f"{server} cannot listen on --ip={place.ip}: {problem}. Give an address of this machine, "
              f"or leave it out for {HOST}.", flush=True)
        return False
    if not is_local(place.ip):
        who = "whoever reaches it" if place.token == "" else "whoever reaches it and has the token below"
        print(f"Warning: {server} listens on {place.ip or 'every address'}, not on this machine alone: {who} "
              f"controls this account.{more}", flush=True)
    return True


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


def prefix_of_board(prefix: str) -> list[str]:
    return ["--path_prefix", f"{prefix}tensorboard"] if prefix != "/" else []


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
    found = re.search(rf" at (http://{re.escape(HOST)}:\d+/\S*)", (LOGS / "tensorboard.log").read_text(errors="replace", encoding="utf-8"))
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
    place = place_of(sys.argv[1:], "ServerApp", "LabApp", "NotebookApp")
    if not can_listen("JupyterLab", place, f" TensorBoard has no token, so it stays on {HOST}."):
        return 1
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: the terminal was closed
        signal.signal(number, asked_to_end)
    processes = []
    try:
        # its own configuration may name another address or folder: what stands last wins
        prefix = [] if place.prefix == "/" else [f"--ServerApp.base_url={place.prefix}"]
        processes.append(started("jupyterlab", "jupyterlab", *place.flags, f"--ServerApp.ip={place.ip or '*'}", *prefix,
                                 f"--ServerApp.root_dir={Path.cwd()}", f"--LabApp.default_url=/{START}"))
        processes.append(started("tensorboard", "tensorboard.main", "--logdir", "runs", "--host", HOST, "--port",
                                 str(port_of_board()), *prefix_of_board(place.prefix)))
        return watched(*processes)
    except KeyboardInterrupt:
        return 0
    finally:
        ended(*processes)


if __name__ == "__main__":
    sys.exit(main())
