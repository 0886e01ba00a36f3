"""Ranks that say no more than the samples do: neighbours on a board that cannot be told apart share one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from robustbench_med.measure.samples import Samples
from robustbench_med.measure.statistics import paired_test
from robustbench_med.util.errors import UserError

LEVEL = 0.05
OVERLAP = "overlap of the 95 % intervals"


@dataclass(frozen=True)
class Contest:
    """What a ranked row brings into the comparison with its neighbours.

    Attributes:
        robust: value, low and high of its robust accuracy.
        record: with the outcomes of its samples; None where a row has lost its record.
    """

    robust: tuple[float, float, float]
    record: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Step:
    """From a ranked row to the next below it.

    Attributes:
        apart: whether they are told apart; if not they share a rank.
        test: which test was made, or ``OVERLAP`` where none could be.
        p_value: of that test, before it is corrected; None where none could be made.
        corrected: the same by Holm's method, over the tests of the board.
    """

    apart: bool
    test: str
    p_value: float | None = None
    corrected: float | None = None


@dataclass(frozen=True)
class Ranks:
    """The ranks of a board.

    Attributes:
        ranks: from 1, one a row; rows that share one leave out those after it (1, 1, 3).
        steps: one between each row and the next.
    """

    ranks: tuple[int, ...]
    steps: tuple[Step, ...]

    @property
    def tests(self) -> int:
        """How many tests the p-values are corrected for."""
        return sum(step.p_value is not None for step in self.steps)

    def shared(self, place: int) -> bool:
        """Whether the row in a place (from 0) shares its rank."""
        return self.ranks.count(self.ranks[place]) > 1


def ranked(rows: Sequence[Contest]) -> Ranks:
    """Ranks of rows that are sorted, the best first.

    Each row is compared with the next on the same samples: by exact McNemar, or where groups or draws make
    samples depend on each other by a paired t. Holm's method corrects for as many tests as the board has. A
    pair of which one has no outcomes cannot be tested: it is apart when its intervals are, which finds
    fewer differences than a test does.

    A shared rank goes from neighbour to neighbour: the first and the last of several may differ.
    """
    samples = [_samples(row) for row in rows]
    places = range(len(rows) - 1)
    steps = _corrected([_step(rows[i], rows[i + 1], samples[i], samples[i + 1]) for i in places])
    ranks = [1] if rows else []
    for place, step in enumerate(steps, 2):
        ranks.append(place if step.apart else ranks[-1])
    return Ranks(tuple(ranks), tuple(steps))


def _samples(row: Contest) -> tuple[Samples, str] | None:
    """The outcomes of a row, and under which name they are of what the attack aimed at."""
    if row.record is None:
        return None
    try:
        return Samples.from_record(row.record, row.record["run"]), row.record["headline"]
    except UserError:  # made before outcomes were kept, or damaged: then there is no test
        return None


def _step(
    above: Contest, below: Contest, one: tuple[Samples, str] | None, two: tuple[Samples, str] | None
) -> Step:
    if one is None or two is None or not _pair(one[0], two[0]):
        return Step(above.robust[1] > below.robust[2], OVERLAP)
    scored = one[0].scored("robust", one[1]), two[0].scored("robust", two[1])
    p_value, test = paired_test(*scored, one[0].groups, one[0].batches)
    return Step(False, test, p_value)


def _pair(one: Samples, two: Samples) -> bool:
    """Whether outcomes are of the same samples and, where batches share draws, of the same batches."""
    if one.ids != two.ids or one.groups != two.groups:
        return False
    shared = "batch" in (one.draws_shared_by, two.draws_shared_by)
    return not shared or bool(np.array_equal(one.batches, two.batches))


def _corrected(steps: Sequence[Step]) -> list[Step]:
    """Holm's step-down: the smallest of m p-values times m, the next times m - 1, never falling."""
    tested = sorted((step.p_value, place) for place, step in enumerate(steps) if step.p_value is not None)
    out, highest = list(steps), 0.0
    for number, (p_value, place) in enumerate(tested):
        highest = max(highest, min(1.0, p_value * (len(tested) - number)))
        out[place] = replace(steps[place], corrected=highest, apart=highest <= LEVEL)
    return out
