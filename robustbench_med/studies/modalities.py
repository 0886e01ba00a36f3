"""``robmed modalities``: each modality attacked alone, all together, each one missing."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from robustbench_med.api.data import DatasetInfo, Modality, Split
from robustbench_med.evaluation.plan import Plan, load_batch
from robustbench_med.evaluation.prepare import Prepared, RunConfig, prepare
from robustbench_med.evaluation.scoring import scores
from robustbench_med.evaluation.workers import ALONE, Workers
from robustbench_med.measure import statistics
from robustbench_med.measure.accuracy import answers, judged
from robustbench_med.measure.modalities import ModalityTable, Situation, modality_table_of
from robustbench_med.measure.statistics import Estimate
from robustbench_med.reporting.figures import drawn
from robustbench_med.reporting.modalities import draw
from robustbench_med.studies.crew import Order, in_order
from robustbench_med.studies.records import folder_name
from robustbench_med.studies.result import OnRecord, Result
from robustbench_med.studies.run import checked, require_single, say_guesses
from robustbench_med.util.files import given_path, sha256_json, write_json


def modality_table(
    config: RunConfig,
    audited: str | None = None,
    pictures: bool = True,
    workers: Workers = ALONE,
    on_record: OnRecord | None = None,
) -> tuple[ModalityTable, Path]:
    """Attack each modality alone, then all together; take each away; for unpaired data, measure leakage.

    Every attack is a run of its own with a record; that on all modalities together has a row in the
    leaderboard, the others are parts of this table. Finished ones are not repeated. A missing image, volume
    or signal has its lowest value everywhere; of a missing table every feature has its mean over the samples,
    which tells nothing of any of them. What nothing of can be changed is not attacked, and what a net does
    not look at leaves it as it is on clean inputs.

    Args:
        workers, on_record: see ``robustbench_med.studies.several.run_all``.

    Returns:
        The table, and the folder with modalities.json and, with ``pictures``, modalities.png.

    Raises:
        UserError: see ``robustbench_med.studies.run.run``.
    """
    config = checked(config)
    require_single(config, "the table of modalities")
    first = prepare(config)
    say_guesses(first.subject, config.dataset)
    info = first.plan.split.info
    names = _attackable(info)
    deaf = {name: _deaf(first.plan, name) for name in names} if len(names) > 1 else {}
    unseen = [name for name in deaf if len(deaf[name]) == len(info.heads)]
    crossed = _foreign(info, names)
    sets = [*((name,) for name in deaf if name not in unseen), tuple(names)]
    asked = [replace(config, modality=chosen) for chosen in sets]
    asked += [
        replace(config, modality=(name,), head=head) for head, name in crossed if head not in deaf[name]
    ]
    orders = [
        Order(
            _prepared(first, each), None, audited, True, pictures, on_record, row=each is asked[len(sets) - 1]
        )
        for each in asked
    ]
    results = in_order(orders, workers)
    situations = [_situation(each, result) for each, result in zip(asked, results, strict=True)]
    attacked, foreign = situations[: len(sets)], situations[len(sets) :]
    clean = Situation("clean", (), "", _accuracy(first.plan, None))
    attacked += [Situation("attacked", (name,), config.head, clean.accuracy) for name in unseen]
    foreign += [
        Situation("attacked", (name,), head, clean.accuracy) for head, name in crossed if head in deaf[name]
    ]
    missing = [Situation("missing", (m.name,), "", _accuracy(first.plan, m.name)) for m in info.modalities]
    label = first.loaded.config.label
    table = modality_table_of(f"{label} on {info.name}", (clean, *attacked, *missing, *foreign))
    run_ids = sha256_json([row.run for row in attacked])[:12]
    folder = given_path(config.out) / folder_name(label, "modalities", info.name, run_ids)
    write_json(folder / "modalities.json", table.as_record())
    if pictures:
        drawn(partial(draw, table), folder / "modalities.png")
    return table, folder


def alone(first: Prepared) -> list[Prepared]:
    """The runs behind the table that attack less than everything, of a net that looks at everything."""
    info = first.plan.split.info
    names = _attackable(info)
    singles = [replace(first.config, modality=(name,)) for name in names] if len(names) > 1 else []
    foreign = [replace(first.config, modality=(name,), head=head) for head, name in _foreign(info, names)]
    return [_prepared(first, each) for each in (*singles, *foreign)]


def _attackable(info: DatasetInfo) -> list[str]:
    """Modalities of which an attacker may change something."""
    return [m.name for m in info.modalities if m.mutable is None or m.mutable.any()]


def _foreign(info: DatasetInfo, names: list[str]) -> list[tuple[str, str]]:
    """Heads, each with a modality of somebody else."""
    if info.pairing != "unpaired":
        return []
    return [(head.name, name) for head in info.heads for name in names if name not in head.modalities]


def _deaf(plan: Plan, name: str) -> frozenset[str]:
    """The heads whose scores are the very same whatever a modality shows: they do not look at it.

    Scores tell, not gradients: a net that blocks those would look just the same. Asked on the first batch,
    with the lowest, the highest and everybody else's values.
    """
    batch = load_batch(plan.split, plan.batches[0], plan.device)
    own = batch.inputs[name]
    ends = _ends(plan.split.info.modality(name), own)
    shown = [own, *(end.expand_as(own).clone() for end in ends), own.roll(1, 0)]
    given = [
        scores(plan.fresh(), {**batch.inputs, name: x}, plan.draws, plan.seed, "deaf", batch.ids)
        for x in shown
    ]
    return frozenset(
        head for head in given[0] if all(torch.equal(each[head], given[0][head]) for each in given)
    )


def _ends(modality: Modality, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The lowest and the highest values of a modality, beside a tensor of it."""
    low, high = (
        torch.as_tensor(b, dtype=torch.float32, device=like.device) for b in (modality.low, modality.high)
    )
    return low, high


