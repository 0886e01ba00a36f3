"""The synthetic data set of images and a record: same bytes, true bounds, and what nobody can forge."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from statistics import NormalDist

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from robustbench_med.api.data import Split
from robustbench_med.api.space import Box
from robustbench_med.data import phantom_record
from robustbench_med.data.phantom_record import (
    BEST_SINGLE_MODALITY_ACCURACY,
    FEATURES,
    FIXED,
    INFO,
    RAISED,
    SIZES,
    USUAL,
    Bits,
    PhantomRecord,
    bits_of,
    lesions_of,
    render,
)
from robustbench_med.evaluation.adversary import make_threat_model
from robustbench_med.util.errors import UserError

TEST_FINGERPRINT = "dc090482cea79702c80d549db8c0a50846fd5f715412c00728db400cb0dd5ae4"
EVERY_BIT = np.arange(64)
FEW = np.arange(128)

# What each modality shows, by bit. That this is true is what the tests of flipped bits prove.
SHOWS = {
    "mr": ("mr_bright", "right", "hydrocephalus"),
    "ct": ("ct_bright", "right", "hydrocephalus"),
    "pet": ("uptake", "right", "hydrocephalus"),
    "record": ("inflamed",),
}
BITS = tuple(Bits.__dataclass_fields__)


@pytest.fixture(scope="module")
def splits() -> dict[str, Split]:
    return {name: PhantomRecord().load(name) for name in SIZES}


def _flipped(bits: Bits, name: str) -> Bits:
    return replace(bits, **{name: ~getattr(bits, name)})


def _labels(indices: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """The label of every question, by its name."""
    questions = INFO.head("findings").questions
    columns = dict(zip(questions, bits_of(indices).findings.T, strict=True))
    return {"lesion": lesions_of(indices), **columns}


def _best_of_shown(bits: tuple[str, ...], labels: NDArray[np.int64]) -> float:
    """The accuracy of the best rule that is told some bits, over all combinations of bits."""
    everything = bits_of(EVERY_BIT)
    told = np.stack([getattr(everything, name) for name in bits], 1)
    groups = [labels[(told == pattern).all(1)] for pattern in np.unique(told, axis=0)]
    return sum(int(np.bincount(group).max()) for group in groups) / len(labels)


def test_bytes_never_change(splits: dict[str, Split]) -> None:
    assert splits["test"].fingerprint == TEST_FINGERPRINT
    assert PhantomRecord().load("test").fingerprint == TEST_FINGERPRINT


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_split_keeps_the_contract(splits: dict[str, Split], name: str) -> None:
    split = splits[name].validate()
    assert len(split) == SIZES[name]
    assert split.ids[1] == f"phantom-record-{name}-0001"
    assert split.groups == split.ids
    assert split.info.synthetic
    for modality in split.info.modalities:
        array = split.arrays[modality.name]
        assert array.dtype == (np.float32 if modality.kind == "table" else np.uint8)
        assert array.shape == (len(split), *modality.shape)
        assert len({row.tobytes() for row in array}) == len(split)
        assert split.values(modality.name, slice(4)).dtype == np.float32
    assert split.labels["findings"].shape == (len(split), 4)


def test_unknown_split() -> None:
    with pytest.raises(UserError, match=r"'validation'.*train, val, test"):
        PhantomRecord().load("validation")


def test_a_sample_does_not_depend_on_its_neighbours(splits: dict[str, Split]) -> None:
    picked = np.array([417, 3])
    alone = render("test", picked, bits_of(picked))
    for modality, values in alone.items():
        np.testing.assert_array_equal(values, splits["test"].arrays[modality][picked])


def test_splits_differ() -> None:
    first = np.arange(1)
    seen = [render(name, first, bits_of(first)) for name in SIZES]
    for modality in SHOWS:
        assert len({each[modality].tobytes() for each in seen}) == len(SIZES)


def test_any_64_in_a_row_hold_every_combination_of_bits() -> None:
    for start in (0, 5, 391):
        bits = bits_of(np.arange(start, start + 64))
        rows = {tuple(row) for row in np.stack([getattr(bits, name) for name in BITS], 1).tolist()}
        assert rows == set(product([False, True], repeat=len(BITS)))


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_labels_are_balanced(splits: dict[str, Split], name: str) -> None:
    """As far as the number of samples allows: the last 64 may be some of them only."""
    labels, size = splits[name].labels, SIZES[name]
    assert len(set(np.bincount(labels["lesion"]))) == 1
    uptake, hydrocephalus, inflamed, unexplained = labels["findings"].T
    for finding in (uptake, hydrocephalus, inflamed):
        assert abs(finding.sum() - size / 2) <= 16
    assert abs(unexplained.sum() - size / 4) <= 16
    np.testing.assert_array_equal(unexplained, uptake & ~inflamed & 1)


@pytest.mark.parametrize("bit", BITS)
def test_each_modality_is_blind_to_what_it_does_not_show(bit: str) -> None:
    """The proof of the single-modality bounds: a flipped bit leaves every other modality as it was."""
    truth = bits_of(FEW)
    before, after = render("test", FEW, truth), render("test", FEW, _flipped(truth, bit))
    for modality, shown in SHOWS.items():
        differs = (before[modality] != after[modality]).reshape(len(FEW), -1).any(1)
        assert differs.all() if bit in shown else not differs.any()


@pytest.mark.parametrize(("modality", "bit"), [("mr", "mr_bright"), ("ct", "ct_bright"), ("pet", "uptake")])
def test_a_bright_lesion_is_brighter_than_a_dark_one(modality: str, bit: str) -> None:
    """So much that it can be seen: by some grey levels, somewhere in every image."""
    truth = bits_of(FEW)
    images = [
        render("test", FEW, replace(truth, **{bit: np.full(len(FEW), bright)}))[modality].astype(int)
        for bright in (False, True)
    ]
    risen = (images[1] - images[0]).reshape(len(FEW), -1)
    assert risen.min() >= 0
    assert risen.max(1).min() > 20


def test_hydrocephalus_widens_what_is_dark_in_pet() -> None:
    truth = bits_of(FEW)
    images = [
        render("test", FEW, replace(truth, hydrocephalus=np.full(len(FEW), wide)))["pet"]
        for wide in (False, True)
    ]
    narrow, wide = (image.reshape(len(FEW), -1).mean(1) for image in images)
    assert (wide < narrow).all()


def test_inflammation_raises_what_it_says_and_nothing_else() -> None:
    truth = bits_of(FEW)
    records = [
        render("test", FEW, replace(truth, inflamed=np.full(len(FEW), inflamed)))["record"]
        for inflamed in (False, True)
    ]
    risen = (records[1] - records[0]) / USUAL[:, 1]
    np.testing.assert_array_equal(risen[:, RAISED == 0], 0)
    # The pulse is a whole number.
    np.testing.assert_allclose(risen, np.broadcast_to(RAISED, risen.shape), atol=0.051)


@pytest.mark.parametrize("question", BEST_SINGLE_MODALITY_ACCURACY)
@pytest.mark.parametrize("modality", SHOWS)
def test_best_single_modality_accuracy(question: str, modality: str) -> None:
    """The best rule that reads every bit of its modality; the record's own bit cannot be read for sure."""
    best = _best_of_shown(SHOWS[modality], _labels(EVERY_BIT)[question])
    stated = BEST_SINGLE_MODALITY_ACCURACY[question][modality]
    if (question, modality) == ("findings.inflamed", "record"):
        assert (best, stated) == (1.0, 0.91)
    else:
        assert stated == best


