"""Whether one accuracy on fixed samples fell too far, from what was right before and after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from robustbench_med.measure.margins import SEEDS

Bits = NDArray[np.bool_]
Units = NDArray[np.int64]
Result = Literal["passed", "failed", "undecided"]

NEAR = 2  # samples: a fall this close to the margin may be the seed's doing
ROUNDING = 1e-9  # of sums of shares: equality to the margin passes
MOST_DRAWS = 100_000  # more are no advice


@dataclass(frozen=True)
class Change:
    """An accuracy on fixed samples, before and after; means over attack seeds.

    Attributes:
        blur: half of the 95 % interval that draws leave to the difference; 0 for deterministic models.
        samples, draws, seeds: that it rests on.
        chance: whether another seed may give other values.
    """

    before: float
    after: float
    blur: float
    samples: int
    draws: int
    seeds: int
    chance: bool = True

    @property
    def fall(self) -> float:
        """Positive when the accuracy fell."""
        return self.before - self.after


@dataclass(frozen=True)
class Line:
    """One verdict.

    Attributes:
        name: of what was judged.
        reason: a sentence.
        margin: that was held against it; None where it is no number.
        close: more attack seeds may decide it.
    """

    name: str
    result: Result
    reason: str
    margin: float | None = None
    close: bool = False


def change(
    before: Sequence[Bits],
    after: Sequence[Bits],
    units: tuple[Units, Units],
    paired: bool,
    attacked: bool = True,
) -> Change:
    """What became of an accuracy.

    Args:
        before, after: what was right, (R, N) a seed.
        units: (N,) each, for both: samples of one number share their draws. Empty where there are none.
        paired: the seeds of both are the same, in one order.
        attacked: seeds are those of an attack, too; else of draws alone.
    """
    values = [float(np.mean([right.mean() for right in each])) for each in (before, after)]
    alike = paired and len({right.shape for right in (*before, *after)}) == 1
    if alike:  # what both share cancels
        apart = [b.astype(np.int8) - a.astype(np.int8) for b, a in zip(before, after, strict=True)]
        parts = [(apart, _coarser(*units))]
    else:
        parts = [
            ([r.astype(np.int8) for r in each], unit)
            for each, unit in zip((before, after), units, strict=True)
        ]
    spread = [_over_draws(each, unit) for each, unit in parts if len(unit)]
    variance = sum(v for v, _ in spread)
    blur = 0.0
    if variance > 0:
        freedom = variance**2 / sum(v**2 / f for v, f in spread if v > 0) if math.isfinite(variance) else 1.0
        blur = float(stats.t.ppf(0.975, max(freedom, 1.0))) * math.sqrt(variance)
    drawn = any(len(unit) for unit in units)
    draws, samples = after[0].shape
    return Change(values[0], values[1], blur, samples, draws, len(after), attacked or drawn)


def _coarser(one: Units, two: Units) -> Units:
    """Of two ways to share draws, the one that makes more samples depend on each other."""
    if not (len(one) and len(two)):
        return one if len(one) else two
    return one if len(np.unique(one)) <= len(np.unique(two)) else two


def _over_draws(each: Sequence[NDArray[np.int8]], unit: Units) -> tuple[float, float]:
    """Variance of the mean over seeds, draws and these very samples, and its degrees of freedom.

    Args:
        each: (R, N) a seed.
    """
    total, squares = 0.0, 0.0
    for values in each:
        draws, samples = values.shape
        if draws == 1:  # one draw does not say how much another would differ, unless nothing does
            return (math.inf, 1.0) if values.any() else (0.0, 1.0)
        shares = np.unique(unit)  # what shares its draws moves together
        alone = len(shares) == samples
        sums = values if alone else np.stack([values[:, unit == u].sum(1) for u in shares], 1)
        variances = sums.var(0, ddof=1) / draws / samples**2 / len(each) ** 2
        total += float(variances.sum())
        squares += float((variances**2).sum()) / (draws - 1)
    return total, (total**2 / squares if squares > 0 else 1.0)


def decide(found: Change, margin: float) -> tuple[Result, bool]:
    """Whether an accuracy fell too far, and whether more attack seeds may decide that.

    A fall fails when it is beyond the margin by more than draws explain; equality passes. Where draws blur
    more than the margin it is undecided, unless it is clear all the same.
    """
    fall, blur, edge = found.fall, found.blur, margin + ROUNDING
    few = found.chance and found.seeds < SEEDS
    near = abs(fall - margin) <= NEAR / found.samples + ROUNDING or fall - blur <= edge < fall
    if few and fall > ROUNDING and near:
        return "undecided", True
    if fall - blur > edge:
        return "failed", False
    if fall + blur <= edge or blur <= edge:
        return "passed", False
    return "undecided", few


def points(share: float) -> str:
    """A share in points, or per cent."""
    return f"{100 * share:.1f}"


def line_of(name: str, found: Change, margin: float) -> Line:
    """What ``decide`` says, in words."""
    result, close = decide(found, margin)
    moved = f"fell by {points(found.fall)} points" if found.fall > ROUNDING else "is unchanged"
    moved = f"rose by {points(-found.fall)} points" if found.fall < -ROUNDING else moved
    blur = f"; draws blur that by {points(found.blur)}" if 0 < found.blur < math.inf else ""
    seeds = f"; {found.seeds} attack seeds" if found.seeds > 1 else ""
    numbers = f"({points(found.before)} to {points(found.after)} %{blur}{seeds})"
    said = f"{moved} {numbers}, margin {points(margin)}{_way_out(result, close, found, margin)}"
    return Line(name, result, said, margin, close)


def _way_out(result: Result, close: bool, found: Change, margin: float) -> str:
    """What would decide what is not decided."""
    if result == "undecided" and math.isinf(found.blur):
        return "; one draw of a random model does not say how far off another is: take 10"
    if close and found.blur <= margin:
        return f"; too close for one attack seed, {SEEDS} of both decide"
    if result == "undecided":
        return f"; {_enough(found, (found.blur / margin) ** 2 if margin > 0 else math.inf)}"
    beyond = found.fall - margin
    if result == "passed" and beyond > ROUNDING:
        return f"; draws explain what is beyond it, {_enough(found, (found.blur / beyond) ** 2)}"
    return ""


def _enough(found: Change, times: float) -> str:
    """How many draws, or samples, blur a difference by so many times less in square."""
    if found.draws * times > MOST_DRAWS:
        return "no number of draws that can be made would decide it"
    draws, samples = (math.ceil(count * times) for count in (found.draws, found.samples))
    return f"{draws} draws or {samples} samples would decide it"
