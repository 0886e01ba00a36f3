"""Attacks: one table for what all must keep to, closed forms, and torchattacks as a second opinion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
import torchattacks
from tiny import (
    ATTACKS,
    CHANNELS,
    CLASSES,
    SHAPES,
    ConvNet,
    Linear,
    RandomNet,
    asks,
    batch_of,
    goal_of,
    joint_loss,
    labelled_by,
    linear_case,
    random_split,
    seeded,
    target_of,
    threat_of,
)
from torch import Tensor, nn

from robustbench_med.api.attack import Attack, Batch, Evaluation, Target
from robustbench_med.api.best import Best
from robustbench_med.api.losses import LEAK, LOSSES, cross_entropy, margin
from robustbench_med.api.model import FusionModel
from robustbench_med.api.objective import Goal
from robustbench_med.api.threat import ROUNDING, Norm, ThreatModel
from robustbench_med.util.errors import UserError

PGD, FGSM, ADAPTER = (ATTACKS.get(name) for name in ("pgd", "fgsm", "torchattacks"))


@dataclass(frozen=True)
class Shelf:
    """An attack and what it is capable of.

    Attributes:
        own_radii: takes modalities of different sizes, each with its own radius.
        gradient: needs the model's gradient.
        random_start: depends on the seed of a deterministic model.
        one_head: raises the head that falls first, which may lower the others' losses.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    norms: tuple[Norm, ...] = ("linf", "l2")
    own_radii: bool = True
    gradient: bool = True
    random_start: bool = False
    one_head: bool = False

    def attack(self) -> Attack:
        return ATTACKS.get(self.name)(**self.options)


SHELF = [
    Shelf("fgsm"),
    Shelf("fgsm", {"loss": "margin"}),
    Shelf("pgd", {"steps": 6}, random_start=True),
    Shelf("pgd", {"steps": 6, "restarts": 3, "loss": "margin"}, random_start=True),
    Shelf("pgd", {"steps": 6, "random_start": False, "keep": "last"}),
    Shelf("apgd", {"steps": 8}, random_start=True),
    Shelf("apgd", {"steps": 8, "loss": "targeted-dlr", "targets": 2}, random_start=True),
    Shelf("fab", {"steps": 10}),
    Shelf("mi-fgsm", {"steps": 6}),
    Shelf("square", {"queries": 200}, ("linf",), gradient=False, random_start=True, one_head=True),
    Shelf("transfer", {"steps": 6, "surrogate": "itself"}, random_start=True),
    Shelf("torchattacks", {"variant": "FGSM"}, norms=("linf",), own_radii=False),
    Shelf("torchattacks", {"variant": "PGD", "steps": 6}, ("linf",), own_radii=False, random_start=True),
    Shelf("torchattacks", {"variant": "PGDL2", "steps": 6}, ("l2",), own_radii=False, random_start=True),
    Shelf("torchattacks", {"variant": "MIFGSM", "steps": 6}, norms=("linf",), own_radii=False),
]
CASES = [
    pytest.param(shelf, norm, id=f"{shelf.name}-{'-'.join(map(str, shelf.options.values()))}-{norm}")
    for shelf in SHELF
    for norm in shelf.norms
]


def threats(shelf: Shelf, norm: Norm) -> list[ThreatModel]:
    small, large = (0.03, 0.06) if norm == "linf" else (0.2, 0.5)
    single = [threat_of(norm, a=small), threat_of(norm, b=large), threat_of(norm, b=0.0)]
    return [*single, threat_of(norm, a=small, b=large)] if shelf.own_radii else single


