"""``robmed board --html``: from records to pages that open from the file system."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_med.measure.standing import Place, Standings, standings
from robustbench_med.reporting import leaderboard
from robustbench_med.reporting.charts import clean_against_robust
from robustbench_med.reporting.page import IndexView, assets, environment, index_page, record_page
from robustbench_med.reporting.record_view import RecordView, record_view
from robustbench_med.reporting.views import board_view, step_words, whole
from robustbench_med.studies.gathered import Found, gather
from robustbench_med.studies.grids import Grids
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import given_path, read_json, replacing_folder
from robustbench_med.util.progress import progress_bar
from robustbench_med.util.versions import versions

if TYPE_CHECKING:
    from jinja2 import Environment

Picture = tuple[str, int, int]
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
    grids = Grids.of(found.curves, found.tables)
    views = list(_views(found, grids, _pictures(found)))
    boards = standings(list(rows.values()), found.records)
    boards.sort(key=lambda each: (each.places[0].row["dataset"], -sum(p.rank > 0 for p in each.places)))
    index = _index(boards, found, grids)
    with replacing_folder(folder) as new:
        for name, text in shared.items():
            (new / name).write_text(text, encoding="utf-8")
        leaderboard.write(new / "leaderboard.csv", list(rows.values()))
        _copy(found, new)
        (new / "index.html").write_text(index_page(templates, index), encoding="utf-8")
        for run, text in _pages(boards, views, templates):
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
            odd = next((name for name, cell in rows[run].items() if not isinstance(cell, str)), None)
            if odd is not None:
                raise ValueError(f"{odd} is no text")
    return rows


def _pictures(found: Found) -> dict[str, Picture]:
    """By run the place of its picture, from its page, and how wide and high that is.

    Raises:
        UserError: it is no PNG, or too large a one.
    """
    out = {}
    for run, path in found.pictures.items():
        with path.open("rb") as stream:
            start = stream.read(24)
        if not start.startswith(PNG) or len(start) < 24 or path.stat().st_size > LARGEST_PICTURE:
            raise UserError(f"{path} is no PNG of at most {LARGEST_PICTURE // 1_000_000} MB; draw it again")
        wide, high = (int.from_bytes(start[i : i + 4]) for i in (16, 20))
        out[run] = (f"../pictures/{run}.png", wide, high)
    return out


def _copy(found: Found, new: Path) -> None:
    """Records and pictures, as they are."""
    for name in ("run", "records", "pictures"):
        (new / name).mkdir()
    for run in found.records:
        shutil.copyfile(found.files[run], new / "records" / f"{run}.json")
    for run, path in found.pictures.items():
        shutil.copyfile(path, new / "pictures" / f"{run}.png")


def _index(boards: Sequence[Standings], found: Found, grids: Grids) -> IndexView:
    views = [board_view(each, found.records, found.files, n) for n, each in enumerate(boards, 1)]
    parts = [view for view in views if not view.ranked and all(row.run in grids.runs for row in view.rows)]
    views = [view for view in views if view not in parts]
    return IndexView(
        boards=tuple(views),
        parts=tuple(parts),
        charts={v.key: clean_against_robust(v) for v in views if any(row.clean for row in v.rows)},
        curves=tuple(grids.together(found.records)),
        linked=tuple(grids.linked(found.records)),
        version=versions(["robustbench-med"])["robustbench-med"] or "",
    )


def _views(found: Found, grids: Grids, pictures: Mapping[str, Picture]) -> Iterator[RecordView]:
    """What each record's page shows; what is damaged is found here, before anything is written."""
    for run, record in found.records.items():
        with whole(str(found.files[run])):
            members = tuple(map(str, record.get("members", ())))
            yield replace(
                record_view(record),
                picture=pictures.get(run),
                curves=tuple(each.grid for each in grids.curves if run in each.runs),
                tables=tuple(each.grid for each in grids.tables if run in each.runs),
                members=tuple((m, f"{m}.html" if m in found.records else "") for m in members),
            )


def _pages(
    boards: Sequence[Standings], views: Sequence[RecordView], templates: Environment
) -> Iterator[tuple[str, str]]:
    """By run the page of its record."""
    places = {place.row["run"]: (place, words) for board in boards for place, words in _worded(board)}
    with progress_bar() as bar:
        task = bar.add_task("pages", total=len(views))
        for view in views:
            place, words = places[view.run]
            standing = view.standing if place.rank else place.standing
            yield view.run, record_page(templates, replace(view, standing=standing, place=words))
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
