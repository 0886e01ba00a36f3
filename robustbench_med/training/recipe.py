"""Training recipes, as configs/train has them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from robustbench_med.models.named import VARIANTS, require_model, variant_of
from robustbench_med.training.augment import Augmentation
from robustbench_med.training.opponent import AdversarialTraining
from robustbench_med.training.settings import over, read_settings
from robustbench_med.util.config import build, find
from robustbench_med.util.errors import UserError, unknown
from robustbench_med.util.fields import Fraction


@dataclass(frozen=True)
class TrainConfig:
    """A training recipe: AdamW, linear warm-up and cosine decay, class-weighted cross-entropy.

    Attributes:
        model: a model's name or config path.
        model_options: architecture options on top (say, {"width": 0.25}).
        dataset: the data set's name.
        warmup: share of all steps over which the learning rate rises.
        noise_warmup: share of the epochs over which random layers' noise rises from 0 to its full
            size, which eases the start of nets with attention noise; best weights are picked after.
        class_balance: weight each class by the inverse of its frequency to this power (0: none,
            1: every class counts the same).
        norm_momentum: of batch norm's running statistics while training. Keras' 0.01 lags so far
            behind a high learning rate that validation says little until the rate falls.
        gradient_clip: longest gradient of a step; 0 for none.
        patience: stop after so many epochs without a better validation score.
        threads: CPU threads; part of the recipe, since sums depend on how they are split.
        half_precision: round the weights to 16 bits at the end. The rounded net is the one that is kept and
            scored; it computes in 32 bits.
        channels_last: keep images and kernels in the layout that is a third faster on CPUs; part of
            the recipe for the same reason.
        adversarial: train on attacked images.
    """

    model: str
    dataset: str
    epochs: int
    model_options: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 64
    learning_rate: Fraction = 1e-3
    weight_decay: Fraction = 1e-2
    warmup: float = 0.1
    noise_warmup: float = 0.0
    class_balance: float = 1.0
    label_smoothing: float = 0.0
    norm_momentum: float = 0.1
    gradient_clip: float = 1.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    patience: int = 1000
    seed: int = 0
    threads: int = 1
    half_precision: bool = False
    channels_last: bool = False
    device: str = "cpu"
    adversarial: AdversarialTraining | None = None

    def __post_init__(self) -> None:
        limits = {"epochs": 10**6, "batch_size": 10**6, "threads": 1024, "patience": 10**6}
        for name, many in limits.items():
            if not 1 <= getattr(self, name) <= many:
                raise UserError(f"recipe: {name} must be from 1 to {many}")
        if not 0 < self.learning_rate <= 1000:
            raise UserError(
                f"recipe: learning_rate is {self.learning_rate:g}; it must be above 0, at most 1000"
            )
        for name in ("weight_decay", "gradient_clip"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"recipe: {name} is {getattr(self, name):g}; it must be 0 or more")
        for name, most in (("class_balance", 1.0), ("norm_momentum", 1.0), ("label_smoothing", 0.99)):
            if not 0 <= getattr(self, name) <= most:
                raise UserError(f"recipe: {name} is {getattr(self, name):g}; it must be from 0 to {most:g}")
        if not 0 <= self.warmup < 1 or not 0 <= self.noise_warmup * self.epochs <= self.epochs - 1:
            raise UserError(
                "recipe: warmup and noise_warmup are shares below 1; the last epoch has all the noise"
            )
        if self.adversarial and self.adversarial.warmup * self.epochs > self.epochs - 1:
            raise UserError("recipe: adversarial: the last epoch needs the whole radius; lower warmup")
        self._require_what_the_name_says()

    def _require_what_the_name_says(self) -> None:
        """A net is called ``-at`` only where it is trained so."""
        variant, how = variant_of(self.model)[1], self.adversarial
        kept = {
            "at": how is not None and not how.trades and not how.in_turn,
            "trades": how is not None and how.trades > 0,
            "turn": how is not None and how.in_turn,
            "tuned": how is not None,
        }
        if variant and not kept[variant]:
            raise UserError(
                f"recipe: {self.model} is called {VARIANTS[variant]}, and these settings do not train it so; "
                f"give the recipe a variant {variant!r} (docs/train.md), or call the net otherwise"
            )


def train_config(name: str, model: str = "") -> TrainConfig:
    """A recipe by the name it ships under (``configs/train``) or by its path.

    Many models may share a recipe. Its ``variants`` say what is otherwise when a net is trained to resist
    (``models.named.VARIANTS``), its ``members``, by model, what is otherwise for that one:

        variants:
          at: {epochs: 24, adversarial: {attack: pgd, options: {steps: 5, keep: last}}}
        members:
          robust-mail: {learning_rate: 1.0e-2, noise_warmup: 0.25}

    A recipe that is ``like`` another has that one's settings, variants and members but for what it says
    itself. What is otherwise is put on top in this order: recipe, variant, member; of ``model_options`` one
    by one.

    Args:
        model: what to train instead of the recipe's own; a model's name or a config's path.

    Raises:
        UserError: unknown name, a config that does not parse, or no model in either place.
    """
    path = find("recipe", "train", name)
    shared, otherwise = read_settings(path)
    for member in otherwise["members"]:
        require_model(str(member))
    chosen = model or shared.get("model")
    if not chosen:
        raise UserError(f"{path} is a recipe for many models; name one (--model concat)")
    base, variant = variant_of(chosen)
    variants, members = otherwise["variants"], otherwise["members"]
    _require_known(path, variants, members)
    if variants and variant and variant not in variants:
        raise UserError(f"{path} has no variant {variant!r}; it has {', '.join(variants)}")
    values = shared
    for own in (variants.get(variant, {}), *(members.get(m, {}) for m in dict.fromkeys((base, chosen)))):
        values = over(values, own)
    return build(TrainConfig, {**values, "model": chosen}, str(path))


def _require_known(
    path: Path, variants: Mapping[str, Mapping[str, Any]], members: Mapping[str, Mapping[str, Any]]
) -> None:
    """What is otherwise is checked for every net, not only for the one that is trained now."""
    wrong = next((name for name in variants if name not in VARIANTS), None)
    if wrong is not None:
        raise UserError(f"{path}: variants: {unknown('variant', str(wrong), VARIANTS)}")
    settings = {each.name for each in fields(TrainConfig)} - {"model", "dataset"}
    for name, own in (*variants.items(), *members.items()):
        for setting in own:
            if setting not in settings:
                raise UserError(f"{path}: {name}: {unknown('option', str(setting), settings)}")
