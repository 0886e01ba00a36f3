"""What every way of fusing costs at full width: parameters, multiply-accumulates, time of a pass. Nothing is
trained: two colour images of 128 px, a head of five and one of seven classes, as MAIL's paper has them.

    python -m benchmarks.cost [--size 128] [--width 1] [--repeats 5]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from robustbench_med.api.data import DatasetInfo, Modality
from robustbench_med.api.heads import SingleLabel
from robustbench_med.api.model import FusionModel
from robustbench_med.models.cost import multiply_accumulates
from robustbench_med.models.named import build_model, model_config

MEMBERS = (
    *("single", "early", "concat", "late", "gated", "low-rank", "mmtm", "bottleneck", "healnet"),
    *("drifa", "mail", "robust-mail", "robust-mail-rpf"),
)
CLASSES = {"first": 5, "second": 7}
ROWS = 4  # samples a timed pass


def data(size: int) -> DatasetInfo:
    """Two images of different people, each with a head of its own."""
    images = tuple(Modality(name, (3, size, size), name) for name in CLASSES)
    heads = tuple(
        SingleLabel(name, modalities=(name,), classes=tuple(map(str, range(count))))
        for name, count in CLASSES.items()
    )
    return DatasetInfo("two", "Two images", "unpaired", images, heads, licence="-", citation="-")


def milliseconds(model: FusionModel, info: DatasetInfo, repeats: int) -> float:
    """A sample's share of a forward pass, the median of so many."""
    inputs = {m.name: torch.rand(ROWS, *m.shape) for m in info.modalities}
    times = []
    with torch.no_grad():
        for _ in range(repeats + 1):  # the first warms up
            started = time.perf_counter()
            model(inputs)
            times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times[1:]) / ROWS


def main() -> int:
    """Print a row a member."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="pixels a side")
    parser.add_argument("--width", type=float, default=1.0, help="factor on 64/128/256/512 channels")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    info, usual = data(options.size), 0
    print("| net | parameters (M) | MACs (M) | less than concat (%) | ms a sample |\n|---|---|---|---|---|")
    for name in sorted(MEMBERS, key=lambda member: member != "concat"):
        torch.manual_seed(0)
        model = build_model(model_config(name).with_options({"width": options.width}), info).eval()
        parameters = sum(p.numel() for p in model.parameters()) / 1e6
        macs = multiply_accumulates(model, info)
        usual = usual or macs
        spent = milliseconds(model, info, options.repeats)
        less = 100 * (1 - macs / usual)
        print(f"| {name} | {parameters:.2f} | {macs / 1e6:.0f} | {less:.1f} | {spent:.1f} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
