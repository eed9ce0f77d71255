"""Files, locks and the root, also where the operating system refuses what most of them have."""
from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from conftest import QUICK, REPO, environment, need
from wilson.analysis import run_list
from wilson.cli.command import main
from wilson.core import locks
from wilson.core.errors import InputError
from wilson.core.files import atomic_write
from wilson.core.locks import LockTimeout, file_lock, is_locked, try_lock
from wilson.core.paths import resolve_path, project_root
from wilson.data.classes import VOC
from wilson.data.label_edits import LabelEdit, change_edit, read_edits
from wilson.datasets.parts import link
from wilson.engine.step_folder import StepFolder
from wilson.experiments.step import _begin
from wilson.loading.cache import make_room, make_pack
from wilson.run.config import TrainConfig, all_parameters, parse_config
from wilson.run.folder import lock_step, is_step_locked, step_path
from wilson.run.presets import step_fingerprint, resolve_config, task_of
from wilson.widgets.annotations import Annotations

NOBODY = 65534


# --------------------------------------------------------------------------------- the root


def test_the_root_is_ours(tmp_path):
    "A marker of somebody else's, or of another project, decides nothing."
    home = tmp_path / "shared/me"
    home.mkdir(parents=True)
    settings, marker = tmp_path / "shared/settings.ini", tmp_path / "shared/wilson.toml"
    for text in ("", "[DEFAULT]\nlib_name = other\n", "[DEFAULT]\n# lib_name = wilson\n", "lib_name = wilsonian\n"):
        settings.write_text(text, encoding="utf-8")
        assert project_root(home) == home
    settings.write_text("[DEFAULT]\nlib_name = wilson\n", encoding="utf-8")
    assert project_root(home) == tmp_path / "shared"
    settings.unlink()
    marker.touch()
    assert project_root(home) == tmp_path / "shared"


def test_a_root_that_somebody_else_has_planted(tmp_path):
    need(hasattr(os, "getuid") and os.getuid() == 0, "only root can give files away")
    home = tmp_path / "shared/me"
    home.mkdir(parents=True)
    own = tmp_path / "own.toml"
    own.touch()
    for name in ("settings.ini", "wilson.toml"):
        planted = tmp_path / "shared" / name
        planted.write_text("[DEFAULT]\nlib_name = wilson\n", encoding="utf-8")
        assert project_root(home) == tmp_path / "shared"
        os.chown(planted, NOBODY, NOBODY)
        assert project_root(home) == home
        planted.unlink()
    link = tmp_path / "shared/wilson.toml"  # to a file of ours
    link.symlink_to(own)
    assert project_root(home) == tmp_path / "shared"
    os.lchown(link, NOBODY, NOBODY)
    assert project_root(home) == home
    # a container's root works in a folder that is mounted from outside
    os.chown(home, NOBODY, NOBODY)
    assert project_root(home) == tmp_path / "shared"


