"""Two data sets of different people under one index, as MAIL pairs them (arXiv:2602.15346).

Both are thinned out to the smaller one, each class in proportion, and sample i is the i-th of either in an
order that depends on ids alone: whoever has the same two data sets gets the same pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robustbench_med.api.data import DatasetInfo, DataSource, Split
from robustbench_med.data import splits
from robustbench_med.data.added import splits_of
from robustbench_med.data.manifest import Sample, split_manifest
from robustbench_med.util.errors import UserError

JOINED_BY: Final = " + "
"""Between the two names, where a data set is named."""

UNPAIRED: Final = "The two halves of a sample show different people; their labels are independent."


@dataclass(frozen=True)
class Joined(DataSource):
    """Two sources joined by index."""

    first: DataSource
    second: DataSource

    @property
    def splits(self) -> tuple[str, ...]:
        """Those that both have."""
        return tuple(split for split in splits_of(self.first) if split in splits_of(self.second))

    def load(self, split: str) -> Split:
        """Join one split of both.

        Raises:
            UserError: either has none.
        """
        return self._joined(split)[0]

    def manifest(self, split: str) -> str:
        """The pairs of a split as CSV, as splits are published: ids of both halves, and labels."""
        return self._joined(split)[1]

    def _joined(self, split: str) -> tuple[Split, str]:
        return joined(self.first.load(split).validate(), self.second.load(split).validate())


def joined(first: Split, second: Split) -> tuple[Split, str]:
    """Two splits of one name joined by index; what both call alike gets the data set's name in front.

    In "train" the smaller one is recycled until every sample of the larger one is used once; elsewhere no
    sample is used twice.

    Returns:
        The joined split, and its manifest.
    """
    parts = [_renamed(one, other) for one, other in ((first, second), (second, first))]
    count = max(map(len, parts)) if first.name == "train" else min(map(len, parts))
    chosen = [_drawn(part, count, f"{which}-{first.name}") for which, part in zip("ab", parts, strict=True)]
    names = [part.info.name for part in parts]
    ids = tuple(f"{first.name}-{number:05d}" for number in range(1, count + 1))
    left = [
        f"{len(part) - count} of {len(part)} {name} samples" for part, name in zip(parts, names, strict=True)
    ]
    over = [line for line, part in zip(left, parts, strict=True) if len(part) > count]
    info = DatasetInfo(
        name="+".join(names),
        title=f"{parts[0].info.title} with {parts[1].info.title}, joined by index",
        pairing="unpaired",
        modalities=(*parts[0].info.modalities, *parts[1].info.modalities),
        heads=(*parts[0].info.heads, *parts[1].info.heads),
        licence="; ".join(dict.fromkeys(part.info.licence for part in parts)),
        citation="; ".join(dict.fromkeys(part.info.citation for part in parts)),
        synthetic=all(part.info.synthetic for part in parts),
        caveats=(
            UNPAIRED,
            *(f"{line} are left out: the other set has fewer, and none is used twice" for line in over),
            *(line for part in parts for line in part.info.caveats),
        ),
        mirror=tuple(flip for flip in parts[0].info.mirror if flip in parts[1].info.mirror),
    )
    whole = Split(
        name=first.name,
        info=info,
        arrays=_both(part.arrays for part in parts),
        rows=_both(
            {n: rows[index] for n, rows in part.rows.items()}
            for part, index in zip(parts, chosen, strict=True)
        ),
        labels=_both(
            {head: labels[index] for head, labels in part.labels.items()}
            for part, index in zip(parts, chosen, strict=True)
        ),
        ids=ids,
        groups=_groups(parts, chosen, ids),
    )
    text = _manifest(whole, parts, chosen)
    said = f"Pairs: manifest of this split has sha256 {splits.manifest_hash(text)[:16]}."
    return replace(whole, info=replace(info, caveats=tuple(dict.fromkeys((*info.caveats, said))))), text


def _manifest(whole: Split, parts: list[Split], chosen: list[NDArray[np.int64]]) -> str:
    samples = []
    for number, sample_id in enumerate(whole.ids):
        labels = {head.name: _label(whole, head.name, number) for head in whole.info.heads}
        files = {
            m.name: part.ids[index[number]]
            for part, index in zip(parts, chosen, strict=True)
            for m in part.info.modalities
        }
        samples.append(Sample(whole.name, sample_id, whole.groups[number], files, labels))
    return split_manifest(whole.info, samples)


def _label(split: Split, head: str, row: int) -> str:
    return " ".join(map(str, np.atleast_1d(split.labels[head][row]).tolist()))


def _renamed(split: Split, other: Split) -> Split:
    """The split with modalities and heads of its own names."""
    if split.info.name == other.info.name:
        raise UserError(
            f"both data sets are called {split.info.name!r}; give one another name: in its dataset.yaml"
        )
    prefix = split.info.name.replace(".", "_")
    modalities = {m.name: m.name for m in split.info.modalities}
    heads = {h.name: h.name for h in split.info.heads}
    for mapping, theirs in ((modalities, other.info.modalities), (heads, other.info.heads)):
        for each in theirs:
            if each.name in mapping:
                mapping[each.name] = f"{prefix}-{each.name}"
    info = replace(
        split.info,
        modalities=tuple(replace(m, name=modalities[m.name]) for m in split.info.modalities),
        heads=tuple(
            replace(h, name=heads[h.name], modalities=tuple(modalities[m] for m in h.modalities))
            for h in split.info.heads
        ),
    )
    return replace(
        split,
        info=info,
        arrays={modalities[name]: array for name, array in split.arrays.items()},
        rows={modalities[name]: rows for name, rows in split.rows.items()},
        labels={heads[name]: labels for name, labels in split.labels.items()},
    )


def _drawn(split: Split, count: int, purpose: str) -> NDArray[np.int64]:
    """``count`` rows, each class in proportion, in an order that does not depend on the class."""
    head = split.info.heads[0].name
    strata = {name: _label(split, head, row) for row, name in enumerate(split.ids)}
    position = {name: row for row, name in enumerate(split.ids)}
    available = min(count, len(split))
    drawn = splits.draw_stratified(strata, available, seed=splits.SEED, purpose=f"draw-{purpose}")
    order = splits.recycle(drawn, count, seed=splits.SEED, purpose=f"pair-{purpose}")
    return np.array([position[name] for name in order], np.int64)


def _groups(parts: list[Split], chosen: list[NDArray[np.int64]], ids: tuple[str, ...]) -> tuple[str, ...]:
    """Samples that share a patient in either half, directly or through others, are one group."""
    leader = list(range(len(ids)))

    def find(row: int) -> int:
        while leader[row] != row:
            leader[row] = leader[leader[row]]
            row = leader[row]
        return row

    for part, index in zip(parts, chosen, strict=True):
        seen: dict[str, int] = {}
        for row, at in enumerate(index.tolist()):
            before = seen.setdefault(part.groups[at], row)
            leader[find(row)] = find(before)
    return tuple(ids[find(row)] for row in range(len(ids)))


def _both(parts: Any) -> Mapping[str, Any]:
    return {name: value for part in parts for name, value in part.items()}