@pytest.mark.parametrize(("shelf", "norm"), CASES)
def test_ball_box_and_untouched_modality(net: FusionModel, batch: Batch, shelf: Shelf, norm: Norm) -> None:
    for threat in threats(shelf, norm):
        target = target_of(net, threat)
        before = {name: x.clone() for name, x in batch.inputs.items()}
        found = shelf.attack().perturb(target, batch)
        threat.check(found, batch.inputs, shelf.name)
        for name, x in batch.inputs.items():
            assert torch.equal(x, before[name]), "the attack wrote into its input"
            moved = (found[name] - x).flatten(1)
            length = moved.abs().amax(1) if norm == "linf" else moved.norm(dim=1)
            epsilon = threat.budgets[name].epsilon if name in threat.budgets else 0.0
            assert (length <= epsilon + 1e-5).all()
            assert epsilon == 0 or length.max() > 0.5 * epsilon, "the attack did not use its ball"
            assert not found[name].requires_grad
        if target.passes.forward:
            assert (target.passes.backward > 0) == shelf.gradient


@pytest.mark.parametrize(("shelf", "norm"), CASES)
def test_the_box_holds_at_its_edge(net: FusionModel, batch: Batch, shelf: Shelf, norm: Norm) -> None:
    edge = replace(batch, inputs={name: x.round() for name, x in batch.inputs.items()})
    threat = threats(shelf, norm)[0]
    found = shelf.attack().perturb(target_of(net, threat), edge)
    threat.check(found, edge.inputs, shelf.name)
    assert 0 <= found["a"].min() <= found["a"].max() <= 1


@pytest.mark.parametrize(("shelf", "norm"), CASES)
def test_an_attack_beats_no_attack(net: FusionModel, batch: Batch, shelf: Shelf, norm: Norm) -> None:
    threat = threats(shelf, norm)[1]
    found = shelf.attack().perturb(target_of(net, threat), batch)
    gained = joint_loss(net, found, batch.labels) - joint_loss(net, batch.inputs, batch.labels)
    assert shelf.one_head or (gained >= -1e-4).all()
    assert gained.mean() > 0.01


@pytest.mark.parametrize(("shelf", "norm"), CASES)
def test_what_the_seed_decides(net: FusionModel, batch: Batch, shelf: Shelf, norm: Norm) -> None:
    target = target_of(net, threats(shelf, norm)[1])
    torch.manual_seed(1)
    first = shelf.attack().perturb(target, batch)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = shelf.attack().perturb(target, batch)
    assert torch.equal(first["b"], again["b"])
    assert torch.equal(state, torch.get_rng_state()), "the attack drew from torch's global generator"
    other = shelf.attack().perturb(replace(target, seed=7), batch)
    assert torch.equal(first["b"], other["b"]) != shelf.random_start


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_is_at_least_as_strong_as_fgsm(net: FusionModel, batch: Batch, norm: Norm) -> None:
    """From the same start, with one step of FGSM's length among its iterates, for every sample."""
    threat = threats(SHELF[0], norm)[-1]
    epsilon = max(budget.epsilon for budget in threat.budgets.values())
    strong = PGD(steps=10, step_size=epsilon, random_start=False)
    losses = [
        joint_loss(net, attack.perturb(target_of(net, threat), batch), batch.labels)
        for attack in (FGSM(), strong)
    ]
    success = [
        goal_of(net).success(net(attack.perturb(target_of(net, threat), batch)), batch.labels)
        for attack in (FGSM(), strong)
    ]
    assert ((success[1] > success[0]) | (losses[1] >= losses[0] - 1e-5)).all()
    assert (success[1] >= success[0]).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("norm", ["linf", "l2", "joint"])
