"""Adversarial inputs that somebody hands in: an .npz of float arrays by modality and ids, or one of ours."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_med.api.data import Split
from robustbench_med.evaluation import kept as files
from robustbench_med.evaluation.recorded import Recorded
from robustbench_med.evaluation.within import strays
from robustbench_med.util.arrays import read_npz
from robustbench_med.util.errors import UserError

IDS = "ids"


@dataclass(frozen=True, eq=False)
class HandedIn:
    """Inputs of some samples of a split, all of them within the threat model.

    Attributes:
        index: positions of the samples in the split, rising.
        values: by modality (len(index), *shape); those that were not handed in are the clean ones.
        digest: SHA-256 over the record's run, ids and values.
    """

    index: NDArray[np.int64]
    values: Mapping[str, NDArray[np.float32]]
    digest: str


def handed_in(path: Path, recorded: Recorded) -> HandedIn:
    """Read and check a submission.

    Raises:
        UserError: one line: it is no such file, or a sample of it is none of the record's, is there twice,
            has another shape or NaN, or lies outside ball, range or masks, by how much.
    """
    arrays = _read(path)
    split = recorded.split
    if files.is_kept(arrays):
        ids, values = _of_ours(path, arrays, split)
    else:
        ids, values = _plain(path, arrays, split)
    index = _places(path, ids, split)
    clean = {m.name: split.values(m.name, index) for m in split.info.modalities}
    values = {**clean, **values}
    found = strays(values, clean, recorded.threat, ids)
    if found:
        more = f" (and {len(found) - 1} more samples)" if len(found) > 1 else ""
        raise UserError(f"{path}: sample {found[0].sample}: {found[0].why}{more}; nothing of it is taken")
    order = np.argsort(index)
    ordered = {name: np.ascontiguousarray(x[order]) for name, x in values.items()}
    return HandedIn(index[order], ordered, _digest(recorded, index[order], ordered))


def _read(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise UserError(f"{path} is missing or no plain file; give an .npz of adversarial inputs")
    try:
        return read_npz(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no whole .npz of numbers: {error}; write it with numpy.savez") from error


def _of_ours(
    path: Path, arrays: Mapping[str, NDArray[Any]], split: Split
) -> tuple[tuple[str, ...], dict[str, NDArray[np.float32]]]:
    try:
        kept, bound = files.parsed(arrays)
        parts = [values for _, _, _, values in kept.batches(split)]
        if kept.digest(split) != bound.digest:
            raise ValueError("its inputs are not those of its SHA-256, so they were kept on other data")
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"{path} does not fit the record: {' '.join(str(error).split())[:200]}") from error
    return kept.ids, {name: np.concatenate([part[name] for part in parts]) for name in kept.ends}


def _plain(
    path: Path, arrays: Mapping[str, NDArray[Any]], split: Split
) -> tuple[tuple[str, ...], dict[str, NDArray[np.float32]]]:
    if IDS not in arrays:
        raise UserError(f"{path} has no array 'ids'; it must name the sample of every row")
    known = {m.name: m.shape for m in split.info.modalities}
    given = [name for name in arrays if name != IDS]
    odd = next((name for name in given if name not in known), None)
    if odd is not None or not given:
        what = f"has an array {odd!r}" if odd is not None else "has no modality"
        raise UserError(f"{path} {what}; its arrays must be called 'ids' and {', '.join(known)}")
    raw = arrays[IDS]
    if raw.ndim != 1 or raw.dtype.kind not in "US":
        raise UserError(f"{path}: 'ids' is of type {raw.dtype} and shape {raw.shape}; give one text a sample")
    decoded = np.char.decode(raw, "utf-8", "replace") if raw.dtype.kind == "S" else raw
    ids = tuple(map(str, decoded.tolist()))
    for name in given:
        shape, wanted = arrays[name].shape, (len(ids), *known[name])
        if shape != wanted:
            raise UserError(f"{path}: {name!r} has shape {shape}; it must be {wanted}")
        if arrays[name].dtype.kind != "f":
            raise UserError(
                f"{path}: {name!r} is of {arrays[name].dtype}; give floats in the units of the data"
            )
    with np.errstate(over="ignore"):  # what is too large for float32 is infinite, and refused
        return ids, {name: arrays[name].astype(np.float32) for name in given}


def _places(path: Path, ids: tuple[str, ...], split: Split) -> NDArray[np.int64]:
    at = {sample: i for i, sample in enumerate(split.ids)}
    seen: set[str] = set()
    for sample in ids:
        if sample not in at:
            raise UserError(
                f"{path}: the record has no sample {sample[:80]!r}; its ids are such as {split.ids[0]!r}"
            )
        if sample in seen:
            raise UserError(f"{path}: sample {sample!r} is there twice; hand in one input for each")
        seen.add(sample)
    if not ids:
        raise UserError(f"{path} holds no samples")
    return np.array([at[sample] for sample in ids])


def _digest(recorded: Recorded, index: NDArray[np.int64], values: Mapping[str, NDArray[np.float32]]) -> str:
    whole = hashlib.sha256(str(recorded.record["run"]).encode() + b"\0")
    for row, place in enumerate(index.tolist()):
        whole.update(recorded.split.ids[place].encode() + b"\0")
        for name in sorted(recorded.threat.budgets):
            bits = np.ascontiguousarray(values[name][row], "<f4").tobytes()
            whole.update(name.encode() + b"\0" + bits)
    return whole.hexdigest()
