"""What each modality does to each head: attacked alone, together, or missing (evaluation.md, section 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustbench_med.evaluation import scoring
from robustbench_med.evaluation.batches import Plan, load_batch
from robustbench_med.evaluation.prepare import RunConfig, prepare
from robustbench_med.measure import statistics
from robustbench_med.measure.accuracy import correct
from robustbench_med.measure.statistics import Estimate
from robustbench_med.studies.run import folder_name, run
from robustbench_med.util.files import sha256_json, write_json


@dataclass(frozen=True)
class Row:
    """Accuracy of every head, and of all at once, in one situation.

    Attributes:
        situation: "clean", "attacked" or "missing".
        modalities: to which that applies.
        goal: of the attack; "" where there is none.
        run: of the attack's record; "" where there is none.
    """

    situation: str
    modalities: tuple[str, ...]
    goal: str
    accuracy: Mapping[str, Estimate]
    run: str = ""


@dataclass(frozen=True)
class ModalityTable:
    """All situations, and what unrelated images do to each other's heads.

    Attributes:
        leakage: for unpaired data, by "modality -> head": the accuracy that the head loses when only
            an image is attacked that its label is not about. A net that kept unrelated patients
            apart would lose nothing.
        folder: where modalities.json lies.
    """

    title: str
    rows: tuple[Row, ...]
    leakage: Mapping[str, float]
    folder: Path


def modality_table(config: RunConfig, audited: str | None = None) -> ModalityTable:
    """Attack each modality alone, then all together; take each away; for unpaired data, measure leakage.

    Every attack is a run of its own, with record and row; finished ones are not repeated. A missing
    modality is a black image.

    Raises:
        UserError: see ``robustbench_med.studies.run.run``.
    """
    loaded, plan = prepare(config)
    info, names = plan.split.info, [m.name for m in plan.split.info.modalities]
    alone = [(name,) for name in names] if len(names) > 1 else []
    attacked = [_attacked(replace(config, modality=chosen), audited) for chosen in (*alone, tuple(names))]
    foreign = [
        _attacked(replace(config, modality=(name,), head=task.name), audited)
        for task in info.tasks
        for name in names
        if info.pairing == "unpaired" and name not in task.modalities
    ]
    clean = Row("clean", (), "", _accuracy(plan, None))
    rows = (clean, *attacked, *(Row("missing", (n,), "", _accuracy(plan, n)) for n in names), *foreign)
    leakage = {
        f"{row.modalities[0]} -> {row.goal}": clean.accuracy[row.goal].value - row.accuracy[row.goal].value
        for row in foreign
    }
    name = folder_name(
        loaded.config.label, "modalities", info.name, sha256_json([row.run for row in attacked])[:12]
    )
    table = ModalityTable(f"{loaded.config.label} on {info.name}", rows, leakage, Path(config.out) / name)
    write_json(table.folder / "modalities.json", _as_json(table))
    return table


def _attacked(config: RunConfig, audited: str | None) -> Row:
    result = run(config, audited, reuse=True)
    accuracy = {name: value.robust for name, value in result.accuracy.items()}
    return Row("attacked", config.modality, config.head, accuracy, result.record["run"])


def _accuracy(plan: Plan, missing: str | None) -> dict[str, Estimate]:
    """On unattacked images, one modality black if one is named."""
    plan.model.eval()
    parts = []
    for index in plan.batches:
        batch = load_batch(plan.split, index, plan.device)
        inputs = {n: torch.zeros_like(x) if n == missing else x for n, x in batch.inputs.items()}
        parts.append(scoring.logits(plan.model, inputs, plan.draws, plan.seed, "clean", *batch.ids))
    logits = {task: torch.cat([p[task] for p in parts], 1).numpy() for task in parts[0]}
    right = correct(logits, {t.name: plan.split.labels[t.name] for t in plan.split.info.tasks}, plan.goal)
    place = np.concatenate([np.full(len(index), number) for number, index in enumerate(plan.batches)])
    shared_by = plan.model.draws_shared_by
    return {
        name: statistics.accuracy(hits, plan.split.groups, place, shared_by) for name, hits in right.items()
    }


def _as_json(table: ModalityTable) -> dict[str, Any]:
    return {
        "title": table.title,
        "rows": [asdict(row) for row in table.rows],
        "leakage": dict(table.leakage),
    }
