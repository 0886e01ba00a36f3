"""How many draws a gradient needs: ``--eot auto`` (evaluation.md, section 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustbench_med.api.attack import Passes, Target
from robustbench_med.api.objective import cross_entropy
from robustbench_med.evaluation.batches import Plan, evaluate, load_batch
from robustbench_med.measure.accuracy import accuracies, headline
from robustbench_med.util.errors import UserError
from robustbench_med.util.seeding import derive

SAMPLES = 50
MOST = 32
# The cosine of two independent k-draw gradients is signal over (signal + noise / k): from a half on,
# each points more along the expected gradient than across it.
AGREEMENT = 0.5


@dataclass(frozen=True)
class Point:
    """What ``draws`` draws a gradient give.

    Attributes:
        robust, low, high: robust accuracy with its 95 % interval.
        agreement: mean cosine of two independent gradients.
    """

    draws: int
    robust: float
    low: float
    high: float
    agreement: float


@dataclass(frozen=True)
class Curve:
    """Robust accuracy over the number of draws.

    Attributes:
        points: by falling noise; the last is what the run uses.
        converged: whether doubling the draws had stopped to matter when the search ended.
        samples: how many were attacked.
        forward, backward: passes it took.
    """

    points: tuple[Point, ...]
    converged: bool
    samples: int
    forward: int
    backward: int

    @property
    def draws(self) -> int:
        """Draws behind each gradient of the run."""
        return self.points[-1].draws

    def as_record(self) -> dict[str, Any]:
        """For the run's record."""
        return asdict(self)

    @classmethod
    def from_record(cls, stored: Mapping[str, Any]) -> Curve:
        """Read back what ``as_record`` wrote."""
        return cls(**{**stored, "points": tuple(Point(**point) for point in stored["points"])})


def converge(plan: Plan, folder: Path, announce: Callable[[str], None]) -> Curve:
    """Double the draws until accuracy moves by less than half its interval and gradients agree.

    Args:
        plan: of a random model; its own ``eot`` is not used.
        folder: for what a killed search goes on from.
        announce: told what is being tried.
    """
    part = replace(plan, split=plan.split.take(np.arange(min(SAMPLES, len(plan.split)))))
    passes, points = Passes(), list[Point]()
    draws = 1
    while True:
        announce(f"EOT {draws}")
        points.append(_point(replace(part, eot=draws), folder / f"eot{draws}", passes))
        if settled(points) or draws == MOST:
            return Curve(tuple(points), settled(points), len(part.split), passes.forward, passes.backward)
        draws *= 2


def settled(points: list[Point]) -> bool:
    """Whether the last doubling changed nothing that matters."""
    if len(points) < 2:
        return False
    last, before = points[-1], points[-2]
    moved = abs(last.robust - before.robust)
    return moved < (last.high - last.low) / 2 and last.agreement > AGREEMENT


def _point(plan: Plan, folder: Path, passes: Passes) -> Point:
    outcomes = evaluate(plan, folder, lambda _: None)
    passes.forward += outcomes.forward
    passes.backward += outcomes.backward
    robust = accuracies(outcomes, plan)[headline(plan.goal)].robust
    return Point(plan.eot, robust.value, robust.low, robust.high, agreement(plan, passes))


def agreement(plan: Plan, passes: Passes) -> float:
    """Mean cosine of two independent gradients at random points of the ball; 0 where there are none."""
    batch = load_batch(plan.split, np.arange(len(plan.split)), plan.device)
    seed = derive(plan.seed, "agreement")
    start = plan.threat.random_start(batch.inputs, batch.ids, seed)
    target = Target(plan.model, plan.threat, plan.goal, plan.eot, seed, passes, plan.batch_size)
    plan.model.noise.reseed(derive(plan.seed, "agreement", plan.eot))
    try:
        first, second = (_flat(target, start, batch.labels) for _ in range(2))
    except UserError:  # an attack without gradients can still average scores
        return 0.0
    return float(torch.cosine_similarity(first, second, dim=1).mean())


def _flat(target: Target, inputs: dict[str, Tensor], labels: Any) -> Tensor:
    seen = target.evaluate(inputs, labels, cross_entropy)
    return torch.cat([g.flatten(1) for g in seen.gradients.values()], 1)
