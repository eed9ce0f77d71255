"""`make studio`: nbs/explore.ipynb by voila, as a page without its code, on this machine's own address unless told otherwise.

Ctrl-C ends it, and the kernel of everyone who looks. What is given is handed to `voila`:
`make studio STUDIO_FLAGS="--theme=dark --port=9000"`. Another address is given by `--ip=0.0.0.0`, the prefix of a
JupyterHub or an nginx by `--base_url=/user/name/`. In place of the user's own voila configuration it reads
`voila.json` beside this file. By that, whoever has the printed address may look; no file is given by its name; the page
asks no other host for anything (voila's template would fetch fonts, and wait for them where there is no network); and
the kernel of a closed page ends within six minutes (voila's own request at closing is refused: its issue 1458).
"""
from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from lab import LOGS, asked_to_end, can_listen, ended, last_words, place_of, started

PAGE = "nbs/explore.ipynb"


def address(token: str | None = None) -> str | None:
    "Where the page is, once voila has said it; of a token that was given it writes dots."
    said = (LOGS / "voila.log").read_text(errors="replace", encoding="utf-8")
    # voila writes http://::1:8866/ and http://:::8866/
    found = re.search(r"running at:\s*(\w+://)(\S*?)((?::\d+)?/\S*)\n", said)
    if not found:
        return None
    host = socket.gethostname() if found[2] in ("", "::", "0.0.0.0") else found[2]
    rest = re.sub(r"(?<=\?token=)\.\.\.$", quote(token or "..."), found[3])
    return f"{found[1]}[{host}]{rest}" if ":" in host else f"{found[1]}{host}{rest}"


def watched(voila: subprocess.Popen, token: str | None) -> int:
    "Say the address as soon as it is known; the exit code once voila has ended, and why."
    where = None
    while voila.poll() is None:
        if where is None and (where := address(token)):
            print(f"Studio: {where}", flush=True)
        time.sleep(0.2)
    print(f"voila has ended ({last_words('voila')}); {LOGS / 'voila.log'} has the rest.", flush=True)
    return voila.returncode


def main() -> int:
    if find_spec("voila") is None:
        print("`make studio` needs voila, which is not installed: "
              ".venv/bin/pip install -c constraints.txt -e '.[voila]'")
        return 1
    place = place_of(sys.argv[1:], "Voila", "ServerApp")
    if not can_listen("The studio", place):
        return 1
    for name in ("JUPYTER_TOKEN", "JUPYTER_TOKEN_FILE"):
        os.environ.pop(name, None)  # voila would take that token, and not say it
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: the terminal was closed
        signal.signal(number, asked_to_end)
    processes = []
    try:
        # what stands last wins
        prefix = [] if place.prefix == "/" else [f"--Voila.base_url={place.prefix}"]
        processes.append(started("voila", "voila", PAGE, *place.flags, f"--Voila.ip={place.ip}", *prefix,
                                 f"--Voila.root_dir={Path.cwd()}",
                                 f"--Voila.config_file_paths={Path(__file__).resolve().parent}"))
        return watched(*processes, place.token)
    except KeyboardInterrupt:
        return 0
    finally:
        ended(*processes)


if __name__ == "__main__":
    sys.exit(main())
