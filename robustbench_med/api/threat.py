"""What the attacker may change, by how much, and what counts as success (evaluation.md, section 1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from robustbench_med.util.errors import UserError
from robustbench_med.util.seeding import generator

Norm = Literal["linf", "l2"]

# Float32 cannot represent clean + epsilon exactly; a perturbation may be longer by this much.
ROUNDING = 1e-6
# And the L2 length of 3×224×224 pixels in float32 is off by some 2e-6 of itself.
LENGTH_ROUNDING = 1e-5


@dataclass(frozen=True)
class Budget:
    """The ball and box of one attacked modality.

    Attributes:
        norm: "linf" or "l2", per sample over all its pixels.
        epsilon: radius in units of the pixel range, 0 to 1 for Linf.
        low, high: the box.

    Raises:
        UserError: a negative radius, or an Linf radius over 1 (4/255 is 0.0157).
    """

    norm: Norm
    epsilon: float
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon < float("inf"):
            raise UserError(f"epsilon is {self.epsilon:g}; it must be 0 or more, such as 4/255")
        if self.norm == "linf" and self.epsilon > 1:
            raise UserError(
                f"epsilon is {self.epsilon:g}, but pixels span 0 to 1; write {self.epsilon:g}/255 "
                "if you mean grey levels"
            )

    @property
    def tolerance(self) -> float:
        """How far float32 may end up outside the ball."""
        return ROUNDING + (LENGTH_ROUNDING * self.epsilon if self.norm == "l2" else 0.0)

    def project(self, candidate: Tensor, clean: Tensor) -> Tensor:
        """The nearest point of ball and box; exact for Linf, ball then box for L2."""
        if self.norm == "linf":
            lowest, highest = (
                (clean - self.epsilon).clamp_(min=self.low),
                (clean + self.epsilon).clamp_(max=self.high),
            )
            return torch.minimum(torch.maximum(candidate, lowest), highest)
        delta = candidate - clean
        length = _lengths(delta)
        # Shrinking towards a clean point inside the box keeps both constraints.
        return (clean + delta * (self.epsilon / length.clamp_min(1e-12)).clamp_max(1)).clamp(
            self.low, self.high
        )

    def ascend(self, current: Tensor, gradient: Tensor, step: float | Tensor) -> Tensor:
        """One step of size ``step`` (or (B, 1, 1, 1) of them) along the steepest ascent in this norm."""
        if self.norm == "linf":
            return current + step * gradient.sign()
        return current + step * _unit({"": gradient})[""]

    def violation(self, adversarial: Tensor, clean: Tensor) -> float:
        """How far the worst sample lies outside ball or box (0 or less: inside)."""
        delta = adversarial - clean
        length = delta.abs().max() if self.norm == "linf" else _lengths(delta).max()
        outside = torch.stack(
            [length - self.epsilon, self.low - adversarial.min(), adversarial.max() - self.high]
        )
        return float(outside.max())


@dataclass(frozen=True)
class ThreatModel:
    """A budget per attacked modality; the others must come back bit-identical.

    Attributes:
        joint: the radius bounds the L2 length of all attacked modalities together, instead of that of
            each. Their budgets are then equal.

    Raises:
        UserError: a joint ball of another norm than L2, or of several radii.
    """

    budgets: Mapping[str, Budget]
    joint: bool = False

    def __post_init__(self) -> None:
        kinds = set(self.budgets.values())
        if self.joint and (len(kinds) > 1 or any(budget.norm != "l2" for budget in kinds)):
            raise UserError("a joint ball has one L2 radius for all attacked modalities together")

    def scaled(self, factor: float) -> ThreatModel:
        """The same with every radius times ``factor``; an Linf radius ends at 1."""
        longest = {"linf": 1.0, "l2": float("inf")}
        return ThreatModel(
            {
                n: replace(b, epsilon=min(factor * b.epsilon, longest[b.norm]))
                for n, b in self.budgets.items()
            },
            self.joint,
        )

    @property
    def norms(self) -> list[str]:
        """The norm of each attacked modality; a single "l2" of a joint ball."""
        return ["l2"] if self.joint else [budget.norm for budget in self.budgets.values()]

    def project(self, candidate: Mapping[str, Tensor], clean: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Project the attacked modalities; the others are the clean tensors themselves."""
        out = dict(clean)
        if not self.joint:
            return out | {name: b.project(candidate[name], clean[name]) for name, b in self.budgets.items()}
        deltas = {name: candidate[name] - clean[name] for name in self.budgets}
        length = _joint_lengths(deltas)
        for name, budget in self.budgets.items():
            share = (budget.epsilon / length.clamp_min(1e-12)).clamp_max(1)
            out[name] = (clean[name] + deltas[name] * share).clamp(budget.low, budget.high)
        return out

    def ascend(
        self,
        current: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        steps: Mapping[str, float | Tensor],
    ) -> dict[str, Tensor]:
        """One step of each attacked modality along its steepest ascent, before any projection.

        Args:
            steps: lengths in the modality's norm, numbers or (B, 1, 1, 1). In a joint ball they are
                shares of one joint step: equal lengths give the steepest joint ascent.
        """
        out = dict(current)
        if not self.joint:
            for name, budget in self.budgets.items():
                out[name] = budget.ascend(current[name], gradients[name], steps[name])
            return out
        directions = _unit({name: gradients[name] for name in self.budgets})
        for name in self.budgets:
            out[name] = current[name] + steps[name] * directions[name]
        return out

    def random_start(
        self, clean: Mapping[str, Tensor], ids: Sequence[str], seed: int, restart: int = 0
    ) -> dict[str, Tensor]:
        """A uniform point of each sample's ball, derived from (seed, sample id, restart) alone."""
        return self._start(clean, ids, seed, restart, _ball_point)

    def surface_start(
        self, clean: Mapping[str, Tensor], ids: Sequence[str], seed: int, restart: int = 0
    ) -> dict[str, Tensor]:
        """A random point on the surface of each sample's ball (before the box cuts it), likewise."""
        return self._start(clean, ids, seed, restart, _surface_point)

    def _start(
        self,
        clean: Mapping[str, Tensor],
        ids: Sequence[str],
        seed: int,
        restart: int,
        point: Callable[[Budget, torch.Size, torch.Generator], Tensor],
    ) -> dict[str, Tensor]:
        moved = dict(clean)
        noises = {}
        for name, budget in self.budgets.items():
            shape = clean[name].shape[1:]
            streams = [generator(seed, "start", sample, name, restart) for sample in ids]
            noises[name] = torch.stack([point(budget, shape, stream) for stream in streams]).to(clean[name])
        if self.joint:
            noises = self._jointly(noises, ids, seed, restart, point is _ball_point)
        for name, noise in noises.items():
            moved[name] = clean[name] + noise
        return self.project(moved, clean)

    def _jointly(
        self, noises: Mapping[str, Tensor], ids: Sequence[str], seed: int, restart: int, inside: bool
    ) -> dict[str, Tensor]:
        """Directions of each modality as one point of the joint ball, or of its surface.

        Each modality's own direction says nothing about its share of the length; that of a Gaussian
        vector is the root of a chi-square, whose degrees of freedom are the pixels.
        """
        streams = [generator(seed, "start", sample, "joint", restart) for sample in ids]
        sizes = {name: noise[0].numel() for name, noise in noises.items()}
        chi = {
            name: torch.stack([torch.randn(size, generator=s).norm() for s in streams])
            for name, size in sizes.items()
        }
        total = torch.stack(list(chi.values())).norm(dim=0)
        radius = torch.full_like(total, next(iter(self.budgets.values())).epsilon)
        if inside:
            radius = radius * torch.cat([torch.rand(1, generator=s) for s in streams]) ** (
                1 / sum(sizes.values())
            )
        out = {}
        for name, noise in noises.items():
            wanted = (radius * chi[name] / total).to(noise).view(-1, 1, 1, 1)
            out[name] = noise / _lengths(noise).clamp_min(1e-12) * wanted
        return out

    def violation(self, adversarial: Mapping[str, Tensor], clean: Mapping[str, Tensor]) -> float:
        """How far the worst sample lies outside the joint ball (0 or less: inside)."""
        deltas = {name: adversarial[name] - clean[name] for name in self.budgets}
        return float(_joint_lengths(deltas).max()) - next(iter(self.budgets.values())).epsilon

    def check(self, adversarial: Mapping[str, Tensor], clean: Mapping[str, Tensor], attack: str) -> None:
        """Make sure that an attack kept to the rules.

        Raises:
            RuntimeError: NaN, a modality that was not to be touched, or a point outside ball or
                box. That is a bug in the attack (or in the library behind an adapter).
        """
        for name, x in clean.items():
            candidate = adversarial[name]
            if name not in self.budgets:
                if not torch.equal(candidate, x):
                    raise RuntimeError(f"{attack} changed the modality {name!r}, which is not attacked")
                continue
            if candidate.shape != x.shape or not torch.isfinite(candidate).all():
                raise RuntimeError(f"{attack} returned NaN or misshapen {name!r} images")
            excess = self.budgets[name].violation(candidate, x)
            if excess > self.budgets[name].tolerance:
                raise RuntimeError(f"{attack} left the ball or box of {name!r} by {excess:.2g}")
        if self.joint and self.budgets:
            excess = self.violation(adversarial, clean)
            if excess > next(iter(self.budgets.values())).tolerance:
                raise RuntimeError(f"{attack} left the joint ball by {excess:.2g}")


