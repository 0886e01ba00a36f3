"""Every attack on every kind of modality and head, against the exact answer for linear models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny import ATTACKS, Jitter, batch_of, plan_of
from torch import Tensor, nn

from robustbench_med.api.attack import Batch, Passes, Target
from robustbench_med.api.data import DatasetInfo, Modality, Split
from robustbench_med.api.heads import Binary, Head, MultiLabel, SingleLabel
from robustbench_med.api.model import FusionModel
from robustbench_med.api.objective import Goal
from robustbench_med.api.threat import ThreatModel
from robustbench_med.defenses.bit_depth import BitDepth
from robustbench_med.evaluation.adversary import make_attack, make_threat_model
from robustbench_med.evaluation.batches import evaluate
from robustbench_med.evaluation.outcomes import Outcomes
from robustbench_med.util.errors import UserError

NAMES = ("slice", "scan", "trace", "record")
KINDS = {"slice": "image", "scan": "volume", "trace": "signal", "record": "table"}
# Years, truth value, grade, degrees, counts, millimoles: no two features have one range or one scale.
RECORD = Modality(
    "record",
    (6,),
    kind="table",
    low=np.array([17, 0, 0, 35, 4, 0], np.float32),
    high=np.array([102, 1, 1, 39, 40, 5], np.float32),
    scale=np.array([14, 0.4, 0.5, 0.5, 6, 0.9], np.float32),
    mutable=np.array([True, False, True, True, True, True]),
)
MODALITIES = (
    Modality("slice", (1, 10, 10)),
    Modality("scan", (1, 4, 5, 6), kind="volume", low=-1000.0, high=3000.0),
    Modality("trace", (2, 24), kind="signal", low=-2.0, high=2.0),
    RECORD,
)
# What libraries know of boxes.
PLAIN = (*(replace(m, low=0.0, high=1.0) for m in MODALITIES[:3]), RECORD)
HEADS: tuple[Head, ...] = (
    SingleLabel("grade", classes=("low", "middle", "high"), modalities=NAMES),
    Binary("acute", threshold=0.2, modalities=NAMES),
    MultiLabel("findings", findings=("a", "b", "c", "d"), thresholds=(0, 0.1, -0.1, 0.2), modalities=NAMES),
)
# Radii in whose ratios the modalities are attacked together: a table has few features, each worth more.
TOGETHER = {"slice": 1.0, "scan": 1.0, "trace": 1.4, "record": 6.0}
SAMPLES = 20


def spread(value: object, modality: Modality) -> Tensor:
    return torch.from_numpy(np.broadcast_to(np.asarray(value, np.float32), modality.shape).copy())


class Mixed(FusionModel):
    """One linear layer per head on all modalities, brought to units around the middle of their ranges."""

    def __init__(self, modalities: tuple[Modality, ...], heads: tuple[Head, ...]) -> None:
        super().__init__(modalities, heads)
        self.sizes = [int(np.prod(m.shape)) for m in modalities]
        self.heads = nn.ModuleDict({h.name: nn.Linear(sum(self.sizes), h.columns[0]) for h in heads})
        for head in heads:  # a modality counts as much as any other, however many elements it has
            parts = [torch.randn(head.columns[0], size) / size**0.5 for size in self.sizes]
            self.weight(head.name).data = torch.cat(parts, 1)
        self.middle = {m.name: spread((np.add(m.low, m.high)) / 2, m) for m in modalities}
        self.unit = {m.name: spread(m.unit, m) for m in modalities}

    def weight(self, head: str) -> Tensor:
        return self.heads[head].get_parameter("weight")

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        parts = [((inputs[n] - self.middle[n]) / self.unit[n]).flatten(1) for n in self.takes]
        features = torch.cat(parts, 1)
        return {name: head(features) for name, head in self.heads.items()}


class RandomMixed(Mixed):
    """``Mixed`` whose scores jitter, each sample's by itself."""

    def __init__(self, modalities: tuple[Modality, ...], heads: tuple[Head, ...]) -> None:
        super().__init__(modalities, heads)
        self.jitter = Jitter(0.5)
        self.adopt_random_layers()

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.jitter(scores) for name, scores in super().forward(inputs).items()}


