"""Importers: tiny folders in the publishers' layouts, then (slow) the publishers' data itself."""

from __future__ import annotations

import csv
import errno
import hashlib
import itertools
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from robustbench_med.api.data import SPLITS, DataSource, Split
from robustbench_med.data import manifest, splits, store
from robustbench_med.data.milk10k import PUBLISHED_COUNTS, Milk10k
from robustbench_med.data.mri_ct import CT_COUNTS, MRI_COUNTS, MriCt, pair
from robustbench_med.data.tables import age_band
from robustbench_med.util.errors import UserError

pytestmark = pytest.mark.usefixtures("home")
REFERENCE = (
    Path(os.environ.get("ROBMED_REFERENCE_DATA", Path(__file__).resolve().parents[3] / "shared")) / "data"
)
needs_reference = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason=f"no publishers' data in {REFERENCE} (set ROBMED_REFERENCE_DATA)"
)
PUBLISHED = {name: manifest.published_manifest(name) or "" for name in ("milk10k", "mri-ct")}


def write_image(path: Path, seed: int, size: tuple[int, int] = (40, 32), grey: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0]) if grey else (size[1], size[0], 3)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8)).save(path)


def write_table(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@dataclass
class FakeMilk:
    """A folder in MILK10k's layout whose tables a test may change before saving them."""

    folder: Path
    labels: list[dict[str, str]]
    metadata: list[dict[str, str]]

    def save(self) -> Path:
        write_table(self.folder / "MILK10k_Training_GroundTruth.csv", self.labels)
        write_table(self.folder / "MILK10k_Training_Metadata.csv", self.metadata)
        return self.folder

    def image(self, position: int) -> Path:
        row = self.metadata[position]
        return self.folder / "MILK10k_Training_Input" / row["lesion_id"] / f"{row['isic_id']}.jpg"


def milk_lesion(number: int, label: str) -> tuple[dict[str, str], list[dict[str, str]]]:
    lesion = f"IL_{number:04d}"
    common = {"age_approx": "45.0", "sex": "female", "skin_tone_class": "3", "site": "trunk"}
    # The dermoscopic image comes first in every other lesion, in the table and by file name.
    types = ("clinical: close-up", "dermoscopic")[:: 1 if number % 2 else -1]
    images = [
        {"lesion_id": lesion, "image_type": kind, "isic_id": f"ISIC_{2 * number + i:04d}", **common}
        for i, kind in enumerate(types)
    ]
    return {"lesion_id": lesion, **{c: str(float(c == label)) for c in PUBLISHED_COUNTS}}, images


def build_milk(folder: Path, per_class: int = 10, classes: tuple[str, ...] = ("MEL", "NV", "DF")) -> FakeMilk:
    fake = FakeMilk(folder, [], [])
    for number, (label, _) in enumerate(itertools.product(classes, range(per_class))):
        row, images = milk_lesion(number, label)
        fake.labels.append(row)
        fake.metadata += images
    for position, image in enumerate(fake.metadata):
        write_image(fake.image(position), seed=position)
        if image["image_type"] == "dermoscopic":
            Image.new("RGB", (40, 32), (0, 0, position)).save(fake.image(position), quality=100)
    return fake


@pytest.fixture
def milk(tmp_path: Path) -> FakeMilk:
    return build_milk(tmp_path / "milk")


@pytest.fixture
def slices(tmp_path: Path) -> Path:
    """Both folders of mri-ct: 80 training, 40 test MRI and 60 CT slices, some CT not square."""
    seeds = itertools.count()
    for part, count in (("Training", 20), ("Testing", 10)):
        for label in ("glioma", "meningioma", "notumor", "pituitary"):
            for number in range(count):
                path = (
                    tmp_path / "brain_tumor_mri" / part / label / f"{part[:2]}-{label[:2]}_{number:04d}.png"
                )
                write_image(path, next(seeds), (32, 32), grey=True)
    for label in ("Bengin", "Malignant", "Normal"):
        for number in range(20):
            path = ct_folder(tmp_path) / f"{label} cases" / f"{label} case ({number + 1}).png"
            write_image(path, next(seeds), (50 if number % 2 else 32, 32), grey=True)
    return tmp_path


def ct_folder(source: Path) -> Path:
    return source / "iqothnccd_lung_ct" / "The IQ-OTHNCCD lung cancer dataset"


def load_all(source: DataSource) -> dict[str, Split]:
    return {split: source.load(split) for split in SPLITS}


def stored_hashes(split: Split, modality: str) -> set[bytes]:
    return {hashlib.sha256(image.tobytes()).digest() for image in split.arrays[modality]}


def shared_images(loaded: dict[str, Split], modality: str) -> int:
    """How many images (by stored pixels) are in more than one split."""
    pairs = itertools.combinations(loaded.values(), 2)
    return sum(len(stored_hashes(a, modality) & stored_hashes(b, modality)) for a, b in pairs)


def near_copies(test: Split, train: Split, modality: str) -> int:
    """How many test images correlate above 0.99 with a training image."""

    def standard(split: Split) -> NDArray[np.float32]:
        flat = split.arrays[modality].reshape(len(split.arrays[modality]), -1).astype(np.float32)
        flat -= flat.mean(axis=1, keepdims=True)
        scaled: NDArray[np.float32] = flat / np.linalg.norm(flat, axis=1, keepdims=True)
        return scaled

    return int(((standard(test) @ standard(train).T).max(axis=1) > 0.99).sum())


def manifest_rows(home: Path, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((home / "datasets" / name / "manifest.csv").read_text().splitlines()))


def class_sum(counts: dict[str, int], task: str, label: str) -> int:
    return sum(counts[f"{split}/{task}/{label}"] for split in SPLITS)


class TestMilk10k:
    def test_round_trip(self, milk: FakeMilk, home: Path) -> None:
        report = Milk10k().import_from(milk.save(), size=28)
        loaded = load_all(Milk10k())
        assert {split: len(loaded[split]) for split in SPLITS} == {"train": 14, "val": 2, "test": 4}
        assert report.counts["test/diagnosis/NV"] == 2
        assert report.folder == home / "datasets" / "milk10k"
        train = loaded["train"]
        assert train.values("clinical", slice(0, 2)).shape == (2, 3, 28, 28)
        assert train.groups == train.ids
        assert set(train.subgroups) == {"sex", "age_band", "skin_tone", "site"}
        assert set(train.subgroups["age_band"]) == {"45-59"}
        truth = {row["lesion_id"]: "MEL" if row["MEL"] == "1.0" else "NV" for row in milk.labels}
        classes = train.info.heads[0].answers
        assert [classes[i] for i in train.labels["diagnosis"]] == [truth[lesion] for lesion in train.ids]

    def test_image_type_decides_the_modality(self, milk: FakeMilk) -> None:
        Milk10k().import_from(milk.save())
        for split in load_all(Milk10k()).values():
            # Dermoscopic fakes are plain blue, clinical ones noise in all channels.
            assert split.arrays["dermoscopic"][:, 0].max() < 30
            assert split.arrays["clinical"][:, 0].max() > 200

    def test_a_partial_folder_is_allowed_and_named(self, milk: FakeMilk) -> None:
        report = Milk10k().import_from(milk.save())
        assert "partial or changed download: 30 of the publisher's 5240 lesions" in report.left_out[0]
        caveats = Milk10k().load("test").info.caveats
        assert any("partial" in caveat for caveat in caveats)
        assert any("differs from the published manifest" in caveat for caveat in caveats)

    def test_the_published_split_is_recognised(self, milk: FakeMilk, monkeypatch: pytest.MonkeyPatch) -> None:
        texts: list[str] = []
        original = manifest.split_manifest

        def keep(*arguments: Any) -> str:
            texts.append(original(*arguments))
            return texts[-1]

        monkeypatch.setattr(store, "split_manifest", keep)
        monkeypatch.setattr(manifest, "published_manifest", lambda _: texts[-1])
        report = Milk10k().import_from(milk.save())
        assert "split equals the published manifest" in report.left_out[-1]
        assert report.manifest_sha256 == splits.manifest_hash(texts[-1])
        assert not any("manifest" in caveat for caveat in Milk10k().load("val").info.caveats)

    def test_classes_option(self, milk: FakeMilk) -> None:
        large = Milk10k().import_from(milk.save())
        assert "10 lesions of classes not chosen (DF 10)" in large.left_out
        before = Milk10k().load("test").ids
        every = Milk10k().import_from(milk.folder, classes="all")
        assert class_sum(dict(every.counts), "diagnosis", "DF") == 10
        assert len(Milk10k().load("val").info.heads[0].answers) == 11
        assert set(before) < set(Milk10k().load("test").ids)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"size": 12}, "from 28 to 224"),
            ({"size": "big"}, "from 28 to 224"),
            ({"classes": "some"}, "large, all"),
            ({"colour": 1}, "no import option 'colour'"),
        ],
    )
    def test_bad_options(self, milk: FakeMilk, options: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            Milk10k().import_from(milk.save(), **options)

    def test_missing_images(self, milk: FakeMilk) -> None:
        milk.image(0).unlink()
        milk.image(3).unlink()
        with pytest.raises(UserError, match=r"ISIC_\d+\.jpg is missing \(2 of 40 images are\)"):
            Milk10k().import_from(milk.save())

    def test_truncated_image(self, milk: FakeMilk) -> None:
        content = milk.image(2).read_bytes()
        milk.image(2).write_bytes(content[: len(content) // 2])
        with pytest.raises(UserError, match=r"is not a readable image \(1 of 20"):
            Milk10k().import_from(milk.save())

    def test_tables_missing(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"GroundTruth\.csv is missing"):
            Milk10k().import_from(tmp_path)

    def test_unknown_class_column(self, milk: FakeMilk) -> None:
        milk.labels = [{**row, "ACNE": "0.0"} for row in milk.labels]
        with pytest.raises(UserError, match="unknown class column 'ACNE'"):
            Milk10k().import_from(milk.save())

    def test_missing_class_column(self, milk: FakeMilk) -> None:
        for row in milk.labels:
            del row["VASC"]
        with pytest.raises(UserError, match="column 'VASC' is missing"):
            Milk10k().import_from(milk.save())

    @pytest.mark.parametrize(
        ("value", "message"), [("1.0", "not one-hot"), ("0.5", "not one-hot"), ("yes", "not made of numbers")]
    )
    def test_label_not_one_hot(self, milk: FakeMilk, value: str, message: str) -> None:
        milk.labels[4]["BCC"] = value
        with pytest.raises(UserError, match=f"IL_0004 is {message}"):
            Milk10k().import_from(milk.save())

    def test_lesion_listed_twice(self, milk: FakeMilk) -> None:
        milk.labels.append(milk.labels[0])
        with pytest.raises(UserError, match="listed twice"):
            Milk10k().import_from(milk.save())

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"image_type": "x-ray"}, "unknown image_type 'x-ray'"),
            ({"image_type": "clinical: close-up"}, "two images of type"),
            ({"lesion_id": "IL_9999"}, "IL_0000 has no dermoscopic image"),
            ({"isic_id": "ISIC_0001"}, "ISIC_0001 is listed twice"),
        ],
    )
    def test_bad_metadata(self, milk: FakeMilk, change: dict[str, str], message: str) -> None:
        assert milk.metadata[0]["image_type"] == "dermoscopic"
        milk.metadata[0] |= change
        with pytest.raises(UserError, match=message):
            Milk10k().import_from(milk.save())

    def test_bad_age(self, milk: FakeMilk) -> None:
        for row in milk.metadata:
            row["age_approx"] = "old"
        with pytest.raises(UserError, match="age 'old' of lesion IL_0000 is not a number"):
            Milk10k().import_from(milk.save())

    def test_metadata_without_label_is_left_out(self, milk: FakeMilk) -> None:
        milk.labels.pop(0)
        report = Milk10k().import_from(milk.save())
        assert "1 lesions without a label in the ground truth" in report.left_out

    def test_empty_split(self, tmp_path: Path) -> None:
        tiny = build_milk(tmp_path / "tiny", per_class=2, classes=("MEL",))
        with pytest.raises(UserError, match="the split 'val' would be empty"):
            Milk10k().import_from(tiny.save())

    def test_no_lesion_of_the_classes(self, tmp_path: Path) -> None:
        rare = build_milk(tmp_path / "rare", classes=("DF",))
        with pytest.raises(UserError, match="no lesion of the classes AKIEC"):
            Milk10k().import_from(rare.save())

    def test_an_image_shared_by_two_lesions(self, milk: FakeMilk) -> None:
        shutil.copy(milk.image(1), milk.image(2))  # both clinical: of IL_0000 and IL_0001, both MEL
        report = Milk10k().import_from(milk.save())
        assert report.left_out[-3].endswith("IL_0001")
        assert sum(report.counts[split] for split in SPLITS) == 19

    def test_an_image_shared_under_two_labels(self, milk: FakeMilk) -> None:
        shutil.copy(milk.image(1), milk.image(22))  # clinical images of IL_0000 (MEL) and IL_0011 (NV)
        report = Milk10k().import_from(milk.save())
        assert report.left_out[-3].endswith("different labels: IL_0000, IL_0011")
        assert sum(report.counts[split] for split in SPLITS) == 18

    def test_the_split_does_not_depend_on_the_order_of_the_tables(self, milk: FakeMilk) -> None:
        first = Milk10k().import_from(milk.save())
        fingerprint = Milk10k().load("train").fingerprint
        milk.labels.reverse()
        milk.metadata.reverse()
        second = Milk10k().import_from(milk.save())
        assert second.manifest_sha256 == first.manifest_sha256
        assert Milk10k().load("train").fingerprint == fingerprint

    @pytest.mark.parametrize(
        ("age", "band"),
        [("", ""), ("nan", ""), ("5", "0-29"), ("30.0", "30-44"), ("59.9", "45-59"), ("75.0", "75+")],
    )
    def test_age_bands(self, age: str, band: str) -> None:
        assert age_band(age) == band


