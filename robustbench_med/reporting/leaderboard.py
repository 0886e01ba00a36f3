"""Leaderboards as CSV: one row a run, appended so that nothing is ever half there."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from robustbench_med.util.errors import UserError
from robustbench_med.util.files import replacing

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
METRICS = ("macro_f1", "auroc", "sensitivity", "calibration_error")
KINDS = ("clean", "robust", "majority", "worst_of_draws")
VOLATILE = ("seconds", "started")  # the columns that differ when the same command is repeated


def row(record: Mapping[str, Any]) -> dict[str, str]:
    """The leaderboard's view of a run's record: shares with 4 decimals.

    ``clean`` and ``robust`` are of what the attack aimed at (the column ``goal``); so are the attack's
    success and the worst subgroup. Metrics by head are those under attack.
    """
    aimed, samples = record["accuracy"][record["headline"]], record["dataset"]["samples"]
    budgets = record["threat_model"]["budgets"]
    joint = "-joint" if record["threat_model"].get("joint") else ""
    heads = {name: value for name, value in record["accuracy"].items() if name != record["headline"]}
    return {
        "dataset": record["dataset"]["name"] + (" (synthetic)" if record["dataset"]["synthetic"] else ""),
        "model": record["model"]["label"],
        "attack": _attack(record["attack"]),
        "epsilon": _each(
            {name: radius(budget["norm"], budget["epsilon"]) for name, budget in budgets.items()}
        ),
        "norm": _each({name: budget["norm"] + joint for name, budget in budgets.items()}),
        "goal": record["threat_model"]["goal"],
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
        "verdict": record["audit"]["verdict"] if "audit" in record else "unaudited",
        "forward_per_sample": f"{record['cost']['forward_passes'] / samples:.2f}",
        "backward_per_sample": f"{record['cost']['backward_passes'] / samples:.2f}",
        "seed": str(record["seed"]),
        "weights_sha256": record["model"]["weights_sha256"][:12],
        "dataset_fingerprint": record["dataset"]["fingerprint"][:12],
        "run": record["run"],
        "version": record["versions"]["robustbench-med"],
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
        UserError: the file exists and is not a leaderboard of this version.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the leaderboard a file name")
    _read(path, columns)


def append(path: Path, new: Mapping[str, str], columns: Sequence[str] = COLUMNS) -> None:
    """Append a row. Safe when two runs end at once; a kill leaves the old file.

    Raises:
        UserError: the file has a foreign header, or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")), replacing(path) as temporary:
            text = _read(path, columns) or _line(dict(zip(columns, columns, strict=True)), columns)
            temporary.write_text(text + _line(new, columns), encoding="utf-8", newline="")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another --leaderboard") from error


def holds(path: Path, run: str) -> bool:
    """Whether the file has a row of the run.

    Raises:
        UserError: see ``check_header``.
    """
    return any(line["run"] == run for line in read(path))


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a leaderboard; none when there is no such file.

    Raises:
        UserError: see ``check_header``.
    """
    return list(csv.DictReader(io.StringIO(_read(path, COLUMNS))))


def _read(path: Path, columns: Sequence[str]) -> str:
    """The file's text, "" when there is none; else it ends with a line break."""
    if not path.exists():
        return ""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}; choose another --leaderboard") from error
    if not text:
        return ""
    header = next(csv.reader(io.StringIO(text)), [])
    if tuple(header) != tuple(columns):
        raise UserError(
            f"{path} is not a leaderboard of this version (its header is {', '.join(header[:4])} …); "
            "choose another --leaderboard"
        )
    return text if text.endswith("\n") else text + "\n"


def _line(values: Mapping[str, str], columns: Sequence[str]) -> str:
    out = io.StringIO(newline="")
    csv.DictWriter(out, columns, lineterminator="\n").writerow(values)
    return out.getvalue()


def radius(norm: str, epsilon: float) -> str:
    """A radius for people: Linf in grey levels ("4/255"), L2 as a length ("0.5")."""
    return f"{epsilon * 255:.4g}/255" if norm == "linf" else f"{epsilon:.4g}"


def _each(values: Mapping[str, str]) -> str:
    """ "name=value; name=value"."""
    return "; ".join(f"{name}={value}" for name, value in values.items())


def _attack(attack: Mapping[str, Any]) -> str:
    """The attack with every option, so that a row says what was run."""
    options = {k: v for k, v in attack.items() if k not in ("name", "eot") and v not in (None, {})}
    return str(attack["name"]) + (f" ({_each({k: str(v) for k, v in options.items()})})" if options else "")
