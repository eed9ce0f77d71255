"""Time and memory of the refinement beside its published form: `python tests/bench_pamr.py [cpu|cuda]`.

The published form copies the forty neighbours of every channel in every round (B, C, 40, h, w). Times are medians of runs
that take turns; memory is the peak above what was held before: of the process (CPU, a fresh one each, Linux) or the allocator (GPU).
"""
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from wilson.pseudo.affinity import refine

DILATIONS, AROUND = (1, 2, 4, 8, 12), [i for i in range(9) if i != 4]


def copies(maps):
    "Every channel's neighbours side by side: B, C, 40, h, w."
    (h, w), out = maps.shape[-2:], []
    for d in DILATIONS:
        padded = F.pad(maps, [d] * 4, mode="replicate")
        out += [padded[..., i // 3 * d:i // 3 * d + h, i % 3 * d:i % 3 * d + w] for i in AROUND]
    return torch.stack(out, 2)


@torch.no_grad()
def published(image, mask):
    image = F.interpolate(image, mask.shape[-2:], mode="bilinear", align_corners=True)
    around, centre = copies(image), image.unsqueeze(2)
    contrast = torch.cat([around, centre.expand(-1, -1, len(DILATIONS), -1, -1)], 2).std(2, keepdim=True)
    weights = (-(around - centre).abs() / (1e-8 + 0.1 * contrast)).mean(1, keepdim=True).softmax(2)
    for _ in range(10):
        mask = (copies(mask) * weights).sum(2)
    return mask


FORMS = {"published": published, "refine": refine}


def inputs(side, device):
    torch.manual_seed(0)
    return torch.rand(24, 3, side, side, device=device), torch.rand(24, 21, side, side, device=device).softmax(1)


def seconds(form, data, device):
    start = time.perf_counter()
    form(*data)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak(form, side, device):
    "MB above what the inputs take."
    data = inputs(side, device)
    form(*(maps[:1, :, :8, :8] for maps in data))  # libraries are loaded
    if device == "cuda":
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        form(*data)
        return (torch.cuda.max_memory_allocated() - held) / 2**20
    status = lambda: int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts here
    held = status()
    form(*data)
    return status() - held


def main(device="cpu", form=None, side=None):
    if form:
        print(peak(FORMS[form], int(side), device))
        return
    for side in (32, 64):
        data = inputs(side, device)
        assert torch.allclose(published(*data), refine(*data), atol=1e-5)
        times = {name: [] for name in FORMS}
        for _ in range(5):
            for name, form in FORMS.items():
                times[name].append(seconds(form, data, device))
        mid = {name: statistics.median(t) for name, t in times.items()}
        mb = {name: float(subprocess.check_output([sys.executable, __file__, device, name, str(side)])) for name in FORMS}
        print(f"24×21×{side}×{side} {device}: " + "; ".join(f"{n} {1e3 * mid[n]:.1f} ms, {mb[n]:.1f} MB" for n in FORMS)
              + f"; {mid['published'] / mid['refine']:.1f}× faster, {mb['published'] / mb['refine']:.1f}× leaner", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
