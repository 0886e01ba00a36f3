"""Leaderboards as CSV: one row a run, appended so that nothing is ever half there."""

from __future__ import annotations

import csv
import functools
import io
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robustbench_med.util.errors import UserError
from robustbench_med.util.files import locked, read_text, refusing, replacing
from robustbench_med.util.terminal import visible

COLUMNS = (
    "dataset",
    "model",
    "attack",
    "epsilon",
    "norm",
    "goal",
    "samples",
    "eot",
    "scoring_draws",
    "clean",
    "clean_low",
    "clean_high",
    "robust",
    "robust_low",
    "robust_high",
    "majority",
    "majority_low",
    "majority_high",
    "worst_of_draws",
    "worst_of_draws_low",
    "worst_of_draws_high",
    "clean_by_head",
    "robust_by_head",
    "attack_success",
    "macro_f1_by_head",
    "auroc_by_head",
    "sensitivity_by_head",
    "calibration_error_by_head",
    "worst_subgroup",
    "verdict",
    "forward_per_sample",
    "backward_per_sample",
    "seed",
    "weights_sha256",
    "dataset_fingerprint",
    "run",
    "version",
    "seconds",
    "started",
)
# Without these a file is no leaderboard; further columns of older or newer versions are kept as they are.
NEEDED = ("dataset", "model", "attack", "epsilon", "norm", "goal", "robust", "verdict", "run")
NUMBERS = ("clean", "robust", "robust_low", "robust_high")
NAMED = ("dataset", "model", "run")  # never empty
FORMULA = ("=", "+", "-", "@")  # what a cell starts with that spreadsheets compute
MARKERS = ("<<<<<<<", "=======", ">>>>>>>", "|||||||")  # of a merge
DIVIDERS = {";": "semicolons", "\t": "tabs"}
METRICS = ("macro_f1", "auroc", "sensitivity", "calibration_error")
KINDS = ("clean", "robust", "majority", "worst_of_draws")
VOLATILE = ("seconds", "started")  # the columns that differ when the same command is repeated


def row(record: Mapping[str, Any]) -> dict[str, str]:
    """The leaderboard's view of a run's record: shares with 4 decimals.

    ``clean`` and ``robust`` are of what the attack aimed at (the column ``goal``); so are the attack's
    success and the worst subgroup. Metrics by head are those under attack.
    """
    aimed, samples = record["accuracy"][record["headline"]], record["dataset"]["samples"]
    threat = record["threat_model"]
    budgets = threat["budgets"]
    joint = "-joint" if threat["joint"] else ""
    heads = {name: value for name, value in record["accuracy"].items() if name != record["headline"]}
    towards = f" towards {threat['towards']}" if threat.get("towards") else ""
    return {
        "dataset": record["dataset"]["name"] + (" (synthetic)" if record["dataset"]["synthetic"] else ""),
        "model": record["model"]["label"],
        "attack": _attack(record["attack"]),
        "epsilon": _each({name: radius(budget) for name, budget in budgets.items()}),
        "norm": _each({name: budget["norm"] + joint for name, budget in budgets.items()}),
        "goal": threat["goal"] + towards,
        "samples": str(samples),
        "eot": str(record["attack"]["eot"]),
        "scoring_draws": str(record["scoring"]["draws"]),
        **{kind: f"{aimed[kind]['value']:.4f}" for kind in KINDS},
        **{f"{kind}_{end}": f"{aimed[kind][end]:.4f}" for kind in KINDS for end in ("low", "high")},
        "clean_by_head": _each({name: f"{head['clean']['value']:.4f}" for name, head in heads.items()}),
        "robust_by_head": _each({name: f"{head['robust']['value']:.4f}" for name, head in heads.items()}),
        "attack_success": share(record["attack_success"][record["headline"]]),
        **{f"{metric}_by_head": _metric(record, metric) for metric in METRICS},
        "worst_subgroup": _worst_subgroup(record["worst_subgroup"]),
        "verdict": record["audit"]["verdict"],
        "forward_per_sample": f"{record['cost']['forward_passes'] / samples:.2f}",
        "backward_per_sample": f"{record['cost']['backward_passes'] / samples:.2f}",
        "seed": str(record["seed"]),
        "weights_sha256": record["model"]["weights_sha256"][:12],
        "dataset_fingerprint": record["dataset"]["fingerprint"][:12],
        "run": record["run"],
        "version": record["code"]["versions"]["robustbench-med"],
        "seconds": f"{record['cost']['seconds']:.1f}",
        "started": record["started"],
    }