def case(
    modalities: tuple[Modality, ...] = MODALITIES,
    samples: int = SAMPLES,
    model_class: type[Mixed] = Mixed,
) -> tuple[Mixed, Split]:
    """A model, and samples around the middle of the box that it gets right."""
    torch.manual_seed(0)
    model = model_class(modalities, HEADS).eval().requires_grad_(False)
    rng = np.random.default_rng(0)
    arrays = {}
    for m in modalities:
        share = rng.uniform(0.3, 0.7, (samples, *m.shape))
        arrays[m.name] = (m.low + np.subtract(m.high, m.low) * share).astype(np.float32)
    scores = Mixed.forward(model, {name: torch.from_numpy(x) for name, x in arrays.items()})
    labels: dict[str, NDArray[np.int64]] = {}
    for head in HEADS:
        unlabelled = torch.zeros(samples, *head.label_shape, dtype=torch.long)
        answers = head.problems(scores[head.name], unlabelled)[0].argmax(-1)
        labels[head.name] = answers.view_as(unlabelled).numpy()
    info = DatasetInfo("kinds", "All kinds", "paired", modalities, HEADS, "CC0-1.0", "none", synthetic=True)
    ids = tuple(f"s{i}" for i in range(samples))
    rows = {m.name: np.arange(samples) for m in modalities}
    return model, Split("test", info, arrays, rows, labels, ids, ids).validate()


def distances(model: Mixed, batch: Batch, norm: str, radii: Mapping[str, float], goal: Goal) -> Tensor:
    """How far the nearest wrong answer is where no box is met, in these radii, (B,)."""
    nearest = torch.full((len(batch),), torch.inf)
    with torch.no_grad():
        scores = model(batch.inputs)
    for head, chosen in goal.aimed:
        logits, truth = head.problems(scores[head.name], batch.labels[head.name])
        slopes = logit_slopes(model, head)
        for question in chosen:
            right = truth[:, question]
            for answer in range(logits.shape[2]):
                gap = logits[:, question].gather(1, right[:, None])[:, 0] - logits[:, question, answer]
                normal = slopes[:, question, answer] - slopes[:, question].T[right]
                reached = gap / reach(model, normal, norm, radii)
                nearest = torch.minimum(nearest, torch.where(right == answer, torch.inf, reached))
    return nearest


def logit_slopes(model: Mixed, head: Head) -> Tensor:
    """The gradient of every logit of the head's problems, (features, questions, answers)."""
    unit_steps = model.weight(head.name).T
    labels = torch.zeros(len(unit_steps), *head.label_shape, dtype=torch.long)
    moved, still = (head.problems(scores, labels)[0] for scores in (unit_steps, 0 * unit_steps))
    return moved - still


def reach(model: Mixed, normal: Tensor, norm: str, radii: Mapping[str, float]) -> Tensor:
    """By how much a linear function with this gradient (B, features) rises within the radii, (B,)."""
    parts = []
    for modality, part in zip(model.takes.values(), torch.split(normal, model.sizes, 1), strict=True):
        if modality.name in radii:
            free = 1.0 if modality.mutable is None else spread(modality.mutable, modality)
            dual = (part * free).norm(1 if norm == "linf" else 2, dim=1)
            parts.append(radii[modality.name] * dual)
    together = torch.stack(parts)
    return together.norm(dim=0) if norm == "l2-joint" else together.sum(0)


def target_at(model: FusionModel, threat: ThreatModel, goal: Goal, eot: int = 1) -> Target:
    return Target(model, threat, goal, eot, 0, Passes(), load_surrogate=lambda _: model)


def check_rules(model: FusionModel, norm: str, radii: Mapping[str, float], batch: Batch, found: Any) -> None:
    """Ball, box and mask, by hand; what is not attacked comes back as it was."""
    lengths = []
    for name, modality in model.takes.items():
        clean, moved = batch.inputs[name], found[name]
        if name not in radii:
            assert torch.equal(moved, clean)
            continue
        assert moved.dtype == clean.dtype
        low, high = spread(modality.low, modality), spread(modality.high, modality)
        assert (moved >= torch.minimum(low, clean)).all()
        assert (moved <= torch.maximum(high, clean)).all()
        change = ((moved - clean) / spread(modality.unit, modality)).flatten(1)
        length = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
        lengths.append(length)
        assert norm == "l2-joint" or length.max() <= radii[name] * (1 + 1e-4) + 1e-6
        if modality.mutable is not None:
            fixed = ~torch.from_numpy(modality.mutable)
            assert torch.equal(moved[:, fixed], clean[:, fixed])
    assert norm != "l2-joint" or torch.stack(lengths).norm(dim=0).max() <= max(radii.values()) * (1 + 1e-4)
    assert (torch.stack(lengths) > 0).any()


