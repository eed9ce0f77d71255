"""Maps of demo scenes without a network."""
from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from wilson.data.tasks import Task
from wilson.datasets.shapes import draw_scene
from wilson.evaluation.logits import Logits
from wilson.evaluation.maps import Maps

STEP = Task("shapes", "15-5").step(1)


def made_up(seed: int, classes: list[int], size: tuple[int, int] = (96, 96), noise: float = 0.25) -> Maps:
    "Maps of a demo scene as a noisy oracle sees it."
    picture, mask = draw_scene(np.random.default_rng(seed), classes=classes)
    picture = torch.from_numpy(picture).permute(2, 0, 1)[:, : size[0], : size[1]]
    truth = torch.from_numpy(STEP.mask_table("evaluate")[mask])[: size[0], : size[1]]
    exact = F.one_hot(truth.long() % 255, 21).permute(2, 0, 1).float()[None]
    exact = exact + noise * torch.randn(exact.shape, generator=torch.Generator().manual_seed(seed))
    small = F.interpolate(exact, [s // 8 for s in size], mode="bilinear")[0]
    labels = torch.tensor([c in classes and c > 15 for c in range(1, 21)])
    return Maps(Logits(picture, truth, labels, 9 * exact[0] - 4, 5 * small, 8 * small[:16] - 4, f"val_{seed:05}"))
