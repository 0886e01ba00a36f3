"""What is right, and the accuracies that follow with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from robustbench_med.api.heads import UNKNOWN, Head
from robustbench_med.api.model import DrawsSharedBy
from robustbench_med.api.objective import Goal
from robustbench_med.evaluation.outcomes import Outcomes, Scores
from robustbench_med.measure import statistics
from robustbench_med.measure.statistics import Estimate, Scored

EVERY = "every head right"
SOME = "some head right"


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of a head, of a question, or of all heads at once, before and after the attack.

    Attributes:
        clean, robust: mean over samples and scoring draws, with 95 % intervals.
        majority: robust accuracy of the vote over so many draws.
        worst_of_draws: share of samples right in each of so many draws (the persistent attacker).
        samples: how many have a label.
    """

    clean: Estimate
    robust: Estimate
    majority: Estimate
    worst_of_draws: Estimate
    samples: int

    @classmethod
    def from_record(cls, stored: Mapping[str, Any]) -> Accuracy:
        """Read back what a record has under "accuracy"."""
        clean, robust = Estimate(**stored["clean"]), Estimate(**stored["robust"])
        vote, worst = Estimate(**stored["majority"]), Estimate(**stored["worst_of_draws"])
        return cls(clean, robust, vote, worst, stored["samples"])


@dataclass(frozen=True)
class Answers:
    """The answers of one head.

    Attributes:
        given: (R, N, questions).
        truth: (N, questions), ``UNKNOWN`` where nobody knows.
    """

    given: NDArray[np.int64]
    truth: NDArray[np.int64]

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which questions have a label, (N, questions)."""
        return np.asarray(self.truth != UNKNOWN)

    @property
    def right(self) -> NDArray[np.bool_]:
        """Which answers are right, (R, N, questions); those without a label count as such."""
        return np.asarray((self.given == self.truth) | ~self.known)

    def vote(self, draws: NDArray[np.int64]) -> Answers:
        """The answer given most often over some draws; in a tie the lower one."""
        most = int(self.given.max(initial=0)) + 1
        counts = [(self.given[draws] == answer).sum(0) for answer in range(most)]
        return Answers(np.argmax(counts, axis=0)[None], self.truth)


@dataclass(frozen=True)
class Judged:
    """What counts as right under one name.

    Attributes:
        right: (R, N).
        known: (N,) which samples have a label; the others do not count.
    """

    right: NDArray[np.bool_]
    known: NDArray[np.bool_]


def answers(
    scores: Scores, labels: Mapping[str, NDArray[np.int64]], heads: Sequence[Head]
) -> dict[str, Answers]:
    """The answers of every head, from scores (R, N, columns)."""
    out = {}
    for head in heads:
        logits, truth = head.problems(
            torch.from_numpy(scores[head.name]), torch.from_numpy(labels[head.name])
        )
        out[head.name] = Answers(logits.argmax(-1).numpy(), truth.numpy())
    return out


def judged(found: Mapping[str, Answers], goal: Goal) -> dict[str, Judged]:
    """What is right, by head, by question of heads that ask several, and for all heads together.

    Under EVERY: the samples on which every head is right (the goal "any" is to prevent that). With the goal
    "all" also SOME: those on which some head is. Towards a chosen answer: those that do not get it.
    """
    out: dict[str, Judged] = {}
    heads = {}
    for head in goal.heads:
        each = found[head.name]
        heads[head.name] = Judged(np.all(each.right, axis=-1), np.any(each.known, axis=-1))
        out[head.name] = heads[head.name]
        if len(head.questions) > 1:
            for i, question in enumerate(head.questions):
                out[question] = Judged(each.right[..., i], each.known[:, i])
    right, known = (np.stack([getattr(j, what) for j in heads.values()]) for what in ("right", "known"))
    someone = np.any(known, axis=0)
    out[EVERY] = Judged(np.all(right, axis=0), someone)
    if goal.aim == "all":
        out[SOME] = Judged(np.any(right & known[:, None], axis=0), someone)
    if goal.towards is not None:
        ((head, (question_index,)),) = goal.aimed
        given = found[head.name].given[..., question_index]
        out[headline(goal)] = Judged(given != goal.towards, np.ones(given.shape[1], bool))
    return out


def correct(scores: Scores, labels: Mapping[str, NDArray[np.int64]], goal: Goal) -> NDArray[np.bool_]:
    """What the attack aimed at and missed, (R, N): right, as ``headline`` names it."""
    return judged(answers(scores, labels, goal.heads), goal)[headline(goal)].right


def headline(goal: Goal) -> str:
    """The accuracy that the attack aimed at, as a key of ``accuracies``."""
    if goal.towards is not None:
        return f"{goal.questions[0]} not {goal.aimed[0][0].answers[goal.towards]}"
    return {"any": EVERY, "all": SOME}.get(goal.aim, goal.aim)


def accuracies(outcomes: Outcomes, goal: Goal, draws_shared_by: DrawsSharedBy) -> dict[str, Accuracy]:
    """Of everything in ``judged`` that has a label on some sample."""
    given = {
        kind: answers(getattr(outcomes, kind), outcomes.labels, goal.heads)
        for kind in ("clean", "adversarial")
    }
    clean, robust = (judged(found, goal) for found in given.values())
    groups = np.asarray(outcomes.groups)

    def summary(name: str) -> Accuracy:
        index = np.flatnonzero(robust[name].known)
        some = groups[index].tolist(), outcomes.batches[index]

        def by_vote(draws: NDArray[np.int64]) -> NDArray[np.float64]:
            votes = {head: found.vote(draws) for head, found in given["adversarial"].items()}
            return np.asarray(judged(votes, goal)[name].right[0, index], np.float64)

        before, after = clean[name].right[:, index], robust[name].right[:, index]
        return Accuracy(
            clean=statistics.estimate(Scored.mean(before, draws_shared_by), *some),
            robust=statistics.estimate(Scored.mean(after, draws_shared_by), *some),
            majority=statistics.estimate(Scored(by_vote, len(after), draws_shared_by), *some),
            worst_of_draws=statistics.estimate(Scored.every(after, draws_shared_by), *some),
            samples=len(index),
        )

    return {name: summary(name) for name, found in robust.items() if found.known.any()}


def constant_answer(labels: Mapping[str, NDArray[np.int64]], goal: Goal) -> float:
    """The best accuracy, by the goal, of an answer that is the same for all samples."""
    columns = [
        labels[head.name].reshape(len(labels[head.name]), -1)[:, list(chosen)] for head, chosen in goal.aimed
    ]
    if goal.towards is not None:
        return 1.0
    if goal.aim != "all":
        return _constant_rows(np.concatenate(columns, 1))
    return max(_constant_rows(column) for column in columns)


def _constant_rows(truth: NDArray[np.int64]) -> float:
    """Of labels (N, Q), the share that agrees with the best row in all known places."""
    candidates = np.unique(truth, axis=0)
    if truth.shape[1] > 1 and (truth == UNKNOWN).any():
        modes = [np.bincount(column[column != UNKNOWN], minlength=1).argmax() for column in truth.T]
        candidates = np.concatenate([candidates, np.array(modes)[None]])
    agree = (candidates[:, None] == truth[None]) | (truth == UNKNOWN)[None]
    return float(agree.all(2).mean(1).max())
