"""What in a data set would make a number on it mean less, or nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robustbench_med.api.data import SPLITS, DataSource
from robustbench_med.api.heads import UNKNOWN, Head, MultiLabel
from robustbench_med.data.listing import same_but_for_case
from robustbench_med.data.looks import Look, Looked, look_at
from robustbench_med.data.notes import few
from robustbench_med.data.splits import hash_order

NEAR_BITS: Final = 3
"""Of the 64 bits of two hashes so many may differ in near copies …"""
NEAR_CORRELATION: Final = 0.99
"""… whose thumbnails of 32 x 32 must also be correlated so much."""
MOST_PAIRS: Final = 2_000_000_000
FEW_OF_A_CLASS: Final = 10
EXAMPLES: Final = 3
PAIRS_SHOWN: Final = 2


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        said: in plain words.
        grave: a number made on this data would mean nothing, or cannot be made.
    """

    said: str
    grave: bool = False


@dataclass(frozen=True)
class Values:
    """What one modality holds, in words: sizes, types and range by how many samples have them."""

    modality: str
    sizes: Mapping[str, int]
    types: Mapping[str, int]
    low: float
    high: float


@dataclass(frozen=True)
class DataCheck:
    """What was found in a data set.

    Attributes:
        counts: by head and answer (of several findings: finding) the samples of each split.
        examples: by class and modality some pictures, uint8 (H, W) or (H, W, 3).
        said: what had to be guessed to read it.
    """

    name: str
    splits: Mapping[str, int]
    counts: Mapping[str, Mapping[str, Mapping[str, int]]]
    values: tuple[Values, ...]
    findings: tuple[Finding, ...]
    examples: Mapping[tuple[str, str], tuple[NDArray[np.uint8], ...]] = field(default_factory=dict)
    said: tuple[str, ...] = ()

    @property
    def meaningless(self) -> bool:
        """Whether a number made on it would mean nothing."""
        return any(finding.grave for finding in self.findings)


def check(name: str, source: DataSource) -> DataCheck:
    """Look at every sample of every split.

    Raises:
        UserError: the data cannot even be listed.
    """
    seen = look_at(source)
    findings = [
        *_of_splits(seen),
        *_of_people(seen),
        *(each for head in seen.heads for each in _of_labels(seen, head)),
        *(each for modality in seen.looks for each in _of_modality(seen, modality)),
        *(each for modality in seen.looks for each in _of_copies(seen, modality)),
        *(Finding(line) for line in seen.tables),
    ]
    return DataCheck(
        name=name,
        splits={split: seen.splits.count(split) for split in SPLITS if split in seen.splits},
        counts={head.name: _counts(seen, head) for head in seen.heads},
        values=tuple(_values(modality, looks) for modality, looks in seen.looks.items()),
        findings=tuple(findings),
        examples=_examples(seen),
        said=seen.said,
    )


def _rows(seen: Looked, split: str) -> NDArray[np.int64]:
    return np.flatnonzero(np.array(seen.splits) == split)


def _questions(seen: Looked, head: Head) -> dict[str, NDArray[np.int64]]:
    """By question the labels of all samples, (N,)."""
    columns = seen.labels[head.name].reshape(len(seen.ids), -1)
    return {question: columns[:, number] for number, question in enumerate(head.questions)}


def _counts(seen: Looked, head: Head) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for question, labels in _questions(seen, head).items():
        for value, answer in enumerate(head.answers):
            if isinstance(head, MultiLabel) and value == 0:
                continue
            said = question.removeprefix(f"{head.name}.") if isinstance(head, MultiLabel) else answer
            found[said] = {
                split: int((labels[_rows(seen, split)] == value).sum())
                for split in SPLITS
                if split in seen.splits
            }
    return found


def _of_splits(seen: Looked) -> list[Finding]:
    found = [Finding(line, grave=line.startswith("test")) for line in seen.absent]
    if "test" not in seen.splits:
        found.append(Finding("there is no test split: nothing can be measured", grave=True))
    return found


def _of_people(seen: Looked) -> list[Finding]:
    where: defaultdict[str, set[str]] = defaultdict(set)
    for group, split in zip(seen.groups, seen.splits, strict=True):
        where[group].add(split)
    both = [group for group, splits in where.items() if len(splits) > 1 and seen.groups_known]
    found = []
    if both:
        said = f"{len(both)} patients (or lesions) are in several splits: {few(both)}; keep each in one"
        found.append(Finding(said, grave=any("test" in where[group] for group in both)))
    if len(set(seen.splits)) < 2:
        found.append(Finding("there is one split only: whether a net has seen these samples cannot be told"))
    if not seen.groups_known:
        found.append(
            Finding(
                "no patients are known: one may be in several splits, and every sample counts as a patient "
                "of its own"
            )
        )
    return found


