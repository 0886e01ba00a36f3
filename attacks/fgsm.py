"""Fast gradient sign method (Goodfellow et al. 2015): one step of length epsilon."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from robustbench_med.api.attack import Attack, Batch, Target
from robustbench_med.api.objective import loss_by_name


@dataclass(frozen=True)
class FGSM(Attack):
    """One step from the clean image to the surface of each modality's ball.

    Attributes:
        loss: "cross-entropy" or "margin".
    """

    loss: str = "cross-entropy"

    def __post_init__(self) -> None:
        loss_by_name(self.loss)

    def perturb(self, target: Target, batch: Batch) -> dict[str, Tensor]:
        seen = target.evaluate(batch.inputs, batch.labels, loss_by_name(self.loss))
        moved = dict(batch.inputs)
        for name, budget in target.threat.budgets.items():
            moved[name] = budget.ascend(batch.inputs[name], seen.gradients[name], budget.epsilon)
        return target.threat.project(moved, batch.inputs)
