"""What happened to every sample of a run."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_med.util.errors import UserError
from robustbench_med.util.files import replacing


@dataclass(frozen=True)
class Outcomes:
    """What happened to every sample.

    Attributes:
        ids, groups: of the N samples.
        labels: per task (N,).
        clean, adversarial: logits on fresh draws, per task (R, N, K).
        batches: (N,) the batch a sample was in.
        forward, backward: samples sent through the model by the attack.
        seconds: spent in attack and scoring.
        shown: images of the first few samples, "clean/<modality>" and "adversarial/<modality>",
            and "index", their positions.
    """

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    labels: Mapping[str, NDArray[np.int64]]
    clean: Mapping[str, NDArray[np.float32]]
    adversarial: Mapping[str, NDArray[np.float32]]
    batches: NDArray[np.int64]
    forward: int
    backward: int
    seconds: float
    shown: Mapping[str, NDArray[Any]]

    def save(self, path: Path) -> None:
        """Write as .npz, atomically."""
        arrays = {
            "ids": np.array(self.ids),
            "groups": np.array(self.groups),
            "batches": self.batches,
            "passes": np.array([self.forward, self.backward]),
            "seconds": np.array(self.seconds),
        }
        for name in ("labels", "clean", "adversarial", "shown"):
            arrays |= {f"{name}/{key}": array for key, array in getattr(self, name).items()}
        with replacing(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> Outcomes:
        """Read what ``save`` wrote.

        Raises:
            UserError: the file is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            under = {
                name: {k.split("/", 1)[1]: v for k, v in arrays.items() if k.startswith(f"{name}/")}
                for name in ("labels", "clean", "adversarial", "shown")
            }
            return cls(
                ids=tuple(arrays["ids"].tolist()),
                groups=tuple(arrays["groups"].tolist()),
                batches=arrays["batches"],
                forward=int(arrays["passes"][0]),
                backward=int(arrays["passes"][1]),
                seconds=float(arrays["seconds"]),
                **under,
            )
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{path} is damaged ({error}); delete its folder and run again") from error
