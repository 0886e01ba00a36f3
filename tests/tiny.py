"""Models small enough to reason about by hand, and the data and weights to run them on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from robustbench_med.api.attack import Attack, Batch, Passes, Target
from robustbench_med.api.data import DatasetInfo, Modality, Split
from robustbench_med.api.heads import Head, SingleLabel
from robustbench_med.api.model import DrawsSharedBy, FusionModel
from robustbench_med.api.objective import Goal
from robustbench_med.api.randomness import RandomLayer
from robustbench_med.api.registry import Registry
from robustbench_med.api.threat import Budget, Norm, ThreatModel
from robustbench_med.evaluation.outcomes import Outcomes
from robustbench_med.evaluation.plan import Plan, load_batch
from robustbench_med.measure.accuracy import accuracies, headline
from robustbench_med.measure.samples import Samples
from robustbench_med.measure.verdict import UNAUDITED
from robustbench_med.models.named import ModelConfig, build_model, card_model, model_config
from robustbench_med.models.weights import save_weights
from robustbench_med.reporting.record import SCHEMA
from robustbench_med.util.files import sha256_file

ATTACKS: Registry[Callable[..., Attack]] = Registry("attack", "robustbench_med.attacks")
SHAPES = {"a": (1, 6, 8), "b": (2, 4, 4)}
CLASSES = {"first": 2, "second": 3}
CHANNELS = {name: shape[0] for name, shape in SHAPES.items()}


def takes(channels: Mapping[str, Any]) -> tuple[Modality, ...]:
    """Images by name, from their channel counts (of SHAPES, or 32 pixels a side) or their shapes."""

    def shape(name: str, given: Any) -> tuple[int, ...]:
        if not isinstance(given, int):
            return tuple(given)
        usual = SHAPES.get(name)
        return usual if usual and usual[0] == given else (given, 32, 32)

    return tuple(Modality(name, shape(name, given), name) for name, given in channels.items())


def asks(classes: Mapping[str, int], modalities: tuple[str, ...] = ("a", "b")) -> tuple[Head, ...]:
    """Single-label heads by name, from their class counts."""
    return tuple(
        SingleLabel(head, classes=tuple(f"{head}{i}" for i in range(k)), modalities=modalities)
        for head, k in classes.items()
    )


class Linear(FusionModel):
    """One linear layer per head on all pixels of all modalities: closed forms for every attack."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], classes: Mapping[str, int]) -> None:
        super().__init__(takes(shapes), asks(classes))
        pixels = sum(int(np.prod(shape)) for shape in shapes.values())
        self.heads = nn.ModuleDict({task: nn.Linear(pixels, k) for task, k in classes.items()})

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        flat = torch.cat([inputs[name].flatten(1) for name in self.takes], 1)
        return {task: head(flat) for task, head in self.heads.items()}


class ConvNet(FusionModel):
    """A convolution per modality, then a linear head per task; any image size.

    Odd in (image - 0.5), so that no class is preferred and small changes reach every head.
    """

    def __init__(self, channels: Mapping[str, int], classes: Mapping[str, int]) -> None:
        super().__init__(takes(channels), asks(classes))
        self.trunks = nn.ModuleDict({m: nn.Conv2d(c, 4, 3, bias=False) for m, c in channels.items()})
        features = 4 * 4 * len(channels)
        self.heads = nn.ModuleDict({t: nn.Linear(features, k, bias=False) for t, k in classes.items()})

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        maps = [torch.tanh(3 * trunk(inputs[m] - 0.5)) for m, trunk in self.trunks.items()]
        features = torch.cat([F.adaptive_avg_pool2d(x, 2).flatten(1) for x in maps], 1)
        return {task: 10 * head(features) for task, head in self.heads.items()}


class Shared(list[Any]):
    """A list that all copies of a model have in common."""

    def __deepcopy__(self, memo: object) -> Shared:
        return self


