"""Time and memory of the refinement beside its published form: `python benchmarks/bench_pamr.py [cpu|cuda]`.

On a GPU also beside a candidate to take its place there: a round as one Triton kernel, which computes where the neighbours are.
`TRITON_INTERPRET=1 python benchmarks/bench_pamr.py equal` shows on a CPU that it gives the same.

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

try:
    import triton
    import triton.language as tl
except ImportError:  # torch for CPUs comes without
    triton = None

from wilson.pseudo.pamr import pixel_affinity, refine

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


if triton:
    @triton.jit
    def take_over(rows, weights, offsets, out, pixels, height, width, classes, around: tl.constexpr, block: tl.constexpr, padded: tl.constexpr):
        "One round for `block` pixels: the weighted sum of their neighbours, all classes; offsets are dy, dx of each neighbour."
        pixel = tl.program_id(0) * block + tl.arange(0, block)
        channel = tl.arange(0, padded)
        there, kept = pixel < pixels, channel < classes
        first, y, x = pixel - pixel % (height * width), pixel // width % height, pixel % width
        total = tl.zeros((block, padded), tl.float32)
        for n in range(around):
            ny = tl.minimum(tl.maximum(y + tl.load(offsets + 2 * n), 0), height - 1)  # at the border its own edge repeats
            nx = tl.minimum(tl.maximum(x + tl.load(offsets + 2 * n + 1), 0), width - 1)
            weight = tl.load(weights + pixel * around + n, there, 0.0)
            place = (first + ny * width + nx) * classes
            value = tl.load(rows + place[:, None] + channel[None, :], there[:, None] & kept[None, :], 0.0)
            total += weight[:, None] * value
        tl.store(out + pixel[:, None] * classes + channel[None, :], total, there[:, None] & kept[None, :])


@torch.no_grad()
def fused(image, mask):
    batch, classes, h, w = mask.shape
    image = F.interpolate(image, (h, w), mode="bilinear", align_corners=True)
    weights = pixel_affinity(image, DILATIONS).permute(0, 2, 3, 1).contiguous()
    offsets = torch.tensor([(d * (i // 3 - 1), d * (i % 3 - 1)) for d in DILATIONS for i in AROUND], dtype=torch.int32, device=mask.device)
    rows = mask.permute(0, 2, 3, 1).contiguous()
    other, pixels, block = torch.empty_like(rows), batch * h * w, 32
    for _ in range(10):
        take_over[(triton.cdiv(pixels, block),)](rows, weights, offsets, other, pixels, h, w, classes, len(offsets), block,
                                                 triton.next_power_of_2(classes))
        rows, other = other, rows
    return rows.permute(0, 3, 1, 2).contiguous()


FORMS = {"published": published, "refine": refine}
if triton and torch.cuda.is_available():
    FORMS["fused"] = fused


SMALL = "--small" in sys.argv  # to see that it runs
IMAGES, SIDES, ROUNDS = (2, (8,), 1) if SMALL else (24, (32, 64), 5)


def inputs(side, device):
    torch.manual_seed(0)
    return torch.rand(IMAGES, 3, side, side, device=device), torch.rand(IMAGES, 21, side, side, device=device).softmax(1)


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
    status = lambda: int(Path("/proc/self/status").read_text(encoding="utf-8").split("VmHWM:")[1].split()[0]) / 1024
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the high-water mark starts here
    held = status()
    form(*data)
    return max(0.001, status() - held)  # small maps fit into what was held


def equal():
    "The candidate on small maps, classes that are no power of two, sides that no block divides."
    torch.manual_seed(0)
    for classes, h, w in ((21, 9, 13), (5, 16, 7)):
        data = torch.rand(2, 3, 4 * h, 4 * w), torch.rand(2, classes, h, w).softmax(1)
        assert torch.allclose(fused(*data), refine(*data), atol=1e-6)
    print("equal")


def main(device="cpu", form=None, side=None):
    if device == "equal":
        equal()
        return
    if form:
        print(peak(FORMS[form], int(side), device))
        return
    for side in SIDES:
        data = inputs(side, device)
        assert all(torch.allclose(published(*data), form(*data), atol=1e-5) for form in FORMS.values())
        times = {name: [] for name in FORMS}
        for _ in range(ROUNDS):
            for name, form in FORMS.items():
                times[name].append(seconds(form, data, device))
        mid = {name: statistics.median(t) for name, t in times.items()}
        mb = {name: float(subprocess.check_output([sys.executable, __file__, device, name, str(side), *["--small"] * SMALL])) for name in FORMS}
        print(f"{IMAGES}×21×{side}×{side} {device}: " + "; ".join(f"{n} {1e3 * mid[n]:.1f} ms, {mb[n]:.1f} MB" for n in FORMS)
              + "".join(f"; {n}: {mid['published'] / mid[n]:.1f}× faster, {mb['published'] / mb[n]:.1f}× leaner" for n in FORMS if n != "published"),
              flush=True)


if __name__ == "__main__":
    main(*(word for word in sys.argv[1:] if word != "--small"))