def _lengths(x: Tensor) -> Tensor:
    """L2 length of each sample, (B, 1, 1, 1)."""
    lengths: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return lengths.view(-1, 1, 1, 1)


def _unit(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each sample brought to length 1 over all parts, however short; zeros stay zeros.

    A confident net's gradients are so short that their squares vanish in float32.
    """
    largest = torch.stack([part.abs().flatten(1).amax(1) for part in parts.values()]).amax(0)
    scale = largest.clamp_min(torch.finfo(largest.dtype).tiny).view(-1, 1, 1, 1)
    scaled = {name: part / scale for name, part in parts.items()}
    length = _joint_lengths(scaled).clamp_min(1e-12)
    return {name: part / length for name, part in scaled.items()}


def _joint_lengths(parts: Mapping[str, Tensor]) -> Tensor:
    """L2 length of each sample over all modalities, (B, 1, 1, 1)."""
    lengths: Tensor = torch.linalg.vector_norm(
        torch.stack([_lengths(part) for part in parts.values()]), dim=0
    )
    return lengths


def _ball_point(budget: Budget, shape: torch.Size, stream: torch.Generator) -> Tensor:
    if budget.norm == "linf":
        return (torch.rand(shape, generator=stream) * 2 - 1) * budget.epsilon
    direction = torch.randn(shape, generator=stream)
    radius = torch.rand(1, generator=stream) ** (1 / direction.numel())
    length: Tensor = torch.linalg.vector_norm(direction)
    return direction / length * radius * budget.epsilon


def _surface_point(budget: Budget, shape: torch.Size, stream: torch.Generator) -> Tensor:
    if budget.norm == "linf":
        direction = torch.rand(shape, generator=stream) * 2 - 1
        return direction / direction.abs().max() * budget.epsilon
    direction = torch.randn(shape, generator=stream)
    length: Tensor = torch.linalg.vector_norm(direction)
    return direction / length * budget.epsilon
