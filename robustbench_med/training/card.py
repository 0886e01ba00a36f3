"""What a net reached, on the card beside its weights."""

from __future__ import annotations

import math
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustbench_med.api.data import Split
from robustbench_med.api.model import FusionModel
from robustbench_med.evaluation.plan import load_batch
from robustbench_med.evaluation.scoring import scores
from robustbench_med.measure import statistics
from robustbench_med.measure.accuracy import Answers, answers
from robustbench_med.models.cards import models_in
from robustbench_med.models.named import ModelConfig, card_model
from robustbench_med.training.opponent import Opponent
from robustbench_med.training.recipe import TrainConfig
from robustbench_med.util.files import read_json, sha256_file
from robustbench_med.util.versions import versions

SCORING_DRAWS = 10


def answers_on(
    model: FusionModel,
    split: Split,
    config: TrainConfig,
    draws: int,
    purpose: str,
    opponent: Opponent | None = None,
) -> dict[str, Answers]:
    """The answers to every question, of inputs attacked by ``opponent`` if there is one, on fresh draws."""
    parts = []
    for start in range(0, len(split), config.batch_size):
        index = np.arange(start, min(start + config.batch_size, len(split)))
        batch = load_batch(split, index, config.device)
        inputs = opponent.attacked(batch, 0) if opponent else batch.inputs
        parts.append(scores(model, inputs, draws, config.seed, purpose, batch.ids))
    found = {name: torch.cat([p[name] for p in parts], 1).numpy() for name in model.answers}
    return answers(found, split.labels, split.info.heads)


def balanced_accuracy(found: Answers) -> float:
    """Mean recall over the answers that occur, mean over questions and draws."""
    each = [
        statistics.balanced_accuracy(found.given[:, known, q], found.truth[known, q])
        for q in range(found.truth.shape[1])
        if (known := found.known[:, q]).any()
    ]
    return float(np.mean(each))


def made_by(config: TrainConfig, folder: Path) -> Iterator[Path]:
    """The cards in a folder of nets that this recipe made."""
    for found, model in models_in(folder).items():
        if model == config.model and read_json(found)["training"]["config"] == asdict(config):
            yield found


def card(
    config: TrainConfig,
    model_conf: ModelConfig,
    model: FusionModel,
    splits: Mapping[str, Split],
    progress: Progressing,
    weights: Path,
    command: str,
) -> dict[str, Any]:
    """The card of trained weights: what they are, what they learned from, what they reach."""
    info = splits["test"].info
    return {
        "model": card_model(model_conf),
        "dataset": {
            "name": info.name,
            "title": info.title,
            "synthetic": info.synthetic,
            "licence": info.licence,
            "citation": info.citation,
            "caveats": list(info.caveats),
            "fingerprints": {name: split.fingerprint for name, split in splits.items()},
            "members": {name: split.members for name, split in splits.items()},
        },
        "weights": {
            "sha256": sha256_file(weights),
            "parameters": sum(p.numel() for p in model.parameters()),
            "licence": info.licence,
        },
        "metrics": {name: _metrics(model, splits[name], config) for name in ("val", "test")},
        "training": {
            "config": asdict(config),
            "command": command or shlex.join(sys.argv),
            "epochs_run": progress.epoch,
            "best_epoch": progress.best_epoch,
            "history": progress.history,
            "seconds": round(progress.seconds),
        },
        "versions": versions(),
        "machine": platform.machine(),
    }


def _metrics(model: FusionModel, split: Split, config: TrainConfig) -> dict[str, Any]:
    """Clean accuracy with its interval, and balanced accuracy, per head on fresh draws."""
    found = answers_on(model, split, config, SCORING_DRAWS, f"card {split.name}")
    batches = np.arange(len(split)) // config.batch_size
    out: dict[str, Any] = {}
    for name, each in found.items():
        some = np.flatnonzero(each.known.any(1))
        right = np.all(each.right, axis=-1)[:, some]
        groups = [split.groups[i] for i in some]
        estimate = statistics.accuracy(right, groups, batches[some], model.draws_shared_by)
        out[name] = {
            "accuracy": asdict(estimate),
            "balanced_accuracy": balanced_accuracy(each),
            "samples": len(some),
            "scoring_draws": len(right),
        }
    return out


@dataclass
class Progressing:
    """Where a training run stands; saved with every checkpoint."""

    epoch: int = 0
    seconds: float = 0.0
    best_score: float = -math.inf
    best_epoch: int = -1
    history: list[dict[str, float]] = field(default_factory=list)
