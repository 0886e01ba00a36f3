"""The votes of noisy copies, sample by sample: algorithm CERTIFY's samplings (Cohen et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_med.api.attack import Batch, in_float
from robustbench_med.api.data import Split
from robustbench_med.api.model import FusionModel
from robustbench_med.api.space import Box
from robustbench_med.evaluation.plan import load_batch
from robustbench_med.util.config import build
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import read_json, write_json
from robustbench_med.util.seeding import derive


@dataclass(frozen=True)
class Smoothing:
    """Algorithm CERTIFY's parameters.

    Attributes:
        sigmas: standard deviation of the noise by smoothed modality, in units of the modality.
        n0: noisy copies from which the answer is guessed.
        n: fresh copies on which the guess is tested.
        alpha: probability that a certificate is wrong.
        batch_size: noisy copies in a pass.
    """

    sigmas: Mapping[str, float]
    n0: int
    n: int
    alpha: float
    batch_size: int
    seed: int

    @property
    def sigma(self) -> float:
        """That of the modality with the least noise, which bounds the joint radius."""
        return min(self.sigmas.values())


@dataclass(frozen=True)
class Votes:
    """What the noisy copies of one sample were classified as.

    Attributes:
        guess: by question the most frequent answer of the first n0 copies.
        hits: by question how many of the n others were classified as that.
    """

    guess: Mapping[str, int]
    hits: Mapping[str, int]


def count_votes(model: FusionModel, batch: Batch, smoothing: Smoothing) -> Votes:
    """Algorithm CERTIFY's two samplings, for all questions from the same noisy copies.

    The noise derives from (seed, sample id, modality), whatever the batch size and the device. What cannot
    be changed (of a table) gets none.

    Args:
        model: in evaluation mode; random ones must draw per element, so that copies are independent.
        batch: one sample.

    Raises:
        UserError: scores of a noisy copy that are no numbers.
    """
    streams = {
        name: np.random.default_rng(derive(smoothing.seed, "certify", *batch.ids, name))
        for name in smoothing.sigmas
    }
    first = _counts(model, batch, smoothing, streams, smoothing.n0, "guess")
    guess = {question: int(counts.argmax()) for question, counts in first.items()}
    then = _counts(model, batch, smoothing, streams, smoothing.n, "test")
    return Votes(guess, {question: int(counts[guess[question]]) for question, counts in then.items()})


def _counts(
    model: FusionModel,
    batch: Batch,
    smoothing: Smoothing,
    streams: Mapping[str, np.random.Generator],
    copies: int,
    purpose: str,
) -> dict[str, NDArray[np.int64]]:
    """How often each answer was given over so many noisy copies, by question (answers,)."""
    totals = {
        question: np.zeros(len(head.answers), np.int64)
        for head in model.answers.values()
        for question in head.questions
    }
    boxes = {name: Box.of(model.takes[name]).to(batch.device) for name in streams}
    for start in range(0, copies, smoothing.batch_size):
        size = min(smoothing.batch_size, copies - start)
        noisy = {name: x.expand(size, *x.shape[1:]) for name, x in batch.inputs.items()}
        for name, stream in streams.items():
            noise = smoothing.sigmas[name] * _normal(stream, noisy[name])
            noisy[name] = noisy[name] + boxes[name].in_values(noise)
        numbers = range(start, start + size)
        model.noise.key([derive(smoothing.seed, "certify", *batch.ids, purpose, n) for n in numbers])
        for question, answer in _answers(model, noisy, batch).items():
            totals[question] += np.bincount(answer, minlength=len(totals[question]))
    return totals


def _answers(model: FusionModel, inputs: Mapping[str, Tensor], batch: Batch) -> dict[str, NDArray[np.int64]]:
    """The answer to every question, (copies,) each."""
    with torch.inference_mode():
        scores = in_float(model(inputs))
    out: dict[str, NDArray[np.int64]] = {}
    for name, head in model.answers.items():
        if not torch.isfinite(scores[name]).all():
            raise UserError(
                f"scores of {name} are NaN or infinite on a noisy copy of {batch.ids[0]!r}: nothing can "
                "be certified; look at the model, or lower sigma"
            )
        labels = batch.labels[name].expand(len(scores[name]), *batch.labels[name].shape[1:])
        logits, _ = head.problems(scores[name], labels)
        given = logits.argmax(-1).cpu().numpy()
        out |= {question: given[:, i] for i, question in enumerate(head.questions)}
    return out


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
    votes = []
    for number in range(len(split)):
        path = parts / f"{number:06d}.json"
        if not path.exists():
            batch = load_batch(split, np.array([number]), device)
            write_json(path, asdict(count_votes(model, batch, smoothing)))
        votes.append(_read_votes(path, model, smoothing))
        advance()
    return votes


def _read_votes(path: Path, model: FusionModel, smoothing: Smoothing) -> Votes:
    try:
        votes = build(Votes, read_json(path), str(path))
    except (TypeError, UserError) as error:
        raise UserError(f"{path} is damaged; delete its folder and run again") from error
    answers = {question: len(head.answers) for head in model.answers.values() for question in head.questions}
    if (
        not votes.guess.keys() == votes.hits.keys() == answers.keys()
        or not all(0 <= votes.guess[question] < count for question, count in answers.items())
        or not all(0 <= hits <= smoothing.n for hits in votes.hits.values())
    ):
        raise UserError(f"{path} is damaged; delete its folder and run again")
    return votes