@dataclass(frozen=True)
class Shelf:
    """A native attack.

    Attributes:
        least: the share it breaks of the samples that any attack could, where it has one question to flip.
        several: the same where one of several answers or questions may fall.
        gradient: asks for gradients.
        wide: the radius, as a factor on the one that all samples can be broken at; half of them when not
            given.
    """

    name: str
    least: float
    several: float
    options: Mapping[str, Any] = field(default_factory=dict)
    norms: tuple[str, ...] = ("linf", "l2")
    gradient: bool = True
    wide: float | None = None


# The cross-entropy adds up over the questions, of which one is to fall; margins follow them one by one.
SHELF = [
    Shelf("fgsm", 1.0, 0.85),
    Shelf("fgsm", 1.0, 0.85, {"loss": "margin"}),
    Shelf("pgd", 1.0, 0.85, {"steps": 20}),
    Shelf("pgd", 1.0, 0.85, {"steps": 20, "loss": "margin"}),
    Shelf("mi-fgsm", 1.0, 0.85),
    Shelf("apgd:ce", 1.0, 0.85, {"steps": 20}),
    Shelf("apgd:dlr", 1.0, 0.85, {"steps": 20}),
    Shelf("apgd:t", 1.0, 1.0, {"steps": 20}),
    Shelf("fab", 1.0, 1.0, {"steps": 15}),
    Shelf("cw", 0.8, 0.8, {"steps": 50, "search_steps": 4}, ("l2",)),
    # Nothing must be left for the 5000 queries of its Square.
    Shelf("autoattack", 1.0, 1.0, {"steps": 8}, wide=1.05),
    Shelf("transfer", 1.0, 0.85, {"steps": 20, "surrogate": "itself"}),
    Shelf("square", 0.5, 0.3, {"queries": 120}, gradient=False),
    Shelf("spsa", 0.5, 0.5, {"steps": 12, "directions": 12}, gradient=False),
    Shelf("hop-skip-jump", 0.5, 0.4, {"steps": 6, "probes": 16}, gradient=False),
    Shelf("uniform-noise", 0.04, 0.04, gradient=False, wide=4.0),
    Shelf("gaussian-noise", 0.04, 0.04, gradient=False, wide=4.0),
]
ADAPTERS = ("art", "foolbox", "pyautoattack", "torchattacks")


def cases(instead_of_l2: str = "l2") -> list[Any]:
    return [
        pytest.param(shelf, norm, id="-".join([shelf.name, *map(str, shelf.options.values()), norm]))
        for shelf in SHELF
        for norm in (instead_of_l2 if each == "l2" else each for each in shelf.norms)
    ]


MIXED, SPLIT = case()
BATCH = batch_of(SPLIT)


def check_attack(shelf: Shelf, norm: str, ratios: Mapping[str, float], goal: Goal) -> None:
    """It keeps to the rules, breaks what it should, and nothing that cannot be broken."""
    distance = distances(MIXED, BATCH, norm, ratios, goal)
    # Half of the samples fall to any of six questions so near that most attacks look at the wrong one.
    wide = shelf.wide or (1.5 if goal.aim == "any" else None)
    scale = (wide * distance.max() if wide else 1.001 * distance.median()).item()
    radii = {name: scale * ratio for name, ratio in ratios.items()}
    threat = make_threat_model(radii, norm, (), SPLIT.info)
    target = target_at(MIXED, threat, goal)
    before = {name: x.clone() for name, x in BATCH.inputs.items()}
    found = make_attack(shelf.name, shelf.options).perturb(target, BATCH)
    assert all(torch.equal(x, before[name]) for name, x in BATCH.inputs.items())
    threat.check(found, BATCH.inputs, shelf.name)
    check_rules(MIXED, norm, radii, BATCH, found)
    assert (target.passes.backward > 0) == shelf.gradient
    broken = goal.success(MIXED(found), BATCH.labels) > 0
    assert not (broken & (distance > scale * 1.001)).any()
    one_question = sum(len(h.answers) - 1 for h, chosen in goal.aimed for _ in chosen) == 1
    of_those_in_reach = broken[distance < 0.995 * scale].float().mean().item()
    assert of_those_in_reach >= (shelf.least if one_question else shelf.several)