def share(value: float | None) -> str:
    """With 4 decimals; "" where there is none."""
    return "" if value is None else f"{value:.4f}"


def _metric(record: Mapping[str, Any], metric: str) -> str:
    return _each({head: share(kinds["robust"][metric]) for head, kinds in record["metrics"].items()})


def _worst_subgroup(found: Mapping[str, Any] | None) -> str:
    return "" if found is None else f"{found['column']}={found['value']}: {share(found['robust']['value'])}"


def check_header(path: Path, columns: Sequence[str] = COLUMNS) -> None:
    """Make sure before a long run that its row can be appended at the end.

    Raises:
        UserError: the file exists and is no whole leaderboard, or nothing can be written there.
    """
    read(path, columns)
    with locked(path):
        pass


def append(path: Path, new: Mapping[str, str], columns: Sequence[str] = COLUMNS) -> None:
    """Append a row. Safe when two runs end at once; a kill leaves the old file.

    A row of the same run, audited since or made again after a kill, is taken out. A file of an older
    version gets the columns that it lacks, empty in its rows.

    Raises:
        UserError: the file has a foreign header or ends within a quoted cell, or the folder cannot be
            written.
    """
    with locked(path), replacing(path) as temporary:
        if not path.exists() or path.stat().st_size == 0:
            _write_rows(temporary, [new], columns)
            return
        header = _header(path, _needed(columns))
        missing = [column for column in columns if column not in header]
        if missing or holds(path, new["run"]):
            others = [each for each in _rows(path, header) if each.get("run") != new["run"]]
            _write_rows(temporary, others, [*header, *missing])
        else:
            shutil.copyfile(path, temporary)
        _add(temporary, path, _line(new, [*header, *missing]))


def _add(temporary: Path, path: Path, line: str) -> None:
    """Put a line at the end of a copy of ``path``, which a person may have edited."""
    with temporary.open("r+b") as stream:
        content = stream.read()
        if content.count(b'"') % 2:  # a quote that is never closed would swallow the line
            _rows(path, _header(path, ()))
        ending = "\r\n" if content[: content.find(b"\n") + 1].endswith(b"\r\n") else "\n"
        start = "" if content.endswith(b"\n") else ending
        stream.write((start + line.removesuffix("\n") + ending).encode())


def holds(path: Path, run: str) -> bool:
    """Whether the file has a row of the run."""
    if not path.is_file():
        return False
    content, cell = path.read_bytes(), run.encode()
    return (
        cell in content
        and re.search(rb'(?<![^,"\r\n])' + re.escape(cell) + rb'(?![^,"\r\n])', content) is not None
    )


def write(path: Path, rows: Sequence[Mapping[str, str]], columns: Sequence[str] = COLUMNS) -> None:
    """Write a whole leaderboard, replacing what was there."""
    with replacing(path) as temporary:
        _write_rows(temporary, rows, columns)


