"""From a config to the objects of a run, once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np

from robustbench_med.api.data import Split
from robustbench_med.data.catalog import load_dataset
from robustbench_med.evaluation.adversary import (
    LINF_DEFAULT,
    make_attack,
    make_goal,
    make_threat_model,
)
from robustbench_med.evaluation.batches import Plan
from robustbench_med.models.load import (
    DefenseConfig,
    DefenseSpec,
    LoadedModel,
    load_model,
    model_names,
)
from robustbench_med.util.config import build, find, read_yaml
from robustbench_med.util.errors import UserError, unknown
from robustbench_med.util.fields import Fraction
from robustbench_med.util.seeding import derive

DEFAULT_EOT = 10


@dataclass(frozen=True)
class RunConfig:
    """What ``robmed run`` does; the same from flags, from YAML and from Python.

    Attributes:
        model: a model's name or config path.
        attack: a name, or "library:Class" for an adapter; ``run_all`` takes several, with commas.
        dataset: a data set's name.
        weights: a safetensors file; the shipped weights of (model, data set) when not given.
        eps: radius of every attacked modality, or of each by name; 4/255 is MAIL's release.
        norm: "linf", "l2", or "l2-joint": one L2 ball for all attacked modalities together.
        modality: the attacked modalities; all when empty.
        head: "any", "all" or a task.
        defenses: put on top of the model's own, in this order; flags and YAML may write one as
            "gaussian-noise:sigma=0.1".
        attack_options: fields of the attack (steps, step_size, restarts, …).
        eot: draws behind each gradient; 10 for random models when not given, 1 for others. "auto"
            doubles them on a part of the samples until that stops to matter.
        draws: scoring draws of random models.
        samples: how many test samples, a fixed subset that grows with the number; 0 means all.
        batch_size: changes no outcome of a deterministic model.
        out: folder of run folders.
        leaderboard: CSV that gets the row; ``<out>/leaderboard.csv`` when not given.
    """

    model: str
    attack: str
    dataset: str = "phantom"
    weights: str | None = None
    eps: Fraction | Mapping[str, Fraction] = LINF_DEFAULT
    norm: str = "linf"
    modality: tuple[str, ...] = ()
    head: str = "any"
    defenses: tuple[DefenseSpec, ...] = ()
    attack_options: Mapping[str, Any] = field(default_factory=dict)
    eot: int | Literal["auto"] | None = None
    draws: int = 10
    samples: int = 200
    batch_size: int = 100
    seed: int = 0
    device: str = "cpu"
    out: str = "runs"
    leaderboard: str | None = None

    @classmethod
    def from_yaml(cls, name: str, **changes: Any) -> RunConfig:
        """Read a protocol by the name it ships under or its path; ``changes`` win over it.

        Raises:
            UserError: unreadable file, unknown or missing option, wrong type.
        """
        path = find("protocol", "protocols", name)
        return build(cls, {**read_yaml(path), **changes}, str(path))


def prepare(config: RunConfig) -> tuple[LoadedModel, Plan]:
    """Everything before the first pass; all bad input is found here.

    Raises:
        UserError: see ``run``.
    """
    attack = make_attack(config.attack, config.attack_options)
    counts = (config.batch_size, config.draws, _draws(config))
    if config.samples < 0 or min(counts) < 1:
        raise UserError("samples must be 0 (all) or more; batch-size, draws and eot 1 or more")
    _require_model(config.model)
    whole, split = load_split(config.dataset, config.samples)
    threat = make_threat_model(config.eps, config.norm, config.modality, split.info)
    goal = make_goal(config.head, split.info)
    loaded = load_trained(config, whole)
    random = loaded.model.draws_shared_by != "none"
    plan = Plan(
        model=loaded.model,
        split=split,
        attack=attack,
        name=config.attack,
        threat=threat,
        goal=goal,
        eot=_draws(config) if random else 1,
        draws=config.draws if random else 1,
        batch_size=config.batch_size,
        seed=config.seed,
        device=config.device,
    )
    return loaded, plan


def _draws(config: RunConfig) -> int:
    """EOT draws of a random model, before any search for them."""
    return DEFAULT_EOT if config.eot in (None, "auto") else int(config.eot)


class ModelChoice(Protocol):
    """The part of a config that says which model is meant; see ``RunConfig``."""

    @property
    def model(self) -> str: ...
    @property
    def dataset(self) -> str: ...
    @property
    def weights(self) -> str | None: ...
    @property
    def device(self) -> str: ...
    @property
    def defenses(self) -> tuple[DefenseConfig, ...]: ...


def load_trained(config: ModelChoice, whole: Split) -> LoadedModel:
    """The model of a config, with what its weights' card says of ``whole``, the test split.

    Raises:
        UserError: see ``load_model``; weights trained on another split of the same data.
    """
    _require_model(config.model)
    loaded = load_model(
        config.model, config.dataset, config.weights, config.device, whole.info, config.defenses
    )
    return replace(loaded, caveats=_weights_caveats(loaded, whole))


def _require_model(name: str) -> None:
    if name not in model_names() and not name.endswith((".yaml", ".yml")):
        raise unknown("model", name, model_names())


def _weights_caveats(loaded: LoadedModel, whole: Split) -> tuple[str, ...]:
    """What a reader must know about where the weights come from.

    Raises:
        UserError: they were trained on this data set, split otherwise: test samples may be among
            those they learned.
    """
    trained_on = loaded.card.get("dataset")
    if not isinstance(trained_on, dict) or "members" not in trained_on:
        return ("no card says what these weights were trained on; test samples may be among it",)
    if trained_on.get("name") != whole.info.name:
        return (f"these weights were trained on {trained_on.get('name')}",)
    if trained_on["members"].get("test") != whole.members:
        raise UserError(
            f"{loaded.weights} was trained on another split of {whole.info.name!r}, so test samples may be "
            "among those it learned; import the complete download, or train on your own (robmed train)"
        )
    return ()


def load_split(dataset: str, samples: int) -> tuple[Split, Split]:
    """The whole test split, and the subset of it that ``samples`` stands for (0: all).

    Raises:
        UserError: unknown data set, or more samples than it has.
    """
    whole = load_dataset(dataset, "test")
    return whole, _subset(whole, samples)


def _subset(split: Split, samples: int) -> Split:
    """The first ``samples`` in the order of a hash of their ids: the same for everyone, and a
    smaller subset is part of a larger one.
    """
    if samples > len(split):
        raise UserError(
            f"samples is {samples}, but {split.info.name} has {len(split)} test samples; 0 means all"
        )
    order = sorted(range(len(split)), key=lambda i: derive(0, "subset", split.ids[i]))
    return split.take(np.array(order[: samples or len(split)]))
