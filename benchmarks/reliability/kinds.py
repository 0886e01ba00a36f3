"""What is special to a kind of file: texts and arrays that no general change arrives at."""

from __future__ import annotations

import csv
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.reliability.case import Expect, Spoil
from benchmarks.reliability.mutations import replaced

YAML_TEXTS: Mapping[str, str] = {
    "aliases": "a: &a [x, x]\n"
    + "".join(f"{n}: &{n} [*{p}, *{p}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)),
    "python-tag": "model: !!python/object/apply:os.system ['true']\nattack: pgd\n",
    "binary-tag": "model: !!binary aGVsbG8=\nattack: pgd\n",
    "set-tag": "model: !!set {a, b}\nattack: pgd\n",
    "date": "model: 2020-01-01\nattack: pgd\n",
    "bad-date": "model: 2020-99-99\nattack: pgd\n",
    "two-documents": "model: concat\n---\nattack: pgd\n",
    "list": "- model\n- attack\n",
    "null": "~\n",
    "comment-only": "# nothing\n",
    "key-twice": "model: concat\nattack: pgd\nmodel: mail\n",
    "merge-key": "base: {model: concat}\n<<: {attack: pgd}\n",
    "odd-keys": "1: 2\n[a, b]: 3\n",
    "mapping-key": "? {a: b}\n: c\n",
    "null-key": "~: x\nmodel: concat\n",
    "long-number": "model: concat\nattack: pgd\nseed: " + "9" * 9999 + "\n",
    "base-60": "model: concat\nattack: pgd\neps: 1:2:3:4:5\nnone: 1\n",
    "percent": "%YAML 9.9\n---\nmodel: concat\n",
    "colon": "model: concat: mail\n",
    "deep-mapping": "".join(" " * i + f"k{i}:\n" for i in range(500)),
    "many": "".join(f"k{i}: 1\n" for i in range(30000)),
    "unknown-tag": "model: !robmed concat\n",
    "escape-key": '"\\e[31mred": 1\n',
    "markup-key": '"[/bold]": 1\n',
}

JSON_TEXTS: Mapping[str, str] = {
    "list": "[1, 2]",
    "null": "null",
    "text": '"zebra"',
    "nothing": "{}",
    "nan": "NaN",
    "deep-mapping": '{"a":' * 3000 + "1" + "}" * 3000,
    "long-number": '{"schema": ' + "9" * 99999 + "}",
    "other-schema": '{"run": "x", "schema": 99}',
    "old-schema": '{"run": "x", "schema": 1}',
    "word-schema": '{"run": "x", "schema": "\\u001b[31m"}',
    "hardly": '{"run": "x", "schema": 2}',
    "comment": '// {"run": "x"}\n{}',
}


def yaml_spoils(file: str) -> Iterator[tuple[str, Expect, Spoil]]:
    """YAML that is none of ours."""
    yield from ((f"yaml/{name}", "refused", replaced(file, text)) for name, text in YAML_TEXTS.items())


def json_spoils(file: str) -> Iterator[tuple[str, Expect, Spoil]]:
    """JSON that is none of ours."""
    yield from ((f"json/{name}", "refused", replaced(file, text)) for name, text in JSON_TEXTS.items())


def csv_spoils(file: str) -> Iterator[tuple[str, Expect, Spoil]]:
    """Ways in which tables go wrong between a program and a spreadsheet; any of them may be harmless."""
    changes: dict[str, Callable[[list[list[str]]], object]] = {
        "header-only": lambda rows: rows.__delitem__(slice(1, None)),
        "no-header": lambda rows: rows.pop(0),
        "commas": lambda rows: rows.append([""] * len(rows[0])),
        "short-row": lambda rows: rows.append(rows[1][:3]),
        "long-row": lambda rows: rows.append([*rows[1], "more"]),
        "column-twice": lambda rows: rows.__setitem__(slice(None), [[*row, row[0]] for row in rows]),
        "formula": lambda rows: rows[1].__setitem__(0, "=HYPERLINK(1)"),
        "escape": lambda rows: rows[1].__setitem__(0, "\x1b[31mred"),
        "markup": lambda rows: rows[1].__setitem__(1, "[/bold][link=x]"),
        "huge-cell": lambda rows: rows[1].__setitem__(0, "x" * 200_000),
        "blank-header": lambda rows: rows[0].__setitem__(0, ""),
        "spaces": lambda rows: [row.__setitem__(0, f" {row[0]} ") for row in rows],
    }
    for name, change in changes.items():
        yield f"table/{name}", "either", _table(file, change)
    for name, delimiter in (("semicolons", ";"), ("tabs", "\t")):
        yield f"table/{name}", "refused", _table(file, lambda _: None, delimiter)


def cells(file: str, columns: Iterator[int], values: Mapping[str, str]) -> Iterator[tuple[str, Spoil]]:
    """Other values in a row's cells."""
    for column in columns:
        for name, value in values.items():
            yield (
                f"cell-{column}/{name}",
                _table(file, lambda rows, c=column, v=value: rows[1].__setitem__(c, v)),  # type: ignore[misc]
            )


def columns_lost(file: str, count: int) -> Iterator[tuple[str, Spoil]]:
    """A table without one of its columns."""
    for column in range(count):
        yield (
            f"column-{column}/gone",
            _table(file, lambda rows, c=column: [row.pop(c) for row in rows]),  # type: ignore[misc]
        )


def _table(file: str, change: Callable[[list[list[str]]], object], delimiter: str = ",") -> Spoil:
    def act(folder: Path, rng: Random) -> None:
        del rng
        path = folder / file
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.reader(stream))
        change(rows)
        out = io.StringIO(newline="")
        csv.writer(out, delimiter=delimiter, lineterminator="\n").writerows(rows)
        path.write_text(out.getvalue(), "utf-8")

    return act