def test_no_home_folder(monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what Python does where it finds none
    with pytest.raises(InputError, match="HOME is not set"):
        resolve_path("~/runs")


# ------------------------------------------------------------------------------------ files


def test_the_umask_is_never_changed(tmp_path, monkeypatch):
    "Threads that write whole files, and one that creates others meanwhile."
    set_umask, calls = os.umask, []
    before, interval = os.umask(0o027), sys.getswitchinterval()
    monkeypatch.setattr(os, "umask", lambda mask: calls.append(mask) or set_umask(mask))
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    sys.setswitchinterval(1e-6)
    modes, running = set(), True

    def write(n: int) -> None:
        for _ in range(150):
            with atomic_write(tmp_path / f"{n}.json") as aside:
                aside.write_text("{}", encoding="utf-8")

    def create() -> None:
        n = 0
        while running:
            handle = os.open(tmp_path / f"x{n}", os.O_CREAT | os.O_WRONLY, 0o666)
            modes.add(stat.S_IMODE(os.fstat(handle).st_mode))
            os.close(handle)
            n += 1

    other = threading.Thread(target=create)
    writers = [threading.Thread(target=write, args=(n,)) for n in range(3)]
    try:
        other.start()
        for thread in writers:
            thread.start()
        for thread in writers:
            thread.join()
        running = False
        other.join()
        modes |= {stat.S_IMODE((tmp_path / f"{n}.json").stat().st_mode) for n in range(3)}
        assert modes == {0o640} and not calls
    finally:
        running = False
        sys.setswitchinterval(interval)
        assert set_umask(before) == 0o027


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EACCES, errno.EBADF, errno.ENOTSUP])
def test_a_refused_flush_is_no_error(tmp_path, monkeypatch, number):
    "FUSE, SMB and some NFS servers refuse to flush folders; a disk that fails is another thing."
    def refuse(handle):
        raise OSError(number, os.strerror(number))
    monkeypatch.setattr(os, "fsync", refuse)
    monkeypatch.setattr(os, "chmod", refuse)
    with atomic_write(tmp_path / "a") as aside:
        aside.write_bytes(b"whole")
    assert (tmp_path / "a").read_bytes() == b"whole" and len([*tmp_path.iterdir()]) == 1
    number = errno.EIO
    with pytest.raises(OSError, match="Input/output"), atomic_write(tmp_path / "a") as aside:
        aside.write_bytes(b"lost")
    assert (tmp_path / "a").read_bytes() == b"whole" and len([*tmp_path.iterdir()]) == 1


# ------------------------------------------------------------------------------------ locks


class Refusing:
    "`fcntl` on a file system without locks."
    LOCK_SH, LOCK_EX, LOCK_NB, LOCK_UN = 1, 2, 4, 8

    def __init__(self, number: int = errno.ENOLCK):
        self.number = number

    def flock(self, file, kind):
        raise OSError(self.number, os.strerror(self.number))


@pytest.fixture(params=["flock", "refused", "no fcntl"])
def kind(request, monkeypatch) -> str:
    "The locks of this machine, those of a file system without any, those of Windows."
    if request.param != "flock":
        monkeypatch.setattr(locks, "fcntl", Refusing() if request.param == "refused" else None)
    monkeypatch.setattr(locks, "_reported", False)
    return request.param


def in_forks(*works) -> list[int]:
    "The exit codes of functions that are called in processes of their own, side by side."
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=work) for work in works]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def test_a_refusal_is_not_another_process(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(locks, "_reported", False)
    folder = StepFolder(tmp_path / "step0")
    for number in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS, errno.EBADF, errno.EACCES):
        monkeypatch.setattr(locks, "fcntl", Refusing(number))
        with lock_step(folder):
            folder.set_state("running")
            assert is_step_locked(folder.path) and try_lock(tmp_path / ".step0.lock") is None
        assert not is_step_locked(folder.path)
    with lock_step(folder), pytest.raises(InputError, match=f"is being trained by process {os.getpid()}"):
        lock_step(folder).__enter__()
    said = capsys.readouterr().out
    assert said == "File locks are not available here (No locks available); lock files are used instead.\n"
    assert not list(tmp_path.glob(".*.holder*"))


