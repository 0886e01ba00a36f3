"""``robmed board --html``: from records to pages that open from the file system."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import robustbench_med
from robustbench_med.measure.standing import Place, Standings, standings
from robustbench_med.reporting import leaderboard
from robustbench_med.reporting.charts import clean_against_robust, over_epsilon
from robustbench_med.reporting.page import IndexView, Linked, assets, environment, index_page, record_page
from robustbench_med.reporting.record import require_record
from robustbench_med.reporting.record_view import Grid, curve_grid, modality_grid, record_view
from robustbench_med.reporting.views import Bar, board_view, step_words, whole
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import given_path, nearest, read_json, replacing_folder
from robustbench_med.util.progress import progress_bar
from robustbench_med.util.versions import versions

PUBLISHED = Path("leaderboards") / "records"
MANIFEST = "board.json"
RUN_NAME = re.compile(r"[0-9A-Za-z][\w.-]{0,63}", re.ASCII)  # a name of files, here and in links
PNG = b"\x89PNG\r\n\x1a\n"
LARGEST_PICTURE = 20_000_000  # bytes
Record = Mapping[str, Any]


@dataclass
class Found:
    """What lies at the paths that were given.

    Attributes:
        records: by run.
        files: by run its record's file.
        rows: by run, of CSVs.
        curves, tables: contents of curve.json and modalities.json, by path.
        pictures: by run.
        passed: JSON files that hold something else.
    """

    records: dict[str, Record] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    rows: dict[str, Mapping[str, str]] = field(default_factory=dict)
    curves: dict[Path, Mapping[str, Any]] = field(default_factory=dict)
    tables: dict[Path, Mapping[str, Any]] = field(default_factory=dict)
    pictures: dict[str, Path] = field(default_factory=dict)
    passed: int = 0


@dataclass(frozen=True)
class Written:
    """What was written: the first page, and how much there is behind it."""

    index: Path
    runs: int
    records: int
    ranked: int
    passed: int


def html_board(paths: Sequence[Path | str], out: Path | str) -> Written:
    """Write a board of everything at ``paths`` into the folder ``out``: whole, or not at all.

    Args:
        paths: records, folders of them at any depth (curves, tables of modalities and pictures that lie there
            are shown too), CSVs of rows, and PNGs called after a run; the published records when there are
            none.
        out: a folder that is not there, is empty, or holds an earlier board, which is replaced.

    Raises:
        UserError: a path that is not there or holds nothing of the kind; a damaged record; ``out`` holds
            something else; the extra ``html`` is not installed.
    """
    folder = _writable(given_path(out, "the folder --html"))
    shared, templates = assets(), environment()
    found = gather([given_path(path) for path in paths] or [published()])
    rows = _rows(found)
    if not rows:
        where = ", ".join(str(path) for path in paths)[:200] or str(PUBLISHED)
        raise UserError(
            f"{where} holds no record of robmed run and no row; robmed run writes them into runs/"
        )
    boards = standings(list(rows.values()), found.records)
    boards.sort(key=lambda each: (each.places[0].row["dataset"], -sum(p.rank > 0 for p in each.places)))
    with replacing_folder(folder) as new:
        for name, text in shared.items():
            (new / name).write_text(text, encoding="utf-8")
        leaderboard.write(new / "leaderboard.csv", list(rows.values()))
        for name in ("run", "records"):
            (new / name).mkdir()
        for run, record in found.records.items():
            shutil.copyfile(found.files[run], new / "records" / f"{run}.json")
        pictures = _copied(found, new)
        grids = _grids(found)
        index = _index(boards, found, grids)
        (new / "index.html").write_text(index_page(templates, index), encoding="utf-8")
        for run, text in _pages(boards, found, grids, pictures, templates):
            (new / "run" / f"{run}.html").write_text(text, encoding="utf-8")
        names = sorted(path.relative_to(new).as_posix() for path in new.rglob("*") if path.is_file())
        manifest = {"made by": "robmed board --html", "files": [*names, MANIFEST]}
        (new / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    ranked = sum(place.rank > 0 for board in boards for place in board.places)
    return Written(folder / "index.html", len(rows), len(found.records), ranked, found.passed)


def published() -> Path:
    """The published records: of the folder one is in, or of the checkout that is installed.

    Raises:
        UserError: neither has any.
    """
    for root in (Path(), Path(robustbench_med.__file__).parents[1]):
        if (root / PUBLISHED).is_dir():
            return root / PUBLISHED
    raise UserError(
        f"there is no folder {PUBLISHED} here; give records, or folders of them: robmed board --html DIR runs"
    )


def _writable(folder: Path) -> Path:
    """The folder for the board, if nothing of anybody else's lies in it."""
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 - a link stays one, to be refused
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder} is no folder of its own; choose another --html")
    if folder == Path.cwd() or folder in Path.cwd().parents:
        raise UserError(
            f"{folder} is where you are, or above it; --html wants a folder of its own, such as board"
        )
    if not folder.exists():
        return folder
    manifest = folder / MANIFEST
    held = read_json(manifest) if manifest.is_file() else None
    known = set(held.get("files") or ()) if isinstance(held, dict) else set()
    for path in folder.rglob("*"):
        if (path.is_symlink() or not path.is_dir()) and path.relative_to(folder).as_posix() not in known:
            raise UserError(
                f"{folder} holds {path.relative_to(folder)}, which no board wrote; choose another folder, or an empty one"
            )
    return folder


