"""Attacks of the Adversarial Robustness Toolbox (ART), behind the harness's contract."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_med.api import Attack, Batch, Budget, Fraction, Norm, Target, UserError, derive, unknown
from robustbench_med.attacks._extras import library
from robustbench_med.attacks._image import (
    Capability,
    OneImage,
    attack_as_one_image,
    check_options,
    image_size,
)

# What AutoAttack was published with: steps of APGD, queries of Square.
PUBLISHED_STEPS, PUBLISHED_QUERIES = 100, 5000

# What this adapter takes from the threat model and the data, or sets by fields of its own.
NOT_OPTIONS = (
    "estimator",
    "classifier",
    "estimator_orig",
    "attacks",
    "norm",
    "eps",
    "eps_step",
    "max_iter",
    "num_random_init",
    "targeted",
    "minimal",
    "batch_size",
    "parallel_pool_size",
    "summary_writer",
    "verbose",
)


@dataclass(frozen=True)
class _Kind:
    """What must be known of a class of ART; found by experiment.

    Attributes:
        short: its other name here.
        native: the attack of this harness in its place.
        norms, sub_selects, wanders, classes: see ``Capability``.
        default_steps: where the library's own default is not as published.
        overshoots: returns images outside the ball, which are then projected.
        any_rank, one_by_one: see ``Capability``.
    """

    short: str
    native: str
    norms: tuple[Norm, ...] = ("linf", "l2")
    knowledge: Literal["white box", "scores", "decisions"] = "white box"
    default_steps: int | None = None
    sub_selects: bool = False
    wanders: bool = False
    overshoots: bool = False
    classes: int = 2
    any_rank: bool = False
    one_by_one: bool = False


KINDS = {
    "FastGradientMethod": _Kind("FGM", "fgsm", any_rank=True),
    "ProjectedGradientDescent": _Kind("PGD", "pgd", any_rank=True),
    "CarliniL2Method": _Kind("CW", "cw", ("l2",), sub_selects=True, wanders=True, overshoots=True),
    # Its DLR needs three classes. It lets DeepFool's images be longer than the radius by 1e-4 of it.
    "AutoAttack": _Kind("AutoAttack", "autoattack", sub_selects=True, overshoots=True, classes=3),
    "HopSkipJump": _Kind(
        "HopSkipJump", "hop-skip-jump", knowledge="decisions", overshoots=True, one_by_one=True, any_rank=True
    ),
    # In L2 it divides a new window's length where the paper multiplies it.
    "SquareAttack": _Kind(
        "Square", "square", ("linf",), "scores", default_steps=PUBLISHED_QUERIES, sub_selects=True
    ),
}


@dataclass(frozen=True)
class ARTAdapter(Attack):
    """``art:ProjectedGradientDescent`` or ``art:PGD``, and so on for the classes in ``KINDS``.

    CW and HopSkipJump look for the nearest adversarial image; one that lies outside the ball is
    projected onto it. AutoAttack has DeepFool in FAB's place, a Square that is broken in L2, and
    returns the clean image where it found nothing.

    Attributes:
        variant: the class in art.attacks.evasion, or its short name.
        steps: the library's ``max_iter``; when not given, 5000 queries for Square, 100 for the APGD
            and DeepFool of AutoAttack, and the library's default for others.
        step_size: the library's ``eps_step``; when not given, epsilon / 4, of FGM epsilon, and of
            AutoAttack's APGD 2 epsilon, as published.
        random_start: of FGM and PGD.
        queries: of AutoAttack's Square; 5000 when not given.
        options: other arguments of the class, passed on as they are.
    """

    libraries: ClassVar[tuple[str, ...]] = ("adversarial-robustness-toolbox",)

    variant: str = "ProjectedGradientDescent"
    steps: int | None = None
    step_size: Fraction | None = None
    random_start: bool | None = None
    queries: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        accepted = self._accepted()
        auto = self._class == "AutoAttack"
        own = {
            "steps": (self.steps, "max_iter" in accepted or auto),
            "step_size": (self.step_size, "eps_step" in accepted and self._class != "FastGradientMethod"),
            "random_start": (self.random_start, "num_random_init" in accepted),
            "queries": (self.queries, auto),
        }
        check_options(
            self._name,
            [name for name, (_, known) in own.items() if known],
            [name for name, (value, _) in own.items() if value is not None],
        )
        check_options(self._name, accepted - set(NOT_OPTIONS), self.options)
        for name in ("steps", "queries"):
            value = own[name][0]
            if value is not None and value < 1:
                raise UserError(f"{self._name}: {name} is {value}; it must be 1 or more")
        if auto:
            library("multiprocess", "art")  # which ART imports without declaring it

    @classmethod
    def variant_of(cls, variant: str) -> dict[str, str]:
        _class_name(variant)
        return {"variant": variant}

    @property
    def follows_samples(self) -> bool:  # type: ignore[override]
        """Square and AutoAttack's APGD start a sample by its place among those that they picked."""
        return self._class not in ("SquareAttack", "AutoAttack")

    @property
    def knowledge(self) -> Literal["white box", "scores", "decisions"]:  # type: ignore[override]
        """What the class uses of the model."""
        return self._kind.knowledge

    def perturb(self, target: Target, batch: Batch) -> dict[str, Tensor]:
        kind = self._kind
        capability = Capability(
            self._name,
            kind.native,
            kind.norms,
            kind.sub_selects,
            kind.wanders,
            kind.classes,
            any_rank=kind.any_rank,
            one_by_one=kind.one_by_one,
        )
        capability.one_budget(target, batch)
        if self._class in ("SquareAttack", "AutoAttack") and not self._square_fits(target, batch):
            raise capability.refusal(target, "places squares that do not fit this image")
        found = attack_as_one_image(self._attack, capability, target, batch)
        return target.threat.project(found, batch.inputs) if kind.overshoots else found

    def _attack(self, model: OneImage, budget: Budget, seed: int) -> Tensor:
        """Images (B, C, H, W) from the library."""
        image: Tensor = model.join()
        label = model.label()
        if self._class == "HopSkipJump":  # it would lead images that are wrong already back
            with torch.no_grad():
                standing = (model(image).argmax(1) == label).nonzero().squeeze(1)
        else:
            standing = torch.arange(len(image), device=image.device)
        if len(standing) == 0:
            return image
        rows = [derive(seed, sample) for sample in model.batch.ids]
        with _current(model.device), _seeded_states(seed), _spheres_by_row(rows):
            attack = self._library_attack(_estimator(model, image), budget, len(standing))
            one_hot = nn.functional.one_hot(label[standing], model.classes)
            found = attack.generate(x=image[standing].cpu().numpy(), y=one_hot.cpu().numpy())
        out = image.clone()
        out[standing] = torch.from_numpy(found).to(image)
        return out

    def _library_attack(self, estimator: Any, budget: Budget, batch_size: int) -> Any:
        own: dict[str, Any] = {
            "norm": np.inf if budget.norm == "linf" else 2,
            "eps": budget.epsilon,
            "eps_step": self._step(budget),
            "max_iter": self.steps or self._kind.default_steps,
            "num_random_init": None if self.random_start is None else int(self.random_start),
            # Whole batches: its own would take the samples from their context.
            "batch_size": batch_size,
            "verbose": False,
            **self.options,
        }
        arguments = {n: value for n, value in own.items() if n in self._accepted() and value is not None}
        attack = _library_class(self._class)(estimator, **arguments)
        if self._class == "AutoAttack":
            self._set_parts(attack.attacks, batch_size)
        return attack

    def _set_parts(self, parts: list[Any], batch_size: int) -> None:
        for part in parts:
            square = type(part).__name__ == "SquareAttack"
            given, published = (self.queries, PUBLISHED_QUERIES) if square else (self.steps, PUBLISHED_STEPS)
            part.set_params(max_iter=given or published, batch_size=batch_size, verbose=False)

    def _step(self, budget: Budget) -> float:
        if self.step_size is not None:
            return self.step_size
        return {"FastGradientMethod": 1.0, "AutoAttack": 2.0}.get(self._class, 0.25) * budget.epsilon

    def _square_fits(self, target: Target, batch: Batch) -> bool:
        """Whether its squares leave room to move, without which it crashes."""
        size: tuple[int, int] = image_size(target, batch)
        height, width = size
        side = round(math.sqrt(self.options.get("p_init", 0.8) * height * width))
        if next(iter(target.threat.budgets.values())).norm == "linf":
            return side < min(height, width)
        tile = height // 5  # of the start; tiles of one pixel become NaN
        return (max(side, 3) | 1) < min(height, width) and 2 <= tile <= width // 5

    def _accepted(self) -> set[str]:
        return set(inspect.signature(_library_class(self._class)).parameters)

    @property
    def _name(self) -> str:
        return f"art:{self.variant}"

    @property
    def _class(self) -> str:
        return _class_name(self.variant)

    @property
    def _kind(self) -> _Kind:
        return KINDS[self._class]


