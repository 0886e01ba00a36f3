"""Losses, and goals over questions; attacks compose them instead of copying them (docs/method.md).

Margins are positive when wrong. Tensors of questions are (B, Q, K): samples, questions, answers.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_med.api.heads import UNKNOWN, Head
from robustbench_med.util.errors import unknown

LEAK = 0.01  # weight of a broken head beside those that stand, where all must fall
FOLLOWED = 9  # questions, the nearest to flipping, that a loss is run for if it follows one at a time


@dataclass(frozen=True)
class Loss:
    """What an attacker raises, for one question: (N, K) logits and (N,) labels to (N,).

    Attributes:
        function: as above; of a targeted loss with a third argument, the answers (N,) to drive at.
        any_of: how it reads when any of several questions may fall. "largest" follows the one that is
            nearest to falling and may miss another: attacks run it for each (``Goal.followed``).
        all_heads: how it reads for each head when all must fall; the parts add up, so that a step is
            towards every head that stands. None: only the head that resists most counts.
        towards: of one question that is to get a certain answer: (N, K) logits and (N,) answers to (N,).
    """

    function: Callable[..., Tensor]
    any_of: Literal["sum", "largest"] = "largest"
    all_heads: Callable[..., Tensor] | None = None
    towards: Callable[[Tensor, Tensor], Tensor] | None = None

    def __call__(self, logits: Tensor, labels: Tensor, *targets: Tensor) -> Tensor:
        return self.function(logits, labels, *targets)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    return _best_wrong(logits, labels) - _at(logits, labels)


def _spread(logits: Tensor, ranks: int) -> Tensor | None:
    """Top logits (N, ranks) by falling size; None where no question has so many answers."""
    return logits.topk(ranks, -1).values if logits.shape[-1] >= ranks else None


def _rescaled(value: Tensor, top: Tensor, low: Tensor) -> Tensor:
    """``value`` over the gap from ``top`` to ``low``; as it is where there is no such low logit."""
    gap = torch.where(low.isinf(), torch.ones_like(low), top - low)
    return value / torch.where(low.isinf(), gap, gap + 1e-12)


def _dlr(logits: Tensor, labels: Tensor) -> Tensor:
    top = _spread(logits, 3)
    value = _margin(logits, labels)
    return value if top is None else _rescaled(value, top[..., 0], top[..., 2])


def _difference(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    return _at(logits, targets) - _at(logits, labels)


def _targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    top = _spread(logits, 4)
    value = _difference(logits, labels, targets)
    return value if top is None else _rescaled(value, top[..., 0], (top[..., 2] + top[..., 3]) / 2)


def _log_wrong(logits: Tensor, labels: Tensor) -> Tensor:
    """The log of the probability of all wrong answers together, to any precision."""
    wrong = logits.scatter(-1, labels[..., None], -torch.inf).logsumexp(-1)
    return -F.softplus(_at(logits, labels) - wrong)


def _until_broken(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The loss of a head that stands; of a broken one only as much as keeps its gradient from vanishing."""

    def part(*arguments: Tensor) -> Tensor:
        return -F.leaky_relu(-function(*arguments), LEAK)

    return part


def _at(logits: Tensor, answers: Tensor) -> Tensor:
    return logits.gather(-1, answers[..., None]).squeeze(-1)


