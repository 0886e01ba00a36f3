"""``robmed board --html``: from records to pages that open from the file system."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from robustbench_med.measure.standing import Place, Standings, standings
from robustbench_med.reporting import leaderboard
from robustbench_med.reporting.charts import clean_against_robust, over_epsilon
from robustbench_med.reporting.page import IndexView, Linked, assets, environment, index_page, record_page
from robustbench_med.reporting.record_view import Grid, curve_grid, modality_grid, record_view
from robustbench_med.reporting.views import Bar, board_view, step_words, whole
from robustbench_med.studies.gathered import Found, gather
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import given_path, read_json, replacing_folder
from robustbench_med.util.progress import progress_bar
from robustbench_med.util.versions import versions

PUBLISHED = Path("leaderboards") / "records"
MANIFEST = "board.json"
PNG = b"\x89PNG\r\n\x1a\n"
LARGEST_PICTURE = 20_000_000  # bytes


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
        for run in found.records:
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
    for root in (Path(), Path(__file__).parents[2]):
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
                f"{folder} holds {path.relative_to(folder)}, which no board wrote; choose another folder"
            )
    return folder


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
    part = {run for stored, _ in grids.curves for run in stored["runs"]}
    part |= {run for runs, _ in grids.tables for run in runs}
    parts = [view for view in views if not view.ranked and all(row.run in part for row in view.rows)]
    views = [view for view in views if view not in parts]
    charts = {
        view.key: clean_against_robust(view)
        for view in views
        if any(row.clean is not None for row in view.rows)
    }
    linked = [Linked(grid, tuple(_links(runs, found))) for runs, grid in grids.tables]
    return IndexView(
        tuple(views),
        tuple(parts),
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
    places = {place.row["run"]: (place, words) for board in boards for place, words in _worded(board)}
    with progress_bar() as bar:
        task = bar.add_task("pages", total=len(found.records))
        for run, record in found.records.items():
            place, words = places[run]
            with whole(str(found.files[run])):
                view = replace(
                    record_view(record),
                    standing=record["audit"]["verdict"] if place.rank else place.standing,
                    place=words,
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
