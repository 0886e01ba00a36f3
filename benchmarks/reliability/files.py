"""Files as publishers write them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image


def save_image(path: Path, seed: int, colour: bool = False) -> None:
    """Noise, which no two seeds share."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (28, 28, 3) if colour else (28, 28)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8)).save(path)


def save_table(path: Path, rows: list[dict[str, str]]) -> None:
    """A CSV as publishers write it."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
