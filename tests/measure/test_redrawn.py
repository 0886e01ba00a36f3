"""Numbers once more: from bits alone, on other draws, and on machines whose last bits differ."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny import asks, outcomes_of

from robustbench_med.api.model import DrawsSharedBy
from robustbench_med.api.objective import Goal
from robustbench_med.measure.accuracy import accuracies
from robustbench_med.measure.redrawn import BOUNDARY, differing, redrawn, retold
from robustbench_med.measure.samples import Samples

GOAL = Goal(asks({"head": 2}))


def drawn(
    rng: np.random.Generator, chances: NDArray[np.float64], draws: int, shared: DrawsSharedBy
) -> NDArray[np.bool_]:
    """Bits (R, N); where a batch of ten shares its draws, one number decides for all of it."""
    size = (draws, len(chances) // 10) if shared == "batch" else (draws, len(chances))
    numbers = rng.random(size)
    return np.asarray((numbers.repeat(10, 1) if shared == "batch" else numbers) < chances)


@pytest.mark.parametrize("shared", ["element", "batch"])
@pytest.mark.parametrize("draws", [(10, 10), (3, 10), (1, 10)])
def test_draws_alone_seldom_make_a_difference(shared: DrawsSharedBy, draws: tuple[int, int]) -> None:
    """At a doubt of 2 % it is called one in about 2 % of pairs of sets, never in many more."""
    rng, batches = np.random.default_rng(0), np.arange(60) // 10
    chances = rng.beta(0.4, 0.6, 60)

    def agree() -> bool:
        first, second = (drawn(rng, chances, r, shared) for r in draws)
        return redrawn(first, second, batches, shared, 0.02).agree

    wrong = sum(not agree() for _ in range(1500))
    assert wrong <= 0.035 * 1500, wrong


@pytest.mark.parametrize("shared", ["element", "batch"])
def test_another_model_makes_one(shared: DrawsSharedBy) -> None:
    rng, batches = np.random.default_rng(1), np.arange(200) // 10
    chances = rng.beta(2, 2, 200)
    found = 0
    for _ in range(50):
        pair = drawn(rng, chances, 10, shared), drawn(rng, np.clip(chances - 0.25, 0, 1), 10, shared)
        found += redrawn(*pair, batches, shared).lower
    assert found >= 48


def test_what_never_varied_must_be_equal() -> None:
    right = np.ones((10, 20), bool)
    assert redrawn(right, right, np.zeros(20, np.int64), "element").agree
    other = right.copy()
    other[:, 3] = False
    assert redrawn(right, other, np.zeros(20, np.int64), "element").lower
    assert redrawn(right[:1], right[:1], np.zeros(20, np.int64), "none").reach == 0


@pytest.mark.parametrize(("draws", "shared"), [(1, "none"), (10, "element"), (10, "batch")])
def test_bits_tell_what_scores_told(draws: int, shared: DrawsSharedBy) -> None:
    rng = np.random.default_rng(2)
    clean, robust = rng.random((draws, 40)) < 0.9, rng.random((draws, 40)) < 0.4
    outcomes = outcomes_of(clean, robust, batch=10)
    samples = Samples.from_record(
        {
            "outcomes": Samples.of(outcomes, GOAL, shared).as_record(),
            "headline": "head",
            "model": {"draws_shared_by": shared},
        },
        "here",
    )
    told = retold(samples)
    for name, accuracy in accuracies(outcomes, GOAL, shared).items():
        assert set(told[name]) >= {"clean", "robust", "worst_of_draws"}
        for kind, estimate in told[name].items():
            assert estimate == getattr(accuracy, kind), (name, kind)


def test_only_an_answer_on_the_boundary_may_fall_otherwise() -> None:
    right = np.ones((1, 4), bool)
    outcomes = outcomes_of(right, right)
    scores = {"head": np.array([[[10, 0], [1 + BOUNDARY, 1], [1 + 1e-2, 1], [0, 5]]], np.float32)}
    found = Samples.of(outcomes, GOAL, "none").robust
    said = {name: bits.copy() for name, bits in found.items()}
    assert differing(said, found, scores, outcomes, GOAL).others == ()
    for name in said:
        said[name][0, 1] = False  # a tenth of a permille of the range: no machine is sure of that
    off = differing(said, found, scores, outcomes, GOAL)
    assert (off.boundary, off.others) == ((1,), ())
    for name in said:
        said[name][0, 2] = False
    off = differing(said, found, scores, outcomes, GOAL)
    assert (off.boundary, off.others) == ((1,), (2,))
