"""Training: it learns, it survives being stopped, and the card says what was done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from robustbench_med.api.attack import Batch
from robustbench_med.api.data import Split
from robustbench_med.data.phantom import Phantom
from robustbench_med.evaluation.plan import load_batch
from robustbench_med.models.load import load_model
from robustbench_med.models.named import build_model, config_from_card, model_config
from robustbench_med.models.weights import load_weights
from robustbench_med.training import train as training
from robustbench_med.training.augment import Augmentation, augment, geometry
from robustbench_med.training.card import answers_on
from robustbench_med.training.recipe import TrainConfig
from robustbench_med.training.train import Trainer, train
from robustbench_med.util.config import build
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import sha256_file


@pytest.fixture(scope="module")
def splits() -> dict[str, Split]:
    sizes = {"train": 96, "val": 24, "test": 24}
    return {name: Phantom().load(name).take(np.arange(size)) for name, size in sizes.items()}


@pytest.fixture(autouse=True)
def few_samples(splits: dict[str, Split], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = torch.get_num_threads()
    monkeypatch.setattr(training, "load_dataset", lambda _, split: splits[split])
    yield
    torch.set_num_threads(threads)


def recipe(**changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "model": "concat",
        "dataset": "phantom",
        "epochs": 2,
        "model_options": {"width": 1 / 32},
        "batch_size": 32,
        "augmentation": {"shift": 0.1, "rotate": 10, "contrast": 0.1, "brightness": 0.1},
    }
    return build(TrainConfig, values | changes, "recipe")


def stop_in_epoch(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if killed after the first batch of that epoch."""
    original = Trainer._epoch_steps

    def steps(self: Trainer, epoch: int) -> Iterator[int]:
        for step in original(self, epoch):
            yield step
            if epoch == number:
                raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_epoch_steps", steps)


def test_a_tiny_recipe_trains(tmp_path: Path, splits: dict[str, Split]) -> None:
    config = recipe(epochs=8, learning_rate=1e-2, augmentation={})
    trained = train(config, tmp_path)
    left = {p.name for p in tmp_path.iterdir() if p.suffix != ".lock"}
    assert left == {"concat-x0.03125.safetensors", "concat-x0.03125.json"}
    card = json.loads(trained.card.read_text())
    history = card["training"]["history"]
    assert len(history) == card["training"]["epochs_run"] == 8
    assert history[-1]["loss"] < history[0]["loss"]
    model = build_model(config_from_card(card, ""), splits["test"].info)
    load_weights(model, trained.weights)
    given = answers_on(model.eval(), splits["test"], config, 1, "x")["side"].given
    accuracy = (given[0, :, 0] == splits["test"].labels["side"]).mean()
    assert card["metrics"]["test"]["side"]["accuracy"]["value"] == pytest.approx(accuracy)


