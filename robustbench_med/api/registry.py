"""Named plug-ins, found through entry points and loaded only when they are asked for."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from robustbench_med.util.errors import UserError, unknown

T = TypeVar("T")


@dataclass(frozen=True)
class Registry(Generic[T]):
    """Everything installed under one entry-point group.

    Reading names costs no import; ``get`` imports the one plug-in it returns.

    Attributes:
        kind: what the plug-ins are, for error messages ("attack").
        group: the entry-point group ("robustbench_med.attacks").
    """

    kind: str
    group: str

    def entries(self) -> dict[str, EntryPoint]:
        """Entry points by name, sorted; of two packages that claim one name the first (see ``get``)."""
        found: dict[str, EntryPoint] = {}
        for entry in entry_points(group=self.group):
            found.setdefault(entry.name, entry)
        return dict(sorted(found.items()))

    def names(self) -> list[str]:
        """What can be asked for, sorted."""
        return list(self.entries())

    def is_disputed(self, name: str) -> bool:
        """Whether two packages claim the name, so that ``get`` refuses it."""
        return bool(self._others(name))

    def _others(self, name: str) -> list[EntryPoint]:
        """What else claims the name of an entry."""
        own = self.entries()[name].value
        return [other for other in entry_points(group=self.group, name=name) if other.value != own]

    def get(self, name: str) -> T:
        """Import and return the plug-in called ``name``.

        Raises:
            UserError: nothing has that name (a near miss is suggested), two installed packages claim it, or
                it cannot be imported (the exception that it raised is the cause).
        """
        entries = self.entries()
        if name not in entries:
            raise unknown(self.kind, name, entries)
        for other in self._others(name):
            raise UserError(
                f"two packages provide the {self.kind} {name!r}: {provider(entries[name])} and "
                f"{provider(other)}; uninstall one of them"
            )
        try:
            plugin: T = entries[name].load()
        except (Exception, SystemExit) as error:  # whatever a plug-in does when it is imported
            who = f"the {self.kind} {name!r} (from {provider(entries[name])})"
            raise UserError(f"{who} {_why(error)}") from error
        return plugin


def _why(error: BaseException) -> str:
    """Why a plug-in cannot be imported, and where that was found."""
    if isinstance(error, ModuleNotFoundError):
        return f"needs the package {error.name!r}: install it"
    frames = traceback.extract_tb(error.__traceback__)
    where = f", {frames[-1].filename} line {frames[-1].lineno}" if frames else ""
    return f"cannot be loaded ({type(error).__name__}: {error}{where}); mend or uninstall it"


def provider(entry: EntryPoint) -> str:
    """The distribution an entry point came from."""
    return entry.dist.name if entry.dist else "an unknown package"
