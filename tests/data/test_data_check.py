"""``robmed data check`` and ``robmed data add``: every kind of finding, from data made to have it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import Robmed
from given import RNG, class_folders, noise, picture, table

from robustbench_med.data.added import added_names
from robustbench_med.data.catalog import add_dataset, load_dataset, source
from robustbench_med.data.check import DataCheck, check
from robustbench_med.util.errors import UserError

SMOOTH = np.kron(RNG.integers(40, 216, (6, 6)), np.ones((6, 6))).astype(np.uint8)


def found_in(path: object) -> DataCheck:
    return check("it", source(str(path)))


def said(found: DataCheck, grave: bool) -> str:
    return "\n".join(each.said for each in found.findings if each.grave == grave)


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    class_folders(tmp_path / "set", each=12)
    return tmp_path / "set"


def test_clean_data_has_notes_only(clean: Path) -> None:
    found = found_in(clean)
    assert not found.meaningless
    assert found.splits == {"train": 24, "test": 24}
    assert found.counts == {"label": {"ill": {"train": 12, "test": 12}, "well": {"train": 12, "test": 12}}}
    assert found.values[0].sizes == {"1 x 8 x 9": 48}
    assert said(found, grave=False).startswith("no patients are known")
    assert len(found.examples["ill", "image"]) == 3


def test_copies_across_splits_are_grave_and_near_copies_are_told(clean: Path) -> None:
    exact = picture(clean / "train" / "ill" / "a.png", noise())
    picture(clean / "test" / "well" / "b.png", exact)
    picture(clean / "train" / "ill" / "near.png", SMOOTH)
    picture(clean / "test" / "ill" / "near.png", (SMOOTH + RNG.integers(0, 3, SMOOTH.shape)).astype(np.uint8))
    (clean / "dataset.yaml").write_text("size: 8\n")
    found = found_in(clean)
    assert "1 images are in several splits, pixel for pixel (1 test samples)" in said(found, grave=True)
    assert "1 images have copies with other labels" in said(found, grave=False)
    assert "1 of 26 test samples nearly equal" in said(found, grave=False)
    assert "test/ill/near.png ~ train/ill/near.png" in said(found, grave=False)


def test_copies_within_a_split_are_no_reason_to_stop(clean: Path) -> None:
    picture(clean / "test" / "ill" / "b.png", picture(clean / "test" / "ill" / "a.png", noise()))
    found = found_in(clean)
    assert not found.meaningless
    assert "1 samples copy another one of their split" in said(found, grave=False)


def test_broken_empty_and_odd_images(clean: Path) -> None:
    picture(clean / "test" / "ill" / "black.png", np.zeros((8, 9), np.uint8))
    found = found_in(clean)
    assert not found.meaningless
    assert "1 samples are constant, 1 of them all zero: test/ill/black.png" in said(found, grave=False)
    (clean / "test" / "ill" / "broken.png").write_bytes(b"no image")
    picture(clean / "test" / "well" / "wide.png", noise(8, 20))
    grave = said(found_in(clean), grave=True)
    assert "1 of 51 files cannot be read (is not a readable image): test/ill/broken.png" in grave
    assert "2 different sizes" in grave


@pytest.mark.parametrize(
    ("rows", "grave"),
    [
        (
            ["0.png,a,p1,train", "1.png,b,p2,test", "2.png,a,p1,test"],
            "1 patients (or lesions) are in several",
        ),
        (["0.png,a,p1,train", "1.png,b,p2,train", "2.png,a,p3,test"], "all test samples have one answer"),
        (["0.png,a,p1,train", "1.png,b,p2,test", ",a,p3,test"], "1 of 3 samples have no file"),
        (["0.png,a,p1,train", "1.png,b,p2,test", "9.png,a,p3,test"], "1 of 3 files are not there"),
        (["0.png,a,p1,train", "1.png,A,p2,test", "2.png,a,p3,test"], "'a' and 'A' differ only in case"),
        (["0.png,a,p1,train", "1.png,b,p2,train", "2.png,a,p3,val"], "there is no test split"),
    ],
)
def test_what_makes_a_number_meaningless(tmp_path: Path, rows: list[str], grave: str) -> None:
    for number in range(3):
        picture(tmp_path / f"{number}.png", noise())
    found = found_in(table(tmp_path / "list.csv", "path,label,patient,split", *rows))
    assert grave in said(found, grave=True).replace("'A' and 'a'", "'a' and 'A'")
    assert found.meaningless


def test_arrays_are_checked_too(tmp_path: Path) -> None:
    x = noise(12, 5, 5)
    np.savez(tmp_path / "s.npz", x_train=x, y_train=np.arange(12) % 2, x_test=x[:5], y_test=[0, 1, 0, -1, 0])
    found = found_in(tmp_path / "s.npz")
    assert "5 images are in several splits, pixel for pixel (5 test samples)" in said(found, grave=True)
    assert "1 of 17 labels are missing" in said(found, grave=False)
    np.savez(tmp_path / "c.npz", x_test=np.full((4, 5, 5), 7, np.uint8), y_test=[0, 1, 0, 1])
    assert "every sample is constant" in said(found_in(tmp_path / "c.npz"), grave=True)


def test_the_command_prints_a_verdict_and_draws(
    clean: Path, tmp_path: Path, robmed: Robmed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert robmed("data", "check", clean)[0] == 0
    assert (tmp_path / "data-check" / "set.png").exists()
    picture(clean / "test" / "ill" / "copy.png", picture(clean / "train" / "ill" / "copy.png", noise()))
    assert robmed("data", "check", clean, "--picture", tmp_path / "p.png")[0] == 1
    assert (tmp_path / "p.png").exists()
    code, lines = robmed("data", "check", tmp_path / "nowhere.csv")
    assert (code, len(lines)) == (2, 1)


@pytest.mark.slow
def test_data_by_its_name_is_checked_too() -> None:
    found = found_in("phantom-record")
    assert not found.meaningless
    assert found.splits == {"train": 4000, "val": 500, "test": 500}
    assert {each.modality for each in found.values} == {"mr", "ct", "pet"}


def test_a_copy_is_kept_under_a_name(
    clean: Path, tmp_path: Path, robmed: Robmed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBMED_HOME", str(tmp_path / "home"))
    np.savez(tmp_path / "t.npz", x_test=RNG.normal(size=(30, 3)), y_test=np.arange(30) % 2)
    before = load_dataset(str(clean))
    assert robmed("data", "add", "mine", clean)[0] == 0
    assert robmed("data", "add", "both", clean, "--with", tmp_path / "t.npz")[0] == 0
    assert added_names() == ["both", "mine"]
    found = load_dataset("mine")
    assert (found.fingerprint, found.info.name) == (before.fingerprint, "mine")
    both = load_dataset("both")
    assert both.fingerprint == load_dataset(f"{clean} + {tmp_path / 't.npz'}").fingerprint
    assert both.info.modality("table").features == ()
    manifest = (tmp_path / "home" / "datasets" / "both" / "test-manifest.csv").read_text()
    assert manifest.startswith("split,id,file_image,file_table,label_")
    with pytest.raises(UserError, match="has no val split, only train, test"):
        load_dataset("mine", "val")
    for taken in ("phantom", "a/b", ""):
        with pytest.raises(UserError, match=r"choose another name|is no name"):
            add_dataset(taken, str(clean))
    array = tmp_path / "home" / "datasets" / "mine" / "test-image.npy"
    array.write_bytes(array.read_bytes()[:-1] + b"\1")
    with pytest.raises(UserError, match="not what was added, by its fingerprint"):
        load_dataset("mine")
    with pytest.raises(UserError, match="did you mean 'mine'"):
        load_dataset("minee")


def test_a_run_on_a_path(
    clean: Path, tmp_path: Path, robmed: Robmed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    class_folders(tmp_path / "set", each=4, splits=("val",))
    recipe = "dataset: phantom\nmodel: early\nepochs: 1\nmodel_options: {width: 0.0625}\n"
    (tmp_path / "recipe.yaml").write_text(recipe)
    (clean / "dataset.yaml").write_text("size: 32\n")
    assert robmed("train", "recipe.yaml", "--data", "set")[0] == 0
    assert list((tmp_path / "weights" / "set").glob("*.safetensors"))
    code, lines = robmed("run", "--model", "mail", "--data", "set", "--with", "phantom", "--attack", "fgsm")
    assert (code, "set+phantom has 24 test samples" in lines[0]) == (2, True)
    code, lines = robmed("run", "--model", "early", "--with", "set", "--attack", "fgsm")
    assert (code, "give that, too" in lines[0]) == (2, True)
    code, lines = robmed("run", "--model", "early", "--data", "set", "--attack", "fgsm", "--samples", 24)
    assert (code, lines) == (0, [])
    assert [each.name.rpartition("-")[0] for each in (tmp_path / "runs").glob("*/")] == [
        "early-x0.0625-fgsm-set"
    ]
