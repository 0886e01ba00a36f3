"""Fast adaptive boundary attack (FAB-T, Croce & Hein 2020) on any number of modalities and heads.

Perturbations are vectors in units of each modality's radius. The threat model, a product of balls, is
then the unit ball of one norm, the largest of the modalities' lengths, and that norm is what FAB
minimises here. (The L2 length of the whole vector would be the wrong norm for modalities with L2 radii
of their own: its closest point favours one modality and leaves the radius of another unused, and
shrinking it into the balls loses success. With one modality, or with Linf, nothing differs.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_med.api.attack import Attack, Batch, Best, Evaluation, Target, take
from robustbench_med.api.errors import UserError
from robustbench_med.api.objective import difference, margin
from robustbench_med.api.threat import Budget, ThreatModel

# Newton's method below ends after 3 to 8 rounds; an end is needed for inputs made to defeat it.
ROUNDS = 50
# Of the distance to a hyperplane, what float32 need not resolve.
PRECISION = 1e-6
# Stands for "further than any box"; unlike infinity it gives 0 when multiplied by 0.
FAR = 1e30


@dataclass(frozen=True)
class Space:
    """The perturbations of a batch as vectors (B, N), in units of each modality's radius.

    Attributes:
        budgets: of the modalities with a positive radius; the others cannot move.
        clean: all modalities of the batch.
        low, high: the box of each vector's coordinates, (B, N).
    """

    budgets: Mapping[str, Budget]
    clean: Mapping[str, Tensor]
    low: Tensor
    high: Tensor

    @classmethod
    def around(cls, clean: Mapping[str, Tensor], threat: ThreatModel) -> Space | None:
        """The space of what ``threat`` lets move; None if that is nothing."""
        budgets = {name: budget for name, budget in threat.budgets.items() if budget.epsilon > 0}
        if not budgets:
            return None
        low = [((b.low - clean[n]) / b.epsilon).flatten(1) for n, b in budgets.items()]
        high = [((b.high - clean[n]) / b.epsilon).flatten(1) for n, b in budgets.items()]
        return cls(budgets, clean, torch.cat(low, 1), torch.cat(high, 1))

    def take(self, index: Tensor) -> Space:
        """The space of the samples at ``index``."""
        return Space(self.budgets, take(self.clean, index), self.low[index], self.high[index])

    def split(self, vectors: Tensor) -> tuple[Tensor, ...]:
        """The part (B, pixels) of every modality that can move."""
        parts: tuple[Tensor, ...] = torch.split(
            vectors, [self.clean[n].shape[1:].numel() for n in self.budgets], 1
        )
        return parts

    def inputs(self, vectors: Tensor) -> dict[str, Tensor]:
        """All modalities, moved by ``vectors``."""
        moved = dict(self.clean)
        for (name, budget), part in zip(self.budgets.items(), self.split(vectors), strict=True):
            clean = self.clean[name]
            moved[name] = (clean + budget.epsilon * part.view_as(clean)).clamp_(budget.low, budget.high)
        return moved

    def vectors(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The inverse of ``inputs``."""
        parts = [(inputs[n] - self.clean[n]).flatten(1) / b.epsilon for n, b in self.budgets.items()]
        return torch.cat(parts, 1)

    def gradient(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """Gradients with respect to the inputs as one with respect to the vectors, (B, N)."""
        parts = [gradients[name].flatten(1) * b.epsilon for name, b in self.budgets.items()]
        return torch.cat(parts, 1)

    def lengths(self, vectors: Tensor) -> Tensor:
        """The norm of each vector (B,); the threat model is where it is 1 or less."""
        lengths = [
            part.abs().amax(1) if budget.norm == "linf" else torch.linalg.vector_norm(part, dim=1)
            for budget, part in zip(self.budgets.values(), self.split(vectors), strict=True)
        ]
        return torch.stack(lengths).amax(0)

    def towards(self, origin: Tensor, normal: Tensor, gap: Tensor) -> Tensor:
        """The shortest move from ``origin`` (B, N), inside the box, along which a linear function rises.

        Args:
            normal: the function's gradient (B, N).
            gap: by how much it is to rise, (B,). If the box forbids that, the move goes as far as
                the box lets it.
        """
        steepest = normal.abs().amax(1).clamp_min(torch.finfo(normal.dtype).tiny)
        sign = normal.sign() * gap.sign()[:, None]
        room = torch.where(sign > 0, self.high - origin, origin - self.low).clamp_min_(0)
        # Scaled so that no square below can underflow.
        weight, goal = normal.abs() / steepest[:, None], gap.abs() / steepest
        return sign * self._climb(weight, room, goal)

    def _climb(self, weight: Tensor, room: Tensor, goal: Tensor) -> Tensor:
        """``towards`` where all is positive: the shortest move in [0, room] that earns ``goal``."""
        norms = [budget.norm for budget in self.budgets.values()]
        if set(norms) == {"linf"}:
            one = torch.ones_like(weight[:1, :1])
            return torch.minimum(water_level(weight, one, room, goal)[:, None], room)
        if norms == ["l2"]:
            return torch.minimum(water_level(weight, weight, room, goal)[:, None] * weight, room)
        return shortest_in_product(norms, self.split(weight), self.split(room), goal)


def water_level(weight: Tensor, speed: Tensor, cap: Tensor, goal: Tensor) -> Tensor:
    """The level t (B,) at which the sum over i of weight_i · min(t · speed_i, cap_i) reaches ``goal``.

    This one equation is the dual of all projections onto a hyperplane and a box: with speed 1 it is
    that of Linf, with speed = weight that of L2. Its left side is concave and piecewise linear in t,
    so Newton's method from t = 0 never overshoots and ends exactly, on the right piece, after a
    few rounds; nothing needs to be sorted.

    Args:
        weight, speed, cap: 0 or more, (B, N) or such that they broadcast.
        goal: (B,). A goal out of reach gives a level so high that every cap is met.
    """
    rate = weight * speed
    level = goal / rate.sum(1).clamp_min(torch.finfo(rate.dtype).tiny)
    for _ in range(ROUNDS):
        reached = torch.minimum(level[:, None] * speed, cap)
        missing = goal - torch.linalg.vecdot(weight, reached)
        slope = torch.where(reached < cap, rate, 0).sum(1)
        moving = (missing > PRECISION * goal) & (slope > 0)
        if not moving.any():
            break
        level = torch.where(moving, level + missing / slope, level)
    return torch.where((slope > 0) | (missing <= PRECISION * goal), level, FAR)


def shortest_in_product(
    norms: Sequence[str], weights: Sequence[Tensor], rooms: Sequence[Tensor], goal: Tensor
) -> Tensor:
    """The move in [0, room] that earns ``goal`` (B,) with the smallest largest length of its parts.

    All parts get the same length r, and each earns as much as it can with it. What they earn together
    is concave in r: again Newton's method, never overshooting.

    Args:
        norms: "linf" or "l2", of each part.
        weights, rooms: each part's, (B, N_part).
    """
    dual = [w.sum(1) if n == "linf" else w.norm(dim=1) for n, w in zip(norms, weights, strict=True)]
    length = goal / torch.stack(dual).sum(0).clamp_min(torch.finfo(goal.dtype).tiny)
    for _ in range(ROUNDS):
        parts = [
            _furthest(norm, w, room, length) for norm, w, room in zip(norms, weights, rooms, strict=True)
        ]
        earned = [torch.linalg.vecdot(w, move) for w, (move, _) in zip(weights, parts, strict=True)]
        missing, slope = goal - torch.stack(earned).sum(0), torch.stack([s for _, s in parts]).sum(0)
        moving = (missing > PRECISION * goal) & (slope > 0)
        if not moving.any():
            break
        length = torch.where(moving, length + missing / slope, length)
    return torch.cat([move for move, _ in parts], 1)


def _furthest(norm: str, weight: Tensor, room: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """The move of ``length`` (B,) that earns most, and what it would earn per further length, (B,)."""
    if norm == "linf":
        move = torch.minimum(length[:, None], room)
        return move, torch.where(move < room, weight, 0).sum(1)
    # Moves along the gradient, min(t · weight, room); its squared length is as concave in t².
    square = water_level(torch.ones_like(weight[:1, :1]), weight**2, room**2, length**2)
    move = torch.minimum(square.sqrt()[:, None] * weight, room)
    return move, torch.where(square < FAR, length / square.sqrt(), 0)


class Point(NamedTuple):
    """One iterate of a batch, as perturbation (B, N) and as inputs."""

    vectors: Tensor
    inputs: dict[str, Tensor]


class InBall:
    """Keeps the strongest points inside the threat model: what robust accuracy needs."""

    def __init__(self, target: Target, batch: Batch) -> None:
        self.best = Best(batch, target, by="margin")

    def see(self, index: Tensor, lengths: Tensor, point: Point, seen: Evaluation) -> Tensor:
        """Take note of points of ``lengths`` (B,) for batch positions ``index``; which to go on with."""
        inside = lengths <= 1
        # What lies outside counts as weaker than anything.
        judged = replace(
            seen,
            margin=torch.where(inside, seen.margin, -torch.inf),
            success=torch.where(inside, seen.success, 0),
        )
        self.best.update(index, point.inputs, judged)
        return self.best.unfinished(index)

    def standing(self) -> Tensor:
        """Positions worth attacking further."""
        return self.best.standing()


class Closest:
    """Keeps the adversarial points nearest to the clean ones, however far."""

    def __init__(self, space: Space) -> None:
        self.vectors = torch.zeros_like(space.low)
        self.distances = torch.full_like(space.low[:, 0], torch.inf)

    def see(self, index: Tensor, lengths: Tensor, point: Point, seen: Evaluation) -> Tensor:
        """As ``InBall.see``; only what is wrong from the start needs no more."""
        nearer = (seen.margin > 0) & (lengths < self.distances[index])
        where = index[nearer]
        self.vectors[where], self.distances[where] = point.vectors[nearer], lengths[nearer]
        return self.distances[index] > 0

    def standing(self) -> Tensor:
        """Positions worth attacking further."""
        return torch.nonzero(self.distances > 0).squeeze(1)


@dataclass(frozen=True)
class FAB(Attack):
    """FAB-T: walks along the boundary to a target class, pulled towards the clean point.

    Each step linearises the difference between the target's logit and the right one, projects the
    iterate and the clean point onto the resulting hyperplane (and the box), and goes to a mixture of
    both; a point that is adversarial is then drawn back towards the clean one.

    Attributes:
        steps: evaluations of each restart for each target.
        restarts: for each target; the first starts from the clean point, the others in the ball.
        targets: classes tried, those with the highest logits on the clean point.
        alpha_max: largest share of the clean point's projection in a step.
        eta: how far a step goes, 1 being the hyperplane itself.
        beta: what remains of an adversarial perturbation when it is drawn back.
    """

    steps: int = 100
    restarts: int = 1
    targets: int = 9
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9

    def __post_init__(self) -> None:
        if min(self.steps, self.restarts, self.targets) < 1:
            raise UserError("fab: steps, restarts and targets must be 1 or more")
        if not 0 <= self.alpha_max <= 1:
            raise UserError(f"fab: alpha-max is {self.alpha_max:g}; it must lie between 0 and 1")
        if not 1 <= self.eta < 2:
            raise UserError(f"fab: eta is {self.eta:g}; it must be at least 1 and below 2")
        if not 0 < self.beta <= 1:
            raise UserError(f"fab: beta is {self.beta:g}; it must be positive and at most 1")

    def perturb(self, target: Target, batch: Batch) -> dict[str, Tensor]:
        space = Space.around(batch.inputs, target.threat)
        if space is None:
            return dict(batch.inputs)
        kept = InBall(target, batch)
        for index, vectors in self._walks(target, batch, space, kept):
            if len(index) == 0:
                continue
            # The walk minimises the distance and may end outside; what it found still hurts inside.
            part, place = batch.take(index), space.take(index)
            inside = target.threat.project(place.inputs(vectors), part.inputs)
            seen = target.evaluate(inside, part.labels, margin, gradient=False)
            kept.best.update(index, inside, seen)
        return kept.best.inputs

    def minimise(self, target: Target, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """The closest adversarial inputs, which may lie outside the ball, and their distances (B,).

        Distances are in units of the radii, so that 1 is the surface of the threat model; infinite,
        with the clean inputs, where nothing adversarial was found.
        """
        space = Space.around(batch.inputs, target.threat)
        if space is None:
            raise UserError("fab: every radius is 0; distances are measured in units of the radii")
        kept = Closest(space)
        for _ in self._walks(target, batch, space, kept):
            pass
        return space.inputs(kept.vectors), kept.distances

    def _walks(
        self, target: Target, batch: Batch, space: Space, kept: InBall | Closest
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Walk to every target from every start; yields the unfinished positions and last iterates."""
        scores = target.scores(batch.inputs)
        for rank, classes in enumerate(target.goal.candidates(scores, batch.labels, self.targets)):
            for restart in range(self.restarts):
                index = kept.standing()
                if len(index) == 0:
                    return
                start = self._start(target, batch, space, index, restart, rank)
                ends = self._walk(target, batch, space, index, start, classes, kept)
                if len(ends[0]) > 0:
                    yield ends

    def _start(
        self, target: Target, batch: Batch, space: Space, index: Tensor, restart: int, rank: int
    ) -> Tensor:
        """The clean point, then points of the ball of half the size."""
        place, part = space.take(index), batch.take(index)
        if restart == 0:
            return torch.zeros_like(place.low)
        number = rank * self.restarts + restart
        return place.vectors(target.threat.random_start(part.inputs, part.ids, target.seed, number)) / 2

    def _walk(
        self,
        target: Target,
        batch: Batch,
        space: Space,
        index: Tensor,
        vectors: Tensor,
        classes: Sequence[Tensor],
        kept: InBall | Closest,
    ) -> tuple[Tensor, Tensor]:
        """One walk to ``classes`` (B,) of the samples at ``index``; those unfinished, with their ends."""
        part, place, wanted = batch.take(index), space.take(index), [c[index] for c in classes]
        for _ in range(self.steps):
            point = Point(vectors, place.inputs(vectors))
            seen = target.evaluate(point.inputs, part.labels, difference, targets=wanted)
            going = kept.see(index, place.lengths(vectors), point, seen)
            vectors = self._step(place, vectors, seen, len(classes))
            if not going.all():
                still = torch.nonzero(going).squeeze(1)
                index, vectors, wanted = index[still], vectors[still], [c[still] for c in wanted]
                part, place = part.take(still), place.take(still)
            if len(index) == 0:
                break
        return index, vectors

    def _step(self, space: Space, vectors: Tensor, seen: Evaluation, problems: int) -> Tensor:
        """The next iterate.

        The paper draws an adversarial point back first and linearises there, which takes a pass to
        judge each point and another for its gradient; here one pass does both, and the hyperplane
        is that of the adversarial point.
        """
        normal, adversarial = space.gradient(seen.gradients), seen.margin > 0
        at_clean = seen.loss - torch.linalg.vecdot(normal, vectors)
        pull = torch.full_like(at_clean, self.alpha_max)
        aim = torch.zeros_like(at_clean)
        if problems > 1:
            # Several heads must fall, and each step is towards the one that resists most. The clean
            # point's projection would undo what the others lost, and an overshoot in proportion to
            # what is missing would approach the corner of all hyperplanes without ever passing it.
            pull, aim = torch.where(adversarial, pull, 0), (self.eta - 1) * at_clean.abs()
        origin = torch.where(adversarial, self.beta, 1.0)[:, None] * vectors
        here = space.towards(origin, normal, aim - at_clean - torch.linalg.vecdot(normal, origin))
        there = space.towards(torch.zeros_like(origin), normal, aim - at_clean)
        far_here, far_there = space.lengths(here), space.lengths(there)
        share = torch.minimum(far_here / (far_here + far_there).clamp_min(1e-8), pull)[:, None]
        mixture = torch.lerp(origin + self.eta * here, self.eta * there, share)
        return torch.minimum(torch.maximum(mixture, space.low), space.high)
