"""Time and memory of losses at the size of labels, forward and back: `python benchmarks/bench_losses.py [cpu|cuda]`.

24 images of 512×512, 21 classes, logits of 32×32: of all images at once, and as `upsampled_loss` does it, some images after others. Times are medians of
runs that take turns; memory is the peak above what was held before: of the process (CPU, a fresh one each, Linux) or the allocator (GPU).
"""
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import torch

from wilson.methods.losses import PART, upsampled_loss, bce_loss, ce_loss, kd_loss, lwf_mc_loss, unbiased_ce_loss
from wilson.methods.losses import unbiased_kd_loss

SMALL = "--small" in sys.argv  # to see that it runs
USUAL, IMAGES, SIZE, ROUNDS = dict(PART), *((2, (64, 64), 1) if SMALL else (24, (512, 512), 5))
FORMS = {"at once": {name: 2**40 for name in USUAL}, "in parts": USUAL}
LOSSES = {  # of logits, old logits and labels
    "base, bce": lambda new, old, labels: upsampled_loss(bce_loss, SIZE, new, labels),
    "base, ce": lambda new, old, labels: upsampled_loss(ce_loss, SIZE, new, labels),
    "lwf": lambda new, old, labels: upsampled_loss(bce_loss, SIZE, new, labels) + upsampled_loss(kd_loss, SIZE, new, old),
    "lwf-mc": lambda new, old, labels: upsampled_loss(partial(lwf_mc_loss, n_old=16), SIZE, new, old, labels),
    "mib": lambda new, old, labels: (upsampled_loss(partial(unbiased_ce_loss, n_old=16), SIZE, new, labels)
                                     + upsampled_loss(unbiased_kd_loss, SIZE, new, old)),
}


def inputs(device):
    torch.manual_seed(0)
    new, old = (torch.randn(IMAGES, c, 32, 32, device=device) for c in (21, 16))
    return new.requires_grad_(), old, torch.randint(0, 21, (IMAGES, *SIZE), device=device)


def gradient(name, form, data):
    PART.update(FORMS[form])
    return torch.autograd.grad(LOSSES[name](*data), data[0])[0]


def seconds(name, form, data, device):
    start = time.perf_counter()
    gradient(name, form, data)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak(name, form, device):
    "MB above what the inputs take."
    data = inputs(device)
    gradient(name, form, [x[:1].detach().requires_grad_(x.requires_grad) for x in data])  # libraries are loaded
    if device == "cuda":
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        gradient(name, form, data)
        return (torch.cuda.max_memory_allocated() - held) / 2**20
    status = lambda: int(Path("/proc/self/status").read_text(encoding="utf-8").split("VmHWM:")[1].split()[0]) / 1024
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the high-water mark starts here
    held = status()
    gradient(name, form, data)
    return max(0.001, status() - held)  # small maps fit into what was held


def main(device="cpu", name=None, form=None):
    if name:
        print(peak(name, form, device))
        return
    data = inputs(device)
    for name in list(LOSSES)[:1 if SMALL else None]:
        assert torch.allclose(gradient(name, "at once", data), gradient(name, "in parts", data), atol=1e-7)
        times = {form: [] for form in FORMS}
        for _ in range(ROUNDS):
            for form in FORMS:
                times[form].append(seconds(name, form, data, device))
        mid = {form: statistics.median(t) for form, t in times.items()}
        mb = {form: float(subprocess.check_output([sys.executable, __file__, device, name, form, *["--small"] * SMALL])) for form in FORMS}
        print(f"{name} {device}: " + "; ".join(f"{n} {1e3 * mid[n]:.0f} ms, {mb[n]:.0f} MB" for n in FORMS)
              + f"; in parts {mid['in parts'] / mid['at once']:.2f} of the time, {mb['in parts'] / mb['at once']:.2f} of the memory", flush=True)


if __name__ == "__main__":
    main(*(word for word in sys.argv[1:] if word != "--small"))
