"""The contract of an attack: what it is given and what it gives back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robustbench_med.api.model import FusionModel
from robustbench_med.api.objective import Goal, Loss, margin
from robustbench_med.api.threat import ThreatModel
from robustbench_med.util.errors import UserError

LEAVING = 1 / 16  # share of a pass that must be done before the finished samples leave it


@dataclass(frozen=True)
class Batch:
    """Samples under attack.

    Attributes:
        inputs: modalities (B, C, H, W) in [0, 1].
        labels: tasks (B,).
        ids: B sample ids; random starts derive from them.
    """

    inputs: Mapping[str, Tensor]
    labels: Mapping[str, Tensor]
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: Tensor) -> Batch:
        """The samples at ``index`` (B',)."""
        return Batch(
            take(self.inputs, index), take(self.labels, index), tuple(self.ids[i] for i in index.tolist())
        )


@dataclass
class Passes:
    """Samples sent through the model, forwards and backwards."""

    forward: int = 0
    backward: int = 0


@dataclass(frozen=True)
class Evaluation:
    """What the model says about some inputs, averaged over the EOT draws.

    Attributes:
        loss: mean over draws, (B,).
        margin: the goal's margin, mean over draws, (B,): the common measure of attacks whose
            losses differ.
        success: ``Goal.success``, mean over draws, (B,).
        gradients: per attacked modality the gradient of ``loss``, {} unless asked for.
    """

    loss: Tensor
    margin: Tensor
    success: Tensor
    gradients: Mapping[str, Tensor]


@dataclass
class Target:
    """The model as the attacker may use it: under a threat model, with every pass counted.

    Attributes:
        model: in evaluation mode, its parameters frozen.
        eot: draws of the model's randomness behind each loss and gradient; 1 if deterministic.
        seed: for random starts; derive from it by name, never draw from a shared stream.
        rows: most samples in one pass, None for any number. Attacks may try several targets or
            proposals at once; larger requests are cut into passes of this size.
        raw_gradients: leave NaN and infinite entries in the gradients; they are 0 otherwise, so that an
            attack goes on with the others.
        deterministic: True when a sample seen broken once is broken for good.
    """

    model: FusionModel
    threat: ThreatModel
    goal: Goal
    eot: int
    seed: int
    passes: Passes
    rows: int | None = None
    raw_gradients: bool = False
    deterministic: bool = field(init=False)

    def __post_init__(self) -> None:
        self.deterministic = self.model.draws_shared_by == "none"

    def evaluate(
        self,
        inputs: Mapping[str, Tensor],
        labels: Mapping[str, Tensor],
        loss: Loss,
        gradient: bool = True,
        targets: Sequence[Tensor] = (),
    ) -> Evaluation:
        """Loss, success and (if asked) the gradient with respect to the attacked modalities only.

        The mean over ``eot`` draws is a gradient of the expected loss (Athalye et al. 2018).

        Args:
            targets: of a targeted loss, see ``Goal.loss``.

        Raises:
            UserError: no attacked modality gets a gradient; zeros would pass for robustness.
        """
        count = len(next(iter(inputs.values())))
        if self.rows is not None and count > self.rows:
            return self._in_passes(self.rows, inputs, labels, loss, gradient, targets)
        leaves = {name: inputs[name].detach() for name in self.threat.budgets}
        with torch.set_grad_enabled(gradient):
            for leaf in leaves.values():
                leaf.requires_grad_(gradient)
            draws = [self._draw({**inputs, **leaves}, labels, loss, targets) for _ in range(self.eot)]
        self.passes.forward += self.eot * count
        self.passes.backward += self.eot * count if gradient else 0
        return draws[0] if self.eot == 1 else _mean(draws)

    def _in_passes(
        self,
        rows: int,
        inputs: Mapping[str, Tensor],
        labels: Mapping[str, Tensor],
        loss: Loss,
        gradient: bool,
        targets: Sequence[Tensor],
    ) -> Evaluation:
        parts = []
        for start in range(0, len(next(iter(inputs.values()))), rows):
            some = slice(start, start + rows)
            part = {n: x[some] for n, x in inputs.items()}, {t: y[some] for t, y in labels.items()}
            parts.append(self.evaluate(*part, loss, gradient, [t[some] for t in targets]))
        return _combined(parts, torch.cat)

    def scores(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Logits by task (B, K), the mean over the draws: to rank targets by, never to judge by."""
        with torch.no_grad():
            draws = [_float(self.model(inputs)) for _ in range(self.eot)]
        self.passes.forward += self.eot * len(next(iter(inputs.values())))
        return {task: torch.stack([d[task] for d in draws]).mean(0) for task in draws[0]}

    def _draw(
        self,
        inputs: Mapping[str, Tensor],
        labels: Mapping[str, Tensor],
        loss: Loss,
        targets: Sequence[Tensor],
    ) -> Evaluation:
        logits = _float(self.model(inputs))
        losses = self.goal.loss(loss, logits, labels, targets)
        gradients = self._gradients(losses, inputs) if torch.is_grad_enabled() else {}
        losses = losses.detach()
        with torch.no_grad():
            success = self.goal.success(logits, labels)
            same = loss is margin and self.goal.head != "all"
            margins = losses if same else self.goal.margin(logits, labels)
        return Evaluation(losses, margins, success, gradients)

    def no_gradient(self) -> UserError:
        """The error where nothing leads from the loss back to the attacked images."""
        return UserError(
            f"the loss has no gradient with respect to {', '.join(self.threat.budgets)}: the model blocks "
            "it, or the attacked head does not see these modalities; choose an attack without gradients"
        )

    def _gradients(self, losses: Tensor, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        names = list(self.threat.budgets)
        if not losses.requires_grad:
            raise self.no_gradient()
        # A head may well not see every modality; those it does not see get zeros.
        attacked = [inputs[name] for name in names]
        found = torch.autograd.grad(losses.sum(), attacked, materialize_grads=True)
        if not self.raw_gradients:
            found = tuple(g.nan_to_num(0.0, 0.0, 0.0) for g in found)
        return dict(zip(names, found, strict=True))


class Best:
    """The strongest adversarial inputs met so far, per sample.

    Deterministic models: the higher success, then the higher loss. Random models: the higher mean
    loss over the draws, since success in some draws is no success (evaluation.md, section 2).

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
        count, device = len(batch), next(iter(batch.inputs.values())).device
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
            self.inputs[name][where] = inputs[name].detach()[rows]

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


class Attack(ABC):
    """Write a frozen dataclass whose fields are the attack's parameters and register it under
    ``robustbench_med.attacks``. The command line and configs set the fields by name; records
    repeat them.

    Attributes:
        knowledge: what of the model it uses; records repeat it.
    """

    knowledge: ClassVar[Literal["white box", "scores", "decisions", "transfer", "none"]] = "white box"

    @classmethod
    def variant_of(cls, variant: str) -> dict[str, str]:
        """Fields set by what follows the colon in ``--attack name:variant``; adapters use it.

        Raises:
            UserError: this attack has no variants, or not that one.
        """
        raise UserError(f"{cls.__name__} has no variants; drop ':{variant}' from --attack")

    def prolonged(self, factor: int) -> Attack | None:
        """The same attack with ``factor`` times as many steps; None if it has none to multiply.

        Audits ask for it. By default a field ``steps`` is multiplied.
        """
        steps = getattr(self, "steps", None)
        if not is_dataclass(self) or not isinstance(steps, int):
            return None
        longer: Attack = replace(self, steps=factor * steps)
        return longer

    @abstractmethod
    def perturb(self, target: Target, batch: Batch) -> dict[str, Tensor]:
        """Return all modalities: attacked ones inside ball and box, the others as they were.

        Raises:
            UserError: the attack cannot express this threat model or this model.
        """


def take(tensors: Mapping[str, Tensor], index: Tensor) -> dict[str, Tensor]:
    """The samples at ``index`` of every tensor."""
    return {name: tensor[index] for name, tensor in tensors.items()}


def remaining(unfinished: Tensor) -> Tensor:
    """The rows to go on with, given which of them are ``unfinished`` (B,): all until ``LEAVING`` are done.

    A pass of a size not seen before costs more, since libraries choose and prepare kernels for it; a
    pass that shrinks by a sample at every step would pay more than it saves.
    """
    rows = torch.nonzero(unfinished).squeeze(1)
    if len(rows) > (1 - LEAVING) * len(unfinished):
        return torch.arange(len(unfinished), device=unfinished.device)
    return rows


def _float(logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """In float32, whatever the model computes in: losses need the precision."""
    return {task: z.float() for task, z in logits.items()}


def _mean(draws: list[Evaluation]) -> Evaluation:
    return _combined(draws, lambda tensors: torch.stack(tensors).mean(0))


def _combined(parts: list[Evaluation], combine: Callable[[list[Tensor]], Tensor]) -> Evaluation:
    return Evaluation(
        combine([p.loss for p in parts]),
        combine([p.margin for p in parts]),
        combine([p.success for p in parts]),
        {name: combine([p.gradients[name] for p in parts]) for name in parts[0].gradients},
    )
