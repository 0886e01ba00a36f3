"""Robust accuracy over epsilon, the area below it, and the median minimum perturbation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robustbench_med.api.objective import Goal
from robustbench_med.evaluation.outcomes import Outcomes
from robustbench_med.evaluation.prepare import RunConfig
from robustbench_med.measure.accuracy import correct
from robustbench_med.measure.statistics import Estimate
from robustbench_med.reporting.curve import draw
from robustbench_med.studies.run import Result, folder_name, run
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import sha256_json, write_json

LINF_GRID = tuple(k / 255 for k in (0.5, 1, 2, 4, 8))  # evaluation.md, section 1


@dataclass(frozen=True)
class EpsilonCurve:
    """Accuracy over the radius.

    Attributes:
        radii: from 0 (clean) upwards.
        accuracy: by head and under the goals' names, one estimate a radius.
        headline: which of them the attack aimed at.
        area: mean accuracy over all radii up to the largest (trapezoids), in [0, 1].
        median: between which radii the sample in the middle breaks: the smallest radius on the grid
            at which less than half of the scoring draws of a sample are right. The upper end is
            None when half of the samples survive the largest radius.
        runs: of the records behind it, one a positive radius.
        folder: where curve.json and curve.png lie.
    """

    title: str
    norm: str
    radii: tuple[float, ...]
    accuracy: Mapping[str, tuple[Estimate, ...]]
    headline: str
    area: float
    median: tuple[float, float | None]
    runs: tuple[str, ...]
    folder: Path


def epsilon_curve(config: RunConfig, radii: Sequence[float] = (), audited: str | None = None) -> EpsilonCurve:
    """Run the same attack at each radius. Every run has its record and row; finished ones are not repeated.

    Args:
        config: its ``eps`` is not used.
        radii: of every attacked modality; half, 1, 2, 4 and 8 / 255 for Linf when not given.

    Raises:
        UserError: see ``robustbench_med.studies.run.run``; no radii for an L2 norm, or one that is 0.
    """
    chosen = tuple(sorted(set(radii or (LINF_GRID if config.norm == "linf" else ()))))
    if not chosen or chosen[0] <= 0:
        raise UserError("curve needs radii above 0 (for L2 norms it has none of its own): --radii 0.25,0.5,1")
    results = [run(replace(config, eps=radius), audited, reuse=True) for radius in chosen]
    first = results[0]
    headline, label = first.record["headline"], first.record["model"]["label"]
    accuracy = {
        name: (value.clean, *(result.accuracy[name].robust for result in results))
        for name, value in first.accuracy.items()
    }
    grid, runs = (0.0, *chosen), tuple(result.record["run"] for result in results)
    dataset = first.record["dataset"]["name"]
    name = folder_name(label, "curve", dataset, sha256_json(runs)[:12])
    heights = [estimate.value for estimate in accuracy[headline]]
    curve = EpsilonCurve(
        title=f"{label} on {dataset} under {first.record['attack']['name']}",
        norm=config.norm,
        radii=grid,
        accuracy=accuracy,
        headline=headline,
        area=float(np.trapezoid(heights, grid) / grid[-1]),
        median=_median(results, grid),
        runs=runs,
        folder=Path(config.out) / name,
    )
    write_json(curve.folder / "curve.json", asdict(replace(curve, folder=Path(name))) | {"folder": name})
    draw(curve, curve.folder / "curve.png")
    return curve


def _median(results: Sequence[Result], grid: Sequence[float]) -> tuple[float, float | None]:
    """The radii between which half of the samples have broken."""
    broken: list[NDArray[np.bool_]] = []
    for result in results:
        outcomes = Outcomes.load(result.folder / "outcomes.npz")
        goal, key = Goal(result.record["threat_model"]["goal"]), result.record["headline"]
        if not broken:
            broken.append(correct(outcomes.clean, outcomes.labels, goal)[key].mean(0) < 0.5)
        now = correct(outcomes.adversarial, outcomes.labels, goal)[key].mean(0) < 0.5
        broken.append(broken[-1] | now)  # what breaks within a ball breaks within a larger one
    shares = [float(b.mean()) for b in broken]
    reached = next((i for i, share in enumerate(shares) if share >= 0.5), None)
    if reached is None:
        return grid[-1], None
    return (grid[max(reached - 1, 0)], grid[reached])
