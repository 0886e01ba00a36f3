"""Square attack (Andriushchenko et al. 2020, arXiv:1912.00049): random search on scores, Linf and L2.

On images the windows are squares, on volumes cubes, on signals stretches of time; a table has no
neighbours, so its windows are any features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robustbench_med.api import (
    Attack,
    Batch,
    Best,
    Budget,
    Evaluation,
    Target,
    UserError,
    generator,
    margin,
    take,
)
from robustbench_med.attacks._windows import (
    Windows,
    any_features,
    bumps,
    filled,
    grid_of,
    norms,
    sides,
    spatial,
    tiled,
    unused,
    window,
    windows,
)

# After so many of 10,000 queries the share of changed pixels halves; other budgets scale this.
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
SCHEDULED = 10_000
# Of the passes, the share that may go to proposals made in vain (see ``_Search``).
WASTE = 0.1


@dataclass(frozen=True)
class Square(Attack):
    """Changes inside windows at random places; a proposal stays when it lowers the margin.

    In Linf a window is ±epsilon. In L2 a proposal takes the energy of one window, and what of the ball
    is not used yet, to another one, in the shape of the paper's eq. 2. Every proposal changes each
    attacked modality at the same relative place. Random models are judged by the mean over the EOT draws.

    Attributes:
        queries: proposals for each sample.
        p: share of the elements that the first windows change.
    """

    knowledge: ClassVar[Literal["scores"]] = "scores"

    queries: int = 5000
    p: float = 0.8

    def __post_init__(self) -> None:
        if self.queries < 1 or not 0 < self.p <= 1:
            raise UserError("square: queries must be 1 or more, p above 0 and at most 1")

    def perturb(self, target: Target, batch: Batch) -> dict[str, Tensor]:
        best = Best(batch, target, by="margin")
        draws = _Draws.of(target, batch, self.queries)
        start = target.threat.project(_start(target, batch, draws), batch.inputs)
        best.update(best.standing(), start, target.evaluate(batch, start, margin, gradient=False))
        _Search(self, target, batch, best, draws).run()
        return best.inputs

    def shares(self, queries: Tensor) -> Tensor:
        """Share of the elements a window changes at each of ``queries`` (N,)."""
        after = torch.tensor(HALVINGS, device=queries.device)
        halvings = torch.bucketize(queries * (SCHEDULED / self.queries), after)
        return self.p * 0.5**halvings


class _Search:
    """Asks about proposals for the samples that still stand.

    While fewer samples stand than a pass has rows, several of a sample's next proposals are tried at
    once, all made from where it stands. The first that helps is taken and those after it count as not
    asked, so that every sample goes the way it goes with one proposal at a time.

    Attributes:
        asked: proposals of each sample of the batch so far.
        kept: running share of the proposals that helped.
        ends: of every modality in Linf the lowest and the highest values of ball and box, (2, B, …, C).
    """

    def __init__(self, attack: Square, target: Target, batch: Batch, best: Best, draws: _Draws) -> None:
        self.attack, self.target, self.batch, self.best, self.draws = attack, target, batch, best, draws
        self.asked = torch.zeros(len(batch), dtype=torch.long, device=best.loss.device)
        self.kept = 1.0
        self.rows, self.asked_about = torch.arange(len(batch), device=best.loss.device), batch
        self.ends = {
            name: torch.stack([_jump(budget, x, torch.tensor(sign)).movedim(1, -1) for sign in (-1.0, 1.0)])
            for name, budget in target.threat.budgets.items()
            if budget.norm == "linf"
            for x in [batch.inputs[name]]
        }

    def run(self) -> None:
        """Ask until all samples are broken or have had their proposals."""
        while len(index := self._standing()) > 0:
            at_once = self._at_once(len(index))
            rows = index.repeat_interleave(at_once)
            query = (self.asked[index][:, None] + torch.arange(at_once, device=index.device)).flatten()
            possible = query < self.attack.queries
            asked = self._samples(rows)
            moved = self._proposals(asked, query.clamp_max(self.attack.queries - 1))
            seen = self.target.evaluate(asked, moved, margin, gradient=False, steps=query.tolist())
            self._decide(index, rows, moved, seen, possible)

    def _standing(self) -> Tensor:
        index = self.best.standing()
        return index[self.asked[index] < self.attack.queries]

    def _samples(self, rows: Tensor) -> Batch:
        """The samples of some rows; most questions are about those of the question before."""
        if not torch.equal(rows, self.rows):
            self.rows, self.asked_about = rows, self.batch.take(rows)
        return self.asked_about

    def _at_once(self, standing: int) -> int:
        rows = self.target.rows or len(self.batch)
        return max(1, min(rows // standing, int(2 * WASTE / max(self.kept, 1e-3))))

    def _decide(
        self, index: Tensor, rows: Tensor, moved: Mapping[str, Tensor], seen: Evaluation, possible: Tensor
    ) -> None:
        """Take the first proposal of each sample that helps."""
        helps = seen.margin > self.best.loss[rows]
        if self.target.deterministic:
            helps |= seen.success > self.best.success[rows]
        helps = (helps & possible).view(len(index), -1)
        at_once = helps.shape[1]
        any_helps, first = helps.any(1), helps.to(torch.int8).argmax(1)
        self.asked[index] += torch.where(any_helps, first + 1, at_once)
        taken = (torch.arange(len(index), device=index.device) * at_once + first)[any_helps]
        self.kept += 0.05 * (len(taken) / len(rows) - self.kept)
        if len(taken) == 0:
            return
        found = Evaluation(seen.loss[taken], seen.margin[taken], seen.success[taken], {})
        self.best.update(rows[taken], take(moved, taken), found)

    def _proposals(self, asked: Batch, query: Tensor) -> dict[str, Tensor]:
        """The inputs of each row's sample after its proposal number ``query``."""
        threat, rows, clean = self.target.threat, self.rows, asked.inputs
        moved, share, longer = dict(clean), self.attack.shares(query), {}
        met: dict[torch.Size, Windows] = {}
        for name, budget in threat.budgets.items():
            here = self.best.inputs[name].index_select(0, rows)
            if budget.norm == "linf":
                moved[name] = self._jumped(name, here, query, share, met)
            else:
                longer[name] = budget.box.in_units(here - clean[name])
        return moved | self._moved_energy(rows, query, share, clean, longer) if longer else moved

    def _jumped(
        self, name: str, here: Tensor, query: Tensor, share: Tensor, met: dict[torch.Size, Windows]
    ) -> Tensor:
        """``here`` (rows, C, …), which is written to, with the windows at an end of the ball.

        Windows are small: what lies outside of them is not computed.

        Args:
            met: the windows by the sizes of the axes, filled here: modalities of one size share them.
        """
        rows, part, ends = self.rows, self.draws.parts[name], self.ends[name]
        up = (part.signs[rows, query] > 0).movedim(1, -1)
        if part.order is not None:
            inside = any_features(part.order[rows, query], share, here)
            return torch.where(inside, torch.where(up, ends[1, rows], ends[0, rows]), here)
        sizes, channels = spatial(here), torch.arange(here.shape[1], device=here.device)
        if sizes not in met:
            met[sizes] = windows(self.draws.place[rows, query], sides(share, here, least=1), here)
        for some, cells in met[sizes]:
            cell = (*[along[..., None] for along in cells], channels)
            of, at = [index.view(-1, *[1] * len(cell)) for index in (rows[some], some)]
            here.movedim(1, -1)[(at, *cell)] = ends[(up[some].long(), of, *cell)]
        return here

    def _moved_energy(
        self,
        rows: Tensor,
        query: Tensor,
        share: Tensor,
        clean: Mapping[str, Tensor],
        deltas: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """The proposals in L2: from ``deltas`` (rows, C, …), with the energy of two windows in one."""
        threat, changed = self.target.threat, {}
        spare = unused(threat.budgets, deltas, threat.joint)
        for name, delta in deltas.items():
            draws, sizes = self.draws.parts[name], spatial(delta)
            side = sides(share, delta, least=3)
            side = torch.where(side % 2 == 0, side + 1, side).clamp_max(min(sizes))
            place = self.draws.place[rows, query]
            into = window(place, side, delta)
            source = window(self.draws.second[rows, query], side, delta)
            energy = (delta * (into | source)).square().flatten(2 if delta.dim() > 2 else 1).sum(-1)
            shape = bumps(place, side, self.draws.turned[rows, query], delta)
            signs, old = draws.signs[rows, query], delta * into
            wanted = (signs * shape + old / norms(old)) * into
            wanted = threat.budgets[name].box.in_units(threat.budgets[name].box.in_values(wanted))
            size = (energy + spare[name]).sqrt()
            size = size.view(*size.shape, *[1] * (delta.dim() - size.dim()))
            changed[name] = torch.where(into, wanted / norms(wanted) * size, delta * ~(into | source))
        moved: dict[str, Tensor] = filled(threat.budgets, changed, clean, threat.joint)
        return moved


@dataclass(frozen=True)
class _Part:
    """Draws of one modality.

    Attributes:
        signs: (B, queries, C, 1, …), of a table (B, queries, features).
        start: signs of the start, see ``_Draws.of``.
        order: of a table in Linf, the order (B, queries, features) in which features join a window.
    """

    signs: Tensor
    start: Tensor
    order: Tensor | None = None


@dataclass(frozen=True)
class _Draws:
    """All random numbers of a batch, derived from (seed, sample id) alone.

    Attributes:
        place, second: (B, queries, axes) relative place of each window along every axis, and of the
            window that gives its energy in L2.
        turned: (B, queries) in [0, 1): along which axis the shape in L2 is divided.
        parts: by modality.
    """

    place: Tensor
    second: Tensor
    turned: Tensor
    parts: Mapping[str, _Part]

    @classmethod
    def of(cls, target: Target, batch: Batch, queries: int) -> _Draws:
        """The draws of every sample of a batch."""
        device, seed, parts = batch.device, target.seed, {}
        axes = max([2, *(len(spatial(batch.inputs[name])) for name in target.threat.budgets)])
        place = [torch.rand(queries, axes, generator=generator(seed, "square", i)) for i in batch.ids]
        extra = [
            torch.rand(queries, axes + 1, generator=generator(seed, "square energy", i)) for i in batch.ids
        ]
        for name, budget in target.threat.budgets.items():
            streams = [generator(seed, "square", i, name) for i in batch.ids]
            each = [_drawn(budget, batch.inputs[name], queries, stream) for stream in streams]
            orders = [p.order for p in each if p.order is not None]
            parts[name] = _Part(
                torch.stack([p.signs for p in each]).to(device),
                torch.stack([p.start for p in each]).to(device),
                torch.stack(orders).to(device) if orders else None,
            )
        energy = torch.stack(extra).to(device)
        return cls(torch.stack(place).to(device), energy[..., :axes], energy[..., axes], parts)


def _drawn(budget: Budget, x: Tensor, queries: int, stream: torch.Generator) -> _Part:
    """One sample's draws of one modality; x is (B, C, …) or a table (B, features)."""
    if x.dim() == 2:
        features = x.shape[1]
        start, signs = _signs(stream, features), _signs(stream, queries, features)
        return _Part(signs, start, torch.rand(queries, features, generator=stream))
    channels, sizes = x.shape[1], spatial(x)
    # Stripes along the first axis; of a signal, which has no other, a sign for each moment.
    striped = (channels, 1, *sizes[1:]) if len(sizes) > 1 else (channels, *sizes)
    start = _signs(stream, *(striped if budget.norm == "linf" else (channels, *grid_of(x))))
    return _Part(_signs(stream, queries, channels, *[1] * len(sizes)), start)


def _signs(stream: torch.Generator, *shape: int) -> Tensor:
    return (torch.randint(0, 2, shape, generator=stream, dtype=torch.int8) * 2 - 1).float()


def _start(target: Target, batch: Batch, draws: _Draws) -> dict[str, Tensor]:
    """Where the search starts: stripes of ±epsilon in Linf; in L2 tiles in the shape of eq. 2."""
    threat, start, changed = target.threat, dict(batch.inputs), {}
    for name, budget in threat.budgets.items():
        x, signs = batch.inputs[name], draws.parts[name].start
        if budget.norm == "linf":
            start[name] = _jump(budget, x, signs)
        else:
            changed[name] = budget.box.in_units(budget.box.in_values(tiled(signs, x)))
    return start | filled(threat.budgets, changed, batch.inputs, threat.joint) if changed else start


def _jump(budget: Budget, clean: Tensor, signs: Tensor) -> Tensor:
    return budget.box.clamp(clean + budget.box.in_values(budget.epsilon * signs), clean)
