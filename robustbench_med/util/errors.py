"""The one exception a user is meant to read, and the sentence for a name that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user gave (flag, config, file, data) cannot be used.

    The message is one line that says what is wrong, where, and how to mend it. The command line
    prints it without a traceback and exits with code 2. Anything else that is raised is a bug.
    """


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that does not exist, with the nearest one that does."""
    names = sorted(known)
    near = closest(name, names)
    hint = f"did you mean {near!r}?" if near else f"there are: {', '.join(names) or 'none'}"
    return UserError(f"unknown {kind} {name!r}; {hint}")


def closest(name: str, known: Iterable[str]) -> str | None:
    """The name that is most like this one, of the same letters if one is; None when none is."""
    spelt = {n.lower(): n for n in known}
    swapped = [n for n in spelt if sorted(n) == sorted(name.lower())]
    near = swapped or difflib.get_close_matches(name.lower(), spelt, n=1, cutoff=0.5)
    return spelt[near[0]] if near else None
