"""Projected gradient descent (Madry et al. 2018) on any number of modalities and heads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robustbench_med.api import (
    Attack,
    Batch,
    Best,
    Evaluation,
    Fraction,
    Loss,
    Target,
    UserError,
    loss_by_name,
    remaining,
    take,
)


@dataclass(frozen=True)
class PGD(Attack):
    """PGD: signed steps (Linf) or normalised steps (L2), projected after each.

    Attributes:
        steps: gradient steps of each restart.
        step_size: in units of the modality; epsilon / 4 of each when not given.
        restarts: random starts; each goes on with the samples that still stand.
        random_start: start from a uniform point of the ball instead of the clean input.
        loss: "cross-entropy"; or "margin" or "dlr", which follow one question and are therefore climbed for
            each that may fall (with keep=last, for the one nearest to falling).
        keep: "best" returns the strongest iterate of each sample; "last" the last one, as
            papers' reference code does, and then goes on after success.
    """

    steps: int = 20
    step_size: Fraction | None = None
    restarts: int = 1
    random_start: bool = True
    loss: str = "cross-entropy"
    keep: Literal["best", "last"] = "best"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise UserError("pgd: steps and restarts must be 1 or more")
        if self.step_size is not None and not 0 < self.step_size < math.inf:
            raise UserError(f"pgd: step-size is {self.step_size:g}; it must be positive")
        loss_by_name(self.loss)
        if self.keep == "last" and self.restarts > 1:
            raise UserError("pgd: keep=last goes with one restart; the restarts are compared by their best")

    def perturb(self, target: Target, batch: Batch) -> dict[str, Tensor]:
        loss = loss_by_name(self.loss)
        if self.keep == "last":
            best = Best(batch, target)
            return dict(self._climb(target, batch, best.standing(), best, loss, 0))
        rounds = target.rounds(batch, loss)
        # Losses that follow different questions do not compare; their margins do.
        best = Best(batch, target, by="margin" if len(rounds) > 1 else "loss", until="every head")
        for start in range(self.restarts):
            for aimed in rounds:
                index = best.standing()
                if len(index) == 0:
                    return best.inputs
                self._climb(target, aimed, index, best, loss, start)
        return best.inputs

    def _climb(
        self, target: Target, batch: Batch, index: Tensor, best: Best, loss: Loss, restart: int
    ) -> Mapping[str, Tensor]:
        """One restart on the samples at ``index``; returns the last iterate of those."""
        part = batch.take(index)
        current: Mapping[str, Tensor] = part.inputs
        if self.random_start:
            current = target.threat.random_start(part.inputs, part.ids, target.seed, restart)
        for _ in range(self.steps):
            seen = target.evaluate(part, current, loss)
            best.update(index, current, seen)
            current = self._step(target, current, part.inputs, seen)
            still = remaining(best.unfinished(index))
            if self.keep == "best" and len(still) < len(index):
                index, part, current = index[still], part.take(still), take(current, still)
            if len(index) == 0:
                return current
        if self.keep == "best":
            best.update(index, current, target.evaluate(part, current, loss, gradient=False))
        return current

    def _step(
        self, target: Target, current: Mapping[str, Tensor], clean: Mapping[str, Tensor], seen: Evaluation
    ) -> dict[str, Tensor]:
        steps = {
            name: budget.epsilon / 4 if self.step_size is None else self.step_size
            for name, budget in target.threat.budgets.items()
        }
        with torch.no_grad():
            return target.threat.project(target.threat.ascend(current, seen.gradients, steps), clean)
