"""How often does the gate fail a net that is no worse, and pass one that is? Simulations of its decision.

Half of the patients are right under attack. A retrained net answers otherwise on a tenth of them, half of
these each way where it is no worse; an attack seed decides two samples in a hundred; a random net is sure of
most samples and of others not (chances normal on the logit scale). All of this is assumed, and large, so that
chance matters. Two tables: a net against itself under other seeds and draws, and a net that was trained again
and is worse, on all patients there are, by some points. Exits with 1 when the gate is wrong, of the samples
at hand, more often than in one check in twenty.

    python -m benchmarks.gate --simulations 1000
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from robustbench_med.measure.decision import Change, Result, change, decide
from robustbench_med.measure.margins import SEEDS

SIZES = (50, 100, 200, 500, 1000, 2000)
FALLS = (0.0, 0.02, 0.04, 0.06, 0.1, 0.2)
MARGIN = 0.02
ROBUST = 0.5  # where chance is largest
CHURN = 0.1  # share of samples on which a retrained net of equal accuracy answers otherwise
SURE, MOVED = 3.0, 0.97  # of a random net's logits, and of what training moves them by: a tenth change sides
EDGE = 0.02  # share of samples that an attack breaks under one seed and not under another
MOST_WRONG = 0.05
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Kind:
    """A kind of net, by its scoring draws; one that is deterministic has 1."""

    name: str
    draws: int


KINDS = (Kind("deterministic", 1), Kind("random, 10 draws", 10), Kind("random, 50 draws", 50))


@dataclass(frozen=True)
class Pair:
    """A net and its successor on the same samples: chances to be right under attack, (N,) each.

    Attributes:
        loose: which samples depend on the attack's seed, (N,).
    """

    before: Floats
    after: Floats
    loose: NDArray[np.bool_]

    @property
    def fall(self) -> float:
        """By how much the accuracy on these very samples fell, over all seeds and draws."""
        before, after = (np.where(self.loose, 0.5, p).mean() for p in (self.before, self.after))
        return float(before - after)


def pair(kind: Kind, samples: int, fall: float, same: bool, stream: np.random.Generator) -> Pair:
    """A net and its successor.

    Args:
        fall: of the accuracy on all patients there are.
        same: the successor is the net itself, but for its draws and seeds.
    """
    loose = stream.random(samples) < EDGE
    if kind.draws == 1:
        before = (stream.random(samples) < ROBUST).astype(float)
        if same:
            return Pair(before, before, loose)
        lost, won = (CHURN + fall) / 2 / ROBUST, (CHURN - fall) / 2 / (1 - ROBUST)
        lost, won = (lost, won) if won >= 0 else (fall / ROBUST, 0.0)
        flips = stream.random(samples) < np.where(before == 1, lost, won)
        return Pair(before, np.abs(before - flips), loose)
    base = stream.normal(0, SURE, samples)
    if same:
        return Pair(expit(base), expit(base), loose)
    moved = base + stream.normal(0, MOVED, samples)
    return Pair(expit(base), expit(moved - _shift(fall)), loose)


@cache
def _shift(fall: float) -> float:
    """By how much all logits of a retrained net must move for a fall by so many points."""
    grid = np.random.default_rng(0).normal(0, np.hypot(SURE, MOVED), 200_000)
    low, high = 0.0, 50.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if expit(grid - middle).mean() > ROBUST - fall else (low, middle)
    return low


def outcomes(
    kind: Kind, chances: Floats, loose: NDArray[np.bool_], stream: np.random.Generator
) -> NDArray[np.bool_]:
    """What is right under one attack seed, (R, N)."""
    seeded = np.where(loose, stream.random(len(chances)) < 0.5, chances)
    return np.asarray(stream.random((kind.draws, len(chances))) < seeded)


def gate(kind: Kind, nets: Pair, stream: np.random.Generator) -> tuple[Result, bool]:
    """What the gate says, and whether it asked for more seeds."""
    units = np.arange(len(nets.before)) if kind.draws > 1 else np.zeros(0, np.int64)
    before, after = ([outcomes(kind, p, nets.loose, stream)] for p in (nets.before, nets.after))

    def judged() -> tuple[Result, bool]:
        found: Change = change(before, after, (units, units), True)
        return decide(found, MARGIN)

    result, more = judged()
    if not more:
        return result, False
    for _ in range(SEEDS - 1):
        before.append(outcomes(kind, nets.before, nets.loose, stream))
        after.append(outcomes(kind, nets.after, nets.loose, stream))
    return judged()[0], True


@dataclass(frozen=True)
class Row:
    """How often, as shares: over all simulations of a kind, size and fall."""

    kind: str
    samples: int
    fall: float
    failed: float
    undecided: float
    more_seeds: float
    wrong: float


def row(kind: Kind, samples: int, fall: float, simulations: int, same: bool = False) -> Row:
    """One row.

    "wrong" is what is wrong of these very samples: failed though the fall is no more than the margin, or
    passed though it is more than twice the margin.
    """
    stream = np.random.default_rng([samples, round(1000 * fall), kind.draws, same])
    results, truths, asked = [], [], []
    for _ in range(simulations):
        nets = pair(kind, samples, fall, same, stream)
        result, more = gate(kind, nets, stream)
        results.append(result)
        truths.append(nets.fall)
        asked.append(more)
    said, true = np.array(results), np.array(truths)
    slack = 1 / samples
    wrong = ((said == "failed") & (true <= MARGIN - slack)) | (
        (said == "passed") & (true > 2 * MARGIN + slack)
    )
    failed, undecided = (float(np.mean(said == word)) for word in ("failed", "undecided"))
    return Row(kind.name, samples, fall, failed, undecided, float(np.mean(asked)), float(np.mean(wrong)))


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line a kind and size, a column a fall."""
    falls = sorted({r.fall for r in rows})
    head = "| net | samples | " + " | ".join(f"{100 * f:g} points" for f in falls) + " |"
    lines = [head, "|---|---|" + "---|" * len(falls)]
    for kind, samples in dict.fromkeys((r.kind, r.samples) for r in rows):
        cells = []
        for fall in falls:
            (found,) = [r for r in rows if (r.kind, r.samples, r.fall) == (kind, samples, fall)]
            open_ = f" ({100 * found.undecided:.0f} undecided)" if found.undecided >= 0.005 else ""
            cells.append(f"{100 * found.failed:.0f}{open_}")
        lines.append(f"| {kind} | {samples} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    """Print both tables; 1 when the gate is wrong of these very samples too often."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=2000)
    options = parser.parse_args()
    print("A net against itself, under other seeds and draws: % of checks that fail")
    itself = [row(k, n, 0.0, options.simulations, same=True) for k, n in product(KINDS, SIZES)]
    print(table(itself))
    print("\nA retrained net whose accuracy on all patients fell by so much: % of checks that fail")
    others = [row(k, n, f, options.simulations) for k, n, f in product(KINDS, SIZES, FALLS)]
    print(table(others))
    worst = max((*itself, *others), key=lambda r: r.wrong)
    print(
        f"\nof these very samples the gate is wrong in at most {100 * worst.wrong:.1f} % ({worst.kind}, "
        f"{worst.samples} samples, {100 * worst.fall:g} points)"
    )
    asked = max(others, key=lambda r: r.more_seeds)
    print(
        f"three seeds were run in at most {100 * asked.more_seeds:.0f} % of checks ({asked.samples} samples)"
    )
    return int(worst.wrong > MOST_WRONG)


if __name__ == "__main__":
    raise SystemExit(main())
