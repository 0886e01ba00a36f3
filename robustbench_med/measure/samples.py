"""What was right, sample by sample: all that comparisons of runs need, small enough for a record."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_med.api.model import DrawsSharedBy
from robustbench_med.api.objective import Goal
from robustbench_med.evaluation.outcomes import Outcomes
from robustbench_med.measure.accuracy import answers, judged
from robustbench_med.measure.statistics import Scored
from robustbench_med.util.errors import UserError

Bits = NDArray[np.bool_]


@dataclass(frozen=True)
class Samples:
    """Which samples were right, on every draw.

    Attributes:
        ids, groups: of the N samples.
        batches: (N,) the batch each was scored in.
        clean, robust: by name (R, N).
        known: by name (N,), which samples have a label.
        draws_shared_by: what one draw of the model is shared by.
    """

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    batches: NDArray[np.int64]
    clean: Mapping[str, Bits]
    robust: Mapping[str, Bits]
    known: Mapping[str, Bits]
    draws_shared_by: DrawsSharedBy

    @classmethod
    def of(cls, outcomes: Outcomes, goal: Goal, draws_shared_by: DrawsSharedBy) -> Samples:
        """From the scores of a run."""
        clean, robust = (
            judged(answers(getattr(outcomes, kind), outcomes.labels, goal.heads), goal)
            for kind in ("clean", "adversarial")
        )
        return cls(
            outcomes.ids,
            outcomes.groups,
            outcomes.batches,
            {name: j.right for name, j in clean.items()},
            {name: j.right for name, j in robust.items()},
            {name: j.known for name, j in robust.items()},
            draws_shared_by,
        )

    def scored(self, kind: str, name: str) -> Scored:
        """The mean over draws of what was right under ``name``, "clean" or "robust"."""
        right: Bits = getattr(self, kind)[name]
        return Scored.mean(right, self.draws_shared_by)

    def as_record(self) -> dict[str, Any]:
        """For a record: bits packed eight a byte, as base64."""
        partly = {name: known for name, known in self.known.items() if not known.all()}
        return {
            "ids": list(self.ids),
            "groups": None if self.groups == self.ids else list(self.groups),
            "batches": np.bincount(self.batches).tolist(),
            "draws": {kind: len(next(iter(getattr(self, kind).values()))) for kind in ("clean", "robust")},
            "clean": {name: _pack(right) for name, right in self.clean.items()},
            "robust": {name: _pack(right) for name, right in self.robust.items()},
            "known": {name: _pack(known) for name, known in partly.items()},
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any], where: str) -> Samples:
        """Read back what ``as_record`` wrote.

        Raises:
            UserError: the record has none, or they are damaged.
        """
        stored = record["outcomes"]
        if stored is None:
            raise UserError(f"{where} is {record.get('migrated', 'without outcomes')}; make the run again")
        try:
            ids = tuple(map(str, stored["ids"]))
            shapes = {kind: (int(stored["draws"][kind]), len(ids)) for kind in ("clean", "robust")}
            names, batches = stored["clean"], [int(size) for size in stored["batches"]]
            if min(batches) < 0 or sum(batches) != len(ids) or record["headline"] not in names:
                raise ValueError("batches or names do not fit the samples")
            groups = ids if stored["groups"] is None else tuple(map(str, stored["groups"]))
            if len(groups) != len(ids) or set(names) != set(stored["robust"]):
                raise ValueError("groups or names do not fit the samples")
            known = {name: np.ones(len(ids), bool) for name in names}
            known |= {name: _unpack(bits, (len(ids),)) for name, bits in stored["known"].items()}
            return cls(
                ids,
                groups,
                np.repeat(np.arange(len(batches)), batches),
                {name: _unpack(bits, shapes["clean"]) for name, bits in stored["clean"].items()},
                {name: _unpack(bits, shapes["robust"]) for name, bits in stored["robust"].items()},
                known,
                record["model"]["draws_shared_by"],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{where} holds no whole outcomes of samples ({error}); make the run again"
            ) from error


def _pack(bits: Bits) -> str:
    return base64.b64encode(np.packbits(bits).tobytes()).decode()


def _unpack(text: str, shape: tuple[int, ...]) -> Bits:
    packed = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    count = int(np.prod(shape))
    if len(packed) != -(-count // 8):
        raise ValueError("bits are missing")
    return np.unpackbits(packed, count=count).astype(bool).reshape(shape)
