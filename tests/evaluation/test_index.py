"""The index of a step's images and its kept logits: killed, shared, torn, full, bounded; and the same numbers as the pictures."""
from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import HELPERS, QUICK_PARAMETERS, REPO, environment, need
from index_jobs import MINE, RULE, N, drawn, fill, keep

from wilson import testing
from wilson.data.samples import evaluation_samples
from wilson.engine.step_folder import StepFolder
from wilson.evaluation.index import Index
from wilson.evaluation.index_build import build_index
from wilson.evaluation.index_rows import ENTRY, NUMBERS, ImageFacts, image_facts, indexed_kinds
from wilson.evaluation.logit_cache import LogitsStore, cached_logits, round_to_half
from wilson.evaluation.maps import Maps
from wilson.evaluation.metrics import scores
from wilson.evaluation.what_if import what_if
from wilson.run.dataset import open_data
from wilson.run.folder import remove_step_files
from wilson.run.opened import open_step
from wilson.run.step_index import index_path, step_index, step_logits

JOBS = os.pathsep.join((str(REPO), str(HELPERS)))


@pytest.fixture(scope="module", autouse=True)
def server():
    "Forks processes that have imported everything."
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(PYTHONPATH=JOBS).items():
            patch.setenv(name, value)
        multiprocessing.get_context("forkserver").set_forkserver_preload(["index_jobs"])
        multiprocessing.forkserver.ensure_running()


def builder(*given) -> multiprocessing.Process:
    process = multiprocessing.get_context("forkserver").Process(target=fill, args=given)
    process.start()
    return process


def waited_for(condition, process) -> None:
    "Wait until `condition()`; the process must go on meanwhile."
    end = time.monotonic() + 60
    while not condition():
        assert process.is_alive() and time.monotonic() < end
        time.sleep(0.005)


def killed(process: multiprocessing.Process) -> None:
    process.kill()
    process.join()


def said_by(folder: Path) -> list[list[str]]:
    "Of the processes that have ended: whole, images drawn, on disk, images known."
    return [p.read_text(encoding="utf-8").split() for p in folder.glob("drew*")]


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[n], b[n], equal_nan=True) for n in a)


@pytest.fixture(scope="module")
def undisturbed() -> Index:
    index = Index(None, MINE, 6)
    assert build_index(index, drawn, RULE, N).whole
    return index


def rows(path: Path) -> int:
    "How many another process has committed."
    if not path.is_file():
        return 0
    db = sqlite3.connect(path)
    try:
        return db.execute("SELECT count(*) FROM facts").fetchone()[0]
    except sqlite3.OperationalError:  # it has no tables yet
        return 0
    finally:
        db.close()


# ------------------------------------------------------------------------------------- facts


@pytest.mark.parametrize("n", range(4))
def test_facts_pixel_by_pixel(n):
    maps = Maps(drawn(n), RULE)
    found, truth = image_facts(maps), maps.logits.truth.tolist()
    labels = {name: maps.labels(name).tolist() for name in indexed_kinds()}
    for name in indexed_kinds():
        counts: dict[tuple, int] = {}
        for t, p in ((t, p) for a, b in zip(truth, labels[name]) for t, p in zip(a, b)):
            if t != 255:
                counts[t, min(p, 6)] = counts.get((t, min(p, 6)), 0) + 1
        assert {(t, p): k for t, p, k in found.counts(name).tolist()} == counts
    pixels = [(y, x) for y in range(40) for x in range(48)]
    differing = sum(len({labels[m][y][x] for m in ("CAM", "target", "prediction")}) > 1 for y, x in pixels)
    assert np.isclose(found.disagreement, differing / len(pixels))
    assert np.isclose(found.coverage, sum(labels["hard mask"][y][x] != 255 for y, x in pixels) / len(pixels))
    new = [c for c in (4, 5) if maps.logits.image_labels[c - 1]]
    assert bool(new) != np.isnan(found.confidence) and found.gate == maps.targets.gate.item()


