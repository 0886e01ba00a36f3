"""Checks of the model as the run's attack saw it; they cost a few passes and are made in every run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_med.api.attack import in_float, take
from robustbench_med.api.model import FusionModel
from robustbench_med.audit.bench import Bench, percent
from robustbench_med.measure.verdict import Finding
from robustbench_med.util.seeding import derive


def finite_outputs(bench: Bench) -> Iterator[Finding]:
    """NaN or infinity in the scores makes every comparison false, and an attack stop."""
    odd = [
        head
        for kind in (bench.everyone.clean, bench.everyone.adversarial)
        for head, scores in kind.items()
        if not np.isfinite(scores).all()
    ]
    said = f"NaN or infinite scores of {', '.join(sorted(set(odd)))}" if odd else "all scores are finite"
    yield Finding.of("finite", not odd, said)


def went_through(bench: Bench) -> Iterator[Finding]:
    """A sample on which the attack raised an error was not attacked, and has not resisted."""
    errors = [
        f"{i}: {said}" for i, said in zip(bench.everyone.ids, bench.everyone.gave_up, strict=True) if said
    ]
    if errors:
        said = f"the attack gave up on {len(errors)} of {len(bench.everyone)} samples ({errors[0]})"
        yield Finding("every sample attacked", "not made", said, {"gave_up": float(len(errors))})


def logits_not_probabilities(bench: Bench) -> Iterator[Finding]:
    """A softmax inside the model flattens what attacks climb, and costs them precision.

    A head that always gives one answer tells nothing of that kind.
    """
    both = (bench.everyone.clean, bench.everyone.adversarial)
    heads = [
        head.name
        for head in bench.plan.goal.heads
        if all(_probabilities(kind[head.name]) for kind in both) and not constant(bench, head.name)
    ]
    said = f"outputs of {', '.join(heads)} are probabilities" if heads else "outputs are logits"
    yield Finding.of("logits", not heads, said)


def _probabilities(rows: NDArray[np.float32]) -> bool:
    inside = bool(rows.min() >= 0 and rows.max() <= 1)
    if rows.shape[-1] == 1:  # a sigmoid: all of them between 0 and 1
        return inside
    return inside and bool(np.abs(rows.sum(-1) - 1).max() < 1e-3)


def constant(bench: Bench, head: str) -> bool:
    """Whether a head gave the same scores for every input, clean or attacked."""
    rows = np.concatenate(
        [
            kind[head].reshape(-1, kind[head].shape[-1])
            for kind in (bench.everyone.clean, bench.everyone.adversarial)
        ]
    )
    return bool((rows == rows[0]).all())


def no_memory(bench: Bench) -> Iterator[Finding]:
    """A model that was attacked answers as a fresh one does, on the same draws, in another order."""
    changed = bench.everyone.changed
    if np.isnan(changed).any():
        yield Finding(
            "memory", "not made", "the model cannot be copied; give a factory (--model file.py:factory)"
        )
        return
    share = float((changed > bench.thresholds.repeatable).mean())
    said = f"scores of {percent(share)} of the samples depend on what was asked before, or in which order"
    numbers = {"changed": share, "most": float(changed.max())}
    yield Finding.of("memory", share <= bench.thresholds.remembered, said, numbers)


def repeatable(bench: Bench) -> Iterator[Finding]:
    """One draw gives one answer, whatever the batch: noise that is not declared fools attack and scoring.

    A model that hides its randomness counts as deterministic; its attack then takes one lucky draw for
    success, and a single scoring pass for the truth.
    """
    model, inputs = bench.model, bench.batch.inputs
    with torch.inference_mode(), model.noise.frozen(derive(bench.plan.seed, "repeat")):
        first, again = in_float(model(inputs)), in_float(model(inputs))
        changes = {"repeated": _change(first, again)}
        if not model.draws_follow_shape:  # else another batch has other draws
            changes["in another batch"] = _change(*_elsewhere(model, inputs, first))
    bench.passes.forward += (1 + len(changes)) * len(bench.batch)
    passed = max(changes.values()) <= bench.thresholds.repeatable
    said = ", ".join(f"{percent(change)} {where}" for where, change in changes.items())
    yield Finding.of(
        "repeatable", passed, f"of their range, scores of the same draw change by {said}", changes
    )


def _elsewhere(
    model: FusionModel, inputs: Mapping[str, Tensor], first: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Scores of some samples as they were, and as they are in halves of the batch in reverse order."""
    any_input = next(iter(inputs.values()))
    backwards = torch.arange(len(any_input) - 1, -1, -1, device=any_input.device)
    halves = [part for part in backwards.chunk(2) if len(part) >= model.least]
    parts, seen = [in_float(model(take(inputs, part))) for part in halves], torch.cat(halves)
    return {head: z[seen] for head, z in first.items()}, {h: torch.cat([p[h] for p in parts]) for h in first}


def _change(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    """The largest change of a score, as a share of the range of the head's scores."""
    changes = []
    for head, z in first.items():
        moved = (z - second[head]).abs().nan_to_num(0.0).max()
        changes.append(float(moved / (z.max() - z.min()).clamp_min(1e-12)) if moved > 0 else 0.0)
    return max(changes)
