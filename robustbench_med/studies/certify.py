"""Certified accuracy by randomized smoothing: Cohen et al. 2019, arXiv:1902.02918.

The smoothed classifier g answers, per head, the class that the model gives most often to
x + N(0, sigma²), with noise on every element of the smoothed modalities together. Where a class has
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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from math import ceil, inf, isfinite, log
from pathlib import Path
from typing import Any

import numpy as np

from robustbench_med.api.data import DatasetInfo, Split
from robustbench_med.api.objective import Goal
from robustbench_med.data.catalog import load_dataset
from robustbench_med.evaluation.adversary import require_finishable
from robustbench_med.evaluation.identity import ROOTS as RUN_ROOTS
from robustbench_med.evaluation.identity import code_of, identify, modules_of
from robustbench_med.evaluation.prepare import Subject, asked_about, given_defenses, load_subject, subset
from robustbench_med.evaluation.votes import Smoothing, Votes, count_all
from robustbench_med.measure.accuracy import EVERY
from robustbench_med.measure.certificate import (
    Certificates,
    certificates,
    certified_accuracy,
    certified_radius,
    default_radii,
)
from robustbench_med.measure.statistics import Estimate
from robustbench_med.models.cost import multiply_accumulates
from robustbench_med.models.load import LoadedModel
from robustbench_med.models.named import DefenseSpec, require_model
from robustbench_med.reporting import certificate, leaderboard
from robustbench_med.reporting.record import SCHEMA, describe_dataset, describe_model
from robustbench_med.studies.records import folder_name, run_folder
from robustbench_med.studies.run import say_guesses
from robustbench_med.util.config import build
from robustbench_med.util.errors import UserError, unknown
from robustbench_med.util.fields import Fraction
from robustbench_med.util.files import given_path, write_json
from robustbench_med.util.progress import progress_bar

ROOTS = (*RUN_ROOTS, "robustbench_med.evaluation.votes", "robustbench_med.measure.certificate")


@dataclass(frozen=True)
class CertifyConfig:
    """What ``robmed certify`` does; the same from flags and from Python.

    Attributes:
        sigma: standard deviation of the noise in units of the modality, as epsilon is: one for all, or
            one for each that is smoothed.
        model, dataset, weights, model_options, defenses, device: as in ``RunConfig``.
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
    model_options: Mapping[str, Any] = field(default_factory=dict)
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


def certify(config: CertifyConfig) -> Certified:
    """Load, count votes, certify, record. A killed certification goes on where it stopped.

    Raises:
        UserError: anything in the config, data or weights that cannot be used; a random model that
            shares its draws within a batch; too few copies for any certificate.
    """
    config = build(CertifyConfig, dict(vars(config)), "CertifyConfig")
    out = given_path(config.out)
    board = given_path(config.leaderboard) if config.leaderboard is not None else out / "certified.csv"
    require_model(config.model)
    whole = load_dataset(config.dataset, "test")
    split = subset(asked_about(whole, Goal(whole.info.heads), None), config.samples)
    smoothing = _smoothing(config, split.info)
    _require_enough_copies(smoothing, len(split.info.heads))
    for what, count in (("n0", config.n0), ("n", config.n), ("batch-size", config.batch_size)):
        require_finishable(count, what)
    subject = load_subject(config, whole)
    loaded = subject.loaded
    say_guesses(subject, config.dataset)
    _require_independent_copies(subject)
    stored = _stored_config(config, split, loaded, smoothing)
    code = code_of((*ROOTS, *modules_of(loaded.model, loaded.config)), ("scipy", *loaded.model.libraries))
    name = identify(stored, loaded.config, loaded.weights_sha256, split.fingerprint, code)
    called = folder_name(loaded.config.label, "certify", config.dataset, name)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    with run_folder(out, board, certificate.COLUMNS, called) as folder:
        votes = _counted(loaded, split, smoothing, config.device, folder / "parts")
        found = certificates(votes, split, smoothing)
        accuracy = certified_accuracy(found, split, stored["radii"])
        macs = multiply_accumulates(loaded.fresh(), split.info)
        record = {
            "schema": SCHEMA,
            "run": name,
            "config": stored,
            "model": describe_model(loaded, loaded.model, macs, config.device),
            "dataset": describe_dataset(split),
            "certificate": _terms(smoothing, split.info),
            "accuracy": _summaries(found, accuracy),
            "samples": _per_sample(votes, found, split),
            "cost": {"forward_passes": len(split) * (smoothing.n0 + smoothing.n)},
            "seed": smoothing.seed,
            "code": code,
            "started": started,
        }
        write_json(folder / "record.json", record)
        leaderboard.append(board, certificate.row(record), certificate.COLUMNS)
        shutil.rmtree(folder / "parts", ignore_errors=True)
    return Certified(accuracy, record, folder, board)


