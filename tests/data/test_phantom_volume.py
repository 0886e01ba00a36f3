"""The synthetic volumes: same bytes every time, true labels, and no leak between modalities."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from robustbench_med.api.data import Split
from robustbench_med.data.phantom import LESION_BRIGHT_IN_CT, LESION_BRIGHT_IN_MR
from robustbench_med.data.phantom_volume import (
    BEST_SINGLE_MODALITY_ACCURACY,
    SIZES,
    PhantomVolume,
    render,
)
from robustbench_med.util.errors import UserError

TEST_FINGERPRINT = "fce14716755b05753b4e488eb5854b57882ea664a16ef6853099fc624a64e714"
FEW = np.arange(60)
BRIGHT = {"mr": LESION_BRIGHT_IN_MR, "ct": LESION_BRIGHT_IN_CT}


@pytest.fixture(scope="module")
def splits() -> dict[str, Split]:
    return {name: PhantomVolume().load(name) for name in SIZES}


def _rendered(
    indices: NDArray[np.int64], *, mr: bool = False, ct: bool = False
) -> dict[str, NDArray[np.uint16]]:
    """The volumes of some samples, with the MR bit, the CT bit or both inverted in every sample."""
    return render("test", indices, BRIGHT["mr"][indices % 4] ^ mr, BRIGHT["ct"][indices % 4] ^ ct)


def test_bytes_never_change(splits: dict[str, Split]) -> None:
    assert splits["test"].fingerprint == TEST_FINGERPRINT
    assert PhantomVolume().load("test").fingerprint == TEST_FINGERPRINT


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_split_keeps_the_contract(splits: dict[str, Split], name: str) -> None:
    split = splits[name].validate()
    assert len(split) == SIZES[name]
    assert split.ids[1] == f"phantom-volume-{name}-0001"
    assert split.groups == split.ids
    assert split.info.synthetic
    for modality in split.info.modalities:
        array = split.arrays[modality.name]
        assert modality.kind == "volume"
        assert modality.is_plain
        assert array.dtype == np.uint16
        assert array.shape == (len(split), 1, 16, 32, 32)
        assert len({volume.tobytes() for volume in array}) == len(split)


def test_volumes_use_their_16_bits(splits: dict[str, Split]) -> None:
    """Stored in eight, they would have 256 values; as values they are shares of the full scale."""
    stored = splits["test"].arrays["mr"][:4]
    assert len(np.unique(stored)) > 10_000
    values = splits["test"].values("mr", slice(4))
    assert values.dtype == np.float32
    assert 0 <= values.min() < values.max() <= 1
    np.testing.assert_array_equal(values, stored.astype(np.float32) / np.float32(65535))


def test_unknown_split() -> None:
    with pytest.raises(UserError, match=r"'validation'.*train, val, test"):
        PhantomVolume().load("validation")


def test_a_sample_does_not_depend_on_its_neighbours(splits: dict[str, Split]) -> None:
    picked = np.array([317, 3])
    for modality, volumes in _rendered(picked).items():
        np.testing.assert_array_equal(volumes, splits["test"].arrays[modality][picked])


def test_splits_differ(splits: dict[str, Split]) -> None:
    for modality in BRIGHT:
        assert len({split.arrays[modality][0].tobytes() for split in splits.values()}) == len(SIZES)


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_labels_are_balanced(splits: dict[str, Split], name: str) -> None:
    assert np.bincount(splits[name].labels["lesion"]).tolist() == [SIZES[name] // 4] * 4


def test_each_modality_is_blind_to_the_bit_of_the_other() -> None:
    """The proof of the single-modality bound: flipping a bit leaves the other volume as it was."""
    volumes, other_mr, other_ct = _rendered(FEW), _rendered(FEW, mr=True), _rendered(FEW, ct=True)
    np.testing.assert_array_equal(other_ct["mr"], volumes["mr"])
    np.testing.assert_array_equal(other_mr["ct"], volumes["ct"])
    for changed, modality in ((other_ct, "ct"), (other_mr, "mr")):
        assert (changed[modality] != volumes[modality]).any(axis=(1, 2, 3, 4)).all()


@pytest.mark.parametrize("modality", ["mr", "ct"])
def test_a_bright_lesion_is_brighter_than_a_dark_one(modality: str) -> None:
    """In every sample, in tens of voxels and by twice the noise; in most voxels nothing changes."""
    both = _rendered(FEW)[modality], _rendered(FEW, mr=True, ct=True)[modality]
    bright = BRIGHT[modality][FEW % 4]
    risen = (both[0].astype(int) - both[1].astype(int)) * np.where(bright, 1, -1)[:, None, None, None, None]
    assert risen.min() >= 0
    lit = (risen > 0.06 * 65535).sum(axis=(1, 2, 3, 4))
    assert lit.min() > 20
    assert (risen > 0).mean() < 0.1


@pytest.mark.parametrize("modality", ["mr", "ct"])
def test_best_single_modality_accuracy(modality: str) -> None:
    """The best rule that is told the bit of one volume, over all four types; both bits tell the type."""
    types, told = np.arange(4), BRIGHT[modality]
    best = sum(int(np.bincount(types[told == bit]).max()) for bit in (False, True)) / len(types)
    assert {"lesion": best} == BEST_SINGLE_MODALITY_ACCURACY
    assert len(set(zip(BRIGHT["mr"].tolist(), BRIGHT["ct"].tolist(), strict=True))) == len(types)
