"""The model as attack libraries know models: one image in, one row of logits out.

All attacked modalities are the channels of one image (or volume, or signal, where a library does not mind),
the others stay outside as context, and the questions become one label. What that cannot say is refused
(``one_budget``). Whatever a library claims about success is not read: the harness checks ball and box and
scores the images itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from robustbench_med.api import (
    UNKNOWN,
    Batch,
    Budget,
    Goal,
    Norm,
    Target,
    UserError,
    derive,
    in_float,
    isolated,
)
from robustbench_med.attacks._draws import RowDraws

MAX_JOINT_CLASSES = 4096
# Index bits lie at 0 and 1 and are told apart at 0.5; the rest is room for rounding.
MAX_INDEX_EPSILON = 0.49

Matching = Literal["order", "index", "alone"]
"""How images that the library hands over find the context of their sample.

"order": it hands over the whole batch, as it got it. "index": one more channel carries the sample's
number. "alone": the library gets one sample at a time, so that every image belongs to it.
"""


@dataclass(frozen=True)
class Capability:
    """What an attack of a library can express.

    Attributes:
        name: as in --attack ("torchattacks:APGD"); refusals begin with it.
        native: what refusals point to ("apgd").
        norms: the balls it knows.
        sub_selects: hands the model some of the samples, or some of them several times.
        wanders: leaves the Linf ball on its way (minimum-norm attacks, added noise), so that an
            index channel would be lost.
        classes: fewest classes that do not crash it.
        averages: takes the mean gradient over as many EOT draws as it is told, and decides nothing by one.
        any_rank: takes volumes and signals as well as images.
        one_by_one: works through the samples of a batch anyway, and draws as it goes: it gets them singly.
    """

    name: str
    native: str = "pgd"
    norms: tuple[Norm, ...] = ("linf",)
    sub_selects: bool = False
    wanders: bool = False
    classes: int = 2
    averages: bool = False
    any_rank: bool = False
    one_by_one: bool = False

    def refusal(self, target: Target, reason: str, instead: str | None = None) -> UserError:
        """The one line that says what the library cannot do and which attack can.

        Args:
            instead: by default the native one, if it knows the norms of this threat model.
        """
        norms = {budget.norm for budget in target.threat.budgets.values()}
        fits = self.native != "cw" or norms == {"l2"}
        return UserError(f"{self.name} {reason}; use --attack {instead or (self.native if fits else 'pgd')}")

    def one_budget(self, target: Target, batch: Batch) -> Budget:
        """The single radius that the library can express.

        Raises:
            UserError: what the library would silently approximate, or crash on.
        """
        budgets = list(target.threat.budgets.values())
        self._refuse_shapes(target, batch)
        if len(set(budgets)) > 1:
            raise self.refusal(target, "cannot give modalities their own radii")
        if len(budgets) > 1 and budgets[0].norm == "l2" and not target.threat.joint:
            reason = "has one L2 ball for all modalities together (--norm l2-joint), not one for each"
            raise self.refusal(target, reason)
        if target.eot > 1 and not self.averages:
            raise self.refusal(target, "cannot average over EOT draws")
        if budgets[0].norm not in self.norms:
            # Of the native attacks pgd is the one that surely knows both norms.
            reason = f"works in {' and '.join(self.norms)}, not {budgets[0].norm}"
            raise self.refusal(target, reason, "pgd")
        self._refuse_goals(target, batch)
        return budgets[0]

    def _refuse_shapes(self, target: Target, batch: Batch) -> None:
        for name, budget in target.threat.budgets.items():
            kind = target.model.takes[name].kind
            if kind == "table" or (kind != "image" and not self.any_rank):
                reason = f"takes {'no tables' if self.any_rank else 'images only'}, and {name} is a {kind}"
                raise self.refusal(target, reason)
            if not budget.box.is_plain:
                raise self.refusal(target, f"knows no box but [0, 1] with every element free ({name})")
        if len({batch.inputs[name].shape[2:] for name in target.threat.budgets}) > 1:
            raise self.refusal(target, "cannot attack modalities of different sizes together")

    def _refuse_goals(self, target: Target, batch: Batch) -> None:
        goal = target.goal
        if goal.aim == "all":
            raise self.refusal(target, "cannot aim at all heads at once")
        if goal.towards is not None:
            raise self.refusal(target, "cannot aim at a chosen answer")
        if not target.model.differentiable:
            raise self.refusal(target, "needs a model of torch layers", "square")
        if any(head.logits_need_labels for head, _ in goal.aimed):
            raise self.refusal(target, "takes heads whose answers are classes")
        if any((batch.labels[head.name] == UNKNOWN).any() for head, _ in goal.aimed):
            raise self.refusal(target, "cannot leave out questions whose answer is unknown")
        if class_count(target) > MAX_JOINT_CLASSES:
            reason = f"would see {class_count(target)} combinations of answers as classes"
            raise self.refusal(target, f"{reason}, over {MAX_JOINT_CLASSES} (--head aims at one)")
        if class_count(target) < self.classes:
            reason = f"crashes with {class_count(target)} classes, it needs {self.classes}"
            raise self.refusal(target, reason)

    def matching(self, target: Target, batch: Batch) -> Matching:
        """The cheapest way that gives every image the context of its own sample.

        An index channel is exact only within the Linf ball, whose pixels do not share a budget: of
        an L2 ball it would take a part wherever the attack adds noise to it.
        """
        budgets = target.threat.budgets
        if self.one_by_one:
            return "alone"
        if not (self.sub_selects or self.wanders) or len(budgets) == len(batch.inputs):
            return "order"
        pixels = math.prod(batch.inputs[next(iter(budgets))].shape[2:])
        exact = all(b.norm == "linf" and b.epsilon <= MAX_INDEX_EPSILON for b in budgets.values())
        if exact and not self.wanders and _bits(len(batch)) <= pixels:
            return "index"
        return "alone"


class OneImage(nn.Module):
    """The model under attack, for a library.

    The model itself is no sub-module: no library can change its modes, its device or its ``grad``.

    Attributes:
        device: where images belong; libraries look for it in ``parameters()``.
    """

    def __init__(self, target: Target, batch: Batch, matching: Matching) -> None:
        super().__init__()
        self.target, self.batch, self.matching = target, batch, matching
        self.names = list(target.threat.budgets)
        self.context = {n: x for n, x in batch.inputs.items() if n not in target.threat.budgets}
        self.device = batch.inputs[self.names[0]].device
        self.anchor = nn.Parameter(torch.zeros(1, device=self.device), requires_grad=False)
        self.train(False)

    @property
    def classes(self) -> int:
        """Length of a row of logits."""
        return class_count(self.target)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B', K) of images (B', C, H, W), whichever samples these belong to."""
        self.target.passes.forward += len(image)
        if image.requires_grad:
            # Libraries call view() on gradients, which convolutions return channels-last.
            image.register_hook(torch.Tensor.contiguous)  # type: ignore[no-untyped-call]
        image = image.to(self.anchor.dtype)  # NumPy turns the images of some libraries into doubles
        inputs = {**self._context_of(image), **self._parts(image)}
        self.target.name_pass(self._names(len(image)))
        scores = in_float(self.target.model(inputs))  # libraries know no half precision
        row = joint_logits(self.target.goal, scores, self.batch.labels)
        if image.requires_grad and not row.requires_grad:
            raise self.target.no_gradient()
        if row.requires_grad:
            row.register_hook(self._count_backward)  # type: ignore[no-untyped-call]
        return row

    def _names(self, count: int) -> Sequence[str]:
        """What tells the draws of the rows apart; of a library that picks samples, only by their place."""
        ids = self.batch.ids
        return ids if count == len(ids) else [f"{ids[0]} and others, {row}" for row in range(count)]

    def label(self) -> Tensor:
        """The label (B,) of each sample; that of the questions' product where any may fall."""
        return joint_labels(self.target.goal, self.batch.labels)

    def join(self) -> Tensor:
        """The attacked modalities as channels of one image (B, C, H, W), and the index if needed."""
        image = torch.cat([self.batch.inputs[name] for name in self.names], 1)
        if self.matching == "index":
            image = torch.cat([image, self._index_channel()], 1)
        return image.contiguous()

    def split(self, image: Tensor) -> dict[str, Tensor]:
        """Images of all samples as modalities, laid out in memory as the clean ones are."""
        parts = self._parts(image.detach())
        return {n: torch.empty_like(self.batch.inputs[n]).copy_(x) for n, x in parts.items()}

    def _parts(self, image: Tensor) -> dict[str, Tensor]:
        counts = [self.batch.inputs[name].shape[1] for name in self.names]
        return dict(zip(self.names, torch.split(image[:, : sum(counts)], counts, 1), strict=True))

    def _context_of(self, image: Tensor) -> dict[str, Tensor]:
        if self.matching == "index":
            index = self._index_of(image)
            return {name: x[index] for name, x in self.context.items()}
        if self.matching == "alone":
            return {name: x.expand(len(image), *x.shape[1:]) for name, x in self.context.items()}
        if self.context and len(image) != len(self.batch):
            raise UserError(
                f"the library hands the model {len(image)} images of a batch of {len(self.batch)}, so no "
                "modality can be left out; use --attack pgd"
            )
        return self.context

    def _index_channel(self) -> Tensor:
        """The number of each sample as bits at 0 and 1 in the first pixels of a channel."""
        like = self.batch.inputs[self.names[0]]
        channel = like.new_zeros(len(like), 1, *like.shape[2:])
        powers = 2 ** torch.arange(_bits(len(like)), device=like.device)
        numbers = torch.arange(len(like), device=like.device)
        channel.flatten(1)[:, : len(powers)] = ((numbers[:, None] & powers) > 0).to(like)
        return channel

    def _index_of(self, image: Tensor) -> Tensor:
        powers = 2 ** torch.arange(_bits(len(self.batch)), device=image.device)
        bits = image[:, -1].detach().flatten(1)[:, : len(powers)] > 0.5
        # ART looks at an image of ones before it starts, whose number no sample has.
        return (bits * powers).sum(1).clamp_max(len(self.batch) - 1)

    def _count_backward(self, gradient: Tensor) -> None:
        self.target.passes.backward += len(gradient)


