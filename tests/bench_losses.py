"""Time and memory of the base step's loss, forward and back: `python tests/bench_losses.py [cpu|cuda]`.

24 images of 512×512, 21 classes, logits of 32×32: all images at once beside `base_loss`, in which they take turns. Times are medians of
runs that take turns; memory is the peak above what was held before: of the process (CPU, a fresh one each, Linux) or the allocator (GPU).
"""
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from wilson.training.losses import base_loss, bce_loss, ce_loss


def at_once(logits, labels, kind):
    logits = F.interpolate(logits.float(), labels.shape[-2:], mode="bilinear", align_corners=False)
    return (bce_loss if kind == "bce" else ce_loss)(logits, labels)


FORMS = {"at once": at_once, "in parts": base_loss}


def inputs(device):
    torch.manual_seed(0)
    return torch.randn(24, 21, 32, 32, device=device, requires_grad=True), torch.randint(0, 21, (24, 512, 512), device=device)


def seconds(form, data, kind, device):
    start = time.perf_counter()
    torch.autograd.grad(form(*data, kind), data[0])
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak(form, kind, device):
    "MB above what the inputs take."
    logits, labels = inputs(device)
    torch.autograd.grad(form(logits[:1], labels[:1, :64, :64].contiguous(), kind), logits)  # libraries are loaded
    if device == "cuda":
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        seconds(form, (logits, labels), kind, device)
        return (torch.cuda.max_memory_allocated() - held) / 2**20
    status = lambda: int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts here
    held = status()
    seconds(form, (logits, labels), kind, device)
    return status() - held


def main(device="cpu", form=None, kind=None):
    if form:
        print(peak(FORMS[form], kind, device))
        return
    data = inputs(device)
    for kind in ("bce", "ce"):
        assert torch.allclose(at_once(*data, kind), base_loss(*data, kind))
        times = {name: [] for name in FORMS}
        for _ in range(5):
            for name, form in FORMS.items():
                times[name].append(seconds(form, data, kind, device))
        mid = {name: statistics.median(t) for name, t in times.items()}
        mb = {name: float(subprocess.check_output([sys.executable, __file__, device, name, kind])) for name in FORMS}
        print(f"{kind} {device}: " + "; ".join(f"{n} {1e3 * mid[n]:.0f} ms, {mb[n]:.0f} MB" for n in FORMS)
              + f"; in parts {mid['in parts'] / mid['at once']:.2f} of the time, {mb['in parts'] / mb['at once']:.2f} of the memory", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
