"""Outcomes on disk that were cut, swapped or edited: one line that names the file."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import outcomes_of

from robustbench_med.evaluation.outcomes import Outcomes
from robustbench_med.util.errors import UserError

Arrays = dict[str, Any]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    outcomes_of(np.ones((2, 5), bool), np.zeros((2, 5), bool)).save(tmp_path / "outcomes.npz")
    return tmp_path / "outcomes.npz"


def edit(path: Path, change: Callable[[Arrays], object]) -> None:
    with np.load(path) as stored:
        arrays = dict(stored)
    change(arrays)
    np.savez(path, **arrays)


EDITS: dict[str, Callable[[Arrays], object]] = {
    "empty": lambda a: a.clear(),
    "labels gone": lambda a: a.pop("labels/head"),
    "scores gone": lambda a: a.pop("adversarial/head"),
    "another head": lambda a: a.update({"clean/other": a["clean/head"]}),
    "fewer ids": lambda a: a.update(ids=a["ids"][:2]),
    "fewer groups": lambda a: a.update(groups=a["groups"][:2]),
    "fewer labels": lambda a: a.update({"labels/head": a["labels/head"][:2]}),
    "labels in halves": lambda a: a.update({"labels/head": a["labels/head"] + 0.5}),
    "fewer scores": lambda a: a.update({"adversarial/head": a["adversarial/head"][:, :2]}),
    "flat scores": lambda a: a.update({"clean/head": a["clean/head"].ravel()}),
    "words": lambda a: a.update({"clean/head": a["clean/head"].astype(str)}),
    "passes": lambda a: a.update(passes=np.array(3)),
    "seconds": lambda a: a.update(seconds=np.ones(3)),
    "one id": lambda a: a.update(ids=np.array("x")),
}


@pytest.mark.parametrize("name", EDITS)
def test_parts_that_do_not_fit_each_other(name: str, path: Path) -> None:
    edit(path, EDITS[name])
    with pytest.raises(UserError, match=r"outcomes\.npz is damaged .*; delete its folder and run again"):
        Outcomes.load(path)


def test_what_is_no_archive(path: Path) -> None:
    with path.open("wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(UserError, match=r"outcomes\.npz is damaged"):
        Outcomes.load(path)


def test_an_archive_that_says_it_is_encrypted(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + flags] |= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"outcomes\.npz is damaged .*encrypted"):
        Outcomes.load(path)


def test_an_array_larger_than_memory(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive, archive.open("ids.npy", "w") as stream:
        header = {"descr": "|u1", "fortran_order": False, "shape": (1 << 50,)}
        np.lib.format.write_array_header_1_0(stream, header)
    with pytest.raises(UserError, match=r"outcomes\.npz is damaged"):
        Outcomes.load(path)


def test_no_plain_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "outcomes.npz")
    for path in (tmp_path / "outcomes.npz", tmp_path, tmp_path / "nowhere.npz"):
        with pytest.raises(UserError, match="is missing or no plain file"):
            Outcomes.load(path)
