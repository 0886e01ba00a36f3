"""What a certification shows: its row in a CSV, and the table on the screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from robustbench_med.measure.accuracy import EVERY
from robustbench_med.reporting.text import (
    NumberRow,
    headed,
    notes_table,
    number_table,
    plain,
    stored_percent,
)

MOST = 5  # names beside each other

COLUMNS = (
    "dataset",
    "model",
    "sigma",
    "norm",
    "n0",
    "n",
    "alpha",
    "samples",
    "certified",
    "certified_low",
    "certified_high",
    "abstained",
    "average_radius",
    "certified_by_head",
    "seed",
    "weights_sha256",
    "dataset_fingerprint",
    "run",
    "version",
    "started",
)


def row(record: Mapping[str, Any]) -> dict[str, str]:
    """A record as a row of ``COLUMNS``: "radius=share; radius=share" with every head right."""
    terms, whole = record["certificate"], record["accuracy"][EVERY]
    heads = {head: value for head, value in record["accuracy"].items() if head != EVERY}
    data, synthetic = record["dataset"], " (synthetic)" if record["dataset"]["synthetic"] else ""
    return {
        "dataset": data["name"] + synthetic,
        "model": record["model"]["label"],
        "sigma": "; ".join(f"{name}={sigma:.4g}" for name, sigma in terms["smoothed"].items()),
        "norm": "joint l2",
        "n0": str(terms["n0"]),
        "n": str(terms["n"]),
        "alpha": f"{terms['alpha']:g}",
        "samples": str(data["samples"]),
        "certified": _curve(whole, "value"),
        "certified_low": _curve(whole, "low"),
        "certified_high": _curve(whole, "high"),
        "abstained": f"{whole['abstained']:.4f}",
        "average_radius": f"{whole['average_radius']:.4f}",
        "certified_by_head": " | ".join(f"{head}: {_curve(value, 'value')}" for head, value in heads.items()),
        "seed": str(record["seed"]),
        "weights_sha256": record["model"]["weights_sha256"][:12],
        "dataset_fingerprint": data["fingerprint"][:12],
        "run": record["run"],
        "version": record["code"]["versions"]["robustbench-med"],
        "started": record["started"],
    }


def _curve(head: Mapping[str, Any], key: str) -> str:
    return "; ".join(f"{point['radius']:.4g}={point[key]:.4f}" for point in head["certified"])


def show(record: Mapping[str, Any], console: Console) -> None:
    """Print certified accuracy by radius and what it rests on."""
    data, terms = record["dataset"], record["certificate"]
    synthetic = "synthetic, " if data["synthetic"] else ""
    headed(
        console,
        f"{record['model']['label']} on {data['name']} ({synthetic}{data['samples']} samples), certified",
    )
    number_table(console, *_table(record))
    notes = notes_table()
    sigmas = ", ".join(f"{name} {sigma:.4g}" for name, sigma in terms["smoothed"].items())
    notes.add_row("noise", plain(f"sigma {sigmas}, not clipped to the range"))
    notes.add_row("radius", plain(f"L2 over {' and '.join(terms['smoothed'])} together, in units of each"))
    if terms["unchanged"]:
        notes.add_row("unchanged", plain(f"{', '.join(terms['unchanged'])}: no change of it is certified"))
    notes.add_row(
        "copies", f"{terms['n0']} to guess, {terms['n']} to test, alpha {terms['alpha']:g} a sample"
    )
    notes.add_row("at most", f"no sample can be certified beyond {terms['largest_radius']:.4g}")
    abstained = ", ".join(f"{h} {100 * v['abstained']:.1f} %" for h, v in record["accuracy"].items())
    notes.add_row("abstained", plain(f"{abstained}; counted as wrong"))
    for caveat in (*record["model"]["caveats"], *data["caveats"]):
        notes.add_row("caveat", plain(caveat))
    console.print(notes)


def _table(record: Mapping[str, Any]) -> tuple[list[str], list[NumberRow]]:
    names = [EVERY, *(name for name in record["accuracy"] if name != EVERY)][:MOST]
    heads = {name: record["accuracy"][name] for name in names}
    rows = []
    for points in zip(*(value["certified"] for value in heads.values()), strict=True):
        cells = list(map(stored_percent, map(_estimate, points)))
        rows.append(NumberRow(f"{points[0]['radius']:.4g}", cells))
    averages = [f"{value['average_radius']:.4g}" for value in heads.values()]
    rows.append(NumberRow("average", averages))
    return ["radius", *(f"{name} %" for name in names)], rows


def _estimate(point: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in point.items() if key != "radius"}
