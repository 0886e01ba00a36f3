"""CW-L2 (Carlini & Wagner 2017) on any number of modalities and heads."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_med.api import Attack, Batch, Best, Target, UserError, margin
from robustbench_med.attacks._space import Space

# The range of the tanh is this share of the box wider than the box on either side, and cut off there.
# The slope of the tanh at a pixel of exactly 0 or 1 is then not 0, and black backgrounds can move.
OVERHANG = 0.05
# Factor on the weight of the margin while it is known from one side only.
LEAP = 10.0
# Decay of Adam's two moments, and what keeps it from dividing by zero (Kingma & Ba 2015).
FIRST, SECOND, TINY = 0.9, 0.999, 1e-8


class Closest:
    """The adversarial perturbations (B, N) of the smallest L2 length (B,) met so far."""

    def __init__(self, like: Tensor) -> None:
        self.vectors = torch.zeros_like(like)
        self.lengths = torch.full_like(like[:, 0], torch.inf)

    def update(self, vectors: Tensor, adversarial: Tensor) -> None:
        """Keep those of ``vectors`` that are ``adversarial`` (B,) and shorter."""
        lengths = torch.linalg.vector_norm(vectors, dim=1)
        shorter = adversarial & (lengths < self.lengths)
        self.vectors[shorter], self.lengths[shorter] = vectors[shorter], lengths[shorter]


class Tanh:
    """The change of variables: any vector (B, N) to a perturbation inside the box."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.middle = (space.high + space.low) / 2
        self.half = (space.high - space.low) * (0.5 + OVERHANG)

    def start(self) -> Tensor:
        """The variable at the clean point."""
        bent = torch.where(self.half > 0, -self.middle / self.half.clamp_min(TINY), 0)
        return torch.atanh(bent)

    def vectors(self, variable: Tensor) -> tuple[Tensor, Tensor]:
        """The perturbation, and its derivative as if the box did not cut it off."""
        bent = torch.tanh(variable)
        vectors = torch.addcmul(self.middle, self.half, bent)
        return self.space.inside(vectors), self.half * (1 - bent**2)


class Adam:
    """Adam (Kingma & Ba 2015) on one tensor, its step falling linearly to 0."""

    def __init__(self, variable: Tensor, step_size: float, steps: int) -> None:
        self.variable, self.step_size, self.steps, self.done = variable, step_size, steps, 0
        self.first, self.second = torch.zeros_like(variable), torch.zeros_like(variable)

    def step(self, gradient: Tensor) -> None:
        """One step down."""
        step_size = self.step_size * (1 - self.done / self.steps)
        self.done += 1
        self.first = torch.lerp(gradient, self.first, FIRST)
        self.second = torch.lerp(gradient**2, self.second, SECOND)
        scale = (self.second / (1 - SECOND**self.done)).sqrt_().add_(TINY)
        self.variable = self.variable - step_size / (1 - FIRST**self.done) * self.first / scale


