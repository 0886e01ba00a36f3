"""The pages of a board: templates filled in, and what lies beside them. Nothing is fetched from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from robustbench_med.reporting.record_view import Grid, RecordView
from robustbench_med.reporting.views import BoardView
from robustbench_med.util.errors import UserError
from robustbench_med.util.terminal import visible

if TYPE_CHECKING:
    from jinja2 import Environment

ASSETS = ("board.css", "board.js")
PLOTLY = "plotly.min.js"


@dataclass(frozen=True)
class Linked:
    """A curve or a table of modalities on the index, with the pages of the runs behind it.

    Attributes:
        runs: label and page.
    """

    grid: Grid
    runs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class IndexView:
    """The first page.

    Attributes:
        parts: boards of runs that only curves and tables are made of, none of them ranked.
        charts: by a board's key its figure.
        curves: figures over epsilon, each with a title.
        linked: tables of modalities.
        version: of this package.
    """

    boards: tuple[BoardView, ...]
    parts: tuple[BoardView, ...]
    charts: Mapping[str, Mapping[str, Any]]
    curves: tuple[tuple[str, Mapping[str, Any]], ...]
    linked: tuple[Linked, ...]
    version: str

    @property
    def filters(self) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
        """What the table can be filtered by: key, words, values."""
        every = (*self.boards, *self.parts)
        rows = [row for board in every for row in board.rows]
        found: Sequence[tuple[str, str, Sequence[str]]] = (
            ("dataset", "Data set", [board.dataset for board in every]),
            ("threat", "Threat model", [board.threat for board in every]),
            ("attack", "Attack", [row.attack for row in rows]),
            ("defense", "Defense", [row.defenses for row in rows]),
            ("kind", "Kind of data", [row.kind for row in rows]),
            ("net", "Kind of net", [row.randomness for row in rows]),
            ("standing", "Standing", [row.standing for row in rows]),
        )
        return tuple((key, words, tuple(sorted({*values} - {""}))) for key, words, values in found)


def environment() -> Environment:
    """The templates: foreign text is escaped, and what would steer a reader's eyes is written out.

    Raises:
        UserError: the extra is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise _missing() from error
    made = Environment(
        loader=PackageLoader("robustbench_med.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_plain,
    )
    made.globals["plotly"] = PLOTLY
    return made


def _missing() -> UserError:
    return UserError("board --html needs two packages: pip install 'robustbench-med[html]'")


def _plain(value: object) -> object:
    """Foreign text without what turns its direction or hides; what a template made itself stays."""
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return visible(value, keep="\n")
    return value


def index_page(made: Environment, view: IndexView) -> str:
    """index.html."""
    return made.get_template("index.html").render(view=view, root="", title="Leaderboards")


def record_page(made: Environment, view: RecordView) -> str:
    """run/RUN.html."""
    title = f"{view.label} on {view.dataset} under {view.attack}"
    return made.get_template("record.html").render(view=view, root="../", title=title)


def assets() -> dict[str, str]:
    """By name the files that all pages share: style, script, and the drawing library out of its package.

    Raises:
        UserError: the extra is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise _missing() from error
    own = resources.files("robustbench_med.reporting") / "templates"
    found = {name: (own / name).read_text(encoding="utf-8") for name in ASSETS}
    return found | {PLOTLY: get_plotlyjs()}
