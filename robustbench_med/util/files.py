"""Files that are either whole or not there, and the hashes that identify them."""

from __future__ import annotations

import difflib
import errno
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from robustbench_med.util.errors import UserError

# What a file system says when it does not take a file: nothing is wrong with the program.
REFUSALS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENAMETOOLONG),
    *(errno.ENOTDIR, errno.EISDIR, errno.EIO, errno.ELOOP, errno.EEXIST),
)


def refusal(error: OSError) -> str | None:
    """What a file system refuses, in words; None for any other error."""
    if error.errno not in REFUSALS:
        return None
    where = f" {error.filename}" if error.filename is not None else ""
    return f"cannot use the file or folder{where}: {error.strerror}; mend that, or choose another"


def given_path(text: str | Path, what: str = "the path") -> Path:
    """A path as a user gave it, there or not; "~" is the home folder.

    Args:
        what: it is for, for the error.

    Raises:
        UserError: it is empty, or no file system can have such a path.
    """
    if not str(text):
        raise UserError(
            f"{'a path' if what == 'the path' else what} is empty; write it out, or leave it away"
        )
    if any(ord(c) < 32 or ord(c) == 127 for c in str(text)):
        raise UserError(f"{what} {ascii(str(text))[:120]} has control characters; choose another")
    shown = str(text) if len(str(text)) <= 120 else f"{str(text)[:117]}…"
    try:
        path = Path(text).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return path
    except RuntimeError as error:  # of expanduser
        raise UserError(f"{shown}: there is no such home folder; write the path out") from error
    except (OSError, ValueError) as error:  # the latter for a null character
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{what} {shown} cannot be used: {reason}; choose another") from error
    return path


def nearest(path: Path) -> str:
    """For the error about a path that is not there: "; did you mean X?" with what lies beside it, or ""."""
    try:
        beside = [each.name for each in path.parent.iterdir()]
    except OSError:
        return f"; there is no folder {path.parent}"
    near = difflib.get_close_matches(path.name, beside, n=1, cutoff=0.75)
    return f"; did you mean {path.parent / near[0]}?" if near else ""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is renamed over ``path``.

    A crash, an exception or a kill leaves ``path`` as it was. A link is followed, and the permissions of a
    file that is replaced are kept.

    Raises:
        UserError: the folder cannot be created or written, the disk is full, or something else than a file
            is there.
    """
    with refusing(path):
        path = path.resolve() if path.is_symlink() else path
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is not a plain file; choose another name")
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask()
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name[:40]}.", suffix=path.suffix[:16]
        )
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(mode)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``folder``; on success it takes its place.

    A crash, an exception or a kill leaves the previous folder or none, never half of one (a kill
    also leaves the hidden temporary folder).

    Raises:
        UserError: the disk is full or not writable.
    """
    require_writable(folder.parent)
    with (
        refusing(folder),
        tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name[:40]}.") as scratch,
    ):
        building = Path(scratch) / "new"
        building.mkdir()
        yield building
        _swap(building, folder, Path(scratch) / "previous")


def _swap(building: Path, folder: Path, previous: Path) -> None:
    """Put ``building`` in the place of ``folder``, which becomes ``previous``; all or nothing."""
    try:
        if folder.exists():
            folder.rename(previous)
        building.rename(folder)
    except BaseException:
        # Also when Ctrl-C falls between the two renames.
        if previous.exists() and not folder.exists():
            previous.rename(folder)
        raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Nobody else who asks for the lock of ``path`` has it meanwhile; the lock lies beside the file.

    Raises:
        UserError: the folder cannot be created or written.
    """
    from filelock import FileLock  # takes a while to import, and --help needs none

    with refusing(path):
        path = path.resolve() if path.is_symlink() else path
        require_writable(path.parent)
        whole = os.fsencode(path.name)
        name = path.name if len(whole) < 240 else hashlib.sha256(whole).hexdigest()
        lock = FileLock(path.with_name(f".{name}.lock"))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Say in one line what a file system refuses.

    Raises:
        UserError: in place of the OSError.
    """
    try:
        yield
    except OSError as error:
        short = error.errno is None and str(error).endswith(" written")  # NumPy's, of a full disk
        if error.errno not in REFUSALS and not short:
            raise
        reason = f"the disk is full ({error})" if short else error.strerror
        raise UserError(f"cannot write {path}: {reason}; choose another folder") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys in the order given, floats as Python prints them.

    Raises:
        ValueError: NaN or infinity, with the field that holds it.
    """
    odd = _not_a_number(value, "")
    if odd is not None:
        raise ValueError(f"{path.name}: the field {odd} is no number; JSON has no word for that")
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def _not_a_number(value: Any, where: str) -> str | None:
    if isinstance(value, float):
        return None if math.isfinite(value) else where.lstrip(".")
    if isinstance(value, dict):
        pairs: Any = ((f"{where}.{key}", each) for key, each in value.items())
    elif isinstance(value, list | tuple):
        pairs = ((f"{where}[{i}]", each) for i, each in enumerate(value))
    else:
        return None
    return next((odd for name, each in pairs if (odd := _not_a_number(each, name)) is not None), None)


def read_text(path: Path, most: int = 200_000_000) -> str:
    """A text file, if it is one.

    Args:
        most: bytes; whatever is longer is not what it should be.

    Raises:
        UserError: missing, unreadable, not UTF-8, or too long.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is not a plain file")
        if path.stat().st_size > most:
            raise UserError(f"{path} has {path.stat().st_size} bytes, more than a file of its kind can have")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not a text file in UTF-8 ({error.reason} at byte {error.start})"
        ) from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:  # such as a null character in its name
        raise UserError(f"cannot read {str(path)!r}: {error}") from error


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        UserError: the file is missing or not JSON.
    """
    try:
        return json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError, ValueError) as error:
        raise UserError(f"{path} is not valid JSON: {' '.join(str(error).split())[:200]}") from error


def require_writable(folder: Path) -> None:
    """Create ``folder`` if need be and make sure that a file can be written there.

    Raises:
        UserError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write to {folder}: {reason}; choose another folder") from error


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form, as hex."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
