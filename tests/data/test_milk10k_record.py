"""MILK10k with its record: the same split, and what of the record can be missing and be forged."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from test_data_import import PUBLISHED, REFERENCE, FakeMilk, build_milk, needs_reference

from robustbench_med import cli
from robustbench_med.api.data import SPLITS, Split
from robustbench_med.api.space import Box
from robustbench_med.data import splits
from robustbench_med.data.catalog import import_dataset, load_dataset
from robustbench_med.data.milk10k import LARGE_CLASSES, Milk10k
from robustbench_med.data.milk10k_record import Milk10kRecord
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import sha256_file

pytestmark = pytest.mark.usefixtures("home")
FREE = {"age", "site=head_neck_face", "site=trunk"}


@pytest.fixture
def milk(tmp_path: Path) -> FakeMilk:
    """Twenty lesions whose age, sex, site and skin tone follow from their numbers; some are missing."""
    fake = build_milk(tmp_path / "milk", classes=("MEL", "NV"))
    for row in fake.metadata:
        number = int(row["lesion_id"].removeprefix("IL_"))
        row["age_approx"] = "" if number in (3, 13) else f"{40 + number}.0"
        row["sex"] = ("female", "male")[number % 2]
        row["skin_tone_class"] = str(number % 4)
        row["site"] = "" if number % 10 == 7 else ("trunk", "head_neck_face")[number % 2]
    return fake


def column(split: Split, name: str) -> list[float]:
    values = split.values("record", slice(None))
    found: list[float] = values[:, split.info.modality("record").features.index(name)].tolist()
    return found


def numbers(split: Split) -> list[int]:
    return [int(each.removeprefix("IL_")) for each in split.ids]


def test_the_record_is_that_of_the_lesion(milk: FakeMilk) -> None:
    import_dataset("milk10k-record", milk.save(), size=28)
    train = load_dataset("milk10k-record", "train")
    known = [40 + number for number in numbers(train) if number not in (3, 13)]
    for split in (train, load_dataset("milk10k-record", "val"), load_dataset("milk10k-record", "test")):
        mean = float(np.float32(np.mean(known)))
        for number, age, absent in zip(
            numbers(split), column(split, "age"), column(split, "age missing"), strict=True
        ):
            assert absent == (number in (3, 13))
            assert age == pytest.approx(mean if absent else 40 + number)
        assert column(split, "sex=male") == [number % 2 for number in numbers(split)]
        assert column(split, "skin_tone=3") == [number % 4 == 3 for number in numbers(split)]
        assert column(split, "site missing") == [number % 10 == 7 for number in numbers(split)]
        sites = np.add(column(split, "site=trunk"), column(split, "site=head_neck_face"))
        assert sites.tolist() == [number % 10 != 7 for number in numbers(split)]
        assert set(split.subgroups) == {"sex", "age_band", "skin_tone", "site"}
    assert [m.name for m in train.info.modalities] == ["clinical", "dermoscopic", "record"]
    assert train.info.head("diagnosis").modalities == ("clinical", "dermoscopic", "record")
    assert any("2 columns" in line or "age is missing in 2" in line for line in train.info.caveats)


def test_age_and_site_can_be_forged_sex_and_skin_tone_cannot(milk: FakeMilk) -> None:
    import_dataset("milk10k-record", milk.save(), size=28)
    split = load_dataset("milk10k-record", "test")
    record = split.info.modality("record")
    assert record.mutable is not None
    assert {n for n, free in zip(record.features, record.mutable, strict=True) if free} == FREE
    clean = torch.from_numpy(split.values("record", slice(None)))
    box = Box.of(record)
    moved = box.clamp(clean + 100 * torch.ones_like(clean), clean)
    changed = (moved != clean).any(0).numpy()
    assert {n for n, other in zip(record.features, changed, strict=True) if other} <= FREE
    assert changed.any()


def test_the_split_is_that_of_milk10k(milk: FakeMilk) -> None:
    plain = Milk10k().import_from(milk.save(), size=28)
    with_record = Milk10kRecord().import_from(milk.folder, size=28)
    assert with_record.manifest_sha256 == plain.manifest_sha256
    for split in SPLITS:
        one, other = load_dataset("milk10k", split), load_dataset("milk10k-record", split)
        assert one.ids == other.ids
        assert np.array_equal(one.labels["diagnosis"], other.labels["diagnosis"])
        assert np.array_equal(one.values("clinical", slice(None)), other.values("clinical", slice(None)))
        assert one.fingerprint != other.fingerprint
    assert "published manifest of milk10k" in with_record.left_out[-1]


@pytest.mark.parametrize("model", ["daft", "healnet"])
def test_nets_that_take_a_record_are_trained_and_attacked(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the line that the training ends with, and by the model's name, which means no net of other data."""
    monkeypatch.chdir(tmp_path)
    fake = build_milk(tmp_path / "milk", per_class=6, classes=LARGE_CLASSES)
    for number, row in enumerate(fake.metadata):  # both photographs of a lesion follow each other
        row["age_approx"], row["sex"] = f"{30 + number // 2}.0", ("female", "male")[number // 2 % 2]
    fake.save()
    assert cli.main(["data", "import", "milk10k-record", "--from", "milk", "--option", "size=28"]) == 0
    recipe = f"model: {model}\ndataset: milk10k-record\nmodel_options: {{width: 0.0625}}\nepochs: 1\n"
    (tmp_path / "recipe.yaml").write_text(recipe + "batch_size: 8\n")
    assert cli.main(["train", "recipe.yaml"]) == 0
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[-3:])
    attack = ["--steps", "2", "--samples", "0", "--no-picture"]
    assert cli.main([*shlex.split(said["attack"])[1:], *attack]) == 0
    by_name = ["run", "--model", model, "--data", "milk10k-record", "--attack", "pgd"]
    assert cli.main([*by_name, *attack]) == 0
    (record,) = Path("runs").glob("*/record.json")  # the same run
    assert json.loads(record.read_text())["model"]["weights_sha256"] == sha256_file(Path(said["weights"]))


def test_an_age_that_is_none(milk: FakeMilk) -> None:
    milk.metadata[0]["age_approx"] = milk.metadata[1]["age_approx"] = "old"
    with pytest.raises(UserError, match="age 'old' of lesion IL_0000 is not a number"):
        import_dataset("milk10k-record", milk.save())


def test_nothing_imported_is_one_line() -> None:
    with pytest.raises(
        UserError, match="milk10k-record is not imported yet; run robmed data import milk10k-rec"
    ):
        load_dataset("milk10k-record")


@pytest.mark.slow
@needs_reference
def test_the_publishers_data() -> None:
    report = import_dataset("milk10k-record", REFERENCE / "milk10k")
    assert report.manifest_sha256 == splits.manifest_hash(PUBLISHED["milk10k"])
    assert "record: age is missing in 17 of 5033 samples" in "\n".join(report.left_out)
    assert "record: site is missing in 30 of 5033 samples" in "\n".join(report.left_out)
    record = load_dataset("milk10k-record", "test").info.modality("record")
    assert len(record.features) == 18
    assert record.mutable is not None
    assert record.mutable.sum() == 8  # age, and seven sites
