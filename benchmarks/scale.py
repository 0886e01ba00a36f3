"""What a large board costs, from passes that were measured: no run is made.

    python -m benchmarks.scale                    # passes from the published records, one timed pass here
    python -m benchmarks.scale --device cuda      # with a GPU: its own time of a pass

Measured are: how many passes a sample the published runs and their audits took (records hold them), by kind
of net; multiply-accumulates of a pass of every shipped model at full width; and the time of a pass of one of
them here. Assumed, and printed: how many runs there are, their samples, the audit's samples, and, where no
GPU is at hand, how many operations a second one sustains on such nets.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from robustbench_med.api.data import DatasetInfo, Split
from robustbench_med.api.model import FusionModel
from robustbench_med.api.objective import Goal
from robustbench_med.api.threat import Budget, ThreatModel
from robustbench_med.data.catalog import load_dataset
from robustbench_med.evaluation.attacks import ATTACKS
from robustbench_med.evaluation.forecast import Pass, time_pass
from robustbench_med.evaluation.plan import Plan
from robustbench_med.models.cost import multiply_accumulates
from robustbench_med.models.named import build_model, model_config, model_names
from robustbench_med.util.errors import UserError

RECORDS = Path(__file__).parents[1] / "leaderboards" / "records"
OPERATIONS = 2  # a multiply-accumulate


@dataclass(frozen=True)
class Measured:
    """Passes a sample of published runs on one kind of net, and of its audits; means.

    Attributes:
        runs, audits: how many records they are of.
    """

    attack: float
    audit: float
    runs: int
    audits: int


def main() -> int:
    """Print what is measured, what is assumed, and what follows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", type=int, default=200, help="of the board")
    parser.add_argument("--datasets", type=int, default=10)
    parser.add_argument("--attacks", type=int, default=5)
    parser.add_argument("--samples", type=int, default=1000, help="of a run")
    parser.add_argument("--audited", type=int, default=100, help="samples of an audit")
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--random", type=float, default=0.5, help="share of nets that are random")
    parser.add_argument("--teraflops", type=float, default=8.0, help="a GPU sustains; only without --device")
    parser.add_argument("--device", default="cpu", help="time a pass there")
    options = parser.parse_args()
    split = load_dataset("phantom")
    large = at_size(split.info, options.size)
    nets = {name: full(name, large) for name in model_names()}
    macs = {name: multiply_accumulates(net, large) for name, net in nets.items() if net is not None}
    for name, count in sorted(macs.items(), key=lambda each: each[1]):
        print(f"measured: {name} at full width and {options.size} px, {count / 1e9:.2f} billion MACs a pass")
    middle = sorted(macs, key=lambda name: macs[name])[len(macs) // 2]
    timed = full(middle, split.info)
    assert timed is not None
    found = pass_of(timed, split, options.device)
    times = f"{found.forward * 1e3:.2f} ms forward, {found.both * 1e3:.2f} ms forth and back"
    print(f"measured: {middle} on {options.device}, {torch.get_num_threads()} thread(s): {times}")
    of_timed = multiply_accumulates(timed, split.info)
    seconds_a_pass = _seconds_a_pass(found, statistics.mean(macs.values()), of_timed, options)
    total = report(options, seconds_a_pass)
    for gpus in (1, 64):
        print(f"{gpus} GPU(s): {total / gpus / 3600:,.0f} hours, {total / gpus / 86400:,.1f} days")
    return 0


def _seconds_a_pass(found: Pass, mean: float, of_timed: float, options: Any) -> float:
    """Of a forward pass of a mean net; a way back is counted as another one."""
    if options.device != "cpu":
        return found.forward * mean / of_timed
    rate = float(options.teraflops) * 1e12
    print(f"assumed: a GPU sustains {options.teraflops:g} TFLOP/s on these nets (none is at hand)")
    return OPERATIONS * mean / rate


def report(options: Any, seconds_a_pass: float) -> float:
    """The GPU seconds of the board; prints where they come from."""
    cells = options.models * options.datasets * options.attacks
    print(f"assumed: {cells:,} runs of {options.samples:,} samples, each audited on {options.audited}")
    total = 0.0
    for kind, share in (("deterministic", 1 - options.random), ("random", options.random)):
        passes = measured(kind == "random")
        of_run = passes.attack * options.samples + passes.audit * options.audited
        print(
            f"measured: {kind} nets, {passes.attack:,.0f} passes a sample in {passes.runs} runs, "
            f"{passes.audit:,.0f} in {passes.audits} audits; assumed: {share:.0%} of the nets"
        )
        total += cells * share * of_run * seconds_a_pass
    print(f"{total / seconds_a_pass:.2e} passes of {seconds_a_pass * 1e6:.0f} µs")
    return total


def measured(random: bool) -> Measured:
    """From the published records; forward and backward passes count alike."""
    attack, audit = list[float](), list[float]()
    for record in records():
        if (record["model"]["draws_shared_by"] != "none") is not random:
            continue
        cost, samples = record["cost"], record["dataset"]["samples"]
        attack.append((cost["forward_passes"] + cost["backward_passes"]) / samples)
        checked = record["audit"]
        if checked.get("forward") and checked.get("samples"):
            audit.append((checked["forward"] + checked["backward"]) / checked["samples"])
    return Measured(statistics.mean(attack), statistics.mean(audit), len(attack), len(audit))


def records() -> Iterator[Mapping[str, Any]]:
    """The published ones."""
    for path in sorted(RECORDS.glob("*.json")):
        yield json.loads(path.read_text())


def at_size(info: DatasetInfo, size: int) -> DatasetInfo:
    """A data set's description with images of so many pixels a side."""
    modalities = [replace(m, shape=(m.shape[0], size, size)) for m in info.modalities]
    return replace(info, modalities=tuple(modalities))


def full(name: str, info: DatasetInfo) -> FusionModel | None:
    """A shipped model at its published width, with the start values of its layers; None if not for images."""
    torch.manual_seed(0)
    try:
        return build_model(model_config(name), info).eval().requires_grad_(False)
    except UserError:
        return None


def pass_of(model: FusionModel, split: Split, device: str) -> Pass:
    """Its time."""
    threat = ThreatModel({m.name: Budget("linf", 4 / 255) for m in split.info.modalities})
    pgd = ATTACKS.get("pgd")()
    goal = Goal(split.info.heads)
    plan = Plan(model.to(device), split, pgd, "pgd", threat, goal, 1, 1, 100, 0, device)
    return time_pass(plan)


if __name__ == "__main__":
    raise SystemExit(main())
