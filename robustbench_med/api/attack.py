"""The contract of an attack: what it is given and what it gives back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robustbench_med.api.losses import Loss, margin
from robustbench_med.api.model import DrawsSharedBy, FusionModel
from robustbench_med.api.objective import Aim, Goal
from robustbench_med.api.threat import ThreatModel
from robustbench_med.util.errors import UserError
from robustbench_med.util.seeding import derive

Knowledge = Literal["white box", "scores", "decisions", "transfer", "none"]


@dataclass(frozen=True)
class Batch:
    """Samples under attack.

    Attributes:
        inputs: modalities (B, *shape), in their own units.
        labels: by head (B,) or (B, questions).
        ids: B sample ids; random starts and draws derive from them.
        lanes: where a sample is attacked in several ways at once, which of them a row is, (B,) numbers.
        aim: what the attack follows, where the goal leaves a choice; see ``Goal.followed``.
    """

    inputs: Mapping[str, Tensor]
    labels: Mapping[str, Tensor]
    ids: tuple[str, ...]
    lanes: tuple[int, ...] = ()
    aim: Aim | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def device(self) -> torch.device:
        """Where the inputs lie."""
        return next(iter(self.inputs.values())).device

    def take(self, index: Tensor) -> Batch:
        """The samples at ``index`` (B',)."""
        chosen = index.tolist()
        return Batch(
            take(self.inputs, index),
            take(self.labels, index),
            tuple(self.ids[i] for i in chosen),
            tuple(self.lanes[i] for i in chosen) if self.lanes else (),
            None if self.aim is None else self.aim.take(index),
        )

    def part(self, some: slice) -> Batch:
        """Neighbouring samples, which share their memory with these."""
        return Batch(
            {name: x[some] for name, x in self.inputs.items()},
            {head: y[some] for head, y in self.labels.items()},
            self.ids[some],
            self.lanes[some],
            None if self.aim is None else self.aim.part(some),
        )

    def aimed(self, aim: Aim | None) -> Batch:
        """The same samples with another aim."""
        return replace(self, aim=aim)

    def lined_up(self, aims: Sequence[Aim], first: int = 0) -> Batch:
        """The samples once for each of ``aims``, one lane after another, numbered from ``first``."""
        everyone = torch.arange(len(self), device=self.device).repeat(len(aims))
        lanes = tuple(first + lane for lane in range(len(aims)) for _ in self.ids)
        return replace(self.take(everyone), lanes=lanes, aim=Aim.joined(aims))


@dataclass
class Passes:
    """Samples sent through the model, forwards and backwards."""

    forward: int = 0
    backward: int = 0


@dataclass(frozen=True)
class Evaluation:
    """What the model says about some inputs, averaged over the EOT draws.

    Attributes:
        loss: mean over draws, (B,).
        margin: the goal's margin, mean over draws, (B,): the common measure of attacks whose
            losses differ.
        success: ``Goal.success``, mean over draws, (B,).
        gradients: per attacked modality the gradient of ``loss``, {} unless asked for.
    """

    loss: Tensor
    margin: Tensor
    success: Tensor
    gradients: Mapping[str, Tensor]


@dataclass(frozen=True)
class Surrogate:
    """A trained model whose adversarial inputs are tried on another one.

    Attributes:
        model, dataset, weights: as ``--model``, ``--dataset`` and ``--weights`` name it.
    """

    model: str
    dataset: str
    weights: str | None = None


def _no_surrogates(wanted: Surrogate) -> FusionModel:
    raise UserError(f"the surrogate {wanted.model!r} cannot be loaded here; run the attack by robmed run")


@dataclass
class Target:
    """The model as the attacker may use it: under a threat model, with every pass counted.

    Attributes:
        model: in evaluation mode, its parameters frozen.
        eot: draws of the model's randomness behind each loss and gradient; 1 if deterministic.
        seed: for random starts and draws; derive from it by name, never draw from a shared stream.
        rows: most samples in one pass, None for any number. Attacks may try several targets or
            proposals at once; larger requests are cut into passes of this size.
        raw_gradients: leave NaN and infinite entries in the gradients; they are 0 otherwise, so that an
            attack goes on with the others.
        load_surrogate: hands out the models that a transfer attack asks for.
        asked: how often each (sample, lane) was asked about; names the draws of the next question.
        gave_up: samples on which an attack raised an error, by id, with the error; what it hands back for
            them is the clean input, and nobody takes it for a sample that resisted.
        deterministic: True when a sample seen broken once is broken for good.
    """

    model: FusionModel
    threat: ThreatModel
    goal: Goal
    eot: int
    seed: int
    passes: Passes
    rows: int | None = None
    raw_gradients: bool = False
    load_surrogate: Callable[[Surrogate], FusionModel] = _no_surrogates
    asked: dict[tuple[str, int], int] = field(default_factory=dict, repr=False)
    gave_up: dict[str, str] = field(default_factory=dict, repr=False)
    deterministic: bool = field(init=False)
    draws_shared_by: DrawsSharedBy = field(init=False)

    def __post_init__(self) -> None:
        self.draws_shared_by = self.model.draws_shared_by
        self.deterministic = self.draws_shared_by == "none"

    def evaluate(
        self,
        batch: Batch,
        inputs: Mapping[str, Tensor],
        loss: Loss,
        gradient: bool = True,
        steps: Sequence[int] | None = None,
    ) -> Evaluation:
        """Loss, success and (if asked) the gradient with respect to the attacked modalities only.

        The mean over ``eot`` draws is a gradient of the expected loss (Athalye et al. 2018).

        Args:
            batch: whose samples the rows of ``inputs`` are of: labels, ids, aim.
            inputs: all modalities, (B, *shape).
            steps: what tells the draws of this question about a row from those of others. By default
                a count of the questions about that sample in that lane so far.

        Raises:
            UserError: no attacked modality gets a gradient; zeros would pass for robustness.
        """
        if gradient and not self.model.differentiable:
            raise UserError(
                "this model tells scores, no gradients; choose an attack that needs none (square, spsa, "
                "hop-skip-jump, or transfer from a surrogate)"
            )
        keys, passes = self._keys(batch, steps), self._passes_of(len(batch))
        if len(passes) == 1:
            return self._evaluate(batch, inputs, loss, gradient, keys)
        parts = []
        for some in passes:
            part = {name: x[some] for name, x in inputs.items()}
            parts.append(self._evaluate(batch.part(some), part, loss, gradient, keys[some]))
        return _combined(parts, torch.cat)

    def _passes_of(self, count: int) -> list[slice]:
        """Which of so many rows go through the model together."""
        if self.rows is None or count <= self.rows:
            return [slice(0, count)]
        return [slice(start, start + self.rows) for start in range(0, count, self.rows)]

    def _evaluate(
        self,
        batch: Batch,
        inputs: Mapping[str, Tensor],
        loss: Loss,
        gradient: bool,
        keys: Sequence[tuple[str | int, ...]],
    ) -> Evaluation:
        leaves = {name: inputs[name].detach() for name in self.threat.budgets}
        with torch.set_grad_enabled(gradient):
            for leaf in leaves.values():
                leaf.requires_grad_(gradient)
            draws = []
            for number in range(self.eot):
                self._name_draw(keys, number)
                draws.append(self._draw(batch, {**inputs, **leaves}, loss))
        self.passes.forward += self.eot * len(batch)
        self.passes.backward += self.eot * len(batch) if gradient else 0
        return draws[0] if self.eot == 1 else _mean(draws)

    def _keys(self, batch: Batch, steps: Sequence[int] | None) -> list[tuple[str | int, ...]]:
        """What names the draws of every row; () each for a deterministic model."""
        if self.draws_shared_by == "none":
            return [()] * len(batch)
        lanes = batch.lanes or (0,) * len(batch)
        if steps is None:
            rows = list(zip(batch.ids, lanes, strict=True))
            steps = [self._count(row) for row in rows]
        else:
            steps = [f"given {step}" for step in steps]  # type: ignore[misc]
        return list(zip(batch.ids, lanes, steps, strict=True))

    def _count(self, row: tuple[str, int]) -> int:
        self.asked[row] = number = self.asked.get(row, -1) + 1
        return number

    def name_pass(self, names: Sequence[str]) -> None:
        """Name the draws of a forward pass that a library makes by itself: one name a row."""
        if self.draws_shared_by != "none":
            self._name_draw([(name, "pass", self._count((name, -1))) for name in names], 0)

    def _name_draw(self, keys: Sequence[tuple[str | int, ...]], number: int) -> None:
        if keys and keys[0]:
            self.model.noise.key([derive(self.seed, "craft", number, *key) for key in keys])

    def scores(self, batch: Batch) -> dict[str, Tensor]:
        """Scores of the clean inputs by head, the mean over the draws: to rank by, never to judge by."""
        draws = self.each_draw(batch, batch.inputs)
        return {head: torch.stack([d[head] for d in draws]).mean(0) for head in draws[0]}

    def each_draw(self, batch: Batch, inputs: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Scores by head of each of the ``eot`` draws behind an evaluation, without a gradient.

        Args:
            batch, inputs: as for ``evaluate``; asked as often before, that sees the same draws.
        """
        keys, passes, draws = self._keys(batch, None), self._passes_of(len(batch)), []
        with torch.no_grad():
            for number in range(self.eot):
                found = []
                for some in passes:
                    self._name_draw(keys[some], number)
                    found.append(in_float(self.model({name: x[some] for name, x in inputs.items()})))
                draws.append({head: torch.cat([scores[head] for scores in found]) for head in found[0]})
        self.passes.forward += self.eot * len(batch)
        return draws

    def rounds(self, batch: Batch, loss: Loss) -> list[Batch]:
        """The batch with each aim that an attack with this loss should be run for (``Goal.followed``)."""
        aims = self.goal.followed(loss, lambda: self.scores(batch), batch.labels)
        return [batch.aimed(aim) for aim in aims]

    def _draw(self, batch: Batch, inputs: Mapping[str, Tensor], loss: Loss) -> Evaluation:
        scores, labels = in_float(self.model(inputs)), batch.labels
        losses = self.goal.loss(loss, scores, labels, batch.aim)
        graded = torch.is_grad_enabled()
        gradients = self._gradients(losses, scores, inputs) if graded else {}
        losses = losses.detach()
        with torch.no_grad():
            success = self.goal.success(scores, labels)
            same = loss is margin and not graded and batch.aim is None and self.goal.aim != "all"
            margins = losses if same else self.goal.margin(scores, labels)
        return Evaluation(losses, margins, success, gradients)

    def no_gradient(self) -> UserError:
        """The error where nothing leads from the loss back to what is attacked."""
        return UserError(
            f"the loss has no gradient with respect to {', '.join(self.threat.budgets)}: the model blocks "
            "it, or the attacked head does not see these modalities; choose an attack without gradients"
        )

    def _gradients(
        self, losses: Tensor, scores: Mapping[str, Tensor], inputs: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Of the losses (B,), by way of the scores: half precision would lose those of a sample that is right
        by far, so what goes back through the model is brought to size 1 and the result back."""
        names, outputs = list(self.threat.budgets), [z for z in scores.values() if z.requires_grad]
        if not losses.requires_grad:
            raise self.no_gradient()
        slopes = torch.autograd.grad(losses.sum(), outputs, materialize_grads=True)
        size = _power_of_two(torch.stack([slope.abs().amax(1) for slope in slopes]).amax(0))
        # A head may well not see every modality; those it does not see get zeros.
        found = torch.autograd.grad(
            outputs,
            [inputs[name] for name in names],
            [slope / size[:, None] for slope in slopes],
            materialize_grads=True,
        )
        found = tuple(g * size.to(g).view(-1, *[1] * (g.dim() - 1)) for g in found)
        if not self.raw_gradients:
            found = tuple(g.nan_to_num(0.0, 0.0, 0.0) for g in found)
        return dict(zip(names, found, strict=True))


def _power_of_two(size: Tensor) -> Tensor:
    """Near a size (B,), so that dividing by it rounds nothing; 1 for 0 and what is not finite."""
    sane = torch.where(size.isfinite() & (size > 0), size, torch.ones_like(size))
    return torch.exp2(sane.log2().floor().clamp(-100, 100))


class Attack(ABC):
    """Write a frozen dataclass whose fields are the attack's parameters and register it under
    ``robustbench_med.attacks``. The command line and configs set the fields by name; records
    repeat them.

    Attributes:
        knowledge: what of the model it uses; records repeat it.
        libraries: distributions whose code takes part; records name their versions.
        follows_samples: what happens to a sample of a deterministic model does not depend on the batch it
            is in; records say so where it does.
    """

    knowledge: ClassVar[Knowledge] = "white box"
    libraries: ClassVar[tuple[str, ...]] = ()
    follows_samples: ClassVar[bool] = True

    @classmethod
    def variant_of(cls, variant: str) -> dict[str, str]:
        """Fields set by what follows the colon in ``--attack name:variant``; adapters use it.

        Raises:
            UserError: this attack has no variants, or not that one.
        """
        raise UserError(f"{cls.__name__} has no variants; drop ':{variant}' from --attack")

    def prolonged(self, factor: int) -> Attack | None:
        """The same attack with ``factor`` times as many steps; None if it has none to multiply.

        Audits ask for it. By default a field ``steps`` is multiplied.
        """
        steps = getattr(self, "steps", None)
        if not is_dataclass(self) or not isinstance(steps, int):
            return None
        longer: Attack = replace(self, steps=factor * steps)
        return longer

    @abstractmethod
    def perturb(self, target: Target, batch: Batch) -> dict[str, Tensor]:
        """Return all modalities: attacked ones inside ball and box, the others as they were.

        Raises:
            UserError: the attack cannot express this threat model or this model.
        """


def take(tensors: Mapping[str, Tensor], index: Tensor) -> dict[str, Tensor]:
    """The samples at ``index``, positions or a mask, of every tensor; faster than ``tensor[index]``."""
    if index.dtype == torch.bool:
        index = torch.nonzero(index).squeeze(1)
    return {name: tensor.index_select(0, index) for name, tensor in tensors.items()}


def in_float(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """In float32, whatever the model computes in: losses need the precision."""
    return {head: z.float() for head, z in scores.items()}


def _mean(draws: list[Evaluation]) -> Evaluation:
    return _combined(draws, lambda tensors: torch.stack(tensors).mean(0))


def _combined(parts: list[Evaluation], combine: Callable[[list[Tensor]], Tensor]) -> Evaluation:
    return Evaluation(
        combine([p.loss for p in parts]),
        combine([p.margin for p in parts]),
        combine([p.success for p in parts]),
        {name: combine([p.gradients[name] for p in parts]) for name in parts[0].gradients},
    )
