"""Dropout at inference: Srivastava et al. 2014, left on as in Gal & Ghahramani 2016 (arXiv:1506.02142)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from robustbench_med.api import Defense, Dropout, FusionModel, UserError


@dataclass(frozen=True)
class InferenceDropout(Defense):
    """The dropout that a model was trained with stays on at inference, with masks drawn per element.

    It takes the place of every ``nn.Dropout`` and of the ``Dropout`` of ``api`` whose rate is
    not 0. A layer that the model uses twice draws twice.

    Attributes:
        rate: share of the elements set to 0, 0 to below 1; each layer's own when not given.
    """

    rate: float | None = None

    def __post_init__(self) -> None:
        if self.rate is not None and not 0 <= self.rate < 1:
            raise UserError(f"inference-dropout: rate is {self.rate:g}; it must be in [0, 1)")

    def apply(self, model: FusionModel) -> None:
        sites = [
            (name, layer, _rate(layer))
            for name, layer in model.named_modules(remove_duplicate=False)
            if _rate(layer) > 0
        ]
        if not sites:
            raise UserError(
                f"the defense 'inference-dropout' needs dropout layers, and {type(model).__name__} has none "
                "with a rate above 0; choose another model or defense"
            )
        # A layer in two places stays one layer in two places.
        made = {layer: Dropout(rate if self.rate is None else self.rate, True) for _, layer, rate in sites}
        for name, layer, _ in sites:
            model.install(name, made[layer])


def _rate(layer: nn.Module) -> float:
    """The dropout rate of a layer, 0 when it is no dropout."""
    if isinstance(layer, nn.Dropout):
        return layer.p
    return layer.rate if isinstance(layer, Dropout) else 0.0
