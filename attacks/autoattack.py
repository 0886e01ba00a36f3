"""AutoAttack (Croce & Hein 2020, arXiv:2003.01690): several attacks, each on what still stands."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustbench_med.api import Attack, Batch, Best, Target, UserError, margin, take, unknown
from robustbench_med.attacks.apgd import APGD
from robustbench_med.attacks.fab import FAB
from robustbench_med.attacks.square import Square
from robustbench_med.attacks.transfer import Transfer

VERSIONS = ("standard", "rand", "stochastic")
FRESH = 20  # draws in each of which a sample of a random model must be broken to be left alone


@dataclass(frozen=True)
class AutoAttack(Attack):
    """``autoattack:standard`` for deterministic models, ``:rand`` and ``:stochastic`` for random ones.

    "rand" is the authors' (APGD on cross-entropy and on DLR). "stochastic" adds what masked gradients
    cannot hide from: Square on mean scores, and the transfer attack from the twin without noise.
    What the members find on a random model is compared by its mean margin over fresh draws, never
    by success in one; a sample still stands unless it is broken in every one of 20 fresh draws.

    Attributes:
        version: as above.
        steps: iterations of every member that has some.
        eot: draws behind each gradient of a random model, 20 in the paper; the run's when not given.
    """

    version: str = "standard"
    steps: int = 100
    eot: int | None = None

    def __post_init__(self) -> None:
        if self.version not in VERSIONS:
            raise unknown("autoattack version", self.version, VERSIONS)
        if self.steps < 1 or (self.eot is not None and self.eot < 1):
            raise UserError("autoattack: steps and eot must be 1 or more")

    @classmethod
    def variant_of(cls, variant: str) -> dict[str, str]:
        return {"version": variant}

    @property
    def members(self) -> tuple[Attack, ...]:
        """What runs, in this order, each on what still stands."""
        losses = ("cross-entropy", "dlr", "targeted-dlr")
        ce, dlr, targeted = (APGD(steps=self.steps, loss=loss) for loss in losses)
        if self.version == "rand":
            return ce, dlr
        if self.version == "stochastic":
            return ce, dlr, Square(queries=1000), Transfer(steps=self.steps)
        return ce, targeted, FAB(steps=self.steps), Square()

    def perturb(self, target: Target, batch: Batch) -> dict[str, Tensor]:
        if self.eot is not None and not target.deterministic:
            target = replace(target, eot=self.eot)
        best = Best(batch, target, by="margin")
        index = best.standing()
        for member in self.members:
            if isinstance(member, Transfer) and target.draws_shared_by == "none":
                continue  # a deterministic model is its own noise-off twin
            part = batch.take(index)
            found = member.perturb(target, part)
            seen = target.evaluate(part, found, margin, gradient=False)
            best.update(index, found, seen)
            index = _standing(best, index)
            if len(index) == 0:
                break
        return best.inputs


def _standing(best: Best, index: Tensor) -> Tensor:
    """Positions, among ``index``, of the samples that are worth another attack."""
    if best.target.deterministic:
        return best.standing()
    single = replace(best.target, eot=1)
    inputs, part = take(best.inputs, index), best.batch.take(index)
    # The margin of a single draw is positive exactly when the goal is reached in it.
    draws = [single.evaluate(part, inputs, margin, gradient=False).margin > 0 for _ in range(FRESH)]
    return index[~torch.stack(draws).all(0)]