def test_every_native_attack_is_here() -> None:
    """But BPDA, which needs a model that hides its gradient, and has a test of its own."""
    native = set(ATTACKS.names()) - {*ADAPTERS, "bpda"}
    assert {shelf.name.partition(":")[0] for shelf in SHELF} == native


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("shelf", "norm"), cases())
def test_each_kind_of_modality(shelf: Shelf, norm: str, name: str) -> None:
    check_attack(shelf, norm, {name: 1.0}, Goal(HEADS, "acute"))


@pytest.mark.parametrize("head", ["grade", "findings"])
@pytest.mark.parametrize(("shelf", "norm"), cases())
def test_each_kind_of_head(shelf: Shelf, norm: str, head: str) -> None:
    check_attack(shelf, norm, TOGETHER, Goal(HEADS, head))


@pytest.mark.parametrize(("shelf", "norm"), cases("l2-joint"))
def test_all_heads_and_all_modalities(shelf: Shelf, norm: str) -> None:
    ratios = dict.fromkeys(NAMES, 1.0) if norm == "l2-joint" else TOGETHER
    check_attack(shelf, norm, ratios, Goal(HEADS))


# Without AutoAttack, which is made of attacks that are here.
@pytest.mark.parametrize(("shelf", "norm"), [c for c in cases() if c.values[0].name != "autoattack"])
def test_values_at_the_ends_of_the_ranges_and_beyond(shelf: Shelf, norm: str) -> None:
    """A table's may lie beyond the range of its training split, and stay there."""
    inputs = {}
    for name, modality in MIXED.takes.items():
        low, high = spread(modality.low, modality), spread(modality.high, modality)
        beyond = 0.1 if name == "record" else 0.0
        inputs[name] = torch.where(BATCH.inputs[name] < (low + high) / 2, low, high + beyond * (high - low))
    edge = replace(BATCH, inputs=inputs)
    radii = {name: 0.3 * ratio for name, ratio in TOGETHER.items()}
    threat = make_threat_model(radii, norm, (), SPLIT.info)
    found = make_attack(shelf.name, shelf.options).perturb(target_at(MIXED, threat, Goal(HEADS)), edge)
    threat.check(found, inputs, shelf.name)
    check_rules(MIXED, norm, radii, edge, found)


@pytest.mark.parametrize("name", ["slice", "scan", "trace"])
def test_bpda_goes_on_where_rounding_hides_the_gradient(name: str) -> None:
    model, _ = case()
    BitDepth(bits=8, straight_through=False).apply(model)
    goal, shares = Goal(HEADS, "acute"), {}
    radius = 1.5 * distances(MIXED, BATCH, "linf", {name: 1.0}, goal).max().item()
    threat = make_threat_model({name: radius}, "linf", (), SPLIT.info)
    for attack in ("apgd", "bpda"):
        found = make_attack(attack, {"steps": 5}).perturb(target_at(model, threat, goal), BATCH)
        check_rules(model, "linf", {name: radius}, BATCH, found)
        shares[attack] = (goal.success(model(found), BATCH.labels) > 0).float().mean()
    assert shares["bpda"] == 1
    assert shares["apgd"] < 0.5


def test_attacks_say_when_they_need_a_gradient_that_a_model_has_not() -> None:
    model, _ = case(samples=4)
    model.differentiable = False
    few = BATCH.take(torch.arange(4))
    for shelf in SHELF:
        radii = {name: 0.1 * ratio for name, ratio in TOGETHER.items()}
        threat = make_threat_model(radii, shelf.norms[0], (), SPLIT.info)
        target, attack = target_at(model, threat, Goal(HEADS)), make_attack(shelf.name, shelf.options)
        if shelf.gradient:
            with pytest.raises(UserError, match=r"tells scores, no gradients; choose .*square, spsa"):
                attack.perturb(target, few)
        else:
            check_rules(model, shelf.norms[0], radii, few, attack.perturb(target, few))


# Random models.


@pytest.fixture(scope="module")
def random_case() -> tuple[FusionModel, Split]:
    return case(samples=8, model_class=RandomMixed)


