"""What a training leaves when it is killed, when the disk is full, or when another one is at work."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock

from robustbench_med.api.data import Split
from robustbench_med.data.phantom import Phantom
from robustbench_med.models.load import load_model
from robustbench_med.training import train as training
from robustbench_med.training.recipe import TrainConfig, train_config
from robustbench_med.training.train import Trained, checkpoint_of, train
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import sha256_file

RECIPE = TrainConfig("concat", "phantom", 1, model_options={"width": 1 / 32}, batch_size=32)
OTHER = replace(RECIPE, label_smoothing=0.1)


@pytest.fixture(scope="module")
def splits() -> dict[str, Split]:
    sizes = {"train": 64, "val": 24, "test": 24}
    return {name: Phantom().load(name).take(np.arange(size)) for name, size in sizes.items()}


@pytest.fixture(autouse=True)
def few_samples(splits: dict[str, Split], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = torch.get_num_threads()
    monkeypatch.setattr(training, "load_dataset", lambda _, split: splits[split])
    yield
    torch.set_num_threads(threads)


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


def killed_before(step: str, folder: Path, monkeypatch: pytest.MonkeyPatch, config: TrainConfig) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, step, killed)
        with pytest.raises(KeyboardInterrupt):
            train(config, folder, replace=True)


@pytest.mark.parametrize("step", ["own_state", "card", "write_json"])
def test_a_kill_at_the_end_leaves_the_old_pair_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, splits: dict[str, Split], step: str
) -> None:
    old = train(RECIPE, tmp_path)
    before = sha256_file(old.weights)
    killed_before(step, tmp_path, monkeypatch, OTHER)
    assert sha256_file(old.weights) == before
    load_model("concat", weights=str(old.weights), whole=splits["test"])
    new = train(OTHER, tmp_path)  # goes on, and need not be told to replace again
    assert sha256_file(new.weights) != before
    assert left(tmp_path) == {new.weights.name, new.card.name}


def test_a_kill_between_weights_and_card_is_noticed_and_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, splits: dict[str, Split]
) -> None:
    old = train(RECIPE, tmp_path)
    card = old.card.read_bytes()
    monkeypatch.setattr(Path, "unlink", _keep_checkpoints(Path.unlink))
    train(OTHER, tmp_path, replace=True)
    monkeypatch.undo()
    monkeypatch.setattr(training, "load_dataset", lambda _, split: splits[split])
    old.card.write_bytes(card)  # as if killed between the two renames
    assert checkpoint_of(old.weights).exists()
    with pytest.raises(UserError, match="is the card of other weights than"):
        load_model("concat", weights=str(old.weights), whole=splits["test"])
    new = train(OTHER, tmp_path)
    assert json.loads(new.card.read_text())["weights"]["sha256"] == sha256_file(new.weights)
    load_model("concat", weights=str(new.weights), whole=splits["test"])
    assert not checkpoint_of(new.weights).exists()


def _keep_checkpoints(unlink: Any) -> Any:
    def kept(path: Path, missing_ok: bool = False) -> None:
        if path.suffix != ".checkpoint":
            unlink(path, missing_ok)

    return kept


@pytest.mark.parametrize("most", [100, 100_000])
def test_a_full_disk_is_one_line_and_spoils_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """No file may grow beyond so many bytes: neither the checkpoint, nor (the checkpoint done) weights."""
    old = train(RECIPE, tmp_path)
    before = {path: path.read_bytes() for path in (old.weights, old.card)}
    if most > 100:
        monkeypatch.setattr(training.Trainer, "_save", lambda _: None)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .*: File too large") as error:
            train(OTHER, tmp_path, replace=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in before} == before
    assert left(tmp_path) == {old.weights.name, old.card.name}


def test_two_trainings_at_once(tmp_path: Path) -> None:
    first: Trained = train(RECIPE, tmp_path)
    before = sha256_file(first.weights)
    with (
        FileLock(tmp_path / f".{first.weights.stem}.lock"),
        pytest.raises(UserError, match="another training is writing") as error,
    ):
        train(OTHER, tmp_path, replace=True)
    assert "\n" not in str(error.value)
    assert sha256_file(first.weights) == before
    train(RECIPE, tmp_path)


NONSENSE: dict[str, list[object]] = {
    "epochs": [0, -1, 10**30, ".nan", "many"],
    "batch_size": [0, 10**30],
    "threads": [0, 10**9],
    "patience": [0],
    "learning_rate": [0, -1, ".nan", ".inf", "1e300", "1/0"],
    "weight_decay": [-1, ".nan", ".inf"],
    "gradient_clip": [-1, ".nan", ".inf"],
    "label_smoothing": [2, 1, -0.1, ".nan"],
    "class_balance": [-1, 2, ".nan"],
    "norm_momentum": [-1, 2, ".inf"],
    "warmup": [1, -0.1, ".nan"],
    "noise_warmup": [1, -0.1, ".nan"],
    "augmentation": ["{shift: .nan}", "{rotate: -1}", "{zoom: 2}", "{contrast: .inf}", "[1]", "{spin: 1}"],
    "adversarial": ["{attack: pgd, eot: 0}", "{attack: pgd, eot: 1000000}", "{attack: pgd, warmup: .nan}"],
    "model_options": ["3", "[width]"],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, v) for field, values in NONSENSE.items() for v in values]
)
def test_recipes_that_make_no_sense(tmp_path: Path, field: str, value: object) -> None:
    values = {"model": "concat", "dataset": "phantom", "epochs": 2} | {field: value}
    path = tmp_path / "recipe.yaml"
    path.write_text("".join(f"{name}: {each}\n" for name, each in values.items()))
    with pytest.raises(UserError, match=field) as error:
        train_config(str(path))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300
