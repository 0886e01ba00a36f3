"""Accuracies with intervals that know about groups and shared draws (evaluation.md, section 5)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from robustbench_med.api.seeding import derive

Z95 = 1.959963984540054
RESAMPLES = 2000

DrawsSharedBy = Literal["none", "element", "batch"]


@dataclass(frozen=True)
class Estimate:
    """A share in [0, 1] with its 95 % interval and how the interval was computed."""

    value: float
    low: float
    high: float
    method: str


def wilson(share: float, n: float) -> tuple[float, float]:
    """95 % Wilson score interval of a share observed on ``n`` independent trials."""
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2)) / (1 + Z95**2 / n)
    # At 0 and 1 the interval touches the end exactly; rounding must not leave it just short.
    return (0.0 if share == 0 else centre - half), (1.0 if share == 1 else centre + half)


def accuracy(
    correct: NDArray[np.bool_],
    groups: Sequence[str],
    batches: NDArray[np.int64],
    draws_shared_by: DrawsSharedBy,
    seed: int = 0,
) -> Estimate:
    """Mean accuracy over samples and scoring draws, with its interval.

    With independent samples and no randomness this is Wilson's interval. Otherwise a cluster
    bootstrap resamples groups (patients, lesions) and, where a draw is shared by a batch, the
    draws of each batch; its variance gives the effective number of trials for Wilson's formula,
    which behaves at 0 and 1 where percentiles of a bootstrap do not.

    Args:
        correct: (R, N), one row per scoring draw.
        groups: N group ids.
        batches: (N,) the batch each sample was scored in.
        draws_shared_by: what one draw of the model is shared by.
        seed: of the bootstrap.
    """
    draws, samples = correct.shape
    share = float(correct.mean())
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) == samples and draws_shared_by == "none":
        return Estimate(share, *wilson(share, samples), "wilson")
    # A single draw says nothing about other draws: the interval is then over samples alone.
    rng = np.random.default_rng(derive(seed, "bootstrap"))
    if draws_shared_by == "batch" and draws > 1:
        values, method = _resample_draws(correct, group, batches, rng), "bootstrap groups x draws"
    else:
        given = ", given one draw" if draws == 1 and draws_shared_by != "none" else ""
        values, method = _resample_groups(correct.mean(0), group, rng), f"bootstrap groups{given}"
    variance = float(values.var())
    effective = share * (1 - share) / variance if variance > 0 else float(len(names))
    return Estimate(share, *wilson(share, effective), method)


def _resample_groups(
    per_sample: NDArray[np.float64], group: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.float64]:
    sums, sizes = np.bincount(group, per_sample), np.bincount(group)
    weights = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), RESAMPLES)
    out: NDArray[np.float64] = weights @ sums / (weights @ sizes)
    return out


def _resample_draws(
    correct: NDArray[np.bool_],
    group: NDArray[np.int64],
    batches: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    draws = len(correct)
    batch = np.unique(batches, return_inverse=True)[1]
    groups, values = int(group.max()) + 1, np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        weight = rng.multinomial(groups, np.full(groups, 1 / groups))[group]
        draw_weight = rng.multinomial(draws, np.full(draws, 1 / draws), int(batch.max()) + 1) / draws
        values[i] = ((draw_weight.T[:, batch] * correct).sum(0) * weight).sum() / weight.sum()
    return values


def balanced_accuracy(predictions: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Mean recall over the classes that occur; predictions (R, N), labels (N,)."""
    recalls = [float((predictions[:, labels == k] == k).mean()) for k in np.unique(labels)]
    return float(np.mean(recalls))
