"""The weights in the wheel are what their cards say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_med.api.data import Split
from robustbench_med.data import phantom, phantom_record, phantom_volume
from robustbench_med.data.catalog import load_dataset
from robustbench_med.evaluation import scoring
from robustbench_med.evaluation.plan import load_batch
from robustbench_med.measure import statistics
from robustbench_med.measure.accuracy import answers
from robustbench_med.measure.statistics import Estimate
from robustbench_med.models.load import LoadedModel, load_model
from robustbench_med.models.named import VARIANTS
from robustbench_med.training.recipe import TrainConfig, train_config
from robustbench_med.training.train import train
from robustbench_med.util.config import build
from robustbench_med.util.files import sha256_file

PACKAGE = Path(str(resources.files("robustbench_med")))
# By data set and label, in the wheel and, of a clone, beside it; data that is built in only.
SHIPPED = sorted(
    (path.parent.name, path.stem)
    for folder in (PACKAGE / "weights", PACKAGE.parent / "weights")
    for path in folder.glob("phantom*/*.safetensors")
)
ALONE = ("single-1", "single-2")  # controls: they see one modality
SAMPLES = np.arange(200)

RECORD = phantom_record.BEST_SINGLE_MODALITY_ACCURACY
# By data set, the questions that no modality alone can answer: the best that one can do, and which of
# them it takes.
TOGETHER: dict[str, dict[str, tuple[float, tuple[str, ...]]]] = {
    "phantom": {"lesion": (phantom.BEST_SINGLE_MODALITY_ACCURACY["lesion"], ("mr", "ct"))},
    "phantom-record": {
        "lesion": (max(RECORD["lesion"].values()), ("mr", "ct")),
        "findings.unexplained": (max(RECORD["findings.unexplained"].values()), ("pet", "record")),
    },
    "phantom-volume": {"lesion": (phantom_volume.BEST_SINGLE_MODALITY_ACCURACY["lesion"], ("mr", "ct"))},
}
RESISTING = tuple(f"-{variant}-" for variant in VARIANTS)
USUAL = [
    (dataset, label)
    for dataset, label in SHIPPED
    if not label.startswith(ALONE) and not any(variant in label for variant in RESISTING)
]
EACH = pytest.mark.parametrize(("dataset", "label"), SHIPPED)
FUSING = pytest.mark.parametrize(("dataset", "label"), USUAL)


@cache
def loaded_split(dataset: str, name: str) -> Split:
    return load_dataset(dataset, name)


def accuracies(loaded: LoadedModel, split: Split, inputs: Mapping[str, Tensor]) -> dict[str, Estimate]:
    """Of every head (all of its questions right) and of every question."""
    ids = tuple(split.ids[i] for i in SAMPLES)
    given = scoring.scores(loaded.fresh(), inputs, 3, 1, "test", ids)
    labels = {head: y[SAMPLES] for head, y in split.labels.items()}
    found = answers({head: z.numpy() for head, z in given.items()}, labels, split.info.heads)

    def estimate(right: NDArray[np.bool_]) -> Estimate:
        batch = np.zeros(len(SAMPLES), np.int64)
        return statistics.accuracy(right, ids, batch, loaded.model.draws_shared_by)

    out: dict[str, Estimate] = {}
    for head in split.info.heads:
        right = found[head.name].right
        each = right.transpose(2, 0, 1)
        out |= {name: estimate(part) for name, part in zip(head.questions, each, strict=True)}
        out[head.name] = estimate(np.all(right, axis=-1))
    return out


def test_what_the_wheel_has() -> None:
    names = {load_model(label, dataset).config.name for dataset, label in SHIPPED if dataset == "phantom"}
    fusing = {"early", "concat", "late", "gated", "low-rank", "mmtm", "healnet"}
    assert names >= {*fusing, *ALONE, "mail", "robust-mail", "robust-mail-rpf"}


@EACH
def test_card_describes_its_weights(dataset: str, label: str) -> None:
    loaded = load_model(label, dataset)
    assert loaded.weights is not None
    card = loaded.card
    assert card["weights"]["sha256"] == sha256_file(loaded.weights)
    assert card["weights"]["parameters"] == sum(p.numel() for p in loaded.model.parameters())
    assert card["dataset"]["name"] == dataset
    for split in ("train", "val", "test"):
        assert card["dataset"]["fingerprints"][split] == loaded_split(dataset, split).fingerprint
        assert card["dataset"]["members"][split] == loaded_split(dataset, split).members
    words = card["training"]["command"].split()
    recipe = train_config(words[2], words[words.index("--model") + 1] if "--model" in words else "")
    assert (recipe.model, recipe.dataset) == (card["model"]["name"], dataset)
    assert recipe.epochs == card["training"]["config"]["epochs"]
    assert recipe.learning_rate == card["training"]["config"]["learning_rate"]


@FUSING
def test_accuracy_is_what_the_card_says_and_takes_several_modalities(dataset: str, label: str) -> None:
    loaded, split = load_model(label, dataset), loaded_split(dataset, "test")
    found = accuracies(loaded, split, load_batch(split, SAMPLES, "cpu").inputs)
    said = loaded.card["metrics"]["test"]
    assert said.keys() == split.labels.keys()
    for head, metrics in said.items():
        assert found[head].low <= metrics["accuracy"]["high"]
        assert metrics["accuracy"]["low"] <= found[head].high
    for question, (bound, _) in TOGETHER[dataset].items():
        assert found[question].low > bound


@FUSING
def test_each_modality_is_needed(dataset: str, label: str) -> None:
    """With one modality of another patient, a net is no better than the best that has none of that."""
    loaded, split = load_model(label, dataset), loaded_split(dataset, "test")
    inputs = load_batch(split, SAMPLES, "cpu").inputs
    order = torch.randperm(len(SAMPLES), generator=torch.Generator().manual_seed(0))
    for question, (bound, needed) in TOGETHER[dataset].items():
        for modality in needed:
            swapped = accuracies(loaded, split, {**inputs, modality: inputs[modality][order]})
            assert swapped[question].low <= bound


@pytest.mark.parametrize("label", ["single-1-x0.125", "single-2-x0.125"])
def test_one_modality_is_not_enough(label: str) -> None:
    loaded, split = load_model(label, "phantom"), loaded_split("phantom", "test")
    found = accuracies(loaded, split, load_batch(split, SAMPLES, "cpu").inputs)
    for question, (bound, _) in TOGETHER["phantom"].items():
        assert found[question].low <= bound


@pytest.mark.slow
def test_a_card_is_enough_to_train_its_net_again(tmp_path: Path) -> None:
    """The same weights bit for bit where torch is the same; elsewhere accuracy within its interval."""
    loaded = load_model("single-1-x0.125", "phantom")
    assert loaded.weights is not None
    config = build(TrainConfig, loaded.card["training"]["config"], "card")
    threads = torch.get_num_threads()
    trained = train(config, tmp_path)
    torch.set_num_threads(threads)
    again = json.loads(trained.card.read_text())
    if again["versions"]["torch"] == loaded.card["versions"]["torch"] and again["machine"] == "x86_64":
        assert sha256_file(trained.weights) == loaded.weights_sha256
    for head, said in loaded.card["metrics"]["test"].items():
        found = again["metrics"]["test"][head]["accuracy"]["value"]
        assert said["accuracy"]["low"] <= found <= said["accuracy"]["high"]


@pytest.mark.parametrize("dataset", TOGETHER)
def test_shuffled_weights_lose_the_accuracy(dataset: str) -> None:
    """The tests above can fail: the same net with other weights is at chance."""
    loaded, split = load_model("concat", dataset), loaded_split(dataset, "test")
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            flat = parameter.flatten()
            parameter.copy_(
                flat[torch.randperm(len(flat), generator=torch.Generator().manual_seed(0))].view_as(parameter)
            )
    found = accuracies(loaded, split, load_batch(split, SAMPLES, "cpu").inputs)
    for question, (bound, _) in TOGETHER[dataset].items():
        assert found[question].value <= bound