def _smoothing(config: CertifyConfig, info: DatasetInfo) -> Smoothing:
    names = [m.name for m in info.modalities if m.mutable is None or m.mutable.any()]
    sigmas = config.sigma if isinstance(config.sigma, Mapping) else dict.fromkeys(names, config.sigma)
    for name in sigmas:
        if name not in names:
            raise unknown("modality", name, names)
    ordered = {name: float(sigmas[name]) for name in names if name in sigmas}
    return Smoothing(ordered, config.n0, config.n, config.alpha, config.batch_size, config.seed)


def _require_enough_copies(smoothing: Smoothing, heads: int) -> None:
    """Refuse, before counting, what even copies that all agree could not certify."""
    most = certified_radius(smoothing.n, smoothing.n, smoothing.alpha / heads, smoothing.sigma)
    if isfinite(most):
        return
    enough = ceil(log(smoothing.alpha / heads) / log(0.5)) + 1
    raise UserError(
        f"n is {smoothing.n}: with alpha {smoothing.alpha:g} and {heads} heads not even copies that agree "
        f"certify anything; take --n {enough} or more, such as 1000"
    )


def _require_independent_copies(subject: Subject) -> None:
    loaded = subject.loaded
    if not subject.probed.repeats:
        raise UserError(
            f"{loaded.config.label} gives the same samples other scores when asked again, or beside others: "
            "it has randomness that it does not declare, or looks at the batch, so its noisy copies are not "
            "independent and nothing can be certified"
        )
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
    for name in ("out", "leaderboard", "weights", "model_options"):
        del stored[name]
    return stored | {
        "sigma": dict(smoothing.sigmas),
        "radii": list(config.radii or default_radii(smoothing)),
        "samples": len(split),
        "defenses": given_defenses(config.defenses, loaded),
    }


def _counted(
    loaded: LoadedModel, split: Split, smoothing: Smoothing, device: str, parts: Path
) -> list[Votes]:
    with progress_bar() as bar:
        task = bar.add_task(f"certifying {loaded.config.label}", total=len(split))
        return count_all(loaded.fresh(), split, smoothing, device, parts, lambda: bar.advance(task))


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
        EVERY: f"every question certified at alpha / {sum(len(head.questions) for head in info.heads)}",
        "set": "sum over modalities of (l2 length in its units / sigma)^2 below (radius / least sigma)^2",
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
            "abstained": float(np.isnan(found.radii[head][found.known[head]]).mean()),
            "average_radius": float(
                np.where(found.certified(head, 0), found.radii[head], 0)[found.known[head]].mean()
            ),
        }
        for head, by_radius in accuracy.items()
    }


def _per_sample(votes: Sequence[Votes], found: Certificates, split: Split) -> list[dict[str, Any]]:
    """By sample its votes, and its radius by head; None where the classifier abstains."""
    return [
        {
            "id": split.ids[i],
            **asdict(vote),
            "radius": {h: float(r[i]) if np.isfinite(r[i]) else None for h, r in found.radii.items()},
        }
        for i, vote in enumerate(votes)
    ]
