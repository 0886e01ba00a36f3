"""What nets of other frameworks have in common: inputs with names, and axes in an order of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Foreign:
    """A net of another framework as a callable of our inputs, in order or by name.

    Attributes:
        arguments: the names of its inputs, in its order; nothing else can be given.
        copies: a deep copy of it was never asked anything.
        libraries: distributions that compute its scores.
        structure: what it computes beside its weights, as text: part of what a run is.
    """

    arguments: tuple[str, ...] = ()
    copies: bool = True
    libraries: tuple[str, ...] = ()
    structure: str = ""


def channels_go_last(shape: Sequence[int], declared: Sequence[Any] | None, usual: bool) -> bool:
    """Whether a net wants the channels of an input (B, C, …) behind its other axes.

    Args:
        shape: of the input as we have it.
        declared: as the net says it, what is no number being any; None if it says nothing.
        usual: what to do where both orders fit, or neither.
    """
    if len(shape) < 3:  # a table
        return False
    if declared is None:
        return usual
    first = _fits(shape[1:], declared[1:])
    last = _fits((*shape[2:], shape[1]), declared[1:])
    return usual if first == last else last


def _fits(shape: Sequence[int], declared: Sequence[Any]) -> bool:
    return len(shape) == len(declared) and all(
        not isinstance(wanted, int) or wanted == size for size, wanted in zip(shape, declared, strict=True)
    )


def named_or_in_order(names: Sequence[str], values: Sequence[Any]) -> Any:
    """What a net returns: one value as it is, several by their names where these differ, else in order."""
    if len(values) == 1:
        return values[0]
    if len(set(names)) == len(values):
        return dict(zip(names, values, strict=True))
    return tuple(values)
