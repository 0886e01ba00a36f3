"""Public data sets by description: small downloads in each publisher's layout, whole, partial and wrong."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import publishers
import pytest
from PIL import Image, ImageOps

from robustbench_med import cli
from robustbench_med.api.data import SPLITS, ImportReport, Split
from robustbench_med.data.catalog import (
    add_dataset,
    import_dataset,
    is_own,
    load_dataset,
    registered,
    short_name,
    source_modules,
)
from robustbench_med.data.layout import pattern
from robustbench_med.data.published import description, published_names
from robustbench_med.studies.listing import rows
from robustbench_med.util.errors import UserError

pytestmark = pytest.mark.usefixtures("home")
NAMES = tuple(publishers.BUILDERS)


@dataclass(frozen=True)
class Imported:
    """A download, what was made of it, and how many samples of each class it holds."""

    download: Path
    counts: Counter[str]
    report: ImportReport
    splits: dict[str, Split]

    @property
    def said(self) -> str:
        return "\n".join(self.report.left_out)

    def groups(self, split: str) -> set[str]:
        return set(self.splits[split].groups)


Importer = Callable[[str], Imported]


@pytest.fixture
def imported(tmp_path: Path) -> Importer:
    def make(name: str) -> Imported:
        counts = publishers.BUILDERS[name](tmp_path / name)
        report = import_dataset(name, tmp_path / name, size=28)
        return Imported(tmp_path / name, counts, report, {each: load_dataset(name, each) for each in SPLITS})

    return make


def classes(splits: dict[str, Split], head: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for split in splits.values():
        found.update(split.info.head(head).answers[label] for label in split.labels[head])
    return found


def test_every_description_has_a_download_to_test_it() -> None:
    assert published_names() == sorted(NAMES)
    assert set(NAMES) < set(registered())


@pytest.mark.parametrize("name", NAMES)
def test_what_a_description_says(name: str) -> None:
    said = description(name)
    assert said.caveats
    assert said.licence
    assert said.citation
    assert said.page.startswith("http")
    assert set(said.counts) == set(next(iter(said.heads.values())).classes)
    for part in said.parts:
        if not part.table:
            place = str(Path(part.like).with_suffix(""))
            fitting = [pattern(each, said.words) for each in next(iter(part.files.values()))]
            assert any(each.fullmatch(place) for each in fitting), place


@pytest.mark.parametrize("name", NAMES)
def test_import(name: str, imported: Importer) -> None:
    done = imported(name)
    said = description(name)
    first = next(iter(said.heads))
    assert +classes(done.splits, first) == done.counts
    assert all(split.fingerprint for split in done.splits.values())
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not done.groups(one) & done.groups(other)
        assert len(done.splits[one])
    info = done.splits["test"].info
    assert [m.name for m in info.modalities] == [*said.images, *said.tables]
    assert [m.shape for m in info.modalities if m.kind == "image"] == [
        (each.channels, 28, 28) for each in said.images.values()
    ]
    assert [head.name for head in info.heads] == list(said.heads)
    assert all(set(head.modalities) == {m.name for m in info.modalities} for head in info.heads)
    assert set(said.caveats) <= set(info.caveats)
    assert any("partial or changed download" in caveat for caveat in info.caveats)
    assert not is_own(name)
    assert short_name(name) == name
    assert source_modules(name) == ("robustbench_med.data.published",)


@pytest.mark.parametrize("name", NAMES)
def test_elsewhere_and_anew_it_is_the_same(name: str, imported: Importer, tmp_path: Path) -> None:
    before = imported(name)
    moved = tmp_path / "other" / "deep" / "down"
    moved.parent.mkdir(parents=True)
    shutil.move(before.download, moved)
    again = import_dataset(name, tmp_path / "other", size=28)
    assert again.manifest_sha256 == before.report.manifest_sha256
    assert {s: load_dataset(name, s).fingerprint for s in SPLITS} == {
        s: split.fingerprint for s, split in before.splits.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_layout_is_told_in_a_line(name: str, tmp_path: Path, home: Path) -> None:
    publishers.picture(tmp_path / "wrong" / "some" / "picture.png")
    with pytest.raises(UserError) as refused:
        import_dataset(name, tmp_path / "wrong")
    said = description(name)
    assert said.parts[0].like in str(refused.value)
    assert said.page in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not home.exists()


@pytest.mark.parametrize("name", NAMES)
def test_not_imported_yet(name: str) -> None:
    with pytest.raises(
        UserError, match=f"{name} is not imported yet; run robmed data import {name} --from DIR"
    ):
        load_dataset(name)


def test_names_are_taken(tmp_path: Path) -> None:
    publishers.busi(tmp_path)
    with pytest.raises(UserError, match="'busi' is a data set already"):
        add_dataset("busi", str(tmp_path))
    with pytest.raises(UserError, match="did you mean 'ham10000'"):
        load_dataset("ham1000")
    with pytest.raises(UserError, match="did you mean 'ham10000'"):
        import_dataset("ham1000", tmp_path)
    with pytest.raises(UserError, match="no import option 'colour'"):
        import_dataset("busi", tmp_path, colour=1)


def test_lesions_of_ham10000_stay_together(imported: Importer) -> None:
    done = imported("ham10000")
    sizes = Counter(group for split in done.splits.values() for group in split.groups)
    assert sorted(sizes.values()) == [1] * 63 + [3] * 7
    assert {split: len(set(done.groups(split))) for split in SPLITS} == {"train": 49, "val": 7, "test": 14}
    whole = {each for split in done.splits.values() for each in split.subgroups["age_band"]}
    assert whole == {"", "75+"}
    assert {each for split in done.splits.values() for each in split.subgroups["sex"]} == {"", "male"}


def test_ham10000_as_dataverse_has_it(tmp_path: Path) -> None:
    counts = publishers.ham10000(tmp_path)
    text = (tmp_path / "HAM10000_metadata.csv").read_text().replace(",", "\t")
    (tmp_path / "HAM10000_metadata.csv").unlink()
    (tmp_path / "HAM10000_metadata.tab").write_text(text)
    report = import_dataset("ham10000", tmp_path, size=28)
    assert sum(report.counts[split] for split in SPLITS) == sum(counts.values())


def test_half_of_ham10000(tmp_path: Path) -> None:
    publishers.ham10000(tmp_path)
    shutil.rmtree(tmp_path / "HAM10000_images_part_2")
    with pytest.raises(
        UserError, match=r"42 images of HAM10000_metadata.csv are missing below .*ISIC_\d+ \(exp"
    ):
        import_dataset("ham10000", tmp_path)


def test_clusters_of_sipakmed(imported: Importer) -> None:
    done = imported("sipakmed")
    assert "whole cluster, no sample: 50 files" in done.said
    assert "no image by its suffix, not read: 100 files" in done.said
    assert all(len(split.groups) == 2 * len(set(split.groups)) for split in done.splits.values())
    assert done.splits["test"].ids[0].startswith("im_")


def test_copies_are_dropped(imported: Importer) -> None:
    done = imported("sars-cov-2-ct")
    line = "dropped because another one has the same ct image, exactly: 1 (COVID/Covid (3).png)"
    assert line in done.report.left_out
    assert line in done.splits["test"].info.caveats
    assert (done.report.folder / "notes.csv").read_text().count("pixel for pixel") == 1


def test_of_copies_the_test_split_keeps_its_own(tmp_path: Path) -> None:
    publishers.nct_crc(tmp_path)
    for kind, number in (("ADI", 0), ("MUS", 1)):
        test = tmp_path / "CRC-VAL-HE-7K" / kind / f"{kind}-TCGA-AA{number:04d}.tif"
        shutil.copy(test, tmp_path / "NCT-CRC-HE-100K" / kind / f"{kind}-AAAF0003.tif")
    shutil.copy(
        tmp_path / "NCT-CRC-HE-100K" / "STR" / "STR-AAAF0000.tif",
        tmp_path / "NCT-CRC-HE-100K" / "TUM" / "TUM-AAAF0000.tif",
    )
    said = "\n".join(import_dataset("nct-crc", tmp_path, size=28).left_out)
    assert "same patch image, exactly: 2 (" in said
    assert "; 2 of them outside the publisher's test split" in said
    assert "same patch image under another label: 2 (NCT-CRC-HE-100K/STR/STR-AAAF0000.tif" in said
    assert len(load_dataset("nct-crc", "test")) == 18
    assert len(load_dataset("nct-crc", "train")) + len(load_dataset("nct-crc", "val")) == 90 - 4


def test_too_many_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publishers.busi(tmp_path)
    monkeypatch.setattr("robustbench_med.data.published.MOST_BYTES", 30 * 28 * 28)
    with pytest.raises(UserError, match=r"30 samples at size 48 need .* choose a smaller --option size="):
        import_dataset("busi", tmp_path)
    assert import_dataset("busi", tmp_path, size=28).counts["test"] == 6


def test_xrays_of_kaggle(imported: Importer) -> None:
    done = imported("chest-xray-pneumonia")
    assert len(done.splits["test"]) == 40
    assert all(name.startswith("test/") for name in done.splits["test"].ids)
    assert {split: len(done.splits[split]) for split in ("train", "val")} == {"train": 77, "val": 7}
    assert "the same file again in another folder, not read: 40 files" in done.said
    together = Counter(group for split in ("train", "val") for group in done.splits[split].groups)
    assert Counter(together.values()) == {2: 40, 1: 4}
    assert "train/pneumonia/1" not in done.groups("test")


def test_xrays_of_mendeley(tmp_path: Path) -> None:
    counts = publishers.mendeley_xrays(tmp_path)
    import_dataset("chest-xray-pneumonia", tmp_path, size=28)
    splits = {each: load_dataset("chest-xray-pneumonia", each) for each in SPLITS}
    assert classes(splits, "pneumonia") == counts
    assert {each: len(split) for each, split in splits.items()} == {"train": 72, "val": 8, "test": 40}
    assert len(set(splits["val"].groups)) == 4


def test_masks_are_no_images(imported: Importer) -> None:
    done = imported("busi")
    assert "mask, no sample: 31 files" in done.said
    assert not any("mask" in each for split in done.splits.values() for each in split.ids)


def test_masks_alone_are_nothing(tmp_path: Path) -> None:
    publishers.busi(tmp_path)
    for path in tmp_path.rglob("*).png"):
        path.unlink()
    with pytest.raises(UserError, match="holds nothing like Dataset_BUSI_with_GT"):
        import_dataset("busi", tmp_path)


def test_tissue_of_other_patients_is_the_test(imported: Importer) -> None:
    done = imported("nct-crc")
    assert all(name.startswith("CRC-VAL-HE-7K/") for name in done.splits["test"].ids)
    assert {each: len(split) for each, split in done.splits.items()} == {"train": 81, "val": 9, "test": 18}
    assert "no part of the publisher's layout, not read: 1 files (NCT-CRC-HE-100K-NONORM/" in done.said


def test_a_half_without_the_other(tmp_path: Path) -> None:
    publishers.nct_crc(tmp_path)
    shutil.rmtree(tmp_path / "CRC-VAL-HE-7K")
    with pytest.raises(UserError, match="holds nothing like CRC-VAL-HE-7K/ADI"):
        import_dataset("nct-crc", tmp_path)


def test_folds_of_subjects(imported: Importer) -> None:
    done = imported("c-nmc")
    assert {each: len(split) for each, split in done.splits.items()} == {"train": 24, "val": 12, "test": 8}
    assert done.groups("val") == {"21", "22", "H21", "H22"}
    assert done.groups("test") == {"50", "51", "H50", "H51", "H52"}
    assert all("fold_2" in name for name in done.splits["val"].ids)
    assert "image that is no part of the publisher's layout, not read: 8 files" in done.said


def test_records_of_pad_ufes(imported: Importer) -> None:
    done = imported("pad-ufes-20")
    train = done.splits["train"]
    record = train.info.modality("record")
    assert record.kind == "table"
    assert record.mutable is not None
    mutable = {name for name, free in zip(record.features, record.mutable, strict=True) if free}
    assert mutable == {"age", "diameter_1", "diameter_2", "region=ARM", "region=FACE", "region=NOSE"}
    assert not any("biopsed" in name for name in record.features)
    at = {name: place for place, name in enumerate(record.features)}
    assert {"gender=FEMALE", "gender=MALE", "gender missing", "smoke=True", "smoke missing"} <= set(at)
    values = train.values("record", slice(None))
    absent = values[:, at["diameter_1 missing"]] == 1
    assert 0 < absent.sum() < len(values)
    assert np.allclose(values[absent, at["diameter_1"]], values[~absent, at["diameter_1"]].mean())
    smoke = values[:, [at["smoke=True"], at["smoke=False"]]].sum(1)
    assert ((values[:, at["smoke missing"]] == 1) == (smoke == 0)).all()
    assert (values[:, at["age"]] >= 30).all()
    assert "diameter_1 is missing in 17 of 66 samples" in done.said
    caveats = [caveat for caveat in train.info.caveats if "columns have gaps" in caveat]
    assert caveats == ["record: 19 columns have gaps, filled in, each with a feature that says so"]
    test = done.splits["test"]
    with (done.download / "metadata.csv").open() as stream:
        ages = {row["img_id"]: float(row["age"]) for row in csv.DictReader(stream)}
    assert [ages[each] for each in test.ids] == test.values("record", slice(None))[:, at["age"]].tolist()


def test_two_images_and_eight_heads_of_derm7pt(imported: Importer) -> None:
    done = imported("derm7pt")
    assert {each: len(split) for each, split in done.splits.items()} == {"train": 10, "val": 4, "test": 6}
    test = done.splits["test"]
    assert set(test.ids) == {str(number) for number in range(15, 21)}
    assert len(test.info.heads) == 8
    for head, raw, grouped in (
        ("diagnosis", publishers.DERM7PT["diagnosis"], ("BCC", "NEV", "MEL", "MISC", "SK", "NEV")),
        ("regression", publishers.DERM7PT["regression_structures"], ("absent", *["present"] * 3)),
        (
            "vascular_structures",
            publishers.DERM7PT["vascular_structures"],
            ("absent", "regular", "irregular", "irregular", "regular"),
        ),
    ):
        answers = test.info.head(head).answers
        numbers = [int(each) - 1 for each in test.ids]
        assert len(raw) == len(grouped)
        assert [answers[label] for label in test.labels[head]] == [grouped[n % len(raw)] for n in numbers]
    assert test.info.modality("record").features == (
        *("location=back", "location=lower limbs", "elevation=flat", "elevation=palpable"),
        *("sex=female", "sex=male"),
    )
    assert not np.array_equal(test.values("clinical", [0]), test.values("dermoscopic", [0]))


def spoilt(path: Path, before: str, after: str) -> None:
    path.write_text(path.read_text().replace(before, after))


SPOILT = [
    ("meta.csv", "melanoma (in situ)", "wart", r"meta.csv, line 4: 'wart' in diagnosis is none of the"),
    ("meta.csv", "clinic,", "photo,", r"meta.csv: unknown column 'clinic'"),
    ("meta.csv", "case_num", "number", r"there is no column 'case_num'"),
    (
        "meta.csv",
        "NEL/d003.jpg",
        "NEL/d002.jpg",
        r"meta.csv: lines 4 and 5 have one file, images/NEL/d002.jpg",
    ),
    ("meta.csv", "NEL/d003.jpg", "NEL/d999.jpg", r"1 images of meta.csv are missing .* images/NEL/d999 "),
    ("test_indexes.csv", "15", "3", r"test_indexes.csv: '3' is no row of meta.csv that is free"),
    ("test_indexes.csv", "15", "77", r"test_indexes.csv: '77' is no row of meta.csv"),
    ("test_indexes.csv", "indexes", "rows", r"test_indexes.csv: unknown column 'indexes'"),
]


@pytest.mark.parametrize(("file", "before", "after", "message"), SPOILT)
def test_spoilt_tables(tmp_path: Path, file: str, before: str, after: str, message: str, home: Path) -> None:
    publishers.derm7pt(tmp_path)
    spoilt(tmp_path / "release_v0" / "meta" / file, before, after)
    with pytest.raises(UserError, match=message):
        import_dataset("derm7pt", tmp_path)
    assert not (home / "datasets").exists()


def test_a_row_in_no_split_is_left_out(tmp_path: Path) -> None:
    publishers.derm7pt(tmp_path)
    path = tmp_path / "release_v0" / "meta" / "test_indexes.csv"
    path.write_text(path.read_text().replace("15\n", "").replace("15\r\n", ""))
    report = import_dataset("derm7pt", tmp_path, size=28)
    assert report.counts["test"] == 5
    assert "in none of the publisher's splits: 1 files (meta.csv, line 17)" in "\n".join(report.left_out)


def test_a_list_of_splits_is_missing(tmp_path: Path) -> None:
    publishers.derm7pt(tmp_path)
    (tmp_path / "release_v0" / "meta" / "valid_indexes.csv").unlink()
    with pytest.raises(
        UserError, match=r"has no meta/valid_indexes.csv, which lists the rows of meta.csv that are val"
    ):
        import_dataset("derm7pt", tmp_path)


@pytest.mark.parametrize("word", ["wide", "inf", "1e999"])
def test_a_number_that_is_none(tmp_path: Path, word: str) -> None:
    publishers.pad_ufes_20(tmp_path)
    spoilt(tmp_path / "metadata.csv", ",6.0,", f",{word},")
    with pytest.raises(UserError, match=rf"metadata.csv, line 3: '{word}' in diameter_1 is no number"):
        import_dataset("pad-ufes-20", tmp_path)


@pytest.mark.parametrize("column", ["age", "patient_id", "itch", "gender", "diagnostic", "img_id"])
def test_a_column_that_is_missing(tmp_path: Path, column: str) -> None:
    publishers.pad_ufes_20(tmp_path)
    path = tmp_path / "metadata.csv"
    header, newline, rest = path.read_text().partition("\n")
    path.write_text(header.replace(column, f"{column}s") + newline + rest)
    with pytest.raises(UserError, match=rf"metadata.csv.* column '{column}'"):
        import_dataset("pad-ufes-20", tmp_path)


def test_an_age_that_is_none(tmp_path: Path) -> None:
    publishers.ham10000(tmp_path)
    spoilt(tmp_path / "HAM10000_metadata.csv", "80.0", "old")
    with pytest.raises(UserError, match=r"HAM10000_metadata.csv, line \d+: the age 'old' is no number"):
        import_dataset("ham10000", tmp_path)


def test_subjects_that_cannot_be_read_are_not_guessed(tmp_path: Path) -> None:
    publishers.c_nmc(tmp_path)
    table = next(tmp_path.rglob("*_labels.csv"))
    spoilt(table, "UID_H51_4_1_hem.bmp", "51")
    with pytest.raises(UserError, match=r"line 5: '51' in Patient_ID is not of the form UID_\{subject\}_\*"):
        import_dataset("c-nmc", tmp_path)


def test_a_subject_in_two_folds_is_told(tmp_path: Path, imported: Importer) -> None:
    """Against what is said of the set; nobody has to ask for a check to learn it."""
    publishers.c_nmc(tmp_path)
    for each in sorted(tmp_path.rglob("fold_2/all/UID_21_*.bmp")):
        each.rename(each.with_name(each.name.replace("UID_21_", "UID_11_")))
    said = import_dataset("c-nmc", tmp_path).left_out
    assert any("1 of 16 groups (11) are in more than one split" in line for line in said)
    assert any("more than one split" in line for line in load_dataset("c-nmc", "test").info.caveats)
    assert "more than one split" not in imported("c-nmc").said


def test_lesions_that_are_not_named_are_counted(tmp_path: Path, imported: Importer) -> None:
    publishers.ham10000(tmp_path)
    spoilt(tmp_path / "HAM10000_metadata.csv", "HAM_akiec0000", "unknown")
    said = import_dataset("ham10000", tmp_path).left_out
    assert any("3 of 84 samples have no lesion_id" in line for line in said)
    assert "lesion_id" not in imported("ham10000").said


def test_a_damaged_copy_says_so(imported: Importer) -> None:
    done = imported("pad-ufes-20")
    path = done.report.folder / "table-record.npy"
    np.save(path, np.zeros((3, 2), np.float32))
    with pytest.raises(
        UserError, match=r"table-record.npy is missing or not what was imported; import again"
    ):
        load_dataset("pad-ufes-20")
    path.unlink()
    with pytest.raises(UserError, match=r"table-record.npy is missing"):
        load_dataset("pad-ufes-20")
    record = done.report.folder / "dataset.json"
    spoilt(record, '"kind": "table"', '"kind": "tabel"')
    with pytest.raises(UserError, match=r"table-record.npy is missing or not what was imported"):
        load_dataset("pad-ufes-20")


def test_places() -> None:
    words = {"kind": ["COVID", "non-COVID"]}
    place = pattern("{kind}/{kind} ({number})*", words)
    found = place.fullmatch("a/b/non-covid/Non-COVID (7) x")
    assert found is not None
    assert found.groupdict() == {
        "above": "a/b/",
        "name": "non-covid/Non-COVID (7) x",
        "kind": "non-covid",
        "number": "7",
    }
    assert place.fullmatch("COVID/non-COVID (7)") is None
    assert place.fullmatch("COVID/x/COVID (7)") is None
    assert place.fullmatch("xCOVID/COVID (7)") is None


@pytest.mark.parametrize("name", NAMES)
def test_the_pixels_are_those_of_the_file(name: str, imported: Importer) -> None:
    """Of every image of the test split, found by the name that the manifest gives it."""
    done = imported(name)
    test = done.splits["test"]
    with (done.report.folder / "manifest.csv").open() as stream:
        kept = [row for row in csv.DictReader(stream) if row["split"] == "test"]
    assert [row["id"] for row in kept] == list(test.ids)
    there = sorted(path for path in done.download.rglob("*") if path.is_file())
    for number, row in enumerate(kept):
        for modality in (m for m in test.info.modalities if m.kind == "image"):
            path = next(p for p in there if f"/{p.as_posix()}".endswith(f"/{row[f'file_{modality.name}']}"))
            with Image.open(path) as image:
                square = ImageOps.fit(
                    image.convert("RGB" if modality.shape[0] == 3 else "L"),
                    (28, 28),
                    Image.Resampling.BICUBIC,
                )
            expected = np.asarray(square).reshape(28, 28, -1).transpose(2, 0, 1)
            at = test.rows[modality.name][number]
            assert np.array_equal(test.arrays[modality.name][at], expected)


@pytest.mark.parametrize("name", ["ham10000", "pad-ufes-20", "derm7pt"])
def test_train_and_run_know_it_by_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One photograph; one with a table; two with a table and eight heads."""
    monkeypatch.chdir(tmp_path)
    publishers.BUILDERS[name](tmp_path / "download")
    assert cli.main(["data", "import", name, "--from", "download", "--option", "size=28"]) == 0
    recipe = "model: concat\ndataset: phantom\nmodel_options: {width: 0.0625}\nepochs: 1\nbatch_size: 8\n"
    (tmp_path / "recipe.yaml").write_text(recipe)
    assert cli.main(["train", "recipe.yaml", "--data", name]) == 0
    attack = ["--attack", "pgd", "--steps", "2", "--samples", "4", "--no-picture"]
    assert cli.main(["run", "--model", "concat", "--data", name, *attack]) == 0
    record = json.loads(next((tmp_path / "runs").glob("*/record.json")).read_text())
    assert record["dataset"]["name"] == name
    assert set(description(name).caveats) <= set(record["dataset"]["caveats"])
    assert record["dataset"]["licence"] == description(name).licence


def test_the_list_says_how_to_get_it(imported: Importer, capsys: pytest.CaptureFixture[str]) -> None:
    imported("busi")
    by_name = {row[0]: row for row in rows("datasets")[1]}
    assert by_name["busi"] == ("busi", description("busi").title, "imported")
    for name in ("ham10000", "milk10k", "mri-ct", "milk10k-record"):
        told, state = by_name[name][1:]
        assert state == "not imported"
        assert f"then robmed data import {name} --from DIR" in told
    assert description("ham10000").page in by_name["ham10000"][1]
    assert by_name["phantom"][2] == "robustbench-med"
    assert cli.main(["list", "datasets"]) == 0
    shown = "".join(capsys.readouterr().out.split())
    assert all("".join(description(name).page.split()) in shown for name in ("derm7pt", "nct-crc"))


@pytest.mark.parametrize("name", NAMES)
def test_the_documentation_names_it(name: str) -> None:
    docs = Path(__file__).parents[2] / "docs"
    assert f"\n| `{name}` | " in (docs / "data.md").read_text(encoding="utf-8")
    assert f"`{name}`" in (docs / "catalogue.md").read_text(encoding="utf-8")