def test_every_bound_is_stated() -> None:
    questions = [name for head in INFO.heads for name in head.questions]
    assert list(BEST_SINGLE_MODALITY_ACCURACY) == questions
    for bounds in BEST_SINGLE_MODALITY_ACCURACY.values():
        assert tuple(bounds) == tuple(m.name for m in INFO.modalities)


def test_two_modalities_can_do_what_one_cannot() -> None:
    labels = _labels(EVERY_BIT)
    assert _best_of_shown((*SHOWS["mr"], *SHOWS["ct"]), labels["lesion"]) == 1
    assert _best_of_shown((*SHOWS["pet"], *SHOWS["record"]), labels["findings.unexplained"]) == 1


def _density(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of ``Draws.noise``: a sum of four uniform numbers, brought to variance 1."""
    x = values * np.sqrt(4 / 12) + 2
    sums = sum(sign * np.maximum(x - k, 0) ** 3 for k, sign in enumerate((1, -4, 6, -4, 1)))
    found: NDArray[np.float64] = np.asarray(np.maximum(sums, 0) / 6 * np.sqrt(4 / 12))
    return found


def test_what_the_record_tells_of_inflammation() -> None:
    """The likelihood ratio of the very noise is the best rule of all; rounding the pulse only hides more."""
    raised = RAISED[RAISED > 0]
    noise = np.random.default_rng(0).uniform(size=(400_000, len(raised), 4)).sum(2) * np.sqrt(
        3
    ) - 2 * np.sqrt(3)
    assert noise.std() == pytest.approx(1, abs=0.01)
    inflamed = np.arange(len(noise)) % 2 == 1
    seen = noise + inflamed[:, None] * raised
    likelihood = [np.prod(_density(seen - move), 1) for move in (0 * raised, raised)]
    best = float(((likelihood[1] > likelihood[0]) == inflamed).mean())
    bound = BEST_SINGLE_MODALITY_ACCURACY["findings.inflamed"]["record"]
    assert best <= bound
    assert best == pytest.approx(NormalDist().cdf(float(np.linalg.norm(RAISED)) / 2), abs=0.005)


def test_no_linear_rule_beats_the_bound_on_the_training_split(splits: dict[str, Split]) -> None:
    """The best of all rules for Gaussian noise, with the true means and deviations."""
    record, truth = splits["train"].arrays["record"], splits["train"].labels["findings"][:, 2]
    score = ((record - USUAL[:, 0]) / USUAL[:, 1]) @ RAISED
    right = float(((score > RAISED @ RAISED / 2) == truth).mean())
    assert 0.89 < right <= BEST_SINGLE_MODALITY_ACCURACY["findings.inflamed"]["record"]


def test_the_description_is_that_of_the_training_split(splits: dict[str, Split]) -> None:
    record, table = splits["train"].arrays["record"], INFO.modality("record")
    np.testing.assert_array_equal(record.min(0), table.low)
    np.testing.assert_array_equal(record.max(0), table.high)
    np.testing.assert_allclose(record.astype(np.float64).std(0), phantom_record.TRAIN_SCALE, atol=6e-5)
    np.testing.assert_array_equal(table.unit, np.array(phantom_record.TRAIN_SCALE, np.float32))
    for bound in (table.low, table.high, table.unit):
        assert isinstance(bound, np.ndarray)
        assert bound.dtype == np.float32


def test_records_hold_what_such_records_hold(splits: dict[str, Split]) -> None:
    columns = dict(zip(FEATURES, splits["train"].arrays["record"].T, strict=True))
    for name in ("sex", "implant"):
        assert set(columns[name].tolist()) == {0.0, 1.0}
    for name in ("age", "pulse"):
        np.testing.assert_array_equal(columns[name], np.round(columns[name]))
    assert columns["sex"].mean() == pytest.approx(0.5, abs=0.03)
    assert columns["implant"].mean() == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_nobody_can_forge_sex_and_implant(splits: dict[str, Split], norm: str) -> None:
    """The threat model puts them back, bit by bit, and calls an attack broken that changes one."""
    mutable = Box.of(INFO.modality("record")).mutable
    assert mutable is not None
    assert [name for name, free in zip(FEATURES, mutable.tolist(), strict=True) if not free] == list(FIXED)
    threat = make_threat_model({"record": 0.5}, norm, (), INFO)
    clean = {"record": torch.from_numpy(splits["test"].values("record", slice(50)))}
    moved = {"record": clean["record"] + 3}
    projected = threat.project(moved, clean)
    changed = (projected["record"] != clean["record"]).any(0)
    assert changed.tolist() == mutable.tolist()
    threat.check(projected, clean, "test")
    for name in FIXED:
        forged = projected["record"].clone()
        forged[7, FEATURES.index(name)] += 1e-6
        with pytest.raises(RuntimeError, match="elements of 'record' that an attacker cannot change"):
            threat.check({"record": forged}, clean, "test")