def _best_wrong(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.scatter(-1, labels[..., None], -torch.inf).amax(-1)


cross_entropy = Loss(_cross_entropy, "sum", _log_wrong, towards=lambda z, t: -_cross_entropy(z, t))
"""Flat in float32 once a sample is right by a margin of some 17 logits; the others are not."""

margin = Loss(_margin, "largest", _until_broken(_margin), towards=lambda z, t: -_margin(z, t))
"""Largest wrong logit minus the right one; positive exactly when the question is wrong."""

dlr = Loss(_dlr, "largest", _until_broken(_dlr), towards=lambda z, t: -_dlr(z, t))
"""The margin over the gap from first to third logit (Croce & Hein 2020, eq. 6), which no rescaling
of the logits changes; the plain margin for two answers."""

difference = Loss(_difference)
"""Targeted: the target's logit minus the right one."""

targeted_dlr = Loss(_targeted_dlr, all_heads=_until_broken(_targeted_dlr))
"""Targeted DLR (Croce & Hein 2020, eq. 7); the plain difference for fewer than four answers."""

LOSSES: dict[str, Loss] = {"cross-entropy": cross_entropy, "margin": margin, "dlr": dlr}


def loss_by_name(name: str) -> Loss:
    """A loss by its name.

    Raises:
        UserError: unknown name.
    """
    if name not in LOSSES:
        raise unknown("loss", name, LOSSES)
    return LOSSES[name]


@dataclass(frozen=True)
class Aim:
    """Which questions an attack follows, per sample, where its goal leaves it the choice.

    Attributes:
        question: (B, P) positions among the goal's questions: P is 1, or with the goal "all" the heads.
        answer: (B, P) wrong answers to drive at; None for losses without targets.
    """

    question: Tensor
    answer: Tensor | None = None

    def take(self, index: Tensor) -> Aim:
        """The samples at ``index``."""
        return Aim(self.question[index], None if self.answer is None else self.answer[index])

    def part(self, some: slice) -> Aim:
        """Neighbouring samples."""
        return Aim(self.question[some], None if self.answer is None else self.answer[some])

    @staticmethod
    def joined(aims: Sequence[Aim]) -> Aim:
        """Those of several batches, one after another."""
        answers = [aim.answer for aim in aims if aim.answer is not None]
        return Aim(torch.cat([a.question for a in aims]), torch.cat(answers) if answers else None)


@dataclass(frozen=True)
class Goal:
    """What must be wrong for the attacker to have won.

    Attributes:
        heads: all heads of the data set, in its order.
        aim: "any" (at least one question), "all" (every head has a wrong question), the name of a head (any
            of its questions) or of a question.
        towards: the answer that the one question aimed at is to get; None for any wrong one.
    """

    heads: tuple[Head, ...]
    aim: str = "any"
    towards: int | None = None

    @property
    def aimed(self) -> tuple[tuple[Head, tuple[int, ...]], ...]:
        """The heads aimed at, each with the positions of its questions aimed at."""
        found = []
        for head in self.heads:
            whole = self.aim in ("any", "all", head.name)
            chosen = [i for i, name in enumerate(head.questions) if whole or name == self.aim]
            if chosen:
                found.append((head, tuple(chosen)))
        return tuple(found)

    @property
    def questions(self) -> tuple[str, ...]:
        """The names of the questions aimed at."""
        return tuple(head.questions[i] for head, chosen in self.aimed for i in chosen)

    def parts(
        self, scores: Mapping[str, Tensor], labels: Mapping[str, Tensor]
    ) -> list[tuple[Tensor, Tensor]]:
        """The problems of every head aimed at: logits (..., B, Q, K) and labels (B, Q)."""
        out = []
        for head, chosen in self.aimed:
            logits, truth = head.problems(scores[head.name], labels[head.name])
            if len(chosen) < len(head.questions):
                logits, truth = logits[..., list(chosen), :], truth[:, list(chosen)]
            out.append((logits, truth))
        return out

    def loss(
        self,
        loss: Loss,
        scores: Mapping[str, Tensor],
        labels: Mapping[str, Tensor],
        aim: Aim | None = None,
    ) -> Tensor:
        """What the attacker raises, (B,): of "all" heads the one that resists most.

        Args:
            aim: the questions to follow, and the targets of a targeted loss; all of them when not given.
        """
        parts = self.parts(scores, labels)
        if torch.is_grad_enabled():
            # A head that leads nowhere is no reason not to follow the others.
            parts = [part for part in parts if part[0].requires_grad] or parts
        if self.towards is not None and loss.towards is not None:
            (logits, truth), loss_towards = parts[0], loss.towards
            return loss_towards(logits[:, 0], torch.full_like(truth[:, 0], self.towards))
        if aim is not None:
            return self._followed(loss, self.parts(scores, labels), aim)
        if self.aim != "all" or len(parts) == 1:
            each = torch.cat([_each(loss, *part) for part in parts], 1)
            if each.shape[1] == 1:
                return each[:, 0]
            return each.sum(1) if loss.any_of == "sum" else each.amax(1)
        heads = [_each(loss, *part, function=loss.all_heads).amax(1) for part in parts]
        return torch.stack(heads).sum(0) if loss.all_heads else torch.stack(heads).amin(0)

    def _followed(self, loss: Loss, parts: Sequence[tuple[Tensor, Tensor]], aim: Aim) -> Tensor:
        logits, truth = _padded(parts)
        count = aim.question.shape[1]
        if logits.shape[1] > 1:
            index = aim.question[..., None].expand(-1, -1, logits.shape[2])
            logits, truth = logits.gather(1, index), truth.gather(1, aim.question)
        several = count > 1 and loss.all_heads is not None
        each = _each(loss, logits, truth, aim.answer, loss.all_heads if several else None)
        if count == 1:
            return each[:, 0]
        return each.sum(1) if several else each.amin(1)

    def margins(self, scores: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> Tensor:
        """Of every question aimed at, (B, Q): positive exactly where it is wrong; -inf where unknown."""
        return torch.cat([_each(margin, *part, missing=-torch.inf) for part in self.parts(scores, labels)], 1)

    def margin(self, scores: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> Tensor:
        """How far the goal is passed, (B,): positive exactly where it is reached.

        The largest of the questions' margins; for "all" the least of the heads' largest.
        """
        if self.towards is not None:
            (logits, truth), *_ = self.parts(scores, labels)
            return -_margin(logits[:, 0], torch.full_like(truth[:, 0], self.towards))
        heads = [_each(margin, *part, missing=-torch.inf).amax(1) for part in self.parts(scores, labels)]
        together = torch.stack(heads)
        return together.amin(0) if self.aim == "all" else together.amax(0)

    def wrong(self, scores: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> list[Tensor]:
        """Of every head aimed at, which questions are wrong, bool (..., B, Q); False where unknown."""
        if self.towards is not None:
            (logits, _), *_ = self.parts(scores, labels)
            return [logits.argmax(-1) == self.towards]
        return [(z.argmax(-1) != y) & (y != UNKNOWN) for z, y in self.parts(scores, labels)]

    def success(self, scores: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> Tensor:
        """How far the attacker has got, float (..., B) for scores (..., B, columns).

        0 means that the goal is not reached, 1 that nothing is left to gain. Between lies, for "any" of
        several heads, a sample with some heads wrong: it counts as broken, but is worth attacking on, or
        the accuracy of its other heads would look better than it is. A sample of which nothing is known
        has nothing to lose.
        """
        heads = torch.stack([wrong.any(-1).float() for wrong in self.wrong(scores, labels)])
        if self.aim == "any" and len(heads) > 1:
            reached = (heads.amax(0) + heads.mean(0)) / 2
        else:
            reached = heads.amin(0)
        nothing = self._nothing_known(labels)
        return reached if nothing is None else torch.where(nothing.to(reached.device), 1.0, reached)

    def _nothing_known(self, labels: Mapping[str, Tensor]) -> Tensor | None:
        """Samples without any label, bool (B,); None where every sample has one."""
        missing = [(labels[h.name].reshape(len(labels[h.name]), -1) == UNKNOWN).all(1) for h, _ in self.aimed]
        nothing = torch.stack(missing).all(0)
        return nothing if nothing.any() else None

    def alone(self) -> list[Goal]:
        """The goals whose union this one is: each question by itself, else this one."""
        if self.aim == "all" or len(self.questions) == 1:
            return [self]
        return [Goal(self.heads, question) for question in self.questions]

    def followed(
        self, loss: Loss, scores: Callable[[], Mapping[str, Tensor]], labels: Mapping[str, Tensor]
    ) -> list[Aim | None]:
        """What a loss is to be run for: each question if it follows one, per sample the nearest to flipping.

        Args:
            scores: asked for only where there are more than ``FOLLOWED`` questions to choose among.
        """
        count = len(self.questions)
        if loss.any_of == "sum" or self.aim == "all" or count == 1:
            return [None]
        if count <= FOLLOWED:
            first = next(iter(labels.values()))
            samples = torch.zeros(len(first), 1, dtype=torch.long, device=first.device)
            return [Aim(samples + question) for question in range(count)]
        nearest = self.margins(scores(), labels).argsort(dim=1, descending=True, stable=True)[:, :FOLLOWED]
        return [Aim(column[:, None]) for column in nearest.unbind(1)]

    def candidates(self, scores: Mapping[str, Tensor], labels: Mapping[str, Tensor], count: int) -> list[Aim]:
        """Targets, the likeliest first.

        Each is one wrong answer to one question, up to ``count`` a head: a second wrong head only costs, and
        the answers to one head's questions must not crowd out those of another. For "all" up to ``count``
        combinations of the heads' likeliest. Towards a chosen answer there is that one alone.
        """
        parts = self.parts(scores, labels)
        if self.towards is not None:
            question = torch.zeros_like(parts[0][1][:, :1])
            return [Aim(question, torch.full_like(question, self.towards))]
        ranked, first = [], 0
        for logits, truth in parts:
            ranked.append(_nearest_flips(logits, truth, count, first))
            first += logits.shape[1]
        if self.aim == "all":
            chosen = _by_rising_sum([gaps.shape[1] for _, _, gaps in ranked], count)
            return [
                Aim(
                    *(
                        torch.stack([r[what][:, i] for r, i in zip(ranked, ranks, strict=True)], 1)
                        for what in (0, 1)
                    )
                )
                for ranks in chosen
            ]
        question, answer, gaps = (torch.cat(column, 1) for column in zip(*ranked, strict=True))
        order = gaps.argsort(dim=1, stable=True)
        question, answer = question.gather(1, order), answer.gather(1, order)
        return [
            Aim(q[:, None], a[:, None]) for q, a in zip(question.unbind(1), answer.unbind(1), strict=True)
        ]


def _each(
    loss: Loss,
    logits: Tensor,
    labels: Tensor,
    answers: Tensor | None = None,
    function: Callable[..., Tensor] | None = None,
    missing: float = 0.0,
) -> Tensor:
    """A loss of every question, (B, Q); ``missing`` where the label is unknown."""
    unlabelled = labels == UNKNOWN
    any_unlabelled = bool(unlabelled.any())
    truth = labels.clamp_min(0) if any_unlabelled else labels
    targets = () if answers is None else (answers.flatten(),)
    each = (function or loss)(logits.flatten(0, 1), truth.flatten(), *targets).view(labels.shape)
    return torch.where(unlabelled, missing, each) if any_unlabelled else each


def _padded(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """All problems in one: (B, Q, K) with -inf for answers that a question does not have; labels (B, Q)."""
    most = max(logits.shape[2] for logits, _ in parts)
    padded = [
        z if z.shape[2] == most else F.pad(z, (0, most - z.shape[2]), value=-torch.inf) for z, _ in parts
    ]
    return torch.cat(padded, 1), torch.cat([labels for _, labels in parts], 1)


def _nearest_flips(logits: Tensor, labels: Tensor, count: int, first: int) -> tuple[Tensor, Tensor, Tensor]:
    """The wrong answers of a head that need the least, by rising gap to the right one.

    Returns:
        Questions (counted from ``first``), answers, and gaps, (B, up to ``count``) each. What has no
        meaning (an unknown label) comes last.
    """
    truth = labels.clamp_min(0)[..., None]
    gaps = (logits.gather(-1, truth) - logits).scatter(-1, truth, torch.inf)
    gaps = torch.where((labels == UNKNOWN)[..., None], torch.inf, gaps).flatten(1)
    answers, possible = logits.shape[2], logits.shape[1] * (logits.shape[2] - 1)
    least, order = gaps.sort(dim=1, stable=True)
    chosen = order[:, : min(count, possible)]
    return first + chosen // answers, chosen % answers, least[:, : min(count, possible)]


def _by_rising_sum(sizes: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """The first ``count`` tuples of indices below ``sizes``, by their sums."""
    first = (0,) * len(sizes)
    waiting, found, met = [(0, first)], list[tuple[int, ...]](), {first}
    while waiting and len(found) < count:
        total, ranks = heapq.heappop(waiting)
        found.append(ranks)
        for place, size in enumerate(sizes):
            after = (*ranks[:place], ranks[place] + 1, *ranks[place + 1 :])
            if after[place] < size and after not in met:
                met.add(after)
                heapq.heappush(waiting, (total + 1, after))
    return found