def outcomes_of_run(
    case: tuple[FusionModel, Split],
    attack: tuple[str, dict[str, Any]],
    norm: str,
    folder: Path,
    **changes: Any,
) -> Outcomes:
    """Of a run on half of what breaks half of the samples, by rising id."""
    model, split = case
    ratio = 0.01 if norm == "linf" else 0.04
    threat = make_threat_model({n: ratio * r for n, r in TOGETHER.items()}, norm, (), split.info)
    if changes.pop("turned", False):
        split = split.take(np.arange(len(split))[::-1].copy())
    plan = plan_of(model, split, make_attack(*attack), threat, draws=2, **changes)
    found = evaluate(plan, folder, lambda _: None)
    return found.take(np.argsort(found.ids))


@pytest.mark.parametrize(
    ("attack", "norm"),
    [
        (("pgd", {"steps": 3, "loss": "margin"}), "linf"),
        (("square", {"queries": 20}), "linf"),
        (("square", {"queries": 20}), "l2"),
        (("spsa", {"steps": 3, "directions": 4}), "l2"),
        (("hop-skip-jump", {"steps": 3, "probes": 6, "tries": 5}), "linf"),
        (("hop-skip-jump", {"steps": 3, "probes": 6, "tries": 5}), "l2"),
    ],
    ids=["pgd-linf", "square-linf", "square-l2", "spsa-l2", "hop-skip-jump-linf", "hop-skip-jump-l2"],
)
def test_outcomes_of_a_random_model_do_not_depend_on_the_batch(
    random_case: tuple[FusionModel, Split], attack: tuple[str, dict[str, Any]], norm: str, tmp_path: Path
) -> None:
    alone = outcomes_of_run(random_case, attack, norm, tmp_path / "1", batch_size=1)
    orders: list[dict[str, Any]] = [{"batch_size": 7}, {"batch_size": 100}, {"batch_size": 7, "turned": True}]
    for number, order in enumerate(orders):
        again = outcomes_of_run(random_case, attack, norm, tmp_path / f"order {number}", **order)
        assert again.ids == alone.ids
        for kind in ("clean", "adversarial", "choosing"):
            for head, scores in getattr(alone, kind).items():
                np.testing.assert_allclose(getattr(again, kind)[head], scores, rtol=0, atol=1e-5)
        assert again.forward == alone.forward
    other = outcomes_of_run(random_case, attack, norm, tmp_path / "seed", seed=1)
    for head, scores in alone.adversarial.items():
        assert (np.abs(other.adversarial[head] - scores) > 1e-3).any(axis=(0, 2)).all()


# SPSA and HopSkipJump on their own.


@pytest.mark.parametrize(
    ("norm", "name"),
    [("linf", "slice"), ("l2", "scan"), ("l2", "trace"), ("linf", "record"), ("l2", "record")],
)
def test_spsa_comes_near_the_exact_robust_accuracy(norm: str, name: str) -> None:
    """Without tiles, since the weights of these models are white noise."""
    goal = Goal(HEADS, "acute")
    distance = distances(MIXED, BATCH, norm, {name: 1.0}, goal)
    radius = distance.median().item()
    target = target_at(MIXED, make_threat_model({name: radius}, norm, (), SPLIT.info), goal)
    found = make_attack("spsa", {"steps": 20, "directions": 40, "tile": 1}).perturb(target, BATCH)
    broken = goal.success(MIXED(found), BATCH.labels) > 0
    assert broken[distance < 0.9 * radius].all()
    assert not broken[distance > 1.001 * radius].any()


def test_tiles_help_where_neighbours_agree() -> None:
    """Weights in blocks of 4×4 pixels and a few directions only."""
    model, _ = case()
    with torch.no_grad():
        image = model.weight("acute")[:, :100].view(1, 10, 10)
        coarse = image[:, :3, :3].repeat_interleave(4, 1).repeat_interleave(4, 2)[:, :10, :10]
        model.weight("acute")[:, :100] = coarse.reshape(1, -1)
    goal, scores = Goal(HEADS, "acute"), model(BATCH.inputs)
    answers = goal.heads[1].problems(scores["acute"], BATCH.labels["acute"])[0].argmax(-1)
    batch = replace(BATCH, labels={**BATCH.labels, "acute": answers[:, 0]})
    distance = distances(model, batch, "linf", {"slice": 1.0}, goal)
    margins = []
    for tile in (1, 4):
        target = target_at(
            model, make_threat_model({"slice": distance.max().item()}, "linf", (), SPLIT.info), goal
        )
        attack = make_attack("spsa", {"steps": 5, "directions": 6, "tile": tile, "step_size": 0.2})
        found = attack.perturb(target, batch)
        margins.append(goal.margin(model(found), batch.labels))
    assert (margins[1] > margins[0]).float().mean() > 0.8


