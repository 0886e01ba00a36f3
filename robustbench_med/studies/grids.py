"""Curves and tables of modalities on a board: each with the runs behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustbench_med.reporting.charts import over_epsilon
from robustbench_med.reporting.page import Linked
from robustbench_med.reporting.record_view import Grid, curve_grid, modality_grid
from robustbench_med.reporting.views import Bar, whole

Records = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Table:
    """A table of modalities."""

    runs: tuple[str, ...]
    grid: Grid


@dataclass(frozen=True)
class Curve:
    """A curve over epsilon.

    Attributes:
        terms: norm, modality that the radii are of, and what the attack aimed at.
        radii: as they are shown, grey levels for Linf.
        bars: accuracies of what the attack aimed at.
    """

    runs: tuple[str, ...]
    grid: Grid
    terms: tuple[str, str, str]
    radii: tuple[float, ...]
    bars: tuple[Bar, ...]

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Curve:
        """From a curve.json."""
        scale = 255 if stored["norm"].startswith("linf") else 1
        return cls(
            tuple(map(str, stored["runs"])),
            curve_grid(stored),
            (stored["norm"], str(stored["of"]), str(stored["headline"])),
            tuple(scale * float(radius) for radius in stored["radii"]),
            tuple(Bar.of(each) for each in stored["accuracy"][stored["headline"]]),
        )


@dataclass(frozen=True)
class Grids:
    """All curves and tables that were found."""

    curves: tuple[Curve, ...]
    tables: tuple[Table, ...]

    @classmethod
    def of(cls, curves: Mapping[Path, Mapping[str, Any]], tables: Mapping[Path, Mapping[str, Any]]) -> Grids:
        """From the contents of files, by path.

        Raises:
            UserError: one is damaged.
        """
        made, laid = [], []
        for path, stored in curves.items():
            with whole(str(path)):
                made.append(Curve.of(stored))
        for path, stored in tables.items():
            with whole(str(path)):
                runs = tuple(str(row["run"]) for row in stored["rows"] if row["run"])
                laid.append(Table(runs, modality_grid(stored)))
        return cls(tuple(made), tuple(laid))

    @property
    def runs(self) -> set[str]:
        """All runs that a curve or a table is made of."""
        of_curves = {run for curve in self.curves for run in curve.runs}
        return of_curves | {run for table in self.tables for run in table.runs}

    def linked(self, records: Records) -> Iterator[Linked]:
        """The tables, with the pages of their runs that are at hand."""
        for table in self.tables:
            yield Linked(table.grid, tuple(_links(table.runs, records)))

    def together(self, records: Records) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Curves of the same data, norm and goal in one figure, a line a net: title and figure."""
        groups: dict[tuple[str, ...], list[tuple[str, Sequence[float], Sequence[Bar]]]] = {}
        for curve in self.curves:
            record = next((records[run] for run in curve.runs if run in records), None)
            if record is not None:
                key = (record["dataset"]["name"], record["dataset"]["fingerprint"], *curve.terms)
                name = f"{record['model']['label']}, {record['attack']['name']}"
                groups.setdefault(key, []).append((name, curve.radii, curve.bars))
        for (dataset, _, norm, of, headline), lines in groups.items():
            unit = "1/255" if norm.startswith("linf") else norm
            yield f"{dataset}, {norm}, {headline}", over_epsilon(lines, f"epsilon of {of} ({unit})")


def _links(runs: Sequence[str], records: Records) -> Iterator[tuple[str, str]]:
    for run in runs:
        if run in records:
            yield f"{run} ({' + '.join(records[run]['threat_model']['budgets'])})", f"run/{run}.html"
