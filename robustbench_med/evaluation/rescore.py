"""Fixed inputs, scored again: what a run did after its attack."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from robustbench_med.api.model import FusionModel
from robustbench_med.evaluation.kept import Kept
from robustbench_med.evaluation.outcomes import Outcomes, Scores
from robustbench_med.evaluation.recorded import Recorded
from robustbench_med.evaluation.scoring import scores, scores_turned

Inputs = Callable[[NDArray[np.int64], Mapping[str, NDArray[np.float32]]], Mapping[str, NDArray[np.float32]]]
"""From positions in the split and the clean values there to the values that are scored."""


def clean_inputs(
    index: NDArray[np.int64], clean: Mapping[str, NDArray[np.float32]]
) -> Mapping[str, NDArray[np.float32]]:
    """The inputs of nobody's attack."""
    del index
    return clean


def kept_inputs(kept: Kept, recorded: Recorded) -> Inputs:
    """Those that were kept; of samples that are not among them the clean ones."""
    place = {sample: i for i, sample in enumerate(kept.ids)}

    def found(
        index: NDArray[np.int64], clean: Mapping[str, NDArray[np.float32]]
    ) -> Mapping[str, NDArray[np.float32]]:
        rows = [i for i, at in enumerate(index.tolist()) if recorded.split.ids[at] in place]
        if not rows:
            return clean
        places = [place[recorded.split.ids[int(index[i])]] for i in rows]
        some = kept.values(places, {name: x[rows] for name, x in clean.items()})
        out = {name: x.copy() for name, x in clean.items()}
        for name in kept.ends:
            out[name][rows] = some[name]
        return out

    return found


def scored(
    recorded: Recorded,
    inputs: Inputs,
    draws: int,
    seed: int,
    purpose: str,
    advance: Callable[[int], None] = lambda _: None,
) -> dict[str, NDArray[np.float32]]:
    """Scores on draws of the model that (seed, purpose) names, by head (R, N, columns).

    Clean inputs (purpose "clean") are asked for in order, others turned, as in a run.
    """
    model: FusionModel = recorded.loaded.fresh()
    ask = scores if inputs is clean_inputs and purpose == "clean" else scores_turned
    parts: list[Scores] = []
    for index in recorded.batches:
        clean = {m.name: recorded.split.values(m.name, index) for m in recorded.split.info.modalities}
        values = inputs(index, clean)
        tensors = {name: torch.from_numpy(x).to(recorded.device) for name, x in values.items()}
        ids = tuple(recorded.split.ids[i] for i in index)
        parts.append({h: z.numpy() for h, z in ask(model, tensors, draws, seed, purpose, ids).items()})
        advance(len(index))
    return {head: np.concatenate([part[head] for part in parts], 1) for head in parts[0]}


def outcomes_of(recorded: Recorded, clean: Scores, adversarial: Scores) -> Outcomes:
    """Outcomes of a run without an attack of its own."""
    split, batches = recorded.split, recorded.batches
    return Outcomes(
        ids=split.ids,
        groups=split.groups,
        labels={head.name: split.labels[head.name] for head in split.info.heads},
        clean=clean,
        adversarial=adversarial,
        choosing={},
        batches=np.repeat(np.arange(len(batches)), [len(index) for index in batches]),
        changed=np.full(len(split), np.nan, np.float32),
        gave_up=("",) * len(split),
        forward=0,
        backward=0,
        seconds=0.0,
        shown={},
    )
