"""Attack and scoring of one model on one split, batch by batch; survives a kill.

Three copies of the model take part: one is attacked, one answers for the clean inputs, and one that has
seen neither scores what the attack found. A model that remembers what it was asked cannot answer by that.
Every batch has copies of its own, so that no outcome depends on which batches one process made.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_med.api.attack import Batch, Passes, Target
from robustbench_med.api.model import FusionModel
from robustbench_med.api.space import per_sample
from robustbench_med.evaluation.kept import packed
from robustbench_med.evaluation.outcomes import Outcomes, joined
from robustbench_med.evaluation.plan import Plan, load_batch
from robustbench_med.evaluation.scoring import scores, scores_turned
from robustbench_med.util.seeding import derive

SHOWN = 6  # samples kept as values, for the picture


@dataclass(frozen=True)
class Copies:
    """The model in its three roles."""

    attacked: FusionModel
    clean: FusionModel
    scoring: FusionModel

    @classmethod
    def of(cls, plan: Plan) -> Copies:
        """Fresh ones."""
        return cls(plan.fresh(), plan.fresh(), plan.fresh())


def evaluate(plan: Plan, parts: Path, advance: Callable[[int], None]) -> Outcomes:
    """Run the plan; batches already found under ``parts`` are not run again.

    Args:
        parts: folder that holds one file a batch while the run lasts.
        advance: told the number of samples done after each batch.
    """
    done = []
    for number, index in enumerate(plan.batches):
        path = part_path(parts, number)
        if not path.exists():
            evaluate_batch(plan, Copies.of(plan), number, index).save(path)
        done.append(Outcomes.load(path))
        advance(len(index))
    return joined(done)


def part_path(parts: Path, number: int) -> Path:
    """Where the outcomes of batch ``number`` lie while the run lasts."""
    return parts / f"{number:05d}.npz"


def missing(plan: Plan, parts: Path) -> list[int]:
    """The batches of a run that are not made yet, by number."""
    return [number for number in range(len(plan.batches)) if not part_path(parts, number).exists()]


def evaluate_batch(plan: Plan, copies: Copies, number: int, index: NDArray[np.int64]) -> Outcomes:
    """Attack and score the samples at ``index``, which are batch ``number`` of the run."""
    started, passes = time.perf_counter(), Passes()
    batch = load_batch(plan.split, index, plan.device)
    target = plan.target(copies.attacked, derive(plan.seed, "attack"), passes)
    clean = scores(copies.clean, batch.inputs, plan.draws, plan.seed, "clean", batch.ids)
    adversarial = _attack(plan, target, batch, clean)
    scored = _scored(plan, copies.scoring, adversarial, "score", batch.ids)
    seen = scores(copies.attacked, adversarial, plan.draws, plan.seed, "score", batch.ids)
    changed = _changed(seen, scored) if plan.model.copies else torch.full((len(batch),), torch.nan)
    choosing = {}
    if not target.deterministic:
        choosing = _scored(plan, copies.scoring, adversarial, "choose", batch.ids)
    else:
        _undo_repairs(plan, batch, adversarial, clean, scored)
    return Outcomes(
        ids=batch.ids,
        groups=tuple(plan.split.groups[i] for i in index),
        labels={head: y.cpu().numpy() for head, y in batch.labels.items()},
        clean=_arrays(clean),
        adversarial=_arrays(scored),
        choosing=_arrays(choosing),
        batches=np.full(len(index), number),
        changed=changed.numpy(),
        gave_up=tuple(target.gave_up.get(sample, "") for sample in batch.ids),
        forward=passes.forward,
        backward=passes.backward,
        seconds=time.perf_counter() - started,
        shown=_shown(plan, batch, adversarial, clean, scored) if number == 0 else {},
        kept=packed(_values(adversarial), _values(batch.inputs), plan.threat) if plan.keep else {},
    )


def _attack(plan: Plan, target: Target, batch: Batch, clean: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Attack the samples that have anything left to lose, which is all of a random model's."""
    left = torch.arange(len(batch))
    if target.deterministic:
        left = left[plan.goal.success(clean, _cpu(batch.labels))[0] < 1]
    if len(left) == 0:
        return dict(batch.inputs)
    index = left.to(batch.device)
    part = batch.take(index)
    found = {name: x.detach() for name, x in plan.attack.perturb(target, part).items()}
    plan.threat.check(found, part.inputs, plan.name)
    return {
        name: x.index_copy(0, index, found[name]) if name in plan.threat.budgets else x
        for name, x in batch.inputs.items()
    }


def _scored(
    plan: Plan, model: FusionModel, inputs: Mapping[str, Tensor], purpose: str, ids: tuple[str, ...]
) -> dict[str, Tensor]:
    return scores_turned(model, inputs, plan.draws, plan.seed, purpose, ids)


def _changed(seen: Mapping[str, Tensor], scored: Mapping[str, Tensor]) -> Tensor:
    """By how much of the range of a head's scores two answers differ, the most over draws and heads, (B,)."""
    changes = []
    for head, z in scored.items():
        span = (z.max() - z.min()).clamp_min(1e-12)
        moved = (z - seen[head]).abs().nan_to_num(0.0).amax((0, 2))
        changes.append(torch.where(moved > 0, moved / span, 0.0))
    return torch.stack(changes).amax(0)


def _undo_repairs(
    plan: Plan,
    batch: Batch,
    adversarial: dict[str, Tensor],
    clean: Mapping[str, Tensor],
    scored: dict[str, Tensor],
) -> None:
    """Put back the clean input, and its score, where the attack mended a head that was wrong.

    An attack that returns its last iterate may; the clean input was then the stronger choice.
    """
    labels = _cpu(batch.labels)
    mended = (plan.goal.success(scored, labels) < plan.goal.success(clean, labels))[0]
    for head in scored:
        scored[head][:, mended] = clean[head][:, mended]
    for name in plan.threat.budgets:
        x = adversarial[name]
        adversarial[name] = torch.where(per_sample(mended.to(x.device), x), batch.inputs[name], x)


def _cpu(labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {head: y.cpu() for head, y in labels.items()}


def _shown(
    plan: Plan,
    batch: Batch,
    adversarial: Mapping[str, Tensor],
    clean: Mapping[str, Tensor],
    scored: Mapping[str, Tensor],
) -> dict[str, NDArray[Any]]:
    """Values of a few samples, those first that were right and are broken now."""
    labels = _cpu(batch.labels)
    before, after = plan.goal.success(clean, labels).mean(0), plan.goal.success(scored, labels).mean(0)
    index = torch.sort(before - after, stable=True).indices[:SHOWN]
    shown: dict[str, NDArray[Any]] = {"index": index.numpy()}
    for name, x in batch.inputs.items():
        shown[f"clean/{name}"] = x.cpu()[index].numpy()
        shown[f"adversarial/{name}"] = adversarial[name].cpu()[index].numpy()
    return shown


def _values(inputs: Mapping[str, Tensor]) -> dict[str, NDArray[np.float32]]:
    return {name: x.cpu().numpy() for name, x in inputs.items()}


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[np.float32]]:
    return {name: tensor.numpy() for name, tensor in tensors.items()}
