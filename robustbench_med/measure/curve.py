"""Robust accuracy over epsilon: the area below it and the median minimum perturbation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_med.measure.accuracy import Accuracy
from robustbench_med.measure.samples import Samples
from robustbench_med.measure.statistics import Estimate


@dataclass(frozen=True)
class EpsilonCurve:
    """Accuracy over the radius.

    Attributes:
        norm: of the radii.
        radii: from 0 (clean) upwards, of the modality ``of``; others keep their proportion to it.
        accuracy: by name, one estimate a radius.
        headline: what the attack aimed at.
        area: mean accuracy over all radii up to the largest (trapezoids), in [0, 1].
        median: between which radii the sample in the middle breaks: the smallest radius on the grid
            at which less than half of the scoring draws of a sample are right. The upper end is
            None when half of the samples survive the largest radius.
        runs: of the records behind it, one a positive radius.
    """

    title: str
    norm: str
    of: str
    radii: tuple[float, ...]
    accuracy: Mapping[str, tuple[Estimate, ...]]
    headline: str
    area: float
    median: tuple[float, float | None]
    runs: tuple[str, ...]

    def as_record(self) -> dict[str, Any]:
        """For curve.json."""
        return asdict(self)


def curve_of(records: Sequence[Mapping[str, Any]], radii: Sequence[float], of: str) -> EpsilonCurve:
    """The curve through runs of one attack at rising radii.

    Args:
        radii: of the modality ``of``, one a record, rising.
    """
    first = records[0]
    headline, label = first["headline"], first["model"]["label"]
    measured = [{name: Accuracy.from_record(a) for name, a in r["accuracy"].items()} for r in records]
    accuracy = {
        name: (value.clean, *(each[name].robust for each in measured)) for name, value in measured[0].items()
    }
    grid = (0.0, *radii)
    heights = [estimate.value for estimate in accuracy[headline]]
    joint = "-joint" if first["threat_model"]["joint"] else ""
    return EpsilonCurve(
        title=f"{label} on {first['dataset']['name']} under {first['attack']['name']}",
        norm=first["threat_model"]["budgets"][of]["norm"] + joint,
        of=of,
        radii=grid,
        accuracy=accuracy,
        headline=headline,
        area=float(np.trapezoid(heights, grid) / grid[-1]),
        median=_median([Samples.from_record(r, r["run"]) for r in records], headline, grid),
        runs=tuple(r["run"] for r in records),
    )


def _median(runs: Sequence[Samples], headline: str, grid: Sequence[float]) -> tuple[float, float | None]:
    """The radii between which half of the samples have broken."""
    broken: list[NDArray[np.bool_]] = [runs[0].clean[headline].mean(0) < 0.5]
    for run in runs:
        now = run.robust[headline].mean(0) < 0.5
        broken.append(broken[-1] | now)  # what breaks within a ball breaks within a larger one
    shares = [float(b.mean()) for b in broken]
    reached = next((i for i, share in enumerate(shares) if share >= 0.5), None)
    if reached is None:
        return grid[-1], None
    return (grid[max(reached - 1, 0)], grid[reached])
