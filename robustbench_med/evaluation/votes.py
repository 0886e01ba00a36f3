"""The votes of noisy copies, sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_med.api.attack import Batch
from robustbench_med.api.data import Split
from robustbench_med.api.model import FusionModel
from robustbench_med.evaluation.batches import load_batch
from robustbench_med.measure.certificate import (
    Smoothing,
    Votes,
)
from robustbench_med.util.config import build
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import read_json, write_json
from robustbench_med.util.seeding import derive


def count_votes(model: FusionModel, batch: Batch, smoothing: Smoothing) -> Votes:
    """Algorithm CERTIFY's two samplings, for all heads from the same noisy copies.

    The noise derives from (seed, sample id, modality), whatever the batch size and the device.

    Args:
        model: in evaluation mode; random ones must draw per element, so that copies are independent.
        batch: one sample.
    """
    model.noise.reseed(derive(smoothing.seed, "certify", *batch.ids))
    streams = {
        name: np.random.default_rng(derive(smoothing.seed, "certify", *batch.ids, name))
        for name in smoothing.sigmas
    }
    first = _counts(model, batch, smoothing, streams, smoothing.n0)
    guess = {task: int(counts.argmax()) for task, counts in first.items()}
    then = _counts(model, batch, smoothing, streams, smoothing.n)
    return Votes(guess, {task: int(counts[guess[task]]) for task, counts in then.items()})


def _counts(
    model: FusionModel,
    batch: Batch,
    smoothing: Smoothing,
    streams: Mapping[str, np.random.Generator],
    copies: int,
) -> dict[str, NDArray[np.int64]]:
    """How often each class was the answer over so many noisy copies, by task (K,)."""
    totals = {task: np.zeros(k, np.int64) for task, k in model.classes.items()}
    for start in range(0, copies, smoothing.batch_size):
        size = min(smoothing.batch_size, copies - start)
        noisy = {name: x.expand(size, *x.shape[1:]) for name, x in batch.inputs.items()}
        for name, stream in streams.items():
            noisy[name] = noisy[name] + smoothing.sigmas[name] * _normal(stream, noisy[name])
        with torch.inference_mode():
            answers = {task: logits.argmax(1).cpu().numpy() for task, logits in model(noisy).items()}
        for task, answer in answers.items():
            totals[task] += np.bincount(answer, minlength=len(totals[task]))
    return totals


def _normal(stream: np.random.Generator, like: Tensor) -> Tensor:
    """N(0, 1) in the shape of ``like``. NumPy draws one by one, so that chunks do not matter."""
    return torch.from_numpy(stream.standard_normal(like.shape, dtype=np.float32)).to(like)


def count_all(
    model: FusionModel,
    split: Split,
    smoothing: Smoothing,
    device: str,
    parts: Path,
    advance: Callable[[], None],
) -> list[Votes]:
    """The votes on every sample; samples already found under ``parts`` are not counted again."""
    model.eval().requires_grad_(False)
    votes = []
    for number in range(len(split)):
        path = parts / f"{number:06d}.json"
        if not path.exists():
            batch = load_batch(split, np.array([number]), device)
            write_json(path, asdict(count_votes(model, batch, smoothing)))
        votes.append(_read_votes(path))
        advance()
    return votes


def _read_votes(path: Path) -> Votes:
    try:
        return build(Votes, read_json(path), str(path))
    except (TypeError, UserError) as error:
        raise UserError(f"{path} is damaged; delete its folder and run again") from error