class TestMriCt:
    def test_round_trip(self, slices: Path) -> None:
        report = MriCt().import_from(slices, size=32)
        loaded = load_all(MriCt())
        assert {split: len(loaded[split]) for split in SPLITS} == {"train": 72, "val": 6, "test": 12}
        assert report.counts["test/lung/benign"] == 4
        assert loaded["test"].values("mri", slice(None)).shape == (12, 1, 32, 32)
        assert loaded["train"].ids[0] == "mri-ct-train-0001"
        assert any("2 mri images of val" in line for line in report.left_out)
        assert any("28 mri images of test" in line for line in report.left_out)

    def test_images_and_labels_belong_together(self, slices: Path, home: Path) -> None:
        MriCt().import_from(slices, size=32)
        test = MriCt().load("test")
        rows = [row for row in manifest_rows(home, "mri-ct") if row["split"] == "test"]
        for index, row in enumerate(rows):
            with Image.open(slices / "brain_tumor_mri" / row["file_mri"]) as image:
                expected = np.asarray(image)
            assert np.array_equal(test.arrays["mri"][test.rows["mri"][index]][0], expected)
            assert row["file_mri"].split("/")[1] == row["label_tumor"]
            assert row["file_ct"][0].lower() == row["label_lung"][0]

    def test_wide_images_are_cropped_in_the_middle(self, slices: Path, home: Path) -> None:
        MriCt().import_from(slices, size=32)
        val = MriCt().load("val")
        rows = [row for row in manifest_rows(home, "mri-ct") if row["split"] == "val"]
        for index, row in enumerate(rows):
            with Image.open(ct_folder(slices) / row["file_ct"]) as image:
                wide = np.asarray(image)
            left = (wide.shape[1] - 32) // 2
            assert np.array_equal(val.values("ct", [index])[0, 0] * 255, wide[:, left : left + 32])

    def test_recycling_only_in_train(self, slices: Path) -> None:
        MriCt().import_from(slices)
        loaded = load_all(MriCt())
        uses = Counter(loaded["train"].rows["ct"].tolist())
        assert len(uses) == 42
        assert set(uses.values()) == {1, 2}
        assert set(Counter(loaded["train"].rows["mri"].tolist()).values()) == {1}
        for split, modality in itertools.product(("val", "test"), ("mri", "ct")):
            rows = loaded[split].rows[modality]
            assert len(set(rows.tolist())) == len(rows)

    def test_publishers_test_images_stay_test(self, slices: Path, home: Path) -> None:
        MriCt().import_from(slices)
        for row in manifest_rows(home, "mri-ct"):
            assert row["file_mri"].startswith("Testing/") == (row["split"] == "test")

    def test_duplicates_are_dropped_also_across_the_publishers_split(self, slices: Path, home: Path) -> None:
        mri = slices / "brain_tumor_mri"
        for number in range(10):
            test_image = mri / f"Testing/glioma/Te-gl_{number:04d}.png"
            # Written anew in another format: the same pixels in other bytes.
            with Image.open(test_image) as image:
                image.save(mri / f"Training/glioma/Tr-gl_{number:04d}.png", compress_level=0)
        shutil.copy(mri / "Training/glioma/Tr-gl_0015.png", mri / "Training/glioma/Tr-gl_0016.png")
        report = MriCt().import_from(slices)
        assert "11 MRI slices that copy another one pixel for pixel" in report.left_out
        assert any(line.startswith("of these, 10 training slices") for line in report.left_out)
        loaded = load_all(MriCt())
        assert shared_images(loaded, "mri") == shared_images(loaded, "ct") == 0
        files = {row["file_mri"] for row in manifest_rows(home, "mri-ct")}
        assert not any(f"Training/glioma/Tr-gl_{n:04d}.png" in files for n in (*range(10), 16))
        assert any("dropped before splitting: 11 MRI" in c for c in loaded["val"].info.caveats)

    def test_conflicting_duplicates_are_all_dropped(self, slices: Path, home: Path) -> None:
        mri = slices / "brain_tumor_mri"
        shutil.copy(mri / "Training/glioma/Tr-gl_0000.png", mri / "Training/notumor/Tr-no_0000.png")
        report = MriCt().import_from(slices)
        dropped = {"Training/glioma/Tr-gl_0000.png", "Training/notumor/Tr-no_0000.png"}
        assert any("different labels" in line and all(d in line for d in dropped) for line in report.left_out)
        assert not dropped & {row["file_mri"] for row in manifest_rows(home, "mri-ct")}

    def test_hidden_folders_are_skipped_and_named(self, slices: Path, home: Path) -> None:
        stray = slices / "brain_tumor_mri/Testing/glioma/.ipynb_checkpoints/Te-gl_0001-checkpoint.png"
        write_image(stray, 10_000, (32, 32), grey=True)
        report = MriCt().import_from(slices)
        said = "image in the hidden folder Testing/glioma/.ipynb_checkpoints: 1 MRI files (Testing/glioma/"
        assert any(line.startswith(said) for line in report.left_out)
        record = json.loads((home / "datasets/mri-ct/dataset.json").read_text())
        assert record["files_found"] == {"mri": 120, "ct": 60}

    def test_folders_in_separate_places(self, slices: Path, tmp_path: Path) -> None:
        first = MriCt().import_from(slices)
        (slices / "brain_tumor_mri").rename(slices / "a")
        ct_folder(slices).rename(slices / "b")
        second = MriCt().import_from(tmp_path / "nothing", mri=slices / "a", ct=str(slices / "b"))
        assert second.manifest_sha256 == first.manifest_sha256
        assert len(MriCt().load("test")) == 12

    def test_unknown_class_folder(self, slices: Path) -> None:
        (slices / "brain_tumor_mri/Training/sarcoma").mkdir()
        with pytest.raises(UserError, match="sarcoma is an unknown class"):
            MriCt().import_from(slices)

    @pytest.mark.parametrize("folder", ["brain_tumor_mri/Testing", "brain_tumor_mri/Testing/glioma"])
    def test_missing_folder(self, slices: Path, folder: str) -> None:
        shutil.rmtree(slices / folder)
        with pytest.raises(UserError, match=f"the folder .*{folder} is missing"):
            MriCt().import_from(slices)

    def test_broken_image(self, slices: Path) -> None:
        (ct_folder(slices) / "Normal cases/Normal case (1).png").write_bytes(b"no image")
        with pytest.raises(UserError, match=r"Normal case \(1\)\.png is not a readable image"):
            MriCt().import_from(slices)

    def test_empty_set(self, slices: Path) -> None:
        for path in ct_folder(slices).rglob("*.png"):
            path.unlink()
        with pytest.raises(UserError, match="the split 'train' would be empty"):
            MriCt().import_from(slices)

    def test_pairing_is_independent_of_the_order_of_the_input(self) -> None:
        mri = {f"m{i}": "glioma" for i in range(9)}
        ct = {f"c{i}": "normal" for i in range(4)}
        pairs = pair(mri, ct, "train")
        assert pairs == pair(dict(reversed(mri.items())), dict(reversed(ct.items())), "train")
        assert {m for m, _ in pairs} == set(mri)
        assert [c for _, c in pairs][:4] != [c for _, c in pairs][4:8]
        assert len(pair(mri, ct, "test")) == 4


