"""BPDA: gradients as if a step were the identity (Athalye et al. 2018, arXiv:1802.00420, section 4.1)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from robustbench_med.api import Attack, Batch, Target, UserError
from robustbench_med.attacks.apgd import APGD


@dataclass(frozen=True)
class BPDA(Attack):
    """APGD with the straight-through gradients that defenses have on offer but do not use.

    Outputs stay the model's own; only the way back through rounding and clipping changes. Run it beside
    an attack with the honest gradient (``--attack apgd:ce,bpda``): either may be the stronger.

    Attributes:
        steps, loss: of APGD.
    """

    steps: int = 100
    loss: str = "cross-entropy"

    def __post_init__(self) -> None:
        APGD(steps=self.steps, loss=self.loss)

    def perturb(self, target: Target, batch: Batch) -> dict[str, Tensor]:
        layers = [m for m in target.model.modules() if getattr(m, "straight_through", None) is False]
        if not layers:
            raise UserError(
                "bpda: no layer of this model has a straight-through gradient that it does not use already; "
                "apgd has the same gradients"
            )
        with _switched(layers):
            found: dict[str, Tensor] = APGD(steps=self.steps, loss=self.loss).perturb(target, batch)
        return found


@contextmanager
def _switched(layers: list[nn.Module]) -> Iterator[None]:
    for layer in layers:
        layer.straight_through = True  # type: ignore[assignment]
    try:
        yield
    finally:
        for layer in layers:
            layer.straight_through = False  # type: ignore[assignment]
