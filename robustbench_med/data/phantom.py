"""The embedded data set ``phantom``: synthetic head slices in two registered modalities.

No patient was involved: every image is computed from a seed. The data set exists so that the
whole benchmark runs offline in minutes, and so that one fact about it is known by construction:
how much a single modality can tell (``BEST_SINGLE_MODALITY_ACCURACY``).

Each sample shows one lesion. Its type is a pair of independent fair bits, one per modality:

    ==============  =========  =========
    lesion          in ``mr``  in ``ct``
    ==============  =========  =========
    infarct         bright     dark
    haemorrhage     bright     bright
    calcification   dark       bright
    cyst            dark       dark
    ==============  =========  =========

Same bytes everywhere: random numbers are raw PCG64 words, the one stream that NumPy promises to
keep between versions (NEP 19; it makes no such promise for ``Generator.normal`` and the like).
Everything after them is done in float64 with + - * / and sqrt, one element at a time. IEEE 754
fixes their results to the last bit, unlike those of exp, sin or a sum over an axis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from robustbench_med.api.data import SPLITS, DatasetInfo, DataSource, Modality, Split
from robustbench_med.api.heads import SingleLabel
from robustbench_med.util.errors import UserError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SEED: Final = 20260215
SIZES: Final[Mapping[str, int]] = {"train": 4000, "val": 500, "test": 1000}
SIDE: Final = 32
"""Height and width of every image in pixels."""

LESIONS: Final = ("infarct", "haemorrhage", "calcification", "cyst")
LESION_BRIGHT_IN_MR: Final = np.array([True, True, False, False])
LESION_BRIGHT_IN_CT: Final = np.array([False, True, True, False])

BEST_SINGLE_MODALITY_ACCURACY: Final[Mapping[str, float]] = {"lesion": 0.5, "side": 1.0}
"""Per task, the highest accuracy any classifier can expect that sees one modality only.