def at_one_distance(name: str) -> Batch:
    """Samples around the middle of the box, moved along the weights to one small margin at "acute".

    So that half of the box is wrong, and a random start is found.
    """
    modality, middle = MIXED.takes[name], MIXED.middle
    free = 1.0 if modality.mutable is None else spread(modality.mutable, modality)
    parts = torch.split(MIXED.weight("acute"), MIXED.sizes, 1)
    weight = parts[NAMES.index(name)].view(modality.shape) * free
    inputs = {n: middle[n].expand_as(x).clone() for n, x in BATCH.inputs.items()}
    inputs[name] += 0.2 * (BATCH.inputs[name] - middle[name])
    wanted = 0.2 + 0.05 * (2.0 * BATCH.labels["acute"] - 1)
    missing = (wanted - MIXED(inputs)["acute"][:, 0]).view(-1, *[1] * len(modality.shape))
    inputs[name] += missing * MIXED.unit[name] * weight / weight.square().sum()
    return replace(BATCH, inputs=inputs)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_hop_skip_jump_comes_near_the_border(norm: str, name: str) -> None:
    """It stops inside the ball, so the distance that it finds shows in the ball it gets into."""
    batch, goal = at_one_distance(name), Goal(HEADS, "acute")
    distance = distances(MIXED, batch, norm, {name: 1.0}, goal)
    assert distance.max() < distance.min() * 1.01
    threat = make_threat_model({name: 1.4 * distance.min().item()}, norm, (), SPLIT.info)
    found = make_attack("hop-skip-jump", {}).perturb(target_at(MIXED, threat, goal), batch)
    check_rules(MIXED, norm, {name: 1.4 * distance.min().item()}, batch, found)
    assert (goal.success(MIXED(found), batch.labels) > 0).float().mean() >= 0.9


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        ("spsa", {"steps": 0}, "steps, directions and tile must be 1 or more"),
        ("spsa", {"directions": 0}, "steps, directions and tile must be 1 or more"),
        ("spsa", {"tile": 0}, "steps, directions and tile must be 1 or more"),
        ("spsa", {"probe": 0}, "probe and step-size must be positive"),
        ("spsa", {"probe": "inf"}, "probe and step-size must be positive"),
        ("spsa", {"step_size": -0.1}, "probe and step-size must be positive"),
        ("spsa", {"step_size": "inf"}, "probe and step-size must be positive"),
        ("spsa", {"decay": 1.0}, "decay at least 0 and below 1"),
        ("spsa", {"decay": "nan"}, "decay at least 0 and below 1"),
        ("spsa", {"restarts": 2}, "unknown option 'restarts'"),
        ("hop-skip-jump", {"steps": 0}, "steps, probes and tries must be 1 or more"),
        ("hop-skip-jump", {"probes": 0}, "steps, probes and tries must be 1 or more"),
        ("hop-skip-jump", {"tries": 0}, "steps, probes and tries must be 1 or more"),
        ("hop-skip-jump", {"spread": 0}, "spread above 0"),
        ("hop-skip-jump", {"spread": "inf"}, "spread above 0"),
        ("hop-skip-jump", {"spread": "nan"}, "spread above 0"),
    ],
)
def test_bad_options(name: str, options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError) as error:
        make_attack(name, options)
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


# Libraries.


