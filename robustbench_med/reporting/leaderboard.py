"""Leaderboards as CSV: one row a run, appended so that nothing is ever half there."""

from __future__ import annotations

import csv
import io
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from robustbench_med.util.errors import UserError
from robustbench_med.util.files import read_text, refusing, replacing

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
        UserError: the file exists and is no leaderboard, or nothing can be written there.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is not a plain file; give the leaderboard another name")
    if path.exists() and path.stat().st_size > 0:
        _header(path, _needed(columns))


def append(path: Path, new: Mapping[str, str], columns: Sequence[str] = COLUMNS) -> None:
    """Append a row. Safe when two runs end at once; a kill leaves the old file.

    A file of an older version gets the columns that it lacks, empty in its rows.

    Raises:
        UserError: the file has a foreign header, or the folder cannot be written.
    """
    with refusing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")), replacing(path) as temporary:
            if not path.exists() or path.stat().st_size == 0:
                temporary.write_text(
                    _line(dict(zip(columns, columns, strict=True)), columns) + _line(new, columns)
                )
                return
            header = _header(path, _needed(columns))
            missing = [column for column in columns if column not in header]
            if missing:
                _write_rows(temporary, _rows(path, header), [*header, *missing])
            else:
                shutil.copyfile(path, temporary)
            with temporary.open("r+b") as stream:  # what a person edited may lack the last line break
                stream.seek(-1, 2)
                broken = stream.read(1) != b"\n"
                stream.write((b"\n" if broken else b"") + _line(new, [*header, *missing]).encode())


def holds(path: Path, run: str) -> bool:
    """Whether the file has a row of the run."""
    return path.is_file() and f",{run},".encode() in path.read_bytes()


def write(path: Path, rows: Sequence[Mapping[str, str]], columns: Sequence[str] = COLUMNS) -> None:
    """Write a whole leaderboard, replacing what was there."""
    with replacing(path) as temporary:
        _write_rows(temporary, rows, columns)


def read(path: Path, columns: Sequence[str] = COLUMNS) -> list[dict[str, str]]:
    """The rows of a leaderboard; none when there is no such file. Empty lines are passed over.

    Raises:
        UserError: the file is no leaderboard, or a line of it is none of one, with its number.
    """
    if not path.exists() or path.stat().st_size == 0:
        return []
    return _rows(path, _header(path, _needed(columns)))


def _needed(columns: Sequence[str]) -> list[str]:
    return [name for name in columns if name in NEEDED or columns is not COLUMNS]


def _header(path: Path, needed: Sequence[str]) -> list[str]:
    with refusing(path), path.open("rb") as stream:
        first = stream.readline(1_000_000)
    try:
        header = next(csv.reader([first.decode("utf-8-sig")]), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a leaderboard ({error}); choose another file") from error
    missing = [name for name in needed if name not in header]
    if missing:
        hint = "it is divided by semicolons; save it with commas" if header and ";" in header[0] else ""
        hint = hint or f"its header is {', '.join(header[:4])[:80]} …; choose another --leaderboard"
        raise UserError(f"{path} is not a leaderboard: it has no column {missing[0]!r} ({hint})")
    return header


def _rows(path: Path, header: Sequence[str]) -> list[dict[str, str]]:
    text = read_text(path)
    found = []
    reader = csv.reader(io.StringIO(text))
    try:
        next(reader, None)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            found.append(_checked(path, reader.line_num, header, cells))
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.line_num}: {error}; restore it, or remove that line"
        ) from error
    return found


def _checked(path: Path, number: int, header: Sequence[str], cells: Sequence[str]) -> dict[str, str]:
    where = f"{path}, line {number}"
    if cells[0].startswith(("<<<<<<<", "=======", ">>>>>>>")):
        raise UserError(f"{where} is a merge marker; decide which of both sides stays")
    if len(cells) != len(header):
        raise UserError(
            f"{where} has {len(cells)} cells, the header {len(header)}; restore it, or remove that line"
        )
    line = dict(zip(header, cells, strict=True))
    for name in NUMBERS:
        if not line.get(name) and name not in NEEDED:
            continue
        try:
            value = float(line[name])
        except ValueError:
            value = math.nan
        if not 0 <= value <= 1:
            raise UserError(f"{where}: {name} is {line[name][:40]!r}; it must be a share such as 0.4500")
    return line


def _write_rows(path: Path, rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _line(values: Mapping[str, str], columns: Sequence[str]) -> str:
    out = io.StringIO(newline="")
    csv.DictWriter(out, columns, restval="", lineterminator="\n").writerow(values)
    return out.getvalue()


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
