"""Losses, and goals over heads; attacks compose them instead of copying them."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_med.util.errors import UserError, unknown

MAX_JOINT_CLASSES = 4096
LEAK = 0.01  # weight of a broken head beside those that stand, where all must fall


@dataclass(frozen=True)
class Loss:
    """What an attacker raises, for one head: (B, K) logits and (B,) labels to (B,).

    Targeted losses take a third argument, the classes (B,) to drive the samples to.

    Attributes:
        any_head: how it reads when any of several heads may fall. All three are the loss of the
            heads' joint label (``joint_logits``); "sum" and "max" say it without building it.
        all_heads: how it reads for each head when all must fall; the parts add up, so that a step is
            towards every head that stands. None: only the head that resists most counts.
    """

    function: Callable[..., Tensor]
    any_head: Literal["sum", "max", "joint"] = "joint"
    all_heads: Callable[..., Tensor] | None = None

    def __call__(self, logits: Tensor, labels: Tensor, *targets: Tensor) -> Tensor:
        return self.function(logits, labels, *targets)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    return _best_wrong(logits, labels) - _at(logits, labels)


def _dlr(logits: Tensor, labels: Tensor) -> Tensor:
    if logits.shape[1] < 3:
        return _margin(logits, labels)
    top = logits.topk(3, 1).values
    return _margin(logits, labels) / (top[:, 0] - top[:, 2] + 1e-12)


def _difference(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    return _at(logits, targets) - _at(logits, labels)


def _targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    if logits.shape[1] < 4:
        return _difference(logits, labels, targets)
    top = logits.topk(4, 1).values
    return _difference(logits, labels, targets) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


def _log_wrong(logits: Tensor, labels: Tensor) -> Tensor:
    """The log of the probability of all wrong classes together, to any precision."""
    wrong = logits.scatter(1, labels[:, None], -torch.inf).logsumexp(1)
    return -F.softplus(_at(logits, labels) - wrong)


def _until_broken(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The loss of a head that stands; of a broken one only as much as keeps its gradient from vanishing."""

    def part(*arguments: Tensor) -> Tensor:
        return -F.leaky_relu(-function(*arguments), LEAK)

    return part


def _at(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None]).squeeze(1)