@dataclass(frozen=True)
class Foreign:
    """An attack of a library.

    Attributes:
        kinds: what it takes.
        weak: need not break a sample within the few steps of a test.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    norms: tuple[str, ...] = ("linf", "l2")
    kinds: tuple[str, ...] = ("image", "volume", "signal")
    weak: bool = False


LINF, L2, IMAGES, FEW = ("linf",), ("l2",), ("image",), {"steps": 6}
FOREIGN = [
    *(Foreign(f"torchattacks:{name}", FEW, LINF) for name in ("BIM", "EOTPGD", "PGD", "RFGSM")),
    Foreign("torchattacks:FGSM", {}, LINF),
    Foreign("torchattacks:FFGSM", {}, LINF, weak=True),
    # These average over three axes after the first, which a signal does not have.
    *(Foreign(f"torchattacks:{name}", FEW, LINF, IMAGES) for name in ("MIFGSM", "NIFGSM", "UPGD")),
    *(Foreign(f"torchattacks:{name}", FEW, LINF, IMAGES) for name in ("DIFGSM", "SINIFGSM", "VMIFGSM")),
    *(Foreign(f"torchattacks:{name}", FEW, LINF, IMAGES, weak=True) for name in ("Jitter", "PGDRS", "TPGD")),
    *(Foreign(f"torchattacks:{name}", FEW, kinds=IMAGES) for name in ("APGD", "APGDT", "FAB")),
    *(Foreign(f"torchattacks:{name}", FEW, L2, IMAGES) for name in ("DeepFool", "PGDL2")),
    Foreign("torchattacks:CW", FEW, L2, IMAGES, weak=True),
    Foreign("torchattacks:Square", {"options": {"n_queries": 30}}, kinds=IMAGES, weak=True),
    Foreign("torchattacks:AutoAttack", {"steps": 4, "options": {"n_queries": 10}}, kinds=IMAGES),
    Foreign("art:FGM"),
    Foreign("art:PGD", FEW),
    Foreign("art:HopSkipJump", {"steps": 2, "options": {"init_eval": 10, "max_eval": 20}}, weak=True),
    Foreign("art:CW", {"steps": 5, "options": {"binary_search_steps": 2}}, L2, IMAGES, weak=True),
    Foreign("art:Square", {"steps": 30}, LINF, IMAGES, weak=True),
    Foreign("art:AutoAttack", {"steps": 4, "queries": 10}, kinds=IMAGES),
    *(
        Foreign(f"pyautoattack:{part}", {"steps": 4, "queries": 10}, kinds=IMAGES, weak=part == "square")
        for part in ("standard", "rand", "apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square")
    ),
    *(Foreign(f"foolbox:{name}", FEW, LINF) for name in ("LinfPGD", "LinfDeepFoolAttack", "LInfFMNAttack")),
    *(Foreign(f"foolbox:{name}", FEW, L2) for name in ("L2PGD", "L2DeepFoolAttack", "L2AdamPGD")),
    *(Foreign(f"foolbox:{name}", {"steps": 20}, L2, weak=True) for name in ("DDNAttack", "L2FMNAttack")),
    Foreign("foolbox:L2CarliniWagnerAttack", {"steps": 20}, L2, weak=True),
    Foreign("foolbox:LinfFastGradientAttack", {}, LINF),
    Foreign("foolbox:LinfRepeatedAdditiveUniformNoiseAttack", {}, LINF, weak=True),
    Foreign("foolbox:BoundaryAttack", {"steps": 10}, L2, weak=True),
    Foreign("foolbox:HopSkipJumpAttack", {"steps": 2}, L2, weak=True),
    Foreign("foolbox:SaltAndPepperNoiseAttack", {"steps": 20}, L2, weak=True),
]
EACH_FOREIGN = pytest.mark.parametrize("foreign", FOREIGN, ids=[foreign.name for foreign in FOREIGN])
PLAIN_MIXED, PLAIN_SPLIT = case(PLAIN, 5)
PLAIN_BATCH = batch_of(PLAIN_SPLIT)


def needed(foreign: Foreign) -> None:
    library = foreign.name.partition(":")[0]
    if library in ("foolbox", "pyautoattack"):
        pytest.importorskip(library)


def try_foreign(foreign: Foreign, norm: str, name: str, goal: Goal) -> None:
    """It keeps to the rules, and beats no attack, of which nothing is broken."""
    distance = distances(PLAIN_MIXED, PLAIN_BATCH, norm, {name: 1.0}, goal)
    radius = 1.2 * distance.max().item()
    threat = make_threat_model({name: radius}, norm, (), PLAIN_SPLIT.info)
    target = target_at(PLAIN_MIXED, threat, goal)
    found = make_attack(foreign.name, foreign.options).perturb(target, PLAIN_BATCH)
    threat.check(found, PLAIN_BATCH.inputs, foreign.name)
    assert foreign.weak or (goal.success(PLAIN_MIXED(found), PLAIN_BATCH.labels) > 0).float().mean() > 0.5
    if not foreign.weak or not torch.equal(found[name], PLAIN_BATCH.inputs[name]):
        check_rules(PLAIN_MIXED, norm, {name: radius}, PLAIN_BATCH, found)


@pytest.mark.parametrize("name", NAMES)
@EACH_FOREIGN
def test_libraries_work_on_a_kind_or_say_that_they_do_not(foreign: Foreign, name: str) -> None:
    """Before they ask the model anything."""
    needed(foreign)
    for norm in foreign.norms:
        if KINDS[name] in foreign.kinds:
            try_foreign(foreign, norm, name, Goal(HEADS, "findings"))
            continue
        takes = "images only" if foreign.kinds == IMAGES else "no tables"
        target = target_at(
            PLAIN_MIXED, make_threat_model({name: 0.1}, norm, (), PLAIN_SPLIT.info), Goal(HEADS)
        )
        with pytest.raises(UserError) as error:
            make_attack(foreign.name, foreign.options).perturb(target, PLAIN_BATCH)
        refusal = f"{foreign.name} takes {takes}, and {name} is a {KINDS[name]}; use --attack "
        assert str(error.value).startswith(refusal)
        assert str(error.value).removeprefix(refusal) in ATTACKS.names()
        assert target.passes == Passes()


def test_a_package_that_a_library_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of foolbox need numba, and say so when they are made."""
    attacks = pytest.importorskip("foolbox").attacks

    def without_numba(self: object) -> None:
        raise ModuleNotFoundError(f"{type(self).__name__} needs numba", name="numba")

    monkeypatch.setattr(attacks.L2BrendelBethgeAttack, "__init__", without_numba)
    with pytest.raises(UserError, match="foolbox:L2BrendelBethgeAttack needs the package 'numba'"):
        make_attack("foolbox:L2BrendelBethgeAttack", {})


