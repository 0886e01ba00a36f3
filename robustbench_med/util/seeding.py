"""Seeds derived from what they are for, never from a shared stream.

A number then depends on the seed and on names (sample id, purpose), not on batch size, order or
resumption (docs/method.md, "Reproducibility").
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed that depends on ``seed`` and every part of ``purpose``."""
    text = "\0".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator of its own for one purpose."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *purpose))
