"""Figures of the pages as plotly draws them: checked here, coloured there, after the reader's scheme.

Plotly reads a little HTML in names, so every foreign text in a figure is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from robustbench_med.reporting.views import Bar, BoardView, Row
from robustbench_med.util.terminal import visible

ROOM = (30.0, 7.0)  # points in per cent that the name of one takes, to the side and up
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star", "pentagon")
GREY = "#808a93"  # seen on light and on dark paper
PERCENT = {"range": [-3, 103], "ticksuffix": " %"}


def text(value: object) -> str:
    """A foreign text within a figure."""
    return escape(visible(value))


def clean_against_robust(board: BoardView) -> dict[str, Any]:
    """A point a run, with its intervals; hollow where the run is not ranked."""
    figure = _figure("clean accuracy", "robust accuracy")
    for rows, name, symbol in (
        (board.ranked, "ranked", "circle"),
        (board.below, "not ranked", "circle-open"),
    ):
        known = [row for row in rows if row.clean is not None]
        if known:
            figure.add_scatter(
                **_points(known, name == "ranked"), name=name, marker={"symbol": symbol, "size": 9}
            )
    figure.add_scatter(
        x=[0, 100],
        y=[0, 100],
        mode="lines",
        name="nothing lost",
        hoverinfo="skip",
        line={"dash": "dot", "width": 1, "color": GREY},
    )
    figure.update_layout(hovermode="closest")
    return _made(figure)


def _points(rows: Sequence[Row], labels: bool) -> dict[str, Any]:
    clean, robust = [row.clean for row in rows if row.clean], [row.robust for row in rows]
    said = [
        f"<b>{text(row.model)}</b><br>{text(row.attack)}, {text(row.verdict)}<br>"
        f"clean {c.percent} ({c.interval}) %<br>robust {row.robust.percent} ({row.robust.interval}) %"
        for row, c in zip(rows, clean, strict=True)
    ]
    return {
        "x": [_percent(bar.value) for bar in clean],
        "y": [_percent(bar.value) for bar in robust],
        "error_x": _errors(clean),
        "error_y": _errors(robust),
        "mode": "markers+text" if labels else "markers",
        "text": _names(rows) if labels else None,
        "textposition": "top left",
        "textfont": {"size": 11},
        "hovertext": said,
        "hoverinfo": "text",
        "customdata": [row.page for row in rows],
    }


def _names(rows: Sequence[Row]) -> list[str]:
    """Names beside points; none where it would lie on one that is there already."""
    taken: list[tuple[float, float]] = []
    out = []
    for row in rows:
        assert row.clean is not None
        at = (100 * row.clean.value, 100 * row.robust.value)
        free = all(abs(at[0] - x) > ROOM[0] or abs(at[1] - y) > ROOM[1] for x, y in taken)
        taken += [at] if free else []
        out.append(text(row.model) if free else "")
    return out


def over_epsilon(lines: Sequence[tuple[str, Sequence[float], Sequence[Bar]]], title: str) -> dict[str, Any]:
    """A line a net, or a head, with intervals.

    Args:
        lines: name, radii and accuracies of each.
        title: of the radii.
    """
    figure = _figure(title, "accuracy")
    figure.update_layout(xaxis={"range": None, "ticksuffix": "", "rangemode": "tozero"})
    for number, (name, radii, bars) in enumerate(lines):
        figure.add_scatter(
            x=list(radii),
            y=[_percent(bar.value) for bar in bars],
            error_y=_errors(bars),
            mode="lines+markers",
            name=text(name),
            hovertext=[f"<b>{text(name)}</b><br>{bar.percent} ({bar.interval}) %" for bar in bars],
            hoverinfo="text",
            marker={"symbol": SYMBOLS[number % len(SYMBOLS)], "size": 8},
        )
    return _made(figure)


def _figure(x_title: str, y_title: str) -> Any:
    from plotly.graph_objects import Figure

    return Figure(
        layout={
            "template": "none",
            "xaxis": {"title": {"text": text(x_title), "font": {"size": 13}}, **PERCENT},
            "yaxis": {"title": {"text": text(y_title), "font": {"size": 13}}, **PERCENT},
            "margin": {"l": 64, "r": 12, "t": 12, "b": 52},
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        }
    )


def _made(figure: Any) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(figure.to_json())
    return made


def _percent(share: float) -> float:
    return round(100 * share, 2)


def _errors(bars: Sequence[Bar]) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [_percent(bar.high - bar.value) for bar in bars],
        "arrayminus": [_percent(bar.value - bar.low) for bar in bars],
        "thickness": 1,
        "width": 3,
    }