# PGD of every library.
PLAINEST = ("torchattacks:PGD", "art:PGD", "pyautoattack:apgd-ce", "foolbox:LinfPGD", "foolbox:L2PGD")


@pytest.mark.parametrize("head", ["any", "grade", "acute", "findings"])
@pytest.mark.parametrize("foreign", [f for f in FOREIGN if f.name in PLAINEST], ids=lambda f: f.name)
def test_libraries_work_on_each_kind_of_head(foreign: Foreign, head: str) -> None:
    needed(foreign)
    for norm in foreign.norms:
        try_foreign(foreign, norm, "slice", Goal(HEADS, head))


@pytest.mark.parametrize("name", ["scan", "trace"])
@pytest.mark.parametrize("foreign", [f for f in FOREIGN if "volume" in f.kinds], ids=lambda f: f.name)
def test_libraries_know_no_box_but_one(foreign: Foreign, name: str) -> None:
    """Of millivolts and Hounsfield units they would make something else."""
    needed(foreign)
    threat = make_threat_model({name: 0.1}, foreign.norms[0], (), SPLIT.info)
    target = target_at(MIXED, threat, Goal(HEADS))
    with pytest.raises(UserError) as error:
        make_attack(foreign.name, foreign.options).perturb(target, BATCH)
    assert str(error.value).startswith(
        f"{foreign.name} knows no box but [0, 1] with every element free ({name}); use --attack "
    )
    assert target.passes == Passes()


@pytest.mark.parametrize("name", ["slice", "scan", "trace"])
def test_a_library_finds_what_the_native_attack_finds(name: str) -> None:
    """FGSM of every library on a head with one answer to reach."""
    goal, found = Goal(HEADS, "grade"), {}
    threat = make_threat_model({name: 0.05}, "linf", (), PLAIN_SPLIT.info)
    for attack in ("fgsm", "torchattacks:FGSM", "art:FGM", "foolbox:LinfFastGradientAttack"):
        if attack.startswith("foolbox"):
            pytest.importorskip("foolbox")
        found[attack] = make_attack(attack, {}).perturb(target_at(PLAIN_MIXED, threat, goal), PLAIN_BATCH)[
            name
        ]
    for moved in found.values():
        torch.testing.assert_close(moved, found["fgsm"], atol=1e-6, rtol=0)
    assert (found["fgsm"] - PLAIN_BATCH.inputs[name]).abs().max() > 0.049
