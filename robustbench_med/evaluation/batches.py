"""Attack and scoring of one model on one split, batch by batch; survives a kill."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_med.api.attack import Attack, Batch, Passes, Target
from robustbench_med.api.data import Split
from robustbench_med.api.model import FusionModel
from robustbench_med.api.objective import Goal
from robustbench_med.api.threat import ThreatModel
from robustbench_med.evaluation import scoring
from robustbench_med.evaluation.outcomes import Outcomes
from robustbench_med.util.seeding import derive

SHOWN = 6  # samples kept as images, for the picture


@dataclass(frozen=True)
class Plan:
    """Everything that decides the outcomes.

    Attributes:
        name: of the attack, for errors.
        eot: draws behind each loss and gradient of the attack; 1 for deterministic models.
        draws: scoring draws; 1 for deterministic models.
    """

    model: FusionModel
    split: Split
    attack: Attack
    name: str
    threat: ThreatModel
    goal: Goal
    eot: int
    draws: int
    batch_size: int
    seed: int
    device: str

    @property
    def batches(self) -> list[NDArray[np.int64]]:
        """Sample positions of each batch."""
        everyone = np.arange(len(self.split))
        return [everyone[i : i + self.batch_size] for i in range(0, len(everyone), self.batch_size)]


def evaluate(plan: Plan, parts: Path, advance: Callable[[int], None]) -> Outcomes:
    """Run the plan; batches already found under ``parts`` are not run again.

    Args:
        parts: folder that holds one file a batch while the run lasts.
        advance: told the number of samples done after each batch.
    """
    plan.model.eval().requires_grad_(False)
    done = []
    for number, index in enumerate(plan.batches):
        path = parts / f"{number:05d}.npz"
        if not path.exists():
            _evaluate_batch(plan, number, index).save(path)
        done.append(Outcomes.load(path))
        advance(len(index))
    return _joined(done)


def _evaluate_batch(plan: Plan, number: int, index: NDArray[np.int64]) -> Outcomes:
    started, passes = time.perf_counter(), Passes()
    batch = load_batch(plan.split, index, plan.device)
    seed = derive(plan.seed, "attack")
    target = Target(plan.model, plan.threat, plan.goal, plan.eot, seed, passes, plan.batch_size)
    clean = scoring.logits(plan.model, batch.inputs, plan.draws, plan.seed, "clean", *batch.ids)
    plan.model.noise.reseed(derive(plan.seed, "craft", *batch.ids))
    adversarial = _attack(plan, target, batch, clean)
    scored = scoring.logits(plan.model, adversarial, plan.draws, plan.seed, "score", *batch.ids)
    if target.deterministic:
        _undo_repairs(plan, batch, adversarial, clean, scored)
    return Outcomes(
        ids=batch.ids,
        groups=tuple(plan.split.groups[i] for i in index),
        labels={task: y.cpu().numpy() for task, y in batch.labels.items()},
        clean=_arrays(clean),
        adversarial=_arrays(scored),
        batches=np.full(len(index), number),
        forward=passes.forward,
        backward=passes.backward,
        seconds=time.perf_counter() - started,
        shown=_shown(plan, batch, adversarial, clean, scored) if number == 0 else {},
    )


def _attack(plan: Plan, target: Target, batch: Batch, clean: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Attack the samples that have anything left to lose, which is all of a random model's."""
    left = torch.arange(len(batch))
    if target.deterministic:
        left = left[plan.goal.success(clean, _cpu(batch.labels))[0] < 1]
    if len(left) == 0:
        return dict(batch.inputs)
    index = left.to(next(iter(batch.inputs.values())).device)
    part = batch.take(index)
    found = {name: x.detach() for name, x in plan.attack.perturb(target, part).items()}
    plan.threat.check(found, part.inputs, plan.name)
    return {
        name: x.index_copy(0, index, found[name]) if name in plan.threat.budgets else x
        for name, x in batch.inputs.items()
    }