def read(path: Path, columns: Sequence[str] = COLUMNS) -> list[dict[str, str]]:
    """The rows of a leaderboard; none when there is no such file.

    Empty lines, rows of commas and the header once more (of a second file) are passed over.

    Raises:
        UserError: it is no plain file or no leaderboard, or a line of it is none of one, with its number.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is not a plain file; give the leaderboard another name")
    if not path.exists() or path.stat().st_size == 0:
        return []
    return _rows(path, _header(path, _needed(columns)))


def _needed(columns: Sequence[str]) -> list[str]:
    return [name for name in columns if name in NEEDED or columns is not COLUMNS]


def _header(path: Path, needed: Sequence[str]) -> list[str]:
    with refusing(path), path.open("rb") as stream:
        first = stream.readline(1_000_000)
    try:
        text = first.decode("utf-8-sig")
        header = [name.strip() for name in next(csv.reader([text]), [])]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a leaderboard ({error}); choose another file") from error
    if text.startswith(MARKERS):
        raise UserError(f"{path}, line 1 is a merge marker; decide which of both sides stays")
    missing = [name for name in needed if name not in header]
    if missing:
        divided = next((words for mark, words in DIVIDERS.items() if mark in text), None)
        hint = f"it is divided by {divided}; save it with commas" if divided and len(header) < 2 else ""
        hint = hint or f"its header is {', '.join(header[:4])[:80]} …; choose another --leaderboard"
        raise UserError(f"{path} is not a leaderboard: it has no column {missing[0]!r} ({hint})")
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{path} has two columns called {twice!r}; remove one of them")
    return header


def _rows(path: Path, header: Sequence[str]) -> list[dict[str, str]]:
    found = []
    text = read_text(path)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    guarded = "'" in text
    shares = [(header.index(name), name) for name in NUMBERS if name in header]
    named = [(header.index(name), name) for name in NAMED if name in header]
    try:
        next(reader, None)
        for cells in reader:
            if not any(map(str.strip, cells)) or cells == header:
                continue
            if len(cells) != len(header) or cells[0].startswith(MARKERS):
                raise UserError(_other_shape(path, reader.line_num, header, cells))
            for place, name in shares:
                if not _is_share(cells[place], name in NEEDED):
                    raise UserError(_no_sense(path, reader.line_num, name, cells[place]))
            for place, name in named:
                if not cells[place].strip():
                    raise UserError(_no_sense(path, reader.line_num, name, cells[place]))
            found.append(dict(zip(header, map(_unguarded, cells) if guarded else cells, strict=True)))
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.line_num}: {error}; restore it, or remove that line"
        ) from error
    return found


def _other_shape(path: Path, number: int, header: Sequence[str], cells: Sequence[str]) -> str:
    where = f"{path}, line {number}"
    if cells[0].startswith(MARKERS):
        return f"{where} is a merge marker; decide which of both sides stays"
    return f"{where} has {len(cells)} cells, the header {len(header)}; restore it, or remove that line"


@functools.lru_cache(maxsize=50_000)  # shares have four decimals: few differ
def _is_share(cell: str, needed: bool) -> bool:
    if not cell:
        return not needed
    try:
        return 0 <= float(cell) <= 1
    except ValueError:
        return False


def _no_sense(path: Path, number: int, name: str, cell: str) -> str:
    where = f"{path}, line {number}: {name}"
    if name in NUMBERS:
        return f"{where} is {cell[:40]!r}; it must be a share such as 0.4500"
    return f"{where} is empty; restore it, or remove that line"


def _write_rows(path: Path, rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        stream.write(_line(dict(zip(columns, columns, strict=True)), columns))
        stream.writelines(_line(values, columns) for values in rows)


def _line(values: Mapping[str, str], columns: Sequence[str]) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerow([_guarded(values.get(name, "")) for name in columns])
    return out.getvalue()


def _guarded(cell: str) -> str:
    """A cell that neither a spreadsheet computes nor a terminal obeys."""
    said = visible(cell, keep="\n")
    return f"'{said}" if said.startswith(FORMULA) else said


def _unguarded(cell: str) -> str:
    return cell[1:] if cell[:1] == "'" and cell[1:].startswith(FORMULA) else cell


def radius(budget: Mapping[str, Any]) -> str:
    """A radius for people: Linf in grey levels ("4/255"), of a table in its scale, L2 as a length ("0.5")."""
    epsilon = budget["epsilon"]
    if isinstance(budget["unit"], list):
        return f"{epsilon:.4g} scale"
    return f"{epsilon * 255:.4g}/255" if budget["norm"] == "linf" else f"{epsilon:.4g}"


def _each(values: Mapping[str, str]) -> str:
    """ "name=value; name=value"."""
    return "; ".join(f"{name}={value}" for name, value in values.items())


def _attack(attack: Mapping[str, Any]) -> str:
    """The attack with every option, so that a row says what was run."""
    options = {
        k: v for k, v in attack.items() if k not in ("name", "eot", "follows_samples") and v not in (None, {})
    }
    return str(attack["name"]) + (f" ({_each({k: str(v) for k, v in options.items()})})" if options else "")
