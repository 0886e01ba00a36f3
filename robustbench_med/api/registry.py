"""Named plug-ins, found through entry points and loaded only when they are asked for."""

from __future__ import annotations

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
        """Entry points by name, sorted.

        Raises:
            UserError: two installed packages claim the same name.
        """
        found: dict[str, EntryPoint] = {}
        for entry in entry_points(group=self.group):
            known = found.setdefault(entry.name, entry)
            if known.value != entry.value:
                raise UserError(
                    f"two packages provide the {self.kind} {entry.name!r}: "
                    f"{provider(known)} and {provider(entry)}; uninstall one of them"
                )
        return dict(sorted(found.items()))

    def names(self) -> list[str]:
        """What can be asked for, sorted."""
        return list(self.entries())

    def get(self, name: str) -> T:
        """Import and return the plug-in called ``name``.

        Raises:
            UserError: nothing has that name (a near miss is suggested), or importing it failed
                because a package it needs is not installed.
        """
        entries = self.entries()
        if name not in entries:
            raise unknown(self.kind, name, entries)
        try:
            plugin: T = entries[name].load()
        except ModuleNotFoundError as error:
            raise UserError(
                f"the {self.kind} {name!r} (from {provider(entries[name])}) needs the package "
                f"{error.name!r}: install it"
            ) from error
        return plugin


def provider(entry: EntryPoint) -> str:
    """The distribution an entry point came from."""
    return entry.dist.name if entry.dist else "an unknown package"