lesion: given all draws of a sample, its MR image is a function of the MR bit alone. The CT bit is
a fair coin that is independent of both, so the MR image says nothing about it and leaves a coin
toss between two types: 0.5 if the MR bit is always read right, less if not. The same holds for CT.
side: the lesion shows in both modalities, so one may suffice and the bound is the trivial 1.
"""

# Intensities in [0, 1]. MR resembles FLAIR: fluid and bone dark, grey matter above white matter.
MR_SCALP, MR_SKULL, MR_FLUID, MR_GREY, MR_WHITE = 0.62, 0.10, 0.18, 0.52, 0.43
CT_SCALP, CT_SKULL, CT_FLUID, CT_GREY, CT_WHITE = 0.32, 0.92, 0.25, 0.45, 0.39
MR_FALX, CT_FALX = -0.05, 0.05
MR_BIAS = 0.10
"""Largest relative change of MR intensity by the smooth coil sensitivity."""
NOISE = 0.03
"""Standard deviation of the white noise in both modalities."""
TEXTURE = 0.03
"""Largest change of intensity by tissue texture whose grain is about the size of a small lesion."""

# Tuned so that a small undefended net gets most lesion types right (the cards in weights/phantom say
# how many) and loses most of them to perturbations of 4/255 (leaderboards/phantom.csv): the low end
# is hard to tell from texture and distractors.
LESION_CONTRAST = (0.09, 0.20)
DISTRACTOR_CONTRAST = (-0.04, 0.04)
DISTRACTORS = 3
LESION_RADIUS = (0.16, 0.25)
"""In half head widths: about 2 to 3 pixels."""

_EDGE = 0.09
"""Width of soft tissue borders in half head widths, about one pixel."""
_BATCH = 250
"""Samples rendered at once: bounds memory to some tens of MB."""
_WORDS = 2448
"""Random 64-bit words one sample uses."""


@dataclass(frozen=True)
class Findings:
    """What a radiologist would report for each of B samples: boolean arrays of shape (B,).

    Attributes:
        right: the lesion is in the hemisphere on the right-hand side of the image.
    """

    mr_bright: Bools
    ct_bright: Bools
    right: Bools


@dataclass(frozen=True)
class Head:
    """Where things are in B heads: arrays (B, SIDE, SIDE).

    Attributes:
        u, v: head coordinates, left to right and top to bottom; (u, v) on the unit circle is skin.
        scalp, skull, fluid, grey, white: share of each pixel, in [0, 1]; what they leave is air.
        falx: share of the midline fold, lies on top of the tissue.
        brain: share of brain, ventricles included.
    """

    u: Floats
    v: Floats
    scalp: Floats
    skull: Floats
    fluid: Floats
    grey: Floats
    white: Floats
    falx: Floats
    brain: Floats


class Draws:
    """The random numbers of B samples, handed out in a fixed order.

    The other phantoms draw from it too, each with its own seed and number of words. Every sample uses a
    stream of its own, seeded by (seed, split, index), so no sample depends on which others are rendered
    with it. Nothing drawn depends on a label.
    """

    def __init__(self, split: str, indices: NDArray[np.int64], seed: int = SEED, words: int = _WORDS) -> None:
        seeds = [np.random.SeedSequence((seed, SPLITS.index(split), int(i))) for i in indices]
        self._words = np.stack([np.random.PCG64(each).random_raw(words) for each in seeds])
        self._next = 0

    def _take(self, *shape: int) -> NDArray[np.uint64]:
        start, self._next = self._next, self._next + math.prod(shape)
        # With the number of samples spelled out, reshape raises when the words have run out.
        return self._words[:, start : self._next].reshape(len(self._words), *shape)

    def uniform(self, low: float, high: float) -> Floats:
        """One number in [low, high) per sample: (B, 1, 1)."""
        return low + (high - low) * unit(self._take(1, 1))

    def smooth_field(self, nodes: int) -> Floats:
        """A smooth field in [-1, 1], (B, SIDE, SIDE), through nodes x nodes uniform numbers."""
        lattice = 2.0 * unit(self._take(nodes, nodes)) - 1.0
        place = np.arange(SIDE) * (nodes - 1) / (SIDE - 1)
        cell = np.minimum(place.astype(np.int64), nodes - 2)
        weight = smoothstep(place - cell)
        rows = lattice[:, cell] * (1 - weight)[:, None] + lattice[:, cell + 1] * weight[:, None]
        return rows[:, :, cell] * (1 - weight) + rows[:, :, cell + 1] * weight

    def noise(self, *shape: int) -> Floats:
        """White noise of mean 0 and variance 1: (B, *shape), by default (B, SIDE, SIDE).

        The sum of the four 16-bit parts of a word: close to normal, within 3.5 standard deviations,
        and free of the logarithms an exact normal needs.
        """
        words = self._take(*(shape or (SIDE, SIDE)))
        parts = [(words >> np.uint64(shift)) & np.uint64(0xFFFF) for shift in (0, 16, 32, 48)]
        total: Floats = (parts[0] + parts[1] + parts[2] + parts[3]).astype(np.float64)
        return (total - 2.0 * 0xFFFF) / math.sqrt((2.0**32 - 1) / 3)


def unit(words: NDArray[np.uint64]) -> Floats:
    """Words as numbers in [0, 1)."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def smoothstep(x: Floats) -> Floats:
    """0 below 0, 1 above 1, and a smooth rise between."""
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def inside(distance: Floats, limit: Floats | float) -> Floats:
    """Share of each pixel where ``distance`` is below ``limit``."""
    return smoothstep((limit - distance) / _EDGE + 0.5)


def head_coordinates(draws: Draws) -> tuple[Floats, Floats]:
    """Head coordinates (u, v) of every pixel of a shifted, turned and scaled head."""
    pixel = (np.arange(SIDE) - (SIDE - 1) / 2) / (SIDE / 2)
    x = pixel[None, None, :] - draws.uniform(-0.06, 0.06)
    y = pixel[None, :, None] - draws.uniform(-0.06, 0.06)
    half_turn = draws.uniform(-0.1, 0.1)  # tan of half the angle (up to 11 degrees): no sin, no cos
    cos = (1 - half_turn * half_turn) / (1 + half_turn * half_turn)
    sin = 2 * half_turn / (1 + half_turn * half_turn)
    u = (cos * x + sin * y) / draws.uniform(0.70, 0.82)
    v = (cos * y - sin * x) / draws.uniform(0.82, 0.93)
    return u, v


