"""Adapters of attack libraries: what each keeps to, refuses, and whether it is the library itself."""

from __future__ import annotations

import importlib.util
import logging
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchattacks
from tiny import (
    ConvNet,
    Linear,
    RandomNet,
    batch_of,
    goal_of,
    labelled_by,
    plan_of,
    random_split,
    seeded,
    split_of,
    target_of,
    threat_of,
)
from torch import Tensor, nn

from robustbench_med.api.attack import Attack, Batch
from robustbench_med.api.model import FusionModel
from robustbench_med.api.threat import Norm, ThreatModel
from robustbench_med.attacks._image import Capability, OneImage
from robustbench_med.attacks.art import ARTAdapter
from robustbench_med.attacks.foolbox import FoolboxAdapter
from robustbench_med.attacks.pyautoattack import PyAutoAttackAdapter
from robustbench_med.attacks.torchattacks import TorchattacksAdapter
from robustbench_med.evaluation.batches import evaluate
from robustbench_med.util.errors import UserError
from robustbench_med.util.seeding import derive

# Sizes that the libraries' Square attacks can handle, for the modality that is attacked.
SHAPES = {"a": (1, 6, 11), "b": (2, 15, 15)}
CLASSES = {"first": 2, "second": 4}
CHANNELS = {name: shape[0] for name, shape in SHAPES.items()}
EPSILONS: dict[Norm, float] = {"linf": 0.05, "l2": 0.6}
SAMPLES = 5

ADAPTERS: dict[str, Callable[..., Attack]] = {
    "torchattacks": TorchattacksAdapter,
    "art": ARTAdapter,
    "pyautoattack": PyAutoAttackAdapter,
    "foolbox": FoolboxAdapter,
}


@dataclass(frozen=True)
class Shelf:
    """A variant of a library and what it is capable of.

    Attributes:
        random: depends on the seed of a deterministic model.
        weak: need not break a sample within the few steps of a test.
    """

    library: str
    variant: str
    norms: tuple[Norm, ...] = ("linf", "l2")
    options: Mapping[str, Any] = field(default_factory=dict)
    knowledge: str = "white box"
    random: bool = False
    weak: bool = False

    def attack(self) -> Attack:
        for package in (
            self.library,
            *(["multiprocess"] if (self.library, self.variant) == ("art", "AutoAttack") else []),
        ):
            if importlib.util.find_spec(package) is None:
                pytest.skip(f"{package} is not installed")
        return ADAPTERS[self.library](variant=self.variant, **self.options)


