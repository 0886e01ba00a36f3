"""What happened to every sample of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_med.util.arrays import joined_bytes, read_npz, split_bytes
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import replacing

Scores = Mapping[str, NDArray[np.float32]]
"""By head (R, N, columns)."""

GROUPS = ("labels", "clean", "adversarial", "choosing", "shown")


@dataclass(frozen=True)
class Outcomes:
    """What happened to every sample.

    Attributes:
        ids, groups: of the N samples.
        labels: by head (N,) or (N, questions).
        clean, adversarial: scores on fresh draws, by head (R, N, columns).
        choosing: scores of the adversarial inputs on R other draws, to choose among attacks by; {} for
            deterministic models.
        batches: (N,) the batch a sample was in.
        changed: (N,) how far the scores of the model that was attacked are from those of a fresh copy, on the
            same inputs and draws, as a share of their range; NaN where there was no copy.
        gave_up: (N,) the error with which the attack gave a sample up, "" where it did not.
        forward, backward: samples sent through the model by the attack.
        seconds: spent in attack and scoring.
        shown: values of the first few samples, "clean/<modality>" and "adversarial/<modality>", and
            "index", their positions.
        kept: the adversarial inputs of every sample, packed (``evaluation.kept``), by modality; {} when they
            are not wanted.
    """

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    labels: Mapping[str, NDArray[np.int64]]
    clean: Scores
    adversarial: Scores
    choosing: Scores
    batches: NDArray[np.int64]
    changed: NDArray[np.float32]
    gave_up: tuple[str, ...]
    forward: int
    backward: int
    seconds: float
    shown: Mapping[str, NDArray[Any]]
    kept: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def save(self, path: Path) -> None:
        """Write as .npz, atomically."""
        arrays = {
            "ids": np.array(self.ids),
            "groups": np.array(self.groups),
            "batches": self.batches,
            "changed": self.changed,
            "gave_up": np.array(self.gave_up),
            "passes": np.array([self.forward, self.backward]),
            "seconds": np.array(self.seconds),
        }
        for name in GROUPS:
            arrays |= {f"{name}/{key}": array for key, array in getattr(self, name).items()}
        for name, blobs in self.kept.items():
            arrays[f"kept/{name}"], arrays[f"kept_sizes/{name}"] = joined_bytes(blobs)
        with replacing(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> Outcomes:
        """Read what ``save`` wrote.

        Raises:
            UserError: the file is missing or damaged, or its parts do not fit each other.
        """
        if not path.is_file():  # of a pipe nothing would ever come
            raise UserError(f"{path} is missing or no plain file; delete its folder and run again")
        try:
            arrays = read_npz(path)
            under = {
                name: {k.split("/", 1)[1]: v for k, v in arrays.items() if k.startswith(f"{name}/")}
                for name in GROUPS
            }
            loaded = cls(
                ids=tuple(arrays["ids"].tolist()),
                groups=tuple(arrays["groups"].tolist()),
                batches=arrays["batches"],
                changed=arrays["changed"],
                gave_up=tuple(arrays["gave_up"].tolist()),
                forward=int(arrays["passes"][0]),
                backward=int(arrays["passes"][1]),
                seconds=float(arrays["seconds"]),
                kept=_kept(arrays),
                **under,
            )
            loaded._require_whole()
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            reason = " ".join(str(error).split()).removeprefix("it is damaged ").strip("()")[:200]
            raise UserError(f"{path} is damaged ({reason}); delete its folder and run again") from error
        return loaded

    def _require_whole(self) -> None:
        """Make sure that every part is about the same samples and heads (ValueError otherwise)."""
        count, heads = len(self.ids), set(self.clean)
        if not count or not heads:
            raise ValueError("it holds no samples")
        for name in ("groups", "batches", "changed", "gave_up"):
            if np.shape(getattr(self, name)) != (count,):
                raise ValueError(f"{name} are of other samples than the ids")
        if any(len(blobs) != count for blobs in self.kept.values()):
            raise ValueError("kept inputs are of other samples than the ids")
        for name in ("labels", "adversarial", *(["choosing"] if self.choosing else [])):
            if set(getattr(self, name)) != heads:
                raise ValueError(f"{name} are of other heads than the clean scores")
        if any(len(y) != count or y.dtype.kind not in "iu" for y in self.labels.values()):
            raise ValueError("labels are no whole numbers, one for each sample")
        for name in ("clean", "adversarial", "choosing"):
            for head, z in getattr(self, name).items():
                like = self.clean[head].shape[1:]
                if z.dtype.kind != "f" or z.ndim != 3 or z.shape[1:] != like or z.shape[1] != count:
                    raise ValueError(f"{name} scores of {head} do not fit the samples")

    def take(self, index: NDArray[np.int64]) -> Outcomes:
        """The samples at ``index``, without pictures and kept inputs."""
        scores = [
            {n: z[:, index] for n, z in kind.items()}
            for kind in (self.clean, self.adversarial, self.choosing)
        ]
        return replace(
            self,
            ids=tuple(self.ids[i] for i in index),
            groups=tuple(self.groups[i] for i in index),
            labels={name: y[index] for name, y in self.labels.items()},
            clean=scores[0],
            adversarial=scores[1],
            choosing=scores[2],
            batches=self.batches[index],
            changed=self.changed[index],
            gave_up=tuple(self.gave_up[i] for i in index),
            shown={},
            kept={},
        )


def joined(parts: Sequence[Outcomes]) -> Outcomes:
    """The outcomes of several batches, one after another."""

    def join(name: str, axis: int) -> dict[str, NDArray[Any]]:
        return {
            k: np.concatenate([getattr(p, name)[k] for p in parts], axis) for k in getattr(parts[0], name)
        }

    return Outcomes(
        ids=tuple(_flat(p.ids for p in parts)),
        groups=tuple(_flat(p.groups for p in parts)),
        labels=join("labels", 0),
        clean=join("clean", 1),
        adversarial=join("adversarial", 1),
        choosing=join("choosing", 1),
        batches=np.concatenate([p.batches for p in parts]),
        changed=np.concatenate([p.changed for p in parts]),
        gave_up=tuple(_flat(p.gave_up for p in parts)),
        forward=sum(p.forward for p in parts),
        backward=sum(p.backward for p in parts),
        seconds=sum(p.seconds for p in parts),
        shown=parts[0].shown,
        kept={name: tuple(blob for p in parts for blob in p.kept[name]) for name in parts[0].kept},
    )


def chosen_from(members: Sequence[Outcomes], choice: NDArray[np.int64]) -> Outcomes:
    """Per sample the outcome of the member that ``choice`` (N,) names; costs are summed.

    Args:
        members: outcomes of several attacks on the same samples, scored on the same draws.
    """
    everyone = np.arange(len(choice))

    def chosen(kind: str) -> dict[str, NDArray[np.float32]]:
        return {
            name: np.stack([getattr(m, kind)[name] for m in members])[choice, :, everyone].swapaxes(0, 1)
            for name in getattr(members[0], kind)
        }

    return replace(
        members[0],
        adversarial=chosen("adversarial"),
        choosing=chosen("choosing"),
        changed=np.stack([m.changed for m in members])[choice, everyone],
        gave_up=tuple(members[which].gave_up[i] for i, which in enumerate(choice)),
        forward=sum(m.forward for m in members),
        backward=sum(m.backward for m in members),
        seconds=sum(m.seconds for m in members),
        shown={},
        kept={},
    )


def _kept(arrays: Mapping[str, NDArray[Any]]) -> dict[str, tuple[bytes, ...]]:
    names = [key.removeprefix("kept/") for key in arrays if key.startswith("kept/")]
    return {name: split_bytes(arrays[f"kept/{name}"], arrays[f"kept_sizes/{name}"]) for name in names}


def _flat(parts: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for part in parts:
        yield from part
