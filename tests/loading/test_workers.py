"""Data workers that fail: whatever it is of, the run ends in a sentence that names the image and the limit, and leaves nothing behind."""
from __future__ import annotations

import contextlib
import ctypes
import errno
import faulthandler
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from conftest import QUICK, need, waited

from wilson.cli.command import main
from wilson.data.classes import SHAPES
from wilson.data.image_files import FileInputError
from wilson.data.samples import Sample, StepSamples, training_samples
from wilson.data.tasks import Task
from wilson.data.transforms import TrainingCrop
from wilson.datasets.voc import open_folder
from wilson.loading import workers
from wilson.data.batches import BatchesOf, EpochBatches
from wilson.loading.loader import Loader

from wilson.core.errors import InputError
from wilson.engine.checkpoint import read_weights, newest_state
from wilson.engine.step_folder import StepFolder

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that are forked")
HERE = os.getpid()


class Samples:
    "24 samples of 40 kB; `fault` is called in the worker before sample `at` is made."

    def __init__(self, fault: Callable[[], object] = lambda: None, every: Callable[[], object] = lambda: None, at: int = 9):
        self.fault, self.every, self.at = fault, every, at
        self.split = SimpleNamespace(images=[Path(f"images/im{n:02}.jpg") for n in range(24)])

    def __len__(self) -> int:
        return 24

    def __getitem__(self, key: tuple[int, ...]) -> Sample:
        assert os.getpid() != HERE, "a sample made by the trainer"
        self.every()
        name = self.fault() if key[1] == self.at else None
        image = torch.full((3, 64, 200), key[1], dtype=torch.uint8)
        return Sample(image, image[0], torch.ones(4, dtype=torch.bool), name or f"im{key[1]:02}")


@contextlib.contextmanager
def loader(samples: Samples, timeout: float = 60.0, num_workers: int = 2) -> Iterator[Loader]:
    "Batches of 4 in order; afterwards every worker is gone, at once."
    made = Loader(samples, 4, num_workers=num_workers, timeout=timeout)
    before, threads = set(psutil.Process().children()), threading.active_count()
    yield made
    began = time.monotonic()
    made.workers.close()
    assert time.monotonic() - began < 3 and set(psutil.Process().children()) <= before
    waited(lambda: threading.active_count() <= threads, "threads end", 5)


def sentence(samples: Samples, timeout: float = 60.0, update: float = 0.0) -> str:
    "What a run with these samples ends with; the batches before were delivered, while updates took their time."
    with loader(samples, timeout) as made, pytest.raises(InputError) as error:
        for n, batch in enumerate(made.epoch()):
            time.sleep(update)
            assert n < samples.at // 4 and batch.ids == [f"im{k:02}" for k in range(4 * n, 4 * n + 4)]
    assert "\n" not in str(error.value) and "Traceback" not in str(error.value)
    return str(error.value)


def signalled(number: int) -> Callable[[], None]:
    def fault() -> None:
        faulthandler.disable()  # pytest's
        os.kill(os.getpid(), number)
    return fault


class Unpicklable(Exception):
    def __init__(self):
        super().__init__("of this machine only")
        self.lock = threading.Lock()


def raises(error: Callable[[], BaseException]) -> Callable[[], None]:
    def fault():
        raise error()
    return fault


def out_of_files() -> None:
    "As a reader says that hides the cause."
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    try:
        kept = [open(os.devnull, "rb") for _ in range(100)]
        kept.clear()
    except OSError:
        raise InputError("images/im09.jpg cannot be read as an image; replace the file") from None


def no_file_left() -> None:
    "The image is read; the batch's memory cannot be passed on."
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    with contextlib.suppress(OSError):
        while True:
            os.dup(0)  # and never closed


def out_of_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (1 << 33, resource.getrlimit(resource.RLIMIT_AS)[1]))
    np.ones(1 << 34, np.uint8)


