"""Records for boards: those that are published, and others made from them."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_med.api.model import DrawsSharedBy
from robustbench_med.measure.samples import Samples
from robustbench_med.measure.statistics import accuracy

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "leaderboards" / "records"
EVERY = "every head right"
EVIL = '<script>alert("x")</script>\u2028\u202e</p>{{ 7 * 7 }}'


def published() -> list[dict[str, Any]]:
    """Every published record."""
    return [json.loads(path.read_text()) for path in sorted(PUBLISHED.glob("*.json"))]


def _base() -> Path:
    """A published record of a deterministic net on the phantom, found sound."""

    def fits(made: dict[str, Any]) -> bool:
        alone: bool = made["scoring"]["draws"] == 1 and made["attack"]["name"] == "pgd"
        sound: bool = made["audit"]["verdict"] == "sound"
        return alone and sound and (made["dataset"]["name"], made["headline"]) == ("phantom", EVERY)

    return PUBLISHED / f"{next(made['run'] for made in published() if fits(made))}.json"


BASE = _base()


def record(run: str, model: str = "net", verdict: str = "sound") -> dict[str, Any]:
    """A record of its own net, without outcomes."""
    made: dict[str, Any] = copy.deepcopy(json.loads(BASE.read_text()))
    made["run"] = run
    made["model"] |= {"label": model, "weights_sha256": f"{run:0<64}"}
    made["audit"]["verdict"] = verdict
    return made


def with_outcomes(
    made: dict[str, Any], right: NDArray[np.bool_], groups: Sequence[str] | None = None
) -> dict[str, Any]:
    """A record in which these samples (R, N) were right under attack, and all before it."""
    draws, samples = right.shape
    ids = tuple(f"s{i}" for i in range(samples))
    shared: DrawsSharedBy = "none" if draws == 1 else "element"
    kept = Samples(
        ids,
        tuple(groups or ids),
        np.zeros(samples, np.int64),
        {EVERY: np.ones((draws, samples), bool)},
        {EVERY: right},
        {EVERY: np.ones(samples, bool)},
        shared,
    )
    found = accuracy(right, kept.groups, kept.batches, shared)
    made["accuracy"][EVERY]["robust"] |= {"value": found.value, "low": found.low, "high": found.high}
    made["outcomes"] = kept.as_record()
    made["model"]["draws_shared_by"] = shared
    made["scoring"]["draws"] = draws
    made["dataset"]["samples"] = samples
    return made


def first_right(count: int, samples: int = 200) -> NDArray[np.bool_]:
    """One draw in which the first samples are right."""
    return (np.arange(samples) < count)[None]


def write(folder: Path, *records: dict[str, Any]) -> Path:
    """Files of records."""
    folder.mkdir(exist_ok=True)
    for each in records:
        (folder / f"{each['run']}.json").write_text(json.dumps(each))
    return folder
