"""What `wilson.testing` makes once for several processes."""
from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import pytest

from wilson import testing

N = 4


def make_slowly(folder: Path) -> None:
    (folder / "by").write_text(str(os.getpid()), encoding="utf-8")
    time.sleep(0.3)


def make_once(barrier, answers) -> None:
    barrier.wait()
    answers.put((testing.make_once("slow", {}, make_slowly) / "by").read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    "The cache of an empty temporary folder."
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return testing.cache_folder()


def test_processes_make_it_once(folder):
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(N), context.Queue()
    processes = [context.Process(target=make_once, args=(barrier, answers)) for _ in range(N)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=30) for _ in processes]
    for process in processes:
        process.join()
    assert len({*found}) == 1 and len([*folder.glob("[!.]*")]) == 1


def test_the_oldest_entries_go(folder, monkeypatch):
    "By their last use."
    monkeypatch.setattr(testing, "MOST_ENTRIES", 2)
    entries = [testing.make_once("small", {"n": n}, lambda part: None) for n in range(2)]
    for age, entry in enumerate(entries):
        os.utime(entry, (1000 - age, 1000 - age))
    testing.make_once("small", {"n": 1}, lambda part: None)  # used again: now the first is the oldest
    third = testing.make_once("small", {"n": 3}, lambda part: None)
    assert {*folder.glob("[!.]*")} == {entries[1], third} and len([*folder.iterdir()]) == 4


def test_other_sources_are_another_entry(folder, monkeypatch):
    first = testing.make_once("small", {}, lambda part: None)
    monkeypatch.setattr(testing, "sources_hash", lambda: "changed")
    assert testing.make_once("small", {}, lambda part: None) != first


def test_a_folder_of_another_user_is_refused(folder, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    folder.rename(folder.with_name("wilson-testing-12345"))
    with pytest.raises(ValueError, match="belongs to another user; remove it, or set TMPDIR"):
        testing.cache_folder()