@pytest.mark.parametrize("attack", [FGSM(), PGD(steps=60), PGD(steps=60, keep="last", random_start=False)])
def test_exact_robust_accuracy_of_a_linear_model(norm: Any, attack: Attack, loss: str) -> None:
    model, batch, worst, epsilons = linear_case(norm)
    # The median sample itself lies on the edge, where rounding decides.
    sure = worst.abs() > 1e-4
    assert 0.4 < (worst[sure] > 0).float().mean() < 0.6
    found = replace(attack, loss=loss).perturb(target_of(model, threat_of(norm, **epsilons)), batch)  # type: ignore[type-var]
    logits = model(found)["first"]
    reached = logits.gather(1, batch.labels["first"][:, None])[:, 0] * 2 - logits.sum(1)
    assert torch.equal(reached[sure] > 0, worst[sure] > 0)
    # An attack that keeps the best iterate may stop once a sample is broken.
    torch.testing.assert_close(reached[worst > 0], worst[worst > 0], atol=2e-5, rtol=0)


class FirstHead(nn.Module):
    """One modality in, one head out: what torchattacks works on."""

    def __init__(self, model: FusionModel, context: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.model, self.context = model, dict(context)

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.model({**self.context, "b": image})["second"]
        return out


REFERENCES = [
    (FGSM(), torchattacks.FGSM, {"eps": 0.05}),
    (
        PGD(steps=7, step_size=0.02, random_start=False, keep="last"),
        torchattacks.PGD,
        {"eps": 0.05, "alpha": 0.02, "steps": 7, "random_start": False},
    ),
    (ADAPTER(variant="FGSM"), torchattacks.FGSM, {"eps": 0.05}),
    (
        ADAPTER(variant="PGD", steps=7, step_size=0.02, random_start=False),
        torchattacks.PGD,
        {"eps": 0.05, "alpha": 0.02, "steps": 7, "random_start": False},
    ),
]


@pytest.mark.parametrize(
    ("ours", "theirs", "options"), REFERENCES, ids=["fgsm", "pgd", "adapter-fgsm", "adapter-pgd"]
)
def test_same_images_as_torchattacks(
    net: FusionModel, batch: Batch, ours: Attack, theirs: Any, options: dict[str, Any]
) -> None:
    found = ours.perturb(target_of(net, threat_of(b=0.05), head="second"), batch)["b"]
    expected = theirs(FirstHead(net, batch.inputs), **options)(batch.inputs["b"], batch.labels["second"])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert (found - batch.inputs["b"]).abs().max() > 0.04


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("steps", [1, 7])
def test_same_images_as_foolbox(net: FusionModel, batch: Batch, norm: Norm, steps: int) -> None:
    """FGSM (one step of length epsilon) and PGD, in both norms."""
    foolbox = pytest.importorskip("foolbox")
    kind = {"linf": foolbox.attacks.LinfProjectedGradientDescentAttack}.get(
        norm, foolbox.attacks.L2ProjectedGradientDescentAttack
    )
    radius = 0.05 if norm == "linf" else 0.3
    size = radius if steps == 1 else radius / 3
    theirs = kind(abs_stepsize=size, steps=steps, random_start=False)
    image, labels = batch.inputs["b"], batch.labels["second"]
    wrapped = foolbox.PyTorchModel(FirstHead(net, batch.inputs).eval(), (0, 1), device="cpu")
    expected, _, _ = theirs(wrapped, image, foolbox.criteria.Misclassification(labels), epsilons=radius)
    ours = FGSM() if steps == 1 else PGD(steps=steps, step_size=size, random_start=False, keep="last")
    found = ours.perturb(target_of(net, threat_of(norm, b=radius), head="second"), batch)["b"]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert (found - image).flatten(1).norm(dim=1).min() > 0.1


def test_heads_as_goals() -> None:
    logits = {
        "first": torch.tensor([[1.0, 0], [0, 1.0], [1.0, 0], [0, 1.0]]),
        "second": torch.tensor([[0, 3.0, 0], [0, 3.0, 0], [3.0, 0, 0], [3.0, 0, 1.0]]),
    }
    labels = {"first": torch.zeros(4, dtype=torch.long), "second": torch.ones(4, dtype=torch.long)}
    heads = asks({"first": 2, "second": 3})
    one_of, both = Goal(heads), Goal(heads, "all")
    wrong = {"first": [0, 1, 0, 1], "second": [0, 0, 1, 1]}
    for head in wrong:
        assert Goal(heads, head).success(logits, labels).tolist() == wrong[head]
    assert both.success(logits, labels).tolist() == [0, 0, 0, 1]
    assert one_of.success(logits, labels).tolist() == [0, 0.75, 0.75, 1]
    each = {loss: {t: loss(logits[t], labels[t]) for t in logits} for loss in (cross_entropy, margin)}
    for loss, per_head in each.items():
        assert torch.equal(Goal(heads, "second").loss(loss, logits, labels), per_head["second"])
    assert torch.equal(one_of.loss(cross_entropy, logits, labels), torch.add(*each[cross_entropy].values()))
    assert torch.equal(one_of.loss(margin, logits, labels), torch.maximum(*each[margin].values()))
    assert torch.equal(one_of.margin(logits, labels), torch.maximum(*each[margin].values()))
    assert torch.equal(both.margin(logits, labels), torch.minimum(*each[margin].values()))
    # All heads: every head that stands counts in full, a broken one hardly.
    parts = [torch.where(m < 0, m, LEAK * m) for m in each[margin].values()]
    torch.testing.assert_close(both.loss(margin, logits, labels), torch.add(*parts))
    chance = [torch.log1p(-torch.exp(-per_head)) for per_head in each[cross_entropy].values()]
    torch.testing.assert_close(both.loss(cross_entropy, logits, labels), torch.add(*chance))


def test_all_heads_loss_keeps_its_gradient_on_confident_heads() -> None:
    logits = {t: torch.tensor([[90.0, 0.0]], requires_grad=True) for t in ("first", "second")}
    labels = {t: torch.tensor([0]) for t in logits}
    Goal(asks(dict.fromkeys(logits, 2)), "all").loss(cross_entropy, logits, labels).sum().backward()  # type: ignore[no-untyped-call]
    for z in logits.values():
        assert z.grad is not None
        assert z.grad.tolist() == [[-1.0, 1.0]]


def test_margin_by_hand() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.5], [3.0, 1.0, 2.5], [1.0, 1.0, 1.0]])
    assert margin(logits, torch.tensor([0, 1, 2])).tolist() == [-0.5, 2.0, 0.0]


