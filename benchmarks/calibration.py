"""How often do 95 % intervals hold the truth? Simulated models of known accuracy and draw-sharing.

Every sample has a chance of its own to be right (normal on the logit scale), groups of samples may
share it, and a draw that is shared by a batch moves all chances in it up or down. The truth is the
mean over many more samples and draws. Exits with 1 when a coverage is outside 93 to 97 %, unless
too few patients are right, or wrong, for any interval; with patients of very unequal size, whose
number is in effect ten or so, with three draws, and for differences outside 92 to 98.5 %.

    python -m benchmarks.calibration --simulations 2000
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from robustbench_med.api.model import DrawsSharedBy
from robustbench_med.measure.statistics import Scored, estimate, paired_difference

LOWEST, HIGHEST = 0.93, 0.97
WIDE = (0.92, 0.985)
KINDS = ("mean", "majority", "worst", "difference")
TRUTH = 200_000


def _alike(samples: int, size: int) -> NDArray[np.int64]:
    whole, rest = divmod(samples, size)
    return np.array([size] * whole + [rest] * (rest > 0), np.int64)


def _falling(samples: int, patients: int, power: float) -> NDArray[np.int64]:
    """Sizes that fall off like the rank to a power; at least one each, ``samples`` in all."""
    shares = np.arange(1, patients + 1) ** -power
    sizes: NDArray[np.int64] = np.maximum(np.round(shares / shares.sum() * samples), 1).astype(np.int64)
    sizes[0] += samples - sizes.sum()
    return sizes


def _one_giant(samples: int) -> NDArray[np.int64]:
    giant = samples * 2 // 5
    return np.array([giant] + [1] * (samples - giant), np.int64)


PATIENTS: Mapping[str, Callable[[int], NDArray[np.int64]]] = {
    "one each": lambda n: _alike(n, 1),
    "of three": lambda n: _alike(n, 3),
    "by Zipf": lambda n: _falling(n, n // 5, 1.0),
    "with a giant of 40 %": _one_giant,
    "ten, unequal": lambda n: _falling(n, 10, 0.7),
}
UNEQUAL = ("by Zipf", "with a giant of 40 %", "ten, unequal")


@dataclass(frozen=True)
class World:
    """What is simulated.

    Attributes:
        accuracy: about which the samples' chances lie.
        samples, draws: N and R.
        shared_by: what a draw is shared by; "none" has one draw.
        patients: how samples fall to patients, a name of ``PATIENTS``; those of one have the same chance.
        batch: samples in a batch.
    """

    accuracy: float
    samples: int
    draws: int
    shared_by: DrawsSharedBy
    patients: str = "one each"
    batch: int = 50

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Samples of each patient."""
        return PATIENTS[self.patients](self.samples)

    def hard(self, kind: str) -> bool:
        """So few patients are expected to be right, or to be wrong, that no interval can be held to much."""
        share = truth(self)[kind] if kind != "difference" else truth(self)["mean"]
        effective = self.samples**2 / float((self.sizes**2).sum())
        return effective * min(share, 1 - share) < (2 if self.patients in UNEQUAL else 10)

    def band(self, kind: str) -> tuple[float, float]:
        """Within which a coverage is right."""
        return (
            WIDE if self.patients in UNEQUAL or self.draws == 3 or kind == "difference" else (LOWEST, HIGHEST)
        )

    def __str__(self) -> str:
        of = f"accuracy {self.accuracy:g}, {self.samples} samples, patients {self.patients}"
        return f"{of}, {self.draws} draws by {self.shared_by}"


def worlds() -> Iterator[World]:
    """All that are measured."""
    for accuracy, samples in product((0.02, 0.3, 0.7, 0.98), (60, 200, 500)):
        yield World(accuracy, samples, 1, "none")
        yield World(accuracy, samples, 10, "element")
        yield World(accuracy, samples, 10, "batch")
        yield World(accuracy, samples, 10, "element", "of three")
    for accuracy, samples, patients in product((0.3, 0.7), (200, 500), UNEQUAL):
        yield World(accuracy, samples, 1, "none", patients)
        yield World(accuracy, samples, 10, "element", patients)
    for accuracy, samples in product((0.3, 0.7), (50, 200)):
        yield World(accuracy, samples, 3, "batch", batch=samples)  # few draws, and all share them