LINF: tuple[Norm, ...] = ("linf",)
L2: tuple[Norm, ...] = ("l2",)
FEW = {"steps": 6}
SHELF = [
    Shelf("torchattacks", "FGSM", LINF),
    Shelf("torchattacks", "PGD", LINF, FEW, random=True),
    Shelf("torchattacks", "PGDL2", L2, FEW, random=True),
    Shelf("torchattacks", "VMIFGSM", LINF, {"steps": 3}, random=True),
    Shelf("torchattacks", "PGDRS", LINF, {"steps": 2}, random=True, weak=True),
    Shelf("torchattacks", "APGD", options=FEW, random=True),
    Shelf("torchattacks", "APGDT", options=FEW, random=True),
    Shelf("torchattacks", "FAB", options=FEW),
    Shelf("torchattacks", "Square", LINF, {"options": {"n_queries": 60}}, "scores", random=True),
    Shelf("torchattacks", "Square", L2, {"options": {"n_queries": 30}}, "scores", random=True, weak=True),
    Shelf("torchattacks", "CW", L2, {"steps": 30}),
    Shelf("torchattacks", "DeepFool", L2, {"steps": 10}),
    Shelf("torchattacks", "AutoAttack", options={"steps": 4, "options": {"n_queries": 10}}, random=True),
    Shelf("art", "FGM"),
    Shelf("art", "PGD", options={"steps": 6, "random_start": True}, random=True),
    Shelf(
        "art",
        "CarliniL2Method",
        L2,
        {"steps": 5, "options": {"initial_const": 1.0, "binary_search_steps": 2}},
    ),
    Shelf("art", "AutoAttack", options={"steps": 4, "queries": 10}, random=True),
    Shelf(
        "art",
        "HopSkipJump",
        options={"steps": 2, "options": {"init_eval": 10, "max_eval": 20}},
        knowledge="decisions",
        random=True,
        weak=True,
    ),
    Shelf("art", "Square", LINF, {"steps": 60}, "scores", random=True),
    Shelf("pyautoattack", "standard", options={"steps": 4, "queries": 10}, random=True),
    Shelf("pyautoattack", "rand", LINF, {"steps": 2}, random=True),
    Shelf("pyautoattack", "apgd-ce", options=FEW, random=True),
    Shelf("pyautoattack", "apgd-t", options=FEW, random=True),
    Shelf("pyautoattack", "fab-t", options=FEW),
    Shelf("pyautoattack", "square", LINF, {"queries": 60}, "scores", random=True),
    Shelf("foolbox", "LinfPGD", LINF, FEW, random=True),
    Shelf("foolbox", "L2PGD", L2, FEW, random=True),
    Shelf("foolbox", "LinfFastGradientAttack", LINF),
    Shelf("foolbox", "L2DeepFoolAttack", L2, {"steps": 10}),
    Shelf("foolbox", "L2RepeatedAdditiveGaussianNoiseAttack", L2, {}, "decisions", True, weak=True),
]
CASES = [
    pytest.param(shelf, norm, id=f"{shelf.library}-{shelf.variant}-{norm}")
    for shelf in SHELF
    for norm in shelf.norms
]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The official AutoAttack logs warnings about models this small."""
    logging.getLogger("auto-attack").addHandler(logging.NullHandler())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.getLogger("auto-attack"), "propagate", False)
        yield


def right_samples(
    net: FusionModel, samples: int = SAMPLES, shapes: Mapping[str, tuple[int, ...]] = SHAPES
) -> Batch:
    rng = np.random.default_rng(0)
    shapes = {name: shapes[name] for name in net.takes}
    images = {n: rng.uniform(0.2, 0.8, (samples, *s)).astype(np.float32) for n, s in shapes.items()}
    labels = {task: rng.integers(0, k, samples) for task, k in CLASSES.items()}
    return batch_of(labelled_by(net, split_of(images, labels, CLASSES)))


@pytest.fixture(scope="module")
def net() -> FusionModel:
    return seeded(ConvNet, CHANNELS, CLASSES)


@pytest.fixture(scope="module")
def batch(net: FusionModel) -> Batch:
    return right_samples(net)


def global_states() -> tuple[Any, ...]:
    return (
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),  # type: ignore[index]
        random.getstate(),
    )


@pytest.mark.parametrize(("shelf", "norm"), CASES)
def test_what_all_keep_to(net: FusionModel, batch: Batch, shelf: Shelf, norm: Norm) -> None:
    """One modality attacked, the other its context: ball, box, seed, passes; nothing else touched."""
    attack, threat = shelf.attack(), threat_of(norm, b=EPSILONS[norm])
    target, seen = target_of(net, threat), []
    trunk = net.get_submodule("trunks.a").train()
    weight = next(net.parameters())
    weight.grad = torch.ones_like(weight)
    handle = net.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0]["b"])))
    states, trace = global_states(), sys.gettrace()
    found = attack.perturb(target, batch)
    handle.remove()
    assert (states, trace) == (global_states(), sys.gettrace())
    assert (trunk.training, net.training) == (True, False)
    assert torch.equal(weight.grad, torch.ones_like(weight))
    weight.grad = None
    threat.check(found, batch.inputs, shelf.variant)
    assert target.passes.forward == sum(seen)
    assert (target.passes.backward > 0) == (attack.knowledge == "white box")
    assert attack.knowledge == shelf.knowledge
    assert not found["b"].requires_grad
    with torch.no_grad():
        assert shelf.weak or goal_of(net).success(net(found), batch.labels).max() > 0
    again = attack.perturb(target, batch)
    assert torch.equal(found["b"], again["b"])
    if shelf.random or not shelf.weak:
        other = attack.perturb(replace(target, seed=7), batch)
        assert torch.equal(found["b"], other["b"]) != shelf.random


@pytest.mark.parametrize("shelf", [case.values[0] for case in CASES if case.values[1] == "linf"])
def test_the_box_at_its_edge_and_radius_zero(net: FusionModel, batch: Batch, shelf: Shelf) -> None:
    attack = shelf.attack()
    edge = replace(batch, inputs={name: x.round() for name, x in batch.inputs.items()})
    found = attack.perturb(target_of(net, threat_of(b=0.05), "second"), edge)
    threat_of(b=0.05).check(found, edge.inputs, shelf.variant)
    still = attack.perturb(target_of(net, threat_of(b=0.0)), batch)
    assert torch.equal(still["b"], batch.inputs["b"])


def test_an_index_channel_finds_the_context(net: FusionModel) -> None:
    """Whatever samples a library picks, and wherever it goes within the ball."""
    batch = right_samples(net, 9)
    target = target_of(net, threat_of(b=0.49))
    model = OneImage(target, batch, "index")
    image = model.join()
    assert image.shape == (9, 3, 15, 15)
    picked = torch.tensor([8, 3, 3, 0, 5])
    noise = 0.49 * torch.randn(5, 15, 15, generator=torch.Generator().manual_seed(0)).sign()
    moved = image[picked].clone()
    moved[:, -1] += noise
    expected = OneImage(target, batch.take(picked), "order")(batch.inputs["b"][picked])
    assert torch.equal(model(moved), expected)
    assert not torch.equal(model(moved[[1, 1, 1, 1, 1]]), expected)
    ones = torch.ones(1, 3, 15, 15)
    assert model(ones).shape == (1, 8)
    assert model.split(image).keys() == {"b"}
    assert torch.equal(model.split(image)["b"], batch.inputs["b"])


def test_when_the_context_is_found_how(net: FusionModel, batch: Batch) -> None:
    picky = Capability("x", sub_selects=True)
    for threat, matching in (
        (threat_of(b=0.1), "index"),
        (threat_of(b=0.5), "alone"),
        (threat_of("l2", b=0.1), "alone"),
        (threat_of(a=0.1, b=0.1), "order"),
    ):
        assert picky.matching(target_of(net, threat), batch) == matching
        assert Capability("x").matching(target_of(net, threat), batch) == "order"
    assert replace(picky, wanders=True).matching(target_of(net, threat_of(b=0.1)), batch) == "alone"


def test_index_channel_and_single_samples_agree(net: FusionModel, batch: Batch) -> None:
    """FAB draws nothing, so the sample's company must not matter."""
    attack = TorchattacksAdapter(variant="FAB", steps=4)
    whole = attack.perturb(target_of(net, threat_of(b=0.05)), batch)["b"]
    for i in range(SAMPLES):
        alone = attack.perturb(target_of(net, threat_of(b=0.05)), batch.take(torch.tensor([i])))["b"]
        torch.testing.assert_close(alone[0], whole[i], atol=1e-5, rtol=0)


