"""Certificates of smoothed classifiers from the votes of noisy copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import beta, norm

from robustbench_med.api.data import Split
from robustbench_med.api.heads import UNKNOWN
from robustbench_med.evaluation.votes import Smoothing, Votes
from robustbench_med.measure import statistics
from robustbench_med.measure.accuracy import EVERY
from robustbench_med.measure.statistics import Estimate


@dataclass(frozen=True)
class Certificates:
    """The radii of N samples by question, by head that asks several, and under ``EVERY`` for all heads.

    Attributes:
        radii: (N,), NaN where the classifier abstains.
        right: whether the answer is the label; bool (N,).
        known: whether there is a label; bool (N,).
    """

    radii: Mapping[str, NDArray[np.float64]]
    right: Mapping[str, NDArray[np.bool_]]
    known: Mapping[str, NDArray[np.bool_]]

    def certified(self, name: str, radius: float) -> NDArray[np.bool_]:
        """Which samples are right and stay so within ``radius``; abstaining counts as wrong."""
        return self.right[name] & (np.nan_to_num(self.radii[name], nan=-1.0) >= radius)


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

    Per question each certificate holds with probability 1 - alpha. Of several questions together a sample is
    certified within the least of their radii, each taken at alpha / questions (Bonferroni), so that all of
    them hold together with probability 1 - alpha. A question without a label does not count.
    """
    truth: dict[str, NDArray[np.int64]] = {}
    for head in split.info.heads:
        scores = torch.zeros(len(split), head.columns[0])
        labels = head.problems(scores, torch.from_numpy(split.labels[head.name]))[1].numpy()
        truth |= {question: labels[:, i] for i, question in enumerate(head.questions)}
    joined = {h.name: h.questions for h in split.info.heads if len(h.questions) > 1}
    joined[EVERY] = tuple(truth)

    def radii(question: str, alpha: float) -> NDArray[np.float64]:
        hits = [vote.hits[question] for vote in votes]
        return np.array([certified_radius(h, smoothing.n, alpha, smoothing.sigma) for h in hits])

    right = {q: np.array([vote.guess[q] for vote in votes]) == y for q, y in truth.items()}
    known = {q: y != UNKNOWN for q, y in truth.items()}
    found = Certificates({q: radii(q, smoothing.alpha) for q in truth}, dict(right), dict(known))
    for name, questions in joined.items():
        each = np.stack([radii(q, smoothing.alpha / len(questions)) for q in questions])
        missing = ~np.stack([known[q] for q in questions])
        # NaN wins in min: one question that abstains is an abstention.
        found.radii[name] = np.where(missing, np.inf, each).min(0)  # type: ignore[index]
        found.right[name] = (np.stack([right[q] for q in questions]) | missing).all(0)  # type: ignore[index]
        found.known[name] = ~missing.all(0)  # type: ignore[index]
    return found


def default_radii(smoothing: Smoothing) -> tuple[float, ...]:
    """Quarters of sigma from 0 to the largest radius that n copies can certify."""
    most = certified_radius(smoothing.n, smoothing.n, smoothing.alpha, smoothing.sigma)
    steps = int(most / smoothing.sigma * 4) if isfinite(most) else 0
    return tuple(smoothing.sigma * step / 4 for step in range(steps + 1))


def certified_accuracy(
    found: Certificates, split: Split, radii: Sequence[float]
) -> dict[str, dict[float, Estimate]]:
    """Share of the samples certified right, by name and radius, with 95 % intervals over samples."""
    groups = np.asarray(split.groups)

    def estimate(name: str, radius: float) -> Estimate:
        index = np.flatnonzero(found.known[name])
        right = found.certified(name, radius)[None, index]
        return statistics.accuracy(right, groups[index].tolist(), np.zeros(len(index), np.int64), "none")

    names = [name for name in found.radii if found.known[name].any()]
    return {name: {radius: estimate(name, radius) for radius in radii} for name in names}
