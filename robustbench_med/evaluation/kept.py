"""Adversarial inputs, kept as differences to the clean ones: without loss, and small.

An attack in an Linf ball leaves most elements at an end of what they may be. "Clean", "lowest", "highest"
take two bits an element; whatever lies between is kept as the XOR of its bits with those of the clean value.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from robustbench_med.api.data import Split
from robustbench_med.api.threat import Budget, ThreatModel
from robustbench_med.util.arrays import joined_bytes, read_npz, split_bytes
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import replacing

FORMAT = 1
FILE = "adversarial.npz"
CLEAN, LOWEST, HIGHEST, BETWEEN = range(4)
# What is deflated: codes with the bytes of what lies between in planes; or one after another; or, without
# codes, every difference. Which is shortest depends on the attack (docs/verify.md).
PLANES, PLAIN, WHOLE = range(3)
AT_ONCE = 50  # samples whose values are in memory together

Values = Mapping[str, NDArray[np.float32]]
Blobs = Mapping[str, tuple[bytes, ...]]
"""By modality one a sample."""


@dataclass(frozen=True, eq=False)
class Ends:
    """How far the elements of one modality may go.

    Attributes:
        reach: from the clean value; infinite in an L2 ball, 0 where nothing may change.
        low, high: the range.
        open_ended: clean values may lie beyond the range, which then reaches to them.

    All arrays are float32 and broadcast to one sample.
    """

    reach: NDArray[np.float32]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    open_ended: bool

    @classmethod
    def of(cls, budget: Budget) -> Ends:
        """Those of an attacked modality."""
        box = budget.box
        unit, low, high = (_array(part) for part in (box.unit, box.low, box.high))
        reach = np.float32(budget.epsilon) * unit
        if budget.norm != "linf":
            reach = np.full_like(unit, np.inf)
        if box.mutable is not None:
            reach = np.where(box.mutable.cpu().numpy(), reach, np.float32(0))
        return cls(np.asarray(reach, np.float32), low, high, box.open_ended)

    def around(self, clean: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The lowest and the highest values of samples, (B, *shape) each.

        Single float32 operations: the same on every machine.
        """
        low = np.minimum(clean, self.low) if self.open_ended else self.low
        high = np.maximum(clean, self.high) if self.open_ended else self.high
        lowest, highest = np.maximum(clean - self.reach, low), np.minimum(clean + self.reach, high)
        return np.asarray(lowest, np.float32), np.asarray(highest, np.float32)


def _array(part: float | torch.Tensor) -> NDArray[np.float32]:
    return np.asarray(part.cpu().numpy() if isinstance(part, torch.Tensor) else part, np.float32)


def packed(adversarial: Values, clean: Values, threat: ThreatModel) -> dict[str, tuple[bytes, ...]]:
    """The attacked modalities of a batch, a blob a sample; the others are the clean ones, bit for bit."""
    return {
        name: tuple(_packed(adversarial[name], clean[name], Ends.of(budget)))
        for name, budget in threat.budgets.items()
    }


def _packed(values: NDArray[np.float32], clean: NDArray[np.float32], ends: Ends) -> Iterator[bytes]:
    given, before = _bits(values), _bits(clean)
    lowest, highest = map(_bits, ends.around(clean))
    codes = np.full(given.shape, BETWEEN, np.uint8)
    for code, same in ((HIGHEST, highest), (LOWEST, lowest), (CLEAN, before)):
        codes[given == same] = code
    for sample, differences in zip(codes, given ^ before, strict=True):
        yield _deflated(sample.ravel(), differences.ravel())


