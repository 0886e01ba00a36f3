"""Transfer attack: adversarial inputs of a surrogate, handed to the model (Liu et al. 2017)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor

from robustbench_med.api import Attack, Batch, FusionModel, Surrogate, Target, UserError
from robustbench_med.attacks.apgd import APGD

TWIN = "twin"


class _Restless(Target):
    """A target that is never done: inputs just beyond its boundary do not transfer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.deterministic = False


@dataclass(frozen=True)
class Transfer(Attack):
    """APGD on a surrogate; the model itself is never asked.

    Attributes:
        surrogate: "twin" is the same network with its randomness switched off, which a deterministic
            model has not; anything else is the name of a trained model.
        dataset: what a named surrogate was trained on.
        weights: of a named surrogate; those that ship when not given.
        steps, loss: of APGD.
        eot: draws behind each gradient of a random surrogate; the run's when not given.
    """

    knowledge: ClassVar[Literal["transfer"]] = "transfer"

    surrogate: str = TWIN
    dataset: str = "phantom"
    weights: str | None = None
    steps: int = 100
    loss: str = "cross-entropy"
    eot: int | None = None

    def __post_init__(self) -> None:
        APGD(steps=self.steps, loss=self.loss)
        if self.eot is not None and self.eot < 1:
            raise UserError(f"transfer: eot is {self.eot}; it must be 1 or more")
        if self.surrogate == TWIN and self.weights is not None:
            raise UserError(
                "transfer: the twin has the model's own weights; name a surrogate or drop weights"
            )

    def perturb(self, target: Target, batch: Batch) -> dict[str, Tensor]:
        if self.surrogate == TWIN:
            if target.draws_shared_by == "none":
                raise UserError(
                    "transfer: this model is deterministic, so its noise-off twin is the model itself; name "
                    "another net (--option surrogate=NAME), or attack the model with apgd"
                )
            with _noise_off(target.model):
                return self._climb(_on(target, target.model, 1), batch)
        surrogate = target.load_surrogate(Surrogate(self.surrogate, self.dataset, self.weights))
        if _interface(surrogate) != _interface(target.model):
            raise UserError(
                f"transfer: {self.surrogate} on {self.dataset} has other modalities or heads than the model"
            )
        return self._climb(_on(target, surrogate.to(batch.device), self.eot or target.eot), batch)

    def _climb(self, target: Target, batch: Batch) -> dict[str, Tensor]:
        found: dict[str, Tensor] = APGD(steps=self.steps, loss=self.loss).perturb(target, batch)
        return found


def _interface(model: FusionModel) -> tuple[object, ...]:
    """What a model takes and answers."""
    takes = [(name, modality.shape) for name, modality in model.takes.items()]
    return takes, [(name, head.questions, head.answers) for name, head in model.answers.items()]


def _on(target: Target, model: FusionModel, eot: int) -> Target:
    return replace(
        _Restless(model, target.threat, target.goal, eot, target.seed, target.passes, target.rows),
        asked=target.asked,
    )


@contextmanager
def _noise_off(model: FusionModel) -> Iterator[None]:
    scale, model.noise.scale = model.noise.scale, 0.0
    try:
        yield
    finally:
        model.noise.scale = scale