@pytest.mark.parametrize("head", ["any", "all", "first", "second"])
def test_the_goal_decides_which_heads_fall(net: FusionModel, batch: Batch, head: str) -> None:
    """Each goal is reached at least as often by the attack that aims at it as by any other."""
    threat, attack = threat_of(a=0.04, b=0.04), PGD(steps=10, random_start=False)
    reached = {}
    for aim in ("any", "all", "first", "second"):
        found = attack.perturb(target_of(net, threat, aim), batch)
        reached[aim] = (goal_of(net, head).success(net(found), batch.labels) > 0).float().mean().item()
    assert reached[head] >= max(reached.values()) - 1e-6
    assert reached[head] > 0 or head == "all"


def test_a_named_head_need_not_see_every_modality(batch: Batch) -> None:
    model = seeded(Linear, SHAPES, CLASSES)
    with torch.no_grad():
        model.get_submodule("heads.first").get_parameter("weight")[:, 48:] = 0
    found = FGSM().perturb(target_of(model, threat_of(a=0.1, b=0.1), "first"), batch)
    assert torch.equal(found["b"], batch.inputs["b"])
    assert not torch.equal(found["a"], batch.inputs["a"])


class Sighted(ConvNet):
    """Sees the first modality only; ``blind`` cuts its gradient."""

    blind = False

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        seen = inputs["a"].detach() if self.blind else inputs["a"]
        return super().forward({"a": seen, "b": torch.zeros_like(inputs["b"])})


