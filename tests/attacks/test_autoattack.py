"""APGD, Square, transfer and AutoAttack: closed forms, few classes, several heads, random models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import (
    ATTACKS,
    CHANNELS,
    CLASSES,
    CoinFlip,
    ConvNet,
    Linear,
    RandomNet,
    asks,
    batch_of,
    goal_of,
    labelled_by,
    linear_case,
    plan_of,
    random_split,
    seeded,
    split_of,
    target_of,
    threat_of,
)
from torch import Tensor

from robustbench_med.api.attack import Attack, Batch, Target
from robustbench_med.api.losses import LOSSES, Loss, difference, dlr, margin, targeted_dlr
from robustbench_med.api.objective import Aim, Goal
from robustbench_med.attacks import autoattack
from robustbench_med.attacks._image import joint_labels, joint_logits
from robustbench_med.attacks.apgd import APGD, checkpoints
from robustbench_med.attacks.autoattack import AutoAttack
from robustbench_med.attacks.square import Square
from robustbench_med.attacks.transfer import Transfer
from robustbench_med.evaluation.batches import evaluate
from robustbench_med.measure.accuracy import accuracies
from robustbench_med.util.errors import UserError

LOGITS = torch.tensor([[5.0, 1.0, 3.0, 2.0, 0.0], [0.0, 4.0, 3.0, 1.0, 2.0]])
LABELS = torch.tensor([0, 0])


def test_checkpoints_of_the_paper() -> None:
    assert list(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert list(checkpoints(1)) == [1]


def test_losses_by_hand() -> None:
    """Croce & Hein 2020, equations 6 and 7, with the sign that an attacker raises."""
    assert dlr(LOGITS, LABELS).tolist() == pytest.approx([-2 / 3, 4 / 2])
    targets = torch.tensor([3, 2])
    assert difference(LOGITS, LABELS, targets).tolist() == [-3.0, 3.0]
    assert targeted_dlr(LOGITS, LABELS, targets).tolist() == pytest.approx([-3 / 3.5, 3 / 2.5])


@pytest.mark.parametrize(("loss", "least"), [(dlr, 3), (targeted_dlr, 4)])
def test_losses_of_few_classes_are_plain_margins(loss: Loss, least: int) -> None:
    targets = (torch.tensor([1, 1]),) if loss is targeted_dlr else ()
    plain = difference if targets else margin
    for classes in (2, 3, 4, 5):
        few = LOGITS[:, :classes]
        same = torch.equal(loss(few, LABELS, *targets), plain(few, LABELS, *targets))
        assert same == (classes < least)


@pytest.mark.parametrize("scale", [0.1, 20.0, 500.0])
def test_scale_does_not_matter_to_dlr(scale: float) -> None:
    torch.testing.assert_close(dlr(scale * LOGITS, LABELS), dlr(LOGITS, LABELS))


def test_heads_as_one() -> None:
    """What libraries are shown instead of several heads."""
    goal = Goal(asks({"first": 2, "second": 3}))
    logits = {"first": LOGITS[:, :2], "second": LOGITS[:, 2:]}
    labels = {"first": torch.tensor([0, 1]), "second": torch.tensor([2, 0])}
    z, y = joint_logits(goal, logits, labels), joint_labels(goal, labels)
    assert z.shape == (2, 6)
    assert y.tolist() == [2, 3]
    assert z[0, 2] == logits["first"][0, 0] + logits["second"][0, 2]
    # The joint margin is the largest of the heads' margins, which Goal uses in its place.
    torch.testing.assert_close(margin(z, y), goal.loss(margin, logits, labels))


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_any_number_of_heads_has_a_loss(loss: Loss) -> None:
    """4^7 combinations of answers, none of which is ever built."""
    logits = {str(i): torch.zeros(1, 4) for i in range(7)}
    labels = {str(i): torch.zeros(1, dtype=torch.long) for i in range(7)}
    reached = Goal(asks(dict.fromkeys(logits, 4))).loss(loss, logits, labels)
    torch.testing.assert_close(reached, torch.tensor([7 * math.log(4) if loss.any_of == "sum" else 0.0]))


def test_targets_by_falling_logit() -> None:
    logits, labels = {"first": LOGITS, "second": LOGITS[:, :2]}, {"first": LABELS, "second": LABELS}
    heads = asks({"first": 5, "second": 2})
    one = answers(Goal(heads, "first").candidates(logits, labels, 9))
    assert one == [[(0, 2), (0, 1)], [(0, 3), (0, 2)], [(0, 1), (0, 4)], [(0, 4), (0, 3)]]
    both = Goal(heads, "all").candidates(logits, labels, 2)
    assert [aim.question.tolist() for aim in both] == [[[0, 1], [0, 1]]] * 2
    assert [aim.answer.tolist() for aim in both if aim.answer is not None] == [
        [[2, 1], [1, 1]],
        [[3, 1], [2, 1]],
    ]
    # Any head: one alone is wrong, the nearest first, and no head's classes crowd out another's.
    flips = answers(Goal(heads).candidates(logits, labels, 99))
    first, second = ([flip[sample] for flip in flips] for sample in (0, 1))
    assert first == [(0, 2), (0, 3), (0, 1), (1, 1), (0, 4)]
    assert second == [(0, 1), (1, 1), (0, 2), (0, 4), (0, 3)]
    assert len(Goal(heads).candidates(logits, labels, 3)) == 3 + 1


def answers(aims: Sequence[Aim]) -> list[list[tuple[int, int]]]:
    """By aim and sample the question and the answer of aims at one question each."""
    found = []
    for aim in aims:
        assert aim.answer is not None
        found.append(list(zip(aim.question.flatten().tolist(), aim.answer.flatten().tolist(), strict=True)))
    return found


@pytest.mark.parametrize("norm", ["linf", "l2", "joint"])
@pytest.mark.parametrize("loss", ["cross-entropy", "dlr", "margin", "targeted-dlr"])
def test_apgd_reaches_the_exact_robust_accuracy(norm: Any, loss: str) -> None:
    """Two modalities with radii of their own; APGD stops at the goal, so only who falls is compared."""
    model, batch, worst, epsilons = linear_case(norm)
    found = APGD(steps=50, loss=loss).perturb(target_of(model, threat_of(norm, **epsilons)), batch)
    sure = worst.abs() > 1e-4
    right = model(found)["first"].argmax(1) == batch.labels["first"]
    assert torch.equal(right[sure], worst[sure] > 0)


def test_square_reaches_the_exact_robust_accuracy() -> None:
    model, batch, worst, epsilons = linear_case("linf")
    found = Square(queries=1500).perturb(target_of(model, threat_of("linf", **epsilons)), batch)
    right = model(found)["first"].argmax(1) == batch.labels["first"]
    assert (right >= (worst > 0)).all()
    assert right.float().mean().item() == pytest.approx((worst > 0).float().mean().item(), abs=0.05)


@pytest.mark.parametrize("norm", ["l2", "joint"])
def test_square_in_l2_against_the_exact_worst_point(norm: Any) -> None:
    shapes = {"a": (1, 12, 16), "b": (2, 10, 10)}
    rng = np.random.default_rng(0)
    images = {n: rng.uniform(0.4, 0.6, (60, *s)).astype(np.float32) for n, s in shapes.items()}
    model = seeded(Linear, shapes, {"first": 2})
    weight = model.get_submodule("heads.first").get_parameter("weight")
    hills = [torch.linspace(-2, 2, int(np.prod(s))).sin().view(s).flatten() for s in shapes.values()]
    weight.copy_(torch.stack([torch.cat(hills), -torch.cat(hills)]))
    batch = batch_of(labelled_by(model, split_of(images, {"first": np.arange(60) % 2}, {"first": 2})))
    logits = model(batch.inputs)["first"]
    margins = (logits[:, 1] - logits[:, 0]).abs()
    lengths = [2 * hill.norm().item() for hill in hills]
    reach = math.hypot(*lengths) if norm == "joint" else sum(lengths)
    radius = margins.median().item() / reach
    threat, worst = threat_of(norm, a=radius, b=radius), margins - radius * reach
    found = Square(queries=1000).perturb(target_of(model, threat), batch)
    threat.check(found, batch.inputs, "square")
    after = model(found)["first"]
    lost = margins - (after[:, 1] - after[:, 0]).abs()
    standing = after.argmax(1) == batch.labels["first"]
    assert (standing >= (worst > -1e-4)).all()
    # The attack's shapes follow no model's weights: it takes about half of what the worst point takes
    # (the official implementation likewise), and noise of this length a few per cent.
    assert (lost[standing] > 0.3 * radius * reach).all()


def test_square_tries_several_proposals_at_once_and_goes_the_same_way() -> None:
    """Room in the passes saves time and changes nothing, for any norm."""
    net = seeded(ConvNet, CHANNELS, CLASSES)
    batch = batch_of(labelled_by(net, random_split(6)))
    for norm, radius in (("linf", 0.02), ("l2", 0.1), ("joint", 0.1)):
        threat = threat_of(norm, a=radius, b=radius)  # type: ignore[arg-type]
        narrow, wide = target_of(net, threat), target_of(net, threat)
        wide.rows = 200
        one, many = (Square(queries=150).perturb(t, batch) for t in (narrow, wide))
        for name in CHANNELS:
            torch.testing.assert_close(one[name], many[name], atol=1e-5, rtol=0)
        assert wide.passes.forward >= narrow.passes.forward


@pytest.mark.parametrize("shape", [(1, 1), (2, 7), (3, 3), (11, 5), (40, 9)])
def test_square_fits_any_image_in_l2(shape: tuple[int, int]) -> None:
    images = {"a": np.random.default_rng(0).uniform(0.4, 0.6, (4, 1, *shape)).astype(np.float32)}
    split = split_of(images, {"first": np.arange(4) % 2}, {"first": 2})
    model = seeded(Linear, {"a": (1, *shape)}, {"first": 2})
    batch, threat = batch_of(labelled_by(model, split)), threat_of("l2", a=0.3)
    found = Square(queries=40).perturb(target_of(model, threat), batch)
    threat.check(found, batch.inputs, "square")
    assert (found["a"] - batch.inputs["a"]).flatten(1).norm(dim=1).min() > 0.05


@pytest.mark.parametrize("attack", [APGD(steps=12, loss="dlr"), Square(queries=80)], ids=["apgd", "square"])
def test_a_sample_alone_falls_as_in_company(attack: Attack) -> None:
    net = seeded(ConvNet, CHANNELS, CLASSES)
    batch, threat = batch_of(labelled_by(net, random_split(10))), threat_of(a=0.03, b=0.05)
    whole = attack.perturb(target_of(net, threat), batch)
    for i in (0, 7):
        alone = attack.perturb(target_of(net, threat), batch.take(torch.tensor([i])))
        for name in CHANNELS:
            torch.testing.assert_close(alone[name][0], whole[name][i], atol=1e-5, rtol=0)


@pytest.mark.parametrize("classes", [2, 3, 4, 8])
@pytest.mark.parametrize("version", autoattack.VERSIONS)
def test_few_classes(classes: int, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The official package crashes at 2 (rand) and at 3, 4 and 8 classes (standard)."""
    quick(monkeypatch)
    net = seeded(ConvNet, CHANNELS, {"first": classes})
    split = labelled_by(net, random_split(6, {"first": classes}))
    target, batch = target_of(net, threat_of(a=0.05, b=0.05)), batch_of(split)
    found = AutoAttack(version=version).perturb(target, batch)
    target.threat.check(found, batch.inputs, version)
    assert (net(found)["first"].argmax(1) != batch.labels["first"]).any()


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same members with fewer steps."""
    short: dict[str, Mapping[str, Any]] = {
        "APGD": {"steps": 5},
        "FAB": {"steps": 5},
        "Square": {"queries": 20},
        "Transfer": {"steps": 5},
    }
    whole: property = AutoAttack.members

    def cut(attack: AutoAttack) -> tuple[Attack, ...]:
        return tuple(type(m)(**{**vars(m), **short[type(m).__name__]}) for m in whole.__get__(attack))

    monkeypatch.setattr(AutoAttack, "members", property(cut))


@pytest.mark.parametrize("head", ["any", "all", "first", "second"])
def test_autoattack_is_no_weaker_than_any_member(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    net = seeded(ConvNet, CHANNELS, CLASSES)
    batch, threat = batch_of(labelled_by(net, random_split(12))), threat_of(a=0.02, b=0.04)

    def fallen(attack: Attack) -> Tensor:
        found = attack.perturb(target_of(net, threat, head), batch)
        return goal_of(net, head).success(net(found), batch.labels) > 0

    whole = fallen(AutoAttack())
    members = [fallen(member) for member in AutoAttack().members]
    for member in members:
        assert (whole >= member).all()
    assert torch.stack(members).any(0).float().mean() <= whole.float().mean()


@pytest.mark.parametrize("norm", ["l2", "joint"])
def test_autoattack_in_l2(norm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    model, batch, worst, epsilons = linear_case(norm, 10)
    found = AutoAttack().perturb(target_of(model, threat_of(norm, **epsilons)), batch)
    right = model(found)["first"].argmax(1) == batch.labels["first"]
    assert (right >= (worst > 0)).all()
    assert not right.all()


def test_members_work_on_what_still_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[tuple[str, ...]] = []

    class Spy(Attack):
        """Breaks the first sample it is given."""

        def perturb(self, target: Target, batch: Batch) -> dict[str, Tensor]:
            met.append(batch.ids)
            worst = APGD(steps=30).perturb(target, batch)
            first = torch.arange(len(batch)) == 0
            return {n: torch.where(first.view(-1, 1, 1, 1), worst[n], x) for n, x in batch.inputs.items()}

    monkeypatch.setattr(AutoAttack, "members", (Spy(), Spy(), Spy()))
    net = seeded(ConvNet, CHANNELS, CLASSES)
    batch = batch_of(labelled_by(net, random_split(2)))
    AutoAttack().perturb(target_of(net, threat_of(a=0.5, b=0.5)), batch)
    assert met == [("s0", "s1"), ("s1",)]


def test_what_no_draw_gets_right_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a random model's samples only those that some fresh draw gets right go to the next member."""
    met = []

    @dataclass(frozen=True)
    class Spy(Attack):
        """Breaks the first sample, whatever the draw."""

        def perturb(self, _: Target, batch: Batch) -> dict[str, Tensor]:
            met.append(batch.ids)
            first = torch.tensor([name == "s0" for name in batch.ids]).view(-1, 1, 1, 1)
            return {"a": torch.where(first, 1 - batch.inputs["a"], batch.inputs["a"])}

    monkeypatch.setattr(AutoAttack, "members", (Spy(), Spy()))
    # Odd in (image - 0.5): its negative is the other class, whatever the draw multiplies the logits by.
    net = seeded(RandomNet, {"a": 1}, {"first": 2}, std=0.1)
    split = random_split(3)
    labels = labelled_by(net, split_of({"a": split.arrays["a"]}, {"first": np.zeros(3, int)}, {"first": 2}))
    net.noise.reseed(0)
    AutoAttack(version="rand").perturb(target_of(net, threat_of(a=1.0), eot=2), batch_of(labels))
    assert met == [("s0", "s1", "s2"), ("s1", "s2")]