@dataclass(frozen=True)
class CW(Attack):
    """CW-L2: minimises length² + c · max(confidence - margin, 0), c searched for each sample.

    The length is the joint L2 length of all attacked modalities. Where they have radii of their own,
    each counts in units of its radius: a modality with half the radius counts double.

    Attributes:
        steps: Adam steps for each c.
        search_steps: values of c tried.
        step_size: Adam's first, in the variable whose tanh is the input.
        confidence: margin (in logits) from which a point counts as adversarial.
    """

    steps: int = 100
    search_steps: int = 9
    step_size: float = 0.05
    confidence: float = 0.0

    def __post_init__(self) -> None:
        if min(self.steps, self.search_steps) < 1:
            raise UserError("cw: steps and search-steps must be 1 or more")
        if not 0 < self.step_size < math.inf:
            raise UserError(f"cw: step-size is {self.step_size:g}; it must be positive")
        if not 0 <= self.confidence < math.inf:
            raise UserError(f"cw: confidence is {self.confidence:g}; it must be 0 or more")

    def perturb(self, target: Target, batch: Batch) -> dict[str, Tensor]:
        """The closest adversarial inputs where they lie inside the ball.

        Elsewhere (and for random models) the strongest of the clean inputs, the closest adversarial
        ones projected into the ball, and those brought to the full radius of every modality.
        """
        space = _space(target, batch)
        if space is None:
            return dict(batch.inputs)
        best, closest = Best(batch, target, by="margin"), self._closest(target, batch, space)
        for vectors in (torch.zeros_like(space.low), closest.vectors, filled(space, closest.vectors)):
            index = best.standing()
            if len(index) == 0:
                break
            part, place = batch.take(index), space.take(index)
            inside = target.threat.project(place.inputs(vectors[index]), part.inputs)
            best.update(index, inside, target.evaluate(part, inside, margin, gradient=False))
        return best.inputs

    def minimise(self, target: Target, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """The closest adversarial inputs, which may lie outside the ball, and their distances (B,).

        Distances are in units of the modality, or for radii that differ in those of the modality with the
        largest; infinite, with the clean inputs, where nothing adversarial was found.
        """
        space = _space(target, batch)
        if space is None:
            raise UserError("cw: every radius is 0; it says how to weigh the modalities")
        closest = self._closest(target, batch, space)
        unit = max(budget.epsilon for budget in space.budgets.values())
        return space.inputs(closest.vectors), closest.lengths * unit

    def _closest(self, target: Target, batch: Batch, space: Space) -> Closest:
        """Search for c on the samples that are not adversarial as they are."""
        closest = Closest(space.low)
        seen = target.evaluate(batch, batch.inputs, margin)
        closest.update(closest.vectors, seen.margin > self.confidence)
        index = torch.nonzero(closest.lengths > 0).squeeze(1)
        if len(index) > 0:
            part, place = batch.take(index), space.take(index)
            slope = torch.linalg.vector_norm(space.gradient(seen.gradients)[index], dim=1)
            found = self._search(
                target, part, place, _first_guess(self.confidence - seen.margin[index], slope)
            )
            closest.vectors[index], closest.lengths[index] = found.vectors, found.lengths
        return closest

    def _search(self, target: Target, batch: Batch, space: Space, weight: Tensor) -> Closest:
        """Bisect c (B,), from ``weight``, on a logarithmic scale."""
        closest = Closest(space.low)
        low, high = torch.zeros_like(weight), torch.full_like(weight, torch.inf)
        for _ in range(self.search_steps):
            reached = self._descend(target, batch, space, weight, closest)
            high, low = torch.where(reached, weight, high), torch.where(reached, low, weight)
            leap = torch.where(reached, weight / LEAP, weight * LEAP)
            weight = torch.where((low > 0) & high.isfinite(), (low * high).sqrt(), leap)
        return closest

    def _descend(
        self, target: Target, batch: Batch, space: Space, weight: Tensor, closest: Closest
    ) -> Tensor:
        """Minimise for one c (B,); returns whether anything adversarial was met, (B,)."""
        box = Tanh(space)
        adam = Adam(box.start(), self.step_size, self.steps)
        reached = torch.zeros_like(weight, dtype=torch.bool)
        for _ in range(self.steps):
            vectors, bend = box.vectors(adam.variable)
            seen = target.evaluate(batch, space.inputs(vectors), margin)
            adversarial = seen.margin > self.confidence
            closest.update(vectors, adversarial)
            reached |= adversarial
            pull = torch.where(adversarial, 0, weight)[:, None] * space.gradient(seen.gradients)
            adam.step((2 * vectors - pull) * bend)
        return reached


def filled(space: Space, vectors: Tensor) -> Tensor:
    """The part of every modality (in a joint ball: the whole) brought to length 1, its direction kept.

    The closest point of the joint length gives each modality its right direction, but the threat model
    lets each use its own radius to the full.
    """
    lengths = [torch.linalg.vector_norm(part, dim=1, keepdim=True) for part in space.blocks(vectors)]
    parts = zip(space.blocks(vectors), lengths, strict=True)
    return torch.cat([part / length.clamp_min(TINY) for part, length in parts], 1)


def _first_guess(missing: Tensor, slope: Tensor) -> Tensor:
    """The smallest c (B,) that makes a linear model adversarial.

    Scaled logits or other units of length scale it along, where a constant would cost the search
    its first steps or all of them.
    """
    return (2 * missing.clamp_min(1e-6) / slope.square().clamp_min(1e-20)).clamp_max(1e12)


def _space(target: Target, batch: Batch) -> Space | None:
    if any(budget.norm != "l2" for budget in target.threat.budgets.values()):
        raise UserError("cw: works in l2 only; add --norm l2, or attack in linf with pgd, apgd or fab")
    return Space.around(batch.inputs, target.threat)
