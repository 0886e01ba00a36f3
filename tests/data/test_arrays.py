"""Somebody's arrays: what is taken, with the true numbers; what is refused, and the line to write."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from robustbench_med.api.heads import MultiLabel, SingleLabel
from robustbench_med.data.arrays import Taken, split_of_arrays
from robustbench_med.util.errors import UserError

N = 24
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (N, 1, 6, 7), dtype=np.uint8)
FLOATS = (GREY / np.float32(255)).astype(np.float32)
LABELS = np.arange(N) % 3


def take(x: Any = GREY, y: Any = LABELS, **options: Any) -> Taken:
    return split_of_arrays("mine", {"mr": x}, {"lesion": y}, **options)


@pytest.mark.parametrize(
    ("x", "shape", "kind"),
    [
        (GREY, (1, 6, 7), "image"),
        (FLOATS, (1, 6, 7), "image"),
        (FLOATS.astype(np.float64).tolist(), (1, 6, 7), "image"),
        (torch.from_numpy(FLOATS).requires_grad_(), (1, 6, 7), "image"),
        (GREY[:, 0], (1, 6, 7), "image"),
        (GREY.transpose(0, 2, 3, 1), (1, 6, 7), "image"),
        (np.repeat(GREY, 3, 1), (3, 6, 7), "image"),
        (np.repeat(GREY, 2, 1), (2, 6, 7), "image"),
        (np.repeat(GREY, 3, 1).transpose(0, 2, 3, 1), (3, 6, 7), "image"),
        (GREY[:, :, None].repeat(5, 2), (1, 5, 6, 7), "volume"),
        (GREY.astype(np.uint16) * 257, (1, 6, 7), "image"),
    ],
)
def test_what_is_stored_in_any_way_is_the_same_image(x: Any, shape: tuple[int, ...], kind: str) -> None:
    split = take(x).split
    modality = split.info.modality("mr")
    assert (modality.shape, modality.kind) == (shape, kind)
    expected = np.broadcast_to(FLOATS if kind == "image" else FLOATS[:, :, None], (N, *shape))
    np.testing.assert_allclose(split.values("mr", slice(None)), expected, atol=1e-6)


def test_normalised_values_are_taken_back() -> None:
    mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.25, 0.3])
    colour = np.repeat(FLOATS, 3, 1)
    normalised = ((colour - mean.reshape(-1, 1, 1)) / std.reshape(-1, 1, 1)).astype(np.float32)
    taken = take(normalised, mean=mean, std=std)
    np.testing.assert_allclose(taken.split.values("mr", slice(None)), colour, atol=1e-6)
    assert "taken back" in taken.said[0]
    assert take(colour, mean=mean, std=std).said == take(colour).said


def test_a_declared_range_is_the_models_own() -> None:
    split = take(FLOATS * 2 - 1, ranges={"mr": (-1, 1)}).split
    assert (split.info.modality("mr").low, split.info.modality("mr").high) == (-1.0, 1.0)
    hounsfield = np.linspace(-1000, 2000, N * 42).reshape(GREY.shape).astype(np.int16)
    split = take(hounsfield, ranges=(-1024, 3071)).split
    np.testing.assert_array_equal(split.values("mr", slice(None)), hounsfield)


@pytest.mark.parametrize(
    ("y", "options", "classes", "labels"),
    [
        (LABELS, {}, ("0", "1", "2"), LABELS),
        (LABELS[:, None], {}, ("0", "1", "2"), LABELS),
        (LABELS.astype(float), {"classes": ["a", "b", "c"]}, ("a", "b", "c"), LABELS),
        (LABELS, {"classes": 5}, ("0", "1", "2", "3", "4"), LABELS),
        (LABELS == 1, {}, ("no", "yes"), LABELS == 1),
        (np.eye(3)[LABELS], {}, ("0", "1", "2"), LABELS),
        (np.array(["c", "a", "b"])[LABELS], {}, ("a", "b", "c"), np.array([2, 0, 1])[LABELS]),
        (np.array(["c", "a", None], object)[LABELS], {}, ("a", "c"), np.array([1, 0, -1])[LABELS]),
        (np.where(LABELS == 2, np.nan, LABELS), {}, ("0", "1"), np.where(LABELS == 2, -1, LABELS)),
        (
            LABELS,
            {"heads": SingleLabel("lesion", classes=("x", "y", "z"), modalities=("mr",))},
            "xyz",
            LABELS,
        ),
    ],
)
def test_labels_of_one_class_a_sample(y: Any, options: Any, classes: Any, labels: Any) -> None:
    split = take(y=y, **options).split
    assert split.info.head("lesion").kind == "single-label"
    assert split.info.head("lesion").answers == tuple(classes)
    np.testing.assert_array_equal(split.labels["lesion"], labels)


def test_rows_of_findings_are_findings() -> None:
    rows = RNG.integers(0, 2, (N, 14))
    rows[3, 2] = -1
    taken = take(y=rows)
    head = taken.split.info.head("lesion")
    assert isinstance(head, MultiLabel)
    assert len(head.findings) == 14
    np.testing.assert_array_equal(taken.split.labels["lesion"], rows)
    assert "1 of 336 labels are unknown" in " ".join(taken.said)
    one_each = MultiLabel("lesion", findings=("a", "b", "c"), modalities=("mr",))
    np.testing.assert_array_equal(take(y=np.eye(3)[LABELS], heads=one_each).split.labels["lesion"].sum(1), 1)


def test_ids_come_from_the_values_and_not_from_their_order() -> None:
    whole, back = take().split, take(GREY[::-1], LABELS[::-1]).split
    assert whole.ids == back.ids[::-1]
    twice = take(np.concatenate([GREY, GREY[:2]]), np.concatenate([LABELS, LABELS[:2]])).split
    assert twice.ids[N:] == (f"{whole.ids[0]}-2", f"{whole.ids[1]}-2")
    assert twice.groups == twice.ids


def test_a_table_gets_range_and_scale_of_the_training_split() -> None:
    train = np.array([[0, 5, 1], [2, 5, 3], [4, 5, 2]], float)
    split = split_of_arrays(
        "mine", {"lab": train[:2] + 1}, {"y": [0, 1]}, train={"lab": train}, ids=[7, 8], groups=["p", "p"]
    ).split
    lab = split.info.modality("lab")
    np.testing.assert_allclose(lab.low, [0, 4.5, 1])
    np.testing.assert_allclose(lab.high, [4, 5.5, 3])
    assert lab.scale is not None
    assert lab.mutable is not None
    np.testing.assert_allclose(lab.scale, [train[:, 0].std(), 1, train[:, 2].std()])
    assert lab.mutable.tolist() == [True, False, True]
    assert (split.ids, split.groups) == (("7", "8"), ("p", "p"))


@pytest.mark.parametrize(
    ("x", "y", "options", "said"),
    [
        (FLOATS.transpose(0, 2, 3, 1), LABELS, {}, "x.transpose(0, 3, 1, 2)"),
        (FLOATS[:, 0], LABELS, {}, 'kinds={"mr": "signal"}'),
        (FLOATS * 2 - 1, LABELS, {}, 'ranges={"mr": (-1, 1)}'),
        (FLOATS * 255, LABELS, {}, 'ranges={"mr": (0, 255)}'),
        (FLOATS / 255, LABELS, {}, "divided by 255 twice"),
        (FLOATS * 2 - 1, LABELS, {"mean": 0.1, "std": 1.0}, "not 0 to 1"),
        (FLOATS * 2 - 1, LABELS, {"mean": [0.5, 0.5], "std": 0.5}, "one for each channel"),
        (FLOATS * np.nan, LABELS, {}, "NaN or infinite"),
        (GREY.astype(np.int64), LABELS, {}, "full scale is not known"),
        (GREY.astype(np.uint16) * 16, LABELS, {}, 'ranges={"mr": (LOW, HIGH)}'),
        (np.repeat(GREY, 6, 1), LABELS, {}, "where are its channels"),
        (GREY, LABELS, {"kinds": {"ct": "image"}}, "'ct'"),
        (GREY, LABELS, {"kinds": "picture"}, "unknown kind 'picture'"),
        (GREY, LABELS, {"kinds": "volume", "ranges": {"mr": (1, 0)}}, "from a lower to a higher"),
        (np.array(["a"] * N), LABELS, {}, "holds text"),
        ([[1.0], [1.0, 2.0]], LABELS, {}, "is not an array"),
        (torch.zeros(N, 1, 4, 4, dtype=torch.bfloat16), LABELS, {}, "is not an array"),
        (GREY[:5], LABELS, {}, "input mr 5, labels lesion 24"),
        (GREY, LABELS + 1, {}, "number the classes from 0"),
        (GREY, LABELS * 40000, {}, "classes="),
        (GREY, LABELS / 7, {}, "number the classes"),
        (GREY, LABELS * 0, {}, "only the class '0'"),
        (GREY, LABELS * 0 - 1, {}, "every label of lesion is unknown"),
        (GREY, np.eye(2)[LABELS % 2], {}, "classes or findings?"),
        (GREY[:9], np.eye(3)[LABELS[:9]], {}, "classes or findings?"),
        (GREY, LABELS, {"classes": ["a", "b"]}, "outside 0 to 1"),
        (GREY, np.tile(LABELS[:, None], 4), {}, "findings are 0, 1 or -1"),
        (GREY, GREY, {}, "segmentation"),
        (GREY, LABELS, {"ids": ["a"] * N}, "ids repeat"),
        (GREY, LABELS, {"groups": "abc"}, "groups is one text"),
        (GREY, LABELS, {"groups": 5}, "groups must be a list"),
        (GREY, LABELS, {"groups": ["a"]}, "1 values of groups for 24 samples"),
        (GREY, LABELS, {"subgroups": ["a"] * N}, "subgroups must be a mapping"),
        (GREY, LABELS, {"heads": {"lesion": 3}}, "heads= must be heads"),
        (GREY, LABELS, {"heads": [MultiLabel("x", findings=("a",), modalities=("mr",))]}, "the same heads"),
        (GREY, LABELS, {"split": "Test"}, "did you mean 'test'?"),
        (GREY, LABELS, {"classes": 1}, "classes of lesion are 1"),
        (GREY, LABELS, {"ranges": {"mr": 255}}, "write (LOW, HIGH)"),
        (GREY.astype(complex), LABELS, {}, "holds complex128"),
        (RNG.normal(size=(N, 3)) * np.nan, LABELS, {}, "NaN or infinite in row 0"),
    ],
)
def test_what_has_two_meanings_is_refused_in_one_line(x: Any, y: Any, options: Any, said: str) -> None:
    with pytest.raises(UserError) as refused:
        take(x, y, **options)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