def _of_labels(seen: Looked, head: Head) -> list[Finding]:
    found = []
    tested = _rows(seen, "test")
    constant = []
    for question, labels in _questions(seen, head).items():
        known = labels[labels != UNKNOWN]
        if len(known) < len(labels):
            found.append(
                Finding(f"{question}: {len(labels) - len(known)} of {len(labels)} labels are missing")
            )
        occurring = set(labels[tested].tolist()) - {UNKNOWN}
        if len(tested) and len(occurring) < 2:
            constant.append(question)
        for split in SPLITS:
            rows = _rows(seen, split)
            absent = [a for v, a in enumerate(head.answers) if len(rows) and not (labels[rows] == v).any()]
            if absent and not (split == "test" and len(occurring) < 2):
                found.append(Finding(f"{question}: {split} has no sample that is {few(absent)}"))
        counts = [(answer, int((labels[tested] == v).sum())) for v, answer in enumerate(head.answers)]
        small = [f"{answer} {count}" for answer, count in counts if 0 < count < FEW_OF_A_CLASS]
        if small:
            found.append(
                Finding(f"{question}: very few test samples of {few(small)}; intervals will be wide")
            )
    if constant:
        all_of_them = len(constant) == len(head.questions)
        said = f"{few(constant)}: all test samples have one answer (or none), so any constant model is right"
        found.append(Finding(said, grave=all_of_them))
    names = [q.removeprefix(f"{head.name}.") for q in head.questions]
    pair = same_but_for_case(names if isinstance(head, MultiLabel) else head.answers)
    if pair:
        found.append(
            Finding(f"{head.name}: {pair[0]!r} and {pair[1]!r} differ only in case; rename one", grave=True)
        )
    return found


def _of_modality(seen: Looked, modality: str) -> list[Finding]:
    """Files that cannot be read, sizes, types, constant and empty images."""
    looks, found = seen.looks[modality], []
    for fault, rows in _by_fault(looks).items():
        shown = few([seen.ids[row] for row in rows])
        found.append(Finding(f"{modality}: {len(rows)} of {len(looks)} {fault}: {shown}", grave=True))
    read = [(row, look) for row, look in enumerate(looks) if look.fault is None]
    if not read:
        return found
    sizes = {look.shape[1:] for _, look in read}
    if len(sizes) > 1 and not seen.resized[modality]:
        found.append(
            Finding(f"{modality}: {len(sizes)} different sizes; write size: in dataset.yaml", grave=True)
        )
    if len({look.shape[0] for _, look in read}) > 1:
        found.append(Finding(f"{modality}: some samples are grey and some in colour"))
    if len({look.dtype for _, look in read}) > 1:
        found.append(Finding(f"{modality}: some samples have 8 bits and some more"))
    zero = [seen.ids[row] for row, look in read if look.low == look.high == 0]
    flat = [seen.ids[row] for row, look in read if look.low == look.high]
    if len(flat) == len(read):
        found.append(Finding(f"{modality}: every sample is constant, there is nothing to see", grave=True))
    elif flat:
        found.append(
            Finding(
                f"{modality}: {len(flat)} samples are constant, {len(zero)} of them all zero: {few(flat)}"
            )
        )
    high = max(look.high for _, look in read)
    if 0 < high <= 1.001 / 255:
        found.append(
            Finding(f"{modality}: no value is above 1/255; were they divided by 255 twice?", grave=True)
        )
    elif high <= 0.1:
        found.append(
            Finding(f"{modality}: no value is above {high:.3g} of the full scale; is that the right one?")
        )
    return found


def _by_fault(looks: Sequence[Look]) -> dict[str, list[int]]:
    found: defaultdict[str, list[int]] = defaultdict(list)
    for row, look in enumerate(looks):
        if look.fault is not None:
            found[look.fault].append(row)
    return dict(found)


