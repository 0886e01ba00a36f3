"""Checks of the model as the run's attack saw it; they cost a few passes and are made in every run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_med.api.attack import Evaluation, take
from robustbench_med.api.objective import LOSSES, Goal, cross_entropy, margin
from robustbench_med.audit.bench import Bench, Finding, percent
from robustbench_med.util.errors import UserError
from robustbench_med.util.seeding import derive, generator

DIRECTIONS = 8  # along which gradients are checked
PROBE = 2e-4  # how far to both sides, in units of the pixel range: float32 still resolves the difference


def finite_outputs(bench: Bench) -> Iterator[Finding]:
    """NaN or infinity in the logits makes every comparison false, and an attack stop."""
    odd = [
        task
        for kind in (bench.outcomes.clean, bench.outcomes.adversarial)
        for task, logits in kind.items()
        if not np.isfinite(logits).all()
    ]
    said = f"NaN or infinite logits of {', '.join(sorted(set(odd)))}" if odd else "all logits are finite"
    yield Finding("finite", not odd, said)


def logits_not_probabilities(bench: Bench) -> Iterator[Finding]:
    """A softmax inside the model flattens what attacks climb, and costs them precision."""
    both = (bench.outcomes.clean, bench.outcomes.adversarial)
    heads = [task for task in bench.plan.model.classes if all(_probabilities(kind[task]) for kind in both)]
    said = f"outputs of {', '.join(heads)} are probabilities" if heads else "outputs are logits"
    yield Finding("logits", not heads, said)


def _probabilities(rows: NDArray[np.float32]) -> bool:
    return bool(rows.min() >= 0 and rows.max() <= 1 and np.abs(rows.sum(-1) - 1).max() < 1e-3)


def repeatable(bench: Bench) -> Iterator[Finding]:
    """One draw gives one answer, whatever the batch: noise that is not declared fools attack and scoring.

    A model that hides its randomness counts as deterministic; its attack then takes one lucky draw for
    success, and a single scoring pass for the truth.
    """
    model, inputs = bench.target().model, bench.batch.inputs
    backwards = torch.arange(len(bench.batch) - 1, -1, -1, device=next(iter(inputs.values())).device)
    with torch.inference_mode(), model.noise.frozen(derive(bench.plan.seed, "repeat")):
        first, again = model(inputs), model(inputs)
        parts = [model(take(inputs, part)) for part in backwards.chunk(2)]
    elsewhere = {task: torch.cat([part[task] for part in parts])[backwards] for task in first}
    bench.passes.forward += 3 * len(bench.batch)
    changes = {"repeated": _change(first, again), "in another batch": _change(first, elsewhere)}
    passed = max(changes.values()) <= bench.thresholds.repeatable
    said = ", ".join(f"{percent(change)} {where}" for where, change in changes.items())
    yield Finding("repeatable", passed, f"of their range, logits of the same draw change by {said}", changes)


def _change(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    """The largest change of a logit, as a share of the range of the head's logits."""
    changes = []
    for task, z in first.items():
        moved = (z - second[task]).abs().max()
        changes.append(float(moved / (z.max() - z.min()).clamp_min(1e-12)) if moved > 0 else 0.0)
    return max(changes)


def gradients(bench: Bench) -> Iterator[Finding]:
    """Gradients exist, are finite, are not zero, are true, and are of use, at a random point of the ball.

    At the clean point itself a random start would start no attack; masking shows anywhere. They are those
    of the loss that the run's attack climbs, if it names one. Where any head may fall, each is looked at by
    itself: a head that an attack on all of them never follows may be the one that is masked.
    """
    batch, plan = bench.batch, bench.plan
    start = plan.threat.random_start(batch.inputs, batch.ids, derive(plan.seed, "audit"))
    goals = plan.goal.alone(list(plan.model.classes))
    each = {goal.head: list(_of_goal(bench, start, goal)) for goal in goals}
    for check in dict.fromkeys(f.check for found in each.values() for f in found):
        heads = {head: f for head, found in each.items() for f in found if f.check == check}
        failed = [head for head, f in heads.items() if not f.passed]
        shown = failed[0] if failed else next(iter(heads))
        said = heads[shown].evidence if len(goals) == 1 else f"{shown}: {heads[shown].evidence}"
        yield replace(heads[shown], evidence=said)


def _of_goal(bench: Bench, start: Mapping[str, Tensor], goal: Goal) -> Iterator[Finding]:
    climbed = LOSSES.get(getattr(bench.plan.attack, "loss", ""), cross_entropy)
    try:
        seen, steep = (bench.look(start, loss, goal=goal) for loss in (climbed, margin))
    except UserError as error:
        blind = not any(_matters(bench, start, name, goal).any() for name in bench.plan.threat.budgets)
        yield Finding("gradients", blind, "no attacked image changes its logits" if blind else str(error))
        return
    found = _present(bench, start, seen, goal)
    yield found
    if found.numbers["not_finite"] == 0:
        yield _faithful(bench, start, steep, goal)
        yield _uphill(bench, start, steep, goal)
        yield _steady(bench, start, steep, goal)


