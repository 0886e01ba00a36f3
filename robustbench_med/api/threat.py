"""What the attacker may change, and by how much (docs/method.md, "Threat model")."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from robustbench_med.api.space import (
    PLAIN,
    TINY,
    Box,
    ball_point,
    clamp,
    joint_lengths,
    lengths,
    per_sample,
    surface_point,
    unit_vectors,
)
from robustbench_med.util.errors import UserError
from robustbench_med.util.seeding import generator

Norm = Literal["linf", "l2"]

# Float32 cannot represent clean + epsilon exactly; a perturbation may be longer by this much.
ROUNDING = 1e-6
# And the L2 length of 3×224×224 pixels in float32 is off by some 2e-6 of itself.
LENGTH_ROUNDING = 1e-5
# The relative error of a difference of two float32 values that were themselves rounded.
LAST_BITS = 2**-22


@dataclass(frozen=True)
class Budget:
    """The ball and box of one attacked modality.

    Attributes:
        norm: "linf" or "l2", per sample over all its elements.
        epsilon: radius in units of the modality: a share of the range of an image, a volume or a signal,
            standard deviations of a table's features.
        box: range, unit and mask of the modality.

    Raises:
        UserError: a negative radius, or an Linf radius that is longer than the range (4/255 is 0.0157).
    """

    norm: Norm
    epsilon: float
    box: Box = field(default=PLAIN, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon < float("inf"):
            raise UserError(f"epsilon is {self.epsilon:g}; it must be 0 or more, such as 4/255")
        if self.norm == "linf" and self.epsilon > self.most:
            raise UserError(
                f"epsilon is {self.epsilon:g}, but values span {self.most:g} of their unit; write "
                f"{self.epsilon:g}/255 if you mean grey levels"
            )

    @property
    def most(self) -> float:
        """The longest Linf radius that means anything: then every value may become any other."""
        if not any(isinstance(part, Tensor) for part in (self.box.low, self.box.high, self.box.unit)):
            return 1.0
        return max(1.0, float(torch.as_tensor((self.box.high - self.box.low) / self.box.unit).max()))

    @property
    def tolerance(self) -> float:
        """How far, in units, float32 may end up outside the ball."""
        return ROUNDING + (LENGTH_ROUNDING * self.epsilon if self.norm == "l2" else 0.0)

    def project(self, candidate: Tensor, clean: Tensor) -> Tensor:
        """The nearest point of ball and box; exact for Linf, ball then box for L2."""
        box = self.box
        if self.norm == "l2":
            delta = candidate - clean
            length = per_sample(lengths(box.in_units(delta)), delta)
            # Shrinking towards a clean point inside the box keeps both constraints.
            return box.clamp(clean + delta * (self.epsilon / length.clamp_min(TINY)).clamp_max(1), clean)
        if box.mutable is None and not isinstance(box.unit, Tensor):
            reach: float | Tensor = self.epsilon * box.unit
        else:
            reach = box.in_values(torch.full_like(clean, self.epsilon))
        lowest = clamp(clean - reach, box.lowest(clean), float("inf"))
        highest = clamp(clean + reach, -float("inf"), box.highest(clean))
        return torch.minimum(torch.maximum(candidate, lowest), highest)

    def ascend(self, current: Tensor, gradient: Tensor, step: float | Tensor) -> Tensor:
        """One step of ``step`` units (a number or (B,)) along the steepest ascent in this norm."""
        size = per_sample(step, current) if isinstance(step, Tensor) else step
        if self.norm == "linf":
            return current + self.box.in_values(size * gradient.sign())
        return current + self.box.in_values(size * unit_vectors({"": self.box.slope(gradient)})[""])

    def violation(self, adversarial: Tensor, clean: Tensor) -> float:
        """How far, in units, the worst sample lies outside ball or box (0 or less: inside)."""
        box = self.box
        delta = box.in_units(adversarial - clean).abs()
        if not box.is_plain:  # a difference of large values is exact to a few of their last bits only
            delta = (delta - LAST_BITS * box.in_units(clean).abs()).clamp_min(0)
        length = delta.max() if self.norm == "linf" else lengths(delta).max()
        inside = clamp(adversarial, box.lowest(clean), box.highest(clean))
        outside = box.in_units(adversarial - inside).abs().max()
        return float(torch.maximum(length - self.epsilon, outside))

    def as_record(self) -> dict[str, Any]:
        """Norm, radius, range and unit; of a mask, which elements may change."""
        box = self.box
        said: dict[str, Any] = {"norm": self.norm, "epsilon": self.epsilon}
        for name in ("low", "high", "unit"):
            value = getattr(box, name)
            said[name] = value.flatten().tolist() if isinstance(value, Tensor) else value
        if box.mutable is not None:
            said["mutable"] = (
                box.mutable.flatten().tolist() if box.mutable.dim() < 2 else int(box.mutable.sum())
            )
        return said


@dataclass(frozen=True)
class ThreatModel:
    """A budget per attacked modality; the others must come back bit-identical.

    Attributes:
        joint: the radius bounds the L2 length, in units, of all attacked modalities together, instead of
            that of each. Their budgets then have one radius.

    Raises:
        UserError: a joint ball of another norm than L2, or of several radii.
    """

    budgets: Mapping[str, Budget]
    joint: bool = False

    def __post_init__(self) -> None:
        kinds = set(self.budgets.values())
        if self.joint and (len(kinds) > 1 or any(budget.norm != "l2" for budget in kinds)):
            raise UserError("a joint ball has one L2 radius for all attacked modalities together")

    def to(self, device: str | torch.device) -> ThreatModel:
        """The same with boxes on a device."""
        place = torch.device(device)
        moved = {
            n: replace(b, box=b.box if b.box is PLAIN else b.box.to(place)) for n, b in self.budgets.items()
        }
        return ThreatModel(moved, self.joint)

    def scaled(self, factor: float) -> ThreatModel:
        """The same with every radius times ``factor``; an Linf radius ends at the whole range."""
        longest = {name: b.most if b.norm == "linf" else float("inf") for name, b in self.budgets.items()}
        return ThreatModel(
            {n: replace(b, epsilon=min(factor * b.epsilon, longest[n])) for n, b in self.budgets.items()},
            self.joint,
        )

    @property
    def norms(self) -> list[str]:
        """The norm of each attacked modality; a single "l2" of a joint ball."""
        return ["l2"] if self.joint else [budget.norm for budget in self.budgets.values()]

    @property
    def radius(self) -> float:
        """The one radius of a joint ball."""
        return next(iter(self.budgets.values())).epsilon

    def project(self, candidate: Mapping[str, Tensor], clean: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Project the attacked modalities; the others are the clean tensors themselves."""
        out = dict(clean)
        if not self.joint:
            return out | {name: b.project(candidate[name], clean[name]) for name, b in self.budgets.items()}
        deltas = {name: candidate[name] - clean[name] for name in self.budgets}
        length = joint_lengths(self._in_units(deltas))
        for name, budget in self.budgets.items():
            share = (budget.epsilon / length.clamp_min(TINY)).clamp_max(1)
            moved = clean[name] + deltas[name] * per_sample(share, deltas[name])
            out[name] = budget.box.clamp(moved, clean[name])
        return out

    def _in_units(self, deltas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.budgets[name].box.in_units(delta) for name, delta in deltas.items()}

    def ascend(
        self,
        current: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        steps: Mapping[str, float | Tensor],
    ) -> dict[str, Tensor]:
        """One step of each attacked modality along its steepest ascent, before any projection.

        Args:
            steps: lengths in units of the modality, numbers or (B,). In a joint ball they are shares of
                one joint step: equal lengths give the steepest joint ascent.
        """
        out = dict(current)
        if not self.joint:
            for name, budget in self.budgets.items():
                out[name] = budget.ascend(current[name], gradients[name], steps[name])
            return out
        slopes = {name: budget.box.slope(gradients[name]) for name, budget in self.budgets.items()}
        for name, direction in unit_vectors(slopes).items():
            size = steps[name]
            length = per_sample(size, direction) if isinstance(size, Tensor) else size
            out[name] = current[name] + self.budgets[name].box.in_values(length * direction)
        return out

    def random_start(
        self, clean: Mapping[str, Tensor], ids: Sequence[str], seed: int, restart: int = 0
    ) -> dict[str, Tensor]:
        """A uniform point of each sample's ball, derived from (seed, sample id, restart) alone."""
        return self._start(clean, ids, seed, restart, ball_point)

    def surface_start(
        self, clean: Mapping[str, Tensor], ids: Sequence[str], seed: int, restart: int = 0
    ) -> dict[str, Tensor]:
        """A random point on the surface of each sample's ball (before the box cuts it), likewise."""
        return self._start(clean, ids, seed, restart, surface_point)

    def _start(
        self,
        clean: Mapping[str, Tensor],
        ids: Sequence[str],
        seed: int,
        restart: int,
        point: Callable[[str, torch.Size, torch.Generator, Tensor | None], Tensor],
    ) -> dict[str, Tensor]:
        moved, points = dict(clean), {}
        for name, budget in self.budgets.items():
            shape, mutable = clean[name].shape[1:], budget.box.mutable
            free = None if mutable is None else mutable.cpu()
            streams = [generator(seed, "start", sample, name, restart) for sample in ids]
            points[name] = torch.stack([point(budget.norm, shape, stream, free) for stream in streams])
        points = {name: x * self.budgets[name].epsilon for name, x in points.items()}
        if self.joint:
            points = self._jointly(points, ids, seed, restart, point is ball_point)
        for name, x in points.items():
            moved[name] = clean[name] + self.budgets[name].box.in_values(x.to(clean[name]))
        return self.project(moved, clean)

    def _jointly(
        self, points: Mapping[str, Tensor], ids: Sequence[str], seed: int, restart: int, inside: bool
    ) -> dict[str, Tensor]:
        """Directions of each modality as one point of the joint ball, or of its surface.

        Each modality's own direction says nothing about its share of the length; that of a Gaussian
        vector is the root of a chi-square, whose degrees of freedom are the elements that may change.
        """
        streams = [generator(seed, "start", sample, "joint", restart) for sample in ids]
        boxes = {name: self.budgets[name].box for name in points}
        sizes = {name: boxes[name].extent(x.shape[1:]) for name, x in points.items()}
        chi = {
            name: torch.stack([torch.randn(size, generator=s).norm() for s in streams])
            for name, size in sizes.items()
        }
        total = torch.stack(list(chi.values())).norm(dim=0)
        radius = torch.full_like(total, self.radius)
        if inside:
            radius = radius * torch.cat([torch.rand(1, generator=s) for s in streams]) ** (
                1 / sum(sizes.values())
            )
        out = {}
        for name, x in points.items():
            wanted = per_sample((radius * chi[name] / total).to(x), x)
            out[name] = x / per_sample(lengths(x).clamp_min(TINY), x) * wanted
        return out

    def violation(self, adversarial: Mapping[str, Tensor], clean: Mapping[str, Tensor]) -> float:
        """How far the worst sample lies outside the joint ball (0 or less: inside)."""
        deltas = self._in_units({name: adversarial[name] - clean[name] for name in self.budgets})
        return float(joint_lengths(deltas).max()) - self.radius

    def check(self, adversarial: Mapping[str, Tensor], clean: Mapping[str, Tensor], attack: str) -> None:
        """Make sure that an attack kept to the rules.

        Raises:
            RuntimeError: NaN, a modality or an element that was not to be touched, or a point outside
                ball or box. That is a bug in the attack (or in the library behind an adapter).
        """
        for name, x in clean.items():
            if name not in adversarial:
                raise RuntimeError(f"{attack} returned no {name!r}")
            candidate = adversarial[name]
            if name not in self.budgets:
                if not torch.equal(candidate, x):
                    raise RuntimeError(f"{attack} changed the modality {name!r}, which is not attacked")
                continue
            if candidate.shape != x.shape or not torch.isfinite(candidate).all():
                raise RuntimeError(f"{attack} returned NaN or misshapen {name!r} values")
            self._check_one(name, candidate, x, attack)
        if self.joint and self.budgets:
            excess = self.violation(adversarial, clean)
            if excess > next(iter(self.budgets.values())).tolerance:
                raise RuntimeError(f"{attack} left the joint ball by {excess:.2g}")

    def _check_one(self, name: str, candidate: Tensor, clean: Tensor, attack: str) -> None:
        budget = self.budgets[name]
        mutable = budget.box.mutable
        if mutable is not None and not torch.equal(torch.where(mutable, clean, candidate), clean):
            raise RuntimeError(f"{attack} changed elements of {name!r} that an attacker cannot change")
        excess = budget.violation(candidate, clean)
        if excess > budget.tolerance:
            raise RuntimeError(f"{attack} left the ball or box of {name!r} by {excess:.2g}")
