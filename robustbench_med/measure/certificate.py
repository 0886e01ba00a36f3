"""Certificates of smoothed classifiers from the votes of noisy copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, norm

from robustbench_med.api.data import Split
from robustbench_med.measure import statistics
from robustbench_med.measure.accuracy import ANY
from robustbench_med.measure.statistics import Estimate


@dataclass(frozen=True)
class Smoothing:
    """Algorithm CERTIFY's parameters.

    Attributes:
        sigmas: standard deviation of the noise by smoothed modality.
    """

    sigmas: Mapping[str, float]
    n0: int
    n: int
    alpha: float
    batch_size: int
    seed: int

    @property
    def sigma(self) -> float:
        """That of the modality with the least noise, which bounds the joint radius."""
        return min(self.sigmas.values())


@dataclass(frozen=True)
class Votes:
    """What the noisy copies of one sample were classified as.

    Attributes:
        guess: by task the most frequent class of the first n0 copies.
        hits: by task how many of the n others were classified as that.
    """

    guess: Mapping[str, int]
    hits: Mapping[str, int]


@dataclass(frozen=True)
class Certificates:
    """The radii of N samples by head, and under ``ANY`` for all heads at once.

    Attributes:
        radii: (N,), NaN where the classifier abstains.
        right: whether the answer is the label; bool (N,).
    """

    radii: Mapping[str, NDArray[np.float64]]
    right: Mapping[str, NDArray[np.bool_]]

    def certified(self, head: str, radius: float) -> NDArray[np.bool_]:
        """Which samples are right and stay so within ``radius``; abstaining counts as wrong."""
        return self.right[head] & (np.nan_to_num(self.radii[head], nan=-1.0) >= radius)


def lower_bound(hits: int, n: int, alpha: float) -> float:
    """One-sided Clopper-Pearson bound: the chance of a hit is above it with confidence 1 - alpha."""
    return float(beta.ppf(alpha, hits, n - hits + 1)) if hits else 0.0


def certified_radius(hits: int, n: int, alpha: float, sigma: float) -> float:
    """sigma·Φ⁻¹(pA) with the lower bound of pA; NaN (abstain) where that is 1/2 or less.

    Args:
        hits: of n noisy copies, how many were classified as the guess.
    """
    bound = lower_bound(hits, n, alpha)
    return sigma * float(norm.ppf(bound)) if bound > 0.5 else float("nan")


def certificates(votes: Sequence[Votes], split: Split, smoothing: Smoothing) -> Certificates:
    """Answers and radii from the votes on every sample of ``split``.

    Per head each certificate holds with probability 1 - alpha. Under ``ANY`` a sample is certified
    within the least radius of its heads, each taken at alpha / heads (Bonferroni), so that all of
    them hold together with probability 1 - alpha.
    """
    tasks = list(split.labels)

    def radii(task: str, alpha: float) -> NDArray[np.float64]:
        hits = [vote.hits[task] for vote in votes]
        return np.array([certified_radius(h, smoothing.n, alpha, smoothing.sigma) for h in hits])

    by_head = {task: radii(task, smoothing.alpha) for task in tasks}
    joint = np.stack([radii(task, smoothing.alpha / len(tasks)) for task in tasks])
    right = {t: np.array([vote.guess[t] for vote in votes]) == split.labels[t] for t in tasks}
    # NaN wins in min: one head that abstains is an abstention.
    return Certificates(by_head | {ANY: joint.min(0)}, right | {ANY: np.all(list(right.values()), axis=0)})


def default_radii(smoothing: Smoothing) -> tuple[float, ...]:
    """Quarters of sigma from 0 to the largest radius that n copies can certify."""
    most = certified_radius(smoothing.n, smoothing.n, smoothing.alpha, smoothing.sigma)
    steps = int(most / smoothing.sigma * 4) if isfinite(most) else 0
    return tuple(smoothing.sigma * step / 4 for step in range(steps + 1))


def certified_accuracy(
    found: Certificates, split: Split, radii: Sequence[float]
) -> dict[str, dict[float, Estimate]]:
    """Share of the samples certified right, by head and radius, with 95 % intervals over samples."""

    def estimate(head: str, radius: float) -> Estimate:
        right = found.certified(head, radius)[None]
        return statistics.accuracy(right, split.groups, np.zeros(len(split), np.int64), "none")

    return {head: {radius: estimate(head, radius) for radius in radii} for head in found.radii}
