"""The worst case over several attacks on the same samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from robustbench_med.api.objective import Goal
from robustbench_med.evaluation.outcomes import Outcomes, Scores, chosen_from
from robustbench_med.measure.accuracy import correct


def worst_case(members: Sequence[Outcomes], goal: Goal) -> Outcomes:
    """Per sample the outcome of the strongest member.

    That of a deterministic model is the one that left it wrong: never better than any member. Of a random
    model it is the one that left fewest draws right, on draws that do not score it: the least of several
    noisy shares is lower than any true one. Ties go to the larger mean margin, then to the member that comes
    first; the order of a list of names does not matter if its members are sorted by name.

    Args:
        members: of several attacks on the same samples, scored on the same draws.
    """
    return chosen_from(members, strongest(members, goal))


def strongest(members: Sequence[Outcomes], goal: Goal) -> NDArray[np.int64]:
    """Which of the members is the strongest on each sample, (N,)."""
    judging = [m.choosing or m.adversarial for m in members]
    left = np.stack([correct(s, m.labels, goal).mean(0) for s, m in zip(judging, members, strict=True)])
    margins = np.stack([mean_margin(s, m.labels, goal) for s, m in zip(judging, members, strict=True)])
    # lexsort: the last key counts first.
    return np.asarray(np.lexsort((-margins, left), axis=0)[0])


def mean_margin(scores: Scores, labels: Mapping[str, NDArray[np.int64]], goal: Goal) -> NDArray[np.float64]:
    """The goal's margin, mean over draws, (N,)."""
    truth = {name: torch.from_numpy(y) for name, y in labels.items()}
    draws = len(next(iter(scores.values())))
    each = [
        goal.margin({name: torch.from_numpy(z[r]) for name, z in scores.items()}, truth) for r in range(draws)
    ]
    return torch.stack(each).double().mean(0).nan_to_num(0.0).numpy()
