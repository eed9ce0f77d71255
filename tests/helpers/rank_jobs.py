"""What the ranks of tests/engine/test_distributed.py do: a module of its own, because processes import what they run."""
from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import torch

from wilson.core.distributed import rank
from wilson.engine.step_folder import StepFolder
from wilson.data import batches
from wilson.data.samples import evaluation_samples
from wilson.data.transforms import CentreCrop
from wilson.evaluation.evaluate import LATER, run_metrics
from wilson.experiments.build import build_trainer
from wilson.experiments.measure import evaluation_batches, evaluate_step, metric_classes, step_models
from wilson.experiments.start import parent_folder
from wilson.experiments.train import validate_config
from wilson.run.config import parse_config
from wilson.run.dataset import open_data
from wilson.run.presets import task_of


@contextmanager
def doubled():
    "Networks and images in float64, so that a leaky ReLU near 0 does not fall to the other side by rounding."
    normalised = batches.normalize
    batches.normalize = lambda images: normalised(images).double()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        batches.normalize = normalised
        torch.set_default_dtype(torch.float32)


def a_trainer(parameters: dict, index: int):
    config, _ = validate_config(parse_config(parameters))
    task, data = task_of(config), open_data(config)
    parent = parent_folder(config, task, index) if index else None
    trainer, _ = build_trainer(config, data, task.step(index), StepFolder(Path("nowhere")), parent)
    return trainer, config, data


def updated(parameters: dict, index: int, epochs: int, stop=None) -> tuple[list[dict], dict]:
    "Losses of every update of some epochs, and the weights after them."
    torch.set_num_threads(1)
    with doubled():
        trainer, *_ = a_trainer(parameters, index)
        trainer.method.prepare(trainer.loader.epoch())
        losses = []
        for epoch in range(epochs):
            trainer.method.train()
            batches = trainer.loader.epoch(epoch)
            for _ in range(trainer.per_epoch):
                trainer.updates(batches, epoch)
                losses.append(trainer.updates.last().terms)
    return losses, {name: tensor.clone() for name, tensor in trainer.method.state_dict().items()}


def scored(parameters: dict, index: int, stop=None) -> dict:
    "All scores of an untrained step."
    torch.set_num_threads(1)
    trainer, config, data = a_trainer(parameters, index)
    method = trainer.method.eval()
    assert LATER == 254
    return evaluate_step(step_models(method, trainer.step), config, data, trainer.loader.device, method.pseudo_labels())


def scored_by_metrics(parameters: dict, stop=None) -> dict:
    "Scores, by the metrics of a run, of label maps that are the validation masks moved by three pixels."
    config, _ = validate_config(parse_config(parameters))
    step = task_of(config).step(0)
    samples = evaluation_samples(open_data(config).val, step, CentreCrop(config.crop_size_val), LATER)
    moved = lambda batch: batch.masks.masked_fill(batch.masks == LATER, 0).roll(3, 2).long()
    batches = evaluation_batches(samples, config, torch.device("cpu"))
    return run_metrics(moved, batches, step, LATER, metric_classes(config.metrics)).scores()


def seen(parameters: dict, index: int, stop=None) -> list[list[str]]:
    "The images of each batch of this rank."
    from wilson.core.distributed import all_gather_object
    trainer, *_ = a_trainer(parameters, index)
    return all_gather_object([batch.ids for batch in trainer.loader.epoch(0)])


def out_of_step(stop=None) -> None:
    "One rank fails where the other waits."
    from wilson.core.distributed import all_reduce_sum
    if rank():
        raise ZeroDivisionError("on purpose")
    all_reduce_sum(torch.zeros(1))
