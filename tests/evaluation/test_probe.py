"""What a model declares against what it returns, and what a line that calls a model takes for granted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import (
    ATTACKS,
    CHANNELS,
    CLASSES,
    SHAPES,
    ConvNet,
    labelled_by,
    plan_of,
    random_split,
    seeded,
    threat_of,
)
from torch import Tensor, nn

from robustbench_med.api.data import Split
from robustbench_med.api.model import FusionModel
from robustbench_med.evaluation.batches import evaluate
from robustbench_med.evaluation.outcomes import Outcomes
from robustbench_med.evaluation.probe import Probed, probe
from robustbench_med.evaluation.votes import Smoothing, count_all
from robustbench_med.measure.accuracy import correct
from robustbench_med.util.errors import UserError

Spoil = Callable[[dict[str, Tensor]], Any]


class Spoilt(ConvNet):
    """Returns something else than ``ConvNet`` does."""

    spoil: Any = dict

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        out: dict[str, Tensor] = type(self).spoil(super().forward(inputs))
        return out


def spoilt(spoil: Spoil) -> FusionModel:
    return seeded(type("Odd", (Spoilt,), {"spoil": staticmethod(spoil)}), CHANNELS, CLASSES)


def change(head: str, how: Callable[[Tensor], Any]) -> Spoil:
    return lambda scores: {**scores, head: how(scores[head])}


REFUSED: Mapping[str, tuple[Spoil, str]] = {
    "a bare tensor": (lambda s: s["first"], "returns Tensor; it must return a mapping from head to scores"),
    "a tuple": (lambda s: tuple(s.values()), "returns tuple; it must return a mapping"),
    "nothing": (lambda _: None, "returns NoneType; it must"),
    "a missing head": (lambda s: {"first": s["first"]}, "no scores for the head 'second' (only first)"),
    "an extra head": (lambda s: {**s, "aux": s["first"]}, "scores for aux, which the data set does not ask"),
    "too few columns": (
        change("second", lambda z: z[:, :2]),
        "shape (3, 2) for 3 samples; it must be (3, 3)",
    ),
    "one logit for three": (change("second", lambda z: z[:, :1]), "shape (3, 1)"),
    "too many columns": (change("first", lambda z: torch.cat([z, z], 1)), "shape (3, 4)"),
    "an axis too many": (change("first", lambda z: z[..., None]), "shape (3, 2, 1)"),
    "an axis too few": (change("first", lambda z: z.argmax(1).float()), "shape (3,)"),
    "one sample squeezed away": (
        change("first", lambda z: z.squeeze(0)),
        "(one sample): scores of first have",
    ),
    "the mean of the batch": (
        change("first", lambda z: z.mean(0, keepdim=True)),
        "shape (1, 2) for 3 samples",
    ),
    "answers": (change("first", lambda z: z.argmax(1, keepdim=True)), "are torch.int64; they must be"),
    "an array": (change("first", lambda z: z.numpy()), "are ndarray; they must be a tensor"),
    "NaN": (change("first", lambda z: z * torch.nan), "scores of first hold NaN or infinity on clean inputs"),
    "infinity": (change("second", lambda z: z / 0.0), "scores of second hold NaN or infinity"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_model_returns_is_held_against_what_it_declares(case: str) -> None:
    spoil, complaint = REFUSED[case]
    with pytest.raises(UserError) as error:
        probe(spoilt(spoil), random_split(), "cpu", "odd")
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


class Counting(ConvNet):
    """Another answer every time."""

    asked = 0

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self.asked += 1
        return {head: z + self.asked for head, z in super().forward(inputs).items()}


class OfTheBatch(ConvNet):
    """Batch statistics at inference (Schneider et al. 2020): one sample is not enough."""

    def __init__(self, channels: Mapping[str, int], classes: Mapping[str, int]) -> None:
        super().__init__(channels, classes)
        self.norm = nn.BatchNorm1d(2, affine=False, track_running_stats=False)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        scores = super().forward(inputs)
        return {**scores, "first": self.norm(scores["first"])}


class Writing(ConvNet):
    """Normalises what it is given in place."""

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        for x in inputs.values():
            x.mul_(2).sub_(0.5)
        return super().forward(inputs)


class Reading(ConvNet):
    """The same without writing."""

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return super().forward({name: x * 2 - 0.5 for name, x in inputs.items()})


class Half(ConvNet):
    """Computes, and answers, in half precision."""

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return {head: z.bfloat16() for head, z in super().forward(inputs).items()}


@pytest.mark.parametrize(
    ("net", "found"),
    [
        (ConvNet, Probed()),
        (Counting, Probed(repeats=False)),
        (OfTheBatch, Probed(least=2, repeats=False)),
        (Writing, Probed(writes=True)),
        (Half, Probed()),
    ],
)
def test_what_a_model_needs_is_found_out(net: type[FusionModel], found: Probed) -> None:
    assert probe(seeded(net, CHANNELS, CLASSES), random_split(), "cpu", "net") == found


def outcomes_of(net: FusionModel, split: Split, attack: str, folder: Path, **options: Any) -> Outcomes:
    threat = threat_of(a=0.1)  # b is not attacked
    found = probe(seeded(type(net), CHANNELS, CLASSES), split, "cpu", "net")
    net.writes_inputs, net.least = found.writes, found.least
    plan = plan_of(net, split, ATTACKS.get(attack)(**options), threat, batch_size=7)
    return evaluate(plan, folder, lambda _: None)


@pytest.mark.parametrize("attack", ["pgd", "square", "spsa"])
def test_a_net_that_writes_into_its_inputs_scores_as_its_twin(attack: str, tmp_path: Path) -> None:
    writing, reading = (seeded(net, CHANNELS, CLASSES) for net in (Writing, Reading))
    split = labelled_by(reading, random_split(20))
    before = {name: x.copy() for name, x in split.arrays.items()}
    options = {"queries": 40} if attack == "square" else {"steps": 4}
    one, two = (
        outcomes_of(net, split, attack, tmp_path / name, **options)
        for net, name in ((writing, "writing"), (reading, "reading"))
    )
    for head, scores in two.adversarial.items():
        np.testing.assert_array_equal(one.adversarial[head], scores)
    assert not (one.adversarial["first"] == one.clean["first"]).all()
    for name, x in before.items():
        np.testing.assert_array_equal(split.arrays[name], x)


def test_a_net_that_needs_two_samples_is_never_given_one(tmp_path: Path) -> None:
    """15 samples in batches of 7 leave one over."""
    net = seeded(OfTheBatch, CHANNELS, CLASSES)
    outcomes = outcomes_of(net, labelled_by(net, random_split(15)), "pgd", tmp_path, steps=3)
    assert np.bincount(outcomes.batches).tolist() == [7, 8]
    assert np.isfinite(outcomes.adversarial["first"]).all()


@pytest.mark.parametrize(
    "attack", ["pgd", "apgd", "cw", "fab", "square", "art:ProjectedGradientDescent", "torchattacks:PGD"]
)
def test_half_precision_goes_through_every_attack(attack: str, tmp_path: Path) -> None:
    from robustbench_med.evaluation.adversary import make_attack

    net = seeded(Half, CHANNELS, CLASSES)
    split = labelled_by(seeded(ConvNet, CHANNELS, CLASSES), random_split(12))
    plan = plan_of(
        net,
        split,
        make_attack(attack, {}),
        threat_of("l2" if attack == "cw" else "linf", a=0.5 if attack == "cw" else 0.1),
    )
    outcomes = evaluate(plan, tmp_path, lambda _: None)
    assert outcomes.adversarial["first"].dtype == np.float32
    clean, robust = (
        correct(s, outcomes.labels, plan.goal).mean() for s in (outcomes.clean, outcomes.adversarial)
    )
    assert robust < clean - 0.1


class OneLogit(ConvNet):
    """The difference of both logits, as many binary nets return."""

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        scores = super().forward(inputs)
        return {**scores, "first": scores["first"][:, 1:] - scores["first"][:, :1]}


def test_one_logit_is_either_refused_or_worth_two(tmp_path: Path) -> None:
    one, two = (seeded(net, CHANNELS, CLASSES) for net in (OneLogit, ConvNet))
    split = labelled_by(two, random_split(12))
    if 1 not in split.info.head("first").columns:
        with pytest.raises(UserError, match="shape"):
            probe(one, split, "cpu", "one")
        return
    smoothing = Smoothing(dict.fromkeys(SHAPES, 0.05), 20, 100, 0.05, 50, 0)
    votes = [
        count_all(net, split, smoothing, "cpu", tmp_path / type(net).__name__, lambda: None)
        for net in (one, two)
    ]
    assert votes[0] == votes[1]
