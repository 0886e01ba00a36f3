"""What the pages of a board show, from records and rows: words and places of bars, nothing computed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from robustbench_med.measure.accuracy import EVERY
from robustbench_med.measure.standing import Place, Standings
from robustbench_med.measure.ties import LEVEL, OVERLAP, Ranks, Step
from robustbench_med.util.errors import UserError

Record = Mapping[str, Any]
NONE = "none"


@dataclass(frozen=True)
class Bar:
    """A share in [0, 1] with its 95 % interval, as it is drawn and said."""

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        shares = (self.low, self.value, self.high)
        if not all(isinstance(s, int | float) and math.isfinite(s) and 0 <= s <= 1 for s in shares):
            raise ValueError(f"{self.value!r} ({self.low!r} to {self.high!r}) is no share with its interval")

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Bar:
        """From an estimate as records have it."""
        return cls(stored["value"], stored["low"], stored["high"])

    @property
    def percent(self) -> str:
        """ "93.2"."""
        return f"{100 * self.value:.1f}"

    @property
    def interval(self) -> str:
        """ "90.7 to 95.1"."""
        return f"{100 * self.low:.1f} to {100 * self.high:.1f}"


@dataclass(frozen=True)
class Row:
    """A run in the table of its board.

    Attributes:
        page: of its record, from the index; "" where only the row of a CSV is at hand.
        rank: "2", "2=" where it is shared, "" where it is not ranked.
        kind: of the data: "image", "image + table", …
        randomness: "deterministic" or "random"; "" where that is not known.
        robust: None never, clean and worst where a CSV lacks them.
    """

    run: str
    page: str
    model: str
    title: str
    defenses: str
    attack: str
    attack_in_full: str
    kind: str
    randomness: str
    clean: Bar | None
    robust: Bar
    worst: str
    worst_value: float | None
    rank: str
    standing: str
    reason: str
    verdict: str


@dataclass(frozen=True)
class BoardView:
    """A board: one data set and threat model.

    Attributes:
        key: for links within the page.
        ranking: how its ranks came about, in words.
    """

    key: str
    dataset: str
    data_title: str
    samples: str
    threat: str
    synthetic: bool
    ranking: str
    ranked: tuple[Row, ...]
    below: tuple[Row, ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        """Ranked and others."""
        return (*self.ranked, *self.below)


@contextmanager
def whole(where: str) -> Iterator[None]:
    """Say of a record that lacks what a page shows, or holds something else there, that it is damaged.

    Raises:
        UserError: in place of what reading it raised.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        said = f"{type(error).__name__}: {error}"[:160]
        raise UserError(f"{where} is no whole record of robmed run ({said}); make the run again") from error


def board_view(
    found: Standings, records: Mapping[str, Record], files: Mapping[str, object], number: int
) -> BoardView:
    """A board as the index shows it.

    Args:
        records: by run, those at hand.
        files: by run where it was read, for errors.
        number: of the board, for its key.

    Raises:
        UserError: a row or a record is damaged.
    """
    first = found.places[0].row
    record = next((records[p.row["run"]] for p in found.places if p.row["run"] in records), None)
    rows = []
    for place in found.places:
        with whole(str(files[place.row["run"]])):
            rows.append(_row(place, records.get(place.row["run"])))
    samples = first.get("samples") or "?"
    return BoardView(
        key=f"board-{number}",
        dataset=first["dataset"],
        data_title=record["dataset"]["title"] if record else "",
        samples=samples,
        threat=_threat(first),
        synthetic=bool(record and record["dataset"]["synthetic"]),
        ranking=ranking_words(found.ranks),
        ranked=tuple(row for row in rows if row.rank),
        below=tuple(row for row in rows if not row.rank),
    )


def _threat(row: Mapping[str, str]) -> str:
    """ "linf, mr=4/255; ct=4/255, goal any"; what is equal for all is said once."""
    norms, radii = (_by_name(row[column]) for column in ("norm", "epsilon"))
    norm = _once(norms, row["norm"])
    radius = _once(radii, row["epsilon"])
    names = f" on {' and '.join(radii)}" if radii and radius != row["epsilon"] else ""
    return f"{norm} {radius}{names}, goal: {row['goal']}"


