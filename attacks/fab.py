"""Fast adaptive boundary attack (FAB-T, Croce & Hein 2020) on any number of modalities and heads.

It minimises the largest of the modalities' lengths in units of their radii (see ``_space.py``), the norm
whose unit ball is the threat model. (The L2 length of the whole vector would be the wrong norm for
modalities with L2 radii of their own: its closest point favours one modality and leaves the radius
of another unused, and shrinking it into the balls loses success. With one modality, or with Linf,
nothing differs.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_med.api import (
    Attack,
    Batch,
    Best,
    Evaluation,
    Target,
    UserError,
    difference,
    margin,
    remaining,
)
from robustbench_med.attacks._space import Space


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
        rows = torch.nonzero(nearer).squeeze(1)
        # Several walks may be at one sample: the one that comes last in the order of falling length stays.
        for row in rows[lengths[rows].argsort(descending=True, stable=True)].tolist():
            self.vectors[index[row]], self.distances[index[row]] = point.vectors[row], lengths[row]
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
            seen = target.evaluate(part, inside, margin, gradient=False)
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
        candidates = target.goal.candidates(target.scores(batch), batch.labels, self.targets)
        # As APGD does: the likeliest target alone, then the others at once.
        for first, lanes in ((0, candidates[:1]), (1, candidates[1:])):
            for restart in range(self.restarts):
                index = kept.standing()
                if len(index) == 0 or not lanes:
                    break
                ranks = range(first, first + len(lanes))
                starts = [self._start(target, batch, space, index, restart, rank) for rank in ranks]
                part = batch.take(index).lined_up([lane.take(index) for lane in lanes], first)
                ends = self._walk(target, part, space, index.repeat(len(lanes)), torch.cat(starts), kept)
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
        start: Tensor = place.vectors(target.threat.random_start(part.inputs, part.ids, target.seed, number))
        return start / 2

    def _walk(
        self,
        target: Target,
        batch: Batch,
        space: Space,
        index: Tensor,
        vectors: Tensor,
        kept: InBall | Closest,
    ) -> tuple[Tensor, Tensor]:
        """Walks of ``batch``, one a row, to the answers it aims at; its samples are those at ``index`` (L,).

        ``index`` names a sample once for each of its walks. Returns those unfinished, with their ends.
        """
        part, place = batch, space.take(index)
        heads = 1 if batch.aim is None else batch.aim.question.shape[1]
        for _ in range(self.steps):
            point = Point(vectors, place.inputs(vectors))
            seen = target.evaluate(part, point.inputs, difference)
            going = kept.see(index, place.lengths(vectors), point, seen)
            vectors = self._step(place, vectors, seen, heads)
            still = remaining(going)
            if len(still) < len(index):
                index, vectors = index[still], vectors[still]
                part, place = part.take(still), place.take(still)
            if len(index) == 0:
                break
        return index, vectors

    def _step(self, space: Space, vectors: Tensor, seen: Evaluation, heads: int) -> Tensor:
        """The next iterate.

        The paper draws an adversarial point back first and linearises there, which takes a pass to
        judge each point and another for its gradient; here one pass does both, and the hyperplane
        is that of the adversarial point.
        """
        normal, adversarial = space.gradient(seen.gradients), seen.margin > 0
        at_clean = seen.loss - torch.linalg.vecdot(normal, vectors)
        pull = torch.full_like(at_clean, self.alpha_max)
        aim = torch.zeros_like(at_clean)
        if heads > 1:
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
        inside: Tensor = space.inside(mixture)
        return inside
