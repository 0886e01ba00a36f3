"""The weights in the wheel are what their cards say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robustbench_med.data.catalog import load_dataset
from robustbench_med.data.phantom import BEST_SINGLE_MODALITY_ACCURACY
from robustbench_med.evaluation import scoring
from robustbench_med.evaluation.plan import load_batch
from robustbench_med.measure import statistics
from robustbench_med.models.load import load_model
from robustbench_med.training.recipe import train_config
from robustbench_med.util.files import sha256_file

MODELS = ("concat", "mail", "robust-mail", "robust-mail-rpf")
SAMPLES = np.arange(200)


@pytest.mark.parametrize("name", MODELS)
def test_card_describes_its_weights(name: str) -> None:
    loaded = load_model(name)
    card = loaded.card
    assert card["weights"]["sha256"] == sha256_file(loaded.weights)
    assert card["weights"]["parameters"] == sum(p.numel() for p in loaded.model.parameters())
    for split in ("train", "val", "test"):
        assert card["dataset"]["fingerprints"][split] == load_dataset("phantom", split).fingerprint
        assert card["dataset"]["members"][split] == load_dataset("phantom", split).members
    recipe = train_config(card["training"]["command"].split()[2])
    assert recipe.model == name
    assert recipe.epochs == card["training"]["config"]["epochs"]
    assert recipe.learning_rate == card["training"]["config"]["learning_rate"]


@pytest.mark.parametrize("name", MODELS)
def test_accuracy_is_what_the_card_says_and_needs_both_modalities(name: str) -> None:
    loaded, split = load_model(name), load_dataset("phantom", "test")
    batch = load_batch(split, SAMPLES, "cpu")
    logits = scoring.scores(loaded.model, batch.inputs, 3, 1, "test", batch.ids)
    for task, labels in batch.labels.items():
        correct = (logits[task].argmax(2) == labels).numpy()
        shared = loaded.model.draws_shared_by
        here = statistics.accuracy(correct, batch.ids, np.zeros(len(SAMPLES), np.int64), shared)
        said = loaded.card["metrics"]["test"][task]["accuracy"]
        assert here.low <= said["high"]
        assert said["low"] <= here.high
        if task == "lesion":
            assert here.low > BEST_SINGLE_MODALITY_ACCURACY[task]


def test_shuffled_weights_lose_the_accuracy() -> None:
    """The test above can fail: the same net with other weights is at chance."""
    loaded, split = load_model("concat"), load_dataset("phantom", "test")
    batch = load_batch(split, SAMPLES, "cpu")
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            flat = parameter.flatten()
            parameter.copy_(
                flat[torch.randperm(len(flat), generator=torch.Generator().manual_seed(0))].view_as(parameter)
            )
    logits = scoring.scores(loaded.model, batch.inputs, 1, 1, "test", batch.ids)["lesion"]
    assert (logits.argmax(2) == batch.labels["lesion"]).float().mean() < 0.5