def _prepared(first: Prepared, config: RunConfig) -> Prepared:
    eps = config.eps
    if isinstance(eps, dict):  # radii of modalities that are not attacked now
        config = replace(config, eps={name: eps[name] for name in config.modality if name in eps})
    return prepare(config, first.subject)


def _situation(config: RunConfig, result: Result) -> Situation:
    accuracy = {name: value.robust for name, value in result.accuracy.items()}
    return Situation("attacked", config.modality, config.head, accuracy, result.record["run"])


def _blank(split: Split, name: str, device: str) -> torch.Tensor:
    """What stands for a modality that is missing, to be broadcast to a batch of it."""
    modality = split.info.modality(name)
    if modality.kind != "table":
        return torch.as_tensor(modality.low, dtype=torch.float32, device=device)
    mean = np.mean(split.values(name, np.arange(len(split))), axis=0, dtype=np.float64)
    return torch.as_tensor(mean, dtype=torch.float32, device=device)


def _accuracy(plan: Plan, missing: str | None) -> dict[str, Estimate]:
    """On unattacked inputs, without one modality if one is named."""
    model, parts = plan.fresh(), []
    blank = {} if missing is None else {missing: _blank(plan.split, missing, plan.device)}
    for index in plan.batches:
        batch = load_batch(plan.split, index, plan.device)
        shown = {name: value.expand_as(batch.inputs[name]).clone() for name, value in blank.items()}
        inputs = {**batch.inputs, **shown}
        parts.append(scores(model, inputs, plan.draws, plan.seed, "clean", batch.ids))
    found = {head: torch.cat([p[head] for p in parts], 1).numpy() for head in parts[0]}
    place = np.concatenate([np.full(len(index), number) for number, index in enumerate(plan.batches)])
    shared_by, groups = plan.model.draws_shared_by, np.asarray(plan.split.groups)
    out = {}
    for name, each in judged(answers(found, plan.split.labels, plan.goal.heads), plan.goal).items():
        some = np.flatnonzero(each.known)
        if len(some):
            right = each.right[:, some]
            out[name] = statistics.accuracy(right, groups[some].tolist(), place[some], shared_by)
    return out
