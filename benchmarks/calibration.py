"""How often do 95 % intervals hold the truth? Simulated models of known accuracy and draw-sharing.

Every sample has a chance of its own to be right (normal on the logit scale), groups of samples may
share it, and a draw that is shared by a batch moves all chances in it up or down. The truth is the
mean over many more samples and draws. Exits with 1 when a coverage is outside 93 to 97 %, unless
too few patients are right, or wrong, for any interval.

    python -m benchmarks.calibration --simulations 2000
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Mapping
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
KINDS = ("mean", "majority", "worst", "difference")
TRUTH = 200_000


@dataclass(frozen=True)
class World:
    """What is simulated.

    Attributes:
        accuracy: about which the samples' chances lie.
        samples, draws: N and R.
        shared_by: what a draw is shared by; "none" has one draw.
        group: samples in a patient, all with the same chance.
        batch: samples in a batch.
    """

    accuracy: float
    samples: int
    draws: int
    shared_by: DrawsSharedBy
    group: int = 1
    batch: int = 50

    def hard(self, kind: str) -> bool:
        """Fewer than ten patients are expected to be right, or to be wrong: too few for any interval."""
        share = truth(self)[kind] if kind != "difference" else truth(self)["mean"]
        return self.samples / self.group * min(share, 1 - share) < 10

    def __str__(self) -> str:
        group = f", {self.group} a patient" if self.group > 1 else ""
        of = f"accuracy {self.accuracy:g}, {self.samples} samples{group}"
        return f"{of}, {self.draws} draws by {self.shared_by}"


def worlds() -> Iterator[World]:
    """All that are measured."""
    for accuracy, samples in product((0.02, 0.3, 0.7, 0.98), (60, 200, 500)):
        yield World(accuracy, samples, 1, "none")
        yield World(accuracy, samples, 10, "element")
        yield World(accuracy, samples, 10, "batch")
        yield World(accuracy, samples, 10, "element", group=3)


def simulated(world: World, rng: np.random.Generator, shift: float = 0.0) -> NDArray[np.float64]:
    """(R, N): the chance of each sample in each draw."""
    groups = -(-world.samples // world.group)
    easy = rng.normal(logit(world.accuracy), 1.5, groups).repeat(world.group)[: world.samples]
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
    large = World(world.accuracy, TRUTH, world.draws, world.shared_by, 1, 1)
    first, second = outcomes(large, np.random.default_rng(1))
    found = {name: float(score.values.mean()) for name, score in scored(large, first).items()}
    return {**found, "difference": found["mean"] - float(second.mean())}


def coverage(world: World, simulations: int) -> dict[str, float]:
    """Share of the intervals that hold the truth, by kind."""
    groups = [f"p{i // world.group}" for i in range(world.samples)]
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
        off = [name for name, share in found.items() if not LOWEST <= share <= HIGHEST]
        hard = [name for name in off if world.hard(name)]
        wrong += len(off) - len(hard)
        shares = "  ".join(f"{name} {100 * share:.1f}" for name, share in found.items())
        said = [f"{name} (too few)" if name in hard else name for name in off]
        print(f"{world!s:60} {shares}{'  off: ' if off else ''}{', '.join(said)}", flush=True)
        rows.append({"world": str(world), **found})
    with options.out.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, cast("list[str]", list(rows[0])))
        writer.writeheader()
        writer.writerows(rows)
    print(f"{wrong} off")
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