FEW, MORE = "im09.jpg", "num_workers=1"
FAULTS = {  # what happens in the worker: what the sentence says
    "killed": (signalled(signal.SIGKILL), [FEW, "(with im10.jpg, im11.jpg to follow)", "SIGKILL", "memory ran out", "GB", MORE]),
    "bus error": (signalled(signal.SIGBUS), [FEW, "SIGBUS", "/dev/shm has", "--shm-size", MORE]),
    "crash in a library": (signalled(signal.SIGSEGV), [FEW, "SIGSEGV", "wilson verify", MORE]),
    "silent end": (lambda: os._exit(0), [FEW, "exit code 0", "num_workers=0"]),
    "file": (raises(lambda: FileInputError("images/im09.jpg cannot be read as an image")), [FEW, "cannot be read"]),
    "error": (raises(lambda: KeyError("width")), [FEW, "KeyError", "width", "num_workers=0"]),
    "error that cannot be pickled": (raises(Unpicklable), [FEW, "of this machine only", "num_workers=0"]),
    "end of the interpreter": (raises(lambda: SystemExit(3)), [FEW, "SystemExit", "num_workers=0"]),
    "sample that cannot be sent": (threading.Lock, ["a batch", "pickle", "num_workers=0"]),
    "open files, hidden by a reader": (out_of_files, [FEW, "Too many files are open", "64", "ulimit -n", "num_workers=0"]),
    "open files, as a batch is sent": (no_file_left, ["a batch", "Too many files are open", "64", "ulimit -n", "num_workers=0"]),
    "memory": (out_of_memory, [FEW, "Memory ran out", "num_workers=0"]),
    "shared memory": (raises(lambda: RuntimeError("unable to write to file </torch_7>: No space left on device (28)")),
                      [FEW, "/dev/shm has", "--shm-size", "num_workers=0"]),
    "threads": (raises(lambda: RuntimeError("can't start new thread")), [FEW, "no more processes", "num_workers=0"]),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_worker_that_fails(kind):
    fault, words = FAULTS[kind]
    said = sentence(Samples(fault))
    assert [word for word in words if word not in said] == [], said


def test_errors_about_files_arrive_as_they_are():
    assert sentence(Samples(FAULTS["file"][0])) == "images/im09.jpg cannot be read as an image"


def test_limits_are_those_of_the_system():
    stat = os.statvfs("/dev/shm")
    size = sentence(Samples(signalled(signal.SIGBUS))).partition("/dev/shm has ")[2].split(",")[0].split()
    assert float(size[0]) * {"kB": 1e3, "MB": 1e6, "GB": 1e9}[size[1]] == pytest.approx(stat.f_frsize * stat.f_blocks, rel=0.05)


# ---------------------------------------------------------------------------------- hangs


def holding_the_interpreter() -> None:
    ctypes.PyDLL(None).sleep(60)


def test_worker_that_hangs(tmp_path):
    "A pipe instead of an image, a decoder in compiled code, a process that somebody stopped: the wait ends after the time."
    os.mkfifo(tmp_path / "pipe")
    for fault in (lambda: (tmp_path / "pipe").read_bytes(), holding_the_interpreter, signalled(signal.SIGSTOP)):
        began = time.monotonic()
        said = sentence(Samples(fault, at=17), timeout=1.0, update=0.2)  # when a batch of the same worker is not yet taken
        assert time.monotonic() - began < 30  # not the 60 s of the fault, however busy the machine is
        assert "loader_timeout=1 " in said and "at the image images/im17.jpg" in said, said
        assert "loader_timeout=10" in said


def test_slow_disk_is_no_hang():
    "Every sample takes a third of the time, every batch more than all of it."
    with loader(Samples(every=lambda: time.sleep(0.4)), timeout=1.2, num_workers=4) as made:
        assert len([batch.ids for batch in made.epoch()]) == 6


def test_job_that_was_suspended(monkeypatch):
    "Time in which the trainer did not run either is no waiting: here the clock leaps an hour at each look."
    leap, now = iter(range(0, 10**7, 3600)), time.monotonic
    with loader(Samples(lambda: time.sleep(1.5)), timeout=30.0) as made:
        batches = made.epoch()
        next(batches)
        monkeypatch.setattr(workers, "time", SimpleNamespace(monotonic=lambda: now() + next(leap), sleep=time.sleep))
        assert len(list(batches)) == 5
        monkeypatch.undo()


# ---------------------------------------------------------------------- the trainer's own limits


@contextlib.contextmanager
def files_allowed(count: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_trainer_out_of_open_files():
    "As it starts workers, and as it takes a batch."
    with loader(Samples()) as made:
        list(made.epoch())  # everything is imported
    with files_allowed(3), pytest.raises(InputError, match="0 of 2 processes that load data could.*ulimit -n"):
        list(Loader(Samples(), 4, num_workers=2).epoch())
    with loader(Samples(every=lambda: time.sleep(0.1))) as made:
        batches = made.epoch()
        next(batches)
        with files_allowed(6), pytest.raises(InputError, match="could not be received.*ulimit -n.*num_workers=0"):
            list(batches)


def test_system_refuses_processes(monkeypatch):
    fork, count = os.fork, iter(range(9))

    def refuses() -> int:
        if next(count) == 2:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return fork()
    monkeypatch.setattr(os, "fork", refuses)
    children = set(psutil.Process().children())
    with pytest.raises(InputError, match="Only 2 of 4 processes.*no more processes.*num_workers=1"):
        list(Loader(Samples(), 4, num_workers=4).epoch())
    assert set(psutil.Process().children()) <= children


def test_no_semaphores(monkeypatch):
    "Some sandboxes have no /dev/shm: multiprocessing's queues and locks do not work there."
    from _multiprocessing import SemLock

    def refused(*arguments):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    monkeypatch.setattr("multiprocessing.synchronize._multiprocessing", SimpleNamespace(SemLock=refused))
    with pytest.raises(OSError):
        multiprocessing.get_context("fork").Lock()
    with pytest.raises(InputError, match="0 of 2 processes that load data.*not implemented.*num_workers=0"):
        list(Loader(Samples(), 4, num_workers=2).epoch())
    assert SemLock


def test_workers_that_are_not_forked(monkeypatch, root):
    "As on macOS and Windows, and everywhere from Python 3.14 on."
    data = open_folder(Path("data/few"), SHAPES)
    samples = training_samples(data.train, Task("shapes", "offline").step(0), TrainingCrop(32))
    monkeypatch.setattr(torch.multiprocessing, "Process", get_context("spawn").Process)
    for kind in ("Queue", "Event"):
        monkeypatch.setattr(torch.multiprocessing, kind, getattr(get_context("spawn"), kind))
    made = Loader(samples, 4, num_workers=1, timeout=60)
    batch = next(made.epoch())
    made.workers.close()
    assert torch.equal(batch.images, BatchesOf(samples)[[(0, n, n) for n in range(4)]].to("cpu").images)


# ------------------------------------------------------------------------------------ whole runs


COMMAND = ("train", *QUICK, "--num-workers", "2", "--step", "0", "--epochs", "2", "--val-interval", "2", "--history-images", "0")
BASE = Path("runs/shapes-striped_disc__dotted_square-overlap/base-s42/step0")
Key = tuple[int, ...]


def forked(root: Path, *more: str, before: Callable[[], object] = lambda: None) -> multiprocessing.Process:
    "`wilson train …` in a forked process in `root`; its words are in the files out and err there."
    def job() -> None:
        os.setsid()
        os.chdir(root)
        sys.stdout, sys.stderr = (open(root / kind, "w", encoding="utf-8") for kind in ("out", "err"))
        before()
        sys.exit(main((*COMMAND, *more)))
    process = multiprocessing.get_context("fork").Process(target=job)
    process.start()
    return process


def pipes(pipe: Path, hangs: Callable[[Key], bool]) -> Callable[[], None]:
    "In that process the images that hang are a pipe to which nobody writes."
    os.mkfifo(pipe)
    read = StepSamples.__getitem__

    def patched(self: StepSamples, key: Key) -> Sample:
        return pipe.read_bytes() if hangs(key) else read(self, key)
    return lambda: setattr(StepSamples, "__getitem__", patched)


def text(root: Path, kind: str = "err") -> str:
    return (root / kind).read_text(encoding="utf-8")


def ended(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


def finish(root: Path, *more: str) -> str:
    process = forked(root, *more)
    process.join(60)
    assert process.exitcode == 0, text(root)
    return text(root, "out")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_run_that_waits_for_data_is_told_to_end(number, root, tmp_path):
    "It saves its state and leaves within seconds, and so do its workers; after `kill -9` they notice by themselves."
    late = EpochBatches(19, 8, seed=42)
    late.epoch = late.start = 1
    second = {index for _, index, _ in next(iter(late))}
    process = forked(root, before=pipes(tmp_path / "pipe", lambda key: key[0] == 1 and key[1] in second))
    waited((root / BASE / "last.pt").exists, "the first epoch", 60)
    time.sleep(1)  # the first update of the second epoch is made
    running = psutil.Process(process.pid).children()
    assert len(running) >= 2 and process.exitcode is None
    os.kill(process.pid, number)
    process.join(15)
    try:
        assert process.exitcode == (-number if number == signal.SIGKILL else 128 + number), text(root)
        waited(lambda: ended(running), "workers end", 5)
    finally:
        for worker in [w for w in running if not ended([w])]:
            worker.kill()
    if number == signal.SIGKILL:
        return
    folder = StepFolder(root / BASE)
    assert folder.state == "interrupted" and number.name in folder.read("status.json")["reason"], text(root)
    state = newest_state(folder.path, folder.read("config.json")["run"])
    assert (state["epoch"], state["done"]) == (1, 1) and "Traceback" not in text(root)
    if number == signal.SIGTERM:  # what goes on from there ends as if nothing had been
        assert "going on from epoch 2, update 2" in finish(root)
        assert "going on" not in finish(root, "--base-name", "other", "--num-workers", "0")
        ours, theirs = (read_weights(root / BASE.parent.parent / name / "step0/weights.safetensors")[0]
                        for name in ("base-s42", "other"))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_run_ends_after_the_timeout(root, tmp_path):
    "The state before the hang is kept; evaluation is watched, too."
    for epoch, name in ((1, "base-s42"), (0, "other")):
        process = forked(root, "--loader-timeout", "1", "--base-name", name,
                         before=pipes(tmp_path / name, lambda key: key[0] == epoch and len(key) == 3))
        process.join(60)
        assert process.exitcode == 2 and "Traceback" not in text(root), text(root)
        assert "No image was loaded for loader_timeout=1 seconds" in text(root) and "JPEGImages" in text(root), text(root)
    folder = StepFolder(root / BASE)
    assert folder.state == "failed" and (folder.path / "last.pt").is_file()


CLONE_NEWNS, CLONE_NEWUSER, PRIVATE = 0x20000, 0x10000000, 0x44000  # of sched.h, sys/mount.h


def small_shared_memory(size: int, used: int) -> None:
    "From now on this process has a /dev/shm of so many kB."
    libc, user = ctypes.CDLL(None, use_errno=True), os.getuid()
    if libc.unshare(CLONE_NEWNS | (CLONE_NEWUSER if user else 0)):
        os._exit(99)
    if user:
        Path("/proc/self/uid_map").write_text(f"0 {user} 1", encoding="utf-8")
    mounted = libc.mount(b"none", b"/dev/shm", b"tmpfs", 0, b"size=%dk" % size) if not libc.mount(b"none", b"/", None, PRIVATE, None) else 1
    if mounted:
        os._exit(99)
    Path("/dev/shm/used").write_bytes(bytes(used << 10))


@pytest.mark.parametrize("size, used, word", [(64, 64, "0 of 2 processes"), (160, 0, "met this limit at a batch")])
def test_small_shared_memory(size, used, word, root):
    "Too small for what starts a process, or for a batch."
    process = forked(root, "--batch-size", "16", before=lambda: small_shared_memory(size, used))
    process.join(60)
    need(process.exitcode != 99, "needs a mount of its own, which this machine does not permit")
    said = text(root)
    assert process.exitcode == 2 and "Traceback" not in said and word in said, said
    assert f"The shared memory is too small. /dev/shm has {size * 1.024:.0f} kB" in said and "--shm-size" in said and "num_workers=0" in said, said
    assert StepFolder(root / BASE).state == "failed"


@pytest.mark.parametrize("number", (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP))
def test_a_signal_to_a_worker_that_has_just_started(number, monkeypatch):
    "A scheduler signals every process of a job, also those that have not run a line of their own."
    begin, iterator = workers._begin, workers._iterator

    def begin_late(worker: int) -> None:
        time.sleep(0.5)
        begin(worker)

    def signalled_at_once(loader, processes):
        started = iterator(loader, processes)
        for worker in processes:
            os.kill(worker.pid, number)
        return started
    monkeypatch.setattr(workers, "_begin", begin_late)
    monkeypatch.setattr(workers, "_iterator", signalled_at_once)
    with loader(Samples()) as made:
        assert sum(len(batch.ids) for batch in made.epoch()) == 24
