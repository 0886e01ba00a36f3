"""Scores of fixed inputs on draws that no attack has seen (docs/method.md, "Random models")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from robustbench_med.api.model import FusionModel
from robustbench_med.util.seeding import derive


def scores(
    model: FusionModel,
    inputs: Mapping[str, Tensor],
    draws: int,
    seed: int,
    purpose: str,
    ids: Sequence[str],
) -> dict[str, Tensor]:
    """Score inputs on ``draws`` fresh draws of the model's randomness.

    Args:
        model: in evaluation mode.
        inputs: modalities (B, *shape).
        draws: R; a deterministic model is run once whatever is asked.
        purpose: together with ``seed`` and each sample's id names the draws ("score").

    Returns:
        By head (R, B, columns), float32 on the CPU.
    """
    random = model.draws_shared_by != "none"
    outputs = []
    with torch.inference_mode():
        for number in range(draws if random else 1):
            if random:
                model.noise.key([derive(seed, purpose, number, sample) for sample in ids])
            outputs.append(model(inputs))
    return {name: torch.stack([out[name] for out in outputs]).float().cpu() for name in model.answers}


def scores_turned(
    model: FusionModel,
    inputs: Mapping[str, Tensor],
    draws: int,
    seed: int,
    purpose: str,
    ids: Sequence[str],
) -> dict[str, Tensor]:
    """``scores``, asked for in the opposite order, so that a model that goes by the order gives itself away.

    Draws that a batch shares depend on its order, and are asked for in that.
    """
    if model.draws_shared_by == "batch":
        return scores(model, inputs, draws, seed, purpose, ids)
    turned = {name: x.flip(0) for name, x in inputs.items()}
    found = scores(model, turned, draws, seed, purpose, ids[::-1])
    return {head: z.flip(1) for head, z in found.items()}
