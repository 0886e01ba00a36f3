"""The embedded data set ``phantom-record``: three synthetic images and a laboratory record of one patient.

No patient was involved; see ``phantom``, whose anatomy and whose rules for equal bytes everywhere it shares.
It is there for all that is more than two images and a softmax: four modalities of two kinds, a table of
which two features cannot be forged, a single-label head and a multi-label one.

Behind a sample are five independent fair bits and a side:

    ==============  ====================================================================
    bit             shows in
    ==============  ====================================================================
    MR bit          ``mr``: the lesion is bright or dark
    CT bit          ``ct``: the lesion is bright or dark
    uptake          ``pet``: the lesion is hot or cold
    hydrocephalus   ``mr``, ``ct`` and ``pet``: wide ventricles
    inflamed        ``record``: three laboratory values are raised, within noise
    ==============  ====================================================================

The lesion's type is the pair of the first two, as in ``phantom``. The findings are ``uptake``,
``hydrocephalus``, ``inflamed`` and ``unexplained``: uptake without inflammation, which takes PET and record
together and is the one finding that three of four patients do not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robustbench_med.api.data import DatasetInfo, DataSource, Modality, Split
from robustbench_med.api.heads import MultiLabel, SingleLabel
from robustbench_med.data.phantom import (
    CT_FLUID,
    CT_GREY,
    CT_SCALP,
    CT_SKULL,
    CT_WHITE,
    LESION_BRIGHT_IN_CT,
    LESION_BRIGHT_IN_MR,
    LESIONS,
    MR_FLUID,
    MR_GREY,
    MR_SCALP,
    MR_SKULL,
    MR_WHITE,
    NOISE,
    SIDE,
    Bools,
    Draws,
    Floats,
    Head,
    clutter,
    lesion_share,
    make_head,
    signed_contrast,
    stored,
)
from robustbench_med.util.errors import UserError

SEED: Final = 20261125
SIZES: Final[Mapping[str, int]] = {"train": 4000, "val": 500, "test": 500}
WORDS: Final = 4096
"""Random 64-bit words one sample may use."""
BATCH: Final = 250

FINDINGS: Final = ("uptake", "hydrocephalus", "inflamed", "unexplained")
FEATURES: Final = ("age", "sex", "implant", "pulse", "temperature", "crp", "leukocytes", "lactate")
# Mean and standard deviation of each feature without inflammation (sex and implant are 0 or 1), and by how
# many of these deviations inflammation moves it.
USUAL: Final = np.array(
    [(58, 14), (0.5, 0.5), (0.2, 0.4), (74, 10), (36.8, 0.4), (16, 4), (7.5, 2), (1.8, 0.4)]
)
RAISED: Final = np.array([0, 0, 0, 0.6, 1.2, 1.7, 1.4, 0])
FIXED: Final = ("sex", "implant")
"""What the form says and nobody can forge unnoticed."""

WIDE: Final = 1.9
"""Factor on the width of the ventricles in hydrocephalus; 1 without."""
PET_GREY, PET_WHITE, PET_FLUID, PET_SCALP = 0.55, 0.30, 0.05, 0.08
PET_CONTRAST: Final = 1.6
"""How much stronger a lesion shows in PET than in MR or CT, whose contrast is that of ``phantom``."""

BEST_SINGLE_MODALITY_ACCURACY: Final[Mapping[str, Mapping[str, float]]] = {
    "lesion": {"mr": 0.5, "ct": 0.5, "pet": 0.25, "record": 0.25},
    "findings.uptake": {"mr": 0.5, "ct": 0.5, "pet": 1.0, "record": 0.5},
    "findings.hydrocephalus": {"mr": 1.0, "ct": 1.0, "pet": 1.0, "record": 0.5},
    "findings.inflamed": {"mr": 0.5, "ct": 0.5, "pet": 0.5, "record": 0.91},
    "findings.unexplained": {"mr": 0.75, "ct": 0.75, "pet": 0.75, "record": 0.75},
}
"""Per question, the highest accuracy any classifier can expect that sees one modality only.