@pytest.mark.parametrize("version", ["rand", "stochastic"])
def test_the_coin_flip_model_scores_90_percent(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right in 90 % of draws whatever the input (epsilon 1e-9): success in one draw is no success."""
    quick(monkeypatch)
    pixels = np.where(np.arange(200) % 2, 0.75, 0.25).astype(np.float32)
    images = {
        "a": np.broadcast_to(pixels[:, None, None, None], (200, 1, 6, 8)).copy(),
        "b": np.zeros((200, 2, 4, 4), np.float32),
    }
    split = split_of(images, {"first": np.arange(200) % 2}, {"first": 2})
    plan = plan_of(seeded(CoinFlip), split, AutoAttack(version=version, eot=4), threat_of(a=1e-9))
    outcomes = evaluate(plan, tmp_path, lambda _: None)
    robust = accuracies(outcomes, plan.goal, "element")["first"].robust
    assert robust.low <= 0.9 <= robust.high
    assert robust.high - robust.low < 0.06


def test_the_twin_has_no_noise_and_gets_it_back() -> None:
    net = seeded(RandomNet, CHANNELS, CLASSES)
    batch, threat = batch_of(labelled_by(net, random_split(8))), threat_of(a=0.1, b=0.1)
    found = Transfer(steps=5).perturb(target_of(net, threat, eot=3), batch)
    assert net.noise.scale == 1
    twin = seeded(ConvNet, CHANNELS, CLASSES)
    twin.load_state_dict(net.state_dict())
    expected = Transfer(steps=5, surrogate="itself").perturb(target_of(twin, threat), batch)
    for name in CHANNELS:
        torch.testing.assert_close(found[name], expected[name])


def test_transfer_asks_the_surrogate_alone() -> None:
    net = seeded(RandomNet, CHANNELS, CLASSES)
    batch = batch_of(labelled_by(net, random_split(8)))
    target = target_of(net, threat_of(a=0.1, b=0.1), eot=3)
    Transfer(steps=5).perturb(target, batch)
    assert (target.passes.forward, target.passes.backward) == (8 * 6, 8 * 5)
    other = replace(target, load_surrogate=lambda _: seeded(ConvNet, CHANNELS, {"first": 2}))
    with pytest.raises(UserError, match="has other modalities or heads"):
        Transfer(surrogate="concat").perturb(other, batch)
    still = target_of(seeded(ConvNet, CHANNELS, CLASSES), target.threat)
    with pytest.raises(UserError, match="its noise-off twin is the model itself"):
        Transfer().perturb(still, batch)
    with pytest.raises(UserError, match="name a surrogate or drop weights"):
        Transfer(weights="x.safetensors")


@pytest.mark.parametrize("name", ["uniform-noise", "gaussian-noise"])
@pytest.mark.parametrize("norm", ["linf", "l2", "joint"])
def test_controls_fill_the_ball_without_asking_the_model(name: str, norm: Any) -> None:
    net = seeded(ConvNet, CHANNELS, CLASSES)
    batch, threat = batch_of(random_split(8)), threat_of(norm, a=0.1)
    target = target_of(net, threat)
    found = ATTACKS.get(name)().perturb(target, batch)
    threat.check(found, batch.inputs, name)
    lengths = (found["a"] - batch.inputs["a"]).flatten(1)
    reached = lengths.abs().amax(1) if norm == "linf" else lengths.norm(dim=1)
    assert (reached > 0.06).all()
    assert (target.passes.forward, target.passes.backward) == (0, 0)


@pytest.mark.parametrize(
    ("attack", "options", "complaint"),
    [
        ("apgd", {"steps": 0}, "1 or more"),
        ("apgd", {"rho": 0.0}, "rho is 0"),
        ("apgd", {"loss": "dir"}, "did you mean 'dlr'"),
        ("square", {"queries": 0}, "queries must be 1"),
        ("square", {"p": 1.5}, "at most 1"),
        ("mi-fgsm", {"steps": 0}, "1 or more"),
        ("mi-fgsm", {"step_size": -1.0}, "must be positive"),
        ("autoattack", {"version": "standart"}, "did you mean 'standard'"),
        ("autoattack", {"eot": 0}, "eot must be 1"),
        ("autoattack", {"steps": 0}, "must be 1 or more"),
    ],
)
def test_bad_options(attack: str, options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        ATTACKS.get(attack)(**options)
