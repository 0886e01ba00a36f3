"""Losses of one question; attacks compose them instead of copying them (docs/method.md, "Losses").

Margins are positive when wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_med.util.errors import unknown

LEAK = 0.01  # weight of a broken head beside those that stand, where all must fall


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
