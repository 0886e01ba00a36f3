"""The one data-set type: named images per sample, named tasks, and who is who.

NumPy only, so that data can be listed and checked without importing torch.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from robustbench_med.util.errors import UserError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Modality:
    """One kind of image every sample has.

    Attributes:
        shape: (channels, height, width).
        title: what it shows, for people.
    """

    name: str
    shape: tuple[int, int, int]
    title: str


@dataclass(frozen=True)
class Task:
    """One question asked about every sample.

    Attributes:
        classes: class names; label i means ``classes[i]``.
        modalities: the modalities the label is about. In paired data all of them; in unpaired
            data (two unrelated images under one index) only the image the label came with.
    """

    name: str
    classes: tuple[str, ...]
    modalities: tuple[str, ...]


@dataclass(frozen=True)
class DatasetInfo:
    """What a data set is, without its images.

    Attributes:
        pairing: "paired" when all images of a sample show the same patient or lesion, "unpaired"
            when they were joined by index (the protocol of arXiv:2602.15346).
        synthetic: True when no patient was ever involved; shown wherever the name is shown.
        caveats: what a reader of a number on this data must know, a sentence each.
        mirror: names of the flips that keep every label true ("horizontal", "vertical").
    """

    name: str
    title: str
    pairing: Literal["paired", "unpaired"]
    modalities: tuple[Modality, ...]
    tasks: tuple[Task, ...]
    licence: str
    citation: str
    synthetic: bool = False
    caveats: tuple[str, ...] = ()
    mirror: tuple[str, ...] = ()

    def modality(self, name: str) -> Modality:
        """The modality called ``name`` (KeyError otherwise)."""
        return {m.name: m for m in self.modalities}[name]


@dataclass(frozen=True)
class Split:
    """Samples of one split.

    Attributes:
        name: "train", "val" or "test".
        info: the data set it belongs to.
        images: per modality an array (M, C, H, W), uint8 (255 is 1.0) or float32 in [0, 1].
        rows: per modality, for each of the N samples the row of its image in ``images``. Images
            may be used by several samples only in "train".
        labels: per task int64 (N,).
        ids: N distinct sample ids.
        groups: N group ids (patient or lesion); samples of one group are not independent.
        subgroups: per column N values ("" when unknown), e.g. sex, age band, skin tone.
    """

    name: str
    info: DatasetInfo
    images: Mapping[str, NDArray[Any]]
    rows: Mapping[str, NDArray[np.int64]]
    labels: Mapping[str, NDArray[np.int64]]
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    subgroups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def pixels(self, modality: str, index: Sequence[int] | NDArray[np.int64] | slice) -> NDArray[np.float32]:
        """Images of the samples at ``index``: float32 (B, C, H, W) in [0, 1]."""
        picked = self.images[modality][self.rows[modality][index]]
        if picked.dtype == np.uint8:
            return picked.astype(np.float32) / np.float32(255)
        return picked.astype(np.float32)

    def take(self, index: NDArray[np.int64]) -> Split:
        """The samples at ``index``, in that order (images are shared, not copied)."""
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
        """SHA-256 over the sorted sample ids: who is in the split, whatever the images' size."""
        return hashlib.sha256("\0".join(sorted(self.ids)).encode()).hexdigest()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over ids, labels and every pixel in sample order; goes into every record."""
        digest = hashlib.sha256()
        for sample_id in self.ids:
            digest.update(sample_id.encode() + b"\0")
        for task in self.info.tasks:
            digest.update(task.name.encode() + b"\0")
            digest.update(np.ascontiguousarray(self.labels[task.name], dtype="<i8").tobytes())
        for modality in self.info.modalities:
            images = np.ascontiguousarray(self.images[modality.name])
            per_image = [hashlib.sha256(image.tobytes()).digest() for image in images]
            digest.update(modality.name.encode() + b"\0" + str(images.dtype).encode())
            for row in self.rows[modality.name]:
                digest.update(per_image[row])
        return digest.hexdigest()

    def validate(self) -> Split:
        """Check what every consumer relies on, and return self.

        Raises:
            UserError: empty split, duplicate ids, missing or misshapen images, a row outside the
                image array, NaN or values outside [0, 1], a label outside its task's classes, or
                an image used twice outside "train".
        """
        where = f"{self.info.name}/{self.name}"
        if not self.ids:
            raise UserError(f"{where}: the split is empty; import the data again or choose another")
        if len(set(self.ids)) != len(self.ids):
            raise UserError(f"{where}: sample ids repeat; every sample needs its own")
        if len(self.groups) != len(self.ids):
            raise UserError(f"{where}: {len(self.groups)} group ids for {len(self.ids)} samples")
        for modality in self.info.modalities:
            self._validate_images(where, modality)
        for task in self.info.tasks:
            self._validate_labels(where, task)
        return self

    def _validate_images(self, where: str, modality: Modality) -> None:
        if modality.name not in self.images or modality.name not in self.rows:
            raise UserError(f"{where}: no images of the modality {modality.name!r}")
        images, rows = self.images[modality.name], self.rows[modality.name]
        if images.shape[1:] != modality.shape:
            raise UserError(
                f"{where}: {modality.name} images have shape {images.shape[1:]}, "
                f"the data set declares {modality.shape} (channels, height, width)"
            )
        if len(rows) != len(self.ids):
            raise UserError(f"{where}: {len(rows)} {modality.name} images for {len(self.ids)} samples")
        if rows.min() < 0 or rows.max() >= len(images):
            raise UserError(f"{where}: a sample points to a {modality.name} image that is not there")
        if self.name != "train" and len(np.unique(rows)) != len(rows):
            raise UserError(f"{where}: a {modality.name} image is used by two samples of {self.name}")
        if images.dtype == np.uint8:
            return
        used = images[np.unique(rows)]
        if not np.isfinite(used).all():
            raise UserError(f"{where}: {modality.name} has NaN or infinite pixels; repair the images")
        if used.min() < 0 or used.max() > 1:
            raise UserError(
                f"{where}: {modality.name} pixels span {used.min():g} to {used.max():g}; scale them to [0, 1]"
            )

    def _validate_labels(self, where: str, task: Task) -> None:
        if task.name not in self.labels:
            raise UserError(f"{where}: no labels for the task {task.name!r}")
        labels = self.labels[task.name]
        if len(labels) != len(self.ids):
            raise UserError(f"{where}: {len(labels)} {task.name} labels for {len(self.ids)} samples")
        bad = np.flatnonzero((labels < 0) | (labels >= len(task.classes)))
        if len(bad):
            raise UserError(
                f"{where}: label {labels[bad[0]]} of sample {self.ids[bad[0]]!r} is outside "
                f"0 to {len(task.classes) - 1} ({task.name}: {', '.join(task.classes)})"
            )


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
