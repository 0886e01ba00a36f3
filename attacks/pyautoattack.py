"""The official AutoAttack (Croce & Hein 2020), as the package pyautoattack, behind the harness's contract."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from robustbench_med.api import Attack, Batch, Budget, Target, UserError, unknown
from robustbench_med.attacks._extras import library
from robustbench_med.attacks._image import (
    Capability,
    OneImage,
    attack_as_one_image,
    square_fits,
)

# Attacks by variant, and the attack of this harness in their place.
PARTS = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "rand": ("apgd-ce", "apgd-dlr"),
    "apgd-ce": ("apgd-ce",),
    "apgd-dlr": ("apgd-dlr",),
    "apgd-t": ("apgd-t",),
    "fab-t": ("fab-t",),
    "square": ("square",),
}
NATIVE = {"apgd-ce": "apgd", "apgd-dlr": "apgd", "apgd-t": "apgd", "fab-t": "fab", "square": "square"}

# The losses look at the third and fourth logit.
FEWEST_CLASSES = {"apgd-dlr": 3, "apgd-t": 4}
MOST_TARGETS = 9
NORMS = {"linf": "Linf", "l2": "L2"}
SQUARE_P = 0.8


@dataclass(frozen=True)
class PyAutoAttackAdapter(Attack):
    """``pyautoattack:standard``, ``:rand``, or one part of these (``PARTS``).

    Returns the clean image where it found nothing. It judges a random model by single draws ("rand",
    which averages gradients over 20 draws of its own accord, by the last of them), and is then
    weaker than it says; nothing that it says is read. A random model needs ``--eot 1``.

    Attributes:
        variant: what to run.
        steps: of APGD and FAB.
        queries: of Square.
        restarts: of each part; the parts of "standard" have one.
    """

    libraries: ClassVar[tuple[str, ...]] = ("pyautoattack",)

    variant: str = "standard"
    steps: int = 100
    queries: int = 5000
    restarts: int = 1

    def __post_init__(self) -> None:
        self.variant_of(self.variant)
        for name in ("steps", "queries", "restarts"):
            if getattr(self, name) < 1:
                raise UserError(f"{self._name}: {name} is {getattr(self, name)}; it must be 1 or more")
        _library()

    @classmethod
    def variant_of(cls, variant: str) -> dict[str, str]:
        if variant not in PARTS:
            raise unknown("pyautoattack version", variant, PARTS)
        return {"variant": variant}

    @property
    def follows_samples(self) -> bool:  # type: ignore[override]
        """All parts but FAB start a sample by its place among those that they picked."""
        return self.variant == "fab-t"

    @property
    def knowledge(self) -> Literal["scores", "white box"]:  # type: ignore[override]
        """What the variant uses of the model."""
        return "scores" if self.variant == "square" else "white box"

    def perturb(self, target: Target, batch: Batch) -> dict[str, Tensor]:
        parts = PARTS[self.variant]
        capability = Capability(
            self._name,
            NATIVE.get(self.variant, "autoattack"),
            ("linf", "l2"),
            sub_selects=True,
            classes=max(FEWEST_CLASSES.get(part, 2) for part in parts),
        )
        capability.one_budget(target, batch)
        if "square" in parts and not square_fits(target, batch, SQUARE_P):
            raise capability.refusal(target, "places squares that do not fit this image")
        found: dict[str, Tensor] = attack_as_one_image(self._attack, capability, target, batch)
        return found

    def _attack(self, model: OneImage, budget: Budget, seed: int) -> Tensor:
        """Images (B, C, H, W) from the library."""
        image: Tensor = model.join()
        attack = self._library_attack(model, budget, seed)
        trace = sys.gettrace()  # one of its checks replaces the trace function
        try:
            found, _ = attack.run_standard_evaluation(image, model.label(), batch_size=len(image))
        finally:
            sys.settrace(trace)
        adversarial: Tensor = found
        return adversarial

    def _library_attack(self, model: OneImage, budget: Budget, seed: int) -> Any:
        whole = self.variant in ("standard", "rand")
        attack = _library()(
            model,
            attacks=None if whole else list(PARTS[self.variant]),
            device=model.device,
            eps=budget.epsilon,
            norm=NORMS[budget.norm],
            seed=seed,
            version=self.variant if whole else "custom",
        )
        for apgd in (attack.apgd, attack.apgd_targeted):
            apgd.n_iter = apgd.n_iter_orig = self.steps
            # Its checkpoints are of the steps that its constructor was given.
            periods = (max(int(share * self.steps), 1) for share in (0.22, 0.06, 0.03))
            apgd.n_iter_2, apgd.n_iter_min, apgd.size_decr = periods
        attack.fab.n_iter, attack.square.n_queries = self.steps, self.queries
        for part in (attack.apgd, attack.apgd_targeted, attack.fab, attack.square):
            part.n_restarts = self.restarts
        # It takes nine targets for granted and crashes with fewer than ten classes.
        targets = min(MOST_TARGETS, model.classes - 1)
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = targets
        return attack

    @property
    def _name(self) -> str:
        return f"pyautoattack:{self.variant}"


def _library() -> Any:
    return library("pyautoattack", "pyautoattack").AutoAttack
