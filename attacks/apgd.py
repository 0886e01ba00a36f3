"""Auto-PGD (Croce & Hein 2020, arXiv:2003.01690) on any number of modalities, heads and draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from robustbench_med.api import (
    Aim,
    Attack,
    Batch,
    Best,
    Evaluation,
    Loss,
    Target,
    UserError,
    loss_by_name,
    per_sample,
    remaining,
    take,
    targeted_dlr,
    unknown,
)

MOMENTUM = 0.75  # alpha of the paper's eq. 1
TARGETED = "targeted-dlr"
VARIANTS = {"ce": "cross-entropy", "dlr": "dlr", "t": TARGETED}


@dataclass(frozen=True)
class APGD(Attack):
    """Ascent with momentum whose step size halves by itself, per sample.

    ``apgd:ce``, ``apgd:dlr`` and ``apgd:t`` are the three of AutoAttack.

    Attributes:
        steps: iterations of each start; the checkpoints of the step size follow from it.
        restarts: starts on the surface of the ball; each goes on with the samples that still stand.
        loss: "cross-entropy", "dlr", "margin", or "targeted-dlr" (one run for each target). Where any of
            several questions may fall, "dlr" and "margin" follow the one that is nearest to falling and could
            miss another: they have one run for each.
        targets: most wrong answers to aim at with "targeted-dlr", those of the highest logits first.
        rho: share of steps that must raise the loss for the step size to stay.
    """

    steps: int = 100
    restarts: int = 1
    loss: str = "cross-entropy"
    targets: int = 9
    rho: float = 0.75

    def __post_init__(self) -> None:
        if min(self.steps, self.restarts, self.targets) < 1:
            raise UserError("apgd: steps, restarts and targets must be 1 or more")
        if not 0 < self.rho <= 1:
            raise UserError(f"apgd: rho is {self.rho:g}; it must be above 0 and at most 1")
        if self.loss != TARGETED:
            loss_by_name(self.loss)

    @classmethod
    def variant_of(cls, variant: str) -> dict[str, str]:
        if variant not in VARIANTS:
            raise unknown("apgd variant", variant, VARIANTS)
        return {"loss": VARIANTS[variant]}

    def perturb(self, target: Target, batch: Batch) -> dict[str, Tensor]:
        targeted = self.loss == TARGETED
        loss = targeted_dlr if targeted else loss_by_name(self.loss)
        rounds = self._rounds(target, batch, loss)
        # Losses of different targets or questions do not compare; their margins do.
        best = Best(batch, target, by="margin" if targeted or len(rounds) > 1 else "loss")
        count = sum(len(lanes) for lanes in rounds) if targeted else 1
        for start in range(self.restarts):
            first = start * count
            for lanes in rounds:
                index = best.standing()
                if len(index) == 0:
                    return best.inputs
                _Climb(self, target, batch, loss, best, index, lanes).run(first)
                first += len(lanes) if targeted else 0
        return best.inputs

    def _rounds(self, target: Target, batch: Batch, loss: Loss) -> list[list[Aim]] | list[list[None]]:
        """What is climbed for one after another; the aims in one list at the same time, in lanes."""
        if self.loss != TARGETED:
            return [[aimed.aim] for aimed in target.rounds(batch, loss)]  # type: ignore[return-value]
        aims = target.goal.candidates(target.scores(batch), batch.labels, self.targets)
        # The likeliest target alone breaks most samples that can be broken; the others at once are
        # as many passes as one after another, but fewer and larger ones.
        return [lanes for lanes in (aims[:1], aims[1:]) if lanes]


class _Climb:
    """One start on the samples at ``index`` in several lanes, one for each aim.

    A sample that is done leaves with all its lanes (see ``Best.unfinished``); the rest is attacked on.
    """

    def __init__(
        self,
        attack: APGD,
        target: Target,
        batch: Batch,
        loss: Loss,
        best: Best,
        index: Tensor,
        lanes: Sequence[Aim] | Sequence[None],
    ) -> None:
        self.attack, self.target, self.loss, self.best = attack, target, loss, best
        self.lanes = len(lanes)
        self.index = index.repeat(self.lanes)
        self.single = batch.take(index)
        aims = [aim.take(index) for aim in lanes if aim is not None]
        self.batch = self.single.lined_up(aims) if aims else self.single
        self.checkpoints = checkpoints(attack.steps)

    def run(self, first: int) -> None:
        """Climb to the end from the starts numbered ``first`` and up, one a lane."""
        now = self._start(first)
        seen = self._look(now)
        self.state = _State.at(now, seen)
        self._drop_finished()
        for step in range(1, self.attack.steps + 1):
            if len(self.index) == 0:
                return
            self._step(first=step == 1, last=step == self.attack.steps)
            if step in self.checkpoints:
                self.state.adapt(self.attack.rho, step - self.checkpoints[step])

    def _start(self, first: int) -> dict[str, Tensor]:
        one, threat = self.single, self.target.threat
        starts = [
            threat.surface_start(one.inputs, one.ids, self.target.seed, first + lane)
            for lane in range(self.lanes)
        ]
        return {name: torch.cat([start[name] for start in starts]) for name in one.inputs}

    def _look(self, inputs: Mapping[str, Tensor], gradient: bool = True) -> Evaluation:
        seen = self.target.evaluate(self.batch, inputs, self.loss, gradient)
        self.best.update(self.index, inputs, seen)
        return seen

    def _step(self, first: bool, last: bool) -> None:
        state, clean, threat = self.state, self.batch.inputs, self.target.threat
        steps = {name: 2 * budget.epsilon * state.factor for name, budget in threat.budgets.items()}
        moved = threat.project(threat.ascend(state.now, state.gradients, steps), clean)
        if not first:
            for name in threat.budgets:
                here = state.now[name]
                momentum = (1 - MOMENTUM) * (here - state.before[name])
                moved[name] = here + MOMENTUM * (moved[name] - here) + momentum
            moved = threat.project(moved, clean)
        # Nothing will climb the last gradient.
        state.move(moved, self._look(moved, gradient=not last))
        self._drop_finished()

    def _drop_finished(self) -> None:
        still = remaining(self.best.unfinished(self.index))
        if len(still) == len(self.index):
            return
        self.index, self.batch = self.index[still], self.batch.take(still)
        self.state = self.state.take(still)


@dataclass
class _State:
    """Iterates of B samples and what decides their step sizes.

    Attributes:
        now, before: the last two iterates; gradients: at ``now``.
        top, top_gradients: the iterate of the highest loss, where a halved step goes on.
        factor: (B,) share of the first step size, 2 epsilon.
        loss, top_loss: (B,) of ``now`` and ``top``; rises: (B,) since the last checkpoint.
        halved, top_loss_then: (B,) at the last checkpoint.
    """

    now: Mapping[str, Tensor]
    before: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]
    top: Mapping[str, Tensor]
    top_gradients: Mapping[str, Tensor]
    factor: Tensor
    loss: Tensor
    top_loss: Tensor
    rises: Tensor
    halved: Tensor
    top_loss_then: Tensor

    @classmethod
    def at(cls, start: Mapping[str, Tensor], seen: Evaluation) -> _State:
        zeros = torch.zeros_like(seen.loss)
        # Every sample counts as just halved, so that the first checkpoint judges by rises alone.
        return cls(
            now=start,
            before=start,
            gradients=seen.gradients,
            top=start,
            top_gradients=seen.gradients,
            factor=zeros + 1,
            loss=seen.loss,
            top_loss=seen.loss,
            rises=zeros,
            halved=torch.ones_like(zeros, dtype=torch.bool),
            top_loss_then=seen.loss,
        )

    def move(self, inputs: Mapping[str, Tensor], seen: Evaluation) -> None:
        """Go to the next iterates; without gradients there is no further step."""
        self.before, self.now = self.now, inputs
        self.rises = self.rises + (seen.loss > self.loss)
        higher, self.loss = seen.loss > self.top_loss, seen.loss
        self.top_loss = torch.where(higher, seen.loss, self.top_loss)
        if not seen.gradients:
            return
        self.gradients = seen.gradients
        self.top = _where(higher, inputs, self.top)
        self.top_gradients = _where(higher, seen.gradients, self.top_gradients)

    def adapt(self, rho: float, period: int) -> None:
        """Halve where the steps since the last checkpoint did not pay, and go back to the top."""
        stuck = ~self.halved & (self.top_loss <= self.top_loss_then)
        self.halved = (self.rises <= rho * period) | stuck
        self.factor = torch.where(self.halved, self.factor / 2, self.factor)
        self.now = _where(self.halved, self.top, self.now)
        self.gradients = _where(self.halved, self.top_gradients, self.gradients)
        self.top_loss_then, self.rises = self.top_loss, torch.zeros_like(self.rises)

    def take(self, index: Tensor) -> _State:
        """The samples at ``index``."""
        changed: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            changed[f.name] = value[index] if isinstance(value, Tensor) else take(value, index)
        return replace(self, **changed)


def checkpoints(steps: int) -> dict[int, int]:
    """The steps at which step sizes are judged, each with the one before it (0 for the first).

    22, 41, 57, 70, 80, 87, 93 and 99 of 100: periods shrink from 0.22 by 0.03 down to 0.06.
    """
    period, shrink, least = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    found, last = {}, 0
    while last + period <= steps:
        found[last + period] = last
        last += period
        period = max(period - shrink, least)
    return found


def _where(which: Tensor, yes: Mapping[str, Tensor], no: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``yes`` for the samples of ``which`` (B,), ``no`` for the others."""
    return {
        name: x if yes[name] is x else torch.where(per_sample(which, x), yes[name], x)
        for name, x in no.items()
    }