def likely(rng: np.random.Generator, c: int, pairs: int) -> ImageFacts:
    entries = np.empty(len(indexed_kinds()) * pairs, ENTRY)
    entries["map"] = np.repeat(np.arange(len(indexed_kinds())), pairs)
    entries["truth"], entries["found"] = rng.integers(0, c, len(entries)), rng.integers(0, c + 1, len(entries))
    _, first = np.unique(entries[["map", "truth", "found"]], return_index=True)
    entries = entries[first]
    entries["pixels"] = rng.integers(1, 200_000, len(entries))
    return ImageFacts(entries, bytes([1, *rng.integers(0, 2, c - 1).tolist()]), *rng.random(4))


@pytest.mark.parametrize("seed, c, n, pairs", [(0, 2, 5, 3), (1, 21, 12, 8), (2, 81, 9, 30), (3, 5, 0, 4), (4, 5, 4, 0), (5, 7, 12, 40)])
def test_questions_against_brute_force(seed, c, n, pairs):
    rng = np.random.default_rng(seed)
    found_of = {p: likely(rng, c, pairs) for p in range(n)}
    index = Index(None, MINE, c)
    order = rng.permutation(n).tolist()
    for p in order:  # asked in between: what grows must not lose or repeat anything
        index.add(p, found_of[p])
        index.table(n)
    class_index = int(rng.integers(c))
    table, one = index.table(n + 2), index.table(n + 2, class_index)
    for name in indexed_kinds():
        whole = np.zeros((c, c + 1), np.int64)
        for p, f in found_of.items():
            dense = np.zeros((c, c + 1), np.int64)
            for t, found, k in f.counts(name):
                dense[t, found] += k
            whole += dense
            seen = dense[:, :-1]
            iou = [seen[k, k] / (seen[k].sum() + seen[:, k].sum() - seen[k, k]) if seen[k].any() else np.nan for k in range(c)]
            if name in ("hard mask", "soft label"):
                iou = [v if told else np.nan for v, told in zip(iou, f.labels)]
            mean = 100 * np.nanmean(iou) if not np.isnan(iou).all() else np.nan
            assert np.allclose([table[f"iou:{name}"][p], one[f"iou:{name}"][p]], [mean, 100 * iou[class_index]], equal_nan=True)
        assert (index.confusion(name) == whole).all() and np.isnan(table[f"iou:{name}"][n:]).all()
        truth, predicted = int(rng.integers(c)), int(rng.integers(c + 1))
        cell = {p: k for p, f in found_of.items() for t, found, k in f.counts(name).tolist() if (t, found) == (truth, predicted)}
        positions, pixels = index.behind(name, truth, predicted)
        assert list(zip(positions.tolist(), pixels.tolist())) == sorted(cell.items(), key=lambda at: (-at[1], at[0]))
    for k, name in enumerate(NUMBERS):
        assert np.allclose(table[name][:n], [getattr(found_of[p], name) for p in range(n)])


# ----------------------------------------------------------------------------------- building


def test_killed_while_building_and_gone_on_with(tmp_path, undisturbed):
    for most in (5, 25):
        process = builder(tmp_path)
        waited_for(lambda: rows(tmp_path / "index.sqlite") >= most, process)
        killed(process)
    before = rows(tmp_path / "index.sqlite")
    builder(tmp_path, 0).join(60)
    assert said_by(tmp_path) == [["True", str(N - before), "True", str(N)]] and 25 <= before < N
    index = Index(tmp_path / "index.sqlite", MINE, 6)
    assert same(index.table(N), undisturbed.table(N)) and not index.missing(N)
    assert all((index.confusion(name) == undisturbed.confusion(name)).all() for name in indexed_kinds())
    index.close()


def test_two_processes_share_the_work_of_one(tmp_path, undisturbed):
    pair = [builder(tmp_path) for _ in range(2)]
    for process in pair:
        process.join(60)
    said = said_by(tmp_path)
    assert [s[0] for s in said] == ["True"] * 2 and sum(int(s[1]) for s in said) == N
    index = Index(tmp_path / "index.sqlite", MINE, 6)
    assert same(index.table(N), undisturbed.table(N))
    index.close()


def test_who_waits_goes_on_when_the_builder_is_killed(tmp_path, undisturbed):
    first = builder(tmp_path, 0.1)
    waited_for(lambda: rows(tmp_path / "index.sqlite") > 2, first)
    seen, index = [], Index(tmp_path / "index.sqlite", MINE, 6)
    waiting = threading.Thread(target=build_index, args=(index, drawn, RULE, N), kwargs={"on_progress": lambda *at: seen.append(at)})
    waiting.start()
    waited_for(lambda: len({done for done, _ in seen}) > 2, first)  # it sees the other's rows come
    killed(first)
    waiting.join(30)
    assert not waiting.is_alive() and same(index.table(N), undisturbed.table(N)) and seen[-1] == (N, N)
    index.close()