def _class_name(variant: str) -> str:
    shorts = {kind.short: name for name, kind in KINDS.items()}
    name = shorts.get(variant, variant)
    if name not in KINDS:
        raise unknown("ART attack", variant, {*KINDS, *shorts})
    return name


def _library_class(name: str) -> Any:
    return getattr(library("art.attacks.evasion", "art"), name)


def _estimator(model: OneImage, image: Tensor) -> Any:
    from art.estimators.classification import PyTorchClassifier

    return PyTorchClassifier(
        model=model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(image.shape[1:]),
        nb_classes=model.classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if image.is_cuda else "cpu",
    )


def _current(device: torch.device) -> AbstractContextManager[Any]:
    """Make the GPU of the data the current one, which is the one ART takes."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@contextmanager
def _seeded_states(seed: int) -> Iterator[None]:
    """Seed the generators that HopSkipJump makes anew, from the clock, for each image."""
    seeded = functools.partial(np.random.RandomState, seed % 2**32)
    with mock.patch.object(np.random, "RandomState", seeded):
        yield


@contextmanager
def _spheres_by_row(seeds: Sequence[int]) -> Iterator[None]:
    """Draw the random starts of FGM and PGD row by row, each from a seed of its own."""
    from art.attacks.evasion import fast_gradient
    from art.attacks.evasion.projected_gradient_descent import projected_gradient_descent_pytorch

    original = fast_gradient.random_sphere

    def by_row(points: int, *others: Any) -> Any:
        if points != len(seeds):
            return original(points, *others)
        rows = []
        for seed in seeds:
            np.random.seed(seed % 2**32)
            rows.append(original(1, *others))
        return np.concatenate(rows)

    homes = (fast_gradient, projected_gradient_descent_pytorch)
    with (
        mock.patch.object(homes[0], "random_sphere", by_row),
        mock.patch.object(homes[1], "random_sphere", by_row),
    ):
        yield