def gather(paths: Sequence[Path]) -> Found:
    """Everything a board can show at some paths.

    Raises:
        UserError: one that is not there, is of no kind that is known, or is damaged.
    """
    found = Found()
    loose = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist{nearest(path)}")
        if path.is_dir():
            for file in _json_files(path):
                _take(file, found, named=False)
        elif path.suffix.lower() == ".csv":
            _take_csv(path, found)
        elif path.suffix.lower() == ".png":
            loose.append(path)
        else:
            _take(path, found, named=True)
    for path in loose:
        if path.stem not in found.records:
            raise UserError(
                f"{path}: a picture is called after its run, such as {next(iter(found.records), 'RUN')}.png"
            )
        found.pictures[path.stem] = path
    return found


def _json_files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.endswith(".json") and not name.startswith("."):
                yield Path(place) / name


def _take(file: Path, found: Found, named: bool) -> None:
    """Sort a JSON file in by what it holds.

    Args:
        named: by the user, and so to be something that is known.
    """
    value = read_json(file)
    keys = set(value) if isinstance(value, dict) else set()
    if {"radii", "runs", "accuracy", "headline"} <= keys:
        found.curves[file] = value
    elif {"rows", "leakage", "title"} <= keys:
        found.tables[file] = value
    elif named or ({"run", "schema"} <= keys and "certificate" not in keys):
        _take_record(file, require_record(value, str(file)), found)
    else:
        found.passed += 1


def _take_record(file: Path, record: Record, found: Found) -> None:
    run = record["run"]
    if not RUN_NAME.fullmatch(run):
        raise UserError(
            f"{file}: the run is called {run[:40]!r}; use letters, digits and . _ - only, up to 64"
        )
    before = found.records.get(run)
    if before is not None and before["audit"].get("complete") and not record["audit"].get("complete"):
        return
    found.records[run], found.files[run] = record, file
    beside = file.with_name("picture.png") if file.name == "record.json" else file.with_suffix(".png")
    if beside.is_file():
        found.pictures[run] = beside


def _take_csv(path: Path, found: Found) -> None:
    """Rows, and the records that lie beside them."""
    for row in leaderboard.read(path):
        found.rows[row["run"]] = row
        file = path.parent / "records" / f"{row['run']}.json"
        if RUN_NAME.fullmatch(row["run"]) and file.is_file():
            _take(file, found, named=True)


def _rows(found: Found) -> dict[str, Mapping[str, str]]:
    """A row a run: of its record where that is at hand, since only that has everything."""
    rows = dict(found.rows)
    for run, record in found.records.items():
        with whole(str(found.files[run])):
            rows[run] = leaderboard.row(record)
    return rows


def _copied(found: Found, new: Path) -> dict[str, tuple[str, int, int]]:
    """By run the place of its picture, from its page, and how wide and high that is."""
    out = {}
    for run, path in found.pictures.items():
        if run not in found.records:
            continue
        with path.open("rb") as stream:
            content = stream.read(LARGEST_PICTURE + 1)
        if not content.startswith(PNG) or len(content) > LARGEST_PICTURE or len(content) < 24:
            raise UserError(f"{path} is no PNG of at most {LARGEST_PICTURE // 1_000_000} MB; draw it again")
        wide, high = (int.from_bytes(content[i : i + 4]) for i in (16, 20))
        (new / "pictures").mkdir(exist_ok=True)
        (new / "pictures" / f"{run}.png").write_bytes(content)
        out[run] = (f"../pictures/{run}.png", wide, high)
    return out


