"""How far inputs lie outside what an attacker may do, sample by sample, in exact arithmetic.

The rules are those of ``ThreatModel.check``, with the same allowance for float32; here every sample has a
number of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_med.api.threat import LAST_BITS, Budget, ThreatModel

Values = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Stray:
    """An input that no attacker may hand in.

    Attributes:
        sample: its id.
        why: in words, by how much.
    """

    sample: str
    why: str


def strays(adversarial: Values, clean: Values, threat: ThreatModel, ids: Sequence[str]) -> list[Stray]:
    """The samples that break a rule, the first rule that each breaks.

    Args:
        adversarial, clean: all modalities (B, *shape), float32.
    """
    found: dict[str, str] = {}

    def note(bad: NDArray[Any], why: Mapping[int, str] | str) -> None:
        for i in np.flatnonzero(bad).tolist():
            found.setdefault(ids[i], why if isinstance(why, str) else why[i])

    lengths = {}
    for name, x in clean.items():
        given = adversarial[name]
        odd = np.asarray((~np.isfinite(given)).reshape(len(given), -1).any(1))
        note(odd, f"{name!r} has NaN or infinite values")
        if name not in threat.budgets:
            differs = np.asarray((given.view(np.uint32) != x.view(np.uint32)).reshape(len(x), -1).any(1))
            note(differs, f"{name!r} differs from the clean input, and may not be changed")
            continue
        budget = threat.budgets[name]
        note(_unforgeable(budget, given, x), f"elements of {name!r} differ that nobody may change")
        length, outside = _measured(budget, given, x)
        lengths[name] = length
        note(outside > budget.tolerance, _by(name, outside, "lies outside the range by"))
        if not threat.joint:
            excess = length - budget.epsilon
            note(
                excess > budget.tolerance,
                _by(name, excess, f"lies outside the ball of {budget.epsilon:g} by"),
            )
    if threat.joint and lengths:
        together = np.sqrt(sum(length**2 for length in lengths.values())) - threat.radius
        tolerance = next(iter(threat.budgets.values())).tolerance
        what = f"all modalities together lie outside the ball of {threat.radius:g} by"
        note(together > tolerance, {i: f"{what} {x:.3g}" for i, x in enumerate(together.tolist())})
    return [Stray(sample, found[sample]) for sample in ids if sample in found]


def _by(name: str, amounts: NDArray[np.float64], what: str) -> dict[int, str]:
    return {i: f"{name!r} {what} {amount:.3g}" for i, amount in enumerate(amounts.tolist())}


def _unforgeable(budget: Budget, given: NDArray[np.float32], clean: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which samples were changed where the mask allows no change, (B,)."""
    if budget.box.mutable is None:
        return np.zeros(len(clean), bool)
    fixed = np.broadcast_to(~budget.box.mutable.cpu().numpy(), clean.shape)
    differs = given.view(np.uint32) != clean.view(np.uint32)
    return np.asarray((differs & fixed).reshape(len(clean), -1).any(1))


def _measured(
    budget: Budget, given: NDArray[np.float32], clean: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Length of each change, and how far the farthest element lies outside the range, in units, (B,) each."""
    box = budget.box
    low, high, unit = (_double(part) for part in (box.low, box.high, box.unit))
    x, at = given.astype(np.float64), clean.astype(np.float64)
    change = np.abs(x - at) / unit
    if not box.is_plain:  # as in Budget.violation: values that were themselves rounded
        change = np.maximum(change - LAST_BITS * np.abs(at / unit), 0)
    if box.open_ended:
        low, high = np.minimum(at, low), np.maximum(at, high)
    outside = np.abs(x - np.clip(x, low, high)) / unit
    if box.mutable is not None:  # what differs there is said by itself
        free = box.mutable.cpu().numpy()
        change, outside = change * free, outside * free
    flat = change.reshape(len(x), -1)
    length = flat.max(1) if budget.norm == "linf" else np.sqrt((flat**2).sum(1))
    return length, outside.reshape(len(x), -1).max(1)


def _double(part: float | Tensor) -> NDArray[np.float64]:
    return np.asarray(part.cpu().numpy() if isinstance(part, torch.Tensor) else part, np.float64)
