"""The adversary of a training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
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
class Attacking:
    """One of the attacks of a training: its name, and fields of it."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    attack: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AdversarialTraining:
    """How a net is trained to resist.

    - PGD-AT (Madry et al. 2018, arXiv:1706.06083, eq. 2.1): every step trains on attacked inputs only.
    - TRADES (Zhang et al. 2019, arXiv:1901.08573, eq. 5), with ``trades``: the loss of clean inputs, plus
      that many times the divergence of the answers to inputs that drive it up.
    - Single-source robustness (Yang et al. 2022, arXiv:2206.12714), with ``in_turn``: every step trains on
      inputs of which one modality is attacked, each in its turn.

    Attacks are crafted on the net in evaluation mode, and the weights that are kept are those with
    the best validation accuracy under the same attack, of all modalities together.

    Attributes:
        attack: a name, usually "pgd" with ``keep: last``, which climbs on after success; or several, with
            options of their own, of which every step takes the next (validation: the first).
        options: fields of the one attack; TRADES takes its steps and their size.
        trades: 1/λ of TRADES, 6 in the paper; 0 for PGD-AT.
        in_turn: attack one modality a step, the first in the first step of an epoch.
        eps: radius of every modality, or of each by name (modalities without one stay clean), in units of
            the modality; by default those of ``RunConfig``.
        eot: draws of a random model behind each gradient.
        warmup: share of the epochs over which the radii rise from 0 to their full size.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    attack: str | Sequence[Attacking]
    eps: Fraction | Mapping[str, Fraction] | None = None
    norm: str = "linf"
    options: Mapping[str, Any] = field(default_factory=dict)
    eot: int = 1
    warmup: float = 0.0
    trades: Fraction = 0.0
    in_turn: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.eot <= 10_000 or not 0 <= self.warmup < 1:
            raise UserError(
                "recipe: adversarial: eot must be 1 or more, at most 10000, and warmup a share below 1"
            )
        if not 0 <= self.trades < math.inf:
            raise UserError(f"recipe: adversarial: trades is {self.trades:g}; it must be 0 or more")
        if self.trades and (self.attack != "pgd" or self.eot > 1):
            raise UserError("recipe: adversarial: trades goes with attack pgd and eot 1")
        if self.trades and self.in_turn:
            raise UserError("recipe: adversarial: say trades or in_turn, not both")
        radii = self.eps.values() if isinstance(self.eps, Mapping) else (self.eps,)
        if any(radius is not None and not 0 < radius < math.inf for radius in radii):
            raise UserError(
                "recipe: adversarial: eps must be above 0; a modality that stays clean is not named at all"
            )
        if not self.attack:
            raise UserError("recipe: adversarial: attack names none; say pgd, or list several")
        if self.options and not isinstance(self.attack, str):
            raise UserError("recipe: adversarial: of several attacks each has options of its own")

    @property
    def attacks(self) -> Sequence[Attacking]:
        """Of which every step of an epoch takes the next, over and over."""
        return [Attacking(self.attack, self.options)] if isinstance(self.attack, str) else self.attack


@dataclass
class Opponent:
    """The adversary of a training.

    Attributes:
        attacks: of which every step of an epoch takes the next.
        threat: at its full radii.
        scale: share of the radii in use.
    """

    model: FusionModel
    attacks: Sequence[Attack]
    threat: ThreatModel
    goal: Goal
    eot: int
    seed: int
    scale: float = 1.0

    def attacked(self, batch: Batch, epoch: int, step: int = 0) -> dict[str, Tensor]:
        """Adversarial inputs for a batch; leaves the model's mode and its stream of noise as they were."""
        return self._attacked(batch, epoch, step, self.threat)

    def of_turn(self, batch: Batch, epoch: int, step: int) -> dict[str, Tensor]:
        """As ``attacked``, of one modality: the ``step``-th, counted round and round.

        Of several attacks each takes all modalities before the next has its turn.
        """
        names = list(self.threat.budgets)
        name = names[step % len(names)]
        return self._attacked(
            batch, epoch, step // len(names), ThreatModel({name: self.threat.budgets[name]})
        )

    def diverging(self, batch: Batch, epoch: int) -> dict[str, Tensor]:
        """Inputs whose answers diverge from the clean ones, as far as the attack's steps drive them.

        Zhang et al. 2019, Algorithm 1: signed steps up the divergence, from a random point of the ball.
        """
        (attack,) = self.attacks
        assert isinstance(attack, Stepping)
        threat, clean = self.threat.scaled(self.scale), batch.inputs
        lengths = {n: b.epsilon / 4 for n, b in threat.budgets.items()}
        if attack.step_size is not None:
            lengths = dict.fromkeys(lengths, attack.step_size)
        with self._at_rest():
            with torch.no_grad():
                usual = self.model(clean)
            current = threat.random_start(clean, batch.ids, self._seed(epoch))
            for _ in range(attack.steps):
                moving = {n: current[n].detach().requires_grad_() for n in threat.budgets}
                apart = divergence(self.model, self.model({**current, **moving}), usual, batch.labels)
                gradients = torch.autograd.grad(apart, list(moving.values()))
                climbed = threat.ascend(current, dict(zip(moving, gradients, strict=True)), lengths)
                current = threat.project(climbed, clean)
        return _detached(current)

    def _attacked(self, batch: Batch, epoch: int, step: int, threat: ThreatModel) -> dict[str, Tensor]:
        attack = self.attacks[step % len(self.attacks)]
        scaled, seed = threat.scaled(self.scale), self._seed(epoch)
        target = Target(self.model, scaled, self.goal, self.eot, seed, Passes())
        with self._at_rest():
            return _detached(attack.perturb(target, batch))

    def _seed(self, epoch: int) -> int:
        return derive(self.seed, "opponent", epoch)

    @contextmanager
    def _at_rest(self) -> Iterator[None]:
        """The model in evaluation mode, its parameters frozen, its stream of noise aside."""
        training = self.model.training
        self.model.eval().requires_grad_(False)
        try:
            with self.model.noise.aside():
                yield
        finally:
            self.model.requires_grad_(True).train(training)


@runtime_checkable
class Stepping(Protocol):
    """An attack that takes steps of one size."""

    steps: int
    step_size: float | None


def divergence(
    model: FusionModel,
    outputs: Mapping[str, Tensor],
    usual: Mapping[str, Tensor],
    labels: Mapping[str, Tensor],
) -> Tensor:
    """KL(usual answers ‖ answers), mean over samples, questions and heads: one number.

    Args:
        outputs, usual: by head, as the model returns them, (B, columns).
        labels: by head; which tell the answers of a head apart only where its problems need them.
    """
    parts = []
    for name, head in model.answers.items():
        logits, _ = head.problems(outputs[name], labels[name])
        before, _ = head.problems(usual[name], labels[name])
        apart = F.kl_div(logits.log_softmax(-1), before.log_softmax(-1), reduction="none", log_target=True)
        parts.append(apart.sum(-1).mean())
    return torch.stack(parts).mean()


def _detached(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.detach() for name, x in inputs.items()}


def opponent_of(
    adversarial: AdversarialTraining, seed: int, device: str, model: FusionModel, info: DatasetInfo
) -> Opponent:
    """The opponent that a recipe asks for.

    Raises:
        UserError: an attack or a radius that does not fit the data set.
    """
    attacks = [make_attack(each.attack, each.options) for each in adversarial.attacks]
    threat = make_threat_model(adversarial.eps, adversarial.norm, (), info).to(device)
    return Opponent(model, attacks, threat, Goal(info.heads), adversarial.eot, seed)