def _by_name(cell: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in cell.split("; ") if "=" in part)


def _once(values: Mapping[str, str], otherwise: str) -> str:
    return next(iter(values.values())) if len(set(values.values())) == 1 else otherwise


def _row(place: Place, record: Record | None) -> Row:
    row = place.row
    robust = _of_row(row, "robust")
    assert robust is not None  # leaderboards without it are refused
    worst = record["worst_subgroup"] if record else None
    shared = "=" if place.shared else ""
    return Row(
        run=row["run"],
        page=f"run/{row['run']}.html" if record else "",
        model=row["model"],
        title=str(record["model"].get("title") or "") if record else "",
        defenses=defenses(record) if record else "",
        attack=row["attack"].partition(" (")[0],
        attack_in_full=row["attack"],
        kind=kinds(record) if record else "",
        randomness=randomness(record) if record else "",
        clean=_of_row(row, "clean"),
        robust=robust,
        worst=f"{worst['column']} {worst['value']}" if worst else "",
        worst_value=Bar.of(worst["robust"]).value if worst else None,
        rank=f"{place.rank}{shared}" if place.rank else "",
        standing=place.standing,
        reason=place.reason,
        verdict=row["verdict"],
    )


def _of_row(row: Mapping[str, str], kind: str) -> Bar | None:
    if not row.get(kind):
        return None
    value = float(row[kind])
    low, high = (float(row.get(f"{kind}_{end}") or value) for end in ("low", "high"))
    return Bar(value, min(low, value), max(high, value))  # the row is rounded


def defenses(record: Record) -> str:
    """The defenses of a model, its own and those on top: "projection-filters, attention-noise"."""
    model = record["model"]
    names = [each["name"] for each in (*model.get("defenses", ()), *model.get("added", ()))]
    return ", ".join(names) or NONE


def kinds(record: Record) -> str:
    """Of the data: "image", "image + table"."""
    return " + ".join(dict.fromkeys(m["kind"] for m in record["dataset"]["modalities"].values()))


def randomness(record: Record) -> str:
    """Of the net."""
    return "deterministic" if record["model"]["draws_shared_by"] == NONE else "random"


def ranking_words(ranks: Ranks) -> str:
    """How the ranks of a board came about."""
    if not ranks.steps:
        return "" if ranks.ranks else "Nothing is ranked: no number here was found sound."
    tested = dict.fromkeys(step.test for step in ranks.steps if step.p_value is not None)
    untested = sum(step.test == OVERLAP for step in ranks.steps)
    said = []
    if tested:
        pairs = "One pair" if ranks.tests == 1 else f"{ranks.tests} pairs"
        holm = f", corrected by Holm's method for {ranks.tests} tests" if ranks.tests > 1 else ""
        said.append(
            f"{pairs} of neighbours compared on the same samples ({', '.join(tested)}{holm}, level "
            f"{100 * LEVEL:g} %). Neighbours that the test does not tell apart share a rank (=)."
        )
    if untested:
        whose = "These records hold" if not tested else f"Of {untested} further, a record holds"
        said.append(
            f"{whose} no outcomes sample by sample, so neighbours cannot be tested in pairs: they share a "
            "rank (=) where their 95 % intervals overlap, which tells fewer apart than a test would."
        )
    if any(not step.apart for step in ranks.steps):
        said.append("A shared rank goes from neighbour to neighbour: its first and last may differ.")
    return " ".join(said)


def step_words(step: Step) -> str:
    """How two neighbours were compared."""
    if step.p_value is None:
        overlap = "do not overlap" if step.apart else "overlap"
        return f"not tested in pairs (no outcomes by sample); the 95 % intervals {overlap}"
    told = "told apart" if step.apart else "not told apart"
    return f"{told}: p = {step.corrected:.2g} corrected, {step.p_value:.2g} alone ({step.test})"


def heads_of(record: Record) -> Sequence[str]:
    """The names in "accuracy" that a page shows: with one head, what is said of every head is said once."""
    single, key = len(record["dataset"]["heads"]) == 1, record["headline"]
    return [name for name in record["accuracy"] if not (name == EVERY and single and name != key)]
