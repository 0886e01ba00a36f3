"""Ways to spoil a file, whatever it holds; and values that are put in place of one."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.reliability.case import Expect, Spoil

Bytes = Callable[[bytes, Random], bytes]
ESCAPE = "\x1b[31mred\x1b[0m"


def _flipped(data: bytes, rng: Random) -> bytes:
    spoilt = bytearray(data)
    spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def _inserted(piece: bytes) -> Bytes:
    def spoil(data: bytes, rng: Random) -> bytes:
        place = rng.randrange(len(data))
        return data[:place] + piece + data[place:]

    return spoil


def _cut(data: bytes, rng: Random) -> bytes:
    return data[: rng.randrange(1, len(data))]


# What no file of ours survives, of whatever kind.
RUINED: Mapping[str, Bytes] = {
    "empty": lambda *_: b"",
    "one-byte": lambda data, _: data[:1],
    "zeros": lambda data, _: bytes(len(data)),
    "noise": lambda data, rng: rng.randbytes(len(data)),
    "half-page": lambda data, _: b"\xff\xd8\xff\xe0" + data[:40],
}
# What may hit something that matters or not.
HARMED: Mapping[str, Bytes] = {
    "half": lambda data, _: data[: len(data) // 2],
    "cut": _cut,
    "cut-again": _cut,
    "last-byte": lambda data, _: data[:-1],
    **{f"flip-{i}": _flipped for i in range(6)},
    "nul": _inserted(b"\0"),
    "noise-inside": _inserted(b"\xfe\xff\x80"),
    "twice": lambda data, _: data + data,
    "more": lambda data, _: data + b"\n" * 3 + b"x" * 99,
}
TEXT_RUINED: Mapping[str, Bytes] = {
    "utf-16": lambda data, _: data.decode().encode("utf-16"),
    "latin-1": lambda data, _: data + b"# caf\xe9\n",
    "one-word": lambda *_: b"zebra",
    "a-number": lambda *_: b"12",
    "deep": lambda *_: b"[" * 5000 + b"]" * 5000,
    "open": lambda data, _: data + b'\n"{[',
}
TEXT_HARMED: Mapping[str, Bytes] = {
    "escape": _inserted(ESCAPE.encode()),
    "long-line": lambda data, _: data + b"#" + b"x" * 1_000_000,
    "cr-only": lambda data, _: data.replace(b"\n", b"\r"),
    "tabs": lambda data, _: data.replace(b" ", b"\t"),
    "merge-marker": lambda data, _: b"<<<<<<< HEAD\n" + data + b"=======\n" + data + b">>>>>>> x\n",
    "line-lost": lambda data, rng: _without_line(data, rng),
    "line-twice": lambda data, rng: _with_line_twice(data, rng),
}
# What editors do, and what must not matter.
TEXT_KEPT: Mapping[str, Bytes] = {
    "bom": lambda data, _: b"\xef\xbb\xbf" + data,
    "crlf": lambda data, _: data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"),
    "blank-end": lambda data, _: data + b"\n\n",
}


def _without_line(data: bytes, rng: Random) -> bytes:
    lines = data.splitlines(keepends=True)
    del lines[rng.randrange(len(lines))]
    return b"".join(lines)


def _with_line_twice(data: bytes, rng: Random) -> bytes:
    lines = data.splitlines(keepends=True)
    lines.insert(rng.randrange(len(lines)), rng.choice(lines))
    return b"".join(lines)


def rewritten(file: str, spoil: Bytes) -> Spoil:
    """Spoil the bytes of a file."""

    def act(folder: Path, rng: Random) -> None:
        path = folder / file
        path.write_bytes(spoil(path.read_bytes(), rng))

    return act


def replaced(file: str, content: str | bytes) -> Spoil:
    """Put something else there."""

    def act(folder: Path, rng: Random) -> None:
        del rng
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)

    return act


def swapped(file: str, other: str) -> Spoil:
    """Put a sound file of another kind there."""

    def act(folder: Path, rng: Random) -> None:
        del rng
        (folder / file).write_bytes((folder / other).read_bytes())

    return act


def _at(file: str, make: Callable[[Path], object]) -> Spoil:
    def act(folder: Path, rng: Random) -> None:
        del rng
        path = folder / file
        path.unlink(missing_ok=True)
        make(path)

    return act


def places(file: str) -> dict[str, Spoil]:
    """Something else than a file at its place."""
    return {
        "missing": _at(file, lambda _: None),
        "folder": _at(file, lambda path: path.mkdir()),
        "link-loop": _at(file, lambda path: path.symlink_to(path)),
        "link-nowhere": _at(file, lambda path: path.symlink_to("nowhere")),
        "device": _at(file, lambda path: path.symlink_to("/dev/zero")),
        "pipe": _at(file, lambda path: os.mkfifo(path)),
    }


def file_spoils(file: str, text: bool) -> Iterator[tuple[str, Expect, Spoil]]:
    """Every way to spoil a file whose content is not looked at: what is expected, and how."""
    harmed = {**HARMED, **(TEXT_HARMED if text else {})}
    yield from (("place/" + name, "refused", spoil) for name, spoil in places(file).items())
    for name, spoil in {**RUINED, **(TEXT_RUINED if text else {})}.items():
        yield f"bytes/{name}", "refused", rewritten(file, spoil)
    yield from ((f"bytes/{name}", "either", rewritten(file, spoil)) for name, spoil in harmed.items())
    if text:
        yield from (
            (f"bytes/{name}", "accepted", rewritten(file, spoil)) for name, spoil in TEXT_KEPT.items()
        )


GONE, RENAMED = object(), object()
# In place of a value. Of a number all but the last two are wrong anywhere, of a word all but the words.
VALUES: Mapping[str, Any] = {
    "gone": GONE,
    "renamed": RENAMED,
    "null": None,
    "word": "zebra",
    "no-word": "",
    "escape": ESCAPE,
    "markup": "[bold]x[/eps]",
    "formula": "=1+1",
    "two-lines": "x\ny",
    "nul": "x\0y",
    "surrogate": "x\ud800y",
    "list": ["zebra", [1]],
    "mapping": {"zebra": 1},
    "nan": float("nan"),
    "infinity": float("inf"),
    "huge": 10**30,
    "minus": -1,
    "zero": 0,
    "truth": True,
}
NEVER_A_NUMBER = ("word", "escape", "markup", "formula", "two-lines", "list", "mapping", "nan", "infinity")


def paths_of(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every value in a document, with the way to it; of a list the first item."""
    if path:
        yield path, value
    if isinstance(value, dict):
        for key, each in value.items():
            yield from paths_of(each, (*path, key))
    elif isinstance(value, list) and value:
        yield from paths_of(value[0], (*path, 0))


def with_value(document: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """A copy with another value at that place; ``GONE`` and ``RENAMED`` are about the key."""
    changed = copy.deepcopy(document)
    inner = changed
    for step in path[:-1]:
        inner = inner[step]
    last = path[-1]
    if value is GONE:
        del inner[last]
    elif value is RENAMED and isinstance(inner, dict):
        inner[f"{last}s"] = inner.pop(last)
    else:
        inner[last] = "zebra" if value is RENAMED else value
    return changed


def as_json(document: Any) -> str:
    """JSON in the manner of a program that does not care."""
    return json.dumps(document, indent=1)


def as_yaml(document: Any) -> str:
    """YAML in one line, which says NaN and infinity in its own words."""
    if isinstance(document, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {as_yaml(each)}" for key, each in document.items()) + "}"
    if isinstance(document, list):
        return "[" + ", ".join(map(as_yaml, document)) + "]"
    if isinstance(document, float):
        return {"nan": ".nan", "inf": ".inf", "-inf": "-.inf"}.get(str(document), f"{document:.17f}")
    return json.dumps(document)