class TestSplits:
    def test_shares_and_strata(self) -> None:
        strata = {f"g{i}": "a" if i % 2 else "b" for i in range(200)}
        assigned = splits.assign_splits(strata, splits.Fractions(), seed=0, purpose="p")
        counts = Counter((strata[group], split) for group, split in assigned.items())
        assert {counts[s, "test"] for s in "ab"} == {20}
        assert {counts[s, "val"] for s in "ab"} == {10}
        assert assigned != splits.assign_splits(strata, splits.Fractions(), seed=1, purpose="p")

    def test_a_draw_is_stratified(self) -> None:
        strata = {f"g{i}": "ab"[i < 10] for i in range(30)}
        drawn = splits.draw_stratified(strata, 10, seed=0, purpose="p")
        assert Counter(strata[group] for group in drawn) == {"a": 7, "b": 3}
        assert len(set(drawn)) == 10

    def test_the_order_is_what_the_text_says(self) -> None:
        expected = sorted("abcdef", key=lambda c: hashlib.sha256(f"3/p/{c}".encode()).hexdigest())
        assert splits.hash_order("fedcba", seed=3, purpose="p") == expected


def edit_manifest(folder: Path) -> None:
    path = folder / "manifest.csv"
    path.write_text(path.read_text().replace(",MEL,", ",NV,", 1))


