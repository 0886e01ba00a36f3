"""The adversary of a training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import ConfigDict
from torch import Tensor

from robustbench_med.api.attack import Attack, Batch, Passes, Target
from robustbench_med.api.data import DatasetInfo
from robustbench_med.api.model import FusionModel
from robustbench_med.api.objective import Goal
from robustbench_med.api.threat import ThreatModel
from robustbench_med.evaluation.adversary import make_attack, make_threat_model
from robustbench_med.util.errors import UserError
from robustbench_med.util.fields import STRICT, Fraction
from robustbench_med.util.seeding import derive


@dataclass(frozen=True)
class AdversarialTraining:
    """PGD-AT (Madry et al. 2018, arXiv:1706.06083, eq. 2.1): every step trains on attacked images only.

    Attacks are crafted on the net in evaluation mode, and the weights that are kept are those with
    the best validation accuracy under the same attack.

    Attributes:
        attack: a name, usually "pgd" with ``keep: last``, which climbs on after success.
        options: fields of the attack.
        eps: radius of every modality, or of each by name (modalities without one stay clean), in units of
            the modality; by default those of ``RunConfig``.
        eot: draws of a random model behind each gradient.
        warmup: share of the epochs over which the radii rise from 0 to their full size.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    attack: str
    eps: Fraction | Mapping[str, Fraction] | None = None
    norm: str = "linf"
    options: Mapping[str, Any] = field(default_factory=dict)
    eot: int = 1
    warmup: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.eot <= 10_000 or not 0 <= self.warmup < 1:
            raise UserError(
                "recipe: adversarial: eot must be 1 or more, at most 10000, and warmup a share below 1"
            )


@dataclass
class Opponent:
    """The adversary of a training.

    Attributes:
        threat: at its full radii.
        scale: share of the radii in use.
    """

    model: FusionModel
    attack: Attack
    threat: ThreatModel
    goal: Goal
    eot: int
    seed: int
    scale: float = 1.0

    def attacked(self, batch: Batch, epoch: int) -> dict[str, Tensor]:
        """Adversarial inputs for a batch; leaves the model's mode and its stream of noise as they were."""
        training = self.model.training
        self.model.eval().requires_grad_(False)
        seed = derive(self.seed, "opponent", epoch)
        target = Target(self.model, self.threat.scaled(self.scale), self.goal, self.eot, seed, Passes())
        with self.model.noise.aside():
            found = self.attack.perturb(target, batch)
        self.model.requires_grad_(True).train(training)
        return {name: x.detach() for name, x in found.items()}


def opponent_of(
    adversarial: AdversarialTraining, seed: int, device: str, model: FusionModel, info: DatasetInfo
) -> Opponent:
    """The opponent that a recipe asks for.

    Raises:
        UserError: an attack or a radius that does not fit the data set.
    """
    attack = make_attack(adversarial.attack, adversarial.options)
    threat = make_threat_model(adversarial.eps, adversarial.norm, (), info).to(device)
    return Opponent(model, attack, threat, Goal(info.heads), adversarial.eot, seed)