def _ventricles(draws: Draws, u: Floats, v: Floats, wider: Floats | float) -> Floats:
    """Share of the two lateral ventricles: upright crescents that bend outwards at both ends."""
    bend = draws.uniform(0.4, 1.0)
    middle = draws.uniform(0.09, 0.14) * wider + bend * v * v
    across = (np.abs(u) - middle) / (draws.uniform(0.06, 0.11) * wider)
    along = v / draws.uniform(0.28, 0.42)
    return smoothstep(1.5 - np.sqrt(across * across + along * along))


def make_head(draws: Draws, wider: Floats | float = 1.0) -> Head:
    """The anatomy. Its distribution is the same upside down, so a vertical flip is plausible.

    Args:
        wider: factor on the width of the ventricles.
    """
    u, v = head_coordinates(draws)
    radius = np.sqrt(u * u + v * v)
    bone_limit = draws.uniform(0.91, 0.95)
    dura_limit = bone_limit - draws.uniform(0.08, 0.15)
    brain_limit = dura_limit - draws.uniform(0.02, 0.05)
    head, bone = inside(radius, 1.0), inside(radius, bone_limit)
    dura, brain = inside(radius, dura_limit), inside(radius, brain_limit)
    tissue = brain * (1 - _ventricles(draws, u, v, wider))
    folds = draws.smooth_field(10)
    white = tissue * inside(radius + 0.22 * folds, draws.uniform(0.50, 0.62))
    return Head(
        u=u,
        v=v,
        scalp=head - bone,
        skull=bone - dura,
        fluid=dura - tissue,
        grey=tissue - white,
        white=white,
        falx=tissue * inside(np.abs(u), 0.0),
        brain=brain,
    )


def _blob(draws: Draws, head: Head, u: Floats, v: Floats) -> Floats:
    """A soft-edged oval around head coordinates (u, v), cut to the brain: in [0, 1]."""
    radius, stretch = draws.uniform(*LESION_RADIUS), draws.uniform(0.75, 1.33)
    across, along = (head.u - u) * stretch, (head.v - v) / stretch
    distance = np.sqrt(across * across + along * along) / radius
    return head.brain * smoothstep(1.5 - distance)


def lesion_share(draws: Draws, head: Head, right: Bools) -> Floats:
    """The lesion's share of each pixel, clear of the midline and of the skull."""
    from_midline = draws.uniform(0.28, 0.54)
    u = np.where(right[:, None, None], from_midline, -from_midline)
    return _blob(draws, head, u, draws.uniform(-0.45, 0.45))


def clutter(draws: Draws, head: Head) -> Floats:
    """What hides the lesion in one modality: tissue texture and faint lesion-like blobs."""
    shown = TEXTURE * draws.smooth_field(11) * head.brain
    for _ in range(DISTRACTORS):
        blob = _blob(draws, head, draws.uniform(-0.6, 0.6), draws.uniform(-0.6, 0.6))
        shown = shown + draws.uniform(*DISTRACTOR_CONTRAST) * blob
    return shown


def signed_contrast(draws: Draws, bright: Bools) -> Floats:
    """Signed lesion contrast (B, 1, 1); its size does not depend on its sign."""
    size = draws.uniform(*LESION_CONTRAST)
    return np.where(bright[:, None, None], size, -size)


def stored(image: Floats) -> NDArray[np.uint8]:
    """Intensities (B, SIDE, SIDE) as stored: (B, 1, SIDE, SIDE), 255 is 1.0."""
    return np.floor(np.clip(image, 0.0, 1.0) * 255 + 0.5).astype(np.uint8)[:, None]


def _mr(draws: Draws, head: Head, lesion: Floats, bright: Bools) -> NDArray[np.uint8]:
    """The MR image: sees the MR bit only."""
    image = MR_SCALP * head.scalp + MR_SKULL * head.skull + MR_FLUID * head.fluid
    image = image + MR_GREY * head.grey + MR_WHITE * head.white + MR_FALX * head.falx
    image = image + clutter(draws, head) + signed_contrast(draws, bright) * lesion
    image = image * (1 + MR_BIAS * draws.smooth_field(3))
    return stored(image + NOISE * draws.noise())


