"""What is asked of a head besides its accuracy (docs/method.md, "Metrics").

All values are expectations over a model's scoring draws: each is computed draw by draw, then averaged.
Every question is measured by itself; a head that asks several has the mean over its questions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import comb
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.metrics import f1_score, roc_auc_score

from robustbench_med.api.heads import METRICS, UNKNOWN, Head
from robustbench_med.api.model import DrawsSharedBy
from robustbench_med.api.objective import Goal
from robustbench_med.evaluation.outcomes import Outcomes
from robustbench_med.measure import statistics
from robustbench_med.measure.accuracy import Answers, answers, headline, judged
from robustbench_med.measure.statistics import Estimate

SPECIFICITY = 0.9
BINS = 15  # of confidence, as in Guo et al. 2017
FEWEST = 20  # samples a subgroup needs to be called the worst


@dataclass(frozen=True)
class QuestionMetrics:
    """One question on clean or attacked inputs; None where a class is missing or a score is not finite.

    For a question with a positive answer F1, AUROC and sensitivity are of that answer; for others they are
    means over the classes that occur.

    Attributes:
        macro_f1: F1 score.
        auroc: area under the curve of one class against all others.
        sensitivity: share of a class found at the threshold on its probability that gives the same model a
            specificity of 90 % on clean inputs.
        calibration_error: mean gap between confidence and accuracy over 15 equal bins of confidence,
            weighted by their samples (ECE, Guo et al. 2017).
    """

    macro_f1: float | None
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


def describe(
    outcomes: Outcomes, goal: Goal, draws_shared_by: DrawsSharedBy, columns: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """The metrics' part of a record.

    "worst_subgroup" is the one of at least 20 samples with the lowest robust accuracy; the least of
    several noisy shares is lower than the least of the true ones.

    Args:
        columns: of the data set's subgroups, N values each.
    """
    given = {
        kind: answers(scores, outcomes.labels, goal.heads)
        for kind, scores in (("clean", outcomes.clean), ("robust", outcomes.adversarial))
    }
    clean, robust = (judged(found, goal) for found in given.values())
    key = headline(goal)
    found = subgroups(clean[key].right, robust[key].right, outcomes, draws_shared_by, columns)
    eligible = [s for s in found if s.samples >= FEWEST]
    worst = min(eligible, key=lambda s: s.robust.value, default=None)
    success = {
        name: attack_success(clean[name].right[:, j.known], j.right[:, j.known]) for name, j in robust.items()
    }
    metrics: dict[str, Any] = {}
    for head in goal.heads:
        metrics |= _describe_head(outcomes, head)
    return {
        "metrics": metrics,
        "balanced_accuracy": _balanced(given, outcomes, draws_shared_by, goal.heads),
        "attack_success": success,
        "persistent_attacker": persistent(robust[key].right),
        "subgroups": [asdict(s) for s in found],
        "worst_subgroup": None if worst is None else asdict(worst),
    }


def _describe_head(outcomes: Outcomes, head: Head) -> dict[str, Any]:
    """Metrics by question, and for a head that asks several their mean, before and after the attack."""
    labels = torch.from_numpy(outcomes.labels[head.name])
    (clean, truth), (robust, _) = (
        head.problems(torch.from_numpy(getattr(outcomes, kind)[head.name]), labels)
        for kind in ("clean", "adversarial")
    )
    before, after, true = clean.numpy(), robust.numpy(), truth.numpy()
    out: dict[str, Any] = {}
    for i, question in enumerate(head.questions):
        some = np.flatnonzero(true[:, i] != UNKNOWN)
        of_clean, of_robust = before[:, some, i], after[:, some, i]
        out[question] = {
            kind: question_metrics(logits, of_clean, true[some, i], head)
            for kind, logits in (("clean", of_clean), ("robust", of_robust))
        }
    if len(head.questions) > 1:
        kinds = ("clean", "robust")
        mean = {kind: _mean([out[question][kind] for question in head.questions]) for kind in kinds}
        out = {head.name: mean, **out}
    return {name: {kind: asdict(m) for kind, m in both.items()} for name, both in out.items()}


def _balanced(
    given: Mapping[str, Mapping[str, Answers]],
    outcomes: Outcomes,
    draws_shared_by: DrawsSharedBy,
    heads: Sequence[Head],
) -> dict[str, Any]:
    """By question, mean recall over the answers that occur, before and after the attack, with intervals."""
    groups = np.asarray(outcomes.groups)

    def measured(found: Answers, question: int) -> dict[str, Any]:
        some = np.flatnonzero(found.known[:, question])
        scored = statistics.Scored.mean(found.right[:, some, question], draws_shared_by)
        place, truth = outcomes.batches[some], found.truth[some, question]
        return asdict(statistics.balanced(scored, truth, groups[some].tolist(), place))

    return {
        name: {kind: measured(found[head.name], q) for kind, found in given.items()}
        for head in heads
        for q, name in enumerate(head.questions)
        if given["clean"][head.name].known[:, q].any()
    }


def _mean(each: Sequence[QuestionMetrics]) -> QuestionMetrics:
    def over(name: str) -> float | None:
        values = [value for value in (getattr(m, name) for m in each) if value is not None]
        return float(np.mean(values)) if values else None

    return QuestionMetrics(**{f.name: over(f.name) for f in fields(QuestionMetrics)})


def question_metrics(
    logits: NDArray[np.float32], clean: NDArray[np.float32], labels: NDArray[np.int64], head: Head
) -> QuestionMetrics:
    """Metrics of one question.

    Args:
        logits: (R, N, K), what is judged.
        clean: (R', N, K), the same question on clean inputs: where its operating points come from.
        labels: (N,).
    """
    if not (len(labels) and np.isfinite(logits).all() and np.isfinite(clean).all()):
        return QuestionMetrics(_f1(logits, labels, head) if len(labels) else None, None, None, None)
    shares, before = (softmax(z.astype(np.float64), axis=2) for z in (logits, clean))
    auroc = _over_classes(labels, head, lambda k: _auroc(shares[:, :, k], labels == k))
    sensitivity = _over_classes(
        labels, head, lambda k: _sensitivity(shares[:, :, k], before[:, :, k], labels == k)
    )
    calibration = float(np.mean([_calibration_error(draw, labels) for draw in shares]))
    measured = dict(zip(METRICS, (_f1(logits, labels, head), auroc, sensitivity, calibration), strict=True))
    return QuestionMetrics(**{n: value if n in head.measured_by else None for n, value in measured.items()})


def _f1(logits: NDArray[np.float32], labels: NDArray[np.int64], head: Head) -> float | None:
    if head.positive is not None:
        if not (labels == head.positive).any():
            return None
        classes = np.array([head.positive])
    else:
        classes = np.unique(labels)
    scores = [
        f1_score(labels, draw, labels=classes, average="macro", zero_division=0) for draw in logits.argmax(2)
    ]
    return float(np.mean(scores))


def _over_classes(labels: NDArray[np.int64], head: Head, of_class: Callable[[int], float]) -> float | None:
    """That of the positive class, or the mean over the classes that occur; None when there are no two."""
    classes = np.unique(labels)
    if len(classes) < 2:
        return None
    chosen = classes if head.positive is None else [head.positive]
    return float(np.mean([of_class(int(k)) for k in chosen]))


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


def subgroups(
    clean: NDArray[np.bool_],
    robust: NDArray[np.bool_],
    outcomes: Outcomes,
    draws_shared_by: DrawsSharedBy,
    columns: Mapping[str, Sequence[str]],
) -> list[Subgroup]:
    """One a value of each column; "unknown" where it is not recorded."""
    groups = np.asarray(outcomes.groups)

    def of(right: NDArray[np.bool_], index: NDArray[np.int64]) -> Estimate:
        members: Sequence[str] = groups[index].tolist()
        return statistics.accuracy(right[:, index], members, outcomes.batches[index], draws_shared_by)

    return [
        Subgroup(column, value or "unknown", len(index), of(clean, index), of(robust, index))
        for column, values in columns.items()
        for value, index in _members(values).items()
    ]


def _members(values: Sequence[str]) -> Mapping[str, NDArray[np.int64]]:
    column = np.asarray(values)
    return {str(value): np.flatnonzero(column == value) for value in np.unique(column)}
