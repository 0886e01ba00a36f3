"""Losses per head and goals over heads; attacks compose them instead of copying them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_med.api.registry import unknown

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of (B, K) logits with (B,) labels: (B,). The attacker raises it.

    Flat in float32 once a sample is right by a margin of some 17 logits; the margin is not.
    """
    return F.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Largest wrong logit minus the right one (B,); positive exactly when the head is wrong."""
    right = logits.gather(1, labels[:, None]).squeeze(1)
    wrong = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return wrong - right


LOSSES: dict[str, Loss] = {"cross-entropy": cross_entropy, "margin": margin}


def loss_by_name(name: str) -> Loss:
    """A loss by its name.

    Raises:
        UserError: unknown name.
    """
    if name not in LOSSES:
        raise unknown("loss", name, LOSSES)
    return LOSSES[name]


@dataclass(frozen=True)
class Goal:
    """Which heads must be wrong for the attacker to have won.

    Attributes:
        head: "any" (at least one head), "all" (every head), or a task's name.
    """

    head: str = "any"

    def loss(self, loss: Loss, logits: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> Tensor:
        """What the attacker raises, (B,).

        "any" sums cross-entropies (the cross-entropy of the heads' joint label, as in the
        released evaluation) and takes the largest margin; "all" raises the head that resists most.
        """
        if self.head not in ("any", "all"):
            return loss(logits[self.head], labels[self.head])
        per_head = torch.stack([loss(logits[task], labels[task]) for task in logits])
        if self.head == "all":
            return per_head.amin(0)
        return per_head.amax(0) if loss is margin else per_head.sum(0)

    def success(self, logits: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> Tensor:
        """How far the attacker has got, float (..., B) for logits (..., B, K).

        0 means that the goal is not reached, 1 that nothing is left to gain. Between lies, for
        "any" of several heads, a sample with some heads wrong: it counts as broken, but is worth
        attacking on, or the accuracy of its other heads would look better than it is.
        """
        wrong = {task: (logits[task].argmax(-1) != labels[task]).float() for task in logits}
        if self.head not in ("any", "all"):
            return wrong[self.head]
        stacked = torch.stack(list(wrong.values()))
        if self.head == "all":
            return stacked.amin(0)
        return (stacked.amax(0) + stacked.mean(0)) / 2
