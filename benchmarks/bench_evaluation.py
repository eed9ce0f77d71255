"""How long evaluation, the index and predictions take beside their forward passes: `python benchmarks/bench_evaluation.py [threads [network …]]`.

Each pair takes turns in this process, so that a busy machine slows both alike; medians. Random networks of a run's size on images of chance:

- whole images one by one, and those of one size together (`labels_by_size`);
- a step's two networks one after the other with all threads, and side by side with half of them (`StepModels.parallel`);
- an index: networks and numbers in turn, and as `build_index` overlaps them, beside the networks alone;
- a folder of photographs: decoding, network and PNGs in turn, and as `run_stages` overlaps them, beside the network alone.
"""
from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.io import write_png

from wilson.data.batches import Batch
from wilson.data.image_io import read_image
from wilson.data.samples import Sample
from wilson.data.tasks import Task
from wilson.evaluation.evaluate import GROUP_PIXELS, argmax_labels, labels_by_size, segmenter_maps
from wilson.evaluation.index import Index
from wilson.evaluation.index_build import build_index
from wilson.evaluation.index_rows import image_facts
from wilson.evaluation.logits import StepModels
from wilson.evaluation.maps import Maps
from wilson.inference.stages import run_stages
from wilson.inference.tiles import TiledSegmenter
from wilson.models.localizer import Localizer
from wilson.models.segmenter import make_segmenter
from wilson.pseudo.targets import TargetRule

STEP = Task("voc", "15-5").step(1)
NETWORKS = {"shapes_net": (96, 96), "mobilenet_v2": (240, 320), "resnet101": (375, 500)}  # with a usual size of images


def compare(title: str, count: int, **ways: Callable[[], object]) -> None:
    "Print milliseconds an image of several ways, which take turns."
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(4):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            times[name].append(1000 * (time.perf_counter() - began) / count)
    medians = {name: statistics.median(taken[1:]) for name, taken in times.items()}
    print(f"{title:48}" + "   ".join(f"{name.replace('_', ' ')} {taken:.1f}" for name, taken in medians.items()) + "   ms an image", flush=True)


def measure(name: str, height: int, width: int, folder: Path) -> None:
    "All pairs with one backbone."
    old, new = (make_segmenter(name, classes, norm="plain").eval() for classes in (STEP.classes_per_step[:1], STEP.classes_per_step))
    localizer = Localizer(new.backbone.channels, STEP.n_classes, norm="plain").eval()
    n = max(4, 64 * 96 * 96 // (height * width))
    pictures = [torch.randint(0, 256, (3, height, width), dtype=torch.uint8) for _ in range(n)]
    truth = torch.randint(0, STEP.n_classes, (1, height, width))
    batches = [Batch(p[None], truth, torch.zeros(1, STEP.n_classes - 1), [str(i)]).to("cpu") for i, p in enumerate(pictures)]
    samples = [Sample(p, truth[0].byte(), torch.arange(STEP.n_classes - 1) == 16, str(i)) for i, p in enumerate(pictures)]
    labels, rule = argmax_labels(segmenter_maps(new)), TargetRule()
    compare(f"{name}, whole images", n, one_by_one=lambda: [*labels_by_size(labels, batches, 0)],
            of_one_size_together=lambda: [*labels_by_size(labels, batches, GROUP_PIXELS["cpu"])])

    models = {parallel: StepModels(STEP, new, localizer, old, parallel) for parallel in (False, True)}
    compare(f"{name}, two networks", n, one_after_the_other=lambda: [models[False](s) for s in samples],
            side_by_side=lambda: [models[True](s) for s in samples])

    def index(): return Index(None, {}, STEP.n_classes)
    compare(f"{name}, index", n, networks_alone=lambda: [models[True](s) for s in samples],
            in_turn=lambda: [image_facts(Maps(models[True](s), rule)) for s in samples],
            overlapped=lambda: build_index(index(), lambda p: models[True](samples[p]), rule, n))

    files = [folder / f"{name}{i}.jpg" for i in range(n)]
    for file, picture in zip(files, pictures):
        smooth = Image.fromarray(np.asarray(picture.permute(1, 2, 0))).resize((width // 8, height // 8)).resize((2 * width, 2 * height))
        smooth.save(file, quality=90)
    network = TiledSegmenter(new)

    def write(file: Path, found: torch.Tensor) -> None:
        write_png(found[None], str(file.with_suffix(".png")))

    compare(f"{name}, folder of {2 * width}×{2 * height} JPEGs", n,
            network_alone=lambda files=[read_image(f) for f in files]: [network.labels(picture) for picture in files],
            in_turn=lambda: [write(f, network.labels(read_image(f))) for f in files],
            overlapped=lambda: [*run_stages(files, read_image, lambda file, picture: network.labels(picture), write)])


@torch.no_grad()
def main() -> None:
    if len(sys.argv) > 1:
        torch.set_num_threads(int(sys.argv[1]))
    print(f"{torch.get_num_threads()} threads, float32")
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        for name, (height, width) in NETWORKS.items():
            if not sys.argv[2:] or name in sys.argv[2:]:
                measure(name, height, width, Path(folder))


if __name__ == "__main__":
    main()
