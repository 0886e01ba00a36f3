"""SPSA (Uesato et al. 2018, arXiv:1802.05666): a gradient estimated from scores, climbed by signed steps.

It needs no gradient of the model's, so it goes on where rounding, thresholds or a forged backward pass
lead gradient attacks astray; unlike a random search it follows a slope. Any number of modalities of any kind.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robustbench_med.api import Attack, Batch, Best, Target, UserError, generator, margin, per_sample, take


@dataclass(frozen=True)
class SPSA(Attack):
    """Steps along the mean of finite differences of the margin in random directions of ±1.

    Both points of a difference lie under the same draws of a random model. The estimates are averaged over
    the steps (``decay``), as most of each is chance. Neighbours along the axes of space or time move together
    (Ilyas et al. 2019, arXiv:1807.07978, section 3.1, "tiling"), in tiles that lie anew in every direction:
    fewer unknowns, and nets answer to smooth changes more than to rough ones.

    Attributes:
        steps: along the estimated gradient.
        directions: pairs of points behind each estimate.
        probe: distance of the two points from the middle, in radii.
        decay: weight of the earlier estimates.
        step_size: in radii.
        tile: length of a tile's sides, in elements; features of a table are not tiled.
    """

    knowledge: ClassVar[Literal["scores"]] = "scores"

    steps: int = 40
    directions: int = 32
    probe: float = 0.5
    decay: float = 0.9
    step_size: float = 0.1
    tile: int = 2

    def __post_init__(self) -> None:
        if self.steps < 1 or self.directions < 1 or self.tile < 1:
            raise UserError("spsa: steps, directions and tile must be 1 or more")
        sizes_fit = 0 < self.probe < math.inf and 0 < self.step_size < math.inf
        if not sizes_fit or not 0 <= self.decay < 1:
            raise UserError("spsa: probe and step-size must be positive, decay at least 0 and below 1")

    def perturb(self, target: Target, batch: Batch) -> dict[str, Tensor]:
        threat, best = target.threat, Best(batch, target, by="margin")
        current: Mapping[str, Tensor] = dict(batch.inputs)
        velocity = {name: torch.zeros_like(current[name]) for name in threat.budgets}
        sizes = {name: self.step_size * budget.epsilon for name, budget in threat.budgets.items()}
        index = best.standing()
        for step in range(self.steps):
            part = batch.take(index)
            best.update(index, current, target.evaluate(part, current, margin, gradient=False))
            still = best.unfinished(index)
            index, part = index[still], part.take(torch.nonzero(still).squeeze(1))
            current, velocity = (take(parts, still) for parts in (current, velocity))
            if len(index) == 0:
                return best.inputs
            for name, estimate in self._estimate(target, part, current, step).items():
                velocity[name] = self.decay * velocity[name] + estimate
            current = threat.project(threat.ascend(current, velocity, sizes), part.inputs)
        seen = target.evaluate(batch.take(index), current, margin, gradient=False)
        best.update(index, current, seen)
        return best.inputs

    def _estimate(
        self, target: Target, batch: Batch, current: Mapping[str, Tensor], step: int
    ) -> dict[str, Tensor]:
        """A gradient of the margin with respect to each attacked modality.

        A few directions are asked about at once, so that a pass has no more rows than it may; they are added
        one by one, so that it does not matter how many.
        """
        names, at_once = target.threat.budgets, max(1, (target.rows or len(batch)) // (2 * len(batch)))
        total = {name: torch.zeros_like(current[name]) for name in names}
        for first in range(0, self.directions, at_once):
            numbers = range(first, min(first + at_once, self.directions))
            signs = [self._signs(target, batch, current, step, number) for number in numbers]
            rises = self._rises(target, batch, current, signs, [step * self.directions + n for n in numbers])
            for sign, rise in zip(signs, rises, strict=True):
                for name in names:
                    total[name] += per_sample(rise, sign[name]) * sign[name]
        # Probes moved by units; a gradient is with respect to values.
        return {name: names[name].box.in_units(slope) for name, slope in total.items()}

    def _signs(
        self, target: Target, batch: Batch, current: Mapping[str, Tensor], step: int, number: int
    ) -> dict[str, Tensor]:
        """One direction a sample, ±1 at every element."""
        found = {}
        for name in target.threat.budgets:
            shape = current[name].shape[1:]
            streams = [generator(target.seed, "spsa", i, name, step, number) for i in batch.ids]
            found[name] = torch.stack([_tiles(shape, self.tile, s) for s in streams]).to(current[name])
        return found

    def _rises(
        self,
        target: Target,
        batch: Batch,
        current: Mapping[str, Tensor],
        signs: list[dict[str, Tensor]],
        lanes: list[int],
    ) -> list[Tensor]:
        """By how much the margin differs between the two points of each direction, (B,) each."""
        sides = [(sign, side) for sign in signs for side in (1, -1)]
        moved = [self._moved(target, batch, current, sign, side) for sign, side in sides]
        rows = torch.arange(len(batch), device=batch.device).repeat(len(sides))
        asked = replace(batch.take(rows), lanes=tuple(lane for lane in lanes for _ in range(2 * len(batch))))
        inputs = {
            name: torch.cat([m[name] for m in moved]) if name in moved[0] else x[rows]
            for name, x in batch.inputs.items()
        }
        seen = target.evaluate(asked, inputs, margin, gradient=False, steps=[0] * len(rows))
        forwards, backwards = seen.margin.view(len(signs), 2, len(batch)).unbind(1)
        return list(forwards - backwards)

    def _moved(
        self,
        target: Target,
        batch: Batch,
        current: Mapping[str, Tensor],
        sign: Mapping[str, Tensor],
        side: int,
    ) -> dict[str, Tensor]:
        moved = {}
        for name, budget in target.threat.budgets.items():
            # In L2 a step of ±1 at every element is as long as the root of their number.
            count = 1.0 if budget.norm == "linf" else budget.box.extent(current[name].shape[1:]) ** 0.5
            size = side * self.probe * budget.epsilon / max(count, 1.0)
            change = budget.box.in_values(size * sign[name])
            moved[name] = budget.box.clamp(current[name] + change, batch.inputs[name])
        return moved


def _tiles(shape: torch.Size, tile: int, stream: torch.Generator) -> Tensor:
    """±1 (*shape), the same within tiles along all axes but the first, which lie at a random offset."""
    tile = min(tile, *shape[1:]) if len(shape) > 1 else 1
    offset = int(torch.randint(tile, (), generator=stream))
    # One tile more than fits, so that an offset leaves enough.
    counts = (shape[0], *(math.ceil((n + tile - 1) / tile) for n in shape[1:]))
    signs = torch.randint(0, 2, counts, generator=stream, dtype=torch.int8) * 2 - 1
    for axis, length in enumerate(shape[1:], start=1):
        signs = signs.repeat_interleave(tile, axis).narrow(axis, offset, length)
    return signs
