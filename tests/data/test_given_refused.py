"""Somebody's own data that has no meaning, or more than one: one line each that says how to mend it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from given import class_folders, noise, picture, table

from robustbench_med.data.catalog import load_dataset
from robustbench_med.util.errors import UserError

Build = Callable[[Path], object]


def folders(root: Path, **yaml: str) -> Path:
    class_folders(root)
    if yaml:
        (root / "dataset.yaml").write_text("".join(f"{k}: {v}\n" for k, v in yaml.items()))
    return root


def sheet(root: Path, *rows: str, header: str = "path,label", yaml: str = "") -> Path:
    for number in range(3):
        picture(root / f"{number}.png", noise())
    if yaml:
        (root / "dataset.yaml").write_text(yaml)
    return table(root / "list.csv", header, *(rows or ("0.png,a", "1.png,b", "2.png,a")))


def npz(root: Path, **arrays: object) -> Path:
    np.savez(root / "set.npz", **arrays)  # type: ignore[arg-type]
    return root / "set.npz"


def broken(root: Path) -> Path:
    class_folders(root)
    (root / "test" / "ill" / "0.png").write_bytes(b"no image")
    return root


def one_class(root: Path) -> Path:
    picture(root / "test" / "ill" / "0.png", noise())
    return root


def mixed(root: Path) -> Path:
    class_folders(root)
    picture(root / "glioma" / "0.png", noise())
    return root


def two_tests(root: Path) -> Path:
    class_folders(root, splits=("test", "Testing"))
    return root


def cases_apart(root: Path) -> Path:
    class_folders(root, splits=("test",))
    picture(root / "test" / "Ill" / "0.png", noise())
    return root


def twice_in(root: Path) -> Path:
    return sheet(root, "0.png,a", "0.png,b")


def two_tables(root: Path) -> Path:
    sheet(root)
    table(root / "other.csv", "path,label", "0.png,a")
    return root


def pickled(root: Path) -> Path:
    np.savez(root / "set.npz", x_test=np.array([{}, []], object), y_test=[0, 1])
    return root / "set.npz"


def cut_off(root: Path) -> Path:
    path = npz(root, x_test=noise(4, 5, 5), y_test=[0, 1, 0, 1])
    path.write_bytes(path.read_bytes()[:-200])
    return path


X, Y = noise(4, 5, 5), [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda p: p / "nowhere.csv", "there is no file or folder"),
        (lambda p: p, "holds no class folders with images"),
        (lambda p: (p / "x.csv").write_text("") or p / "x.csv", "has no rows below a header"),
        (lambda p: (p / "x.txt").write_text("x") and p / "x.txt", "is of no kind that is read"),
        (broken, "0.png is not a readable image (1 of 12 files of image"),
        (one_class, "of one class only, 'ill'"),
        (mixed, "classes or splits?"),
        (two_tests, "two folders of the test split"),
        (cases_apart, "'Ill' and 'ill', which differ only in case"),
        (lambda p: folders(p, colour="3"), "unknown option 'colour'"),
        (lambda p: folders(p, size="0"), "size is 0; give a side"),
        (lambda p: folders(p, size="[4, 4, 4]"), "its files have 2 sides"),
        (lambda p: folders(p, window="{center: 40, width: -1}"), "width is -1; it must be above 0"),
        (lambda p: folders(p, window="{middle: 40}"), "window.center: Field required"),
        (lambda p: folders(p, range="[4, 1]"), "it must go from a lower to a higher"),
        (lambda p: folders(p, file="missing.csv"), "there is no 'missing.csv' beside it"),
        (lambda p: folders(p, group="folder"), "lies in no patient's folder"),
        (lambda p: folders(p, heads="{label: {classes: [ill, dead]}}"), "no folder of the class 'dead'"),
        (lambda p: sheet(p, header="path,grade"), "no column is called label"),
        (lambda p: sheet(p, "0,a", "1,b"), "no column holds image files"),
        (lambda p: sheet(p, "0.png,a", "1.png"), "line 3 has 1 cells, the header 2"),
        (lambda p: sheet(p, header="path,path"), "the header has 'path' twice"),
        (lambda p: sheet(p, "0.png,a", "9.png,b"), "9.png is not a readable image"),
        (lambda p: sheet(p, ",a", "1.png,b"), "1 of 2 samples have no file of image"),
        (lambda p: sheet(p, "0.png,0.5", "1.png,0.25"), "number the classes"),
        (lambda p: sheet(p, yaml="modalities: {mr: pth}\n"), "did you mean 'path'?"),
        (
            lambda p: sheet(p, "0.png,a,x", header="path,label,part", yaml="split: part\n"),
            "is no split; write train, val or test",
        ),
        (
            lambda p: sheet(p, "0.png,a,1", "1.png,b,1", header="path,label,nr", yaml="id: nr\n"),
            "empty or given twice",
        ),
        (lambda p: sheet(p, yaml="heads: {label: {classes: [a, c]}}\n"), "unknown class of label 'b'"),
        (lambda p: sheet(p, yaml="heads: {f: [label]}\n"), "must be 0, 1, -1 or empty"),
        (
            lambda p: sheet(
                p,
                "0.png,a,f",
                "1.png,b,m",
                header="path,label,sex",
                yaml="modalities: {image: path, t: {kind: table, columns: [sex]}}\n",
            ),
            "holds 'f', which is no number; add it to categories:",
        ),
        (
            lambda p: sheet(p, "0.png,1,0", "1.png,0,1", header="path,a,b", yaml="heads: {dx: [a, b]}\n"),
            "write kind: classes",
        ),
        (
            lambda p: sheet(
                p, "0.png,1,1", header="path,a,b", yaml="heads: {dx: {columns: [a, b], kind: classes}}\n"
            ),
            "exactly one 1 and else 0",
        ),
        (lambda p: sheet(p, yaml="window: {center: 40, width: 400}\n"), "on which there is no window"),
        (two_tables, "holds several things (list.csv, other.csv)"),
        (pickled, "objects are never read"),
        (cut_off, "does not hold plain arrays"),
        (lambda p: npz(p, x_test=X), "no array is called like labels (there are x_test)"),
        (lambda p: npz(p, x_test=X, y_test=Y, labels_test=Y), "may both be the label"),
        (lambda p: npz(p, x_test=X, test_x=X, y_test=Y), "are one thing by name"),
        (lambda p: npz(p, x_test=X, y_test=Y[:3]), "input image 4, labels label 3"),
        (lambda p: npz(p, x_test=X, y_train=Y), "has no test split, only none"),
        (lambda p: npz(p, x_test=X.astype(float), y_test=Y), "kind: …"),
        (lambda p: f"{folders(p)} + {p}", "both data sets are called"),
        (lambda p: f"{folders(p)} + phantm", "did you mean 'phantom'?"),
    ],
)
def test_one_line_says_how_to_mend_it(tmp_path: Path, build: Build, said: str) -> None:
    with pytest.raises(UserError) as refused:
        load_dataset(str(build(tmp_path)))
    line = str(refused.value)
    assert said in line
    assert "\n" not in line


def test_a_file_used_twice_is_two_samples_with_one_image(tmp_path: Path) -> None:
    """Which ``robmed data check`` complains of; ids then are the rows' numbers."""
    found = load_dataset(str(twice_in(tmp_path)))
    assert found.ids == ("row 1", "row 2")
