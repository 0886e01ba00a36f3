"""Tables of an imported data set: ``table-<modality>.npy`` beside its images, and what the columns are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robustbench_med.api.data import Modality
from robustbench_med.data.listing import Table
from robustbench_med.util.arrays import read_npy

ARRAYS: Final = ("low", "high", "scale", "mutable")
"""What of a modality may be an array."""


def modality_record(modality: Modality) -> dict[str, Any]:
    """A modality in plain values, as JSON has them."""
    kept = {each.name: getattr(modality, each.name) for each in fields(modality)}
    for each in ARRAYS:
        kept[each] = None if kept[each] is None else np.asarray(kept[each]).tolist()
    return kept


def recorded_modality(said: Mapping[str, Any]) -> Modality:
    """What ``modality_record`` wrote (TypeError, ValueError, KeyError or UserError when it is none)."""
    types = {"mutable": bool}
    values: dict[str, Any] = {
        name: value if not isinstance(value, list) else tuple(value) for name, value in said.items()
    }
    for name in ARRAYS:
        if isinstance(said[name], list):
            values[name] = np.array(said[name], types.get(name, np.float32))
    return Modality(**values)


def write_tables(folder: Path, tables: Mapping[str, Table], order: Sequence[int]) -> dict[str, Any]:
    """Write the rows of every table in ``order``; what the columns are, by modality."""
    for name, table in tables.items():
        np.save(folder / file_of(name), table.values[list(order)], allow_pickle=False)
    return {name: modality_record(table.modality) for name, table in tables.items()}


def read_rows(folder: Path, modality: Modality, count: int) -> NDArray[np.float32]:
    """The values of a table: float32 (count, F).

    Raises:
        ValueError, OSError: they are missing, cut off, or of another shape.
    """
    stored = read_npy(folder / file_of(modality.name))
    if stored.dtype != np.float32 or stored.shape != (count, *modality.shape):
        raise ValueError(f"{stored.dtype} of shape {stored.shape}")
    return np.array(stored)


def file_of(name: str) -> str:
    """The file of a table."""
    return f"table-{name}.npy"
