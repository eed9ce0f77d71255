"""A training step beside the published implementation: `python benchmarks/bench_step.py PEER`, PEER a checkout of fcdl94/WILSON.

Both train the same network (random weights) on the same made-up images in one process, in turn: the base step and the weak
step with pseudo-labels. Told are the median time of a step, the part of it that is no convolution (by torch's profiler), the
time of a step with each side's own loader (drawn photographs of 500 pixels, from files), and, each in a process of its own,
the most memory. On a GPU both use their own mixed precision.

    python benchmarks/bench_step.py PEER --backbone resnet101 --crop 256 --batch 4 --rounds 5
"""
from __future__ import annotations

import argparse
import importlib.abc
import importlib.machinery
import json
import statistics
import subprocess
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from wilson.data.batches import Batch
from wilson.data.classes import SHAPES
from wilson.data.samples import training_samples
from wilson.data.tasks import Task
from wilson.data.transforms import TrainingCrop
from wilson.datasets.shapes import make_shapes
from wilson.datasets.voc import open_folder
from wilson.engine.cost import peak_memory
from wilson.engine.devices import compute_dtype
from wilson.engine.updates import Updates
from wilson.experiments.build import make_optimizer, build_method
from wilson.experiments.start import norm_name
from wilson.loading.loader import Loader
from wilson.methods.base import Base
from wilson.methods.wilson import Wilson
from wilson.inference.folding import fold_norms
from wilson.models.segmenter import freeze, grow, make_segmenter
from wilson.run.config import parse_config
from wilson.run.presets import resolve_config

KINDS = ("base", "weak")
CLASSES = (16, 5)  # by step, background in the first


