"""Fixed inputs and outcomes, once more: on other draws, on another machine, and from the bits alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from robustbench_med.api.model import DrawsSharedBy
from robustbench_med.api.objective import Goal
from robustbench_med.evaluation.outcomes import Outcomes, Scores
from robustbench_med.measure import statistics
from robustbench_med.measure.metrics import attack_success
from robustbench_med.measure.samples import Bits, Samples
from robustbench_med.measure.statistics import Estimate, Scored

DOUBT = 0.001  # how often draws alone may call a number wrong that is right
BOUNDARY = 1e-4  # of the range of a head's scores: what float32 sums differ by from machine to machine


@dataclass(frozen=True)
class Redrawn:
    """A share on two sets of draws of the same model on the same inputs.

    Attributes:
        first, second: the shares.
        reach: how far they may lie apart by chance; 0 where draws do not differ.
    """

    first: float
    second: float
    reach: float

    @property
    def agree(self) -> bool:
        """Whether draws explain the difference."""
        return abs(self.second - self.first) <= self.reach + 1e-12

    @property
    def lower(self) -> bool:
        """Whether the second is lower than draws explain."""
        return self.second < self.first - self.reach - 1e-12


def redrawn(
    first: Bits,
    second: Bits,
    batches: NDArray[np.int64],
    draws_shared_by: DrawsSharedBy,
    doubt: float = DOUBT,
) -> Redrawn:
    """Compare what was right on two sets of draws, (R, N) and (R', N).

    Samples and inputs are the same, so that draws alone can make a difference: the variance within each set,
    sample by sample, or batch by batch where a batch shares its draws, with Student's quantile.

    Args:
        batches: (N,) the batch each sample was scored in.
        doubt: the chance, two-sided, of a difference beyond ``reach`` where there is none.
    """
    count, units = first.shape[1], batches if draws_shared_by == "batch" else np.arange(first.shape[1])
    x, y = (_summed(bits, units) for bits in (first, second))
    means = float(first.mean()), float(second.mean())
    left = len(x) + len(y) - 2
    if left < 1:
        return Redrawn(*means, 0.0)
    squares = ((x - x.mean(0)) ** 2).sum(0) + ((y - y.mean(0)) ** 2).sum(0)
    each = squares / left * (1 / len(x) + 1 / len(y)) / count**2
    variance = float(each.sum())
    if variance <= 0:
        return Redrawn(*means, 0.0)
    freedom = variance**2 / float((each**2).sum()) * left
    return Redrawn(*means, float(stats.t.ppf(1 - doubt / 2, freedom)) * math.sqrt(variance))


def _summed(bits: Bits, units: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums over the samples of each unit, (R, units)."""
    _, place = np.unique(units, return_inverse=True)
    return np.stack([np.bincount(place, row) for row in bits.astype(np.float64)])


def retold(samples: Samples) -> dict[str, dict[str, Estimate]]:
    """The accuracies that bits alone tell, by name and kind; the vote only where there is one draw."""
    groups, shared = np.asarray(samples.groups), samples.draws_shared_by
    out = {}
    for name, robust in samples.robust.items():
        index = np.flatnonzero(samples.known[name])
        if not len(index):
            continue
        some = groups[index].tolist(), samples.batches[index]
        before, after = samples.clean[name][:, index], robust[:, index]
        scored = {
            "clean": Scored.mean(before, shared),
            "robust": Scored.mean(after, shared),
            "worst_of_draws": Scored.every(after, shared),
        }
        if len(after) == 1:
            scored["majority"] = scored["robust"]
        out[name] = {kind: statistics.estimate(each, *some) for kind, each in scored.items()}
    return out


def successes(samples: Samples) -> dict[str, float | None]:
    """Share of what was right that the attack turned wrong, by name."""
    return {
        name: attack_success(samples.clean[name][:, samples.known[name]], right[:, samples.known[name]])
        for name, right in samples.robust.items()
    }


@dataclass(frozen=True)
class Differing:
    """Samples that were scored otherwise than a record says.

    Attributes:
        boundary: positions of those whose answer float noise may flip.
        others: positions of those that it does not explain.
    """

    boundary: tuple[int, ...]
    others: tuple[int, ...]


def differing(
    said: Mapping[str, Bits], found: Mapping[str, Bits], scores: Scores, outcomes: Outcomes, goal: Goal
) -> Differing:
    """Compare what was right, by name (R, N) each, sample by sample.

    Args:
        said: by the record.
        found: by these ``scores`` of ``outcomes``' samples.
    """
    near = _near(scores, outcomes, goal)
    boundary: set[int] = set()
    others: set[int] = set()
    for name, bits in found.items():
        off = bits != said[name]
        for r, n in zip(*np.nonzero(off), strict=True):
            close = near[name][r, n] if name in near else any(each[r, n] for each in near.values())
            (boundary if close else others).add(int(n))
    return Differing(tuple(sorted(boundary - others)), tuple(sorted(others)))


def _near(scores: Scores, outcomes: Outcomes, goal: Goal) -> dict[str, Bits]:
    """Whether an answer lies on the boundary, by head and question (R, N)."""
    out: dict[str, Bits] = {}
    for head in goal.heads:
        labels = torch.from_numpy(outcomes.labels[head.name])
        logits = head.problems(torch.from_numpy(scores[head.name]), labels)[0].numpy().astype(np.float64)
        finite = logits[np.isfinite(logits)]
        span = float(np.ptp(finite)) if finite.size else 0.0
        top = np.sort(logits, axis=-1)
        close = np.asarray(np.nan_to_num(top[..., -1] - top[..., -2], nan=np.inf) <= BOUNDARY * span)
        out[head.name] = np.asarray(close.any(-1))
        if len(head.questions) > 1:
            out |= {question: close[..., i] for i, question in enumerate(head.questions)}
    return out
