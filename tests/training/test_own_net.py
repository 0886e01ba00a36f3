"""``robmed train`` on somebody's own net and own data, from five lines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Robmed
from PIL import Image
from safetensors.torch import load_file

NET = """
from torch import nn

def make():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Dropout(0.1), nn.Linear(16, 2),
    )

def function(image):
    return image.flatten(1)[:, :2]
"""
RECIPE = "model: net.py:make\ndataset: data\nepochs: 3\nbatch_size: 8\nlearning_rate: 0.01\n"


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A net, a recipe, and bright and dark images in class folders."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 6), ("test", 6)):
        for name, level in (("ill", 180), ("well", 60)):
            for number in range(count):
                path = Path("data", split, name, f"{number}.png")
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.clip(level + rng.normal(0, 40, (8, 8)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(path)
    Path("net.py").write_text(NET)
    Path("recipe.yaml").write_text(RECIPE)


def test_own_net_own_data(robmed: Robmed) -> None:
    assert robmed("train", "recipe.yaml") == (0, [])
    weights = Path("weights/data/Sequential.safetensors")
    assert "0.weight" in load_file(weights)  # as the net itself calls it
    card = json.loads(weights.with_suffix(".json").read_text())
    assert card["metrics"]["test"]["label"]["accuracy"]["value"] == 1.0
    first = load_file(weights)
    assert robmed("train", "recipe.yaml") == (0, [])  # the same net again
    assert all((load_file(weights)[name] == first[name]).all() for name in first)
    run = ["run", "--model", "net.py:make", "--weights", weights, "--mode", "eval", "--data", "data"]
    code, lines = robmed(*run, "--attack", "fgsm", "--samples", 0, "--no-picture")
    assert (code, lines) == (0, [])
    record = json.loads(next(Path("runs").glob("*/record.json")).read_text())
    assert record["accuracy"]["label"]["clean"]["value"] == 1.0
    assert not any("no card" in caveat for caveat in record["model"]["caveats"])
    other = Path("data/test/ill/0.png")
    other.unlink()
    code, lines = robmed(*run, "--attack", "fgsm", "--samples", 0)
    assert code == 2
    assert "was trained on another split" in lines[0]


def test_what_cannot_be_trained(robmed: Robmed) -> None:
    Path("recipe.yaml").write_text(RECIPE.replace(":make", ":function"))
    code, lines = robmed("train", "recipe.yaml")
    assert (code, len(lines)) == (2, 1)
    assert "makes no net of torch" in lines[0]
    assert not list(Path("weights").rglob("*.safetensors"))
