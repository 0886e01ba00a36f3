"""Heads: what is asked about a sample, and what it means to be right. Defined here once.

A head asks one question (single-label, binary) or several (multi-label: one a finding). Every question is
put as a classification problem, logits over its answers and a label, by ``Head.problems``; goals, losses,
targets, accuracy, metrics, certification, training and the constant answer know questions only in that
form. A further kind of head is one subclass:

- a sigmoid question with logit z and threshold t is the problem with logits (0, z - t): its margin is
  (1 - 2y)(z - t), its cross-entropy the binary one of z - t;
- a regression that is right within a tolerance τ is the problem (0, |z - y| - τ) with the label 0.

A question is wrong when another answer than the label's has the largest logit; of equal ones the first
counts. This module does not import torch, so that data sets can be described without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from robustbench_med.util.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

UNKNOWN = -1
METRICS = ("macro_f1", "auroc", "sensitivity", "calibration_error")


@dataclass(frozen=True)
class Head(ABC):
    """What a head answers about every sample.

    Attributes:
        modalities: the modalities its label is about. In paired data all of them; in unpaired data (two
            unrelated images under one index) only the one the label came with.
        kind: how records call this kind of head.
        measured_by: which of ``METRICS`` make sense for it.
        positive: the answer whose F1, AUROC and sensitivity are reported; None for the mean over all.
        logits_need_labels: the logits of its problems depend on the labels (a tolerance around a value);
            attack libraries cannot say that.
    """

    name: str
    modalities: tuple[str, ...] = field(kw_only=True)

    kind: ClassVar[str]
    measured_by: ClassVar[tuple[str, ...]] = METRICS
    positive: ClassVar[int | None] = None
    logits_need_labels: ClassVar[bool] = False

    @property
    @abstractmethod
    def questions(self) -> tuple[str, ...]:
        """The names of its questions: its own, or "head.finding" for each finding."""

    @property
    @abstractmethod
    def answers(self) -> tuple[str, ...]:
        """The names of the answers to each question; label i means ``answers[i]``."""

    @property
    @abstractmethod
    def columns(self) -> tuple[int, ...]:
        """How many scores a model may return a sample; the first is what this package's models return."""

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Of one sample's label: () for one question, else (questions,)."""
        return () if len(self.questions) == 1 else (len(self.questions),)

    @abstractmethod
    def problems(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Its questions as classification problems.

        Args:
            scores: (..., B, columns), as a model returns them.
            labels: (B, *label_shape); ``UNKNOWN`` where nobody knows.

        Returns:
            Logits (..., B, questions, answers) and labels (B, questions).
        """

    def label_problem(self, labels: NDArray[np.int64]) -> tuple[int, str] | None:
        """The first sample whose label has no meaning, and what is wrong with it; None if there is none."""
        bad = np.argwhere((labels < UNKNOWN) | (labels >= len(self.answers)))
        if not len(bad):
            return None
        label = int(labels[tuple(bad[0])])
        said = f"label {label} of {self.name} is outside 0 to {len(self.answers) - 1}"
        return int(bad[0][0]), f"{said} ({', '.join(self.answers)}); -1 says that it is unknown"

    def known(self, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which questions of which samples have a label, (N, questions)."""
        return np.asarray(labels.reshape(len(labels), -1) != UNKNOWN)

    def train_loss(self, scores: Tensor, labels: Tensor, weights: Tensor, smoothing: float) -> Tensor:
        """The mean loss that training lowers: cross-entropy of every known question.

        Args:
            weights: of each answer to each question, (questions, answers), see ``class_weights``.
            smoothing: of labels, 0 to below 1.
        """
        import torch.nn.functional as F

        logits, truth = self.problems(scores, labels)
        losses = [
            F.cross_entropy(
                logits[:, q], truth[:, q], weights[q], ignore_index=UNKNOWN, label_smoothing=smoothing
            )
            for q in range(len(self.questions))
            if (truth[:, q] != UNKNOWN).any()
        ]
        return losses[0] if len(losses) == 1 else sum(losses, 0 * scores.sum()) / max(len(losses), 1)

    def class_weights(self, labels: NDArray[np.int64], power: float) -> NDArray[np.float32]:
        """The inverse frequency of every answer to the power ``power``, (questions, answers).

        Raises:
            UserError: an answer that no sample has.
        """
        columns = labels.reshape(len(labels), -1)
        return np.stack([self._weights(columns[:, q], q, power) for q in range(len(self.questions))])

    def _weights(self, labels: NDArray[np.int64], question: int, power: float) -> NDArray[np.float32]:
        counts = np.bincount(labels[labels != UNKNOWN], minlength=len(self.answers))
        if not counts.all():
            missing = self.answers[int(counts.argmin())]
            raise UserError(
                f"the training split has no sample of {self.questions[question]} that is {missing!r}; "
                "import it again, or drop the class"
            )
        return np.asarray((counts.sum() / (len(counts) * counts)) ** power, np.float32)

    def as_record(self) -> dict[str, Any]:
        """For a run's record: kind, questions, answers, modalities."""
        return {
            "kind": self.kind,
            "questions": list(self.questions),
            "answers": list(self.answers),
            "modalities": list(self.modalities),
        }


@dataclass(frozen=True)
class SingleLabel(Head):
    """One of K classes, from K logits; of two classes one logit will do, the second's.

    Attributes:
        classes: their names, in label order.
    """

    classes: tuple[str, ...] = field(kw_only=True)

    kind: ClassVar[str] = "single-label"

    def __post_init__(self) -> None:
        _require_distinct(self.name, "classes", self.classes, 2)

    @property
    def questions(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def answers(self) -> tuple[str, ...]:
        return self.classes

    @property
    def columns(self) -> tuple[int, ...]:
        return (2, 1) if len(self.classes) == 2 else (len(self.classes),)

    def problems(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = scores if scores.shape[-1] == len(self.classes) else _two_way(scores, 0.0).squeeze(-2)
        return logits.unsqueeze(-2), labels[:, None]


@dataclass(frozen=True)
class Binary(Head):
    """Yes or no, from one logit (positive: yes) or two.

    Attributes:
        classes: the negative and the positive answer.
        threshold: where one logit says yes: above it. A clinical operating point, 0 otherwise.
    """

    classes: tuple[str, str] = field(default=("no", "yes"), kw_only=True)
    threshold: float = field(default=0.0, kw_only=True)

    kind: ClassVar[str] = "binary"
    positive: ClassVar[int | None] = 1

    def __post_init__(self) -> None:
        _require_distinct(self.name, "classes", self.classes, 2)
        _require_finite(self.name, self.threshold)

    @property
    def questions(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def answers(self) -> tuple[str, ...]:
        return self.classes

    @property
    def columns(self) -> tuple[int, ...]:
        return (1, 2)

    def problems(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = scores.unsqueeze(-2) if scores.shape[-1] == 2 else _two_way(scores, self.threshold)
        return logits, labels[:, None]


@dataclass(frozen=True)
class MultiLabel(Head):
    """Several findings, each there or not, from one logit each.

    Attributes:
        findings: their names, in label order.
        thresholds: where a logit says that the finding is there, one for each; 0 when not given.
    """

    findings: tuple[str, ...] = field(kw_only=True)
    thresholds: tuple[float, ...] = field(default=(), kw_only=True)

    kind: ClassVar[str] = "multi-label"
    positive: ClassVar[int | None] = 1

    def __post_init__(self) -> None:
        _require_distinct(self.name, "findings", self.findings, 1)
        if self.thresholds and len(self.thresholds) != len(self.findings):
            raise UserError(
                f"head {self.name}: {len(self.thresholds)} thresholds for {len(self.findings)} findings"
            )
        _require_finite(self.name, *self.thresholds)

    @property
    def questions(self) -> tuple[str, ...]:
        return tuple(f"{self.name}.{finding}" for finding in self.findings)

    @property
    def answers(self) -> tuple[str, ...]:
        return ("absent", "present")

    @property
    def columns(self) -> tuple[int, ...]:
        return (len(self.findings),)

    @property
    def label_shape(self) -> tuple[int, ...]:
        return (len(self.findings),)

    def problems(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        thresholds: float | Tensor = 0.0
        if any(self.thresholds):
            thresholds = scores.new_tensor(self.thresholds)
        return _two_way(scores, thresholds), labels


def _two_way(scores: Tensor, threshold: float | Tensor) -> Tensor:
    """Sigmoid logits (..., Q) as logits of no and yes, (..., Q, 2)."""
    import torch

    yes = scores - threshold
    return torch.stack([torch.zeros_like(yes), yes], -1)


def _require_distinct(head: str, what: str, names: tuple[str, ...], least: int) -> None:
    if len(names) < least or len(set(names)) != len(names):
        raise UserError(
            f"head {head}: {what} must be {least} or more different names, not {', '.join(names)}"
        )


def _require_finite(head: str, *thresholds: float) -> None:
    if not np.isfinite(thresholds).all():
        raise UserError(f"head {head}: a threshold is no number")