def _present(bench: Bench, start: Mapping[str, Tensor], seen: Evaluation, goal: Goal) -> Finding:
    limits, parts = bench.thresholds, {name: g.flatten(1) for name, g in seen.gradients.items()}
    flat = torch.cat(list(parts.values()), 1)
    none = (flat == 0).all(1)
    for name, part in parts.items():
        zero = (part == 0).all(1)
        if zero.any():  # a head need not see every image; what it sees must have a gradient
            none |= zero & _matters(bench, start, name, goal)
    missing, entries = float(none.float().mean()), float((flat == 0).float().mean())
    wrong = float((~torch.isfinite(flat)).any(1).float().mean())
    numbers = {"zero": missing, "zero_entries": entries, "not_finite": wrong}
    passed = missing <= limits.zero_gradients and entries <= limits.zero_entries and wrong == 0
    said = f"{percent(missing)} of samples lack one, {percent(wrong)} have NaN"
    return Finding("gradients", passed, f"{said}; {percent(entries)} of all entries are 0", numbers)


def _matters(bench: Bench, start: Mapping[str, Tensor], name: str, goal: Goal) -> Tensor:
    """Whether another image in the place of this modality's changes any logit of the goal, bool (B,)."""
    box = bench.plan.threat.budgets[name]
    other = {**start, name: box.low + box.high - start[name]}
    one, two = (bench.target().scores(inputs) for inputs in (start, other))
    heads = one if goal.head in ("any", "all") else [goal.head]
    return torch.stack([(one[head] != two[head]).any(1) for head in heads]).any(0)


def _faithful(bench: Bench, start: Mapping[str, Tensor], seen: Evaluation, goal: Goal) -> Finding:
    """Gradients against central differences of the margin along random directions, as in a gradient check.

    Rounding, a wrong backward pass, or steps that only some pixels take part in leave a gradient that
    still points uphill, but not where the attack would have to go.
    """
    model = bench.plan.model
    if any(getattr(layer, "straight_through", False) for layer in model.modules()):
        return Finding("faithful", True, "not asked: gradients are straight-through by declaration")
    if any(weights.dtype in (torch.float16, torch.bfloat16) for weights in model.parameters()):
        return Finding("faithful", True, "not asked: half precision does not resolve small steps")
    apart, size = torch.zeros_like(seen.loss), torch.zeros_like(seen.loss)
    for number in range(DIRECTIONS):
        step = _direction(bench, start, number)
        ends = [{**start, **{n: start[n] + way * d for n, d in step.items()}} for way in (PROBE, -PROBE)]
        above, below = (bench.look(end, margin, False, goal).loss for end in ends)
        measured = (above - below) / (2 * PROBE)
        parts = [(seen.gradients[n] * d).flatten(1).sum(1) for n, d in step.items()]
        apart += (measured - torch.stack(parts).sum(0)).square()
        size += measured.square()
    # A kink beside the one or other sample says nothing; a quarter of all is no accident.
    each = torch.where(apart > 0, 1 - apart / size, 1.0).clamp_min(0)
    truth = float(each.quantile(0.25))
    said = f"on three samples in four it explains {percent(truth)} of the changes along random directions"
    return Finding("faithful", truth >= bench.thresholds.faithful, said, {"explained": truth})


def _direction(bench: Bench, start: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    """A random sign for every attacked pixel; 0 where the box leaves no room to both sides."""
    stream, out = generator(bench.plan.seed, "audit", "direction", number), {}
    for name, box in bench.plan.threat.budgets.items():
        x = start[name]
        sign = torch.randint(0, 2, x.shape[1:], generator=stream).to(x) * 2 - 1
        out[name] = sign * ((x - PROBE >= box.low) & (x + PROBE <= box.high))
    return out


def _uphill(bench: Bench, start: Mapping[str, Tensor], seen: Evaluation, goal: Goal) -> Finding:
    share = bench.thresholds.small_step
    uphill = float((_rise(bench, start, seen, share, goal) > 0).float().mean())
    said = f"a step of {share:g} epsilon along the gradient raises the margin of {percent(uphill)}"
    return Finding("uphill", uphill >= bench.thresholds.uphill, said, {"uphill": uphill})


def _steady(bench: Bench, start: Mapping[str, Tensor], seen: Evaluation, goal: Goal) -> Finding:
    """Only what stands counts: a broken sample makes no claim, and far from a boundary all is curved."""
    half, batch = bench.plan.threat.scaled(0.5), bench.batch
    moved = half.random_start(start, batch.ids, derive(bench.plan.seed, "audit", "step"))
    by_chance = (bench.look(moved, margin, gradient=False, goal=goal).loss - seen.loss).abs()
    stands = torch.from_numpy(bench.right.mean(0) > 0.5).to(by_chance.device)
    unsteady = float((stands & (by_chance >= _rise(bench, start, seen, 0.5, goal))).float().mean())
    said = f"for {percent(unsteady)} a random step of 0.5 epsilon does as much as one along the gradient"
    return Finding("steady", unsteady <= bench.thresholds.unsteady, said, {"unsteady": unsteady})


def _rise(bench: Bench, start: Mapping[str, Tensor], seen: Evaluation, share: float, goal: Goal) -> Tensor:
    """By how much a step of ``share`` of epsilon along the gradient of ``seen`` raises the margin, (B,)."""
    threat = bench.plan.threat
    steps = {name: share * budget.epsilon for name, budget in threat.budgets.items()}
    with torch.no_grad():
        moved = threat.ascend(start, seen.gradients, steps)
        moved |= {name: moved[name].clamp(b.low, b.high) for name, b in threat.budgets.items()}
    return bench.look(moved, margin, gradient=False, goal=goal).loss - seen.loss