def batch_of(o: argparse.Namespace, kind: str) -> Batch:
    "Noise, and blocks of classes for the base step, labels of one or two new classes for the weak one."
    torch.manual_seed(1)
    images = torch.randn(o.batch, 3, o.crop, o.crop).contiguous(memory_format=torch.channels_last)
    blocks = torch.randint(0, CLASSES[0], (o.batch, 8, 8)).repeat_interleave(o.crop // 8, 1).repeat_interleave(o.crop // 8, 2)
    labels = torch.zeros(o.batch, sum(CLASSES) - 1)
    labels[torch.arange(o.batch), torch.randint(CLASSES[0] - 1, sum(CLASSES) - 1, (o.batch,))] = 1
    masks = blocks if kind == "base" else None
    return Batch(images.to(o.device), masks if masks is None else masks.to(o.device), labels.to(o.device), [""] * o.batch)


def photographs(o: argparse.Namespace) -> Path:
    "A folder in VOC's layout, with the lists that the published code reads beside ours; as many images as `o.steps` need."
    root = Path(tempfile.mkdtemp())
    data = open_folder(make_shapes(root / "voc", n_train=4 * o.steps * o.batch, n_val=4, size=500), SHAPES)
    (root / "voc/SegmentationClassAug").symlink_to("SegmentationClass")
    (root / "voc/splits").mkdir()
    for name, split in (("train_aug", data.train), ("val", data.val)):
        lines = [f"/JPEGImages/{i.name} /SegmentationClassAug/{m.name}\n" for i, m in zip(split.images, split.masks)]
        (root / f"voc/splits/{name}.txt").write_text("".join(lines), encoding="utf-8")
        np.save(root / f"voc/voc_1h_labels_{name.removesuffix('_aug')}.npy", split.labels.astype(float))
    places = root / "voc/15-5-ov"
    places.mkdir()
    for step in (0, 1):
        np.save(places / f"train-{step}.npy", chosen(data, step, o))
    return root


def chosen(data, step: int, o: argparse.Namespace) -> np.ndarray:
    "Images of a step, as many as there are to be."
    return Task(SHAPES, "15-5").step(step).images(data.train.labels)[:o.steps * o.batch]


def ours(o: argparse.Namespace, kind: str) -> tuple[Callable[[], None], Callable[[int], None]]:
    "One update of ours, and an epoch of them with the loader."
    torch.manual_seed(0)
    device = torch.device(o.device)
    config = resolve_config(parse_config(dict(dataset="voc", backbone=o.backbone, crop_size=o.crop, batch_size=o.batch, norm=o.norm,
                                  pretrained="none", pseudo_epoch=0)), "voc")
    norm, step = norm_name(config), int(kind == "weak")
    first = make_segmenter(o.backbone, CLASSES[:1], config.output_stride, o.crop, norm=norm)
    old = first if step else None
    segmenter = grow(first, CLASSES[1]) if step else first
    method = build_method(Wilson if step else Base, config, segmenter, old, norm)
    method.to(device, memory_format=torch.channels_last).train()
    if step:
        fold_norms(freeze(old)).to(device, memory_format=torch.channels_last)  # as `wilson train` does
    optimizer, schedule = make_optimizer(method, config, step, 1000, 1)
    updates = Updates(method, optimizer, schedule, o.batch, device, dtype=compute_dtype(device, config.precision, norm))
    batch = batch_of(o, kind)
    data = open_folder(o.photographs / "voc", SHAPES)
    samples = training_samples(data.train.at(chosen(data, step, o)), Task(SHAPES, "15-5").step(step), TrainingCrop(o.crop), 0,
                               method.reads_masks)
    loader = Loader(samples, o.batch, device, 0, o.workers)

    def epoch(n: int) -> None:
        batches = loader.epoch(n)
        for _ in range(len(loader)):
            updates(batches, 0)
    return lambda: updates(iter([batch]), 0), epoch


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    "Modules that the peer imports for its logs, and a step does not need."
    names = ("wandb", "tensorboardX")

    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name.split(".")[0] in self.names else None

    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__getattr__ = lambda name: object
        return module

    def exec_module(self, module):
        pass


class Alone(nn.Module):
    "What DistributedDataParallel is to one process without a GPU."

    def __init__(self, module: nn.Module, **_: object):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


def published(o: argparse.Namespace, kind: str) -> tuple[Callable[[], None], Callable[[int], None]]:
    "One iteration of the published trainer, and an epoch with its loader."
    warnings.simplefilter("ignore")  # of its age
    sys.meta_path.append(Absent())
    sys.path.insert(0, str(o.peer))
    import argparser
    import train
    from dataset import get_dataset
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", init_method=f"file://{tempfile.mktemp()}", rank=0, world_size=1)
    if o.device == "cpu":
        train.DistributedDataParallel = Alone
    torch.manual_seed(0)
    step = int(kind == "weak")
    given = ["--no_pretrained", "--norm_act", {"plain": "abn"}.get(o.norm, "iabn"), "--dataset", "voc", "--task", "15-5",
             "--overlap", "--backbone", o.backbone, "--crop_size", str(o.crop), "--batch_size", str(o.batch), "--step", str(step),
             "--data_root", str(o.photographs), "--num_workers", str(o.workers)]
    given += ["--weakly", "--alpha", "0.5", "--loss_de", "1", "--lr", "0.001", "--affinity", "--pseudo_ep", "0"] if step else ["--bce"]
    opts = argparser.modify_command_options(argparser.get_argparser().parse_args(given))
    opts.max_iters, opts.start_decay, opts.device_id = 1000, 0, 0
    quiet = types.SimpleNamespace(info=lambda *_: None, debug=lambda *_: None, add_scalar=lambda *_, **__: None)
    trainer = train.Trainer(quiet, torch.device(o.device), opts)
    batch = batch_of(o, kind)
    masks = torch.zeros(o.batch, o.crop, o.crop, dtype=torch.long) if batch.masks is None else batch.masks
    images = batch.images.cpu().contiguous()
    train.tqdm = types.SimpleNamespace(tqdm=lambda **_: types.SimpleNamespace(
        update=lambda *_: None, set_description=lambda *_: None, set_postfix=lambda **_: None, close=lambda: None))

    class Ready(list):
        sampler = types.SimpleNamespace(set_epoch=lambda _: None)
    one = Ready([(images, masks.cpu(), batch.image_labels.cpu())])
    read = get_dataset(opts)[0]
    loader = torch.utils.data.DataLoader(read, o.batch, sampler=torch.utils.data.DistributedSampler(read, 1, 0), drop_last=True,
                                         num_workers=o.workers)  # as its run.py makes it
    return lambda: trainer.train(1, one, print_int=1000), lambda n: trainer.train(n, loader, print_int=1000)


SIDES = {"ours": ours, "published": published}


def seconds(act: Callable[..., None], device: str, *arguments: int) -> float:
    begin = time.perf_counter()
    act(*arguments)
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def by_kind(act: Callable[[], None]) -> tuple[float, float]:
    "Seconds of a step in convolutions, and in all else, by the profiler."
    from torch.profiler import ProfilerActivity, profile
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        act()
    spent = [0.0, 0.0]
    for event in seen.key_averages():
        spent["conv" not in event.key.lower()] += event.self_cpu_time_total / 1e6
    return tuple(spent)


def memory(o: argparse.Namespace, side: str, kind: str) -> float:
    "GB: the most that two steps took, in a process of their own."
    told = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--photographs", o.photographs, "--only", f"{side} {kind}"], check=True, capture_output=True, text=True, encoding="utf-8")
    return float(told.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", type=lambda p: Path(p).resolve())
    parser.add_argument("--backbone", default="resnet101")
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="of an epoch with the loader")
    parser.add_argument("--workers", type=int, default=0, help="of the loaders")
    parser.add_argument("--norm", default="auto", help="auto | plain | inplace: plain is plain on both sides")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="the figures as JSON")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--photographs", type=Path, help=argparse.SUPPRESS)
    o = parser.parse_args()
    o.photographs = o.photographs or photographs(o)
    if o.only:
        side, kind = o.only.split()
        act, _ = SIDES[side](o, kind)
        act(), act()
        print(peak_memory(torch.device(o.device)))
        return
    found = {}
    print(f"{o.backbone}, {o.batch} images of {o.crop}×{o.crop}, {o.device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for kind in KINDS:
        made = {side: make(o, kind) for side, make in SIDES.items()}
        acts, epochs = ({side: both[n] for side, both in made.items()} for n in (0, 1))
        taken, busy, loaded = ({side: [] for side in SIDES} for _ in range(3))
        for n in range(o.rounds + 1):
            for side, act in acts.items():
                begun = time.process_time()
                spent = seconds(act, o.device)
                if n:  # the first warms up
                    taken[side].append(spent)
                    busy[side].append(time.process_time() - begun)
        for n in range(3):
            for side, epoch in epochs.items():
                loaded[side].append(seconds(epoch, o.device, n) / o.steps)
        parts = {side: by_kind(act) for side, act in acts.items()} if o.device == "cpu" else {}
        del made, acts, epochs
        peaks = {side: memory(o, side, kind) for side in SIDES}
        ratio, work = (statistics.median(p / q for p, q in zip(spent["published"], spent["ours"])) for spent in (taken, busy))
        for side, times in taken.items():
            found[f"{kind} {side}"] = {"seconds": times, "processor_seconds": busy[side], "with_loader": loaded[side], "parts": parts.get(side), "gb": peaks[side]}
            inside = f", {parts[side][0]:.2f} s in convolutions and {parts[side][1]:.2f} s in all else" if parts else ""
            print(f"{kind:5}{side:10} {statistics.median(times):6.2f} s a step{inside}; {min(loaded[side]):.2f} s with its loader; {peaks[side]:.1f} GB")
        else_ratio = f", {parts['published'][1] / parts['ours'][1]:.1f} × in all but convolutions" if parts else ""
        whole = min(loaded["published"]) / min(loaded["ours"])
        print(f"{kind:5}ours is {ratio:.2f} × as fast ({work:.2f} × by processor time, which other processes hardly disturb with one thread){else_ratio}, {whole:.2f} × with the loaders, with {peaks['ours'] / peaks['published']:.2f} of the memory")
    if o.out:
        o.out.write_text(json.dumps({"options": {n: str(v) for n, v in vars(o).items()}, "found": found}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
