"""Several ranks compute what one process does."""
from __future__ import annotations

import pytest
import rank_jobs

from wilson.engine.launch import launch
from wilson.experiments.train import run_training
from wilson.run.config import parse_config

SMALL = dict(dataset="shapes", data_root="data/few", task="10-5", crop_size=48, device="cpu", optimizer="sgd",
             lr="0.02/0.01", pseudo_epoch=1, val_interval=1)


def both(root, job, *arguments, ranks=2):
    "What one process and several make of it."
    return job(*arguments), launch(job, arguments, ranks, root / "logs", "cpu")


def worst(ours: dict, theirs: dict) -> float:
    "The largest relative difference of two states."
    assert ours.keys() == theirs.keys()
    return max(((ours[n] - theirs[n]).double().abs().max() / ours[n].double().abs().max().clamp(min=1e-6)).item()
               for n in ours)


# ------------------------------------------------------------------ the same function


@pytest.mark.parametrize("batch_size", [8, 9], ids=["even", "uneven"])
def test_a_base_step_on_two_ranks_is_that_of_one_process(root, batch_size):
    "Losses, weights and running statistics of every update agree to 1e-5."
    parameters = SMALL | dict(batch_size=batch_size, epochs="1", step="0")
    (losses, weights), (their_losses, their_weights) = both(root, rank_jobs.updated, parameters, 0, 1)
    assert len(losses) == len(their_losses) > 10
    for ours, theirs in zip(losses, their_losses):
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert worst(weights, their_weights) < 1e-5


@pytest.mark.parametrize("method", ["wilson", "plop"])
def test_a_later_step_on_two_ranks_is_that_of_one_process(root, method):
    "Gated means and class balances included; plop's medians are of all images."
    run_training(parse_config(SMALL | dict(batch_size=8, epochs="2", step="0")))
    parameters = SMALL | dict(batch_size=9, epochs="2", step="1", method=method)
    parameters["pseudo_epoch"] = 1 if method == "wilson" else None
    (losses, weights), (their_losses, their_weights) = both(root, rank_jobs.updated, parameters, 1, 2)
    assert losses[0].keys() != losses[-1].keys() or method == "plop"  # before and after pseudo_epoch
    for ours, theirs in zip(losses, their_losses):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-7)
    assert worst(weights, their_weights) < 1e-5


def test_passes_and_ranks_together(root):
    "Two passes on two ranks are two passes in one process: batch norm sees the images of one pass."
    parameters = SMALL | dict(batch_size=12, accumulate_grad=2, epochs="1", step="0")
    (losses, weights), (their_losses, their_weights) = both(root, rank_jobs.updated, parameters, 0, 1)
    assert losses[-1] == pytest.approx(their_losses[-1], rel=1e-5) and worst(weights, their_weights) < 1e-5


def test_every_validation_image_counts_once(root):
    "Scores on three ranks, over a number of images that three does not divide, are those of one process to the last digit."
    run_training(parse_config(SMALL | dict(batch_size=8, epochs="1", step="0")))
    ours, theirs = both(root, rank_jobs.scored, SMALL | dict(batch_size=8, epochs="2", step="1"), 1, ranks=3)
    assert len(ours["scores"]) == 2 and ours["pseudo_labels"]["target"]["images"] > 0
    one, three = (result["details"].pop("calibration") for result in (ours, theirs))
    assert ours == theirs
    for name, found in one.items():  # sums of float32 probabilities, in another order and from other batches
        assert found["pairs"] == three[name]["pairs"] and found["right"] == three[name]["right"]
        assert found["probability"] == pytest.approx(three[name]["probability"], rel=1e-5)


def test_ranks_share_a_batch(root):
    "A batch that two does not divide: all of its images, each once."
    parameters = SMALL | dict(batch_size=9, epochs="1", step="0")
    whole, shares = both(root, rank_jobs.seen, parameters, 0)
    for batch, *parts in zip(whole[0], *shares, strict=True):
        assert sorted(sum(parts, [])) == sorted(batch) and {len(p) for p in parts} == {4, 5}
