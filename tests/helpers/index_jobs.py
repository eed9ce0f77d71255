"""What processes of test_index.py run: images of chance, and an index that is filled with them."""
from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch

from wilson.evaluation.index import Index
from wilson.evaluation.index_build import build_index
from wilson.evaluation.index_rows import index_identity
from wilson.evaluation.logit_cache import LogitsStore
from wilson.evaluation.logits import Logits
from wilson.pseudo.targets import TargetRule

RULE = TargetRule(affinity=False)
MINE = index_identity("a1", "val 07", RULE)
N = 60  # images


def drawn(n: int, side: int = 12) -> Logits:
    "Maps of chance; the same in every process."
    chance = torch.Generator().manual_seed(n)
    truth = torch.randint(0, 6, (4, 4), generator=chance).byte().repeat_interleave(10, 0).repeat_interleave(12, 1)
    truth[:3] = 255
    maps = [3 * torch.randn(c, side, side, generator=chance) for c in (6, 6, 4)]
    labels = torch.rand(5, generator=chance) < 0.4
    return Logits(torch.randint(256, (3, 40, 48), generator=chance, dtype=torch.uint8), truth, labels, *maps, str(n))


def fill(folder: Path, delay: float = 0.02, every: float = 0.1) -> None:
    "Fill `folder/index.sqlite`, `delay` seconds an image; how many this process drew is left in a file."
    torch.set_num_threads(1)
    index, made = Index(folder / "index.sqlite", MINE, 6), []

    def logits_of(n: int) -> Logits:
        time.sleep(delay)
        made.append(n)
        return drawn(n)

    built = build_index(index, logits_of, RULE, N, every=every)
    (folder / f"drew{os.getpid()}").write_text(f"{built.whole} {len(made)} {index.on_disk} {len(index.known())}", encoding="utf-8")
    index.close()


def keep(path: Path) -> None:
    "Keep logits, and be killed."
    store = LogitsStore(path, {}, 3_000_000, spared=0)
    for n in range(30):
        store.put(n, drawn(n, 40))
    os.kill(os.getpid(), signal.SIGKILL)