def _bits(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    return np.ascontiguousarray(values, "<f4").view("<u4")


def _deflated(codes: NDArray[np.uint8], differences: NDArray[np.uint32]) -> bytes:
    """The shortest of the layouts, behind a byte that names it."""
    padded = np.zeros(-(-len(codes) // 4) * 4, np.uint8)
    padded[: len(codes)] = codes
    head = (padded.reshape(-1, 4) << np.array([0, 2, 4, 6], np.uint8)).sum(1, dtype=np.uint8).tobytes()
    between = differences[codes == BETWEEN]
    planes = np.ascontiguousarray(between.view(np.uint8).reshape(-1, 4).T).tobytes()
    bodies = {PLANES: head + planes, PLAIN: head + between.tobytes(), WHOLE: differences.tobytes()}
    return min((bytes([layout]) + _deflate(body) for layout, body in bodies.items()), key=len)


def _deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)  # raw: a checksum of every sample is in the digest
    return packer.compress(body) + packer.flush()


def _unpacked(
    blob: bytes, clean: NDArray[np.float32], lowest: NDArray[np.float32], highest: NDArray[np.float32]
) -> NDArray[np.float32]:
    """One sample again (ValueError when the blob is not one of a sample of this size)."""
    count = clean.size
    head = -(-count // 4)
    layout, body = blob[:1], _inflated(blob[1:], head + 4 * count)
    before = _bits(clean).ravel()
    if layout == bytes([WHOLE]):
        return _floats(before ^ np.frombuffer(body, "<u4", count), clean.shape)
    if layout not in (bytes([PLANES]), bytes([PLAIN])) or len(body) < head:
        raise ValueError("a sample is of no known layout")
    codes = (np.frombuffer(body, np.uint8, head)[:, None] >> np.array([0, 2, 4, 6], np.uint8)) & 3
    flat = codes.ravel()[:count]
    between = int((flat == BETWEEN).sum())
    rest = np.frombuffer(body, np.uint8, offset=head)
    if len(rest) != 4 * between:
        raise ValueError("a sample is longer or shorter than it says")
    if layout == bytes([PLANES]):
        rest = np.ascontiguousarray(rest.reshape(4, between).T).ravel()
    out = np.choose(flat, [before, _bits(lowest).ravel(), _bits(highest).ravel(), before])
    out[flat == BETWEEN] ^= np.frombuffer(rest.tobytes(), "<u4")
    return _floats(out, clean.shape)


def _floats(bits: NDArray[np.uint32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.asarray(bits.astype("<u4").view("<f4").reshape(shape), np.float32)


def _inflated(body: bytes, most: int) -> bytes:
    unpacker = zlib.decompressobj(-15)
    out = unpacker.decompress(body, most + 1)
    if len(out) > most or not unpacker.eof or unpacker.unused_data:
        raise ValueError("a sample is longer or shorter than it says")
    return out


@dataclass(frozen=True, eq=False)
class Kept:
    """Adversarial inputs of some samples.

    Attributes:
        ids: of the samples.
        ends: by attacked modality.
        blobs: by attacked modality one a sample.
    """

    ids: tuple[str, ...]
    ends: Mapping[str, Ends]
    blobs: Blobs

    def values(self, places: Sequence[int], clean: Values) -> dict[str, NDArray[np.float32]]:
        """The inputs of the samples at ``places`` here; modalities that were not attacked are the clean ones.

        Args:
            clean: all modalities of these samples, (B, *shape) each.

        Raises:
            ValueError: what was kept does not fit the clean inputs.
        """
        out = dict(clean)
        for name, ends in self.ends.items():
            if name not in clean:
                raise ValueError(f"the data has no modality {name!r}")
            lowest, highest = ends.around(clean[name])
            if lowest.shape != clean[name].shape or highest.shape != clean[name].shape:
                raise ValueError(f"{name!r} has another shape in the data")
            blobs = self.blobs[name]
            try:
                rows = [
                    _unpacked(blobs[place], clean[name][i], lowest[i], highest[i])
                    for i, place in enumerate(places)
                ]
            except zlib.error as error:
                raise ValueError(str(error)) from error
            out[name] = np.stack(rows).astype(np.float32)
        return out

    def batches(self, split: Split) -> Iterator[tuple[list[int], NDArray[np.int64], Values, Values]]:
        """Places here, places in the split, clean and adversarial values, some samples at a time.

        Raises:
            ValueError: a sample that the split does not have, or see ``values``.
        """
        at = {sample: i for i, sample in enumerate(split.ids)}
        if missing := next((sample for sample in self.ids if sample not in at), None):
            raise ValueError(f"the data has no sample {missing!r}")
        for start in range(0, len(self.ids), AT_ONCE):
            places = list(range(start, min(start + AT_ONCE, len(self.ids))))
            index = np.array([at[self.ids[place]] for place in places])
            clean = {m.name: split.values(m.name, index) for m in split.info.modalities}
            yield places, index, clean, self.values(places, clean)

    def digest(self, split: Split) -> str:
        """SHA-256 over ids and values, whatever the packing; see ``batches`` for what is raised."""
        whole = hashlib.sha256()
        for places, _, _, values in self.batches(split):
            for row, place in enumerate(places):
                whole.update(self.ids[place].encode() + b"\0")
                for name in sorted(self.ends):
                    whole.update(name.encode() + b"\0" + _bits(values[name][row]).tobytes())
        return whole.hexdigest()

    def take(self, places: Sequence[int]) -> Kept:
        """Some of the samples, in that order."""
        blobs = {name: tuple(each[i] for i in places) for name, each in self.blobs.items()}
        return Kept(tuple(self.ids[i] for i in places), self.ends, blobs)


@dataclass(frozen=True)
class Origin:
    """What a file of adversarial inputs belongs to.

    Attributes:
        run: of the record.
        fingerprint: of its samples.
        digest: of the inputs.
    """

    run: str
    fingerprint: str
    digest: str


def write(path: Path, kept: Kept, origin: Origin) -> None:
    """Write as .npz, atomically.

    Raises:
        UserError: the file system does not take it.
    """
    arrays: dict[str, Any] = {
        "format": np.array(FORMAT),
        "run": np.array(origin.run),
        "fingerprint": np.array(origin.fingerprint),
        "inputs": np.array(origin.digest),
        "ids": np.array(kept.ids),
    }
    for name, ends in kept.ends.items():
        data, sizes = joined_bytes(kept.blobs[name])
        arrays |= {f"packed/{name}": data, f"sizes/{name}": sizes, f"reach/{name}": ends.reach}
        arrays |= {f"low/{name}": ends.low, f"high/{name}": ends.high}
        arrays |= {f"open/{name}": np.array(ends.open_ended)}
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)


def is_kept(arrays: Mapping[str, Any]) -> bool:
    """Whether the arrays of a file are of ours."""
    return {"format", "run", "inputs"} <= set(arrays)


def read(path: Path) -> tuple[Kept, Origin]:
    """Read what ``write`` wrote.

    Raises:
        UserError: the file is missing, damaged or another one.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing or no plain file; give adversarial inputs that a run kept")
    try:
        arrays = read_npz(path)
        if not is_kept(arrays):
            raise UserError(f"{path} holds no adversarial inputs that robmed run kept (--save-adversarial)")
        return parsed(arrays)
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        reason = " ".join(str(error).split()).removeprefix("it is damaged ").strip("()")[:200]
        raise UserError(f"{path} is damaged ({reason}); get it again") from error


def parsed(arrays: Mapping[str, NDArray[Any]]) -> tuple[Kept, Origin]:
    """From the arrays of a file (ValueError, KeyError when they do not fit each other)."""
    if int(arrays["format"]) != FORMAT:
        raise ValueError(f"it is of format {int(arrays['format'])}, this version reads {FORMAT}")
    ids = tuple(map(str, arrays["ids"].tolist()))
    names = [key.removeprefix("packed/") for key in arrays if key.startswith("packed/")]
    blobs = {name: split_bytes(arrays[f"packed/{name}"], arrays[f"sizes/{name}"]) for name in names}
    if not ids or not names or any(len(each) != len(ids) for each in blobs.values()):
        raise ValueError("its parts are of other samples than its ids")
    if len(set(ids)) < len(ids):
        raise ValueError("it has a sample twice")
    ends = {name: _ends(arrays, name) for name in names}
    origin = Origin(str(arrays["run"]), str(arrays["fingerprint"]), str(arrays["inputs"]))
    return Kept(ids, ends, blobs), origin


def _ends(arrays: Mapping[str, NDArray[Any]], name: str) -> Ends:
    reach, low, high = (np.asarray(arrays[f"{what}/{name}"], np.float32) for what in ("reach", "low", "high"))
    return Ends(reach, low, high, bool(arrays[f"open/{name}"]))
