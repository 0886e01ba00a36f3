"""How many draws a gradient needs: ``--eot auto`` (docs/method.md, "Random models")."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustbench_med.api.attack import Batch, Passes, Target
from robustbench_med.api.losses import cross_entropy
from robustbench_med.evaluation.batches import evaluate
from robustbench_med.evaluation.plan import Plan, load_batch
from robustbench_med.measure.accuracy import correct
from robustbench_med.measure.statistics import Scored, accuracy, lead
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import read_json, write_json
from robustbench_med.util.seeding import derive

SAMPLES = 50
MOST = 32
# The cosine of two independent k-draw gradients is signal over (signal + noise / k): from a half on,
# each points more along the expected gradient than across it.
AGREEMENT = 0.5
# By how much accuracy may still move with twice the draws, and what fall may be possible: a number that far
# off is no longer the one that is reported, and 50 samples can exclude no less.
MOVED, POSSIBLE = 0.02, 0.05


@dataclass(frozen=True)
class Point:
    """What ``draws`` draws a gradient give.

    Attributes:
        robust, low, high: robust accuracy with its 95 % interval.
        agreement: mean cosine of two independent gradients.
        fell, fell_at_most: by how much accuracy lies below that with half the draws, and what paired samples
            do not exclude (one-sided 95 %).
    """

    draws: int
    robust: float
    low: float
    high: float
    agreement: float
    fell: float = 1.0
    fell_at_most: float = 1.0


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
    """Double the draws until that moves accuracy by two points at most, and gradients agree.

    Args:
        plan: of a random model; its own ``eot`` is not used.
        folder: for what a killed search goes on from.
        announce: told what is being tried.
    """
    if curve_path(folder).exists():
        return Curve.from_record(read_json(curve_path(folder)))
    curve = _searched(plan, folder, announce)
    keep_curve(curve, folder)
    return curve


def curve_path(folder: Path) -> Path:
    """Where the curve of a search that is done lies while the run lasts."""
    return folder / "curve.json"


def keep_curve(curve: Curve, folder: Path) -> None:
    """Write what a search found where ``converge`` looks for it."""
    write_json(curve_path(folder), curve.as_record())


def _searched(plan: Plan, folder: Path, announce: Callable[[str], None]) -> Curve:
    part = replace(plan, split=plan.split.take(np.arange(min(SAMPLES, len(plan.split)))))
    passes, points = Passes(), list[Point]()
    before: Scored | None = None
    draws = 1
    while True:
        announce(f"EOT {draws}")
        point, before = _point(replace(part, eot=draws), folder / f"eot{draws}", passes, before)
        points.append(point)
        if settled(points) or draws == MOST:
            return Curve(tuple(points), settled(points), len(part.split), passes.forward, passes.backward)
        draws *= 2


def settled(points: list[Point]) -> bool:
    """Whether the last doubling changed nothing that matters."""
    if len(points) < 2:
        return False
    last = points[-1]
    still = abs(last.fell) <= MOVED and last.fell_at_most <= POSSIBLE
    return still and last.agreement > AGREEMENT


def _point(plan: Plan, folder: Path, passes: Passes, before: Scored | None) -> tuple[Point, Scored]:
    outcomes = evaluate(plan, folder, lambda _: None)
    passes.forward += outcomes.forward
    passes.backward += outcomes.backward
    shared_by = plan.model.draws_shared_by
    right = correct(outcomes.adversarial, outcomes.labels, plan.goal)
    robust = accuracy(right, outcomes.groups, outcomes.batches, shared_by)
    now = Scored.mean(right, shared_by)
    point = Point(plan.eot, robust.value, robust.low, robust.high, agreement(plan, passes))
    if before is None:
        return point, now
    fell, least = lead(before, now, outcomes.groups, outcomes.batches)
    return replace(point, fell=fell, fell_at_most=2 * fell - least), now


def agreement(plan: Plan, passes: Passes) -> float:
    """Mean cosine of two independent gradients at random points of the ball; 0 where there are none."""
    batch = load_batch(plan.split, np.arange(len(plan.split)), plan.device)
    target = plan.target(plan.fresh(), derive(plan.seed, "agreement", plan.eot), passes)
    start = plan.threat.random_start(batch.inputs, batch.ids, derive(plan.seed, "agreement"))
    try:
        first, second = (_flat(target, batch, start) for _ in range(2))
    except UserError:  # an attack without gradients can still average scores
        return 0.0
    return float(torch.cosine_similarity(first, second, dim=1).mean())


def _flat(target: Target, batch: Batch, inputs: dict[str, Tensor]) -> Tensor:
    seen = target.evaluate(batch, inputs, cross_entropy)
    return torch.cat([g.flatten(1) for g in seen.gradients.values()], 1)