def test_gradients_that_are_not_there(batch: Batch) -> None:
    model = seeded(Sighted, CHANNELS, CLASSES)
    found = FGSM().perturb(target_of(model, threat_of(a=0.1, b=0.1)), batch)
    assert torch.equal(found["b"], batch.inputs["b"])
    assert not torch.equal(found["a"], batch.inputs["a"])
    with pytest.raises(UserError, match="no gradient with respect to b"):
        FGSM().perturb(target_of(model, threat_of(b=0.1)), batch)
    model.blind = True  # type: ignore[assignment]
    with pytest.raises(UserError, match="no gradient with respect to a, b"):
        FGSM().perturb(target_of(model, threat_of(a=0.1, b=0.1)), batch)


def test_restarts_add_strength(batch: Batch) -> None:
    """The first restart of several is the only one of one, so more can only be stronger."""
    net = seeded(ConvNet, CHANNELS, CLASSES)
    threat, losses = threat_of(a=0.01, b=0.01), {}
    for restarts in (1, 2, 5):
        attack = PGD(steps=1, restarts=restarts)
        losses[restarts] = joint_loss(net, attack.perturb(target_of(net, threat), batch), batch.labels)
    standing = goal_of(net).success(net(batch.inputs), batch.labels) == 0
    assert (losses[2] >= losses[1] - 1e-5)[standing].all()
    assert (losses[5] >= losses[2] - 1e-5)[standing].all()
    assert losses[5].sum() > losses[1].sum() + 1e-4


def hand_made_gradient(model: RandomNet, batch: Batch) -> Tensor:
    """The mean over the draws that the model has made since the last time, two heads each."""
    plain, gradients = seeded(ConvNet, CHANNELS, CLASSES), []
    for draws in zip(model.jitter.crafting[::2], model.jitter.crafting[1::2], strict=True):
        x = batch.inputs["a"].clone().requires_grad_()
        logits = plain({**batch.inputs, "a": x})
        moved = {head: z * (1 + draw) for (head, z), draw in zip(logits.items(), draws, strict=True)}
        loss = goal_of(model).loss(cross_entropy, moved, batch.labels)
        gradients.append(torch.autograd.grad(loss.sum(), x)[0])
    model.jitter.crafting.clear()
    return torch.stack(gradients).mean(0)


@pytest.mark.parametrize("draws", [1, 2, 7])
def test_eot_is_the_mean_over_draws(batch: Batch, draws: int) -> None:
    """Of one question always the same; of the next question others."""
    model = seeded(RandomNet, CHANNELS, CLASSES)
    assert isinstance(model, RandomNet)
    target, step = target_of(model, threat_of(a=0.1), eot=draws), [3] * len(batch)
    seen = target.evaluate(batch, batch.inputs, cross_entropy, steps=step)
    torch.testing.assert_close(seen.gradients["a"], hand_made_gradient(model, batch))
    assert seen.gradients.keys() == {"a"}
    assert (target.passes.forward, target.passes.backward) == (10 * draws, 10 * draws)
    unseen = target.evaluate(batch, batch.inputs, cross_entropy, gradient=False, steps=step)
    torch.testing.assert_close(unseen.loss, seen.loss)
    assert torch.equal(unseen.success, seen.success)
    assert not unseen.gradients
    assert target.passes.backward == 10 * draws
    first, second = (target.evaluate(batch, batch.inputs, cross_entropy).loss for _ in range(2))
    assert (first != second).all()
    assert (first != seen.loss).all()


def test_the_adapter_aims_at_the_joint_label(net: FusionModel, batch: Batch) -> None:
    """torchattacks sees the product of the heads; its cross-entropy is the sum of theirs."""
    ours = PGD(steps=4, random_start=False, keep="last").perturb(target_of(net, threat_of(b=0.05)), batch)
    adapter = ADAPTER(variant="PGD", steps=4, random_start=False)
    theirs = adapter.perturb(target_of(net, threat_of(b=0.05)), batch)
    torch.testing.assert_close(ours["b"], theirs["b"], atol=1e-6, rtol=0)