def npz_spoils(file: str) -> Iterator[tuple[str, Expect, Spoil]]:
    """Archives of arrays that are whole and wrong."""
    changes: dict[str, Callable[[dict[str, Any]], object]] = {
        "objects": lambda a: a.update(ids=np.array([{}] * 4, object)),
        "ids-gone": lambda a: a.pop("ids"),
        "scores-gone": lambda a: [a.pop(name) for name in list(a) if name.startswith("adversarial")],
        "labels-gone": lambda a: [a.pop(name) for name in list(a) if name.startswith("labels")],
        "passes-scalar": lambda a: a.update(passes=np.array(3)),
        "seconds-word": lambda a: a.update(seconds=np.array("zebra")),
        "ids-scalar": lambda a: a.update(ids=np.array("x")),
        "ids-short": lambda a: a.update(ids=a["ids"][:1]),
        "ids-twice": lambda a: a.update(ids=np.repeat(a["ids"][:1], len(a["ids"]))),
        "nan": lambda a: a.update({n: v * np.nan for n, v in a.items() if n.startswith("adversarial")}),
        "flat": lambda a: a.update({n: v.ravel() for n, v in a.items() if n.startswith("clean")}),
        "fewer": lambda a: a.update({n: v[:, :2] for n, v in a.items() if n.startswith("adversarial")}),
        "words": lambda a: a.update({n: v.astype(str) for n, v in a.items() if n.startswith("clean")}),
        "labels-high": lambda a: a.update({n: v + 9 for n, v in a.items() if n.startswith("labels")}),
        "labels-float": lambda a: a.update({n: v + 0.5 for n, v in a.items() if n.startswith("labels")}),
        "empty": lambda a: a.clear(),
        "slash": lambda a: a.update({"labels/": np.zeros(4)}),
    }
    for name, change in changes.items():
        yield f"arrays/{name}", "either", _npz(file, change)
    yield "arrays/bomb", "refused", _bomb(file)


