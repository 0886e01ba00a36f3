"""Small data sets in the layouts that people have, written with known values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

RNG = np.random.default_rng(0)


def picture(path: Path, pixels: NDArray[Any]) -> NDArray[Any]:
    """Write an image file, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def noise(*shape: int) -> NDArray[np.uint8]:
    return RNG.integers(0, 256, shape or (8, 9), dtype=np.uint8)


def class_folders(root: Path, each: int = 3, splits: tuple[str, ...] = ("train", "test")) -> dict[str, Any]:
    """Images of the classes ``ill`` and ``well`` in splits; returns the pixels by name."""
    return {
        f"{split}/{name}/{number}.png": picture(root / split / name / f"{number}.png", noise())
        for split in splits
        for name in ("ill", "well")
        for number in range(each)
    }


def table(path: Path, header: str, *rows: str) -> Path:
    """Write a CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return path