def _ct(draws: Draws, head: Head, lesion: Floats, bright: Bools) -> NDArray[np.uint8]:
    """The CT image: sees the CT bit only."""
    image = CT_SCALP * head.scalp + CT_SKULL * head.skull + CT_FLUID * head.fluid
    image = image + CT_GREY * head.grey + CT_WHITE * head.white + CT_FALX * head.falx
    image = image + clutter(draws, head) + signed_contrast(draws, bright) * lesion
    return stored(image + NOISE * draws.noise())


def labels_of(indices: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Labels per task, each (B,). Any eight samples in a row hold every pair of labels once."""
    return {"lesion": indices % 4, "side": indices // 4 % 2}


def findings_of(indices: NDArray[np.int64]) -> Findings:
    """What the samples at ``indices`` show, from their labels."""
    labels = labels_of(indices)
    return Findings(
        mr_bright=LESION_BRIGHT_IN_MR[labels["lesion"]],
        ct_bright=LESION_BRIGHT_IN_CT[labels["lesion"]],
        right=labels["side"] == 1,
    )


def render(split: str, indices: NDArray[np.int64], findings: Findings) -> dict[str, NDArray[np.uint8]]:
    """Images per modality, (B, 1, SIDE, SIDE), of the patients at ``indices`` had they ``findings``.

    The draws depend on split and index only. So with other findings the same patient comes out with
    the same anatomy, noise and lesion shape, which is how the tests prove that no bit leaks.
    """
    draws = Draws(split, indices)
    head = make_head(draws)
    lesion = lesion_share(draws, head, findings.right)
    return {
        "mr": _mr(draws, head, lesion, findings.mr_bright),
        "ct": _ct(draws, head, lesion, findings.ct_bright),
    }


def lesion_masks(split: str, indices: NDArray[np.int64], right: Bools) -> Floats:
    """The lesion's share of each pixel, (B, SIDE, SIDE) in [0, 1]: the truth behind ``render``."""
    draws = Draws(split, indices)
    return lesion_share(draws, make_head(draws), right)


INFO: Final = DatasetInfo(
    name="phantom",
    title="Synthetic head slices, MR-like and CT-like",
    pairing="paired",
    modalities=(
        Modality("mr", (1, SIDE, SIDE), "synthetic axial head slice with MR (FLAIR-like) contrast"),
        Modality("ct", (1, SIDE, SIDE), "synthetic axial head slice with CT-like contrast"),
    ),
    heads=(
        SingleLabel("lesion", classes=LESIONS, modalities=("mr", "ct")),
        SingleLabel("side", classes=("left", "right"), modalities=("mr", "ct")),
    ),
    licence="Apache-2.0",
    citation="generated by robustbench-med",
    synthetic=True,
    caveats=(
        "Synthetic images: a number on them says nothing about patients.",
        "Neither modality alone can classify the lesion type with an accuracy above 0.5.",
        "Side is the side of the image, not of a patient.",
    ),
    # A horizontal flip would swap the label of side.
    mirror=("vertical",),
)


class Phantom(DataSource):
    """Synthetic head slices (MR-like, CT-like) with one lesion each; built in, no import needed."""

    def load(self, split: str) -> Split:
        """Generate a split: the same bytes every time, on every platform.

        Raises:
            UserError: there is no such split.
        """
        if split not in SIZES:
            raise UserError(f"phantom has no split {split!r}; choose one of {', '.join(SIZES)}")
        indices = np.arange(SIZES[split], dtype=np.int64)
        batches = [indices[start : start + _BATCH] for start in range(0, len(indices), _BATCH)]
        rendered = [render(split, batch, findings_of(batch)) for batch in batches]
        ids = tuple(f"phantom-{split}-{i:04d}" for i in indices)
        return Split(
            name=split,
            info=INFO,
            arrays={m.name: np.concatenate([images[m.name] for images in rendered]) for m in INFO.modalities},
            rows={m.name: indices for m in INFO.modalities},
            labels=labels_of(indices),
            ids=ids,
            groups=ids,
        )