def truncate_images(folder: Path) -> None:
    path = folder / "images-clinical.npy"
    path.write_bytes(path.read_bytes()[:-100])


def pickle_images(folder: Path) -> None:
    objects = np.array([{"not": "pixels"}], dtype=object)
    np.save(folder / "images-clinical.npy", objects, allow_pickle=True)


def float_images(folder: Path) -> None:
    path = folder / "images-clinical.npy"
    np.save(path, np.load(path).astype(np.float32))


def fewer_images(folder: Path) -> None:
    path = folder / "images-dermoscopic.npy"
    np.save(path, np.load(path)[:3])


ENDLESS = "{'descr': '|u1', 'fortran_order': False, 'shape': (9999999999999999, 3, 48, 48)}"


def odd_header(header: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        start = b"\x93NUMPY\x02\0" + len(header).to_bytes(4, "little") + header.encode()
        (folder / "images-clinical.npy").write_bytes(start + bytes(1000))

    return damage


def archive_of_images(folder: Path) -> None:
    with (folder / "images-clinical.npy").open("wb") as stream:
        np.savez(stream, a=np.zeros(3, np.uint8))


def remove_images(folder: Path) -> None:
    (folder / "images-dermoscopic.npy").unlink()


def remove_record(folder: Path) -> None:
    (folder / "dataset.json").unlink()


def cut_record(folder: Path) -> None:
    path = folder / "dataset.json"
    path.write_text(path.read_text()[:50])


def edit_record(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "dataset.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


def edit_manifest_and_hash(old: str, new: str) -> Callable[[Path], None]:
    """Damage that a wrong writer would do: the hash fits, the content does not."""

    def edit(folder: Path) -> None:
        path = folder / "manifest.csv"
        text = path.read_text().replace(old, new, 1)
        path.write_text(text)
        edit_record(manifest_sha256=splits.manifest_hash(text))(folder)

    return edit


class TestStore:
    def test_not_imported(self) -> None:
        with pytest.raises(UserError, match="milk10k is not imported yet; run robmed data import milk10k"):
            Milk10k().load("train")

    def test_unknown_split(self) -> None:
        with pytest.raises(UserError, match="no split 'dev'; choose one of train, val, test"):
            Milk10k().load("dev")

    @pytest.mark.parametrize(
        ("damage", "file"),
        [
            (edit_manifest, "manifest.csv was changed"),
            (truncate_images, "images-clinical.npy is missing, cut off"),
            (pickle_images, "images-clinical.npy is missing, cut off or not a plain array"),
            (float_images, "images-clinical.npy is not the uint8 array"),
            (fewer_images, "images-dermoscopic.npy is not the uint8 array"),
            (remove_images, "images-dermoscopic.npy is missing"),
            (remove_record, "dataset.json is missing"),
            (cut_record, "dataset.json is missing or not"),
            (edit_record(format_version=99), "dataset.json describes 'milk10k' in format 99"),
            (edit_record(shapes="large"), "dataset.json is missing or not"),
            (edit_record(options={"size": 5}), "dataset.json has unusable options"),
            (edit_record(classes={"diagnosis": ["A"]}), "dataset.json lists unknown diagnosis classes"),
            (edit_manifest_and_hash(",MEL,", ",ACNE,"), "manifest.csv has an unusable row .*'ACNE'"),
            (edit_manifest_and_hash("train,", "dev,"), "manifest.csv has an unusable row .*'dev'"),
            (edit_manifest_and_hash(",0,0,", ",0,777,"), "manifest.csv points to a row"),
            (edit_manifest_and_hash(",0,0,", ",0,x,"), "manifest.csv has an unusable row"),
            (edit_manifest_and_hash(",0,0,", f",0,{'9' * 30},"), "manifest.csv has an unusable row"),
            (edit_manifest_and_hash(",0,0,", f",0,{'9' * 200_000},"), "manifest.csv has an unusable row"),
            (
                edit_manifest_and_hash(",0,0,", ","),
                "manifest.csv has an unusable row .*cells than the header",
            ),
            (edit_record(format_version=float("inf")), "dataset.json is missing or not"),
            (edit_record(shapes={"clinical": [float("inf")]}), "dataset.json is missing or not"),
            (edit_record(options={"size": "9" * 5000}), "dataset.json has unusable options"),
            (odd_header("(" * 2000), "images-clinical.npy is missing, cut off or not a plain array"),
            (odd_header(ENDLESS), "images-clinical.npy is missing, cut off or not a plain array"),
            (archive_of_images, "images-clinical.npy is missing, cut off or not a plain array"),
        ],
    )
    def test_damage(self, milk: FakeMilk, home: Path, damage: Callable[[Path], None], file: str) -> None:
        Milk10k().import_from(milk.save())
        damage(home / "datasets" / "milk10k")
        with pytest.raises(UserError, match=file) as caught:
            Milk10k().load("train")
        assert str(caught.value).endswith("import again with robmed data import milk10k --from DIR")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")], ids=["kill", "full"]
    )
    def test_an_interrupted_import_leaves_the_old_copy(
        self, milk: FakeMilk, home: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
    ) -> None:
        Milk10k().import_from(milk.save())
        before = Milk10k().load("train").fingerprint

        def fail(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr(store, "write_json", fail)
        with pytest.raises((KeyboardInterrupt, UserError)):
            Milk10k().import_from(milk.folder, size=28)
        assert Milk10k().load("train").fingerprint == before
        assert [path.name for path in (home / "datasets").iterdir()] == ["milk10k"]

    def test_a_failed_swap_puts_the_old_copy_back(
        self, milk: FakeMilk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Milk10k().import_from(milk.save())
        before = Milk10k().load("train").fingerprint
        rename = Path.rename

        def fail_on_new(path: Path, target: Path) -> Path:
            if path.name == "new":
                raise KeyboardInterrupt
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", fail_on_new)
        with pytest.raises(KeyboardInterrupt):
            Milk10k().import_from(milk.folder, size=28)
        assert Milk10k().load("train").fingerprint == before

    def test_an_interrupted_first_import_leaves_nothing(
        self, milk: FakeMilk, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(store, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            Milk10k().import_from(milk.save())
        assert list((home / "datasets").iterdir()) == []

    def test_a_split_holds_only_its_own_images(self, milk: FakeMilk) -> None:
        Milk10k().import_from(milk.save())
        loaded = load_all(Milk10k())
        assert {name: len(split.arrays["clinical"]) for name, split in loaded.items()} == {
            "train": 14,
            "val": 2,
            "test": 4,
        }
        assert shared_images(loaded, "clinical") == 0


def published_rows(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(PUBLISHED[name].splitlines()))


def splits_per_value(rows: Iterable[dict[str, str]], column: str) -> set[int]:
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row[column], set()).add(row["split"])
    return {len(names) for names in found.values()}


class TestPublishedManifests:
    @pytest.mark.parametrize(("name", "limit"), [("milk10k", 400_000), ("mri-ct", 600_000)])
    def test_small_and_free_of_leakage(self, name: str, limit: int) -> None:
        rows = published_rows(name)
        assert 0 < len(PUBLISHED[name]) < limit
        assert {row["split"] for row in rows} == set(SPLITS)
        for column in rows[0]:
            if column == "id" or column.startswith("file_"):
                assert splits_per_value(rows, column) == {1}

    def test_milk10k_splits_can_be_recomputed_from_the_ids(self) -> None:
        rows = published_rows("milk10k")
        strata = {row["id"]: row["label_diagnosis"] for row in rows}
        again = splits.assign_splits(strata, splits.Fractions(), seed=splits.SEED, purpose="milk10k")
        assert again == {row["id"]: row["split"] for row in rows}


@pytest.mark.slow
@needs_reference
class TestReferenceData:
    def test_milk10k(self) -> None:
        start = time.monotonic()
        report = Milk10k().import_from(REFERENCE / "milk10k")
        assert time.monotonic() - start < 60
        assert "split equals the published manifest" in report.left_out[-1]
        shared = {"BCC": 5}  # five lesions repeat an image of another one; all are BCC
        for label in ("AKIEC", "BCC", "BKL", "MEL", "NV", "SCCKA"):
            expected = PUBLISHED_COUNTS[label] - shared.get(label, 0)
            assert class_sum(dict(report.counts), "diagnosis", label) == expected
        loaded = load_all(Milk10k())
        assert shared_images(loaded, "clinical") == shared_images(loaded, "dermoscopic") == 0
        assert not any("partial" in caveat for caveat in loaded["test"].info.caveats)

    def test_milk10k_all_classes(self, home: Path) -> None:
        report = Milk10k().import_from(REFERENCE / "milk10k", classes="all", size=28)
        assert sum(report.counts[split] for split in SPLITS) == 5235
        record = json.loads((home / "datasets/milk10k/dataset.json").read_text())
        assert record["files_found"] == {"lesions": 5240, "images": 10480}

    def test_mri_ct(self, home: Path) -> None:
        report = MriCt().import_from(REFERENCE)
        assert "split equals the published manifest" in report.left_out[-1]
        assert "426 MRI slices that copy another one pixel for pixel" in report.left_out
        assert "42 CT slices that copy another one pixel for pixel" in report.left_out
        assert any("hidden folder Testing/meningioma" in line for line in report.left_out)
        record = json.loads((home / "datasets/mri-ct/dataset.json").read_text())
        assert record["files_found"] == {"mri": sum(MRI_COUNTS.values()), "ct": sum(CT_COUNTS.values())}
        loaded = load_all(MriCt())
        assert shared_images(loaded, "mri") == shared_images(loaded, "ct") == 0
        # The numbers that the caveat gives.
        assert near_copies(loaded["test"], loaded["train"], "mri") == 42
        assert near_copies(loaded["test"], loaded["train"], "ct") == 32

    def test_decoded_pixels_of_the_published_split_do_not_leak(self) -> None:
        folders = {
            ("milk10k", "file_clinical"): REFERENCE / "milk10k/MILK10k_Training_Input",
            ("milk10k", "file_dermoscopic"): REFERENCE / "milk10k/MILK10k_Training_Input",
            ("mri-ct", "file_mri"): REFERENCE / "brain_tumor_mri",
            ("mri-ct", "file_ct"): ct_folder(REFERENCE),
        }
        for (name, column), folder in folders.items():
            seen: dict[str, str] = {}
            for row in published_rows(name):
                path = folder / row["id"] / row[column] if name == "milk10k" else folder / row[column]
                with Image.open(path) as image:
                    digest = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
                assert seen.setdefault(digest, row["split"]) == row["split"]
