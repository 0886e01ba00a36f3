"""Watches an attack at work: what did it break on its way and not hand back?"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from robustbench_med.api.attack import Batch, Target, take
from robustbench_med.api.model import Forward, Wrapper
from robustbench_med.audit.bench import Bench

INSIDE = 1e-5  # how far from ball and box, in units of the modality, rounding may put what lies inside


def silently_broken(bench: Bench) -> float:
    """The share of samples that the attack breaks on its way and returns unbroken."""
    bench.announce("silent success")
    lost, plan, model = 0, bench.plan, bench.model
    for some in np.array_split(bench.standing, max(1, math.ceil(len(bench.standing) / plan.batch_size))):
        if len(some) == 0:
            continue
        part = bench.batch.take(torch.from_numpy(some).to(bench.batch.device))
        witness = Witness(bench.target(), part)
        with model.enclosed_by(witness):
            found = plan.attack.perturb(bench.target(), part)
        lost += int((witness.broken & ~witness.breaks(found)).sum())
    return lost / len(bench.batch)


class Witness(Wrapper):
    """Sees every pass of an attack, and which of them broke a sample within the rules.

    Libraries hand the model their own choice of samples; each row belongs to the clean sample next to it.

    Attributes:
        broken: (B,) whether the goal was reached in any pass.
    """

    def __init__(self, target: Target, batch: Batch) -> None:
        super().__init__()
        self.target, self.batch = target, batch
        self.names = list(target.threat.budgets)
        self.clean = self._places(batch.inputs)
        self.broken = torch.zeros(len(batch), dtype=torch.bool, device=self.clean.device)

    @property
    def is_random(self) -> bool:
        return False

    def forward(self, model: Forward, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        scores = model(inputs)
        with torch.no_grad():
            self._look(inputs, scores)
        return scores

    def breaks(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Whether the goal is reached at ``inputs``, one a sample of the batch."""
        with torch.inference_mode():
            return self.target.goal.success(self.target.model(inputs), self.batch.labels) > 0

    def _look(self, inputs: Mapping[str, Tensor], scores: Mapping[str, Tensor]) -> None:
        sample = torch.cdist(self._places(inputs), self.clean).argmin(1)
        clean, labels = take(self.batch.inputs, sample), take(self.batch.labels, sample)
        allowed, budgets = self.target.threat.project(inputs, clean), self.target.threat.budgets
        off = [budgets[n].box.in_units(allowed[n] - inputs[n]).abs().flatten(1).amax(1) for n in self.names]
        broken = (torch.stack(off).amax(0) < INSIDE) & (self.target.goal.success(scores, labels) > 0)
        self.broken[sample[broken]] = True

    def _places(self, inputs: Mapping[str, Tensor]) -> Tensor:
        budgets = self.target.threat.budgets
        return torch.cat([budgets[n].box.in_units(inputs[n].detach()).flatten(1) for n in self.names], 1)
