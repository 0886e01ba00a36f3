"""The synthetic data set: same bytes every time, true labels, and no leak between modalities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from robustbench_med.api.data import Split
from robustbench_med.data import phantom
from robustbench_med.data.phantom import Findings, Phantom, findings_of, lesion_masks, render
from robustbench_med.util.errors import UserError

TEST_FINGERPRINT = "08b5d8c062b30389c8ae8cfbb4afe81fc11ae174c7a6a6b4ca08b221652ecd00"


@pytest.fixture(scope="module")
def test_split() -> Split:
    return Phantom().load("test")


def _flipped(findings: Findings, *, mr: bool = False, ct: bool = False) -> Findings:
    """The same findings with the MR bit, the CT bit or both inverted in every sample."""
    return Findings(findings.mr_bright ^ mr, findings.ct_bright ^ ct, findings.right)


def _lesion_contrast(split: Split, modality: str) -> NDArray[np.float64]:
    """Mean intensity in the lesion less that at the place mirrored in the midline: (N,)."""
    indices = np.arange(len(split))
    right = split.labels["side"] == 1
    here = lesion_masks(split.name, indices, right)
    there = lesion_masks(split.name, indices, ~right)
    image = split.values(modality, indices)[:, 0].astype(np.float64)
    weight = here / here.sum(axis=(1, 2), keepdims=True) - there / there.sum(axis=(1, 2), keepdims=True)
    contrast: NDArray[np.float64] = (weight * image).sum(axis=(1, 2))
    return contrast


def _bright_matches(split: Split, modality: str, bright: NDArray[Any]) -> float:
    """Share of samples whose lesion looks bright in ``modality`` exactly when ``bright`` says so."""
    return float(((_lesion_contrast(split, modality) > 0) == bright).mean())


def test_bytes_never_change(test_split: Split) -> None:
    assert test_split.fingerprint == TEST_FINGERPRINT
    assert Phantom().load("test").fingerprint == TEST_FINGERPRINT


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_split_keeps_the_contract(name: str) -> None:
    split = Phantom().load(name).validate()
    assert len(split) == phantom.SIZES[name]
    assert split.ids[1] == f"phantom-{name}-0001"
    assert split.groups == split.ids
    assert split.info.synthetic
    assert all(images.dtype == np.uint8 for images in split.arrays.values())
    for images in split.arrays.values():
        assert len({image.tobytes() for image in images}) == len(split)


def test_unknown_split() -> None:
    with pytest.raises(UserError, match=r"'validation'.*train, val, test"):
        Phantom().load("validation")


def test_a_sample_does_not_depend_on_its_neighbours(test_split: Split) -> None:
    picked = np.array([617, 3])
    alone = render("test", picked, findings_of(picked))
    for modality, images in alone.items():
        np.testing.assert_array_equal(images, test_split.arrays[modality][picked])


def test_splits_differ() -> None:
    first = np.arange(1)
    train, test = (render(split, first, findings_of(first)) for split in ("train", "test"))
    assert not np.array_equal(train["mr"], test["mr"])


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_labels_are_balanced(name: str) -> None:
    labels = phantom.labels_of(np.arange(phantom.SIZES[name]))
    counts = np.bincount(labels["lesion"] * 2 + labels["side"], minlength=8)
    assert counts.max() - counts.min() <= 1
    assert len(set(np.bincount(labels["lesion"]))) == 1


def test_each_modality_is_blind_to_the_bit_of_the_other() -> None:
    """The proof of the single-modality bound: flipping a bit leaves the other image as it was."""
    indices = np.arange(200)
    truth = findings_of(indices)
    images = render("test", indices, truth)
    other_ct = render("test", indices, _flipped(truth, ct=True))
    other_mr = render("test", indices, _flipped(truth, mr=True))
    np.testing.assert_array_equal(other_ct["mr"], images["mr"])
    np.testing.assert_array_equal(other_mr["ct"], images["ct"])
    for changed, modality in ((other_ct, "ct"), (other_mr, "mr")):
        differs = (changed[modality] != images[modality]).any(axis=(1, 2, 3))
        assert differs.all()


def test_flipping_a_bit_changes_the_lesion_only() -> None:
    indices = np.arange(200)
    truth = findings_of(indices)
    images, flipped = (render("test", indices, f) for f in (truth, _flipped(truth, mr=True, ct=True)))
    outside = lesion_masks("test", indices, truth.right)[:, None] == 0
    for modality in images:
        np.testing.assert_array_equal(images[modality][outside], flipped[modality][outside])


def test_bits_are_independent_and_side_tells_nothing_about_them(test_split: Split) -> None:
    truth = findings_of(np.arange(len(test_split)))
    for a, b in (
        (truth.mr_bright, truth.ct_bright),
        (truth.mr_bright, truth.right),
        (truth.ct_bright, truth.right),
    ):
        assert a.mean() == 0.5
        assert (a & b).mean() == 0.25


def test_labels_show_in_the_images(test_split: Split) -> None:
    """Told where to look, a plain mean reads each bit in its own modality and only there."""
    truth = findings_of(np.arange(len(test_split)))
    assert _bright_matches(test_split, "mr", truth.mr_bright) > 0.95
    assert _bright_matches(test_split, "ct", truth.ct_bright) > 0.95
    chance = 4 * 0.5 / np.sqrt(len(test_split))
    assert abs(_bright_matches(test_split, "mr", truth.ct_bright) - 0.5) < chance
    assert abs(_bright_matches(test_split, "ct", truth.mr_bright) - 0.5) < chance


def test_side_is_the_side_of_the_image(test_split: Split) -> None:
    right = test_split.labels["side"] == 1
    masks = lesion_masks("test", np.arange(len(test_split)), right)
    centre = (masks.sum(axis=1) * np.arange(phantom.SIDE)).sum(axis=1) / masks.sum(axis=(1, 2))
    np.testing.assert_array_equal(centre > (phantom.SIDE - 1) / 2, right)


def test_every_lesion_can_be_seen(test_split: Split) -> None:
    """No lesion is cut away by the skull: at least three pixels' worth of it lies in the brain."""
    masks = lesion_masks("test", np.arange(len(test_split)), test_split.labels["side"] == 1)
    assert masks.sum(axis=(1, 2)).min() > 3


def test_best_single_modality_accuracy() -> None:
    assert phantom.BEST_SINGLE_MODALITY_ACCURACY == {"lesion": 0.5, "side": 1.0}
