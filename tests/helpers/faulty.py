"""`wilson …` that comes to a bad end: at the n-th moment of a kind it is killed, stopped, or something breaks.

A module of its own: a fork server imports it once, so that a run takes no seconds to begin, and spawned ranks import it
as their main module, so that the faults reach them too."""
from __future__ import annotations

import errno
import functools
import json
import multiprocessing
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from wilson.cli.command import main
from wilson.engine import checkpoint, updates
from wilson.engine.step_folder import StepFolder
from wilson.experiments import measure, step

FAULTS, RECORD = "TEST_FAULTS", "TEST_RECORD"  # environment variables: what breaks; a file for what was seen


class Fault(NamedTuple):
    "What happens when."
    at: str                 # a moment, see `inject`
    do: str = "kill group"  # kill group | kill | kill a worker | signal <n> | nan | inf | full, or `fits <images>`
    count: int = 1          # at which moment of this name, from 1
    times: int = 1          # so many in a row
    rank: int = 0


def inject(faults: Sequence[Fault]) -> None:
    "From now on this process counts moments and comes to its fault."
    counts: Counter[str] = Counter()

    def moment(name: str) -> str:
        "What is to happen there, if the caller has to do it."
        counts[name] += 1
        for fault in faults:
            late = counts[name] - fault.count
            if fault.at == name and 0 <= late < fault.times and int(os.environ.get("RANK", 0)) == fault.rank:
                return happen(fault.do)
        return ""

    def around(owner: Any, name: str, before: str | Callable = "", after: str | Callable = "") -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        def hooked(*args, **kwargs):
            for kind in (before, after):
                if kind is after:
                    result = original(*args, **kwargs)
                if kind:
                    moment(kind if isinstance(kind, str) else kind(*args))
            return result
        setattr(owner, name, hooked)

    around(updates.Updates, "__call__", "update", "updated")
    around(measure, "evaluate", "validation", "validated")
    around(StepFolder, "log", after=lambda folder, line: "said " + line.split()[0])
    around(os, "replace", lambda a, b: f"rename to {Path(b).name}", lambda a, b: f"renamed to {Path(b).name}")
    around(step, "remove_states", "removal of states")
    around(os, "replace", lambda a, b: seen(Path(b)), lambda a, b: seen(Path(b)))
    save, compute_losses = torch.save, updates.compute_losses

    def saved(state: object, path: Any, **more) -> None:
        save(state, path, **more)
        if not (isinstance(path, Path) and path.name.startswith(".next.pt")):
            return  # what ranks tell each other
        whole = path.stat().st_size
        os.truncate(path, whole // 2)  # of a file that is being written
        if moment("half a state") == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        save(state, path)
        moment("state before its flush")

    def with_losses(module, batch, *args):
        told = moment("losses")
        if told.startswith("fits") and len(batch) > int(told.split()[1]):
            raise torch.OutOfMemoryError("CUDA out of memory, as it were")
        terms = compute_losses(module, batch, *args)
        return {n: t * float(told) for n, t in terms.items()} if told in ("nan", "inf") else terms

    checkpoint.torch.save, updates.compute_losses = saved, with_losses


def seen(path: Path) -> str:
    "Keep how many states lie beside a file that is replaced."
    if path.suffix == ".pt" and RECORD in os.environ:
        with open(os.environ[RECORD], "a", encoding="utf-8") as f:
            f.write(" ".join(sorted(p.name for p in path.parent.iterdir() if ".pt" in p.name)) + "\n")
    return ""


def happen(what: str) -> str:
    "End this process as told; what the caller has to do is given back."
    if what == "kill group":
        os.killpg(0, signal.SIGKILL)
    elif what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "kill a worker":
        multiprocessing.active_children()[0].kill()
    elif what.startswith("signal"):
        os.kill(os.getpid(), int(what.split()[1]))
    return what


def job(arguments: Sequence[str], root: Path, out: Path, environment: Mapping[str, str]) -> None:
    "`wilson …` in a process group of its own, which a fork server has made."
    os.setsid()
    os.chdir(root)
    os.environ.clear()
    os.environ.update(environment)
    for number, kind in ((1, "out"), (2, "err")):
        os.dup2(os.open(out.with_suffix(f".{kind}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.modules["__main__"] = sys.modules[__name__]  # ranks are spawned: they import this
    _inject_from_environment()
    sys.exit(main(arguments))


def _inject_from_environment() -> None:
    torch.set_num_threads(1)
    inject([Fault(*fault) for fault in json.loads(os.environ.get(FAULTS, "[]"))])


if __name__ == "__mp_main__":
    _inject_from_environment()
