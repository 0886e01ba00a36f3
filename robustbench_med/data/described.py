"""``dataset.yaml``: what somebody says of their data, so that nothing has to be guessed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BeforeValidator, ConfigDict

from robustbench_med.api.data import Kind
from robustbench_med.data.decoding import Scale
from robustbench_med.util.config import build, read_yaml
from robustbench_med.util.errors import UserError
from robustbench_med.util.fields import STRICT

FILE: Final = "dataset.yaml"
LARGEST: Final = 4096
"""Pixels a side that anything may be resized to."""


@dataclass(frozen=True)
class Window:
    """The part of a scan's values that is looked at, as radiologists say it: all beyond it is cut off."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    center: float
    width: float


@dataclass(frozen=True)
class Input:
    """One modality.

    Attributes:
        column: of a CSV, the column of its files; of an npz, the key of its array without the split.
        columns: of a table, the columns that are its features.
        kind: image, volume, signal or table.
        size: pixels to which images are resized: a side, or (height, width), or (depth, height, width).
        channels: 1 for grey, 3 for colour.
        window: of CT and other scans, see ``Window``.
        range: lowest and highest value there can be, where the file does not say.
        mean, std: what the values of an array were normalised with.
        categories: columns of a table that hold no numbers; they become a 0 or 1 for each value.
        fixed: columns that nobody can forge.
        mutable: categories that somebody can.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    column: str | None = None
    columns: tuple[str, ...] = ()
    kind: Kind | None = None
    title: str = ""
    size: int | tuple[int, ...] | None = None
    channels: Literal[1, 3] | None = None
    window: Window | None = None
    range: tuple[float, float] | None = None
    mean: float | tuple[float, ...] | None = None
    std: float | tuple[float, ...] | None = None
    categories: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    mutable: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        sides = (self.size,) if isinstance(self.size, int) else self.size or (1,)
        if not all(1 <= side <= LARGEST for side in sides) or len(sides) > 3:
            raise UserError(
                f"size is {self.size}; give a side in pixels, or [height, width], up to {LARGEST}"
            )
        if self.window and self.range:
            raise UserError("window and range are both given; drop one")
        if self.window and not self.window.width > 0:
            raise UserError(f"window: width is {self.window.width:g}; it must be above 0")
        if self.range and not self.range[0] < self.range[1]:
            raise UserError(f"range is {list(self.range)}; it must go from a lower to a higher number")

    @property
    def is_table(self) -> bool:
        """Whether it is made of columns, not of files."""
        return self.kind == "table" or bool(self.columns or self.categories)

    @property
    def scale(self) -> Scale | None:
        """The values that become 0 and 1; None when nobody said."""
        if self.window:
            half = self.window.width / 2
            return Scale(self.window.center - half, self.window.center + half, cut=True)
        return Scale(*self.range) if self.range else None


@dataclass(frozen=True)
class Question:
    """One head.

    Attributes:
        column: of its label; ``columns``: one for each finding.
        classes: in label order.
        kind: classes or findings, where that cannot be told: rows of several columns that all have one 1.
        modalities: that the label is about; all when not given.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    column: str | None = None
    columns: tuple[str, ...] = ()
    classes: tuple[str | int, ...] = ()
    kind: Literal["classes", "findings"] | None = None
    modalities: tuple[str, ...] = ()


def _input(value: object) -> object:
    return {"column": value} if isinstance(value, str) else value


def _question(value: object) -> object:
    return {"columns": value} if isinstance(value, list) else _input(value)


@dataclass(frozen=True)
class Description:
    """A ``dataset.yaml``.

    Attributes:
        file: the CSV, npz or folder that is meant, beside it.
        root: the folder that paths in a CSV start from.
        modalities: by name; a word alone is its column.
        heads: by name; a word alone is its column, a list its findings' columns.
        split, group, id, subgroups: columns (of an npz: keys). Of class folders, ``group: folder`` says that
            the folders within a class are patients.
        size, channels, window, range: of every modality that does not say it itself.
        axes: the order of a NIfTI's axes: xyz as it lies in the file, or zyx (depth, height, width).
    """

    name: str = ""
    title: str = ""
    licence: str = "not stated"
    citation: str = "not stated"
    caveats: tuple[str, ...] = ()
    mirror: tuple[Literal["horizontal", "vertical"], ...] = ()
    pairing: Literal["paired", "unpaired"] = "paired"
    file: str | None = None
    root: str = "."
    modalities: Mapping[str, Annotated[Input, BeforeValidator(_input)]] = field(default_factory=dict)
    heads: Mapping[str, Annotated[Question, BeforeValidator(_question)]] = field(default_factory=dict)
    split: str | None = None
    group: str | None = None
    id: str | None = None
    subgroups: tuple[str, ...] = ()
    size: int | tuple[int, ...] | None = None
    channels: Literal[1, 3] | None = None
    window: Window | None = None
    range: tuple[float, float] | None = None
    axes: Literal["xyz", "zyx"] = "xyz"

    def input(self, name: str) -> Input:
        """What is said of a modality, with what is said of all."""
        own = self.modalities.get(name, Input())
        said = own.scale is not None
        return replace(
            own,
            size=own.size or self.size,
            channels=own.channels or self.channels,
            window=own.window if said else self.window,
            range=own.range if said else self.range,
        )

    def columns(self) -> set[str]:
        """Every column that is named."""
        named = {self.split, self.group, self.id, *self.subgroups}
        for given in self.modalities.values():
            named |= {given.column, *given.columns, *given.categories}
        for asked in self.heads.values():
            named |= {asked.column, *asked.columns}
        return {name for name in named if name is not None}


def described(path: Path) -> Description:
    """Read a ``dataset.yaml``.

    Raises:
        UserError: no such file, not YAML, or a word in it that has no meaning.
    """
    values: dict[str, Any] = read_yaml(path)
    description = build(Description, values, str(path))
    for name in description.modalities:  # what does not go together is said before any file is read
        try:
            description.input(name)
        except UserError as error:
            raise UserError(f"{path}: {name}: {error}") from error
    return description
