"""What a data set is: named modalities of any kind for every sample, and heads that ask about it.

NumPy only, so that data can be listed and checked without importing torch.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from robustbench_med.api.checks import checked_split
from robustbench_med.api.heads import Head
from robustbench_med.util.errors import UserError

SPLITS = ("train", "val", "test")

Kind = Literal["image", "volume", "signal", "table"]
KINDS: Final[Mapping[Kind, tuple[str, ...]]] = {
    "image": ("channels", "height", "width"),
    "volume": ("channels", "depth", "height", "width"),
    "signal": ("channels", "time"),
    "table": ("features",),
}
"""The axes of each kind of modality, less the one of samples."""

# Full scale of the integer types that values may be stored in.
FULL_SCALE: Final[Mapping[str, int]] = {"uint8": 255, "uint16": 65535}


@dataclass(frozen=True, eq=False)
class Modality:
    """One thing that is known of every sample: an image, a volume, a signal or a table.

    Attributes:
        shape: of one sample, by the axes of its kind (``KINDS``).
        title: what it shows, for people.
        low, high: the range of its values, one number or one for each element (broadcast to ``shape``).
            Values of a table may lie beyond it: its range is that of the training split.
        scale: the unit of epsilon, likewise; the length of the range when not given. Of a table it is the
            standard deviation of each feature over the training split.
        mutable: which elements an attacker may change, bool, broadcast to ``shape``; all when not given.
        features: of a table, the names of its columns.

    Raises:
        UserError: a shape that the kind does not have, an empty range, or a scale that is not positive.
    """

    name: str
    shape: tuple[int, ...]
    title: str = ""
    kind: Kind = "image"
    low: float | NDArray[np.float32] = 0.0
    high: float | NDArray[np.float32] = 1.0
    scale: NDArray[np.float32] | None = None
    mutable: NDArray[np.bool_] | None = None
    features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"modality {self.name}: unknown kind {self.kind!r}; choose of {', '.join(KINDS)}")
        axes = KINDS[self.kind]
        if len(self.shape) != len(axes) or min(self.shape) < 1:
            raise UserError(
                f"modality {self.name}: the {self.kind} has shape {self.shape}; give ({', '.join(axes)})"
            )
        if self.features and len(self.features) != self.shape[0]:
            raise UserError(f"modality {self.name}: {len(self.features)} names for {self.shape[0]} features")
        for what in ("low", "high", "scale", "mutable"):
            value = getattr(self, what)
            try:
                np.broadcast_to(0 if value is None else value, self.shape)
            except ValueError as error:
                raise UserError(
                    f"modality {self.name}: {what} of shape {np.shape(value)} does not fit {self.shape}"
                ) from error
        if not (
            np.isfinite(self.low).all() and np.isfinite(self.high).all() and np.all(self.low < self.high)
        ):
            raise UserError(f"modality {self.name}: the range must go from a lower to a higher number")
        if self.scale is not None and not (np.isfinite(self.scale).all() and np.all(self.scale > 0)):
            raise UserError(f"modality {self.name}: every scale must be a positive number")

    @property
    def unit(self) -> float | NDArray[np.float32]:
        """What an epsilon of 1 is worth, in units of the values."""
        if self.scale is not None:
            return self.scale
        return self.high - self.low

    @property
    def is_plain(self) -> bool:
        """Whether values span 0 to 1, in units of that, and any element may change: what libraries know."""
        plain = np.ndim(self.low) == np.ndim(self.high) == 0 and (self.low, self.high) == (0.0, 1.0)
        return plain and self.scale is None and self.mutable is None


@dataclass(frozen=True)
class DatasetInfo:
    """What a data set is, without its values.

    Attributes:
        pairing: "paired" when all modalities of a sample are of the same patient or lesion, "unpaired"
            when they were joined by index (the protocol of arXiv:2602.15346).
        heads: the questions asked about every sample.
        synthetic: True when no patient was ever involved; shown wherever the name is shown.
        caveats: what a reader of a number on this data must know, a sentence each.
        mirror: names of the flips that keep every label true ("horizontal", "vertical").
    """

    name: str
    title: str
    pairing: Literal["paired", "unpaired"]
    modalities: tuple[Modality, ...]
    heads: tuple[Head, ...]
    licence: str
    citation: str
    synthetic: bool = False
    caveats: tuple[str, ...] = ()
    mirror: tuple[str, ...] = ()

    def modality(self, name: str) -> Modality:
        """The modality called ``name`` (KeyError otherwise)."""
        return {m.name: m for m in self.modalities}[name]

    def head(self, name: str) -> Head:
        """The head called ``name`` (KeyError otherwise)."""
        return {h.name: h for h in self.heads}[name]


@dataclass(frozen=True)
class Split:
    """Samples of one split.

    Attributes:
        name: "train", "val" or "test".
        info: the data set it belongs to.
        arrays: per modality an array (M, *shape): uint8 or uint16 (0 is ``low``, full scale ``high``), or
            float32 in the modality's own units.
        rows: per modality, for each of the N samples the row of its values in ``arrays``. A row may be
            used by several samples only in "train".
        labels: per head int64, (N,) or for a head of several questions (N, questions); -1 is unknown.
        ids: N distinct sample ids.
        groups: N group ids (patient or lesion); samples of one group are not independent.
        subgroups: per column N values ("" when unknown), e.g. sex, age band, skin tone.
    """

    name: str
    info: DatasetInfo
    arrays: Mapping[str, NDArray[Any]]
    rows: Mapping[str, NDArray[np.int64]]
    labels: Mapping[str, NDArray[np.int64]]
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    subgroups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def values(self, modality: str, index: Sequence[int] | NDArray[np.int64] | slice) -> NDArray[np.float32]:
        """A modality of the samples at ``index``: float32 (B, *shape), in its own units."""
        picked = self.arrays[modality][self.rows[modality][index]]
        full = FULL_SCALE.get(picked.dtype.name)
        if full is None:
            return picked.astype(np.float32)
        shares = picked.astype(np.float32) / np.float32(full)
        kind = self.info.modality(modality)
        if np.ndim(kind.low) == 0 and np.ndim(kind.high) == 0 and (kind.low, kind.high) == (0.0, 1.0):
            return shares
        low, high = np.float32(kind.low), np.float32(kind.high)
        return np.asarray(low + shares * (high - low), np.float32)

    def take(self, index: NDArray[np.int64]) -> Split:
        """The samples at ``index``, in that order (arrays are shared, not copied)."""
        return replace(
            self,
            rows={name: rows[index] for name, rows in self.rows.items()},
            labels={name: labels[index] for name, labels in self.labels.items()},
            ids=tuple(self.ids[i] for i in index),
            groups=tuple(self.groups[i] for i in index),
            subgroups={k: tuple(v[i] for i in index) for k, v in self.subgroups.items()},
        )

    @property
    def members(self) -> str:
        """SHA-256 over the sorted sample ids: who is in the split, whatever the size of an image."""
        return hashlib.sha256("\0".join(sorted(self.ids)).encode()).hexdigest()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over ids, labels and every value in sample order; goes into every record."""
        digest = hashlib.sha256()
        for sample_id in self.ids:
            digest.update(sample_id.encode() + b"\0")
        for head in self.info.heads:
            digest.update(head.name.encode() + b"\0")
            digest.update(np.ascontiguousarray(self.labels[head.name], dtype="<i8").tobytes())
        for modality in self.info.modalities:
            array = np.ascontiguousarray(self.arrays[modality.name])
            digest.update(modality.name.encode() + b"\0" + str(array.dtype).encode())
            if not modality.is_plain:
                for bound in (modality.low, modality.high, modality.unit, modality.mutable):
                    digest.update(np.asarray(True if bound is None else bound, np.float32).tobytes())
            used = np.unique(self.rows[modality.name])
            each = {row: hashlib.sha256(array[row].tobytes()).digest() for row in used.tolist()}
            for row in self.rows[modality.name].tolist():
                digest.update(each[row])
        return digest.hexdigest()

    def validate(self) -> Split:
        """Check what every consumer relies on; what has but one meaning is converted.

        Returns:
            The split, with labels as int64 and values a rounding error outside their range put back.

        Raises:
            UserError: see ``api.checks``.
        """
        return checked_split(self)


@dataclass(frozen=True)
class ImportReport:
    """What an import did: what came in, what was left out and why, a line each."""

    folder: Path
    counts: Mapping[str, int]
    left_out: tuple[str, ...]
    manifest_sha256: str


class DataSource(ABC):
    """Where a data set comes from. Register one under ``robustbench_med.datasets``.

    A source that is generated needs only ``load``; one that a person must download also says how
    to ``import_from`` the publisher's layout.
    """

    @abstractmethod
    def load(self, split: str) -> Split:
        """Return the split "train", "val" or "test".

        Raises:
            UserError: there is no such split, or the data has not been imported yet.
        """

    def import_from(self, source: Path, **options: Any) -> ImportReport:
        """Read the publisher's layout under ``source`` into a compact local copy.

        Raises:
            UserError: this data set is generated, or the layout is not what it should be.
        """
        del source, options
        raise UserError(f"{type(self).__name__} is generated by code; there is nothing to import")
