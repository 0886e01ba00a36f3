"""Table and figure of a zoo: what each member reaches, loses and costs, a data set at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustbench_med.models.named import variant_of
from robustbench_med.reporting.figures import label, pyplot, saved, spread
from robustbench_med.reporting.suite import is_undoubted, verdict_mark
from robustbench_med.reporting.text import markdown_cell, markdown_code, stored_percent
from robustbench_med.util.terminal import visible

Records = Mapping[tuple[str, str, str], Mapping[str, Any]]
Situations = Mapping[tuple[str, str], Mapping[str, Any]]
USUAL, RESISTING = "#7aa6c2", "#b5403a"
PER_MAC = 12  # square points a million multiply-accumulates


def table(title: str, records: Records, situations: Situations) -> str:
    """Markdown: for each data set a row a member.

    Accuracies are of what was aimed at, in per cent with their 95 % intervals; what stands under an attack on
    one modality alone, or without one, has no audit and no interval. Behind a robust accuracy stands a tick
    when an audit found it sound, the failed checks when it did not, nothing when it was not audited.
    """
    lines = [f"# {visible(title)}", ""]
    for dataset in dict.fromkeys(key[0] for key in records):
        runs = {key[1:]: record for key, record in records.items() if key[0] == dataset}
        lines += [*_section(dataset, runs, situations), ""]
    return "\n".join(lines)


def _section(
    dataset: str, runs: Mapping[tuple[str, str], Mapping[str, Any]], situations: Situations
) -> list[str]:
    first = next(iter(runs.values()))
    synthetic = " (synthetic)" if first["dataset"]["synthetic"] else ""
    names = list(first["threat_model"]["budgets"])
    alone = [f"{name} {kind}" for kind in ("attacked alone", "missing") for name in names]
    balanced = list(first.get("balanced_accuracy") or ())
    shown = [f"balanced: {question}" for question in balanced]
    head = ["net", "attack", "clean", "robust", *alone, *shown, "parameters", "MACs", "samples"]
    lines = [
        f"## {markdown_cell(dataset)}{synthetic}, {first['headline']}",
        "",
        f"| {' | '.join(map(markdown_cell, head))} |",
        "|" + "---|" * len(head),
    ]
    for (model, column), run in runs.items():
        each = _situations(situations.get((dataset, model)), run["headline"], names)
        cells = [
            markdown_code(run["model"]["label"]),
            markdown_cell(column),
            stored_percent(run["accuracy"][run["headline"]]["clean"]),
            stored_percent(run["accuracy"][run["headline"]]["robust"]) + verdict_mark(run),
            *each,
            *(_balanced(run, question) for question in balanced),
            f"{run['model']['parameters'] / 1e6:.2f} M",
            f"{run['model']['macs'] / 1e6:.1f} M",
            str(run["dataset"]["samples"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _situations(found: Mapping[str, Any] | None, headline: str, names: list[str]) -> list[str]:
    rows = {
        (row["kind"], tuple(row["modalities"])): row["accuracy"]
        for row in (found or {}).get("rows", ())
        if row["goal"] not in row["accuracy"] or row["goal"] == headline
    }
    keys = [(kind, (name,)) for kind in ("attacked", "missing") for name in names]
    return [f"{100 * rows[key][headline]['value']:.1f}" if key in rows else "-" for key in keys]


def _balanced(run: Mapping[str, Any], question: str) -> str:
    found = (run.get("balanced_accuracy") or {}).get(question)
    return f"{stored_percent(found['clean'])} → {stored_percent(found['robust'])}" if found else "-"


def draw(title: str, records: Records, path: Path) -> None:
    """Write a PNG: a panel a data set, clean against robust accuracy; areas are MACs, hollow is not sound."""
    plt = pyplot()
    datasets = list(dict.fromkeys(key[0] for key in records))
    columns = min(2, len(datasets))
    rows = -(-len(datasets) // columns)
    height = 5.2 * rows  # inches
    figure, grid = plt.subplots(rows, columns, figsize=(5.6 * columns, height), squeeze=False)
    axes, points = grid.flatten(), []
    for axis in axes[len(datasets) :]:
        axis.set_visible(False)
    for axis, dataset in zip(axes, datasets, strict=False):
        runs = {key[1]: record for key, record in records.items() if key[0] == dataset}
        points.append({label(model): _point(axis, run) for model, run in runs.items()})
        synthetic = any(run["dataset"]["synthetic"] for run in runs.values())
        axis.set_title(label(dataset) + (" (synthetic)" if synthetic else ""), fontsize=10, loc="left")
        axis.set_xlabel("clean accuracy (%)", fontsize=9)
        axis.set_ylabel("robust accuracy (%)", fontsize=9)
        axis.set_ylim(-2, max(10, axis.get_ylim()[1]))
        axis.margins(0.12)
        axis.grid(alpha=0.25)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    figure.suptitle(
        f"{label(title)}\nblue: trained as usual; red: trained to resist; area: MACs",
        fontsize=10,
        y=1 - 0.1 / height,
    )
    figure.tight_layout()
    for axis, named in zip(axes, points, strict=False):
        spread(axis, named, 7)
    saved(figure, path, dpi=120)


def _point(axis: Any, run: Mapping[str, Any]) -> tuple[float, float]:
    """Draw one net; its place, in per cent."""
    accuracy = run["accuracy"][run["headline"]]
    x, y = 100 * accuracy["clean"]["value"], 100 * accuracy["robust"]["value"]
    color = RESISTING if variant_of(run["model"]["name"])[1] else USUAL
    face = color if is_undoubted(run) else "none"
    size = PER_MAC * run["model"]["macs"] / 1e6
    axis.scatter(x, y, s=size, facecolor=face, edgecolor=color, alpha=0.7, clip_on=False)
    return x, y
