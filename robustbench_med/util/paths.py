"""Paths as people write them, in flags and in files."""

from __future__ import annotations

from pathlib import Path

from robustbench_med.util.errors import UserError


def user_path(text: str | Path) -> Path:
    """The path that a person wrote, "~" expanded; whether anything is there is another question.

    Raises:
        UserError: a path that this system cannot have or may not look at, or "~" where nobody is at home.
    """
    shown = str(text) if len(str(text)) <= 120 else f"{str(text)[:117]}…"
    try:
        path = Path(text).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return path
    except RuntimeError as error:  # of expanduser
        raise UserError(f"{shown!r}: there is no home folder to put for ~; write the whole path") from error
    except (OSError, ValueError) as error:  # the latter for a null character
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"the path {shown!r} cannot be used: {reason}") from error
    return path