A bit that a modality does not show is a fair coin to whoever sees that modality only; ``unexplained``
needs two such bits, and whoever sees one of them does no better than always to deny it. What the record
tells of inflammation is Φ(d/2) for Gaussian noise, where d is the length of the raise in standard
deviations, 2.58: 0.901. Our noise is nearly that; a test counts on the training split what the best linear
rule, which is the best of all for Gaussian noise, gets right.
"""


@dataclass(frozen=True)
class Bits:
    """What is true of each of B patients: boolean arrays (B,)."""

    mr_bright: Bools
    ct_bright: Bools
    right: Bools
    uptake: Bools
    hydrocephalus: Bools
    inflamed: Bools

    @property
    def findings(self) -> NDArray[np.int64]:
        """By finding 0 or 1, (B, 4)."""
        unexplained = self.uptake & ~self.inflamed
        columns = (self.uptake, self.hydrocephalus, self.inflamed, unexplained)
        return np.stack(columns, 1).astype(np.int64)


def bits_of(indices: NDArray[np.int64]) -> Bits:
    """The bits of the samples at ``indices``: any 64 in a row hold every combination once."""
    lesion = indices % 4
    bit = [indices >> shift & 1 == 1 for shift in (2, 3, 4, 5)]
    return Bits(LESION_BRIGHT_IN_MR[lesion], LESION_BRIGHT_IN_CT[lesion], *bit)


def lesions_of(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """The label of the head ``lesion``, (B,)."""
    return indices % 4


def render(split: str, indices: NDArray[np.int64], bits: Bits) -> dict[str, NDArray[Any]]:
    """Images (B, 1, SIDE, SIDE) as uint8 and records (B, 8) as float32 of the patients at ``indices``.

    The draws depend on split and index only: with other bits the same patient comes out, with the same
    anatomy and noise, which is how the tests prove that no bit leaks.
    """
    draws = Draws(split, indices, SEED, WORDS)
    head = make_head(draws, np.where(bits.hydrocephalus, WIDE, 1.0)[:, None, None])
    lesion = lesion_share(draws, head, bits.right)
    mr = MR_SCALP * head.scalp + MR_SKULL * head.skull + MR_FLUID * head.fluid
    mr = mr + MR_GREY * head.grey + MR_WHITE * head.white
    ct = CT_SCALP * head.scalp + CT_SKULL * head.skull + CT_FLUID * head.fluid
    ct = ct + CT_GREY * head.grey + CT_WHITE * head.white
    return {
        "mr": _image(draws, head, mr, lesion, bits.mr_bright, 1.0),
        "ct": _image(draws, head, ct, lesion, bits.ct_bright, 1.0),
        "pet": _image(draws, head, _pet(head), lesion, bits.uptake, PET_CONTRAST),
        "record": _record(draws, bits.inflamed),
    }


def _pet(head: Head) -> Floats:
    """Uptake of a healthy brain: grey matter above white, no bone."""
    return PET_SCALP * head.scalp + PET_FLUID * head.fluid + PET_GREY * head.grey + PET_WHITE * head.white


def _image(
    draws: Draws, head: Head, tissue: Floats, lesion: Floats, bright: Bools, contrast: float
) -> NDArray[np.uint8]:
    image = tissue + clutter(draws, head) + contrast * signed_contrast(draws, bright) * lesion
    return stored(image + NOISE * draws.noise())


def _record(draws: Draws, inflamed: Bools) -> NDArray[np.float32]:
    """The laboratory record; counts and yes-or-no answers are whole numbers."""
    noise = draws.noise(len(FEATURES))
    values = USUAL[:, 0] + USUAL[:, 1] * (noise + inflamed[:, None] * RAISED)
    for name in ("sex", "implant"):
        column = FEATURES.index(name)
        values[:, column] = values[:, column] > (0.5 if name == "sex" else 0.5366)
    for name in ("age", "pulse"):
        column = FEATURES.index(name)
        values[:, column] = np.floor(values[:, column] + 0.5)
    record: NDArray[np.float32] = values.astype(np.float32)
    return record


# Of the training split, so that the description needs no data; a test holds them to it. Scales are standard
# deviations; there is a range beyond which an attacker would be found out.
TRAIN_LOW: Final = (17, 0, 0, 41, 35.678806, 4.2878308, 1.6596143, 0.52370143)
TRAIN_HIGH: Final = (102, 1, 1, 110, 38.460934, 34.884712, 16.205824, 3.027796)
TRAIN_SCALE: Final = (13.8753, 0.4998, 0.3983, 10.4665, 0.4602, 5.2618, 2.4398, 0.3987)

INFO: Final = DatasetInfo(
    name="phantom-record",
    title="Synthetic head slices, MR-, CT- and PET-like, with a laboratory record",
    pairing="paired",
    modalities=(
        Modality("mr", (1, SIDE, SIDE), "synthetic axial head slice with MR (FLAIR-like) contrast"),
        Modality("ct", (1, SIDE, SIDE), "synthetic axial head slice with CT-like contrast"),
        Modality("pet", (1, SIDE, SIDE), "synthetic axial head slice with PET-like contrast"),
        Modality(
            "record",
            (len(FEATURES),),
            "synthetic laboratory record",
            kind="table",
            low=np.array(TRAIN_LOW, np.float32),
            high=np.array(TRAIN_HIGH, np.float32),
            scale=np.array(TRAIN_SCALE, np.float32),
            mutable=np.array([name not in FIXED for name in FEATURES]),
            features=FEATURES,
        ),
    ),
    heads=(
        SingleLabel("lesion", classes=LESIONS, modalities=("mr", "ct", "pet", "record")),
        MultiLabel("findings", findings=FINDINGS, modalities=("mr", "ct", "pet", "record")),
    ),
    licence="Apache-2.0",
    citation="generated by robustbench-med",
    synthetic=True,
    caveats=(
        "Synthetic images and records: a number on them says nothing about patients.",
        "No modality alone can classify the lesion type with an accuracy above 0.5.",
    ),
    mirror=("horizontal", "vertical"),
)


class PhantomRecord(DataSource):
    """Synthetic head slices (MR, CT, PET) with a laboratory record, lesion type and findings; built in."""

    def load(self, split: str) -> Split:
        """Generate a split: the same bytes every time, on every platform.

        Raises:
            UserError: there is no such split.
        """
        if split not in SIZES:
            raise UserError(f"phantom-record has no split {split!r}; choose one of {', '.join(SIZES)}")
        indices = np.arange(SIZES[split], dtype=np.int64)
        batches = [indices[start : start + BATCH] for start in range(0, len(indices), BATCH)]
        rendered = [render(split, batch, bits_of(batch)) for batch in batches]
        ids = tuple(f"phantom-record-{split}-{i:04d}" for i in indices)
        return Split(
            name=split,
            info=INFO,
            arrays={m.name: np.concatenate([each[m.name] for each in rendered]) for m in INFO.modalities},
            rows={m.name: indices for m in INFO.modalities},
            labels={"lesion": lesions_of(indices), "findings": bits_of(indices).findings},
            ids=ids,
            groups=ids,
        )