def test_a_start_belongs_to_its_sample(batch: Batch) -> None:
    for norm in ("linf", "l2"):
        threat = threat_of(norm, a=0.1, b=0.3)
        whole = threat.random_start(batch.inputs, batch.ids, 0)
        picked = batch.take(torch.tensor([7, 2]))
        alone = threat.random_start(picked.inputs, picked.ids, 0)
        for name in SHAPES:
            assert torch.equal(alone[name], whole[name][[7, 2]])
        threat.check(whole, batch.inputs, "start")
        assert not torch.equal(whole["a"], threat.random_start(batch.inputs, batch.ids, 0, restart=1)["a"])
        assert not torch.equal(whole["a"], threat.random_start(batch.inputs, batch.ids, 1)["a"])


def test_starts_fill_the_ball() -> None:
    clean = {"a": torch.full((400, 1, 1, 2), 0.5)}
    ids = [str(i) for i in range(400)]
    flat = threat_of(a=0.1).random_start(clean, ids, 0)["a"].flatten(1) - 0.5
    assert flat.abs().max() > 0.099
    assert flat.mean(0).abs().max() < 0.01
    radius = (threat_of("l2", a=0.1).random_start(clean, ids, 0)["a"] - 0.5).flatten(1).norm(dim=1)
    # Uniform in a disc: the radius squared is uniform.
    assert radius.max() <= 0.1 + ROUNDING
    assert (radius / 0.1).pow(2).mean() == pytest.approx(0.5, abs=0.05)


class Counter(ConvNet):
    """Records the size of every batch it is given."""

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self.__dict__.setdefault("sizes", []).append(len(inputs["a"]))
        return super().forward(inputs)


def test_broken_samples_are_left_alone(batch: Batch) -> None:
    model = seeded(Counter, CHANNELS, CLASSES)
    target = target_of(model, threat_of(a=0.04, b=0.04), "second")
    found = PGD(steps=12, restarts=2).perturb(target, batch)
    sizes = model.__dict__["sizes"]
    broken = int(goal_of(model, "second").success(model(found), batch.labels).sum())
    assert broken > 0
    assert sizes[0] == 10
    assert sizes[: 12 + 1] == sorted(sizes[: 12 + 1], reverse=True)
    assert sizes[-2] <= 10 - broken if len(sizes) > 26 else sum(sizes) < 26 * 10
    assert target.passes.forward == sum(sizes[:-1])


def test_random_models_are_attacked_to_the_end(batch: Batch) -> None:
    """Success in some draws is no success."""
    model = seeded(RandomNet, CHANNELS, CLASSES)
    target: Target = target_of(model, threat_of(a=0.5, b=0.5), eot=2)
    PGD(steps=3, restarts=2).perturb(target, batch)
    assert target.passes.forward == 10 * 2 * 2 * 4
    assert target.passes.backward == 10 * 2 * 2 * 3


@pytest.mark.parametrize("epsilon", [0.5, 2.0, 20.0])
def test_long_l2_perturbations_pass_the_check(epsilon: float) -> None:
    """Lengths of large images are computed in float32, whose error grows with them."""
    clean = {"a": 0.4 + 0.2 * torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))}
    noise = torch.randn(clean["a"].shape, generator=torch.Generator().manual_seed(1))
    threat = threat_of("l2", a=epsilon)
    threat.check(threat.project({"a": clean["a"] + noise / 5}, clean), clean, "test")


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_check_catches_what_is_outside(norm: Norm) -> None:
    clean = {"a": torch.full((2, 1, 4, 4), 0.5)}
    outside = clean["a"].clone()
    outside[1, 0, 0, 0] += 0.1 + 1e-4
    with pytest.raises(RuntimeError, match="left the ball"):
        threat_of(norm, a=0.1).check({"a": outside}, clean, "test")
    outside[1, 0, 0, 0] = torch.nan
    with pytest.raises(RuntimeError, match="NaN"):
        threat_of(norm, a=0.1).check({"a": outside}, clean, "test")
    edge = {"a": torch.ones(1, 1, 2, 2)}
    with pytest.raises(RuntimeError, match="box"):
        threat_of(norm, a=0.1).check({"a": edge["a"] + 1e-3}, edge, "test")


