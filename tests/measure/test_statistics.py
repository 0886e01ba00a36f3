"""Intervals against textbook values and against the coverage they promise."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest

from benchmarks.calibration import HIGHEST, KINDS, LOWEST, World, coverage
from robustbench_med.measure.statistics import (
    Estimate,
    Scored,
    _over_groups,
    accuracy,
    balanced,
    balanced_accuracy,
    mcnemar,
    paired_difference,
    wilson,
)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (1, 10), (5, 10), (9, 10), (10, 10), (437, 500)])
def test_wilson_agrees_with_scipy(successes: int, trials: int) -> None:
    expected = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert wilson(successes / trials, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)


def of(correct: NDArray[np.bool_], groups: object = None, shared: str = "none", batch: int = 50) -> Estimate:
    samples = correct.shape[1]
    names = [f"s{i}" for i in range(samples)] if groups is None else [str(g) for g in np.asarray(groups)]
    return accuracy(correct, names, np.arange(samples) // batch, shared)  # type: ignore[arg-type]


@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("shared", ["none", "element", "batch"])
@pytest.mark.parametrize("grouped", [False, True])
def test_all_right_and_all_wrong(right: bool, shared: str, grouped: bool) -> None:
    """No variance: Wilson on the number of independent samples, not of draws."""
    correct = np.full((5, 40), right)
    groups = np.arange(40) // 4 if grouped else None
    found = of(correct, groups, shared)
    independent = 10 if grouped else 40
    expected = binomtest(independent * right, independent).proportion_ci(0.95, method="wilson")
    assert (found.value, found.low, found.high) == pytest.approx((float(right), expected.low, expected.high))
    assert (found.high == 1.0) if right else (found.low == 0.0)


def test_independent_samples_get_wilson() -> None:
    correct = np.arange(100)[None] < 80
    found = of(correct)
    assert found.method == "wilson"
    assert (found.low, found.high) == wilson(0.8, 100)


def test_copies_add_no_certainty() -> None:
    """Ten pictures of each of 40 lesions, all alike, are 40 observations and not 400."""
    lesions = np.random.default_rng(0).random(40) < 0.7
    copies = np.repeat(lesions, 10)[None]
    found, expected = of(copies, np.repeat(np.arange(40), 10)), of(lesions[None])
    assert found.value == pytest.approx(expected.value)
    assert found.high - found.low == pytest.approx(expected.high - expected.low, rel=0.1)
    assert found.method == "groups"


def test_groups_of_unequal_size_get_the_variance_that_they_have() -> None:
    """Over all ways in which six lesions of 1 to 8 pictures can come out, each as likely as another."""
    sizes = np.array([1, 2, 3, 5, 6, 8])
    group = np.repeat(np.arange(6), sizes)
    means, variances = [], []
    for lesions in itertools.product((0.0, 1.0), repeat=6):
        values = np.array(lesions)[group]
        variance, freedom = _over_groups(values, group)
        means.append(values.mean())
        variances.append(variance)
        assert freedom == pytest.approx(25**2 / 139 - 1)
    assert np.mean(variances) == pytest.approx(np.var(means), rel=0.01)
    assert np.var(means) == pytest.approx(0.25 * 139 / 25**2)


def test_a_vote_of_three_draws_is_not_judged_by_votes_of_two() -> None:
    """Two draws agree on nothing where each is right on other samples; three do."""
    correct = np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1]], bool).repeat(20, 1)

    def vote(draws: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(correct[draws].sum(0) * 2 > len(draws), np.float64)

    scored = Scored(vote, 3, "batch")
    assert scored.values.mean() == 1
    assert scored.without_one.mean() > 0.5
    mean = Scored.mean(correct, "batch").without_one
    assert mean == pytest.approx(np.stack([np.delete(correct, j, 0).mean(0) for j in range(3)]))


def test_redraws_add_no_samples() -> None:
    """A deterministic outcome drawn ten times over is still one outcome a sample."""
    samples = np.random.default_rng(0).random(60) < 0.7
    found, expected = of(np.repeat(samples[None], 10, 0), shared="element"), of(samples[None])
    assert found.high - found.low == pytest.approx(expected.high - expected.low, rel=0.1)


def draws_of(rng: np.random.Generator, shared: str) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Ten draws of 120 samples in 60 pairs; expected accuracy 0.7.

    Every pair has its own chance; what a draw is shared by decides what fails together.
    """
    pairs = np.repeat(np.arange(60), 2)
    chance = np.repeat(rng.choice([0.5, 0.9], 60), 2)
    if shared == "element":
        return rng.random((10, 120)) < chance, pairs
    quality = np.repeat(rng.uniform(-0.3, 0.3, (10, 3)), 40, 1)  # one draw for a batch of 40
    return rng.random((10, 120)) < chance + quality, pairs


@pytest.mark.parametrize("shared", ["element", "batch"])
def test_coverage(shared: str) -> None:
    """95 % intervals hold the truth in about 95 % of repeated experiments."""
    rng = np.random.default_rng(1)
    hits, naive = [], []
    for _ in range(60):
        correct, pairs = draws_of(rng, shared)
        found = of(correct, pairs, shared, batch=40)
        hits.append(found.low <= 0.7 <= found.high)
        low, high = wilson(float(correct.mean()), correct.size)
        naive.append(low <= 0.7 <= high)
    assert np.mean(hits) >= 0.88
    assert np.mean(naive) < 0.8, "the case is too easy to tell a good interval from a naive one"


