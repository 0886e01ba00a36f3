"""From a config to the objects of a run, once; from here on objects are passed, never names."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, Protocol

import numpy as np

from robustbench_med.api.attack import Surrogate
from robustbench_med.api.data import Split
from robustbench_med.api.model import FusionModel
from robustbench_med.api.objective import Goal
from robustbench_med.data.catalog import load_dataset, short_name
from robustbench_med.evaluation.adversary import (
    make_attack,
    make_goal,
    make_threat_model,
    radii_of,
    require_finishable,
    source_of,
)
from robustbench_med.evaluation.attacks import attack_class
from robustbench_med.evaluation.plan import Plan
from robustbench_med.evaluation.probe import Probed, check_fits, probe
from robustbench_med.models.load import LoadedModel, load_model
from robustbench_med.models.named import DefenseConfig, DefenseSpec, require_model
from robustbench_med.models.weights import require_same_split, trained_on
from robustbench_med.util.config import build, find, read_yaml
from robustbench_med.util.errors import UserError
from robustbench_med.util.fields import Fraction
from robustbench_med.util.seeding import derive

DEFAULT_EOT = 10


@dataclass(frozen=True)
class RunConfig:
    """What ``robmed run`` does; the same from flags, from YAML and from Python.

    Attributes:
        model: a model's name or config path.
        attack: a name, or "library:Class" for an adapter; ``run_all`` takes several, with commas.
        dataset: a data set's name, or a path to somebody's own data (docs/data.md); two with " + " between
            are joined by index.
        weights: a safetensors file; the shipped weights of (model, data set) when not given.
        model_options: how a net of your own is called, see ``models.wrap.wrap``: inputs, outputs, mean, std,
            mode.
        eps: radius of every attacked modality, or of each by name, in units of the modality (a share of the
            range; of a table, standard deviations); by default 4/255, MAIL's release, and 0.1 for tables.
        norm: "linf", "l2", or "l2-joint": one L2 ball for all attacked modalities together.
        modality: the attacked modalities; all when empty.
        head: "any", "all", a head, or one question of one ("findings.effusion").
        towards: the answer that the one question aimed at is to get: "melanoma=naevus" attacks the samples
            of one class, "naevus" all others.
        defenses: put on top of the model's own, in this order; flags and YAML may write one as
            "gaussian-noise:sigma=0.1".
        attack_options: fields of the attack (steps, step_size, restarts, …).
        eot: draws behind each gradient; 10 for random models when not given, 1 for others. "auto"
            doubles them on a part of the samples until that stops to matter.
        draws: scoring draws of random models.
        samples: how many test samples, a fixed subset that grows with the number; 0 means all.
        batch_size: changes no outcome, unless a defense shares its draws within a batch.
        out: folder of run folders.
        leaderboard: CSV that gets the row; ``<out>/leaderboard.csv`` when not given.
        save_adversarial: keep the adversarial inputs (docs/verify.md) beside the record, or in this .npz.
    """

    model: str
    attack: str
    dataset: str = "phantom"
    weights: str | None = None
    model_options: Mapping[str, Any] = field(default_factory=dict)
    eps: Fraction | Mapping[str, Fraction] | None = None
    norm: str = "linf"
    modality: tuple[str, ...] = ()
    head: str = "any"
    towards: str | None = None
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
    save_adversarial: bool | str = False

    @classmethod
    def from_yaml(cls, name: str, **changes: Any) -> RunConfig:
        """Read a protocol by the name it ships under or its path; ``changes`` win over it.

        Raises:
            UserError: unreadable file, unknown or missing option, wrong type.
        """
        path = find("protocol", "protocols", name)
        return build(cls, {**read_yaml(path), **changes}, str(path))


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
    @property
    def model_options(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Subject:
    """A model and the data it is evaluated on, loaded and looked at once.

    Attributes:
        loaded: with what its weights' card says of the data among the caveats.
        whole: the whole test split.
        probed: what the model was found to need, and whether it repeats itself.
        choice: by which config it was loaded (``choice_of``); "" for what was handed over in Python.
    """

    loaded: LoadedModel
    whole: Split
    probed: Probed = field(default_factory=Probed)
    choice: str = ""


def choice_of(config: ModelChoice) -> str:
    """Which model and data a config means, as text: configs with equal texts share a subject."""
    chosen = {
        "model": config.model,
        "dataset": config.dataset,
        "weights": config.weights,
        "device": config.device,
        "defenses": [asdict(defense) for defense in config.defenses],
        "model_options": dict(config.model_options),
    }
    return json.dumps(chosen, sort_keys=True, default=str)


@dataclass(frozen=True)
class Prepared:
    """A run before its first pass.

    Attributes:
        config: as it was asked for.
        stored: the config with every default filled in, less what changes no number.
    """

    config: RunConfig
    subject: Subject
    plan: Plan
    stored: Mapping[str, Any]

    @property
    def loaded(self) -> LoadedModel:
        """The model, and where it came from."""
        return self.subject.loaded


def prepare(config: RunConfig, subject: Subject | None = None) -> Prepared:
    """Everything before the first pass; all bad input is found here.

    Args:
        subject: the model and data of this config, if they are at hand already.

    Raises:
        UserError: anything in the config, data or weights that cannot be used.
    """
    attack = make_attack(config.attack, config.attack_options)
    counts = (config.batch_size, config.draws, _draws(config))
    if config.samples < 0 or min(counts) < 1:
        raise UserError("samples must be 0 (all) or more; batch-size, draws and eot 1 or more")
    for what, count in zip(("batch-size", "draws", "eot"), counts, strict=True):
        require_finishable(count, what)
    if subject is None:
        require_model(config.model)
    elif subject.choice not in ("", choice_of(config)):  # a number of another net would bear this one's name
        raise RuntimeError(f"the subject was loaded by {subject.choice}, not by {choice_of(config)}")
    whole = subject.whole if subject else load_dataset(config.dataset, "test")
    goal = make_goal(config.head, whole.info, config.towards)
    split = subset(asked_about(whole, goal, config.towards), config.samples)
    threat = make_threat_model(config.eps, config.norm, config.modality, split.info)
    subject = subject or load_subject(config, whole)
    if attack.knowledge == "white box" and not subject.loaded.model.differentiable:
        raise UserError(
            f"{subject.loaded.config.label} tells scores, no gradients, which {config.attack} climbs; choose "
            "square, spsa, hop-skip-jump, or transfer from a surrogate"
        )
    random = subject.loaded.model.draws_shared_by != "none"
    plan = Plan(
        model=subject.loaded.model,
        split=split,
        attack=attack,
        name=config.attack,
        threat=threat.to(config.device),
        goal=goal,
        eot=_draws(config) if random else 1,
        draws=config.draws if random else 1,
        batch_size=config.batch_size,
        seed=config.seed,
        device=config.device,
        load_surrogate=functools.lru_cache(maxsize=1)(_surrogate),
    )
    return Prepared(config, subject, plan, _stored(config, plan, subject.loaded))


def prepare_all(config: RunConfig) -> list[Prepared]:
    """One run for each attack of a comma-separated list, on one loaded model, by rising name.

    Every attack gets those of ``attack_options`` that it has.

    Raises:
        UserError: see ``prepare``; an option that none of the attacks has.
    """
    names = sorted(name.strip() for name in config.attack.split(","))
    if len(set(names)) < len(names):
        raise UserError(f"attack {config.attack!r} names an attack twice; drop one")
    if len(names) == 1:
        return [prepare(replace(config, attack=names[0]))]
    options = {
        name: {f.name for f in fields(attack_class(name))}  # type: ignore[arg-type]
        for name in names
    }
    for option in config.attack_options:
        if not any(option in known for known in options.values()):
            raise UserError(f"none of {config.attack} has the option {option!r}; drop it")
    configs = [
        replace(
            config,
            attack=name,
            attack_options={k: v for k, v in config.attack_options.items() if k in options[name]},
        )
        for name in names
    ]
    first = prepare(configs[0])
    return [first, *(prepare(each, first.subject) for each in configs[1:])]


def load_subject(config: ModelChoice, whole: Split) -> Subject:
    """The model of a config, probed on the data.

    Raises:
        UserError: see ``load_model`` and ``probe``; weights trained on another split of the same data.
    """
    require_model(config.model)
    loaded = load_model(
        config.model,
        config.dataset,
        config.weights,
        config.device,
        whole,
        config.defenses,
        config.model_options,
    )
    return replace(looked_at(loaded, whole, config.device), choice=choice_of(config))


def looked_at(loaded: LoadedModel, whole: Split, device: str) -> Subject:
    """A model probed on the data.

    Raises:
        UserError: see ``probe``; weights trained on another split of the same data.
    """
    check_fits(loaded.model, whole.info, loaded.config.label)
    caveats = (*loaded.caveats, *weights_caveats(loaded, whole))
    found = probe(loaded.fresh(), whole, device, loaded.config.label)
    loaded.model.least = found.least
    if found.writes:
        loaded.model.writes_inputs = True
        caveats = (*caveats, "the model writes into its inputs; it gets copies of them")
    return Subject(replace(loaded, caveats=caveats), whole, found)


def _surrogate(wanted: Surrogate) -> FusionModel:
    return load_model(wanted.model, wanted.dataset, wanted.weights).model.requires_grad_(False)


def _draws(config: RunConfig) -> int:
    """EOT draws of a random model, before any search for them."""
    return DEFAULT_EOT if config.eot in (None, "auto") else int(config.eot)


def weights_caveats(loaded: LoadedModel, whole: Split) -> tuple[str, ...]:
    """What a reader must know about where the weights come from.

    Raises:
        UserError: see ``require_same_split``.
    """
    fingerprint, members = trained_on(loaded.card)
    if members is None:
        return ("no card says what these weights were trained on; test samples may be among it",)
    if (name := loaded.card["dataset"].get("name")) != whole.info.name:
        return (f"these weights were trained on {name}",)
    if loaded.weights is not None:
        require_same_split(loaded.card, loaded.weights, whole)
    if fingerprint not in (None, whole.fingerprint):
        return ("these weights were trained on other values of these samples: another size, or source",)
    return ()


def asked_about(split: Split, goal: Goal, towards: str | None) -> Split:
    """The samples that the goal is about: with a label for one of its questions, and fit to be led astray.

    Raises:
        UserError: there are none.
    """
    known = np.zeros(len(split), bool)
    for head, chosen in goal.aimed:
        known |= head.known(split.labels[head.name])[:, list(chosen)].any(1)
    if goal.towards is not None:
        ((head, (question,)),) = goal.aimed
        labels = split.labels[head.name].reshape(len(split), -1)[:, question]
        source = source_of(towards, goal)
        known &= (labels != goal.towards) if source is None else (labels == source)
    if known.all():
        return split
    if not known.any():
        raise UserError(f"{split.info.name}: no test sample has a label that the goal {goal.aim!r} is about")
    return split.take(np.flatnonzero(known))


def subset(split: Split, samples: int) -> Split:
    """The first ``samples`` in the order of a hash of their ids (0: all): the same for everyone, and a
    smaller subset is part of a larger one.

    Raises:
        UserError: more samples than there are.
    """
    if samples > len(split):
        data = split.info.name
        raise UserError(f"samples is {samples}, but {data} has {len(split)} test samples; 0 means all")
    order = sorted(range(len(split)), key=lambda i: derive(0, "subset", split.ids[i]))
    return split.take(np.array(order[: samples or len(split)]))


def _stored(config: RunConfig, plan: Plan, loaded: LoadedModel) -> dict[str, Any]:
    """The config with every default filled in, less what changes no number."""
    stored = asdict(config)
    # Options of the model are part of its own config.
    for name in ("out", "leaderboard", "weights", "model_options", "save_adversarial"):
        del stored[name]
    random = plan.model.draws_shared_by != "none"
    modalities = plan.split.info.modalities
    radii = radii_of(config.eps, config.norm, config.modality, modalities)
    return stored | {
        "dataset": short_name(config.dataset),
        "eps": radii,
        "modality": list(radii),
        "eot": "auto" if random and config.eot == "auto" else plan.eot,
        "draws": plan.draws,
        "samples": len(plan.split),
        "defenses": given_defenses(config.defenses, loaded),
        "attack_options": asdict(plan.attack),  # type: ignore[call-overload]
    }


def given_defenses(defenses: tuple[DefenseConfig, ...], loaded: LoadedModel) -> list[dict[str, Any]]:
    """The defenses a config adds, with their defaults: the last ones, after any of the model's own."""
    added = loaded.config.added
    return [asdict(defense) for defense in added[len(added) - len(defenses) :]]
