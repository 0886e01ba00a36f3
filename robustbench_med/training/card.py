"""What a net reached, on the card beside its weights."""

from __future__ import annotations

import math
import platform
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from robustbench_med.api.data import Split
from robustbench_med.api.model import FusionModel
from robustbench_med.evaluation import scoring
from robustbench_med.evaluation.batches import load_batch
from robustbench_med.measure import statistics
from robustbench_med.models.load import (
    ModelConfig,
    card_model,
)
from robustbench_med.training.opponent import Opponent
from robustbench_med.training.recipe import TrainConfig
from robustbench_med.util.files import sha256_file
from robustbench_med.util.seeding import derive
from robustbench_med.util.versions import versions

SCORING_DRAWS = 10


def predictions(
    model: FusionModel,
    split: Split,
    config: TrainConfig,
    draws: int,
    purpose: str,
    opponent: Opponent | None = None,
) -> dict[str, NDArray[np.int64]]:
    """Predicted classes (R, N) per task, of images attacked by ``opponent`` if there is one."""
    parts = []
    for start in range(0, len(split), config.batch_size):
        index = np.arange(start, min(start + config.batch_size, len(split)))
        batch = load_batch(split, index, config.device)
        if opponent:
            model.noise.reseed(derive(config.seed, purpose, "craft", start))
        inputs = opponent.attacked(batch, 0) if opponent else batch.inputs
        parts.append(scoring.logits(model, inputs, draws, config.seed, purpose, start))
    return {task: torch.cat([p[task] for p in parts], 1).argmax(2).numpy() for task in model.classes}


def _card(
    config: TrainConfig,
    model_conf: ModelConfig,
    model: FusionModel,
    splits: Mapping[str, Split],
    progress: Progressing,
    weights: Path,
    command: str,
) -> dict[str, Any]:
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
    predicted = predictions(model, split, config, SCORING_DRAWS, f"card {split.name}")
    batches = np.arange(len(split)) // config.batch_size
    out: dict[str, Any] = {}
    for task, classes in predicted.items():
        correct = classes == split.labels[task]
        estimate = statistics.accuracy(correct, split.groups, batches, model.draws_shared_by)
        out[task] = {
            "accuracy": asdict(estimate),
            "balanced_accuracy": statistics.balanced_accuracy(classes, split.labels[task]),
            "samples": len(split),
            "scoring_draws": len(classes),
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
