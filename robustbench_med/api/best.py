"""The strongest inputs met so far, and which samples are worth going on with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from robustbench_med.api.attack import Batch, Evaluation, Target

LEAVING = 1 / 16  # share of a pass that must be done before the finished samples leave it


class Best:
    """The strongest adversarial inputs met so far, per sample.

    Deterministic models: the higher success, then the higher loss. Random models: the higher mean
    loss over the draws, since success in some draws is no success (docs/method.md, "Random models").

    Args:
        by: "margin" where what is compared comes from different losses.
        until: when a sample of a deterministic model is done: at the "goal", or (where several
            heads may fall and the attack is cheap) only with "every head" wrong.
    """

    def __init__(
        self,
        batch: Batch,
        target: Target,
        by: Literal["loss", "margin"] = "loss",
        until: Literal["goal", "every head"] = "goal",
    ) -> None:
        self.batch, self.target, self.by, self.until = batch, target, by, until
        self.inputs = {n: x.clone() if n in target.threat.budgets else x for n, x in batch.inputs.items()}
        count, device = len(batch), batch.device
        self.loss = torch.full((count,), -torch.inf, device=device)
        self.success = torch.zeros(count, device=device)

    def standing(self) -> Tensor:
        """Positions of the samples worth attacking further."""
        everyone = torch.arange(len(self.batch), device=self.loss.device)
        return everyone[self.unfinished(everyone)]

    def update(self, index: Tensor, inputs: Mapping[str, Tensor], seen: Evaluation) -> None:
        """Keep the samples of ``inputs`` (for batch positions ``index``) that are stronger.

        ``index`` may name a sample more than once; the strongest of its rows counts.
        """
        reached = seen.loss if self.by == "loss" else seen.margin
        better = reached > self.loss[index]
        if self.target.deterministic:
            known = self.success[index]
            better = (seen.success > known) | (better & (seen.success == known))
            # So that it does not matter how soon a finished sample leaves the passes.
            better &= self.unfinished(index)
        rows = torch.nonzero(better).squeeze(1)
        if len(rows) == 0:
            return
        if len(index) > 1:
            rows = self._strongest(rows, index, reached, seen.success)
        where = index[rows]
        self.loss[where], self.success[where] = reached[rows], seen.success[rows]
        for name in self.target.threat.budgets:
            self.inputs[name][where] = inputs[name].detach().index_select(0, rows)

    def _strongest(self, rows: Tensor, index: Tensor, reached: Tensor, success: Tensor) -> Tensor:
        """Of ``rows`` one a sample."""
        if len(torch.unique(index[rows])) == len(rows):
            return rows
        # Sorts are stable: the last one groups the rows by sample, the strongest of each in front.
        rows = rows[reached[rows].argsort(descending=True, stable=True)]
        if self.target.deterministic:
            rows = rows[success[rows].argsort(descending=True, stable=True)]
        rows = rows[index[rows].argsort(stable=True)]
        first = torch.ones_like(rows, dtype=torch.bool)
        first[1:] = index[rows][1:] != index[rows][:-1]
        return rows[first]

    def unfinished(self, index: Tensor) -> Tensor:
        """Which of the samples at ``index`` are worth attacking further, bool (len(index),)."""
        if not self.target.deterministic:
            return torch.ones_like(index, dtype=torch.bool)
        reached = self.success[index]
        return reached <= 0 if self.until == "goal" else reached < 1


def remaining(unfinished: Tensor) -> Tensor:
    """The rows to go on with, given which of them are ``unfinished`` (B,): all until ``LEAVING`` are done.

    A pass of a size not seen before costs more, since libraries choose and prepare kernels for it; a
    pass that shrinks by a sample at every step would pay more than it saves.
    """
    rows = torch.nonzero(unfinished).squeeze(1)
    if len(rows) > (1 - LEAVING) * len(unfinished):
        return torch.arange(len(unfinished), device=unfinished.device)
    return rows