def test_one_at_a_time(tmp_path, kind):
    "Also where some die with the lock in their hand, and several notice at once."
    lock, inside, count = tmp_path / "lock", tmp_path / "inside", tmp_path / "count"
    count.write_text("0", encoding="utf-8")

    def work(n: int) -> None:
        for k in range(12):
            with file_lock(lock) as one:
                os.close(os.open(inside, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                count.write_text(str(int(count.read_text(encoding="utf-8")) + 1), encoding="utf-8")
                inside.unlink()
                if n % 2 and k == 7:
                    os._exit(9)
                if k % 3 == 0:
                    one.remove_if_empty()  # who waits has opened another file than who comes
    assert in_forks(*(lambda n=n: work(n) for n in range(5))) == [0, 9, 0, 9, 0]
    assert count.read_text(encoding="utf-8") == str(3 * 12 + 2 * 8) and not inside.exists()


def test_shared_with_those_who_share(tmp_path, kind):
    path = tmp_path / "pixels"
    first, second = try_lock(path, shared=True), try_lock(path, shared=True)
    assert first and second and not is_locked(path)
    first.release()
    assert try_lock(path) is None
    assert in_forks(first.release, second.release) == [0, 0]  # a forked process releases nothing
    assert try_lock(path) is None
    second.release()
    with file_lock(path):
        assert is_locked(path) and try_lock(path, shared=True) is None
        began = time.monotonic()
        with pytest.raises(LockTimeout, match="is locked by another process"):
            file_lock(path, seconds=0.05)
        assert time.monotonic() - began < 5
    assert [p.name for p in tmp_path.iterdir()] == ["pixels"]


def test_whose_lock_file_it_is(tmp_path, kind):
    "A process of this machine that has ended gives way; of others nobody can know, and the message names them."
    path, holder = tmp_path / "lock", tmp_path / "lock.holder"
    me = locks._machine() | {"pid": os.getpid(), "start": locks._start(os.getpid())}
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for gone in ({"pid": ended.pid}, {"start": "1"}, {"pid": -1}, {"pid": "x"}):
        holder.write_text(json.dumps(me | gone), encoding="utf-8")
        assert not is_locked(path)
        with file_lock(path, seconds=0):
            pass
    for there in ({"host": "node7", "boot": "another"}, {"space": "pid:[1]"}):
        holder.write_text(json.dumps(me | there | {"pid": ended.pid}), encoding="utf-8")
        assert is_locked(path)
        with pytest.raises(LockTimeout, match=rf"process {ended.pid} on .*if it has ended, remove .*lock\.holder"):
            file_lock(path, seconds=0)
    holder.write_text("no JSON", encoding="utf-8")
    assert try_lock(path) is None
    holder.write_bytes(b"")  # being written, or its writer was killed there
    assert try_lock(path) is None
    os.utime(holder, (1, 1))
    with file_lock(path, seconds=0):
        pass


@pytest.fixture
def unflushed(monkeypatch) -> None:
    "Nobody pulls the plug, and disks differ."
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def test_two_writers_of_label_edits(tmp_path, kind, unflushed):
    "60 and 60 edits: all are there, and nobody takes another's unfinished file away."
    path = tmp_path / "label_edits.csv"

    def save(who: str) -> None:
        for n in range(60):
            change_edit(path, f"{who}{n}", lambda before: LabelEdit(before.id, note=who), VOC)
    assert in_forks(lambda: save("a"), lambda: save("b")) == [0, 0]
    assert len(read_edits(path, VOC)) == 120 and [p.name for p in tmp_path.iterdir()] == ["label_edits.csv"]


def test_two_studios_note_of_one_image(tmp_path, unflushed):
    "A flag, a note and labels of one image at once, forty images: nothing of it is lost."
    side = SimpleNamespace(opened=SimpleNamespace(
        config=SimpleNamespace(data_root=str(tmp_path), runs_dir=str(tmp_path / "runs")), task=SimpleNamespace(classes=VOC)), data=SimpleNamespace(root=tmp_path))
    parts = ({"flag": True}, {"note": "blurred"}, {"add": ["cat"], "remove": []}, {"add": ["dog"], "remove": []})
    studios = [Annotations(SimpleNamespace(side=lambda number: side)) for _ in parts]
    for n in range(40):
        at_once = threading.Barrier(len(parts))

        def note(studio: Annotations, part: dict) -> None:
            at_once.wait()
            studio.edit({"image": f"i{n}", "edit": part, "before": {"add": [], "remove": []}})
        threads = [threading.Thread(target=note, args=pair) for pair in zip(studios, parts)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    edits = read_edits(studios[0].path, VOC)
    assert edits == {f"i{n}": LabelEdit(f"i{n}", {"cat", "dog"}, flag=True, note="blurred") for n in range(40)}


# ------------------------------------------------------------------------------------- runs


def written_step(runs, step: int, state: str = "finished", method: str = "wilson") -> StepFolder:
    "A step's folder without a training."
    config = resolve_config(parse_config({"dataset": "shapes", "task": "15-5", "runs_dir": str(runs), "method": method}), "shapes")
    parent = step and {"path": "../../base-s42/step0", "hash": "0"}
    folder = StepFolder(step_path(config, task_of(config), step))
    folder.write("config.json", {"identity": step_fingerprint(config, step, {"images": "d"}), "step": step, "parent": parent or None,
                                 "parameters": all_parameters(config)})
    (folder.path / "weights.safetensors").touch()
    folder.set_state(state)
    return folder


def test_a_step_that_begins_keeps_its_base(tmp_path, monkeypatch):
    "The base is removed before a step begins from it, or not at all."
    base = written_step(tmp_path, 0)
    listing, name = run_list.run_list, "shapes-15-5-overlap/base-s42"

    def list_and_begin(*asked, **more):
        found = listing(*asked, **more)
        written_step(tmp_path, 1, "running")
        return found
    monkeypatch.setattr(run_list, "run_list", list_and_begin)
    with pytest.raises(InputError, match="wilson-s42/step1 has begun from it meanwhile"):
        run_list.remove_runs([name], tmp_path)
    assert base.state == "finished" and (base.path / "weights.safetensors").is_file()
    monkeypatch.setattr(run_list, "run_list", listing)
    run_list.remove_runs(["shapes-15-5-overlap/wilson-s42", name], tmp_path)
    late = StepFolder(base.path.parents[1] / "mib-s42/step1")
    with lock_step(late), pytest.raises(InputError, match="was removed meanwhile"):
        _begin(late, {"step": 1}, TrainConfig(), None, base.path, anew=True)
    assert not late.path.exists()


def test_lock_files_in_use_stay(tmp_path):
    "Who has opened a lock file and who comes after its removal never hold it both."
    one = written_step(tmp_path, 0).path
    lock = one.with_name(".step0.lock")
    with file_lock(lock):
        with pytest.raises(InputError, match="is being trained"):
            run_list.remove_runs(["shapes-15-5-overlap/base-s42"], tmp_path)
        lock.unlink()  # by anybody
        with file_lock(lock, seconds=5) as second:  # on the file that is there now
            assert try_lock(lock) is None and os.path.samestat(os.fstat(second.file.fileno()), lock.stat())


def test_force_removes_what_nobody_trains(tmp_path, capsys):
    folder = written_step(tmp_path, 0, "running")
    status = folder.read("status.json")
    folder.write("status.json", status | {"host": "container-7f3a", "pid": 17})
    command = ["runs", "--runs-dir", str(tmp_path), "--remove", "shapes-15-5-overlap/base-s42"]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "process 17 on container-7f3a" in said and "--force" in said and folder.path.is_dir()
    with file_lock(folder.path.with_name(".step0.lock")):
        assert main([*command, "--force"]) == 2
        assert "is being trained by process 17 on container-7f3a; end that first" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0 and not folder.path.parent.exists()


# ----------------------------------------------------------------------- what systems refuse


def test_files_that_cannot_be_mapped(tmp_path, monkeypatch, capsys):
    "FUSE and 9p mounts answer ENODEV; the same images come from the file."
    folders = {}
    arrays = {tmp_path / f"{n}.png": np.random.default_rng(n).integers(0, 256, (5 + n, 7, 3), np.uint8) for n in range(3)}
    for path in arrays:
        path.touch()
    for name in ("mapped", "refused"):
        if name == "refused":
            def refuse(*_, **__):
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
            monkeypatch.setattr(np, "memmap", refuse)
            monkeypatch.setattr(os, "posix_fallocate", refuse)
        folders[name] = make_pack([*arrays], "images-0", arrays.__getitem__, lambda p: arrays[p].shape, tmp_path / name, 10**9)
    for path, array in arrays.items():
        assert all((pack[path] == array).all() for pack in folders.values())
    assert capsys.readouterr().out.count("cannot be mapped into memory (No such device)") == 1


# a file system without locks, and a system without what Windows lacks: set up before anything is imported
REFUSE = """
import errno, fcntl, os
def flock(file, kind): raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
fcntl.flock = flock
"""
HIDE = """
import os, signal, sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name in ("fcntl", "resource", "termios"): raise ImportError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
for name in ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGALRM", "SIGQUIT", "pthread_sigmask", "sigwaitinfo", "sigtimedwait"): delattr(signal, name)
for name in ("posix_fallocate", "sched_getaffinity"): delattr(os, name)
"""
WORK = """
import importlib, pkgutil, sys
import wilson
for module in pkgutil.walk_packages(wilson.__path__, "wilson."):
    if module.name != "wilson.cli.command": importlib.import_module(module.name)
from wilson.cli.command import main
options = sys.argv[1:]
assert main(["train", *options, "--num-workers", "1", "--cache-gb", "1"]) == 0
assert main(["evaluate", "runs/shapes-striped_disc__dotted_square-overlap/wilson-s42/step1"]) == 0
assert main(["sweep", "--grid", "seed=42", *options]) == 0
print("fcntl" in sys.modules, "resource" in sys.modules)
"""


@pytest.mark.parametrize("what", ["refused", "hidden"])
def test_training_without_locks(root, what):
    (root / "site").mkdir()
    (root / "site/sitecustomize.py").write_text(REFUSE if what == "refused" else HIDE, encoding="utf-8")
    paths = os.pathsep.join((str(root / "site"), str(REPO)))
    done = subprocess.run([sys.executable, "-c", WORK, *QUICK], cwd=root, capture_output=True, encoding="utf-8", timeout=300,
                          env=environment(LOGNAME="me", PYTHONPATH=paths))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("File locks are not available here") == (what == "refused")
    assert "being trained" not in done.stdout + done.stderr and "2 reused" in done.stdout
    assert what == "refused" or done.stdout.splitlines()[-1] == "False False"
    assert not [*(root / "runs").rglob(".*.holder*")] and not [*(root / "runs").rglob(".*.part")]


def test_no_folder_for_temporary_files(tmp_path, monkeypatch, capsys):
    "torch would end in a traceback as soon as it is imported."
    def fail():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp', '/var/tmp']")
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_get_default_tempdir", fail)
    assert main(["runs", "--runs-dir", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("wilson: No usable temporary directory") and "TMPDIR" in said and said.count("\n") == 1


def test_links_refused(tmp_path, monkeypatch):
    "FAT, SMB and Windows without the right to make links: the reason is not a full disk."
    for number, words in ((errno.EPERM, "links may not be possible"), (errno.ENOSPC, "make room there")):
        def refuse(*_):
            raise OSError(number, os.strerror(number))
        monkeypatch.setattr(Path, "symlink_to", refuse)
        with pytest.raises(InputError, match=f"{os.strerror(number)}.*{words}"):
            link(tmp_path / "JPEGImages", tmp_path)


def test_an_exclusive_lock_needs_a_file_that_can_be_written(tmp_path, monkeypatch):
    "NFSv4 refuses (EBADF) to lock a file that was opened to read; a pack nobody uses must not seem in use for ever."
    flock = locks.fcntl.flock

    class Nfs(Refusing):
        def flock(self, file, kind):
            handle = file if isinstance(file, int) else file.fileno()
            writable = fcntl.fcntl(handle, fcntl.F_GETFL) & (os.O_RDWR | os.O_WRONLY)
            if kind & self.LOCK_EX and not writable:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            flock(handle, kind)
    monkeypatch.setattr(locks, "fcntl", Nfs())
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack/pixels.u8").write_bytes(b"x" * 100)
    assert make_room(tmp_path, 10, 0) == 0 and not (tmp_path / "pack").exists()