def class_count(target: Target) -> int:
    """Classes of the one head that a library sees."""
    return math.prod(answers_of(target.goal))


def answers_of(goal: Goal) -> list[int]:
    """How many answers each question aimed at has."""
    return [len(head.answers) for head, chosen in goal.aimed for _ in chosen]


def joint_logits(goal: Goal, scores: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> Tensor:
    """Several questions as one, whose classes are the combinations of their answers: (B, K1·K2·…).

    Its logits are sums, so its cross-entropy is the sum of theirs, and it is wrong exactly when any is.
    """
    count = len(next(iter(scores.values())))
    some = {name: y[:1].expand(count, *y.shape[1:]) for name, y in labels.items()}  # shapes only
    parts = [logits.unbind(1) for logits, _ in goal.parts(scores, some)]
    first, *others = [z for questions in parts for z in questions]
    for z in others:
        first = (first[:, :, None] + z[:, None, :]).flatten(1)
    return first


def joint_labels(goal: Goal, labels: Mapping[str, Tensor]) -> Tensor:
    """Labels (B,) of several questions as one label of ``joint_logits``."""
    chosen = [labels[h.name].reshape(len(labels[h.name]), -1)[:, list(q)] for h, q in goal.aimed]
    columns = torch.cat(chosen, 1)
    out = torch.zeros_like(columns[:, 0])
    for column, count in zip(columns.unbind(1), answers_of(goal), strict=True):
        out = out * count + column
    return out


def attack_as_one_image(
    attack: Callable[[OneImage, Budget, int], Tensor], capability: Capability, target: Target, batch: Batch
) -> dict[str, Tensor]:
    """Let a library attack the batch.

    Args:
        attack: given the model, the budget and a seed, returns images (B, C, H, W) for
            ``model.join()``.

    Raises:
        UserError: see ``Capability.one_budget``.
    """
    budget = capability.one_budget(target, batch)
    if budget.epsilon == 0:  # where libraries divide by zero
        return dict(batch.inputs)
    matching = capability.matching(target, batch)
    seed = derive(target.seed, capability.name.partition(":")[0])
    call = _Call(attack, capability, target, budget, seed)
    if matching != "alone":
        try:
            return {**batch.inputs, **call(batch, matching)}
        except UserError:
            raise
        except Exception:  # whatever a library raises: is it one sample, or all?
            if len(batch) == 1:
                raise
    found = call.one_by_one(batch, "alone" if matching == "alone" else "order")
    return {**batch.inputs, **{name: torch.cat([f[name] for f in found]) for name in found[0]}}


@dataclass(frozen=True)
class _Call:
    """A library's attack, ready to be made on any part of a batch."""

    attack: Callable[[OneImage, Budget, int], Tensor]
    capability: Capability
    target: Target
    budget: Budget
    seed: int

    def __call__(self, part: Batch, matching: Matching) -> dict[str, Tensor]:
        """The attacked modalities of some samples."""
        model = OneImage(self.target, part, matching)
        rows = [derive(self.seed, sample) for sample in part.ids]
        # A library that picks samples draws for rows that nobody can name.
        picks = self.capability.sub_selects
        single = rows[0] if matching == "alone" else derive(self.seed, *part.ids) if picks else self.seed
        with isolated(single, model.device), nullcontext() if picks else RowDraws(rows):
            return model.split(self.attack(model, self.budget, single))

    def one_by_one(self, batch: Batch, matching: Matching) -> list[dict[str, Tensor]]:
        """The same for each sample by itself; one on which the library fails stays as it was, and is named.

        Raises:
            Exception: the library's own, where it fails on every sample.
        """
        found, names = [], list(self.target.threat.budgets)
        failed: Exception | None = None
        for number in torch.arange(len(batch))[:, None]:
            part = batch.take(number)
            try:
                found.append(self(part, matching))
            except UserError:
                raise
            except Exception as error:  # a library's: one sample must not cost all others
                failed = error
                self.target.gave_up[part.ids[0]] = f"{type(error).__name__}: {error}"
                found.append({name: part.inputs[name] for name in names})
        if failed is not None and all(sample in self.target.gave_up for sample in batch.ids):
            raise failed
        return found


def square_fits(target: Target, batch: Batch, p: float) -> bool:
    """Whether the Square attack of torchattacks and pyautoattack can place its windows.

    Found by experiment: windows larger than the image lose a side or crash; the tiles that the L2
    attack starts from are a fifth of the height and must not run over an edge.

    Args:
        p: share of the pixels in the first and largest window.
    """
    budget = next(iter(target.threat.budgets.values()))
    height, width = image_size(target, batch)
    window = round(math.sqrt(p * height * width))
    if budget.norm == "linf":
        return window <= min(height, width)
    tile = height // 5
    if tile == 0 or (max(window, 3) | 1) > min(height, width):
        return False
    border = (height - 5 * tile) // 2
    return tile == 1 or all(border + side // tile * tile <= side for side in (height, width))


def image_size(target: Target, batch: Batch) -> tuple[int, int]:
    """Height and width of the attacked modalities."""
    height, width = batch.inputs[next(iter(target.threat.budgets))].shape[2:]
    return height, width


def check_options(name: str, accepted: Collection[str], given: Collection[str]) -> None:
    """Refuse arguments that the library's class does not take (or that are not the user's to set).

    Raises:
        UserError: the first such argument.
    """
    for option in given:
        if option not in accepted:
            raise UserError(f"{name} has no option {option!r}; drop it")


def _bits(count: int) -> int:
    return max(1, (count - 1).bit_length())