def _undo_repairs(
    plan: Plan,
    batch: Batch,
    adversarial: dict[str, Tensor],
    clean: Mapping[str, Tensor],
    scored: dict[str, Tensor],
) -> None:
    """Put back the clean image, and its score, where the attack mended a head that was wrong.

    An attack that returns its last iterate may; the clean image was then the stronger choice.
    """
    labels = _cpu(batch.labels)
    mended = (plan.goal.success(scored, labels) < plan.goal.success(clean, labels))[0]
    for task in scored:
        scored[task][:, mended] = clean[task][:, mended]
    for name in plan.threat.budgets:
        where = mended.to(adversarial[name].device)
        adversarial[name] = torch.where(where.view(-1, 1, 1, 1), batch.inputs[name], adversarial[name])


def _cpu(labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {task: y.cpu() for task, y in labels.items()}


def load_batch(split: Split, index: NDArray[np.int64], device: str) -> Batch:
    """Images and labels of some samples on the device."""
    return Batch(
        {m.name: torch.from_numpy(split.pixels(m.name, index)).to(device) for m in split.info.modalities},
        {t.name: torch.from_numpy(split.labels[t.name][index]).to(device) for t in split.info.tasks},
        tuple(split.ids[i] for i in index),
    )


def _shown(
    plan: Plan,
    batch: Batch,
    adversarial: Mapping[str, Tensor],
    clean: Mapping[str, Tensor],
    scored: Mapping[str, Tensor],
) -> dict[str, NDArray[Any]]:
    """Images of a few samples, those first that were right and are broken now."""
    labels = _cpu(batch.labels)
    before, after = plan.goal.success(clean, labels).mean(0), plan.goal.success(scored, labels).mean(0)
    index = torch.sort(before - after, stable=True).indices[:SHOWN]
    shown: dict[str, NDArray[Any]] = {"index": index.numpy()}
    for name, x in batch.inputs.items():
        shown[f"clean/{name}"] = x.cpu()[index].numpy()
        shown[f"adversarial/{name}"] = adversarial[name].cpu()[index].numpy()
    return shown


def worst_case(members: Sequence[Outcomes], right: Sequence[NDArray[np.bool_]]) -> Outcomes:
    """Per sample the outcome of the attack that left the fewest draws right; never better than any member.

    Several attacks on a random model are chosen among by the draws that score them, so that a long list of
    equal attacks comes out somewhat lower than any of them (the audit's check "together" does not do that).

    Args:
        members: outcomes of several attacks on the same samples, scored on the same draws.
        right: of each, whether the goal was missed, (R, N).
    """
    chosen = np.stack([r.mean(0) for r in right]).argmin(0)
    everyone = np.arange(len(chosen))
    adversarial = {
        task: np.stack([m.adversarial[task] for m in members])[chosen, :, everyone].swapaxes(0, 1)
        for task in members[0].adversarial
    }
    return replace(
        members[0],
        adversarial=adversarial,
        forward=sum(m.forward for m in members),
        backward=sum(m.backward for m in members),
        seconds=sum(m.seconds for m in members),
        shown={},
    )


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[np.float32]]:
    return {name: tensor.float().numpy() for name, tensor in tensors.items()}


def _joined(parts: Sequence[Outcomes]) -> Outcomes:
    def join(name: str, axis: int) -> dict[str, NDArray[Any]]:
        return {
            k: np.concatenate([getattr(p, name)[k] for p in parts], axis) for k in getattr(parts[0], name)
        }

    return Outcomes(
        ids=tuple(_flat(p.ids for p in parts)),
        groups=tuple(_flat(p.groups for p in parts)),
        labels=join("labels", 0),
        clean=join("clean", 1),
        adversarial=join("adversarial", 1),
        batches=np.concatenate([p.batches for p in parts]),
        forward=sum(p.forward for p in parts),
        backward=sum(p.backward for p in parts),
        seconds=sum(p.seconds for p in parts),
        shown=parts[0].shown,
    )


def _flat(parts: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for part in parts:
        yield from part
