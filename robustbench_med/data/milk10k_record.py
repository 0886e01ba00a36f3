"""MILK10k with the record that its publisher gives of each lesion, as a table beside the two photographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from robustbench_med.api.data import DatasetInfo
from robustbench_med.data import store
from robustbench_med.data.described import Input
from robustbench_med.data.features import features_of
from robustbench_med.data.listing import Table
from robustbench_med.data.manifest import Sample
from robustbench_med.data.milk10k import METADATA, METADATA_COLUMNS, Milk10k
from robustbench_med.data.tables import read_table

TABLE: Final = "record"
COLUMNS: Final[Mapping[str, str]] = {
    "age": "age_approx",
    "site": "site",
    "sex": "sex",
    "skin_tone": "skin_tone_class",
}
"""By feature the publisher's column."""
WANTED: Final = Input(
    columns=tuple(COLUMNS), categories=("site", "sex", "skin_tone"), mutable=("site",), title="record"
)
"""Age and site may be mistyped; sex and skin tone are seen by whoever sees the patient."""


class Milk10kRecord(Milk10k):
    """MILK10k with age, site, sex and skin tone as a table; import options size, classes."""

    name = "milk10k-record"
    split_of = "milk10k"

    def describe(self, options: Mapping[str, Any]) -> DatasetInfo:
        """MILK10k at the chosen size with the chosen classes; its head is about the record, too."""
        info = super().describe(options)
        return replace(
            info,
            title=f"{info.title}, and the patient's record",
            heads=tuple(replace(head, modalities=(*head.modalities, TABLE)) for head in info.heads),
            caveats=(
                *info.caveats,
                "Of the record an attacker may change age and site, not sex and skin tone. An attack on the "
                "site moves its 0s and 1s by fractions, which no form can hold.",
            ),
        )

    def collect(self, source: Path, options: Mapping[str, Any]) -> store.Content:
        """What MILK10k's importer reads, and the record of each lesion.

        Raises:
            UserError: see ``Milk10k.collect``; an age that is no number.
        """
        content = super().collect(source, options)
        guessed: list[str] = []
        table = _table(source / METADATA, content.samples, guessed)
        return replace(
            content,
            tables={TABLE: table},
            left_out=(*content.left_out, *guessed),
            caveats=(*content.caveats, *guessed),
        )


def _table(path: Path, samples: Sequence[Sample], guessed: list[str]) -> Table:
    """The record of each sample; both photographs of a lesion have the same."""
    rows = {row["lesion_id"]: row for row in read_table(path, METADATA_COLUMNS, "MILK10k")}
    cells = {name: [rows[each.id][column] for each in samples] for name, column in COLUMNS.items()}
    train = np.array([each.split == "train" for each in samples])
    return features_of(TABLE, cells, WANTED, train, guessed)
