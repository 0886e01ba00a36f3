"""Adversarial inputs come back bit for bit, and take little room."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mixed import MIXED, sample
from numpy.typing import NDArray
from tiny import asks, random_split, split_of

from robustbench_med.api.data import DatasetInfo, Modality, Split
from robustbench_med.api.space import Box
from robustbench_med.api.threat import Budget, Norm, ThreatModel
from robustbench_med.evaluation import kept as files
from robustbench_med.evaluation.kept import Ends, Kept, Origin, packed
from robustbench_med.evaluation.within import strays
from robustbench_med.util.errors import UserError

Values = Mapping[str, NDArray[np.float32]]
MASKED = Modality(
    "record",
    (3,),
    kind="table",
    low=np.array([-1, 0, 5], np.float32),
    high=np.array([1, 10, 50], np.float32),
    scale=np.array([0.5, 2.5, 11], np.float32),
    mutable=np.array([True, False, True]),
)
KINDS = (*MIXED[:3], MASKED)
EPSILONS = {"x": 4 / 255, "volume": 0.03, "signal": 0.1, "record": 0.3}


def threat(norm: Norm = "linf") -> ThreatModel:
    return ThreatModel({m.name: Budget(norm, EPSILONS[m.name], Box.of(m)) for m in KINDS})


def clean_values(count: int = 6) -> dict[str, NDArray[np.float32]]:
    values = {name: x.numpy() for name, x in sample(KINDS, count).items()}
    values["record"][0, 0] = 3.5  # a value of a table may lie beyond its range
    return values


def moved(clean: Values, within: ThreatModel, how: str) -> dict[str, NDArray[np.float32]]:
    """Inputs that an attack might hand back: at the ends, anywhere inside, or only a little off."""
    stream = torch.Generator().manual_seed(3)
    tensors = {name: torch.from_numpy(x) for name, x in clean.items()}
    out = {}
    for name, x in tensors.items():
        noise = torch.rand(x.shape, generator=stream) * 2 - 1
        step = {"ends": noise.sign() * 1e3, "inside": noise * 0.02, "tiny": noise * 1e-7}[how]
        out[name] = x + step
    return {name: x.numpy() for name, x in within.project(out, tensors).items()}


def as_split(values: Values) -> Split:
    count = len(values["x"])
    info = DatasetInfo(
        "mixed", "Mixed", "paired", KINDS, asks({"first": 2}, tuple(values)), "CC0-1.0", "none"
    )
    ids, rows = tuple(f"s{i}" for i in range(count)), {name: np.arange(count) for name in values}
    return Split("test", info, values, rows, {"first": np.zeros(count, np.int64)}, ids, ids)


def kept_of(adversarial: Values, clean: Values, within: ThreatModel) -> Kept:
    ids = tuple(f"s{i}" for i in range(len(next(iter(clean.values())))))
    ends = {name: Ends.of(budget) for name, budget in within.budgets.items()}
    return Kept(ids, ends, packed(adversarial, clean, within))


def assert_bits(found: Values, wanted: Values) -> None:
    assert found.keys() == wanted.keys()
    for name, x in wanted.items():
        np.testing.assert_array_equal(found[name].view(np.uint32), x.view(np.uint32), err_msg=name)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("how", ["ends", "inside", "tiny"])
def test_every_kind_comes_back_bit_for_bit(norm: Norm, how: str, tmp_path: Path) -> None:
    within, clean = threat(norm), clean_values()
    adversarial = moved(clean, within, how)
    kept = kept_of(adversarial, clean, within)
    assert_bits(kept.values(range(6), clean), adversarial)
    split = as_split(clean)
    digest = kept.digest(split)
    files.write(tmp_path / "a.npz", kept, Origin("run", split.fingerprint, digest))
    again, origin = files.read(tmp_path / "a.npz")
    assert origin == Origin("run", split.fingerprint, digest)
    assert again.ids == kept.ids
    assert again.digest(split) == digest
    assert_bits(again.values(range(6), clean), adversarial)


def test_odd_floats_come_back_too() -> None:
    """What no attack should hand back is kept as it is: negative zeros, subnormals, infinities, NaN."""
    within, clean = threat(), clean_values()
    adversarial = {name: x.copy() for name, x in clean.items()}
    odd = np.array([-0.0, 1e-45, np.inf, -np.inf, np.nan, np.finfo(np.float32).max], np.float32)
    adversarial["x"][:, 0, 0, 0] = odd
    adversarial["x"][0, 0, 1, 0] = np.uint32(0x7FC12345).view(np.float32)  # a NaN that carries something
    kept = kept_of(adversarial, clean, within)
    assert_bits(kept.values(range(6), clean), adversarial)


def test_the_digest_is_of_values_not_of_packing() -> None:
    within, clean = threat(), clean_values()
    adversarial = moved(clean, within, "inside")
    kept, split = kept_of(adversarial, clean, within), as_split(clean)
    other = {name: x.copy() for name, x in adversarial.items()}
    other["volume"].view(np.uint32)[2, 0, 1, 1, 1] ^= 1  # the last bit of one value
    assert kept_of(other, clean, within).digest(split) != kept.digest(split)
    wider = threat("l2")  # packed with other ends
    assert kept_of(adversarial, clean, wider).digest(split) == kept.digest(split)
    assert kept.take([2, 1]).ids == ("s2", "s1")
    two = {name: x[[2, 1]] for name, x in clean.items()}
    assert_bits(kept.take([2, 1]).values([0, 1], two), {name: x[[2, 1]] for name, x in adversarial.items()})


@pytest.mark.parametrize(("how", "most"), [("ends", 0.35), ("inside", 1.0)])
def test_it_is_smaller_than_a_compressed_npz(how: str, most: float, capsys: Any) -> None:
    within, clean = threat(), clean_values(20)
    # As images are: of 256 grey levels.
    clean["x"] = np.round(clean["x"] * 255).astype(np.float32) / np.float32(255)
    adversarial = moved(clean, within, how)
    ours = sum(len(blob) for blobs in packed(adversarial, clean, within).values() for blob in blobs)
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **adversarial)
    raw = sum(x.nbytes for x in adversarial.values())
    with capsys.disabled():
        print(f"\n{how}: raw {raw}, savez_compressed {stream.tell()}, kept {ours} bytes")
    assert ours < most * stream.tell()


@pytest.mark.parametrize("left", [0, 40, -30])
def test_a_damaged_file_is_one_line(left: int, tmp_path: Path) -> None:
    within, clean = threat(), clean_values()
    kept, split = kept_of(moved(clean, within, "ends"), clean, within), as_split(clean)
    path = tmp_path / "a.npz"
    files.write(path, kept, Origin("run", split.fingerprint, kept.digest(split)))
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(UserError, match="damaged"):
        files.read(path)


def test_a_blob_of_another_size_is_refused() -> None:
    """Nothing is inflated beyond what a sample can hold."""
    import zlib

    within, clean = threat(), clean_values()
    kept = kept_of(moved(clean, within, "inside"), clean, within)
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"\x02" + squeezer.compress(bytes(10_000_000)) + squeezer.flush()
    for blob in (bomb, b"", b"\x07abc", kept.blobs["x"][0][:-4]):
        spoilt = Kept(kept.ids, kept.ends, {**kept.blobs, "x": (blob, *kept.blobs["x"][1:])})
        with pytest.raises(ValueError, match=r"longer or shorter|layout|invalid"):
            spoilt.values(range(6), clean)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_what_an_attack_may_hand_in_is_within(norm: Norm) -> None:
    within, clean = threat(norm), clean_values()
    for how in ("ends", "inside", "tiny"):
        assert strays(moved(clean, within, how), clean, within, [f"s{i}" for i in range(6)]) == []


def spoilt(clean: Values, name: str, place: tuple[int, ...], by: float) -> dict[str, NDArray[np.float32]]:
    out = {n: x.copy() for n, x in clean.items()}
    out[name][place] += np.float32(by)
    return out


@pytest.mark.parametrize(
    ("name", "place", "by", "said"),
    [
        ("x", (2, 0, 5, 5), 0.017, "outside the ball of 0.0156863 by 0.0013"),
        ("x", (2, 0, 5, 5), float("nan"), "NaN"),
        ("volume", (2, 0, 3, 3, 3), -0.0301, "outside the ball of 0.03 by 0.0001"),
        ("signal", (2, 1, 7), 0.21, "outside the ball of 0.1 by 0.005"),
        ("record", (2, 0), 0.16, "outside the ball of 0.3 by 0.02"),
        ("record", (2, 1), 1e-3, "nobody may change"),
    ],
)
def test_a_stray_is_named(name: str, place: tuple[int, ...], by: float, said: str) -> None:
    clean = clean_values()
    for x in clean.values():
        x[2] = x[2] * np.float32(0.5) + np.float32(0.2)  # away from the ends of the range
    (found,) = strays(spoilt(clean, name, place, by), clean, threat(), [f"s{i}" for i in range(6)])
    assert found.sample == "s2"
    assert said in found.why
    assert repr(name) in found.why or "elements" in found.why


def test_outside_the_range_and_what_is_not_attacked() -> None:
    split = random_split(4)
    clean = {m.name: split.values(m.name, np.arange(4)) for m in split.info.modalities}
    clean["a"][1, 0, 0, 0] = 1.0
    within = ThreatModel({"a": Budget("linf", 0.1)})
    ids = split_of(clean, split.labels, {"first": 2, "second": 3}).ids
    (found,) = strays(spoilt(clean, "a", (1, 0, 0, 0), 0.05), clean, within, ids)
    assert "outside the range by 0.05" in found.why
    (found,) = strays(spoilt(clean, "b", (3, 0, 0, 0), 1e-6), clean, within, ids)
    assert found.sample == "s3"
    assert "may not be changed" in found.why
    joint = ThreatModel({"a": Budget("l2", 0.1), "b": Budget("l2", 0.1)}, joint=True)
    both = spoilt(spoilt(clean, "a", (0, 0, 1, 1), 0.09), "b", (0, 0, 1, 1), 0.09)
    (found,) = strays(both, clean, joint, ids)
    assert "together lie outside the ball of 0.1 by 0.027" in found.why
