"""HopSkipJump (Chen et al. 2020, arXiv:1904.02144): decisions only, on any number of modalities and heads.

It starts at a wrong answer somewhere in the box, walks along the border between right and wrong towards
the clean input, and stops when it is inside the threat model. Distances are those of ``_space.py``: the
largest of the modalities' lengths in units of their radii.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robustbench_med.api import Attack, Batch, Target, UserError, generator, margin
from robustbench_med.attacks._space import Space

# The step along the border is halved so often before the walk stays where it is.
HALVINGS = 10
# And the search for the border ends within this share of its distance.
CLOSE = 1e-3


@dataclass(frozen=True)
class HopSkipJump(Attack):
    """Estimates which way the border lies from decisions at random points around it.

    Those points lie wider apart than in the paper, whose distance, divided by the number of elements,
    float32 does not resolve. A random model is wrong where half of the EOT draws are.

    Attributes:
        steps: along the border.
        probes: random points of the first estimate; that of step t has the root of t times as many.
        tries: random points of the box among which a first wrong answer is sought.
        spread: distance of the probes from the border, as a share of the distance to the clean input.
    """

    knowledge: ClassVar[Literal["decisions"]] = "decisions"

    steps: int = 20
    probes: int = 50
    tries: int = 25
    spread: float = 0.1

    def __post_init__(self) -> None:
        if self.steps < 1 or self.probes < 1 or self.tries < 1 or not 0 < self.spread < math.inf:
            raise UserError("hop-skip-jump: steps, probes and tries must be 1 or more, spread above 0")

    def perturb(self, target: Target, batch: Batch) -> dict[str, Tensor]:
        space = Space.around(batch.inputs, target.threat)
        if space is None:
            return dict(batch.inputs)
        walk = _Walk(self, target, batch, space)
        with torch.no_grad():
            vectors = walk.vectors()
        return target.threat.project(space.inputs(vectors), batch.inputs)


class _Walk:
    """The walk of all samples of a batch, each by itself.

    Attributes:
        streams: of each sample's random numbers.
    """

    def __init__(self, attack: HopSkipJump, target: Target, batch: Batch, space: Space) -> None:
        self.attack, self.target, self.batch, self.space = attack, target, batch, space
        self.streams = [generator(target.seed, "hop-skip-jump", sample) for sample in batch.ids]

    def vectors(self) -> Tensor:
        """Where each sample ends: inside the threat model if it was broken there, 0 if never."""
        here = torch.zeros_like(self.space.low)
        right = torch.nonzero(~self.wrong(torch.arange(len(here)), here)).squeeze(1)
        index, here[right] = self._started(right, here[right])
        if len(index) > 0:
            here[index] = self._bisected(index, here[index])
        for step in range(1, self.attack.steps + 1):
            if self.target.deterministic:
                index = index[self.space.take(index).lengths(here[index]) > 1]
            if len(index) == 0:
                break
            here[index] = self._moved(index, here[index], step)
        if not self.target.deterministic:  # the border is where half of the draws are wrong; beyond it, more
            length = self.space.lengths(here).clamp(1e-6, 1)
            here = here / length[:, None]
        return here

    def wrong(self, index: Tensor, vectors: Tensor) -> Tensor:
        """Whether the samples at ``index`` are broken there, bool (len(index),)."""
        batch = self.batch.take(index.to(self.batch.device))
        inputs = self.space.take(index).inputs(vectors)
        seen = self.target.evaluate(batch, inputs, margin, gradient=False)
        return seen.success >= 0.5

    def _started(self, index: Tensor, nowhere: Tensor) -> tuple[Tensor, Tensor]:
        """Those of ``index`` for which a wrong answer was found, and vectors for all of it."""
        found, missing = nowhere.clone(), torch.ones_like(index, dtype=torch.bool)
        for _ in range(self.attack.tries):
            left = torch.nonzero(missing).squeeze(1)
            if len(left) == 0:
                break
            space = self.space.take(index[left])
            share = self._drawn(index[left], uniform=True)
            tried = space.low + share * (space.high - space.low)
            wrong = self.wrong(index[left], tried)
            found[left[wrong]] = tried[wrong]
            missing[left[wrong]] = False
        return index[~missing], found

    def _bisected(self, index: Tensor, far: Tensor) -> Tensor:
        """The wrong point nearest to the clean input among those that ``_limited`` makes of ``far``."""
        space = self.space.take(index)
        high = space.lengths(far)
        low, best = torch.zeros_like(high), far
        while bool((going := high - low > CLOSE * high).any()):
            middle = torch.where(going, (low + high) / 2, high)
            tried = _limited(space, far, middle)
            wrong = torch.ones_like(going).masked_scatter(going, self.wrong(index[going], tried[going]))
            best = torch.where(wrong[:, None], tried, best)
            low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)
        return best

    def _moved(self, index: Tensor, here: Tensor, step: int) -> Tensor:
        """One step: estimate, move along the border's normal, return to the border."""
        space = self.space.take(index)
        distance = space.lengths(here)
        direction = _steepest(space, self._normal(index, here, distance, step))
        size, moved = distance / step**0.5, here
        searching = torch.ones_like(index, dtype=torch.bool)
        for _ in range(HALVINGS):
            left = torch.nonzero(searching).squeeze(1)
            if len(left) == 0:
                break
            tried = space.inside(here + size[:, None] * direction)[left]
            wrong = self.wrong(index[left], tried)
            moved = moved.index_copy(0, left[wrong], tried[wrong])
            searching[left[wrong]] = False
            size = torch.where(searching, size / 2, size)
        # Only what moved has a border to look for.
        gone = torch.nonzero(~searching).squeeze(1)
        if len(gone) == 0:
            return here
        nearer = self._bisected(index[gone], moved[gone])
        better = self.space.take(index[gone]).lengths(nearer) < distance[gone]
        return here.index_copy(0, gone[better], nearer[better])

    def _normal(self, index: Tensor, here: Tensor, distance: Tensor, step: int) -> Tensor:
        """Which way more is wrong (paper, eq. 9 and its baseline), (len(index), N).

        Probes are added one by one, so that it does not matter how many of them share a pass.
        """
        count = int(self.attack.probes * step**0.5)
        rows = max(1, (self.target.rows or len(self.batch)) // len(index))
        space = self.space.take(index)
        plain, weighted = torch.zeros_like(here), torch.zeros_like(here)
        votes = torch.zeros_like(distance)
        for first in range(0, count, rows):
            chunk = range(first, min(first + rows, count))
            probes = [_spread(space, self._drawn(index)) for _ in chunk]
            size = self.attack.spread * distance[:, None]
            points = [space.inside(here + size * probe) for probe in probes]
            wrong = self.wrong(index.repeat(len(probes)), torch.cat(points))
            for point, answer in zip(points, wrong.view(len(probes), -1), strict=True):
                vote = torch.where(answer, 1.0, -1.0)
                moved = (point - here) / size
                plain, weighted, votes = plain + moved, weighted + vote[:, None] * moved, votes + vote
        return weighted - votes[:, None] / count * plain

    def _drawn(self, index: Tensor, uniform: bool = False) -> Tensor:
        """A random vector for each of the samples at ``index``, normal or uniform in [0, 1]."""
        draw, size = (torch.rand if uniform else torch.randn), self.space.low.shape[1]
        drawn = [draw(size, generator=self.streams[i]) for i in index.tolist()]
        return torch.stack(drawn).to(self.space.low)


def _limited(space: Space, vectors: Tensor, longest: Tensor) -> Tensor:
    """The vectors with every block shortened to ``longest`` (B,): clipped in Linf, scaled in L2."""
    limit = longest[:, None]
    moved: Tensor = space.by_block(
        vectors,
        linf=lambda part: part.clamp(-limit, limit),
        l2=lambda part: part * (limit / part.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp_max(1),
    )
    return moved


def _steepest(space: Space, normal: Tensor) -> Tensor:
    """The direction of length 1 in which a linear function with this gradient rises most."""
    moved: Tensor = space.by_block(
        normal, linf=torch.sign, l2=lambda part: part / part.norm(dim=1, keepdim=True).clamp_min(1e-12)
    )
    return moved


def _spread(space: Space, drawn: Tensor) -> Tensor:
    """Normal draws brought to length 1 or so in every block."""
    moved: Tensor = space.by_block(drawn, linf=lambda part: part, l2=lambda part: part / part.shape[1] ** 0.5)
    return moved
