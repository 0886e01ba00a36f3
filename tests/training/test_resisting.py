"""What nets are trained against: all modalities, one in its turn, or what drives answers apart (TRADES)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from robustbench_med.api.attack import Batch
from robustbench_med.api.data import Split
from robustbench_med.api.model import FusionModel
from robustbench_med.data.phantom import Phantom
from robustbench_med.evaluation.plan import load_batch
from robustbench_med.models.named import build_model, model_config
from robustbench_med.models.weights import load_weights
from robustbench_med.training import train as training
from robustbench_med.training.card import answers_on
from robustbench_med.training.opponent import (
    AdversarialTraining,
    Attacking,
    Opponent,
    divergence,
    opponent_of,
)
from robustbench_med.training.recipe import TrainConfig
from robustbench_med.training.train import train
from robustbench_med.util.errors import UserError

PGD = AdversarialTraining("pgd", options={"steps": 4, "keep": "last"})


@pytest.fixture(scope="module")
def split() -> Split:
    return Phantom().load("test").take(np.arange(24))


@pytest.fixture
def net(split: Split) -> FusionModel:
    torch.manual_seed(0)
    return build_model(model_config("concat").with_options({"width": 1 / 32}), split.info).eval()


@pytest.fixture
def batch(split: Split) -> Batch:
    return load_batch(split, np.arange(16), "cpu")


@pytest.fixture
def opponent(net: FusionModel, split: Split) -> Opponent:
    return opponent_of(PGD, 0, "cpu", net, split.info)


def test_divergence_is_that_of_kullback_and_leibler(net: FusionModel, batch: Batch) -> None:
    usual = {name: 3 * torch.randn(16, head.columns[0]) for name, head in net.answers.items()}
    other = {name: 3 * torch.randn_like(x) for name, x in usual.items()}
    by_hand = [
        torch.distributions.kl_divergence(
            torch.distributions.Categorical(logits=usual[name]),
            torch.distributions.Categorical(logits=other[name]),
        ).mean()
        for name in usual
    ]
    found = divergence(net, other, usual, batch.labels)
    torch.testing.assert_close(found, torch.stack(by_hand).mean())
    torch.testing.assert_close(divergence(net, usual, usual, batch.labels), torch.zeros(()))


def test_diverging_inputs_lie_in_the_ball_and_diverge_more_than_random_ones(
    net: FusionModel, batch: Batch, opponent: Opponent
) -> None:
    driven = opponent.diverging(batch, 0)
    opponent.threat.check(driven, batch.inputs, "trades")
    start = opponent.threat.random_start(batch.inputs, batch.ids, 0)
    with torch.no_grad():
        usual = net(batch.inputs)
        far, near = (divergence(net, net(x), usual, batch.labels) for x in (driven, start))
    assert far > 2 * near > 0
    assert all(p.requires_grad for p in net.parameters())


def test_each_modality_has_its_turn_and_the_others_stay_bit_for_bit(batch: Batch, opponent: Opponent) -> None:
    names = list(batch.inputs)
    for turn in range(2 * len(names)):
        found = opponent.of_turn(batch, 0, turn)
        moved = [name for name in names if not torch.equal(found[name], batch.inputs[name])]
        assert moved == [names[turn % len(names)]]


def test_of_several_attacks_each_has_its_turn(net: FusionModel, split: Split, batch: Batch) -> None:
    still = Attacking("pgd", {"steps": 2, "random_start": False})
    several = AdversarialTraining([Attacking("pgd", {"steps": 2}), still, Attacking("mi-fgsm", {"steps": 2})])
    both = opponent_of(several, 0, "cpu", net, split.info)
    alone = [
        opponent_of(AdversarialTraining(each.attack, options=each.options), 0, "cpu", net, split.info)
        for each in several.attacks
    ]
    first = [each.attacked(batch, 0) for each in alone]
    assert not any(torch.equal(first[0]["mr"], other["mr"]) for other in first[1:])
    for step in range(2 * len(alone)):
        torch.testing.assert_close(both.attacked(batch, 0, step), first[step % len(alone)], rtol=0, atol=0)
    names = list(batch.inputs)
    turned = both.of_turn(batch, 0, len(names))  # all modalities had the first attack
    torch.testing.assert_close(turned, alone[1].of_turn(batch, 0, 0), rtol=0, atol=0)


def test_a_stopped_radius_stops_what_diverges(batch: Batch, opponent: Opponent) -> None:
    opponent.scale = 0.0
    driven = opponent.diverging(batch, 0)
    for name, x in driven.items():
        torch.testing.assert_close(x, batch.inputs[name])


def test_a_net_in_half_precision_is_the_net_that_is_scored(
    tmp_path: Path, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "load_dataset", lambda *_: split)
    config = TrainConfig(
        "concat", "phantom", 2, model_options={"width": 1 / 32}, batch_size=24, half_precision=True
    )
    trained = train(config, tmp_path)
    stored = load_file(trained.weights)
    assert {x.dtype for x in stored.values() if x.is_floating_point()} == {torch.float16}
    model = build_model(model_config("concat").with_options(config.model_options), split.info)
    load_weights(model, trained.weights)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    given = answers_on(model.eval(), split, config, 1, "x")["side"].given
    card = json.loads(trained.card.read_text())["metrics"]["test"]["side"]["accuracy"]["value"]
    assert card == pytest.approx((given[0, :, 0] == split.labels["side"]).mean())


def test_weights_that_16_bits_cannot_hold_are_refused(net: FusionModel) -> None:
    with torch.no_grad():
        next(net.parameters()).mul_(1e9)
    with pytest.raises(UserError, match="does not fit into 16 bits"):
        training.round_to_half(net)
