"""Any attack class of torchattacks that keeps to a radius, behind the harness's contract."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor

from robustbench_med.api import Attack, Batch, Budget, Fraction, Norm, Target, UserError, unknown
from robustbench_med.attacks._extras import library
from robustbench_med.attacks._image import (
    Capability,
    OneImage,
    attack_as_one_image,
    check_options,
    image_size,
    square_fits,
)

DRAWS = "eot_iter"
# Of the classes that average gradients over draws, those that decide nothing by a single one.
AVERAGING = ("EOTPGD", "UPGD")

# What this adapter takes from the threat model, the run and the data.
NOT_OPTIONS = ("model", "eps", "norm", "seed", "n_classes", "verbose", DRAWS)

# The steps that AutoAttack and its parts were published with; the library defaults to 10.
PUBLISHED_STEPS = 100
PUBLISHED = ("APGD", "APGDT", "AutoAttack", "FAB")

# Found by experiment: how the classes hand samples to the model (see ``Capability``).
SUB_SELECTING = ("APGD", "APGDT", "AutoAttack", "FAB", "Square")
WANDERING = ("PGDRS", "PGDRSL2", "SPSA")
MINIMUM_NORM = ("CW", "DeepFool")  # in L2, without a radius
L2_ATTACKS = ("PGDL2", "PGDRSL2", *MINIMUM_NORM)
ANY_RANK = ("BIM", "FGSM", "PGD", "RFGSM", "FFGSM", "EOTPGD")
THREE_CHANNELS = ("TIFGSM",)
SQUARE_IMAGES = ("DIFGSM", "TIFGSM")  # they resize to squares

NORMS = {"linf": "Linf", "l2": "L2"}
NATIVE = {"APGD": "apgd", "APGDT": "apgd", "AutoAttack": "autoattack", "FAB": "fab", "Square": "square"}
NATIVE |= dict.fromkeys(MINIMUM_NORM, "cw")


@dataclass(frozen=True)
class TorchattacksAdapter(Attack):
    """``torchattacks:PGD``, ``torchattacks:FGSM``, … with a class name of the library.

    APGD, FAB, Square and AutoAttack return the clean image where they found nothing, and judge a random
    model by single draws. EOTPGD and UPGD take gradients over EOT draws; with all others a random model
    needs ``--eot 1``, and the attack is weaker than it says. CW and DeepFool look for the nearest
    adversarial image; one that lies outside the ball is projected onto it.

    Attributes:
        variant: the class in torchattacks.
        steps: gradient steps, where the class has them; when not given, 100 for APGD, APGDT, FAB
            and AutoAttack, as published, and the library's default for others.
        step_size: the class's ``alpha``; epsilon / 4 when not given.
        random_start: where the class knows it.
        options: other arguments of the class, passed on as they are (AutoAttack also takes
            ``n_queries``, of its Square).
    """

    libraries: ClassVar[tuple[str, ...]] = ("torchattacks",)

    variant: str = "PGD"
    steps: int | None = None
    step_size: Fraction | None = None
    random_start: bool | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        accepted = _parameters(self.variant)
        if "eps" not in accepted and self.variant not in MINIMUM_NORM:
            raise UserError(f"{self._name} takes no radius; choose a class with eps, or --attack pgd")
        own = {"steps": self.steps, "alpha": self.step_size, "random_start": self.random_start}
        check_options(self._name, accepted, [name for name, value in own.items() if value is not None])
        check_options(self._name, accepted - set(NOT_OPTIONS), self.options)
        if self.steps is not None and self.steps < 1:
            raise UserError(f"{self._name}: steps is {self.steps}; it must be 1 or more")

    @classmethod
    def variant_of(cls, variant: str) -> dict[str, str]:
        _library_class(variant)
        return {"variant": variant}

    @property
    def follows_samples(self) -> bool:  # type: ignore[override]
        """Classes that pick samples start them by their place in what they picked; FAB where they are."""
        return self.variant not in SUB_SELECTING or self.variant == "FAB"

    @property
    def knowledge(self) -> Literal["scores", "white box"]:  # type: ignore[override]
        """What the class uses of the model: Square and SPSA see no gradient."""
        return "scores" if self.variant in ("Square", "SPSA") else "white box"

    def perturb(self, target: Target, batch: Batch) -> dict[str, Tensor]:
        capability = self._capability()
        capability.one_budget(target, batch)
        if self.variant in THREE_CHANNELS and _channels(target) != 3:
            raise capability.refusal(target, "takes images of three channels only")
        if self.variant in SQUARE_IMAGES and len(set(image_size(target, batch))) > 1:
            raise capability.refusal(target, "takes square images only")
        if "Square" in self._parts and not square_fits(target, batch, self.options.get("p_init", 0.8)):
            raise capability.refusal(target, "places squares that do not fit this image")
        found: dict[str, Tensor] = attack_as_one_image(self._attack, capability, target, batch)
        return target.threat.project(found, batch.inputs) if self.variant in MINIMUM_NORM else found

    def _attack(self, model: OneImage, budget: Budget, seed: int) -> Tensor:
        """Images (B, C, H, W) from the library."""
        accepted = inspect.signature(_library_class(self.variant)).parameters
        own: dict[str, Any] = {
            "eps": budget.epsilon,
            "alpha": budget.epsilon / 4 if self.step_size is None else self.step_size,
            "steps": self.steps or (PUBLISHED_STEPS if self.variant in PUBLISHED else None),
            "random_start": self.random_start,
            "norm": NORMS[budget.norm],
            "seed": seed,
            DRAWS: model.target.eot,
            # The library aims at all other classes; published are up to nine.
            "n_classes": min(model.classes, 10),
            **self.options,
        }
        arguments = {n: value for n, value in own.items() if n in accepted and value is not None}
        attack = _library_class(self.variant)(model, **arguments)
        if self.variant == "AutoAttack":
            self._set_parts(attack._autoattack.attacks)
        found: Tensor = attack(model.join(), model.label())
        return found

    def _set_parts(self, parts: Sequence[Any]) -> None:
        """Give the parts of AutoAttack what its constructor cannot: it leaves them at 10 steps."""
        for part in parts:
            if hasattr(part, "steps"):
                part.steps = self.steps or PUBLISHED_STEPS
            if hasattr(part, "n_queries"):
                part.n_queries = self.options.get("n_queries", part.n_queries)

    @property
    def _name(self) -> str:
        return f"torchattacks:{self.variant}"

    @property
    def _parts(self) -> tuple[str, ...]:
        """The classes that run."""
        if self.variant != "AutoAttack":
            return (self.variant,)
        return ("APGD",) if self.options.get("version") == "rand" else ("APGD", "APGDT", "FAB", "Square")

    def _capability(self) -> Capability:
        chooses = "norm" in inspect.signature(_library_class(self.variant)).parameters
        fixed: tuple[Norm, ...] = ("l2",) if self.variant in L2_ATTACKS else ("linf",)
        uses_dlr = self.options.get("loss") == "dlr" or self.options.get("version") == "rand"
        return Capability(
            self._name,
            NATIVE.get(self.variant, "pgd"),
            ("linf", "l2") if chooses else fixed,
            sub_selects=self.variant in SUB_SELECTING,
            wanders=self.variant in (*WANDERING, *MINIMUM_NORM),
            classes=4 if "APGDT" in self._parts else 3 if uses_dlr else 2,
            averages=self.variant in AVERAGING,
            any_rank=self.variant in ANY_RANK,
        )


def _library_class(name: str) -> Any:
    classes = {n: c for n, c in vars(library("torchattacks", "torchattacks")).items() if inspect.isclass(c)}
    if name not in classes:
        raise unknown("torchattacks class", name, classes)
    return classes[name]


def _parameters(variant: str) -> set[str]:
    extra = {"steps", "n_queries"} if variant == "AutoAttack" else set()
    return set(inspect.signature(_library_class(variant)).parameters) | extra


def _channels(target: Target) -> int:
    return sum(target.model.takes[name].shape[0] for name in target.threat.budgets)