@dataclass(frozen=True)
class _Grids:
    """Curves and tables of modalities, with the runs behind them."""

    curves: tuple[tuple[Mapping[str, Any], Grid], ...]
    tables: tuple[tuple[tuple[str, ...], Grid], ...]


def _grids(found: Found) -> _Grids:
    curves, tables = [], []
    for path, stored in found.curves.items():
        with whole(str(path)):
            curves.append((stored, curve_grid(stored)))
    for path, stored in found.tables.items():
        with whole(str(path)):
            tables.append((tuple(row["run"] for row in stored["rows"] if row["run"]), modality_grid(stored)))
    return _Grids(tuple(curves), tuple(tables))


def _index(boards: Sequence[Standings], found: Found, grids: _Grids) -> IndexView:
    views = []
    for number, each in enumerate(boards, 1):
        place = next(
            (found.files[p.row["run"]] for p in each.places if p.row["run"] in found.files), Path("the CSV")
        )
        with whole(str(place)):
            views.append(board_view(each, found.records, number))
    charts = {
        view.key: clean_against_robust(view)
        for view in views
        if any(row.clean is not None for row in view.rows)
    }
    linked = [Linked(grid, tuple(_links(runs, found))) for runs, grid in grids.tables]
    return IndexView(
        tuple(views),
        charts,
        tuple(_together(grids, found)),
        tuple(linked),
        versions(["robustbench-med"])["robustbench-med"] or "",
    )


def _links(runs: Sequence[str], found: Found) -> Iterator[tuple[str, str]]:
    for run in runs:
        if run in found.records:
            budgets = " + ".join(found.records[run]["threat_model"]["budgets"])
            yield f"{run} ({budgets})", f"run/{run}.html"


def _together(grids: _Grids, found: Found) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Curves of the same data, norm and goal in one figure, a line a net."""
    groups: dict[tuple[str, ...], list[tuple[str, list[float], list[Bar]]]] = {}
    for stored, _ in grids.curves:
        record = next((found.records[run] for run in stored["runs"] if run in found.records), None)
        if record is None:
            continue
        key = (record["dataset"]["name"], record["dataset"]["fingerprint"], stored["norm"], stored["of"])
        bars = [Bar.of(each) for each in stored["accuracy"][stored["headline"]]]
        scale = 255 if stored["norm"].startswith("linf") else 1
        name = f"{record['model']['label']}, {record['attack']['name']}"
        groups.setdefault((*key, stored["headline"]), []).append(
            (name, [scale * r for r in stored["radii"]], bars)
        )
    for (dataset, _, norm, of, headline), lines in groups.items():
        unit = "1/255" if norm.startswith("linf") else norm
        yield f"{dataset}, {norm}, {headline}", over_epsilon(lines, f"epsilon of {of} ({unit})")


def _pages(
    boards: Sequence[Standings],
    found: Found,
    grids: _Grids,
    pictures: Mapping[str, tuple[str, int, int]],
    templates: Any,
) -> Iterator[tuple[str, str]]:
    """By run the page of its record."""
    places = {place.row["run"]: words for board in boards for place, words in _worded(board)}
    with progress_bar() as bar:
        task = bar.add_task("pages", total=len(found.records))
        for run, record in found.records.items():
            with whole(str(found.files[run])):
                view = replace(
                    record_view(record),
                    place=places[run],
                    picture=pictures.get(run),
                    curves=tuple(grid for stored, grid in grids.curves if run in stored["runs"]),
                    tables=tuple(grid for runs, grid in grids.tables if run in runs),
                    members=tuple(
                        (m, f"{m}.html" if m in found.records else "") for m in record.get("members", ())
                    ),
                )
            yield run, record_page(templates, view)
            bar.advance(task)


def _worded(board: Standings) -> Iterator[tuple[Place, tuple[str, ...]]]:
    """Each run with lines about its rank and neighbours."""
    before: Place | None = None
    ranked = sum(place.rank > 0 for place in board.places)
    for number, place in enumerate(board.places):
        if not place.rank:
            yield place, (f"Not ranked: {place.reason}.",)
            continue
        shared = ", shared" if place.shared else ""
        lines = [f"Rank {place.rank}{shared}, of {ranked} on its board."]
        if before is not None and before.next is not None:
            lines.append(f"{before.row['model']} above: {step_words(before.next)}.")
        if place.next is not None:
            lines.append(f"{board.places[number + 1].row['model']} below: {step_words(place.next)}.")
        yield place, tuple(lines)
        before = place