def simulated(world: World, rng: np.random.Generator, shift: float = 0.0) -> NDArray[np.float64]:
    """(R, N): the chance of each sample in each draw."""
    easy = rng.normal(logit(world.accuracy), 1.5, len(world.sizes)).repeat(world.sizes)
    moved = np.zeros((world.draws, world.samples))
    if world.shared_by == "batch":
        batches = -(-world.samples // world.batch)
        moved = rng.normal(0, 0.5, (world.draws, batches)).repeat(world.batch, 1)[:, : world.samples]
    return np.asarray(expit(easy + moved + shift))


def outcomes(world: World, rng: np.random.Generator) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """What two models get right, (R, N) each: the second finds the same samples hard, and a little harder."""
    state = rng.bit_generator.state
    first = simulated(world, rng)
    rng.bit_generator.state = state
    second = simulated(world, rng, -0.4)
    return rng.random(first.shape) < first, rng.random(second.shape) < second


def scored(world: World, correct: NDArray[np.bool_]) -> dict[str, Scored]:
    """The three scores of one model; with two classes the vote is right in more than half the draws."""

    def vote(draws: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(correct[draws].sum(0) * 2 > len(draws), np.float64)

    return {
        "mean": Scored.mean(correct, world.shared_by),
        "majority": Scored(vote, world.draws, world.shared_by),
        "worst": Scored.every(correct, world.shared_by),
    }


@cache
def truth(world: World) -> Mapping[str, float]:
    """The same scores of so many samples, each in a batch of its own, that chance plays no part."""
    large = World(world.accuracy, TRUTH, world.draws, world.shared_by, batch=1)
    first, second = outcomes(large, np.random.default_rng(1))
    found = {name: float(score.values.mean()) for name, score in scored(large, first).items()}
    return {**found, "difference": found["mean"] - float(second.mean())}


def coverage(world: World, simulations: int) -> dict[str, float]:
    """Share of the intervals that hold the truth, by kind."""
    groups = [f"p{i}" for i in np.arange(len(world.sizes)).repeat(world.sizes)]
    batches = np.arange(world.samples) // world.batch
    hits, rng = dict.fromkeys(KINDS, 0), np.random.default_rng(0)
    for _ in range(simulations):
        first, second = outcomes(world, rng)
        scores = scored(world, first)
        for name, score in scores.items():
            found = estimate(score, groups, batches)
            hits[name] += found.low <= truth(world)[name] <= found.high
        other = Scored.mean(second, world.shared_by)
        apart = paired_difference(scores["mean"], other, groups, batches)
        hits["difference"] += apart.low <= truth(world)["difference"] <= apart.high
    return {name: count / simulations for name, count in hits.items()}


def main() -> int:
    """Print the coverages, write them as CSV; 1 when one is off."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("calibration.csv"))
    options = parser.parse_args()
    rows, wrong = [], 0
    for world in worlds():
        found = coverage(world, options.simulations)
        bands = {name: world.band(name) for name in found}
        off = [name for name, share in found.items() if not bands[name][0] <= share <= bands[name][1]]
        hard = [name for name in off if world.hard(name)]
        wrong += len(off) - len(hard)
        shares = "  ".join(f"{name} {100 * share:.1f}" for name, share in found.items())
        said = [f"{name} (too few)" if name in hard else name for name in off]
        print(f"{world!s:78} {shares}{'  off: ' if off else ''}{', '.join(said)}", flush=True)
        rows.append({"world": str(world), **found})
    with options.out.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, cast("list[str]", list(rows[0])))
        writer.writeheader()
        writer.writerows(rows)
    print(f"{wrong} off")
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
