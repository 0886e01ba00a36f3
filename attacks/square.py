"""Square attack (Andriushchenko et al. 2020, arXiv:1912.00049): random search on scores, Linf."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robustbench_med.api.attack import Attack, Batch, Best, Target
from robustbench_med.api.errors import UserError
from robustbench_med.api.objective import margin
from robustbench_med.api.seeding import generator
from robustbench_med.api.threat import Budget

# After so many of 10,000 queries the share of changed pixels halves; other budgets scale this.
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
SCHEDULED = 10_000


@dataclass(frozen=True)
class Square(Attack):
    """Squares of ±epsilon at random places; a proposal stays when it lowers the margin.

    Every proposal puts one square into each attacked modality, at the same relative place. Random
    models are judged by the mean over the EOT draws.

    Attributes:
        queries: proposals for each sample.
        p: share of the pixels that the first squares change.
    """

    knowledge: ClassVar[Literal["scores"]] = "scores"

    queries: int = 5000
    p: float = 0.8

    def __post_init__(self) -> None:
        if self.queries < 1 or not 0 < self.p <= 1:
            raise UserError("square: queries must be 1 or more, p above 0 and at most 1")

    def perturb(self, target: Target, batch: Batch) -> dict[str, Tensor]:
        for name, budget in target.threat.budgets.items():
            if budget.norm != "linf":
                raise UserError(
                    f"square works in linf, but {name} has {budget.norm}; use --attack pgd or apgd"
                )
        best = Best(batch, target, by="margin")
        index, draws = best.standing(), _Draws(target, batch, self.queries)
        current = self._stripes(target, batch, draws)
        best.update(index, current, target.evaluate(current, batch.labels, margin, gradient=False))
        for query in range(self.queries):
            index = best.standing()
            if len(index) == 0:
                break
            part = batch.take(index)
            here = {name: best.inputs[name][index] for name in batch.inputs}
            moved = dict(here)
            for name, budget in target.threat.budgets.items():
                inside = _square(draws.place[index, query], here[name], self._share(query))
                signs = draws.signs[name][index, query]
                moved[name] = torch.where(inside, _jump(budget, part.inputs[name], signs), here[name])
            best.update(index, moved, target.evaluate(moved, part.labels, margin, gradient=False))
        return best.inputs

    def _share(self, query: int) -> float:
        """Share of the pixels a square changes at this query."""
        halvings = sum(query * SCHEDULED / self.queries > after for after in HALVINGS)
        return self.p * 0.5**halvings

    @staticmethod
    def _stripes(target: Target, batch: Batch, draws: _Draws) -> dict[str, Tensor]:
        """The start: a sign for each column and channel."""
        start = dict(batch.inputs)
        for name, budget in target.threat.budgets.items():
            start[name] = _jump(budget, batch.inputs[name], draws.stripes[name])
        return start


class _Draws:
    """All random numbers of a batch, derived from (seed, sample id) alone.

    Attributes:
        place: (B, queries, 2) relative row and column of each square.
        signs: per modality (B, queries, C, 1, 1); stripes: per modality (B, C, 1, W). All ±1.
    """

    def __init__(self, target: Target, batch: Batch, queries: int) -> None:
        device = next(iter(batch.inputs.values())).device
        self.place = torch.stack(
            [torch.rand(queries, 2, generator=generator(target.seed, "square", i)) for i in batch.ids]
        ).to(device)
        self.signs: dict[str, Tensor] = {}
        self.stripes: dict[str, Tensor] = {}
        for name in target.threat.budgets:
            _, channels, _, width = batch.inputs[name].shape
            streams = [generator(target.seed, "square", i, name) for i in batch.ids]
            self.stripes[name] = torch.stack([_signs(s, channels, 1, width) for s in streams]).to(device)
            self.signs[name] = torch.stack([_signs(s, queries, channels, 1, 1) for s in streams]).to(device)


def _signs(stream: torch.Generator, *shape: int) -> Tensor:
    return (torch.randint(0, 2, shape, generator=stream, dtype=torch.int8) * 2 - 1).float()


def _jump(budget: Budget, clean: Tensor, signs: Tensor) -> Tensor:
    return (clean + budget.epsilon * signs).clamp(budget.low, budget.high)


def _square(place: Tensor, image: Tensor, share: float) -> Tensor:
    """Where the squares lie: (B, 2) places to a mask (B, 1, H, W)."""
    height, width = image.shape[2:]
    side = min(max(round(math.sqrt(share * height * width)), 1), height, width)
    rows, columns = (torch.arange(n, device=image.device) for n in (height, width))
    top = (place[:, :1] * (height - side + 1)).floor()
    left = (place[:, 1:] * (width - side + 1)).floor()
    across = (rows >= top) & (rows < top + side)
    along = (columns >= left) & (columns < left + side)
    return (across[:, :, None] & along[:, None, :])[:, None]
