"""The cache of decoded images: several processes, a kill at any moment, a full disk, workers."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import QUICK, environment, need
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from wilson.cli.command import main
from wilson.data.classes import SHAPES
from wilson.data.samples import training_samples
from wilson.data.tasks import Task
from wilson.data.transforms import TrainingCrop
from wilson.datasets.voc import open_folder
from wilson.loading.cache import bytes_under, cache_samples
from wilson.data.batches import BatchesOf
from wilson.loading.loader import Loader

MAKE = """
import sys, time
from pathlib import Path
from wilson.data.classes import SHAPES
from wilson.data.samples import training_samples
from wilson.data.tasks import Task
from wilson.datasets.voc import open_folder
from wilson.loading import cache
delay = float(sys.argv[1])
read = cache.image_of
cache.image_of = lambda *a: (time.sleep(delay), read(*a))[1]
samples = training_samples(open_folder("data/few", SHAPES).train, Task("shapes", "offline").step(0), None)
quick = cache.cache_samples(samples, Path("cache").absolute(), 1)
print(len(quick.decoded), sum(int(quick[0, k].image.sum()) for k in range(len(quick))))
"""


@pytest.fixture
def samples(root):
    return training_samples(open_folder("data/few", SHAPES).train, Task("shapes", "offline").step(0), TrainingCrop(48), seed=5)


def maker(delay: float) -> subprocess.Popen:
    "A process that fills the cache, waiting `delay` seconds at every image."
    return subprocess.Popen([sys.executable, "-c", MAKE, str(delay)], env=environment(), text=True, encoding="utf-8",
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def packs() -> list[Path]:
    return sorted(p for p in Path("cache").iterdir() if p.is_dir() and not p.name.startswith("."))


def test_processes_at_once_make_it_once(samples):
    processes = [maker(0.002) for _ in range(3)]
    said = {p.communicate(timeout=120)[0].splitlines()[-1] for p in processes}  # who waits says so first
    assert len(said) == 1 and said.pop().split()[0] == str(2 * len(samples))
    assert len(packs()) == 2
    mtimes = [(p / "pixels.u8").stat().st_mtime_ns for p in packs()]
    cache_samples(samples, Path("cache").absolute(), 1)
    assert [(p / "pixels.u8").stat().st_mtime_ns for p in packs()] == mtimes


def test_killed_in_the_middle_leaves_no_pack(samples):
    process = maker(0.05)
    deadline = time.monotonic() + 60
    while not list(Path("cache").glob(".images*/pixels.u8")):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not packs()
    quick = cache_samples(samples, Path("cache").absolute(), 1)
    assert len(quick.decoded) == 2 * len(samples) and len(packs()) == 2 and not list(Path("cache").glob(".images*"))
    assert all(torch.equal(quick[1, k].image, samples[1, k].image) for k in range(len(samples)))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_same_batches_with_and_without(samples, num_workers):
    quick = cache_samples(samples, Path("cache").absolute(), 1)
    plain = Loader(samples, 8, shuffle_seed=5)
    loader = Loader(quick, 8, shuffle_seed=5, num_workers=num_workers)
    for epoch in (0, 1):
        for a, b in zip(plain.epoch(epoch), loader.epoch(epoch), strict=True):
            assert a.ids == b.ids and torch.equal(a.images, b.images) and torch.equal(a.masks, b.masks)


def test_processes_that_are_not_forked_map_the_file(samples):
    quick = cache_samples(samples, Path("cache").absolute(), 1)
    loader = DataLoader(BatchesOf(quick), batch_size=None, sampler=[[(0, k, k) for k in range(4)]], num_workers=1,
                        multiprocessing_context="spawn")
    batch, = loader
    assert torch.equal(batch.images, torch.stack([samples[0, k].image for k in range(4)]))


def test_a_full_disk_is_left_alone(root):
    "Less is kept, or nothing, and room is left for what matters more."
    script = f'mkdir cache && mount -t tmpfs -o size=1500k none cache || exit 99; exec "{sys.executable}" -c "$1" 0'
    allowed = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True)
    need(allowed.returncode == 0, "needs `unshare -rm mount …`, which this machine does not permit")
    for spared, some in ((2 << 30, False), (500_000, True)):
        code = MAKE.replace("delay =", f"cache.SPARED = {spared}\ndelay =")
        done = subprocess.run(["unshare", "-rm", "bash", "-c", script, "bash", code], env=environment(), text=True, encoding="utf-8",
                              capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr
        kept = int(done.stdout.splitlines()[-1].split()[0])
        assert 0 < kept < 320 if some else kept == 0
        assert "fit; others are decoded" in done.stdout
        os.rmdir("cache")


def test_training_is_the_same_with_a_cache(root):
    given = dict(zip(QUICK[::2], QUICK[1::2])) | {"--step": "0"}

    def weights(name: str, **more: str) -> dict[str, torch.Tensor]:
        options = given | {"--base-name": name} | {f"--{k.replace('_', '-')}": v for k, v in more.items()}
        assert main(["train", *(part for pair in options.items() for part in pair)]) == 0
        return load_file(next(Path("runs").glob(f"*/{name}/step0/weights.safetensors")))

    def same(a: dict, b: dict) -> bool:
        return all(torch.equal(a[n], b[n]) for n in a)

    plain = weights("plain")
    assert same(weights("quick", cache_gb="1", num_workers="2"), plain)
    assert 0 < sum(bytes_under(p) for p in Path("runs/cache").iterdir() if p.is_dir()) < 1e9
    assert not same(weights("small", max_image_size="64"), plain)


def test_time_of_a_file_tells_that_it_changed(samples):
    folder, victim = Path("cache").absolute(), samples.split.images[0]
    cache_samples(samples, folder, 1)
    victim.write_bytes(samples.split.images[1].read_bytes())
    again = cache_samples(samples, folder, 1)
    assert torch.equal(again[0, 0, 3].image, samples[0, 0, 3].image)
    assert np.array_equal(again.image(0), samples.image(1))
