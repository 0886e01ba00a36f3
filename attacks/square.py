"""Square attack (Andriushchenko et al. 2020, arXiv:1912.00049): random search on scores, Linf and L2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robustbench_med.api.attack import Attack, Batch, Best, Evaluation, Target, take
from robustbench_med.api.objective import margin
from robustbench_med.api.threat import Budget
from robustbench_med.util.errors import UserError
from robustbench_med.util.seeding import generator

# After so many of 10,000 queries the share of changed pixels halves; other budgets scale this.
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
SCHEDULED = 10_000
# Of the passes, the share that may go to proposals made in vain (see ``_Search``).
WASTE = 0.1
# The start in L2 is a grid of so many tiles along the height.
TILES = 5
TINY = 1e-12


@dataclass(frozen=True)
class Square(Attack):
    """Changes inside squares at random places; a proposal stays when it lowers the margin.

    In Linf a square is ±epsilon. In L2 a proposal takes the energy of one window, and what of the ball
    is not used yet, to another one, in the shape of the paper's eq. 2. Every proposal changes each
    attacked modality at the same relative place. Random models are judged by the mean over the EOT draws.

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
        best = Best(batch, target, by="margin")
        draws = _Draws.of(target, batch, self.queries)
        start = _stripes(target, batch, draws) | _tiles(target, batch, draws)
        start = target.threat.project(start, batch.inputs)
        best.update(best.standing(), start, target.evaluate(start, batch.labels, margin, gradient=False))
        _Search(self, target, batch, best, draws).run()
        return best.inputs

    def shares(self, queries: Tensor) -> Tensor:
        """Share of the pixels a square changes at each of ``queries`` (N,)."""
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
    """

    def __init__(self, attack: Square, target: Target, batch: Batch, best: Best, draws: _Draws) -> None:
        self.attack, self.target, self.batch, self.best, self.draws = attack, target, batch, best, draws
        self.asked = torch.zeros(len(batch), dtype=torch.long, device=best.loss.device)
        self.kept = 1.0

    def run(self) -> None:
        """Ask until all samples are broken or have had their proposals."""
        while len(index := self._standing()) > 0:
            at_once = self._at_once(len(index))
            rows = index.repeat_interleave(at_once)
            query = (self.asked[index][:, None] + torch.arange(at_once, device=index.device)).flatten()
            possible = query < self.attack.queries
            moved = self._proposals(rows, query.clamp_max(self.attack.queries - 1))
            labels = take(self.batch.labels, rows)
            seen = self.target.evaluate(moved, labels, margin, gradient=False)
            self._decide(index, rows, moved, seen, possible)

    def _standing(self) -> Tensor:
        index = self.best.standing()
        return index[self.asked[index] < self.attack.queries]

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

    def _proposals(self, rows: Tensor, query: Tensor) -> dict[str, Tensor]:
        """The inputs of each row's sample after its proposal number ``query``."""
        threat, moved = self.target.threat, {name: x[rows] for name, x in self.batch.inputs.items()}
        clean = dict(moved)
        share = self.attack.shares(query)
        longer = {}
        for name, budget in threat.budgets.items():
            here, draws = self.best.inputs[name][rows], self.draws.parts[name]
            if budget.norm == "linf":
                side = _sides(share, here, least=1)
                inside = _window(self.draws.place[rows, query], side, here)
                moved[name] = torch.where(inside, _jump(budget, clean[name], draws.signs[rows, query]), here)
            else:
                longer[name] = here - clean[name]
        return moved | self._moved_energy(rows, query, share, clean, longer)

    def _moved_energy(
        self,
        rows: Tensor,
        query: Tensor,
        share: Tensor,
        clean: Mapping[str, Tensor],
        deltas: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """The proposals in L2: from ``deltas`` (B, C, H, W), with the energy of two windows in one."""
        threat, changed = self.target.threat, {}
        unused = _unused(threat.budgets, deltas, threat.joint)
        for name, delta in deltas.items():
            draws = self.draws.parts[name]
            side = _odd(_sides(share, delta, least=3), min(delta.shape[2:]))
            into = _window(self.draws.place[rows, query], side, delta)
            source = _window(self.draws.second[rows, query], side, delta)
            energy = (delta * (into | source)).square().sum((2, 3), keepdim=True)
            shape = _pyramids(self.draws.place[rows, query], side, self.draws.turned[rows, query], delta)
            old = delta * into
            wanted = draws.signs[rows, query] * shape + old / _norms(old)
            wanted = wanted * into
            size = (energy + unused[name]).sqrt()
            changed[name] = torch.where(into, wanted / _norms(wanted) * size, delta * ~(into | source))
        return _filled(threat.budgets, changed, clean, threat.joint)


@dataclass(frozen=True)
class _Part:
    """Signs of one modality: (B, queries, C, 1, 1); of the start, (B, C, 1, W) or (B, C, rows, columns)."""

    signs: Tensor
    start: Tensor


@dataclass(frozen=True)
class _Draws:
    """All random numbers of a batch, derived from (seed, sample id) alone.

    Attributes:
        place, second: (B, queries, 2) relative row and column of each square, and of the window that
            gives its energy in L2.
        turned: (B, queries) whether the shape in L2 is divided from left to right.
        parts: by modality.
    """

    place: Tensor
    second: Tensor
    turned: Tensor
    parts: Mapping[str, _Part]

    @classmethod
    def of(cls, target: Target, batch: Batch, queries: int) -> _Draws:
        """The draws of every sample of a batch."""
        device = next(iter(batch.inputs.values())).device
        seed, parts = target.seed, {}
        place = [torch.rand(queries, 2, generator=generator(seed, "square", i)) for i in batch.ids]
        extra = [torch.rand(queries, 3, generator=generator(seed, "square energy", i)) for i in batch.ids]
        for name, budget in target.threat.budgets.items():
            _, channels, _, width = batch.inputs[name].shape
            shape = (channels, 1, width) if budget.norm == "linf" else (channels, *_grid(batch.inputs[name]))
            streams = [generator(seed, "square", i, name) for i in batch.ids]
            start = torch.stack([_signs(s, *shape) for s in streams]).to(device)
            signs = torch.stack([_signs(s, queries, channels, 1, 1) for s in streams]).to(device)
            parts[name] = _Part(signs, start)
        energy = torch.stack(extra).to(device)
        return cls(torch.stack(place).to(device), energy[..., :2], energy[..., 2] > 0.5, parts)


def _signs(stream: torch.Generator, *shape: int) -> Tensor:
    return (torch.randint(0, 2, shape, generator=stream, dtype=torch.int8) * 2 - 1).float()


def _stripes(target: Target, batch: Batch, draws: _Draws) -> dict[str, Tensor]:
    """The start: in Linf a sign for each column and channel; the clean images elsewhere."""
    start = dict(batch.inputs)
    for name, budget in target.threat.budgets.items():
        if budget.norm == "linf":
            start[name] = _jump(budget, batch.inputs[name], draws.parts[name].start)
    return start


def _tiles(target: Target, batch: Batch, draws: _Draws) -> dict[str, Tensor]:
    """The start in L2: a grid of tiles, each in the shape of eq. 2 with a sign for each channel."""
    changed = {}
    for name, budget in target.threat.budgets.items():
        if budget.norm != "l2":
            continue
        x, signs = batch.inputs[name], draws.parts[name].start
        side = _tile_side(x)
        tiled = torch.kron(signs, _pyramid(side, side, x.device))
        (height, width), (tall, wide) = x.shape[2:], tiled.shape[2:]
        top, left = (height - tall) // 2, (width - wide) // 2
        changed[name] = torch.zeros_like(x)
        changed[name][:, :, top : top + tall, left : left + wide] = tiled
    return _filled(target.threat.budgets, changed, batch.inputs, target.threat.joint)


def _tile_side(image: Tensor) -> int:
    return max(min(image.shape[2:]) // TILES, 1)


def _grid(image: Tensor) -> tuple[int, int]:
    """Rows and columns of tiles."""
    side = _tile_side(image)
    return image.shape[2] // side, image.shape[3] // side


def _jump(budget: Budget, clean: Tensor, signs: Tensor) -> Tensor:
    return (clean + budget.epsilon * signs).clamp(budget.low, budget.high)


def _sides(share: Tensor, image: Tensor, least: int) -> Tensor:
    """The side (B,) of a square of a share (B,) of the pixels."""
    height, width = image.shape[2:]
    return (share * height * width).sqrt().round().clamp(min(least, height, width), min(height, width))


def _odd(side: Tensor, most: int) -> Tensor:
    """The next odd side, at most ``most``."""
    return torch.where(side % 2 == 0, side + 1, side).clamp_max(most)


def _window(place: Tensor, side: Tensor, image: Tensor) -> Tensor:
    """Where squares lie: relative places (B, 2) and sides (B,) to a mask (B, 1, H, W)."""
    down, across = _offsets(place, side, image)
    inside = side[:, None]
    rows, columns = (down >= 0) & (down < inside), (across >= 0) & (across < inside)
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def _offsets(place: Tensor, side: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (B, H) and columns (B, W) counted from the corner of each square."""
    out = []
    for axis, size in enumerate(image.shape[2:]):
        corner = (place[:, axis] * (size - side + 1)).floor()
        out.append(torch.arange(size, device=image.device) - corner[:, None])
    return out[0], out[1]


def _pyramids(place: Tensor, side: Tensor, turned: Tensor, image: Tensor) -> Tensor:
    """The shape of eq. 2 inside each window, (B, 1, H, W) of L2 length 1."""
    down, across = _offsets(place, side, image)
    out = torch.zeros_like(image[:, :1])
    for size in torch.unique(side).tolist():
        rows = torch.nonzero(side == size).squeeze(1)
        tile = _pyramid(int(size), int(size), image.device)
        tiles = torch.where(turned[rows][:, None, None], tile.T, tile)
        i, j = (o[rows].long().clamp(0, int(size) - 1) for o in (down, across))
        picked = tiles.gather(1, i[:, :, None].expand(-1, -1, int(size)))
        out[rows, 0] = picked.gather(2, j[:, None, :].expand(-1, i.shape[1], -1))
    return out * _window(place, side, image)


def _pyramid(height: int, width: int, device: torch.device) -> Tensor:
    """Eq. 2: a positive and a negative hill, one above the other, (height, width) of L2 length 1."""
    upper, lower = _hill(height // 2, width, device), _hill(height - height // 2, width, device)
    both = torch.cat([upper, -lower])
    length: Tensor = torch.linalg.vector_norm(both)
    return both / length


def _hill(height: int, width: int, device: torch.device) -> Tensor:
    """Nested rectangles around the middle, the n-th of height 1/n²; of length 1, or without rows."""
    if height == 0:
        return torch.zeros(0, width, device=device)
    levels = max(height, width) // 2 + 1
    steps = 1 / torch.arange(1, levels + 1, device=device).square()
    height_from = steps.flip(0).cumsum(0).flip(0)  # what is covered by all rectangles from the n-th on
    down, across = (torch.arange(n, device=device) - n // 2 for n in (height, width))
    ring = torch.maximum(down.abs()[:, None], across.abs()[None, :])
    hill = height_from[ring.clamp_max(levels - 1)]
    length: Tensor = torch.linalg.vector_norm(hill)
    return hill / length


def _norms(x: Tensor) -> Tensor:
    """L2 length of each channel, (B, C, 1, 1)."""
    return x.square().sum((2, 3), keepdim=True).sqrt().clamp_min(TINY)


def _energies(deltas: Mapping[str, Tensor], joint: bool) -> dict[str, Tensor]:
    """Squared length of each sample, (B, 1, 1, 1): of every modality, or of all of them together."""
    own = {name: delta.square().sum((1, 2, 3), keepdim=True) for name, delta in deltas.items()}
    if not joint:
        return own
    return dict.fromkeys(own, torch.stack(list(own.values())).sum(0))


def _unused(budgets: Mapping[str, Budget], deltas: Mapping[str, Tensor], joint: bool) -> dict[str, Tensor]:
    """What of the squared radius no pixel uses yet, an equal part for each channel."""
    energies = _energies(deltas, joint)
    channels = {name: delta.shape[1] for name, delta in deltas.items()}
    total = sum(channels.values())
    return {
        name: (budgets[name].epsilon ** 2 - energy).clamp_min(0) / (total if joint else channels[name])
        for name, energy in energies.items()
    }


def _filled(
    budgets: Mapping[str, Budget], deltas: Mapping[str, Tensor], clean: Mapping[str, Tensor], joint: bool
) -> dict[str, Tensor]:
    """Perturbations brought to the full radius, as inputs."""
    out = {}
    for name, energy in _energies(deltas, joint).items():
        budget = budgets[name]
        # A hair less than the radius, for the rounding of the sum.
        scale = budget.epsilon * (1 - 1e-6) / energy.sqrt().clamp_min(TINY)
        out[name] = (clean[name] + deltas[name] * scale).clamp(budget.low, budget.high)
    return out
