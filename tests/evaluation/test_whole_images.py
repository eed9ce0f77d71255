"""Whole images through the network together: the same scores in the same order, and a bounded number of them in memory."""
from __future__ import annotations

import weakref

import torch

from wilson.data.batches import Batch
from wilson.evaluation.evaluate import LATER, argmax_labels, labels_by_size, run_metrics, segmenter_maps
from wilson.evaluation.metrics import Metric
from wilson.models.segmenter import make_segmenter
from wilson.data.tasks import Task

SIZES = ((48, 64), (64, 48), (48, 64), (40, 64))


class Order(Metric):
    "Remembers what it saw, in order."
    name, direction, unit, digits = "order", None, "", 0

    def __init__(self, step):
        super().__init__(step)
        self.add_state("sums", torch.zeros(1, dtype=torch.int64))
        self.seen = []

    def update(self, prediction, truth, batch):
        assert prediction.shape == truth.shape == batch.masks.shape
        self.seen += batch.ids

    def compute(self):
        return float(len(self.seen))


def images(n: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    return [Batch(torch.randn(1, 3, *SIZES[i % 4], generator=generator).contiguous(memory_format=torch.channels_last),
                  torch.randint(0, 4, (1, *SIZES[i % 4]), generator=generator), torch.zeros(1, 3), [str(i)]) for i in range(n)]


def test_scores_and_order_are_those_of_single_images():
    step = Task("voc", "cat,dog|cow").step(1)
    segmenter = make_segmenter("shapes_net", step.classes_per_step, crop_size=32, norm="plain").eval()
    alone, batches = [], images(21)
    with torch.no_grad():
        for group_pixels in (0, 48 * 64 * 4, 10**9):
            alone.append(run_metrics(argmax_labels(segmenter_maps(segmenter)), batches, step, LATER, [Order], group_pixels))
    # logits of another batch size may differ in their last bits: a pixel where two classes tie may change its class
    assert all((found.matrix - alone[0].matrix).abs().sum() <= 4 for found in alone)
    assert all(abs(found.scores()["accuracy"] - alone[0].scores()["accuracy"]) < 0.01 for found in alone)
    assert all(found.background[1].seen == [b.ids[0] for b in batches] for found in alone)


def test_few_images_wait_in_memory():
    "Of a hundred images of two sizes no more than four passes' pixels, and the one that was loaded last."
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    most = 0

    def drawn():
        nonlocal most
        for i in range(100):
            batch = Batch(torch.zeros(1, 3, *SIZES[i % 2]), torch.zeros(1, *SIZES[i % 2], dtype=torch.long), torch.zeros(1, 3), [str(i)])
            alive.add(batch.images)
            most = max(most, len(alive))
            yield batch

    count = sum(1 for _ in labels_by_size(lambda batch: batch.images[:, 0].long(), drawn(), 4 * 48 * 64))
    assert count == 100 and most <= 4 * 4 + 2
