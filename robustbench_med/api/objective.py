"""Goals over questions (docs/method.md).

Margins are positive when wrong. Tensors of questions are (B, Q, K): samples, questions, answers.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_med.api.heads import UNKNOWN, Head
from robustbench_med.api.losses import Loss, margin

FOLLOWED = 9  # questions, the nearest to flipping, that a loss is run for if it follows one at a time


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
            return -margin(logits[:, 0], torch.full_like(truth[:, 0], self.towards))
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
