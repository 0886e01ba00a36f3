"""What a model declares, held against what it returns, on a few samples, before anything is computed with it.

Every command that runs a model asks this once. It looks for what makes wrong numbers with exit code 0:
missing heads, other columns than there are answers, a squeezed batch, scores that are no numbers; and for
what a model needs that is not said anywhere: a second sample, inputs of its own to write into.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robustbench_med.api.data import DatasetInfo, Split
from robustbench_med.api.heads import Head
from robustbench_med.api.model import FusionModel
from robustbench_med.evaluation.plan import load_batch
from robustbench_med.util.errors import UserError

ROWS = 3
REPEATED = 0.01  # of the range of a head's scores: beyond rounding, of half precision at most


@dataclass(frozen=True)
class Probed:
    """What was found out.

    Attributes:
        least: fewest samples the model takes in a pass: 2 if it fails on one.
        writes: it writes into its inputs, and gets copies of them.
        repeats: the same samples on the same draw get the same scores again, in whatever company.
    """

    least: int = 1
    writes: bool = False
    repeats: bool = True


def probe(model: FusionModel, split: Split, device: str, label: str) -> Probed:
    """Run a copy of the model on a few samples and look at what it returns.

    Args:
        model: in evaluation mode; a fresh copy, since it is asked.
        label: how errors call the model.

    Raises:
        UserError: what it returns is not what the data set's heads ask for.
    """
    batch = load_batch(split, np.arange(min(ROWS, len(split))), device)
    given = {name: x.clone() for name, x in batch.inputs.items()}
    with torch.no_grad(), model.noise.frozen(0):
        scores = model(given)
        _check_scores(scores, model.answers, len(batch), label)
        writes = any(not torch.equal(given[name], x) for name, x in batch.inputs.items())
        least = 1 if len(batch) == 1 else _least(model, batch.inputs, label)
        repeats = _repeats(model, batch.inputs, scores, least)
    return Probed(least, writes, repeats)


def check_fits(model: FusionModel, info: DatasetInfo, label: str) -> None:
    """Hold a model's interface against a data set's.

    Raises:
        UserError: a modality or a head that the model does not know, or of another shape.
    """
    for kind, mine, theirs in (
        ("modality", model.takes, {m.name: m for m in info.modalities}),
        ("head", model.answers, {h.name: h for h in info.heads}),
    ):
        for name in theirs:
            if name not in mine:
                raise UserError(f"{label} has no {kind} {name!r}, which {info.name} asks for")
    for name, head in model.answers.items():
        if name in {h.name for h in info.heads} and len(info.head(name).answers) != len(head.answers):
            raise UserError(f"{label} gives {name} {len(head.answers)} answers, {info.name} has others")


def _check_scores(scores: object, heads: Mapping[str, Head], rows: int, label: str) -> None:
    if not isinstance(scores, Mapping):
        raise UserError(
            f"{label} returns {type(scores).__name__}; it must return a mapping from head to scores"
        )
    for name, head in heads.items():
        if name not in scores:
            raise UserError(
                f"{label} returns no scores for the head {name!r} (only {', '.join(map(str, scores))})"
            )
        _check_head(scores[name], head, rows, label)
    extra = [str(name) for name in scores if name not in heads]
    if extra:
        raise UserError(
            f"{label} returns scores for {', '.join(extra)}, which the data set does not ask about"
        )


def _check_head(scores: object, head: Head, rows: int, label: str) -> None:
    where = f"{label}: scores of {head.name}"
    if not isinstance(scores, Tensor) or not scores.is_floating_point():
        kind = str(scores.dtype) if isinstance(scores, Tensor) else type(scores).__name__
        raise UserError(f"{where} are {kind}; they must be a tensor of floating-point numbers")
    wanted = " or ".join(f"({rows}, {columns})" for columns in head.columns)
    if scores.dim() != 2 or len(scores) != rows or scores.shape[1] not in head.columns:
        raise UserError(
            f"{where} have shape {tuple(scores.shape)} for {rows} samples; it must be {wanted} "
            f"({len(head.questions)} question(s), answers {', '.join(head.answers)})"
        )
    if not torch.isfinite(scores).all():
        raise UserError(
            f"{where} hold NaN or infinity on clean inputs; look at the model or its inputs' range"
        )


def _least(model: FusionModel, inputs: Mapping[str, Tensor], label: str) -> int:
    """Whether one sample is enough for a pass.

    Raises:
        UserError: it returns another shape for one sample.
    """
    single = {name: x[:1].clone() for name, x in inputs.items()}
    try:
        scores = model(single)
    except (ValueError, RuntimeError, IndexError):  # such as "expected more than 1 value per channel"
        return 2
    _check_scores(scores, model.answers, 1, f"{label} (one sample)")
    return 1


def _repeats(
    model: FusionModel, inputs: Mapping[str, Tensor], scores: Mapping[str, Tensor], least: int
) -> bool:
    """Whether scores come out again: of the whole batch, and of its first samples alone."""
    everyone = len(next(iter(inputs.values())))
    for rows in (everyone,) if model.draws_follow_shape else (everyone, least):
        again = model({name: x[:rows].clone() for name, x in inputs.items()})
        for head, z in scores.items():
            span = float(z.max() - z.min())
            if float((z[:rows] - again[head]).abs().max()) > REPEATED * span:
                return False
    return True