def test_a_reader_while_it_is_built(tmp_path, undisturbed):
    "A thread that asks all the time sees only what is true, and more and more of it."
    index, counts = Index(tmp_path / "index.sqlite", MINE, 6), []
    asked: list[int] = []
    thread = threading.Thread(target=build_index, args=(index, lambda n: (asked.append(n), drawn(n))[1], RULE, N),
                              kwargs={"first": lambda: [50, 40 + len(asked)], "every": 0})
    thread.start()
    while thread.is_alive():
        table = index.table(N)
        there = ~np.isnan(table["gate"])
        counts.append(int(there.sum()))
        assert all(np.array_equal(table[n][there], undisturbed.table(N)[n][there], equal_nan=True) for n in table)
        assert index.confusion("target").sum() >= counts[-1] * 37 * 48
    thread.join()
    assert counts == sorted(counts) and asked[:3] == [50, 41, 42] and sorted(asked) == list(range(N))
    index.close()


# ------------------------------------------------------------------------------ what lies there


@pytest.mark.parametrize("content", [b"my notes " * 2000, b"x", b"\0" * 9000])
def test_a_foreign_file_is_put_aside(tmp_path, content, undisturbed):
    path, said = tmp_path / "index.sqlite", []
    for k in range(2):
        path.write_bytes(content)
        index = Index(path, MINE, 6, said.append)
        assert build_index(index, drawn, RULE, 3).whole and index.on_disk
        index.close()
        assert (tmp_path / f"index.sqlite.aside{k or ''}").read_bytes() == content and "was renamed to" in said[k] and len(said) == k + 1


def test_a_foreign_database_is_put_aside_whole(tmp_path):
    path, said = tmp_path / "index.sqlite", []
    other = sqlite3.connect(path)
    other.executescript("PRAGMA journal_mode = WAL; CREATE TABLE notes (n); INSERT INTO notes VALUES (7)")
    Index(path, MINE, 6, said.append).close()
    other.close()
    assert sqlite3.connect(f"{path}.aside").execute("SELECT n FROM notes").fetchall() == [(7,)] and len(said) == 1


@pytest.mark.parametrize("place", [0.3, 0.6, 0.9, "short"])
def test_a_torn_file_is_begun_anew(tmp_path, place, undisturbed):
    path, said = tmp_path / "index.sqlite", []
    index = Index(path, MINE, 6)
    build_index(index, drawn, RULE, N)
    index.close()
    whole = path.read_bytes()
    at = len(whole) // 2 if place == "short" else int(place * len(whole)) // 4096 * 4096
    path.write_bytes(whole[:at] if place == "short" else whole[:at] + b"\xa5" * 4096 + whole[at + 4096:])
    index = Index(path, MINE, 6, said.append)
    assert index.missing(N) in ([], list(range(N))) and len(said) <= 1
    assert build_index(index, drawn, RULE, N).whole and same(index.table(N), undisturbed.table(N)) and index.on_disk
    index.close()


@pytest.fixture
def confined() -> list[str]:
    "The beginning of a command that may mount file systems of its own."
    allowed = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True)
    need(allowed.returncode == 0, "needs `unshare -rm mount …`, which this machine does not permit")
    return ["unshare", "-rm", "bash", "-c"]


