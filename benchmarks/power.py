"""How large must a gap be for an audit to see it? Fakes of every strength against both audits.

A gap is how many points a claim is above what the same net leaves without the trick. All fakes declare a
straight-through gradient, so that nothing but attacks can find them out. Exits with 1 when ``default`` sees
fewer than 95 % of those of 10 points and more, or ``quick`` fewer than 90 % of those of 20 and more.

    python -m benchmarks.power --seeds 6
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "audit"))

from fakes import SAMPLES, Case, SomeReversed, Wrapped, audited, plan_of_case

from robustbench_med.evaluation.batches import evaluate
from robustbench_med.measure.accuracy import correct
from robustbench_med.measure.verdict import is_failed

GAPS = (-100, 2.5, 5, 10, 15, 20, 30, 100)  # points, the edges of what is counted together
MUST = {"default": (10, 0.95), "quick": (20, 0.9)}
RADII = (0.03, 0.06)


class Shrunk(nn.Module):
    """The image itself; some pixels hand back a gradient that is far too small, in the wrong direction."""

    straight_through = True

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        stream = torch.Generator().manual_seed(1)
        kept = torch.rand(x[0].shape, generator=stream) >= self.share
        return torch.where(kept, x, x.detach() - 0.01 * (x - x.detach()))


TRICKS: Mapping[str, tuple[Callable[[float], nn.Module], tuple[float, ...]]] = {
    "signs reversed": (lambda s: SomeReversed(s, declared=True), (0.0, 0.05, 0.1, 0.15, 0.2, 0.3)),
    "pixels left out": (Shrunk, (0.0, 0.1, 0.2, 0.3, 0.4, 0.6)),
}
ATTACKS: tuple[tuple[str, Mapping[str, object]], ...] = (
    ("pgd", {"steps": 100, "restarts": 3}),
    ("apgd:ce", {"steps": 100}),
    ("apgd:dlr", {"steps": 100}),
)


@dataclass(frozen=True)
class Trial:
    """One fake before one audit: points, and what was said."""

    trick: str
    strength: float
    epsilon: float
    seed: int
    audit: str
    claimed: float
    true: float
    flagged: bool
    verdict: str

    @property
    def gap(self) -> float:
        """In points."""
        return 100 * (self.claimed - self.true)


@cache
def true_accuracy(seed: int, epsilon: float) -> float:
    """What the strongest of three attacks, chosen for each sample, leaves of the bare net."""
    right = np.ones(SAMPLES, bool)
    for attack in ATTACKS:
        plan = plan_of_case(Case(lambda nets: Wrapped(nets.plain), attack=attack, epsilon=epsilon), seed)
        with tempfile.TemporaryDirectory() as folder:
            outcomes = evaluate(plan, Path(folder) / "run", lambda _: None)
        right &= correct(outcomes.adversarial, outcomes.labels, plan.goal)[0]
    return float(right.mean())


def trial(trick: str, strength: float, epsilon: float, seed: int, audit: str) -> Trial:
    """One claim, audited."""
    make = TRICKS[trick][0]
    case = Case(lambda nets: Wrapped(nets.plain, make(strength)), epsilon=epsilon)
    claimed, found = audited(case, seed, audit)
    true = true_accuracy(seed, epsilon)
    return Trial(
        trick, strength, epsilon, seed, audit, claimed, true, is_failed(found.verdict), found.verdict
    )


def curve(trials: Sequence[Trial], audit: str) -> list[tuple[str, int, int]]:
    """By gap: its range, how many fakes, how many of them were seen."""
    rows = []
    for low, high in pairwise(GAPS):
        chosen = [t for t in trials if t.audit == audit and low <= t.gap < high]
        rows.append((f"{low:g} to {high:g}", len(chosen), sum(t.flagged for t in chosen)))
    return rows


def main() -> int:
    """Print every trial and both curves, write them as CSV; 1 when an audit sees too little."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("power.csv"))
    options = parser.parse_args()
    cases = [(k, s) for k, (_, strengths) in TRICKS.items() for s in strengths]
    done = []
    for (trick, strength), epsilon, seed, audit in product(cases, RADII, range(options.seeds), MUST):
        done.append(trial(trick, strength, epsilon, seed, audit))
        print(f"gap {done[-1].gap:5.1f}  {audit:8} {trick} {strength:g}: {done[-1].verdict}", flush=True)
    with options.out.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [f.name for f in fields(Trial)])
        writer.writeheader()
        writer.writerows(asdict(t) for t in done)
    wrong = 0
    for audit, (gap, share) in MUST.items():
        print(f"{audit}: points, fakes, seen")
        for row in curve(done, audit):
            print("  {:12} {:4} {:4}".format(*row))
        large = [t.flagged for t in done if t.audit == audit and t.gap >= gap]
        enough = bool(large) and sum(large) >= share * len(large)
        wrong += not enough
        print(f"  {gap} and more: {sum(large)} of {len(large)}{'' if enough else '  <-- TOO FEW'}")
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