def _best_wrong(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.scatter(1, labels[:, None], -torch.inf).amax(1)


cross_entropy = Loss(_cross_entropy, "sum", _log_wrong)
"""Flat in float32 once a sample is right by a margin of some 17 logits; the others are not."""

margin = Loss(_margin, "max", _until_broken(_margin))
"""Largest wrong logit minus the right one; positive exactly when the head is wrong."""

dlr = Loss(_dlr, all_heads=_until_broken(_dlr))
"""The margin over the gap from first to third logit (Croce & Hein 2020, eq. 6), which no rescaling
of the logits changes; the plain margin for two classes."""

difference = Loss(_difference)
"""Targeted: the target's logit minus the right one."""

targeted_dlr = Loss(_targeted_dlr, all_heads=_until_broken(_targeted_dlr))
"""Targeted DLR (Croce & Hein 2020, eq. 7); the plain difference for fewer than four classes."""

LOSSES: dict[str, Loss] = {"cross-entropy": cross_entropy, "margin": margin, "dlr": dlr}


def loss_by_name(name: str) -> Loss:
    """A loss by its name.

    Raises:
        UserError: unknown name.
    """
    if name not in LOSSES:
        raise unknown("loss", name, LOSSES)
    return LOSSES[name]


def joint_logits(logits: Mapping[str, Tensor]) -> Tensor:
    """Several heads as one, whose classes are the combinations of theirs: (B, K1·K2·…).

    Its logits are sums, so its cross-entropy is the sum of the heads', and it is wrong exactly
    when any head is.

    Raises:
        UserError: more combinations than can be handled.
    """
    heads = list(logits.values())
    combinations = math.prod(z.shape[1] for z in heads)
    if combinations > MAX_JOINT_CLASSES:
        raise UserError(
            f"{len(heads)} heads have {combinations} combinations of classes, over {MAX_JOINT_CLASSES}; "
            "attack one head (--head), or use a loss that needs no combinations (pgd --loss margin)"
        )
    out = heads[0]
    for z in heads[1:]:
        out = (out[:, :, None] + z[:, None, :]).flatten(1)
    return out


def joint_labels(labels: Mapping[str, Tensor], classes: Mapping[str, int]) -> Tensor:
    """Labels (B,) of several heads as one label of ``joint_logits``."""
    out = torch.zeros_like(next(iter(labels.values())))
    for head, count in classes.items():
        out = out * count + labels[head]
    return out


@dataclass(frozen=True)
class Goal:
    """Which heads must be wrong for the attacker to have won.

    Attributes:
        head: "any" (at least one head), "all" (every head), or a task's name.
    """

    head: str = "any"

    def loss(
        self,
        loss: Loss,
        logits: Mapping[str, Tensor],
        labels: Mapping[str, Tensor],
        targets: Sequence[Tensor] = (),
    ) -> Tensor:
        """What the attacker raises, (B,): of "all" heads the one that resists most.

        Args:
            targets: for targeted losses one (B,) a problem, as columns of ``candidates``.
        """
        if self.head == "any" and loss.any_head != "joint":
            per_head = torch.stack([loss(logits[task], labels[task]) for task in logits])
            return per_head.amax(0) if loss.any_head == "max" else per_head.sum(0)
        problems = self.problems(logits, labels)
        aimed = [(z, y, *(targets[i : i + 1])) for i, (z, y) in enumerate(problems)]
        if len(aimed) > 1 and loss.all_heads is not None:
            return torch.stack([loss.all_heads(*part) for part in aimed]).sum(0)
        return torch.stack([loss(*part) for part in aimed]).amin(0)

    def margin(self, logits: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> Tensor:
        """How far the goal is passed, (B,): positive exactly where it is reached.

        The largest of the heads' margins for "any", the least for "all".
        """
        heads = list(logits) if self.head in ("any", "all") else [self.head]
        margins = torch.stack([_margin(logits[head], labels[head]) for head in heads])
        return margins.amin(0) if self.head == "all" else margins.amax(0)

    def alone(self, heads: Sequence[str]) -> list[Goal]:
        """The goals whose union this one is: each head by itself for "any", else this one."""
        return [Goal(head) for head in heads] if self.head == "any" and len(heads) > 1 else [self]

    def problems(
        self, logits: Mapping[str, Tensor], labels: Mapping[str, Tensor]
    ) -> list[tuple[Tensor, Tensor]]:
        """The classifiers that must all be wrong, as (B, K) logits and (B,) labels.

        One for "any" (the heads' joint label) and for a named head, one a head for "all".
        """
        if self.head == "any":
            classes = {head: z.shape[1] for head, z in logits.items()}
            return [(joint_logits(logits), joint_labels(labels, classes))]
        heads = list(logits) if self.head == "all" else [self.head]
        return [(logits[head], labels[head]) for head in heads]

    def candidates(
        self, logits: Mapping[str, Tensor], labels: Mapping[str, Tensor], count: int
    ) -> list[tuple[Tensor, ...]]:
        """Targets, the likeliest first: tuples with one (B,) a problem.

        For "any" a joint label in which one head alone is wrong, ``count`` a head: a second wrong head
        only costs, and the classes of one head must not crowd out those of another. For "all" up to
        ``count`` combinations of the heads' likeliest wrong classes.
        """
        if self.head == "any":
            return [(column,) for column in _single_flips(logits, labels, count).unbind(1)]
        ranked = [_wrong_classes(z, y) for z, y in self.problems(logits, labels)]
        chosen = _by_rising_sum([r.shape[1] for r in ranked], count)
        return [tuple(r[:, i] for r, i in zip(ranked, ranks, strict=True)) for ranks in chosen]

    def success(self, logits: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> Tensor:
        """How far the attacker has got, float (..., B) for logits (..., B, K).

        0 means that the goal is not reached, 1 that nothing is left to gain. Between lies, for
        "any" of several heads, a sample with some heads wrong: it counts as broken, but is worth
        attacking on, or the accuracy of its other heads would look better than it is.
        """
        wrong = {task: (logits[task].argmax(-1) != labels[task]).float() for task in logits}
        if self.head not in ("any", "all"):
            return wrong[self.head]
        if len(wrong) == 1:
            return next(iter(wrong.values()))
        stacked = torch.stack(list(wrong.values()))
        if self.head == "all":
            return stacked.amin(0)
        return (stacked.amax(0) + stacked.mean(0)) / 2


def _wrong_classes(logits: Tensor, labels: Tensor) -> Tensor:
    """All classes but the label, (B, K - 1), by falling logit."""
    hidden = logits.scatter(1, labels[:, None], -torch.inf)
    return hidden.sort(1, descending=True).indices[:, :-1]


def _single_flips(logits: Mapping[str, Tensor], labels: Mapping[str, Tensor], count: int) -> Tensor:
    """Joint labels (B, targets) in which one head has one of its ``count`` likeliest wrong classes.

    By rising distance of the wrong logit from the right one.
    """
    classes = {head: z.shape[1] for head, z in logits.items()}
    joint, stride = joint_labels(labels, classes), math.prod(classes.values())
    flips, gaps = [], []
    for head, z in logits.items():
        stride //= classes[head]
        right, wrong = labels[head][:, None], _wrong_classes(z, labels[head])[:, :count]
        flips.append(joint[:, None] + (wrong - right) * stride)
        gaps.append(z.gather(1, right) - z.gather(1, wrong))
    order = torch.cat(gaps, 1).argsort(dim=1, stable=True)
    return torch.cat(flips, 1).gather(1, order)


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
