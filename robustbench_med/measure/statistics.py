"""Accuracies with intervals that know about groups and shared draws (docs/method.md, "Statistics").

All variances are closed forms (linearisation and jackknife): they equal those of the cluster
bootstrap to first order, cost nothing, and need no seed. ``benchmarks/calibration.py`` measures how
often the intervals hold the truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from robustbench_med.api.model import DrawsSharedBy

Z95 = 1.959963984540054
MCNEMAR, PAIRED_T = "exact McNemar", "paired t over groups and draws"


@dataclass(frozen=True)
class Estimate:
    """A share in [0, 1] with its 95 % interval and how the interval was computed."""

    value: float
    low: float
    high: float
    method: str


@dataclass(frozen=True)
class Difference:
    """By how much one accuracy is above another on the same samples.

    Attributes:
        value: first minus second.
        low, high: its 95 % interval.
        p_value: exact McNemar test that it is 0; None where samples or draws depend on each other.
    """

    value: float
    low: float
    high: float
    p_value: float | None


def wilson(share: float, n: float, quantile: float = Z95) -> tuple[float, float]:
    """Wilson score interval of a share observed on ``n`` independent trials, 95 % by default."""
    square = quantile**2
    centre = (share + square / (2 * n)) / (1 + square / n)
    half = quantile * math.sqrt(share * (1 - share) / n + square / (4 * n**2)) / (1 + square / n)
    # At 0 and 1 the interval touches the end exactly; rounding must not leave it just short.
    return (0.0 if share == 0 else centre - half), (1.0 if share == 1 else centre + half)


@dataclass(frozen=True)
class Scored:
    """One value in [0, 1] a sample, made from scoring draws.

    Attributes:
        over: from the positions of some draws to the values (N,).
        draws: how many there are, R.
        draws_shared_by: what one draw of the model is shared by.
    """

    over: Callable[[NDArray[np.int64]], NDArray[np.float64]]
    draws: int
    draws_shared_by: DrawsSharedBy

    @classmethod
    def mean(cls, correct: NDArray[np.bool_], draws_shared_by: DrawsSharedBy) -> Scored:
        """Expected accuracy on a fresh draw, from (R, N)."""

        def mean(draws: NDArray[np.int64]) -> NDArray[np.float64]:
            return np.asarray(correct[draws].mean(0))

        return cls(mean, len(correct), draws_shared_by)

    @classmethod
    def every(cls, correct: NDArray[np.bool_], draws_shared_by: DrawsSharedBy) -> Scored:
        """Right in all of R draws: the persistent attacker (Lucas et al. 2023)."""
        return cls(lambda draws: np.asarray(correct[draws].all(0), np.float64), len(correct), draws_shared_by)

    @property
    def values(self) -> NDArray[np.float64]:
        """Over all draws, (N,)."""
        return self.over(np.arange(self.draws))

    @property
    def without_one(self) -> NDArray[np.float64]:
        """With each draw that samples share replaced by every other in turn, their mean, (R, N); zeros (1, N)
        if they share none.

        For a mean over draws this is the mean without that draw, as the jackknife has it. A vote or a worst
        case of fewer draws would be another one.
        """
        if self.draws_shared_by != "batch" or self.draws == 1:
            return np.zeros((1, len(self.values)))
        draws = np.arange(self.draws)
        return np.stack(
            [
                np.mean(
                    [self.over(np.where(draws == one, other, draws)) for other in draws if other != one], 0
                )
                for one in draws
            ]
        )


def estimate(scored: Scored, groups: Sequence[str], batches: NDArray[np.int64]) -> Estimate:
    """The mean over samples, with its interval.

    What is estimated is the mean over patients and over fresh sets of exactly R draws: a persistent
    attacker who draws more often breaks more.

    With independent samples and no randomness the interval is Wilson's. Otherwise the variance over
    groups (patients, lesions) and, where a draw is shared by a batch, that over draws give the
    effective number of trials for Wilson's formula, with Student's quantile for few groups or draws;
    it behaves at 0 and 1 where mean ± error does not.

    Args:
        groups: N group ids.
        batches: (N,) the batch each sample was scored in.
    """
    values = scored.values
    share, samples = float(values.mean()), len(values)
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    left = scored.without_one
    if len(names) == samples and len(left) == 1 and np.isin(values, (0.0, 1.0)).all():
        return Estimate(share, *wilson(share, samples), _given("wilson", scored))
    parts = [_over_groups(values, group), _over_draws(left, batches)]
    variance = sum(v for v, _ in parts)
    method = "groups" if len(left) == 1 or variance <= 0 or share in (0.0, 1.0) else "groups x draws"
    quantile = _quantile(parts, 0.975) if variance > 0 else Z95
    return Estimate(*_interval(share, variance, quantile, len(names)), _given(method, scored))


def _quantile(parts: Sequence[tuple[float, float]], level: float) -> float:
    """Of the root of a sum of variances, each with its degrees of freedom and so with its own quantile.

    Their squares add up, weighed by the variances. One effective number of degrees of freedom for the sum
    (Satterthwaite) would call a variance that three draws happen to show small a certain one.
    """
    squares = [float(stats.t.ppf(level, max(f, 1.0))) ** 2 for _, f in parts]
    total = sum(v for v, _ in parts)
    return math.sqrt(sum(v * q for (v, _), q in zip(parts, squares, strict=True)) / total)


def accuracy(
    correct: NDArray[np.bool_],
    groups: Sequence[str],
    batches: NDArray[np.int64],
    draws_shared_by: DrawsSharedBy,
) -> Estimate:
    """``estimate`` of the mean over draws of what was right, (R, N)."""
    return estimate(Scored.mean(correct, draws_shared_by), groups, batches)


def _given(method: str, scored: Scored) -> str:
    """A single draw says nothing about other draws: the interval is then over samples alone."""
    one = scored.draws == 1 and scored.draws_shared_by != "none"
    return f"{method}, given one draw" if one else method


def _over_groups(values: NDArray[np.float64], group: NDArray[np.int64]) -> tuple[float, float]:
    """Variance of the mean of (N,) when groups are drawn, and its degrees of freedom.

    The residuals of large groups are short, since the mean leans towards them: for groups of sizes s and one
    variance between them the sum of their squares falls short by 1 - 2 Σs³/(N Σs²) + Σs²/N², which is
    (G - 1)/G for G groups of one size. Where one group outweighs all others its residual is the error of the
    mean itself, and nothing falls short. A variance that rests on few large groups has few degrees of
    freedom: (Σs)²/Σs² - 1 (docs/method.md, "Statistics").
    """
    sums = np.bincount(group, values - values.mean())
    sizes = np.bincount(group).astype(float)
    total, squares, cubes = sizes.sum(), (sizes**2).sum(), (sizes**3).sum()
    if len(sizes) < 2:
        return 0.0, 0.0
    alone = float(sizes.max() ** 2 / squares) ** 8
    share = 1 - (1 - alone) * (2 * cubes / (total * squares) - squares / total**2)
    effective = total**2 / squares
    return float(sums @ sums) / len(values) ** 2 / share, effective - 1


def _over_draws(left: NDArray[np.float64], batches: NDArray[np.int64]) -> tuple[float, float]:
    """Variance of a mean over samples when each batch's draws are drawn, and its degrees of freedom.

    The jackknife on ``Scored.without_one``; the part of it that is one sample's alone is in ``_over_groups``
    already and is taken off.
    """
    draws, samples = left.shape
    if draws == 1:
        return 0.0, 1.0
    off = (left - left.mean(0)) / samples
    each = [off[:, batches == batch] for batch in np.unique(batches)]
    variances = [(draws - 1) / draws * float((of.sum(1) ** 2).sum() - (of**2).sum()) for of in each]
    squares = sum(v**2 for v in variances) / (draws - 1)
    variance = max(sum(variances), 0.0)
    return variance, (variance**2 / squares if squares > 0 and variance > 0 else draws - 1.0)


def paired_difference(
    first: Scored, second: Scored, groups: Sequence[str], batches: NDArray[np.int64]
) -> Difference:
    """The mean of ``first`` less that of ``second`` on the same samples.

    The interval is Newcombe's (1998, method 10): from the intervals of both and their correlation,
    which here comes from the variance of the difference over groups and draws. Draws are paired where
    both have as many.

    Args:
        groups, batches: of the N samples, see ``estimate``.
    """
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    one, two = first.without_one, second.without_one
    of_first = [_over_groups(first.values, group), _over_draws(one, batches)]
    of_second = [_over_groups(second.values, group), _over_draws(two, batches)]
    of_both = _of_difference(first.values - second.values, one, two, group, batches)
    variances = [sum(v for v, _ in parts) for parts in (of_first, of_second, of_both)]
    # What both share cancels, and with it what its few draws leave uncertain.
    quantile = _quantile(of_both, 0.975) if variances[2] > 0 else Z95
    shared = "batch" in (first.draws_shared_by, second.draws_shared_by)
    plain = first.draws == second.draws == 1 and not shared and group.max() + 1 == len(group)
    one_bounds, two_bounds = (
        _interval(float(scored.values.mean()), 0.0 if plain else variance, quantile, int(group.max()) + 1)
        for scored, variance in ((first, variances[0]), (second, variances[1]))
    )
    low, high = _newcombe(one_bounds, two_bounds, _correlation(*variances))
    p_value = mcnemar(first.values > 0, second.values > 0) if plain else None
    return Difference(float(first.values.mean()) - float(second.values.mean()), low, high, p_value)


def _of_difference(
    apart: NDArray[np.float64],
    one: NDArray[np.float64],
    two: NDArray[np.float64],
    group: NDArray[np.int64],
    batches: NDArray[np.int64],
) -> list[tuple[float, float]]:
    """Variances of a mean difference, over groups and over draws, each with its degrees of freedom.

    Args:
        apart: the difference on each sample, (N,).
        one, two: ``Scored.without_one`` of both; their draws are paired where both have as many.
    """
    drawn = [one - two] if len(one) == len(two) else [one, two]
    return [_over_groups(apart, group), *(_over_draws(left, batches) for left in drawn)]


def _interval(share: float, variance: float, quantile: float, groups: int) -> tuple[float, float, float]:
    """A share with its interval; one without a variance has Wilson's over its groups, as what never varied
    says how many groups it did not vary in."""
    if variance <= 0 or share in (0.0, 1.0):
        return share, *wilson(share, groups)
    return share, *wilson(share, share * (1 - share) / variance, quantile)


def _correlation(first: float, second: float, of_difference: float) -> float:
    if first <= 0 or second <= 0:
        return 0.0
    return float(np.clip((first + second - of_difference) / (2 * math.sqrt(first * second)), -1, 1))


def _newcombe(
    one: tuple[float, float, float], two: tuple[float, float, float], correlation: float
) -> tuple[float, float]:
    """From (share, low, high) of both."""

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(a**2 + b**2 - 2 * correlation * a * b, 0.0))

    value = one[0] - two[0]
    below = reach(one[0] - one[1], two[2] - two[0])
    above = reach(one[2] - one[0], two[0] - two[1])
    return max(value - below, -1.0), min(value + above, 1.0)


def paired_test(
    first: Scored, second: Scored, groups: Sequence[str], batches: NDArray[np.int64]
) -> tuple[float, str]:
    """Two-sided p-value that two means over the same samples are equal, and which test it is of.

    Exact McNemar on independent samples of models without randomness; otherwise Student's t on the paired
    difference, over groups and over draws that samples share.

    Args:
        groups, batches: of the N samples, see ``estimate``.
    """
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    shared = "batch" in (first.draws_shared_by, second.draws_shared_by)
    if first.draws == second.draws == 1 and not shared and group.max() + 1 == len(group):
        return mcnemar(first.values > 0, second.values > 0), MCNEMAR
    each = first.values - second.values
    parts = _of_difference(each, first.without_one, second.without_one, group, batches)
    variance, value = sum(v for v, _ in parts), abs(float(each.mean()))
    if variance <= 0:  # every group differs by as much, or none does: the sign test over groups
        return (1.0 if value == 0 else min(1.0, 2 * 0.5 ** (int(group.max()) + 1))), PAIRED_T
    ratio = value / math.sqrt(variance)
    least = 1e-12
    if _quantile(parts, 1 - least / 2) <= ratio:
        return least, PAIRED_T
    found = optimize.brentq(lambda p: _quantile(parts, 1 - p / 2) - ratio, least, 1.0)
    return float(found), PAIRED_T


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Exact two-sided p-value that two accuracies on the same independent samples (N,) are equal."""
    gained, lost = int((first & ~second).sum()), int((second & ~first).sum())
    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def balanced_accuracy(predictions: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Mean recall over the classes that occur; predictions (R, N), labels (N,)."""
    recalls = [float((predictions[:, labels == k] == k).mean()) for k in np.unique(labels)]
    return float(np.mean(recalls))


def balanced(
    scored: Scored, labels: NDArray[np.int64], groups: Sequence[str], batches: NDArray[np.int64]
) -> Estimate:
    """The mean over the classes that occur of each class's mean, with its interval.

    Linearised: a sample moves its class's mean by what it is off it, over the size of the class, and what
    the samples of one group move adds up. A class in which nothing varied is not certain for that: it counts
    as if one sample more were right and one more wrong in it (Agresti and Coull 1998).

    Args:
        labels: (N,), the class of each sample.
        groups, batches: see ``estimate``.
    """
    classes, place = np.unique(labels, return_inverse=True)
    values, group = scored.values, np.unique(np.asarray(groups), return_inverse=True)[1]
    sizes = np.bincount(place).astype(float)
    independent = np.array([len(np.unique(group[place == k])) for k in range(len(classes))], float)
    weights = 1 / (len(classes) * sizes)  # of a sample of each class in the mean
    recalls = np.bincount(place, values) / sizes
    stretch = np.sqrt(independent / np.maximum(independent - 1, 1)) * weights * len(values)
    off = (values - recalls[place]) * stretch[place]
    spread = np.bincount(place, off**2)
    leaning = (recalls * independent + 1) / (independent + 2)
    unseen = (leaning * (1 - leaning) / independent)[spread == 0].sum() / len(classes) ** 2
    drawn = scored.without_one * weights[place] * len(values)
    parts = [_over_groups(off, group), (float(unseen), independent.min()), _over_draws(drawn, batches)]
    variance = sum(v for v, _ in parts)
    share, quantile = float(recalls.mean()), _quantile(parts, 0.975) if variance > 0 else Z95
    return Estimate(*_interval(share, variance, quantile, len(values)), _given("classes", scored))


def lead(
    first: Scored, second: Scored, groups: Sequence[str], batches: NDArray[np.int64]
) -> tuple[float, float]:
    """By how much ``first`` is above ``second`` on the same samples; and its one-sided 95 % lower bound.

    Paired by sample; groups and draws that samples share are allowed for.
    """
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    each = first.values - second.values
    parts = _of_difference(each, first.without_one, second.without_one, group, batches)
    variance = sum(v for v, _ in parts)
    if variance <= 0:
        return float(each.mean()), float(each.mean()) if len(each) > 1 else -1.0
    return float(each.mean()), float(each.mean()) - _quantile(parts, 0.95) * math.sqrt(variance)
