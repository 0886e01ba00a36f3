"""Attack classes of foolbox that know the Linf or L2 ball, behind the harness's contract."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
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
)

# Names that this adapter sets by fields of its own.
NOT_OPTIONS = ("steps", "abs_stepsize", "rel_stepsize", "random_start")
NORMS: dict[float, Norm] = {float("inf"): "linf", 2: "l2"}

DECISIONS = ("BoundaryAttack", "HopSkipJumpAttack", "SaltAndPepperNoiseAttack")


@dataclass(frozen=True)
class FoolboxAdapter(Attack):
    """``foolbox:LinfPGD``, ``foolbox:L2FMNAttack``, … with a class name of foolbox.attacks.

    What a minimum-norm attack finds outside the ball is clipped to it by foolbox.

    Attributes:
        variant: the class in foolbox.attacks.
        steps: where the class has them; the library's default when not given.
        step_size: the class's ``abs_stepsize``; epsilon / 4 when not given (the library's own, a
            thirtieth of epsilon, is too short for few steps).
        random_start: where the class knows it.
        options: other arguments of the class, passed on as they are.
    """

    libraries: ClassVar[tuple[str, ...]] = ("foolbox",)

    variant: str = "LinfPGD"
    steps: int | None = None
    step_size: Fraction | None = None
    random_start: bool | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        accepted = set(inspect.signature(_library_class(self.variant)).parameters)
        own = {"steps": self.steps, "abs_stepsize": self.step_size, "random_start": self.random_start}
        check_options(self._name, accepted, [name for name, value in own.items() if value is not None])
        check_options(self._name, accepted - set(NOT_OPTIONS), self.options)
        if self.steps is not None and self.steps < 1:
            raise UserError(f"{self._name}: steps is {self.steps}; it must be 1 or more")
        self._norm()

    @classmethod
    def variant_of(cls, variant: str) -> dict[str, str]:
        _library_class(variant)
        return {"variant": variant}

    @property
    def knowledge(self) -> Literal["white box", "scores", "decisions", "none"]:  # type: ignore[override]
        """What the class uses of the model."""
        if self.variant == "GenAttack":
            return "scores"
        if self.variant in DECISIONS or "Repeated" in self.variant:
            return "decisions"
        blind = "Noise" in self.variant or "ContrastReduction" in self.variant
        return "none" if blind else "white box"

    def perturb(self, target: Target, batch: Batch) -> dict[str, Tensor]:
        capability = Capability(self._name, "pgd", (self._norm(),), any_rank=True)
        found: dict[str, Tensor] = attack_as_one_image(self._attack, capability, target, batch)
        return found

    def _attack(self, model: OneImage, budget: Budget, seed: int) -> Tensor:
        """Images (B, C, H, W) from the library, which draws from generators seeded already."""
        del seed
        import foolbox

        attack = self._library_attack(budget.epsilon / 4)
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=model.device)
        goal = foolbox.criteria.Misclassification(model.label())
        try:
            _, clipped, _ = attack(wrapped, model.join(), goal, epsilons=budget.epsilon)
        except (ValueError, ModuleNotFoundError) as error:  # no start found, or numba missing, for two
            raise UserError(f"{self._name}: {error}; use --attack pgd") from error
        adversarial: Tensor = clipped
        return adversarial

    def _library_attack(self, step: float) -> Any:
        cls = _library_class(self.variant)
        own: dict[str, Any] = {
            "steps": self.steps,
            "abs_stepsize": step if self.step_size is None else self.step_size,
            "random_start": self.random_start,
            **self.options,
        }
        signature = inspect.signature(cls)
        given = {n: value for n, value in own.items() if n in signature.parameters and value is not None}
        try:
            signature.bind(**given)
        except TypeError as error:  # one that the class raises itself keeps its traceback
            raise UserError(f"{self._name}: {error}; give it among the options") from error
        try:
            return cls(**given)
        except ModuleNotFoundError as error:
            raise UserError(f"{self._name} needs the package {error.name!r}: install it") from error

    def _norm(self) -> Norm:
        """The norm that the class works in; some have it as an option.

        Raises:
            UserError: neither Linf nor L2.
        """
        try:
            distance = self._library_attack(1.0).distance
        except (ValueError, AttributeError):  # left open, or none
            distance = None
        norm = NORMS.get(getattr(distance, "p", None))  # type: ignore[arg-type]
        if norm is None:
            raise UserError(f"{self._name} knows neither the Linf nor the L2 ball; use --attack pgd")
        return norm

    @property
    def _name(self) -> str:
        return f"foolbox:{self.variant}"


def _library_class(name: str) -> Any:
    attacks = library("foolbox", "foolbox").attacks
    classes = {n: c for n, c in vars(attacks).items() if inspect.isclass(c)}
    known = [n for n, c in classes.items() if not inspect.isabstract(c)]
    if name not in known:
        raise unknown("foolbox attack", name, known)
    return classes[name]
