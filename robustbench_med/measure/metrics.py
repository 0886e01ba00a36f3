"""What is asked of a diagnosis head besides its accuracy (evaluation.md, section 5).

All values are expectations over a model's scoring draws: each is computed draw by draw, then averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.metrics import f1_score, roc_auc_score

from robustbench_med.evaluation.batches import Plan
from robustbench_med.evaluation.outcomes import Outcomes
from robustbench_med.measure import statistics
from robustbench_med.measure.accuracy import correct, headline
from robustbench_med.measure.statistics import Estimate

SPECIFICITY = 0.9
BINS = 15  # of confidence, as in Guo et al. 2017
FEWEST = 20  # samples a subgroup needs to be called the worst


@dataclass(frozen=True)
class HeadMetrics:
    """One head on clean or attacked images; None where a class is missing or a logit is not finite.

    Attributes:
        macro_f1: mean F1 score over the classes that occur.
        auroc: mean over the classes of the area under one class's curve against all others.
        sensitivity: mean over the classes of the share of a class found at the thresholds on its
            probability that give the same model a specificity of 90 % on clean images.
        calibration_error: mean gap between confidence and accuracy over 15 equal bins of confidence,
            weighted by their samples (ECE, Guo et al. 2017).
    """

    macro_f1: float
    auroc: float | None
    sensitivity: float | None
    calibration_error: float | None


@dataclass(frozen=True)
class Subgroup:
    """Accuracy, of what the attack aimed at, among the samples with one value of one column."""

    column: str
    value: str
    samples: int
    clean: Estimate
    robust: Estimate


def describe(outcomes: Outcomes, plan: Plan) -> dict[str, Any]:
    """The metrics' part of a record.

    "worst_subgroup" is the one of at least 20 samples with the lowest robust accuracy; the least of
    several noisy shares is lower than the least of the true ones.
    """
    found = subgroups(outcomes, plan)
    eligible = [s for s in found if s.samples >= FEWEST]
    worst = min(eligible, key=lambda s: s.robust.value, default=None)
    clean = correct(outcomes.clean, outcomes.labels, plan.goal)
    robust = correct(outcomes.adversarial, outcomes.labels, plan.goal)
    return {
        "metrics": {task: _describe_head(outcomes, task) for task in outcomes.labels},
        "attack_success": {name: attack_success(clean[name], robust[name]) for name in clean},
        "persistent_attacker": persistent(robust[headline(plan.goal)]),
        "subgroups": [asdict(s) for s in found],
        "worst_subgroup": None if worst is None else asdict(worst),
    }


def _describe_head(outcomes: Outcomes, task: str) -> dict[str, Any]:
    clean, labels = outcomes.clean[task], outcomes.labels[task]
    both = {"clean": clean, "robust": outcomes.adversarial[task]}
    return {kind: asdict(head_metrics(logits, clean, labels)) for kind, logits in both.items()}


def head_metrics(
    logits: NDArray[np.float32], clean: NDArray[np.float32], labels: NDArray[np.int64]
) -> HeadMetrics:
    """Metrics of one head.

    Args:
        logits: (R, N, K), what is judged.
        clean: (R', N, K), the same head on clean images: where its operating points come from.
        labels: (N,).
    """
    guesses, occurring = logits.argmax(2), np.unique(labels)
    f1 = [f1_score(labels, draw, labels=occurring, average="macro", zero_division=0) for draw in guesses]
    if not (np.isfinite(logits).all() and np.isfinite(clean).all()):
        return HeadMetrics(float(np.mean(f1)), None, None, None)
    shares, before = (softmax(z.astype(np.float64), axis=2) for z in (logits, clean))
    return HeadMetrics(
        macro_f1=float(np.mean(f1)),
        auroc=_over_classes(labels, lambda k: _auroc(shares[:, :, k], labels == k)),
        sensitivity=_over_classes(
            labels, lambda k: _sensitivity(shares[:, :, k], before[:, :, k], labels == k)
        ),
        calibration_error=float(np.mean([_calibration_error(draw, labels) for draw in shares])),
    )


def _over_classes(labels: NDArray[np.int64], of_class: Callable[[int], float]) -> float | None:
    """The mean over the classes that occur; None when there are no two."""
    classes = np.unique(labels)
    return float(np.mean([of_class(int(k)) for k in classes])) if len(classes) > 1 else None


def _auroc(shares: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    return float(np.mean([roc_auc_score(positive, draw) for draw in shares]))


def _sensitivity(
    shares: NDArray[np.float64], before: NDArray[np.float64], positive: NDArray[np.bool_]
) -> float:
    """One threshold for all draws: a clinic sets it once."""
    threshold = np.quantile(before[:, ~positive], SPECIFICITY, method="higher")
    return float((shares[:, positive] > threshold).mean())


def _calibration_error(shares: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    confidence, right = shares.max(1), shares.argmax(1) == labels
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(place, right - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(labels))


def attack_success(clean: NDArray[np.bool_], robust: NDArray[np.bool_]) -> float | None:
    """Share of what was right, (R, N), that the attack turned wrong, (R', N); None if nothing was.

    With draws: the chance that a sample right on one fresh draw is wrong on another after the attack.
    """
    before, after = clean.mean(0), robust.mean(0)
    return float(1 - (before * after).sum() / before.sum()) if before.any() else None


def persistent(right: NDArray[np.bool_]) -> list[float]:
    """Expected share of samples right in each of r draws, for r = 1 to R, from (R, N).

    Over all choices of r of the R draws: what an attacker who may ask r times leaves (Lucas et al. 2023).
    """
    draws, hits = len(right), right.sum(0)
    chances = [[comb(int(h), r) / comb(draws, r) for h in range(draws + 1)] for r in range(1, draws + 1)]
    return [float(np.asarray(chance)[hits].mean()) for chance in chances]


def subgroups(outcomes: Outcomes, plan: Plan) -> list[Subgroup]:
    """One a value of each of the data set's subgroup columns; "unknown" where it is not recorded."""
    key = headline(plan.goal)
    kinds = (outcomes.clean, outcomes.adversarial)
    clean, robust = (correct(logits, outcomes.labels, plan.goal)[key] for logits in kinds)
    shared_by = plan.model.draws_shared_by
    groups = np.asarray(outcomes.groups)

    def of(right: NDArray[np.bool_], index: NDArray[np.int64]) -> Estimate:
        members: Sequence[str] = groups[index].tolist()
        return statistics.accuracy(right[:, index], members, outcomes.batches[index], shared_by)

    return [
        Subgroup(column, value or "unknown", len(index), of(clean, index), of(robust, index))
        for column, values in plan.split.subgroups.items()
        for value, index in _members(values).items()
    ]


def _members(values: Sequence[str]) -> Mapping[str, NDArray[np.int64]]:
    column = np.asarray(values)
    return {str(value): np.flatnonzero(column == value) for value in np.unique(column)}
