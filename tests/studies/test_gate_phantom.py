"""``robmed check`` on the nets of phantom that are in the repository, one in the place of the other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import Robmed

from robustbench_med.util.config import read_yaml

ROOT = Path(__file__).parents[2]
STANDARD = ROOT / "robustbench_med/weights/phantom/concat-x0.1875.safetensors"
TRAINED = ROOT / "weights/phantom/concat-at-x0.1875.safetensors"
NET = "title: ours\narchitecture: concat\noptions: {width: 0.1875}\n"
CHECK = """
model: net.yaml
weights: net.safetensors
attacks: [{attack: pgd, options: {steps: 10}}]
samples: 24
seeds: 1
audit: AUDIT
margins: {clean: 0.5, robust: 0.05}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.yaml").write_text(NET)


def net(weights: Path, audit: str) -> None:
    """Other weights under the same name; the card stays behind, and with it what they are called."""
    shutil.copy(weights, "net.safetensors")
    Path("robmed.yaml").write_text(CHECK.replace("AUDIT", audit))
    assert read_yaml(Path("robmed.yaml"))["audit"] == audit


@pytest.mark.slow
def test_standard_weights_in_the_place_of_adversarially_trained_ones(robmed: Robmed) -> None:
    net(TRAINED, "none")
    assert robmed("check", "--update")[0] == 0
    assert robmed("check")[0] == 0
    net(STANDARD, "none")
    assert robmed("check")[0] == 1


@pytest.mark.slow
def test_adversarially_trained_weights_in_the_place_of_standard_ones(robmed: Robmed) -> None:
    net(STANDARD, "none")
    assert robmed("check", "--update")[0] == 0
    net(TRAINED, "none")
    assert robmed("check")[0] == 1  # nobody looked whether the attack is whole
    net(TRAINED, "quick")
    assert robmed("check")[0] == 0