def _of_copies(seen: Looked, modality: str) -> list[Finding]:
    """Exact and near copies, within and across splits."""
    looks = seen.looks[modality]
    same: defaultdict[bytes, list[int]] = defaultdict(list)
    for row, look in enumerate(looks):
        # A constant image is the copy of every other; that is another finding.
        if look.fault is None and look.low < look.high:
            same[look.digest].append(row)
    copies = [rows for rows in same.values() if len(rows) > 1]
    across = [rows for rows in copies if len({seen.splits[row] for row in rows}) > 1]
    found = []
    if across:
        shown = _some([" = ".join(seen.ids[row] for row in rows[:2]) for rows in across])
        tested = sum(seen.splits[row] == "test" for rows in across for row in rows)
        found.append(
            Finding(
                f"{modality}: {len(across)} images are in several splits, pixel for pixel ({tested} test "
                f"samples): {shown}; keep one of each",
                grave=tested > 0,
            )
        )
    within = [rows for rows in copies if rows not in across]
    if within:
        more = sum(len(rows) - 1 for rows in within)
        found.append(Finding(f"{modality}: {more} samples copy another one of their split, pixel for pixel"))
    odd = [rows for rows in copies if len({_answer_of(seen, row) for row in rows}) > 1]
    if odd:
        shown = _some([" = ".join(seen.ids[row] for row in rows[:2]) for rows in odd])
        found.append(Finding(f"{modality}: {len(odd)} images have copies with other labels: {shown}"))
    return [*found, *_near(seen, modality)]


def _some(pairs: Sequence[str]) -> str:
    return ", ".join(pairs[:PAIRS_SHOWN]) + (" …" if len(pairs) > PAIRS_SHOWN else "")


def _answer_of(seen: Looked, row: int) -> str:
    return " ".join(str(seen.labels[head.name][row]) for head in seen.heads)


def _near(seen: Looked, modality: str) -> list[Finding]:
    """Test samples that are nearly the same as a sample of another split."""
    looks = seen.looks[modality]
    usable = np.array([look.fault is None and look.low < look.high for look in looks])
    splits = np.array(seen.splits)
    tested, others = np.flatnonzero(usable & (splits == "test")), np.flatnonzero(usable & (splits != "test"))
    if not len(tested) or not len(others):
        return []
    if len(tested) * len(others) > MOST_PAIRS:
        return [Finding(f"{modality}: near copies were not looked for, there are too many pairs")]
    hashes = np.array([look.hash for look in looks], np.uint64)
    thumbs = np.stack([_standard(look.thumb) for look in looks])
    pairs = []
    for row in tested.tolist():
        close = others[np.bitwise_count(hashes[others] ^ hashes[row]) <= NEAR_BITS]
        close = close[thumbs[close] @ thumbs[row] >= NEAR_CORRELATION]
        alike = [other for other in close.tolist() if looks[other].digest != looks[row].digest]
        if alike:
            pairs.append((row, alike[0]))
    if not pairs:
        return []
    shown = _some([f"{seen.ids[row]} ~ {seen.ids[other]}" for row, other in pairs])
    return [
        Finding(
            f"{modality}: {len(pairs)} of {len(tested)} test samples nearly equal one of another split (at "
            f"most {NEAR_BITS} of 64 bits of a difference hash, correlation {NEAR_CORRELATION} or more): "
            f"{shown}; accuracy on them is optimistic"
        )
    ]


def _standard(thumb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A thumbnail as a vector of mean 0 and length 1; zeros when it is constant."""
    centred = (thumb.mean(-1) if thumb.ndim == 3 else thumb).ravel().astype(np.float32)
    centred = centred - centred.mean()
    length = float(np.linalg.norm(centred))
    return np.asarray(centred / length if length > 0 else centred, np.float32)


def _values(modality: str, looks: Sequence[Look]) -> Values:
    read = [look for look in looks if look.fault is None]
    sizes = Counter(" x ".join(map(str, look.shape)) for look in read)
    return Values(
        modality=modality,
        sizes=dict(sizes.most_common()),
        types=dict(Counter(look.dtype for look in read).most_common()),
        low=min((look.low for look in read), default=0.0),
        high=max((look.high for look in read), default=0.0),
    )


def _examples(seen: Looked) -> dict[tuple[str, str], tuple[NDArray[np.uint8], ...]]:
    """Some samples of each class of the first head, the same for everyone."""
    head = seen.heads[0]
    classes: list[tuple[str, NDArray[Any]]] = []
    for question, labels in _questions(seen, head).items():
        several = isinstance(head, MultiLabel)
        answers = [(question, 1)] if several else [(answer, v) for v, answer in enumerate(head.answers)]
        classes += [(said, np.flatnonzero(labels == value)) for said, value in answers]
    found = {}
    for said, rows in classes:
        for modality, looks in seen.looks.items():
            there = {seen.ids[row]: row for row in rows.tolist() if looks[row].fault is None}
            chosen = hash_order(there, seed=0, purpose="examples")[:EXAMPLES]
            found[said, modality] = tuple(looks[there[sample]].thumb for sample in chosen)
    return found
