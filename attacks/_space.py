"""The perturbations of several modalities as one vector, and the shortest moves between them.

Perturbations are vectors in units of each modality's radius, so that the threat model, a product
of balls, is the unit ball of one norm: the largest of the modalities' lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustbench_med.api import Budget, ThreatModel, take

# Newton's method below ends after 3 to 8 rounds; an end is needed for inputs made to defeat it.
ROUNDS = 50
# Of the distance to a hyperplane, what float32 need not resolve.
PRECISION = 1e-6
# Stands for "further than any box"; unlike infinity it gives 0 when multiplied by 0.
FAR = 1e30


@dataclass(frozen=True)
class Space:
    """The perturbations of a batch as vectors (B, N), in units of each modality's radius.

    Attributes:
        budgets: of the modalities with a positive radius; the others cannot move.
        clean: all modalities of the batch.
        low, high: the box of each vector's coordinates, (B, N).
        joint: lengths are those of the whole vector, not the largest of the modalities'.
    """

    budgets: Mapping[str, Budget]
    clean: Mapping[str, Tensor]
    low: Tensor
    high: Tensor
    joint: bool = False

    @classmethod
    def around(cls, clean: Mapping[str, Tensor], threat: ThreatModel) -> Space | None:
        """The space of what ``threat`` lets move; None if that is nothing."""
        budgets = {name: budget for name, budget in threat.budgets.items() if budget.epsilon > 0}
        if not budgets:
            return None
        low = [_reach(b, clean[n], b.box.lowest(clean[n])) for n, b in budgets.items()]
        high = [_reach(b, clean[n], b.box.highest(clean[n])) for n, b in budgets.items()]
        return cls(budgets, clean, torch.cat(low, 1), torch.cat(high, 1), threat.joint)

    def take(self, index: Tensor) -> Space:
        """The space of the samples at ``index``."""
        return replace(self, clean=take(self.clean, index), low=self.low[index], high=self.high[index])

    def split(self, vectors: Tensor) -> tuple[Tensor, ...]:
        """The part (B, N_part) of every modality that can move."""
        parts: tuple[Tensor, ...] = torch.split(
            vectors, [self.clean[n].shape[1:].numel() for n in self.budgets], 1
        )
        return parts

    @property
    def norms(self) -> list[str]:
        """The norm of each block."""
        return ["l2"] if self.joint else [budget.norm for budget in self.budgets.values()]

    def blocks(self, vectors: Tensor) -> tuple[Tensor, ...]:
        """The parts (B, N_part) whose lengths count: the modalities', or all in one."""
        return (vectors,) if self.joint else self.split(vectors)

    def inputs(self, vectors: Tensor) -> dict[str, Tensor]:
        """All modalities, moved by ``vectors``."""
        moved = dict(self.clean)
        for (name, budget), part in zip(self.budgets.items(), self.split(vectors), strict=True):
            clean, box = self.clean[name], budget.box
            moved[name] = box.clamp(clean + box.in_values(budget.epsilon * part.view_as(clean)), clean)
        return moved

    def vectors(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The inverse of ``inputs``."""
        parts = [
            b.box.in_units(inputs[n] - self.clean[n]).flatten(1) / b.epsilon for n, b in self.budgets.items()
        ]
        return torch.cat(parts, 1)

    def gradient(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """Gradients with respect to the inputs as one with respect to the vectors, (B, N)."""
        parts = [b.box.slope(gradients[name]).flatten(1) * b.epsilon for name, b in self.budgets.items()]
        return torch.cat(parts, 1)

    def inside(self, vectors: Tensor) -> Tensor:
        """The vectors put back into the box."""
        return torch.minimum(torch.maximum(vectors, self.low), self.high)

    def by_block(
        self, vectors: Tensor, linf: Callable[[Tensor], Tensor], l2: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """The vectors with every block sent through the function of its norm."""
        parts = [
            linf(part) if norm == "linf" else l2(part)
            for norm, part in zip(self.norms, self.blocks(vectors), strict=True)
        ]
        return torch.cat(parts, 1)

    def lengths(self, vectors: Tensor) -> Tensor:
        """The norm of each vector (B,); the threat model is where it is 1 or less."""
        lengths = [
            part.abs().amax(1) if norm == "linf" else torch.linalg.vector_norm(part, dim=1)
            for norm, part in zip(self.norms, self.blocks(vectors), strict=True)
        ]
        return torch.stack(lengths).amax(0)

    def towards(self, origin: Tensor, normal: Tensor, gap: Tensor) -> Tensor:
        """The shortest move from ``origin`` (B, N), inside the box, along which a linear function rises.

        Args:
            normal: the function's gradient (B, N).
            gap: by how much it is to rise, (B,). If the box forbids that, the move goes as far as
                the box lets it.
        """
        steepest = normal.abs().amax(1).clamp_min(torch.finfo(normal.dtype).tiny)
        sign = normal.sign() * gap.sign()[:, None]
        room = torch.where(sign > 0, self.high - origin, origin - self.low).clamp_min_(0)
        # Scaled so that no square below can underflow.
        weight, goal = normal.abs() / steepest[:, None], gap.abs() / steepest
        return sign * self._climb(weight, room, goal)

    def _climb(self, weight: Tensor, room: Tensor, goal: Tensor) -> Tensor:
        """``towards`` where all is positive: the shortest move in [0, room] that earns ``goal``."""
        norms = self.norms
        if set(norms) == {"linf"}:
            one = torch.ones_like(weight[:1, :1])
            return torch.minimum(water_level(weight, one, room, goal)[:, None], room)
        if norms == ["l2"]:
            return torch.minimum(water_level(weight, weight, room, goal)[:, None] * weight, room)
        return shortest_in_product(norms, self.blocks(weight), self.blocks(room), goal)


def _reach(budget: Budget, clean: Tensor, end: float | Tensor) -> Tensor:
    """How far it is from the clean values to an end of the range, in units of the radius."""
    return (budget.box.in_units(end - clean) / budget.epsilon).flatten(1)


def water_level(weight: Tensor, speed: Tensor, cap: Tensor, goal: Tensor) -> Tensor:
    """The level t (B,) at which the sum over i of weight_i · min(t · speed_i, cap_i) reaches ``goal``.

    This one equation is the dual of all projections onto a hyperplane and a box: with speed 1 it is
    that of Linf, with speed = weight that of L2. Its left side is concave and piecewise linear in t,
    so Newton's method from t = 0 never overshoots and ends exactly, on the right piece, after a
    few rounds; nothing needs to be sorted.

    Args:
        weight, speed, cap: 0 or more, (B, N) or such that they broadcast.
        goal: (B,). A goal out of reach gives a level so high that every cap is met.
    """
    rate = weight * speed
    level = goal / rate.sum(1).clamp_min(torch.finfo(rate.dtype).tiny)
    for _ in range(ROUNDS):
        reached = torch.minimum(level[:, None] * speed, cap)
        missing = goal - torch.linalg.vecdot(weight, reached)
        slope = torch.where(reached < cap, rate, 0).sum(1)
        moving = (missing > PRECISION * goal) & (slope > 0)
        if not moving.any():
            break
        level = torch.where(moving, level + missing / slope, level)
    return torch.where((slope > 0) | (missing <= PRECISION * goal), level, FAR)


def shortest_in_product(
    norms: Sequence[str], weights: Sequence[Tensor], rooms: Sequence[Tensor], goal: Tensor
) -> Tensor:
    """The move in [0, room] that earns ``goal`` (B,) with the smallest largest length of its parts.

    All parts get the same length r, and each earns as much as it can with it. What they earn together
    is concave in r: again Newton's method, never overshooting.

    Args:
        norms: "linf" or "l2", of each part.
        weights, rooms: each part's, (B, N_part).
    """
    dual = [w.sum(1) if n == "linf" else w.norm(dim=1) for n, w in zip(norms, weights, strict=True)]
    length = goal / torch.stack(dual).sum(0).clamp_min(torch.finfo(goal.dtype).tiny)
    for _ in range(ROUNDS):
        parts = [
            _furthest(norm, w, room, length) for norm, w, room in zip(norms, weights, rooms, strict=True)
        ]
        earned = [torch.linalg.vecdot(w, move) for w, (move, _) in zip(weights, parts, strict=True)]
        missing, slope = goal - torch.stack(earned).sum(0), torch.stack([s for _, s in parts]).sum(0)
        moving = (missing > PRECISION * goal) & (slope > 0)
        if not moving.any():
            break
        length = torch.where(moving, length + missing / slope, length)
    return torch.cat([move for move, _ in parts], 1)


def _furthest(norm: str, weight: Tensor, room: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """The move of ``length`` (B,) that earns most, and what it would earn per further length, (B,)."""
    if norm == "linf":
        move = torch.minimum(length[:, None], room)
        return move, torch.where(move < room, weight, 0).sum(1)
    # Moves along the gradient, min(t · weight, room); its squared length is as concave in t².
    square = water_level(torch.ones_like(weight[:1, :1]), weight**2, room**2, length**2)
    move = torch.minimum(square.sqrt()[:, None] * weight, room)
    return move, torch.where(square < FAR, length / square.sqrt(), 0)