def test_sub_batches_never_meet_the_wrong_context(net: FusionModel, batch: Batch) -> None:
    model = OneImage(target_of(net, threat_of(b=0.1)), batch, "order")
    with pytest.raises(UserError, match="no modality can be left out; use --attack pgd"):
        model(batch.inputs["b"][:2])


class Alone(nn.Module):
    """One modality in, one head out: what a user would write by hand."""

    def __init__(self, model: FusionModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.model({"b": image})["second"]
        return out


def torchattacks_by_hand(cls: Any, **options: Any) -> Callable[..., Tensor]:
    def run(model: nn.Module, x: Tensor, y: Tensor, seed: int) -> Tensor:
        own = {"seed": seed} if cls in (torchattacks.APGD, torchattacks.Square) else {}
        out: Tensor = cls(model, **options, **own)(x, y)
        return out

    return run


def autoattack_by_hand(model: nn.Module, x: Tensor, y: Tensor, seed: int) -> Tensor:
    common = {"eps": 0.05, "seed": seed}
    parts = [
        torchattacks.APGD(model, steps=5, **common),
        torchattacks.APGDT(model, steps=5, n_classes=4, **common),
        torchattacks.FAB(model, steps=5, n_classes=4, multi_targeted=True, **common),
        torchattacks.Square(model, n_queries=10, **common),
    ]
    out: Tensor = torchattacks.MultiAttack(parts)(x, y)
    return out


def art_by_hand(name: str, **options: Any) -> Callable[..., Tensor]:
    def run(model: nn.Module, x: Tensor, y: Tensor, seed: int) -> Tensor:
        import art.attacks.evasion
        from art.estimators.classification import PyTorchClassifier

        del seed
        loss = nn.CrossEntropyLoss()
        estimator = PyTorchClassifier(model, loss, SHAPES["b"], 4, clip_values=(0, 1), device_type="cpu")
        attack = getattr(art.attacks.evasion, name)(estimator, **options)
        return torch.from_numpy(attack.generate(x.numpy(), y.numpy()))

    return run


def pyautoattack_by_hand(model: nn.Module, x: Tensor, y: Tensor, seed: int) -> Tensor:
    package = pytest.importorskip("pyautoattack")
    attack = package.AutoAttack(model, attacks=["apgd-ce"], eps=0.05, seed=seed, version="custom")
    attack.apgd = type(attack.apgd)(
        attack.model,
        n_iter=6,
        n_restarts=1,
        eps=0.05,
        norm="Linf",
        eot_iter=1,
        rho=0.75,
        seed=seed,
        device="cpu",
    )
    out: Tensor = attack.run_standard_evaluation(x, y)[0]
    return out


def foolbox_by_hand(model: nn.Module, x: Tensor, y: Tensor, seed: int) -> Tensor:
    package = pytest.importorskip("foolbox")
    del seed
    attack = package.attacks.LinfPGD(abs_stepsize=0.02, steps=5)
    out: Tensor = attack(package.PyTorchModel(model.eval(), (0, 1), "cpu"), x, y, epsilons=0.05)[1]
    return out


BY_HAND = [
    Shelf("torchattacks", "FGSM"),
    Shelf("torchattacks", "APGD", options={"steps": 7}),
    Shelf("torchattacks", "Square", options={"options": {"n_queries": 30}}),
    Shelf("torchattacks", "AutoAttack", options={"steps": 5, "options": {"n_queries": 10}}),
    Shelf("art", "PGD", options={"steps": 5, "step_size": 0.02, "random_start": True}),
    Shelf("art", "Square", options={"steps": 30}),
    Shelf("pyautoattack", "apgd-ce", options={"steps": 6}),
    Shelf("foolbox", "LinfPGD", options={"steps": 5, "step_size": 0.02}),
]
HANDS = [
    torchattacks_by_hand(torchattacks.FGSM, eps=0.05),
    torchattacks_by_hand(torchattacks.APGD, eps=0.05, steps=7),
    torchattacks_by_hand(torchattacks.Square, eps=0.05, n_queries=30),
    autoattack_by_hand,
    art_by_hand(
        "ProjectedGradientDescent", eps=0.05, eps_step=0.02, max_iter=5, num_random_init=1, verbose=False
    ),
    art_by_hand("SquareAttack", eps=0.05, max_iter=30, verbose=False),
    pyautoattack_by_hand,
    foolbox_by_hand,
]


@pytest.mark.parametrize(
    ("shelf", "hand"),
    list(zip(BY_HAND, HANDS, strict=True)),
    ids=[f"{s.library}-{s.variant}" for s in BY_HAND],
)
def test_same_images_as_the_library_by_hand(shelf: Shelf, hand: Callable[..., Tensor]) -> None:
    net = seeded(ConvNet, {"b": 2}, CLASSES)
    batch = right_samples(net)
    found = shelf.attack().perturb(target_of(net, threat_of(b=0.05), "second"), batch)["b"]
    expected = by_hand(hand, Alone(net), batch, derive(0, shelf.library), shelf.attack().follows_samples)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert (found - batch.inputs["b"]).abs().max() > 0.02


def by_hand(
    hand: Callable[..., Tensor], model: nn.Module, batch: Batch, seed: int, follows_samples: bool
) -> Tensor:
    """The library from one seed for all, or a sample at a time, each from a seed of its own."""
    everyone = torch.arange(len(batch))
    parts = everyone[:, None].unbind() if follows_samples else [everyone]
    found = []
    for part in map(batch.take, parts):
        own = derive(seed, *part.ids)
        torch.manual_seed(own)
        np.random.seed(own % 2**32)
        random.seed(own)
        found.append(hand(model, part.inputs["b"], part.labels["second"], own))
    return torch.cat(found)


@pytest.mark.parametrize(("shelf", "norm"), CASES)
def test_who_follows_samples(net: FusionModel, batch: Batch, shelf: Shelf, norm: Norm) -> None:
    """What says that a sample's company does not matter to it keeps that promise."""
    attack, picked = shelf.attack(), torch.tensor([4, 1])
    if not attack.follows_samples:
        pytest.skip("this one does not")
    target = target_of(net, threat_of(norm, b=EPSILONS[norm]))
    together = attack.perturb(target, batch)["b"][picked]
    apart = attack.perturb(target, batch.take(picked))["b"]
    torch.testing.assert_close(apart, together, atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", ["PGD", "MIFGSM"])
def test_one_sample_that_a_library_fails_on_costs_itself_alone(
    net: FusionModel, batch: Batch, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are attacked as they would have been; who was given up is said."""
    target = target_of(net, threat_of(b=0.1))
    attack = TorchattacksAdapter(variant=variant, options={"steps": 3})
    usual = attack.perturb(target, batch)["b"]
    library, bad = getattr(torchattacks, variant), batch.inputs["b"][3]
    forward = library.forward

    def fails(self: Any, images: Tensor, labels: Tensor) -> Tensor:
        if any(torch.equal(image, bad) for image in images):
            raise ZeroDivisionError("a bad sample")
        out: Tensor = forward(self, images, labels)
        return out

    monkeypatch.setattr(library, "forward", fails)
    target = target_of(net, threat_of(b=0.1))
    found = attack.perturb(target, batch)["b"]
    assert target.gave_up == {batch.ids[3]: "ZeroDivisionError: a bad sample"}
    assert torch.equal(found[3], bad)
    others = torch.arange(len(batch)) != 3
    torch.testing.assert_close(found[others], usual[others], atol=1e-5, rtol=0)
    with pytest.raises(ZeroDivisionError):  # a bug in all of them keeps its traceback
        attack.perturb(target_of(net, threat_of(b=0.1)), batch.take(torch.tensor([3])))


def test_autoattack_of_torchattacks_runs_as_published(net: FusionModel, batch: Batch) -> None:
    """The library leaves its parts at 10 steps; here nothing succeeds, so all of them run."""
    one = batch.take(torch.tensor([0]))
    target = target_of(net, threat_of(b=1e-6), "second")
    TorchattacksAdapter(variant="AutoAttack", options={"n_queries": 3}).perturb(target, one)
    apgd, apgdt, fab = 101, 3 * 101, 3 * 100
    assert target.passes.backward == apgd + apgdt + fab


@pytest.mark.parametrize("variant", ["HopSkipJump", "CW"])
def test_wrong_samples_are_not_led_back(net: FusionModel, batch: Batch, variant: str) -> None:
    wrong = replace(batch, labels={**batch.labels, "first": 1 - batch.labels["first"]})
    options = {"init_eval": 10, "max_eval": 20} if variant == "HopSkipJump" else {}
    attack = ARTAdapter(variant=variant, steps=2, options=options)
    found = attack.perturb(target_of(net, threat_of("l2", b=3.0), "first"), wrong)
    assert (goal_of(net, "first").success(net(found), wrong.labels) == 1).all()


def test_layouts_of_memory_do_not_matter(batch: Batch) -> None:
    """Libraries flatten gradients with view(); a channels-last network would crash them."""
    tight = seeded(ConvNet, CHANNELS, CLASSES).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    laid = {n: x.contiguous(memory_format=torch.channels_last) for n, x in batch.inputs.items()}
    for shelf in SHELF:
        if shelf.variant not in ("apgd-t", "FAB", "FGM", "LinfPGD"):
            continue
        if importlib.util.find_spec(shelf.library) is None:
            continue
        found = shelf.attack().perturb(target_of(tight, threat_of(b=0.05)), replace(batch, inputs=laid))
        assert found["b"].is_contiguous(memory_format=torch.channels_last)
        threat_of(b=0.05).check(found, laid, shelf.variant)


REFUSALS: list[tuple[str, dict[str, Any], ThreatModel, str]] = [
    ("their own radii; use --attack", {"one size": True}, threat_of(a=0.1, b=0.2), "any"),
    ("different sizes together; use --attack", {}, threat_of(a=0.1, b=0.1), "any"),
    ("EOT draws; use --attack", {"eot": 2}, threat_of(b=0.1), "any"),
    ("all heads at once; use --attack", {}, threat_of(b=0.1), "all"),
    ("not l2; use --attack pgd", {"norm": "linf"}, threat_of("l2", b=0.1), "any"),
    ("not linf; use --attack pgd", {"norm": "l2"}, threat_of(b=0.1), "any"),
    ("crashes with 2 classes, it needs", {"classes": True}, threat_of(b=0.1), "first"),
    ("do not fit this image; use --attack (square|autoattack)", {"square": True}, threat_of(a=0.1), "any"),
    (
        "do not fit this image; use --attack (square|autoattack)$",
        {"square": True},
        threat_of("l2", a=0.1),
        "any",
    ),
    (
        "one L2 ball for all modalities together",
        {"norm": "l2", "one size": True},
        threat_of("l2", a=0.1, b=0.1),
        "any",
    ),
]
VARIANTS: dict[str, dict[str, str]] = {
    "torchattacks": {"": "PGD", "linf": "PGD", "l2": "PGDL2", "classes": "APGDT", "square": "AutoAttack"},
    "art": {"": "PGD", "linf": "SquareAttack", "l2": "CW", "classes": "AutoAttack", "square": "AutoAttack"},
    "pyautoattack": {"": "apgd-ce", "classes": "standard", "square": "square"},
    "foolbox": {"": "LinfPGD", "linf": "LinfPGD", "l2": "L2PGD"},
}


@pytest.mark.parametrize("library", ADAPTERS)
@pytest.mark.parametrize(("complaint", "need", "threat", "head"), REFUSALS, ids=[r[0] for r in REFUSALS])
def test_what_adapters_refuse(
    net: FusionModel,
    batch: Batch,
    library: str,
    complaint: str,
    need: dict[str, Any],
    threat: ThreatModel,
    head: str,
) -> None:
    kind = need["norm"] if "norm" in need else next((k for k in need if k not in ("eot", "one size")), "")
    if kind not in VARIANTS[library]:
        pytest.skip("this library can")
    attack = Shelf(library, VARIANTS[library][kind]).attack()
    if "one size" in need:
        batch = right_samples(net, shapes={"a": (1, 15, 15), "b": (2, 15, 15)})
    with pytest.raises(UserError, match=complaint) as error:
        attack.perturb(target_of(net, threat, head, eot=need.get("eot", 1)), batch)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{library}:")


@pytest.mark.parametrize("library", ADAPTERS)
def test_more_combinations_of_answers_than_a_library_can_handle(library: str) -> None:
    classes = {f"head{i}": 4 for i in range(7)}
    target = target_of(seeded(ConvNet, CHANNELS, classes), threat_of(b=0.1))
    labels = {head: torch.zeros(SAMPLES, dtype=torch.long) for head in classes}
    attack = Shelf(library, VARIANTS[library][""]).attack()
    batch = replace(right_samples(seeded(ConvNet, CHANNELS, CLASSES)), labels=labels)
    with pytest.raises(UserError, match=r"16384 combinations of answers as classes, over 4096 \(--head"):
        attack.perturb(target, batch)


AVERAGING = pytest.mark.parametrize(
    ("library", "variant"), [("torchattacks", "EOTPGD"), ("torchattacks", "UPGD")]
)


@AVERAGING
def test_every_pass_of_a_library_has_draws_of_its_own(library: str, variant: str, tmp_path: Path) -> None:
    """Also in the second batch, after the first was scored, and in a last one of another size."""
    net = seeded(RandomNet, CHANNELS, CLASSES, std=0.1)
    assert isinstance(net, RandomNet)
    split = random_split(2 * SAMPLES + 1, CLASSES, shapes=SHAPES)
    attack = Shelf(library, variant, options={"steps": 2}).attack()
    plan = plan_of(net, split, attack, threat_of(b=0.01), eot=3, batch_size=SAMPLES)
    evaluate(plan, tmp_path, lambda _: None)
    rows = [row.tobytes() for draw in net.jitter.crafting for row in draw.numpy()]
    assert len(rows) >= len(split) * 2 * 3 * len(CLASSES)
    assert len(set(rows)) == len(rows), "two passes saw one draw"


@AVERAGING
def test_adapters_that_average_over_draws(library: str, variant: str) -> None:
    """As many backward passes as draws behind every gradient; both decide nothing by a single draw."""
    attack = Shelf(library, variant, options={"steps": 2}).attack()
    batch = right_samples(seeded(ConvNet, CHANNELS, CLASSES))
    costs = []
    for eot in (1, 3):
        net = seeded(RandomNet, CHANNELS, CLASSES, std=0.01)
        target = target_of(net, threat_of(b=0.001), eot=eot)
        found = attack.perturb(target, batch)
        target.threat.check(found, batch.inputs, variant)
        costs.append(target.passes.backward / len(batch))
    assert costs[0] >= 2
    assert costs[1] == pytest.approx(3 * costs[0], rel=0.35)


@pytest.mark.parametrize("library", ADAPTERS)
def test_a_head_that_does_not_see_what_is_attacked_is_refused(library: str, batch: Batch) -> None:
    class Apart(ConvNet):
        def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return super().forward({**inputs, "b": inputs["b"].detach()})

    net = seeded(Apart, CHANNELS, CLASSES)
    attack = Shelf(library, VARIANTS[library][""]).attack()
    with pytest.raises(UserError, match="no gradient with respect to b"):
        attack.perturb(target_of(net, threat_of(b=0.1), "second"), batch)


OPTIONS: list[tuple[str, dict[str, Any], str]] = [
    ("torchattacks", {"variant": "Pgd"}, "unknown torchattacks class 'Pgd'; did you mean 'PGD'?"),
    ("torchattacks", {"variant": "OnePixel"}, "torchattacks:OnePixel takes no radius"),
    ("torchattacks", {"variant": "FGSM", "steps": 3}, "no option 'steps'"),
    ("torchattacks", {"variant": "FGSM", "step_size": 0.1}, "no option 'alpha'"),
    ("torchattacks", {"options": {"decay": 1.0}}, "no option 'decay'"),
    ("torchattacks", {"options": {"eps": 1.0}}, "no option 'eps'"),
    ("torchattacks", {"variant": "APGD", "options": {"seed": 1}}, "no option 'seed'"),
    ("torchattacks", {"steps": 0}, "must be 1 or more"),
    ("art", {"variant": "PDG"}, "unknown ART attack 'PDG'; did you mean 'PGD'?"),
    ("art", {"variant": "FGM", "steps": 3}, "art:FGM has no option 'steps'"),
    ("art", {"variant": "Square", "step_size": 0.1}, "art:Square has no option 'step_size'"),
    ("art", {"variant": "PGD", "queries": 5}, "art:PGD has no option 'queries'"),
    ("art", {"options": {"targeted": True}}, "has no option 'targeted'"),
    ("art", {"variant": "Square", "steps": 0}, "must be 1 or more"),
    ("pyautoattack", {"variant": "apgd-cw"}, "unknown pyautoattack version 'apgd-cw'"),
    ("pyautoattack", {"steps": 0}, "must be 1 or more"),
    ("foolbox", {"variant": "LinfPDG"}, "unknown foolbox attack 'LinfPDG'; did you mean"),
    ("foolbox", {"variant": "LinfFastGradientAttack", "steps": 3}, "no option 'steps'"),
    ("foolbox", {"options": {"rel_stepsize": 1.0}}, "no option 'rel_stepsize'"),
    ("foolbox", {"variant": "L1PGD"}, "foolbox:L1PGD knows neither the Linf nor the L2 ball"),
    ("foolbox", {"variant": "InversionAttack"}, "knows neither the Linf nor the L2 ball"),
]


@pytest.mark.parametrize(("library", "options", "complaint"), OPTIONS, ids=[o[2] for o in OPTIONS])
def test_options(library: str, options: dict[str, Any], complaint: str) -> None:
    if library in ("foolbox", "pyautoattack"):
        pytest.importorskip(library)
    with pytest.raises(UserError) as error:
        ADAPTERS[library](**options)
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def test_variants_by_name() -> None:
    assert TorchattacksAdapter.variant_of("PGD") == {"variant": "PGD"}
    assert ARTAdapter.variant_of("CW") == {"variant": "CW"}
    assert PyAutoAttackAdapter.variant_of("rand") == {"variant": "rand"}


@pytest.mark.parametrize("head", ["any", "second"])
def test_passes_of_a_plain_attack(net: FusionModel, batch: Batch, head: str) -> None:
    target = target_of(net, threat_of(b=0.1), head)
    TorchattacksAdapter(variant="PGD", steps=4).perturb(target, batch)
    assert (target.passes.forward, target.passes.backward) == (4 * SAMPLES, 4 * SAMPLES)


def test_torchvision_is_never_imported() -> None:
    """Beside a CPU build of torch its import fails."""
    assert "torchvision" not in sys.modules


@pytest.mark.parametrize("library", ADAPTERS)
def test_a_joint_ball_is_the_ball_that_libraries_know(library: str) -> None:
    """Two modalities of a linear model: PGD of every library gets the joint margin in closed form."""
    shapes = {"a": (1, 8, 8), "b": (2, 8, 8)}
    model = seeded(Linear, shapes, {"first": 2})
    images = {n: np.full((6, *s), 0.5, np.float32) for n, s in shapes.items()}
    images["a"] += np.linspace(-0.05, 0.05, 6, dtype=np.float32)[:, None, None, None]
    batch = batch_of(labelled_by(model, split_of(images, {"first": np.arange(6) % 2}, {"first": 2})))
    weight = model.get_submodule("heads.first").get_parameter("weight")
    sign = (2 * batch.labels["first"] - 1).float()
    logits = model(batch.inputs)["first"]
    worst = sign * (logits[:, 1] - logits[:, 0]) - 0.02 * (weight[1] - weight[0]).norm()
    target = target_of(model, threat_of("joint", a=0.02, b=0.02))
    variant = {"torchattacks": "PGDL2", "foolbox": "L2PGD", "pyautoattack": "apgd-ce"}.get(library, "PGD")
    found = Shelf(library, variant).attack().perturb(target, batch)
    target.threat.check(found, batch.inputs, library)
    reached = model(found)["first"]
    standing = reached.argmax(1) == batch.labels["first"]
    assert torch.equal(standing[worst.abs() > 1e-3], (worst > 0)[worst.abs() > 1e-3])
