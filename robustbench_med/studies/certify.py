"""Certified accuracy by randomized smoothing: Cohen et al. 2019, arXiv:1902.02918.

The smoothed classifier g answers, per head, the class that the model gives most often to
x + N(0, sigma²), with noise on every pixel of the smoothed modalities together. Where a class has
probability pA > 1/2 under that noise, g keeps its answer for every change of these modalities whose
joint L2 length is below sigma·Φ⁻¹(pA) (theorem 1 with pB = 1 - pA). The noise is not clipped to
[0, 1]: the theorem is about Gaussian noise, and clipping is part of the model if it is done at all.

With another sigma for each modality, theorem 1 holds for the images in units of their sigmas: what
is certified is the ellipsoid Σ_m (‖δ_m‖ / sigma_m)² < Φ⁻¹(pA)². The radius given is that of the
largest joint L2 ball inside it, with the smallest sigma. Modalities without noise must stay as they are.

The model's own randomness, drawn per element, belongs to the chance pA; certified is then the answer
that is most frequent over that and the noise.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from math import inf, isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from scipy.stats import beta, norm
from torch import Tensor

from robustbench_med.api.attack import Batch
from robustbench_med.api.data import DatasetInfo, Split
from robustbench_med.api.model import FusionModel
from robustbench_med.api.registry import unknown
from robustbench_med.evaluation.batches import load_batch
from robustbench_med.measure import statistics
from robustbench_med.measure.statistics import Estimate
from robustbench_med.models.load import DefenseSpec, LoadedModel, card_model
from robustbench_med.reporting import certificate, leaderboard
from robustbench_med.reporting.record import ANY, describe_dataset, describe_model, identify
from robustbench_med.studies.run import folder_name, load_split, load_trained
from robustbench_med.util.config import build
from robustbench_med.util.errors import UserError
from robustbench_med.util.fields import Fraction
from robustbench_med.util.files import read_json, require_writable, write_json
from robustbench_med.util.progress import progress_bar
from robustbench_med.util.seeding import derive
from robustbench_med.util.versions import versions


@dataclass(frozen=True)
class CertifyConfig:
    """What ``robmed certify`` does; the same from flags and from Python.

    Attributes:
        sigma: standard deviation of the noise in units of the pixel range: one for all modalities,
            or one for each that is smoothed.
        model, dataset, weights, defenses, device: as in ``RunConfig``.
        n0: noisy copies from which the answer is guessed.
        n: fresh copies on which the guess is tested.
        alpha: probability that the certificate of a sample is wrong.
        radii: at which certified accuracy is reported; quarters of sigma when empty.
        samples: how many test samples, the same subset as for ``robmed run``; 0 means all.
        batch_size: noisy copies in a forward pass; changes no count of a deterministic model.
        out: folder of the run's folder.
        leaderboard: CSV that gets the row; ``<out>/certified.csv`` when not given.
    """

    model: str
    sigma: Fraction | Mapping[str, Fraction]
    dataset: str = "phantom"
    weights: str | None = None
    defenses: tuple[DefenseSpec, ...] = ()
    n0: int = 100
    n: int = 1000
    alpha: float = 0.001
    radii: tuple[Fraction, ...] = ()
    samples: int = 200
    batch_size: int = 200
    seed: int = 0
    device: str = "cpu"
    out: str = "runs"
    leaderboard: str | None = None

    def __post_init__(self) -> None:
        sigmas = self.sigma.values() if isinstance(self.sigma, Mapping) else [self.sigma]
        if not sigmas or not all(0 < sigma < inf for sigma in sigmas):
            raise UserError(f"sigma is {self.sigma}; it must be positive, such as 0.25")
        if min(self.n0, self.n, self.batch_size) < 1 or self.samples < 0:
            raise UserError("n0, n and batch-size must be 1 or more; samples 0 (all) or more")
        if not 0 < self.alpha < 1:
            raise UserError(f"alpha is {self.alpha:g}; it must be between 0 and 1, such as 0.001")
        if not all(0 <= radius < inf for radius in self.radii):
            raise UserError(f"radii are {', '.join(f'{r:g}' for r in self.radii)}; each must be 0 or more")


@dataclass(frozen=True)
class Smoothing:
    """Algorithm CERTIFY's parameters.

    Attributes:
        sigmas: standard deviation of the noise by smoothed modality.
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
        guess: by task the most frequent class of the first n0 copies.
        hits: by task how many of the n others were classified as that.
    """

    guess: Mapping[str, int]
    hits: Mapping[str, int]


@dataclass(frozen=True)
class Certificates:
    """The radii of N samples by head, and under ``ANY`` for all heads at once.

    Attributes:
        radii: (N,), NaN where the classifier abstains.
        right: whether the answer is the label; bool (N,).
    """

    radii: Mapping[str, NDArray[np.float64]]
    right: Mapping[str, NDArray[np.bool_]]

    def certified(self, head: str, radius: float) -> NDArray[np.bool_]:
        """Which samples are right and stay so within ``radius``; abstaining counts as wrong."""
        return self.right[head] & (np.nan_to_num(self.radii[head], nan=-1.0) >= radius)


@dataclass(frozen=True)
class Certified:
    """What a certification produced.

    Attributes:
        accuracy: certified accuracy by head and radius.
        record: the JSON record, as written to ``folder``.
        leaderboard: the CSV that holds the row.
    """

    accuracy: Mapping[str, Mapping[float, Estimate]]
    record: Mapping[str, Any]
    folder: Path
    leaderboard: Path


def lower_bound(hits: int, n: int, alpha: float) -> float:
    """One-sided Clopper-Pearson bound: the chance of a hit is above it with confidence 1 - alpha."""
    return float(beta.ppf(alpha, hits, n - hits + 1)) if hits else 0.0


def certified_radius(hits: int, n: int, alpha: float, sigma: float) -> float:
    """sigma·Φ⁻¹(pA) with the lower bound of pA; NaN (abstain) where that is 1/2 or less.

    Args:
        hits: of n noisy copies, how many were classified as the guess.
    """
    bound = lower_bound(hits, n, alpha)
    return sigma * float(norm.ppf(bound)) if bound > 0.5 else float("nan")


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


def certificates(votes: Sequence[Votes], split: Split, smoothing: Smoothing) -> Certificates:
    """Answers and radii from the votes on every sample of ``split``.

    Per head each certificate holds with probability 1 - alpha. Under ``ANY`` a sample is certified
    within the least radius of its heads, each taken at alpha / heads (Bonferroni), so that all of
    them hold together with probability 1 - alpha.
    """
    tasks = list(split.labels)

    def radii(task: str, alpha: float) -> NDArray[np.float64]:
        hits = [vote.hits[task] for vote in votes]
        return np.array([certified_radius(h, smoothing.n, alpha, smoothing.sigma) for h in hits])

    by_head = {task: radii(task, smoothing.alpha) for task in tasks}
    joint = np.stack([radii(task, smoothing.alpha / len(tasks)) for task in tasks])
    right = {t: np.array([vote.guess[t] for vote in votes]) == split.labels[t] for t in tasks}
    # NaN wins in min: one head that abstains is an abstention.
    return Certificates(by_head | {ANY: joint.min(0)}, right | {ANY: np.all(list(right.values()), axis=0)})


def certify(config: CertifyConfig) -> Certified:
    """Load, count votes, certify, record. A killed certification goes on where it stopped.

    Raises:
        UserError: anything in the config, data or weights that cannot be used; a random model that
            shares its draws within a batch.
    """
    config = build(CertifyConfig, dict(vars(config)), "CertifyConfig")
    out = Path(config.out)
    board = Path(config.leaderboard) if config.leaderboard else out / "certified.csv"
    whole, split = load_split(config.dataset, config.samples)
    loaded = load_trained(config, whole)
    smoothing = _smoothing(config, split.info)
    _require_independent_copies(loaded)
    leaderboard.check_header(board, certificate.COLUMNS)
    for folder in (out, board.parent):
        require_writable(folder)
    stored = _stored_config(config, split, loaded, smoothing)
    release = version("robustbench-med")
    run_id = identify(stored, card_model(loaded.config), loaded.weights_sha256, split.fingerprint, release)
    folder = out / folder_name(loaded.config.label, "certify", config.dataset, run_id)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    with FileLock(out / f".{folder.name}.lock"):
        votes = _counted(loaded, split, smoothing, config.device, folder / "parts")
        found = certificates(votes, split, smoothing)
        accuracy = certified_accuracy(found, split, stored["radii"])
        record = {
            "run": run_id,
            "config": stored,
            "model": describe_model(loaded, split),
            "dataset": describe_dataset(split),
            "certificate": _terms(smoothing, split.info),
            "accuracy": _summaries(found, accuracy),
            "samples": _per_sample(votes, found, split),
            "cost": {"forward_passes": len(split) * (smoothing.n0 + smoothing.n)},
            "seed": smoothing.seed,
            "versions": versions() | {"scipy": version("scipy")},
            "started": started,
        }
        write_json(folder / "record.json", record)
        leaderboard.append(board, certificate.row(record), certificate.COLUMNS)
        shutil.rmtree(folder / "parts")
    return Certified(accuracy, record, folder, board)


def _smoothing(config: CertifyConfig, info: DatasetInfo) -> Smoothing:
    names = [modality.name for modality in info.modalities]
    sigmas = config.sigma if isinstance(config.sigma, Mapping) else dict.fromkeys(names, config.sigma)
    for name in sigmas:
        if name not in names:
            raise unknown("modality", name, names)
    ordered = {name: float(sigmas[name]) for name in names if name in sigmas}
    return Smoothing(ordered, config.n0, config.n, config.alpha, config.batch_size, config.seed)


def _require_independent_copies(loaded: LoadedModel) -> None:
    if loaded.model.draws_shared_by == "batch":
        raise UserError(
            f"{loaded.config.label} shares its draws within a batch, so its noisy copies are not independent "
            "and the bound on their votes does not hold; freeze it with --defense logit-averaging:draws=1"
        )


def _stored_config(
    config: CertifyConfig, split: Split, loaded: LoadedModel, smoothing: Smoothing
) -> dict[str, Any]:
    """The config with every default filled in, less what changes no number."""
    stored = asdict(config)
    for name in ("out", "leaderboard", "weights"):
        del stored[name]
    given = loaded.config.added[len(loaded.config.added) - len(config.defenses) :]
    return stored | {
        "sigma": dict(smoothing.sigmas),
        "radii": list(config.radii or default_radii(smoothing)),
        "samples": len(split),
        "defenses": [asdict(defense) for defense in given],
    }


def default_radii(smoothing: Smoothing) -> tuple[float, ...]:
    """Quarters of sigma from 0 to the largest radius that n copies can certify."""
    most = certified_radius(smoothing.n, smoothing.n, smoothing.alpha, smoothing.sigma)
    steps = int(most / smoothing.sigma * 4) if isfinite(most) else 0
    return tuple(smoothing.sigma * step / 4 for step in range(steps + 1))


def _counted(
    loaded: LoadedModel, split: Split, smoothing: Smoothing, device: str, parts: Path
) -> list[Votes]:
    with progress_bar() as bar:
        task = bar.add_task(f"certifying {loaded.config.label}", total=len(split))
        return count_all(loaded.model, split, smoothing, device, parts, lambda: bar.advance(task))


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


def certified_accuracy(
    found: Certificates, split: Split, radii: Sequence[float]
) -> dict[str, dict[float, Estimate]]:
    """Share of the samples certified right, by head and radius, with 95 % intervals over samples."""

    def estimate(head: str, radius: float) -> Estimate:
        right = found.certified(head, radius)[None]
        return statistics.accuracy(right, split.groups, np.zeros(len(split), np.int64), "none")

    return {head: {radius: estimate(head, radius) for radius in radii} for head in found.radii}


def _terms(smoothing: Smoothing, info: DatasetInfo) -> dict[str, Any]:
    """What exactly a radius in this record promises."""
    fixed = [m.name for m in info.modalities if m.name not in smoothing.sigmas]
    return {
        "method": "randomized smoothing, Cohen et al. 2019 (arXiv:1902.02918), algorithm CERTIFY",
        "norm": "l2, jointly over the smoothed modalities",
        "smoothed": dict(smoothing.sigmas),
        "unchanged": fixed,
        "noise_clipped": False,
        "n0": smoothing.n0,
        "n": smoothing.n,
        "alpha": smoothing.alpha,
        ANY: f"every head certified at alpha / {len(info.tasks)}",
        "set": "sum over modalities of (l2 length / sigma)^2 below (radius / smallest sigma)^2",
        "abstentions": "count as wrong",
        "largest_radius": certified_radius(smoothing.n, smoothing.n, smoothing.alpha, smoothing.sigma),
    }


def _summaries(
    found: Certificates, accuracy: Mapping[str, Mapping[float, Estimate]]
) -> dict[str, dict[str, Any]]:
    """By head: certified accuracy by radius, abstentions, and the average certified radius.

    The average radius counts 0 where the answer is wrong or withheld (Zhai et al. 2020).
    """
    return {
        head: {
            "certified": [{"radius": r, **asdict(value)} for r, value in by_radius.items()],
            "abstained": float(np.isnan(found.radii[head]).mean()),
            "average_radius": float(np.where(found.certified(head, 0), found.radii[head], 0).mean()),
        }
        for head, by_radius in accuracy.items()
    }


def _per_sample(votes: Sequence[Votes], found: Certificates, split: Split) -> list[dict[str, Any]]:
    """By sample its votes, and its radius by head; None where the classifier abstains."""
    return [
        {
            "id": split.ids[i],
            **asdict(vote),
            "radius": {h: None if np.isnan(r[i]) else float(r[i]) for h, r in found.radii.items()},
        }
        for i, vote in enumerate(votes)
    ]
