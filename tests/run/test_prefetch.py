"""Neighbours of the image that is looked at: computed ahead, once, and dropped for what the reader asks for."""
from __future__ import annotations

import shutil
import threading

import pytest
import torch

from wilson.inference.background import check_cancelled
from wilson.run.images import StepImages
from wilson.widgets.viewer import Viewer



@pytest.fixture
def step(tiny_run, tmp_path, monkeypatch):
    "The folder of a weak step, in a root of the test's own."
    root = tmp_path / "root"
    shutil.copytree(tiny_run, root)
    monkeypatch.chdir(root)
    found = sorted(root.glob("runs/*/wilson-s42/step1"))
    assert found
    return found[-1]


def question(position: int, **more):
    return {"list": "validation", "position": position, "epoch": None, "rule": {}, "told": None, "panels": ["target", "prediction"],
            "differs": "prediction", "part": False, "other": False, **more}


def test_neighbours_are_computed_while_one_looks(step):
    viewer = Viewer()
    viewer.begin()
    images = viewer.side(0)
    counted, compute = [], images.loader.compute["validation"]
    images.loader.compute["validation"] = lambda position: counted.append(position) or compute(position)
    viewer.image(question(5, near=[6, 7, 4]))
    assert images.loader.prefetcher.wait(60) and counted == [5, 6, 7, 4]
    viewer.image(question(6, near=[7, 8, 5]))
    assert images.loader.prefetcher.wait(60) and counted == [5, 6, 7, 4, 8]  # the image was there; one neighbour was not
    same = StepImages(step, "cpu").logits("validation", 6)
    assert torch.equal(same.segmenter, images.logits("validation", 6).segmenter)


def test_the_reader_comes_first(step):
    "What is computed ahead stops when something else is opened, and serves where it is what is opened."
    images = StepImages(step, "cpu")
    compute, begun, goes_on, cancelled = images.loader.compute["validation"], threading.Event(), threading.Event(), []

    def slow(position):
        if threading.current_thread().name == "prefetch":
            begun.set()
            assert goes_on.wait(60)
            try:
                check_cancelled()
            except BaseException:
                cancelled.append(position)
                raise
        return compute(position)

    images.loader.compute["validation"] = slow
    for opened, expected in ((9, [3]), (3, [])):
        images.loader.recent.clear(), cancelled.clear(), begun.clear(), goes_on.clear()
        images.prefetch("validation", [3, 4])
        assert begun.wait(60)
        images.interrupt("validation", opened)
        goes_on.set()
        assert images.logits("validation", opened).id and cancelled == expected
        assert images.loader.prefetcher.wait(60) and set(images.loader.recent) == {("validation", opened, None)}  # 4 was dropped