def test_the_best_of_a_random_model_has_the_highest_mean_loss(batch: Batch) -> None:
    """Success in some of the draws is luck; a deterministic model has none, so there it counts."""
    one = batch.take(torch.tensor([0]))
    weak = Evaluation(torch.tensor([1.0]), torch.tensor([1.0]), torch.tensor([0.9]), {})
    strong = Evaluation(torch.tensor([2.0]), torch.tensor([2.0]), torch.tensor([0.0]), {})
    for model_class, winner in ((RandomNet, strong), (ConvNet, weak)):
        target = target_of(seeded(model_class, CHANNELS, CLASSES), threat_of(a=0.1))
        for order in ((weak, strong), (strong, weak)):
            best = Best(one, target)
            for seen in order:
                best.update(torch.tensor([0]), {"a": one.inputs["a"] + seen.loss}, seen)
            assert best.loss == winner.loss
            assert torch.equal(best.inputs["a"], one.inputs["a"] + winner.loss)


class Normalised(ConvNet):
    """Divides by the image's length: the gradient of a black image is NaN."""

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        length = inputs["b"].flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return super().forward({**inputs, "b": inputs["b"] / length.clamp_min(1e-3)})


@pytest.mark.parametrize("norm", ["linf", "l2", "joint"])
@pytest.mark.parametrize("name", ["fgsm", "pgd", "mi-fgsm", "apgd", "fab"])
def test_entries_without_a_gradient_do_not_spoil_the_others(name: str, norm: Norm) -> None:
    net = seeded(Normalised, CHANNELS, CLASSES)
    split = random_split(4)
    split.arrays["b"][0] = 0
    batch = batch_of(labelled_by(net, split))
    options = {"random_start": False} if name == "pgd" else {}
    target = target_of(net, threat_of(norm, a=0.1, b=0.1))
    found = ATTACKS.get(name)(**options).perturb(target, batch)
    target.threat.check(found, batch.inputs, name)
    if name != "fab":  # which gives the clean image back where it finds nothing in the ball
        assert (found["a"][0] != batch.inputs["a"][0]).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", ["pgd", "apgd", "fab", "square", "transfer"])
def test_logits_of_any_precision(name: str, dtype: torch.dtype) -> None:
    class Other(ConvNet):
        def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {task: z.to(dtype) for task, z in super().forward(inputs).items()}

    net = seeded(Other, CHANNELS, CLASSES)
    batch = batch_of(labelled_by(net, random_split(6)))
    target = target_of(net, threat_of(a=0.2, b=0.2))
    options: dict[str, Any] = {"queries": 20} if name == "square" else {"steps": 5}
    options |= {"surrogate": "itself"} if name == "transfer" else {}
    found = ATTACKS.get(name)(**options).perturb(target, batch)
    assert (goal_of(net).success(net(found), batch.labels) > 0).any()


def test_steps_in_l2_have_full_length_however_short_the_gradient() -> None:
    """The gradient of a net that is right by 60 logits is some 1e-26 long."""
    model, batch, _, epsilons = linear_case("l2")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e-26)
    threat = threat_of("l2", **epsilons)
    found = PGD(steps=1, step_size=0.01, random_start=False, keep="last", loss="margin").perturb(
        target_of(model, threat), batch
    )
    for name in epsilons:
        moved = (found[name] - batch.inputs[name]).flatten(1).norm(dim=1)
        torch.testing.assert_close(moved, torch.full_like(moved, 0.01), rtol=1e-3, atol=0)