class Jitter(RandomLayer):
    """Multiplies by 1 + n, n drawn per element; remembers its draws by the kind of pass."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std
        self.scoring: list[Tensor] = Shared()
        self.crafting: list[Tensor] = Shared()

    def forward(self, x: Tensor) -> Tensor:
        draw = self.noise.normal(self.site, x.shape, self.std, x)
        (self.scoring if torch.is_inference_mode_enabled() else self.crafting).append(draw.clone())
        return x * (1 + draw)


class RandomNet(ConvNet):
    """``ConvNet`` whose logits jitter."""

    def __init__(self, channels: Mapping[str, int], classes: Mapping[str, int], std: float = 0.5) -> None:
        super().__init__(channels, classes)
        self.jitter = Jitter(std)
        self.adopt_random_layers()

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {task: self.jitter(logits) for task, logits in super().forward(inputs).items()}


class Coin(RandomLayer):
    """Keeps the sign of 90 % of the rows and flips the others."""

    def forward(self, x: Tensor) -> Tensor:
        keep = self.noise.keep(torch.Size((len(x), 1)), 0.9, x)
        return x * (2 * keep - 1)


class CoinFlip(FusionModel):
    """Reads the label off the first pixel (0.25 or 0.75), and flips its answer in 10 % of draws."""

    def __init__(self) -> None:
        super().__init__(takes(CHANNELS), asks({"first": 2}))
        self.coin = Coin()
        self.adopt_random_layers()

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        score = inputs["a"][:, 0, 0, 0] - 0.5
        return {"first": self.coin(torch.stack([-score, score], 1))}


def random_split(
    samples: int = 8,
    classes: Mapping[str, int] = CLASSES,
    seed: int = 0,
    shapes: Mapping[str, tuple[int, ...]] = SHAPES,
) -> Split:
    """Uniform images in [0.2, 0.8] of two sizes, with random labels."""
    rng = np.random.default_rng(seed)
    images = {n: rng.uniform(0.2, 0.8, (samples, *s)).astype(np.float32) for n, s in shapes.items()}
    labels = {task: rng.integers(0, k, samples) for task, k in classes.items()}
    return split_of(images, labels, classes)


def split_of(
    images: Mapping[str, NDArray[Any]], labels: Mapping[str, NDArray[np.int64]], classes: Mapping[str, int]
) -> Split:
    samples = len(next(iter(images.values())))
    names = tuple(images)
    info = DatasetInfo(
        name="specks",
        title="Random specks",
        pairing="paired",
        modalities=tuple(Modality(n, tuple(x.shape[1:]), n) for n, x in images.items()),
        heads=asks(classes, names),
        licence="CC0-1.0",
        citation="none",
        synthetic=True,
    )
    ids = tuple(f"s{i}" for i in range(samples))
    return Split("test", info, images, {n: np.arange(samples) for n in names}, labels, ids, ids)


def labelled_by(model: FusionModel, split: Split) -> Split:
    """The split with labels that ``model`` gets all right."""
    whole = load_batch(split, np.arange(len(split)), "cpu")
    with torch.no_grad():
        labels = {task: logits.argmax(1).numpy() for task, logits in model.eval()(whole.inputs).items()}
    return split_of({n: split.arrays[n] for n in model.takes}, labels, class_counts(model))


def class_counts(model: FusionModel) -> dict[str, int]:
    return {name: len(head.answers) for name, head in model.answers.items()}


def seeded(model_class: type[FusionModel], *arguments: Any, seed: int = 0, **options: Any) -> FusionModel:
    torch.manual_seed(seed)
    model = model_class(*arguments, **options)
    return model.eval().requires_grad_(False)


def threat_of(norm: Norm | Literal["joint"] = "linf", **epsilons: float) -> ThreatModel:
    each: Norm = "l2" if norm == "joint" else norm
    return ThreatModel({name: Budget(each, epsilon) for name, epsilon in epsilons.items()}, norm == "joint")


def target_of(model: FusionModel, threat: ThreatModel, head: str = "any", eot: int = 1) -> Target:
    """A target whose only surrogate, by any name, is the model itself."""
    return Target(model, threat, goal_of(model, head), eot, 0, Passes(), load_surrogate=lambda _: model)


def goal_of(model: FusionModel, aim: str = "any") -> Goal:
    return Goal(tuple(model.answers.values()), aim)


def batch_of(split: Split) -> Batch:
    return load_batch(split, np.arange(len(split)), "cpu")


def plan_of(model: FusionModel, split: Split, attack: Attack, threat: ThreatModel, **changes: Any) -> Plan:
    random = model.draws_shared_by != "none"
    values: dict[str, Any] = {
        "goal": Goal(split.info.heads),
        "eot": 2 if random else 1,
        "draws": 10 if random else 1,
        "batch_size": 100,
        "seed": 0,
        "device": "cpu",
    }
    return Plan(model=model, split=split, attack=attack, name="test", threat=threat, **values | changes)


def outcomes_of(clean: NDArray[np.bool_], robust: NDArray[np.bool_], batch: int = 0) -> Outcomes:
    """Outcomes of one head of two classes, from what was right, (R, N) each.

    Args:
        batch: size of the batches; 0 for all samples in one.
    """

    def scores(right: NDArray[np.bool_]) -> dict[str, NDArray[np.float32]]:
        return {"head": np.stack([right, ~right], 2).astype(np.float32)}

    samples = clean.shape[1]
    names = tuple(f"s{i}" for i in range(samples))
    return Outcomes(
        ids=names,
        groups=names,
        labels={"head": np.zeros(samples, np.int64)},
        clean=scores(clean),
        adversarial=scores(robust),
        choosing={},
        batches=np.arange(samples) // (batch or samples),
        changed=np.zeros(samples, np.float32),
        gave_up=("",) * samples,
        forward=0,
        backward=0,
        seconds=0.0,
        shown={},
    )


def record_of(
    run: str, outcomes: Outcomes, shared_by: DrawsSharedBy = "none", **sections: dict[str, Any]
) -> dict[str, Any]:
    """What comparisons and curves read of a record of ``outcomes_of``, with other entries in its sections."""
    goal = Goal(asks({"head": 2}))
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "run": run,
        "config": {},
        "model": {"label": run, "draws_shared_by": shared_by},
        "dataset": {"name": "d", "fingerprint": "f"},
        "threat_model": {
            "budgets": {"a": {"norm": "l2", "epsilon": 0.1}},
            "joint": False,
            "goal": "any",
            "towards": None,
        },
        "attack": {"name": "pgd"},
        "headline": headline(goal),
        "accuracy": {name: asdict(value) for name, value in accuracies(outcomes, goal, shared_by).items()},
        "audit": {"verdict": UNAUDITED},
        "outcomes": Samples.of(outcomes, goal, shared_by).as_record(),
    }
    return record | {name: record[name] | entries for name, entries in sections.items()}


def joint_loss(model: FusionModel, inputs: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> Tensor:
    """The cross-entropy of all heads, summed: (B,)."""
    with torch.no_grad():
        logits = model(inputs)
    losses = [F.cross_entropy(logits[task], labels[task], reduction="none") for task in logits]
    return torch.stack(losses).sum(0)


def write_model(folder: Path, name: str, info: DatasetInfo, **options: Any) -> Path:
    """Random weights of a named model with the card that says how it was built."""
    config: ModelConfig = model_config(name).with_options({"width": 1 / 32, **options})
    torch.manual_seed(0)
    path = folder / f"{name}.safetensors"
    save_weights(build_model(config, info), path)
    card = {"model": card_model(config), "weights": {"sha256": sha256_file(path)}}
    path.with_suffix(".json").write_text(json.dumps(card))
    return path


def linear_case(
    norm: Norm | Literal["joint"], samples: int = 60
) -> tuple[FusionModel, Batch, Tensor, dict[str, float]]:
    """A two-class linear model, its samples, and each one's exact margin at the worst point.

    No sample is near the box, so the worst point of each ball is in closed form: the dual norm of
    the weights on that modality times its radius is lost from the margin ("joint": the L2 norm of all
    weights times the one radius). The radii are such that half of the samples fall.
    """
    split = random_split(samples, {"first": 2})
    split = split_of({n: 0.3 + 0.5 * x for n, x in split.arrays.items()}, split.labels, {"first": 2})
    model = seeded(Linear, SHAPES, {"first": 2})
    batch = batch_of(labelled_by(model, split))
    weight = model.get_submodule("heads.first").get_parameter("weight")
    sizes = [int(np.prod(shape)) for shape in SHAPES.values()]
    parts = dict(zip(SHAPES, torch.split(weight[1] - weight[0], sizes), strict=True))
    dual = {name: part.norm(1 if norm == "linf" else 2).item() for name, part in parts.items()}
    logits = model(batch.inputs)["first"]
    margins = (logits[:, 1] - logits[:, 0]).abs()
    if norm == "joint":
        whole = math.hypot(*dual.values())
        radius = margins.median().item() / whole
        return model, batch, margins - radius * whole, {"a": radius, "b": radius}
    radius = margins.median().item() / (dual["a"] + 3 * dual["b"])
    epsilons = {"a": radius, "b": 3 * radius}
    for name, part in parts.items():
        moved = epsilons[name] * (1 if norm == "linf" else part.abs().max().item() / dual[name])
        assert moved < 0.29, "the worst point lies outside the box"
    return model, batch, margins - sum(epsilons[name] * dual[name] for name in dual), epsilons
