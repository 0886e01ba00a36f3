"""Metrics against closed forms and counts by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny import ATTACKS, CHANNELS, CLASSES, RandomNet, asks, plan_of, random_split, seeded, threat_of

from robustbench_med.api.heads import Binary
from robustbench_med.evaluation.batches import evaluate
from robustbench_med.measure.accuracy import correct
from robustbench_med.measure.metrics import (
    QuestionMetrics,
    attack_success,
    describe,
    persistent,
    question_metrics,
    subgroups,
)


def logits_of(guesses: list[int], classes: int = 3, height: float = 20.0) -> NDArray[np.float32]:
    return (height * np.eye(classes)[guesses])[None].astype(np.float32)


def head_metrics(
    logits: NDArray[np.float32], clean: NDArray[np.float32], labels: NDArray[np.int64]
) -> QuestionMetrics:
    """Of a head with one question."""
    return question_metrics(logits, clean, labels, *asks({"head": logits.shape[2]}))


def test_a_perfect_head() -> None:
    labels = np.array([0, 1, 2, 0, 1, 2])
    logits = logits_of(labels.tolist())
    found = head_metrics(logits, logits, labels)
    assert (found.macro_f1, found.auroc, found.sensitivity) == (1, 1, 1)
    assert found.calibration_error == pytest.approx(0, abs=1e-6)


def test_a_head_that_cannot_tell() -> None:
    """Equal logits: no ranking, a third confident, and right when the first class is."""
    labels = np.array([0, 1, 1, 2])
    same = np.zeros((1, 4, 3), np.float32)
    found = head_metrics(same, same, labels)
    assert found.auroc == 0.5
    assert found.sensitivity == 0
    assert found.macro_f1 == pytest.approx((2 * 1 / 4 * 1 / (1 / 4 + 1)) / 3)
    assert found.calibration_error == pytest.approx(abs(1 / 3 - 1 / 4))


def test_expectation_over_draws() -> None:
    labels = np.array([0, 1, 2, 0, 1, 2])
    right, wrong = logits_of(labels.tolist()), logits_of([1, 2, 0, 1, 2, 0])
    found = head_metrics(np.concatenate([right, wrong]), right, labels)
    assert found.macro_f1 == 0.5
    assert found.auroc is not None
    assert found.auroc == pytest.approx((1 + head_metrics(wrong, right, labels).auroc) / 2)  # type: ignore[operator]


def test_thresholds_come_from_clean_images() -> None:
    """Two classes; 90 % of the clean negatives lie below the threshold that positives must pass."""
    labels = np.repeat([0, 1], 100)
    score = np.concatenate([np.linspace(-1, 0, 100), np.linspace(-0.5, 0.5, 100)])
    clean = np.stack([-score, score], 1)[None].astype(np.float32)
    lower = clean - np.array([-0.2, 0.2], np.float32)

    def share(shift: float) -> float:
        found = float((score[100:] - shift > np.quantile(score[:100], 0.9, method="higher")).mean())
        mirrored = float((-score[:100] + shift > np.quantile(-score[100:], 0.9, method="higher")).mean())
        return (found + mirrored) / 2

    assert head_metrics(clean, clean, labels).sensitivity == pytest.approx(share(0))
    assert head_metrics(lower, clean, labels).sensitivity == pytest.approx(share(0.2))
    assert share(0) > 0.5


def test_of_yes_or_no_the_yes_is_measured() -> None:
    """A finding that is there in 20 of 100 samples, and found in 15 of them, with 7 false alarms."""
    labels = (np.arange(100) < 20).astype(np.int64)
    said = (np.arange(100) < 15) | (np.arange(100) >= 93)
    score = np.where(said, 1.0, -1.0)
    logits = np.stack([np.zeros(100), score], 1)[None].astype(np.float32)
    found = question_metrics(logits, logits, labels, Binary("finding", modalities=("a",)))
    assert found.macro_f1 == pytest.approx(2 * 15 / (22 + 20))
    assert found.sensitivity == 15 / 20  # at a specificity of 73 / 80
    assert found.auroc == pytest.approx((15 * 73 + 0.5 * (15 * 7 + 5 * 73)) / (20 * 80))


def test_a_calibrated_head() -> None:
    rng = np.random.default_rng(0)
    chance = rng.uniform(0.5, 1, 20000)
    labels = (rng.random(20000) < chance).astype(np.int64)
    honest = np.stack([np.log(1 - chance), np.log(chance)], 1)[None].astype(np.float32)
    assert head_metrics(honest, honest, labels).calibration_error == pytest.approx(0, abs=0.02)
    boastful = head_metrics(5 * honest, honest, labels).calibration_error
    assert boastful is not None
    assert boastful > 0.1


def test_what_cannot_be_computed_is_none() -> None:
    one_class = np.zeros(4, np.int64)
    found = head_metrics(np.zeros((1, 4, 3), np.float32), np.zeros((1, 4, 3), np.float32), one_class)
    assert (found.auroc, found.sensitivity) == (None, None)
    broken = np.full((1, 3, 3), np.nan, np.float32)
    odd = head_metrics(broken, np.zeros((1, 3, 3), np.float32), np.arange(3))
    assert (odd.auroc, odd.sensitivity, odd.calibration_error) == (None, None, None)
    assert attack_success(np.zeros((2, 5), bool), np.ones((2, 5), bool)) is None


def test_attack_success_is_among_what_was_right() -> None:
    clean = np.array([[True, True, True, False]])
    assert attack_success(clean, np.array([[True, False, False, True]])) == pytest.approx(2 / 3)
    halves = np.array([[True, True], [False, True]])
    found = attack_success(halves, np.array([[True, True], [True, False]]))
    assert found == pytest.approx(1 - (0.5 + 0.5) / 1.5)


def test_the_persistent_attacker_against_every_choice_of_draws() -> None:
    right = np.random.default_rng(0).random((5, 30)) < 0.7
    for times, share in enumerate(persistent(right), 1):
        each = [right[list(chosen)].all(0).mean() for chosen in combinations(range(5), times)]
        assert share == pytest.approx(np.mean(each))


def test_subgroups_are_parts_of_the_whole(tmp_path: Path) -> None:
    net = seeded(RandomNet, CHANNELS, CLASSES)
    values = tuple(["f", "m", ""][i % 3] for i in range(66))
    split = replace(random_split(66), subgroups={"sex": values})
    plan = plan_of(net, split, ATTACKS.get("pgd")(steps=2), threat_of(a=0.05, b=0.05))
    outcomes = evaluate(plan, tmp_path, lambda _: None)
    clean, right = (
        correct(kind, outcomes.labels, plan.goal) for kind in (outcomes.clean, outcomes.adversarial)
    )
    found = subgroups(clean, right, outcomes, "element", split.subgroups)
    assert {s.value: s.samples for s in found} == {"f": 22, "m": 22, "unknown": 22}
    for subgroup, value in zip(sorted(found, key=lambda s: s.value), ("f", "m", ""), strict=True):
        members = np.array([v == value for v in values])
        assert subgroup.robust.value == pytest.approx(right[:, members].mean())
        assert subgroup.robust.low <= subgroup.robust.value <= subgroup.robust.high
    said = describe(outcomes, plan.goal, "element", split.subgroups)
    assert said["worst_subgroup"]["robust"]["value"] == min(s.robust.value for s in found)
    assert said["persistent_attacker"][0] == pytest.approx(right.mean())
    some = np.arange(30)
    few = describe(outcomes.take(some), plan.goal, "element", split.take(some).subgroups)
    assert few["worst_subgroup"] is None
