"""What is printed: foreign text that cannot steer a terminal, and streams whose end ends no run."""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, cast

from robustbench_med.util.errors import closest, unknown

if TYPE_CHECKING:
    from rich.console import Console

LONGEST = 2000  # characters of a line about an error or a warning
JOINERS = "\u200c\u200d"  # letters of some scripts, and of emoji, need them
STEERS = ("Cc", "Cf", "Cs", "Zl", "Zp")  # controls, bidi overrides, lone surrogates, line separators


def visible(text: object, keep: str = "") -> str:
    r"""A text in which whatever would steer a terminal is written out: "\x1b[31m", "\n", "\u202e".

    Args:
        keep: characters that stay.
    """
    said = str(text)
    if said.isascii() and said.isprintable():
        return said
    return "".join(c if c in keep else _written_out(c) for c in said)


def _written_out(character: str) -> str:
    if unicodedata.category(character) not in STEERS or character in JOINERS:
        return character
    return character.encode("unicode_escape").decode("ascii")


def say(text: object = "") -> None:
    """One line on standard output, whatever is in it: a path, say."""
    print(visible(text))


def console() -> Console:
    """Where tables are printed."""
    from rich.console import Console  # takes long to import, and not every command prints a table

    # A pipe has no width: it gets what fits a terminal of 80 columns. Colours and links are for terminals.
    return Console(width=None if sys.stdout.isatty() else 80, highlight=False, emoji=False)


def complain(message: object) -> None:
    """One line on standard error."""
    line = visible(re.sub(r"\s*[\r\n]+\s*", " ", str(message).strip()))
    print(f"robmed: {line if len(line) <= LONGEST else line[:LONGEST] + '…'}", file=sys.stderr)


def warn(message: object) -> None:
    """One line on standard error that stops nothing."""
    complain(f"warning: {message}")


class Parser(argparse.ArgumentParser):
    """Says what it refuses in one line, as everything here does, with the nearest name that there is."""

    stray: Callable[[str], str] | None = None
    """What to say of a word that is one too many."""

    def error(self, message: str) -> NoReturn:
        """See ``ArgumentParser``."""
        complain(message if message.endswith("?") else f"{message}; see {self.prog} --help")
        sys.exit(2)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """See ``ArgumentParser``."""
        words = list(sys.argv[1:] if args is None else args)
        options, unread = self.parse_known_args(words, namespace)
        if unread:
            self.chosen(words)._refuse(unread, self.stray)
        return options

    def commands(self) -> dict[str, Parser]:
        """The parsers of its commands, by name."""
        found = [each.choices for each in self._actions if isinstance(each, argparse._SubParsersAction)]
        return dict(found[0]) if found else {}

    def options(self) -> list[argparse.Action]:
        """All that it takes, by flag or by place."""
        return list(self._actions)

    def flags(self) -> list[str]:
        """Every flag it knows."""
        return [flag for action in self._actions for flag in action.option_strings]

    def chosen(self, words: Sequence[str]) -> Parser:
        """The parser of the command that was called."""
        commands = self.commands()
        place = next((i for i, word in enumerate(words) if word in commands), None)
        return self if place is None else commands[words[place]].chosen(words[place + 1 :])

    def _refuse(self, unread: Sequence[str], stray: Callable[[str], str] | None) -> NoReturn:
        first = next((word for word in unread if word.startswith("-")), None)
        if first is None:
            self.error(stray(unread[0]) if stray else f"{unread[0]!r} is one word too many")
        flag = first.partition("=")[0]
        near = closest(flag, self.flags())
        self.error(f"{self.prog} has no flag {flag}" + (f"; did you mean {near}?" if near else ""))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            what = "choice" if action.option_strings else str(action.metavar or "choice").lower()
            raise argparse.ArgumentError(
                action if action.option_strings else None, str(unknown(what, str(value), action.choices))
            )


class Lenient:
    """A stream that goes nowhere from the moment its other end is closed, full or missing.

    Attributes:
        lost: what became of it; None while all is well.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.lost: OSError | None = None
        # A process may be started without standard output; print() would then write to nothing.
        self._stream: TextIO = stream if stream is not None else _nowhere()
        if isinstance(stream, TextIOWrapper):  # an arrow that a terminal cannot print must not end a run
            stream.reconfigure(errors="replace")

    def write(self, text: str) -> int:
        """See ``TextIO``; never fails."""
        try:
            self._stream.write(text)
        except OSError as error:
            self._lose(error)
        return len(text)

    def flush(self) -> None:
        """See ``TextIO``; never fails."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _lose(self, error: OSError) -> None:
        self.lost = self.lost or error
        lost, self._stream = self._stream, _nowhere()
        try:  # what waits in its buffer would fail once more when Python ends
            os.dup2(self._stream.fileno(), lost.fileno())
        except (OSError, ValueError):  # no file behind it
            return


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 - it stands in for a standard stream


@contextmanager
def lenient_streams() -> Iterator[Lenient]:
    """Standard output and standard error are ``Lenient``; yields the former.

    That not everything could be printed is said on standard error, unless the reader simply went away
    (``| head``).
    """
    out, err = Lenient(sys.stdout), Lenient(sys.stderr)
    with redirect_stdout(cast(TextIO, out)), redirect_stderr(cast(TextIO, err)):
        try:
            yield out
        finally:
            out.flush()
            if out.lost is not None and out.lost.errno != errno.EPIPE:
                warn(f"not everything could be printed: {out.lost.strerror}")
            err.flush()