def test_intervals_are_the_same_every_time() -> None:
    correct, pairs = draws_of(np.random.default_rng(2), "batch")
    assert of(correct, pairs, "batch") == of(correct, pairs, "batch")


def interval_of_balanced(
    right: NDArray[np.bool_], labels: NDArray[np.int64], groups: Iterable[int]
) -> Estimate:
    return balanced(
        Scored.mean(right, "none"), labels, [str(g) for g in groups], np.zeros(len(labels), np.int64)
    )


def test_balanced_accuracy_with_an_interval_is_balanced_accuracy() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 80)
    given = np.where(rng.random((4, 80)) < 0.7, labels, (labels + 1) % 3)
    found = interval_of_balanced(given == labels, labels, range(80))
    assert found.value == pytest.approx(balanced_accuracy(given, labels))
    assert found.low < found.value < found.high


def test_copies_add_no_certainty_to_balanced_accuracy() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 90)
    right = rng.random((1, 90)) < 0.6
    once = interval_of_balanced(right, labels, range(90))
    twice = interval_of_balanced(np.tile(right, 2), np.tile(labels, 2), [*range(90), *range(90)])
    assert (twice.low, twice.high) == pytest.approx((once.low, once.high), abs=5e-3)


@pytest.mark.parametrize("in_group", [1, 3])
def test_balanced_accuracy_is_held_by_its_interval_though_classes_are_small(in_group: int) -> None:
    """A class of four samples that are all right does not make anybody certain."""
    rng = np.random.default_rng(2)
    sizes, recalls = (99, 48, 21, 9, 6, 4), np.array([0.9, 0.8, 0.9, 0.7, 0.9, 0.9])
    labels = np.repeat(np.arange(6), sizes)
    groups = np.arange(len(labels)) // in_group
    held = []
    for _ in range(400):
        shared = rng.random(len(labels))[groups]
        chance = np.where(rng.random(len(labels)) < 0.7, shared, rng.random(len(labels)))
        found = interval_of_balanced((chance < recalls[labels])[None], labels, groups)
        held.append(found.low <= recalls.mean() <= found.high)
    assert np.mean(held) >= 0.93


def test_balanced_accuracy_by_hand() -> None:
    labels = np.array([0, 0, 0, 1])
    assert balanced_accuracy(np.array([[0, 0, 0, 0]]), labels) == 0.5
    two_draws = np.array([[0, 0, 1, 1], [0, 0, 0, 0]])
    assert balanced_accuracy(two_draws, labels) == pytest.approx((5 / 6 + 1 / 2) / 2)


@pytest.mark.parametrize(
    "world",
    [
        World(0.7, 200, 1, "none"),
        World(0.3, 200, 10, "element"),
        World(0.7, 200, 10, "batch"),
        World(0.7, 500, 10, "element", "of three"),
        World(0.7, 200, 1, "none", "by Zipf"),
        World(0.7, 200, 1, "none", "with a giant of 40 %"),
        World(0.7, 200, 1, "none", "ten, unequal"),
        World(0.7, 200, 3, "batch", batch=200),
    ],
    ids=str,
)
def test_intervals_hold_the_truth_as_often_as_they_say(world: World) -> None:
    """300 simulations: three standard errors of their own around the band of the benchmark."""
    found = coverage(world, 300)
    assert set(found) == set(KINDS)
    for kind, share in found.items():
        assert LOWEST - 0.03 <= share <= min(HIGHEST + 0.03, 1), kind


def plain(right: NDArray[np.bool_]) -> Scored:
    return Scored.mean(right[None], "none")


def test_newcombe_on_a_textbook_table() -> None:
    """Newcombe 1998 (Stat. Med. 17:2635), method 10 without continuity correction, by hand."""
    cells = {(True, True): 36, (True, False): 12, (False, True): 2, (False, False): 0}
    first = np.repeat([a for a, _ in cells], list(cells.values()))
    second = np.repeat([b for _, b in cells], list(cells.values()))
    found = paired_difference(plain(first), plain(second), [str(i) for i in range(50)], np.zeros(50, int))
    assert found.value == pytest.approx(0.2)
    (low1, high1), (low2, high2) = wilson(0.96, 50), wilson(0.76, 50)
    phi = float(np.corrcoef(first, second)[0, 1])
    below = (0.96 - low1) ** 2 - 2 * phi * (0.96 - low1) * (high2 - 0.76) + (high2 - 0.76) ** 2
    above = (high1 - 0.96) ** 2 - 2 * phi * (high1 - 0.96) * (0.76 - low2) + (0.76 - low2) ** 2
    assert (found.low, found.high) == pytest.approx((0.2 - below**0.5, 0.2 + above**0.5), abs=1e-9)
    assert found.p_value == pytest.approx(binomtest(12, 14).pvalue)


def test_the_same_outcomes_do_not_differ() -> None:
    right = np.random.default_rng(0).random((10, 200)) < 0.6
    same = Scored.mean(right, "batch")
    found = paired_difference(same, same, [str(i) for i in range(200)], np.arange(200) // 50)
    assert found.value == 0
    assert -0.02 < found.low <= 0 <= found.high < 0.02
    assert found.p_value is None
    assert mcnemar(right[0], right[0]) == 1
