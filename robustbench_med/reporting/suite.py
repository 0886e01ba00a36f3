"""Table and figure of many runs, from their records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robustbench_med.measure.verdict import UNAUDITED, is_sound
from robustbench_med.reporting.figures import label, pyplot, saved
from robustbench_med.reporting.text import markdown_cell, markdown_code, stored_percent
from robustbench_med.util.terminal import visible

Records = Mapping[tuple[str, str, str], Mapping[str, Any]]
CLEAN, BARS = "#c9d1d9", ("#7aa6c2", "#b5403a", "#4d7c4d", "#8a6d3b")


def table(title: str, records: Records) -> str:
    """Markdown: a row a data set and model; accuracy of what was aimed at, with interval and verdict.

    Behind an accuracy stands a tick when an audit found it sound, the failed checks when it did not, and
    nothing when it was not audited.
    """
    protocols = list(dict.fromkeys(key[2] for key in records))
    lines = [
        f"# {visible(title)}",
        "",
        f"| data | model | clean | {' | '.join(map(markdown_cell, protocols))} | samples |",
        "|" + "---|" * (4 + len(protocols)),
    ]
    for dataset, model in dict.fromkeys(key[:2] for key in records):
        runs = [records.get((dataset, model, protocol)) for protocol in protocols]
        largest = _largest(runs)
        cells = [_cell(run, "robust") + verdict_mark(run) if run else "-" for run in runs]
        counts = " / ".join(str(run["dataset"]["samples"]) if run else "-" for run in runs)
        net, name = markdown_code(largest["model"]["label"]), markdown_cell(largest["dataset"]["name"])
        synthetic = " (synthetic)" if largest["dataset"]["synthetic"] else ""
        lines.append(
            f"| {name}{synthetic} | {net} | {_cell(largest, 'clean')} | {' | '.join(cells)} | {counts} |"
        )
    return "\n".join(lines) + "\n"


def draw(title: str, records: Records, path: Path) -> None:
    """Write a PNG: a panel a data set, bars for clean and each protocol; hollow where not sound."""
    plt = pyplot()
    datasets = list(dict.fromkeys(key[0] for key in records))
    protocols = list(dict.fromkeys(key[2] for key in records))
    models = list(dict.fromkeys(key[1] for key in records))
    figure, axes = plt.subplots(
        len(datasets), 1, figsize=(1.5 + 1.45 * len(models), 2.3 * len(datasets) + 0.9), squeeze=False
    )
    width = 0.8 / (len(protocols) + 1)
    for axis, dataset in zip(axes[:, 0], datasets, strict=True):
        for place, model in enumerate(models):
            runs = [records.get((dataset, model, protocol)) for protocol in protocols]
            if not any(runs):
                continue
            left = place - len(protocols) / 2 * width
            _bar(axis, left, width, _largest(runs), "clean", CLEAN)
            for number, run in enumerate(runs, 1):
                if run is not None:
                    _bar(axis, left + number * width, width, run, "robust", BARS[(number - 1) % len(BARS)])
        synthetic = any(key[0] == dataset and run["dataset"]["synthetic"] for key, run in records.items())
        axis.set_title(label(dataset) + (" (synthetic)" if synthetic else ""), fontsize=9, loc="left")
        axis.set_xticks(range(len(models)), [label(model) for model in models], fontsize=8)
        axis.set_ylim(0, 100)
        axis.set_xlim(-0.6, len(models) - 0.4)
        axis.set_ylabel("every head right (%)", fontsize=8)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    handles = [plt.Rectangle((0, 0), 1, 1, color=c) for c in (CLEAN, *BARS[: len(protocols)])]
    handles.append(plt.Rectangle((0, 0), 1, 1, facecolor="white", edgecolor="black", hatch="///"))
    names = ["clean", *map(label, protocols), "audit: not sound"]
    figure.legend(handles, names, loc="lower center", ncol=len(handles), frameon=False, fontsize=8)
    figure.suptitle(label(title), fontsize=11)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    saved(figure, path, dpi=120)


def _largest(runs: Sequence[Mapping[str, Any] | None]) -> Mapping[str, Any]:
    """The run on most samples and draws: it knows the clean accuracy best."""
    known = [run for run in runs if run is not None]
    return max(known, key=lambda run: int(run["dataset"]["samples"]) * int(run["scoring"]["draws"]))


def _bar(axis: Any, x: float, width: float, run: Mapping[str, Any], kind: str, color: str) -> None:
    value, low, high = _percent(run, kind)
    trusted = kind == "clean" or is_undoubted(run)
    style = {"color": color} if trusted else {"facecolor": "white", "edgecolor": color, "hatch": "///"}
    axis.bar(x, value, width * 0.92, **style)
    error = np.array([[value - low], [high - value]])
    axis.errorbar(x, value, yerr=error, color="#333333", capsize=2, linewidth=0.8)


def _cell(run: Mapping[str, Any], kind: str) -> str:
    return stored_percent(run["accuracy"][run["headline"]][kind])


def _percent(run: Mapping[str, Any], kind: str) -> list[float]:
    """Value, low and high of what was aimed at."""
    return [100 * run["accuracy"][run["headline"]][kind][key] for key in ("value", "low", "high")]


def verdict_mark(run: Mapping[str, Any]) -> str:
    """What stands behind a robust accuracy: a tick, the failed checks, or nothing without an audit."""
    verdict = run["audit"]["verdict"]
    if is_sound(verdict):
        return " ✓"
    return "" if verdict == UNAUDITED else f" ✗ {markdown_cell(verdict.removeprefix('not sound: '))}"


def is_undoubted(run: Mapping[str, Any]) -> bool:
    """Whether no audit spoke against a number; figures draw others hollow."""
    verdict = run["audit"]["verdict"]
    return verdict == UNAUDITED or is_sound(verdict)
