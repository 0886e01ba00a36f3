"""Somebody's own data by its path: what is read, with the true values."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from given import RNG, class_folders, noise, picture, table

from robustbench_med.api.heads import MultiLabel
from robustbench_med.data.catalog import load_dataset, short_name, source_modules
from robustbench_med.util.errors import UserError

REFERENCE = Path(os.environ.get("ROBMED_REFERENCE_DATA", "../shared")) / "data"


def load(path: object, split: str = "test") -> Any:
    return load_dataset(str(path), split)


@pytest.mark.parametrize(
    ("names", "there"),
    [
        (("train", "val", "test"), ("train", "val", "test")),
        (("Training", "TESTING"), ("train", "test")),
        (("valid", "Test"), ("val", "test")),
        (("",), ("test",)),
    ],
)
def test_class_folders_with_and_without_splits(
    tmp_path: Path, names: tuple[str, ...], there: tuple[str, ...]
) -> None:
    pixels = class_folders(tmp_path / "scans", splits=names)
    (tmp_path / "scans" / ".DS_Store").touch()
    for split in ("train", "val", "test"):
        if split not in there:
            with pytest.raises(UserError, match=f"scans has no {split} split, only"):
                load(tmp_path / "scans", split)
            continue
        found = load(tmp_path / "scans", split)
        assert found.info.name == "scans"
        assert found.info.heads[0].answers == ("ill", "well")
        assert found.labels["label"].tolist() == [0, 0, 0, 1, 1, 1]
        for row, sample in enumerate(found.ids):
            written = pixels[sample] if sample in pixels else pixels[f"/{sample}"]
            np.testing.assert_array_equal(found.arrays["image"][found.rows["image"][row], 0], written)
        assert found.fingerprint == load(tmp_path / "scans", split).fingerprint


def test_a_packed_folder_and_class_order_and_colour(tmp_path: Path) -> None:
    outer = tmp_path / "download" / "set"
    for name in ("b", "a"):
        picture(outer / name / "colour.png", noise(4, 5, 3))
        picture(outer / name / "sub" / "grey.bmp", noise(4, 5))
    (tmp_path / "download" / "dataset.yaml").write_text(
        "name: mine\ntitle: My scans\nlicence: CC0\nheads: {kind: {classes: [b, a]}}\nmodalities: {mr: {}}\n"
    )
    found = load(tmp_path / "download")
    assert (found.info.name, found.info.title, found.info.licence) == ("mine", "My scans", "CC0")
    assert found.info.modality("mr").shape == (3, 4, 5)
    assert dict(zip(found.ids, found.labels["kind"].tolist(), strict=True)) == {
        "a/colour.png": 1,
        "a/sub/grey.bmp": 1,
        "b/colour.png": 0,
        "b/sub/grey.bmp": 0,
    }
    said = " ".join(found.info.caveats)
    assert "2 of 4 files are grey, repeated in three channels" in said
    assert "the folder set within it was taken" in said


def test_patients_are_the_folders_within_a_class_where_that_is_said(tmp_path: Path) -> None:
    for name, patient in (("a", "p1"), ("a", "p2"), ("b", "p3"), ("b", "p3x")):
        picture(tmp_path / name / patient / "1.png", noise())
    (tmp_path / "dataset.yaml").write_text("group: folder\n")
    assert load(tmp_path).groups == ("p1", "p2", "p3", "p3x")


def test_sixteen_bits_stay_sixteen_bits(tmp_path: Path) -> None:
    deep = RNG.integers(0, 65536, (6, 7)).astype(np.uint16)
    deep[0, 0] = 65535
    for name in ("a", "b"):
        picture(tmp_path / name / "deep.png", deep)
        picture(tmp_path / name / "flat.png", noise(6, 7))
    found = load(tmp_path)
    np.testing.assert_allclose(found.values("image", [0])[0, 0], deep / 65535, atol=1e-7)
    assert "16 bits" in " ".join(found.info.caveats)
    twelve = (deep // 16).astype(np.uint16)
    for name in ("a", "b"):
        picture(tmp_path / name / "flat.png", twelve)
    with pytest.raises(UserError, match="differ in full scale"):
        load(tmp_path)
    (tmp_path / "dataset.yaml").write_text("range: [0, 65535]\n")
    np.testing.assert_allclose(load(tmp_path).values("image", [1])[0, 0], twelve / 65535, atol=1e-5)


def test_images_of_several_sizes_are_resized_only_when_that_is_said(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / name / "1.png", np.full((8, 8), 50, np.uint8))
        picture(tmp_path / name / "2.png", np.full((12, 30), 200, np.uint8))
    with pytest.raises(UserError, match=r"2 sizes: 8 x 8 \(2 files\), 12 x 30 \(2 files\); .* size: 64"):
        load(tmp_path)
    (tmp_path / "dataset.yaml").write_text("size: [4, 6]\n")
    found = load(tmp_path)
    assert found.info.modality("image").shape == (1, 4, 6)
    assert np.unique(found.arrays["image"]).tolist() == [50, 200]


def csv_set(root: Path, yaml: str = "") -> Path:
    rows = []
    for number, split in enumerate(["train"] * 4 + ["test"] * 2):
        for kind in ("mr", "ct"):
            picture(root / kind / f"{number}.png", np.full((5, 5), 10 * number + (kind == "ct"), np.uint8))
        age, sex = ("", "m") if number == 4 else (str(40 + 10 * number), "f" if number % 2 else "m")
        rows.append(
            f"mr/{number}.png,ct\\{number}.png,{('well', 'ill')[number % 2]},p{number // 2},{split},{age},"
            f"{sex},{number % 2},{'' if number == 5 else 1 - number % 2}"
        )
    path = table(root / "list.csv", "mr_path,ct_path,diagnosis,patient_id,split,age,sex,edema,mass", *rows)
    if yaml:
        (root / "dataset.yaml").write_text(yaml)
    return path


def test_a_csv_is_read_as_far_as_its_columns_say(tmp_path: Path) -> None:
    found = load(csv_set(tmp_path))
    assert [m.name for m in found.info.modalities] == ["mr", "ct"]
    assert found.info.heads[0].answers == ("ill", "well")
    assert found.labels["diagnosis"].tolist() == [1, 0]
    assert found.groups == ("p2", "p2")
    assert found.ids == ("mr/4.png", "mr/5.png")
    np.testing.assert_array_equal(found.arrays["ct"][:, 0, 0, 0], [41, 51])
    said = " ".join(found.info.caveats)
    for line in (
        "'mr_path' holds the files of the modality 'mr'",
        "'split' says the split",
        "columns not used: age",
    ):
        assert line in said


def test_a_csv_with_a_table_and_findings_as_its_dataset_yaml_says(tmp_path: Path) -> None:
    csv_set(
        tmp_path,
        "modalities:\n  mr: mr_path\n  record: {kind: table, columns: [age], categories: [sex]}\n"
        "heads:\n  kind: {column: diagnosis, classes: [well, ill], modalities: [mr]}\n"
        "  findings: [edema, mass]\n"
        "subgroups: [sex]\n",
    )
    found = load(tmp_path)
    record = found.info.modality("record")
    assert record.features == ("age", "age missing", "sex=f", "sex=m")
    # The mean of the training split (40, 50, 60, 70) fills in, and its range and scale hold.
    np.testing.assert_allclose(found.arrays["record"], [[55, 1, 0, 1], [90, 0, 1, 0]])
    assert record.mutable is not None
    assert record.scale is not None
    assert record.mutable.tolist() == [True, False, False, False]
    assert (record.low[0], record.high[0]) == (40, 70)
    assert record.scale[0] == pytest.approx(np.std([40, 50, 60, 70]))
    assert found.labels["kind"].tolist() == [0, 1]
    assert found.info.head("kind").modalities == ("mr",)
    assert isinstance(found.info.head("findings"), MultiLabel)
    assert found.labels["findings"].tolist() == [[0, 1], [1, -1]]
    assert found.subgroups == {"sex": ("m", "f")}
    assert "columns not used: ct_path (" in " ".join(found.info.caveats)


@pytest.mark.parametrize(
    ("kind", "labels"), [("classes", [1, 0, 2]), ("findings", [[0, 1, 0], [1, 0, 0], [0, 0, 1]])]
)
def test_columns_with_one_1_are_what_is_said(tmp_path: Path, kind: str, labels: Any) -> None:
    table(tmp_path / "t.csv", "age,label_a,b,c", "50,0,1,0", "60,1,0,0", "70,0,0,1")
    (tmp_path / "dataset.yaml").write_text(
        "modalities: {lab: {columns: [age]}}\n"
        f"heads: {{dx: {{columns: [label_a, b, c], kind: {kind}}}}}\n"
    )
    found = load(tmp_path)
    assert found.labels["dx"].tolist() == labels
    assert found.ids == ("row 1", "row 2", "row 3")
    assert "no training split at hand" in " ".join(found.info.caveats)


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_csv_of_another_country(tmp_path: Path, delimiter: str) -> None:
    path = csv_set(tmp_path)
    whole = load(path).fingerprint
    path.write_text("\ufeff" + path.read_text().replace(",", delimiter))
    assert load(path).fingerprint == whole


ARRAYS = {split: noise(6, 5, 5) for split in ("train", "val", "test")}
LABELS = np.array([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    ("x", "y"),
    [("{}_images", "{}_labels"), ("x_{}", "y_{}"), ("X{}", "y{}"), ("{}X", "{}Y"), ("{}-data", "target.{}")],
)
@pytest.mark.parametrize("loose", [False, True])
def test_arrays_by_what_people_call_them(tmp_path: Path, x: str, y: str, loose: bool) -> None:
    named = {x.format(s): a for s, a in ARRAYS.items()} | {y.format(s): LABELS[:, None] for s in ARRAYS}
    if loose:
        for name, array in named.items():
            np.save(tmp_path / f"{name}.npy", array)
    else:
        np.savez(tmp_path / "set.npz", **named)
    path = tmp_path if loose else tmp_path / "set.npz"
    for split, array in ARRAYS.items():
        found = load(path, split)
        np.testing.assert_array_equal(found.arrays["image"][:, 0], array)
        assert found.labels["label"].tolist() == LABELS.tolist()


def test_heads_are_those_of_all_splits_and_ids_of_the_values(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "set.npz",
        x_train=ARRAYS["train"],
        y_train=LABELS,
        x_test=ARRAYS["test"],
        y_test=LABELS % 2,
        test_patient_id=np.array([1, 1, 2, 2, 3, 3]),
    )
    found = load(tmp_path / "set.npz")
    assert found.info.heads[0].answers == ("0", "1", "2")
    assert found.groups == ("1", "1", "2", "2", "3", "3")
    with pytest.raises(UserError, match="set has no val split, only train, test"):
        load(tmp_path / "set.npz", "val")


def test_medmnists_layouts(tmp_path: Path) -> None:
    volumes = noise(4, 7, 7, 7)
    findings = RNG.integers(0, 2, (30, 14)).astype(np.uint8)
    np.savez(tmp_path / "v.npz", test_images=volumes, test_labels=np.array([[0], [1], [1], [0]], np.uint8))
    np.savez(tmp_path / "c.npz", test_images=noise(30, 6, 6), test_labels=findings)
    np.savez(tmp_path / "p.npz", test_images=noise(4, 6, 6, 3), test_labels=np.array([[0], [1], [1], [0]]))
    found = load(tmp_path / "v.npz")
    assert found.info.modality("image").kind == "volume"
    np.testing.assert_array_equal(found.arrays["image"][:, 0], volumes)
    assert load(tmp_path / "p.npz").info.modality("image").shape == (3, 6, 6)
    found = load(tmp_path / "c.npz")
    assert isinstance(found.info.heads[0], MultiLabel)
    assert len(found.info.heads[0].findings) == 14
    np.testing.assert_array_equal(found.labels["label"], findings)


def test_several_modalities_and_heads_in_an_npz(tmp_path: Path) -> None:
    mr, lab = RNG.uniform(-1, 1, (5, 1, 4, 4)).astype(np.float32), RNG.normal(size=(5, 3))
    np.savez(tmp_path / "s.npz", x_mr=mr, x_lab=lab, y_grade=LABELS[:5], y_side=LABELS[:5] % 2, note=LABELS)
    with pytest.raises(UserError, match=r"range: \[LOW, HIGH\]"):
        load(tmp_path / "s.npz")
    (tmp_path / "dataset.yaml").write_text(
        "file: s.npz\nmodalities: {mr: {column: x_mr, range: [-1, 1]}, lab: x_lab}\n"
    )
    found = load(tmp_path / "dataset.yaml")
    np.testing.assert_allclose(found.values("mr", slice(None)), mr)
    assert [h.name for h in found.info.heads] == ["grade", "side"]
    assert found.info.modality("lab").kind == "table"
    assert "arrays not used: note" in " ".join(found.info.caveats)


def test_two_sets_joined_by_index(tmp_path: Path) -> None:
    class_folders(tmp_path / "one", each=4)
    np.savez(
        tmp_path / "two.npz", x_test=noise(6, 5, 5), y_test=LABELS, x_train=noise(3, 5, 5), y_train=[0, 1, 2]
    )
    name = f"{tmp_path / 'one'} + {tmp_path / 'two.npz'}"
    found = load(name)
    assert found.info.pairing == "unpaired"
    assert len(found) == 6
    assert [m.name for m in found.info.modalities] == ["one-image", "two-image"]
    assert [h.modalities for h in found.info.heads] == [("one-image",), ("two-image",)]
    assert sorted(found.labels["two-label"].tolist()) == [0, 0, 1, 1, 2, 2]
    assert sorted(found.labels["one-label"].tolist()) == [0, 0, 0, 1, 1, 1]
    assert "2 of 8 one samples are left out" in " ".join(found.info.caveats)
    assert found.fingerprint == load(name).fingerprint
    assert len(load(name, "train")) == 8
    assert short_name(name) == "one+two"
    assert source_modules(f"phantom + {tmp_path / 'one'}") == ("robustbench_med.data.phantom",)


def test_names_win_over_folders_of_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    class_folders(tmp_path / "phantom")
    assert load("phantom").info.name == "phantom"
    assert load("./phantom").info.heads[0].answers == ("ill", "well")


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="needs the reference data folder")
def test_real_sets_are_read_without_an_importer() -> None:
    found = load(REFERENCE / "medmnist" / "pneumoniamnist.npz")
    assert (len(found), found.info.modality("image").shape) == (624, (1, 28, 28))
    assert np.bincount(found.labels["label"]).tolist() == [234, 390]
    found = load(REFERENCE / "brain_tumor_mri")
    assert found.info.heads[0].answers == ("glioma", "meningioma", "notumor", "pituitary")
    assert np.bincount(found.labels["label"]).tolist() == [300, 306, 405, 300]
