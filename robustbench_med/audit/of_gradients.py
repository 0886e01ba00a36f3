"""Do gradients exist, are they true, and do they lead anywhere? A few passes, made in every run.

Looked at is a random point of the ball: at the clean point itself a random start would start no attack;
masking shows anywhere. They are those of the loss that the run's attack climbs, if it names one. Where any
question may fall, each head is looked at by itself: one that an attack on all of them never follows may be
the one that is masked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from robustbench_med.api.attack import Evaluation
from robustbench_med.api.losses import LOSSES, Loss, cross_entropy, margin
from robustbench_med.api.objective import Goal
from robustbench_med.audit.bench import Bench, percent
from robustbench_med.measure.verdict import Finding
from robustbench_med.util.errors import UserError
from robustbench_med.util.seeding import derive, generator

DIRECTIONS = 8  # along which gradients are checked
# How far to both sides, in units of the modality: float32 resolves the first; what computes in half
# precision needs a longer one. The best of them counts, since a wrong gradient is wrong at any length.
PROBES = (2e-4, 2e-3, 1e-2)
# Rounding averages out over points so near (a step of bfloat16 below 1), which a wrong gradient does not.
NEAR, POINTS = 0.004, 8
# Draws of a random model on which gradients are compared with differences: on the same draws both are of one
# function, and the run's own draws, often ten, would buy nothing.
DRAWS = 4
CORNERS = 4  # of the ball, at which a sample that nothing can move is known
STILL = "nothing in the ball changes a score"


def gradients(bench: Bench) -> Iterator[Finding]:
    """Gradients exist, are finite, are not zero, are true, and are of use; head by head."""
    goals = _by_head(bench.plan.goal)
    met: Met = {}
    each = {goal.aim: list(_findings(bench, goal, met)) for goal in goals}
    for check in dict.fromkeys(f.check for found in each.values() for f in found):
        heads = {head: f for head, found in each.items() for f in found if f.check == check}
        order = ("failed", "not made", "passed", "does not apply")
        shown = min(heads, key=lambda head: order.index(heads[head].result))
        said = heads[shown].evidence if len(goals) == 1 else f"{shown}: {heads[shown].evidence}"
        yield replace(heads[shown], evidence=said)


def _by_head(goal: Goal) -> list[Goal]:
    """Each head by itself where any may fall."""
    if goal.aim != "any" or len(goal.aimed) == 1:
        return [goal]
    return [Goal(goal.heads, head.name) for head, _ in goal.aimed]


def _findings(bench: Bench, goal: Goal, met: Met) -> Iterator[Finding]:
    view = _View(bench, goal, met)
    climbed = LOSSES.get(getattr(bench.plan.attack, "loss", ""), cross_entropy)
    try:
        seen, steep = view.look(climbed), view.steep
    except UserError as error:
        said = "no attacked input changes its scores" if view.blind else str(error)
        yield Finding.of("gradients", view.blind, said)
        return
    found = view.present(seen)
    yield found
    if found.numbers["not_finite"] == 0:
        yield from (view.faithful(), view.uphill(steep), view.steady(steep))


Met = dict[tuple[int, float, float, int], list[dict[str, Tensor]]]
"""Scores on each draw by the probe after which they were asked for: every head reads its margin from them."""


@dataclass(frozen=True)
class _View:
    """The model at a random point of every sample's ball, for one goal.

    Attributes:
        met: filled as probes are asked about; views of other goals share it.
    """

    bench: Bench
    goal: Goal
    met: Met

    @cached_property
    def start(self) -> dict[str, Tensor]:
        """The point."""
        batch, plan = self.bench.batch, self.bench.plan
        return plan.threat.random_start(batch.inputs, batch.ids, derive(plan.seed, "audit"))

    @cached_property
    def steep(self) -> Evaluation:
        """The margin and its gradient at the point."""
        return self.look(margin)

    def look(self, loss: Loss, inputs: Mapping[str, Tensor] | None = None) -> Evaluation:
        """A loss at the point with its gradient, or elsewhere without."""
        at = self.start if inputs is None else inputs
        return self.bench.look(at, loss, inputs is None, self.goal)

    @cached_property
    def compared(self) -> Evaluation:
        """The margin and its gradient at the point, on the draws that it is compared with differences on."""
        if self.draws == self.bench.plan.eot:
            return self.steep
        return self.bench.look(self.start, margin, True, self.goal, self.draws)

    @property
    def draws(self) -> int:
        """How many gradients are compared on."""
        return min(DRAWS, self.bench.plan.eot)

    @cached_property
    def scores(self) -> dict[str, Tensor]:
        """At the point."""
        return self.bench.scores(self.start)

    def differs(self, other: Mapping[str, Tensor]) -> Tensor:
        """Whether other inputs have other scores, on the same draws, bool (B,)."""
        found = self.bench.scores(other)
        changed = [(self.scores[h.name] != found[h.name]).any(1) for h, _ in self.goal.aimed]
        return torch.stack(changed).any(0)

    def matters(self, name: str, where: Tensor | None = None) -> Tensor:
        """Whether other values in some places of a modality change any score of the goal, bool (B,)."""
        box, x = self.bench.plan.threat.budgets[name].box, self.start[name]
        mirrored = box.clamp(box.lowest(x) + box.highest(x) - x, x)
        return self.differs(
            {**self.start, name: mirrored if where is None else torch.where(where, mirrored, x)}
        )

    @property
    def blind(self) -> bool:
        """Whether no attacked modality changes any score."""
        return not any(self.matters(name).any() for name in self.bench.plan.threat.budgets)

    @cached_property
    def moving(self) -> Tensor:
        """Whether anything in the ball changes a sample's scores, bool (B,).

        One that stays the same at the corners of its ball is robust by construction (a threshold in front of
        binary images, say): no gradient has anything to find there.
        """
        threat, batch = self.bench.plan.threat, self.bench.batch
        steps = {name: budget.epsilon for name, budget in threat.budgets.items()}
        moved = torch.zeros(len(batch), dtype=torch.bool, device=batch.device)
        for number in range(CORNERS):
            stream, signs = generator(self.bench.plan.seed, "audit", "corner", number), {}
            for name in threat.budgets:
                x = batch.inputs[name]
                sign = torch.randint(0, 2, x.shape[1:], generator=stream) * 2 - 1
                signs[name] = sign.to(x).expand_as(x)
            moved |= self.differs(threat.project(threat.ascend(batch.inputs, signs, steps), batch.inputs))
        return moved

    def of_moving(self, values: Tensor) -> Tensor:
        """Those of the samples that something can move; of all where that makes no difference to ask."""
        return values[self.moving]

    def present(self, seen: Evaluation) -> Finding:
        """Every sample has a gradient, finite and of most values that matter."""
        limits, parts = self.bench.thresholds, {name: g.flatten(1) for name, g in seen.gradients.items()}
        flat = torch.cat(list(parts.values()), 1)
        none = (flat == 0).all(1)
        for name, part in parts.items():
            zero = (part == 0).all(1)
            if zero.any():  # a head need not see every input; what it sees must have a gradient
                none |= zero & self.matters(name)
        if none.any():
            none &= self.moving
        missing, entries = float(none.float().mean()), float((flat == 0).float().mean())
        if entries > limits.zero_entries:  # values that no score depends on have no gradient, and need none
            places = {name: seen.gradients[name] == 0 for name in parts}
            matter = torch.stack([self.matters(name, places[name]) for name in parts]).any(0)
            entries = entries if matter.any() else 0.0
        wrong = float((~torch.isfinite(flat)).any(1).float().mean())
        numbers = {"zero": missing, "zero_entries": entries, "not_finite": wrong}
        passed = missing <= limits.zero_gradients and entries <= limits.zero_entries and wrong == 0
        said = f"{percent(missing)} of samples lack one, {percent(wrong)} have NaN"
        said += f"; {percent(entries)} of all entries that may matter are 0"
        return Finding.of("gradients", passed, said, numbers)

    def faithful(self) -> Finding:
        """Gradients against central differences of the margin along random directions.

        Rounding, a wrong backward pass, or steps that only some pixels take part in leave a gradient that
        still points uphill, but not where the attack would have to go.
        """
        limit = self.bench.thresholds.faithful
        # A kink beside the one or other sample says nothing; a quarter of all is no accident.
        truth = float(self._explained(PROBES[0]).quantile(0.25))
        if truth < limit and not self.moving.any():
            return Finding("faithful", "does not apply", STILL)
        if truth < limit:
            truth = self._explained_by_most()
        said = f"on three samples in four it explains {percent(truth)} of the changes along random directions"
        declared = [m for m in self.bench.model.modules() if getattr(m, "straight_through", False)]
        if truth >= limit or not declared:
            return Finding.of("faithful", truth >= limit, said, {"explained": truth})
        rest = self._without(declared)
        numbers = {"explained": truth, "without": rest}
        if rest >= limit:
            said = f"{percent(rest)} explained without the layers that declare a straight-through gradient"
            return Finding("faithful", "does not apply", f"{said}; attacks on scores judge those", numbers)
        said += f", {percent(rest)} without the layers that declare a straight-through gradient"
        return Finding("faithful", "failed", said, numbers)

    def _without(self, declared: list[nn.Module]) -> float:
        """What the gradient explains of the model without some layers: they exempt themselves, nothing else.

        A layer that cannot be left out, since what it returns has another shape, stays.
        """
        hooks = [layer.register_forward_hook(_left_out) for layer in declared]
        try:
            return _View(self.bench, self.goal, {})._explained_by_most()
        finally:
            for hook in hooks:
                hook.remove()

    def _explained_by_most(self) -> float:
        """What the gradient explains on three samples in four of those that can move, at the best probe."""
        each = [self._explained(probe, POINTS) for probe in PROBES]
        return float(self.of_moving(torch.stack(each).amax(0)).quantile(0.25))

    def _explained(self, probe: float, points: int = 1) -> Tensor:
        """The share of the changes along random directions of a length that the gradient explains, (B,).

        Args:
            points: measured around so many points near the start, whose mean counts; what they differ by is
                rounding, in half precision much of it, and is taken off.
        """
        seen, room = self.compared, NEAR if points > 1 else 0.0
        apart, size = torch.zeros_like(seen.loss), torch.zeros_like(seen.loss)
        for number in range(DIRECTIONS):
            step = self._direction(number, probe, room)
            measured = torch.stack([self._slope(number, probe, room, n) for n in range(points)])
            rounding = measured.var(0) / points if points > 1 else 0.0
            parts = [(seen.gradients[n] * d).flatten(1).sum(1) for n, d in step.items()]
            predicted = torch.stack(parts).sum(0)
            apart += (measured.mean(0) - predicted).square() - rounding
            size += measured.mean(0).square() - rounding
        left, size = apart.clamp_min(0), size.clamp_min(0)
        return torch.where(left > 0, 1 - left / size, 1.0).clamp_min(0).nan_to_num(0.0)

    def _near(self, number: int) -> dict[str, Tensor]:
        """A point near the start; the first is the start itself."""
        if number == 0:
            return self.start
        stream, out = generator(self.bench.plan.seed, "audit", "near", number), dict(self.start)
        for name, budget in self.bench.plan.threat.budgets.items():
            x = self.start[name]
            away = torch.rand(x.shape[1:], generator=stream).to(x) * 2 - 1
            out[name] = budget.box.clamp(x + NEAR * budget.box.in_values(away.expand_as(x)), x)
        return out

    def _slope(self, number: int, probe: float, room: float, point: int) -> Tensor:
        """The central difference of the margin along a direction from a point near the start, (B,)."""
        above, below = (self._margin(number, far, room, point) for far in (probe, -probe))
        return (above - below) / (2 * probe)

    def _margin(self, number: int, far: float, room: float, point: int) -> Tensor:
        """The margin at so ``far`` along a direction, (B,)."""
        key = (number, far, room, point)
        if key not in self.met:
            near, step = self._near(point), self._direction(number, abs(far), room)
            moved = {**near, **{name: near[name] + far * d for name, d in step.items()}}
            self.met[key] = self.bench.each_draw(moved, self.draws)
        labels = self.bench.batch.labels
        each = [self.goal.loss(margin, scores, labels) for scores in self.met[key]]
        return torch.stack(each).mean(0)

    def _direction(self, number: int, probe: float, room: float = 0.0) -> dict[str, Tensor]:
        """A random sign, in values, for every attacked element; 0 without room to both sides."""
        stream, out = generator(self.bench.plan.seed, "audit", "direction", number), {}
        for name, budget in self.bench.plan.threat.budgets.items():
            x, box = self.start[name], budget.box
            sign = torch.randint(0, 2, x.shape[1:], generator=stream).to(x) * 2 - 1
            step = box.in_values(sign.expand_as(x))
            reach = (probe + room) * step.abs()
            out[name] = step * ((x - reach >= box.lowest(x)) & (x + reach <= box.highest(x)))
        return out

    def uphill(self, seen: Evaluation) -> Finding:
        """A small step along the gradient raises the margin."""
        limits = self.bench.thresholds
        rises = (self._rise(seen, limits.small_step) > 0).float()
        uphill = float(rises.mean())
        if uphill < limits.uphill:
            if not self.moving.any():
                return Finding("uphill", "does not apply", STILL)
            uphill = float(self.of_moving(rises).mean())
        said = f"a step of {limits.small_step:g} epsilon uphill raises the margin of {percent(uphill)}"
        return Finding.of("uphill", uphill >= limits.uphill, said, {"uphill": uphill})

    def steady(self, seen: Evaluation) -> Finding:
        """Only what stands counts: a broken sample makes no claim, and far from a boundary all is curved."""
        plan, limit = self.bench.plan, self.bench.thresholds.unsteady
        half = plan.threat.scaled(0.5)
        moved = half.random_start(self.start, self.bench.batch.ids, derive(plan.seed, "audit", "step"))
        by_chance = (self.look(margin, moved).loss - seen.loss).abs()
        unsteady = self.bench.stands(by_chance.device) & (by_chance >= self._rise(seen, 0.5))
        if float(unsteady.float().mean()) > limit:
            unsteady &= self.moving
        share = float(unsteady.float().mean())
        said = f"for {percent(share)} a random step of 0.5 epsilon does as much as one along the gradient"
        return Finding.of("steady", share <= limit, said, {"unsteady": share})

    def _rise(self, seen: Evaluation, share: float) -> Tensor:
        """By how much a step of ``share`` of epsilon along the gradient raises the margin, (B,)."""
        threat = self.bench.plan.threat
        steps = {name: share * budget.epsilon for name, budget in threat.budgets.items()}
        with torch.no_grad():
            moved = threat.ascend(self.start, seen.gradients, steps)
            moved |= {name: b.box.clamp(moved[name], self.start[name]) for name, b in threat.budgets.items()}
        return self.look(margin, moved).loss - seen.loss


def _left_out(layer: nn.Module, given: tuple[object, ...], result: object) -> object:
    """A forward hook that returns what the layer was given."""
    del layer
    first = given[0] if given else None
    same = isinstance(first, Tensor) and isinstance(result, Tensor) and first.shape == result.shape
    return first if same else result
