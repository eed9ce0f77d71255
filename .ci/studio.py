"""`make studio`: nbs/explore.ipynb by voila, as a page without its code, on this machine's own address alone.

Ctrl-C ends it, and the kernel of everyone who looks. What is given is handed to `voila`:
`make studio STUDIO_FLAGS="--theme=dark --port=9000"`. In place of the user's own voila configuration it reads
`voila.json` beside this file. By that, whoever has the printed address may look; no file is given by its name; the page
asks no other host for anything (voila's template would fetch fonts, and wait for them where there is no network); and
the kernel of a closed page ends within six minutes (voila's own request at closing is refused: its issue 1458).
"""
from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from lab import HOST, LOGS, asked_to_end, ended, last_words, started

PAGE = "nbs/explore.ipynb"


def address() -> str | None:
    "Where the page is, once voila has said it."
    found = re.search(rf"http://{re.escape(HOST)}:\d+/\S*", (LOGS / "voila.log").read_text(errors="replace", encoding="utf-8"))
    return found and found[0]


def watched(voila: subprocess.Popen) -> int:
    "Say the address as soon as it is known; the exit code once voila has ended, and why."
    where = None
    while voila.poll() is None:
        if where is None and (where := address()):
            print(f"Studio: {where}", flush=True)
        time.sleep(0.2)
    print(f"voila has ended ({last_words('voila')}); {LOGS / 'voila.log'} has the rest.", flush=True)
    return voila.returncode


def main() -> int:
    if find_spec("voila") is None:
        print("`make studio` needs voila, which is not installed: "
              ".venv/bin/pip install -c constraints.txt -e '.[voila]'")
        return 1
    for name in ("JUPYTER_TOKEN", "JUPYTER_TOKEN_FILE"):
        os.environ.pop(name, None)  # voila would take that token, and not say it
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: the terminal was closed
        signal.signal(number, asked_to_end)
    processes = []
    try:
        # what stands last wins
        processes.append(started("voila", "voila", PAGE, *sys.argv[1:], f"--Voila.ip={HOST}",
                                 f"--Voila.root_dir={Path.cwd()}",
                                 f"--Voila.config_file_paths={Path(__file__).resolve().parent}"))
        return watched(*processes)
    except KeyboardInterrupt:
        return 0
    finally:
        ended(*processes)


if __name__ == "__main__":
    sys.exit(main())
