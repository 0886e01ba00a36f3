"""NumPy's files and people's paths that cannot be trusted."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Robmed

from robustbench_med.util.arrays import read_npy, read_npz
from robustbench_med.util.config import find
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import given_path


def member(path: Path, content: bytes, name: str = "a.npy") -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)


def header(text: str) -> bytes:
    return b"\x93NUMPY\x01\0" + (len(text) + 1).to_bytes(2, "little") + text.encode() + b"\n"


def says_more(path: Path) -> None:
    shape = "{'descr': '<f8', 'fortran_order': False, 'shape': (999999999999,), }"
    member(path, header(shape) + bytes(64))


def objects(path: Path) -> None:
    np.savez(path, allow_pickle=True, a=np.array([{"not": "numbers"}], dtype=object))


def no_array(path: Path) -> None:
    member(path, b"hello")


def odd_header(path: Path) -> None:
    member(path, header("(" * 500))


def half(path: Path) -> None:
    np.savez(path, a=np.arange(1000))
    path.write_bytes(path.read_bytes()[:-200])


def no_archive(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04 and nothing else")


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGE = [says_more, objects, no_array, odd_header, half, no_archive, empty]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_archives_that_are_none(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    damage(tmp_path / "x.npz")
    with pytest.raises(ValueError, match="it is damaged") as error:
        read_npz(tmp_path / "x.npz")
    assert "\n" not in str(error.value)


def test_archives_that_unpack_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustbench_med.util.arrays.MOST_BYTES", 1000)
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros(1000, np.uint8))
    with pytest.raises(ValueError, match="bytes out of"):
        read_npz(tmp_path / "x.npz")


def test_whole_arrays_come_back(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "a/b": np.arange(6.0).reshape(2, 3),
        "ids": np.array(["x", "é"]),
        "n": np.array(3),
    }
    np.savez_compressed(tmp_path / "x.npz", allow_pickle=False, **arrays)
    found = read_npz(tmp_path / "x.npz")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    np.save(tmp_path / "x.npy", np.asfortranarray(arrays["a/b"]))
    np.testing.assert_array_equal(read_npy(tmp_path / "x.npy"), arrays["a/b"])


def test_home_is_put_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert given_path("~/x") == tmp_path / "x"
    (tmp_path / "x.yaml").write_text("{}")
    assert find("model", "models", "~/x.yaml") == tmp_path / "x.yaml"


@pytest.mark.parametrize("path", ["~nobody-lives-here/x.yaml", "x" * 5000 + ".yaml", "a\0.yaml"])
def test_paths_that_cannot_be(path: str) -> None:
    for read in (given_path, lambda name: find("model", "models", name)):
        with pytest.raises(UserError) as error:
            read(path)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 300


@pytest.mark.parametrize("path", ["~nobody-lives-here", "x" * 5000])
def test_an_import_from_nowhere_is_one_line(robmed: Robmed, path: str) -> None:
    code, lines = robmed("data", "import", "mri-ct", "--from", path)
    assert (code, len(lines)) == (2, 1)
    code, lines = robmed("data", "import", "mri-ct", "--from", ".", "--option", f"mri={path}")
    assert (code, len(lines)) == (2, 1)


NOBODY = """
import os, pwd, sys
os.environ.pop("HOME", None), os.environ.pop("ROBMED_HOME", None)
pwd.getpwuid = lambda uid: (_ for _ in ()).throw(KeyError(uid))
from robustbench_med.cli import main
sys.exit(main(sys.argv[1:]))
"""


def without_a_home(*arguments: str) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-c", NOBODY, *arguments]
    return subprocess.run(call, capture_output=True, text=True, check=False)


def test_who_has_no_home_misses_only_what_is_kept_there(tmp_path: Path) -> None:
    """Lists, and data by its path, need none."""
    listed = without_a_home("list", "datasets")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "phantom" in listed.stdout
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", test_images=images, test_labels=np.arange(12) % 2)
    checked = without_a_home("data", "check", str(tmp_path / "x.npz"), "--picture", str(tmp_path / "x.png"))
    assert checked.returncode == 0, checked.stderr  # where matplotlib says that it has no home either
    assert (tmp_path / "x.png").is_file()


def test_a_user_without_a_home() -> None:
    done = without_a_home("run", "--model", "concat", "--attack", "fgsm", "--dataset", "mri-ct")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "set ROBMED_HOME to a folder" in done.stderr