def _npz(file: str, change: Callable[[dict[str, Any]], object]) -> Spoil:
    def act(folder: Path, rng: Random) -> None:
        del rng
        with np.load(folder / file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        change(arrays)
        with (folder / file).open("wb") as stream:
            np.savez_compressed(stream, **arrays)

    return act


def _bomb(file: str) -> Spoil:
    """An array of 64 GB of zeros by its header, of which some MB are there."""

    def act(folder: Path, rng: Random) -> None:
        del rng
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "|u1", "fortran_order": False, "shape": (64 << 30,)}
        )
        with zipfile.ZipFile(folder / file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("ids.npy", header.getvalue() + bytes(50_000_000))

    return act


def npy_spoils(file: str) -> Iterator[tuple[str, Expect, Spoil]]:
    """Arrays that are whole and not those that were imported."""
    changes: dict[str, Callable[[Any], Any]] = {
        "objects": lambda _: np.array([{}], object),
        "floats": lambda x: x.astype(np.float32),
        "flat": lambda x: x.ravel(),
        "fewer": lambda x: x[:2],
        "more": lambda x: np.concatenate([x, x]),
        "turned": lambda x: x.transpose(0, 1, 3, 2)[:, :, 1:],
        "scalar": lambda _: np.array(3, np.uint8),
        "none": lambda x: x[:0],
    }
    for name, change in changes.items():
        yield f"arrays/{name}", "refused", _npy(file, change)


def _npy(file: str, change: Callable[[Any], Any]) -> Spoil:
    def act(folder: Path, rng: Random) -> None:
        del rng
        np.save(folder / file, change(np.load(folder / file)))

    return act


def tensors_spoils(file: str) -> Iterator[tuple[str, Expect, Spoil]]:
    """safetensors files that are no weights of this net."""
    import torch

    changes: dict[str, tuple[Expect, Callable[[dict[str, Any]], Any]]] = {
        "nan": (
            "refused",
            lambda t: {k: v * torch.nan if v.is_floating_point() else v for k, v in t.items()},
        ),
        "infinity": (
            "refused",
            lambda t: {k: v + torch.inf if v.is_floating_point() else v for k, v in t.items()},
        ),
        "integers": ("refused", lambda t: {k: v.int() for k, v in t.items()}),
        "truths": ("refused", lambda t: {k: v.bool() for k, v in t.items()}),
        "flat": ("refused", lambda t: {k: v.flatten() for k, v in t.items()}),
        "one-gone": ("refused", lambda t: dict(list(t.items())[1:])),
        "one-more": ("refused", lambda t: t | {"more": torch.zeros(2)}),
        "renamed": ("refused", lambda t: {f"module.{k}": v for k, v in t.items()}),
        "none": ("refused", lambda _: {}),
        "empty-ones": ("refused", lambda t: {k: v[:0] if v.dim() else v for k, v in t.items()}),
        "half": ("either", lambda t: {k: v.half() if v.is_floating_point() else v for k, v in t.items()}),
        "doubles": (
            "either",
            lambda t: {k: v.double() if v.is_floating_point() else v for k, v in t.items()},
        ),
        "huge": ("either", lambda t: {k: v * 1e30 if v.is_floating_point() else v for k, v in t.items()}),
        "zeros": ("either", lambda t: {k: v * 0 for k, v in t.items()}),
        "escape-name": ("refused", lambda t: t | {"\x1b[31m": torch.zeros(2)}),
    }
    for name, (expect, change) in changes.items():
        yield f"tensors/{name}", expect, _tensors(file, change)
    headers: dict[str, bytes] = {
        "header-huge": struct.pack("<Q", 1 << 60),
        "header-none": struct.pack("<Q", 0),
        "header-list": _header([]),
        "header-word": _header("zebra"),
        "header-beyond": _header({"x": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}),
        "header-minus": _header({"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}) + bytes(4),
        "header-type": _header({"x": {"dtype": "ZZ", "shape": [1], "data_offsets": [0, 4]}}) + bytes(4),
        "pickle": pickle.dumps({"x": 1}),
    }
    for name, content in headers.items():
        yield f"tensors/{name}", "refused", replaced(file, content)


def _header(value: Any) -> bytes:
    text = json.dumps(value).encode()
    return struct.pack("<Q", len(text)) + text


def _tensors(file: str, change: Callable[[dict[str, Any]], Any]) -> Spoil:
    def act(folder: Path, rng: Random) -> None:
        del rng
        from safetensors.torch import load_file, save_file

        changed = change(load_file(folder / file))
        save_file({name: tensor.contiguous() for name, tensor in changed.items()}, folder / file)

    return act


def image_spoils(file: str) -> Iterator[tuple[str, Expect, Spoil]]:
    """Image files that viewers show, or do not."""
    made: dict[str, Callable[[Path], object]] = {
        "one-pixel": lambda path: Image.new("L", (1, 1)).save(path, "PNG"),
        "sixteen-bit": lambda path: Image.fromarray(
            np.arange(784, dtype=np.uint16).reshape(28, 28) * 80
        ).save(path, "PNG"),
        "floats": lambda path: Image.new("F", (28, 28), 0.5).save(path, "TIFF"),
        "palette": lambda path: Image.new("P", (28, 28)).save(path, "PNG"),
        "one-bit": lambda path: Image.new("1", (28, 28)).save(path, "PNG"),
        "transparent": lambda path: Image.new("RGBA", (28, 28), (9, 9, 9, 0)).save(path, "PNG"),
        "cmyk": lambda path: Image.new("CMYK", (28, 28)).save(path, "JPEG"),
        "animation": lambda path: Image.new("L", (28, 28)).save(
            path, "GIF", save_all=True, append_images=[Image.new("L", (28, 28), 9)]
        ),
        "bitmap": lambda path: Image.new("L", (28, 28)).save(path, "BMP"),
        "text": lambda path: path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>"),
        "postscript": lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        "wide": lambda path: Image.new("1", (60_000, 1)).save(path, "PNG"),
        "bomb": lambda path: Image.new("1", (20_000, 20_000)).save(path, "PNG"),
    }
    for name, make in made.items():
        expect: Expect = "refused" if name in ("text", "bomb") else "either"
        yield f"image/{name}", expect, _image(file, make)


def _image(file: str, make: Callable[[Path], object]) -> Spoil:
    def act(folder: Path, rng: Random) -> None:
        del rng
        make(folder / file)

    return act
