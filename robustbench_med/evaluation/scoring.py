"""Logits of fixed inputs on draws that no attack has seen (evaluation.md, section 2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from robustbench_med.api.model import FusionModel
from robustbench_med.util.seeding import derive


def logits(
    model: FusionModel, inputs: Mapping[str, Tensor], draws: int, seed: int, *purpose: str | int
) -> dict[str, Tensor]:
    """Score inputs on ``draws`` fresh draws of the model's randomness.

    Args:
        model: in evaluation mode.
        inputs: modalities (B, C, H, W).
        draws: R; a deterministic model is run once whatever is asked.
        seed: together with ``purpose`` (say, "score" and the ids of the batch) names the draws.

    Returns:
        Per task (R, B, K), on the CPU.
    """
    rounds = 1 if model.draws_shared_by == "none" else draws
    model.noise.reseed(derive(seed, *purpose))
    with torch.inference_mode():
        outputs = [model(inputs) for _ in range(rounds)]
    return {task: torch.stack([out[task] for out in outputs]).cpu() for task in model.classes}