def test_the_card(tmp_path: Path, splits: dict[str, Split]) -> None:
    trained = train(recipe(seed=3), tmp_path, "robmed train tiny")
    card = json.loads(trained.card.read_text())
    assert card["model"]["name"] == "concat"
    assert card["model"]["label"] == "concat-x0.03125-seed3"
    assert card["dataset"]["name"] == "phantom"
    assert card["dataset"]["synthetic"] is True
    assert card["dataset"]["fingerprints"] == {name: split.fingerprint for name, split in splits.items()}
    assert card["weights"]["sha256"] == sha256_file(trained.weights)
    assert card["training"]["command"] == "robmed train tiny"
    assert build(TrainConfig, card["training"]["config"], "card") == recipe(seed=3)
    assert {"python", "torch", "numpy", "robustbench-med"} <= card["versions"].keys()
    for split in ("val", "test"):
        for task in ("lesion", "side"):
            metrics = card["metrics"][split][task]
            assert metrics["accuracy"]["low"] <= metrics["accuracy"]["value"] <= metrics["accuracy"]["high"]
            assert 0 <= metrics["balanced_accuracy"] <= 1
            assert metrics["samples"] == 24


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": "robust-mail-rpf", "noise_warmup": 0.5, "batch_size": 48, "channels_last": True},
        {"adversarial": {"attack": "pgd", "eps": "4/255", "options": {"steps": 2}, "warmup": 0.5}},
        {"adversarial": {"attack": "pgd", "options": {"steps": 2}, "trades": 6}, "half_precision": True},
        {"adversarial": {"attack": "pgd", "options": {"steps": 2}, "in_turn": True}},
        {"adversarial": {"attack": [{"attack": "pgd", "options": {"steps": 2}}, {"attack": "fgsm"}]}},
    ],
    ids=["concat", "robust-mail-rpf", "adversarial", "trades", "in turn", "several attacks"],
)
def test_a_stopped_training_ends_with_the_same_weights(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recipe(**changes)
    whole = train(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_in_epoch(1, patch)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "cut")
    assert not list((tmp_path / "cut").glob("*.safetensors"))
    assert list((tmp_path / "cut").glob(".*.checkpoint"))
    torch.manual_seed(99)
    resumed = train(config, tmp_path / "cut")
    expected, found = load_file(whole.weights), load_file(resumed.weights)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    cards = [json.loads(t.card.read_text()) for t in (whole, resumed)]
    assert cards[0]["training"]["history"] == cards[1]["training"]["history"]
    assert cards[0]["metrics"] == cards[1]["metrics"]


def test_weights_of_another_recipe_are_not_written_over(tmp_path: Path) -> None:
    first = train(recipe(epochs=1), tmp_path)
    before = sha256_file(first.weights)
    assert sha256_file(train(recipe(epochs=1), tmp_path).weights) == before
    with pytest.raises(UserError, match=r"holds weights of another recipe.* say --replace"):
        train(recipe(epochs=1, weight_decay=0.5), tmp_path)
    assert sha256_file(first.weights) == before
    train(recipe(epochs=1, weight_decay=0.5), tmp_path, replace=True)
    assert sha256_file(first.weights) != before


def test_the_seed_decides(tmp_path: Path) -> None:
    hashes = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)
        trained = train(recipe(epochs=1, seed=seed), tmp_path / str(number))
        hashes.append(sha256_file(trained.weights))
    assert hashes[0] == hashes[1] != hashes[2]
    assert trained.weights.stem.endswith("-seed1")
    assert load_model("concat", weights=str(trained.weights)).config.label == trained.weights.stem


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_in_epoch(1, patch)
        with pytest.raises(KeyboardInterrupt):
            train(recipe(), tmp_path)
    with pytest.raises(UserError, match="another recipe or other data") as error:
        train(replace(recipe(), learning_rate=0.5), tmp_path)
    assert "\n" not in str(error.value)


def test_a_damaged_checkpoint_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_in_epoch(1, patch)
        with pytest.raises(KeyboardInterrupt):
            train(recipe(), tmp_path)
    checkpoint = next(tmp_path.glob(".*.checkpoint"))
    checkpoint.write_bytes(checkpoint.read_bytes()[:-50])
    with pytest.raises(UserError, match="is damaged"):
        train(recipe(), tmp_path)


def test_patience(tmp_path: Path) -> None:
    """A learning rate of nothing never improves: best after the first epoch, stopped two later."""
    trained = train(recipe(epochs=9, learning_rate=1e-12, patience=2), tmp_path)
    run = json.loads(trained.card.read_text())["training"]
    assert run["epochs_run"] - 1 - run["best_epoch"] == 2
    assert run["epochs_run"] < 9