def confined_run(confined: list[str], script: str, code: str, folder: Path) -> str:
    done = subprocess.run([*confined, f'{script} || exit 99; exec "{sys.executable}" -c "$1"', "bash", code], cwd=folder,
                          env=environment(PYTHONPATH=JOBS), text=True, encoding="utf-8", capture_output=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_full_disk(tmp_path, confined):
    "What has been written stays whole; the rest is in memory, which is said once."
    code = """
from index_jobs import *
from wilson.evaluation.logit_cache import LogitsStore
for size in ("4k", "60k", "80k"):
    index = Index(f"{size}/index.sqlite", MINE, 6)
    print("built", build_index(index, drawn, RULE, N, every=0).whole, len(index.known()), index.on_disk)
    index.close()
for size in ("4k", "60k", "80k"):
    print("there", len(Index(f"{size}/index.sqlite", MINE, 6).known()))

store = LogitsStore("store/logits.sqlite", {}, 50_000_000, spared=0)
kept = [n for n in range(60) if store.put(n, drawn(n, 40))]
assert [n for n in range(60) if store.get(n) is not None] == kept and 0 < len(kept) < 60, kept
store.close()
again = LogitsStore("store/logits.sqlite", {}, 50_000_000, spared=0)
assert [n for n in range(60) if again.get(n) is not None] == kept
"""
    mounts = [f"mkdir {name} && mount -t tmpfs -o size={size} none {name}"
              for name, size in (("4k", "4k"), ("60k", "60k"), ("80k", "80k"), ("store", "1500k"))]
    out = confined_run(confined, " && ".join(mounts), code, tmp_path)
    assert out.count(f"built True {N} False") == 3 and out.count("logits that are not in it") == 1, out
    there = [int(line.split()[1]) for line in out.splitlines() if line.startswith("there")]
    assert there[0] == 0 and 0 < there[2] < N, out


def test_a_folder_that_cannot_be_written(tmp_path, confined):
    "What is there is read, also what a builder wrote that was killed."
    process = builder(tmp_path)
    waited_for(lambda: rows(tmp_path / "index.sqlite") >= 5, process)
    killed(process)
    before = rows(tmp_path / "index.sqlite")
    store = LogitsStore(tmp_path / "logits.sqlite", MINE, 3_000_000, spared=0)
    store.put(1, drawn(1))
    store.close()
    code = """
from index_jobs import *
from wilson.evaluation.logit_cache import LogitsStore
index = Index("index.sqlite", MINE, 6)
print(len(index.known()), build_index(index, drawn, RULE, N).whole, index.on_disk)
store = LogitsStore("logits.sqlite", MINE, 3_000_000, spared=0)
print(store.get(1) is not None, store.get(2), store.put(2, drawn(2)))
"""
    out = confined_run(confined, 'mount --bind . . && mount -o remount,ro,bind . && cd "$PWD"', code, tmp_path)
    assert f"{before} True False\n" in out and "True None False\n" in out and out.count("cannot be written") == 2


# --------------------------------------------------------------------------------------- store


def test_the_store_keeps_to_its_bound(tmp_path):
    "Real bytes on the disk, at every moment, with a second reader and after a kill."
    most, sizes = 1_500_000, []
    store = LogitsStore(tmp_path / "logits.sqlite", MINE, most, spared=0)
    reader = LogitsStore(tmp_path / "logits.sqlite", MINE, most, spared=0)
    for n in range(70):
        side = (16, 24, 32)[n % 3]
        assert store.put(n, drawn(n, side))
        assert n < 3 or store.get(1) is not None
        assert reader.get(n) is not None
        sizes.append(sum(p.stat().st_size for p in tmp_path.iterdir()))
    assert max(sizes) <= most and sizes[-1] > most / 2, max(sizes)
    there = [n for n in range(70) if reader.get(n) is not None]
    assert 1 in there and 69 in there and there[1:] == list(range(there[1], 70))
    wanted = round_to_half(drawn(there[-1], (16, 24, 32)[there[-1] % 3]))
    assert all(map(torch.equal, reader.get(there[-1]), (wanted.segmenter, wanted.localizer, wanted.old)))
    # a reader in the midst of something keeps others from writing: nothing is kept then, and nothing grows
    reader.file.db.execute("BEGIN")
    reader.file.db.execute("SELECT count(*) FROM kept").fetchone()
    kept = [store.put(200 + n, drawn(n, 32)) for n in range(4)]
    assert not all(kept) and sum(p.stat().st_size for p in tmp_path.iterdir()) <= most
    reader.file.db.execute("COMMIT")
    assert store.put(300, drawn(0)) and store.get(300) is not None
    store.close(), reader.close()


def test_a_store_that_was_killed_or_torn(tmp_path):
    path = tmp_path / "logits.sqlite"
    process = multiprocessing.get_context("forkserver").Process(target=keep, args=(path,))
    process.start()
    process.join(60)
    assert process.exitcode == -9
    store = LogitsStore(path, {}, 3_000_000, spared=0)
    assert store.get(29) is not None and sum(p.stat().st_size for p in tmp_path.iterdir()) <= 3_000_000
    store.close()
    rng, whole = np.random.default_rng(0), path.read_bytes()
    for _ in range(5):
        at = int(rng.integers(len(whole) // 4096)) * 4096
        path.write_bytes(whole[:at] + rng.bytes(4096) + whole[at + 4096:])
        store = LogitsStore(path, {}, 3_000_000, spared=0, say=lambda s: None)
        for n in range(30):
            found = store.get(n)
            assert found is None or torch.equal(found[0], round_to_half(drawn(n, 40)).segmenter)
        store.put(29, drawn(29, 40))
        store.close()


# ------------------------------------------------------------------------------- a trained step


def test_of_a_trained_step(root):
    "From the store as from the networks; gone when the step is; and halves move next to nothing."
    testing.tiny_run(QUICK_PARAMETERS)
    opened = open_step(next(Path("runs").glob("*/wilson-s42/step1")))
    samples = evaluation_samples(open_data(opened.config).val, opened.step)
    n, rule = len(samples), opened.rule
    plain, kept = Index(None, MINE, opened.step.n_classes), step_index(opened, "validation", samples)
    store = LogitsStore("runs/cache/logits.sqlite", {}, 4_000_000, spared=0)
    cached = cached_logits(opened.views, samples, store)
    for p in range(n):
        cached(p)
    assert build_index(plain, cached_logits(opened.views, samples), rule, n).whole
    assert all(store.get(p) is not None for p in range(n)) and build_index(kept, cached, rule, n).whole
    assert same(plain.table(n), kept.table(n)) and (plain.confusion("target") == kept.confusion("target")).all()
    for p in range(n):  # the panel beside the table
        assert np.isclose(kept.table(n)["iou:target"][p], 100 * Maps(cached(p), rule).iou("target").nanmean().item(), equal_nan=True)

    exact = [Maps(opened.views(samples[0, p]), rule) for p in range(n)]
    moved = {m: float(np.mean([(e.labels(m) != Maps(round_to_half(e.logits), rule).labels(m)).float().mean() for e in exact]))
             for m in indexed_kinds()}
    print("share of pixels that halves move:", moved)
    assert max(moved.values()) < 1e-3

    found = what_if(((p, cached(p)) for p in range(n)), rule, opened.step)
    matrix = found["target"]["matrix"]
    assert found["images"] == n and found["target"]["scores"] == scores(matrix[:, :-1], opened.step.names, opened.step.classes_per_step)
    store.close(), kept.close()

    logits_of = step_logits(opened, samples)
    assert torch.equal(logits_of(0).segmenter, cached(0).segmenter)
    assert index_path(opened.folder, "validation").is_file()
    remove_step_files(StepFolder(opened.folder.path))
    assert not list(opened.folder.path.iterdir())


def test_an_index_whose_step_is_emptied(tmp_path):
    "Who has it open keeps its numbers in memory, and writes nothing into the folder of the next step."
    folder, said = StepFolder(tmp_path / "step1"), []
    folder.set_state("finished")
    index = Index(index_path(folder, "validation"), MINE, 6, said.append)
    assert build_index(index, drawn, RULE, 3).whole
    remove_step_files(folder)
    assert build_index(index, drawn, RULE, 6).whole and index.missing(6) == [] and not list(folder.path.iterdir())
    assert len(said) == 1 and "kept in memory" in said[0]
    shutil.rmtree(folder.path)
    gone = Index(index_path(folder, "validation"), MINE, 6, said.append)
    assert build_index(gone, drawn, RULE, 3).whole and not gone.on_disk and not folder.path.exists()


def test_epochs_are_apart():
    index = Index(None, MINE, 6)
    index.add(0, image_facts(Maps(drawn(0), RULE)))
    index.add(0, image_facts(Maps(drawn(1), RULE)), epoch=0)
    assert index.missing(1, epoch=1) == [0] and not (index.confusion("CAM") == index.confusion("CAM", epoch=0)).all()
    with pytest.raises(ValueError, match="another number of classes"):
        index.add(1, ImageFacts(np.empty(0, ENTRY), bytes(5)))
    assert np.isnan(index.table(1, epoch=5)["gate"]).all() and index.confusion("CAM", epoch=5).sum() == 0
