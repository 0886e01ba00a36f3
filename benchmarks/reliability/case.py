"""What one case is, and what can be said of it."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Literal, Protocol, TypeVar

Spoil = Callable[[Path, Random], None]
"""Changes files in the folder in which a command is going to run."""

Expect = Literal["refused", "accepted", "either", "bug"]
"""Of a command: exit code 2; 0 or 1; one of these; or a traceback too, which a plug-in's own bug keeps."""

REFUSED, ACCEPTED = "refused", "accepted"
GOOD = (REFUSED, ACCEPTED, "traceback of a plug-in's bug", "as undisturbed", "skipped")


class Named(Protocol):
    """What has a name by which it can be repeated."""

    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=Named)


def nothing(folder: Path, rng: Random) -> None:
    """Spoil nothing."""
    del folder, rng


@dataclass(frozen=True)
class Conditions:
    """Under what a command runs.

    Attributes:
        env: changes of the environment; None takes a variable away.
        encoding: of standard output and error.
        own_process: in a new interpreter, for what is decided when it starts.
        most_bytes: no file can grow beyond it, as on a full disk; None for no limit.
        without_rights: the modes of files count, as they do for anybody but root.
        nameless: as a user whom the machine does not know and who has no home (where root runs this).
        plugins: a folder that is searched for installed packages too.
    """

    env: Mapping[str, str | None] = field(default_factory=dict)
    encoding: str = "utf-8"
    own_process: bool = False
    most_bytes: int | None = None
    without_rights: bool = False
    nameless: bool = False
    plugins: str | None = None


USUAL = Conditions()


@dataclass(frozen=True)
class Case:
    """A command on a folder in which something is wrong.

    Attributes:
        name: by which it can be repeated; also seeds what is random in it.
        needs: files and folders of the sound ones that the command runs beside.
        names: one of these must be in the line that refuses; anything will do when empty.
        writes: patterns of files, there before, that the command may change.
        keeps: a refusal may come late and leave what the same command goes on from.
    """

    name: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...] = ()
    spoil: Spoil = nothing
    expect: Expect = "either"
    names: tuple[str, ...] = ()
    writes: tuple[str, ...] = ("out/*", "runs/*")
    conditions: Conditions = USUAL
    keeps: bool = False

    @property
    def command(self) -> str:
        """For the table."""
        return command_of(self.arguments)


@dataclass(frozen=True)
class Result:
    """What came of a case.

    Attributes:
        told: what the command said, or what is wrong.
        seconds: of processor time.
    """

    name: str
    command: str
    verdict: str
    told: str
    seconds: float

    @property
    def failed(self) -> bool:
        """Whether this must not be."""
        return self.verdict not in GOOD


COMMANDS = (
    *("run", "audit", "curve", "modalities", "suite", "certify", "train"),
    *("check", "compare", "board", "list", "data import"),
)


def command_of(arguments: Sequence[str]) -> str:
    """ "run", "data import"; "none" for what is no command."""
    name = " ".join(arguments[: 2 if arguments[0] == "data" else 1])
    return name if name in COMMANDS else "none"


def sample(cases: Iterable[N], most: int | None) -> list[N]:
    """A fixed sample, by the hash of the name: more of them, or others beside them, leave it as it is."""
    ordered = sorted(cases, key=lambda case: hashlib.sha256(case.name.encode()).digest())
    return ordered[:most]


def snapshot(folder: Path) -> dict[str, str]:
    """By path below ``folder`` what is there: the hash of a file, or its kind."""
    found: dict[str, str] = {}
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(place) / name
            found[str(path.relative_to(folder))] = _describe(path)
    return found


def _describe(path: Path) -> str:
    mode = path.lstat().st_mode
    if stat.S_ISREG(mode):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return {stat.S_IFDIR: "folder", stat.S_IFLNK: "link", stat.S_IFIFO: "pipe"}.get(
        stat.S_IFMT(mode), "other"
    )