def test_augmentation_keeps_the_box_and_the_pairing(splits: dict[str, Split]) -> None:
    inputs = load_batch(splits["train"], np.arange(16), "cpu").inputs
    how = recipe().augmentation
    torch.manual_seed(0)
    moved = augment(inputs, how, splits["train"].info)
    for name, x in moved.items():
        assert x.shape == inputs[name].shape
        assert 0 <= x.min() <= x.max() <= 1
        assert not torch.equal(x, inputs[name])
    # Both modalities of a sample share one geometry: equal images stay equal.
    torch.manual_seed(0)
    same = {"mr": inputs["mr"], "ct": inputs["mr"]}
    geometry = replace(how, contrast=0.0, brightness=0.0)
    twins = augment(same, geometry, splits["train"].info)
    torch.testing.assert_close(twins["mr"], twins["ct"])
    still = augment(inputs, Augmentation(mirror=False), splits["train"].info)
    torch.testing.assert_close(still["mr"], inputs["mr"], atol=1e-4, rtol=0)


def test_augmentation_flips_and_turns_but_never_shears(splits: dict[str, Split]) -> None:
    info = replace(splits["train"].info, mirror=("horizontal", "vertical"))
    how = Augmentation(rotate=180, zoom=0.2)
    torch.manual_seed(0)
    linear = geometry(500, how, info)[:, :, :2]
    gram = linear.mT @ linear
    scale = torch.linalg.det(linear).abs()
    assert torch.allclose(gram, scale[:, None, None] * torch.eye(2), atol=1e-5)
    assert 0.3 < (torch.linalg.det(linear) < 0).float().mean() < 0.7
    assert (torch.linalg.det(geometry(50, how, replace(info, mirror=()))[:, :, :2]) > 0).all()


def test_a_device_that_is_not_there_ends_in_one_line(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(UserError, match="device 'cuda' cannot be used"):
        train(recipe(device="cuda"), tmp_path)


def attacked_training(**changes: Any) -> dict[str, Any]:
    return {"attack": "pgd", "eps": {"mr": "8/255"}, "options": {"steps": 2, "keep": "last"}} | changes


def test_training_images_are_attacked_within_their_radii(
    splits: dict[str, Split], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = recipe(epochs=4, adversarial=attacked_training(warmup=0.5), augmentation={})
    model = build_model(model_config("concat").with_options({"width": 1 / 32}), splits["test"].info)
    trainer = Trainer(config, model, splits["train"], splits["val"], tmp_path / "x", "")
    opponent, seen = trainer.opponent, []
    assert opponent is not None
    original = opponent.attacked

    def spy(batch: Batch, epoch: int, step: int) -> dict[str, Tensor]:
        moved = original(batch, epoch, step)
        assert torch.equal(moved["ct"], batch.inputs["ct"])
        seen.append(float((moved["mr"] - batch.inputs["mr"]).abs().max()))
        return moved

    monkeypatch.setattr(opponent, "attacked", spy)
    for epoch in range(3):
        before = len(seen)
        list(trainer._epoch_steps(epoch))
        assert model.training
        assert all(p.requires_grad for p in model.parameters())
        assert max(seen[before:]) == pytest.approx(8 / 255 * min((epoch + 1) / 2, 1), rel=1e-3)


def test_weights_are_chosen_by_robustness(tmp_path: Path) -> None:
    trained = train(recipe(epochs=3, adversarial=attacked_training()), tmp_path)
    said = json.loads(trained.card.read_text())["training"]
    robust = [epoch["val_robust_balanced_accuracy"] for epoch in said["history"]]
    assert said["best_epoch"] == int(np.argmax(robust))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"attack": "pdg"}, "did you mean 'pgd'"),
        ({"eps": {"mri": 0.1}}, "unknown modality 'mri'"),
        ({"options": {"stepz": 2}}, "did you mean 'steps'"),
        ({"eot": 0}, "eot must be 1 or more"),
        ({"warmup": 0.9}, "the last epoch needs the whole radius"),
    ],
)
def test_bad_adversaries(changes: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=complaint):
        train(recipe(adversarial=attacked_training(**changes)), tmp_path)
