"""Any attack class of torchattacks, behind the harness's contract.

The library knows one image and one label. All attacked modalities are handed to it as the channels
of one image, the others stay outside as context, and the heads become one label; the harness then
checks ball and box and scores the result itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn

from robustbench_med.api.attack import Attack, Batch, Target
from robustbench_med.api.errors import UserError
from robustbench_med.api.fields import Fraction
from robustbench_med.api.objective import joint_labels, joint_logits
from robustbench_med.api.registry import unknown
from robustbench_med.api.seeding import derive
from robustbench_med.api.threat import Budget

# Found by experiment: these hand the model sub-batches, so a context image would meet the wrong
# sample, and they decide success themselves.
SUB_SELECTING = ("APGD", "APGDT", "AutoAttack", "FAB", "MultiAttack", "Square")
L2_ATTACKS = ("PGDL2", "PGDRSL2")


@dataclass(frozen=True)
class TorchattacksAdapter(Attack):
    """``torchattacks:PGD``, ``torchattacks:FGSM``, … with a class name of the library.

    Attributes:
        variant: the class in torchattacks.
        steps: gradient steps, where the class has them; the library's default when not given.
        step_size: the class's ``alpha``; epsilon / 4 when not given.
        random_start: where the class knows it.
        options: other arguments of the class, passed on as they are.
    """

    variant: str = "PGD"
    steps: int | None = None
    step_size: Fraction | None = None
    random_start: bool | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        accepted = inspect.signature(_library_class(self.variant)).parameters
        if "eps" not in accepted:
            raise UserError(f"torchattacks:{self.variant} takes no radius; choose a class with eps")
        own = {"steps": self.steps, "alpha": self.step_size, "random_start": self.random_start}
        asked = [name for name, value in own.items() if value is not None]
        for name in (*asked, *self.options):
            if name not in accepted or (name in self.options and name in ("model", "eps")):
                raise UserError(f"torchattacks:{self.variant} has no option {name!r}; drop it")

    @classmethod
    def variant_of(cls, variant: str) -> dict[str, str]:
        _library_class(variant)
        return {"variant": variant}

    def perturb(self, target: Target, batch: Batch) -> dict[str, Tensor]:
        budget = self._one_budget(target, batch)
        if budget.epsilon == 0:  # where the library divides by zero
            return dict(batch.inputs)
        model = _OneImage(target, batch)
        device = next(iter(batch.inputs.values())).device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.enable_grad():
            torch.manual_seed(derive(target.seed, "torchattacks", *batch.ids))
            attack = self._library_attack(model, budget)
            image = attack(model.join(batch.inputs), model.label(batch.labels))
        return {**batch.inputs, **model.split(image.detach())}

    def _library_attack(self, model: nn.Module, budget: Budget) -> Any:
        cls = _library_class(self.variant)
        step = budget.epsilon / 4 if self.step_size is None else self.step_size
        own: dict[str, Any] = {"eps": budget.epsilon, "alpha": step}
        own |= {"steps": self.steps, "random_start": self.random_start}
        accepted = inspect.signature(cls).parameters
        arguments = {name: value for name, value in own.items() if name in accepted and value is not None}
        return cls(model, **{**arguments, **self.options})

    def _one_budget(self, target: Target, batch: Batch) -> Budget:
        """The single radius the library can express.

        Raises:
            UserError: what the library would silently approximate.
        """
        budgets = list(target.threat.budgets.values())
        sizes = {batch.inputs[name].shape[2:] for name in target.threat.budgets}
        here = f"torchattacks:{self.variant}"
        if len(set(budgets)) > 1:
            raise UserError(f"{here} cannot give modalities their own radii; use --attack pgd")
        if len(sizes) > 1:
            raise UserError(f"{here} cannot attack modalities of different sizes together; use --attack pgd")
        if target.eot > 1:
            raise UserError(f"{here} cannot average over EOT draws; use --attack pgd, or --eot 1")
        if target.goal.head == "all":
            raise UserError(f"{here} cannot aim at all heads at once; use --attack pgd")
        if len(budgets) < len(batch.inputs) and self.variant in SUB_SELECTING:
            raise UserError(f"{here} sub-selects samples, so no modality can be left out; use --attack pgd")
        expected = "l2" if self.variant in L2_ATTACKS else "linf"
        if budgets[0].norm != self.options.get("norm", expected).lower():
            raise UserError(f"{here} works in {expected}, not {budgets[0].norm}; use --attack pgd")
        return budgets[0]


def _library_class(name: str) -> Any:
    import torchattacks

    known = [n for n in dir(torchattacks) if inspect.isclass(getattr(torchattacks, n))]
    if name not in known:
        raise unknown("torchattacks class", name, known)
    return getattr(torchattacks, name)


class _OneImage(nn.Module):
    """The model as the library sees it: one image in, one row of logits out."""

    def __init__(self, target: Target, batch: Batch) -> None:
        super().__init__()
        self.model, self.passes, self.batch = target.model, target.passes, batch
        self.names, self.head = list(target.threat.budgets), target.goal.head
        self.register_full_backward_pre_hook(self._count_backward)

    def forward(self, image: Tensor) -> Tensor:
        self.passes.forward += len(image)
        context = {n: x for n, x in self.batch.inputs.items() if n not in self.names}
        logits: dict[str, Tensor] = self.model({**context, **self.split(image)})
        return joint_logits(logits) if self.head == "any" else logits[self.head]

    def label(self, labels: Mapping[str, Tensor]) -> Tensor:
        """Labels of the heads as one label of their product."""
        return joint_labels(labels, self.model.classes) if self.head == "any" else labels[self.head]

    def join(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The attacked modalities as channels of one image."""
        return torch.cat([inputs[name] for name in self.names], 1)

    def split(self, image: Tensor) -> dict[str, Tensor]:
        """And back."""
        counts = [self.model.channels[name] for name in self.names]
        return dict(zip(self.names, torch.split(image, counts, 1), strict=True))

    def train(self, mode: bool = True) -> Self:
        """Keep the modes as they are: the library calls eval() on everything it meets."""
        del mode
        return self

    def _count_backward(self, module: nn.Module, gradients: tuple[Tensor, ...] | Tensor) -> None:
        del module
        first = gradients[0] if isinstance(gradients, tuple) else gradients
        self.passes.backward += len(first)
