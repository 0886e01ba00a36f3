"""What each modality does to each head: attacked alone, together, or missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from robustbench_med.measure.statistics import Estimate


@dataclass(frozen=True)
class Situation:
    """Accuracy of every head, and of all at once, in one situation.

    Attributes:
        kind: "clean", "attacked" or "missing".
        modalities: to which that applies.
        goal: of the attack; "" where there is none.
        run: of the attack's record; "" where there is none.
    """

    kind: str
    modalities: tuple[str, ...]
    goal: str
    accuracy: Mapping[str, Estimate]
    run: str = ""


@dataclass(frozen=True)
class ModalityTable:
    """All situations, and what unrelated inputs do to each other's heads.

    Attributes:
        leakage: for unpaired data, by "modality -> head": the accuracy that the head loses when only
            an input is attacked that its label is not about. A net that kept unrelated patients
            apart would lose nothing.
    """

    title: str
    rows: tuple[Situation, ...]
    leakage: Mapping[str, float]

    def as_record(self) -> dict[str, Any]:
        """For modalities.json."""
        return {
            "title": self.title,
            "rows": [asdict(row) for row in self.rows],
            "leakage": dict(self.leakage),
        }


def modality_table_of(title: str, rows: Sequence[Situation]) -> ModalityTable:
    """The table, with the leakage that its rows show.

    Args:
        rows: the clean one first; attacks on one head alone are those of foreign modalities.
    """
    clean = rows[0]
    foreign = [row for row in rows if row.kind == "attacked" and row.goal in clean.accuracy]
    leakage = {
        f"{row.modalities[0]} -> {row.goal}": clean.accuracy[row.goal].value - row.accuracy[row.goal].value
        for row in foreign
    }
    return ModalityTable(title, tuple(rows), leakage)
