"""What the wrapper around somebody's net costs: forward and backward passes against the bare module.

Both alternate within one process, and the medians of their ratios are printed. Exits with 1 above 1.02.

    python -m benchmarks.wrapper
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustbench_med.api.data import Modality
from robustbench_med.models.bound import look
from robustbench_med.models.wrap import Wrap

LIMIT = 1.02


def net() -> nn.Module:
    """A small convolutional net on 64 x 64 images."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 4)).eval()


def seconds(forward: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Of one forward and backward pass."""
    leaf = x.clone().requires_grad_()
    started = time.perf_counter()
    torch.autograd.grad(forward(leaf).sum(), leaf)
    return time.perf_counter() - started


def main() -> int:
    """Print the ratio; 1 when it is above the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bare, x = net().requires_grad_(False), torch.rand(100, 1, 64, 64)
    modality = Modality("image", (1, 64, 64), "image")
    wrapped = look(Wrap(bare), (modality,), {"label": (4,)}, {"image": x[:3]}).bound((modality,), ())

    def through(images: Tensor) -> Tensor:
        return wrapped({"image": images})["label"]

    for forward in (bare, through):
        seconds(forward, x)
    ratios = [seconds(through, x) / seconds(bare, x) for _ in range(options.repeats)]
    ratio = statistics.median(ratios)
    print(f"wrapped / bare: {ratio:.3f} (median of {options.repeats} pairs)")
    return int(ratio > LIMIT)


if __name__ == "__main__":
    raise SystemExit(main())
